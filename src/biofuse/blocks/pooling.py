"""How the embeddings of a bag's images become one vector, and the images behind pooled blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError
from biofuse.data.cuts import ranges

Pooling = Literal["mean", "max", "mean+max", "mean+std"]
"""Of a bag's embeddings, column by column: the mean, the largest value, both, or the mean and the standard deviation
(divided by the number of images)."""

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

PIECE_BYTES = 1 << 28
"""Embeddings of images that are pooled at a time: 256 MiB."""


def pooled_width(pooling: Pooling) -> int:
    """Return how many columns there are after pooling for each one before.

    Examples
    --------
    >>> pooled_width("mean"), pooled_width("mean+std")
    (1, 2)
    """
    return 1 + ("+" in pooling)


def pool(matrix: NDArray[np.floating], sizes: NDArray[np.integer], pooling: Pooling) -> NDArray[np.float32]:
    """Make one vector of the embeddings of each bag.

    Parameters
    ----------
    matrix : ndarray, shape (n_images, dim)
        Bag by bag.
    sizes : ndarray of int, shape (n,)
        Images of each bag; at least one.
    pooling : {"mean", "max", "mean+max", "mean+std"}

    Returns
    -------
    ndarray of float32, shape (n, dim) or (n, 2 dim)
        Computed in float64. Of a bag of one image the standard deviation is 0.

    Raises
    ------
    AlignmentError
        If the sizes do not add up to the rows, or one is 0.

    Examples
    --------
    >>> import numpy as np
    >>> pool(np.array([[1.0], [3.0], [5.0]]), np.array([2, 1]), "mean+max").tolist()
    [[2.0, 3.0], [5.0, 5.0]]
    """
    if int(sizes.sum()) != len(matrix) or (len(sizes) and int(sizes.min()) < 1):
        raise AlignmentError(f"Bags of {int(sizes.sum())} images for {len(matrix)} embeddings.")
    ends = np.cumsum(sizes)
    out = np.empty((len(sizes), matrix.shape[1] * pooled_width(pooling)), dtype=np.float32)
    most = max(PIECE_BYTES // (8 * max(matrix.shape[1], 1)), 1)
    first = 0
    while first < len(sizes):
        start = int(ends[first] - sizes[first])
        last = max(int(np.searchsorted(ends, start + most, side="right")), first + 1)
        piece = np.asarray(matrix[start : int(ends[last - 1])], dtype=np.float64)
        out[first:last] = _pool_piece(piece, sizes[first:last], pooling)
        first = last
    return out


def _pool_piece(piece: NDArray[np.float64], sizes: NDArray[np.integer], pooling: Pooling) -> NDArray[np.float64]:
    starts = np.cumsum(sizes) - sizes
    if pooling == "max":
        return np.asarray(np.maximum.reduceat(piece, starts, axis=0))
    mean = np.add.reduceat(piece, starts, axis=0) / sizes[:, None]
    if pooling == "mean":
        return np.asarray(mean)
    if pooling == "mean+max":
        return np.concatenate([mean, np.maximum.reduceat(piece, starts, axis=0)], axis=1)
    apart = np.square(piece - np.repeat(mean, sizes, axis=0))
    return np.concatenate([mean, np.sqrt(np.add.reduceat(apart, starts, axis=0) / sizes[:, None])], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bags:
    """The embeddings of the images behind pooled blocks; taking samples copies none of them.

    Attributes
    ----------
    matrices : mapping of str to ndarray of float32, shape (n_images, dim)
        By encoder, in pool order; possibly mapped from the disk, and of more samples than these.
    starts, sizes : ndarray of int64, shape (n,)
        The images of sample i are rows ``starts[i]`` to ``starts[i] + sizes[i]`` of every matrix.
    pooling : {"mean", "max", "mean+max", "mean+std"}
        What the blocks were made by.
    """

    matrices: Mapping[str, NDArray[np.float32]]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    pooling: Pooling = "mean"

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows of the images of all samples, sample by sample, shape (n_images,)."""
        return ranges(self.starts, self.sizes)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Return the bags of the given samples (indices or a boolean mask)."""
        return type(self)(
            matrices=self.matrices, starts=self.starts[rows], sizes=self.sizes[rows], pooling=self.pooling
        )

    def only(self, encoders: Sequence[str]) -> Self:
        """Return the bags under the named encoders, in this object's order."""
        kept = {name: matrix for name, matrix in self.matrices.items() if name in set(encoders)}
        return type(self)(matrices=kept, starts=self.starts, sizes=self.sizes, pooling=self.pooling)

    def images(self, encoder: str) -> NDArray[np.float32]:
        """Return the embeddings of all images under one encoder, sample by sample, shape (n_images, dim)."""
        return self.matrices[encoder][self.rows]

    def pooled(self, pooling: Pooling) -> dict[str, NDArray[np.float32]]:
        """Return the block of every encoder, pooled anew."""
        return {name: pool(self.images(name), self.sizes, pooling) for name in self.matrices}
