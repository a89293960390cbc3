"""Ridge classifier: least squares on -1 and 1, with the penalty chosen by leave-one-out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.heads.base import MATRIX_CELLS, ClassificationProblem, Features, FittedLinear, Limits, OwnHead, Setup
from biofuse.heads.likelihood import fit_slope

RELATIVE_PENALTIES = tuple(float(value) for value in 10.0 ** np.arange(-3, 4.5, 0.5))
"""Penalties tried where alpha is not given, times the mean squared distance of a row from the mean row: from hardly any
shrinkage to more than the leading direction of ten thousand rows can resist."""

SLOPES = (-3.0, 5.0)
"""Range of the logarithm of the slope that turns decision values into logits."""


@dataclass(frozen=True, kw_only=True)
class Ridge(OwnHead[FittedLinear]):
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

    name = "ridge"
    fitted = FittedLinear
    limits = Limits(
        rows=200_000,
        smaller=10_000,
        cells=MATRIX_CELLS,
        classes=1_000,
        reason="the products of all rows or all columns are decomposed, at the cube of the smaller number",
    )

    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha < np.inf:
            raise SearchError(f"alpha must be positive, not {self.alpha}.")

    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> FittedLinear:  # noqa: ARG002
        """Decompose the features once for all problems of the same weights, then solve each."""
        features = np.asarray(X, dtype=np.float64)
        design: _Design | None = None
        solutions, slopes, penalties = [], [], []
        for problem in setup.problems:
            if design is None or not np.array_equal(design.weights, problem.weights):
                design = _Design.of(features, problem.weights)
            coef, intercept, slope, alpha = self._solve_one(features, problem, design)
            solutions.append((coef, intercept))
            slopes.append(np.full(len(intercept), slope))
            penalties.append(alpha)
        return FittedLinear.assemble(
            setup,
            solutions,
            n_features=X.shape[1],
            slope=np.concatenate([np.zeros(0), *slopes]),
            penalty=penalties,
        )

    def _solve_one(
        self, X: NDArray[np.float64], problem: ClassificationProblem, design: "_Design"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Design:
    """The weighted, centred features, decomposed: ``sqrt(w) (X - mean) = U sqrt(eigenvalues) V'``.

    ``spread`` is the mean squared distance of a row from the mean, times the mean weight.
    """

    weights: NDArray[np.float64]
    mean: NDArray[np.float64]
    U: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    spread: float

    @classmethod
    def of(cls, X: NDArray[np.float64], weights: NDArray[np.float64]) -> "_Design":
        mean = weights @ X / weights.sum()
        A = np.sqrt(weights)[:, None] * (X - mean)
        n, d = A.shape
        eigenvalues, vectors = np.linalg.eigh(A @ A.T if d >= n else A.T @ A)
        # Directions below the rounding error of the products carry nothing but noise.
        kept = eigenvalues > eigenvalues[-1] * max(n, d) * np.finfo(np.float64).eps
        eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
        U = vectors if d >= n else A @ vectors / np.sqrt(eigenvalues)
        return cls(weights=weights, mean=mean, U=U, eigenvalues=eigenvalues, spread=float(eigenvalues.sum()) / n or 1.0)

    def _weighted(self, targets: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        offset = self.weights @ targets / self.weights.sum()
        return offset, np.sqrt(self.weights)[:, None] * (targets - offset)

    def left_out(self, targets: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
        """Return the decision values of each row from a fit without it, by the leverage formula."""
        _, centred = self._weighted(targets)
        shrinkage = self.eigenvalues / (self.eigenvalues + alpha)
        residual = centred - self.U @ (shrinkage[:, None] * (self.U.T @ centred))
        leverage = self.weights / self.weights.sum() + self.U**2 @ shrinkage
        return np.asarray(targets - residual / (np.sqrt(self.weights) * (1 - leverage))[:, None])

    def coefficients(
        self, X: NDArray[np.float64], targets: NDArray[np.float64], alpha: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return coefficients and intercepts on the raw features."""
        offset, centred = self._weighted(targets)
        dual = np.sqrt(self.weights)[:, None] * (self.U @ ((self.U.T @ centred) / (self.eigenvalues + alpha)[:, None]))
        coef = X.T @ dual - np.outer(self.mean, dual.sum(axis=0))
        return coef, offset - self.mean @ coef
