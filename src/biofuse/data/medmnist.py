"""MedMNIST and MedMNIST+: archives by name or by path.

Names, checksums, tasks, class names and counts are in ``medmnist.json``, which states its source. The files lie where
the ``medmnist`` package puts them, so that neither downloads again what the other has.
"""

import json
import logging
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from biofuse.core.errors import DataError
from biofuse.core.files import disk_errors, refuse_special_file
from biofuse.core.hashing import digest_file
from biofuse.core.progress import Progress, Silent
from biofuse.core.target import Task
from biofuse.data.assembly import Request, SampleTable
from biofuse.data.cuts import Source
from biofuse.data.decoding import ArraySource, MappedRowSource
from biofuse.data.labels import listing
from biofuse.data.samples import SPLITS, row_id

logger = logging.getLogger(__name__)

NAME = re.compile(r"(?P<flag>[a-z]+mnist(?:3d)?)(?:[_-](?P<size>\d+))?", re.IGNORECASE)
SMALLEST = 28
"""The size of the files without a size in their name."""
TASKS = {
    "multi-class": Task.MULTICLASS,
    "binary-class": Task.BINARY,
    "multi-label, binary-class": Task.MULTILABEL,
    "ordinal-regression": Task.ORDINAL,
}
"""MedMNIST's words for its tasks."""
TIMEOUT = 60.0
"""Seconds without an answer after which a download is given up."""
PIECE = 1 << 20
"""Bytes of a download written at a time."""
NOTHING_LEFT = 416
"""HTTP status "range not satisfiable": the part that is here already is all there is."""
PARTIAL = 206
"""HTTP status of an answer that goes on where the part that is here ends."""
LOCAL_HEADER = 30
"""Bytes of a ZIP local file header before the name (PKWARE APPNOTE 4.3.7)."""


class MedMNISTInfo(BaseModel):
    """What is known about one data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    classes: tuple[str, ...]
    n_samples: dict[str, int]
    licence: str
    md5: dict[int, str]


@lru_cache(maxsize=1)
def medmnist_catalogue() -> tuple[str, dict[str, MedMNISTInfo]]:
    """Return the download address pattern and the facts about every data set, by flag."""
    raw = json.loads(resources.files("biofuse.data").joinpath("medmnist.json").read_text(encoding="utf-8"))
    return raw["url"], {flag: MedMNISTInfo(**facts) for flag, facts in raw["datasets"].items()}


def parse_medmnist_name(name: str) -> tuple[str, int | None] | None:
    """Split ``breastmnist_64`` into flag and size; None where it names no MedMNIST data set."""
    match = NAME.fullmatch(name)
    if match is None or match["flag"].lower() not in medmnist_catalogue()[1]:
        return None
    return match["flag"].lower(), int(match["size"]) if match["size"] else None


def medmnist_file(
    flag: str,
    size: int = SMALLEST,
    *,
    root: Path | None = None,
    download: bool = True,
    url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return the verified archive of a data set, downloading it where it is missing.

    A download that was cut off leaves ``.<file>.part`` beside the file's place, and the next one goes on from there.

    Parameters
    ----------
    flag : str
        Such as ``breastmnist``.
    size : int
        28, 64, 128 or 224 pixels.
    root : Path, optional
        ``~/.medmnist`` by default, as in the ``medmnist`` package.
    download : bool
        Whether a missing file may be fetched.
    url : str, optional
        Pattern with ``{file}``; MedMNIST's Zenodo record by default.
    progress : Progress, optional
        Counts the bytes of a file that is fetched (of 0 where nobody knows how many there are).

    Raises
    ------
    DataError
        If there is no such size, the file is missing and cannot be fetched, or its MD5 is not the published one.
    """
    pattern, catalogue = medmnist_catalogue()
    info = catalogue[flag]
    if size not in info.md5:
        raise DataError(
            f"{flag} has no size {size}.", remedy=f"Choose one of {', '.join(str(side) for side in info.md5)}."
        )
    path = medmnist_path(flag, size, root=root)
    address = (url or pattern).format(file=path.name)
    if path.exists():
        _verify(path, info.md5[size], f"Delete {path} and load again to fetch it anew.")
    elif download:
        _download(address, path, info.md5[size], progress or Silent())
    else:
        raise DataError(f"{path} does not exist.", remedy=f"Fetch {address} and put it there, or allow the download.")
    return path


