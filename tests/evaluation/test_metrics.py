import ast
import warnings
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import sklearn.metrics as skm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from medmnist.evaluator import getACC, getAUC
from scipy.special import softmax
from scipy.stats import pearsonr, spearmanr

import biofuse
from biofuse.core.errors import AlignmentError, SearchError, UndefinedMetricError
from biofuse.core.target import Target, Task
from biofuse.evaluation.metrics import (
    BOARD_METRICS,
    DEFAULT_METRIC,
    METRICS,
    SCREEN_METRICS,
    SELECTABLE,
    Metrics,
    applicable,
    auroc_columns,
    board_metrics,
    check_selectable,
    default_metric,
    get_metric,
    score,
)
from biofuse.evaluation.rows import prepare

MEDMNIST = {
    Task.BINARY: "binary-class",
    Task.MULTICLASS: "multi-class",
    Task.ORDINAL: "ordinal-regression",
    Task.MULTILABEL: "multi-label, binary-class",
}


def example(task, seed, *, n=160, rounded=False):
    random = np.random.default_rng(seed)
    k = {Task.BINARY: 2, Task.MULTICLASS: 7, Task.ORDINAL: 5, Task.MULTILABEL: 6}[task]
    if task is Task.MULTILABEL:
        labels = (random.random((n, k)) < 0.3).astype(np.int64)
        p = np.clip(random.random((n, k)) * 0.7 + labels * 0.25, 0, 1)
    else:
        labels = np.concatenate([np.arange(k), random.integers(0, k, n - k)])
        p = softmax(random.normal(size=(n, k)) + 1.2 * (labels[:, None] == np.arange(k)), axis=1)
    return labels, np.round(p, 1) if rounded else p


@pytest.mark.parametrize("task", [task for task in Task if task.categorical])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
def test_auroc_and_accuracy_equal_medmnist_evaluator(task, seed, rounded):
    labels, p = example(task, seed, rounded=rounded)
    theirs = labels if task is Task.MULTILABEL else labels[:, None]  # MedMNIST stores [n, 1]
    found = score(task, theirs, p)
    assert found["auroc"] == pytest.approx(getAUC(theirs, p, MEDMNIST[task]), abs=1e-12)
    assert found["accuracy"] == pytest.approx(getACC(theirs, p, MEDMNIST[task]), abs=1e-12)
    assert set(found.undefined) <= ({"log_loss"} if rounded else set())  # rounded rows do not add to one


def test_binary_accepts_the_probability_of_the_second_class_alone():
    labels, p = example(Task.BINARY, 0)
    assert dict(score(Task.BINARY, labels, p[:, 1])) == pytest.approx(dict(score(Task.BINARY, labels, p)), abs=1e-12)
    assert score(Task.BINARY, [0, 1], [0.5, 0.5])["accuracy"] == 0.5  # strictly above one half, as the evaluator


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(4))
def test_single_label_metrics_equal_scikit_learn(seed, rounded):
    for task in (Task.BINARY, Task.MULTICLASS, Task.ORDINAL):
        labels, p = example(task, seed, rounded=rounded)
        if rounded:
            p = p + 1e-9
            p /= p.sum(axis=1, keepdims=True)
        k = p.shape[1]
        said = (p[:, 1] > 0.5).astype(int) if task is Task.BINARY else p.argmax(axis=1)
        onehot = labels[:, None] == np.arange(k)
        expected = {
            "balanced_accuracy": skm.balanced_accuracy_score(labels, said),
            "f1": skm.f1_score(labels, said, average="macro"),
            "mcc": skm.matthews_corrcoef(labels, said),
            "log_loss": skm.log_loss(labels, p),
            "average_precision": skm.average_precision_score(labels, p[:, 1])
            if k == 2
            else skm.average_precision_score(onehot, p, average="macro"),
        }
        if task is Task.ORDINAL:
            expected["quadratic_kappa"] = skm.cohen_kappa_score(labels, said, weights="quadratic")
        if k > 5 and not rounded:
            expected["top_5"] = skm.top_k_accuracy_score(labels, p, k=5)
        found = score(task, labels, p)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-10), name


