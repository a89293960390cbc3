"""The screen: all subsets scored in closed form, on blocks that are reduced where that would take too long."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import Scaling
from biofuse.core.errors import SearchError
from biofuse.core.hashing import hash_order
from biofuse.core.machine import limit_threads, usable_cores
from biofuse.core.machine import memory_limit as usual_memory_limit
from biofuse.core.progress import duration
from biofuse.core.ridge import Choice
from biofuse.core.target import Labels, Task
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.metrics import DEFAULT_METRIC, board_metrics, get_metric
from biofuse.heads.base import ClassWeight
from biofuse.search.closed_form import (
    PREPARING,
    ClosedFormScorer,
    Size,
    Way,
    cheapest,
    choice_of_penalty,
    seconds_per_operation,
    too_large,
)
from biofuse.search.closed_form_torch import TorchScorer, accelerator
from biofuse.search.config import Reduce
from biofuse.search.leaderboard import Leaderboard, Row, SubsetKey, label
from biofuse.search.problem import Problem
from biofuse.search.rules import Budget, select
from biofuse.search.runner import Cost, SearchContext, check_cost, run_search
from biofuse.search.strategies import EXHAUSTIVE_LIMIT, screening_strategy

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
    differences: Mapping[SubsetKey, float]
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
            f"Reducing each block to {self.reduce_to} components changes the {self.metric} by {self.mean:+z.4f} on "
            f"average, and at worst by {self.worst:+z.4f} ({label(subset)}): {len(self.differences)} subsets on "
            f"{self.n_rows:,} rows"
        )


def reduction_loss(
    blocks: Blocks,
    labels: Labels,
    plan: ValidationPlan,
    *,
    reduce_to: int,
    task: Task,
    classes: Sequence[str],
    scaling: Scaling = "none",
    class_weight: ClassWeight = None,
    sample_weight: NDArray[np.float64] | None = None,
    metric: str = DEFAULT_METRIC,
    n_rows: int = SAMPLE_ROWS,
    n_folds: int = SAMPLE_FOLDS,
    memory_limit: int | None = None,
    threads: int = 1,
) -> ReductionLoss:
    """Score all single encoders, and all encoders together, with reduced and with whole blocks.

    Parameters
    ----------
    blocks, labels, plan, task, classes, scaling, class_weight, sample_weight
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
            sample_weight=None if sample_weight is None else sample_weight[chosen],
            reduce_to=components,
            metrics=(metric,),
            memory_limit=memory_limit,
            threads=threads,
        )
        with limit_threads(1), ThreadPoolExecutor(threads) as pool:
            scores.append([found.folds[metric] for found in pool.map(scorer.score, subsets)])
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
    chosen = np.sort(hash_order([str(name) for name in plan.ids])[:n_rows])
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


MOST_OPERATIONS = 1e13
"""Floating-point operations beyond which blocks are reduced: some ten minutes of one core. Operations, not seconds, so
that the same data are screened alike on every machine."""

