"""Operating points: what is found and missed at a threshold, what that is worth, and what may be left unanswered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import UndefinedMetricError, option
from biofuse.core.seals import Arrays, reading
from biofuse.core.target import THRESHOLD, Labels, Target
from biofuse.evaluation.intervals import FEW_GROUPS, Units, share_interval
from biofuse.evaluation.metrics import Record, Score
from biofuse.evaluation.rows import ScoredRows

Values = NDArray[np.float64]

DEFAULT_SENSITIVITY = 0.95
"""What a threshold is chosen for where no other sensitivity is asked for: one missed in twenty."""

MOST_STEPS = 1000
"""Thresholds of a class that a model keeps: a thousandth of sensitivity apart, finer than any interval of it."""

ANSWERED = (1.0, 0.9, 0.8, 0.7, 0.5)
"""Shares of the samples that are answered, of which the accuracy is given."""

SAID_SHARE = 0.85
"""Below which the first of these shares is the one that is said in a sentence."""

GRID = np.arange(1, 100) / 100
"""Thresholds of a decision curve: every per cent."""

Rule = Literal["default", "sensitivity", "youden", "given"]
"""How a threshold came about: none was chosen, for a wanted sensitivity, by Youden's index, or a number was given."""


ChosenRule = Literal["sensitivity", "youden"]
"""How a threshold is chosen on development data."""

CHOSEN_RULES: tuple[ChosenRule, ...] = get_args(ChosenRule)

Threshold = float | ChosenRule
"""What a prediction is made at: a probability, or how it is chosen."""


def read_threshold(threshold: str | float, *, sensitivity: float | None = None) -> Threshold:
    """Return a threshold as it is meant.

    Raises
    ------
    UndefinedMetricError
        If it is neither a probability nor a way of choosing one, or a sensitivity is given beside another one.
    """
    if sensitivity is not None:
        check_stated(sensitivity=sensitivity)
        if threshold != "sensitivity":
            raise UndefinedMetricError(
                f"{option('threshold', threshold)} is not chosen for a sensitivity.",
                remedy=f"Give {option('sensitivity', sensitivity)} or {option('threshold', threshold)}, not both.",
            )
    for rule in CHOSEN_RULES:
        if threshold == rule:
            return rule
    try:
        number = float(threshold)
    except ValueError:
        number = float("nan")
    if not 0 <= number < 1:
        raise UndefinedMetricError(
            f"{option('threshold', threshold)} is no threshold: a class is called where its probability exceeds it.",
            remedy=f"Give a probability below 1, or how it is chosen: {option('threshold', 'sensitivity')} or "
            f"{option('threshold', 'youden')}.",
        )
    return number


