"""What each encoder contributes to the scores of all subsets, and which encoders complement each other."""

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError, UndefinedMetricError
from biofuse.evaluation.metrics import get_metric
from biofuse.search.gains import Gain, corrected_t, holm_corrected, paired_gain, signed
from biofuse.search.leaderboard import Leaderboard
from biofuse.search.subsets import Subset

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How two encoders work together.

    Attributes
    ----------
    first, second : str
        Encoders, in pool order.
    interaction, low, high : float
        Shapley interaction index and its interval: above zero, the two gain more together than each by itself.
    """

    first: str
    second: str
    interaction: float
    low: float
    high: float

    def __str__(self) -> str:
        ends = "" if np.isnan(self.low) else f", interval {self.low:+.4f} to {self.high:+.4f}"
        numbers = f"(interaction {self.interaction:+.4f}{ends})"
        if self.low > 0:
            return f"{self.first} and {self.second} complement each other {numbers}."
        if self.high < 0:
            return f"{self.first} and {self.second} know much of the same {numbers}."
        return f"{self.first} and {self.second} add up, as far as these folds can tell {numbers}."


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
    """What each encoder contributes; of a loss, by how much it lowers it.

    Attributes
    ----------
    metric : str
        Name of the metric. Below, v(S) is its mean over folds, turned so that more is better.
    encoders : tuple of str
        The pool; all arrays are in its order.
    empty : float
        v of no encoder: what guessing scores (turned likewise).
    full : float
        v of all encoders.
    shapley : ndarray of float64, shape (m,)
        Shapley values: they add up to ``full - empty``.
    low, high : ndarray of float64, shape (m,)
        Intervals of the Shapley values from the corrected t statistic of the folds; NaN with fewer than two.
    marginal : ndarray of float64, shape (m,)
        Mean of v(S + i) - v(S) over all subsets S without i, the empty one included, each counting the same.
    added_last : ndarray of float64, shape (m,)
        v(all) - v(all without i).
    alone : ndarray of float64, shape (m,)
        v({i}).
    interaction, interaction_low, interaction_high : ndarray of float64, shape (m, m)
        Shapley interaction indices (Grabisch and Roubens 1999) and their intervals; symmetric, NaN on the diagonal.
    confidence : float
        Nominal coverage of one interval; not corrected for several.
    n_folds : int
        Folds in which the metric is defined for every subset.
    """

    metric: str
    encoders: Subset
    empty: float
    full: float
    shapley: Values
    low: Values
    high: Values
    marginal: Values
    added_last: Values
    alone: Values
    interaction: Values
    interaction_low: Values
    interaction_high: Values
    confidence: float
    n_folds: int

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs of encoders, the most complementary first."""
        found = [
            Pair(
                first=self.encoders[i],
                second=self.encoders[j],
                interaction=float(self.interaction[i, j]),
                low=float(self.interaction_low[i, j]),
                high=float(self.interaction_high[i, j]),
            )
            for i, j in combinations(range(len(self.encoders)), 2)
        ]
        return tuple(sorted(found, key=lambda pair: -pair.interaction))

    def complements(self) -> tuple[str, ...]:
        """Say who complements whom and who is redundant, for the pairs where the folds can tell; strongest first."""
        told = [pair for pair in self.pairs if pair.low > 0 or pair.high < 0]
        return tuple(str(pair) for pair in sorted(told, key=lambda pair: -abs(pair.interaction)))

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per encoder, the largest Shapley value first."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "encoder": self.encoders,
                "shapley": self.shapley,
                "low": self.low,
                "high": self.high,
                "marginal": self.marginal,
                "added_last": self.added_last,
                "alone": self.alone,
            }
        )
        return frame.sort_values("shapley", ascending=False, kind="stable", ignore_index=True)

    def __str__(self) -> str:
        order = np.argsort(-self.shapley, kind="stable")
        shares = ", ".join(f"{self.encoders[i]} {self.shapley[i]:+.4f}" for i in order)
        return f"Shapley values of {get_metric(self.metric).title}, from {self.empty:.4f} to {self.full:.4f}: {shares}."


def attribute(
    leaderboard: Leaderboard, *, metric: str | None = None, empty: float | None = None, confidence: float = 0.95
) -> Attribution:
    """Divide the score of all encoders among them, exactly.

    Parameters
    ----------
    leaderboard : Leaderboard
        With a row for every non-empty subset of its encoders.
    metric : str, optional
        Which metric; the leaderboard's first by default.
    empty : float, optional
        What guessing scores by this metric: the share of the largest class for accuracy. The metric's own level of
        chance by default, .5 for AUROC.
    confidence : float, default 0.95
        Nominal coverage of the intervals.

    Raises
    ------
    SearchError
        If some subset was not scored, or the level of guessing is neither given nor known.
    UndefinedMetricError
        If there is no fold in which every subset is defined.
    """
    name = metric or leaderboard.metrics[0]
    level = get_metric(name).chance if empty is None else empty
    if level is None:
        raise SearchError(
            f"What guessing scores is not known for {get_metric(name).title}.",
            remedy="Pass empty=, for accuracy the share of the largest class.",
        )
    values = _by_mask(leaderboard, name, level)
    m, n_folds = len(leaderboard.encoders), values.shape[1]
    mean = values.mean(axis=1)
    single = 1 << np.arange(m)
    each = np.stack([_shapley(values, i) for i in range(m)])
    interaction, interaction_low, interaction_high = (np.full((m, m), np.nan) for _ in range(3))
    for i, j in combinations(range(m), 2):
        found = corrected_t(leaderboard, _interaction(values, i, j), confidence=confidence)
        for matrix, value in zip((interaction, interaction_low, interaction_high), found[:3], strict=True):
            matrix[i, j] = matrix[j, i] = value
    shapley, low, high, _ = np.array([corrected_t(leaderboard, row, confidence=confidence) for row in each]).T
    return Attribution(
        metric=name,
        encoders=leaderboard.encoders,
        empty=float(mean[0]),
        full=float(mean[-1]),
        shapley=shapley,
        low=low,
        high=high,
        marginal=np.array([_steps(mean, i).mean() for i in range(m)]),
        added_last=mean[-1] - mean[len(mean) - 1 - single],
        alone=mean[single],
        interaction=interaction,
        interaction_low=interaction_low,
        interaction_high=interaction_high,
        confidence=confidence,
        n_folds=n_folds,
    )


