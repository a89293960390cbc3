"""Linear algebra of several rooms: standardised columns and principal components."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix64 = NDArray[np.float64]
"""An array of float64, of whatever shape its docstring says: the type knows the precision, not the shape."""

ROWS_AT_ONCE = 2048
"""Rows turned into float64, or rotated, at a time."""

COLUMNS_AT_ONCE = 256
"""Columns turned into float64 at a time."""


def slices(n: int, size: int) -> Iterator[slice]:
    """Cut ``range(n)`` into slices of at most ``size``."""
    return (slice(start, min(n, start + size)) for start in range(0, n, size))


def _divisors(mean: Matrix64, variance: Matrix64, n: int) -> Matrix64:
    """Return standard deviations; 1 below scikit-learn's bound on the rounding error of the variance of a constant."""
    tiny = np.finfo(np.float64).eps
    constant = variance <= n * tiny * variance + (n * mean * tiny) ** 2
    return np.where(constant, 1.0, np.sqrt(np.maximum(variance, 0)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Standard:
    """Means and divisors of the columns of one block, as scikit-learn's ``StandardScaler`` finds them.

    That scaler itself would double the time that a search of a few hundred rows takes to start.

    Attributes
    ----------
    mean, scale : ndarray of float64, shape (d,)
        Columns without variance have the divisor 1, and so become 0 on the training rows.
    """

    mean: Matrix64
    scale: Matrix64

    @classmethod
    def of(cls, matrix: NDArray[np.floating[Any]], rows: NDArray[np.integer] | None = None) -> "Standard":
        """Learn them from the training rows of a matrix, by default all, in float64."""
        n, d = len(matrix) if rows is None else len(rows), matrix.shape[1]
        mean, variance = np.empty(d), np.empty(d)
        for columns in slices(d, COLUMNS_AT_ONCE):
            part = matrix[slice(None) if rows is None else rows, columns].astype(np.float64)
            mean[columns] = part.mean(axis=0)
            part -= mean[columns]
            # Corrected for the rounding of the mean (Chan, Golub and LeVeque 1983, the corrected two-pass algorithm).
            variance[columns] = (np.einsum("ij,ij->j", part, part) - part.sum(axis=0) ** 2 / n) / n
        return cls(mean=mean, scale=_divisors(mean, variance, n))

    def __call__(self, part: NDArray[np.floating[Any]], *, columns: slice = slice(None)) -> Matrix64:
        """Standardise rows, shape (n, d), or some of their columns."""
        standardised = part.astype(np.float64)
        standardised -= self.mean[columns]
        standardised /= self.scale[columns]
        return standardised


def leading_eigenvectors(products: Matrix64, count: int, *, smallest: float) -> tuple[Matrix64, Matrix64]:
    """Return the leading eigenvalues and eigenvectors of a symmetric matrix, the largest first.

    Parameters
    ----------
    products : ndarray of float64, shape (d, d)
    count : int
        Most of them.
    smallest : float
        Part of the largest that an eigenvalue must exceed. Below the rounding error of the products, which is their
        size times the machine's precision, there is nothing but noise.
    """
    from scipy.linalg import eigh

    size = len(products)
    values, vectors = eigh(products, subset_by_index=(max(0, size - count), size - 1), check_finite=False)
    kept = values > values[-1] * smallest
    return values[kept][::-1], vectors[:, kept][:, ::-1]


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

    def project(self, matrix: NDArray[np.floating[Any]], rows: NDArray[np.integer]) -> Matrix64:
        """Return the components of some rows of the block, shape (n_rows, k)."""
        projected = np.empty((len(rows), self.axes.shape[1]))
        axes = self.axes / self.standard.scale[:, None]
        for part in slices(len(rows), ROWS_AT_ONCE):
            projected[part] = (matrix[rows[part]] - self.standard.mean) @ axes
        return projected


def principal_components(
    matrix: NDArray[np.floating[Any]], *, count: int, rows: NDArray[np.integer] | None = None, smallest: float = 0.0
) -> Components:
    """Find the leading principal components of a block's standardised columns.

    From the products of rows where they are fewer than columns, else from the products of columns. Directions whose
    variance is rounding error are left out, so that there may be fewer than asked for, and at most n - 1.

    Parameters
    ----------
    matrix : ndarray of float32, shape (n_all, d)
    count : int
        Most components to keep.
    rows : ndarray of int, shape (n,), optional
        The training rows; all by default.
    smallest : float, default 0
        Variance, relative to the largest, that a component must exceed.
    """
    train = np.arange(len(matrix)) if rows is None else rows
    standard = Standard.of(matrix, train)
    n, d = len(train), matrix.shape[1]
    wide = standard(matrix[train]) if n < d else None
    if wide is not None:
        products = wide @ wide.T
    else:
        products = np.zeros((d, d))
        for part in slices(n, ROWS_AT_ONCE):
            standardised = standard(matrix[train[part]])
            products += standardised.T @ standardised
    return _components(standard, products, n=n, count=count, smallest=smallest, wide=wide)


def _components(
    standard: Standard, products: Matrix64, *, n: int, count: int, smallest: float = 0.0, wide: Matrix64 | None = None
) -> Components:
    """Take components from the products of the columns of n rows, or, where the matrix is ``wide``, of its rows."""
    d = len(standard.mean)
    rounding = max(n, d) * float(np.finfo(np.float64).eps)
    values, vectors = leading_eigenvectors(products, count, smallest=max(smallest, rounding))
    values, vectors = values[: n - 1], vectors[:, : n - 1]  # centred rows have one direction less than there are rows
    if not len(values):
        return Components(standard=standard, axes=np.zeros((d, 1)), variances=np.zeros(1))
    axes = vectors if wide is None else wide.T @ (vectors / np.sqrt(values))
    return Components(standard=standard, axes=axes * signs(axes), variances=values / (n - 1))


LOST = 1e-6
"""Least variance of a column among training rows, relative to the square of how far their mean is from that of all
rows, for sums about the latter to be trusted: they keep ten digits of it then."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldMoments:
    """Sums over training rows of a block, of which those of several folds have most rows in common.

    Attributes
    ----------
    n : int
        Rows.
    about : ndarray of float64, shape (d,)
        What is subtracted from every row first: the mean of all rows.
    sums : ndarray of float64, shape (d,)
    products : ndarray of float64, shape (d, d)
        Of the columns with each other.
    """

    n: int
    about: Matrix64
    sums: Matrix64
    products: Matrix64

    @classmethod
    def of_folds(cls, matrix: NDArray[np.floating[Any]], folds: Sequence[NDArray[np.integer]]) -> list["FoldMoments"]:
        """Return those of the training rows of every fold, of which each row is multiplied once.

        Parameters
        ----------
        matrix : ndarray, shape (n_all, d)
        folds : sequence of ndarray of int
            Training rows.
        """
        d = matrix.shape[1]
        about = matrix.mean(axis=0, dtype=np.float64)
        trains = np.zeros((len(folds), len(matrix)), dtype=bool)
        for number, rows in enumerate(folds):
            trains[number, rows] = True
        found = [cls(n=len(rows), about=about, sums=np.zeros(d), products=np.zeros((d, d))) for rows in folds]
        # Rows that the same folds train on are added up together, then to each of those folds.
        alike, which = np.unique(trains, axis=1, return_inverse=True)
        for number, members in enumerate(alike.T):
            sums, products = np.zeros(d), np.zeros((d, d))
            chosen = np.flatnonzero(which.ravel() == number)
            for part in slices(len(chosen) if members.any() else 0, ROWS_AT_ONCE):
                centred = matrix[chosen[part]] - about
                sums += centred.sum(axis=0)
                products += centred.T @ centred
            for fold in np.flatnonzero(members):
                np.add(found[fold].sums, sums, out=found[fold].sums)
                np.add(found[fold].products, products, out=found[fold].products)
        return found

    def components(self, count: int) -> Components | None:
        """Return what :func:`principal_components` does; None where a column varies too little for its digits."""
        apart = self.sums / self.n
        mean, variance = self.about + apart, np.diag(self.products) / self.n - np.square(apart)
        standard = Standard(mean=mean, scale=_divisors(mean, variance, self.n))
        if (variance[standard.scale != 1] <= LOST * np.square(apart[standard.scale != 1])).any():
            return None
        products = self.products - np.outer(self.sums, apart)
        products /= standard.scale[:, None]
        products /= standard.scale
        return _components(standard, products, n=self.n, count=count)


def signs(axes: Matrix64) -> Matrix64:
    """Return 1 or -1 for each column, such that times it the column's entry of largest size is positive."""
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return np.where(largest < 0, -1.0, 1.0)
