"""Ridge regression, on values or on -1 and 1 for classes, with the penalty chosen by leave-one-out."""

from dataclasses import dataclass

import numpy as np

from biofuse.core.errors import SearchError
from biofuse.core.linear import Matrix64
from biofuse.core.ridge import ROUNDING, ridge_path
from biofuse.core.target import Target
from biofuse.heads.base import MATRIX_CELLS, Features, Limits, OwnHead, Setup
from biofuse.heads.linear import FittedLinear
from biofuse.heads.logistic import fit_slope

RELATIVE_PENALTIES = tuple(float(value) for value in 10.0 ** np.arange(-3, 4.5, 0.5))
"""Penalties tried where alpha is not given, times the mean squared distance of a row from the mean row: from hardly any
shrinkage to more than the leading direction of ten thousand rows can resist."""

SLOPES = (-3.0, 5.0)
"""Range of the logarithm of the slope that turns decision values into logits."""


@dataclass(frozen=True, kw_only=True)
class Ridge(OwnHead[FittedLinear]):
    """scikit-learn's ``RidgeClassifier``, with the penalty that ``RidgeClassifierCV`` would choose.

    The penalty with the least squared error when each row is left out in turn is taken, from one decomposition of the
    smaller of the row and column products. Near-duplicate rows make leaving one out optimistic.

    Probabilities: a ridge classifier has none of its own. The decision values of the left-out rows are multiplied by
    the one positive number that minimises their log-loss, then put through the logistic function or the softmax. The
    predicted class is unchanged; the probabilities are a calibration with a single parameter, no more.

    Values are predicted as they are, as by scikit-learn's ``Ridge``; each column has a penalty of its own.

    Parameters
    ----------
    alpha : float, optional
        Strength of the penalty, as in scikit-learn. Chosen by leave-one-out if not given.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; see :data:`biofuse.heads.base.ClassWeight`.
    """

    name = "ridge"
    fitted = FittedLinear
    turns = True
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

    def takes(self, target: Target) -> bool:
        """Return whether it predicts such a target: classes, labels and values."""
        return not target.timed

    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> FittedLinear:  # noqa: ARG002
        """Follow the path of penalties once for all problems of the same weights."""
        features, classes = np.asarray(X, dtype=np.float64), setup.classifications
        found: dict[int, tuple[Matrix64, Matrix64, float, float]] = {}
        for weighting in weightings(setup):
            path = ridge_path(
                features,
                targets=weighting.targets,
                weights=weighting.weights,
                relative=np.array(RELATIVE_PENALTIES),
                alpha=self.alpha,
                groups=weighting.columns,
            )
            places = path.best(weighting.columns)
            for number, columns, place in zip(weighting.problems, weighting.columns, places, strict=True):
                coef, intercept = path.coef[place][:, columns], path.intercept[place, columns]
                fitted, targets = features @ coef + intercept, weighting.targets[:, columns]
                left_out = path.left_out(place, fitted=fitted, targets=targets)
                slope = fit_slope(left_out, classes[number], bounds=SLOPES) if classes else 1.0
                found[number] = coef, intercept, slope, float(path.alphas[place])
        solved = [found[number] for number in range(len(setup.problems))]
        penalties = [penalty for *_, penalty in solved]
        notes: tuple[str, ...] = ()
        if self.alpha is not None and max(penalties, default=0.0) > self.alpha * (1 + ROUNDING):
            notes = (f"alpha = {self.alpha:g} is too small for these features: raised to what rounding allows.",)
        return FittedLinear.assemble(
            setup,
            [(coef, intercept) for coef, intercept, *_ in solved],
            n_features=X.shape[1],
            slope=np.concatenate([np.zeros(0), *(np.full(len(b), slope) for _, b, slope, _ in solved)]),
            penalty=penalties,
            notes=notes,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighting:
    """Problems that weight the training rows alike, and so share a decomposition.

    Attributes
    ----------
    weights : ndarray of float64, shape (n,)
    targets : ndarray of float64, shape (n, n_columns)
        -1 and 1, or values, those of all problems side by side.
    problems : tuple of int
        Places of the problems in the set-up.
    columns : tuple of slice
        The targets of each.
    """

    weights: Matrix64
    targets: Matrix64
    problems: tuple[int, ...]
    columns: tuple[slice, ...]


def weightings(setup: Setup) -> tuple[Weighting, ...]:
    """Put problems with the same row weights together."""
    alike: dict[bytes, list[int]] = {}
    for number, problem in enumerate(setup.problems):
        alike.setdefault(problem.weights.tobytes(), []).append(number)
    found = []
    for numbers in alike.values():
        targets = [setup.problems[number].targets for number in numbers]
        ends = np.cumsum([part.shape[1] for part in targets]).tolist()
        found.append(
            Weighting(
                weights=setup.problems[numbers[0]].weights,
                targets=np.hstack(targets),
                problems=tuple(numbers),
                columns=tuple(slice(end - part.shape[1], end) for part, end in zip(targets, ends, strict=True)),
            )
        )
    return tuple(found)
