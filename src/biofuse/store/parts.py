"""One part: a file of embeddings whose name is the checksum of its bytes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, CorruptPartError
from biofuse.core.files import write_bytes
from biofuse.core.hashing import digest_bytes, digest_file

if TYPE_CHECKING:
    import pyarrow as pa

CONTENT_BYTES = 16
"""Length of a content hash (BLAKE2b-128)."""

PART_SUFFIX = ".arrow"

Contents = NDArray[np.bytes_]
"""Content hashes as fixed-width bytes, dtype ``S16``, shape (n,)."""


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one part, memory-mapped.

    Attributes
    ----------
    path : Path
        The file.
    contents : ndarray of S16, shape (n,)
    embeddings : ndarray of float32, shape (n, dim)
        A read-only view of the file; nothing is copied.
    """

    path: Path
    contents: Contents
    embeddings: NDArray[np.float32]


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

    sink = pa.BufferOutputStream()
    batch = _to_batch(contents, embeddings)
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue()
    path = folder / f"{digest_bytes(data)}{PART_SUFFIX}"
    write_bytes(path, data)
    return path


def read_part(path: Path, *, dim: int, verify: bool) -> Part:
    """Map a part into memory.

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
    """
    import pyarrow as pa

    if verify and digest_file(path) != path.stem:
        raise CorruptPartError(f"{path} has changed since it was written: its checksum is not its name.")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = reader.get_batch(0)
        contents = np.frombuffer(batch.column("content").buffers()[1], dtype=f"S{CONTENT_BYTES}")
        values = np.frombuffer(batch.column("embedding").flatten().buffers()[1], dtype=np.float32)
        matrix = values[: batch.num_rows * dim].reshape(batch.num_rows, dim)
    except (pa.ArrowInvalid, KeyError, ValueError, IndexError, OSError) as error:
        raise CorruptPartError(f"{path} is not a part of {dim}-column embeddings: {error}") from error
    return Part(path, contents[: batch.num_rows], matrix)


def _to_batch(contents: Contents, embeddings: NDArray[np.float32]) -> "pa.RecordBatch":
    import pyarrow as pa

    rows, dim = embeddings.shape
    values = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1))
    keys = pa.Array.from_buffers(
        pa.binary(CONTENT_BYTES), rows, [None, pa.py_buffer(np.ascontiguousarray(contents).tobytes())]
    )
    return pa.record_batch([keys, pa.FixedSizeListArray.from_arrays(values, dim)], names=["content", "embedding"])
