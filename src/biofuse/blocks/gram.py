"""Blocks standardised on training rows, in the two forms that add up over encoders.

Concatenating blocks adds their inner products, ``K_S = sum of X_m X_m'`` over the encoders m of a subset S (rows by
rows), and makes the products of columns of S a principal submatrix of those of all encoders (columns by columns).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import AlignmentError, DataError
from biofuse.core.linear import (
    COLUMNS_AT_ONCE,
    ROWS_AT_ONCE,
    Components,
    FoldMoments,
    Matrix64,
    Standard,
    principal_components,
    slices,
)
from biofuse.core.machine import limit_threads

Rows = NDArray[np.integer]
Scaling = Literal["none", "block"]


@dataclass(frozen=True, kw_only=True, eq=False)
class GramBlocks:
    """Inner products of standardised rows, per encoder.

    Attributes
    ----------
    encoders : tuple of str
        In pool order.
    train : ndarray of float64, shape (n_encoders, n_train, n_train)
        Between training rows. Rows and columns sum to 0, since the standardised columns do.
    test : ndarray of float64, shape (n_encoders, n_test, n_train)
        Between held-out and training rows.
    """

    encoders: tuple[str, ...]
    train: Matrix64
    test: Matrix64

    def total(self, subset: Sequence[str], *, out: Matrix64 | None = None) -> Matrix64:
        """Return the products of training rows of the concatenated blocks of a subset, added up in pool order.

        Parameters
        ----------
        subset : sequence of str
            Encoder names, in any order.
        out : ndarray of float64, shape (n_train, n_train), optional
            Where to write to, so that memory need not be asked for again and again.
        """
        places = _places(self.encoders, subset)
        total = np.empty_like(self.train[0]) if out is None else out
        if len(places) == 1:
            np.copyto(total, self.train[places[0]])
            return total
        np.add(self.train[places[0]], self.train[places[1]], out=total)
        for place in places[2:]:
            np.add(total, self.train[place], out=total)
        return total

    def apply(self, subset: Sequence[str], coef: Matrix64) -> Matrix64:
        """Return the products of held-out rows, times coefficients of the training rows: shape (n_test, n_columns)."""
        places = _places(self.encoders, subset)
        found = self.test[places[0]] @ coef
        for place in places[1:]:
            found += self.test[place] @ coef
        return np.asarray(found, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnBlocks:
    """Standardised (and maybe reduced) columns of all encoders, side by side.

    Attributes
    ----------
    encoders : tuple of str
        In pool order.
    dims : tuple of int
        Columns kept of each block.
    train, test : ndarray of float64, shape (n_rows, sum of dims)
        Training and held-out rows; :meth:`without_training` has none of the former.
    """

    encoders: tuple[str, ...]
    dims: tuple[int, ...]
    train: Matrix64
    test: Matrix64

    def without_training(self) -> Self:
        """Return the same without the training rows, for whoever has taken their moments."""
        return replace(self, train=self.train[:0].copy())

    def only(self, subset: Sequence[str]) -> Self:
        """Return the same with a subset's columns alone."""
        places, parts = _places(self.encoders, subset), self.slices(subset)
        return replace(
            self,
            encoders=tuple(self.encoders[place] for place in places),
            dims=tuple(self.dims[place] for place in places),
            train=np.hstack([self.train[:, part] for part in parts]),
            test=np.hstack([self.test[:, part] for part in parts]),
        )

    def columns(self, subset: Sequence[str]) -> NDArray[np.int64]:
        """Return the indices of a subset's columns, in pool order."""
        return np.concatenate([np.arange(part.start, part.stop) for part in self.slices(subset)])

    def slices(self, subset: Sequence[str]) -> list[slice]:
        """Return the same columns as slices, as few as possible."""
        ends = np.cumsum(self.dims).tolist()
        found: list[slice] = []
        for place in _places(self.encoders, subset):
            begin, end = ends[place] - self.dims[place], ends[place]
            if found and found[-1].stop == begin:
                begin = found.pop().start
            found.append(slice(begin, end))
        return found

    def apply(self, subset: Sequence[str], coef: Matrix64) -> Matrix64:
        """Return held-out rows of a subset times coefficients of its columns: shape (n_test, n_columns)."""
        found, begin = np.zeros((len(self.test), coef.shape[1])), 0
        for part in self.slices(subset):  # no copy of the subset's columns is made
            end = begin + part.stop - part.start
            found += self.test[:, part] @ coef[begin:end]
            begin = end
        return found

    def between(self, subset: Sequence[str], products: Matrix64) -> Matrix64:
        """Return the part of products of all columns that is of a subset's, shape (d, d): a copy."""
        parts = self.slices(subset)
        return np.concatenate([np.concatenate([products[row, part] for part in parts], axis=1) for row in parts])

    def moments(self, weights: Matrix64, targets: Matrix64) -> tuple[Matrix64, Matrix64, Matrix64]:
        """Return the weighted mean of the training rows, and the weighted sums of products about it.

        A subset's are the entries, and the principal submatrix, of its :meth:`columns`.

        Parameters
        ----------
        weights : ndarray of float64, shape (n_train,)
            Weight of each training row.
        targets : ndarray of float64, shape (n_train, n_columns)

        Returns
        -------
        mean : ndarray of float64, shape (dim,)
        products : ndarray of float64, shape (dim, dim)
            Of columns with each other.
        crossed : ndarray of float64, shape (dim, n_columns)
            Of columns with targets.
        """
        mean = weights @ self.train / weights.sum()
        offset = weights @ targets / weights.sum()
        products = np.zeros((self.train.shape[1],) * 2)
        crossed = np.zeros((self.train.shape[1], targets.shape[1]))
        for rows in slices(len(self.train), ROWS_AT_ONCE):
            root = np.sqrt(weights[rows])[:, None]
            centred = (self.train[rows] - mean) * root
            products += centred.T @ centred
            crossed += centred.T @ ((targets[rows] - offset) * root)
        return mean, products, crossed


