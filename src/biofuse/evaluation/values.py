"""Predicted values: intervals that hold the truth as often as was asked for, agreement, and thresholds on the value."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Labels, Target
from biofuse.evaluation.calibration import Estimate
from biofuse.evaluation.conformal import TESTED, check_coverage, reached_by
from biofuse.evaluation.intervals import FEW_GROUPS, Units, jackknife_variance, share_interval
from biofuse.evaluation.metrics import Record, Score
from biofuse.evaluation.operating import Share, predictive_values

Values = NDArray[np.float64]

COVERAGES = tuple(asked for asked, each in TESTED if not each)
"""Coverages that prediction intervals are tested at, as prediction sets are; the first is spoken of."""

PARTS = (0.25, 0.5, 0.75)
"""Quantiles of the development values that are taken for thresholds."""

LIMITS = 1.96
"""Standard deviations from the mean to the limits of agreement, as Bland and Altman (1986) drew them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownValues:
    """How far development samples were from what was predicted of them by predictors not fitted on them.

    A prediction interval reaches as far to both sides as a share of the development samples were off, one sample more
    counted as if it were further off than any: a new sample, exchangeable with them, then has its value in its interval
    with at least the probability asked for (Vovk et al. 2005; Lei et al. 2018, JASA 113:1094-1111), up to what a
    predictor fitted on all of them differs from those of the folds. Where there are groups, each counts once, and the
    promise is about a sample of a new group (Lee, Barber and Willett 2023, arXiv:2306.06342).

    Attributes
    ----------
    off : ndarray of float64, shape (m, n_columns)
        Absolute errors.
    units : ndarray of int64, shape (m,)
        Number of the group, or sample, that each is about.
    cuts : ndarray of float64, shape (n_columns, 3)
        Quartiles of the development values: thresholds that predictions are tested at.
    """

    off: Values
    units: NDArray[np.int64]
    cuts: Values

    @classmethod
    def learn(cls, target: Target, labels: Labels, predicted: Values, *, units: ArrayLike) -> Self:
        """Learn from out-of-fold predictions.

        Parameters
        ----------
        target : Target
        labels : ndarray of float64, shape (m,) or (m, n_columns)
        predicted : ndarray of float64, shape (m, n_columns)
        units : array-like of str or int, shape (m,)
            What each is about: a group where there are groups, otherwise a sample. One may come several times.
        """
        truth = target.columns(labels)
        return cls(
            off=np.abs(truth - predicted),
            units=np.unique(np.asarray(units), return_inverse=True)[1].astype(np.int64),
            cuts=np.quantile(truth, PARTS, axis=0).T,
        )

    def reach(self, coverage: float) -> Values:
        """Return how far intervals reach to both sides, shape (n_columns,).

        Parameters
        ----------
        coverage : float
            The probability that the interval holds the value.

        Returns
        -------
        ndarray of float64
            Infinite where there are too few units to promise anything.

        Raises
        ------
        DataError
            If the coverage is no share.
        """
        check_coverage(coverage)
        return np.array([-reached_by(-column, self.units, coverage, otherwise=-np.inf) for column in self.off.T])

    def ends(self, predicted: Values, coverage: float) -> tuple[Values, Values]:
        """Return the ends of the interval of each prediction, both of shape (n, n_columns)."""
        reach = self.reach(coverage)
        return predicted - reach, predicted + reach

    def fits(self, target: Target) -> bool:
        """Whether it is about as many columns of values."""
        return target.measured and self.off.shape[1] == target.n_columns

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what is saved: no JSON values, and the arrays."""
        return {}, {"off": self.off, "units": self.units, "cuts": self.cuts}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:  # noqa: ARG003 (none)
        """Build it from what :meth:`state` gave.

        Raises
        ------
        ArtifactError
            If that is malformed.
        """
        with reading("errors of predicted values"):
            off, units, cuts = arrays["off"].astype(np.float64), arrays["units"].astype(np.int64), arrays["cuts"]
            if off.ndim != 2 or units.shape != off.shape[:1] or cuts.shape != (off.shape[1], len(PARTS)):
                raise ValueError("errors, units and thresholds do not belong together")
            return cls(off=off, units=units, cuts=cuts.astype(np.float64))


class RangeTest(Record):
    """How often prediction intervals hold the value.

    Attributes
    ----------
    asked : float
        Coverage asked for.
    coverage : Estimate
        Share of samples whose interval holds their value.
    reach : float
        How far intervals reach to both sides, in the unit of the value; undefined where nothing can be promised.
    """

    asked: float
    coverage: Estimate
    reach: Score


class CutTest(Record):
    """Whether values above a threshold are told from others.

    Attributes
    ----------
    threshold : float
        In the unit of the value; a sample is above it, or predicted so, strictly.
    above : int
        Samples above it.
    sensitivity, specificity : Share
        Of samples above it, predicted so; and of the others.
    ppv, npv : Share
        Of samples predicted above it, those that are; and of the others.
    """

    threshold: float
    above: int
    sensitivity: Share
    specificity: Share
    ppv: Share
    npv: Share


class ColumnTest(Record):
    """One column of values on test samples.

    Attributes
    ----------
    of : str
        Name of the column.
    ranges : tuple of RangeTest
        By coverage asked for; empty where the model knows no errors.
    bias : Estimate
        Mean of predicted less true values.
    lower, upper : Estimate
        Limits of agreement: between them are 95 % of the differences, were they normal (Bland and Altman 1986).
    cuts : tuple of CutTest
        At the quartiles of the development values.
    """

    of: str
    ranges: tuple[RangeTest, ...]
    bias: Estimate
    lower: Estimate
    upper: Estimate
    cuts: tuple[CutTest, ...]

    def __str__(self) -> str:
        bias, low, high = self.bias, self.lower.estimate, self.upper.estimate
        said = (
            f"{self.of}: predictions are {bias.estimate:+.4g} off on average ({bias.low:+.4g} to {bias.high:+.4g}), "
            f"and 95 % of them between {low:+.4g} and {high:+.4g}."
        )
        if not self.ranges:
            return said
        first = self.ranges[0]
        if np.isnan(first.reach):
            return f"{said} Too few development samples promise an interval that holds the value in {first.asked:.0%}."
        ends = f"{first.coverage.low:.1%} to {first.coverage.high:.1%}"
        return (
            f"{said} Prediction intervals asked to hold the value in {first.asked:.0%} hold it in "
            f"{first.coverage.estimate:.1%} ({ends}); they reach {first.reach:.4g} to both sides."
        )


class ValuesTest(Record):
    """What predicted values are worth on test samples.

    Attributes
    ----------
    columns : tuple of ColumnTest
    few_groups : bool
        Whether there are too few groups for the intervals to be trusted.
    """

    columns: tuple[ColumnTest, ...]
    few_groups: bool = False

    def sentences(self) -> tuple[str, ...]:
        """Say of each column how far predictions are off, and whether intervals hold what they promise."""
        return tuple(map(str, self.columns))


def measure_values(
    target: Target,
    labels: Labels,
    predicted: Values,
    *,
    known: KnownValues | None,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
) -> ValuesTest:
    """Measure prediction intervals, agreement, and thresholds on the value.

    Parameters
    ----------
    target : Target
    labels : ndarray of float64, shape (n,) or (n, n_columns)
    predicted : ndarray of float64, shape (n, n_columns)
    known : KnownValues or None
        From development data.
    ids : array-like of str, shape (n,)
    groups : array-like of str, shape (n,), optional
        Patients or slides, which vary as wholes.
    """
    units, truth = Units.of(ids, groups), target.columns(labels)
    return ValuesTest(
        columns=tuple(
            _column(name, truth[:, place], predicted[:, place], units, known=known, place=place)
            for place, name in enumerate(target.classes)
        ),
        few_groups=units.kind == "groups" and units.n < FEW_GROUPS,
    )


def _column(
    name: str, truth: Values, predicted: Values, units: Units, *, known: KnownValues | None, place: int
) -> ColumnTest:
    bias, lower, upper = limits_of_agreement(predicted - truth, units)
    return ColumnTest(
        of=name,
        ranges=() if known is None else tuple(_ranges(np.abs(predicted - truth), units, known, place)),
        bias=bias,
        lower=lower,
        upper=upper,
        cuts=() if known is None else tuple(_cut(truth, predicted, cut, units) for cut in known.cuts[place].tolist()),
    )


def _ranges(off: Values, units: Units, known: KnownValues, place: int) -> Iterator[RangeTest]:
    for asked in COVERAGES:
        reach = float(known.reach(asked)[place])
        share, low, high = share_interval(off <= reach, units.of_row, grouped=units.kind == "groups")
        coverage = Estimate(estimate=share, low=low, high=high)
        yield RangeTest(asked=asked, coverage=coverage, reach=reach if np.isfinite(reach) else float("nan"))


def limits_of_agreement(differences: Values, units: Units) -> tuple[Estimate, Estimate, Estimate]:
    """Return the mean difference and the lower and the upper limit of agreement, with 95 % intervals.

    By the jackknife over units, and Student's t.
    """
    from scipy.stats import t

    def found(weights: Values) -> Values:
        total = weights.sum(axis=0)
        mean = differences @ weights / total
        spread = np.square(differences) @ weights / total - np.square(mean)
        deviation = np.sqrt(np.maximum(spread, 0) * total / np.maximum(total - 1, 1))
        return np.stack([mean, mean - LIMITS * deviation, mean + LIMITS * deviation])

    if units.n < 2:
        nothing = Estimate(estimate=float("nan"), low=float("nan"), high=float("nan"))
        return nothing, nothing, nothing
    own = found(np.ones((len(differences), 1)))[:, 0]
    parts = np.concatenate([found(weights) for weights in units.left_out()], axis=1)
    reaches = t.ppf(0.975, units.n - 1) * np.sqrt([jackknife_variance(each) for each in parts])
    first, second, third = (
        Estimate(estimate=float(each), low=float(each - reach), high=float(each + reach))
        for each, reach in zip(own, reaches, strict=True)
    )
    return first, second, third


def _cut(truth: Values, predicted: Values, threshold: float, units: Units) -> CutTest:
    above, called = truth > threshold, predicted > threshold
    sensitivity, specificity = Share.of(called, above, units), Share.of(~called, ~above, units)
    ppv, npv = predictive_values(sensitivity, specificity, float(above.mean()))
    return CutTest(
        threshold=threshold, above=int(above.sum()), sensitivity=sensitivity, specificity=specificity, ppv=ppv, npv=npv
    )
