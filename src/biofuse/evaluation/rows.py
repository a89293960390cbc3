"""Labels and predictions of the same rows, checked against each other: what metrics are computed from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError, UndefinedMetricError
from biofuse.core.target import Labels, Target, Task
from biofuse.evaluation import survival

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Sums = NDArray[np.float64] | csr_array

Values = NDArray[np.float64]

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
class ScoredRows:
    """Labels and predictions of the same rows.

    Attributes
    ----------
    target : Target
        What is predicted.
    labels : ndarray of int64 or float64
        Class indices, shape (n,); zeros, ones, and -1 where nothing is known, shape (n, n_labels); values; or times and
        events: see :class:`~biofuse.core.target.Target`.
    probabilities : ndarray of float64, shape (n, n_columns)
        One column per class, label or horizon; predicted values, one per column of these.
    ranked_by : ndarray of float64, shape (n, n_columns)
        What ranking metrics order rows by: decision values, or the probabilities themselves.
    targets, predicted : ndarray of bool, shape (n, n_columns)
        Which class each row has, and which is predicted; no columns where there are no classes.
    known : ndarray of bool, shape (n, n_columns)
        Of which classes, labels or columns something is known of each row: no other is scored.
    """

    target: Target
    labels: Labels
    probabilities: NDArray[np.float64]
    ranked_by: NDArray[np.float64]
    targets: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    known: NDArray[np.bool_]

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class or label names, one per column."""
        return self.target.classes

    @cached_property
    def rankings(self) -> tuple[Ranking, ...]:
        """One ranking per column that ranking metrics average over."""
        return tuple(
            _rank(self.targets[:, c], self.ranked_by[:, c], self.known[:, c]) for c in self.target.ranked_columns
        )

    @cached_property
    def target_sums(self) -> "Sums":
        """Shape (n_classes, n): times row weights, the weight of each class."""
        return sums(self.targets)

    @cached_property
    def predicted_sums(self) -> "Sums":
        """Shape (n_classes, n): times row weights, how much of the weight each class is predicted for."""
        return sums(self.predicted & self.known)

    @cached_property
    def hit_sums(self) -> "Sums":
        """Shape (n_classes, n): times row weights, how much of each class is predicted rightly."""
        return sums(self.targets & self.predicted)

    @cached_property
    def known_sums(self) -> "Sums":
        """Shape (n_columns, n): times row weights, of how much of it something is known."""
        return sums(self.known)

    @cached_property
    def values(self) -> Values:
        """Of values: the true ones, shape (n, n_columns)."""
        return self.target.columns(self.labels)

    @cached_property
    def observed(self) -> survival.Observed:
        """Of times: when the event, or the end of the observation, was."""
        time, event = self.labels[:, 0].astype(np.float64), self.labels[:, 1] == 1
        return survival.Observed(time=time, event=event, horizons=np.array(self.target.horizons))

    @cached_property
    def pairs(self) -> survival.Pairs:
        """Of times: the pairs of which is known who had the event first."""
        return survival.Pairs.of(self.observed.time, self.observed.event, self.target.risk(self.ranked_by))

    @cached_property
    def horizon_rankings(self) -> tuple[Ranking, ...]:
        """Of times: by each horizon, who had the event among who had not; who was censored before is neither."""
        happened, beyond = self.observed.happened(), self.observed.beyond()
        each = range(len(self.classes))
        return tuple(_rank(happened[:, c], self.ranked_by[:, c], happened[:, c] | beyond[:, c]) for c in each)


def prepare(
    task: Task | Target,
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    decision: ArrayLike | None = None,
) -> ScoredRows:
    """Check labels against predictions.

    Parameters
    ----------
    task : Task or Target
        What the labels are. Of times to an event a target, which has the horizons, or their names as ``classes``.
    labels : array-like
        Shape (n,) or (n, 1) class indices or values; (n, n_labels) zeros and ones, -1 where nothing is known; (n, k)
        values; (n, 2) times and events.
    probabilities : array-like of float
        Shape (n, n_columns); for binary tasks also (n,) or (n, 1), the probability of the second class, and of one
        column of values also (n,).
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
    target = _target(task, np.shape(probabilities)[1:], classes)
    scores, truth = target.as_scores(probabilities), target.as_labels(labels)
    if scores.ndim != 2 or len(scores) != len(truth):
        raise AlignmentError(f"Labels of shape {truth.shape} and predictions of shape {scores.shape} do not match.")
    wrong = target.misfit(truth, len(scores))
    if wrong:
        raise AlignmentError(f"{wrong} There are predictions of shape {scores.shape}.")
    order = scores if decision is None else np.asarray(decision, dtype=np.float64)
    if order.shape != scores.shape:
        raise AlignmentError(f"Decision values of shape {order.shape} for predictions of shape {scores.shape}.")
    bad = int((~(np.isfinite(scores) & np.isfinite(order))).any(axis=1).sum())
    if bad:
        raise UndefinedMetricError(
            f"{bad} of {len(scores)} predictions are not finite numbers.",
            remedy="Look for constant or non-finite embeddings, or choose another head.",
        )
    return ScoredRows(
        target=target,
        labels=truth,
        probabilities=scores,
        ranked_by=order,
        targets=target.indicators(truth) if target.categorical else np.zeros((len(scores), 0), dtype=np.bool_),
        predicted=target.decide(scores) if target.categorical else np.zeros((len(scores), 0), dtype=np.bool_),
        known=target.known(truth),
    )


def _target(task: Task | Target, width: tuple[int, ...], classes: Sequence[str] | None) -> Target:
    """Return what is predicted, from the width of the predictions where nothing else says it."""
    if isinstance(task, Target):
        classes, task = classes or task.classes, task.kind
    alone = not width or (width == (1,) and task.exclusive)
    n_columns = (2 if task.exclusive else 1) if alone else width[0]
    if classes is not None and len(classes) != n_columns:
        raise AlignmentError(f"{len(classes)} classes but predictions for {n_columns}.")
    if classes is None and task.timed:
        raise AlignmentError(
            "Predictions of times to an event are about horizons, which are not given.",
            remedy="Give Target.until(horizons) instead of the task.",
        )
    return Target.numbered(task, n_columns) if classes is None else Target(task, tuple(classes))


def _rank(positive: NDArray[np.bool_], scores: NDArray[np.float64], known: NDArray[np.bool_]) -> Ranking:
    order = np.argsort(scores, kind="stable")
    order = order if known.all() else order[known[order]]
    positives, negatives = order[positive[order]], order[~positive[order]]
    up, down = scores[positives], scores[negatives]
    return Ranking(
        positives=positives,
        negatives=negatives,
        below=np.searchsorted(down, up, side="left"),
        up_to=np.searchsorted(down, up, side="right"),
        positives_below=np.searchsorted(up, up, side="left"),
    )


def sums(indicator: NDArray[np.bool_]) -> "Sums":
    """Return what times row weights, shape (n, n_weightings), is the weight of each column's rows."""
    transposed = indicator.T.astype(np.float64)
    if indicator.shape[1] <= FEW_CLASSES:
        return transposed
    from scipy.sparse import csr_array

    return csr_array(transposed)
