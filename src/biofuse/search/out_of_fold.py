"""What a predictor says of development samples that it was not fitted on: all that is known of how far to trust it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, ArtifactError
from biofuse.core.files import atomic_path
from biofuse.core.target import Target
from biofuse.data.splits import ValidationPlan

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "p_"
"""What the columns of probabilities are called, before the name of the class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OutOfFold:
    """Probabilities of development samples, each from a predictor fitted on other folds.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Development row of each prediction; where folds were repeated, a row comes once for each repeat.
    fold : ndarray of int64, shape (m,)
        Number of the fold that held it out; folds of later repeats count on, so that ``fold // folds`` is the repeat.
    probabilities : ndarray of float64, shape (m, n_classes)
        As the predictor gave them, not calibrated.

    Raises
    ------
    AlignmentError
        If there are not as many rows and folds as predictions.
    """

    rows: NDArray[np.int64]
    fold: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not self.rows.shape == self.fold.shape == self.probabilities.shape[:1]:
            raise AlignmentError(
                f"There are {len(self.rows)} rows and {len(self.fold)} folds of {len(self.probabilities)} out-of-fold "
                "predictions."
            )

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, plan: ValidationPlan, members: Sequence[Sequence[NDArray[np.floating]]], *, target: Target) -> Self:
        """Put the predictions of folds together.

        Parameters
        ----------
        plan : ValidationPlan
            What was held out.
        members : sequence of sequence of ndarray
            Of each predictor that is averaged, per fold the predictions [n_held_out, n_classes].
        target : Target
            What is predicted.

        Raises
        ------
        AlignmentError
            If the predictions are not those of the plan's folds.
        """
        held_out = [held for _, held in plan.folds]
        if any([len(fold) for fold in folds] != [len(held) for held in held_out] for folds in members):
            raise AlignmentError("The out-of-fold predictions are not those of the folds of the search.")
        mean = np.mean([np.concatenate(folds).astype(np.float64) for folds in members], axis=0)
        return cls(
            rows=np.concatenate(held_out).astype(np.int64),
            fold=np.repeat(np.arange(len(held_out)), [len(held) for held in held_out]),
            # Predictions are kept in single precision, so that they add up to 1 only about.
            probabilities=target.add_up(mean),
        )

    def to_frame(self, ids: NDArray[np.object_], classes: Sequence[str]) -> "pd.DataFrame":
        """Return a table: id, fold, a column of probabilities per class.

        Parameters
        ----------
        ids : ndarray of str, shape (n,)
            Of the development rows.
        classes : sequence of str
            Names of the columns of probabilities.
        """
        import pandas as pd

        columns = {f"{PREFIX}{name}": self.probabilities[:, column] for column, name in enumerate(classes)}
        return pd.DataFrame({"id": ids[self.rows], "fold": self.fold, **columns})

    def to_parquet(self, path: Path, *, ids: NDArray[np.object_], classes: Sequence[str]) -> None:
        """Write the table as Parquet, atomically."""
        with atomic_path(path) as temporary:
            self.to_frame(ids, classes).to_parquet(temporary, index=False)

    @classmethod
    def read_parquet(cls, path: Path, *, ids: NDArray[np.object_], classes: Sequence[str]) -> Self:
        """Read what :meth:`to_parquet` wrote.

        Raises
        ------
        ArtifactError
            If it is missing or damaged, or about other samples or classes.
        """
        import pandas as pd
        import pyarrow as pa

        row_of = {str(name): row for row, name in enumerate(ids)}
        try:
            table = pd.read_parquet(path)
            return cls(
                rows=np.array([row_of[name] for name in table["id"]], dtype=np.int64),
                fold=table["fold"].to_numpy(dtype=np.int64),
                probabilities=table[[f"{PREFIX}{name}" for name in classes]].to_numpy(dtype=np.float64),
            )
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", remedy="Fit again.") from error
