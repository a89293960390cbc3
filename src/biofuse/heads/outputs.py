"""From the classes asked for to the problems that can be fitted, and back to one column per class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.core.tasks import Task
from biofuse.heads.protocol import Scores

CERTAIN = float(-np.log(np.finfo(np.float64).tiny))
"""Decision value (about 708) of a column whose probability is constant: the largest log-odds that a float64 holds."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which columns of the result each fitted problem gives.

    Attributes
    ----------
    task : Task
        Kind of task.
    n_classes : int
        Columns of the result.
    columns : tuple of tuple of int
        For each problem its columns: the classes present for single-label tasks (one problem), one label for each
        problem of a multi-label task.
    constant : mapping of int to float
        Probability of every column that no problem gives.
    """

    task: Task
    n_classes: int
    columns: tuple[tuple[int, ...], ...]
    constant: Mapping[int, float]

    @property
    def n_codes(self) -> tuple[int, ...]:
        """Classes that each problem tells apart."""
        return tuple(max(2, len(columns)) for columns in self.columns)

    @property
    def widths(self) -> tuple[int, ...]:
        """Margins of each problem: one for two classes (that of the second), else one per class."""
        return tuple(1 if codes == 2 else codes for codes in self.n_codes)

    def split(self, margins: NDArray[np.floating]) -> list[Scores]:
        """Cut the margins of all problems, side by side, into those of each."""
        ends = np.cumsum(self.widths, dtype=np.int64)
        return [margins[:, end - width : end].astype(np.float64) for width, end in zip(self.widths, ends, strict=True)]

    def probabilities(self, margins: Sequence[Scores], *, n: int) -> Scores:
        """Turn the margins of each problem into probabilities: logistic for two classes, softmax for more.

        Parameters
        ----------
        margins : sequence of ndarray of float64, shape (n, width)
            Those of each problem.
        n : int
            Number of rows.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
        """
        from scipy.special import expit, softmax

        return self.place(
            [
                np.hstack([expit(-margin), expit(margin)]) if margin.shape[1] == 1 else softmax(margin, axis=1)
                for margin in margins
            ],
            n=n,
        )

    def place(self, probabilities: Sequence[Scores], *, n: int) -> Scores:
        """Put the class probabilities of each problem, shape (n, n_codes), into their columns."""
        placed = np.zeros((n, self.n_classes))
        for column, value in self.constant.items():
            placed[:, column] = value
        for columns, values in zip(self.columns, probabilities, strict=True):
            placed[:, list(columns)] = values[:, -len(columns) :]
        return placed

    def decision(self, margins: Sequence[Scores], *, n: int, log_odds: bool) -> Scores:
        """Put the margins of each problem into their columns; both signs for two classes.

        Parameters
        ----------
        margins : sequence of ndarray of float64, shape (n, width)
            Those of each problem.
        n : int
            Number of rows.
        log_odds : bool
            Whether to turn the margins of three or more classes into the log-odds of each class, so that they rank
            as the probabilities do (those of two classes are log-odds already).
        """
        placed = np.zeros((n, self.n_classes))
        for column, value in self.constant.items():
            placed[:, column] = CERTAIN if value == 1 else -CERTAIN
        for columns, margin in zip(self.columns, margins, strict=True):
            values = _log_odds(margin) if log_odds and margin.shape[1] > 1 else margin
            placed[:, list(columns)] = np.hstack([-values, values])[:, -len(columns) :]
        return placed

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "task": str(self.task),
            "n_classes": self.n_classes,
            "columns": [list(columns) for columns in self.columns],
            "constant": {str(column): value for column, value in self.constant.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build from JSON values.

        Raises
        ------
        ArtifactError
            If they are malformed, or the columns are not each given once.
        """
        try:
            outputs = cls(
                task=Task(values["task"]),
                n_classes=int(values["n_classes"]),
                columns=tuple(tuple(int(column) for column in columns) for columns in values["columns"]),
                constant={int(column): float(value) for column, value in values["constant"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"The saved head's classes are malformed: {error!r}.", remedy="Fit again.") from error
        given = sorted([*outputs.constant, *(column for columns in outputs.columns for column in columns)])
        if given != list(range(outputs.n_classes)):
            raise ArtifactError("The saved head does not give every class once.", remedy="Fit again.")
        return outputs


def _log_odds(margins: Scores) -> Scores:
    from scipy.special import log_softmax, logsumexp

    # log p - log(1 - p) loses all precision where p rounds to 1, which only the largest can: that one is taken
    # against the sum of the others.
    rows, top = np.arange(len(margins)), margins.argmax(axis=1)
    others = margins.copy()
    others[rows, top] = -np.inf
    logs = log_softmax(margins, axis=1)
    logs[rows, top] = -np.inf
    odds = np.asarray(logs - np.log1p(-np.exp(logs)), dtype=np.float64)
    odds[rows, top] = margins[rows, top] - logsumexp(others, axis=1)
    return np.clip(odds, -CERTAIN, CERTAIN)
