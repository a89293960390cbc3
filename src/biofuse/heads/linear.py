"""The fitted form of every head that is linear in the features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.fusion.protocol import Arrays
from biofuse.heads.outputs import Outputs
from biofuse.heads.problems import check_features
from biofuse.heads.protocol import Features, Scores

ROWS_AT_ONCE = 4096
"""Rows turned into float64 at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedLinear:
    """Margins ``X @ coef + intercept``, and how they become probabilities.

    Attributes
    ----------
    outputs : Outputs
        Where the margins belong.
    coef : ndarray of float64, shape (n_features, n_margins)
        The margins of all problems side by side.
    intercept : ndarray of float64, shape (n_margins,)
    slope : ndarray of float64, shape (n_margins,), or None
        What margins are multiplied with before they become probabilities. None: they are logits as they stand.
    penalty : tuple of float
        The regularisation used for each problem (C, alpha or shrinkage).
    notes : tuple of str
        What was noticed at fitting.
    """

    outputs: Outputs
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    slope: NDArray[np.float64] | None = None
    penalty: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        """Columns of its probabilities."""
        return self.outputs.n_classes

    @property
    def n_features(self) -> int:
        """Columns of the matrices it takes."""
        return len(self.coef)

    def predict_proba(self, X: Features) -> Scores:
        """Return probabilities; see :meth:`biofuse.heads.FittedHead.predict_proba`."""
        margins = self._margins(X)
        scaled = margins if self.slope is None else margins * self.slope
        return self.outputs.probabilities(self.outputs.split(scaled), n=len(X))

    def decision(self, X: Features) -> Scores:
        """Return log-odds, or the decision values where a slope is needed to turn them into logits."""
        return self.outputs.decision(self.outputs.split(self._margins(X)), n=len(X), log_odds=self.slope is None)

    def _margins(self, X: Features) -> Scores:
        check_features(X, n_features=self.n_features)
        margins = np.empty((len(X), len(self.intercept)))
        for start in range(0, len(X), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            margins[rows] = X[rows].astype(np.float64) @ self.coef + self.intercept
        return margins

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        arrays: Arrays = {"coef": self.coef, "intercept": self.intercept}
        if self.slope is not None:
            arrays["slope"] = self.slope
        values = {"outputs": self.outputs.to_json(), "penalty": list(self.penalty), "notes": list(self.notes)}
        return values, arrays

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose state this is."""
        try:
            fitted = cls(
                outputs=Outputs.from_json(json["outputs"]),
                coef=np.array(arrays["coef"], dtype=np.float64, order="C"),
                intercept=np.array(arrays["intercept"], dtype=np.float64),
                slope=np.array(arrays["slope"], dtype=np.float64) if "slope" in arrays else None,
                penalty=tuple(float(value) for value in json["penalty"]),
                notes=tuple(str(note) for note in json["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"The saved linear head is malformed: {error!r}.", remedy="Fit again.") from error
        margins = (sum(fitted.outputs.widths),)
        shapes = {
            fitted.intercept.shape,
            fitted.coef.shape[1:],
            margins if fitted.slope is None else fitted.slope.shape,
        }
        if shapes != {margins}:
            raise ArtifactError("The saved linear head's arrays do not fit its classes.", remedy="Fit again.")
        return fitted


def assemble(
    solutions: list[tuple[NDArray[np.float64], NDArray[np.float64]]], *, n_features: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Put the coefficients and intercepts of all problems side by side."""
    coef = np.hstack([np.zeros((n_features, 0)), *(coef for coef, _ in solutions)])
    return np.ascontiguousarray(coef), np.concatenate([np.zeros(0), *(intercept for _, intercept in solutions)])
