import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import logit, softmax
from sklearn.utils.class_weight import compute_sample_weight

from biofuse.core.errors import ArtifactError, DataError, SearchError
from biofuse.core.target import Target, Task
from biofuse.heads.base import (
    CERTAIN,
    CHEAP_HEADS,
    OWN_HEADS,
    Limits,
    Outputs,
    cheap_heads,
    check_limits,
    head_registry,
    make_head,
    set_up,
    within_limits,
)
from biofuse.heads.cox import Cox
from biofuse.heads.kaplan_meier import KaplanMeier
from biofuse.heads.knn import Neighbours
from biofuse.heads.lda import LDA
from biofuse.heads.linear import FittedLinear
from biofuse.heads.logistic import Logistic
from biofuse.heads.ridge import Ridge
from biofuse.heads.xgboost import XGBoost
from biofuse.testing import assert_head_contract

X = np.zeros((6, 2), dtype=np.float32)


def prepare(labels: list, *, task: Task = Task.MULTICLASS, n_classes: int = 3, class_weight=None, sample_weight=None):
    return set_up(
        X[: len(labels)],
        np.array(labels),
        target=Target.numbered(task, n_classes),
        class_weight=class_weight,
        sample_weight=sample_weight,
    )


@given(st.lists(st.integers(0, 2), min_size=2, max_size=6).filter(lambda labels: len(set(labels)) > 1))
def test_weights_equal_scikit_learn(labels: list[int]) -> None:
    for class_weight in ("balanced", {1: 2.5}):
        (problem,) = prepare(labels, class_weight=class_weight).problems
        expected = compute_sample_weight(
            class_weight if class_weight == "balanced" else {c: class_weight.get(c, 1.0) for c in range(3)}, labels
        )
        np.testing.assert_allclose(problem.weights, expected)


def test_absent_classes_get_no_code_but_a_column() -> None:
    setup = prepare([3, 1, 3, 1], n_classes=5)
    (problem,) = setup.problems
    assert problem.codes.tolist() == [1, 0, 1, 0]
    placed = setup.outputs.place([np.array([[0.25, 0.75]])], n=1)
    assert placed.tolist() == [[0, 0.25, 0, 0.75, 0]]
    decision = setup.outputs.decision([np.array([[2.0]])], n=1, log_odds=True)
    assert decision.tolist() == [[-CERTAIN, -2, -CERTAIN, 2, -CERTAIN]]
    assert "0, 2, 4" in setup.notes[0]


def test_constant_labels_are_no_problem() -> None:
    setup = prepare([[1, 0, 1], [1, 0, 0], [1, 0, 1]], task=Task.MULTILABEL)
    assert len(setup.problems) == 1
    assert setup.outputs.columns == ((2,),)
    assert setup.outputs.constant == {0: 1.0, 1: 0.0}
    assert len(setup.notes) == 2


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ([0, 1, 3], {}),
        ([0, -1], {}),
        ([0.0, 1.0], {}),
        ([[0, 1], [1, 0]], {}),
        ([0, 1], {"task": Task.MULTILABEL}),
        ([[0, 1, 2], [1, 0, 0]], {"task": Task.MULTILABEL}),
        ([0, 1], {"task": Task.BINARY}),
        ([], {}),
        ([0, 1], {"class_weight": {3: 1.0}}),
        ([0, 1], {"class_weight": {0: 0.0}}),
        ([0, 1], {"class_weight": "even"}),
        ([0, 1], {"sample_weight": np.array([1.0])}),
        ([0, 1], {"sample_weight": np.array([1.0, 0.0])}),
        ([0, 1], {"sample_weight": np.array([1.0, np.nan])}),
    ],
)
def test_what_cannot_be_used_is_refused(labels: list, options: dict) -> None:
    with pytest.raises(DataError):
        prepare(labels, **options)


