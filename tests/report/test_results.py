"""What the page's own tables do not show of curves, calibration, groups and mistakes; the rest is in test_sections."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, roc_auc_score

from biofuse.core.target import Target, Task
from biofuse.evaluation.calibration import reliability
from biofuse.report.input import Predicted
from biofuse.report.sections.results import (
    DRAWN_POINTS,
    group_scores,
    precision_recall_curves,
    roc_curves,
    thinned,
    worst_mistakes,
)
from biofuse.report.sections.trust import _ends

CLASSES = ("a", "b", "c")


def predicted(
    n: int = 400, *, task: Task = Task.MULTICLASS, classes: tuple[str, ...] = CLASSES, seed: int = 0
) -> Predicted:
    generator = np.random.default_rng(seed)
    if task is Task.MULTILABEL:
        targets = generator.random((n, len(classes))) < 0.4
        probabilities = np.clip(targets * 0.3 + generator.random(targets.shape) * 0.7, 0, 1)
        said = probabilities > 0.5
        words = ["|".join(np.array(classes)[row]) for row in targets]
        guesses = ["|".join(np.array(classes)[row]) for row in said]
    else:
        labels = generator.integers(0, len(classes), n)
        targets = np.eye(len(classes), dtype=bool)[labels]
        noisy = np.exp(1.5 * targets + generator.normal(0, 1, targets.shape))
        probabilities = noisy / noisy.sum(axis=1, keepdims=True)
        words = [classes[label] for label in labels]
        guesses = [classes[row.argmax()] for row in probabilities]
    return Predicted(
        target=Target(task, tuple(classes)), ids=tuple(map(str, range(n))), targets=targets,
        probabilities=probabilities, labels=tuple(words), predictions=tuple(guesses),
        groups=tuple(f"g{number % 37}" for number in range(n)),
    )  # fmt: skip


def test_a_binary_task_has_the_curve_of_its_second_class() -> None:
    assert list(roc_curves(predicted(task=Task.BINARY, classes=("no", "yes")))) == ["yes"]


def test_labels_of_which_nothing_is_known_are_neither_drawn_nor_counted() -> None:
    data = predicted(task=Task.MULTILABEL)
    unknown = np.random.default_rng(1).random(data.targets.shape) < 0.3
    gaps = replace(data, unknown=unknown, targets=data.targets & ~unknown)
    for column, (name, curve) in enumerate(roc_curves(gaps).items()):
        known = ~unknown[:, column]
        expected = roc_auc_score(data.targets[known, column], data.probabilities[known, column])
        assert auc(curve.x, curve.y) == pytest.approx(expected), name
    assert gaps.confidence.shape == gaps.right.shape == ((~unknown).sum(),)
    assert gaps.right.mean() == data.targets[~unknown].mean()
    first = group_scores(gaps)[0]
    rows = np.array(data.groups) == first.name
    right = ((data.probabilities > 0.5) == data.targets) & ~unknown
    assert first.accuracy == pytest.approx((right.sum(axis=1) / (~unknown).sum(axis=1).clip(1))[rows].mean())
    for row, what, _ in worst_mistakes(gaps, 12):
        assert not unknown[row, next(c for c, name in enumerate(CLASSES) if f" {name}" in what.replace(",", ""))]


def test_absent_classes_have_no_curves() -> None:
    data = predicted(classes=("a", "b", "c"))
    targets = data.targets.copy()
    targets[:, 1] = False
    without = replace(data, targets=targets)
    assert list(roc_curves(without)) == ["a", "c"]
    assert list(precision_recall_curves(without)) == ["a", "c"]


def test_what_is_drawn_are_points_of_the_curve_with_its_ends_and_its_area() -> None:
    curve = roc_curves(predicted(20_000))["a"]
    drawn = thinned(curve)
    assert len(curve.x) > 1000
    assert len(drawn.x) <= DRAWN_POINTS + 2
    assert {*zip(drawn.x, drawn.y, strict=True)} <= {*zip(curve.x, curve.y, strict=True)}
    assert (drawn.x[0], drawn.y[0], drawn.x[-1], drawn.y[-1]) == (0, 0, 1, 1)
    assert auc(drawn.x, drawn.y) == pytest.approx(auc(curve.x, curve.y), abs=2e-3)


def test_calibration_bins_of_labels_are_scikit_learns() -> None:
    data = predicted(2000, task=Task.MULTILABEL)
    found = reliability(data.confidence, data.right)
    share, mean = calibration_curve(data.right, data.confidence, n_bins=10, strategy="uniform")
    np.testing.assert_allclose(found.accuracy, share, atol=1e-12)
    np.testing.assert_allclose(found.confidence, mean, atol=1e-12)
    assert found.counts.sum() == data.confidence.size
    weights = found.counts / found.counts.sum()
    assert found.error == pytest.approx(float((weights * np.abs(share - mean)).sum()), abs=1e-12)


def test_the_calibration_error_of_a_hand_made_case() -> None:
    # Two of four right at .9: off by .4; both right at .6: off by .4.
    found = reliability(np.array([0.9] * 4 + [0.6] * 2), np.array([1, 1, 0, 0, 1, 1], dtype=bool))
    assert found.error == pytest.approx(0.4)
    assert found.counts.tolist() == [2, 4]


def test_confidences_on_an_edge_and_at_the_ends_are_counted_once() -> None:
    found = reliability(np.array([0.0, 0.1, 0.5, 1.0]), np.array([False, False, True, True]))
    assert found.counts.sum() == 4


def test_group_scores_come_worst_first_and_add_up() -> None:
    data = predicted()
    scores = group_scores(data)
    assert len(scores) == 37
    assert [score.accuracy for score in scores] == sorted(score.accuracy for score in scores)
    right = sum(a == b for a, b in zip(data.labels, data.predictions, strict=True))
    assert sum(score.accuracy * score.n for score in scores) == pytest.approx(right)
    one = scores[0]
    rows = [row for row, group in enumerate(data.groups or ()) if group == one.name]
    assert one.n == len(rows)
    own = roc_auc_score(data.targets[rows], data.probabilities[rows], average="macro")
    assert one.auroc == pytest.approx(own)


def test_no_groups_no_scores() -> None:
    assert group_scores(replace(predicted(), groups=None)) == ()


def test_a_multilabel_mistake_names_the_label_it_is_about() -> None:
    data = predicted(task=Task.MULTILABEL)
    for row, what, size in worst_mistakes(data, 5):
        column = int(np.abs(data.targets[row] - data.probabilities[row]).argmax())
        assert CLASSES[column] in what
        assert size > 0.5


def test_bins_of_calibration_count_the_labels_that_are_known() -> None:
    known = np.array([[True, False], [True, True], [False, True]])
    gaps: Any = SimpleNamespace(
        confidence=np.array([0.9, 0.9, 0.1, 0.9]), right=np.array([True, True, False, True]), n=3, multilabel=True,
        known=known, groups=None, units=SimpleNamespace(of_row=np.array([0, 1, 2])),
    )  # fmt: skip
    low, high = _ends(gaps)
    np.testing.assert_allclose(low[0], 0, atol=1e-12)
    assert len(low) == len(high) == 2