def leave_one_out_gains(
    leaderboard: Leaderboard, *, metric: str | None = None, confidence: float = 0.95
) -> dict[str, Gain]:
    """Return what each encoder adds to all others: what a pool too large for all subsets still can tell.

    Parameters
    ----------
    leaderboard : Leaderboard
        With rows for all encoders, and for all but one of them. Encoders without such a row are left out.
    metric : str, optional
        Which metric; the leaderboard's first by default.
    confidence : float, default 0.95
        Nominal coverage of the intervals.

    Returns
    -------
    dict of str to Gain
        By encoder, in pool order; p-values are Holm-corrected together.

    Raises
    ------
    SearchError
        If all encoders together were not scored, or no subset of all but one was.
    """
    pool = leaderboard.encoders
    everything = leaderboard.get(pool)
    rest = {name: leaderboard.get([other for other in pool if other != name]) for name in pool}
    known = {name: row for name, row in rest.items() if row is not None}
    if everything is None or not known:
        raise SearchError(
            f"All {len(pool)} encoders together were not scored."
            if everything is None
            else f"No subset of all but one of the {len(pool)} encoders was scored.",
            remedy="Score these subsets too, or every subset.",
        )
    gains = [paired_gain(leaderboard, everything, row, metric=metric, confidence=confidence) for row in known.values()]
    return dict(zip(known, holm_corrected(gains), strict=True))


def _by_mask(leaderboard: Leaderboard, metric: str, empty: float) -> Values:
    """Return fold values by subset, more being better, shape (2**m, n_folds); bit i of the index is encoder i."""
    m = len(leaderboard.encoders)
    bit = {name: 1 << place for place, name in enumerate(leaderboard.encoders)}
    if len(leaderboard) < 2**m - 1:
        raise SearchError(
            f"Shapley values need the scores of all {2**m - 1} subsets of {m} encoders; {len(leaderboard)} are there.",
            remedy="Search exhaustively or by screen (up to 15 encoders); leave_one_out_gains needs only all encoders "
            "and all but one.",
        )
    values = np.full((2**m, leaderboard.n_folds), empty, dtype=np.float64)
    for row in leaderboard:
        values[sum(bit[name] for name in row.subset)] = row.values(metric)
    values = signed(values[:, ~np.isnan(values).any(axis=0)], metric)
    if not values.shape[1]:
        raise UndefinedMetricError(
            f"{get_metric(metric).title} is undefined for some subset in every fold.",
            remedy="Choose another metric, or give every class enough samples to appear in every fold.",
        )
    return values


def _without(n_masks: int, *places: int) -> NDArray[np.int64]:
    masks = np.arange(n_masks)
    return np.flatnonzero((masks & sum(1 << place for place in places)) == 0)


def _steps(values: Values, i: int) -> Values:
    """Return v(S + i) - v(S) for every subset S without i, in the order of ``_without``."""
    rest = _without(len(values), i)
    return np.asarray(values[rest | 1 << i] - values[rest])


def _size_weights(masks: NDArray[np.int64], m: int, n_out: int) -> Values:
    """Return 1 / ((m - n_out + 1) * C(m - n_out, size)) per subset: every size counts the same, then every subset."""
    weights = np.array([1 / ((m - n_out + 1) * comb(m - n_out, size)) for size in range(m - n_out + 1)])
    return np.asarray(weights[_sizes(masks, m)])


def _sizes(masks: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    return np.asarray(sum((masks >> place) & 1 for place in range(m)), dtype=np.int64)


def _shapley(values: Values, i: int) -> Values:
    """Return the Shapley value of encoder i in each fold."""
    m = len(values).bit_length() - 1
    return _size_weights(_without(len(values), i), m, 1) @ _steps(values, i)


def _interaction(values: Values, i: int, j: int) -> Values:
    """Return the Shapley interaction index of encoders i and j in each fold."""
    m, rest = len(values).bit_length() - 1, _without(len(values), i, j)
    one, other = 1 << i, 1 << j
    gains = values[rest | one | other] - values[rest | one] - values[rest | other] + values[rest]
    return np.asarray(_size_weights(rest, m, 2) @ gains)
