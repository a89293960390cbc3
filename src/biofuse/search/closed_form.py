"""Of which development rows a search keeps out-of-fold predictions."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import COLUMNS_AT_ONCE, ColumnBlocks, GramBlocks, Scaling, column_blocks, gram_blocks
from biofuse.core.errors import AlignmentError, SearchError
from biofuse.core.hashing import digest
from biofuse.core.machine import limit_threads
from biofuse.core.machine import memory_limit as usual_memory_limit
from biofuse.core.target import Task
from biofuse.evaluation.metrics import SCREEN_METRICS, get_metric, score
from biofuse.heads.base import ClassWeight, Setup, set_up
from biofuse.heads.ridge import RELATIVE_PENALTIES
from biofuse.search.leaderboard import Subset, in_pool_order
from biofuse.search.problem import ValidationPlan
from biofuse.search.scorers import FoldPart, FoldScores, gather
from biofuse.search.strategies import EXHAUSTIVE_LIMIT

KEEP_BYTES = 256 * 2**20
"""Most memory for the predictions of all subsets. Enough for every row of some ten thousand rows and classes together,
and for far more rows than a bootstrap needs where there are more."""

NUMBER = 4
"""Bytes of a kept number: leaderboards hold float32."""


def rows_to_keep(
    plan: ValidationPlan, *, n_subsets: int, n_classes: int, keep_bytes: int = KEEP_BYTES
) -> NDArray[np.bool_]:
    """Choose development rows so that their predictions by all subsets fit into a limit.

    All rows where they fit, else those whose ids have the smallest hashes: a choice that depends neither on the order
    of the table nor on labels, folds or chance, and is the same for all subsets and repeats.

    Parameters
    ----------
    plan : ValidationPlan
        Says how often each row is held out.
    n_subsets, n_classes : int
        Predictions per held-out row.
    keep_bytes : int
        Bytes.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    times = np.zeros(len(plan.ids), dtype=np.int64)
    for _, held_out in plan.folds:
        times[held_out] += 1
    allowed = keep_bytes // (NUMBER * n_subsets * n_classes)
    if times.sum() <= allowed:
        return np.ones(len(plan.ids), dtype=np.bool_)
    hashes = np.array([digest(str(name).encode()) for name in plan.ids], dtype=object)
    order = np.argsort(hashes)
    kept = np.zeros(len(plan.ids), dtype=np.bool_)
    kept[order] = np.cumsum(times[order]) <= allowed
    return kept


