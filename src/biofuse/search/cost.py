"""How long a search will take, from one timed fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from biofuse.core.errors import SearchError
from biofuse.search.scorer import FoldPart, FoldwiseScorer
from biofuse.search.subsets import Subset

LONG_SECONDS = 3600.0
"""A search expected to take longer is asked for."""

WARM_SECONDS = 5.0
"""A first fit quicker than this is timed again: it may be mostly imports."""


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

    A fit's time is taken as proportional to the columns of its subset, which holds for linear heads and trees.

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
    widest = max(subsets, key=scorer.n_dims)
    part = scorer.score_fold(widest, 0)
    if part.seconds < WARM_SECONDS:
        part = scorer.score_fold(widest, 0)
    n_folds = len(scorer.n_train)
    share = sum(scorer.n_dims(subset) for subset in subsets) / max(1, scorer.n_dims(widest))
    cost = Cost(
        n_subsets=len(subsets),
        n_fits=len(subsets) * n_folds,
        seconds_first_fit=part.seconds,
        seconds=part.seconds * n_folds * share / workers,
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
