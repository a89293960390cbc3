"""Ridge regression along penalties, with its exact leave-one-out errors.

It comes in two forms, from the products of rows or of columns, and both give the same numbers: :func:`row_path` and
:func:`column_path` are for searches, which have the products already, :func:`ridge_path` takes a matrix and chooses.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.core.linear import ROWS_AT_ONCE, Matrix64, slices

SMALLEST = 1e-8
"""Least relative penalty. Below, the rounding error of the products of some thousand rows (about n^2 times 1e-16 of
the mean squared distance) would decide."""

BLOCK = 16
"""Columns that LAPACK gathers while it tridiagonalises: of 437 and 864 rows a tenth quicker than the 32 it suggests."""

STEPS_AT_ONCE = 16
"""Rows of the recurrence kept before they are squared and added up: few enough to stay in a core's cache."""

ROUNDING = 1e-9
"""Relative rounding error allowed for where bounds are compared."""

SINGLE_ERROR = 2e-7
"""Relative error allowed for leave-one-out errors in single precision: this times the norm of the products over the
penalty, which is what an error of the products grows by when they are inverted, and 50 for what the sums round.
Measured errors of 60 to 860 rows and 30 to 3,000 columns stay below a tenth of it."""

FEW = 3
"""Penalties whose leave-one-out errors are computed one by one in double precision; more are quicker all together."""

REFINED = 1e-12
"""Relative error at which a refined solution is as good as one in double precision from the start."""

REFINEMENTS = 12
"""Steps of refinement after which a decomposition in double precision is quicker; two to five are usual."""

WHOLE = (slice(None),)
"""All columns of targets share a penalty."""

Choice = Literal["leave_one_out", "generalised"]
"""How the penalty is chosen: by the error of leaving each row out, or by generalised cross-validation (Golub, Heath and
Wahba 1979), which divides all residuals by the mean of what each would be divided by for that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """Solutions along a grid of penalties.

    Attributes
    ----------
    alphas : ndarray of float64, shape (n_alphas,)
        Penalties, as scikit-learn's ``alpha``.
    errors : ndarray of float64, shape (n_alphas, n_columns)
        Weighted sum of squared leave-one-out errors of each column of targets; infinite for a penalty that was shown
        not to be the best without computing them; without rows where nothing was to be chosen or left out.
    leaving : ndarray of float64, shape (n_alphas, n)
        One less the leverage of each training row: what its residual is divided by to give its leave-one-out error.
        NaN where not computed.
    coef : ndarray of float64, shape (n_alphas, n or d, n_columns)
        Of the training rows (times the products of a row with them), or of the features (times the row itself).
    intercept : ndarray of float64, shape (n_alphas, n_columns)
        Added to those products; nothing need be centred or weighted any more.
    """

    alphas: Matrix64
    errors: Matrix64
    leaving: Matrix64
    coef: Matrix64
    intercept: Matrix64

    def best(self, groups: Sequence[slice]) -> list[int]:
        """Return the place of the penalty with the least error, one for each group of columns; ties to the smaller.

        Errors that differ by no more than rounding are tied.
        """
        if not len(self.errors):
            return [0] * len(groups)
        return _best(self.errors, groups)

    def left_out(self, place: int, *, fitted: Matrix64, targets: Matrix64) -> Matrix64:
        """Return what fits without each training row make of it, from what the fit with all makes of them."""
        return np.asarray(targets - (targets - fitted) / self.leaving[place][:, None])


def _best(errors: Matrix64, groups: Sequence[slice]) -> list[int]:
    sums = (errors[:, columns].sum(axis=1) for columns in groups)
    return [int((total <= total.min() * (1 + ROUNDING)).argmax()) for total in sums]


class Workspace:
    """Arrays used again for every subset: fresh memory of some megabytes costs a tenth of the time.

    Every thread gets its own; a copy sent to another process starts empty.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    def __reduce__(self) -> tuple[type["Workspace"], tuple[()]]:
        return Workspace, ()

    def array(
        self, name: str, shape: tuple[int, ...], order: Literal["C", "F"] = "C", dtype: Any = np.float64
    ) -> NDArray[Any]:
        """Return an array whose content is whatever was last left there under that name in that precision."""
        arrays: dict[tuple[str, Any], NDArray[Any]] = self._local.__dict__.setdefault("arrays", {})
        key, size = (name, np.dtype(dtype)), math.prod(shape)
        if key not in arrays or len(arrays[key]) < size:  # folds differ by a few rows, and the largest serves all
            arrays[key] = np.zeros(size, dtype=dtype)
        return arrays[key][:size].reshape(shape, order=order)


