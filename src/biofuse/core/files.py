"""Files that are either whole or absent."""

import contextlib
import errno
import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from biofuse.core.errors import DiskError

TEMPORARY_SUFFIX = ".tmp"
"""Suffix of a file still being written; a reader never opens one."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into one error that says what to do.

    Raises
    ------
    DiskError
        If the disk is full, read-only, or the user may not write there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskError(
                f"The disk that holds {path} is full.",
                remedy="Free some space, or point BIOFUSE_HOME or the output path at another disk; "
                "what was written before is kept and the next run goes on from there.",
            ) from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise DiskError(
                f"Cannot write to {path}: {os.strerror(error.errno).lower()}.",
                remedy="Make the folder writable, or choose another one (BIOFUSE_HOME for the embedding store).",
            ) from error
        if error.errno in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}:
            raise DiskError(
                f"Cannot write to {path}: {os.strerror(error.errno).lower()}.",
                remedy="A file stands where a folder is needed, or the other way round; choose another path.",
            ) from error
        raise


KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
"""What is no file although a program can open it; reading from it may wait, or go on, for ever."""


def refuse_special_file(path: Path) -> None:
    """Refuse a pipe, a device or a socket where a file should be, instead of waiting for what it never says.

    Raises
    ------
    OSError
        If it is one of these, or does not exist.
    """
    kind = KINDS.get(stat.S_IFMT(path.stat().st_mode))
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target``; on success sync it and move it there in one step.

    Parameters
    ----------
    target : Path
        Where the finished file belongs. Its folder is created.

    Yields
    ------
    Path
        What to write to. Whatever happens, nothing half-written ever stands at ``target``.
    """
    with disk_errors(target), _temporary(target.parent, target.name) as temporary:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        _put_in_place(temporary, target)


class HashingFile:
    """A file being written, and the hash of what was written; for libraries that write to a file object.

    Parameters
    ----------
    file : binary file
    size : int, default 16
        Length of the BLAKE2b hash in bytes.
    """

    closed = False

    def __init__(self, file: BinaryIO, *, size: int = 16) -> None:
        self._file = file
        self._state = hashlib.blake2b(digest_size=size)

    def write(self, data: bytes | memoryview) -> int:
        """Write bytes, without copying them."""
        self._state.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand over to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Leave the file open: whoever opened it closes it."""
        self._file.flush()

    def hexdigest(self) -> str:
        """Hexadecimal hash of everything written so far."""
        return self._state.hexdigest()


@contextlib.contextmanager
def hash_named_file(folder: Path, *, suffix: str) -> Iterator[tuple[HashingFile, Callable[[], Path]]]:
    """Write a file atomically whose name is the hash of its bytes.

    Parameters
    ----------
    folder : Path
        Created if need be.
    suffix : str
        What follows the hash in the name.

    Yields
    ------
    file : HashingFile
    path : callable
        Returns the name that the file gets, once everything is written.
    """
    with disk_errors(folder), _temporary(folder, "part") as temporary:
        with temporary.open("wb") as raw:
            file = HashingFile(raw)

            def path() -> Path:
                return folder / f"{file.hexdigest()}{suffix}"

            yield file, path
            raw.flush()
            os.fsync(raw.fileno())
        _put_in_place(temporary, path())


def write_bytes(target: Path, data: bytes | memoryview) -> None:
    """Write a file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(target, text.encode())


@contextlib.contextmanager
def _temporary(folder: Path, name: str) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _put_in_place(temporary: Path, target: Path) -> None:
    temporary.replace(target)
    # A rename is only durable once its folder is synced; some platforms cannot open folders, and need not.
    if os.name == "nt":
        return
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
