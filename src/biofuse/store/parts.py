"""Parts: files of embeddings named by the checksum of their bytes, and how blocks are read out of them."""

import contextlib
import functools
import mmap
import os
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, BioFuseError, CorruptPartError, StoreError
from biofuse.core.files import TEMPORARY_SUFFIX, disk_errors, hash_named_file, open_regular
from biofuse.core.hashing import CONTENT_BYTES, Contents, digest_file
from biofuse.core.machine import available_memory

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
    state : tuple of int
        The file when it was looked at; see :func:`state_of`.
    """

    path: Path
    contents: Contents
    dim: int
    offset: int
    state: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.contents)

    @classmethod
    def read(cls, path: Path, *, dim: int, verify: bool) -> Self:
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
        StoreError
            If it may not be read.
        FileNotFoundError
            If it has just been removed or set aside.
        """
        import pyarrow as pa

        expected = pa.schema([("content", pa.binary(CONTENT_BYTES)), ("embedding", pa.list_(pa.float32(), dim))])
        try:
            if verify and digest_file(path) != path.stem:
                raise CorruptPartError(f"{path} has changed since it was written: its checksum is not its name.")
            # Not Arrow's own memory map, which advises the system to read the whole file, on another thread.
            state = state_of(path)
            with open_regular(path) as file:
                whole = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            batch = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0)
            rows = batch.num_rows
            if not batch.schema.equals(expected):
                raise ValueError(
                    f"it has the columns {', '.join(f'{each.name} ({each.type})' for each in batch.schema)}"
                )
            contents = np.frombuffer(batch.column("content").buffers()[1], dtype=f"S{CONTENT_BYTES}", count=rows).copy()
            offset = batch.column("embedding").flatten().buffers()[1].address - whole.address
            if not 0 <= offset <= whole.size - rows * dim * 4:
                raise ValueError("its rows are compressed or cut off")
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise StoreError(f"{path} may not be read.", remedy="Make the files of the store readable.") from error
        except (pa.ArrowInvalid, KeyError, ValueError, IndexError, OSError) as error:
            raise CorruptPartError(f"{path} is not a part of {dim}-column embeddings: {error}") from error
        return cls(path=path, contents=contents, dim=dim, offset=offset, state=state)

    @staticmethod
    def write(folder: Path, contents: Contents, embeddings: NDArray[np.float32]) -> Path:
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

        values = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1))
        columns = [_arrow(contents), pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1])]
        batch = pa.record_batch(columns, names=["content", "embedding"])
        with (
            hash_named_file(folder, suffix=PART_SUFFIX) as (file, path),
            pa.ipc.new_file(pa.PythonFile(file, mode="w"), batch.schema) as writer,
        ):
            writer.write_batch(batch)
        return path()

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


def state_of(path: Path) -> tuple[int, ...]:
    """Return what tells a file from what it was before: size, time of change, inode."""
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldPart(Part):
    """Rows that are in memory only; its path names no file.

    Attributes
    ----------
    rows : ndarray of float32, shape (n, dim)
    """

    rows: NDArray[np.float32]

    @classmethod
    def of(cls, folder: Path, contents: Contents, rows: NDArray[np.float32]) -> Self:
        """Copy rows."""
        kept = np.array(rows, dtype=np.float32, order="C")
        kept.flags.writeable = False
        return cls(path=folder / "in memory", contents=contents.copy(), dim=kept.shape[1], offset=0, rows=kept)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """The rows, read-only."""
        return self.rows

    def read_into(self, out: NDArray[np.float32], *, start: int) -> None:
        """Fill ``out`` with rows ``start`` to ``start + len(out)``."""
        out[...] = self.rows[start : start + len(out)]


