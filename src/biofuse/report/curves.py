"""What predictions show beyond their scores: curves, calibration, confusions, groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biofuse.core.target import Target

BINS = 10
"""Bins of equal width between 0 and 1: what reliability diagrams usually have (Guo et al. 2017, arXiv:1706.04599)."""

RANKED_GROUPS = 300
"""Groups, the worst first, of which AUROC is computed: as many as are listed."""

DRAWN_POINTS = 300
"""Points of a curve that are drawn: more cannot be told apart on a page."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """Test predictions in the terms of metrics.

    Attributes
    ----------
    target : Target
    ids : tuple of str
    targets : ndarray of bool, shape (n, n_classes)
    probabilities : ndarray of float64, shape (n, n_classes)
    labels, predictions : tuple of str
        In words.
    groups : tuple of str, or None
    """

    target: Target
    ids: tuple[str, ...]
    targets: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    labels: tuple[str, ...]
    predictions: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class or label names."""
        return self.target.classes

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have any number of labels."""
        return self.target.several

    @property
    def ranked(self) -> tuple[int, ...]:
        """Columns that have curves: the second class of a binary task, otherwise all."""
        return self.target.ranked_columns

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted class, shape (n,); of multi-label tasks that of each label, flattened."""
        return self.probabilities.ravel() if self.multilabel else self.probabilities.max(axis=1)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether what the confidence belongs to is true: the prediction, or that the label is present."""
        if self.multilabel:
            return self.targets.ravel()
        rows = np.arange(self.n)
        return np.asarray(self.targets[rows, self.probabilities.argmax(axis=1)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A curve of one class; its points run as scikit-learn returns them.

    Attributes
    ----------
    name : str
    x, y : ndarray of float64
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def drawn(self) -> "Curve":
        """Return at most :data:`DRAWN_POINTS` of the points, evenly along the curve, the ends among them."""
        if len(self.x) <= DRAWN_POINTS:
            return self
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(self.x)) + np.abs(np.diff(self.y)))])
        kept = np.searchsorted(length, np.linspace(0, length[-1], DRAWN_POINTS))
        kept = np.unique(np.concatenate([[0], kept.clip(0, len(self.x) - 1), [len(self.x) - 1]]))
        return Curve(name=self.name, x=self.x[kept], y=self.y[kept])


def roc_curves(predicted: Predicted) -> dict[str, Curve]:
    """Return false against true positive rates per class; classes that are absent, or everything, have none."""
    from sklearn.metrics import roc_curve

    found = {}
    for column in predicted.ranked:
        target = predicted.targets[:, column]
        if target.any() and not target.all():
            name = predicted.classes[column]
            x, y, _ = roc_curve(target, predicted.probabilities[:, column])
            found[name] = Curve(name=name, x=x, y=y)
    return found


def precision_recall_curves(predicted: Predicted) -> dict[str, Curve]:
    """Return recall against precision per class; classes that are absent have none."""
    from sklearn.metrics import precision_recall_curve

    found = {}
    for column in predicted.ranked:
        target = predicted.targets[:, column]
        if target.any():
            name = predicted.classes[column]
            y, x, _ = precision_recall_curve(target, predicted.probabilities[:, column])
            found[name] = Curve(name=name, x=x, y=y)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How often predictions of a confidence are right.

    Attributes
    ----------
    confidence, accuracy : ndarray of float64, shape (n_bins,)
        Means of the predictions in each bin that holds any.
    counts : ndarray of int64, shape (n_bins,)
    error : float
        Expected calibration error: mean of ``|accuracy - confidence|``, weighted by the counts.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.int64]
    error: float


def calibration(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration:
    """Bin confidences into :data:`BINS` of equal width; values on an edge belong to the bin below it.

    Parameters
    ----------
    confidence : ndarray of float64, shape (n,)
    right : ndarray of bool, shape (n,)
    """
    edges = np.linspace(0.0, 1.0, BINS + 1)
    place = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(place, minlength=BINS)
    there = counts > 0
    means = np.bincount(place, confidence, minlength=BINS)[there] / counts[there]
    shares = np.bincount(place, right, minlength=BINS)[there] / counts[there]
    gap = float((np.abs(shares - means) * counts[there]).sum() / max(counts.sum(), 1))
    return Calibration(confidence=means, accuracy=shares, counts=counts[there], error=gap)


def confusion(predicted: Predicted) -> NDArray[np.int64]:
    """Count labels (rows) against predictions (columns), shape (n_classes, n_classes); one label per sample only."""
    place = {name: index for index, name in enumerate(predicted.classes)}
    counts = np.zeros((len(place), len(place)), dtype=np.int64)
    for label, prediction in zip(predicted.labels, predicted.predictions, strict=True):
        counts[place[label], place[prediction]] += 1
    return counts


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """Scores of one group: how many samples, share right (of labels, for multi-label tasks), its 95 % interval."""

    name: str
    n: int
    accuracy: float
    low: float
    high: float
    auroc: float


def group_scores(predicted: Predicted) -> tuple[GroupScore, ...]:
    """Score every group, the worst first; empty without groups."""
    from biofuse.evaluation.metrics import auroc_columns

    if predicted.groups is None:
        return ()
    if predicted.multilabel:
        right = ((predicted.probabilities > 0.5) == predicted.targets).mean(axis=1)
    else:
        right = np.array([a == b for a, b in zip(predicted.labels, predicted.predictions, strict=True)], dtype=float)
    names, place, counts = np.unique(np.array(predicted.groups, dtype=str), return_inverse=True, return_counts=True)
    accuracy = np.bincount(place, right) / counts
    low, high = wilson(accuracy, counts)
    rows_of = np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
    columns = list(predicted.ranked)

    def scored(group: int, *, ranked: bool) -> GroupScore:
        rows = rows_of[group]
        targets, values = predicted.targets[rows][:, columns], predicted.probabilities[rows][:, columns]
        return GroupScore(
            name=str(names[group]),
            n=int(counts[group]),
            accuracy=float(accuracy[group]),
            low=float(low[group]),
            high=float(high[group]),
            auroc=float(auroc_columns(targets, values).mean()) if ranked else float("nan"),
        )

    order = np.lexsort((names, -counts, accuracy)).tolist()
    return tuple(scored(group, ranked=rank < RANKED_GROUPS) for rank, group in enumerate(order))


def wilson(
    share: NDArray[np.float64], counts: NDArray[np.int64], *, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of Wilson's score interval (1927) of shares out of counts."""
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    middle = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    reach = z / (1 + z**2 / counts) * np.sqrt(share * (1 - share) / counts + z**2 / (4 * counts**2))
    return (middle - reach).clip(0, 1), (middle + reach).clip(0, 1)


