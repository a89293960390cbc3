"""Memory that networks on a CPU take and give back with every operation, kept by the process while they run."""

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Iterator

MMAP_THRESHOLD, TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -3, -1, -4, -8
"""Numbers of glibc's malloc.h."""

MIB = 1 << 20

MEANWHILE = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, ARENA_MAX: 1}
"""No array straight from the operating system; nothing given back; one arena for all threads, since those of their own
consist of pieces of 64 MiB, which are given back as soon as they are empty."""

AFTERWARDS = {MMAP_MAX: 65_536, MMAP_THRESHOLD: 32 * MIB, TRIM_THRESHOLD: 64 * MIB, ARENA_MAX: 0}
"""glibc's defaults, and of the two thresholds, which it raises by itself, what it raises them to (mallopt(3))."""


class _Users:
    """How many want the C library to keep memory: its options belong to the process, not to one of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0


_USERS = _Users()


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
    with _USERS.lock:
        _USERS.count += 1
        for option, value in MEANWHILE.items():
            library.mallopt(option, value)
    try:
        yield
    finally:
        with _USERS.lock:
            _USERS.count -= 1
            if not _USERS.count:
                for option, value in AFTERWARDS.items():
                    library.mallopt(option, value)
                library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
