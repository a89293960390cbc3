"""How much one subset scores above another on the same folds, and whether that is more than noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biofuse.evaluation.comparison import SIGNIFICANCE, corrected_standard_error, holm
from biofuse.evaluation.metrics import get_metric
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.subsets import Subset, label


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one subset scores above another, fold by fold; of a loss, how much less it loses.

    Attributes
    ----------
    metric : str
        Name of the metric.
    subset, against : tuple of str
        Whose score is compared with whose.
    gain : float
        Mean paired difference over the folds in which both are defined; more is better for every metric.
    low, high : float
        Interval of the gain from the corrected t statistic of the folds; NaN with fewer than two.
    confidence : float
        Nominal coverage of one interval; not corrected for several comparisons.
    p_value, p_holm : float
        Two-sided p-value of no gain, and the same after Holm's correction over the gains looked at together.
    """

    metric: str
    subset: Subset
    against: Subset
    gain: float
    low: float
    high: float
    confidence: float
    p_value: float
    p_holm: float

    @property
    def noise(self) -> bool:
        """Whether the gain may well be chance; also true where it cannot be told."""
        return not self.p_holm <= SIGNIFICANCE

    def evidence(self) -> str:
        """Return the numbers as they stand in a sentence."""
        if np.isnan(self.low):
            return f"{self.gain:+.4f} {get_metric(self.metric).title}, from too few folds for an interval"
        return (
            f"{self.gain:+.4f} {get_metric(self.metric).title}, {self.confidence:.0%} interval "
            f"{self.low:+.4f} to {self.high:+.4f}, p = {self.p_holm:.3g}"
        )

    def __str__(self) -> str:
        verdict = "within noise" if self.noise else "a gain" if self.gain > 0 else "a loss"
        return f"{label(self.subset)} against {label(self.against)}: {verdict} ({self.evidence()})."


def signed(values: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """Turn the values of a metric so that more is better."""
    return values if get_metric(metric).higher_is_better else -values


def paired_gain(
    leaderboard: Leaderboard, row: Row, against: Row, *, metric: str | None = None, confidence: float = 0.95
) -> Gain:
    """Compare two rows of a leaderboard fold by fold.

    Parameters
    ----------
    leaderboard : Leaderboard
        Where they come from; it knows the sizes of the folds.
    row, against : Row
        Whose score is compared with whose.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    confidence : float, default 0.95
        Nominal coverage.
    """
    name = metric or leaderboard.metrics[0]
    differences = signed(row.values(name) - against.values(name), name)
    mean, low, high, p_value = corrected_t(leaderboard, differences, confidence=confidence)
    return Gain(
        metric=name,
        subset=row.subset,
        against=against.subset,
        gain=mean,
        low=low,
        high=high,
        confidence=confidence,
        p_value=p_value,
        p_holm=p_value,
    )


def holm_corrected(gains: Sequence[Gain]) -> tuple[Gain, ...]:
    """Correct the p-values of gains that are looked at together."""
    corrected = holm([gain.p_value for gain in gains])
    return tuple(replace(gain, p_holm=float(p)) for gain, p in zip(gains, corrected, strict=True))


def corrected_t(
    leaderboard: Leaderboard, values: NDArray[np.float64], *, confidence: float
) -> tuple[float, float, float, float]:
    """Return the mean of fold values, its interval and the two-sided p-value of zero.

    The statistic has Nadeau and Bengio's corrected standard error and, as Bouckaert and Frank (2004) found to keep its
    level over repeats of cross-validation, one degree of freedom less than there are folds and repeats.

    Parameters
    ----------
    leaderboard : Leaderboard
        It knows how many rows each fold fits on and scores.
    values : ndarray of float64, shape (n_folds,)
        Fold values; undefined ones (NaN) are left out. With fewer than two, only the mean is defined.
    confidence : float
        Nominal coverage.
    """
    from scipy.stats import t

    defined = values[~np.isnan(values)]
    mean = float(defined.mean()) if len(defined) else float("nan")
    if len(defined) < 2:
        return mean, float("nan"), float("nan"), float("nan")
    error = corrected_standard_error(defined, leaderboard.n_train, leaderboard.n_test)
    reach = float(t.ppf((1 + confidence) / 2, len(defined) - 1)) * error
    if error == 0:
        return mean, mean, mean, 1.0 if mean == 0 else 0.0
    return mean, mean - reach, mean + reach, float(2 * t.sf(abs(mean) / error, len(defined) - 1))