def gram_blocks(
    blocks: Blocks, train: Rows, test: Rows, *, scaling: Scaling = "none", reduce_to: int | None = None
) -> GramBlocks:
    """Standardise every block on the training rows and multiply its rows with each other.

    Columns become what ``Concatenation(scaling=scaling)`` of the fusions makes of them, but stay in float64.

    Parameters
    ----------
    blocks : Blocks
        Of all encoders.
    train, test : ndarray of int
        Rows that decide means, standard deviations and reduction, and rows that are only transformed.
    scaling : {"none", "block"}
        As for ``Concatenation``.
    reduce_to : int, optional
        Principal components kept of each block; all columns if not given.

    Raises
    ------
    DataError
        If there is no block or no training row, or a value is not finite.
    """
    _check(blocks, train, reduce_to)
    n, t = len(train), len(test)
    grams = np.zeros((len(blocks), n, n))
    crossed = np.zeros((len(blocks), t, n))
    for place, matrix in enumerate(blocks.values()):
        divisor = _divisor(matrix, scaling)
        if reduce_to is not None and reduce_to < matrix.shape[1]:
            kept, other = _transformed(matrix, train, test, reduce_to=reduce_to)
            grams[place], crossed[place] = kept @ kept.T, other @ kept.T
        else:
            standard = Standard.of(matrix, train)
            for columns in slices(matrix.shape[1], COLUMNS_AT_ONCE):
                kept, other = (standard(matrix[rows, columns], columns=columns) for rows in (train, test))
                grams[place] += kept @ kept.T
                crossed[place] += other @ kept.T
        grams[place] /= divisor**2
        crossed[place] /= divisor**2
    return GramBlocks(encoders=blocks.encoders, train=grams, test=crossed)


def column_blocks(
    blocks: Blocks, train: Rows, test: Rows, *, scaling: Scaling = "none", reduce_to: int | None = None
) -> ColumnBlocks:
    """Standardise every block on the training rows, reduce it if asked, and put the blocks side by side.

    Parameters and errors are those of :func:`gram_blocks`. A block keeps at most as many principal components as have
    variance among the training rows, and at least one.
    """
    _check(blocks, train, reduce_to)
    parts = []
    for matrix in blocks.values():
        kept, other = _transformed(matrix, train, test, reduce_to=reduce_to)
        parts.append((kept / _divisor(matrix, scaling), other / _divisor(matrix, scaling)))
    return _side_by_side(blocks, parts)


