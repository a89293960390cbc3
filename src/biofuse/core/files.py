"""Files that are either whole or absent."""

import contextlib
import errno
import hashlib
import json
import os
import socket
import stat
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from biofuse.core.errors import BioFuseWarning, DiskError, LockedError, in_utf8


def home() -> Path:
    """Return BioFuse's folder: ``BIOFUSE_HOME`` if set, else the user's cache folder."""
    from platformdirs import user_cache_path

    override = os.environ.get("BIOFUSE_HOME", "").strip()
    return Path(override).expanduser() if override else user_cache_path("biofuse", appauthor=False)


TEMPORARY_SUFFIX = ".tmp"
"""Suffix of a file still being written; a reader never opens one."""


def secret_key(path: Path) -> bytes:
    """Return the random key (32 bytes) that a file holds; it is made the first time, for this user's eyes only.

    Raises
    ------
    DiskError
        If it is not there and cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of several processes, the first makes it.
        with contextlib.suppress(FileExistsError), _temporary(path.parent, path.name) as temporary:
            temporary.write_bytes(os.urandom(KEY_BYTES))
            temporary.chmod(0o600)
            os.link(temporary, path)
        return path.read_bytes()


KEY_BYTES = 32
"""Length of a secret key."""


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
        if error.errno == errno.EFBIG:
            raise DiskError(
                f"{path} would be larger than files may be here.",
                remedy="Raise the limit (`ulimit -f unlimited`), or choose a disk that takes larger files.",
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise DiskError(f"The name of {path} is too long for this disk.", remedy="Choose a shorter one.") from error
        if error.errno in {errno.ENOENT, errno.ESTALE}:
            raise DiskError(
                f"The folder of {path} was removed while it was being written to.",
                remedy="Give the same command again: it goes on with what is still there.",
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


def refuse_odd_path(path: Path) -> None:
    """Refuse a place for results whose name is not UTF-8, before any work: Arrow writes and reads none there.

    Raises
    ------
    DiskError
        If it is not.
    """
    if in_utf8(str(path)) != str(path):
        raise DiskError(
            f"Results cannot be kept at {path}: that name is not UTF-8.", remedy="Choose a name of ordinary letters."
        )


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


def check_target(target: Path) -> None:
    """Refuse a file that could not be written in the end, before the work that it is for; nothing is made.

    Raises
    ------
    DiskError
        If a folder stands there, a file stands where its folder should, or the user may not write there.
    """
    folder = next((above for above in target.absolute().parents if above.exists()), None)
    with disk_errors(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if folder is not None and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if folder is not None and not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


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


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, and nothing that only looks like one: a pipe or a device would be waited for.

    Raises
    ------
    OSError
        If it cannot be opened, or is no regular file.
    """
    refuse_special_file(path)
    return path.open("rb")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    OSError
        If it cannot be opened.
    ValueError
        If it is not JSON in UTF-8, or nested more deeply than anything that BioFuse writes.
    """
    with open_regular(path) as file:
        data = file.read()
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


LOCK = ".lock"
"""File in a folder that is being written; it says who writes."""

LOCK_PAUSE = 0.1
"""Seconds between two looks at a folder that another process has."""


@contextlib.contextmanager
def locked(folder: Path, *, doing: str, patience: float = 0.0) -> Iterator[None]:
    """Keep a folder for this process while it is written; the lock ends with the process, however that ends.

    Parameters
    ----------
    folder : Path
        Created if need be, and removed again if nothing was put into it.
    doing : str
        The command, for whoever else wants the folder.
    patience : float, default 0
        Seconds to wait for another process.

    Raises
    ------
    LockedError
        If another process has it.
    DiskError
        If the folder cannot be written to.
    """
    with disk_errors(folder):
        fresh = not folder.exists()
        file = _lock(folder / LOCK, deadline=time.monotonic() + patience)
        started = datetime.now(UTC).isoformat(" ", "minutes").removesuffix("+00:00")
        file.write(f"{doing}, process {os.getpid()} on {socket.gethostname()}, since {started} UTC".encode())
        file.flush()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()  # while it is still held: see _lock
        file.close()
        if fresh:
            with contextlib.suppress(OSError):
                folder.rmdir()


def refuse_locked(folder: Path) -> None:
    """Refuse a folder that another process is writing.

    Raises
    ------
    LockedError
        Naming that process.
    """
    if (folder / LOCK).exists():
        with contextlib.suppress(OSError, DiskError), locked(folder, doing="a look"):
            pass


def _lock(path: Path, *, deadline: float) -> BinaryIO:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666), "r+b")
        except FileNotFoundError:  # whoever had the folder has just removed it
            continue
        try:
            free = _try_lock(file)
            # The file that was opened may have been removed by its owner before it was locked.
            if free and path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate()
                return file
        except BaseException:
            file.close()
            raise
        with file:
            who = "" if free else file.read().decode(errors="replace")
        if not free and time.monotonic() >= deadline:
            raise LockedError(
                f"{path.parent} is being written by another process{f' ({who})' if who else ''}.",
                remedy="Wait until it has finished, or choose another folder.",
            )
        time.sleep(0 if free else LOCK_PAUSE)


def _try_lock(file: BinaryIO) -> bool:
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 20)  # not where who has it is written
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(0)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a network disk without locks
        warnings.warn(
            f"{file.name} cannot be locked ({error}): let no other process write there meanwhile.",
            BioFuseWarning,
            stacklevel=4,
        )
    return True


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