def check_stated(*, sensitivity: float = DEFAULT_SENSITIVITY, prevalence: float | None = None) -> None:
    """Refuse a wanted sensitivity, or a stated prevalence, that can be none.

    Raises
    ------
    UndefinedMetricError
        If it is no share: above 0, and at most 1, or below it for a prevalence.
    """
    if not 0 < sensitivity <= 1:
        raise UndefinedMetricError(
            f"{option('sensitivity', sensitivity)} is no share of samples.",
            remedy=f"Give one above 0 and at most 1: {option('sensitivity', DEFAULT_SENSITIVITY)}, for example.",
        )
    if prevalence is not None and not 0 < prevalence < 1:
        raise UndefinedMetricError(
            f"{option('prevalence', prevalence)} is no share of samples of which some are of the class.",
            remedy=f"Give one between 0 and 1: {option('prevalence', 0.02)}, for example.",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ThresholdCurve:
    """What each threshold of a class finds and spares on out-of-fold predictions, the highest threshold first.

    Attributes
    ----------
    threshold : ndarray of float64, shape (k,)
        Strictly decreasing. A sample is positive where its probability exceeds the threshold, strictly.
    sensitivity, specificity : ndarray of float64, shape (k,)
        Shares of the positive predictions above each, and of the negative ones not above it.
    positives : int
        Samples of the class; each may have several out-of-fold predictions.
    """

    threshold: Values
    sensitivity: Values
    specificity: Values
    positives: int

    @classmethod
    def of(cls, targets: ArrayLike, probabilities: ArrayLike, *, rows: ArrayLike | None = None) -> "ThresholdCurve":
        """Return one threshold for each sensitivity that can be had: that of the greatest specificity.

        Parameters
        ----------
        targets : array-like of bool, shape (m,)
            Whether each prediction is of a sample of the class.
        probabilities : array-like of float, shape (m,)
            Of the class, calibrated as those that the threshold will be used on.
        rows : array-like of int, shape (m,), optional
            Which sample each prediction is of; every one of another where not given.
        """
        positive, p = np.asarray(targets, dtype=bool), np.asarray(probabilities, dtype=np.float64)
        up, down = np.sort(p[positive]), np.sort(p[~positive])
        values = np.unique(up[up > 0])[::-1]
        every = np.unique(np.append(p, 0.0))
        below = every[np.searchsorted(every, values) - 1]
        middle = (values + below) / 2  # which rounds to the upper of two neighbouring numbers, or not
        threshold = np.where(middle < values, middle, below)
        # Of a class that is absent, or everything, one of the two shares is not defined.
        with np.errstate(invalid="ignore"):
            found = (len(up) - np.searchsorted(up, values, side="left")) / np.float64(len(up))
            spared = np.searchsorted(down, values, side="left") / np.float64(len(down))
        kept = _some_of(found, spared)
        numbers = np.arange(len(p)) if rows is None else np.asarray(rows)
        return cls(
            threshold=threshold[kept],
            sensitivity=found[kept],
            specificity=spared[kept],
            positives=len(np.unique(numbers[positive])),
        )

    def _needed(self, wanted: float) -> float:
        """Return the share of positives to be found here so that a new one is found with the wanted probability.

        The quantile of split-conformal prediction (Vovk et al. 2005): a new positive is as likely to rank anywhere
        among the n known ones.
        """
        return math.ceil((self.positives + 1) * wanted - 1e-9) / max(self.positives, 1)

    def promises(self, wanted: float) -> bool:
        """Tell whether some threshold finds a new sample of the class with at least the wanted probability."""
        return bool(len(self.threshold) and self._needed(wanted) <= self.sensitivity[-1] + 1e-12)

    def at_sensitivity(self, wanted: float) -> float:
        """Return the highest threshold that finds a new sample of the class with at least the wanted probability.

        Where none does, the one that finds most; NaN where no sample of the class is known.
        """
        if not len(self.threshold):
            return float("nan")
        place = int(np.searchsorted(self.sensitivity, self._needed(wanted) - 1e-12))
        return float(self.threshold[min(place, len(self.threshold) - 1)])

    def youden(self) -> float:
        """Return the threshold of the greatest sum of sensitivity and specificity (Youden 1950), of equals the highest.

        NaN where it is not defined.
        """
        index = self.sensitivity + self.specificity
        return float(self.threshold[int(index.argmax())]) if len(index) and np.isfinite(index).all() else float("nan")


def _some_of(found: Values, spared: Values) -> NDArray[np.int64]:
    """Return which of many thresholds are kept: evenly by sensitivity, the last, and the best by Youden's index."""
    if len(found) <= MOST_STEPS:
        return np.arange(len(found))
    steps = np.searchsorted(found, np.linspace(0, found[-1], MOST_STEPS))
    best = [] if np.isnan(spared).any() else [int((found + spared).argmax())]
    return np.unique(np.concatenate([steps.clip(0, len(found) - 1), best]).astype(np.int64))


@dataclass(frozen=True, kw_only=True, eq=False)
class Thresholds:
    """What is known from out-of-fold predictions of the thresholds of each class that is told from the rest.

    Attributes
    ----------
    curves : tuple of ThresholdCurve
        Of the second of two classes, or of every class or label.
    """

    curves: tuple[ThresholdCurve, ...]

    @classmethod
    def learn(cls, target: Target, labels: Labels, probabilities: Values, *, rows: NDArray[np.int64]) -> "Thresholds":
        """Learn from predictions of samples that the predictor was not fitted on.

        Parameters
        ----------
        target : Target
        labels : ndarray of int64, shape (m,) or (m, n_labels)
        probabilities : ndarray of float64, shape (m, n_classes)
            Calibrated as those that thresholds will be used on.
        rows : ndarray of int64, shape (m,)
            Which sample each prediction is of.
        """
        indicators, known = target.indicators(labels), target.known(labels)
        return cls(
            curves=tuple(
                ThresholdCurve.of(indicators[there, column], probabilities[there, column], rows=rows[there])
                for column in target.ranked_columns
                for there in (known[:, column],)
            )
        )

    def fits(self, target: Target) -> bool:
        """Whether there is a curve for each class that is told from the rest."""
        return len(self.curves) == len(target.ranked_columns)

    def at(self, target: Target, rule: ChosenRule, *, sensitivity: float) -> Values:
        """Return a threshold for every class, shape (n_classes,); NaN where none is known."""
        found = np.full(target.n_columns, np.nan)
        for column, curve in zip(target.ranked_columns, self.curves, strict=True):
            found[column] = curve.youden() if rule == "youden" else curve.at_sensitivity(sensitivity)
        return found

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what is saved: JSON values, and arrays by name."""
        arrays = {f"{place}.{name}": getattr(curve, name) for place, curve in enumerate(self.curves) for name in CURVE}
        return {"positives": [curve.positives for curve in self.curves]}, arrays

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Thresholds":
        """Build it from what :meth:`state` gave.

        Raises
        ------
        ArtifactError
            If that is malformed.
        """
        with reading("thresholds"):
            curves = []
            for place, positives in enumerate(json["positives"]):
                own = {name: np.asarray(arrays[f"{place}.{name}"], dtype=np.float64) for name in CURVE}
                if {each.shape for each in own.values()} != {own[CURVE[0]].shape[:1]}:
                    raise ValueError("thresholds and what they find are not of one length")
                curves.append(ThresholdCurve(positives=int(positives), **own))
            return cls(curves=tuple(curves))


CURVE = ("threshold", "sensitivity", "specificity")
"""Arrays of a :class:`ThresholdCurve`."""


class Share(Record):
    """A share of samples, with its 95 % interval; NaN where there is nothing to take it of."""

    estimate: Score
    low: Score
    high: Score

    @classmethod
    def of(cls, hits: NDArray[np.bool_], rows: NDArray[np.bool_], units: Units) -> "Share":
        """Return the share of hits among some of the rows."""
        estimate, low, high = share_interval(hits[rows], units.of_row[rows], grouped=units.kind == "groups")
        return cls(estimate=estimate, low=low, high=high)

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.low:.3f}\u2013{self.high:.3f})"


NOTHING = Share(estimate=float("nan"), low=float("nan"), high=float("nan"))


class OperatingPoint(Record):
    """One class against the rest at one threshold.

    Attributes
    ----------
    of : str
        The class or label.
    rule : {"default", "sensitivity", "youden", "given"}
        How the threshold was chosen.
    threshold : float
        A sample is positive where its probability exceeds it; NaN where it is where the class is the most probable.
    positives, negatives : int
        Samples that are, and are not, of the class.
    sensitivity, specificity : Share
        Of these, called positive, and not called so.
    prevalence : float
        Share of samples of the class that the next two are at: stated, or that of these samples.
    ppv, npv : Share
        Positive and negative predictive value: share of samples of the class among those called positive, and of others
        among the rest.
    net_benefit : float
        True positives less false ones at the exchange rate of the threshold, per sample (Vickers and Elkin 2006); NaN
        without a threshold.
    few_groups : bool
        Whether there are too few groups for the intervals to be trusted.
    """

    of: str
    rule: Rule
    threshold: Score
    positives: int
    negatives: int
    sensitivity: Share
    specificity: Share
    prevalence: Score
    ppv: Share
    npv: Share
    net_benefit: Score
    few_groups: bool = False

    @classmethod
    def measure(
        cls,
        target: NDArray[np.bool_],
        called: NDArray[np.bool_],
        units: Units,
        *,
        of: str,
        rule: Rule,
        threshold: float,
        prevalence: float | None = None,
    ) -> "OperatingPoint":
        """Count what a threshold finds.

        Parameters
        ----------
        target, called : ndarray of bool, shape (n,)
            Which samples are of the class, and which are called so.
        units : Units
            What varies independently: groups where there are groups.
        of, rule, threshold
            See the attributes.
        prevalence : float, optional
            By default that of these samples.
        """
        sensitivity, specificity = Share.of(called, target, units), Share.of(~called, ~target, units)
        share = prevalence if prevalence is not None else float(target.mean()) if len(target) else float("nan")
        ppv, npv = predictive_values(sensitivity, specificity, share)
        benefit = float("nan")
        if np.isfinite(threshold) and len(target):
            benefit = float(_benefit(target, called, np.float64(threshold)))
        return cls(
            of=of,
            rule=rule,
            threshold=threshold,
            positives=int(target.sum()),
            negatives=int((~target).sum()),
            sensitivity=sensitivity,
            specificity=specificity,
            prevalence=share,
            ppv=ppv,
            npv=npv,
            net_benefit=benefit,
            few_groups=units.kind == "groups" and units.n < FEW_GROUPS,
        )


def predictive_values(sensitivity: Share, specificity: Share, prevalence: float) -> tuple[Share, Share]:
    """Return positive and negative predictive value at a prevalence, by Bayes' rule.

    Their intervals are those of the likelihood ratios, from the limits of both shares (MOVER: Donner and Zou 2012,
    doi:10.1177/0962280210382745); they treat both as independent, which within groups errs on the wide side.
    """
    if not 0 < prevalence < 1:
        return NOTHING, NOTHING
    odds, missed, alarms = prevalence / (1 - prevalence), _rest(sensitivity), _rest(specificity)
    return (
        Share(**{end: _odds_share(odds * ratio) for end, ratio in _ratio(sensitivity, alarms).items()}),
        Share(**{end: _odds_share(ratio / odds) for end, ratio in _ratio(specificity, missed).items()}),
    )


def _rest(share: Share) -> Share:
    return Share(estimate=1 - share.estimate, low=1 - share.high, high=1 - share.low)


def _odds_share(odds: float) -> float:
    return 1.0 if odds == float("inf") else odds / (1 + odds)


def _ratio(over: Share, under: Share) -> dict[str, float]:
    """Return a ratio of two shares and its limits, Donner and Zou's equation 9; infinite over nothing.

    NaN where either does not exist, or both are nothing.
    """
    a, b, (l1, u1), (l2, u2) = over.estimate, under.estimate, (over.low, over.high), (under.low, under.high)
    if np.isnan([a, b]).any() or a == b == 0:
        return dict.fromkeys(("estimate", "low", "high"), float("nan"))

    def limit(first: float, second: float, sign: int) -> float:
        inside = (a * b) ** 2 - first * second * (2 * a - first) * (2 * b - second)
        return (a * b + sign * math.sqrt(max(inside, 0.0))) / (second * (2 * b - second))

    low = max(limit(l1, u2, -1), 0.0)
    return {"estimate": a / b, "low": low, "high": limit(u1, l2, 1)} if b else {
        "estimate": float("inf"), "low": low, "high": float("inf"),
    }  # fmt: skip


def net_benefit(targets: ArrayLike, probabilities: ArrayLike, thresholds: ArrayLike = GRID) -> tuple[Values, Values]:
    """Return what acting on a model is worth at each threshold, and what calling every sample positive is worth.

    Parameters
    ----------
    targets : array-like of bool, shape (n,)
        Whether each sample is of the class.
    probabilities : array-like of float, shape (n,)
        Of the class.
    thresholds : array-like of float, shape (k,)
        Above which a sample is called positive; they stand for how many false positives one true one is worth.

    Returns
    -------
    model, everyone : ndarray of float64, shape (k,)
        True positives less false positives times ``threshold / (1 - threshold)``, per sample (Vickers and Elkin 2006).
        Calling no sample positive is worth 0.
    """
    target, p = np.asarray(targets, dtype=bool)[:, None], np.asarray(probabilities, dtype=np.float64)[:, None]
    at = np.asarray(thresholds, dtype=np.float64)
    return _benefit(target, p > at, at), _benefit(target, np.ones((len(p), 1), dtype=bool), at)


def _benefit(target: NDArray[np.bool_], called: NDArray[np.bool_], threshold: Values | np.float64) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        price = threshold / (1 - threshold)
        return np.asarray((target & called).mean(axis=0) - (~target & called).mean(axis=0) * price)


@dataclass(frozen=True, kw_only=True, eq=False)
class RiskCoverage:
    """How much is wrong of the predictions that a model is surest of.

    Attributes
    ----------
    coverage : ndarray of float64, shape (n,)
        Share of the predictions that are given: 1 / n, 2 / n, ... 1.
    risk : ndarray of float64, shape (n,)
        Share of these that are wrong; among equally sure ones, in any order, as expected.
    """

    coverage: Values
    risk: Values

    @classmethod
    def of(cls, confidence: ArrayLike, right: ArrayLike) -> "RiskCoverage":
        """Answer the surest predictions first (El-Yaniv and Wiener 2010).

        Parameters
        ----------
        confidence : array-like of float, shape (n,)
        right : array-like of bool, shape (n,)
        """
        sure, wrong = np.asarray(confidence, dtype=np.float64), ~np.asarray(right, dtype=bool)
        _, place = np.unique(-sure, return_inverse=True)
        sizes, errors = np.bincount(place), np.bincount(place, wrong)
        given = np.arange(1, len(sure) + 1)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        total = np.interp(given, ends, np.concatenate([[0.0], np.cumsum(errors)]))
        return cls(coverage=given / max(len(sure), 1), risk=total / given)

    @property
    def area(self) -> float:
        """Area under the risk: its mean over all coverages (Geifman and El-Yaniv 2017)."""
        return float(self.risk.mean()) if len(self.risk) else float("nan")


class Answered(Record):
    """Accuracy of the surest predictions.

    Attributes
    ----------
    share : float
        Of all predictions that are given: at least what was asked for, since equally sure ones go together.
    confidence : float
        The least of theirs.
    accuracy : Share
        Of those that are right.
    """

    share: Score
    confidence: Score
    accuracy: Share


class Abstention(Record):
    """Accuracy against the share that is answered.

    Attributes
    ----------
    area : float
        Under the curve of risk over coverage.
    best_area : float
        Of an order without a mistake.
    error : float
        Share that is wrong where everything is answered, which is the area of answers in no order.
    answered : tuple of Answered
        At :data:`ANSWERED`.
    """

    area: Score
    best_area: Score
    error: Score
    answered: tuple[Answered, ...]

    def __str__(self) -> str:
        part = next((each for each in self.answered if each.share < SAID_SHARE), None)
        if part is None:
            return ""
        return (
            f"{1 - self.error:.3f} of all answers are right, {part.accuracy} of the surest {part.share:.0%}; area "
            f"under risk over coverage {self.area:.4f}, at best {self.best_area:.4f}."
        )

    @classmethod
    def measure(cls, confidence: Values, right: NDArray[np.bool_], units: Units) -> "Abstention":
        """Take the surest predictions, shape (n,); ``units`` say which of them vary together."""
        curve, best = (RiskCoverage.of(order, right) for order in (confidence, right.astype(np.float64)))
        found = []
        for wanted in ANSWERED if len(right) else ():
            least = np.sort(confidence)[::-1][math.ceil(wanted * len(right) - 1e-9) - 1]
            rows = confidence >= least
            share = Share.of(right, rows, units)
            found.append(Answered(share=float(rows.mean()), confidence=float(least), accuracy=share))
        return cls(
            area=curve.area,
            best_area=best.area,
            error=float(curve.risk[-1]) if len(right) else float("nan"),
            answered=tuple(found),
        )


def confidences(target: Target, targets: NDArray[np.bool_], probabilities: Values) -> tuple[Values, NDArray[np.bool_]]:
    """Return how sure a model is of each prediction, and whether it is right.

    Parameters
    ----------
    target : Target
    targets : ndarray of bool, shape (n, n_classes)
    probabilities : ndarray of float64, shape (n, n_classes)

    Returns
    -------
    confidence : ndarray of float64, shape (n,) or (n * n_labels,)
        Probability of the predicted class; of several labels per sample, of what is said of each, sample by sample.
    right : ndarray of bool, of the same shape
    """
    predicted = target.decide(probabilities)
    if target.several:
        return np.maximum(probabilities, 1 - probabilities).ravel(), np.asarray(targets == predicted).ravel()
    return probabilities.max(axis=1), np.asarray((targets & predicted).any(axis=1))


class Operating(Record):
    """What a model finds and misses, and what it may leave unanswered.

    Attributes
    ----------
    sensitivity : float
        What the thresholds of the rule ``sensitivity`` were chosen for.
    prevalence : float or None
        What predictive values are at; None where they are at that of the samples.
    points : tuple of OperatingPoint
        Of each class that is told from the rest, by rule.
    abstention : Abstention
    notes : tuple of str
        What could not be had, and why.
    """

    sensitivity: float
    prevalence: float | None
    points: tuple[OperatingPoint, ...]
    abstention: Abstention
    notes: tuple[str, ...] = ()

    def at(self, rule: Rule) -> tuple[OperatingPoint, ...]:
        """Return the points of one rule."""
        return tuple(point for point in self.points if point.rule == rule)

    def said(self, rule: Rule) -> str:
        """Return how the thresholds of a rule came about, in words."""
        return {
            "default": "by default",
            "sensitivity": f"chosen for {self.sensitivity:.0%} sensitivity",
            "youden": "by Youden's index",
            "given": "as given",
        }[rule]

    def sentences(self) -> tuple[str, ...]:
        """Say what is found and spared, and how much more is right of what the model is surest of."""
        classes = dict.fromkeys(point.of for point in self.points)
        return tuple(filter(None, (self._of_one() if len(classes) == 1 else self._of_several(), str(self.abstention))))

    def _of_one(self) -> str:
        """Speak of two thresholds: by default, and for the wanted sensitivity, at which predictive values are said."""
        found = [point for point in self.points if point.rule != "youden" and np.isfinite(point.sensitivity.estimate)]
        if not found:
            return ""
        said = [
            f"sensitivity {point.sensitivity}, specificity {point.specificity} at {point.threshold:.3g}, "
            f"{self.said(point.rule)}"
            for point in found
        ]
        sentence, last = f"{found[0].of}: {'; '.join(said)}.", found[-1]
        if self.prevalence is None:
            return sentence
        return (
            f"{sentence} There, at a prevalence of {self.prevalence:.3g}, positive predictive value {last.ppv}, "
            f"negative {last.npv}."
        )

    def _of_several(self) -> str:
        points = self.at("sensitivity") or self.at("default")
        points = tuple(point for point in points if np.isfinite(point.sensitivity.estimate))
        if not points:
            return ""
        ranges = []
        for name in ("sensitivity", "specificity"):
            ordered = sorted(points, key=lambda point: getattr(point, name).estimate)
            low, high = (f"{getattr(each, name).estimate:.3f}" for each in (ordered[0], ordered[-1]))
            ends = f"{low} ({ordered[0].of}) to {high} ({ordered[-1].of})" if low != high else f"{low} of all"
            ranges.append(f"{name} {ends}")
        how = self.said(points[0].rule)
        return f"Each class against the rest, thresholds {how}: {', '.join(ranges)}."


def measure_operating(
    data: ScoredRows,
    *,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    thresholds: Thresholds | None = None,
    sensitivity: float = DEFAULT_SENSITIVITY,
    prevalence: float | None = None,
) -> Operating:
    """Measure what thresholds that were chosen on development data find on other data.

    Parameters
    ----------
    data : ScoredRows
    ids : array-like of str, shape (n,)
    groups : array-like of str, shape (n,), optional
        Patients or slides, which vary as wholes.
    thresholds : Thresholds, optional
        What is known of them from out-of-fold predictions.
    sensitivity : float, default 0.95
        Wanted.
    prevalence : float, optional
        Stated, of each class in turn.

    Raises
    ------
    UndefinedMetricError
        If a wanted sensitivity or stated prevalence is no share.
    """
    check_stated(sensitivity=sensitivity, prevalence=prevalence)
    units, columns = Units.of(ids, groups), data.target.ranked_columns
    points = []
    for place, column in enumerate(columns):
        chosen: dict[Rule, float] = {"default": THRESHOLD if _thresholded(data) else float("nan")}
        if thresholds is not None:
            curve = thresholds.curves[place]
            chosen |= {"sensitivity": curve.at_sensitivity(sensitivity), "youden": curve.youden()}
        for rule, threshold in chosen.items():
            if rule == "default":
                called = data.predicted[:, column]
            elif np.isnan(threshold):
                continue
            else:
                called = data.probabilities[:, column] > threshold
            there = data.known[:, column]
            points.append(
                OperatingPoint.measure(
                    data.targets[there, column], called[there], units.of_entries(np.flatnonzero(there)),
                    of=data.classes[column], rule=rule, threshold=threshold, prevalence=prevalence,
                )
            )  # fmt: skip
    of_answer, (sure, right) = units, confidences(data.target, data.targets, data.probabilities)
    if data.target.several:
        of_answer = Units(of_row=units.of_row[np.nonzero(data.known)[0]], n=units.n, kind="groups")
        sure, right = sure[data.known.ravel()], right[data.known.ravel()]
    return Operating(
        sensitivity=sensitivity,
        prevalence=prevalence,
        points=tuple(points),
        abstention=Abstention.measure(sure, right, of_answer),
        notes=_doubts([data.classes[column] for column in columns], thresholds, sensitivity),
    )


def _thresholded(data: ScoredRows) -> bool:
    """Tell whether a class is predicted where its probability exceeds one half, and not where it is the greatest."""
    return data.target.several or data.target.kind.has_positive


def _doubts(names: Sequence[str], thresholds: Thresholds | None, wanted: float) -> tuple[str, ...]:
    """Say for which classes no threshold can promise the wanted sensitivity."""
    if thresholds is None:
        return ("No thresholds were chosen on development data: there are no out-of-fold predictions.",)
    known = zip(names, thresholds.curves, strict=True)
    short = [f"{name} ({curve.positives})" for name, curve in known if not curve.promises(wanted)]
    if not short:
        return ()
    more = f" and {len(short) - 5} more" if len(short) > 5 else ""
    said = (
        f"No threshold promises {wanted:.0%} sensitivity for {', '.join(short[:5])}{more}: too few development "
        "samples, in brackets, or too small probabilities. The threshold that finds most is taken."
    )
    return (said,)