REDUCTIONS = (128, 64)
"""Components kept of each block where that is too many; the last one whatever it takes."""


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
    operations : float
        Floating-point operations of a processor; 0 in runs of before that was kept.
    penalties : {"leave_one_out", "generalised"}
        How the penalty of each subset is chosen on a training fold.
    """

    mode: Way
    reduce_to: int | None
    n_subsets: int
    memory: int
    operations: float = 0.0
    penalties: Choice = "leave_one_out"

    def __str__(self) -> str:
        of = {"dual": "rows", "primal": "columns"}[self.mode]
        reduced = "" if self.reduce_to is None else f", each block reduced to {self.reduce_to} components"
        size = self.memory
        amount = f"{size / 2**30:.1f} GiB" if size >= 2**30 / 20 else f"{max(1, round(size / 2**20))} MiB"
        chosen = ", penalties by generalised cross-validation" if self.penalties == "generalised" else ""
        return f"Screen: {self.n_subsets:,} subsets by products of {of}{reduced}{chosen}, about {amount}"


def plan_screen(
    size: Size, *, workers: int = 1, memory_limit: int | None = None, reduce: Reduce = "auto"
) -> ScreenPlan:
    """Choose how to screen: without reduction where that takes few operations, else as little reduced as does.

    Parameters
    ----------
    size : Size
        What is to be screened.
    workers : int
        Processes; how far blocks are reduced does not depend on them.
    memory_limit : int, optional
        Bytes; a share of what is available by default.
    reduce : {"auto", "none"}

    Raises
    ------
    SearchError
        If every way that is left to choose needs more memory than the limit.
    """
    limit = usual_memory_limit() if memory_limit is None else memory_limit
    offered = REDUCTIONS if reduce == "auto" else ()
    tried = [None, *(components for components in offered if components < max(size.dims))]
    works = {components: size.works(components) for components in tried}
    fitting = {
        components: found[way]
        for components, found in works.items()
        if (way := cheapest(found, memory_limit=limit)) is not None
    }
    if not fitting:
        raise too_large(works[tried[-1]], memory_limit=limit)
    few = [components for components, work in fitting.items() if work.operations <= MOST_OPERATIONS]
    reduce_to = few[0] if few else list(fitting)[-1]
    mode = cheapest(works[reduce_to], memory_limit=limit, workers=workers)
    if mode is None:
        raise too_large(works[reduce_to], memory_limit=limit, workers=workers)
    work = works[reduce_to][mode]
    return ScreenPlan(
        mode=mode,
        reduce_to=reduce_to,
        n_subsets=size.n_subsets,
        memory=work.bytes(workers),
        operations=work.operations,
        penalties=choice_of_penalty(mode, n_train=size.n_train, kept=size.kept(reduce_to)),
    )


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a screen will take, before anything of it is computed.

    Attributes
    ----------
    operations : float
        Floating-point operations, of preparing and of scoring.
    preparing : float
        Seconds before the first subset.
    scoring : Cost
        All subsets and folds.
    """

    operations: float
    preparing: float
    scoring: Cost

    def __str__(self) -> str:
        return (
            f"{self.operations:.1e} operations: about {duration(self.preparing)} to prepare the folds and "
            f"{duration(self.scoring.seconds)} to score them, at what this machine takes of numbers made up"
        )


def expect(size: Size, plan: ScreenPlan, *, workers: int) -> Expected:
    """Say what a screen will take, by the speed of this machine, which is measured: as long as one or two fits take."""
    work = size.works(plan.reduce_to)[plan.mode]
    preparing, scoring = seconds_per_operation(plan.mode, plan.penalties, side=size.typical(plan.mode, plan.reduce_to))
    n_fits = size.n_subsets * len(size.n_train)
    return Expected(
        operations=work.preparing + work.scoring,
        preparing=work.preparing / PREPARING * preparing / min(usable_cores(), len(size.n_train)),
        scoring=Cost(
            n_subsets=size.n_subsets,
            n_fits=n_fits,
            seconds_per_fit=work.scoring * scoring / n_fits,
            workers=workers,
        ),
    )


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
    order = hash_order([str(name) for name in plan.ids])
    kept = np.zeros(len(plan.ids), dtype=np.bool_)
    kept[order] = np.cumsum(times[order]) <= allowed
    return kept


