"""What is predicted: the only place that tells one kind of target from another."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError

THRESHOLD = 0.5
"""A label is predicted where its probability exceeds this, strictly: the convention of ``medmnist.Evaluator``."""

SEPARATOR = "|"
"""What stands between the names of several labels of one sample."""

NEGATIVES = frozenset({
    "0", "absent", "benign", "control", "controls", "ctrl", "false", "healthy", "neg", "negative", "no", "none",
    "normal",
})  # fmt: skip
"""Words for a class of samples in which nothing was found."""

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]


class Task(StrEnum):
    """The kind of classification task."""

    BINARY = "binary"
    """Two classes, one label per sample."""
    MULTICLASS = "multiclass"
    """Three or more unordered classes, one label per sample."""
    MULTILABEL = "multilabel"
    """Any number of labels per sample, each present or absent."""
    ORDINAL = "ordinal"
    """Ordered classes (grades), one label per sample."""

    @classmethod
    def natural(cls, n_classes: int) -> "Task":
        """Return the kind of so many classes, one per sample, of which no more is known."""
        return cls.BINARY if n_classes == 2 else cls.MULTICLASS

    def settled(self, n_classes: int) -> "Task | None":
        """Return the kind that is meant with so many classes, one per sample; None where it cannot be this one.

        One-hot columns of two classes are as often called multi-class as binary.
        """
        natural = Task.natural(n_classes)
        if self.ordered or self is natural:
            return self
        return natural if self is Task.MULTICLASS else None

    @property
    def several(self) -> bool:
        """Whether a sample may have any number of labels."""
        return self is Task.MULTILABEL

    @property
    def has_positive(self) -> bool:
        """Whether one of two classes is the one that is looked for."""
        return self is Task.BINARY

    @property
    def ordered(self) -> bool:
        """Whether the classes are grades, lowest first."""
        return self is Task.ORDINAL


TEXTS = {
    Task.BINARY: "two classes, one per sample",
    Task.MULTICLASS: "one class per sample",
    Task.MULTILABEL: "any number of labels per sample",
    Task.ORDINAL: "ordered grades, one per sample",
}


def is_negative(name: str, other: str = "") -> bool:
    """Tell whether a class is the one in which nothing was found, by its name.

    Examples
    --------
    >>> is_negative("healthy control"), is_negative("no_tumour"), is_negative("non-COVID"), is_negative("nodule")
    (True, True, True, False)
    >>> is_negative("noncovid", "COVID")
    True
    """
    words = re.split(r"[\W_]+", name.casefold().strip())
    opposite = other and name.casefold() in {f"{no}{other.casefold()}" for no in ("no", "non", "not")}
    return bool(opposite) or not NEGATIVES.isdisjoint(words) or words[0] in {"no", "non", "not", "without"}


def _whole(values: NDArray[np.generic]) -> Labels:
    """Turn whole numbers of another type into integers."""
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        numbers = np.full(values.shape, np.nan)
    odd = ~np.isfinite(numbers) | (numbers != np.round(numbers))
    if odd.any():
        raise AlignmentError(
            f"{int(odd.sum())} of {odd.size} labels are no whole numbers, e.g. {values[odd].flat[0]!r}.",
            remedy="Give class indices, from 0, or zeros and ones; probabilities are the second argument of a score.",
        )
    return numbers.astype(np.int64)


@dataclass(frozen=True)
class Target:
    """What is predicted: its kind, its classes, and all that follows from them.

    Labels are class indices, shape (n,), or zeros and ones, shape (n, n_labels). Scores have a column per class or
    label, shape (n, n_columns).

    Attributes
    ----------
    kind : Task
    classes : tuple of str
        Class or label names.
    """

    kind: Task
    classes: tuple[str, ...]

    @classmethod
    def numbered(cls, kind: Task, n_classes: int) -> Self:
        """Return a target whose classes are called by their numbers."""
        return cls(kind, tuple(str(number) for number in range(n_classes)))

    @property
    def several(self) -> bool:
        """Whether a sample may have any number of labels."""
        return self.kind.several

    @property
    def noun(self) -> str:
        """What the classes are called."""
        return "labels" if self.several else "classes"

    @property
    def text(self) -> str:
        """The kind in words."""
        return TEXTS[self.kind]

    @property
    def positive(self) -> str | None:
        """Of two classes the one that is looked for; None where there is no such class."""
        return self.classes[1] if self.kind.has_positive else None

    @property
    def n_columns(self) -> int:
        """Columns of scores."""
        return len(self.classes)

    @property
    def n_codes(self) -> int:
        """How many values an entry of the labels may have."""
        return 2 if self.several else len(self.classes)

    @property
    def ranked_columns(self) -> tuple[int, ...]:
        """Columns that ranking metrics average over: the last of a binary task, otherwise all."""
        return (1,) if self.kind is Task.BINARY else tuple(range(self.n_columns))

    def shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of the labels of n samples."""
        return (n, self.n_columns) if self.several else (n,)

    def misfit(self, labels: NDArray[np.integer], n: int) -> str:
        """Say what is wrong with the labels of n samples; empty where they fit."""
        if labels.shape != self.shape(n) or not np.issubdtype(labels.dtype, np.integer):
            needed = f"integers of shape {self.shape(n)} are needed"
            return f"Labels have shape {labels.shape} and type {labels.dtype}; {needed}."
        if self.kind is Task.BINARY and self.n_columns != 2:
            return f"A binary task has 2 classes, not {self.n_columns}."
        if labels.size and not 0 <= labels.min() <= labels.max() < self.n_codes:
            return f"Labels range from {labels.min()} to {labels.max()}; 0 to {self.n_codes - 1} are allowed."
        return ""

    def as_labels(self, values: ArrayLike) -> Labels:
        """Return labels as an array; a single column of class indices becomes a vector.

        Raises
        ------
        AlignmentError
            If a label is no whole number.
        """
        given = np.asarray(values)
        labels = given.astype(np.int64) if given.dtype.kind in "biu" else _whole(given)
        return labels[:, 0] if not self.several and labels.ndim == 2 and labels.shape[1] == 1 else labels

    def as_scores(self, values: ArrayLike) -> Scores:
        """Return scores as an array; of a binary task those of the second class alone will do."""
        scores = np.asarray(values, dtype=np.float64)
        if self.kind is Task.BINARY and (scores.ndim == 1 or scores.shape[1:] == (1,)):
            return np.column_stack([1 - scores.ravel(), scores.ravel()])
        return scores

    def indicators(self, labels: Labels) -> NDArray[np.bool_]:
        """Return which classes each sample has, shape (n, n_columns): also what folds and splits are stratified by."""
        return labels.astype(bool) if self.several else labels[:, None] == np.arange(self.n_columns)

    def decide(self, scores: Scores) -> NDArray[np.bool_]:
        """Return which classes are predicted, shape (n, n_columns).

        The first of the most probable classes; of two the second only above one half; of several labels each above
        one half: as ``medmnist.Evaluator`` counts.
        """
        if self.several:
            return scores > THRESHOLD
        if self.kind is Task.BINARY:
            second = scores[:, 1] > THRESHOLD
            return np.column_stack([~second, second])
        return np.asarray(scores.argmax(axis=1)[:, None] == np.arange(self.n_columns))

    def call(self, scores: Scores, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which classes are called where each is decided by itself, shape (n, n_columns).

        A class is called where its score exceeds its threshold, strictly; of two classes the second is, and the first
        wherever it is not. A sample may be called several of three or more classes, or none.

        Parameters
        ----------
        scores : ndarray of float64, shape (n, n_columns)
        thresholds : ndarray of float64, shape (n_columns,)
        """
        called = np.asarray(scores > thresholds)
        if self.kind is Task.BINARY:
            called[:, 0] = ~called[:, 1]
        return called

    def predict(self, scores: Scores) -> Labels:
        """Turn scores into labels."""
        decided = self.decide(scores)
        return decided.astype(np.int64) if self.several else np.asarray(decided.argmax(axis=1), dtype=np.int64)

    def names(self, labels: Labels | NDArray[np.bool_]) -> list[str]:
        """Return each sample's label, or what it is called, in words; several are joined by ``|``."""
        if labels.ndim == 2:
            return [SEPARATOR.join(name for name, on in zip(self.classes, row, strict=True) if on) for row in labels]
        return [self.classes[index] for index in labels]

    def named(self, text: str) -> tuple[str, ...]:
        """Return the classes that a label in words names: the inverse of :meth:`names`."""
        return tuple(text.split(SEPARATOR)) if self.several and text not in self.classes else (text,)

    def counts(self, labels: Labels) -> dict[str, int]:
        """Return the number of samples of each class."""
        return dict(zip(self.classes, self.indicators(labels).sum(axis=0).tolist(), strict=True))

    def majority_share(self, labels: Labels) -> float | None:
        """Return the share of the largest class: the accuracy of guessing; None where samples have several labels."""
        return None if self.several else float(self.indicators(labels).sum(axis=0).max() / len(labels))

    def add_up(self, scores: Scores) -> Scores:
        """Return probabilities that add up to one where classes exclude each other; otherwise unchanged."""
        return scores if self.several else scores / scores.sum(axis=1, keepdims=True)

    def others(self, probabilities: Scores) -> Scores:
        """Return the probability of everything but each class: of several labels, of its absence.

        The other classes are added up; what is left of 1 would have lost its digits.
        """
        return 1 - probabilities if self.several else probabilities @ (1 - np.eye(self.n_columns))

    def express(self, labels: Labels, classes: Sequence[str]) -> Labels:
        """Turn labels given in another order of classes into this target's own.

        Parameters
        ----------
        labels : ndarray of int64
            Indices into ``classes``, or a column for each.
        classes : sequence of str
            All of them known to this target.
        """
        position = np.array([self.classes.index(name) for name in classes], dtype=np.int64)
        if not self.several:
            return position[labels]
        found = np.zeros((len(labels), self.n_columns), dtype=np.int64)
        found[:, position] = labels
        return found
