"""Scores of every subset in closed form: ridge regression on products of rows or columns that add up over encoders."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import ColumnBlocks, GramBlocks, Scaling, column_blocks, gram_blocks, reduced_columns
from biofuse.core.errors import AlignmentError, SearchError, option
from biofuse.core.linear import COLUMNS_AT_ONCE, ROWS_AT_ONCE, Matrix64
from biofuse.core.machine import limit_threads
from biofuse.core.machine import memory_limit as usual_memory_limit
from biofuse.core.ridge import (
    SMALLEST,
    STEPS_AT_ONCE,
    Choice,
    Path,
    Workspace,
    column_path,
    generalised_path,
    row_path,
)
from biofuse.core.target import Labels, Target, Task
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.metrics import SCREEN_METRICS, get_metric, score
from biofuse.heads.base import ClassWeight, Setup, set_up
from biofuse.heads.ridge import RELATIVE_PENALTIES, Weighting, weightings
from biofuse.search.leaderboard import Subset, in_pool_order
from biofuse.search.scorers import FoldPart, FoldScores, gather

Way = Literal["dual", "primal"]

MANY_ROWS = 2_000
"""Training rows from which penalties are chosen by generalised cross-validation, where products are of columns."""

ROWS_PER_COLUMN = 4
"""And as many training rows for each column of all blocks together: leaving a row out then changes little, and all rows
nearly alike. (The regret is measured by ``perf/penalties.py``; figures in docs/search.md.)"""

NARROW = 0.5
"""Columns of a subset, per training row, up to which its products of columns are quicker than those of rows. Measured
at 437, 768 and 1,500 rows: of 0.5 they take 0.5 to 0.8 of the time, of 0.3 a fifth, and of 0.7 as much or more."""

SPEED_SIDE = 1024
"""Rows of the matrices whose product says how fast this machine multiplies."""

SPEED_RANK = 32
"""Of the made-up products that are decomposed to say how fast it does that; what they are does not matter."""


def choice_of_penalty(way: Way, *, n_train: Sequence[int], kept: Sequence[int]) -> Choice:
    """Return how penalties are chosen; the same for all subsets of a search.

    Parameters
    ----------
    way : {"dual", "primal"}
    n_train : sequence of int
        Rows fitted on, per fold.
    kept : sequence of int
        Columns of each block, after any reduction.
    """
    many = min(n_train) >= max(MANY_ROWS, ROWS_PER_COLUMN * sum(kept))
    return "generalised" if way == "primal" and many else "leave_one_out"


TRIDIAGONAL = 8 / 3 / 2
"""Operations, times n^3, of tridiagonalising (4/3) and of forming the orthogonal matrix (4/3), both in single precision
and so at half the cost: Golub and Van Loan, Matrix Computations, 4th edition, section 8.3."""

RECURRENCE = 2.5
"""Passes over n numbers per row and penalty of the recurrence for the leverages: 5 in single precision."""

EIGEN = 9
"""Operations, times n^3, of a symmetric eigendecomposition with vectors: same book and section."""

REDUCTION = 8 / 3
"""Operations, times n^3, of a tridiagonalisation alone: 4/3, half of them products with a vector, which are slower."""

RIVALS = 5
"""Penalties, of 15, that bounds leave to be compared by all their leave-one-out errors when rows are many."""

PREPARING = 0.4
"""Part of the speed of a large matrix product that preparing a fold reaches: it also copies and standardises. Measured
on blocks of 512 to 1,536 columns, of 546 and 7,007 rows."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one way of scoring needs.

    Attributes
    ----------
    held : int
        Bytes held for all folds until the search ends; several processes share one more copy of them.
    scratch : int
        Bytes that a process needs while the largest subset is scored, or a fold prepared.
    preparing, scoring : float
        Floating-point operations before the first subset, and for all subsets and folds.
    """

    held: int
    scratch: int
    preparing: float
    scoring: float

    @property
    def operations(self) -> float:
        """All of them, those of preparing at what they cost beside those of scoring."""
        return self.preparing / PREPARING + self.scoring

    def bytes(self, workers: int = 1) -> int:
        """Memory of a search in so many processes."""
        return self.held * (1 if workers == 1 else 2) + self.scratch * workers


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a screen costs depends on this alone.

    Attributes
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
    n_subsets : int
        How many are scored. Their mean size is taken as half the pool.
    """

    dims: Sequence[int]
    n_train: Sequence[int]
    n_test: Sequence[int]
    n_columns: int
    n_weightings: int
    n_subsets: int
    n_alphas: int = len(RELATIVE_PENALTIES)

    def kept(self, reduce_to: int | None) -> list[int]:
        """Return the columns kept of each block."""
        return [dim if reduce_to is None else min(dim, reduce_to) for dim in self.dims]

    def spares_rows(self, reduce_to: int | None) -> bool:
        """Return whether products of rows leave subsets of few columns to products of columns.

        Not where blocks are reduced, nor with a single penalty, for which rows need only a Cholesky decomposition.
        """
        return self.n_alphas > 1 and self.kept(reduce_to) == list(self.dims)

    def typical(self, way: Way, reduce_to: int | None) -> int:
        """Return the rows of a matrix that takes as long to decompose as those of all subsets do on average."""
        if way == "dual":
            return round(float(np.mean(self.n_train)))
        kept = self.kept(reduce_to)
        return round(float(np.cbrt(_moments(kept)[2])))

    def works(self, reduce_to: int | None) -> dict[Way, Work]:
        """Return what both ways need, with so many principal components kept of each block."""
        kept = self.kept(reduce_to)
        folds = len(self.n_train)
        reducing = [
            sum(
                # Rows are multiplied once for all folds where they are more than columns; of a symmetric product, half.
                (2.0 * n * dim * n if n < dim else (n + t) * dim**2 / folds)
                + EIGEN / 2 * min(n, dim) ** 3
                + 2.0 * (n + t) * dim * few
                for dim, few in zip(self.dims, kept, strict=True)
                if few < dim
            )
            for n, t in zip(self.n_train, self.n_test, strict=True)
        ]
        spares = self.spares_rows(reduce_to)
        return {"dual": self._of_rows(kept, reducing, spares=spares), "primal": self._of_columns(kept, reducing)}

    def _of_rows(self, kept: list[int], reducing: list[float], *, spares: bool) -> Work:
        blocks, known = len(kept), {"n_columns": self.n_columns, "n_alphas": self.n_alphas}
        held = preparing = scoring = scratch = 0.0
        for n, t, reduction in zip(self.n_train, self.n_test, reducing, strict=True):
            few = sum(dim for dim in kept if spares and dim <= NARROW * n)
            held += (n + t) * (blocks * n + few)
            preparing += (2.0 * t + n) * n * sum(kept) + reduction
            share, moments = _narrow(kept, int(NARROW * n)) if few else (0.0, (0.0, 0.0, 0.0))
            by_rows = _solving("dual", "leave_one_out", n=n, moments=(n, n**2, float(n) ** 3), **known)
            by_columns = _solving("primal", "leave_one_out", n=n, moments=moments, **known) + n * moments[1]
            solving = (1 - share) * by_rows + share * by_columns
            adding = (1 - share) * blocks / 2 * (n * n + 2 * t * n * self.n_columns)
            scoring += self.n_subsets * (self.n_weightings * solving + adding)
            # While a block is standardised, its columns are held in float64 a few at a time and its products once more.
            # Where single precision does not do, both precisions hold their matrices.
            vectors = (4 + STEPS_AT_ONCE) * self.n_alphas * n * (1 + self.n_columns)
            scratch = max(scratch, 2 * (n + t) * n + 6 * n**2 + vectors, 2 * (n + t) * few)
        return Work(held=int(8 * held), scratch=int(8 * scratch), preparing=preparing, scoring=scoring)

    def _of_columns(self, kept: list[int], reducing: list[float]) -> Work:
        total, a, c = sum(kept), self.n_alphas, self.n_columns
        choice, moments = choice_of_penalty("primal", n_train=self.n_train, kept=kept), _moments(kept)
        held = preparing = scoring = 0.0
        for n, t, reduction in zip(self.n_train, self.n_test, reducing, strict=True):
            held += (t if choice == "generalised" else n + t) * total + self.n_weightings * (total + c) * total
            preparing += self.n_weightings * n * total**2 + reduction
            solving = _solving("primal", choice, n=n, moments=moments, n_columns=c, n_alphas=a)
            scoring += self.n_subsets * (self.n_weightings * solving + 2 * t * moments[0] * c)
        n, t = max(self.n_train), max(self.n_test)
        solving = 3 * total**2 + (a + c) * n + ROWS_AT_ONCE * (3 * total + 3 * a * c)
        # A block in float64 a few columns at a time, its products and their axes, and the parts before they are joined.
        standardising = 2 * COLUMNS_AT_ONCE * n + 3 * max(self.dims) ** 2 + (n + t) * total
        scratch = max(solving, standardising)
        return Work(held=int(8 * held), scratch=int(8 * scratch), preparing=preparing, scoring=scoring)


