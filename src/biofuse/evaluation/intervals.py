"""Bootstrap intervals: resampling samples, or whole groups where there are groups."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError
from biofuse.core.hashing import generator
from biofuse.core.target import Task
from biofuse.evaluation.metrics import INTERVAL_METRICS, PreparedScores, Record, Score, get_metric, prepare

RESAMPLES = 2000
"""Enough for the ends of a 95 % interval: 50 resamples lie beyond each (Efron and Tibshirani 1993 ask for 1,000)."""

CELLS = 2_000_000
"""Weights held at a time (16 MB)."""

JACKKNIFE_BLOCKS = 500
"""Most parts left out one at a time for BCa. Whole blocks of units have the same third cumulant in expectation."""

Method = Literal["percentile", "bca"]


class Interval(Record):
    """A score and how far it may be off.

    Attributes
    ----------
    metric : str
        Name of the metric.
    estimate : float
        The metric on the data themselves.
    low, high : float
        Ends of the interval; NaN where the metric is undefined on the data or on nearly all resamples.
    confidence : float
        Nominal coverage.
    method : {"percentile", "bca"}
        How the ends were found.
    unit : {"samples", "groups"}
        What was resampled.
    n_units : int
        How many there are.
    n_resamples : int
        Resamples drawn.
    n_undefined : int
        Resamples left out because the metric is undefined there, as when a rare class was not drawn.
    """

    metric: str
    estimate: Score
    low: Score
    high: Score
    confidence: float
    method: Method
    unit: Literal["samples", "groups"]
    n_units: int
    n_resamples: int
    n_undefined: int

    def __str__(self) -> str:
        ends = f"{self.confidence:.0%} interval {self.low:.4f} to {self.high:.4f}"
        text = f"{self.estimate:.4f} ({ends}, {self.n_units} {self.unit}"
        return (
            f"{text}; undefined in {self.n_undefined} of {self.n_resamples} resamples)"
            if self.n_undefined
            else f"{text})"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """What a bootstrap draws: samples, or groups of them, in an order that their names alone decide.

    Attributes
    ----------
    of_row : ndarray of int64, shape (n,)
        Which unit each row belongs to.
    n : int
        Number of units.
    kind : {"samples", "groups"}
        What a unit is.
    """

    of_row: NDArray[np.int64]
    n: int
    kind: Literal["samples", "groups"]

    @classmethod
    def of(cls, ids: ArrayLike, groups: ArrayLike | None = None) -> "Units":
        """Return units numbered by their sorted names.

        Raises
        ------
        AlignmentError
            If there are not as many groups as ids, or an id occurs twice.
        """
        names = np.asarray(ids if groups is None else groups).astype(str)
        if len(names) != len(np.asarray(ids)):
            raise AlignmentError(f"{len(np.asarray(ids))} ids but {len(names)} groups.")
        unique, of_row = np.unique(names, return_inverse=True)
        if groups is None and len(unique) != len(names):
            raise AlignmentError("Sample ids are not unique.")
        return cls(of_row=of_row, n=len(unique), kind="samples" if groups is None else "groups")

    def weights(self, n_resamples: int, *, seed: int) -> Iterator[NDArray[np.float64]]:
        """Draw units with replacement; yield how often each row was drawn, shape (n_rows, some resamples)."""
        random = generator(seed, "bootstrap", self.kind, self.n)
        step = max(1, CELLS // max(1, len(self.of_row)))
        for start in range(0, n_resamples, step):
            size = min(step, n_resamples - start)
            drawn = random.integers(0, self.n, size=(size, self.n)) + self.n * np.arange(size)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=size * self.n).reshape(size, self.n)
            yield np.ascontiguousarray(counts.T)[self.of_row].astype(np.float64)

    def left_out(self) -> Iterator[NDArray[np.float64]]:
        """Leave out one part of the units after the other; yield row weights, shape (n_rows, some parts)."""
        parts = min(self.n, JACKKNIFE_BLOCKS)
        # A hash-like shuffle, so that blocks do not gather neighbours in name.
        part_of_unit = generator(0, "jackknife", self.n).permutation(self.n) % max(1, parts)
        part_of_row = part_of_unit[self.of_row]
        step = max(1, CELLS // max(1, len(self.of_row)))
        for start in range(0, parts, step):
            yield (part_of_row[:, None] != np.arange(start, min(start + step, parts))).astype(np.float64)


def bootstrap_intervals(
    task: Task,
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    metrics: Sequence[str] = INTERVAL_METRICS,
    n_resamples: int = RESAMPLES,
    confidence: float = 0.95,
    method: Method = "percentile",
    seed: int = 0,
) -> dict[str, Interval]:
    """Estimate how far scores would move had other samples, or groups, been drawn.

    Parameters
    ----------
    task : Task
        What the labels are.
    labels, probabilities : array-like
        As for :func:`biofuse.evaluation.metrics.score`.
    ids : array-like of str, shape (n,)
        Names of the rows; with the seed they alone decide what is drawn, whatever the order of the rows.
    groups : array-like of str, shape (n,), optional
        Patients or slides; whole groups are drawn then.
    metrics : sequence of str
        Which metrics; all see the same resamples.
    n_resamples : int, default 2000
        Number of resamples.
    confidence : float, default 0.95
        Nominal coverage.
    method : {"percentile", "bca"}
        Percentiles of the resamples, or bias-corrected and accelerated ones (Efron 1987).
    seed : int, default 0
        Seed of the draws.

    Returns
    -------
    dict of str to Interval
        One per metric.
    """
    data = prepare(task, labels, probabilities)
    units = Units.of(ids, groups)
    if len(units.of_row) != data.n:
        raise AlignmentError(f"{len(units.of_row)} ids but {data.n} predictions.")
    samples = resample(data, units, metrics=metrics, n_resamples=n_resamples, seed=seed)
    parts = _leave_out(data, units, metrics) if method == "bca" else {}
    intervals = {}
    for name in metrics:
        estimate = float(get_metric(name).resample(data, np.ones((data.n, 1)))[0])
        low, high = _ends(samples[name], estimate, confidence=confidence, parts=parts.get(name))
        intervals[name] = Interval(
            metric=name,
            estimate=estimate,
            low=low,
            high=high,
            confidence=confidence,
            method=method,
            unit=units.kind,
            n_units=units.n,
            n_resamples=n_resamples,
            n_undefined=int(np.isnan(samples[name]).sum()),
        )
    return intervals


def resample(
    data: PreparedScores, units: Units, *, metrics: Sequence[str], n_resamples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Score every resample, shape (n_resamples,) per metric; NaN where a metric is undefined."""
    chunks: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    if units.n:
        for weights in units.weights(n_resamples, seed=seed):
            for name in metrics:
                chunks[name].append(get_metric(name).resample(data, weights))
    return {name: np.concatenate(found) if found else np.full(n_resamples, np.nan) for name, found in chunks.items()}


