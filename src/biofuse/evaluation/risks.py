"""Predicted risks of an event: calibrated on development data, put into groups, and compared with what happened."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Labels, Target
from biofuse.evaluation.calibration import Estimate
from biofuse.evaluation.intervals import FEW_GROUPS, SIGNIFICANCE, Units
from biofuse.evaluation.metrics import Record, Score
from biofuse.evaluation.rows import prepare
from biofuse.evaluation.survival import kaplan_meier, log_rank

Values = NDArray[np.float64]

GROUPS = ("low", "middle", "high")
"""Risk groups, each a third of the development samples by predicted risk."""

LEAST = 1e-12
"""Calibrated risks nearer to 0 or 1 count as so much in the loss, whose logarithm of either end is infinite."""

SLOPES, SHIFTS = (0.0, 10.0), (-10.0, 10.0)
"""Between these the slope and the shift are looked for: e to the tenth is no hazard ratio that data tell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownRisks:
    """What brings risks to what happened to development samples, and the risks that divide these into thirds.

    On the scale of ``log(-log(1 - risk))``, on which a proportional hazards model is linear, risks are moved by a
    shift of each horizon and drawn together, or apart, around their mean there by one slope (van Houwelingen 2000):
    what a predictor that has learned its samples by heart says too extremely is said less so. Order by horizon is kept,
    and at each horizon the order of samples. On that scale a risk of 0, as Kaplan-Meier curves of few neighbours have,
    lies infinitely far out: risks count as no nearer to 0 or 1 than development samples can tell, ``least``.

    Attributes
    ----------
    centres : ndarray of float64, shape (n_horizons,)
        The means of the out-of-fold risks on that scale.
    shift : ndarray of float64, shape (n_horizons,)
    slope : float
    least : float
        Half an event among the out-of-fold predictions.
    cuts : ndarray of float64, shape (2,)
        Calibrated risks (:meth:`biofuse.core.target.Target.risk`) between low and middle, and middle and high.
    """

    centres: Values
    shift: Values
    slope: float
    least: float
    cuts: Values

    @classmethod
    def learn(cls, target: Target, labels: Labels, risks: Values) -> Self:
        """Learn from out-of-fold risks by the least log-loss over the horizons, weighted for the censoring.

        Parameters
        ----------
        target : Target
        labels : ndarray of float64, shape (m, 2)
            Times and events.
        risks : ndarray of float64, shape (m, n_horizons)
            Of predictors that were not fitted on these samples.
        """
        from scipy.optimize import minimize

        rows, least = prepare(target, labels, risks).observed, 1 / (2 * len(risks))
        scaled = _scaled(risks, least)
        centres, happened, weights = scaled.mean(axis=0), rows.happened(), rows.at_horizons

        def loss(found: Values) -> float:
            p = np.clip(_risks(centres + found[:-1] + found[-1] * (scaled - centres)), LEAST, 1 - LEAST)
            return float(-(weights * np.where(happened, np.log(p), np.log1p(-p))).sum() / weights.sum())

        found = np.append(np.zeros(len(centres)), 1.0)
        known = weights > 0
        both = np.asarray(np.any(known & happened, axis=0) & np.any(known & ~happened, axis=0))
        if both.any():
            # Where all that is known to have happened is one thing, the shift would have no end.
            bounds = [SHIFTS if each else (0.0, 0.0) for each in both.tolist()]
            found = minimize(loss, found, method="L-BFGS-B", bounds=[*bounds, SLOPES]).x
        made = cls(centres=centres, shift=found[:-1], slope=float(found[-1]), least=least, cuts=np.zeros(2))
        return replace(made, cuts=np.quantile(target.risk(made.apply(risks)), [1 / 3, 2 / 3]))

    def apply(self, risks: Values) -> Values:
        """Return calibrated risks, same shape, none smaller than at an earlier horizon."""
        moved = _risks(self.centres + self.shift + self.slope * (_scaled(risks, self.least) - self.centres))
        return np.maximum.accumulate(moved, axis=1)

    def group(self, target: Target, risks: Values) -> NDArray[np.int64]:
        """Return the place in :data:`GROUPS` of each sample, by its calibrated risks, shape (n,)."""
        return np.searchsorted(self.cuts, target.risk(risks), side="right").astype(np.int64)

    def fits(self, target: Target) -> bool:
        """Whether it is about as many horizons."""
        return target.timed and len(self.centres) == target.n_columns

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what is saved: JSON values, and arrays by name."""
        json = {"slope": self.slope, "least": self.least}
        return json, {"centres": self.centres, "shift": self.shift, "cuts": self.cuts}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build it from what :meth:`state` gave.

        Raises
        ------
        ArtifactError
            If that is malformed.
        """
        with reading("calibration of risks"):
            centres, shift, cuts = (arrays[name].astype(np.float64) for name in ("centres", "shift", "cuts"))
            if centres.ndim != 1 or shift.shape != centres.shape or cuts.shape != (len(GROUPS) - 1,):
                raise ValueError("there are not as many means and thresholds as there should be")
            return cls(centres=centres, shift=shift, slope=float(json["slope"]), least=float(json["least"]), cuts=cuts)


