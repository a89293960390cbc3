"""Labels that are missing of some rows: each label's head is fitted on the rows of which it is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Labels, Scores, Target

PARTS = "labels"
"""What the state of such a head is told by: how many labels have a head of their own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedPerLabel:
    """A fitted head for each label.

    Attributes
    ----------
    heads : tuple of FittedHead
        Each predicts one label.
    n_features : int
        Columns of the matrices they take.
    notes : tuple of str
        What was noticed at fitting.
    """

    heads: tuple[Any, ...]
    n_features: int
    notes: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        """Columns of its probabilities."""
        return len(self.heads)

    def predict_proba(self, X: NDArray[Any]) -> Scores:
        """Return probabilities; see :meth:`biofuse.heads.base.FittedHead.predict_proba`."""
        return np.hstack([head.predict_proba(X) for head in self.heads])

    def decision(self, X: NDArray[Any]) -> Scores:
        """Return values to rank by; see :meth:`biofuse.heads.base.FittedHead.decision`."""
        return np.hstack([head.decision(X) for head in self.heads])

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        states = [head.state() for head in self.heads]
        arrays = {f"{number}.{name}": array for number, (_, own) in enumerate(states) for name, array in own.items()}
        json = {PARTS: [values for values, _ in states], "n_features": self.n_features, "notes": list(self.notes)}
        return json, arrays

    @classmethod
    def restore(
        cls,
        json: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        restore: Callable[[Mapping[str, Any], Mapping[str, NDArray[Any]]], Any],
    ) -> Self:
        """Build the fitted head whose state this is.

        Parameters
        ----------
        json, arrays : mapping
            The state.
        restore : callable
            Builds the head of one label from its own state.

        Raises
        ------
        ArtifactError
            If the state is malformed.
        """
        with reading("head of labels"):
            own = [
                {
                    name.removeprefix(f"{number}."): each
                    for name, each in arrays.items()
                    if name.startswith(f"{number}.")
                }
                for number in range(len(json[PARTS]))
            ]
            fitted = cls(
                heads=tuple(restore(values, part) for values, part in zip(json[PARTS], own, strict=True)),
                n_features=int(json["n_features"]),
                notes=tuple(str(note) for note in json["notes"]),
            )
        if not fitted.heads or {(head.n_classes, head.n_features) for head in fitted.heads} != {(1, fitted.n_features)}:
            raise ArtifactError("The saved heads of the labels do not fit together.", remedy="Fit again.")
        return fitted


def has_gaps(labels: Labels, target: Target) -> bool:
    """Tell whether some labels are missing."""
    return target.several and labels.shape[1:] == (target.n_columns,) and not bool(target.known(labels).all())


def fit_per_label(
    head: Any,
    X: NDArray[Any],
    labels: Labels,
    *,
    target: Target,
    sample_weight: NDArray[np.float64] | None,
    seed: int,
    threads: int,
) -> FittedPerLabel:
    """Fit a head for each label, on the rows of which it is known.

    Parameters
    ----------
    head : Head
        What is fitted for each.
    X : ndarray, shape (n, d)
    labels : ndarray of int64, shape (n, n_labels)
        -1 where nothing is known.
    target, sample_weight, seed, threads
        As for :meth:`biofuse.heads.base.Head.fit`.
    """
    heads, notes = [], []
    for place, (name, known) in enumerate(zip(target.classes, target.known(labels).T, strict=True)):
        rows, alone = np.flatnonzero(known), Target(target.kind, (name,))
        own = labels[rows, place : place + 1]
        if not len(rows):
            notes.append(f"Nothing is known of label {place} in the training rows: probability 0.")
            rows, own = np.arange(1), np.zeros((1, 1), dtype=np.int64)
        weights = None if sample_weight is None else np.asarray(sample_weight)[rows]
        fitted = head.fit(X[rows], own, target=alone, sample_weight=weights, seed=seed, threads=threads)
        notes += _called(fitted.notes, place) if known.any() else []
        heads.append(fitted)
    return FittedPerLabel(heads=tuple(heads), n_features=X.shape[1], notes=tuple(notes))


def _called(notes: Sequence[str], place: int) -> list[str]:
    """Say of which label the notes of a head of one label are."""
    return [note.replace("Label 0 ", f"Label {place} ", 1) for note in notes]
