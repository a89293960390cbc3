import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import LeakageError
from biofuse.search.problem import refuse_leaked_labels

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