def _scaled(risks: Values, least: float) -> Values:
    return np.asarray(np.log(-np.log1p(-np.clip(risks, least, 1 - least))))


def _risks(scaled: Values) -> Values:
    return np.asarray(-np.expm1(-np.exp(scaled)))


class RiskGroup(Record):
    """Samples of one third by predicted risk, or all of them.

    Attributes
    ----------
    name : str
    n, events : int
        Samples, and those whose event was seen.
    predicted : tuple of float
        Mean predicted risk by each horizon.
    observed : tuple of Estimate
        Share that has had the event by each horizon (Kaplan-Meier), with 95 % interval; undefined without samples.
    """

    name: str
    n: int
    events: int
    predicted: tuple[Score, ...]
    observed: tuple[Estimate, ...]


class RisksTest(Record):
    """What predicted risks are worth on test samples.

    Attributes
    ----------
    horizons : tuple of str
        In words.
    everyone : RiskGroup
        All samples: whether risks are right on the whole.
    groups : tuple of RiskGroup
        By predicted risk, cut where it divided the development samples into thirds; empty where that is not known.
    statistic, p_value : float
        Log-rank test of whether the groups differ.
    slope : float
        What calibration multiplied the spread of the risks by; undefined where there was none.
    grouped : bool
        Whether samples belong to groups, which the intervals of shares and the test here do not allow for.
    few_groups : bool
        Whether there are too few groups for any interval to be trusted.
    """

    horizons: tuple[str, ...]
    everyone: RiskGroup
    groups: tuple[RiskGroup, ...]
    statistic: Score
    p_value: Score
    slope: Score
    grouped: bool = False
    few_groups: bool = False

    def sentences(self) -> tuple[str, ...]:
        """Say what became of each risk group, and whether as many events happened as were predicted."""
        last, every = self.horizons[-1], self.everyone
        when = f"{last[0].upper()}{last[1:]}"
        expected = f"{when} the model expects the event in {every.predicted[-1]:.1%} of all samples"
        said = [f"{expected}, and {_share(every.observed[-1])} have had it."]
        there = [each for each in self.groups if each.n]
        if len(there) > 1:
            shares = ", ".join(f"{_share(each.observed[-1])} of {each.n} at {each.name} risk" for each in there)
            meaning = "more than chance" if self.p_value <= SIGNIFICANCE else "within noise"
            said.append(
                f"Risk groups: {last} the event has happened to {shares}; they differ by {meaning} (log-rank test, "
                f"p = {self.p_value:.3g})."
            )
        if self.grouped:
            said.append("Intervals of these shares, and the test, take the samples of a group as independent.")
        return tuple(said)


def _share(found: Estimate) -> str:
    if np.isnan(found.low):
        return f"{found.estimate:.1%}"
    return f"{found.estimate:.1%} ({found.low:.1%} to {found.high:.1%})"


def measure_risks(
    target: Target,
    labels: Labels,
    risks: Values,
    *,
    known: KnownRisks | None,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
) -> RisksTest:
    """Compare predicted risks with what happened, of all samples and by risk group.

    Parameters
    ----------
    target : Target
    labels : ndarray of float64, shape (n, 2)
        Times and events.
    risks : ndarray of float64, shape (n, n_horizons)
        Calibrated.
    known : KnownRisks or None
        From development data.
    ids : array-like of str, shape (n,)
    groups : array-like of str, shape (n,), optional
        Patients or slides.
    """
    units, horizons = Units.of(ids, groups), np.array(target.horizons)
    time, event = labels[:, 0].astype(np.float64), labels[:, 1] == 1

    def of(name: str, rows: NDArray[np.bool_]) -> RiskGroup:
        curve = kaplan_meier(time[rows], event[rows])
        low, high = curve.interval(horizons)
        # Beyond the last observation nothing is known, unless nobody is left without the event.
        seen = (horizons <= time[rows].max(initial=-np.inf)) | (curve.at(horizons) == 0)
        shares = np.where(seen, 1 - curve.at(horizons), np.nan)
        ends = zip(shares, np.where(seen, 1 - high, np.nan), np.where(seen, 1 - low, np.nan), strict=True)
        mean = risks[rows].mean(axis=0) if rows.any() else np.full(len(horizons), np.nan)
        return RiskGroup(
            name=name,
            n=int(rows.sum()),
            events=int(event[rows].sum()),
            predicted=tuple(mean.tolist()),
            observed=tuple(Estimate(estimate=share, low=low, high=high) for share, low, high in ends),
        )

    member = None if known is None else known.group(target, risks)
    statistic, p_value = (float("nan"), float("nan")) if member is None else log_rank(time, event, member)
    return RisksTest(
        horizons=target.classes,
        everyone=of("all", np.ones(len(time), dtype=np.bool_)),
        groups=() if member is None else tuple(of(name, member == place) for place, name in enumerate(GROUPS)),
        statistic=statistic,
        p_value=p_value,
        slope=float("nan") if known is None else known.slope,
        grouped=units.kind == "groups",
        few_groups=units.kind == "groups" and units.n < FEW_GROUPS,
    )
