"""Bootstrap intervals of scores, and paired comparisons of predictors and folds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError, UndefinedMetricError
from biofuse.core.hashing import generator
from biofuse.core.target import Task
from biofuse.evaluation.metrics import DEFAULT_METRIC, INTERVAL_METRICS, Record, Score, ScoredRows, get_metric, prepare

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
        gaps = f"; undefined in {self.n_undefined} of {self.n_resamples} resamples" if self.n_undefined else ""
        return f"{self.estimate:.4f} ({ends}, {self.n_units} {self.unit}{gaps})"


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
    parts = _under(data, units.left_out(), metrics) if method == "bca" else {}
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
    data: ScoredRows, units: Units, *, metrics: Sequence[str], n_resamples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Score every resample, shape (n_resamples,) per metric; NaN where a metric is undefined."""
    if not units.n:
        return {name: np.full(n_resamples, np.nan) for name in metrics}
    return _under(data, units.weights(n_resamples, seed=seed), metrics)


def _under(
    data: ScoredRows, weightings: Iterable[NDArray[np.float64]], metrics: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Score under weightings that come some at a time, and put the values side by side."""
    found: dict[str, list[NDArray[np.float64]]] = {name: [np.empty(0)] for name in metrics}
    for weights in weightings:
        for name in metrics:
            found[name].append(get_metric(name).resample(data, weights))
    return {name: np.concatenate(values) for name, values in found.items()}


def percentile_ends(values: NDArray[np.float64], *, confidence: float) -> tuple[float, float]:
    """Return the central range of the values that are defined; NaN where fewer than two are."""
    defined = values[~np.isnan(values)]
    if len(defined) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


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


SIGNIFICANCE = 0.05
"""A difference with a larger (Holm-corrected) p-value is called noise."""


class Comparison(Record):
    """How one predictor's score differs from another's on the same rows.

    Attributes
    ----------
    metric : str
        Name of the metric.
    first, second : str
        What is compared with what.
    first_score, second_score, difference : float
        Scores of both, and first minus second.
    low, high : float
        Percentile interval of the difference; not corrected for several comparisons.
    confidence : float
        Nominal coverage.
    p_value : float
        Two-sided bootstrap p-value of no difference, the one that inverts the interval.
    p_holm : float
        The same after Holm's correction over the comparisons made together; equal to ``p_value`` for one alone.
    unit : str
        What was resampled: samples or groups.
    n_units, n_resamples, n_undefined : int
        Units, resamples, and resamples left out because a score was undefined there.
    """

    metric: str
    first: str
    second: str
    first_score: Score
    second_score: Score
    difference: Score
    low: Score
    high: Score
    confidence: float
    p_value: Score
    p_holm: Score
    unit: str
    n_units: int
    n_resamples: int
    n_undefined: int

    @property
    def noise(self) -> bool:
        """Whether the difference may well be chance; also true where it cannot be told."""
        return not self.p_holm <= SIGNIFICANCE

    def __str__(self) -> str:
        title = get_metric(self.metric).title
        if np.isnan(self.difference):
            return f"{self.first} and {self.second} cannot be compared: {title} is undefined on these samples."
        scores = f"{title} {self.first_score:.4f} against {self.second_score:.4f}"
        if np.isnan(self.low):
            return (
                f"Whether {self.first} and {self.second} differ cannot be told: {scores}, but nearly every resample of "
                f"the {self.n_units} {self.unit} lacks a class."
            )
        if self.difference == 0 and self.low == 0 and self.high == 0:
            return f"{self.first} and {self.second} score the same on every resample ({scores})."
        evidence = (
            f"difference {self.difference:+.4f}, {self.confidence:.0%} interval {self.low:+.4f} to {self.high:+.4f} "
            f"over {self.n_units} {self.unit}, p = {self.p_holm:.3g}"
        )
        if self.noise:
            return f"The difference between {self.first} and {self.second} is within noise: {scores} ({evidence})."
        better = (self.difference > 0) == get_metric(self.metric).higher_is_better
        return f"{self.first} is {'better' if better else 'worse'} than {self.second}: {scores} ({evidence})."


def compare(
    task: Task,
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    names: tuple[str, str] = ("first", "second"),
    metric: str = DEFAULT_METRIC,
    n_resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare the predictions of two predictors on the same rows.

    Parameters
    ----------
    task : Task
        What the labels are.
    labels : array-like of int
        As for :func:`biofuse.evaluation.metrics.score`.
    first, second : array-like of float
        Probabilities of both predictors for these rows.
    ids : array-like of str, shape (n,)
        Names of the rows; with the seed they alone decide the resamples.
    groups : array-like of str, shape (n,), optional
        Patients or slides; whole groups are drawn then.
    names : pair of str
        What the predictors are called.
    metric : str
        The metric.
    n_resamples : int, default 2000
        Number of resamples; both predictors are scored on each.
    confidence : float, default 0.95
        Nominal coverage.
    seed : int, default 0
        Seed of the draws.
    """
    units = Units.of(ids, groups)
    both = [prepare(task, labels, probabilities) for probabilities in (first, second)]
    if any(len(units.of_row) != data.n for data in both):
        raise AlignmentError(f"{len(units.of_row)} ids but predictions for {both[0].n} and {both[1].n} rows.")
    scores = [float(get_metric(metric).resample(data, np.ones((data.n, 1)))[0]) for data in both]
    samples = [resample(data, units, metrics=[metric], n_resamples=n_resamples, seed=seed)[metric] for data in both]
    moves = samples[0] - samples[1]
    low, high = percentile_ends(moves, confidence=confidence)
    p_value = _p_value(moves) if not np.isnan(scores[0] - scores[1]) else float("nan")
    return Comparison(
        metric=metric,
        first=names[0],
        second=names[1],
        first_score=scores[0],
        second_score=scores[1],
        difference=scores[0] - scores[1],
        low=low,
        high=high,
        confidence=confidence,
        p_value=p_value,
        p_holm=p_value,
        unit=units.kind,
        n_units=units.n,
        n_resamples=n_resamples,
        n_undefined=int(np.isnan(moves).sum()),
    )


def compare_with(
    task: Task,
    labels: ArrayLike,
    chosen: ArrayLike,
    baselines: Mapping[str, ArrayLike],
    *,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    name: str = "chosen",
    metric: str = DEFAULT_METRIC,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare the chosen predictor with each baseline (best single, all, greedy), Holm-corrected together.

    Parameters
    ----------
    chosen : array-like of float
        Probabilities of the chosen predictor.
    baselines : mapping of str to array-like of float
        Probabilities of each baseline, by name.
    name : str, default "chosen"
        What the chosen predictor is called.

    Returns
    -------
    dict of str to Comparison
        One per baseline; ``difference`` is chosen minus baseline. Other parameters as for :func:`compare`.
    """
    found = [
        compare(
            task,
            labels,
            chosen,
            probabilities,
            ids=ids,
            groups=groups,
            names=(name, baseline),
            metric=metric,
            n_resamples=n_resamples,
            seed=seed,
        )
        for baseline, probabilities in baselines.items()
    ]
    corrected = holm([comparison.p_value for comparison in found])
    return {c.second: c.model_copy(update={"p_holm": float(p)}) for c, p in zip(found, corrected, strict=True)}


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values for having made several comparisons (Holm 1979); an undefined one stays NaN and counts as 1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(np.where(np.isnan(p), 1.0, p), kind="stable")
    adjusted = np.empty_like(p)
    steps = np.where(np.isnan(p), 1.0, p)[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return np.where(np.isnan(p), np.nan, adjusted)


def _p_value(moves: NDArray[np.float64]) -> float:
    defined = moves[~np.isnan(moves)]
    if len(defined) < 2:
        return float("nan")
    tail = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + len(defined)))


def corrected_standard_error(
    fold_differences: ArrayLike, n_train: ArrayLike | float, n_test: ArrayLike | float
) -> float:
    """Return the standard error of a mean over cross-validation folds, whose training sets overlap.

    Parameters
    ----------
    fold_differences : array-like of float, shape (n_folds,)
        One difference (or score) per fold and repeat; undefined ones (NaN) are left out.
    n_train, n_test : float or array-like of shape (n_folds,)
        Rows fitted on and scored; means are taken over folds.

    Returns
    -------
    float
        ``sqrt((1 / J + n_test / n_train) * variance)`` over the J defined folds (Nadeau and Bengio 2003).

    Raises
    ------
    UndefinedMetricError
        If fewer than two folds are defined: one split says nothing about how far a score may move.
    """
    values = np.asarray(fold_differences, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        raise UndefinedMetricError(
            f"A standard error needs at least two folds in which both scores are defined; there is {len(values)}.",
            remedy="Use cross-validation, or a rule that needs no standard error.",
        )
    ratio = float(np.mean(np.asarray(n_test, dtype=np.float64)) / np.mean(np.asarray(n_train, dtype=np.float64)))
    return float(np.sqrt((1 / len(values) + ratio) * values.var(ddof=1)))


def corrected_t(
    values: ArrayLike, n_train: ArrayLike | float, n_test: ArrayLike | float, *, confidence: float = 0.95
) -> tuple[float, float, float, float]:
    """Return the mean of fold values, its interval and the two-sided p-value of zero.

    The statistic has Nadeau and Bengio's corrected standard error and, as Bouckaert and Frank (2004) found to keep its
    level over repeats of cross-validation, one degree of freedom less than there are folds and repeats.

    Parameters
    ----------
    values : array-like of float, shape (n_folds,)
        Fold values; undefined ones (NaN) are left out. With fewer than two, only the mean is defined.
    n_train, n_test : float or array-like of shape (n_folds,)
        Rows fitted on and scored.
    confidence : float, default 0.95
        Nominal coverage.
    """
    from scipy.stats import t

    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    mean = float(defined.mean()) if len(defined) else float("nan")
    if len(defined) < 2:
        return mean, float("nan"), float("nan"), float("nan")
    error, freedom = corrected_standard_error(defined, n_train, n_test), len(defined) - 1
    if error == 0:
        return mean, mean, mean, 1.0 if mean == 0 else 0.0
    reach = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return mean, mean - reach, mean + reach, float(2 * t.sf(abs(mean) / error, freedom))


def wilson(
    share: NDArray[np.float64], counts: NDArray[np.int64], *, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of Wilson's score interval (1927) of shares out of counts."""
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    middle = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    reach = z / (1 + z**2 / counts) * np.sqrt(share * (1 - share) / counts + z**2 / (4 * counts**2))
    return (middle - reach).clip(0, 1), (middle + reach).clip(0, 1)