def percentile_ends(values: NDArray[np.float64], *, confidence: float) -> tuple[float, float]:
    """Return the central range of the values that are defined; NaN where fewer than two are."""
    defined = values[~np.isnan(values)]
    if len(defined) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _leave_out(data: PreparedScores, units: Units, metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    for weights in units.left_out():
        for name in metrics:
            found[name].append(get_metric(name).resample(data, weights))
    return {name: np.concatenate(values) for name, values in found.items() if values}


def _ends(
    values: NDArray[np.float64], estimate: float, *, confidence: float, parts: NDArray[np.float64] | None
) -> tuple[float, float]:
    from scipy.stats import norm

    if np.isnan(estimate):
        return float("nan"), float("nan")
    defined = values[~np.isnan(values)]
    # At the edge of what is possible (a perfect score) there is no bias to correct: percentiles are all there is.
    below = ((defined < estimate).mean() + (defined <= estimate).mean()) / 2 if len(defined) else 0.0
    if parts is None or len(defined) < 2 or not 0 < below < 1:
        return percentile_ends(values, confidence=confidence)
    influence = np.nanmean(parts) - parts[~np.isnan(parts)]
    spread = float((influence**2).sum()) ** 1.5
    acceleration = float((influence**3).sum()) / (6 * spread) if spread > 0 else 0.0
    shift = norm.ppf(below)
    z = shift + np.array([-1, 1]) * norm.ppf((1 + confidence) / 2)
    low, high = np.quantile(defined, np.asarray(norm.cdf(shift + z / (1 - acceleration * z))))
    return float(low), float(high)
