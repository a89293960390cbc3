"""Calibration: probabilities that are as often right as they say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError
from biofuse.core.hashing import generator
from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Labels, Target
from biofuse.evaluation.intervals import FEW_GROUPS, Units, percentile_ends
from biofuse.evaluation.metrics import Record, Score

Values = NDArray[np.float64]

BOUND = 10.0
"""Natural logarithm of the largest temperature, and of one over the smallest, as in scikit-learn."""

PRECISION = 64 * float(np.finfo(np.float64).eps)
"""How nearly the logarithm of a temperature is found, as in scikit-learn."""

TINY = float(np.finfo(np.float64).eps)
"""Added to probabilities before their logarithm is taken, as in scikit-learn: some heads give zeros."""

PSEUDO = 1.0
"""Samples of unknown class that a temperature is found with beside the real ones. Without any, a predictor that makes
no mistake on a hundred samples would be taken to make none on a million."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Temperatures that probabilities are brought to: one, or of several labels one for each.

    The logarithms of probabilities are divided by the temperature and normalised (Guo et al. 2017, ICML): above 1 makes
    a predictor less sure, below 1 surer. The most probable class stays, and the order of samples by the probability of
    one of two classes, or of a label.

    Attributes
    ----------
    temperatures : tuple of float
    n : int
        Samples that they were found with.

    Examples
    --------
    >>> import numpy as np
    >>> from biofuse.core.target import Target, Task
    >>> from biofuse.evaluation.calibration import Calibration
    >>> target = Target.numbered(Task.BINARY, 2)
    >>> Calibration(temperatures=(0.5,), n=100).apply(target, np.array([[0.25, 0.75]])).round(3)
    array([[0.1, 0.9]])
    """

    temperatures: tuple[float, ...]
    n: int

    def fits(self, target: Target) -> bool:
        """Whether there is one temperature or, of several labels, one for each."""
        return len(self.temperatures) == (target.n_columns if target.several else 1)

    def apply(self, target: Target, probabilities: Values) -> Values:
        """Return the probabilities at these temperatures, same shape.

        Raises
        ------
        AlignmentError
            If they do not fit the target.
        """
        if not self.fits(target):
            raise AlignmentError(f"{len(self.temperatures)} temperatures do not fit {target.n_columns} {target.noun}.")
        if not target.several:
            return _softmax(_logits(probabilities) / self.temperatures[0])
        columns = zip(probabilities.T, self.temperatures, strict=True)
        return np.column_stack([_softmax(_logits(_pair(column)) / each)[:, 1] for column, each in columns])

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what is saved: JSON values, and no arrays."""
        return {"temperatures": list(self.temperatures), "n": self.n}, {}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:  # noqa: ARG003 (none)
        """Build it from what :meth:`state` gave.

        Raises
        ------
        ArtifactError
            If that is malformed.
        """
        with reading("calibration"):
            temperatures = tuple(float(each) for each in json["temperatures"])
            if not temperatures or not all(0 < each < np.inf for each in temperatures):
                raise ValueError("a temperature is no positive number")
            return cls(temperatures=temperatures, n=int(json["n"]))


def calibrate(
    target: Target, labels: Labels, probabilities: Values, *, rows: ArrayLike, pseudo: float = PSEUDO
) -> Calibration:
    """Find the temperature of the least log-loss; of several labels, of each by itself.

    It is that of scikit-learn's ``CalibratedClassifierCV(method="temperature")``, but for the samples of unknown class
    that are counted in (:data:`PSEUDO`). A label that all samples have, or none, keeps its probabilities.

    Parameters
    ----------
    target : Target
        What is predicted.
    labels : ndarray of int64
        Shape (m,) class indices, or (m, n_labels) zeros and ones.
    probabilities : ndarray of float64, shape (m, n_classes)
        Of predictors that were not fitted on these samples.
    rows : array-like of int, shape (m,)
        Which sample each is about: one that comes several times, from repeats of cross-validation, counts once.
    pseudo : float
        Samples of unknown class counted in, each as likely of any class.
    """
    n = len(np.unique(np.asarray(rows)))
    smoothing = pseudo / (n + pseudo)
    if not target.several:
        return Calibration(temperatures=(_temperature(_logits(probabilities), labels, smoothing),), n=n)
    known = target.known(labels)
    temperatures = tuple(
        _of_label(probabilities[there, column], labels[there, column], smoothing)
        for column, there in enumerate(known.T)
    )
    return Calibration(temperatures=temperatures, n=n)


def _of_label(column: Values, truth: Labels, smoothing: float) -> float:
    return _temperature(_logits(_pair(column)), truth, smoothing) if 0 < truth.sum() < len(truth) else 1.0