Moments = tuple[float, float, float]
"""The mean size, and the means of its square and its cube, of the matrices that are decomposed."""


def _moments(kept: Sequence[int]) -> Moments:
    """Return those of the columns of a subset, each block in or out at even odds."""
    mean, variance = sum(kept) / 2, sum(few**2 for few in kept) / 4
    return mean, mean**2 + variance, mean**3 + 3 * mean * variance


def _narrow(kept: Sequence[int], most: int) -> tuple[float, Moments]:
    """Return the share of subsets that have at most so many columns, and the moments of theirs."""
    odds = np.zeros(most + 1)  # of having just so many; each block is in or out at even odds
    odds[0] = 1
    for few in kept:
        odds /= 2
        odds[few:] += odds[: max(0, most + 1 - few)]
    odds[0] = 0
    share, sizes = float(odds.sum()), np.arange(most + 1.0)
    mean, square, cube = (float(odds @ sizes**power) / share for power in (1, 2, 3))
    return share, (mean, square, cube)


def _solving(way: Way, choice: Choice, *, n: int, moments: Moments, n_columns: int, n_alphas: int) -> float:
    """Return the operations of solving for a subset on a fold of n training rows."""
    (size, square, cube), a, c = moments, n_alphas, n_columns
    if way == "dual":
        return TRIDIAGONAL * cube + (RECURRENCE + 2 * c) * a * square
    if choice == "generalised":
        return REDUCTION * cube + 4 * c * square
    return EIGEN * cube + 2 * n * square + 2 * n * size * (a + min(a, RIVALS) * c) + 2 * a * c * square