def worst_mistakes(predicted: Predicted, count: int) -> tuple[tuple[int, str, float], ...]:
    """Return the rows that are wrong with the greatest confidence: row, what is wrong in words, and how confident."""
    if not predicted.multilabel:
        wrong = np.array([a != b for a, b in zip(predicted.labels, predicted.predictions, strict=True)])
        rows = np.flatnonzero(wrong)
        order = rows[np.argsort(-predicted.confidence[rows], kind="stable")][:count]
        return tuple(
            (
                int(row),
                f"labelled {predicted.labels[row]}, predicted {predicted.predictions[row]}",
                float(predicted.confidence[row]),
            )
            for row in order
        )
    gap = np.abs(predicted.targets - predicted.probabilities)
    worst = gap.argmax(axis=1)
    size = gap[np.arange(predicted.n), worst]
    rows = np.flatnonzero(size > 0.5)
    order = rows[np.argsort(-size[rows], kind="stable")][:count]
    return tuple((int(row), _missed(predicted, int(row), int(worst[row])), float(size[row])) for row in order)


def _missed(predicted: Predicted, row: int, column: int) -> str:
    name = predicted.classes[column]
    return f"has {name}, predicted without" if predicted.targets[row, column] else f"predicted {name}, labelled without"


def interpolated(curve: Curve, at: Sequence[float]) -> list[float]:
    """Return the largest y that a curve reaches at x values up to each of those given."""
    order = np.argsort(curve.x, kind="stable")
    x, best = curve.x[order], np.maximum.accumulate(curve.y[order])
    return [float(best[np.searchsorted(x, value, side="right") - 1]) if x[0] <= value else float("nan") for value in at]


def best_beyond(curve: Curve, at: Sequence[float]) -> list[float]:
    """Return the largest y that a curve has at x values of at least each of those given."""
    return [float(curve.y[curve.x >= value].max(initial=-np.inf)) for value in at]
