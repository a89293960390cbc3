"""How long a search will take, from one timed fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from biofuse.core.errors import SearchError
from biofuse.search.scorer import FoldPart, FoldwiseScorer
from biofuse.search.subsets import Subset

LONG_SECONDS = 3600.0
"""A search expected to take longer is asked for."""

WARM_SECONDS = 5.0
"""A first fit quicker than this is timed again: it may be mostly imports."""


SHORT_SECONDS = 0.05
"""A fit quicker than this varies so much that the median of five is taken."""

START_SECONDS = 1.0
"""What starting worker processes takes: most of it is importing numpy and scipy."""


@runtime_checkable
class Weighing(Protocol):
    """A scorer that knows how its work depends on the subset."""

    def relative_work(self, subset: Subset) -> float:
        """Return how long scoring a subset takes, in any unit."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a search will cost.

    Attributes
    ----------
    n_subsets, n_fits : int
        What is left to score; a fit is one subset on one fold.
    seconds_first_fit : float
        The timed fit: all encoders on the first fold.
    seconds : float
        Expected time over all workers together being busy, that is wall-clock time.
    workers : int
        Processes.
    """

    n_subsets: int
    n_fits: int
    seconds_first_fit: float
    seconds: float
    workers: int

    def __str__(self) -> str:
        return (
            f"{self.n_subsets:,} subsets, {self.n_fits:,} fits on {self.workers} "
            f"{'process' if self.workers == 1 else 'processes'}: about {duration(self.seconds)} "
            f"(a fit of all encoders takes {duration(self.seconds_first_fit)})"
        )


def estimate_cost(
    scorer: FoldwiseScorer, subsets: Sequence[Subset], *, workers: int
) -> tuple[Cost, tuple[Subset, FoldPart] | None]:
    """Time one fit and extrapolate.

    A fit's time is taken as proportional to the scorer's ``relative_work`` where it has one, else to the columns of the
    subset, which holds for linear heads and trees.

    Parameters
    ----------
    scorer : FoldwiseScorer
        What will score them.
    subsets : sequence of subset
        Those that are left.
    workers : int
        Processes.

    Returns
    -------
    cost : Cost
        Nothing to do costs nothing, and times nothing.
    first : tuple of (subset, FoldPart), or None
        The timed fit, so that it need not be done again.
    """
    if not subsets:
        return Cost(n_subsets=0, n_fits=0, seconds_first_fit=0.0, seconds=0.0, workers=workers), None
    work = scorer.relative_work if isinstance(scorer, Weighing) else scorer.n_dims
    widest = max(subsets, key=work)
    part = scorer.score_fold(widest, 0)
    if part.seconds < WARM_SECONDS:
        part = scorer.score_fold(widest, 0)
    if part.seconds < SHORT_SECONDS:
        part = sorted((scorer.score_fold(widest, 0) for _ in range(5)), key=lambda timed: timed.seconds)[2]
    n_folds = len(scorer.n_train)
    share = sum(work(subset) for subset in subsets) / max(1, work(widest))
    seconds = part.seconds * n_folds * share / workers
    cost = Cost(
        n_subsets=len(subsets),
        n_fits=len(subsets) * n_folds,
        seconds_first_fit=part.seconds,
        seconds=seconds + (START_SECONDS if workers > 1 and seconds > START_SECONDS else 0),
        workers=workers,
    )
    return cost, (widest, part)


def check_cost(cost: Cost, *, yes: bool) -> None:
    """Refuse a long search that nobody confirmed.

    Raises
    ------
    SearchError
        If it is expected to take more than an hour and ``yes`` is False.
    """
    if cost.seconds > LONG_SECONDS and not yes:
        raise SearchError(
            f"This search would take about {duration(cost.seconds)}: {cost}.",
            remedy="Confirm with --yes (yes=True), offer fewer encoders, choose a cheaper head, or fewer folds.",
        )


def duration(seconds: float) -> str:
    """Return a time span as a person would say it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size * 1.5:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 10 else f"{seconds:.2f} seconds"
