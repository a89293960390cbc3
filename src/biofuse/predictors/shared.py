"""What subsets of the same training rows share: each block is standardised once, its rows multiplied with each other.

Concatenation adds up products of rows, so that a head that takes no more of the columns than those (``turns``) is
fitted to any subset without another look at them. It is what it would be of the columns, to rounding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.linear import Matrix64, slices
from biofuse.core.machine import limit_threads
from biofuse.core.target import Labels, Target
from biofuse.fusion.concatenation import Concatenation, FittedConcatenation
from biofuse.heads.base import Features, FittedHead, Head, check_limits
from biofuse.heads.linear import FittedLinear
from biofuse.heads.logistic import RowSpace
from biofuse.predictors.fused import FusedPredictor, in_order, of_pool

PRODUCTS_BYTES = 512 * 2**20
"""Most memory for the products of rows of all blocks: beyond, those of a subset are made anew each time. Nine encoders
of 2,700 rows take as much."""

WIDENED_AT_ONCE = 128
"""Columns of a block turned into float64 at a time: 756 x 1,280, times 8 columns: .55 ms, in one piece 1.9 ms."""


def shared_bytes(*, rows: int, dims: Sequence[int]) -> int:
    """Return what :class:`TrainingRows` holds: the standardised blocks, and the products of their rows."""
    products = 8 * len(dims) * rows**2 if rows < sum(dims) else 0
    return 4 * rows * sum(dims) + (products if products <= PRODUCTS_BYTES else 0)


class TrainingRows:
    """Training rows in the order of their ids, standardised.

    Parameters
    ----------
    blocks : Blocks
        Training rows.
    labels : ndarray, shape (n,) or (n, n_columns)
        Row i belongs to ``blocks.ids[i]``.
    concatenation : Concatenation
        How blocks are standardised and scaled.
    target : Target
        What is predicted, classes that are absent included.
    sample_weight : ndarray of float64, shape (n,), optional
        Weight of each row.
    threads : int, default 1
        Cores to use, by fits, too.

    Raises
    ------
    AlignmentError
        If there is not one label or weight per row.
    DataError
        If a value is not finite.
    """

    def __init__(
        self,
        blocks: Blocks,
        labels: Labels,
        *,
        concatenation: Concatenation,
        target: Target,
        sample_weight: NDArray[np.float64] | None = None,
        threads: int = 1,
    ) -> None:
        order, ordered = in_order(blocks, None, {"labels": labels, "sample weights": sample_weight})
        self.target, self.threads = target, threads
        self.labels = np.asarray(labels)[order]
        self.weights = None if sample_weight is None else np.asarray(sample_weight)[order]
        self._fusions: dict[str, FittedConcatenation] = {}
        self._matrices: dict[str, Matrix] = {}
        self._products: dict[str, Matrix64] = {}
        with limit_threads(threads):
            for name in ordered.encoders:
                block = ordered.only([name])
                self._fusions[name] = concatenation.fit(block, self.labels)
                self._matrices[name] = self._fusions[name].transform(block)
            rows, dims = len(self.labels), [fusion.dim for fusion in self._fusions.values()]
            if shared_bytes(rows=rows, dims=dims) > 4 * rows * sum(dims):
                self._products = {name: _products(matrix) for name, matrix in self._matrices.items()}

    def ordered(self, encoders: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return a subset in pool order, all encoders if it is not given.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or is named twice, or none is named.
        """
        return of_pool(tuple(self._fusions), encoders)

    def fusion(self, encoders: Sequence[str]) -> FittedConcatenation:
        """Return what concatenates the blocks of a subset."""
        parts = [self._fusions[name] for name in encoders]
        return FittedConcatenation(
            encoders=tuple(encoders),
            dims=tuple(part.dim for part in parts),
            mean=np.concatenate([part.mean for part in parts]),
            scale=np.concatenate([part.scale for part in parts]),
        )

    def view(self, encoders: Sequence[str], *, divisors: Mapping[str, float] | None = None) -> "SharedView":
        """Return a subset's columns, each block divided by a number, to fit heads to."""
        return SharedView(rows=self, encoders=tuple(encoders), divisors=divisors)

    def matrix(self, encoder: str) -> Matrix:
        """Return the standardised rows of a block, shape (n, d)."""
        return self._matrices[encoder]

    def products(self, encoder: str) -> Matrix64:
        """Return the products of those rows with each other, shape (n, n)."""
        known = self._products.get(encoder)
        return _products(self._matrices[encoder]) if known is None else known


def _products(matrix: Matrix) -> Matrix64:
    wide = matrix.astype(np.float64)
    return np.asarray(wide @ wide.T)


