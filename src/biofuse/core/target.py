"""What is predicted: the only place that tells one kind of target from another."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

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

MISSING = -1
"""In labels of several per sample: nothing is known of this one. It is neither fitted, scored nor counted."""

QUANTILES = 4
"""Most parts of equal size by which values and times are stratified."""

PER_QUANTILE = 10
"""Fewest samples of such a part: as many as leave two for every fold of five."""

BY = "by "
"""What the name of a horizon begins with."""

CENSORED = "+"
"""What stands behind a time at which the event had not happened yet, as survival tables are printed."""

Labels = NDArray[np.int64 | np.float64]
"""What was found of each sample: class indices (n,), zeros and ones (n, n_labels) with -1 where nothing is known, or
float64: values (n,) or (n, n_columns), or times and events (n, 2)."""

Scores = NDArray[np.float64]
"""What is predicted of each sample, (n, n_columns): probabilities of classes, of labels or of an event by each horizon,
or values in their own unit."""


class Task(StrEnum):
    """The kind of what is predicted."""

    BINARY = "binary"
    """Two classes, one label per sample."""
    MULTICLASS = "multiclass"
    """Three or more unordered classes, one label per sample."""
    MULTILABEL = "multilabel"
    """Any number of labels per sample, each present or absent."""
    ORDINAL = "ordinal"
    """Ordered classes (grades), one label per sample."""
    VALUE = "value"
    """One or several numbers per sample, such as an age."""
    SURVIVAL = "survival"
    """A time per sample, at which an event happened or until which it had not."""

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

    @property
    def categorical(self) -> bool:
        """Whether samples have classes or labels."""
        return not (self.measured or self.timed)

    @property
    def exclusive(self) -> bool:
        """Whether a sample has exactly one of the classes."""
        return self.categorical and not self.several

    @property
    def measured(self) -> bool:
        """Whether samples have values."""
        return self is Task.VALUE

    @property
    def timed(self) -> bool:
        """Whether samples have a time and an event."""
        return self is Task.SURVIVAL


TEXTS = {
    Task.BINARY: "two classes, one per sample",
    Task.MULTICLASS: "one class per sample",
    Task.MULTILABEL: "any number of labels per sample",
    Task.ORDINAL: "ordered grades, one per sample",
    Task.VALUE: "a number per sample and column",
    Task.SURVIVAL: "a time per sample, to an event or to the end of the observation",
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


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of up to :data:`QUANTILES` parts of about equal size each value is in, shape (n, n_parts)."""
    parts = min(QUANTILES, max(1, len(values) // PER_QUANTILE))
    edges = np.quantile(values, np.arange(1, parts) / parts) if len(values) else np.zeros(0)
    found = np.searchsorted(edges, values)[:, None] == np.arange(parts)
    return np.asarray(found[:, found.any(axis=0)])


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

    Labels are what was found of each sample, scores what is predicted of it; scores have a column per class, label,
    column of values or horizon, shape (n, n_columns).

    Attributes
    ----------
    kind : Task
    classes : tuple of str
        Names of classes, labels or columns of values; of a time to an event the horizons in words (:meth:`until`).
    """

    kind: Task
    classes: tuple[str, ...]

    @classmethod
    def numbered(cls, kind: Task, n_classes: int) -> Self:
        """Return a target whose classes are called by their numbers."""
        return cls(kind, tuple(str(number) for number in range(n_classes)))

    @classmethod
    def until(cls, horizons: Sequence[float]) -> Self:
        """Return the target of a time to an event: whether it has happened by each horizon, in the unit of the times.

        Examples
        --------
        >>> Target.until([365, 730.5]).classes
        ('by 365', 'by 730.5')
        """
        return cls(Task.SURVIVAL, tuple(f"{BY}{horizon:.12g}" for horizon in horizons))

    @property
    def several(self) -> bool:
        """Whether a sample may have any number of labels."""
        return self.kind.several

    @property
    def categorical(self) -> bool:
        """Whether samples have classes or labels."""
        return self.kind.categorical

    @property
    def exclusive(self) -> bool:
        """Whether a sample has exactly one of the classes."""
        return self.kind.exclusive

    @property
    def measured(self) -> bool:
        """Whether samples have values."""
        return self.kind.measured

    @property
    def timed(self) -> bool:
        """Whether samples have a time and an event."""
        return self.kind.timed

    @property
    def horizons(self) -> tuple[float, ...]:
        """The times by which an event is predicted, ascending; empty for other kinds."""
        return tuple(float(name.removeprefix(BY)) for name in self.classes) if self.timed else ()

    @property
    def noun(self) -> str:
        """What the classes are called."""
        return {Task.MULTILABEL: "labels", Task.VALUE: "columns", Task.SURVIVAL: "horizons"}.get(self.kind, "classes")

    @property
    def counted(self) -> str:
        """How many there are, and what they are called: ``4 classes``, ``1 column``."""
        return "1 " + self.noun.removesuffix("s") if len(self.classes) == 1 else f"{len(self.classes)} {self.noun}"

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
        """How many values an entry of the labels may have; 0 where they are numbers."""
        if not self.categorical:
            return 0
        return 2 if self.several else len(self.classes)

    @property
    def ranked_columns(self) -> tuple[int, ...]:
        """Columns that ranking metrics average over: the last of a binary task, otherwise all."""
        return (1,) if self.kind is Task.BINARY else tuple(range(self.n_columns))

    def shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of the labels of n samples."""
        if self.timed:
            return (n, 2)
        return (n, self.n_columns) if self.several or (self.measured and self.n_columns > 1) else (n,)

    def misfit(self, labels: NDArray[np.generic], n: int) -> str:
        """Say what is wrong with the labels of n samples; empty where they fit."""
        type_, called = (np.integer, "integers") if self.categorical else (np.floating, "numbers")
        if labels.shape != self.shape(n) or not np.issubdtype(labels.dtype, type_):
            needed = f"{called} of shape {self.shape(n)} are needed"
            return f"Labels have shape {labels.shape} and type {labels.dtype}; {needed}."
        return self._misfit_codes(labels) if self.categorical else self._misfit_numbers(labels)

    def _misfit_codes(self, labels: NDArray[Any]) -> str:
        if self.kind is Task.BINARY and self.n_columns != 2:
            return f"A binary task has 2 classes, not {self.n_columns}."
        least = MISSING if self.several else 0
        if labels.size and not least <= labels.min() <= labels.max() < self.n_codes:
            return f"Labels range from {labels.min()} to {labels.max()}; {least} to {self.n_codes - 1} are allowed."
        return ""

    def _misfit_numbers(self, labels: NDArray[Any]) -> str:
        odd = int((~np.isfinite(labels)).sum())
        if odd:
            return f"{odd} of {labels.size} labels are no finite numbers."
        if self.timed and (labels[:, 0] < 0).any():
            return f"{int((labels[:, 0] < 0).sum())} of {len(labels)} times are negative."
        if self.timed and not np.isin(labels[:, 1], (0, 1)).all():
            return "Events are 1 where they happened and 0 where the observation ended before; there are others."
        return ""

    def as_labels(self, values: ArrayLike) -> Labels:
        """Return labels as an array; a single column of class indices or values becomes a vector.

        Raises
        ------
        AlignmentError
            If a class or label is no whole number.
        """
        given = np.asarray(values)
        labels: Labels
        if not self.categorical:
            labels = given.astype(np.float64)
        else:
            labels = given.astype(np.int64) if given.dtype.kind in "biu" else _whole(given)
        return labels[:, 0] if len(self.shape(0)) == 1 and labels.ndim == 2 and labels.shape[1] == 1 else labels

    def as_scores(self, values: ArrayLike) -> Scores:
        """Return scores as an array; a vector will do for a single column, and for the second class of two."""
        scores = np.asarray(values, dtype=np.float64)
        if self.kind is Task.BINARY and (scores.ndim == 1 or scores.shape[1:] == (1,)):
            return np.column_stack([1 - scores.ravel(), scores.ravel()])
        return scores[:, None] if not self.categorical and self.n_columns == 1 and scores.ndim == 1 else scores

    def columns(self, labels: Labels) -> Scores:
        """Return values as float64 of shape (n, n_columns), one or several."""
        return np.asarray(labels, dtype=np.float64).reshape(len(labels), -1)

    def known(self, labels: Labels) -> NDArray[np.bool_]:
        """Return of which classes, labels or columns something is known of each sample, shape (n, n_columns)."""
        return labels != MISSING if self.several else np.ones((len(labels), self.n_columns), dtype=np.bool_)

    def indicators(self, labels: Labels) -> NDArray[np.bool_]:
        """Return which classes each sample has, shape (n, n_columns); what is not known of a label is not there.

        Raises
        ------
        TypeError
            If samples have no classes.
        """
        self._require_classes()
        return np.asarray(labels == 1 if self.several else labels[:, None] == np.arange(self.n_columns))

    def strata(self, labels: Labels) -> NDArray[np.bool_]:
        """Return what folds and splits are stratified by, shape (n, n_strata).

        Classes or labels; of values up to four parts of each column between its quantiles; of times up to four parts
        of those with an event, and four of those without.
        """
        if self.categorical:
            return self.indicators(labels)
        if self.measured:
            return np.hstack([_quantiles(column) for column in self.columns(labels).T])
        found = []
        for event in (labels[:, 1] == 1, labels[:, 1] != 1):
            parts = _quantiles(labels[event, 0])
            found.append(np.zeros((len(labels), parts.shape[1]), dtype=np.bool_))
            found[-1][event] = parts
        return np.hstack(found)

    def balanced(self, labels: Labels) -> Labels:
        """Return what folds are planned by: classes or labels as they are, else the strata as zeros and ones.

        Where all samples are in one stratum, they are of one class.
        """
        if self.categorical:
            return labels
        strata = self.strata(labels)
        strata = strata[:, ~strata.all(axis=0)]
        return strata.astype(np.int64) if strata.shape[1] else np.zeros(len(labels), dtype=np.int64)

    def decide(self, scores: Scores) -> NDArray[np.bool_]:
        """Return which classes are predicted, shape (n, n_columns).

        The first of the most probable classes; of two the second only above one half; of several labels each above
        one half: as ``medmnist.Evaluator`` counts.

        Raises
        ------
        TypeError
            If samples have no classes.
        """
        self._require_classes()
        if self.several:
            return scores > THRESHOLD
        if self.kind is Task.BINARY:
            second = scores[:, 1] > THRESHOLD
            return np.column_stack([~second, second])
        return np.asarray(scores.argmax(axis=1)[:, None] == np.arange(self.n_columns))

    def _require_classes(self) -> None:
        if not self.categorical:
            raise TypeError(f"A {self.kind} has no classes.")

    def call(self, scores: Scores, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which classes are called where each is decided by itself, shape (n, n_columns).

        A class, column or horizon is called where its score exceeds its threshold, strictly; of two classes the second
        is, and the first wherever it is not. A sample may be called several of three or more classes, or none.

        Parameters
        ----------
        scores : ndarray of float64, shape (n, n_columns)
        thresholds : ndarray of float64, shape (n_columns,)
        """
        called = np.asarray(scores > thresholds)
        if self.kind is Task.BINARY:
            called[:, 0] = ~called[:, 1]
        return called

    def risk(self, scores: Scores) -> Scores:
        """Return what ranks samples by when an event is expected, the largest first, shape (n,): the mean column."""
        return np.asarray(scores.mean(axis=1), dtype=np.float64)

    def predict(self, scores: Scores) -> Labels:
        """Turn scores into labels: class indices, zeros and ones, or values; of times into the risk, shape (n,)."""
        if self.timed:
            return self.risk(scores)
        if self.measured:
            return scores[:, 0] if self.n_columns == 1 else scores
        decided = self.decide(scores)
        return decided.astype(np.int64) if self.several else np.asarray(decided.argmax(axis=1), dtype=np.int64)

    def names(self, labels: Labels | NDArray[np.bool_]) -> list[str]:
        """Return each sample's label, or what it is called, in words; several are joined by ``|``.

        Examples
        --------
        >>> Target(Task.VALUE, ("age", "weight")).names(np.array([[61.0, 80.5]]))
        ['61|80.5']
        >>> Target.until([365]).names(np.array([[120.0, 1], [400.0, 0]]))
        ['120', '400+']
        """
        if self.timed:
            return [f"{time:.12g}{'' if event else CENSORED}" for time, event in labels]
        if self.measured:
            return [SEPARATOR.join(f"{value:.12g}" for value in row) for row in labels.reshape(len(labels), -1)]
        if labels.ndim == 2:
            return [
                SEPARATOR.join(name for name, on in zip(self.classes, row == 1, strict=True) if on) for row in labels
            ]
        return [self.classes[int(index)] for index in labels]

    def named(self, text: str) -> tuple[str, ...]:
        """Return the classes that a label in words names: the inverse of :meth:`names`."""
        return tuple(text.split(SEPARATOR)) if self.several and text not in self.classes else (text,)

    def numbers(self, texts: Sequence[str]) -> Labels:
        """Return the values, or times and events, that labels in words stand for: the inverse of :meth:`names`.

        Raises
        ------
        TypeError
            If samples have classes.

        Examples
        --------
        >>> Target.until([365]).numbers(["120", "400+"]).tolist()
        [[120.0, 1.0], [400.0, 0.0]]
        """
        if self.categorical:
            raise TypeError(f"A {self.kind} has no numbers.")
        if self.timed:
            rows = [[float(text.removesuffix(CENSORED)), float(not text.endswith(CENSORED))] for text in texts]
        else:
            rows = [[float(value) for value in text.split(SEPARATOR)] for text in texts]
        return np.array(rows, dtype=np.float64).reshape(self.shape(len(texts)))

    def counts(self, labels: Labels) -> dict[str, int]:
        """Return the number of samples of each class; with each column of values; with an event, and without."""
        if self.timed:
            events = int(labels[:, 1].sum())
            return {"event": events, "censored": len(labels) - events}
        if self.measured:
            return dict.fromkeys(self.classes, len(labels))
        return dict(zip(self.classes, self.indicators(labels).sum(axis=0).tolist(), strict=True))

    def majority_share(self, labels: Labels) -> float | None:
        """Return the share of the largest class: the accuracy of guessing; None unless samples have one class each."""
        return float(self.indicators(labels).sum(axis=0).max() / len(labels)) if self.exclusive else None

    def add_up(self, scores: Scores) -> Scores:
        """Return probabilities that add up to one where classes exclude each other; otherwise unchanged."""
        return scores / scores.sum(axis=1, keepdims=True) if self.exclusive else scores

    def others(self, probabilities: Scores) -> Scores:
        """Return the probability of everything but each class: of several labels, of its absence.

        The other classes are added up; what is left of 1 would have lost its digits.
        """
        return probabilities @ (1 - np.eye(self.n_columns)) if self.exclusive else 1 - probabilities

    def express(self, labels: Labels, classes: Sequence[str]) -> Labels:
        """Turn labels given in another order of classes or columns into this target's own.

        Parameters
        ----------
        labels : ndarray
            Indices into ``classes``, or a column for each; times and events stay as they are.
        classes : sequence of str
            All of them known to this target; of columns of values, all of them.
        """
        if self.timed:
            return labels
        position = np.array([self.classes.index(name) for name in classes], dtype=np.int64)
        if self.exclusive:
            return position[labels.astype(np.int64)]
        found = np.zeros((len(labels), self.n_columns), dtype=labels.dtype)
        found[:, position] = labels.reshape(len(labels), -1)
        return found.reshape(self.shape(len(labels)))
