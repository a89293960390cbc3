"""What reducing blocks costs: the same subsets screened with and without, on a sample of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import Scaling
from biofuse.core.errors import SearchError
from biofuse.core.hashing import digest
from biofuse.core.tasks import Task
from biofuse.heads.protocol import ClassWeight
from biofuse.search.closed_form import ClosedFormScorer
from biofuse.search.plan import ValidationPlan
from biofuse.search.subsets import Subset, label

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
    metric: str = "auroc",
    n_rows: int = SAMPLE_ROWS,
    n_folds: int = SAMPLE_FOLDS,
    memory_limit: int | None = None,
    threads: int = 1,
) -> ReductionLoss:
    """Score all single encoders, and all encoders together, with reduced and with whole blocks.

    Parameters
    ----------
    blocks, labels, plan, task, classes, scaling, class_weight
        As for :class:`biofuse.search.ClosedFormScorer`.
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
