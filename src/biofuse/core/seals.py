"""What is saved of fitted parts, and the one seal that covers every file of a saved model."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Generic, TypeVar

from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.core.files import read_json, write_text
from biofuse.core.hashing import digest_file, digest_json

FORMAT_VERSION = 2
"""Raised when the layout changes in a way that older versions cannot read. In format 1 every predictor in a model had a
seal of its own; those are read too, and their inner seals are not needed."""


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A folder, or one below it, whose files were found to be those that were sealed.

    Attributes
    ----------
    folder : Path
    files : frozenset of str
        The verified files, relative to ``folder``.
    content : dict
        The JSON values that the seal holds; empty for a folder below.
    """

    folder: Path
    files: frozenset[str]
    content: dict[str, Any]

    def path(self, file: str) -> Path:
        """Return the path of a verified file.

        Raises
        ------
        ArtifactError
            If the seal does not list it.
        """
        if file not in self.files:
            raise ArtifactError(
                f"{self.folder / file} is missing, or not part of what was saved; it was not opened.",
                remedy="Fit again, or restore the file.",
            )
        return self.folder / file

    def below(self, name: str) -> "Sealed":
        """Return the verified files of a folder below this one."""
        start = f"{name}/"
        inside = frozenset(file.removeprefix(start) for file in self.files if file.startswith(start))
        return Sealed(folder=self.folder / name, files=inside, content={})


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
        if path.is_file() and path != folder / name
    }
    write_sealed(folder / name, {"format": FORMAT_VERSION, "files": files, **content})


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object with its own checksum, which :func:`unsealed` takes off again."""
    write_text(path, json.dumps({**record, "checksum": digest_json(dict(record))}, indent=2) + "\n")


def unsealed(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was read of a file, without its checksum.

    Raises
    ------
    ArtifactError
        If the checksum is missing or another.
    """
    content = {name: value for name, value in record.items() if name != "checksum"}
    if record.get("checksum") is None or record["checksum"] != _checksum(content):
        raise ArtifactError(f"{path} has changed since it was written.", remedy="Fit again, or restore the file.")
    return content


def unseal(folder: Path, *, name: str) -> Sealed:
    """Read a seal and verify every file it lists before anything else is opened.

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
    record = unsealed(path, record)
    for relative, expected in record["files"].items():
        _verify(folder, relative, expected)
    content = {key: value for key, value in record.items() if key not in {"format", "files"}}
    return Sealed(folder=folder, files=frozenset(record["files"]), content=content)


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
        record = read_json(path)
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
    verify(target, expected)


def verify(path: Path, expected: str, *, remedy: str = "Fit again, or restore the file.") -> None:
    """Compare a file with its checksum before it is opened.

    Raises
    ------
    ArtifactError
        If it is missing, cannot be read or was changed.
    """
    try:
        found = digest_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing.", remedy=remedy) from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.", remedy=remedy) from error
    if found != expected:
        raise ArtifactError(f"{path} has changed since it was written; it was not opened.", remedy=remedy)


def _inside(folder: Path, relative: str) -> Path:
    pure = PurePosixPath(relative)
    target = folder / pure
    if pure.is_absolute() or ".." in pure.parts or not target.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{folder} refers to {relative!r}, which lies outside of it; it was not opened.")
    return target


Arrays = dict[str, NDArray[Any]]
"""Named arrays of a fitted part; together with a dictionary of JSON values they are all there is to save."""

Fitted = TypeVar("Fitted")


@dataclass(frozen=True, kw_only=True)
class OwnPart(Generic[Fitted]):
    """What BioFuse's own heads and fusions share.

    A subclass is a frozen dataclass whose fields are its options, with the two class attributes below.

    Attributes
    ----------
    name : str
        The name it is registered under.
    fitted : type
        Class of what it is fitted into; it has ``restore(json, arrays)``.
    """

    name: ClassVar[str]
    fitted: ClassVar[type[Any]]

    @property
    def options(self) -> dict[str, Any]:
        """Its fields as JSON values, for records and resume keys; mappings (class weights) are keyed by text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: {str(key): float(weight) for key, weight in sorted(value.items())}
            if isinstance(value, Mapping)
            else value
            for name, value in values.items()
        }

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Fitted:
        """Build a fitted part of this kind from its state, whatever this object's own options."""
        restored: Fitted = self.fitted.restore(json, arrays)
        return restored


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what goes wrong while the saved state of a part is read into an ArtifactError.

    Parameters
    ----------
    what : str
        The part, for the message: ``linear head``.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ArtifactError(f"The saved {what} is malformed: {error!r}.", remedy="Fit again.") from error
