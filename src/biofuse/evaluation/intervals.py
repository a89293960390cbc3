"""Intervals of scores, and paired comparisons of predictors and folds."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError, UndefinedMetricError
from biofuse.core.hashing import generator
from biofuse.core.target import Labels, Target, Task
from biofuse.evaluation.metrics import (
    INTERVAL_METRICS,
    METRICS,
    Kind,
    Metric,
    Record,
    Score,
    default_metric,
    get_metric,
)
from biofuse.evaluation.rows import ScoredRows, prepare

CELLS = 2_000_000
"""Weights held at a time (16 MB)."""

JACKKNIFE_BLOCKS = 500
"""Most parts left out one at a time. The variance from 500 random blocks of units is within 6 % of that from single
ones in two of three cases (relative error sqrt(2 / 500))."""

FEW_GROUPS = 10
"""With fewer groups no interval can be trusted: their number is then too small to tell how much groups vary."""

SMOOTHING = 5
"""Units of the rarer kind that the textbook variance of an AUROC counts for beside the one measured: where few pairs
are in the wrong order, the variance measured alone is too small too often. Of 0, 5, 10 and 20 the one whose intervals
hold the truth most nearly as often as they say, over 50 to 1,000 samples and AUROCs of .7 to .99."""

Method = Literal["wilson", "logit", "newcombe", "fisher", "log", "percentile", "bca"]


class Interval(Record):
    """A score and how far it may be off.

    Attributes
    ----------
    metric : str
        Name of the metric.
    estimate : float
        The metric on the data themselves.
    low, high : float
        Ends of the interval; NaN where the metric is undefined on the data.
    confidence : float
        Nominal coverage.
    method : {"wilson", "logit", "newcombe", "fisher", "log", "percentile", "bca"}
        How the ends were found; the last two are bootstraps of earlier versions.
    unit : {"samples", "groups"}
        What varies independently.
    n_units : int
        How many there are.
    n_resamples, n_undefined : int
        Of a bootstrap; 0 otherwise.
    """

    metric: str
    estimate: Score
    low: Score
    high: Score
    confidence: float
    method: Method
    unit: Literal["samples", "groups"]
    n_units: int
    n_resamples: int = 0
    n_undefined: int = 0

    @property
    def trusted(self) -> bool:
        """Whether there are enough groups for an interval to mean what it says."""
        return self.unit == "samples" or self.n_units >= FEW_GROUPS

    def __str__(self) -> str:
        ends = f"{self.confidence:.0%} interval {self.low:.4f} to {self.high:.4f}"
        doubt = "" if self.trusted else ": too few for an interval to be trusted"
        return f"{self.estimate:.4f} ({ends}, {self.n_units} {self.unit}{doubt})"


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

    def of_entries(self, rows: NDArray[np.int64]) -> "Units":
        """Return the units of entries that are each about one of the rows, of several labels for instance."""
        return Units(of_row=self.of_row[rows], n=self.n, kind=self.kind)

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


def score_intervals(
    task: Task | Target,
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    metrics: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Say how far scores would move had other samples, or groups, been drawn.

    The variance comes from leaving out one unit after the other, whole groups where there are groups. A share of rows
    gets Wilson's interval (1927) for as many independent rows as would have that variance; a share of ordered pairs, as
    an AUROC is, a symmetric one on the scale of the logit, or Newcombe's (2006, method 5) where no pair is in the wrong
    order; agreement and a correlation one that is symmetric on the scale of Fisher's z; an error, and R², on the scale
    of the logarithm of the error, and of what is not explained. Among groups, and for values and times, Student's t
    takes the place of the normal distribution. No interval has zero width; where nothing says how wide it should be, as
    of errors that are all alike, it has no ends.

    Parameters
    ----------
    task : Task or Target
        What the labels are.
    labels, probabilities : array-like
        As for :func:`biofuse.evaluation.metrics.score`.
    ids : array-like of str, shape (n,)
        Names of the rows.
    groups : array-like of str, shape (n,), optional
        Patients or slides, which vary as wholes.
    metrics : sequence of str, optional
        Of those that have intervals; by default all that exist for the task.
    confidence : float, default 0.95
        Nominal coverage.

    Returns
    -------
    dict of str to Interval
        One per metric.

    Raises
    ------
    AlignmentError
        If there are not as many ids as predictions, or an id occurs twice.
    """
    data, units = prepare(task, labels, probabilities), Units.of(ids, groups)
    if len(units.of_row) != data.n:
        raise AlignmentError(f"{len(units.of_row)} ids but {data.n} predictions.")
    metrics = [name for name in INTERVAL_METRICS if METRICS[name].applies(data.target)] if metrics is None else metrics
    parts = _without_each(data, units, metrics)
    found = {}
    for name in metrics:
        metric = get_metric(name)
        columns = metric.formula(data, np.ones((data.n, 1)))[metric.kept(data), 0]
        estimate = float(columns.mean())
        low, high = float("nan"), float("nan")
        method: Method = "wilson"
        if np.isfinite(estimate):
            spread = _Spread.of(metric, data, units, parts[name])
            if metric.interval in SCALES:
                low, high, method = _scaled_ends(metric, estimate, data, spread, confidence)
            elif metric.interval == "ranking":
                low, high, method = _ranking_ends(estimate, spread, confidence)
            elif metric.interval == "agreement":
                low, high, method = _agreement_ends(estimate, data.labels, spread, confidence)
            else:
                low, high = _share_ends(columns, spread, confidence)
        found[name] = Interval(
            metric=name,
            estimate=estimate,
            low=low,
            high=high,
            confidence=confidence,
            method=method,
            unit=units.kind,
            n_units=units.n,
        )
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Spread:
    """What decides how wide an interval is.

    Attributes
    ----------
    parts : ndarray of float64, shape (n_parts,)
        The score without one part of the units after the other.
    variance : float
        Of the score, by the jackknife.
    variances : ndarray of float64, shape (n_columns,)
        Of what it is the mean of: the share, or area, of each class.
    positive, negative : ndarray of int64, shape (n_columns,)
        Of a ranking, units with a positive, and with a negative, row of each class; of shares, both are the units that
        each is a share of.
    grouped : bool
        Whether units are groups.
    n_units : int
        How many there are.
    """

    parts: NDArray[np.float64]
    variance: float
    variances: NDArray[np.float64]
    positive: NDArray[np.int64]
    negative: NDArray[np.int64]
    grouped: bool
    n_units: int

    @classmethod
    def of(cls, metric: Metric, data: ScoredRows, units: Units, parts: NDArray[np.float64]) -> "_Spread":
        """Count units, and take variances from scores without each part of them, shape (n_columns, n_parts)."""

        def count(rows: NDArray[np.bool_]) -> int:
            return len(np.unique(units.of_row[rows]))

        ranking, kept = metric.interval == "ranking", metric.kept(data)
        columns = np.arange(len(data.classes))[list(data.target.ranked_columns) if ranking else slice(len(kept))][kept]
        if ranking or (metric.interval == "shares" and not data.target.several):
            positive = np.array([count(data.targets[:, column]) for column in columns])
        elif data.target.several:
            positive = np.array([count(data.known[:, column]) for column in columns])
        else:
            positive = np.full(len(parts), count(data.labels[:, 1] == 1) if data.target.timed else units.n)
        negative = positive
        if ranking:
            others = data.known & ~data.targets
            negative = np.array([count(others[:, column]) for column in columns])
        return cls(
            parts=parts.mean(axis=0),
            variance=jackknife_variance(parts.mean(axis=0)),
            variances=np.array([jackknife_variance(column) for column in parts]),
            positive=positive,
            negative=negative,
            grouped=units.kind == "groups",
            n_units=units.n,
        )

    @property
    def fewest(self) -> int:
        """Units of the rarest kind."""
        return int(max(min(self.positive.min(), self.negative.min()), 1))

    def quantile(self, confidence: float, freedom: float, *, always: bool = False) -> float:
        """Return how many standard errors an interval reaches: Student's among groups, or always."""
        from scipy.stats import norm, t

        upper = (1 + confidence) / 2
        return float(t.ppf(upper, max(freedom, 1)) if self.grouped or always else norm.ppf(upper))