@given(arrays(np.float64, (4, 3), elements=st.floats(-700, 700)))
def test_log_odds_are_finite_and_rank_as_the_probabilities(margins: np.ndarray) -> None:
    outputs = Outputs(task=Task.MULTICLASS, n_classes=3, columns=((0, 1, 2),), constant={})
    odds = outputs.decision([margins], n=4, log_odds=True)
    p = softmax(margins, axis=1)
    assert np.isfinite(odds).all()
    favoured = np.take_along_axis(odds, p.argmax(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(odds.max(axis=1), favoured, rtol=1e-9, atol=1e-9)
    middling = (p > 1e-6) & (p < 1 - 1e-6)
    np.testing.assert_allclose(odds[middling], logit(p)[middling], rtol=1e-6, atol=1e-6)


def test_outputs_survive_json() -> None:
    outputs = prepare([3, 1, 3, 1], n_classes=5).outputs
    assert Outputs.from_json(outputs.to_json()) == outputs


@pytest.mark.parametrize(
    "change",
    [{"task": "guessing"}, {"columns": [[0, 1], [1]]}, {"n_classes": 9}, {"constant": 3}, {"columns": None}],
)
def test_malformed_outputs_are_refused(change: dict) -> None:
    with pytest.raises(ArtifactError):
        Outputs.from_json(prepare([0, 1, 2]).outputs.to_json() | change)


def test_limits_say_what_is_exceeded() -> None:
    limits = Limits(rows=10, classes=3, reason="slow")
    assert limits.exceeded_by(rows=10, features=10**9, classes=3) == ""
    assert limits.exceeded_by(rows=11, features=1, classes=4) == "11 rows (limit 10), 4 classes (limit 3): slow"
    wide = Limits(smaller=5, cells=100, reason="big")
    assert wide.exceeded_by(rows=5, features=20, classes=2) == ""
    assert wide.exceeded_by(rows=6, features=17, classes=2) == (
        "6 of both rows and features (limit 5), 102 rows times features (limit 100): big"
    )


def test_a_malformed_linear_state_is_refused() -> None:
    X = np.random.default_rng(0).standard_normal((20, 4))
    values, arrays = Logistic().fit(X, np.arange(20) % 3, target=Target.numbered(Task.MULTICLASS, 3)).state()
    for bad_values, bad_arrays in (
        (values, {}),
        (values, arrays | {"intercept": np.zeros(2)}),
        (values, arrays | {"coef": np.zeros((4, 2))}),
        (values, arrays | {"slope": np.zeros(7)}),
        ({}, arrays),
        (values | {"penalty": ["much"]}, arrays),
    ):
        with pytest.raises(ArtifactError):
            FittedLinear.restore(bad_values, bad_arrays)


@pytest.mark.parametrize(
    "head",
    [
        *(make_head(name, class_weight="balanced") for name in cheap_heads(Target.numbered(Task.BINARY, 2))),
        make_head("knn", class_weight="balanced"),
        make_head("xgboost", class_weight="balanced"),
        Cox(),
        KaplanMeier(),
        Logistic(),
        Ridge(),
        LDA(),
        LDA(calibrate=False),
        LDA(shrinkage=0.5),
        Neighbours(),
        Neighbours(k=3, metric="euclidean", class_weight="balanced"),
        pytest.param(XGBoost(trees=20, device="cpu"), marks=pytest.mark.slow),
        pytest.param(XGBoost(trees=40, column_share=0.3, device="cpu"), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_keeps_the_contract(head) -> None:
    assert_head_contract(lambda: head)


@pytest.mark.parametrize(
    ("kind", "option", "values"),
    [
        (Logistic, "C", [0.0, -1.0, np.nan, np.inf]),
        (Ridge, "alpha", [0.0]),
        (LDA, "shrinkage", [0.0, -0.1, 1.1, np.nan, "empirical"]),
        (Neighbours, "k", [0]),
        (Neighbours, "metric", ["manhattan"]),
        (XGBoost, "trees", [0]),
        (XGBoost, "depth", [0]),
        (XGBoost, "learning_rate", [0.0]),
        (XGBoost, "column_share", [0.0]),
        (XGBoost, "bins", [1]),
        (XGBoost, "device", ["tpu"]),
    ],
)
def test_senseless_options_are_refused(kind, option: str, values: list) -> None:
    for value in values:
        with pytest.raises(SearchError):
            kind(**{option: value})


@pytest.mark.parametrize("kind", [Logistic, LDA])
def test_ordinal_is_treated_as_multiclass(kind) -> None:
    X, y = np.random.default_rng(0).standard_normal((70, 30)), np.arange(70) % 4
    fits = [
        kind().fit(X, y, target=Target.numbered(task, 4)).predict_proba(X) for task in (Task.ORDINAL, Task.MULTICLASS)
    ]
    assert np.array_equal(*fits)


@pytest.mark.parametrize("name", OWN_HEADS)
def test_heads_by_name(name: str) -> None:
    head = make_head(name, class_weight="balanced")
    assert head.name == name
    assert head.options["class_weight"] == "balanced"
    assert make_head(head) is head
    assert name in head_registry().names()
    json.dumps(make_head(name, class_weight={0: 2.0}).options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.class_weight = None  # type: ignore[attr-defined]


def test_own_heads_are_registered_in_order_and_the_cheap_ones_begin_with_the_default() -> None:
    assert head_registry().names()[: len(OWN_HEADS)] == OWN_HEADS
    assert OWN_HEADS == ("logistic", "ridge", "lda", "ordinal", "knn", "xgboost", "cox", "km")
    assert CHEAP_HEADS == ("logistic", "ridge", "lda", "ordinal", "cox")
    assert cheap_heads(Target.numbered(Task.BINARY, 2)) == ("logistic", "ridge", "lda")
    assert cheap_heads(Target.until([1.0])) == ("cox",)


def test_class_weights_beside_a_head_are_refused() -> None:
    with pytest.raises(SearchError, match="which has its own"):
        make_head(Logistic(), class_weight="balanced")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(SearchError, match="'logistic'"):
        make_head("logistics")


def test_a_head_that_was_removed_says_what_to_use() -> None:
    with pytest.raises(SearchError, match="lightgbm was removed") as caught:
        make_head("lightgbm")
    assert "xgboost, with column_share" in caught.value.remedy
    assert "fitted again" in caught.value.remedy


def test_importing_the_package_loads_no_model_library() -> None:
    code = (
        "import sys, biofuse.predictors.combined, biofuse.heads.base, biofuse.fusion.base\n"
        "assert not {'sklearn', 'xgboost', 'torch', 'scipy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PAPER = {"features": 8704, "target": Target.numbered(Task.MULTICLASS, 9)}
"""All nine encoders of the paper, and the classes of PathMNIST."""


@pytest.mark.parametrize("name", OWN_HEADS)
@pytest.mark.parametrize("rows", [200, 89_996])
def test_no_head_refuses_the_problems_of_the_paper(name: str, rows: int) -> None:
    check_limits(make_head(name), rows=rows, **PAPER)


@pytest.mark.parametrize("name", CHEAP_HEADS)
def test_no_cheap_head_refuses_the_largest_set_or_many_encoders(name: str) -> None:
    assert within_limits(make_head(name), rows=189_106, features=8704, classes=8)  # TissueMNIST, train and val
    assert within_limits(make_head(name), rows=1_000, features=60_000, classes=14)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("xgboost", {"rows": 5_000, "features": 768, "classes": 1_000}),
        ("ridge", {"rows": 30_000, "features": 30_000, "classes": 2}),
        ("lda", {"rows": 30_000, "features": 30_000, "classes": 2}),
        ("logistic", {"rows": 150_000, "features": 60_000, "classes": 2}),
        ("knn", {"rows": 1_281_167, "features": 768, "classes": 1_000}),
    ],
)
def test_what_cannot_work_is_refused_with_reason_and_remedy(name: str, problem: dict[str, int]) -> None:
    head, target = make_head(name), Target.numbered(Task.MULTICLASS, problem["classes"])
    assert not within_limits(head, **problem)
    with pytest.raises(SearchError, match=f"head {name} is not meant for") as caught:
        check_limits(head, rows=problem["rows"], features=problem["features"], target=target)
    assert "limit " in caught.value.message
    assert head.limits.reason in caught.value.message
    of_classes = ("logistic", "ridge", "lda", "knn", "xgboost")
    able = [other for other in of_classes if within_limits(make_head(other), **problem)]
    assert all(other in caught.value.remedy for other in able)
    assert name not in caught.value.remedy
    assert able or "fewer rows" in caught.value.remedy


def test_a_thousand_classes_are_for_linear_heads_and_neighbours() -> None:
    with pytest.raises(SearchError) as caught:
        check_limits(make_head("xgboost"), rows=5_000, features=768, target=Target.numbered(Task.MULTICLASS, 1_000))
    assert caught.value.message.startswith("The head xgboost is not meant for 1,000 classes (limit 100):")
    assert caught.value.remedy == "Choose another head: logistic, ridge, lda, knn."