def kept_in_folds(plan: ValidationPlan, kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """Return, per fold, the held-out rows that are kept, as indices into the development rows."""
    return tuple(held_out[kept[held_out]] for _, held_out in plan.folds)


FIRST = 3
"""Subsets that are told as soon as all have been screened."""

SCREENED_BY = "ridge regression on concatenated encoders, whatever head and predictor are fitted in the end"
"""What a screen's scores are scores of; said beside every number that comes from them."""


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

    def __str__(self) -> str:
        board = self.leaderboard
        metric, best_first = get_metric(board.metrics[0]), board.best_first()
        scored = [f"{label(row.subset)} {row.mean(metric.name):.4f}" for row in best_first[:FIRST]]
        single = next((row for row in best_first if row.n_encoders == 1), None)
        if single is not None and single not in best_first[:FIRST]:
            scored.append(f"the best single encoder, {label(single.subset)} {single.mean(metric.name):.4f}")
        title = metric.mean_title if board.n_folds > 1 else metric.title
        return f"First leaderboard, {title} of {len(board):,} subsets by ridge regression: {'; '.join(scored)}"


def run_screen(problem: Problem, context: SearchContext, *, budget: Budget) -> Screen:
    """Score every subset by ridge regression in closed form.

    Raises
    ------
    SearchError
        If memory does not suffice.
    """
    config, pool = problem.config, problem.blocks.encoders
    strategy = screening_strategy(len(pool), config.metric)
    workers = context.workers or usable_cores()
    common: dict[str, Any] = {
        "task": problem.task,
        "classes": problem.classes,
        "scaling": config.scaling,
        "class_weight": config.class_weight,
        "sample_weight": problem.weights,
    }
    size = _size(problem, n_subsets=len(strategy.subsets(pool)))
    plan = plan_screen(size, workers=workers, reduce=config.reduce)
    context.tell(f"{plan}.")
    device = accelerator(context.device, operations=plan.operations)
    if config.reduce == "none" and device is None:  # what an accelerator takes is not foreseen
        expected = expect(size, plan, workers=workers)
        context.tell(f"Screen: nothing is reduced, {expected}.")
        check_cost(expected.scoring, yes=context.yes)
    loss = None
    if plan.reduce_to is not None:
        loss = reduction_loss(
            problem.blocks,
            problem.labels,
            problem.plan,
            reduce_to=plan.reduce_to,
            metric=config.metric,
            threads=usable_cores(),
            **common,
        )
        context.tell(f"{loss}.")
    # As for the largest pool that is searched whole, where a pool is larger.
    kept = rows_to_keep(
        problem.plan,
        n_subsets=2 ** min(len(pool), EXHAUSTIVE_LIMIT) - 1,
        n_classes=len(problem.classes),
    )
    scorer = ClosedFormScorer(
        problem.blocks,
        problem.labels,
        plan=problem.plan,
        mode=plan.mode,
        choice=plan.penalties,
        reduce_to=plan.reduce_to,
        metrics=board_metrics(problem.target, closed_form=True),
        keep=kept,
        threads=usable_cores(),
        **common,
    )
    if device is not None:
        context.tell(f"Screen: computed on {device}, {plan.operations:.1e} operations.")

    def announce(cost: Cost) -> None:
        context.tell(f"Screen: {cost}.")

    leaderboard = run_search(
        pool,
        strategy,
        scorer if device is None else TorchScorer(scorer, device=device, threads=usable_cores()),
        metric=config.metric,
        sink=context.sink("screen"),
        key=problem.key(
            stage="screen",
            metrics=board_metrics(problem.target, closed_form=True),
            scaling=config.scaling,
            class_weight=config.class_weight,
            reduce_to=plan.reduce_to,
            penalties=plan.penalties,
        ),
        workers=context.workers,
        progress=context.progress,
        announce=announce,
        yes=context.yes,
    )
    budget.check(leaderboard)
    chosen = select(
        leaderboard, rule=config.rule, metric=config.metric, chance=problem.chance, eligible=budget.allows_row
    )
    return Screen(
        leaderboard=leaderboard, choice=chosen.chosen, plan=plan, loss=loss, kept_rows=kept_in_folds(problem.plan, kept)
    )


def _size(problem: Problem, *, n_subsets: int) -> Size:
    gaps = not bool(problem.target.known(problem.labels).all())
    weighted = problem.target.several and (problem.config.class_weight is not None or gaps)
    return Size(
        dims=tuple(problem.blocks.dims.values()),
        n_train=problem.plan.n_train,
        n_test=problem.plan.n_test,
        n_columns=len(problem.target.ranked_columns),
        n_weightings=len(problem.classes) if weighted else 1,
        n_subsets=n_subsets,
    )
