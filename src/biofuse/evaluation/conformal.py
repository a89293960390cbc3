"""Prediction sets: several classes where one will not do, that hold the truth as often as was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import DataError, option
from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Labels, Target
from biofuse.evaluation.calibration import Estimate
from biofuse.evaluation.intervals import FEW_GROUPS, Units, share_interval
from biofuse.evaluation.metrics import Record, Score

Values = NDArray[np.float64]
Sets = NDArray[np.bool_]

TESTED = ((0.9, False), (0.8, False), (0.95, False), (0.9, True))
"""Coverages that sets are tested at, and whether in each class; the first is spoken of: the usual one of conformal
prediction."""

ROUNDING = 1e-9
"""By how much sums of shares may miss what they stand for."""


def check_coverage(coverage: float) -> float:
    """Return a coverage, a share between 0 and 1.

    Raises
    ------
    DataError
        If it is none.
    """
    if not 0 < coverage < 1:
        raise DataError(
            f"No prediction set can hold the truth with probability {coverage:g}.",
            remedy=f"Give a share between 0 and 1: {option('coverage', 0.9)}.",
        )
    return coverage


@dataclass(frozen=True, kw_only=True, eq=False)
class Conformal:
    """What the true classes of development samples were given by predictors not fitted on them.

    A set holds every class whose probability reaches a threshold, and the most probable one always (Sadinle, Lei and
    Wasserman 2019, JASA 114:223-234). The threshold is reached by the true classes of a share of the development
    samples, one sample more counted as if it were not: a new sample, exchangeable with them, then has its true class in
    its set with at least the probability asked for, up to what a predictor fitted on all of them differs from those of
    the folds. Where there are groups, groups are exchangeable, not samples: each counts once, and the promise is about
    a sample of a new group (Lee, Barber and Willett 2023, arXiv:2306.06342). Of several labels, every label has a
    threshold of its own, by the samples that have it: each label that is there is in the set with that probability.

    Attributes
    ----------
    given : ndarray of float64, shape (m,)
        Calibrated probability of the true class, or of a label that is there.
    classes : ndarray of int64, shape (m,)
        Which class or label.
    units : ndarray of int64, shape (m,)
        Number of the group, or sample, that it is about.
    """

    given: Values
    classes: NDArray[np.int64]
    units: NDArray[np.int64]

    @classmethod
    def learn(cls, target: Target, labels: Labels, probabilities: Values, *, units: ArrayLike) -> Self:
        """Learn from calibrated out-of-fold probabilities.

        Parameters
        ----------
        target : Target
        labels : ndarray of int64, shape (m,) or (m, n_labels)
        probabilities : ndarray of float64, shape (m, n_classes)
        units : array-like of str or int, shape (m,)
            What each is about: a group where there are groups, otherwise a sample. One may come several times.
        """
        rows, columns = np.nonzero(target.indicators(labels))
        numbers = np.unique(np.asarray(units), return_inverse=True)[1]
        return cls(
            given=probabilities[rows, columns],
            classes=columns.astype(np.int64),
            units=numbers[rows].astype(np.int64),
        )

    def thresholds(self, target: Target, coverage: float, *, class_conditional: bool = False) -> Values:
        """Return the probability from which each class is in the set, shape (n_classes,).

        Parameters
        ----------
        target : Target
        coverage : float
            The probability that the set holds the true class.
        class_conditional : bool, default False
            Whether it shall be so for the samples of each class, instead of for all together; of several labels it is
            so in any case.

        Returns
        -------
        ndarray of float64, shape (n_classes,)
            Zero where there are too few units to promise anything: the class is in every set.
        """
        check_coverage(coverage)
        if not class_conditional and not target.several:
            return np.full(target.n_columns, reached_by(self.given, self.units, coverage))
        own = [self.classes == column for column in range(target.n_columns)]
        return np.array([reached_by(self.given[rows], self.units[rows], coverage) for rows in own])

    def sets(self, target: Target, probabilities: Values, coverage: float, *, class_conditional: bool = False) -> Sets:
        """Return which classes are in the set of each sample, shape (n, n_classes); for parameters see the thresholds.

        Parameters
        ----------
        probabilities : ndarray of float64, shape (n, n_classes)
            Calibrated.
        """
        inside = probabilities >= self.thresholds(target, coverage, class_conditional=class_conditional)
        return inside if target.several else inside | target.decide(probabilities)

    def fits(self, target: Target) -> bool:
        """Whether it is about these classes."""
        return bool(not len(self.classes) or self.classes.max() < target.n_columns)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what is saved: no JSON values, and the arrays."""
        return {}, {"given": self.given, "classes": self.classes, "units": self.units}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:  # noqa: ARG003 (none)
        """Build it from what :meth:`state` gave.

        Raises
        ------
        ArtifactError
            If that is malformed.
        """
        with reading("conformal scores"):
            made = cls(
                given=arrays["given"].astype(np.float64),
                classes=arrays["classes"].astype(np.int64),
                units=arrays["units"].astype(np.int64),
            )
            if made.given.ndim != 1 or not made.given.shape == made.classes.shape == made.units.shape:
                raise ValueError("there are not as many classes and units as probabilities")
            return made


