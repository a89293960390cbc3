"""What reducing blocks costs: the same subsets screened with and without, on a sample of rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import Scaling
from biofuse.core.errors import SearchError
from biofuse.core.hashing import digest
from biofuse.core.machine import limit_threads, usable_cores
from biofuse.core.machine import memory_limit as usual_memory_limit
from biofuse.core.target import Task
from biofuse.evaluation.metrics import DEFAULT_METRIC, SCREEN_METRICS
from biofuse.heads.base import ClassWeight
from biofuse.heads.ridge import RELATIVE_PENALTIES
from biofuse.search.closed_form import (
    ClosedFormScorer,
    Way,
    Work,
    column_path,
    estimate,
    flops_per_fold,
    row_path,
    too_large,
)
from biofuse.search.leaderboard import Leaderboard, Row, Subset, label
from biofuse.search.problem import Problem, ValidationPlan
from biofuse.search.rules import Budget, select
from biofuse.search.runner import START_SECONDS, Runtime, duration, run_search
from biofuse.search.strategies import screening_strategy

SAMPLE_ROWS = 2000
"""Rows that both are fitted and scored on. Few rows make a reduction look better than it is with many, since they leave
more to gain by leaving directions out; more rows take longer than the screen."""

SAMPLE_FOLDS = 2
"""Folds of it; what matters is the difference, not the score."""


@dataclass(frozen=True, kw_only=True)
class ReductionLoss:
    """Scores with reduced blocks, less those with whole blocks.

    Attributes
    ----------
    reduce_to : int
        Components kept of each block.
    metric : str
        The score.
    differences : mapping of subset to float
        Mean over folds; negative where the reduction costs something.
    n_rows : int
        Rows they were measured on.
    """

    reduce_to: int
    metric: str
    differences: Mapping[Subset, float]
    n_rows: int

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(np.mean(list(self.differences.values())))

    @property
    def worst(self) -> float:
        """Least difference."""
        return min(self.differences.values())

    def __str__(self) -> str:
        subset = min(self.differences, key=lambda name: self.differences[name])
        return (
            f"Reducing each block to {self.reduce_to} components changes the {self.metric} by {self.mean:+.4f} on "
            f"average, and at worst by {self.worst:+.4f} ({label(subset)}): {len(self.differences)} subsets on "
            f"{self.n_rows:,} rows"
        )


def reduction_loss(
    blocks: Blocks,
    labels: NDArray[np.int64],
    plan: ValidationPlan,
    *,
    reduce_to: int,
    task: Task,
    classes: Sequence[str],
    scaling: Scaling = "none",
    class_weight: ClassWeight = None,
    metric: str = DEFAULT_METRIC,
    n_rows: int = SAMPLE_ROWS,
    n_folds: int = SAMPLE_FOLDS,
    memory_limit: int | None = None,
    threads: int = 1,
) -> ReductionLoss:
    """Score all single encoders, and all encoders together, with reduced and with whole blocks.

    Parameters
    ----------
    blocks, labels, plan, task, classes, scaling, class_weight
        As for :class:`biofuse.search.closed_form.ClosedFormScorer`.
    reduce_to : int
        Components kept of each block.
    metric : str
        The score.
    n_rows, n_folds : int
        Most rows, those whose ids have the smallest hashes, and folds of the plan, the first ones.
    memory_limit : int, optional
        As for the scorer.
    threads : int
        Cores.

    Raises
    ------
    SearchError
        If the score is defined for no subset on these rows.
    """
    chosen, part = _sample(plan, n_rows=n_rows, n_folds=n_folds)
    few, truth = blocks.take(chosen), labels[chosen]
    subsets = list(dict.fromkeys([*((name,) for name in blocks.encoders), blocks.encoders]))
    scores = []
    for components in (None, reduce_to):
        scorer = ClosedFormScorer(
            few,
            truth,
            plan=part,
            task=task,
            classes=classes,
            scaling=scaling,
            class_weight=class_weight,
            reduce_to=components,
            metrics=(metric,),
            memory_limit=memory_limit,
            threads=threads,
        )
        scores.append([found.folds[metric] for found in scorer.score_many(subsets, threads=threads)])
    differences = {}
    for subset, whole, reduced in zip(subsets, *scores, strict=True):
        both = np.array(reduced) - np.array(whole)
        if np.isfinite(both).any():
            differences[subset] = float(np.nanmean(both))
    if not differences:
        raise SearchError(
            f"The {metric} is undefined in every fold of the {len(chosen):,} rows on which the loss by reducing blocks "
            "is measured: some class is too rare.",
            remedy="Raise n_rows, or choose another metric.",
        )
    return ReductionLoss(reduce_to=reduce_to, metric=metric, differences=differences, n_rows=len(chosen))


def _sample(plan: ValidationPlan, *, n_rows: int, n_folds: int) -> tuple[NDArray[np.int64], ValidationPlan]:
    """Return the rows with the smallest hashes, and what is left of the first folds with them alone."""
    hashes = np.array([digest(str(name).encode()) for name in plan.ids], dtype=object)
    chosen = np.sort(np.argsort(hashes)[:n_rows]).astype(np.int64)
    place = np.full(len(plan.ids), -1)
    place[chosen] = np.arange(len(chosen))
    folds = [
        (fit, held_out)
        for fit, held_out in ((place[f][place[f] >= 0], place[h][place[h] >= 0]) for f, h in plan.folds)
        if len(fit) and len(held_out)
    ]
    if not folds:
        raise SearchError(
            f"None of the {len(chosen):,} sampled rows can be both fitted on and scored.",
            remedy="Raise n_rows.",
        )
    return chosen, ValidationPlan.cross_validation(folds[:n_folds], ids=plan.ids[chosen])


PATIENCE = 300.0
"""Seconds that an unreduced screen may take."""

REDUCTIONS = (128, 64)
"""Components kept of each block where that is too long; the last one whatever it takes."""

SAMPLE = 512
"""Rows or columns of the solves that are timed: large enough to run at the speed of the real ones, some ten
milliseconds each."""

TIMED_ROWS = 4096
"""Rows of the timed solve by products of columns."""

PREPARING = 0.4
"""Part of the speed of a large matrix product that preparing a fold reaches: it also copies and standardises. Measured
on blocks of 512 to 1,536 columns, of 546 and 7,007 rows."""

Speed = Callable[[Way | Literal["products"], int, int], float]
"""Floating-point operations per second of scoring by either way, or of preparing, for rows and columns of a solve."""


@dataclass(frozen=True, kw_only=True)
class ScreenPlan:
    """How a pool will be screened.

    Attributes
    ----------
    mode : {"dual", "primal"}
        Products of rows or of columns.
    reduce_to : int or None
        Principal components kept of each block, fitted inside the folds; None for all columns.
    n_subsets : int
        Subsets to be scored.
    memory : int
        Bytes of all processes together, beyond the blocks.
    seconds : float
        Expected, for preparing and scoring.
    workers : int
        Processes.
    """

    mode: Way
    reduce_to: int | None
    n_subsets: int
    memory: int
    seconds: float
    workers: int

    def __str__(self) -> str:
        of = {"dual": "rows", "primal": "columns"}[self.mode]
        reduced = "" if self.reduce_to is None else f", each block reduced to {self.reduce_to} components"
        return (
            f"Screen: {self.n_subsets:,} subsets by products of {of}{reduced}, about {_amount(self.memory)} and "
            f"{_rounded(self.seconds)}"
        )


def plan_screen(
    dims: Sequence[int],
    *,
    n_train: Sequence[int],
    n_test: Sequence[int],
    n_columns: int = 1,
    n_weightings: int = 1,
    n_alphas: int = len(RELATIVE_PENALTIES),
    n_subsets: int | None = None,
    reduce_to: int | Literal["auto"] | None = "auto",
    memory_limit: int | None = None,
    workers: int = 1,
    patience: float = PATIENCE,
    speed: Speed | None = None,
) -> ScreenPlan:
    """Choose how to screen: without reduction where that is expected to be quick, else as little reduced as is.

    The expected time comes from timing a solve on this machine.

    Parameters
    ----------
    dims : sequence of int
        Columns of each block.
    n_train, n_test : sequence of int
        Rows fitted on and scored, per fold.
    n_columns : int
        Columns of targets: 1 for two classes, else one per class or label.
    n_weightings : int
        Different weightings of the rows: the number of labels of a multi-label task with class weights, else 1.
    n_alphas : int
        Penalties tried.
    n_subsets : int, optional
        How many are scored; all by default.
    reduce_to : int, None or "auto"
        Components to keep of each block, None for no reduction; chosen by default.
    memory_limit : int, optional
        Bytes; a share of what is available by default.
    workers : int
        Processes.
    patience : float
        Seconds that a screen may take before blocks are reduced (further).
    speed : callable, optional
        Instead of timing solves.

    Raises
    ------
    SearchError
        If every way that is left to choose needs more memory than the limit.
    """
    limit = usual_memory_limit() if memory_limit is None else memory_limit
    rate = speed or measure_speed
    count = 2 ** len(dims) - 1 if n_subsets is None else n_subsets
    tried: list[int | None] = [None, *REDUCTIONS] if reduce_to == "auto" else [reduce_to]
    refused: dict[Way, Work] = {}
    plan: ScreenPlan | None = None
    for components in tried:
        if components is not None and components >= max(dims) and (plan is not None or refused):
            continue  # it would change nothing
        works = estimate(
            dims,
            n_train=n_train,
            n_test=n_test,
            n_columns=n_columns,
            n_weightings=n_weightings,
            n_alphas=n_alphas,
            n_subsets=count,
            reduce_to=components,
        )
        fitting: list[Way] = [way for way in works if works[way].bytes(workers) <= limit]
        if not fitting:
            refused = works
            continue
        # By operations, as the scorer chooses: it may not time anything.
        way = min(fitting, key=lambda name: works[name].total_flops)
        kept = [dim if components is None else min(dim, components) for dim in dims]
        plan = ScreenPlan(
            mode=way,
            reduce_to=components,
            n_subsets=count,
            memory=works[way].bytes(workers),
            seconds=_seconds(way, works[way], rate, rows=max(n_train), columns=sum(kept) // 2, workers=workers),
            workers=workers,
        )
        if plan.seconds <= patience:
            break
    if plan is None:
        raise too_large(refused, memory_limit=limit, workers=workers)
    return plan


def _seconds(way: Way, work: Work, rate: Speed, *, rows: int, columns: int, workers: int) -> float:
    preparing = work.setup_flops / (PREPARING * rate("products", rows, columns))
    scoring = work.flops / rate(way, rows, columns)
    start = START_SECONDS if workers > 1 and scoring > START_SECONDS else 0.0
    return (preparing + scoring) / workers + start


def measure_speed(what: Way | Literal["products"], rows: int, columns: int) -> float:
    """Time one solve, or one matrix product, on one core.

    Parameters
    ----------
    what : {"dual", "primal", "products"}
        What to time.
    rows, columns : int
        Of the real one; those of the timed one are at most :data:`TIMED_ROWS` and :data:`SAMPLE`.

    Returns
    -------
    float
        Floating-point operations per second, as :mod:`biofuse.search.closed_form` counts them.
    """
    random = np.random.default_rng(0)
    n = max(8, min(rows, TIMED_ROWS if what == "primal" else SAMPLE))
    d = max(4, min(columns, SAMPLE))
    X = random.normal(size=(n, d))
    X -= X.mean(axis=0)
    targets, relative = np.sign(random.normal(size=(n, 1))), np.array(RELATIVE_PENALTIES)
    weights = np.ones(n)
    products = X @ X.T if what == "dual" else X.T @ X

    def solve() -> float:
        if what == "dual":
            row_path(products.copy(), targets=targets, weights=weights, relative=relative)
        elif what == "primal":
            column_path(
                X,
                columns=[slice(0, d)],
                mean=np.zeros(d),
                products=products,
                crossed=X.T @ targets,
                targets=targets,
                weights=weights,
                relative=relative,
            )
        else:
            X.T @ X
            return 1.0 * n * d**2  # symmetric: half of the operations are spared
        return flops_per_fold(what, dims=[d], n_train=n, n_test=0, n_columns=1, n_weightings=1, n_alphas=len(relative))

    with limit_threads(1):
        solve()
        start = time.perf_counter()
        flops = [solve() for _ in range(3)]
        return sum(flops) / max(time.perf_counter() - start, 1e-9)


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 20 else f"{max(1, round(size / 2**20))} MiB"


def _rounded(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{max(1, round(seconds))} seconds"


MOST_OPERATIONS = 1e13
"""Floating-point operations beyond which blocks are reduced: some ten minutes of one core. Operations, not seconds, so
that the same data are screened alike on every machine."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Screen:
    """Closed-form scores of all subsets.

    Attributes
    ----------
    leaderboard : Leaderboard
    choice : Row
        What the selection rule would choose from these scores alone.
    plan : ScreenPlan
        How they were computed.
    loss : ReductionLoss or None
        What reducing the blocks cost, where they were reduced.
    kept_rows : tuple of ndarray of int64
        Per fold, the samples that the leaderboard's predictions belong to.
    """

    leaderboard: Leaderboard
    choice: Row
    plan: ScreenPlan
    loss: ReductionLoss | None
    kept_rows: tuple[NDArray[np.int64], ...]


