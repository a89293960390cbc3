"""What maps blocks to probabilities."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.tasks import Task
from biofuse.heads.protocol import Scores


class Predictor(Protocol):
    """A fitted fusion and head, or several such combined; immutable."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders whose blocks it takes, in pool order."""
        ...

    @property
    def task(self) -> Task:
        """Kind of task it was fitted on."""
        ...

    @property
    def n_classes(self) -> int:
        """Number of classes, or labels."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user would want to know about the fit."""
        ...

    def predict_proba(self, blocks: Blocks) -> Scores:
        """Return probabilities; blocks of other encoders are ignored.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            Rows sum to 1; for multi-label tasks every column is a probability by itself.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or one of another width than at fitting.
        """
        ...

    def decision(self, blocks: Blocks) -> Scores:
        """Return values to rank by, same shape; see :meth:`biofuse.heads.FittedHead.decision`."""
        ...

    def save(self, folder: Path) -> None:
        """Write it to a folder of its own, readable by :func:`biofuse.predictors.load_predictor`."""
        ...


def predict_labels(probabilities: Scores, *, task: Task) -> NDArray[np.int64]:
    """Turn probabilities into labels.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (n, n_classes)
    task : Task
        Kind of task.

    Returns
    -------
    ndarray of int64
        Shape (n,): the most probable class, the first among equals. Multi-label: shape (n, n_classes), 1 where the
        probability is above one half, as ``medmnist.Evaluator`` counts.
    """
    if task is Task.MULTILABEL:
        return (probabilities > 0.5).astype(np.int64)
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