def test_multilabel_metrics_are_means_over_labels():
    labels, p = example(Task.MULTILABEL, 3)
    said = p > 0.5
    found = score(Task.MULTILABEL, labels, p, classes=list("abcdef"))
    columns = range(labels.shape[1])
    expected = {
        "auroc": [skm.roc_auc_score(labels[:, c], p[:, c]) for c in columns],
        "average_precision": [skm.average_precision_score(labels[:, c], p[:, c]) for c in columns],
        "f1": [skm.f1_score(labels[:, c], said[:, c]) for c in columns],
        "mcc": [skm.matthews_corrcoef(labels[:, c], said[:, c]) for c in columns],
        "balanced_accuracy": [skm.balanced_accuracy_score(labels[:, c], said[:, c]) for c in columns],
        "log_loss": [skm.log_loss(labels[:, c], p[:, c]) for c in columns],
    }
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values), abs=1e-10), name
    assert [found.per_class[c]["auroc"] for c in "abcdef"] == pytest.approx(expected["auroc"], abs=1e-12)
    assert [found.per_class[c]["n"] for c in "abcdef"] == labels.sum(axis=0).tolist()
    assert "top_5" not in found
    assert "quadratic_kappa" not in found


@settings(max_examples=80, deadline=None)
@given(
    scores=hnp.arrays(np.float64, st.tuples(st.integers(4, 40), st.integers(1, 4)), elements=st.integers(-3, 3)),
    seed=st.integers(0, 2**16),
)
def test_auroc_columns_equal_scikit_learn_with_ties(scores, seed):
    targets = np.random.default_rng(seed).random(scores.shape) < 0.4
    targets[0], targets[1] = True, False
    expected = [skm.roc_auc_score(targets[:, c], scores[:, c]) for c in range(scores.shape[1])]
    assert auroc_columns(targets, scores) == pytest.approx(expected, abs=1e-12)
    assert auroc_columns(targets, scores.astype(np.float32)) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16), task=st.sampled_from([task for task in Task if task.categorical]), rounded=st.booleans()
)
def test_weights_mean_repeated_rows(seed, task, rounded):
    labels, p = example(task, seed, n=40, rounded=rounded)
    drawn = np.random.default_rng(seed).integers(0, 40, 40)
    weights = np.bincount(drawn, minlength=40).astype(float)[:, None]
    data, repeated = prepare(task, labels, p), prepare(task, labels[drawn], p[drawn])
    # A class that the draw lost is undefined in it; rows that never had the class are scored without it.
    assume((data.targets.any(axis=0) == repeated.targets.any(axis=0)).all())
    assume((data.targets.all(axis=0) == repeated.targets.all(axis=0)).all())
    assume((data.predicted.any(axis=0) == repeated.predicted.any(axis=0)).all())
    for name in applicable(data.target):
        metric = METRICS[name]
        assert metric.resample(data, weights) == pytest.approx(
            metric.resample(repeated, np.ones((40, 1))), abs=1e-10, nan_ok=True
        ), name


def test_undefined_metrics_are_nan_with_a_reason_and_never_a_crash():
    one = score(Task.BINARY, [1, 1], [0.2, 0.9], classes=["neg", "pos"])
    assert one.undefined["mcc"] == "every sample is pos"
    assert "neg" in one.undefined["auroc"]
    assert one["accuracy"] == 0.5
    labels = score(Task.MULTILABEL, [[0, 0], [0, 0]], [[0.9, 0.1], [0.2, 0.3]], classes=["x", "y"])
    assert labels.undefined["auroc"] == "no sample of x, y"
    assert np.isnan(labels.per_class["y"]["auroc"])
    scores = score(Task.MULTICLASS, [0, 1, 2], np.eye(3) * 4)
    assert scores.undefined == {"log_loss": "the predictions are not probabilities"}
    assert one.to_json()["metrics"]["auroc"] is None