def _temperature(logits: Values, truth: Labels, smoothing: float) -> float:
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    # Of every sample the logits of its class, or in the share of samples of unknown class the mean over classes.
    own = (1 - smoothing) * logits[np.arange(len(truth)), truth.astype(np.int64)] + smoothing * logits.mean(axis=1)

    def loss(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        return float(np.mean(logsumexp(inverse * logits, axis=1) - inverse * own))

    found = minimize_scalar(loss, bounds=(-BOUND, BOUND), method="bounded", options={"xatol": PRECISION})
    return float(np.exp(-found.x))


def _logits(probabilities: Values) -> Values:
    return np.asarray(np.log(probabilities + TINY))


def _softmax(logits: Values) -> Values:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _pair(column: Values) -> Values:
    return np.column_stack([1 - column, column])


BINS = 10
"""Bins of equal width between 0 and 1: what reliability diagrams usually have (Guo et al. 2017, arXiv:1706.04599)."""

RESAMPLES = 1000
"""Resamples behind an interval of the expected calibration error, and draws of what chance makes of it: either end is
then at a quantile known to within half a per cent."""


SURE = 0.95
"""Share of draws of perfect probabilities beyond which an error is no chance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """How often what is said with a confidence is right.

    Attributes
    ----------
    confidence, accuracy : ndarray of float64, shape (n_bins,)
        Means in each bin that holds any.
    counts : ndarray of int64, shape (n_bins,)
    error : float
        Expected calibration error: mean of ``|accuracy - confidence|``, weighted by the counts.
    """

    confidence: Values
    accuracy: Values
    counts: NDArray[np.int64]
    error: float


def reliability(confidence: Values, right: NDArray[np.bool_]) -> Reliability:
    """Bin confidences into :data:`BINS` of equal width; values on an edge belong to the bin below it.

    Parameters
    ----------
    confidence : ndarray of float64, shape (n,)
    right : ndarray of bool, shape (n,)
    """
    place = bins_of(confidence)
    counts = np.bincount(place, minlength=BINS)
    there = counts > 0
    means = np.bincount(place, confidence, minlength=BINS)[there] / counts[there]
    shares = np.bincount(place, right, minlength=BINS)[there] / counts[there]
    gap = float((np.abs(shares - means) * counts[there]).sum() / max(counts.sum(), 1))
    return Reliability(confidence=means, accuracy=shares, counts=counts[there], error=gap)


def bins_of(confidence: Values) -> NDArray[np.int64]:
    """Return which of :data:`BINS` each confidence falls into; one on an edge belongs to the bin below it."""
    return np.asarray(np.searchsorted(np.linspace(0.0, 1.0, BINS + 1)[1:-1], confidence))


class Estimate(Record):
    """A number with its 95 % interval."""

    estimate: Score
    low: Score
    high: Score

    @classmethod
    def of_mean(cls, values: Values, units: Units) -> Self:
        """Return a mean and Student's interval, by the variance of a mean over units of whatever sizes; not below 0."""
        from scipy.stats import t

        mean = float(values.mean())
        if units.n < 2:
            return cls(estimate=mean, low=float("nan"), high=float("nan"))
        beyond = np.bincount(units.of_row, values - mean, minlength=units.n)
        error = np.sqrt(units.n / (units.n - 1) * np.square(beyond).sum()) / len(values)
        reach = float(t.ppf(0.975, units.n - 1) * error)
        return cls(estimate=mean, low=max(mean - reach, 0.0), high=mean + reach)

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.low:.3f} to {self.high:.3f})"


class Quality(Record):
    """How good probabilities are.

    Attributes
    ----------
    loss : Estimate
        Log-loss: mean of minus the logarithm of the probability of the true class; of several labels, over all.
    brier : Estimate
        Brier score: mean squared error of the probabilities, summed over classes (of two, one is counted; of several
        labels, their mean), as scikit-learn has it.
    ece : Estimate
        Expected calibration error of the predicted class (of several labels, of each), over :data:`BINS` bins.
    """

    loss: Estimate
    brier: Estimate
    ece: Estimate


class CalibrationTest(Record):
    """What calibration does to test samples.

    Attributes
    ----------
    temperatures : tuple of float
        One, or of several labels one for each; empty where the model is not calibrated.
    before, after : Quality
        Of the probabilities as the predictor gives them, and calibrated.
    chance, chance_high : float
        Expected calibration error that probabilities which are right exactly as often as they say would show on as many
        independent samples: the mean, and what it exceeds in one of twenty draws.
    few_groups : bool
        Whether there are too few groups for the intervals to be trusted.
    """

    temperatures: tuple[float, ...]
    before: Quality
    after: Quality
    chance: Score
    chance_high: Score
    few_groups: bool = False

    def __str__(self) -> str:
        change = (
            "Probabilities are not calibrated"
            if not self.temperatures
            else f"Calibration takes log-loss from {self.before.loss.estimate:.3f} to {self.after.loss}, "
            f"the Brier score from {self.before.brier.estimate:.3f} to {self.after.brier}"
        )
        verdict = "no more than" if self.after.ece.estimate <= self.chance_high else "beyond"
        return (
            f"{change}; expected calibration error {self.before.ece.estimate:.3f} to {self.after.ece}, {verdict} what "
            f"chance makes of perfect probabilities (up to {self.chance_high:.3f})."
        )


