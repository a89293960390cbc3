"""A head after fitting whose margins are linear in the features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.core.linear import ROWS_AT_ONCE, slices
from biofuse.core.seals import Arrays, reading
from biofuse.heads.base import Features, FittedOwnHead, Outputs, Scores, Setup, check_features
from biofuse.heads.masked import FittedPerLabel


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedLinear(FittedOwnHead):
    """Margins ``X @ coef + intercept``, and how they become probabilities.

    Attributes
    ----------
    coef : ndarray of float64, shape (n_features, n_margins)
        The margins of all problems side by side.
    intercept : ndarray of float64, shape (n_margins,)
    slope : ndarray of float64, shape (n_margins,), or None
        What margins are multiplied with before they become probabilities. None: they are logits as they stand.
    penalty : tuple of float
        The regularisation used for each problem (C, alpha or shrinkage).
    """

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    slope: NDArray[np.float64] | None = None
    penalty: tuple[float, ...] = ()

    @classmethod
    def assemble(
        cls,
        setup: Setup,
        solutions: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
        *,
        n_features: int,
        slope: NDArray[np.float64] | None = None,
        penalty: Sequence[float],
        notes: tuple[str, ...] = (),
    ) -> Self:
        """Put the coefficients, shape (d, width), and intercepts, shape (width,), of all problems side by side."""
        coef = np.hstack([np.zeros((n_features, 0)), *(coef for coef, _ in solutions)])
        return cls(
            outputs=setup.outputs,
            coef=np.ascontiguousarray(coef),
            intercept=np.concatenate([np.zeros(0), *(intercept for _, intercept in solutions)]),
            slope=slope,
            penalty=tuple(penalty),
            notes=setup.notes + notes,
        )

    @classmethod
    def side_by_side(cls, labels: FittedPerLabel) -> Self:
        """Return one linear map for the labels that have one each."""
        heads: tuple[Self, ...] = labels.heads
        held = [place for place, head in enumerate(heads) if head.outputs.columns]
        outputs = Outputs(
            task=heads[0].outputs.task,
            n_classes=len(heads),
            columns=tuple((place,) for place in held),
            constant={place: head.outputs.constant[0] for place, head in enumerate(heads) if place not in held},
        )
        slopes = [head.slope for head in heads if head.slope is not None]
        return cls(
            outputs=outputs,
            coef=np.hstack([head.coef for head in heads]),
            intercept=np.concatenate([head.intercept for head in heads]),
            slope=np.concatenate(slopes) if slopes else None,
            penalty=tuple(penalty for head in heads for penalty in head.penalty),
            notes=labels.notes,
        )

    @property
    def n_features(self) -> int:
        """Columns of the matrices it takes."""
        return len(self.coef)

    def predict_proba(self, X: Features) -> Scores:
        """Return probabilities; see :meth:`FittedHead.predict_proba`."""
        margins = self.margins(X)
        scaled = margins if self.slope is None else margins * self.slope
        return self.outputs.probabilities(self.outputs.split(scaled), n=len(X))

    def decision(self, X: Features) -> Scores:
        """Return the log-odds of the probabilities: ranked by either, a model has one score."""
        margins = self.margins(X)
        scaled = margins if self.slope is None else margins * self.slope
        return self.outputs.decision(self.outputs.split(scaled), n=len(X), log_odds=True)

    def margins(self, X: Features) -> Scores:
        """Return ``X @ coef + intercept``, before any slope, shape (n, n_margins)."""
        check_features(X, n_features=self.n_features)
        margins = np.empty((len(X), len(self.intercept)))
        for rows in slices(len(X), ROWS_AT_ONCE):
            margins[rows] = X[rows].astype(np.float64) @ self.coef + self.intercept
        return margins

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        arrays: Arrays = {"coef": self.coef, "intercept": self.intercept}
        if self.slope is not None:
            arrays["slope"] = self.slope
        return self.common_state() | {"penalty": list(self.penalty)}, arrays

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose state this is."""
        with reading("linear head"):
            fitted = cls(
                **cls.read_common(json),
                coef=np.array(arrays["coef"], dtype=np.float64, order="C"),
                intercept=np.array(arrays["intercept"], dtype=np.float64),
                slope=np.array(arrays["slope"], dtype=np.float64) if "slope" in arrays else None,
                penalty=tuple(float(value) for value in json["penalty"]),
            )
        margins = (sum(fitted.outputs.widths),)
        slope = margins if fitted.slope is None else fitted.slope.shape
        if {fitted.intercept.shape, fitted.coef.shape[1:], slope} != {margins}:
            raise ArtifactError("The saved linear head's arrays do not fit its classes.", remedy="Fit again.")
        return fitted