FEW = 64
"""Times that an index has more rows than are looked for, so that it is first looked through instead of sorted."""

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
    _looks: list[int] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Self:
        """Give the rows of all parts their numbers."""
        contents = np.concatenate([np.empty(0, dtype=f"S{CONTENT_BYTES}"), *(part.contents for part in parts)])
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        for part, end in zip(parts, ends.tolist(), strict=True):  # the same hashes, held once
            object.__setattr__(part, "contents", contents[end - len(part) : end])
        return cls(parts=tuple(parts), contents=contents, ends=ends)

    @property
    def begins(self) -> NDArray[np.int64]:
        """Number of the first row of each part."""
        return self.ends - np.array([len(part) for part in self.parts], dtype=np.int64)

    def locate(self, wanted: Contents) -> NDArray[np.int64]:
        """Return the row of each wanted hash, the first where there are several, or -1.

        A few hashes are looked for in all rows the first time. Then, or for many, the rows are sorted once, which takes
        20 times as long as one such look and makes every later one quick.

        Parameters
        ----------
        wanted : ndarray of S16, shape (n,)

        Returns
        -------
        ndarray of int64, shape (n,)
        """
        if FEW * len(wanted) < len(self.contents) and not self._looks:
            self._looks.append(len(wanted))
            return self._look_through(wanted)
        keys, order = self.ordered
        words, mine = _words(self.contents), _keys(wanted)
        found = np.full(len(wanted), -1, dtype=np.int64)
        asked = np.argsort(mine)  # neighbours in the order are looked for one after the other
        place = np.searchsorted(keys, mine[asked])
        while len(asked):
            there = place < len(keys)
            there[there] = keys[place[there]] == mine[asked[there]]
            asked, place = asked[there], place[there]
            rows = order[place]
            same = words[rows, 1] == _words(wanted)[asked, 1]  # equal keys and second words: equal hashes
            found[asked[same]] = rows[same]
            asked, place = asked[~same], place[~same] + 1
        return found

    @functools.cached_property
    def ordered(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Keys of the rows in ascending order, and the rows; of equal keys the first row first."""
        keys = _keys(self.contents)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def first(self) -> NDArray[np.bool_]:
        """Tell which rows are the first with their hash, shape (n,)."""
        keys, order = self.ordered
        found = np.ones(len(order), dtype=np.bool_)
        again = order[1:][keys[1:] == keys[:-1]]
        found[again] = self.locate(self.contents[again]) == again
        return found

    def _look_through(self, wanted: Contents) -> NDArray[np.int64]:
        import pyarrow.compute as pc

        which = pc.index_in(_arrow(self.contents), value_set=_arrow(wanted))
        rows = np.flatnonzero(which.is_valid().to_numpy(zero_copy_only=False))[::-1]
        first = np.full(len(wanted), -1, dtype=np.int64)
        first[which.take(rows).to_numpy()] = rows  # the last that is written is the first row
        return first[_positions(_arrow(wanted), _arrow(wanted))]  # a hash that is wanted twice is found once

    def holding(self, wanted: Contents) -> list[Part]:
        """Return the parts that have a row of any of the wanted hashes."""
        import pyarrow.compute as pc

        found = pc.is_in(_arrow(self.contents), value_set=_arrow(wanted)).to_numpy(zero_copy_only=False)
        counts = np.concatenate([[0], np.cumsum(found)])
        return [
            part
            for part, begin, end in zip(self.parts, self.begins.tolist(), self.ends.tolist(), strict=True)
            if counts[end] > counts[begin]
        ]

    def n_distinct(self) -> int:
        """Count different hashes."""
        return int(self.first().sum())


def locate_ids(wanted: NDArray[np.object_], available: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return the row of each wanted id among the available ones, the first where there are several, or -1."""
    import pyarrow as pa

    return _positions(*(pa.array(ids, type=pa.large_string()) for ids in (wanted, available)))


def _positions(wanted: Any, available: Any) -> NDArray[np.int64]:
    import pyarrow.compute as pc

    found = pc.index_in(wanted, value_set=available)
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


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
        Segment(part=index.parts[number], start=row - int(index.begins[number]), place=at, rows=n)
        for number, row, at, n in zip(
            owner[first].tolist(), rows[first].tolist(), first.tolist(), lengths.tolist(), strict=True
        )
    ]


def _same(left: Contents, right: Contents) -> bool:
    return bool(np.array_equal(_words(left), _words(right)))


def _words(contents: Contents) -> NDArray[np.uint64]:
    """Return content hashes as two numbers each, shape (n, 2)."""
    return np.ascontiguousarray(contents).view(np.uint64).reshape(-1, 2)


def _keys(contents: Contents) -> NDArray[np.uint64]:
    """Return one number for each content hash, to sort by; different hashes nearly always differ in it."""
    words = _words(contents)
    return np.asarray(words[:, 0] ^ words[:, 1])


def _arrow(contents: Contents) -> Any:
    """Return content hashes as an Arrow array that shares their memory."""
    import pyarrow as pa

    data = pa.py_buffer(np.ascontiguousarray(contents).view(np.uint8))
    return pa.Array.from_buffers(pa.binary(CONTENT_BYTES), len(contents), [None, data])


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

    @classmethod
    def find(
        cls,
        parts: Sequence[Part],
        wanted: Contents,
        index: Callable[[], Index],
        refuse: Callable[[int], BioFuseError],
    ) -> Self:
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
            return cls(runs=tuple(whole))
        numbered = index()
        rows = numbered.locate(wanted)
        if (rows < 0).any():
            raise refuse(int((rows < 0).sum()))
        found = runs(numbered, rows)
        return cls(rows=rows, index=numbered) if found is None else cls(runs=tuple(found))

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


def _gather(out: NDArray[np.float32], rows: NDArray[np.int64], index: Index) -> None:
    """Copy scattered rows, in the order in which they lie on disk, so that every page is read once."""
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.concatenate([[0], index.ends]))
    for number, part in enumerate(index.parts):
        mine = order[bounds[number] : bounds[number + 1]]
        if not len(mine):
            continue
        matrix = part.embeddings
        for start in range(0, len(mine), GATHERED_AT_ONCE):
            some = mine[start : start + GATHERED_AT_ONCE]
            out[some] = matrix[rows[some] - index.begins[number]]


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