@dataclass(frozen=True)
class _Scale:
    """A scale on which a score is about normal: to it, back from it, and its slope at a score."""

    method: Method
    to: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    back: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    slope: Callable[[float], float]


def _logit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(values) - np.log1p(-values))


def _from_logit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-values)))


SCALES: Mapping[Kind | None, _Scale] = {
    "error": _Scale("log", np.log, np.exp, lambda value: 1 / value),
    "explained": _Scale(
        "log", lambda values: -np.log1p(-values), lambda values: -np.expm1(-values), lambda value: 1 / (1 - value)
    ),
    "correlation": _Scale("fisher", np.arctanh, np.tanh, lambda value: 1 / (1 - value**2)),
    "pairs": _Scale("logit", _logit, _from_logit, lambda value: 1 / (value * (1 - value))),
}
"""On which scale metrics of values, times and grades have symmetric intervals; R² on that of what is not explained."""


def _scaled_ends(
    metric: Metric, estimate: float, data: ScoredRows, spread: _Spread, confidence: float
) -> tuple[float, float, Method]:
    """Return ends that are symmetric on the scale of the metric, by the jackknife on that scale."""
    scale, z = SCALES[metric.interval], spread.quantile(confidence, spread.n_units - 1, always=True)
    if metric.interval == "pairs" and (estimate in {0, 1} or spread.variance == 0):
        return *_newcombe(estimate, spread.fewest, spread.fewest, z), "newcombe"
    if estimate == 0 and data.target.categorical:  # no grade is off; as many may be, by one, as Wilson's interval says
        return 0.0, z**2 / (spread.n_units + z**2), "wilson"
    if spread.variance == 0:
        return float("nan"), float("nan"), scale.method
    with np.errstate(divide="ignore"):
        here, parts = scale.to(np.array([estimate])), scale.to(spread.parts[~np.isnan(spread.parts)])
    if not np.isfinite(here).all():
        return float("nan"), float("nan"), scale.method
    # Without one row no error may be left, which has no logarithm.
    finite = np.isfinite(parts).all()
    variance = jackknife_variance(parts) if finite else spread.variance * scale.slope(estimate) ** 2
    low, high = scale.back(here[0] + np.array([-1, 1]) * z * np.sqrt(variance))
    return float(low), float(high), scale.method


