"""How much memory a search may take."""

import os
from pathlib import Path

SHARE = 0.6
"""Part of the memory now available that products may take: the blocks themselves are there already, and the workers'
libraries and other programs need some."""

UNLIMITED = 2**60
"""A control group without a limit says a number near 2^63, or ``max``."""


def memory_limit(*, root: Path = Path("/")) -> int:
    """Return how many bytes a search may take unless told otherwise: a share of what is available."""
    return int(SHARE * available_memory(root=root))


def available_memory(*, root: Path = Path("/")) -> int:
    """Return the bytes that can be had without swapping: of the machine, or of the control group if that has less.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are mounted.
    """
    return min(_of_the_machine(root), *_of_control_groups(root))


def _of_the_machine(root: Path) -> int:
    lines = _read(root / "proc/meminfo").splitlines()
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    if kilobytes is not None:
        return 1024 * kilobytes
    # Not Linux: what is free is not known there, what is built in is.
    name = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")


def _of_control_groups(root: Path) -> list[int]:
    found = [UNLIMITED]
    folder = root / "sys/fs/cgroup"
    for group, most, used, cache in (
        (folder, "memory.max", "memory.current", "inactive_file"),
        (folder / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _read(group / most).strip()
        if limit.isdigit() and int(limit) < UNLIMITED:
            # Files read once and kept make room when memory is asked for.
            spare = [int(line.split()[1]) for line in _read(group / "memory.stat").splitlines() if _names(line, cache)]
            found.append(max(0, int(limit) - int(_read(group / used).strip() or 0) + sum(spare)))
    return found


def _names(line: str, key: str) -> bool:
    return line.split(" ", 1)[0] == key


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
