"""Paired comparison of predictors on the same rows, and what it means in words."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError, UndefinedMetricError
from biofuse.core.target import Task
from biofuse.evaluation.intervals import RESAMPLES, Units, percentile_ends, resample
from biofuse.evaluation.metrics import DEFAULT_METRIC, Record, Score, get_metric, prepare

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
        return sentence(self)


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


def sentence(comparison: Comparison) -> str:
    """Say in words what a comparison shows, and when it shows nothing."""
    c = comparison
    title = get_metric(c.metric).title
    if np.isnan(c.difference):
        return f"{c.first} and {c.second} cannot be compared: {title} is undefined on these samples."
    scores = f"{title} {c.first_score:.4f} against {c.second_score:.4f}"
    if c.difference == 0 and c.low == 0 and c.high == 0:
        return f"{c.first} and {c.second} score the same on every resample ({scores})."
    evidence = (
        f"difference {c.difference:+.4f}, {c.confidence:.0%} interval {c.low:+.4f} to {c.high:+.4f} "
        f"over {c.n_units} {c.unit}, p = {c.p_holm:.3g}"
    )
    if c.noise:
        return f"The difference between {c.first} and {c.second} is within noise: {scores} ({evidence})."
    better = (c.difference > 0) == get_metric(c.metric).higher_is_better
    return f"{c.first} is {'better' if better else 'worse'} than {c.second}: {scores} ({evidence})."


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
