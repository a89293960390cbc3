"""Blocks out of parts: as a view of one file, in memory, or in a scratch file that is mapped."""

import contextlib
import os
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError
from biofuse.core.files import TEMPORARY_SUFFIX, disk_errors
from biofuse.core.hashing import Contents
from biofuse.core.machine import available_memory
from biofuse.store.parts import Index, Part, Segment, runs, whole_parts

Memory = Literal["auto", "ram", "map"]
"""Where a block that has to be put together is held; see :meth:`biofuse.store.EncoderFolder.read`."""

ROWS_AT_ONCE = 65_536
"""Rows of a block that are held in memory while more of it is read: 403 MB of 1,536 columns."""

GATHERED_AT_ONCE = 4096
"""Scattered rows that are copied at a time."""

SHARE = 0.25
"""Of the memory that is free, what a single block may take before it is put into a scratch file instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Where each row of a block lies: as runs of neighbours, or, where they lie scattered, by number.

    Attributes
    ----------
    runs : tuple of Segment
        In the order of the block; empty where ``rows`` is given.
    rows : ndarray of int64 or None
        Numbers in ``index``.
    index : Index or None
    """

    runs: tuple[Segment, ...] = ()
    rows: NDArray[np.int64] | None = None
    index: Index | None = None

    def fill(self, out: NDArray[np.float32], *, place: int) -> None:
        """Copy the rows ``place`` to ``place + len(out)`` of the block into ``out``."""
        if self.rows is not None and self.index is not None:
            _gather(out, self.rows[place : place + len(out)], self.index)
            return
        stop = place + len(out)
        for run in self.runs:
            low, high = max(run.place, place), min(run.place + run.rows, stop)
            if low < high:
                run.part.read_into(out[low - place : high - place], start=run.start + low - run.place)


def make_plan(
    parts: Sequence[Part], wanted: Contents, index: Callable[[], Index], refuse: Callable[[int], BioFuseError]
) -> Plan:
    """Find the wanted rows.

    Parameters
    ----------
    parts : sequence of Part
    wanted : ndarray of S16, shape (n,)
    index : callable
        Makes the index of the parts, which is needed only where rows are not in the parts' own order.
    refuse : callable
        Makes the error for a number of rows that are not there.
    """
    whole = whole_parts(parts, wanted)
    if whole is not None:
        return Plan(runs=tuple(whole))
    numbered = index()
    rows = numbered.locate(wanted)
    if (rows < 0).any():
        raise refuse(int((rows < 0).sum()))
    found = runs(numbered, rows)
    return Plan(rows=rows, index=numbered) if found is None else Plan(runs=tuple(found))


def _gather(out: NDArray[np.float32], rows: NDArray[np.int64], index: Index) -> None:
    """Copy scattered rows, in the order in which they lie on disk, so that every page is read once."""
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.concatenate([[0], index.ends]))
    begins = index.ends - np.array([len(part) for part in index.parts])
    for number, part in enumerate(index.parts):
        mine = order[bounds[number] : bounds[number + 1]]
        if not len(mine):
            continue
        matrix = part.embeddings
        for start in range(0, len(mine), GATHERED_AT_ONCE):
            some = mine[start : start + GATHERED_AT_ONCE]
            out[some] = matrix[rows[some] - begins[number]]


def too_large(size: int) -> bool:
    """Tell whether a block of so many bytes should not be held in memory."""
    return size > SHARE * available_memory()


def scratch_matrix(folder: Path, shape: tuple[int, int], blocks: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Write blocks of rows to a file that is removed with the last array that uses it, and map it.

    Parameters
    ----------
    folder : Path
        Where to put the file; the system's temporary folder if that is read-only.
    shape : tuple of int
        Rows and columns.
    blocks : iterable of ndarray of float32
        Written one after the other, so that a full disk is an error and not a crash of whoever touches the map.

    Returns
    -------
    ndarray of float32, read-only

    Raises
    ------
    DiskError
        If the disk is full.
    """
    place = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    path = place / f".block.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
    try:
        with disk_errors(path), path.open("wb", buffering=0) as file:
            for block in blocks:
                data = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
                while data:
                    data = data[file.write(data) :]
        mapped = np.memmap(path, dtype=np.float32, mode="r", shape=shape)
    except BaseException:
        _remove(path)
        raise
    weakref.finalize(mapped, _remove, path)
    return np.asarray(mapped)


def _remove(path: Path) -> None:
    # Where the system refuses to remove a file that is still mapped, `biofuse store gc` does it later.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
