"""Kaplan-Meier curves of the nearest neighbours, for times to an event that were not all observed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.core.linear import ROWS_AT_ONCE, slices
from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Target
from biofuse.heads.base import Features, Limits, OwnHead, Scores, Setup, TimeToEvent, check_features
from biofuse.heads.knn import FittedRows, Metric, check_metric


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedCurves(FittedRows):
    """The training rows in the order of their times, at one time those with an event first, and what happened to them.

    Attributes
    ----------
    labels : ndarray of float64, shape (n, 2)
        Time and event of each.
    weights : ndarray of float64, shape (n,)
        How much each counts in a curve.
    horizons : tuple of float
        Times by which the event is predicted.
    """

    labels: Scores
    weights: Scores
    horizons: tuple[float, ...]

    def predict_proba(self, X: Features) -> Scores:
        """Return the share of the neighbours with an event by each horizon, by their Kaplan-Meier curve."""
        check_features(X, n_features=self.n_features)
        found = np.empty((len(X), len(self.horizons)))
        for some in slices(len(X), ROWS_AT_ONCE):
            found[some] = 1 - self._survival(np.sort(self.nearest(X[some]), axis=1))
        return found

    def _survival(self, near: NDArray[np.int64]) -> Scores:
        """Return the curves of rows in the order of time, shape (m, k), at the horizons."""
        times, events, weights = self.labels[near, 0], self.labels[near, 1] == 1, self.weights[near]
        at_risk = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
        # The last one leaves nobody: what is left of 1 is 0, not the rounding error of a quotient.
        after = np.concatenate([at_risk[:, 1:], np.zeros((len(near), 1))], axis=1)
        curve = np.cumprod(np.where(events, after / at_risk, 1.0), axis=1)
        curve = np.concatenate([np.ones((len(near), 1)), curve], axis=1)
        reached = np.stack([(times <= horizon).sum(axis=1) for horizon in self.horizons], axis=1)
        return np.asarray(np.take_along_axis(curve, reached, axis=1))

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        values = self.common_state() | {"horizons": list(self.horizons)}
        return values, {"rows": self.rows, "labels": self.labels, "weights": self.weights}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose state this is."""
        with reading("Kaplan-Meier head"):
            fitted = cls(
                **cls.read_rows(json, arrays),
                labels=np.array(arrays["labels"], dtype=np.float64),
                weights=np.array(arrays["weights"], dtype=np.float64),
                horizons=tuple(float(horizon) for horizon in json["horizons"]),
            )
        fitted.check_rows()
        n = len(fitted.rows)
        if fitted.labels.shape != (n, 2) or fitted.weights.shape != (n,):
            raise ArtifactError("The saved Kaplan-Meier head's arrays do not fit together.", remedy="Fit again.")
        if not np.isfinite(fitted.labels).all() or not (fitted.weights > 0).all():
            raise ArtifactError("The saved Kaplan-Meier head holds values that are no numbers.", remedy="Fit again.")
        if len(fitted.horizons) != fitted.n_classes:
            raise ArtifactError("The saved Kaplan-Meier head has other horizons than columns.", remedy="Fit again.")
        return fitted


@dataclass(frozen=True, kw_only=True)
class KaplanMeier(OwnHead[FittedCurves]):
    """Kaplan-Meier curves of the nearest training rows (Beran 1981).

    Parameters
    ----------
    k : int, default 40
        Neighbours; all rows if there are fewer. With 10, 20, 40, 80 and 160 of them, 600 real images of blood cells
        with simulated times, five encoders, 5 grouped folds (``perf/survival.py``): Harrell's C .658, .662, .668, .670,
        .661, integrated Brier score .198, .189, .183, .184, .187.
    metric : {"cosine", "euclidean"}, default "cosine"
        Distance between rows.
    class_weight : None
        Times have no classes.
    """

    name = "km"
    fitted = FittedCurves
    limits = Limits(rows=200_000, reason="every training row is kept, and compared with every new one")

    k: int = 40
    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        check_metric(self.k, self.metric)

    def takes(self, target: Target) -> bool:
        """Return whether it predicts such a target: times to an event."""
        return target.timed

    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> FittedCurves:  # noqa: ARG002
        """Keep the training rows in the order of time."""
        (problem,) = setup.problems
        assert isinstance(problem, TimeToEvent)  # noqa: S101
        few = (f"There are {len(X)} training rows only: all of them make every curve.",) if len(X) < self.k else ()
        order = np.lexsort((-problem.labels[:, 1], problem.labels[:, 0]))
        return FittedCurves(
            outputs=setup.outputs,
            k=min(self.k, len(X)),
            metric=self.metric,
            rows=np.ascontiguousarray(X[order], dtype=np.float32),
            labels=problem.labels[order],
            weights=problem.weights[order],
            horizons=problem.horizons,
            notes=setup.notes + few,
        )