def test_means_over_classes_leave_out_those_that_the_rows_cannot_score_and_name_them():
    rng = np.random.default_rng(0)
    truth, p = np.array([0, 0, 1, 1, 0, 1]), rng.dirichlet(np.ones(3), 6)
    found = score(Task.MULTICLASS, truth, p, classes=["a", "b", "c"])
    said = p.argmax(axis=1)
    assert found["auroc"] == pytest.approx(np.mean([skm.roc_auc_score(truth == c, p[:, c]) for c in (0, 1)]))
    assert found["balanced_accuracy"] == pytest.approx(np.mean([(said[truth == c] == c).mean() for c in (0, 1)]))
    assert found["f1"] == pytest.approx(skm.f1_score(truth, said, average="macro"))
    assert not found.undefined
    assert found.partial["auroc"] == found.partial["balanced_accuracy"] == "no sample of c"
    assert "over the classes that can be scored: no sample of c." in " ".join(found.remarks())
    assert Metrics.from_json(found.to_json()).partial == found.partial
    assert np.isnan(found.per_class["c"]["auroc"])
    labels = score(Task.MULTILABEL, [[1, 0], [0, 0]], [[0.9, 0.1], [0.2, 0.3]], classes=["x", "y"])
    assert labels["auroc"] == labels.per_class["x"]["auroc"] == labels["f1"] == 1
    assert labels.partial["f1"] == "neither present nor predicted: y"


@pytest.mark.parametrize("task", [task for task in Task if task.categorical])
def test_no_rows_and_constant_data_never_crash(task):
    k = 2 if task is Task.BINARY else 3
    shape = (0, k) if task is Task.MULTILABEL else (0,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = score(task, np.zeros(shape, int), np.zeros((0, k)))
        assert set(empty.undefined) == set(empty)
        assert set(empty.undefined.values()) == {"there are no samples"}
        constant = score(task, np.ones((5, k) if task is Task.MULTILABEL else 5, int), np.full((5, k), 1 / k))
    assert all(np.isnan(constant[name]) == (name in constant.undefined) for name in constant)


def test_ranking_uses_decision_values_where_probabilities_saturate():
    labels, p, decision = [0, 1, 0, 1], [0.0, 1.0, 1.0, 1.0], np.array([-50.0, 60.0, 40.0, 50.0])
    both = np.column_stack([-decision, decision])
    pair = np.column_stack([1 - np.array(p), p])
    assert score(Task.BINARY, labels, pair)["auroc"] == 0.75
    found = score(Task.BINARY, labels, pair, decision=both)
    assert found["auroc"] == found["average_precision"] == 1
    assert found["accuracy"] == 0.75
    with pytest.raises(AlignmentError, match="Decision values"):
        score(Task.BINARY, labels, pair, decision=decision)
    with pytest.raises(UndefinedMetricError):
        score(Task.BINARY, labels, pair, decision=both * np.nan)


def test_wrong_shapes_and_values_are_typed_errors():
    with pytest.raises(AlignmentError):
        score(Task.MULTICLASS, [0, 1], np.ones((3, 3)))
    with pytest.raises(AlignmentError):
        score(Task.MULTICLASS, [0, 3], np.ones((2, 3)))
    with pytest.raises(AlignmentError):
        score(Task.BINARY, [0, 1], np.ones((2, 3)))
    with pytest.raises(AlignmentError):
        score(Task.MULTICLASS, [0, 1], np.ones((2, 3)), classes=["a"])
    with pytest.raises(UndefinedMetricError, match="1 of 2 predictions"):
        score(Task.BINARY, [0, 1], [0.2, np.nan])
    with pytest.raises(UndefinedMetricError, match="no metric 'aurock'"):
        score(Task.BINARY, [0, 1], [0.2, 0.3], metrics=["aurock"])
    with pytest.raises(UndefinedMetricError, match="quadratic kappa"):
        score(Task.BINARY, [0, 1], [0.2, 0.3], metrics=["quadratic_kappa"])


def test_metrics_is_a_read_only_mapping_that_prints():
    found = score(Task.BINARY, [0, 1, 1], [0.1, 0.8, 0.4], metrics=["auroc", "accuracy"])
    assert list(found) == ["auroc", "accuracy"]
    assert "auroc 1.0000" in repr(found)
    assert "3 samples" in repr(found)
    with pytest.raises(TypeError):
        found["auroc"] = 2.0


def _words(tree):
    """Return the string constants of a module that are not documentation."""
    prose = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n not in prose]


