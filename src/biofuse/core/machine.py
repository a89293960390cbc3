"""The machine: its cores and memory, the C library's allocator, and the processes that are started on it."""

import contextlib
import ctypes
import functools
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def usable_cores() -> int:
    """Return the number of cores this process may use (a container or a scheduler may allow fewer than exist)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let BLAS and OpenMP use at most this many threads while the block runs; the environment is left alone."""
    with _controller(len(sys.modules)).limit(limits=threads):
        yield


@functools.lru_cache(maxsize=1)
def _controller(n_modules: int) -> Any:  # noqa: ARG001 (the key)
    """Find the libraries that start threads: 8 ms, so it is done anew only after something was imported."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped, unused-ignore]

    return ThreadpoolController()


UNLIMITED = 2**60
"""A control group without a limit says a number near 2^63, or ``max``."""

CONTROL_GROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of both versions: the folder, the files that hold the limit and what is used, and the count of pages that can go."""

SEARCH_SHARE = 0.6
"""Part of the memory now available that a search may take: the blocks themselves are there already, and the workers'
libraries and other programs need some."""


def available_memory(*, root: Path = Path("/")) -> int:
    """Return the bytes that can be had without swapping: of the machine, or of the control group if that has less.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are mounted.
    """
    found = [_machine_memory(root)]
    for folder, limit_file, used_file, cache in CONTROL_GROUPS:
        limit = _read(root / folder / limit_file).strip()
        if limit.isdigit() and int(limit) < UNLIMITED:
            # Files read once and kept make room when memory is asked for.
            spare = _number(root / folder / "memory.stat", cache) or 0
            found.append(max(0, int(limit) - int(_read(root / folder / used_file).strip() or 0) + spare))
    return min(found)


def memory_limit(*, root: Path = Path("/")) -> int:
    """Return how many bytes a search may take unless told otherwise: a share of what is available."""
    return int(SEARCH_SHARE * available_memory(root=root))


def free_memory(device: str) -> int | None:
    """Return the bytes that are free on a torch device; None where that cannot be told."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return available_memory()
    import torch

    if kind == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    if kind == "mps" and torch.backends.mps.is_available():
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return None


def _machine_memory(root: Path) -> int:
    kilobytes = _number(root / "proc/meminfo", "MemAvailable:")
    if kilobytes is not None:
        return 1024 * kilobytes
    # Not Linux: what is free is not known everywhere there, what is built in is.
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _number(path: Path, key: str) -> int | None:
    """Return the number that stands beside a key in one of the kernel's tables."""
    rows = (line.split() for line in _read(path).splitlines())
    return next((int(row[1]) for row in rows if row and row[0] == key), None)


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


MMAP_THRESHOLD, TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -3, -1, -4, -8
"""Numbers of glibc's malloc.h."""

MIB = 1 << 20

MEANWHILE = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, ARENA_MAX: 1}
"""No array straight from the operating system; nothing given back; one arena for all threads, since those of their own
consist of pieces of 64 MiB, which are given back as soon as they are empty."""

AFTERWARDS = {MMAP_MAX: 65_536, MMAP_THRESHOLD: 32 * MIB, TRIM_THRESHOLD: 64 * MIB, ARENA_MAX: 0}
"""glibc's defaults, and of the two thresholds, which it raises by itself, what it raises them to (mallopt(3))."""


_KEEPING: set[object] = set()
"""Who wants the C library to keep memory: its options belong to the process, not to one of them."""

_SHARING: set[object] = set()
"""Who wants one arena for longer than that."""

_KEEPING_LOCK = threading.Lock()


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Have the C library keep freed memory for the next allocation while this lasts; then it gives all of it back.

    To be entered before threads are started, which take memory from where it cannot be kept otherwise.

    Otherwise it asks the operating system for every large array anew, which then has to fill it with zeros page by
    page: 6,000 page faults an image and half of the processor time of EfficientNet-Lite0 (16 images of 224 pixels, two
    threads, glibc: 9.5 ms in the network and 9.8 ms in the kernel; like this 8.7 and 0.1 ms). Does nothing with other
    C libraries, or where the user has set glibc's own options in the environment.
    """
    library = _glibc()
    if library is None:
        yield
        return
    user = object()
    with _KEEPING_LOCK:
        _KEEPING.add(user)
        for option, value in MEANWHILE.items():
            library.mallopt(option, value)
    try:
        yield
    finally:
        with _KEEPING_LOCK:
            _KEEPING.remove(user)
            if not _KEEPING:
                for option, value in AFTERWARDS.items():
                    if option != ARENA_MAX or not _SHARING:
                        library.mallopt(option, value)
                library.malloc_trim(0)


@contextlib.contextmanager
def share_arena() -> Iterator[None]:
    """Have all threads take memory from one arena of the C library while this lasts: for a command, from its start.

    An arena that there is already cannot be done without when :func:`keep_freed_memory` begins, and half of the
    threads would take it: importing pyarrow makes one, and so do threads before a second extraction. Of 1,280 images
    through seven encoders on two cores, 380,000 page faults like this and 3.6 to 4.9 million otherwise: 45 and 46 s,
    and 48 and 51 s (with glibc, in turns).
    """
    library, user = _glibc(), object()
    if library is None:
        yield
        return
    with _KEEPING_LOCK:
        _SHARING.add(user)
        library.mallopt(ARENA_MAX, 1)
    try:
        yield
    finally:
        with _KEEPING_LOCK:
            _SHARING.remove(user)
            if not _SHARING and not _KEEPING:
                library.mallopt(ARENA_MAX, AFTERWARDS[ARENA_MAX])


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


@contextlib.contextmanager
def workers_ignore_interrupts() -> Iterator[None]:
    """Start worker processes inside this context, and Ctrl-C is left to their parent, which stops them.

    Otherwise every worker would print a traceback of its own. Processes inherit the mask of the thread that starts
    them; the parent's is restored at the end, and an interrupt that came meanwhile is delivered then. Does nothing on
    systems without signal masks.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # it starts with the first worker otherwise, and unblocks the signal then (until Python 3.12)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


PARENT_CHECK_SECONDS = 2.0
"""How long a worker may outlive a process that was killed."""


def exit_with_parent(parent: int) -> None:
    """Make this worker process end when the one that started it is gone.

    A killed parent cannot stop its workers, and one that is waiting to hand over a batch would wait, and hold its
    memory, for ever.

    Parameters
    ----------
    parent : int
        Process id of the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="exit-with-parent").start()
