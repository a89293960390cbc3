"""Blocks standardised on training rows, in the two forms that add up over encoders.

Concatenating blocks adds their inner products, ``K_S = sum of X_m X_m'`` over the encoders m of a subset S (rows by
rows), and makes the products of columns of S a principal submatrix of those of all encoders (columns by columns).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import AlignmentError, DataError

Matrix64 = NDArray[np.float64]
Rows = NDArray[np.integer]
Scaling = Literal["none", "block"]

COLUMNS_AT_ONCE = 256
"""Columns turned into float64 at a time."""

ROWS_AT_ONCE = 4096
"""Rows turned into float64 at a time."""


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
        Training and held-out rows.
    """

    encoders: tuple[str, ...]
    dims: tuple[int, ...]
    train: Matrix64
    test: Matrix64

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
        # No copy of the subset's columns is made.
        placed = np.zeros((self.test.shape[1], coef.shape[1]))
        placed[self.columns(subset)] = coef
        return np.asarray(self.test @ placed, dtype=np.float64)

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
        for rows in _slices(len(self.train), ROWS_AT_ONCE):
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
    for place, encoder in enumerate(blocks.encoders):
        if reduce_to is not None and reduce_to < blocks[encoder].shape[1]:
            kept, other = _reduced(blocks[encoder], train, test, scaling=scaling, reduce_to=reduce_to)
            grams[place], crossed[place] = kept @ kept.T, other @ kept.T
            continue
        standard = _Standard.of(blocks[encoder], train, scaling=scaling)
        for columns in _slices(blocks[encoder].shape[1], COLUMNS_AT_ONCE):
            kept, other = standard(train, columns=columns), standard(test, columns=columns)
            grams[place] += kept @ kept.T
            crossed[place] += other @ kept.T
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
    for encoder in blocks.encoders:
        matrix = blocks[encoder]
        if reduce_to is not None and reduce_to < matrix.shape[1]:
            parts.append(_reduced(matrix, train, test, scaling=scaling, reduce_to=reduce_to))
        else:
            standard = _Standard.of(matrix, train, scaling=scaling)
            parts.append((standard(train), standard(test)))
    return ColumnBlocks(
        encoders=blocks.encoders,
        dims=tuple(kept.shape[1] for kept, _ in parts),
        train=np.hstack([kept for kept, _ in parts]),
        test=np.hstack([other for _, other in parts]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Standard:
    """A block and what standardises its columns, as scikit-learn's ``StandardScaler`` finds it.

    That scaler itself would double the time that a search of a few hundred rows takes to start.
    """

    matrix: Matrix
    mean: Matrix64
    scale: Matrix64

    @classmethod
    def of(cls, matrix: Matrix, train: Rows, *, scaling: Scaling) -> "_Standard":
        n, d = len(train), matrix.shape[1]
        mean, variance = np.empty(d), np.empty(d)
        for columns in _slices(d, COLUMNS_AT_ONCE):
            part = matrix[train, columns].astype(np.float64)
            mean[columns] = part.mean(axis=0)
            part -= mean[columns]
            # Corrected for the rounding of the mean (Chan, Golub and LeVeque 1983, the corrected two-pass algorithm).
            variance[columns] = (np.einsum("ij,ij->j", part, part) - part.sum(axis=0) ** 2 / n) / n
        # scikit-learn's bound on the rounding error of a variance, below which a column is constant: divisor 1.
        tiny = np.finfo(np.float64).eps
        constant = variance <= n * tiny * variance + (n * mean * tiny) ** 2
        scale = np.where(constant, 1.0, np.sqrt(np.maximum(variance, 0)))
        return cls(matrix=matrix, mean=mean, scale=scale * np.sqrt(d) if scaling == "block" else scale)

    def __call__(self, rows: Rows, *, columns: slice = slice(None)) -> Matrix64:
        part = self.matrix[rows, columns].astype(np.float64)
        part -= self.mean[columns]
        part /= self.scale[columns]
        return part


def _reduced(matrix: Matrix, train: Rows, test: Rows, *, scaling: Scaling, reduce_to: int) -> tuple[Matrix64, Matrix64]:
    """Return the leading principal components of a block, fitted on its training rows."""
    standard = _Standard.of(matrix, train, scaling=scaling)
    d = matrix.shape[1]
    if len(train) < d:
        kept, other = standard(train), standard(test)
        axes = kept.T @ _leading(kept @ kept.T, reduce_to, size=d, inverse_root=True)
        return kept @ axes, other @ axes
    products = np.zeros((d, d))
    for rows in _slices(len(train), ROWS_AT_ONCE):
        part = standard(train[rows])
        products += part.T @ part
    axes = _leading(products, reduce_to, size=len(train), inverse_root=False)
    return _project(standard, train, axes), _project(standard, test, axes)


def _project(standard: _Standard, rows: Rows, axes: Matrix64) -> Matrix64:
    projected = np.empty((len(rows), axes.shape[1]))
    for part in _slices(len(rows), ROWS_AT_ONCE):
        projected[part] = standard(rows[part]) @ axes
    return projected


def _leading(products: Matrix64, count: int, *, size: int, inverse_root: bool) -> Matrix64:
    """Return the leading eigenvectors, the largest first, divided by the root of their eigenvalues if asked."""
    from scipy.linalg import eigh

    n = len(products)
    values, vectors = eigh(products, subset_by_index=(max(0, n - count), n - 1), check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    # Directions below the rounding error of the products carry nothing but noise.
    kept = values > values[0] * max(n, size) * np.finfo(np.float64).eps
    if not kept.any():
        return np.zeros((n, 1))
    return np.asarray(vectors[:, kept] / np.sqrt(values[kept]) if inverse_root else vectors[:, kept])


def _places(encoders: tuple[str, ...], subset: Sequence[str]) -> list[int]:
    missing = [name for name in subset if name not in encoders]
    if missing or not subset:
        raise AlignmentError(f"No block for encoder(s) {', '.join(missing) or '(none named)'}.")
    return sorted({encoders.index(name) for name in subset})


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def _check(blocks: Blocks, train: Rows, reduce_to: int | None) -> None:
    if not blocks.encoders or not len(train):
        raise DataError(f"Nothing to standardise: {len(blocks)} blocks, {len(train)} training rows.")
    if reduce_to is not None and reduce_to < 1:
        raise DataError(f"A block cannot be reduced to {reduce_to} columns.")
    for encoder in blocks.encoders:
        finite = np.asarray(np.isfinite(blocks[encoder]).all(axis=1))
        if not finite.all():
            raise DataError(
                f"The embedding of sample {blocks.ids[np.argmin(finite)]!r} by {encoder} is not finite "
                f"({int((~finite).sum())} of {len(finite)} rows).",
                remedy="Embed these samples again in fp32, or leave the encoder out.",
            )
