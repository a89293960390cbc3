import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, DataError, SearchError
from biofuse.fusion.concatenation import Concatenation
from biofuse.fusion.weighted import FittedWeightedConcatenation, WeightedConcatenation
from biofuse.testing import assert_fusion_contract

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


@pytest.mark.parametrize("rows", [500, 20])
def test_keeps_the_contract(rows: int) -> None:
    assert_fusion_contract(lambda: WeightedConcatenation(rows=rows))


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


def test_the_same_rows_give_the_same_weights_bit_for_bit() -> None:
    first, second = (WeightedConcatenation().fit(*make_data()) for _ in range(2))
    assert first.weights == second.weights


def test_weights_are_learned_from_at_most_the_rows_asked_for() -> None:
    blocks, labels = make_data()
    few = WeightedConcatenation(rows=30).fit(blocks, labels)
    assert few.weights != WeightedConcatenation().fit(blocks, labels).weights
    assert np.array_equal(few.plain.mean, Concatenation(scaling="block").fit(blocks).mean)


def test_labels_are_needed_one_for_each_row() -> None:
    blocks, labels = make_data()
    for given_labels in (None, labels[:-1]):
        with pytest.raises(DataError, match="labels"):
            WeightedConcatenation().fit(blocks, given_labels)
    with pytest.raises(SearchError, match="rows"):
        WeightedConcatenation(rows=0)


def test_bad_blocks_are_named() -> None:
    blocks, labels = make_data()
    fitted = WeightedConcatenation().fit(blocks, labels)
    with pytest.raises(AlignmentError, match="hum"):
        fitted.transform(blocks.only(["noise", "signal"]))
    blocks["hum"][2, 1] = np.inf
    with pytest.raises(DataError, match="by hum"):
        WeightedConcatenation().fit(blocks, labels)


@pytest.mark.parametrize("weights", [None, np.ones(2), -np.ones(3), np.array([np.nan, 0, 1])])
def test_malformed_weights_are_refused(weights) -> None:
    values, arrays = WeightedConcatenation().fit(*make_data(50)).state()
    json.dumps(values)
    damaged = {name: array for name, array in arrays.items() if name != "weights"}
    with pytest.raises(ArtifactError):
        FittedWeightedConcatenation.restore(values, damaged if weights is None else damaged | {"weights": weights})