def medmnist_path(flag: str, size: int = SMALLEST, *, root: Path | None = None) -> Path:
    """Return where the archive of a data set lies, or would lie; parameters as for :func:`medmnist_file`."""
    return (root or Path.home() / ".medmnist") / (f"{flag}.npz" if size == SMALLEST else f"{flag}_{size}.npz")


def load_medmnist(name: str, request: Request) -> SampleTable:
    """Read a MedMNIST data set by name (``breastmnist_64``, or ``breastmnist`` and ``size=64``)."""
    request.only("a MedMNIST name", "root", "size", "download")
    if request.config.root_address is not None:
        raise DataError(f"{name} is not fetched from {request.config.root_address}.", remedy="Give a folder as root.")
    flag, named = parse_medmnist_name(name) or ("", None)
    if flag.endswith("3d"):
        raise DataError(
            f"{flag} holds volumes, which are not embedded.",
            remedy="Use a two-dimensional set, or save the slices as images.",
        )
    if named is not None and request.size not in {None, named}:
        raise DataError(f"{name!r} and size={request.size} contradict each other.", remedy="Give the size once.")
    size = named or request.size or SMALLEST
    path = medmnist_file(flag, size, root=request.config.folder, download=request.download)
    return _archive_table(path, flag, size)


def load_npz(path: Path, request: Request) -> SampleTable:
    """Read an archive with MedMNIST's keys: ``train_images``, ``train_labels``, ... of one or more splits.

    A file name that is a MedMNIST name brings that data set's class names and task.
    """
    request.only("an .npz file")
    flag, size = parse_medmnist_name(path.stem) or (None, None)
    return _archive_table(path, flag, None if flag is None else size or SMALLEST)


def _archive_table(path: Path, flag: str | None, size: int | None) -> SampleTable:
    info = None if flag is None else medmnist_catalogue()[1][flag]
    ids: list[str] = []
    sources: list[Source] = []
    splits: list[str] = []
    labels: list[NDArray[Any]] = []
    try:
        refuse_special_file(path)
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
        present = [split for split in SPLITS if f"{split}_images" in members]
        if not present:
            raise DataError(
                f"{path} holds {listing(sorted(members)) or 'nothing'}, but no train_, val_ or test_images.",
                remedy="Save images and labels under MedMNIST's keys, or, in Python, give the arrays and their labels.",
            )
        for split in present:
            rows = _rows(path, f"{split}_images", size)
            sources += rows
            ids += [f"{split}/{row_id(row)}" for row in range(len(rows))]
            splits += [split] * len(rows)
            if f"{split}_labels" in members:
                labels.append(_split_labels(path, split, len(rows)))
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is no readable .npz archive: {error}.", remedy="Fetch or write it again.") from error
    if labels and len(labels) != len(present):
        raise DataError(f"{path} has labels for some splits only.", remedy="Give labels for every split, or for none.")
    joined = np.concatenate(labels) if labels else None
    if info is not None and joined is not None:
        _check_labels(path, joined, info)
    return SampleTable(
        name=path.stem,
        ids=ids,
        sources=sources,
        labels=joined if joined is None or joined.ndim == 2 else joined.tolist(),
        columns=info.classes if info is not None and joined is not None and joined.ndim == 2 else (),
        classes=None if info is None else info.classes,
        task=None if info is None else TASKS[info.task],
        splits=splits,
    )


def _split_labels(path: Path, split: str, n: int) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        labels: NDArray[Any] = archive[f"{split}_labels"]
    if len(labels) != n:
        raise DataError(f"{path}: {n} {split} images but {len(labels)} {split} labels.")
    # MedMNIST stores single labels as [n, 1].
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _check_labels(path: Path, labels: NDArray[Any], info: MedMNISTInfo) -> None:
    n = len(info.classes)
    fits = labels.shape[1] == n if labels.ndim == 2 else bool(((labels >= 0) & (labels < n)).all())
    if not fits:
        raise DataError(
            f"{path}: its labels do not fit the {n} classes that a file of this name has.",
            remedy="Rename the file if it is another data set.",
        )


