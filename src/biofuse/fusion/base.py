"""What turns the blocks of a subset into one matrix."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import AlignmentError, DataError
from biofuse.core.seals import Arrays


class FittedFusion(Protocol):
    """A fusion after fitting; immutable."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders it takes, in pool order."""
        ...

    @property
    def dim(self) -> int:
        """Columns of the fused matrix."""
        ...

    @property
    def columns(self) -> Mapping[str, slice]:
        """Columns of the fused matrix that belong to each encoder; empty where they cannot be told apart."""
        ...

    def transform(self, blocks: Blocks) -> Matrix:
        """Fuse the blocks of its encoders; other blocks are ignored.

        Parameters
        ----------
        blocks : Blocks
            Any number of rows, zero included.

        Returns
        -------
        ndarray of float32, shape (n, dim)
            Row i depends on row i of the blocks alone.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or one of another width than at fitting.
        DataError
            If a value is not finite.
        """
        ...

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return everything :meth:`restore` needs: JSON values and arrays."""
        ...

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted fusion whose :meth:`state` this is.

        Raises
        ------
        ArtifactError
            If the state is malformed.
        """
        ...


class Fusion(Protocol):
    """How blocks become one matrix; immutable, fitted into a new object."""

    @property
    def name(self) -> str:
        """The name it is registered under."""
        ...

    @property
    def options(self) -> dict[str, Any]:
        """Its options as JSON values, for records and resume keys."""
        ...

    def fit(self, blocks: Blocks, labels: NDArray[np.int64] | None = None) -> FittedFusion:
        """Learn from training rows.

        Parameters
        ----------
        blocks : Blocks
            The blocks of the subset, and of no other encoder.
        labels : ndarray of int64, optional
            For fusions that learn from labels: class indices, shape (n,); zeros and ones, shape (n, n_labels), for
            multi-label tasks.

        Raises
        ------
        DataError
            If there are no rows, a value is not finite, or labels are needed and not given.
        """
        ...

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedFusion:
        """Build a fitted fusion of this kind from its state, whatever this object's own options."""
        ...


COLUMNS_AT_ONCE = 256
"""Columns turned into float64 at a time."""

ROWS_AT_ONCE = 4096
"""Rows turned into float64 at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Standard:
    """Means and divisors of the columns of one block, as scikit-learn's ``StandardScaler`` finds them.

    Attributes
    ----------
    mean, scale : ndarray of float64, shape (d,)
        Columns without variance have the divisor 1, and so become 0 on the training rows.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, matrix: Matrix) -> "Standard":
        """Learn them from training rows, in float64."""
        from sklearn.preprocessing import StandardScaler

        mean, scale = np.empty(matrix.shape[1]), np.empty(matrix.shape[1])
        for columns in slices(matrix.shape[1], COLUMNS_AT_ONCE):
            scaler = StandardScaler().fit(matrix[:, columns].astype(np.float64))
            mean[columns], scale[columns] = scaler.mean_, scaler.scale_
        return cls(mean=mean, scale=scale)

    def __call__(self, rows: Matrix) -> NDArray[np.float64]:
        """Standardise rows, shape (n, d)."""
        return np.asarray((rows - self.mean) / self.scale, dtype=np.float64)


def slices(n: int, size: int) -> Iterator[slice]:
    """Cut ``range(n)`` into slices of at most ``size``."""
    return (slice(start, min(n, start + size)) for start in range(0, n, size))


def require_training_rows(blocks: Blocks) -> None:
    """Refuse blocks that a fusion cannot be fitted on.

    Raises
    ------
    DataError
        If there are no rows or no blocks, or a value is not finite.
    """
    if not blocks.encoders or not blocks.n_samples:
        raise DataError(f"Nothing to fuse: {len(blocks)} blocks of {blocks.n_samples} rows.")
    for encoder in blocks.encoders:
        require_finite(blocks[encoder], blocks=blocks, encoder=encoder)


def fitting_block(blocks: Blocks, encoder: str, *, dim: int) -> Matrix:
    """Return the block of an encoder, if it is one that the fusion can transform.

    Raises
    ------
    AlignmentError
        If it has another width than at fitting.
    DataError
        If a value is not finite.
    """
    matrix = blocks[encoder]
    if matrix.shape[1] != dim:
        raise AlignmentError(
            f"The block of {encoder} has {matrix.shape[1]} columns; the fusion was fitted with {dim}.",
            remedy="Embed with the same encoder, weights and output layer as at fitting.",
        )
    require_finite(matrix, blocks=blocks, encoder=encoder)
    return matrix


def require_finite(matrix: Matrix, *, blocks: Blocks, encoder: str) -> None:
    """Refuse a block with a value that is not finite.

    Raises
    ------
    DataError
        Naming the first such sample.
    """
    finite = np.asarray(np.isfinite(matrix).all(axis=1))
    if not finite.all():
        raise DataError(
            f"The embedding of sample {blocks.ids[np.argmin(finite)]!r} by {encoder} is not finite "
            f"({int((~finite).sum())} of {len(finite)} rows).",
            remedy="Embed these samples again in fp32, or leave the encoder out.",
        )