def stated(target: Target, labels: Labels, probabilities: Values) -> tuple[Values, NDArray[np.bool_]]:
    """Return the probability of each predicted class and whether it is true; of several labels, of every label.

    Returns
    -------
    confidence : ndarray of float64, shape (n,), or of several labels that of all that are known, sample by sample
    right : ndarray of bool, same shape
    """
    truth = target.indicators(labels)
    if target.several:
        known = target.known(labels)
        return probabilities[known], truth[known]
    return probabilities.max(axis=1), np.asarray(truth[np.arange(len(truth)), probabilities.argmax(axis=1)])


def measure_calibration(
    target: Target,
    labels: Labels,
    before: Values,
    after: Values,
    *,
    calibration: Calibration | None,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
) -> CalibrationTest:
    """Measure how good probabilities are on test samples, before and after calibration.

    Intervals of means are Student's, over groups where there are groups; those of the expected calibration error come
    from resampling units, turned around the estimate, because resamples are as far above it as it is above the truth,
    and reach down to nothing where perfect probabilities would show as much.

    Parameters
    ----------
    target : Target
    labels : ndarray of int64, shape (n,) or (n, n_labels)
    before, after : ndarray of float64, shape (n, n_classes)
        Probabilities of the same samples.
    calibration : Calibration or None
        What led from one to the other.
    ids : array-like of str, shape (n,)
    groups : array-like of str, shape (n,), optional
        Patients or slides, which vary as wholes.
    """
    units = Units.of(ids, groups)
    first, second = (_quality(target, labels, each, units) for each in (before, after))
    by_chance = _chance(stated(target, labels, after)[0])
    return CalibrationTest(
        temperatures=() if calibration is None else calibration.temperatures,
        before=first,
        after=second,
        chance=float(by_chance.mean()),
        chance_high=float(np.quantile(by_chance, SURE)),
        few_groups=units.kind == "groups" and units.n < FEW_GROUPS,
    )


def _quality(target: Target, labels: Labels, probabilities: Values, units: Units) -> Quality:
    truth = target.indicators(labels)
    cut = np.clip(probabilities, TINY, 1 - TINY)
    if target.several:
        known = target.known(labels)
        units = units.of_entries(np.nonzero(known)[0])
        loss = -np.where(truth, np.log(cut), np.log1p(-cut))[known]
        brier = np.square(probabilities - truth)[known]
    else:
        loss = -np.log(cut[np.arange(len(truth)), labels.astype(np.int64)])
        brier = np.square(probabilities - truth).sum(axis=1) / (2 if target.n_columns == 2 else 1)
    return Quality(
        loss=Estimate.of_mean(loss, units),
        brier=Estimate.of_mean(brier, units),
        ece=_ece(target, labels, probabilities, units),
    )


def _ece(target: Target, labels: Labels, probabilities: Values, units: Units) -> Estimate:
    confidence, right = stated(target, labels, probabilities)
    gaps = (right - confidence)[:, None]
    found = float(_errors(confidence, gaps, np.ones((len(gaps), 1)))[0])
    parts = [_errors(confidence, gaps * weights, weights) for weights in units.weights(RESAMPLES, seed=0)]
    low, high = percentile_ends(np.concatenate(parts), confidence=0.95)
    by_chance = found <= float(np.quantile(_chance(confidence), SURE))
    return Estimate(
        estimate=found, low=0.0 if by_chance else max(2 * found - high, 0.0), high=max(2 * found - low, found)
    )


def _chance(confidence: Values) -> Values:
    """Return expected calibration errors of draws in which what is said is right exactly as often as said."""
    draws = generator(0, "calibrated", len(confidence)).random((RESAMPLES, len(confidence))) < confidence
    return _errors(confidence, draws.T - confidence[:, None], np.ones((len(confidence), 1)))


def _errors(confidence: Values, gaps: Values, weights: Values) -> Values:
    """Return the expected calibration error of weighted gaps, shape (n_weightings,)."""
    member = (bins_of(confidence)[:, None] == np.arange(BINS)).astype(np.float64)
    return np.asarray(np.abs(member.T @ gaps).sum(axis=0) / weights.sum(axis=0))
