"""One part: a file of embeddings whose name is the checksum of its bytes."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, CorruptPartError
from biofuse.core.files import hash_named_file
from biofuse.core.hashing import CONTENT_BYTES, Contents, digest_file

if TYPE_CHECKING:
    import pyarrow as pa

PART_SUFFIX = ".arrow"


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Where the rows of one part lie. Only the hashes are held in memory; no file is kept open.

    Attributes
    ----------
    path : Path
        The file.
    contents : ndarray of S16, shape (n,)
    dim : int
        Columns.
    offset : int
        Byte of the file at which the first row begins.
    """

    path: Path
    contents: Contents
    dim: int
    offset: int

    def __len__(self) -> int:
        return len(self.contents)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """A read-only view of the file, shape (n, dim); nothing is copied. The file stays open while it lives."""
        shape = (len(self), self.dim)
        if not len(self):
            return np.empty(shape, dtype=np.float32)
        try:
            return np.asarray(np.memmap(self.path, dtype=np.float32, mode="r", offset=self.offset, shape=shape))
        except ValueError as error:
            raise CorruptPartError(f"{self.path} ends before its last row.") from error

    def read_into(self, out: NDArray[np.float32], *, start: int) -> None:
        """Fill ``out``, C-contiguous of shape (k, dim), with rows ``start`` to ``start + k``.

        Raises
        ------
        CorruptPartError
            If the file is shorter than it was.
        """
        target = out.reshape(-1).view(np.uint8).data
        # Plain reads instead of a map: no page of the file is counted as memory of this process.
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + start * self.dim * out.itemsize)
            while target:
                got = file.readinto(target)
                if not got:
                    raise CorruptPartError(f"{self.path} ends before its last row.")
                target = target[got:]


def write_part(folder: Path, contents: Contents, embeddings: NDArray[np.float32]) -> Path:
    """Write rows as one new part: temporary name, sync, then its checksum as the name.

    Parameters
    ----------
    folder : Path
        The encoder's folder in the store.
    contents : ndarray of S16, shape (n,)
    embeddings : ndarray of float32, shape (n, dim)

    Returns
    -------
    Path
        The finished part.

    Raises
    ------
    AlignmentError
        If they do not have the same number of rows.
    DiskError
        If the disk is full or read-only; nothing half-written is left behind.
    """
    if embeddings.ndim != 2 or len(contents) != len(embeddings):
        raise AlignmentError(f"{len(contents)} content hashes for embeddings of shape {embeddings.shape}.")
    import pyarrow as pa

    batch = _to_batch(contents, embeddings)
    with (
        hash_named_file(folder, suffix=PART_SUFFIX) as (file, path),
        pa.ipc.new_file(pa.PythonFile(file, mode="w"), batch.schema) as writer,
    ):
        writer.write_batch(batch)
    return path()


def read_part(path: Path, *, dim: int, verify: bool) -> Part:
    """Look at a part: which rows it has, and where in the file they lie.

    Parameters
    ----------
    path : Path
        The part.
    dim : int
        Columns the encoder's card promises.
    verify : bool
        Whether to hash the file and compare with its name.

    Raises
    ------
    CorruptPartError
        If the checksum, the schema or the dimension is wrong.
    FileNotFoundError
        If it has just been removed or set aside.
    """
    import pyarrow as pa

    if verify and digest_file(path) != path.stem:
        raise CorruptPartError(f"{path} has changed since it was written: its checksum is not its name.")
    try:
        # Not Arrow's own memory map, which advises the system to read the whole file, on another thread.
        with path.open("rb") as file:
            whole = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _locate_rows(path, whole, dim)
    except (pa.ArrowInvalid, KeyError, ValueError, IndexError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise CorruptPartError(f"{path} is not a part of {dim}-column embeddings: {error}") from error


def _locate_rows(path: Path, whole: "pa.Buffer", dim: int) -> Part:
    import pyarrow as pa

    batch = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0)
    rows = batch.num_rows
    expected = pa.schema([("content", pa.binary(CONTENT_BYTES)), ("embedding", pa.list_(pa.float32(), dim))])
    if not batch.schema.equals(expected):
        raise ValueError(f"it has the columns {', '.join(f'{each.name} ({each.type})' for each in batch.schema)}")
    contents = np.frombuffer(batch.column("content").buffers()[1], dtype=f"S{CONTENT_BYTES}", count=rows).copy()
    offset = batch.column("embedding").flatten().buffers()[1].address - whole.address
    if not 0 <= offset <= whole.size - rows * dim * 4:
        raise ValueError("its rows are compressed or cut off")
    return Part(path=path, contents=contents, dim=dim, offset=offset)


def _to_batch(contents: Contents, embeddings: NDArray[np.float32]) -> "pa.RecordBatch":
    import pyarrow as pa

    rows, dim = embeddings.shape
    values = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1))
    keys = pa.Array.from_buffers(
        pa.binary(CONTENT_BYTES), rows, [None, pa.py_buffer(np.ascontiguousarray(contents).tobytes())]
    )
    return pa.record_batch([keys, pa.FixedSizeListArray.from_arrays(values, dim)], names=["content", "embedding"])


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
