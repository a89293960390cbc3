"""Ridge regression with the penalty chosen by exact leave-one-out, from products of rows or of columns.

Weighted, with an intercept that is not penalised. With ``A`` the weighted, centred rows, a row k with residual r leaves
``r / (1 - h)`` when it is left out, where its leverage is ``h = w_k / sum(w) + (A (A'A + alpha)^-1 A')_kk``: one
decomposition serves all rows and all penalties. Penalties that bounds on the leverages show not to be the best are not
looked at further.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError

Matrix64 = NDArray[np.float64]

SMALLEST = 1e-8
"""Least relative penalty. Below, the rounding error of the products of some thousand rows (about n^2 times 1e-16 of
the mean squared distance) would decide."""

STEPS_AT_ONCE = 16
"""Rows of the recurrence kept before they are squared and added up: few enough to stay in a core's cache."""

ROWS_AT_ONCE = 2048
"""Rows rotated at a time."""

ROUNDING = 1e-9
"""Relative rounding error allowed for where bounds are compared."""

WHOLE = (slice(None),)
"""All columns of targets share a penalty."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """Solutions along a grid of penalties.

    Attributes
    ----------
    alphas : ndarray of float64, shape (n_alphas,)
        Penalties, as scikit-learn's ``alpha``.
    errors : ndarray of float64, shape (n_alphas, n_columns)
        Weighted sum of squared leave-one-out errors of each column of targets; infinite for a penalty that was shown
        not to be the best without computing them; without rows where there is a single penalty, and so nothing to
        choose.
    coef : ndarray of float64, shape (n_alphas, n or d, n_columns)
        Of the training rows (times the products of a row with them), or of the features (times the row itself).
    intercept : ndarray of float64, shape (n_alphas, n_columns)
        Added to those products; nothing need be centred or weighted any more.
    """

    alphas: Matrix64
    errors: Matrix64
    coef: Matrix64
    intercept: Matrix64

    def best(self, groups: Sequence[slice]) -> list[int]:
        """Return the place of the penalty with the least error, one for each group of columns; ties to the smaller."""
        if not len(self.errors):
            return [0] * len(groups)
        return [int(self.errors[:, columns].sum(axis=1).argmin()) for columns in groups]


class Workspace:
    """Arrays used again for every subset: fresh memory of some megabytes costs a tenth of the time.

    Every thread gets its own; a copy sent to another process starts empty.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    def __reduce__(self) -> tuple[type["Workspace"], tuple[()]]:
        return Workspace, ()

    def array(self, name: str, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> Matrix64:
        """Return an array whose content is whatever was last left there under that name."""
        arrays: dict[str, Matrix64] = self._local.__dict__
        if name not in arrays or arrays[name].shape != shape:
            arrays[name] = np.zeros(shape, order=order)
        return arrays[name]


def row_path(
    K: Matrix64,
    *,
    targets: Matrix64,
    weights: Matrix64,
    relative: Matrix64,
    groups: Sequence[slice] = WHOLE,
    workspace: Workspace | None = None,
) -> Path:
    """Solve from the products of training rows, by tridiagonalising them once.

    About twice as fast as an eigendecomposition: with ``K = Q T Q'``, ``T`` tridiagonal, the diagonal of
    ``(K + alpha)^-1`` is the sum of squares over the rows of ``D^-1/2 L^-1 Q'`` where ``L D L' = T + alpha``, a
    recurrence of n steps. A single penalty needs no more than a Cholesky decomposition.

    Parameters
    ----------
    K : ndarray of float64, shape (n, n)
        Inner products of the training rows, whose (unweighted) mean is 0; overwritten.
    targets : ndarray of float64, shape (n, n_columns)
    weights : ndarray of float64, shape (n,)
        Positive.
    relative : ndarray of float64, shape (n_alphas,)
        Penalties in units of the mean squared (weighted) distance of a training row from the mean row.
    groups : sequence of slice
        Columns of targets that share a penalty.
    workspace : Workspace, optional
        Where to keep intermediate matrices.

    Raises
    ------
    SearchError
        If the products are not positive to rounding.
    """
    n = len(K)
    share, root = weights / weights.sum(), np.sqrt(weights)
    across = np.zeros(n)
    if (weights != 1).any():
        across = K @ share
        K -= across[:, None]
        K += (share @ across - across)[None, :]
        K *= root[:, None]
        K *= root
    offset, centred = _centred(targets, share, root)
    own = np.diag(K).copy()
    alphas = relative * (float(own.sum()) / n or 1.0)
    if len(alphas) == 1:
        coef = root[:, None] * _solved(K, centred, float(alphas[0]))[None]
        nothing = np.empty((0, targets.shape[1]))
        return Path(alphas=alphas, errors=nothing, coef=coef, intercept=offset - across @ coef)
    space = workspace or Workspace()
    diagonal, beside, basis = _tridiagonal(K, space)
    pivots, links, rotated = _factors(diagonal, beside, basis @ centred, alphas)
    dual = np.swapaxes((rotated.reshape(-1, n) @ basis).reshape(rotated.shape), 1, 2)
    coef = root[:, None] * dual  # adds up to 0, so that held-out rows need no centring
    squares = np.square(alphas[:, None, None] * dual)
    # 1 - leverage is at most 1 - share, and at least alpha / (K_kk + alpha) - share (Jensen's inequality: shrinkage
    # is a concave function of the eigenvalues, of which K_kk is a mean).
    least = alphas[:, None] / (own + alphas[:, None]) - share
    rivals = _rivals(_left_out(squares, 1 - share[None]), _left_out(squares, least), groups)
    errors = np.full((len(alphas), targets.shape[1]), np.inf)
    leaving = alphas[rivals, None] * _diagonals(basis, pivots[rivals], links[rivals], space) - share
    errors[rivals] = (squares[rivals] / np.square(leaving)[:, :, None]).sum(axis=1)
    return Path(alphas=alphas, errors=errors, coef=coef, intercept=offset - across @ coef)


def column_path(
    Z: Matrix64,
    *,
    columns: Sequence[slice],
    mean: Matrix64,
    products: Matrix64,
    crossed: Matrix64,
    targets: Matrix64,
    weights: Matrix64,
    relative: Matrix64,
    groups: Sequence[slice] = WHOLE,
) -> Path:
    """Solve from the products of columns, by their eigendecomposition.

    Parameters
    ----------
    Z : ndarray of float64, shape (n, n_all)
        Training rows.
    columns : sequence of slice
        The d columns of ``Z`` to be used.
    mean : ndarray of float64, shape (d,)
        Weighted mean of the rows.
    products : ndarray of float64, shape (d, d)
        Weighted sum of products about the mean.
    crossed : ndarray of float64, shape (d, n_columns)
        Weighted sum of products of rows and targets, both about their means.
    targets, weights, relative, groups
        As for :func:`row_path`.
    """
    from scipy.linalg import eigh

    n = len(Z)
    share, root = weights / weights.sum(), np.sqrt(weights)
    offset, centred = _centred(targets, share, root)
    alphas = relative * (float(np.trace(products)) / n or 1.0)
    values, vectors = eigh(products, driver="evd", check_finite=False)
    values = np.maximum(values, 0)
    shrunk = 1 / (values[:, None] + alphas)  # (d, n_alphas)
    slopes = vectors.T @ crossed
    inside = (shrunk[:, :, None] * slopes[:, None, :]).reshape(len(values), -1)
    coef = np.swapaxes((vectors @ inside).reshape(len(values), len(alphas), -1), 0, 1)
    intercept = offset - mean @ coef
    if len(alphas) == 1:
        return Path(alphas=alphas, errors=np.empty((0, targets.shape[1])), coef=coef, intercept=intercept)
    leaving = np.empty((len(alphas), n))
    start = mean @ vectors
    for rows in _chunks(n):
        U = _taken(Z, rows, columns) @ vectors
        U -= start
        leaving[:, rows] = 1 - share[rows] - weights[rows] * (np.square(U, out=U) @ shrunk).T
    total = np.square(centred).sum(axis=0)
    explained = ((values[:, None] + 2 * alphas) * shrunk**2).T @ np.square(slopes)
    residual, slack = np.maximum(total - explained, 0), ROUNDING * total
    lower, upper = np.maximum(residual - slack, 0), residual + slack
    most, least = leaving.max(axis=1)[:, None], leaving.min(axis=1)[:, None]
    upper = np.divide(upper, least**2, out=np.full_like(upper, np.inf), where=least > 0)
    rivals = _rivals(lower / most**2, upper, groups)
    errors = np.full(lower.shape, np.inf)
    errors[rivals] = 0
    flat = np.swapaxes(coef[rivals], 0, 1).reshape(len(values), -1)
    for rows in _chunks(n):
        found = (_taken(Z, rows, columns) @ flat).reshape(-1, len(rivals), targets.shape[1]) + intercept[rivals]
        wrong = np.square((targets[rows, None, :] - found) / leaving[rivals][:, rows].T[:, :, None])
        errors[rivals] += np.tensordot(weights[rows], wrong, axes=1)
    return Path(alphas=alphas, errors=errors, coef=coef, intercept=intercept)


def _centred(targets: Matrix64, share: Matrix64, root: Matrix64) -> tuple[Matrix64, Matrix64]:
    offset = share @ targets
    return offset, root[:, None] * (targets - offset)


def _left_out(squares: Matrix64, leaving: Matrix64) -> Matrix64:
    """Sum squared residuals (n_alphas, n, n_columns) over ``leaving`` squared, over rows; infinite where negative."""
    scale = np.divide(1, np.square(leaving), out=np.full(leaving.shape, np.inf), where=leaving > 0)
    with np.errstate(invalid="ignore"):  # a residual of nothing, divided by nothing
        found = np.einsum("akc,ak->ac", squares, np.broadcast_to(scale, squares.shape[:2]))
    return np.where(np.isnan(found), np.inf, found)


def _rivals(lower: Matrix64, upper: Matrix64, groups: Sequence[slice]) -> NDArray[np.int64]:
    """Return which penalties may be the best for a group, from bounds of shape (n_alphas, n_columns)."""
    possible = np.zeros(len(lower), dtype=bool)
    for columns in groups:
        least = upper[:, columns].sum(axis=1).min()
        possible |= lower[:, columns].sum(axis=1) <= least * (1 + ROUNDING)
    return np.flatnonzero(possible)


def _chunks(n: int) -> list[slice]:
    return [slice(begin, min(n, begin + ROWS_AT_ONCE)) for begin in range(0, n, ROWS_AT_ONCE)]


def _taken(Z: Matrix64, rows: slice, columns: Sequence[slice]) -> Matrix64:
    parts = [Z[rows, part] for part in columns]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _solved(A: Matrix64, targets: Matrix64, alpha: float) -> Matrix64:
    from scipy.linalg import lapack

    A.flat[:: len(A) + 1] += alpha
    factor, failed = lapack.dpotrf(A.T, lower=1, overwrite_a=1, clean=0)
    if failed:
        raise _not_positive(alpha)
    return np.asarray(lapack.dpotrs(factor, targets, lower=1)[0], dtype=np.float64)


def _not_positive(alpha: float) -> SearchError:
    return SearchError(
        f"The products of training rows are not positive to rounding at penalty {alpha:.3g}.",
        remedy="Try larger penalties (alphas).",
    )


def _tridiagonal(A: Matrix64, space: Workspace) -> tuple[Matrix64, Matrix64, Matrix64]:
    """Return diagonal, off-diagonal and the orthogonal matrix of ``A = basis' T basis``; A is overwritten."""
    from scipy.linalg import lapack

    n = len(A)
    size, _ = lapack.dsytrd_lwork(n, lower=1)
    # A is symmetric, so that its transpose is itself in the column order that LAPACK wants.
    reflectors, diagonal, beside, factors, _ = lapack.dsytrd(A.T, lower=1, lwork=int(size), overwrite_a=1)
    basis = space.array("basis", (n, n))  # its first row and column are never changed but here
    basis[0, 0] = 1
    if n > 1:
        rotation = space.array("rotation", (n - 1, n - 1), "F")
        rotation[:] = reflectors[1:, :-1]
        rotation, _, _ = lapack.dorgqr(rotation, factors, lwork=64 * n, overwrite_a=1)
        basis[1:, 1:] = rotation.T
    return diagonal, beside, basis


def _factors(
    diagonal: Matrix64, beside: Matrix64, targets: Matrix64, alphas: Matrix64
) -> tuple[Matrix64, Matrix64, Matrix64]:
    """Factor ``T + alpha = L D L'`` and solve, for every penalty.

    Returns
    -------
    pivots : ndarray, shape (n_alphas, n)
    links : ndarray, shape (n_alphas, n - 1)
    solved : ndarray, shape (n_alphas, n_columns, n)
    """
    from scipy.linalg import lapack

    pivots = np.empty((len(alphas), len(diagonal)))
    links = np.empty((len(alphas), len(beside)))
    solved = np.empty((len(alphas), targets.shape[1], len(diagonal)))
    for place, alpha in enumerate(alphas):
        pivots[place], links[place], failed = lapack.dpttrf(diagonal + alpha, beside)
        if failed:
            raise _not_positive(float(alpha))
        solved[place] = lapack.dpttrs(pivots[place], links[place], targets)[0].T
    return pivots, links, solved


def _diagonals(basis: Matrix64, pivots: Matrix64, links: Matrix64, space: Workspace) -> Matrix64:
    """Return the diagonal of ``basis' (L D L')^-1 basis`` for every penalty, shape (n_alphas, n)."""
    count, n = pivots.shape
    total = np.zeros((count, 1, n))
    inverse = (1 / pivots)[:, None, :]
    steps = space.array("steps", (STEPS_AT_ONCE + 1, count, n))
    steps[0] = 0
    # Step i is row i of the basis less a multiple of the step before; there is none before the first.
    multiples = np.concatenate([np.zeros((count, 1)), links], axis=1).T[:, :, None]
    befores, afters = list(steps[:-1]), list(steps[1:])
    for begin in range(0, n, STEPS_AT_ONCE):
        end = min(n, begin + STEPS_AT_ONCE)
        for multiple, row, before, after in zip(multiples[begin:end], basis[begin:end], befores, afters, strict=False):
            np.multiply(multiple, before, out=after)
            np.subtract(row, after, out=after)
        found = steps[1 : end - begin + 1]
        steps[0] = found[-1]
        np.square(found, out=found)
        total += inverse[:, :, begin:end] @ found.swapaxes(0, 1)
    return total[:, 0]
