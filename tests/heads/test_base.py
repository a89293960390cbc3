import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import logit, softmax
from sklearn.utils.class_weight import compute_sample_weight

from biofuse.core.errors import ArtifactError, DataError
from biofuse.core.target import Task
from biofuse.heads.base import CERTAIN, FittedLinear, Limits, Outputs, set_up
from biofuse.heads.logistic import Logistic

X = np.zeros((6, 2), dtype=np.float32)


def prepare(labels: list, *, task: Task = Task.MULTICLASS, n_classes: int = 3, class_weight=None, sample_weight=None):
    return set_up(
        X[: len(labels)],
        np.array(labels),
        task=task,
        n_classes=n_classes,
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
    values, arrays = Logistic().fit(X, np.arange(20) % 3, task=Task.MULTICLASS, n_classes=3).state()
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