def _crossed(matrix: Matrix, values: Matrix64) -> Matrix64:
    """Return ``matrix.T @ values``, of columns that stay in a core's cache as they are widened."""
    found = np.empty((matrix.shape[1], values.shape[1]))
    for columns in slices(len(found), WIDENED_AT_ONCE):
        np.matmul(matrix[:, columns].astype(np.float64).T, values, out=found[columns])
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedView:
    """Columns of a subset of the training rows.

    Attributes
    ----------
    rows : TrainingRows
    encoders : tuple of str
        In pool order.
    divisors : mapping of str to float, or None
        What the columns of each are divided by.
    """

    rows: TrainingRows
    encoders: tuple[str, ...]
    divisors: Mapping[str, float] | None = None

    @property
    def dim(self) -> int:
        """Number of columns."""
        return sum(self.rows.matrix(name).shape[1] for name in self.encoders)

    @cached_property
    def columns(self) -> Features:
        """The columns side by side, shape (n, dim)."""
        matrices = [self.rows.matrix(name) for name in self.encoders]
        side_by_side = matrices[0] if len(matrices) == 1 else np.hstack(matrices)
        if self.divisors is None:
            return side_by_side
        divisors = [
            np.full(part.shape[1], self._divisor(name)) for name, part in zip(self.encoders, matrices, strict=True)
        ]
        return np.asarray(side_by_side / np.concatenate(divisors), dtype=np.float64)

    @cached_property
    def space(self) -> RowSpace | None:
        """The rows in fewer coordinates than columns; None where there are none."""
        if len(self.rows.labels) >= self.dim:
            return None
        from scipy.linalg.blas import daxpy

        n = len(self.rows.labels)
        total = np.zeros(n * n)
        for name in self.encoders:
            total = daxpy(self.rows.products(name).ravel(), total, a=self._divisor(name) ** -2)
        return RowSpace.of(total.reshape(n, n))

    def fit(self, head: Head, *, seed: int) -> FittedHead:
        """Fit a head to the columns.

        Raises
        ------
        DataError
            If the features or labels cannot be used.
        SearchError
            If the problem is beyond the head's limits.
        """
        rows = self.rows
        check_limits(head, rows=len(rows.labels), features=self.dim, target=rows.target)
        turns = getattr(head, "turns", False)  # heads of other packages need not say so
        with limit_threads(rows.threads):
            space = self.space if turns else None
        fitted = head.fit(
            self.columns if space is None else space.places,
            rows.labels if space is None else rows.labels[space.order],
            target=rows.target,
            sample_weight=rows.weights if rows.weights is None or space is None else rows.weights[space.order],
            seed=seed,
            threads=rows.threads,
        )
        if space is None or not isinstance(fitted, FittedLinear):
            return fitted
        with limit_threads(rows.threads):
            parts = space.back(fitted.coef)
            coef = [_crossed(rows.matrix(name), parts / self._divisor(name)) for name in self.encoders]
        return replace(fitted, coef=np.concatenate(coef))

    def _divisor(self, encoder: str) -> float:
        return 1.0 if self.divisors is None else self.divisors[encoder]


class FusedFits:
    """Fits of one head to concatenated blocks of many subsets of the same training rows.

    Each is what :func:`~biofuse.predictors.fused.fit_predictor` makes of the subset, to rounding.

    Parameters
    ----------
    blocks, labels, target, sample_weight, threads
        As for :class:`TrainingRows`.
    fusion : Concatenation
    head : object
    """

    def __init__(
        self,
        blocks: Blocks,
        labels: Labels,
        *,
        fusion: Concatenation,
        head: Head,
        target: Target,
        sample_weight: NDArray[np.float64] | None = None,
        threads: int = 1,
    ) -> None:
        self._fusion, self._head = fusion, head
        self._rows = TrainingRows(
            blocks, labels, concatenation=fusion, target=target, sample_weight=sample_weight, threads=threads
        )

    def predictor(self, encoders: Sequence[str], *, seed: int) -> FusedPredictor:
        """Fit the head to a subset.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or is named twice.
        DataError
            If the features or labels cannot be used.
        SearchError
            If the problem is beyond the head's limits.
        """
        ordered = self._rows.ordered(encoders)
        return FusedPredictor(
            fusion=self._rows.fusion(ordered),
            head=self._rows.view(ordered).fit(self._head, seed=seed),
            fusion_name=self._fusion.name,
            head_name=self._head.name,
            fusion_options=self._fusion.options,
            head_options=self._head.options,
            task=self._rows.target.kind,
        )