def seconds_per_operation(way: Way, choice: Choice, *, side: int) -> tuple[float, float]:
    """Measure what an operation takes one core of this machine, of preparing and of scoring.

    Large products and decompositions differ in that tenfold, and decompositions of any size from each other, by the
    caches they leave.

    Parameters
    ----------
    way : {"dual", "primal"}
    choice : {"leave_one_out", "generalised"}
    side : int
        Rows of the decomposed matrix, as of :meth:`Size.typical`; it is made up.

    Returns
    -------
    preparing, scoring : float
        Seconds per operation of :class:`Work`, before ``PREPARING`` is taken into account.
    """
    random, n = np.random.default_rng(0), 2 * side if way == "primal" else side
    square, thin = random.normal(size=(SPEED_SIDE, SPEED_SIDE)), random.normal(size=(side, SPEED_RANK))
    products = thin @ thin.T + np.diag(np.linspace(1, SPEED_RANK, side))
    targets, relative = np.sign(random.normal(size=(n, 1))), np.array(RELATIVE_PENALTIES)
    known: dict[str, Any] = {"targets": targets, "weights": np.ones(n), "relative": relative}
    about: dict[str, Any] = {"mean": np.zeros(side), "crossed": targets[:side]}

    def solve() -> None:
        if way == "dual":
            row_path(products.copy(), quick=True, **known)
        elif choice == "generalised":
            generalised_path(products=products.copy(), **about, **known)
        else:
            rows = np.broadcast_to(products[0], (n, side))
            column_path(rows, columns=[slice(0, side)], products=products, **about, **known)

    size: Moments = (side, float(side) ** 2, float(side) ** 3)
    operations = _solving(way, choice, n=n, moments=size, n_columns=1, n_alphas=len(relative))
    with limit_threads(1):
        multiplying, solving = _seconds(lambda: square @ square), _seconds(solve)
    return multiplying / (2 * SPEED_SIDE**3), solving / operations


