"""A linear head for many classes that sees its training rows block by block and never keeps them.

Linear discriminant analysis needs of the rows only the number, the sum and, over all classes, the second moment. These
add up over blocks, and the moments of any encoders are a principal submatrix of those of all of them: one pass over the
embeddings gives the heads of every single encoder and of their fusion.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, SearchError

Matrix64 = NDArray[np.float64]

CONSTANT = 1e-10
"""Columns with less than this share of the mean variance count as constant."""


class Moments:
    """Counts, class sums and second moment of rows that come block by block.

    Parameters
    ----------
    dim : int
        Columns.
    n_classes : int
    shift : ndarray of float64, shape (dim,), optional
        Taken from every row, so that large means cost no precision; by default the mean of the first block.
    """

    def __init__(self, dim: int, n_classes: int, *, shift: Matrix64 | None = None) -> None:
        self.shift = shift
        self.counts = np.zeros(n_classes, dtype=np.int64)
        self.sums = np.zeros((n_classes, dim))
        self.second = np.zeros((dim, dim))

    @property
    def n(self) -> int:
        """Rows seen."""
        return int(self.counts.sum())

    def add(self, rows: NDArray[np.floating], labels: NDArray[np.int64]) -> None:
        """Take one block of rows, shape (n, dim), and their classes, shape (n,).

        Raises
        ------
        AlignmentError
            If rows and labels do not belong together.
        """
        if rows.shape != (len(labels), self.second.shape[0]):
            raise AlignmentError(f"{rows.shape} rows for {len(labels)} labels and {self.second.shape[0]} columns.")
        if not len(labels):
            return
        if self.shift is None:
            self.shift = rows.mean(axis=0, dtype=np.float64)
        centred = rows.astype(np.float64) - self.shift
        self.second += centred.T @ centred
        self.counts += np.bincount(labels, minlength=len(self.counts))
        # By class, in one product: far faster than adding at 1,000 places.
        present, place = np.unique(labels, return_inverse=True)
        indicator = np.zeros((len(present), len(labels)))
        indicator[place, np.arange(len(labels))] = 1
        self.sums[present] += indicator @ centred

    def merge(self, other: "Moments") -> None:
        """Take the rows of another that has the same shift.

        Raises
        ------
        AlignmentError
            If it has not.
        """
        if other.n and (self.shift is None or other.shift is None or not np.array_equal(self.shift, other.shift)):
            raise AlignmentError("Moments around different points cannot be added.")
        self.counts += other.counts
        self.sums += other.sums
        self.second += other.second


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearScores:
    """A linear function per class.

    Attributes
    ----------
    coef : ndarray of float64, shape (d, n_classes)
    intercept : ndarray of float64, shape (n_classes,)
        Minus infinity for classes without a training row.
    shrinkage : float
    """

    coef: Matrix64
    intercept: Matrix64
    shrinkage: float

    @classmethod
    def fit(cls, moments: Moments, columns: slice, *, shrinkage: float) -> Self:
        """Solve for the discriminants of some columns.

        One Gaussian per class, all of the covariance within classes, whose correlations are shrunk towards zero; priors
        are the classes' shares of the rows. Without shrinkage this is scikit-learn's
        ``LinearDiscriminantAnalysis(solver="lsqr")``.

        Parameters
        ----------
        moments : Moments
        columns : slice
            Of an encoder, or of all.
        shrinkage : float
            0 to 1.

        Raises
        ------
        SearchError
            If there is no training row.
        """
        from scipy.linalg import cho_factor, cho_solve

        if not moments.n or moments.shift is None:
            raise SearchError("There is no training row to learn from.")
        seen = moments.counts > 0
        counts, sums = moments.counts[seen], moments.sums[seen, columns]
        means = sums / counts[:, None]
        within = sums.T @ means  # in place from here on: with many encoders this is a matrix of half a gigabyte
        np.subtract(moments.second[columns, columns], within, out=within)
        within /= moments.n
        variance = np.diag(within).copy()
        scale = np.sqrt(np.where(variance > CONSTANT * max(variance.mean(), 1e-300), variance, 1.0))
        within *= (1 - shrinkage) / scale
        within /= scale[:, None]
        # A constant column has no correlation with anything, and a variance that any row would contradict.
        within[np.diag_indices_from(within)] = 1.0
        try:
            root = cho_factor(within, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError as error:
            raise SearchError(
                f"{len(variance)} columns of {moments.n} rows depend on one another.", remedy="Shrink the covariance."
            ) from error
        # Around the mean of all rows, so that the functions do not depend on where the moments were taken.
        centre = sums.sum(axis=0) / moments.n
        means -= centre
        coef = np.zeros((len(variance), len(moments.counts)))
        coef[:, seen] = cho_solve(root, (means / scale).T, check_finite=False) / scale[:, None]
        intercept = np.full(len(moments.counts), -np.inf)
        lengths = np.einsum("ij,ji->i", means, coef[:, seen])
        intercept[seen] = np.log(counts / moments.n) - 0.5 * lengths - (moments.shift[columns] + centre) @ coef[:, seen]
        return cls(coef=coef, intercept=intercept, shrinkage=shrinkage)

    def ranks(self, rows: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place of each row's own class among all classes by score: 0 for the first, shape (n,).

        Of equal scores the class that comes first in the table comes first.
        """
        scores = rows.astype(np.float64) @ self.coef + self.intercept
        own = scores[np.arange(len(labels)), labels][:, None]
        earlier = np.arange(scores.shape[1]) < labels[:, None]
        return np.asarray((scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1), dtype=np.int64)