def row_path(
    K: Matrix64,
    *,
    targets: Matrix64,
    weights: Matrix64,
    relative: Matrix64,
    groups: Sequence[slice] = WHOLE,
    left_out: bool = False,
    quick: bool = False,
    choice: Choice = "leave_one_out",
    workspace: Workspace | None = None,
) -> Path:
    """Solve from the products of training rows, by tridiagonalising them once.

    About twice as fast as an eigendecomposition: with ``K = Q T Q'``, ``T`` tridiagonal, the diagonal of
    ``(K + alpha)^-1`` is the sum of squares over the rows of ``D^-1/2 L^-1 Q'`` where ``L D L' = T + alpha``, a
    recurrence of n steps. Generalised cross-validation needs its sum alone, and so neither ``Q`` nor the recurrence,
    which halves the time. A single penalty needs no more than a Cholesky decomposition.

    Parameters
    ----------
    K : ndarray of float64, shape (n, n)
        Inner products of the training rows, whose (unweighted) mean is 0; overwritten.
    targets : ndarray of float64, shape (n, n_columns)
    weights : ndarray of float64, shape (n,)
        Not negative; a row of weight 0 is as good as none.
    relative : ndarray of float64, shape (n_alphas,)
        Penalties in units of the mean squared (weighted) distance of a training row from the mean row.
    groups : sequence of slice
        Columns of targets that share a penalty.
    left_out : bool, default False
        Whether errors are wanted even of a single penalty.
    quick : bool, default False
        Whether only the best penalties are wanted. Single precision finds them, up to what its error may confuse, and
        those are compared and solved in double precision: the penalty and the solution are those of the long way.
    choice : {"leave_one_out", "generalised"}
        By which errors penalties are compared.
    workspace : Workspace, optional
        Where to keep intermediate matrices.

    Returns
    -------
    Path
        Of all penalties; the quick way, of those that may be the best of a group; by generalised cross-validation, of
        the best of each, with its errors and with ``leaving`` not known.

    Raises
    ------
    SearchError
        If the products are not positive to rounding.
    """
    n, space = len(K), workspace or Workspace()
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
    spread = float(own.sum()) / np.count_nonzero(weights) or 1.0
    alphas = relative * spread
    known: dict[str, Any] = {"share": share, "spread": spread, "groups": groups, "space": space}
    found = None
    if choice == "generalised" and len(alphas) > 1:
        found = _generalised_duals(K, centred, alphas=alphas, **known)
    elif quick and (len(alphas) > 1 or left_out):
        found = _quick_duals(K, centred, alphas=alphas, left_out=left_out, **known)
    if found is None:
        _lift(K, share=share, spread=spread)
        if len(alphas) == 1 and not left_out:
            coef = root[:, None] * _solved(K, centred, float(alphas[0]))[None]
            return _without_errors(alphas, coef, offset - across @ coef, n=n)
        found = alphas, *_duals(_Rotated.of(K, space), centred, own=own, alphas=alphas, **known)
    alphas, errors, leaving, dual = found
    coef = root[:, None] * dual  # adds up to 0, so that held-out rows need no centring
    return Path(alphas=alphas, errors=errors, leaving=leaving, coef=coef, intercept=offset - across @ coef)


def _lift(K: NDArray[Any], *, share: Matrix64, spread: float) -> None:
    """Give K the value ``spread`` along the weights' root, where it is 0, and so are the targets.

    As large a value as any other there spares the solutions the rounding error of that 0, which smallest penalties
    would show.
    """
    root = np.sqrt(spread * share).astype(K.dtype)
    K += np.square(root[0]) if (root == root[0]).all() else root[:, None] * root