def _seconds(work: Callable[[], object]) -> float:
    """Return what some work takes the second time: the first may load libraries."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cheapest(works: dict[Way, Work], *, memory_limit: int, workers: int = 1) -> Way | None:
    """Return the way with the fewest operations that fits into memory; None where neither does."""
    fitting = [way for way, work in works.items() if work.bytes(workers) <= memory_limit]
    return min(fitting, key=lambda way: works[way].preparing + works[way].scoring, default=None)


def too_large(works: dict[Way, Work], *, memory_limit: int, workers: int = 1) -> SearchError:
    """Return the error that says how much memory would be needed."""
    needed = {way: work.bytes(workers) / 2**30 for way, work in works.items()}
    said = ", ".join(f"{way} {size:.2f}" for way, size in needed.items())
    return SearchError(
        f"Closed-form scores would need {min(needed.values()):.2f} GiB of memory, more than the limit of "
        f"{memory_limit / 2**30:.2f} GiB ({said}).",
        remedy=f"Let the screen reduce encoders ({option('reduce', 'auto')}), offer fewer of them, or use fewer "
        f"repeats ({option('repeats')}) or processes ({option('workers')}).",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One fold.

    Attributes
    ----------
    algebra : GramBlocks or ColumnBlocks
        Products of the standardised blocks.
    narrow : ColumnBlocks or None
        Beside products of rows, those blocks that a subset of few columns may have; None where there is none.
    setup : Setup
        What there is to fit on the training rows.
    weightings : tuple of Weighting
        The same, ordered by row weights.
    moments : tuple
        Those of :meth:`biofuse.blocks.gram.ColumnBlocks.moments` for each of them; empty where products are of rows, of
        which few subsets need any.
    labels : ndarray
        Of the held-out rows.
    kept : ndarray of int64, or None
        Which held-out rows predictions are kept of; None for all.
    """

    algebra: GramBlocks | ColumnBlocks
    narrow: ColumnBlocks | None
    setup: Setup
    weightings: tuple[Weighting, ...]
    moments: tuple[tuple[Matrix64, Matrix64, Matrix64], ...]
    labels: Labels
    kept: NDArray[np.int64] | None

    def algebra_of(self, subset: Subset) -> GramBlocks | ColumnBlocks:
        """Return what a subset is solved with: all blocks, or its own columns where they are few."""
        narrow = self.narrow
        if narrow is None or not set(subset) <= set(narrow.encoders):
            return self.algebra
        few = len(narrow.columns(subset)) <= NARROW * len(narrow.train)
        return narrow.only(subset) if few else self.algebra

    def assemble(self, solved: Sequence[tuple[Matrix64, Sequence[float]]]) -> "ClosedForm":
        """Put together what was solved for each weighting: decision values of the held-out rows, and penalties."""
        n_problems = len(self.setup.problems)
        margins: list[Matrix64] = [np.empty((0, 0))] * n_problems
        alphas = [0.0] * n_problems
        for weighting, (found, penalties) in zip(self.weightings, solved, strict=True):
            for problem, columns, penalty in zip(weighting.problems, weighting.columns, penalties, strict=True):
                margins[problem] = found[:, columns]
                alphas[problem] = penalty
        outputs, n = self.setup.outputs, len(self.labels)
        return ClosedForm(
            decision=outputs.decision(margins, n=n, log_odds=False),
            estimates=outputs.estimates(margins, n=n),
            alphas=tuple(alphas),
        )


Problems = tuple[Setup, tuple[Weighting, ...]]


def state_problems(
    labels: Labels,
    plan: ValidationPlan,
    *,
    target: Target,
    class_weight: ClassWeight,
    sample_weight: Matrix64 | None,
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
            target=target,
            class_weight=class_weight,
            sample_weight=None if sample_weight is None else sample_weight[fit],
        )
        for fit, _ in plan.folds
    ]
    return [(setup, weightings(setup)) for setup in setups]


