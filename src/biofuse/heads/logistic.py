"""Logistic regression, the default head."""

from dataclasses import dataclass

import numpy as np

from biofuse.core.errors import SearchError
from biofuse.heads.base import MATRIX_CELLS, Features, FittedLinear, Limits, OwnHead, Setup
from biofuse.heads.likelihood import LOGIT_VARIANCE, minimise, spectrum


@dataclass(frozen=True, kw_only=True)
class Logistic(OwnHead[FittedLinear]):
    """Logistic regression with an L2 penalty: one logit for two classes, a softmax for more, one fit per label.

    Parameters
    ----------
    C : float, optional
        Inverse strength of the penalty, as in scikit-learn. If it is not given, it follows from
        :data:`biofuse.heads.likelihood.LOGIT_VARIANCE`: 10 over the mean squared distance of a row from the mean row.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; see :data:`biofuse.heads.base.ClassWeight`.
    """

    name = "logistic"
    fitted = FittedLinear
    limits = Limits(
        rows=200_000,
        cells=MATRIX_CELLS,
        classes=1_000,
        reason="the features are held in memory in float64 and read some hundred times",
    )

    C: float | None = None

    def __post_init__(self) -> None:
        if self.C is not None and not 0 < self.C < np.inf:
            raise SearchError(f"C must be positive, not {self.C}.")

    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> FittedLinear:  # noqa: ARG002
        """Minimise each problem's weighted log-loss plus penalty."""
        features = np.ascontiguousarray(X, dtype=np.float64)
        shape = spectrum(features, seed=seed)
        C = self.C if self.C is not None else LOGIT_VARIANCE / (shape.spread or 1.0)
        solutions = [minimise(features, problem, C=C, shape=shape) for problem in setup.problems]
        stopped = sum(not solution.converged for solution in solutions)
        return FittedLinear.assemble(
            setup,
            [(solution.coef, solution.intercept) for solution in solutions],
            n_features=X.shape[1],
            penalty=[C] * len(solutions),
            notes=(f"{stopped} of {len(solutions)} fits stopped short of the minimum.",) if stopped else (),
        )
