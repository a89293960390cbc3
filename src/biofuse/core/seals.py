"""Folders of files that know their own checksums: what a saved model is made of."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.core.files import write_text
from biofuse.core.hashing import digest_file, digest_json

FORMAT_VERSION = 1
"""Raised when the layout changes in a way that older versions cannot read."""


def seal(folder: Path, *, name: str, content: dict[str, Any]) -> None:
    """Write ``<name>`` last: the content given, the checksum of every other file below ``folder``, and its own.

    Parameters
    ----------
    folder : Path
        Where the other files already lie.
    name : str
        File name of the seal, for instance ``model.json``.
    content : dict
        JSON values.
    """
    files = {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != name
    }
    record = {"format": FORMAT_VERSION, "files": files, **content}
    write_text(folder / name, json.dumps(record | {"checksum": digest_json(record)}, indent=2) + "\n")


def unseal(folder: Path, *, name: str) -> dict[str, Any]:
    """Read a seal and verify every file it lists before anything else is opened.

    Returns
    -------
    dict
        The content that was sealed.

    Raises
    ------
    ArtifactError
        If the seal or a file is missing, changed, of a newer format, or lies outside the folder.
    """
    path = folder / name
    record = _read(path)
    if not isinstance(record.get("format"), int) or record["format"] > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format {record.get('format')!r}; this version of BioFuse reads up to {FORMAT_VERSION}.",
            remedy="Update BioFuse: pip install -U biofuse-embed.",
        )
    checksum = record.pop("checksum", None)
    if checksum is None or checksum != _checksum(record):
        raise ArtifactError(f"{path} has changed since it was written.", remedy="Fit again, or restore the file.")
    for relative, expected in record["files"].items():
        _verify(folder, relative, expected)
    return record


def listed_files(folder: Path, *, name: str) -> tuple[str, ...]:
    """Return the files that a seal lists, relative to its folder; they need not be there yet.

    Raises
    ------
    ArtifactError
        If the seal is missing or no seal, or a file would lie outside the folder.
    """
    files = tuple(str(file) for file in _read(folder / name)["files"])
    for file in files:
        _inside(folder, file)
    return files


def _checksum(record: dict[str, Any]) -> str | None:
    try:
        return digest_json(record)
    except ValueError:  # NaN or infinity, which BioFuse never writes
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"There is no {path.name} in {path.parent}.", remedy="Give the folder that BioFuse saved, or fit again."
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy="Fit again, or restore the file.") from error
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise ArtifactError(f"{path} is not what BioFuse writes.", remedy="Fit again, or restore the file.")
    return record


def _verify(folder: Path, relative: str, expected: str) -> None:
    target = _inside(folder, relative)
    if not target.is_file():
        raise ArtifactError(f"{target} is missing.", remedy="Fit again, or restore the file.")
    if digest_file(target) != expected:
        raise ArtifactError(
            f"{target} has changed since it was written; it was not opened.", remedy="Fit again, or restore the file."
        )


def _inside(folder: Path, relative: str) -> Path:
    pure = PurePosixPath(relative)
    target = folder / pure
    if pure.is_absolute() or ".." in pure.parts or not target.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{folder} refers to {relative!r}, which lies outside of it; it was not opened.")
    return target


Arrays = dict[str, NDArray[Any]]
"""Named arrays of a fitted part; together with a dictionary of JSON values they are all there is to save."""
