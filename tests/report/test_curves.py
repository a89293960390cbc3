"""Curves, calibration and groups equal scikit-learn's and SciPy's."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    auc,
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)  # fmt: skip

from biofuse.core.target import Target, Task
from biofuse.report.sections.results import (
    DRAWN_POINTS,
    Predicted,
    best_beyond,
    calibration,
    confusion,
    group_scores,
    interpolated,
    precision_recall_curves,
    roc_curves,
    wilson,
    worst_mistakes,
)  # fmt: skip

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


def test_roc_curves_are_scikit_learns() -> None:
    data = predicted()
    curves = roc_curves(data)
    assert list(curves) == list(CLASSES)
    for column, name in enumerate(CLASSES):
        x, y, _ = roc_curve(data.targets[:, column], data.probabilities[:, column])
        np.testing.assert_array_equal(curves[name].x, x)
        np.testing.assert_array_equal(curves[name].y, y)
        own = roc_auc_score(data.targets[:, column], data.probabilities[:, column])
        assert auc(curves[name].x, curves[name].y) == pytest.approx(own, abs=1e-12)


def test_a_binary_task_has_the_curve_of_its_second_class() -> None:
    assert list(roc_curves(predicted(task=Task.BINARY, classes=("no", "yes")))) == ["yes"]


def test_precision_recall_curves_are_scikit_learns() -> None:
    data = predicted()
    for column, name in enumerate(CLASSES):
        curve = precision_recall_curves(data)[name]
        precision, recall, _ = precision_recall_curve(data.targets[:, column], data.probabilities[:, column])
        np.testing.assert_array_equal(curve.x, recall)
        np.testing.assert_array_equal(curve.y, precision)
        own = average_precision_score(data.targets[:, column], data.probabilities[:, column])
        assert -np.sum(np.diff(curve.x) * curve.y[:-1]) == pytest.approx(own, abs=1e-12)


def test_absent_classes_have_no_curves() -> None:
    data = predicted(classes=("a", "b", "c"))
    targets = data.targets.copy()
    targets[:, 1] = False
    without = Predicted(**{**vars(data), "targets": targets})
    assert list(roc_curves(without)) == ["a", "c"]
    assert list(precision_recall_curves(without)) == ["a", "c"]


def test_what_is_drawn_are_points_of_the_curve_with_its_ends_and_its_area() -> None:
    curve = roc_curves(predicted(20_000))["a"]
    drawn = curve.drawn()
    assert len(curve.x) > 1000
    assert len(drawn.x) <= DRAWN_POINTS + 2
    assert {*zip(drawn.x, drawn.y, strict=True)} <= {*zip(curve.x, curve.y, strict=True)}
    assert (drawn.x[0], drawn.y[0], drawn.x[-1], drawn.y[-1]) == (0, 0, 1, 1)
    assert auc(drawn.x, drawn.y) == pytest.approx(auc(curve.x, curve.y), abs=2e-3)


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.MULTILABEL])
def test_calibration_bins_are_scikit_learns(task: Task) -> None:
    data = predicted(2000, task=task)
    found = calibration(data.confidence, data.right)
    share, mean = calibration_curve(data.right, data.confidence, n_bins=10, strategy="uniform")
    np.testing.assert_allclose(found.accuracy, share, atol=1e-12)
    np.testing.assert_allclose(found.confidence, mean, atol=1e-12)
    assert found.counts.sum() == data.confidence.size
    weights = found.counts / found.counts.sum()
    assert found.error == pytest.approx(float((weights * np.abs(share - mean)).sum()), abs=1e-12)


def test_the_calibration_error_of_a_hand_made_case() -> None:
    # Two of four right at .9: off by .4; both right at .6: off by .4.
    found = calibration(np.array([0.9] * 4 + [0.6] * 2), np.array([1, 1, 0, 0, 1, 1], dtype=bool))
    assert found.error == pytest.approx(0.4)
    assert found.counts.tolist() == [2, 4]


def test_confidences_on_an_edge_and_at_the_ends_are_counted_once() -> None:
    found = calibration(np.array([0.0, 0.1, 0.5, 1.0]), np.array([False, False, True, True]))
    assert found.counts.sum() == 4


def test_the_confusion_matrix_is_scikit_learns() -> None:
    data = predicted()
    np.testing.assert_array_equal(
        confusion(data), confusion_matrix(data.labels, data.predictions, labels=list(CLASSES))
    )


@pytest.mark.parametrize(("right", "n"), [(0, 4), (4, 4), (3, 7), (50, 60)])
def test_wilson_intervals_are_scipys(right: int, n: int) -> None:
    ends = binomtest(right, n).proportion_ci(method="wilson")
    low, high = wilson(np.array([right / n]), np.array([n]))
    assert (low[0], high[0]) == pytest.approx((ends.low, ends.high), abs=1e-12)


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
    assert group_scores(Predicted(**{**vars(predicted()), "groups": None})) == ()


def test_mistakes_are_wrong_and_the_most_confident_come_first() -> None:
    data = predicted()
    worst = worst_mistakes(data, 5)
    assert len(worst) == 5
    assert all(data.labels[row] != data.predictions[row] for row, _, _ in worst)
    confidences = [confidence for _, _, confidence in worst]
    assert confidences == sorted(confidences, reverse=True)
    wrong = [a != b for a, b in zip(data.labels, data.predictions, strict=True)]
    assert confidences[0] == data.confidence[wrong].max()


def test_a_multilabel_mistake_names_the_label_it_is_about() -> None:
    data = predicted(task=Task.MULTILABEL)
    for row, what, size in worst_mistakes(data, 5):
        column = int(np.abs(data.targets[row] - data.probabilities[row]).argmax())
        assert CLASSES[column] in what
        assert size > 0.5


def test_points_read_off_a_curve_are_reachable() -> None:
    data = predicted()
    roc, precision = roc_curves(data)["a"], precision_recall_curves(data)["a"]
    for rate, value in zip((0.05, 0.2), interpolated(roc, (0.05, 0.2)), strict=True):
        assert value == roc.y[roc.x <= rate].max()
    for recall, value in zip((0.5, 0.9), best_beyond(precision, (0.5, 0.9)), strict=True):
        assert value == precision.y[precision.x >= recall].max()