def test_no_metric_is_named_outside_the_table():
    root = Path(biofuse.__file__).parent
    found = [
        f"{path.relative_to(root)}:{word.lineno} {word.value!r}"
        for path in root.rglob("*.py")
        if path.relative_to(root) != Path("evaluation/metrics.py")
        for word in _words(ast.parse(path.read_text()))
        if word.value in METRICS
    ]
    assert found == []


def test_the_table_derives_what_is_used_where():
    assert SELECTABLE[0] == DEFAULT_METRIC
    for task in Task:
        target = Target.until([1, 2]) if task.timed else Target.numbered(task, 2 if task is Task.BINARY else 3)
        for name in SELECTABLE:  # what subsets are chosen by is always computed, where it exists
            assert (name in board_metrics(target)) == METRICS[name].applies(target)
            assert (name in board_metrics(target, closed_form=True)) == METRICS[name].applies(target)
            if METRICS[name].applies(target):
                check_selectable(name, target)
            else:
                with pytest.raises(SearchError, match="There is no"):
                    check_selectable(name, target)
    assert set(SCREEN_METRICS) == {name for name in BOARD_METRICS if METRICS[name].closed_form}
    hub = [metric.hub for metric in METRICS.values() if metric.hub]
    assert len(set(hub)) == len(hub)


def test_what_a_guess_scores():
    labels, target = np.array([0, 0, 0, 1]), Target.numbered(Task.BINARY, 2)
    assert METRICS["accuracy"].guessing(target, labels) == 0.75
    assert METRICS["accuracy"].guessing(Target.numbered(Task.MULTILABEL, 4), np.eye(4, dtype=np.int64)) is None
    assert METRICS["auroc"].guessing(target, labels) == 0.5
    assert METRICS["log_loss"].guessing(target, labels) is None
    assert METRICS["log_loss"].signed(np.array([1.0])) == -1


@pytest.mark.parametrize(
    ("asked", "name"),
    [("AUC", "auroc"), ("roc-auc", "auroc"), ("ACC", "accuracy"), ("Balanced accuracy", "balanced_accuracy"),
     ("AUPRC", "average_precision"), ("F1", "f1"), ("QWK", "quadratic_kappa"), ("logloss", "log_loss")],
)  # fmt: skip
def test_metrics_are_found_by_the_names_that_the_field_has_for_them(asked, name):
    assert get_metric(asked).name == name


def test_scores_are_found_by_those_names_too():
    found = score(Task.BINARY, [0, 1], [0.2, 0.3], metrics=["AUC", "acc"])
    assert list(found) == ["auroc", "accuracy"]
    assert found["auc"] == found["auroc"] == 1.0
    assert "loss" not in found


@pytest.mark.parametrize("columns", [1, 3])
def test_metrics_of_values_equal_scikit_learn_and_scipy(columns):
    random = np.random.default_rng(columns)
    truth = np.round(random.normal(50, 9, (90, columns)), 0)  # with ties
    predicted = np.round(truth + random.normal(0, 6, truth.shape), 0)
    names = [f"column {c}" for c in range(columns)]
    found = score(Task.VALUE, truth if columns > 1 else truth[:, 0], predicted, classes=names)
    assert list(found) == ["r2", "mae", "rmse", "pearson", "spearman"]
    assert default_metric(Target(Task.VALUE, tuple(names))) == "r2"
    each = range(columns)
    expected = {
        "r2": skm.r2_score(truth, predicted),
        "mae": skm.mean_absolute_error(truth, predicted),
        "rmse": skm.root_mean_squared_error(truth, predicted),
        "pearson": np.mean([pearsonr(truth[:, c], predicted[:, c])[0] for c in each]),
        "spearman": np.mean([spearmanr(truth[:, c], predicted[:, c])[0] for c in each]),
    }
    assert dict(found) == pytest.approx(expected, abs=1e-10)
    assert found.per_class["column 0"]["r2"] == pytest.approx(skm.r2_score(truth[:, 0], predicted[:, 0]), abs=1e-10)
    assert found.per_class["column 0"]["n"] == 90


