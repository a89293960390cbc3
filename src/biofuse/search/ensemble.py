"""How many of the best subsets an average of their predictions should take."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.core.target import Target
from biofuse.evaluation.metrics import Record, Score, get_metric, score
from biofuse.search.leaderboard import DECIMALS, Leaderboard, Row, Subset, label

SIZES = (1, 2, 4, 8)
"""Numbers of members tried."""


class Ensemble(Record):
    """The average that was chosen, and those that it was chosen from.

    Attributes
    ----------
    metric : str
        By which metric.
    members : tuple of subset
        The best subsets, best first.
    encoders : subset
        All encoders that they need, in pool order.
    scores : dict of int to tuple of float
        One value per fold for each number of members tried.
    """

    metric: str
    members: tuple[Subset, ...]
    encoders: Subset
    scores: dict[int, tuple[Score, ...]]

    @property
    def mean(self) -> float:
        """Mean score over the folds."""
        return float(np.nanmean(self.scores[len(self.members)]))

    def __str__(self) -> str:
        tried = ", ".join(f"{size}: {np.nanmean(values):.4f}" for size, values in self.scores.items())
        named = ", ".join(label(member) for member in self.members)
        return (
            f"The average of the best {len(self.members)} subsets has mean {get_metric(self.metric).title} "
            f"{self.mean:.4f} over the folds (by number of subsets: {tried}). It needs {len(self.encoders)} encoders: "
            f"{named}."
        )


def choose_ensemble(
    leaderboard: Leaderboard,
    labels: NDArray[np.int64],
    *,
    rows: Sequence[NDArray[np.int64]],
    target: Target,
    metric: str,
    sizes: Sequence[int] = SIZES,
    eligible: Callable[[Sequence[str]], bool] | None = None,
) -> Ensemble:
    """Average the out-of-fold probabilities of the best subsets, and take the number of them that scores best.

    Parameters
    ----------
    leaderboard : Leaderboard
        Of subsets refitted with their predictions kept.
    labels : ndarray of int64
        Of the development samples.
    rows : sequence of ndarray of int64
        Per fold, the samples that the kept predictions belong to.
    target : Target
        What is predicted.
    metric : str
        What subsets are ranked and their averages compared by.
    sizes : sequence of int
        Numbers of members tried, in increasing order; fewer members win ties.
    eligible : callable, optional
        Whether encoders may be used together.

    Raises
    ------
    SearchError
        If the predictions were not kept, or no subset is eligible.
    """
    ranked = [row for row in leaderboard.best_first(metric) if eligible is None or eligible(row.subset)]
    missing = [row for row in ranked if row.subset not in leaderboard.out_of_fold]
    if not ranked or missing:
        raise SearchError("An ensemble needs scored subsets with their out-of-fold predictions.")
    scores: dict[int, tuple[float, ...]] = {}
    for size in sizes:
        members = ranked[:size]
        if len(members) < size or (eligible is not None and not eligible(_union(leaderboard, members))):
            break
        scores[size] = tuple(
            _score(leaderboard, members, labels[held], fold, target=target, metric=metric)
            for fold, held in enumerate(rows)
        )
    means = {size: get_metric(metric).signed(np.nanmean(values, keepdims=True)) for size, values in scores.items()}
    best = max(means, key=lambda size: (round(means[size].item(), DECIMALS), -size))
    return Ensemble(
        metric=metric,
        members=tuple(row.subset for row in ranked[:best]),
        encoders=_union(leaderboard, ranked[:best]),
        scores=scores,
    )


def _score(
    leaderboard: Leaderboard,
    members: Sequence[Row],
    labels: NDArray[np.int64],
    fold: int,
    *,
    target: Target,
    metric: str,
) -> float:
    kept = np.array([leaderboard.out_of_fold[row.subset][fold] for row in members], dtype=np.float64)
    mean = target.add_up(kept.mean(axis=0))  # kept in single precision, in which rows do not quite add up
    return score(target.kind, labels, mean, classes=target.classes, metrics=[metric])[metric]


def _union(leaderboard: Leaderboard, members: Sequence[Row]) -> Subset:
    used = {name for row in members for name in row.subset}
    return tuple(name for name in leaderboard.encoders if name in used)