def _side_by_side(blocks: Blocks, parts: Sequence[tuple[Matrix64, Matrix64]]) -> ColumnBlocks:
    return ColumnBlocks(
        encoders=blocks.encoders,
        dims=tuple(kept.shape[1] for kept, _ in parts),
        train=np.hstack([kept for kept, _ in parts]),
        test=np.asfortranarray(np.hstack([other for _, other in parts])),  # columns are taken out of them
    )


def reduced_columns(
    blocks: Blocks,
    folds: Sequence[tuple[Rows, Rows]],
    *,
    scaling: Scaling = "none",
    reduce_to: int,
    threads: int = 1,
) -> list[ColumnBlocks]:
    """Return :func:`column_blocks` of every fold, several of which share the products of the rows they have in common.

    Parameters
    ----------
    blocks, scaling, reduce_to
        As for :func:`gram_blocks`.
    folds : sequence of (train, test)
        Rows.
    threads : int
        Cores.
    """
    parts: list[list[tuple[Matrix64, Matrix64]]] = [[] for _ in folds]
    for train, _ in folds:
        _check(blocks, train, reduce_to)
    workers = min(threads, len(folds))
    for matrix in blocks.values():
        alike: list[FoldMoments | None] = [None] * len(folds)
        if reduce_to < matrix.shape[1] <= min(len(train) for train, _ in folds):
            with limit_threads(threads):
                alike = [*FoldMoments.of_folds(matrix, [train for train, _ in folds])]

        transform = partial(_fold_of, matrix, divisor=_divisor(matrix, scaling), reduce_to=reduce_to)
        with limit_threads(threads // workers), ThreadPoolExecutor(workers) as pool:
            for fold, found in zip(parts, pool.map(transform, folds, alike), strict=True):
                fold.append(found)
    return [_side_by_side(blocks, each) for each in parts]


def _fold_of(
    matrix: Matrix, fold: tuple[Rows, Rows], moments: FoldMoments | None, *, divisor: float, reduce_to: int
) -> tuple[Matrix64, Matrix64]:
    known = None if moments is None else moments.components(reduce_to)
    kept, other = _transformed(matrix, *fold, reduce_to=reduce_to, known=known)
    return kept / divisor, other / divisor


def _divisor(matrix: Matrix, scaling: Scaling) -> float:
    return float(np.sqrt(matrix.shape[1])) if scaling == "block" else 1.0


def _transformed(
    matrix: Matrix, train: Rows, test: Rows, *, reduce_to: int | None, known: Components | None = None
) -> tuple[Matrix64, Matrix64]:
    """Return a block's standardised rows, or their leading principal components, as learnt from its training rows."""
    if reduce_to is not None and reduce_to < matrix.shape[1]:
        components = known or principal_components(matrix, count=reduce_to, rows=train)
        return components.project(matrix, train), components.project(matrix, test)
    standard = Standard.of(matrix, train)
    return standard(matrix[train]), standard(matrix[test])


def _places(encoders: tuple[str, ...], subset: Sequence[str]) -> list[int]:
    missing = [name for name in subset if name not in encoders]
    if missing or not subset:
        raise AlignmentError(f"No block for encoder(s) {', '.join(missing) or '(none named)'}.")
    return sorted({encoders.index(name) for name in subset})


def _check(blocks: Blocks, train: Rows, reduce_to: int | None) -> None:
    if not blocks.encoders or not len(train):
        raise DataError(f"Nothing to standardise: {len(blocks)} blocks, {len(train)} training rows.")
    if reduce_to is not None and reduce_to < 1:
        raise DataError(f"A block cannot be reduced to {reduce_to} columns.")
    for encoder in blocks.encoders:
        blocks.require_finite(encoder)