def _share_ends(shares: NDArray[np.float64], spread: _Spread, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval of a share, or of the mean of several from theirs (Zou and Donner 2008)."""
    z, units = spread.quantile(confidence, spread.n_units - 1), np.maximum(spread.positive, 1)
    variances = spread.variances * np.where(units > 1, (units - 1) / units, 1)
    rows = np.divide(shares * (1 - shares), variances, out=units.astype(np.float64), where=variances > 0)
    low, high = _wilson(shares, rows, z)
    if len(shares) == 1:
        return float(low[0]), float(high[0])
    # Independent where each row has one class; otherwise the shares of a row, or a group, move together.
    together = spread.variance * len(shares) ** 2 / spread.variances.sum() if spread.variance > 0 else 1.0
    factor, mean = np.sqrt(together) / len(shares), shares.mean()
    below = float(mean - factor * np.linalg.norm(shares - low))
    above = float(mean + factor * np.linalg.norm(high - shares))
    return max(below, 0.0), min(above, 1.0)


def _ranking_ends(area: float, spread: _Spread, confidence: float) -> tuple[float, float, Method]:
    from scipy.special import expit, logit

    m, n = (max(int(counts.min()), 1) for counts in (spread.positive, spread.negative))
    # Satterthwaite's degrees of freedom of two variances that are inverse to the numbers of units.
    parts = 1 / (m**2 * max(m - 1, 1)) + 1 / (n**2 * max(n - 1, 1))
    z = spread.quantile(confidence, min((1 / m + 1 / n) ** 2 / parts, spread.n_units - 1))
    variance = spread.variance
    if area in {0, 1} or variance == 0:
        low, high = _newcombe(area, m, n, z)
        return low, high, "newcombe"
    if not spread.grouped:
        counts = zip(spread.positive, spread.negative, strict=True)
        textbook = np.mean([_pair_variance(area, *each) for each in counts])
        weight, classes = spread.fewest, len(spread.positive)
        variance = float(weight * variance + SMOOTHING * textbook / classes) / (weight + SMOOTHING)
    reach = z * np.sqrt(variance) / (area * (1 - area))
    return float(expit(logit(area) - reach)), float(expit(logit(area) + reach)), "logit"


def _agreement_ends(kappa: float, grades: Labels, spread: _Spread, confidence: float) -> tuple[float, float, Method]:
    """Return the ends on the scale of Fisher's z: quadratic kappa is an intraclass correlation (Fleiss & Cohen 1973).

    Where no grade is off, as many may be as Wilson's interval of their share says, by one; where leaving rows out
    changes nothing else, the variance is that of a correlation.
    """
    z, n = spread.quantile(confidence, spread.n_units - 1), spread.n_units
    if abs(kappa) == 1:
        beyond = z**2 / (n + z**2) / (2 * float(np.var(grades)))
        return (max(1 - beyond, -1.0), 1.0, "wilson") if kappa > 0 else (-1.0, min(beyond - 1, 1.0), "wilson")
    error = np.sqrt(spread.variance) / (1 - kappa**2) if spread.variance > 0 else 1 / np.sqrt(max(n - 3, 1))
    low, high = np.tanh(np.arctanh(kappa) + np.array([-1, 1]) * z * error)
    return float(low), float(high), "fisher"


def _pair_variance(area: float, positive: int, negative: int) -> float:
    """Return the variance of the AUROC of exponential scores, as if both kinds were equally many (Newcombe 2006)."""
    m, n = max(positive, 1), max(negative, 1)
    more = (m + n) / 2 - 1
    return area * (1 - area) * (1 + more * ((1 - area) / (2 - area) + area / (1 + area))) / (m * n)


def _newcombe(area: float, positive: int, negative: int, z: float) -> tuple[float, float]:
    """Return the AUROCs from which the one found is just not too far: Newcombe's method 5 (2006)."""
    from scipy.optimize import brentq

    def beyond(other: float) -> float:
        return float(abs(other - area) - z * np.sqrt(_pair_variance(other, positive, negative)))

    inside = min(max(area, NEARLY), 1 - NEARLY)
    low = 0.0 if area <= 0 else float(brentq(beyond, NEARLY, inside))
    high = 1.0 if area >= 1 else float(brentq(beyond, inside, 1 - NEARLY))
    return low, high


NEARLY = 1e-12
"""An AUROC of 0 or 1 would have no variance to begin with."""


def _without_each(data: ScoredRows, units: Units, metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Score without one part of the units after the other: per metric shape (n_columns, n_parts)."""
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    kept = {name: get_metric(name).kept(data) for name in metrics}
    for weights in units.left_out() if units.n else ():
        for name in metrics:
            found[name].append(get_metric(name).formula(data, weights)[kept[name]])
    return {name: np.concatenate(values, axis=1) if values else np.empty((1, 0)) for name, values in found.items()}


def jackknife_variance(parts: NDArray[np.float64]) -> float:
    """Return the jackknife's variance of a score from what it is without each part; 0 where there are not two."""
    defined = parts[~np.isnan(parts)]
    if len(defined) < 2:
        return 0.0
    return float((len(defined) - 1) / len(defined) * np.square(defined - defined.mean()).sum())


def percentile_ends(values: NDArray[np.float64], *, confidence: float) -> tuple[float, float]:
    """Return the central range of the values that are defined; NaN where fewer than two are."""
    defined = values[~np.isnan(values)]
    if len(defined) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
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
        Interval of the difference, corrected like ``p_holm``: it leaves out zero where, and only where, that is below 1
        less the confidence. Evaluations of earlier versions have the interval of one comparison alone.
    confidence : float
        Nominal coverage of the comparisons made together.
    p_value : float
        Two-sided p-value of no difference, by Student's t on the jackknife's error.
    p_holm : float
        The same after Holm's correction over the comparisons made together; equal to ``p_value`` for one alone.
    unit : str
        What varies independently: samples or groups.
    n_units : int
        How many there are.
    n_resamples, n_undefined : int
        Of a bootstrap, in earlier versions; 0 otherwise.
    same : tuple of str
        Other names of the second, where several name one model: they count as one comparison.
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
    n_resamples: int = 0
    n_undefined: int = 0
    same: tuple[str, ...] = ()

    @property
    def noise(self) -> bool:
        """Whether the difference may well be chance; also true where it cannot be told."""
        return not self.p_holm <= SIGNIFICANCE

    def __str__(self) -> str:
        title, second = get_metric(self.metric).title, " = ".join((self.second, *self.same))
        if np.isnan(self.difference):
            return f"{self.first} and {second} cannot be compared: {title} is undefined on these samples."
        scores = f"{title} {self.first_score:.4f} against {self.second_score:.4f}"
        if np.isnan(self.low):
            return (
                f"Whether {self.first} and {second} differ cannot be told: {scores}, but leaving out "
                f"one of the {self.n_units} {self.unit} after the other does not say how far the scores may move."
            )
        if self.difference == 0 and self.low == 0 and self.high == 0:
            return f"{self.first} and {second} score the same, whichever rows are left out ({scores})."
        corrected = " after Holm's correction" if self.p_holm > self.p_value else ""
        evidence = (
            f"difference {self.difference:+z.4f}, {self.confidence:.0%} interval {self.low:+z.4f} to {self.high:+z.4f} "
            f"over {self.n_units} {self.unit}, p = {self.p_holm:.3g}{corrected}"
        )
        if self.noise:
            return f"The difference between {self.first} and {second} is within noise: {scores} ({evidence})."
        better = (self.difference > 0) == get_metric(self.metric).higher_is_better
        return f"{self.first} is {'better' if better else 'worse'} than {second}: {scores} ({evidence})."


def distinct(comparisons: Mapping[str, Comparison]) -> list[Comparison]:
    """Return every comparison once, however many names its second has."""
    named: set[str] = set()
    found = []
    for comparison in comparisons.values():
        if comparison.second not in named:
            found.append(comparison)
        named.update(comparison.same)
    return found


def named_together(same: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """Return every model once, under all its names.

    Parameters
    ----------
    same : mapping of str to collection of str
        The other names of the model that goes by each name.

    Returns
    -------
    dict of str to tuple of str
        All names of each model, in the order given, by the first of them.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, others in same.items():
        if not any(name in names for names in found.values()):
            found[name] = (name, *(other for other in same if other in others and other != name))
    return found


def compare(
    task: Task | Target,
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    names: tuple[str, str] = ("first", "second"),
    metric: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare the predictions of two predictors on the same rows.

    Parameters
    ----------
    task : Task or Target
        What the labels are.
    labels : array-like of int
        As for :func:`biofuse.evaluation.metrics.score`.
    first, second : array-like of float
        Probabilities of both predictors for these rows.
    ids : array-like of str, shape (n,)
        Names of the rows.
    groups : array-like of str, shape (n,), optional
        Patients or slides, which vary as wholes.
    names : pair of str
        What the predictors are called.
    metric : str, optional
        By default the one that subsets of such a target are chosen by.
    confidence : float, default 0.95
        Nominal coverage.
    """
    units = Units.of(ids, groups)
    rows = [prepare(task, labels, probabilities) for probabilities in (first, second)]
    metric = metric or default_metric(rows[0].target)
    both = [_Varied.of(data, units, metric) for data in rows]
    return both[0].against(both[1], units=units, metric=metric, names=names, confidence=confidence)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Varied:
    """A score, and what it is without one part of the units after the other."""

    score: float
    parts: NDArray[np.float64]

    @classmethod
    def of(cls, data: ScoredRows, units: Units, metric: str) -> "_Varied":
        if len(units.of_row) != data.n:
            raise AlignmentError(f"{len(units.of_row)} ids but {data.n} predictions.")
        score = float(get_metric(metric).resample(data, np.ones((data.n, 1)))[0])
        return cls(score=score, parts=_without_each(data, units, [metric])[metric].mean(axis=0))

    def against(
        self, other: "_Varied", *, units: Units, metric: str, names: tuple[str, str], confidence: float = 0.95
    ) -> Comparison:
        """Compare two scores on the same units."""
        difference = self.score - other.score
        low, high, p_value = _paired(difference, self.parts - other.parts, confidence)
        return Comparison(
            metric=metric,
            first=names[0],
            second=names[1],
            first_score=self.score,
            second_score=other.score,
            difference=difference,
            low=low,
            high=high,
            confidence=confidence,
            p_value=p_value,
            p_holm=p_value,
            unit=units.kind,
            n_units=units.n,
        )


def _paired(difference: float, parts: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """Return the interval of a difference and its p-value, from what it is without one unit after the other."""
    from scipy.stats import t

    freedom = int(np.isfinite(parts).sum()) - 1
    if np.isnan(difference) or freedom < 1:
        return float("nan"), float("nan"), float("nan")
    error = float(np.sqrt(jackknife_variance(parts)))
    if error == 0 and difference == 0:
        return 0.0, 0.0, 1.0
    if error == 0:  # scores at the ends of what is possible: so few rows say nothing of how far they may move
        return float("nan"), float("nan"), float("nan")
    reach = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return difference - reach, difference + reach, float(2 * t.sf(abs(difference) / error, freedom))


def compare_with(
    task: Task | Target,
    labels: ArrayLike,
    chosen: ArrayLike,
    baselines: Mapping[str, ArrayLike],
    *,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    name: str = "chosen",
    metric: str | None = None,
    confidence: float = 0.95,
) -> dict[str, Comparison]:
    """Compare the chosen predictor with each baseline (best single, all, greedy), Holm-corrected together.

    Baselines with the same predictions, throughout, are one model under several names, and count once.

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
    units = Units.of(ids, groups)
    rows = prepare(task, labels, chosen)
    metric_ = metric or default_metric(rows.target)
    own = _Varied.of(rows, units, metric_)
    rivals: list[tuple[list[str], NDArray[np.float64]]] = []
    for baseline, values in baselines.items():
        probabilities = np.asarray(values, dtype=np.float64)
        known = next((names for names, other in rivals if np.array_equal(other, probabilities)), None)
        if known is None:
            rivals.append(([baseline], probabilities))
        else:
            known.append(baseline)
    varied = [_Varied.of(prepare(task, labels, probabilities), units, metric_) for _, probabilities in rivals]

    def against(place: int, confidence: float) -> Comparison:
        names = (name, rivals[place][0][0])
        return own.against(varied[place], units=units, metric=metric_, names=names, confidence=confidence)

    p_values = [against(place, confidence).p_value for place in range(len(rivals))]
    found: dict[str, Comparison] = {}
    for place, (p_holm, level) in enumerate(zip(*holm_levels(p_values, confidence=confidence), strict=True)):
        comparison = against(place, level).model_copy(update={"p_holm": p_holm, "confidence": confidence})
        for called in rivals[place][0]:
            others = tuple(other for other in rivals[place][0] if other != called)
            found[called] = comparison.model_copy(update={"second": called, "same": others})
    return {baseline: found[baseline] for baseline in baselines}


def holm_levels(p_values: Sequence[float], *, confidence: float = 0.95) -> tuple[list[float], list[float]]:
    """Return Holm's p-values, and the confidence at which an interval of each comparison says the same as they do.

    With k comparisons left at its step, one has the interval of a confidence of ``1 - (1 - confidence) / k``, or of a
    higher one where an earlier step ends the procedure: it leaves out zero where, and only where, the corrected p-value
    is below ``1 - confidence``.

    Parameters
    ----------
    p_values : sequence of float
        Of each comparison, one alone; NaN where undefined.
    confidence : float, default 0.95
        Nominal coverage of the comparisons made together.

    Returns
    -------
    p_holm : list of float
        As of :func:`holm`.
    levels : list of float
    """
    p, corrected = np.asarray(p_values, dtype=np.float64), holm(p_values)
    left = np.empty(len(p))
    left[np.argsort(np.where(np.isnan(p), 1.0, p), kind="stable")] = np.arange(len(p), 0, -1)
    factor = np.fmax(left, np.divide(corrected, p, out=left.copy(), where=p > 0))
    return corrected.tolist(), (1 - (1 - confidence) / factor).tolist()


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values for having made several comparisons (Holm 1979); an undefined one stays NaN and counts as 1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(np.where(np.isnan(p), 1.0, p), kind="stable")
    adjusted = np.empty_like(p)
    steps = np.where(np.isnan(p), 1.0, p)[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return np.where(np.isnan(p), np.nan, adjusted)


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


def share_interval(
    hits: NDArray[np.bool_], units: NDArray[np.integer], *, grouped: bool, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return a share of rows and its interval: Wilson's, for as many independent rows as vary as much.

    Parameters
    ----------
    hits : ndarray of bool, shape (n,)
    units : ndarray of int, shape (n,)
        Which unit each row belongs to.
    grouped : bool
        Whether units are groups, which vary as wholes; otherwise every row is one.
    confidence : float, default 0.95
        Nominal coverage.

    Returns
    -------
    estimate, low, high : float
        NaN without a row.
    """
    if not len(hits):
        return float("nan"), float("nan"), float("nan")
    share = np.array([hits.mean()])
    if not grouped:
        low, high = wilson(share, np.array([len(hits)]), confidence=confidence)
        return float(share[0]), float(low[0]), float(high[0])
    _, place = np.unique(units, return_inverse=True)
    sizes, found = np.bincount(place), np.bincount(place, hits)
    left = len(hits) - sizes
    without = np.divide(hits.sum() - found, left, out=np.full(len(sizes), np.nan), where=left > 0)
    count = np.array([len(sizes)])
    variance = jackknife_variance(without)
    spread = _Spread(
        parts=without, variance=variance, variances=np.array([variance]), positive=count, negative=count, grouped=True,
        n_units=len(sizes),
    )  # fmt: skip
    return float(share[0]), *_share_ends(share, spread, confidence)


def wilson(
    share: NDArray[np.float64], counts: NDArray[np.int64], *, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of Wilson's score interval (1927) of shares out of counts."""
    from scipy.special import ndtri

    return _wilson(share, counts, float(ndtri((1 + confidence) / 2)))


def _wilson(share: Any, counts: Any, z: float) -> tuple[Any, Any]:
    middle = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    reach = z / (1 + z**2 / counts) * np.sqrt(share * (1 - share) / counts + z**2 / (4 * counts**2))
    return np.clip(middle - reach, 0, 1), np.clip(middle + reach, 0, 1)
