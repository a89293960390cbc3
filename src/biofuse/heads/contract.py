"""The contract test that the author of a head runs, and that BioFuse runs on its own."""

import json
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError
from biofuse.core.tasks import Task
from biofuse.heads.protocol import FittedHead, Head

CASES = ((Task.BINARY, 2), (Task.MULTICLASS, 3), (Task.ORDINAL, 4), (Task.MULTILABEL, 3))
"""Tasks and numbers of classes that every head is tried on."""


def assert_head_contract(factory: Callable[[], Head], *, tolerance: float = 1e-4) -> None:
    """Fail unless a head keeps every promise that the rest of BioFuse relies on.

    Parameters
    ----------
    factory : callable
        Gives a new, unfitted head.
    tolerance : float, default 1e-4
        Largest difference in probability allowed where the training rows change places.

    Raises
    ------
    AssertionError
        If a promise is broken; the message says which.
    """
    head = factory()
    json.dumps(head.options, allow_nan=False)
    head.limits.exceeded_by(rows=1, features=1, classes=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what a user should know belongs into the notes
        for task, n_classes in CASES:
            _one_task(head, task, n_classes, tolerance)
        _absent_classes(head)
        _one_class_only(head)
        _constant_label(head)
        _bad_input(head)


def _one_task(head: Head, task: Task, n_classes: int, tolerance: float) -> None:
    where = f"{head.name}, {task}"
    X, labels = _data(task, n_classes)
    new, new_labels = _data(task, n_classes, seed=1)
    fitted = head.fit(X, labels, task=task, n_classes=n_classes)
    probabilities, decision = fitted.predict_proba(new), fitted.decision(new)
    _probabilities_are_such(fitted, probabilities, decision, task, where)
    truth = new_labels if task is Task.MULTILABEL else new_labels[:, None] == np.arange(n_classes)
    gap = (
        np.where(truth, probabilities, 0).sum() / truth.sum()
        - np.where(truth, 0, probabilities).sum() / (~(truth > 0)).sum()
    )
    _expect(
        gap > 0.15, f"{where}: the probabilities of true classes are no higher than others' (difference {gap:.2f})."
    )
    again = head.fit(X, labels, task=task, n_classes=n_classes)
    _expect(np.array_equal(again.predict_proba(new), probabilities), f"{where}: two fits differ.")
    some = np.array([5, 0, 9])
    _expect(
        np.allclose(fitted.predict_proba(new[some]), probabilities[some], atol=1e-9),
        f"{where}: a row's prediction depends on the other rows.",
    )
    order = np.random.default_rng(2).permutation(len(X))
    shuffled = head.fit(X[order], labels[order], task=task, n_classes=n_classes)
    difference = float(np.abs(shuffled.predict_proba(new) - probabilities).max())
    _expect(
        difference <= tolerance, f"{where}: the order of the training rows changes predictions by {difference:.1e}."
    )
    values, arrays = fitted.state()
    restored = head.restore(json.loads(json.dumps(values, allow_nan=False)), arrays)
    for name, result in (("predict_proba", probabilities), ("decision", decision)):
        _expect(np.array_equal(getattr(restored, name)(new), result), f"{where}: {name} differs after saving.")
    _expect(
        (restored.n_classes, restored.n_features, restored.notes) == (n_classes, X.shape[1], fitted.notes),
        f"{where}: classes, features or notes differ after saving.",
    )


def _probabilities_are_such(
    fitted: FittedHead, probabilities: NDArray[np.float64], decision: NDArray[np.float64], task: Task, where: str
) -> None:
    for name, values in (("predict_proba", probabilities), ("decision", decision)):
        _expect(values.dtype == np.float64, f"{where}: {name} gives {values.dtype}, not float64.")
        _expect(values.shape == (len(probabilities), fitted.n_classes), f"{where}: {name} has shape {values.shape}.")
        _expect(bool(np.isfinite(values).all()), f"{where}: {name} is not finite.")
    _expect(bool(((probabilities >= 0) & (probabilities <= 1)).all()), f"{where}: probabilities outside 0 to 1.")
    if task is not Task.MULTILABEL:
        _expect(np.allclose(probabilities.sum(axis=1), 1), f"{where}: the probabilities of a row do not sum to 1.")
        same = decision.argmax(axis=1) == probabilities.argmax(axis=1)
        _expect(bool(same.all()), f"{where}: decision and predict_proba favour different classes.")
    empty = np.zeros((0, fitted.n_features), dtype=np.float32)
    _expect(fitted.predict_proba(empty).shape == (0, fitted.n_classes), f"{where}: fails on zero rows.")


def _absent_classes(head: Head) -> None:
    X, labels = _data(Task.MULTICLASS, 3)
    for present in ((0, 1, 2), (0, 2)):
        rows = np.isin(labels, present)
        # Classes 1, 2 and 3 of five: the first and the last are absent.
        fitted = head.fit(X[rows], labels[rows] + 1, task=Task.MULTICLASS, n_classes=5)
        probabilities = fitted.predict_proba(X)
        absent = sorted(set(range(5)) - {label + 1 for label in present})
        _expect(probabilities.shape == (len(X), 5), f"{head.name}: absent classes lose their columns.")
        _expect(not probabilities[:, absent].any(), f"{head.name}: an absent class has a probability above 0.")
        _expect(np.allclose(probabilities.sum(axis=1), 1), f"{head.name}: with absent classes rows do not sum to 1.")
        _expect(bool(np.isfinite(fitted.decision(X)).all()), f"{head.name}: decision is not finite for absent classes.")
        _expect(bool(fitted.notes), f"{head.name}: says nothing of absent classes in its notes.")


def _one_class_only(head: Head) -> None:
    X, _ = _data(Task.BINARY, 2)
    fitted = head.fit(X, np.ones(len(X), dtype=np.int64), task=Task.BINARY, n_classes=2)
    _expect(np.array_equal(fitted.predict_proba(X), np.tile([0.0, 1.0], (len(X), 1))), f"{head.name}: one class only.")
    values, arrays = fitted.state()
    restored = head.restore(json.loads(json.dumps(values, allow_nan=False)), arrays)
    _expect(np.array_equal(restored.decision(X), fitted.decision(X)), f"{head.name}: one class only, after saving.")


def _constant_label(head: Head) -> None:
    X, labels = _data(Task.MULTILABEL, 3)
    labels[:, 1] = 0
    fitted = head.fit(X, labels, task=Task.MULTILABEL, n_classes=3)
    probabilities = fitted.predict_proba(X)
    _expect(not probabilities[:, 1].any(), f"{head.name}: a label that never occurs has a probability above 0.")
    _expect(probabilities[:, [0, 2]].std() > 0, f"{head.name}: one constant label makes the others constant.")
    _expect(bool(fitted.notes), f"{head.name}: says nothing of a constant label in its notes.")


def _bad_input(head: Head) -> None:
    X, labels = _data(Task.MULTICLASS, 3)
    holed = X.copy()
    holed[3, 1] = np.nan
    fitted = head.fit(X, labels, task=Task.MULTICLASS, n_classes=3)
    trials: dict[str, Callable[[], object]] = {
        "a value that is not a number, at fitting": lambda: head.fit(holed, labels, task=Task.MULTICLASS, n_classes=3),
        "a value that is not a number, at prediction": lambda: fitted.predict_proba(holed),
        "a column too few": lambda: fitted.predict_proba(X[:, :-1]),
        "a label too few": lambda: head.fit(X, labels[:-1], task=Task.MULTICLASS, n_classes=3),
        "a class out of range": lambda: head.fit(X, labels + 1, task=Task.MULTICLASS, n_classes=3),
        "no rows": lambda: head.fit(X[:0], labels[:0], task=Task.MULTICLASS, n_classes=3),
    }
    for what, trial in trials.items():
        try:
            trial()
        except DataError:
            continue
        raise AssertionError(f"{head.name}: {what} raises no DataError.")


def _data(task: Task, n_classes: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """More columns than rows, one of them constant, one on another scale; classes that overlap a little."""
    rng = np.random.default_rng(seed)
    n, d = 60, 80
    labels = np.random.default_rng(seed + 100).permutation(np.arange(n) % n_classes).astype(np.int64)
    if task is Task.MULTILABEL:
        labels = (rng.random((n, n_classes)) < 0.4).astype(np.int64)
    centres = np.random.default_rng(99).standard_normal((n_classes, d)) * 0.6
    X = rng.standard_normal((n, d)) + (labels @ centres if task is Task.MULTILABEL else centres[labels])
    X[:, 3] = 1.5
    X[:, 4] *= 10
    return X.astype(np.float32), labels


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