@pytest.mark.parametrize("name", ["r2", "mae", "rmse", "pearson", "spearman"])
def test_weights_of_values_are_how_often_a_row_counts(name):
    random = np.random.default_rng(4)
    truth = np.round(random.normal(1e6, 2, 60), 0)  # far from zero: the digits must not be lost
    predicted = np.round(truth + random.normal(0, 1, 60), 0)
    counts = random.integers(0, 3, 60)
    data = prepare(Task.VALUE, truth, predicted)
    found = METRICS[name].resample(data, np.column_stack([np.ones(60), counts]))
    repeated = score(Task.VALUE, np.repeat(truth, counts), np.repeat(predicted, counts))
    assert found == pytest.approx([score(Task.VALUE, truth, predicted)[name], repeated[name]], abs=1e-8)


def test_values_that_are_alike_have_no_score_and_predictions_that_are_alike_no_correlation():
    found = score(Task.VALUE, np.full(20, 7.3), np.arange(20.0), classes=["age"])
    assert set(found.undefined) == {"r2", "pearson", "spearman"}
    assert found.undefined["r2"] == "all values of age are alike"
    assert found["mae"] == pytest.approx(np.abs(np.arange(20) - 7.3).mean())
    constant = score(Task.VALUE, np.arange(20.0), np.full(20, 0.1 + 0.2))
    assert (constant["pearson"], constant["spearman"]) == (0, 0)
    assert constant["r2"] < 0
    guessed = np.median(np.arange(20.0))
    target = Target(Task.VALUE, ("age",))
    assert METRICS["mae"].guessing(target, np.arange(20.0)) == np.abs(np.arange(20) - guessed).mean()
    assert METRICS["rmse"].guessing(target, np.arange(20.0)) == np.arange(20).std()


def test_labels_of_which_nothing_is_known_are_left_out_label_by_label():
    labels, p = example(Task.MULTILABEL, 5)
    random = np.random.default_rng(50)
    gaps = np.where(random.random(labels.shape) < 0.3, -1, labels)
    found = score(Task.MULTILABEL, gaps, p)
    per_label = [
        score(Task.MULTILABEL, labels[known][:, [c]], p[known][:, [c]])
        for c in range(labels.shape[1])
        for known in (gaps[:, c] >= 0,)
    ]
    for name in found:
        assert found[name] == pytest.approx(np.mean([each[name] for each in per_label]), abs=1e-12), name
    counts = random.integers(0, 3, len(labels))
    for name in found:
        weighted = METRICS[name].resample(prepare(Task.MULTILABEL, gaps, p), counts[:, None].astype(float))[0]
        repeated = score(Task.MULTILABEL, np.repeat(gaps, counts, axis=0), np.repeat(p, counts, axis=0))[name]
        assert weighted == pytest.approx(repeated, abs=1e-12), name


def test_grades_are_off_by_as_many_as_the_mean_absolute_error_says():
    labels, p = example(Task.ORDINAL, 1)
    found = score(Task.ORDINAL, labels, p)
    assert found["grade_error"] == pytest.approx(skm.mean_absolute_error(labels, p.argmax(axis=1)))
    median = np.median(labels)
    assert METRICS["grade_error"].guessing(Target.numbered(Task.ORDINAL, 5), labels) == np.abs(labels - median).mean()
    assert not METRICS["grade_error"].higher_is_better
    check_selectable("grade_error", Target.numbered(Task.ORDINAL, 5))
    with pytest.raises(SearchError, match=r"There is no mean grade error of one class per sample: it is for"):
        check_selectable("grade_error", Target.numbered(Task.MULTICLASS, 5))
    with pytest.raises(SearchError, match=r"There is no AUROC of a number per sample and column\.") as refused:
        check_selectable("auroc", Target(Task.VALUE, ("age",)))
    assert "r2" in refused.value.remedy
