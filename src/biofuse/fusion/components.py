"""Concatenation of the leading principal components of every block, as they stand or whitened."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import SearchError
from biofuse.fusion.projection import FittedProjection
from biofuse.fusion.standard import ROWS_AT_ONCE, Matrix64, Standard, require_training_rows, slices

Scaling = Literal["none", "block"]

COMPONENTS = 64
"""Components kept of a block where no number is given. With a logistic head on all blocks of the starter pool, a few
splits each: on blood cells (80 and 250 rows) AUROC is within .0003 of that of all columns, on brain MRI (400 and 1,500
rows) .005 and .008 below (128 components: .003 and .003). Whitened, 32 are better on blood cells and 128 on brain MRI:
set it where it matters."""

SMALLEST_VARIANCE = 1e-8
"""Variance, relative to the largest of the block, below which a component is not whitened but dropped. Embeddings are
float32: rounding alone gives a column whose mean is a thousand times its deviation a relative variance near 1e-9, and
whitening would blow that up to the size of the signal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """Principal components of one block.

    Attributes
    ----------
    standard : Standard
        What standardises its columns.
    axes : ndarray of float64, shape (d, k)
        Orthonormal columns, that of the largest variance first; the entry of largest size in each is positive, as in
        scikit-learn. A block without variance has a single column of zeros.
    variances : ndarray of float64, shape (k,)
        Of the training rows along each, with n - 1 in the denominator.
    """

    standard: Standard
    axes: Matrix64
    variances: Matrix64


def principal_components(matrix: Matrix, *, count: int, smallest: float = 0.0) -> Components:
    """Find the leading principal components of a block's standardised columns.

    From the products of rows where they are fewer than columns, else from the products of columns. Directions whose
    variance is rounding error are left out, so that there may be fewer than asked for, and at most n - 1.

    Parameters
    ----------
    matrix : ndarray of float32, shape (n, d)
        Training rows.
    count : int
        Most components to keep.
    smallest : float, default 0
        Variance, relative to the largest, that a component must exceed.
    """
    from scipy.linalg import eigh

    standard = Standard.of(matrix)
    n, d = matrix.shape
    wide = standard(matrix) if n < d else None
    products = wide @ wide.T if wide is not None else column_products(matrix, standard)
    size = len(products)
    values, vectors = eigh(products, subset_by_index=(max(0, size - count), size - 1), check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    # Centred rows have one direction less than there are rows; what is below rounding error carries nothing but noise.
    kept = (values > values[0] * max(smallest, max(n, d) * np.finfo(np.float64).eps)) & (np.arange(len(values)) < n - 1)
    if not kept.any():
        return Components(standard=standard, axes=np.zeros((d, 1)), variances=np.zeros(1))
    values, vectors = values[kept], vectors[:, kept]
    axes = vectors if wide is None else wide.T @ (vectors / np.sqrt(values))
    return Components(standard=standard, axes=axes * signs(axes), variances=values / (n - 1))


def column_products(matrix: Matrix, standard: Standard) -> Matrix64:
    """Return the sums of products of standardised columns, shape (d, d)."""
    products = np.zeros((matrix.shape[1],) * 2)
    for rows in slices(len(matrix), ROWS_AT_ONCE):
        part = standard(matrix[rows])
        products += part.T @ part
    return products


def signs(axes: Matrix64) -> Matrix64:
    """Return 1 or -1 for each column, such that times it the column's entry of largest size is positive."""
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return np.where(largest < 0, -1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class PrincipalComponents:
    """Standardise every column, keep the leading principal components of every block, put them side by side.

    Equal, block by block, to scikit-learn's ``StandardScaler`` and ``PCA(svd_solver="full")``.

    Parameters
    ----------
    components : int, default 64
        Most components kept of a block; fewer where it has fewer columns, or not that many rows but one.
    scaling : {"none", "block"}, default "none"
        ``block``: every block is also divided by the square root of its number of columns, as in
        :class:`biofuse.fusion.Concatenation`.
    """

    components: int = COMPONENTS
    scaling: Scaling = "none"

    def __post_init__(self) -> None:
        check_count("components", self.components)
        _check_scaling(self.scaling)

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return "pca"

    @property
    def options(self) -> dict[str, Any]:
        """Its options as JSON values."""
        return {"components": self.components, "scaling": self.scaling}

    def fit(self, blocks: Blocks, labels: NDArray[np.int64] | None = None) -> FittedProjection:  # noqa: ARG002
        """Learn standardisation and components; labels are not used. See :meth:`biofuse.fusion.Fusion.fit`."""
        require_training_rows(blocks)
        found = [principal_components(matrix, count=self.components) for matrix in blocks.values()]
        return _side_by_side(
            blocks,
            found,
            [part.axes / (np.sqrt(len(part.axes)) if self.scaling == "block" else 1.0) for part in found],
        )

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedProjection:
        """Build a fitted fusion of this kind from its state."""
        return FittedProjection.restore(json, arrays)


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """As :class:`PrincipalComponents`, with every component brought to standard deviation 1 over the training rows.

    Equal, block by block, to scikit-learn's ``StandardScaler`` and ``PCA(svd_solver="full", whiten=True)``, but for
    components whose variance is below :data:`SMALLEST_VARIANCE` of the largest: those are dropped.

    Parameters
    ----------
    components : int, default 64
        Most components kept of a block.
    scaling : {"none", "block"}, default "none"
        ``block``: every block is also divided by the square root of its number of components.
    """

    components: int = COMPONENTS
    scaling: Scaling = "none"

    def __post_init__(self) -> None:
        check_count("components", self.components)
        _check_scaling(self.scaling)

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return "whitening"

    @property
    def options(self) -> dict[str, Any]:
        """Its options as JSON values."""
        return {"components": self.components, "scaling": self.scaling}

    def fit(self, blocks: Blocks, labels: NDArray[np.int64] | None = None) -> FittedProjection:  # noqa: ARG002
        """Learn standardisation and components; labels are not used. See :meth:`biofuse.fusion.Fusion.fit`."""
        require_training_rows(blocks)
        found = [
            principal_components(matrix, count=self.components, smallest=SMALLEST_VARIANCE)
            for matrix in blocks.values()
        ]
        axes = [part.axes / np.sqrt(np.where(part.variances > 0, part.variances, 1)) for part in found]
        if self.scaling == "block":
            axes = [part / np.sqrt(part.shape[1]) for part in axes]
        return _side_by_side(blocks, found, axes)

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedProjection:
        """Build a fitted fusion of this kind from its state."""
        return FittedProjection.restore(json, arrays)


def check_count(name: str, value: int) -> None:
    """Refuse a number of columns below 1.

    Raises
    ------
    SearchError
        Naming the option.
    """
    if value < 1:
        raise SearchError(f"{name} must be at least 1, not {value}.")


def _check_scaling(scaling: str) -> None:
    if scaling not in {"none", "block"}:
        raise SearchError(f"scaling must be 'none' or 'block', not {scaling!r}.")


def _side_by_side(blocks: Blocks, found: list[Components], axes: list[Matrix64]) -> FittedProjection:
    return FittedProjection(
        encoders=blocks.encoders,
        standards=tuple(part.standard for part in found),
        axes=tuple(axes),
        summed=False,
    )
