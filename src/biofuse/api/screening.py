"""The screen: every subset scored in closed form, without refitting."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.api.problem import Problem
from biofuse.api.runtime import Runtime
from biofuse.core.tasks import Task
from biofuse.extract import usable_cores
from biofuse.search import (
    Budget,
    ClosedFormScorer,
    Leaderboard,
    ReductionLoss,
    Row,
    ScreenPlan,
    plan_screen,
    reduction_loss,
    run_search,
    screening_strategy,
    select,
)

METRICS = ("auroc", "accuracy", "balanced_accuracy")
"""Columns of the screen's leaderboard."""

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
        metrics=METRICS,
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
            metrics=METRICS,
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
