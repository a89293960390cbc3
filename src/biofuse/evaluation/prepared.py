"""Labels and predictions checked once, and laid out so that thousands of resamples are cheap to score."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError, UndefinedMetricError
from biofuse.core.tasks import Task

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Sums = NDArray[np.float64] | csr_array

THRESHOLD = 0.5
"""A label is predicted where its probability exceeds this, strictly: the convention of ``medmnist.Evaluator``."""

FEW_CLASSES = 16
"""Up to so many classes, multiplying mostly zeros is quicker than leaving them out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """How the positives of one class stand among its negatives.

    Attributes
    ----------
    positives, negatives : ndarray of int64
        Rows by ascending score.
    below, up_to : ndarray of int64, shape (n_positives,)
        Number of negatives that score less than, and at most as much as, each positive.
    positives_below : ndarray of int64, shape (n_positives,)
        Number of positives that score less than each positive.
    """

    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    below: NDArray[np.int64]
    up_to: NDArray[np.int64]
    positives_below: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Labels and predictions of the same rows.

    Attributes
    ----------
    task : Task
        What the labels are.
    classes : tuple of str
        Class or label names, one per column.
    labels : ndarray of int64
        Shape (n,) class indices, or (n, n_labels) zeros and ones for multi-label tasks.
    probabilities : ndarray of float64, shape (n, n_classes)
        One column per class or label.
    ranked_by : ndarray of float64, shape (n, n_classes)
        What ranking metrics order rows by: decision values, or the probabilities themselves.
    targets, predicted : ndarray of bool, shape (n, n_classes)
        Which class each row has, and which is predicted.
    """

    task: Task
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    ranked_by: NDArray[np.float64]
    targets: NDArray[np.bool_]
    predicted: NDArray[np.bool_]

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def multilabel(self) -> bool:
        """Whether a row may have any number of labels."""
        return self.task is Task.MULTILABEL

    @property
    def ranked_columns(self) -> tuple[int, ...]:
        """Columns that ranking metrics average over: the last of a binary task, otherwise all."""
        return (1,) if self.task is Task.BINARY else tuple(range(len(self.classes)))

    @cached_property
    def rankings(self) -> tuple[Ranking, ...]:
        """One ranking per column of ``ranked_columns``."""
        return tuple(_rank(self.targets[:, c], self.ranked_by[:, c]) for c in self.ranked_columns)

    @cached_property
    def target_sums(self) -> "Sums":
        """Shape (n_classes, n): times row weights, the weight of each class."""
        return _sums(self.targets)

    @cached_property
    def predicted_sums(self) -> "Sums":
        """Shape (n_classes, n): times row weights, how much of the weight each class is predicted for."""
        return _sums(self.predicted)

    @cached_property
    def hit_sums(self) -> "Sums":
        """Shape (n_classes, n): times row weights, how much of each class is predicted rightly."""
        return _sums(self.targets & self.predicted)


def prepare(
    task: Task,
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    decision: ArrayLike | None = None,
) -> Prepared:
    """Check labels against predictions.

    Parameters
    ----------
    task : Task
        What the labels are.
    labels : array-like of int
        Shape (n,) or (n, 1) class indices, or (n, n_labels) zeros and ones for multi-label tasks.
    probabilities : array-like of float
        Shape (n, n_classes); for binary tasks also (n,) or (n, 1), the probability of the second class.
    classes : sequence of str, optional
        Names of the columns; their numbers by default.
    decision : array-like of float, optional
        Shape of the probabilities: values to rank by, where probabilities round to 0 or 1.

    Raises
    ------
    AlignmentError
        If shapes or class indices do not belong together.
    UndefinedMetricError
        If a prediction is not a finite number.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(labels).astype(np.int64)
    multilabel = task is Task.MULTILABEL
    if not multilabel and truth.ndim == 2 and truth.shape[1] == 1:
        truth = truth[:, 0]
    if task is Task.BINARY and (scores.ndim == 1 or scores.shape[1:] == (1,)):
        scores = np.column_stack([1 - scores.ravel(), scores.ravel()])
    if scores.ndim != 2 or len(scores) != len(truth) or truth.ndim != (2 if multilabel else 1):
        raise AlignmentError(f"Labels of shape {truth.shape} and predictions of shape {scores.shape} do not match.")
    n_classes = scores.shape[1]
    if classes is not None and len(classes) != n_classes:
        raise AlignmentError(f"{len(classes)} classes but predictions for {n_classes}.")
    if task is Task.BINARY and n_classes != 2:
        raise AlignmentError(f"A binary task has two classes, but there are predictions for {n_classes}.")
    if multilabel and truth.shape != scores.shape:
        raise AlignmentError(f"Labels of shape {truth.shape} and predictions of shape {scores.shape} do not match.")
    if truth.size and not 0 <= truth.min() <= truth.max() < (2 if multilabel else n_classes):
        raise AlignmentError(
            f"Labels run from {truth.min()} to {truth.max()}, predictions are for {n_classes} classes."
        )
    order = scores if decision is None else np.asarray(decision, dtype=np.float64)
    if order.shape != scores.shape:
        raise AlignmentError(f"Decision values of shape {order.shape} for predictions of shape {scores.shape}.")
    bad = int((~(np.isfinite(scores) & np.isfinite(order))).any(axis=1).sum())
    if bad:
        raise UndefinedMetricError(
            f"{bad} of {len(scores)} predictions are not finite numbers.",
            remedy="Look for constant or non-finite embeddings, or choose another head.",
        )
    names = tuple(classes) if classes is not None else tuple(str(c) for c in range(n_classes))
    return Prepared(
        task=task,
        classes=names,
        labels=truth,
        probabilities=scores,
        ranked_by=order,
        targets=truth.astype(bool) if multilabel else truth[:, None] == np.arange(n_classes),
        predicted=_decide(task, scores),
    )


def _decide(task: Task, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    if task is Task.MULTILABEL:
        return scores > THRESHOLD
    if task is Task.BINARY:
        second = scores[:, 1] > THRESHOLD
        return np.column_stack([~second, second])
    return np.asarray(scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1]))


def _rank(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Ranking:
    order = np.argsort(scores, kind="stable")
    positives, negatives = order[positive[order]], order[~positive[order]]
    up, down = scores[positives], scores[negatives]
    return Ranking(
        positives=positives,
        negatives=negatives,
        below=np.searchsorted(down, up, side="left"),
        up_to=np.searchsorted(down, up, side="right"),
        positives_below=np.searchsorted(up, up, side="left"),
    )


def _sums(indicator: NDArray[np.bool_]) -> "Sums":
    transposed = indicator.T.astype(np.float64)
    if indicator.shape[1] <= FEW_CLASSES:
        return transposed
    from scipy.sparse import csr_array

    return csr_array(transposed)
