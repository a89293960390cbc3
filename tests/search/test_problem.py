import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import DataError, LeakageError
from biofuse.data.splits import ValidationPlan
from biofuse.search.config import SearchConfig
from biofuse.search.problem import _check_outer_folds, refuse_leaked_labels, search_key

IDS = [f"s{i}" for i in range(10)]


FOLDS = [(np.arange(5), np.arange(5, 10)), (np.arange(5, 10), np.arange(5))]


def key(**changes):
    given = {
        "plan": ValidationPlan.cross_validation(FOLDS, ids=IDS),
        "labels": np.arange(10) % 2,
        "fingerprints": [("a", "a-1"), ("b", "b-1")],
        "settings": {"fusion": "concatenation", "head": "logistic", "seed": 0},
    }
    return search_key(**(given | changes))


def test_bug_13_and_15_the_key_holds_data_folds_encoders_fusion_head_and_seed():
    other_folds = [(np.arange(1, 6), np.array([0, 6, 7, 8, 9])), FOLDS[1]]
    changed = [
        key(plan=ValidationPlan.cross_validation(other_folds, ids=IDS)),
        key(plan=ValidationPlan.cross_validation(FOLDS, ids=[f"t{i}" for i in range(10)])),
        key(plan=ValidationPlan.holdout(ids=IDS, splits=["train"] * 5 + ["val"] * 5)),
        key(labels=(np.arange(10) + 1) % 2),
        key(fingerprints=[("a", "a-2"), ("b", "b-1")]),
        key(fingerprints=[("a", "a-1")]),
        key(settings={"fusion": "mean", "head": "logistic", "seed": 0}),
        key(settings={"fusion": "concatenation", "head": "xgboost", "seed": 0}),
        key(settings={"fusion": "concatenation", "head": "logistic", "seed": 1}),
    ]
    assert len({key(), *changed}) == len(changed) + 1


def test_the_key_does_not_depend_on_the_order_of_rows():
    order = np.random.default_rng(0).permutation(10)
    ids = np.array(IDS, dtype=object)[order]
    place = np.argsort(order)
    folds = [(place[fit], place[held]) for fit, held in FOLDS]
    assert key(plan=ValidationPlan.cross_validation(folds, ids=ids), labels=(np.arange(10) % 2)[order]) == key()


LABELS = np.array([0, 1, 2] * 12)


NOISE = np.random.default_rng(0).normal(size=(36, 4)).astype(np.float32)


def blocks_of(**matrices):
    ids = np.array([f"{row:03d}" for row in range(36)], dtype=object)
    return Blocks(ids=ids, matrices={name: np.asarray(matrix, dtype=np.float32) for name, matrix in matrices.items()})


@pytest.mark.parametrize(
    "column",
    [LABELS, LABELS == 2, -3.5 * LABELS + 1, np.array([5, 1, 5])[LABELS]],
    ids=["label", "one class", "scaled", "shared value"],
)
def test_the_label_in_a_column_raises(column):
    with pytest.raises(LeakageError, match="Column 4 of encoder second") as caught:
        refuse_leaked_labels(blocks_of(first=NOISE, second=np.column_stack([NOISE, column])), LABELS)
    assert "Leave this encoder out" in caught.value.remedy


def test_a_rare_class_does_not_switch_the_check_off():
    labels = np.where(np.arange(36) < 2, 3, LABELS)
    with pytest.raises(LeakageError):
        refuse_leaked_labels(blocks_of(only=labels[:, None]), labels)


def test_one_of_several_labels_raises():
    labels = np.column_stack([LABELS == 0, LABELS == 1]).astype(np.int64)
    with pytest.raises(LeakageError, match="Column 1"):
        refuse_leaked_labels(blocks_of(only=np.column_stack([NOISE[:, 0], labels[:, 1]])), labels)


@pytest.mark.parametrize(
    "matrix",
    [
        NOISE,
        np.zeros((36, 3)),
        np.full((36, 1), 7.25),
        np.repeat(np.arange(6), 6)[:, None],
        NOISE + 100 * LABELS[:, None],
    ],
    ids=["noise", "zeros", "constant", "few values", "strong but honest"],
)
def test_ordinary_and_constant_blocks_pass(matrix):
    refuse_leaked_labels(blocks_of(only=matrix), LABELS)


def test_few_rows_may_agree_by_chance():
    refuse_leaked_labels(blocks_of(only=(LABELS == 1)[:, None]), np.where(np.arange(36) < 30, 0, 1))
    small = Blocks(
        ids=np.array(list("abcd"), dtype=object), matrices={"only": np.array([[0.0], [0], [1], [1]], np.float32)}
    )
    refuse_leaked_labels(small, np.array([0, 0, 1, 1]))


@given(st.integers(0, 2**16))
def test_the_order_of_the_rows_plays_no_part(seed):
    order = np.random.default_rng(seed).permutation(36)
    with pytest.raises(LeakageError):
        refuse_leaked_labels(blocks_of(only=LABELS[order, None]), LABELS[order])
    refuse_leaked_labels(blocks_of(only=NOISE[order]), LABELS[order])


def test_a_nested_search_that_an_outer_fold_cannot_have_is_refused_before_any_image_is_embedded(plant):
    samples = plant(8).samples  # two of each class: one is left inside
    config = SearchConfig(encoders=["lbp"], select="nested")
    with pytest.raises(DataError, match=r"without each outer fold.*only 1 sample"):
        _check_outer_folds(samples, config)
    _check_outer_folds(samples, config.but(select="cv"))
    _check_outer_folds(plant(48).samples, config)
