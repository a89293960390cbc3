import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError, DataError
from biofuse.fusion.concatenation import (
    SPREAD,
    Concatenation,
    FittedWeightedConcatenation,
    WeightedConcatenation,
    kernel_weights,
    objective,
)


def make_problem(n: int = 40, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((n, dim)) / np.sqrt(dim) for dim in (5, 60, 12)]
    parts = [part - part.mean(axis=0) for part in parts]
    targets = parts[0] @ rng.standard_normal((5, 2)) + 0.3 * rng.standard_normal((n, 2))
    return parts, np.stack([part @ part.T for part in parts]), targets - targets.mean(axis=0)


def test_the_objective_is_the_leave_one_out_error_of_scikit_learns_ridge() -> None:
    parts, kernels, targets = make_problem()
    for logs in (np.zeros(3), np.array([1.5, -2.0, 0.3])):
        X = np.hstack([part * np.exp(log / 2) for part, log in zip(parts, logs, strict=True)])
        left_out = cross_val_predict(Ridge(alpha=1.0), X, targets, cv=LeaveOneOut())
        error = np.square(targets - left_out).sum()
        prior = np.square(logs - logs.mean()).sum() / (2 * SPREAD**2)
        value, _ = objective(logs, kernels, targets)
        assert value == pytest.approx(0.5 * len(targets) * np.log(error) + prior, rel=1e-9)


def test_the_gradient_is_that_of_the_objective() -> None:
    _, kernels, targets = make_problem()
    logs = np.array([0.3, -1.0, -2.0])
    _, gradient = objective(logs, kernels, targets)
    for place, step in enumerate(np.eye(3) * 1e-5):
        above, below = objective(logs + step, kernels, targets)[0], objective(logs - step, kernels, targets)[0]
        assert gradient[place] == pytest.approx((above - below) / 2e-5, rel=1e-6)


def test_no_other_weights_predict_left_out_rows_better() -> None:
    _, kernels, targets = make_problem(80)
    found = kernel_weights(kernels, targets)
    rng = np.random.default_rng(1)
    totals = np.log(np.logspace(-2, 4, 25))

    def best(weights) -> float:
        return min(objective(np.log(weights) + total, kernels, targets)[0] for total in totals)

    least = best(found)
    others = [
        best(np.maximum(weights, 1e-6)) for weights in [*np.eye(3), np.ones(3) / 3, *rng.dirichlet(np.ones(3), 20)]
    ]
    assert least < min(others) + 0.05


def test_weights_are_a_partition_of_one() -> None:
    _, kernels, targets = make_problem()
    found = kernel_weights(kernels, targets)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()


def test_the_size_of_the_targets_plays_no_part() -> None:
    _, kernels, targets = make_problem()
    np.testing.assert_allclose(kernel_weights(kernels, targets * 1e6), kernel_weights(kernels, targets), rtol=1e-3)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_rows_to_learn_from_leave_weights_equal(n: int) -> None:
    assert kernel_weights(np.zeros((4, n, n)), np.zeros((n, 2))).tolist() == [0.25] * 4


def test_targets_without_variance_leave_weights_equal() -> None:
    _, kernels, targets = make_problem()
    assert kernel_weights(kernels, np.zeros_like(targets)).tolist() == [1 / 3] * 3


DIMS = {"noise": 90, "signal": 10, "hum": 30}


def make_data(n: int = 200, *, seed: int = 0, planted: tuple[str, ...] = ("signal",), several: bool = False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 3)) if several else rng.permutation(np.arange(n) % 3)
    known = (labels if several else np.eye(3)[labels]).astype(np.float64)
    matrices = {
        name: (
            rng.standard_normal((n, dim)) + (known @ rng.standard_normal((3, dim)) if name in planted else 0)
        ).astype(np.float32)
        for name, dim in DIMS.items()
    }
    return Blocks(ids=rng.permutation([f"s{i}" for i in range(n)]).astype(object), matrices=matrices), labels


@pytest.mark.parametrize("several", [False, True], ids=["one label each", "several labels each"])
def test_a_planted_block_gets_nearly_all_weight(several: bool) -> None:
    fitted = WeightedConcatenation().fit(*make_data(400, several=several))
    assert list(fitted.weights) == list(DIMS)
    assert sum(fitted.weights.values()) == pytest.approx(1)
    assert fitted.weights["signal"] > 0.9


def test_two_planted_blocks_share_the_weight() -> None:
    weights = WeightedConcatenation().fit(*make_data(planted=("signal", "hum"))).weights
    assert min(weights["signal"], weights["hum"]) > 0.1
    assert weights["noise"] < 0.05


def test_identical_blocks_get_equal_weight() -> None:
    blocks, labels = make_data()
    twins = Blocks(ids=blocks.ids, matrices={"first": blocks["signal"], **blocks.matrices, "last": blocks["signal"]})
    weights = WeightedConcatenation().fit(twins, labels).weights
    assert weights["first"] == pytest.approx(weights["signal"], rel=1e-6)
    assert weights["last"] == pytest.approx(weights["signal"], rel=1e-6)


def test_labels_that_nothing_predicts_leave_weights_nearly_equal() -> None:
    weights = WeightedConcatenation().fit(*make_data(planted=())).weights
    assert max(weights.values()) < 0.6


def test_inner_products_are_the_weighted_sum_of_those_of_the_blocks() -> None:
    blocks, labels = make_data()
    fitted = WeightedConcatenation().fit(blocks, labels)
    fused = fitted.transform(blocks).astype(np.float64)
    plain = Concatenation().fit(blocks)
    standard = plain.transform(blocks).astype(np.float64)
    expected = sum(
        weight * standard[:, plain.columns[name]] @ standard[:, plain.columns[name]].T / DIMS[name]
        for name, weight in fitted.weights.items()
    )
    np.testing.assert_allclose(fused @ fused.T, expected, atol=1e-5)
    assert fitted.columns == plain.columns


def test_one_encoder_has_all_the_weight() -> None:
    blocks, labels = make_data()
    assert WeightedConcatenation().fit(blocks.only(["hum"]), labels).weights == {"hum": 1.0}


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**16))
def test_the_order_of_rows_does_not_matter_even_where_not_all_are_used(seed: int) -> None:
    blocks, labels = make_data()
    rows = np.random.default_rng(seed).permutation(len(labels))
    fusion = WeightedConcatenation(rows=60)
    first, second = fusion.fit(blocks, labels), fusion.fit(blocks.take(rows), labels[rows])
    np.testing.assert_allclose(first.shares, second.shares, atol=1e-5)


def test_weights_are_learned_from_at_most_the_rows_asked_for() -> None:
    blocks, labels = make_data()
    few = WeightedConcatenation(rows=30).fit(blocks, labels)
    assert few.weights != WeightedConcatenation().fit(blocks, labels).weights
    assert np.array_equal(few.mean, Concatenation(scaling="block").fit(blocks).mean)


def test_labels_are_needed_one_for_each_row() -> None:
    blocks, labels = make_data()
    for given_labels in (None, labels[:-1]):
        with pytest.raises(DataError, match="labels"):
            WeightedConcatenation().fit(blocks, given_labels)


@pytest.mark.parametrize("weights", [None, np.ones(2), -np.ones(3), np.array([np.nan, 0, 1])])
def test_malformed_weights_are_refused(weights) -> None:
    values, arrays = WeightedConcatenation().fit(*make_data(50)).state()
    json.dumps(values)
    damaged = {name: array for name, array in arrays.items() if name != "weights"}
    with pytest.raises(ArtifactError):
        FittedWeightedConcatenation.restore(values, damaged if weights is None else damaged | {"weights": weights})