def prepare_folds(
    blocks: Blocks,
    labels: Labels,
    plan: ValidationPlan,
    *,
    problems: Sequence[Problems],
    mode: Way,
    choice: Choice,
    scaling: Scaling,
    reduce_to: int | None,
    spares_rows: bool,
    keep: NDArray[np.bool_] | None,
    threads: int,
) -> tuple[Fold, ...]:
    """Standardise, maybe reduce, and multiply the blocks of every fold, several folds at a time.

    Parameters are those of :class:`ClosedFormScorer`; ``spares_rows`` is :meth:`Size.spares_rows`.

    Raises
    ------
    DataError
        If values are not finite.
    """
    build = gram_blocks if mode == "dual" else column_blocks
    reduced: list[ColumnBlocks] | None = None
    if mode == "primal" and reduce_to is not None:
        reduced = reduced_columns(blocks, plan.folds, scaling=scaling, reduce_to=reduce_to, threads=threads)

    def prepare(number: int) -> Fold:
        fit, held_out = plan.folds[number]
        setup, alike = problems[number]
        algebra: GramBlocks | ColumnBlocks
        if reduced is None:
            algebra = build(blocks, fit, held_out, scaling=scaling, reduce_to=reduce_to)
        else:
            algebra = reduced[number]
        few = [name for name, dim in blocks.dims.items() if spares_rows and dim <= NARROW * len(fit)]
        moments: tuple[tuple[Matrix64, Matrix64, Matrix64], ...] = ()
        if isinstance(algebra, ColumnBlocks):
            moments = tuple(algebra.moments(each.weights, each.targets) for each in alike)
            if choice == "generalised":
                algebra = algebra.without_training()
        return Fold(
            algebra=algebra,
            narrow=column_blocks(blocks.only(few), fit, held_out, scaling=scaling) if few else None,
            setup=setup,
            weightings=alike,
            moments=moments,
            labels=labels[held_out],
            kept=None if keep is None or keep[held_out].all() else np.flatnonzero(keep[held_out]),
        )

    workers = min(threads, len(plan.folds))
    with limit_threads(threads // workers), ThreadPoolExecutor(workers) as pool:
        return tuple(pool.map(prepare, range(len(plan.folds))))


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
        Of values, the values.
    alphas : tuple of float
        The penalty chosen for each problem: one, or one per label that varies.
    """

    decision: Matrix64
    estimates: Matrix64
    alphas: tuple[float, ...]


class ClosedFormScorer:
    """Ridge regression on values, or -1 and 1 for classes, for every fold, its penalty chosen on the training rows.

    Decision values are those of the ``ridge`` head on concatenated blocks, up to that fusion's rounding to float32:
    standardised on the training rows, intercept not penalised, one class against the rest, the penalty with the least
    (weighted) squared leave-one-out error, chosen for all classes together and for each label of a multi-label task by
    itself. With many rows the penalty is that of generalised cross-validation, which has no look at the rows. Of three
    or more classes the head ranks by the softmax of these values, and here each class is ranked by its own value: the
    head's slope would have to be found for every subset.

    Parameters
    ----------
    blocks : Blocks
        Development data only, in pool order.
    labels : ndarray, shape (n,) or (n, n_columns)
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
    sample_weight : ndarray of float64, shape (n,), optional
        Weight of each row, multiplied with those of the classes.
    alphas : sequence of float
        Penalties tried, in units of the mean squared (weighted) distance of a training row from the mean row, which is
        the trace of the products divided by their number. By default those of the ridge head: 15 from 1e-3 to 1e4. A
        single one is used as it is, several times faster than a choice.
    mode : {"auto", "dual", "primal"}
        Products of rows (dual), of columns (primal), or whichever needs fewer operations and fits into memory. Products
        of rows leave subsets of few columns, at most ``NARROW`` per training row, to those of columns
        (:meth:`Size.spares_rows`). Scores do not depend on it.
    choice : {"leave_one_out", "generalised"}, optional
        How penalties are chosen; by default as :func:`choice_of_penalty` says.
    reduce_to : int, optional
        Principal components kept of each block, fitted inside the fold; all columns if not given.
    metrics : sequence of str
        Which metrics to compute.
    keep : ndarray of bool, shape (n,), optional
        The development rows whose out-of-fold estimates are kept; none by default.
    memory_limit : int, optional
        Bytes; a share of what is available if not given.
    threads : int, default 1
        Cores for the products that are computed here and now; scoring is left to the caller's limit.

    Attributes
    ----------
    mode : {"dual", "primal"}
        The way chosen.
    choice : {"leave_one_out", "generalised"}
        How penalties are chosen.
    relative : ndarray of float64, shape (n_alphas,)
        The penalties, ascending.
    folds : tuple of Fold
        What is solved for every subset.

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
        labels: Labels,
        *,
        plan: ValidationPlan,
        task: Task,
        classes: Sequence[str],
        scaling: Scaling = "none",
        class_weight: ClassWeight = None,
        sample_weight: Matrix64 | None = None,
        alphas: Sequence[float] = RELATIVE_PENALTIES,
        mode: Literal["auto", "dual", "primal"] = "auto",
        choice: Choice | None = None,
        reduce_to: int | None = None,
        metrics: Sequence[str] = SCREEN_METRICS,
        keep: NDArray[np.bool_] | None = None,
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
        self.keeps_predictions = keep is not None
        self._dims = blocks.dims
        self._task = task
        self._classes = tuple(classes)
        self.relative = np.sort(np.asarray(alphas, dtype=np.float64))
        self._workspace = Workspace()
        truth, target = np.ascontiguousarray(labels), Target(task, tuple(classes))
        problems = state_problems(truth, plan, target=target, class_weight=class_weight, sample_weight=sample_weight)
        size = Size(
            dims=tuple(blocks.dims.values()),
            n_train=self.n_train,
            n_test=self.n_test,
            n_columns=len(target.ranked_columns),
            n_weightings=max(1, *(len(alike) for _, alike in problems)),
            n_subsets=2 ** len(blocks) - 1,
            n_alphas=len(self.relative),
        )
        works = size.works(reduce_to)
        offered = works if mode == "auto" else {mode: works[mode]}
        limit = usual_memory_limit() if memory_limit is None else memory_limit
        way = cheapest(offered, memory_limit=limit)
        if way is None:
            raise too_large(offered, memory_limit=limit)
        self.mode: Way = way
        self.choice: Choice = choice or choice_of_penalty(way, n_train=self.n_train, kept=size.kept(reduce_to))
        self.folds = prepare_folds(
            blocks,
            truth,
            plan,
            problems=problems,
            mode=self.mode,
            choice=self.choice,
            scaling=scaling,
            reduce_to=reduce_to,
            spares_rows=way == "dual" and size.spares_rows(reduce_to),
            keep=keep,
            threads=threads,
        )

    def n_dims(self, subset: Subset) -> int:
        """Columns of the subset's blocks together, before any reduction."""
        return sum(self._dims[name] for name in subset)

    def score(self, subset: Subset) -> FoldScores:
        """Score a subset on every fold."""
        return gather(self.metrics, [self.score_fold(subset, fold) for fold in range(len(self.folds))])

    def score_fold(self, subset: Subset, fold: int) -> FoldPart:
        """Fit a subset on one fold's training rows and score its held-out rows."""
        start = time.perf_counter()
        found = self.solve(subset, fold)
        return self.judge(found, fold, since=start)

    def judge(self, found: ClosedForm, fold: int, *, since: float) -> FoldPart:
        """Score the held-out rows of a fold; ``since`` is when the work on it began, by ``time.perf_counter``."""
        kept = self.folds[fold]
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
            seconds=time.perf_counter() - since,
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
        names, kept = in_pool_order(self.encoders, subset), self.folds[fold]
        algebra, solved = kept.algebra_of(names), []
        for number, weighting in enumerate(kept.weightings):
            path = self._path(algebra, kept, names, number)
            places = path.best(weighting.columns)
            chosen = list(zip(places, weighting.columns, strict=True))
            coef = np.hstack([path.coef[place][:, columns] for place, columns in chosen])
            intercept = np.concatenate([path.intercept[place, columns] for place, columns in chosen])
            found = algebra.apply(names, coef) + intercept
            solved.append((found, [float(path.alphas[place]) for place in places]))
        return kept.assemble(solved)

    def _path(self, algebra: GramBlocks | ColumnBlocks, fold: Fold, names: Subset, number: int) -> Path:
        weighting = fold.weightings[number]
        if isinstance(algebra, GramBlocks):
            return row_path(
                algebra.total(names, out=self._workspace.array("products", algebra.train.shape[1:])),
                targets=weighting.targets,
                weights=weighting.weights,
                relative=self.relative,
                groups=weighting.columns,
                quick=True,
                choice=self.choice,
                workspace=self._workspace,
            )
        mean, products, crossed = (
            fold.moments[number] if fold.moments else algebra.moments(weighting.weights, weighting.targets)
        )
        columns = algebra.columns(names)
        known: dict[str, Any] = {
            "mean": mean[columns],
            "products": algebra.between(names, products),
            "crossed": crossed[columns],
            "targets": weighting.targets,
            "weights": weighting.weights,
            "relative": self.relative,
            "groups": weighting.columns,
        }
        if self.choice == "generalised":
            return generalised_path(**known)
        return column_path(algebra.train, columns=algebra.slices(names), **known)


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
