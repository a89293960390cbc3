"""Ridge classifier: least squares on -1 and 1, with the penalty chosen by leave-one-out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.core.machine import limit_threads
from biofuse.core.target import Task
from biofuse.heads.base import (
    MATRIX_CELLS,
    ClassWeight,
    Features,
    FittedLinear,
    Limits,
    Problem,
    assemble,
    options_of,
    set_up,
)
from biofuse.heads.likelihood import fit_slope

Matrix64 = NDArray[np.float64]

RELATIVE_PENALTIES = tuple(float(value) for value in 10.0 ** np.arange(-3, 4.5, 0.5))
"""Penalties tried where alpha is not given, times the mean squared distance of a row from the mean row: from hardly any
shrinkage to more than the leading direction of ten thousand rows can resist."""

SLOPES = (-3.0, 5.0)
"""Range of the logarithm of the slope that turns decision values into logits."""


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """scikit-learn's ``RidgeClassifier``, with the penalty that ``RidgeClassifierCV`` would choose.

    The penalty with the least squared error when each row is left out in turn is taken, from one eigendecomposition of
    the smaller of the row and column products. Near-duplicate rows make leaving one out optimistic.

    Probabilities: a ridge classifier has none of its own. The decision values of the left-out rows are multiplied by
    the one positive number that minimises their log-loss, then put through the logistic function or the softmax. The
    predicted class is unchanged; the probabilities are a calibration with a single parameter, no more.

    Parameters
    ----------
    alpha : float, optional
        Strength of the penalty, as in scikit-learn. Chosen by leave-one-out if not given.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; see :data:`biofuse.heads.base.ClassWeight`.
    """

    alpha: float | None = None
    class_weight: ClassWeight = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha < np.inf:
            raise SearchError(f"alpha must be positive, not {self.alpha}.")

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return "ridge"

    @property
    def limits(self) -> Limits:
        """The largest problem for which it is meant."""
        return Limits(
            rows=200_000,
            smaller=10_000,
            cells=MATRIX_CELLS,
            classes=1_000,
            reason="the products of all rows or all columns are decomposed, at the cube of the smaller number",
        )

    @property
    def options(self) -> dict[str, Any]:
        """Its options as JSON values."""
        return options_of(self)

    def fit(
        self,
        X: Features,
        labels: NDArray[np.int64],
        *,
        task: Task,
        n_classes: int,
        sample_weight: NDArray[np.float64] | None = None,
        seed: int = 0,  # noqa: ARG002 (nothing here is random)
        threads: int = 1,
    ) -> FittedLinear:
        """Learn from training rows; see :meth:`biofuse.heads.Head.fit`."""
        setup = set_up(
            X, labels, task=task, n_classes=n_classes, class_weight=self.class_weight, sample_weight=sample_weight
        )
        features = np.asarray(X, dtype=np.float64)
        design: _Design | None = None
        solutions, slopes, penalties = [], [], []
        with limit_threads(threads):
            for problem in setup.problems:
                if design is None or not np.array_equal(design.weights, problem.weights):
                    design = _Design.of(features, problem.weights)
                coef, intercept, slope, alpha = self._solve(features, problem, design)
                solutions.append((coef, intercept))
                slopes.append(np.full(len(intercept), slope))
                penalties.append(alpha)
        coef, intercept = assemble(solutions, n_features=X.shape[1])
        return FittedLinear(
            outputs=setup.outputs,
            coef=coef,
            intercept=intercept,
            slope=np.concatenate([np.zeros(0), *slopes]),
            penalty=tuple(penalties),
            notes=setup.notes,
        )

    def _solve(self, X: Matrix64, problem: Problem, design: "_Design") -> tuple[Matrix64, Matrix64, float, float]:
        targets = 2 * problem.indicators - 1
        grid = (self.alpha,) if self.alpha is not None else tuple(a * design.spread for a in RELATIVE_PENALTIES)
        left_out = {alpha: design.left_out(targets, alpha) for alpha in grid}
        errors = {
            alpha: float((problem.weights[:, None] * (decisions - targets) ** 2).sum())
            for alpha, decisions in left_out.items()
        }
        alpha = min(grid, key=lambda candidate: errors[candidate])
        coef, intercept = design.coefficients(X, targets, alpha)
        return coef, intercept, fit_slope(left_out[alpha], problem, bounds=SLOPES), alpha

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedLinear:
        """Build a fitted ridge head from its state."""
        return FittedLinear.restore(json, arrays)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Design:
    """The weighted, centred features, decomposed: ``sqrt(w) (X - mean) = U sqrt(eigenvalues) V'``.

    ``spread`` is the mean squared distance of a row from the mean, times the mean weight.
    """

    weights: Matrix64
    mean: Matrix64
    U: Matrix64
    eigenvalues: Matrix64
    spread: float

    @classmethod
    def of(cls, X: Matrix64, weights: Matrix64) -> "_Design":
        mean = weights @ X / weights.sum()
        A = np.sqrt(weights)[:, None] * (X - mean)
        n, d = A.shape
        eigenvalues, vectors = np.linalg.eigh(A @ A.T if d >= n else A.T @ A)
        # Directions below the rounding error of the products carry nothing but noise.
        kept = eigenvalues > eigenvalues[-1] * max(n, d) * np.finfo(np.float64).eps
        eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
        U = vectors if d >= n else A @ vectors / np.sqrt(eigenvalues)
        return cls(weights=weights, mean=mean, U=U, eigenvalues=eigenvalues, spread=float(eigenvalues.sum()) / n or 1.0)

    def _weighted(self, targets: Matrix64) -> tuple[Matrix64, Matrix64]:
        offset = self.weights @ targets / self.weights.sum()
        return offset, np.sqrt(self.weights)[:, None] * (targets - offset)

    def left_out(self, targets: Matrix64, alpha: float) -> Matrix64:
        """Return the decision values of each row from a fit without it, by the leverage formula."""
        _, centred = self._weighted(targets)
        shrinkage = self.eigenvalues / (self.eigenvalues + alpha)
        residual = centred - self.U @ (shrinkage[:, None] * (self.U.T @ centred))
        leverage = self.weights / self.weights.sum() + self.U**2 @ shrinkage
        return np.asarray(targets - residual / (np.sqrt(self.weights) * (1 - leverage))[:, None])

    def coefficients(self, X: Matrix64, targets: Matrix64, alpha: float) -> tuple[Matrix64, Matrix64]:
        """Return coefficients and intercepts on the raw features."""
        offset, centred = self._weighted(targets)
        dual = np.sqrt(self.weights)[:, None] * (self.U @ ((self.U.T @ centred) / (self.eigenvalues + alpha)[:, None]))
        coef = X.T @ dual - np.outer(self.mean, dual.sum(axis=0))
        return coef, offset - self.mean @ coef