def _rows(path: Path, member: str, size: int | None) -> Sequence[Source]:
    mapped = _mapped_layout(path, member)
    if mapped is None:
        with np.load(path, allow_pickle=False) as archive:
            images: NDArray[Any] = archive[member]
        shape: tuple[int, ...] = images.shape
    else:
        offset, dtype, shape = mapped
    if len(shape) == 4 and shape[1] in {1, 3, 4} and shape[3] not in {1, 3, 4}:
        raise DataError(
            f"{path}: the channels of {member}, of shape {shape}, come first.",
            remedy="Put them last and save again: images.transpose(0, 2, 3, 1).",
        )
    if len(shape) not in {3, 4} or (len(shape) == 4 and shape[3] not in {1, 3, 4}):
        raise DataError(
            f"{path}: {member} has shape {shape}; images are [n, height, width] or [n, height, width, 3].",
            remedy="Volumes are not embedded; use a two-dimensional data set, or one slice per image.",
        )
    if size is not None and shape[1:3] != (size, size):
        raise DataError(
            f"{path}: the images of {member} are {shape[2]} x {shape[1]} pixels, but the file name says {size}.",
            remedy="Fetch the file again, or rename it if it is another data set.",
        )
    if mapped is None:
        return [ArraySource(image, f"{path}: {member}, row {row}") for row, image in enumerate(images)]
    step = dtype.itemsize * int(np.prod(shape[1:]))
    return [MappedRowSource(path, member, offset + row * step, dtype.str, shape[1:], row) for row in range(shape[0])]


def _mapped_layout(path: Path, member: str) -> tuple[int, np.dtype[Any], tuple[int, ...]] | None:
    """Find where a stored member's values begin; None where it is compressed or not in C order."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{member}.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            return None
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        local = file.read(LOCAL_HEADER)
        name_length, extra_length = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
        file.seek(entry.header_offset + LOCAL_HEADER + name_length + extra_length)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        return None if fortran or dtype.hasobject else (file.tell(), dtype, shape)


def _verify(path: Path, md5: str, remedy: str) -> None:
    found = digest_file(path, algorithm="md5")
    if found != md5:
        raise DataError(f"{path} is damaged or another file: its MD5 is {found}, published is {md5}.", remedy=remedy)


def _download(address: str, path: Path, md5: str, progress: Progress) -> None:
    logger.info("Fetching %s to %s", address, path)
    part = path.with_name(f".{path.name}.part")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            missing = _fetch(address, part, f"fetching {path.name}", progress)
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
        raise DataError(
            f"{address} cannot be fetched: {error}.",
            remedy=f"Check the network, or fetch the file elsewhere and put it at {path}; its MD5 is {md5}.",
        ) from error
    if missing:
        raise DataError(
            f"{address}: the connection was lost {missing:,} bytes before the end.",
            remedy="Load again: the download goes on from there.",
        )
    try:
        _verify(part, md5, "The download was cut off or altered; load again.")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _fetch(address: str, part: Path, task: str, progress: Progress) -> int:
    """Fetch what a part lacks, and return how many bytes are missing in the end."""
    have = part.stat().st_size if part.exists() else 0
    # The address is the packaged one or the caller's own, never read from data. A plain address asks for everything.
    asked = urllib.request.Request(address, headers={"Range": f"bytes={have}-"}) if have else address  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:  # noqa: S310
            if getattr(answer, "status", None) != PARTIAL:
                have = 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else 0
            progress.begin(task, total)
            progress.advance(task, have)
            with part.open("ab" if have else "wb") as file:
                while piece := answer.read(PIECE):
                    file.write(piece)
                    have += len(piece)
                    progress.advance(task, len(piece))
    except urllib.error.HTTPError as error:
        if error.code != NOTHING_LEFT:
            raise
        return 0
    return max(total - have, 0)
