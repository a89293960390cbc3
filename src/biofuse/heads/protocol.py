"""What maps a fused matrix to probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.tasks import Task
from biofuse.fusion.protocol import Arrays

Features = NDArray[np.float32] | NDArray[np.float64]
"""A fused matrix, shape (n, d)."""

Scores = NDArray[np.float64]
"""One column per class or label, shape (n, n_classes)."""

ClassWeight = Mapping[int, float] | Literal["balanced"] | None
"""As scikit-learn's ``class_weight``: ``balanced`` is n / (classes present * rows of the class), or total weights in
place of numbers of rows where there are sample weights; a mapping gives the weight of class indices, 1 where none is
given. For multi-label tasks it holds for each label by itself, so that the keys are 0 (absent) and 1 (present)."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest problem for which a head is meant; None where there is no limit of its own.

    Attributes
    ----------
    rows, features, classes : int or None
        Training rows, columns, and classes (or labels).
    smaller : int or None
        The smaller of rows and columns.
    cells : int or None
        Rows times columns.
    reason : str
        What happens beyond.
    """

    rows: int | None = None
    features: int | None = None
    classes: int | None = None
    smaller: int | None = None
    cells: int | None = None
    reason: str = ""

    def exceeded_by(self, *, rows: int, features: int, classes: int) -> str:
        """Say in words which limit a problem exceeds; empty if none."""
        asked = {
            "rows": (rows, self.rows),
            "features": (features, self.features),
            "classes": (classes, self.classes),
            "of both rows and features": (min(rows, features), self.smaller),
            "rows times features": (rows * features, self.cells),
        }
        over = [f"{n:,} {what} (limit {most:,})" for what, (n, most) in asked.items() if most is not None and n > most]
        return f"{', '.join(over)}: {self.reason}" if over else ""


class FittedHead(Protocol):
    """A head after fitting; immutable."""

    @property
    def n_classes(self) -> int:
        """Columns of its probabilities."""
        ...

    @property
    def n_features(self) -> int:
        """Columns of the matrices it takes."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user would want to know about the fit: absent classes, no convergence."""
        ...

    def predict_proba(self, X: Features) -> Scores:
        """Return probabilities.

        Parameters
        ----------
        X : ndarray, shape (n, n_features)
            Any number of rows, zero included.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            Rows sum to 1; for multi-label tasks every column is a probability by itself. Columns of classes that
            were absent at fitting are 0.

        Raises
        ------
        DataError
            If the number of columns is wrong or a value is not finite.
        """
        ...

    def decision(self, X: Features) -> Scores:
        """Return values to rank by, finer than probabilities that round to 0 or 1.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            Log-odds or decision values where the head has them, else probabilities; for two classes the columns are
            the negative and the positive of one value. Columns of absent classes are constant and finite.
        """
        ...

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return everything :meth:`restore` needs: JSON values and arrays."""
        ...

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose :meth:`state` this is.

        Raises
        ------
        ArtifactError
            If the state is malformed.
        """
        ...


class Head(Protocol):
    """A classifier's options; immutable, fitted into a new object."""

    @property
    def name(self) -> str:
        """The name it is registered under."""
        ...

    @property
    def limits(self) -> Limits:
        """The largest problem for which it is meant."""
        ...

    @property
    def options(self) -> dict[str, Any]:
        """Its options as JSON values, for records and resume keys."""
        ...

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
    ) -> FittedHead:
        """Learn from training rows.

        Parameters
        ----------
        X : ndarray, shape (n, d)
            The fused matrix.
        labels : ndarray of int64
            Shape (n,) class indices; (n, n_classes) zeros and ones for multi-label tasks. Classes may be absent.
        task : Task
            Ordinal tasks are treated as multi-class.
        n_classes : int
            Number of classes or labels, absent ones included.
        sample_weight : ndarray of float64, shape (n,), optional
            Multiplied with the class weights.
        seed : int, default 0
            Decides everything random.
        threads : int, default 1
            Cores to use at most.

        Raises
        ------
        DataError
            If labels or features cannot be used.
        """
        ...

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedHead:
        """Build a fitted head of this kind from its state, whatever this object's own options."""
        ...