def run_screen(problem: Problem, runtime: Runtime, *, budget: Budget) -> Screen:
    """Score every subset by ridge regression in closed form.

    Raises
    ------
    SearchError
        If memory does not suffice.
    """
    config, pool = problem.config, problem.blocks.encoders
    strategy = screening_strategy(len(pool), config.metric)
    workers = runtime.workers or usable_cores()
    common: dict[str, Any] = {
        "task": problem.task,
        "classes": problem.classes,
        "scaling": config.scaling,
        "class_weight": config.class_weight,
    }
    plan = _plan(problem, n_subsets=len(strategy.subsets(pool)), workers=workers)
    runtime.tell(f"{plan}.")
    loss = None
    if plan.reduce_to is not None:
        loss = reduction_loss(
            problem.blocks, problem.labels, problem.plan, reduce_to=plan.reduce_to, threads=usable_cores(), **common
        )
        runtime.tell(f"{loss}.")
    scorer = ClosedFormScorer(
        problem.blocks,
        problem.labels,
        plan=problem.plan,
        mode=plan.mode,
        reduce_to=plan.reduce_to,
        metrics=SCREEN_METRICS,
        keep_predictions=True,
        threads=usable_cores(),
        **common,
    )
    leaderboard = run_search(
        pool,
        strategy,
        scorer,
        metric=config.metric,
        sink=runtime.sink("screen"),
        key=problem.key(
            stage="screen",
            metrics=SCREEN_METRICS,
            scaling=config.scaling,
            class_weight=config.class_weight,
            reduce_to=plan.reduce_to,
        ),
        workers=runtime.workers,
        progress=runtime.progress,
        yes=runtime.yes,
    )
    budget.eligible(leaderboard)  # says which limit leaves nothing to choose
    chosen = select(
        leaderboard, rule=config.rule, metric=config.metric, chance=problem.chance, eligible=budget.allows_row
    )
    return Screen(leaderboard=leaderboard, choice=chosen.chosen, plan=plan, loss=loss, kept_rows=scorer.kept_rows)


def _plan(problem: Problem, *, n_subsets: int, workers: int) -> ScreenPlan:
    """Choose the reduction by operations alone, then the way and the expected time on this machine."""
    weighted = problem.task is Task.MULTILABEL and problem.config.class_weight is not None
    size: dict[str, Any] = {
        "n_train": problem.plan.n_train,
        "n_test": problem.plan.n_test,
        "n_columns": 1 if len(problem.classes) == 2 else len(problem.classes),
        "n_weightings": len(problem.classes) if weighted else 1,
        "n_subsets": n_subsets,
    }
    dims = tuple(problem.blocks.dims.values())
    by_operations = plan_screen(dims, **size, speed=lambda *_: 1.0, patience=MOST_OPERATIONS)
    return plan_screen(dims, **size, reduce_to=by_operations.reduce_to, workers=workers)
