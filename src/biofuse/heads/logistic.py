"""Logistic regression, the default head."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.core.machine import limit_threads
from biofuse.core.target import Task
from biofuse.heads.base import MATRIX_CELLS, ClassWeight, Features, FittedLinear, Limits, assemble, options_of, set_up
from biofuse.heads.likelihood import LOGIT_VARIANCE, solve, spectrum


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """Logistic regression with an L2 penalty: one logit for two classes, a softmax for more, one fit per label.

    Parameters
    ----------
    C : float, optional
        Inverse strength of the penalty, as in scikit-learn. If it is not given, it follows from
        :data:`biofuse.heads.likelihood.LOGIT_VARIANCE`: 10 over the mean squared distance of a row from the mean row.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; see :data:`biofuse.heads.base.ClassWeight`.
    """

    C: float | None = None
    class_weight: ClassWeight = None

    def __post_init__(self) -> None:
        if self.C is not None and not 0 < self.C < np.inf:
            raise SearchError(f"C must be positive, not {self.C}.")

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return "logistic"

    @property
    def limits(self) -> Limits:
        """The largest problem for which it is meant."""
        return Limits(
            rows=200_000,
            cells=MATRIX_CELLS,
            classes=1_000,
            reason="the features are held in memory in float64 and read some hundred times",
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
        seed: int = 0,
        threads: int = 1,
    ) -> FittedLinear:
        """Learn from training rows; see :meth:`biofuse.heads.Head.fit`."""
        setup = set_up(
            X, labels, task=task, n_classes=n_classes, class_weight=self.class_weight, sample_weight=sample_weight
        )
        features = np.ascontiguousarray(X, dtype=np.float64)
        with limit_threads(threads):
            shape = spectrum(features, seed=seed)
            C = self.C if self.C is not None else LOGIT_VARIANCE / (shape.spread or 1.0)
            solutions = [solve(features, problem, C=C, shape=shape) for problem in setup.problems]
        stopped = sum(not solution.converged for solution in solutions)
        notes = (f"{stopped} of {len(solutions)} fits stopped short of the minimum.",) if stopped else ()
        coef, intercept = assemble([(s.coef, s.intercept) for s in solutions], n_features=X.shape[1])
        return FittedLinear(
            outputs=setup.outputs,
            coef=coef,
            intercept=intercept,
            penalty=(C,) * len(solutions),
            notes=setup.notes + notes,
        )

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedLinear:
        """Build a fitted logistic head from its state."""
        return FittedLinear.restore(json, arrays)