def _duals(
    products: "_Rotated",
    centred: NDArray[Any],
    *,
    own: Matrix64,
    share: Matrix64,
    spread: float,
    alphas: Matrix64,
    groups: Sequence[slice],
    space: Workspace,
    slack: Matrix64 | float = ROUNDING,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return errors, leaving and solutions ``(K + alpha)^-1 centred``, in the precision of the products.

    See :class:`Path`.

    Parameters
    ----------
    products : _Rotated
        K with ``spread`` along the weights' root.
    own : ndarray of float64, shape (n,)
        The diagonal of K without it.
    slack : ndarray of float64, shape (n_alphas,), or float
        Relative error of what is computed of each penalty, from 1 on anything.
    """
    basis, kind = products.basis, products.basis.dtype
    alphas, share, spread, own = alphas.astype(kind), share.astype(kind), kind.type(spread), own.astype(kind)
    pivots, links, rotated = products.tridiagonal.factors(basis @ centred, alphas)
    dual = (rotated.reshape(-1, len(basis)) @ basis).reshape(rotated.shape)  # (n_alphas, n_columns, n)
    squares = alphas[:, None, None] * dual
    np.square(squares, out=squares)
    # 1 - leverage is at most 1 - share, and at least alpha / (K_kk + alpha) - share (Jensen's inequality: shrinkage
    # is a concave function of the eigenvalues, of which K_kk is a mean).
    least = alphas[:, None] / (own + alphas[:, None]) - share
    bounds = _left_out(squares, 1 - share[None]), _left_out(squares, least)
    rivals = np.flatnonzero(_possible(*bounds, groups, slack=slack).any(axis=1))
    errors = np.full((len(alphas), centred.shape[1]), np.inf)
    leaving = np.full((len(alphas), len(basis)), np.nan, dtype=kind)
    diagonals = _diagonals(basis, pivots[rivals], links[rivals], space)
    leaving[rivals] = alphas[rivals, None] * (diagonals - share / (spread + alphas[rivals, None]))
    errors[rivals] = _left_out(squares[rivals], leaving[rivals])
    return errors, leaving, np.swapaxes(dual, 1, 2)


def _quick_duals(
    K: Matrix64,
    centred: Matrix64,
    *,
    share: Matrix64,
    spread: float,
    alphas: Matrix64,
    groups: Sequence[slice],
    left_out: bool,
    space: Workspace,
) -> tuple[Matrix64, Matrix64, Matrix64, Matrix64] | None:
    """Return penalties that may be the best, and what :func:`_duals` does of them; None where they are too many.

    How much is left out is computed where it decides, or is wanted anyway. Else solutions of single precision are
    refined, and K is left as it is.

    Parameters
    ----------
    K : ndarray of float64, shape (n, n)
        Without ``spread`` along the weights' root, which it gets where it is decomposed.
    """
    n, single = len(K), space.array("single", K.shape, dtype=np.float32)
    np.multiply(K, 1 / spread, out=single, casting="same_kind")
    own = np.diag(K) / spread
    _lift(single, share=share, spread=1.0)
    products = _Rotated.of(single, space)
    slack = SINGLE_ERROR * (50 + products.tridiagonal.norm * spread / alphas)
    options: dict[str, Any] = {"own": own, "share": share, "spread": 1.0, "groups": groups, "space": space}
    try:
        rough, *_ = _duals(products, centred.astype(single.dtype), alphas=alphas / spread, slack=slack, **options)
    except SearchError:  # not positive to the rounding of single precision
        return None
    possible = _possible(rough, rough, groups, slack=slack)
    confused = np.asarray(possible[:, possible.sum(axis=0) > 1].any(axis=1))
    kept = np.flatnonzero(possible.any(axis=1))
    if (len(kept) if left_out else confused.sum()) > FEW:
        return None
    errors, leaving = np.full((len(kept), centred.shape[1]), np.inf), np.full((len(kept), n), np.nan)
    dual = np.empty((len(kept), *centred.shape))
    exact = left_out or bool(confused.any())
    if exact:
        _lift(K, share=share, spread=spread)
    for row, place in enumerate(kept):
        alpha, wrong = float(alphas[place]), rough[place]
        if exact:
            factor = _factored(K, alpha, out=space.array("factor", K.shape, "F"))
            dual[row] = _solved_by(factor, centred)
            leaving[row] = alpha * (_inverse_diagonal(factor) - share / (spread + alpha))
            wrong = np.square(alpha * dual[row] / leaving[row][:, None]).sum(axis=0)
        else:
            found = _refined(K, centred, alpha=alpha, share=share, spread=spread, rough=products)
            if found is None:
                return None
            dual[row] = found
        for group, columns in enumerate(groups):
            if possible[place, group]:
                errors[row, columns] = wrong[columns]
    return alphas[kept], errors, leaving, dual


def _generalised_duals(
    K: Matrix64,
    centred: Matrix64,
    *,
    share: Matrix64,
    spread: float,
    alphas: Matrix64,
    groups: Sequence[slice],
    space: Workspace,
) -> tuple[Matrix64, Matrix64, Matrix64, Matrix64]:
    """Return the best penalties by generalised cross-validation, and what :func:`_duals` does of them.

    Parameters are those of :func:`_quick_duals`.
    """
    _lift(K, share=share, spread=spread)
    reduced = _Reflected.of(K, space)
    pivots, _, solved = reduced.tridiagonal.factors(reduced.rotate(centred, "T"), alphas)
    traces = reduced.tridiagonal.inverse_traces(pivots, alphas)
    leaving = 1 - (len(K) - alphas * (traces - 1 / (spread + alphas))) / np.count_nonzero(share)
    errors = np.square(alphas / leaving)[:, None] * np.square(solved).sum(axis=2)
    kept = sorted(set(_best(errors, groups)))
    dual = np.stack([reduced.rotate(solved[place].T, "N") for place in kept])
    return alphas[kept], errors[kept], np.full((len(kept), len(K)), np.nan), dual


def _refined(
    K: Matrix64, targets: Matrix64, *, alpha: float, share: Matrix64, spread: float, rough: "_Rotated"
) -> Matrix64 | None:
    """Solve ``(K + alpha) x = targets`` in double precision by steps in single precision; None where they do not do.

    What a step leaves is computed in double precision. The error falls with every step by what single precision loses
    of the smallest directions, whatever the decomposition is of: iterative refinement (Higham, Accuracy and Stability
    of Numerical Algorithms, 2nd edition, chapter 12).

    Parameters
    ----------
    K, targets, share, spread
        As for :func:`_quick_duals`.
    rough : _Rotated
        Of ``K / spread``, with 1 along the weights' root.
    """
    root, relative = np.sqrt(share)[:, None], np.array([alpha / spread], dtype=rough.basis.dtype)
    found, left, before = np.zeros_like(targets), targets, np.full(targets.shape[1], np.inf)
    for _ in range(REFINEMENTS):
        size = np.abs(left).max(axis=0)
        size[size == 0] = 1
        *_, solved = rough.tridiagonal.factors(rough.basis @ (left / size).astype(rough.basis.dtype), relative)
        step = (solved[0] @ rough.basis).T * (size / spread)
        found += step
        length = np.linalg.norm(step, axis=0)
        if not (length <= before / 2).all():
            return None
        if np.isfinite(before).all() and (length * (length / before) <= REFINED * np.linalg.norm(found, axis=0)).all():
            return found
        left = targets - K @ found - alpha * found - (spread * root) * (root.T @ found)
        before = np.maximum(length, np.finfo(np.float64).tiny)
    return None


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
    left_out: bool = False,
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
    targets, weights, relative, groups, left_out
        As for :func:`row_path`.
    """
    from scipy.linalg import eigh

    n = len(Z)
    share, root = weights / weights.sum(), np.sqrt(weights)
    offset, centred = _centred(targets, share, root)
    alphas = relative * (float(np.trace(products)) / np.count_nonzero(weights) or 1.0)
    values, vectors = eigh(products, driver="evd", check_finite=False)
    values = np.maximum(values, 0)
    shrunk = 1 / (values[:, None] + alphas)  # (d, n_alphas)
    shrunk[values <= values[-1] * max(n, len(values)) * np.finfo(np.float64).eps] = 0  # nothing but noise
    slopes = vectors.T @ crossed
    inside = (shrunk[:, :, None] * slopes[:, None, :]).reshape(len(values), -1)
    coef = np.swapaxes((vectors @ inside).reshape(len(values), len(alphas), -1), 0, 1)
    intercept = offset - mean @ coef
    if len(alphas) == 1 and not left_out:
        return _without_errors(alphas, coef, intercept, n=n)
    leaving = np.empty((len(alphas), n))
    start = mean @ vectors
    for rows in slices(n, ROWS_AT_ONCE):
        U = _taken(Z, rows, columns) @ vectors
        U -= start
        leaving[:, rows] = 1 - share[rows] - weights[rows] * (np.square(U, out=U) @ shrunk).T
    total = np.square(centred).sum(axis=0)
    explained = ((values[:, None] + 2 * alphas) * shrunk**2).T @ np.square(slopes)
    residual, slack = np.maximum(total - explained, 0), ROUNDING * total
    lower, upper = np.maximum(residual - slack, 0), residual + slack
    most, least = leaving.max(axis=1)[:, None], leaving.min(axis=1)[:, None]
    upper = np.divide(upper, least**2, out=np.full_like(upper, np.inf), where=least > 0)
    rivals = np.flatnonzero(_possible(lower / most**2, upper, groups, slack=ROUNDING).any(axis=1))
    errors = np.full(lower.shape, np.inf)
    errors[rivals] = 0
    flat = np.swapaxes(coef[rivals], 0, 1).reshape(len(values), -1)
    for rows in slices(n, ROWS_AT_ONCE):
        found = (_taken(Z, rows, columns) @ flat).reshape(-1, len(rivals), targets.shape[1]) + intercept[rivals]
        wrong = np.square((targets[rows, None, :] - found) / leaving[rivals][:, rows].T[:, :, None])
        errors[rivals] += np.tensordot(weights[rows], wrong, axes=1)
    return Path(alphas=alphas, errors=errors, leaving=leaving, coef=coef, intercept=intercept)


def generalised_path(
    *,
    mean: Matrix64,
    products: Matrix64,
    crossed: Matrix64,
    targets: Matrix64,
    weights: Matrix64,
    relative: Matrix64,
    groups: Sequence[slice] = WHOLE,
) -> Path:
    """Solve as :func:`column_path` does, with the penalty chosen by generalised cross-validation.

    All residuals are divided by the mean of what each would be divided by to leave its row out (Golub, Heath and Wahba
    1979), so that the rows are not looked at again, and a tridiagonal matrix has all that it needs. Parameters are
    those of :func:`column_path`; ``products`` are overwritten.

    Returns
    -------
    Path
        Of the best penalty of each group; ``leaving`` is not known.
    """
    n, d, offset = np.count_nonzero(weights), len(products), weights @ targets / weights.sum()
    alphas = relative * (float(np.trace(products)) / n or 1.0)
    reduced = _Reflected.of(products, Workspace())
    slopes = reduced.rotate(crossed, "T")
    pivots, _, solved = reduced.tridiagonal.factors(slopes, alphas)
    residual = weights @ np.square(targets - offset) - np.einsum("acd,dc->ac", solved, slopes)
    residual -= alphas[:, None] * np.square(solved).sum(axis=2)
    leaving = 1 - (1 + d - alphas * reduced.tridiagonal.inverse_traces(pivots, alphas)) / n
    errors = np.maximum(residual, 0) / np.square(leaving)[:, None]
    kept = sorted(set(_best(errors, groups)))
    coef = np.stack([reduced.rotate(solved[place].T, "N") for place in kept])
    unknown = np.full((len(kept), len(weights)), np.nan)
    return Path(alphas=alphas[kept], errors=errors[kept], leaving=unknown, coef=coef, intercept=offset - mean @ coef)


def ridge_path(
    X: Matrix64,
    *,
    targets: Matrix64,
    weights: Matrix64,
    relative: Matrix64,
    alpha: float | None = None,
    groups: Sequence[slice] = WHOLE,
) -> Path:
    """Solve for the features of a matrix, from the products of its rows or columns, whichever are fewer.

    Parameters
    ----------
    X : ndarray of float64, shape (n, d)
        Training rows as they are.
    targets, weights, relative, groups
        As for :func:`row_path`; with fewer rows than columns, only penalties that may be the best are in the path.
    alpha : float, optional
        The one penalty, as it is, instead of relative ones; raised to :data:`SMALLEST` in their units.
    """
    n, d = X.shape
    mean = weights @ X / weights.sum()
    centred = X - mean
    weighted = weights[:, None] * centred
    if alpha is not None:
        spread = float(np.vdot(weighted, centred)) / np.count_nonzero(weights) or 1.0
        relative = np.array([max(alpha / spread, SMALLEST)])
    options: dict[str, Any] = {"targets": targets, "weights": weights, "relative": relative, "groups": groups}
    if n - 1 <= d:  # centred rows have one direction less than there are rows
        found = row_path(centred @ centred.T, left_out=True, quick=len(relative) > 1, **options)
        coef = np.stack([centred.T @ dual for dual in found.coef])
    else:
        crossed = weighted.T @ (targets - weights @ targets / weights.sum())
        products = weighted.T @ centred
        about = {"mean": np.zeros(d), "products": products, "crossed": crossed, "columns": [slice(0, d)]}
        found = column_path(centred, left_out=True, **about, **options)
        coef = found.coef
    return replace(found, coef=coef, intercept=found.intercept - mean @ coef)


def resolvents(A: Matrix64, targets: Matrix64, shifts: Matrix64) -> tuple[Matrix64, Matrix64]:
    """Solve ``(A + shift) x = target`` for every shift, by one tridiagonalisation, and invert its diagonal.

    Parameters
    ----------
    A : ndarray of float64, shape (n, n)
        Symmetric, with no eigenvalue below 0; overwritten.
    targets : ndarray of float64, shape (n, n_columns)
    shifts : ndarray of float64, shape (n_shifts,)
        Above the rounding error of A.

    Returns
    -------
    solved : ndarray of float64, shape (n_shifts, n_columns, n)
    diagonals : ndarray of float64, shape (n_shifts, n)
        Of the inverses.

    Raises
    ------
    SearchError
        If the sum is not positive to rounding.
    """
    space = Workspace()
    found = _Rotated.of(A, space)
    pivots, links, rotated = found.tridiagonal.factors(found.basis @ targets, shifts)
    solved = (rotated.reshape(-1, len(A)) @ found.basis).reshape(rotated.shape)
    return solved, _diagonals(found.basis, pivots, links, space)


def _without_errors(alphas: Matrix64, coef: Matrix64, intercept: Matrix64, *, n: int) -> Path:
    nothing, unknown = np.empty((0, coef.shape[2])), np.full((len(alphas), n), np.nan)
    return Path(alphas=alphas, errors=nothing, leaving=unknown, coef=coef, intercept=intercept)


def _centred(targets: Matrix64, share: Matrix64, root: Matrix64) -> tuple[Matrix64, Matrix64]:
    offset = share @ targets
    return offset, root[:, None] * (targets - offset)


def _left_out(squares: NDArray[Any], leaving: NDArray[Any]) -> NDArray[Any]:
    """Sum squared residuals (n_alphas, n_columns, n) over ``leaving`` squared, over rows; infinite where negative."""
    scale = np.divide(1, np.square(leaving), out=np.full(leaving.shape, np.inf, leaving.dtype), where=leaving > 0)
    with np.errstate(invalid="ignore"):  # a residual of nothing, divided by nothing
        found = (squares @ scale[:, :, None])[:, :, 0]
    return np.where(np.isnan(found), np.inf, found)


def _possible(
    lower: NDArray[Any], upper: NDArray[Any], groups: Sequence[slice], *, slack: Matrix64 | float
) -> NDArray[np.bool_]:
    """Return which penalties may be the best of which group, shape (n_alphas, n_groups), from bounds of the errors.

    Parameters
    ----------
    lower, upper : ndarray, shape (n_alphas, n_columns)
        An infinite lower bound is of a penalty that is not.
    slack : ndarray of float64, shape (n_alphas,), or float
        Relative error of the bounds, from 1 on anything.
    """
    sure = np.full(len(lower), 1.0)
    sure -= np.minimum(slack, 1.0)
    possible = np.zeros((len(lower), len(groups)), dtype=bool)
    for group, columns in enumerate(groups):
        low, high = (bound[:, columns].sum(axis=1, dtype=np.float64) for bound in (lower, upper))
        high = np.divide(high, sure, out=np.full(len(high), np.inf), where=sure > 0)
        low = np.multiply(low, sure, out=low, where=np.isfinite(low))
        possible[:, group] = low <= high.min()
    return possible


def _taken(Z: Matrix64, rows: slice, columns: Sequence[slice]) -> Matrix64:
    parts = [Z[rows, part] for part in columns]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _solved(A: Matrix64, targets: Matrix64, alpha: float) -> Matrix64:
    return _solved_by(_factored(A, alpha, out=A.T), targets)


def _factored(A: Matrix64, alpha: float, *, out: Matrix64) -> Matrix64:
    """Return the lower Cholesky factor of the symmetric ``A + alpha``, in ``out``, which is in column order."""
    from scipy.linalg import lapack

    if out.base is not A:
        out[:] = A.T
    out.T.flat[:: len(out) + 1] += alpha
    factor, failed = lapack.dpotrf(out, lower=1, overwrite_a=1, clean=0)
    if failed:
        raise _not_positive(alpha)
    return np.asarray(factor, dtype=np.float64)


def _solved_by(factor: Matrix64, targets: Matrix64) -> Matrix64:
    from scipy.linalg import lapack

    return np.asarray(lapack.dpotrs(factor, targets, lower=1)[0], dtype=np.float64)


def _inverse_diagonal(factor: Matrix64) -> Matrix64:
    """Return the diagonal of the inverse of what a Cholesky factor is of; the factor is overwritten."""
    from scipy.linalg import lapack

    inverse, _ = lapack.dtrtri(factor, lower=1, overwrite_c=1)
    return np.array([column @ column for column in (inverse[place:, place] for place in range(len(inverse)))])


def _not_positive(alpha: float) -> SearchError:
    return SearchError(
        f"The products of training rows are not positive to rounding at penalty {alpha:.3g}.",
        remedy="Try larger penalties.",
    )


def _lapack(array: NDArray[Any], *names: str) -> tuple[Any, ...]:
    """Return routines of LAPACK for the precision of an array."""
    from scipy.linalg import get_lapack_funcs

    found: Any = get_lapack_funcs(names, (array,))
    return tuple(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tridiagonal:
    """A symmetric tridiagonal matrix T.

    Attributes
    ----------
    diagonal : ndarray, shape (n,)
    beside : ndarray, shape (n - 1,)
    """

    diagonal: NDArray[Any]
    beside: NDArray[Any]

    @property
    def norm(self) -> float:
        """The Frobenius norm."""
        squares = np.square(self.diagonal, dtype=np.float64).sum() + 2 * np.square(self.beside, dtype=np.float64).sum()
        return float(np.sqrt(squares))

    def factors(self, targets: NDArray[Any], alphas: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Factor ``T + alpha = L D L'`` and solve, for every penalty.

        Returns
        -------
        pivots : ndarray, shape (n_alphas, n)
        links : ndarray, shape (n_alphas, n - 1)
        solved : ndarray, shape (n_alphas, n_columns, n)
        """
        n, kind = len(self.diagonal), self.diagonal.dtype
        pttrf, pttrs = _lapack(self.diagonal, "pttrf", "pttrs")
        pivots = np.empty((len(alphas), n), dtype=kind)
        links = np.empty((len(alphas), n - 1), dtype=kind)
        solved = np.empty((len(alphas), targets.shape[1], n), dtype=kind)
        targets = np.asfortranarray(targets)  # once, and not for every penalty
        if n == 1:  # which LAPACK's wrapper refuses
            pivots[:] = self.diagonal + alphas[:, None]
            return pivots, links, targets.T / pivots[:, :, None]
        for place, alpha in enumerate(alphas):
            pivots[place], links[place], failed = pttrf(self.diagonal + alpha, self.beside)
            if failed:
                raise _not_positive(float(alpha))
            solved[place] = pttrs(pivots[place], links[place], targets)[0].T
        return pivots, links, solved

    def inverse_traces(self, pivots: NDArray[Any], alphas: NDArray[Any]) -> NDArray[Any]:
        """Return the trace of ``(T + alpha)^-1`` for every penalty, from the pivots of factoring it from above.

        With those of factoring it from below, both less the diagonal are the inverses of what is added up.
        """
        (pttrf,) = _lapack(self.diagonal, "pttrf")
        if len(self.diagonal) == 1:  # which LAPACK's wrapper refuses
            return np.asarray(1 / pivots[:, 0])
        found = np.empty(len(alphas))
        for place, alpha in enumerate(alphas):
            shifted = self.diagonal + alpha
            below, *_ = pttrf(shifted[::-1], self.beside[::-1])
            found[place] = (1 / (pivots[place] + below[::-1] - shifted)).sum()
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reflected:
    """A symmetric matrix ``Q T Q'``, with Q as the reflections whose product it is.

    Attributes
    ----------
    tridiagonal : _Tridiagonal
        T.
    reflectors : ndarray, shape (n, n)
        In columns, below the diagonal. The first row and column of Q are those of no rotation, which a reflector of
        scale 0 is.
    scales : ndarray, shape (n,)
    """

    tridiagonal: _Tridiagonal
    reflectors: NDArray[Any]
    scales: NDArray[Any]

    @classmethod
    def of(cls, A: NDArray[Any], space: Workspace) -> "_Reflected":
        """Tridiagonalise a symmetric matrix, which is overwritten."""
        n, kind, (sytrd,) = len(A), A.dtype, _lapack(A, "sytrd")
        # A is symmetric, so that its transpose is itself in the column order that LAPACK wants.
        found, diagonal, beside, scales, _ = sytrd(A.T, lower=1, lwork=BLOCK * n, overwrite_a=1)
        reflectors = space.array("reflectors", (n, n), "F", dtype=kind)
        reflectors[:, 0] = 0
        reflectors[:, 1:] = found[:, :-1]
        scales = np.concatenate([np.zeros(1, dtype=kind), scales])
        return cls(tridiagonal=_Tridiagonal(diagonal=diagonal, beside=beside), reflectors=reflectors, scales=scales)

    def rotate(self, columns: NDArray[Any], way: Literal["N", "T"]) -> NDArray[Any]:
        """Return Q times columns, or its transpose (``T``)."""
        (ormqr,) = _lapack(self.reflectors, "ormqr")
        return np.asarray(ormqr("L", way, self.reflectors, self.scales, columns, lwork=64 * len(columns))[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rotated:
    """A symmetric matrix ``basis' T basis``.

    Attributes
    ----------
    tridiagonal : _Tridiagonal
        T.
    basis : ndarray, shape (n, n)
        Orthogonal.
    """

    tridiagonal: _Tridiagonal
    basis: NDArray[Any]

    @classmethod
    def of(cls, A: NDArray[Any], space: Workspace) -> "_Rotated":
        """Tridiagonalise a symmetric matrix, which is overwritten."""
        found, (orgqr,) = _Reflected.of(A, space), _lapack(A, "orgqr")
        rotation, _, _ = orgqr(found.reflectors, found.scales, lwork=64 * len(A), overwrite_a=1)
        return cls(tridiagonal=found.tridiagonal, basis=rotation.T)


def _diagonals(basis: NDArray[Any], pivots: NDArray[Any], links: NDArray[Any], space: Workspace) -> NDArray[Any]:
    """Return the diagonal of ``basis' (L D L')^-1 basis`` for every penalty, shape (n_alphas, n)."""
    (count, n), kind = pivots.shape, basis.dtype
    total = np.zeros((count, 1, n), dtype=kind)
    inverse = (1 / pivots)[:, None, :]
    steps = space.array("steps", (STEPS_AT_ONCE + 1, count, n), dtype=kind)
    steps[0] = 0
    # Step i is row i of the basis less a multiple of the step before; there is none before the first.
    multiples = np.concatenate([np.zeros((count, 1), dtype=kind), links], axis=1).T[:, :, None]
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
