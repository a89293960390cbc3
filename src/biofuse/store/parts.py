"""One part: a file of embeddings whose name is the checksum of its bytes."""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, CorruptPartError
from biofuse.core.files import hash_named_file
from biofuse.core.hashing import digest_file

if TYPE_CHECKING:
    import pyarrow as pa

CONTENT_BYTES = 16
"""Length of a content hash (BLAKE2b-128)."""

PART_SUFFIX = ".arrow"

Contents = NDArray[np.bytes_]
"""Content hashes as fixed-width bytes, dtype ``S16``, shape (n,)."""


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


def as_contents(hashes: list[bytes]) -> Contents:
    """Pack 16-byte hashes into the array form used by the store."""
    return np.frombuffer(b"".join(hashes), dtype=f"S{CONTENT_BYTES}")


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
