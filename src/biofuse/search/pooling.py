"""How a bag's images become one vector, chosen by the folds that choose the encoders."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.pooling import POOLINGS, Pooling
from biofuse.evaluation.intervals import corrected_standard_error
from biofuse.evaluation.metrics import get_metric
from biofuse.heads.base import cheap_heads
from biofuse.heads.ridge import Ridge
from biofuse.search.config import CONCATENATION
from biofuse.search.problem import Problem, head_of
from biofuse.search.runner import SearchContext
from biofuse.search.search import refit
from biofuse.search.strategies import Listed


@dataclass(frozen=True, kw_only=True)
class PoolingChoice:
    """A pooling, and the scores it was chosen by.

    Attributes
    ----------
    pooling : {"mean", "max", "mean+max", "mean+std"}
    scores : mapping of str to float
        Mean over the folds for each pooling, all encoders together, in the metric's own sense.
    best : str
        The pooling with the best mean.
    head, metric : str
        By which head and metric.
    """

    pooling: Pooling
    scores: Mapping[Pooling, float]
    best: Pooling
    head: str
    metric: str

    def __str__(self) -> str:
        said = ", ".join(f"{name} {value:.4f}" for name, value in self.scores.items())
        why = "the best" if self.pooling == self.best else f"the simplest within one standard error of {self.best}"
        return (
            f"Images of a sample are pooled by {self.pooling}: {why} ({get_metric(self.metric).mean_title} over the "
            f"folds, all encoders together, {self.head} head: {said})."
        )


def choose_pooling(problem: Problem, context: SearchContext) -> PoolingChoice:
    """Choose by all encoders together and one cheap head, ridge where it predicts such a target.

    The simplest, in the order of :data:`~biofuse.blocks.pooling.POOLINGS`, whose fold scores are within one corrected
    standard error of those of the best; where there is one validation split, and so no standard error, the best. The
    estimates of optimism do not repeat this choice.

    Parameters
    ----------
    problem : Problem
        Of blocks with bags.
    context : SearchContext
    """
    config, pool = problem.config, problem.blocks.encoders
    able = cheap_heads(problem.target)
    head = Ridge.name if Ridge.name in able else able[0]
    asked = config.model_copy(update={"predictor": "fused", "fusion": CONCATENATION, "head": head})
    folds: dict[Pooling, NDArray[np.float64]] = {}
    boards = {}
    for pooling in POOLINGS:
        pooled = replace(problem, config=asked, blocks=replace(problem.blocks.pooled(pooling), bags=None))
        boards[pooling], _ = refit(pooled, Listed([pool]), head_of(asked), replace(context, folder=None), quiet=True)
        folds[pooling] = np.array(boards[pooling][pool].folds[config.metric])
    quality = {pooling: round(board[pool].quality(config.metric), 12) for pooling, board in boards.items()}
    best = max(POOLINGS, key=lambda pooling: quality[pooling])
    plan = problem.plan

    def within(pooling: Pooling) -> bool:
        apart = folds[best] - folds[pooling]
        if pooling == best or np.count_nonzero(~np.isnan(apart)) < 2:
            return pooling == best
        return quality[best] - quality[pooling] <= corrected_standard_error(apart, plan.n_train, plan.n_test)

    return PoolingChoice(
        pooling=next(pooling for pooling in POOLINGS if within(pooling)),
        scores={pooling: float(np.nanmean(values)) for pooling, values in folds.items()},
        best=best,
        head=head,
        metric=config.metric,
    )


def pooled(problem: Problem, choice: PoolingChoice) -> Problem:
    """Return the problem with its blocks pooled as chosen, and a note that says so."""
    plan = replace(problem.plan, notes=(str(choice), *problem.plan.notes))
    return replace(problem, blocks=problem.blocks.pooled(choice.pooling), plan=plan)