def kept_in_folds(plan: ValidationPlan, kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """Return, per fold, the held-out rows that are kept, as indices into the development rows."""
    return tuple(held_out[kept[held_out]] for _, held_out in plan.folds)


def positions(held_out: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Return where the kept rows stand among the held-out ones; None for all of them."""
    inside = kept[held_out]
    return None if inside.all() else np.flatnonzero(inside)


def count_subsets(pool: Sequence[str], *, most: int) -> int:
    """Return how many subsets a pool has, or as many as a pool of ``most`` encoders if it is larger."""
    return int(2 ** min(len(pool), most) - 1)


Way = Literal["dual", "primal"]

TRIDIAGONAL = 8 / 3
"""Operations, times n^3, of tridiagonalising (4/3) and of forming the orthogonal matrix (4/3): Golub and Van Loan,
Matrix Computations, 4th edition, section 8.3."""

RECURRENCE = 5
"""Passes over n numbers per row and penalty of the recurrence for the leverages."""

EIGEN = 9
"""Operations, times n^3, of a symmetric eigendecomposition with vectors: same book and section."""

RIVALS = 5
"""Penalties, of 15, that bounds leave to be compared by all their leave-one-out errors when rows are many."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one way of scoring needs.

    Attributes
    ----------
    held : int
        Bytes held for all folds until the search ends; several processes share one more copy of them.
    scratch : int
        Bytes that a process needs while the largest subset is scored, or a fold prepared.
    setup_flops, flops : float
        Floating-point operations before the first subset, and for all subsets and folds.
    """

    held: int
    scratch: int
    setup_flops: float
    flops: float

    @property
    def total_flops(self) -> float:
        """Both together."""
        return self.setup_flops + self.flops

    def bytes(self, workers: int = 1) -> int:
        """Memory of a search in so many processes."""
        return self.held * (1 if workers == 1 else 2) + self.scratch * workers

    def __str__(self) -> str:
        return f"{self.bytes() / 2**30:.2f} GiB, {self.total_flops / 1e9:,.0f} GFLOP"


def estimate(
    dims: Sequence[int],
    *,
    n_train: Sequence[int],
    n_test: Sequence[int],
    n_columns: int = 1,
    n_weightings: int = 1,
    n_alphas: int = 15,
    n_subsets: int | None = None,
    reduce_to: int | None = None,
) -> dict[Way, Work]:
    """Estimate both ways of scoring subsets.

    Parameters
    ----------
    dims : sequence of int
        Columns of each block.
    n_train, n_test : sequence of int
        Rows fitted on and scored, per fold.
    n_columns : int
        Columns of targets: 1 for two classes, else one per class or label.
    n_weightings : int
        Different weightings of the rows: more than 1 only for multi-label tasks with class weights.
    n_alphas : int
        Penalties tried.
    n_subsets : int, optional
        How many are scored; all by default. Their mean size is taken as half the pool.
    reduce_to : int, optional
        Principal components kept of each block.
    """
    count = 2 ** len(dims) - 1 if n_subsets is None else n_subsets
    kept = [dim if reduce_to is None else min(dim, reduce_to) for dim in dims]
    size = _Size(
        dims=dims,
        kept=kept,
        n_train=n_train,
        n_test=n_test,
        n_columns=n_columns,
        n_weightings=n_weightings,
        n_alphas=n_alphas,
        n_subsets=count,
    )
    return {"dual": size.dual(), "primal": size.primal()}


def flops_per_fold(
    way: Way, *, dims: Sequence[int], n_train: int, n_test: int, n_columns: int, n_weightings: int, n_alphas: int
) -> float:
    """Return the operations of scoring one subset, of blocks with these (reduced) columns, on one fold."""
    n, t, a, c = float(n_train), float(n_test), n_alphas, n_columns
    if way == "dual":
        return n_weightings * _row_flops(n, a, c) + len(dims) * (n * n + 2 * t * n * c)
    d = float(sum(dims))
    return n_weightings * _column_flops(n, (d, d**2, d**3), a, c) + 2 * t * d * c


def choose(
    works: dict[Way, Work], *, mode: Literal["auto", "dual", "primal"], memory_limit: int, workers: int = 1
) -> Way:
    """Choose the way with the fewest operations that fits into memory, or check the one that was asked for.

    Raises
    ------
    SearchError
        If none does.
    """
    ways: list[Way] = sorted(works, key=lambda way: works[way].total_flops) if mode == "auto" else [mode]
    fitting = [way for way in ways if works[way].bytes(workers) <= memory_limit]
    if not fitting:
        raise too_large({way: works[way] for way in ways}, memory_limit=memory_limit, workers=workers)
    return fitting[0]


def too_large(works: dict[Way, Work], *, memory_limit: int, workers: int) -> SearchError:
    """Return the error that says how much memory would be needed."""
    needed = {way: work.bytes(workers) / 2**30 for way, work in works.items()}
    said = ", ".join(f"{way} {size:.2f}" for way, size in needed.items())
    return SearchError(
        f"Closed-form scores would need {min(needed.values()):.2f} GiB of memory, more than the limit of "
        f"{memory_limit / 2**30:.2f} GiB ({said}).",
        remedy='Reduce each block inside the folds (reduce_to=64 or 128), leave mode="auto", offer fewer encoders, '
        "use fewer repeats, or raise memory_limit.",
    )


def _row_flops(n: float, a: int, c: int) -> float:
    if a == 1:
        return n**3 / 3 + 2 * c * n**2
    return TRIDIAGONAL * n**3 + (RECURRENCE + 2 * c) * a * n**2


def _column_flops(n: float, moments: tuple[float, float, float], a: int, c: int) -> float:
    """Operations from the first three moments of the number of columns, since subsets differ."""
    mean, square, cube = moments
    return EIGEN * cube + 2 * n * square + 2 * n * mean * (a + min(a, RIVALS) * c) + 2 * a * c * square


@dataclass(frozen=True, kw_only=True)
class _Size:
    """A search as far as its cost goes; see :func:`estimate`."""

    dims: Sequence[int]
    kept: Sequence[int]
    n_train: Sequence[int]
    n_test: Sequence[int]
    n_columns: int
    n_weightings: int
    n_alphas: int
    n_subsets: int

    def reduction(self, n: int) -> float:
        """Operations of the principal components of every block that is reduced."""
        return sum(
            2.0 * n * dim * min(n, dim) + EIGEN / 2 * min(n, dim) ** 3 + 2.0 * n * dim * kept
            for dim, kept in zip(self.dims, self.kept, strict=True)
            if kept < dim
        )

    def dual(self) -> Work:
        """Products of rows."""
        blocks, a, c = len(self.dims), self.n_alphas, self.n_columns
        held = setup = flops = 0.0
        for n, t in zip(self.n_train, self.n_test, strict=True):
            held += blocks * (n + t) * n
            setup += (2.0 * t + n) * n * sum(self.kept) + self.reduction(n)
            one = self.n_weightings * _row_flops(n, a, c) + blocks / 2 * (n * n + 2 * t * n * c)
            flops += self.n_subsets * one
        n, t = max(self.n_train), max(self.n_test)
        # While a block is standardised, its columns are held in float64 a few at a time and its products once more.
        scratch = 2 * (n + t) * n + 3 * n**2 + (4 + STEPS_AT_ONCE) * a * n * (1 + c)
        return Work(held=int(8 * held), scratch=int(8 * scratch), setup_flops=setup, flops=flops)

    def primal(self) -> Work:
        """Products of columns."""
        total, a, c = sum(self.kept), self.n_alphas, self.n_columns
        # Moments of the columns of a subset, each block in or out at even odds.
        mean, variance = total / 2, sum(kept**2 for kept in self.kept) / 4
        square, cube = mean**2 + variance, mean**3 + 3 * mean * variance
        held = setup = flops = 0.0
        for n, t in zip(self.n_train, self.n_test, strict=True):
            held += (n + t) * total + self.n_weightings * (total + c) * total
            setup += self.n_weightings * 2.0 * n * total**2 + self.reduction(n)
            one = self.n_weightings * _column_flops(n, (mean, square, cube), a, c) + 2 * t * mean * c
            flops += self.n_subsets * one
        n, t = max(self.n_train), max(self.n_test)
        solving = 3 * total**2 + (a + c) * n + ROWS_AT_ONCE * (3 * total + 3 * a * c)
        # A block in float64 a few columns at a time, its products and their axes, and the parts before they are joined.
        preparing = 2 * COLUMNS_AT_ONCE * n + 3 * max(self.dims) ** 2 + (n + t) * total
        scratch = max(solving, preparing)
        return Work(held=int(8 * held), scratch=int(8 * scratch), setup_flops=setup, flops=flops)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighting:
    """Problems that weight the training rows alike, and so share a decomposition.

    Attributes
    ----------
    weights : ndarray of float64, shape (n_train,)
    targets : ndarray of float64, shape (n_train, n_columns)
        -1 and 1, those of all problems side by side.
    problems : tuple of int
        Places of the problems in the fold's set-up.
    columns : tuple of slice
        The targets of each.
    moments : tuple of ndarray, or None
        Those of :meth:`biofuse.blocks.ColumnBlocks.moments`, where products are of columns.
    """

    weights: Matrix64
    targets: Matrix64
    problems: tuple[int, ...]
    columns: tuple[slice, ...]
    moments: tuple[Matrix64, Matrix64, Matrix64] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One fold.

    Attributes
    ----------
    algebra : GramBlocks or ColumnBlocks
        Products of the standardised blocks.
    setup : Setup
        What there is to fit on the training rows.
    weightings : tuple of Weighting
        The same, ordered by row weights.
    labels : ndarray of int64
        Of the held-out rows.
    kept : ndarray of int64, or None
        Which held-out rows predictions are kept of; None for all.
    """

    algebra: GramBlocks | ColumnBlocks
    setup: Setup
    weightings: tuple[Weighting, ...]
    labels: NDArray[np.int64]
    kept: NDArray[np.int64] | None


Problems = tuple[Setup, tuple[Weighting, ...]]


def state_problems(
    labels: NDArray[np.int64], plan: ValidationPlan, *, task: Task, n_classes: int, class_weight: ClassWeight
) -> list[Problems]:
    """Say what there is to fit, per fold.

    Raises
    ------
    DataError
        If labels do not fit the task.
    """
    setups = [
        # The features have their own checks; a column of zeros stands in for them.
        set_up(
            np.zeros((len(fit), 1)),
            labels[fit],
            task=task,
            n_classes=n_classes,
            class_weight=class_weight,
            sample_weight=None,
        )
        for fit, _ in plan.folds
    ]
    return [(setup, _weightings(setup)) for setup in setups]


def prepare_folds(
    blocks: Blocks,
    labels: NDArray[np.int64],
    plan: ValidationPlan,
    *,
    problems: Sequence[Problems],
    mode: Way,
    scaling: Scaling,
    reduce_to: int | None,
    kept: NDArray[np.bool_],
    threads: int,
) -> tuple[Fold, ...]:
    """Standardise, maybe reduce, and multiply the blocks of every fold, several folds at a time.

    Raises
    ------
    DataError
        If values are not finite.
    """
    build = gram_blocks if mode == "dual" else column_blocks

    def prepare(number: int) -> Fold:
        fit, held_out = plan.folds[number]
        setup, weightings = problems[number]
        algebra = build(blocks, fit, held_out, scaling=scaling, reduce_to=reduce_to)
        return Fold(
            algebra=algebra,
            setup=setup,
            weightings=_with_moments(weightings, algebra),
            labels=labels[held_out],
            kept=positions(held_out, kept),
        )

    workers = min(threads, len(plan.folds))
    with limit_threads(threads // workers), ThreadPoolExecutor(workers) as pool:
        return tuple(pool.map(prepare, range(len(plan.folds))))


def _weightings(setup: Setup) -> tuple[Weighting, ...]:
    """Put problems with the same row weights together: they share a decomposition."""
    alike: dict[bytes, list[int]] = {}
    for number, problem in enumerate(setup.problems):
        alike.setdefault(problem.weights.tobytes(), []).append(number)
    found = []
    for numbers in alike.values():
        targets = [2 * setup.problems[number].indicators - 1 for number in numbers]
        ends = np.cumsum([part.shape[1] for part in targets]).tolist()
        found.append(
            Weighting(
                weights=setup.problems[numbers[0]].weights,
                targets=np.hstack(targets),
                problems=tuple(numbers),
                columns=tuple(slice(end - part.shape[1], end) for part, end in zip(targets, ends, strict=True)),
            )
        )
    return tuple(found)


def _with_moments(weightings: tuple[Weighting, ...], algebra: GramBlocks | ColumnBlocks) -> tuple[Weighting, ...]:
    if isinstance(algebra, GramBlocks):
        return weightings
    return tuple(
        replace(weighting, moments=algebra.moments(weighting.weights, weighting.targets)) for weighting in weightings
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosedForm:
    """One subset on one fold.

    Attributes
    ----------
    decision : ndarray of float64, shape (n_scored, n_classes)
        Decision values of the held-out rows; both signs of one value for two classes.
    estimates : ndarray of float64, shape (n_scored, n_classes)
        Least-squares estimates of the class probabilities, ``(1 + decision) / 2``: they rank and decide as the decision
        values do and add up to 1 where classes exclude each other, but may lie outside 0 and 1. Absent classes are 0.
    alphas : tuple of float
        The penalty chosen for each problem: one, or one per label that varies.
    paths : tuple of Path
        Errors and solutions for every penalty, per weighting of the rows.
    """

    decision: Matrix64
    estimates: Matrix64
    alphas: tuple[float, ...]
    paths: tuple[Path, ...]


class ClosedFormScorer:
    """Ridge regression on targets of -1 and 1 for every fold, with the penalty chosen by leave-one-out inside it.

    Scores are those of the ``ridge`` head on concatenated blocks, up to that fusion's rounding to float32: standardised
    on the training rows, intercept not penalised, one class against the rest, the penalty with the least (weighted)
    squared leave-one-out error, chosen for all classes together and for each label of a multi-label task by itself.

    Parameters
    ----------
    blocks : Blocks
        Development data only, in pool order.
    labels : ndarray of int64, shape (n,) or (n, n_labels)
        Labels of ``blocks.ids``.
    plan : ValidationPlan
        Must have the same ids in the same order.
    task : Task
        What the labels are.
    classes : sequence of str
        Class or label names.
    scaling : {"none", "block"}
        As for ``biofuse.fusion.concatenation.Concatenation``.
    class_weight : mapping, "balanced" or None
        As for the heads: rows are weighted in the fit and in its leave-one-out errors.
    alphas : sequence of float
        Penalties tried, in units of the mean squared (weighted) distance of a training row from the mean row, which is
        the trace of the products divided by their number. By default those of the ridge head: 15 from 1e-3 to 1e4. A
        single one is used as it is, several times faster than a choice.
    mode : {"auto", "dual", "primal"}
        Products of rows (dual), of columns (primal), or whichever needs fewer operations and fits into memory. Scores
        do not depend on it.
    reduce_to : int, optional
        Principal components kept of each block, fitted inside the fold; all columns if not given.
    metrics : sequence of str
        Which metrics to compute.
    keep_predictions : bool, default False
        Whether out-of-fold estimates are kept.
    keep_bytes : int
        Most memory for the estimates of all subsets as float32. Where those of all rows would take more, only the rows
        of :func:`biofuse.search.closed_form.rows_to_keep` are kept.
    keep_rows : ndarray of bool, shape (n,), optional
        The rows whose estimates are kept, instead.
    memory_limit : int, optional
        Bytes; a share of what is available if not given.
    threads : int, default 1
        Cores for the products that are computed here and now; scoring is left to the caller's limit.

    Attributes
    ----------
    mode : {"dual", "primal"}
        The way chosen.
    works : dict
        What either way costs.
    kept_rows : tuple of ndarray of int64
        Per fold, the indices into the development rows of the rows of ``FoldScores.out_of_fold``; all held-out rows
        where nothing is left out.

    Raises
    ------
    AlignmentError
        If blocks, labels and plan are not about the same samples.
    SearchError
        If memory would exceed the limit, a metric needs calibrated probabilities, or penalties make no sense.
    DataError
        If values are not finite or labels do not fit the task.
    """

    def __init__(
        self,
        blocks: Blocks,
        labels: NDArray[np.int64],
        *,
        plan: ValidationPlan,
        task: Task,
        classes: Sequence[str],
        scaling: Scaling = "none",
        class_weight: ClassWeight = None,
        alphas: Sequence[float] = RELATIVE_PENALTIES,
        mode: Literal["auto", "dual", "primal"] = "auto",
        reduce_to: int | None = None,
        metrics: Sequence[str] = SCREEN_METRICS,
        keep_predictions: bool = False,
        keep_bytes: int = KEEP_BYTES,
        keep_rows: NDArray[np.bool_] | None = None,
        memory_limit: int | None = None,
        threads: int = 1,
    ) -> None:
        if len(labels) != blocks.n_samples or list(plan.ids) != list(blocks.ids):
            raise AlignmentError("Blocks, labels and validation plan of a search are not about the same samples.")
        _check(metrics, alphas, reduce_to)
        self.encoders: Subset = blocks.encoders
        self.metrics: tuple[str, ...] = tuple(metrics)
        self.n_train: tuple[int, ...] = plan.n_train
        self.n_test: tuple[int, ...] = plan.n_test
        self.keeps_predictions = keep_predictions
        self._dims = blocks.dims
        self._task = task
        self._classes = tuple(classes)
        self._relative = np.sort(np.asarray(alphas, dtype=np.float64))
        self._reduce_to = reduce_to
        self._workspace = Workspace()
        kept = self._rows_to_keep(plan, keep_bytes, keep_rows)
        self.kept_rows = kept_in_folds(plan, kept)
        truth = np.ascontiguousarray(labels)
        problems = state_problems(truth, plan, task=task, n_classes=len(classes), class_weight=class_weight)
        self._n_weightings = max(1, *(len(weightings) for _, weightings in problems))
        self.works: dict[Way, Work] = estimate(
            tuple(blocks.dims.values()),
            n_train=self.n_train,
            n_test=self.n_test,
            n_columns=len(classes),
            n_weightings=self._n_weightings,
            n_alphas=len(self._relative),
            reduce_to=reduce_to,
        )
        limit = usual_memory_limit() if memory_limit is None else memory_limit
        self.mode: Way = choose(self.works, mode=mode, memory_limit=limit)
        self._folds = prepare_folds(
            blocks,
            truth,
            plan,
            problems=problems,
            mode=self.mode,
            scaling=scaling,
            reduce_to=reduce_to,
            kept=kept,
            threads=threads,
        )

    def n_dims(self, subset: Subset) -> int:
        """Columns of the subset's blocks together, before any reduction."""
        return sum(self._dims[name] for name in subset)

    def relative_work(self, subset: Subset) -> float:
        """Return how long scoring a subset takes, in operations: of use only against that of other subsets."""
        reduce_to = self._reduce_to
        dims = [self._dims[name] if reduce_to is None else min(self._dims[name], reduce_to) for name in subset]
        return sum(
            flops_per_fold(
                self.mode,
                dims=dims,
                n_train=n_train,
                n_test=n_test,
                n_columns=len(self._classes),
                n_weightings=self._n_weightings,
                n_alphas=len(self._relative),
            )
            for n_train, n_test in zip(self.n_train, self.n_test, strict=True)
        )

    def score(self, subset: Subset) -> FoldScores:
        """Score a subset on every fold."""
        return gather(self.metrics, [self.score_fold(subset, fold) for fold in range(len(self._folds))])

    def score_many(self, subsets: Sequence[Subset], *, threads: int = 1) -> list[FoldScores]:
        """Score subsets, fold by fold, so that one fold's products stay in the cache; the same as :meth:`score`."""

        def of_fold(fold: int) -> list[FoldPart]:
            return [self.score_fold(subset, fold) for subset in subsets]

        with limit_threads(1), ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(of_fold, range(len(self._folds))))
        return [gather(self.metrics, found) for found in zip(*parts, strict=True)]

    def score_fold(self, subset: Subset, fold: int) -> FoldPart:
        """Fit a subset on one fold's training rows and score its held-out rows."""
        start = time.perf_counter()
        kept, found = self._folds[fold], self.solve(subset, fold)
        values = score(
            self._task,
            kept.labels,
            found.estimates,
            classes=self._classes,
            metrics=self.metrics,
            decision=found.decision,
        )
        notes = [f"{name} is undefined in fold {fold + 1}: {why}" for name, why in values.undefined.items()]
        notes += [f"fold {fold + 1}: {note}" for note in kept.setup.notes]
        predictions = found.estimates if kept.kept is None else found.estimates[kept.kept]
        return FoldPart(
            values=dict(values),
            seconds=time.perf_counter() - start,
            notes=tuple(notes),
            predictions=predictions if self.keeps_predictions else None,
        )

    def solve(self, subset: Subset, fold: int) -> ClosedForm:
        """Return decision values and penalties of a subset on one fold.

        Raises
        ------
        SearchError
            If the subset is empty or names an encoder that is not in the pool.
        """
        names, kept = in_pool_order(self.encoders, subset), self._folds[fold]
        n_problems = len(kept.setup.problems)
        margins: list[Matrix64] = [np.empty((0, 0))] * n_problems
        alphas = [0.0] * n_problems
        paths = []
        for weighting in kept.weightings:
            path = self._path(kept.algebra, names, weighting)
            paths.append(path)
            places = path.best(weighting.columns)
            chosen = list(zip(places, weighting.columns, strict=True))
            coef = np.hstack([path.coef[place][:, columns] for place, columns in chosen])
            intercept = np.concatenate([path.intercept[place, columns] for place, columns in chosen])
            found = kept.algebra.apply(names, coef) + intercept
            for problem, columns, place in zip(weighting.problems, weighting.columns, places, strict=True):
                margins[problem] = found[:, columns]
                alphas[problem] = float(path.alphas[place])
        outputs, n = kept.setup.outputs, len(kept.labels)
        shares = [np.hstack([1 - m, 1 + m]) / 2 if m.shape[1] == 1 else (1 + m) / 2 for m in margins]
        return ClosedForm(
            decision=outputs.decision(margins, n=n, log_odds=False),
            estimates=outputs.place(shares, n=n),
            alphas=tuple(alphas),
            paths=tuple(paths),
        )

    def _path(self, algebra: GramBlocks | ColumnBlocks, names: Subset, weighting: Weighting) -> Path:
        if isinstance(algebra, GramBlocks):
            return row_path(
                algebra.total(names, out=self._workspace.array("products", algebra.train.shape[1:])),
                targets=weighting.targets,
                weights=weighting.weights,
                relative=self._relative,
                groups=weighting.columns,
                workspace=self._workspace,
            )
        if weighting.moments is None:
            raise SearchError("The products of columns were not prepared.")
        mean, products, crossed = weighting.moments
        columns = algebra.columns(names)
        return column_path(
            algebra.train,
            columns=algebra.slices(names),
            mean=mean[columns],
            products=products[np.ix_(columns, columns)],
            crossed=crossed[columns],
            targets=weighting.targets,
            weights=weighting.weights,
            relative=self._relative,
            groups=weighting.columns,
        )

    def _rows_to_keep(
        self, plan: ValidationPlan, keep_bytes: int, keep_rows: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_]:
        if keep_rows is None:
            n_subsets = count_subsets(self.encoders, most=EXHAUSTIVE_LIMIT)
            return rows_to_keep(plan, n_subsets=n_subsets, n_classes=len(self._classes), keep_bytes=keep_bytes)
        if keep_rows.shape != plan.ids.shape or keep_rows.dtype != np.bool_:
            raise AlignmentError(f"keep_rows must be {len(plan.ids)} booleans, one for each development row.")
        return keep_rows


def _check(metrics: Sequence[str], alphas: Sequence[float], reduce_to: int | None) -> None:
    beyond = [metric.title for metric in map(get_metric, metrics) if not metric.closed_form]
    if beyond:
        raise SearchError(
            f"A closed-form screen has no calibrated probabilities, which {', '.join(beyond)} needs.",
            remedy="Leave it out, or use a search that refits the head.",
        )
    penalties = np.asarray(alphas, dtype=np.float64)
    if not penalties.size or not np.isfinite(penalties).all() or (penalties < SMALLEST).any():
        raise SearchError(
            f"Relative penalties must be finite and at least {SMALLEST:g}, not {list(alphas)}.",
            remedy="Leave alphas out to try 1e-3 to 1e4.",
        )
    if reduce_to is not None and reduce_to < 1:
        raise SearchError(f"A block cannot be reduced to {reduce_to} columns.")
