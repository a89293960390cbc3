"""Cumulative logit regression: one direction for all grades, and thresholds on it (McCullagh 1980, JRSS B 42, 109-142).

``P(grade <= k) = 1 / (1 + exp(margin - threshold_k))``, so that neighbouring grades are taken for one another before
distant ones. The penalty is that of :mod:`biofuse.heads.logistic`, and with two grades so is the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError, SearchError
from biofuse.core.linear import Matrix64
from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Target
from biofuse.heads.base import (
    CERTAIN,
    MATRIX_CELLS,
    Classification,
    Features,
    FittedOwnHead,
    Limits,
    OwnHead,
    Scores,
    Setup,
    check_features,
)
from biofuse.heads.logistic import LOGIT_VARIANCE

CURVATURE = 0.25
"""Largest curvature of a logit's log-loss: coordinates are scaled as if every row had it."""

TOLERANCE = 1e-8
"""Largest gradient entry at the end, per row, in coordinates of about unit curvature."""

STEPS = 1000
"""Most L-BFGS steps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedOrdinal(FittedOwnHead):
    """A direction and thresholds on it.

    Attributes
    ----------
    coef : ndarray of float64, shape (n_features,)
    thresholds : ndarray of float64, shape (n_present - 1,)
        Ascending, between neighbouring grades that occurred at fitting; empty where one grade alone did.
    """

    coef: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    @property
    def n_features(self) -> int:
        """Columns of the matrices it takes."""
        return len(self.coef)

    def _grades(self, X: Features) -> list[Scores]:
        from scipy.special import expit

        check_features(X, n_features=self.n_features)
        if not self.outputs.columns:
            return []
        ends = np.concatenate([[-np.inf], self.thresholds, [np.inf]]) - (X @ self.coef)[:, None]
        lower, upper = ends[:, :-1], ends[:, 1:]
        # From whichever side the numbers are small, so that their difference keeps its digits.
        return [np.where(lower > 0, expit(-lower) - expit(-upper), expit(upper) - expit(lower))]

    def predict_proba(self, X: Features) -> Scores:
        """Return probabilities; see :meth:`biofuse.heads.base.FittedHead.predict_proba`."""
        return self.outputs.place(self._grades(X), n=len(X))

    def decision(self, X: Features) -> Scores:
        """Return the log-odds of the probabilities."""
        margins = []
        for grades in self._grades(X):
            with np.errstate(divide="ignore"):
                odds = np.clip(np.log(grades) - np.log1p(-grades), -CERTAIN, CERTAIN)
            margins.append(odds[:, 1:] if odds.shape[1] == 2 else odds)
        return self.outputs.decision(margins, n=len(X), log_odds=False)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        return self.common_state(), {"coef": self.coef, "thresholds": self.thresholds}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose state this is."""
        with reading("ordinal head"):
            fitted = cls(
                **cls.read_common(json),
                coef=np.array(arrays["coef"], dtype=np.float64),
                thresholds=np.array(arrays["thresholds"], dtype=np.float64),
            )
        grades = sum(len(columns) for columns in fitted.outputs.columns)
        finite = np.isfinite(fitted.coef).all() and np.isfinite(fitted.thresholds).all()
        if fitted.coef.ndim != 1 or fitted.thresholds.shape != (max(grades - 1, 0),) or not finite:
            raise ArtifactError("The saved ordinal head's arrays do not fit its grades.", remedy="Fit again.")
        if (np.diff(fitted.thresholds) < 0).any():
            raise ArtifactError("The saved ordinal head's thresholds do not ascend.", remedy="Fit again.")
        return fitted


@dataclass(frozen=True, kw_only=True)
class Ordinal(OwnHead[FittedOrdinal]):
    """Cumulative logit regression with an L2 penalty, for grades.

    Parameters
    ----------
    C : float, optional
        Inverse strength of the penalty; by default as of the head ``logistic``.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; see :data:`biofuse.heads.base.ClassWeight`.
    """

    name = "ordinal"
    fitted = FittedOrdinal
    limits = Limits(
        rows=200_000,
        smaller=10_000,
        cells=MATRIX_CELLS,
        classes=1_000,
        reason="the products of all rows or all columns are decomposed, at the cube of the smaller number",
    )

    C: float | None = None

    def __post_init__(self) -> None:
        if self.C is not None and not 0 < self.C < np.inf:
            raise SearchError(f"C must be positive, not {self.C}.")

    def takes(self, target: Target) -> bool:
        """Return whether it predicts such a target: grades."""
        return target.kind.ordered

    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> FittedOrdinal:  # noqa: ARG002
        """Minimise the weighted negative log-likelihood plus penalty."""
        features = np.asarray(X, dtype=np.float64)
        coef, thresholds, notes = np.zeros(features.shape[1]), np.zeros(0), setup.notes
        for problem in setup.classifications:
            mean = features.mean(axis=0)
            centred = features - mean
            spread = float(np.vdot(centred, centred)) / len(centred) or 1.0
            coef, thresholds, converged = _minimised(centred, problem, C=self.C or LOGIT_VARIANCE / spread)
            thresholds = thresholds + mean @ coef
            notes += () if converged else ("The fit stopped short of the minimum.",)
        return FittedOrdinal(outputs=setup.outputs, coef=coef, thresholds=thresholds, notes=notes)


