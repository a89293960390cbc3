"""Which rows of which parts make a block, found without a loop over rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biofuse.store.parts import CONTENT_BYTES, Contents, Part

if TYPE_CHECKING:
    import pyarrow as pa

SHORT_RUN = 16
"""Mean length of runs of neighbouring rows below which rows are gathered one by one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Neighbouring rows of one part that are also neighbours in a block.

    Attributes
    ----------
    part : Part
    start : int
        First row in the part.
    place : int
        First row in the block.
    rows : int
    """

    part: Part
    start: int
    place: int
    rows: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """All rows of an encoder's parts, numbered through.

    Attributes
    ----------
    parts : tuple of Part
    contents : ndarray of S16, shape (n,)
        Those of all parts, one after the other.
    ends : ndarray of int64, shape (n_parts,)
        Number of rows up to the end of each part.
    """

    parts: tuple[Part, ...]
    contents: Contents
    ends: NDArray[np.int64]

    def locate(self, wanted: Contents) -> NDArray[np.int64]:
        """Return the row of each wanted hash, the first where there are several, or -1."""
        return locate(wanted, self.contents)


def make_index(parts: Sequence[Part]) -> Index:
    """Give the rows of all parts their numbers."""
    contents = np.concatenate([part.contents for part in parts]) if parts else np.empty(0, dtype=f"S{CONTENT_BYTES}")
    return Index(parts=tuple(parts), contents=contents, ends=np.cumsum([len(part) for part in parts], dtype=np.int64))


def locate(wanted: Contents, available: Contents) -> NDArray[np.int64]:
    """Return the row of each wanted hash among the available ones, the first where there are several, or -1.

    Parameters
    ----------
    wanted, available : ndarray of S16, shapes (n,) and (m,)
        Memory is a few dozen bytes for each of them; time grows with n + m.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    import pyarrow.compute as pc

    found = pc.index_in(_arrow(wanted), value_set=_arrow(available))
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def locate_ids(wanted: NDArray[np.object_], available: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return the row of each wanted id among the available ones, or -1; as :func:`locate`, for strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.large_string()
    found = pc.index_in(pa.array(wanted, type=text), value_set=pa.array(available, type=text))
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def n_distinct(contents: Contents) -> int:
    """Count different hashes."""
    import pyarrow.compute as pc

    return int(pc.count_distinct(_arrow(contents)).as_py()) if len(contents) else 0


def whole_parts(parts: Sequence[Part], wanted: Contents) -> list[Segment] | None:
    """Tell whether the wanted rows are the parts' own, in their order, part after part; much faster than looking up.

    That is how an extraction writes them, and how they are read again where the data have not changed.

    Returns
    -------
    list of Segment or None
        None where they are not.
    """
    longest: dict[bytes, Part] = {}
    for part in sorted(parts, key=len):
        longest[part.contents[:1].tobytes()] = part
    segments: list[Segment] = []
    place = 0
    while place < len(wanted):
        part_here = longest.get(wanted[place : place + 1].tobytes())
        if part_here is None or not len(part_here):
            return None
        rows = min(len(part_here), len(wanted) - place)
        if not _same(part_here.contents[:rows], wanted[place : place + rows]):
            return None
        segments.append(Segment(part=part_here, start=0, place=place, rows=rows))
        place += rows
    return segments


def runs(index: Index, rows: NDArray[np.int64]) -> list[Segment] | None:
    """Cut rows, by number, into runs of neighbours; None where the runs are too short to be worth it."""
    owner = np.searchsorted(index.ends, rows, side="right")
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(owner) != 0)) + 1
    if len(rows) < SHORT_RUN * (len(breaks) + 1) and len(breaks):
        return None
    first = np.concatenate([[0], breaks]).astype(np.int64)
    lengths = np.diff(np.append(first, len(rows)))
    return [
        Segment(part=(part := index.parts[number]), start=row - int(index.ends[number]) + len(part), place=at, rows=n)
        for number, row, at, n in zip(
            owner[first].tolist(), rows[first].tolist(), first.tolist(), lengths.tolist(), strict=True
        )
    ]


def _same(left: Contents, right: Contents) -> bool:
    words = (np.ascontiguousarray(left).view(np.uint64), np.ascontiguousarray(right).view(np.uint64))
    return bool(np.array_equal(*words))


def _arrow(contents: Contents) -> "pa.Array":
    import pyarrow as pa

    data = pa.py_buffer(np.ascontiguousarray(contents).view(np.uint8))
    return pa.Array.from_buffers(pa.binary(CONTENT_BYTES), len(contents), [None, data])
