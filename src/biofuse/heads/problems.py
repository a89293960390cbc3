"""Checks what a head is given, and states it as problems of two or more classes that all occur."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError
from biofuse.core.tasks import Task
from biofuse.heads.outputs import Outputs
from biofuse.heads.protocol import ClassWeight, Features


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One classification problem; every one of its classes occurs.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,)
        Class of each row, 0 to ``n_codes`` - 1.
    n_codes : int
        Number of classes, at least 2.
    weights : ndarray of float64, shape (n,)
        Weight of each row: class weight times sample weight.
    """

    codes: NDArray[np.int64]
    n_codes: int
    weights: NDArray[np.float64]

    @property
    def indicators(self) -> NDArray[np.float64]:
        """Ones where a row is of a class, else zeros; shape (n, width): the second class alone if there are two."""
        one_hot = np.asarray(self.codes[:, None] == np.arange(self.n_codes), dtype=np.float64)
        return one_hot[:, 1:] if self.n_codes == 2 else one_hot


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """What there is to fit: the problems, where their results belong, and what was noticed."""

    problems: tuple[Problem, ...]
    outputs: Outputs
    notes: tuple[str, ...]


def set_up(
    X: Features,
    labels: NDArray[np.int64],
    *,
    task: Task,
    n_classes: int,
    class_weight: ClassWeight,
    sample_weight: NDArray[np.float64] | None,
) -> Setup:
    """Check features, labels and weights, and state the problems to be fitted.

    Raises
    ------
    DataError
        If shapes do not agree, a value is not finite, a label is out of range or there are no rows.
    """
    labels = np.asarray(labels)
    _check_labels(labels, n=len(X), task=task, n_classes=n_classes)
    check_features(X, n_features=X.shape[1] if X.ndim == 2 else 0)
    weights = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (len(X),) or not np.isfinite(weights).all() or (weights <= 0).any():
        raise DataError(
            "Sample weights must be one positive number per row.",
            remedy="Leave rows out that are to count for nothing.",
        )
    _check_class_weight(class_weight, n_classes=2 if task is Task.MULTILABEL else n_classes)
    if task is Task.MULTILABEL:
        return _one_problem_per_label(labels, weights=weights, class_weight=class_weight)
    return _one_problem(labels, weights=weights, class_weight=class_weight, task=task, n_classes=n_classes)


def check_features(X: Features, *, n_features: int) -> None:
    """Refuse a matrix of the wrong width, or with values that are not finite.

    Raises
    ------
    DataError
        Naming the first such row.
    """
    if X.ndim != 2 or X.shape[1] != n_features or n_features == 0:
        raise DataError(
            f"The features have shape {X.shape}; a matrix of {n_features or 'at least 1'} columns is needed."
        )
    finite = np.asarray(np.isfinite(X).all(axis=1))
    if not finite.all():
        raise DataError(
            f"{int((~finite).sum())} rows of the features are not finite, the first is row {np.argmin(finite)}.",
            remedy="Embed these samples again in fp32.",
        )


def _check_labels(labels: NDArray[np.int64], *, n: int, task: Task, n_classes: int) -> None:
    shape = (n, n_classes) if task is Task.MULTILABEL else (n,)
    if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"Labels have shape {labels.shape} and type {labels.dtype}; integers of shape {shape} are needed."
        )
    if n == 0:
        raise DataError("There are no rows to fit a head on.")
    if task is Task.BINARY and n_classes != 2:
        raise DataError(f"A binary task has 2 classes, not {n_classes}.")
    most = 1 if task is Task.MULTILABEL else n_classes - 1
    if labels.min() < 0 or labels.max() > most:
        raise DataError(f"Labels range from {labels.min()} to {labels.max()}; 0 to {most} are allowed.")


def _check_class_weight(class_weight: ClassWeight, *, n_classes: int) -> None:
    if class_weight is None or class_weight == "balanced":
        return
    if isinstance(class_weight, str):
        raise DataError(f"class_weight is {class_weight!r}; it may be None, 'balanced' or a mapping.")
    if not set(class_weight) <= set(range(n_classes)):
        raise DataError(f"Class weights name {sorted(class_weight)}; there are classes 0 to {n_classes - 1}.")
    if not all(np.isfinite(weight) and weight > 0 for weight in class_weight.values()):
        raise DataError(f"Class weights must be positive: {dict(class_weight)}.")


def _one_problem(
    labels: NDArray[np.int64],
    *,
    weights: NDArray[np.float64],
    class_weight: ClassWeight,
    task: Task,
    n_classes: int,
) -> Setup:
    present, codes = np.unique(labels, return_inverse=True)
    absent = sorted(set(range(n_classes)) - set(present.tolist()))
    notes = [f"No training row is of class {', '.join(map(str, absent))}: probability 0."] if absent else []
    if len(present) == 1:
        notes.append(f"All training rows are of class {present[0]}: always predicted.")
        constant = dict.fromkeys(absent, 0.0) | {int(present[0]): 1.0}
        outputs = Outputs(task=task, n_classes=n_classes, columns=(), constant=constant)
        return Setup(problems=(), outputs=outputs, notes=tuple(notes))
    weights = weights * _class_weights(labels, class_weight, weights)
    return Setup(
        problems=(Problem(codes=codes.astype(np.int64), n_codes=len(present), weights=weights),),
        outputs=Outputs(
            task=task,
            n_classes=n_classes,
            columns=(tuple(present.tolist()),),
            constant=dict.fromkeys(absent, 0.0),
        ),
        notes=tuple(notes),
    )


def _one_problem_per_label(
    labels: NDArray[np.int64], *, weights: NDArray[np.float64], class_weight: ClassWeight
) -> Setup:
    problems, columns, constant, notes = [], [], {}, []
    for label, codes in enumerate(labels.T.astype(np.int64)):
        if codes.min() == codes.max():
            constant[label] = float(codes[0])
            notes.append(f"Label {label} is {codes[0]} in all training rows: always predicted.")
        else:
            problems.append(
                Problem(codes=codes, n_codes=2, weights=weights * _class_weights(codes, class_weight, weights))
            )
            columns.append((label,))
    outputs = Outputs(task=Task.MULTILABEL, n_classes=labels.shape[1], columns=tuple(columns), constant=constant)
    return Setup(problems=tuple(problems), outputs=outputs, notes=tuple(notes))


def _class_weights(
    labels: NDArray[np.int64], class_weight: ClassWeight, sample_weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    if class_weight is None:
        return np.ones(len(labels))
    if isinstance(class_weight, str):
        totals = np.bincount(labels, weights=sample_weight)
        return np.asarray(sample_weight.sum() / (np.count_nonzero(totals) * totals[labels]), dtype=np.float64)
    return np.array([class_weight.get(int(label), 1.0) for label in labels], dtype=np.float64)