def _minimised(centred: Matrix64, problem: Classification, *, C: float) -> tuple[Matrix64, Matrix64, bool]:
    """Return coefficients, thresholds for centred rows, and whether the minimum was reached."""
    from scipy.linalg import eigh
    from scipy.optimize import minimize

    # The penalised coefficients are sums of rows: principal coordinates of whichever is smaller hold all there is.
    wide = centred.shape[0] < centred.shape[1]
    values, vectors = eigh(centred @ centred.T if wide else centred.T @ centred, check_finite=False)
    reached = values > max(float(values[-1]), 0.0) * len(values) * np.finfo(np.float64).eps
    values, vectors = values[reached], vectors[:, reached]
    axes = centred.T @ (vectors / np.sqrt(values)) if wide else vectors
    scale = 1 / np.sqrt(CURVATURE * problem.weights.mean() * values + 1 / C)
    places = (centred @ axes) * scale
    share = np.bincount(problem.codes, weights=problem.weights, minlength=problem.n_codes)
    below = np.cumsum(share)[:-1] / share.sum()
    start = np.log(below / (1 - below))
    first = np.concatenate([np.zeros(places.shape[1]), start[:1], np.log(np.diff(start))])
    penalty = scale**2 / C
    objective = _Likelihood(places=places, penalty=penalty, codes=problem.codes, weights=problem.weights)
    result = minimize(
        objective,
        first,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": STEPS, "maxcor": 20, "gtol": TOLERANCE * len(centred), "ftol": 0.0},
    )
    inside, thresholds = objective.unpack(result.x)
    return axes @ (scale * inside), thresholds, bool(np.abs(result.jac).max() <= 100 * TOLERANCE * len(centred))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Likelihood:
    """Value and gradient in scaled coordinates; thresholds are the first one and the logarithms of the gaps."""

    places: Matrix64
    penalty: Matrix64
    codes: NDArray[np.int64]
    weights: Matrix64

    def unpack(self, flat: Matrix64) -> tuple[Matrix64, Matrix64]:
        """Return coefficients and thresholds."""
        d = self.places.shape[1]
        return flat[:d], np.cumsum(np.concatenate([flat[d : d + 1], np.exp(flat[d + 1 :])]))

    def __call__(self, flat: Matrix64) -> tuple[float, Matrix64]:
        from scipy.special import expit, log_expit

        coef, thresholds = self.unpack(flat)
        d, k = len(coef), len(thresholds)
        ends = np.concatenate([[-np.inf], thresholds, [np.inf]])
        margins = self.places @ coef
        lower, upper = ends[self.codes] - margins, ends[self.codes + 1] - margins
        # F(u) - F(l) = F(u) F(-l) (1 - exp(l - u)), of which no factor loses its digits.
        gaps = np.concatenate([[np.inf], np.exp(flat[d + 1 :]), [np.inf]])
        likelihood = log_expit(upper) + log_expit(-lower) + np.log(-np.expm1(-gaps))[self.codes]
        above, under = self.weights * expit(-upper), self.weights * expit(lower)
        steps = np.bincount(self.codes, weights=above, minlength=k + 1)[:-1]
        steps -= np.bincount(self.codes, weights=under, minlength=k + 1)[1:]
        held = np.bincount(self.codes, weights=self.weights, minlength=k + 1)[1:-1]
        inner = np.exp(flat[d + 1 :])
        # A gap moves its own threshold and all above it.
        moved = np.cumsum(steps[::-1])[::-1]
        gradient = np.concatenate(
            [
                self.places.T @ (above - under) + self.penalty * coef,
                -moved[:1],
                -inner * (moved[1:] + held / np.expm1(inner)),
            ]
        )
        value = -float(self.weights @ likelihood) + float(self.penalty @ coef**2) / 2
        return value, gradient