def reached_by(given: Values, units: NDArray[np.int64], coverage: float, *, otherwise: float = 0.0) -> float:
    """Return the largest number that enough units reach, one more unit counted as reaching none; or what else."""
    numbers, place, sizes = np.unique(units, return_inverse=True, return_counts=True)
    order = np.argsort(-given, kind="stable")
    reached = np.cumsum(1 / ((len(numbers) + 1) * sizes[place[order]]))
    enough = np.flatnonzero(reached >= coverage - ROUNDING)
    return float(given[order[enough[0]]]) if len(enough) else otherwise


class SetsTest(Record):
    """What prediction sets are worth on test samples.

    Attributes
    ----------
    asked : float
        Coverage asked for.
    class_conditional : bool
        Whether it was asked for in each class.
    coverage : Estimate
        Share of samples (of several labels: of labels that are there) whose set holds the truth.
    size : Estimate
        Mean number of classes in a set; an interval of samples, or groups.
    single : float
        Share of samples whose set is one class.
    accuracy : float
        Share of samples whose most probable class is right; NaN for several labels. Where it exceeds what was asked
        for, so does the coverage: no set is without the most probable class.
    worst, worst_coverage : str and float
        The class whose samples are held least often.
    few_groups : bool
        Whether there are too few groups for the interval to be trusted.
    """

    asked: float
    class_conditional: bool
    coverage: Estimate
    size: Estimate
    single: Score
    accuracy: Score
    worst: str
    worst_coverage: Score
    few_groups: bool = False

    def __str__(self) -> str:
        each = " of each class" if self.class_conditional else ""
        ends = f"{self.coverage.low:.1%} to {self.coverage.high:.1%}"
        return (
            f"Prediction sets asked to hold the truth in {self.asked:.0%}{each} hold it in "
            f"{self.coverage.estimate:.1%} ({ends}), with {self.size.estimate:.2f} classes on average; "
            f"{self.single:.0%} name a single class."
        )


def measure_sets(
    target: Target,
    labels: Labels,
    inside: Sets,
    probabilities: Values,
    *,
    asked: float,
    class_conditional: bool,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
) -> SetsTest:
    """Measure how often sets hold the truth, and how large they are.

    Parameters
    ----------
    target : Target
    labels : ndarray of int64, shape (n,) or (n, n_labels)
    inside : ndarray of bool, shape (n, n_classes)
        Which classes are in each set.
    probabilities : ndarray of float64, shape (n, n_classes)
    asked, class_conditional
        What was asked for.
    ids : array-like of str, shape (n,)
    groups : array-like of str, shape (n,), optional
        Patients or slides, which vary as wholes.
    """
    units, truth = Units.of(ids, groups), target.indicators(labels)
    rows, columns = np.nonzero(truth)
    held = inside[rows, columns]
    grouped = units.kind == "groups" or target.several  # the labels of a sample vary together
    share, low, high = share_interval(held, units.of_row[rows], grouped=grouped)
    per_class = [held[columns == column].mean() if truth[:, column].any() else np.nan for column in range(len(truth.T))]
    worst = int(np.nanargmin(per_class)) if np.isfinite(per_class).any() else 0
    return SetsTest(
        asked=asked,
        class_conditional=class_conditional,
        coverage=Estimate(estimate=share, low=low, high=high),
        size=Estimate.of_mean(inside.sum(axis=1).astype(np.float64), units),
        single=float((inside.sum(axis=1) == 1).mean()),
        accuracy=float("nan") if target.several else float((target.predict(probabilities) == labels).mean()),
        worst=target.classes[worst],
        worst_coverage=float(per_class[worst]),
        few_groups=units.kind == "groups" and units.n < FEW_GROUPS,
    )
