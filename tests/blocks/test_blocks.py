import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError


def blocks(n=6):
    base = np.arange(n, dtype=np.float32)[:, None]
    return Blocks(
        ids=np.array([f"s{i}" for i in range(n)], dtype=object),
        matrices={"a": base + np.zeros((n, 2), np.float32), "b": base + np.zeros((n, 3), np.float32)},
    )


@given(st.permutations(range(6)))
def test_joining_on_ids_gives_the_order_asked_for(order):
    joined = blocks().join([f"s{i}" for i in order])
    for matrix in joined.values():
        np.testing.assert_array_equal(matrix[:, 0], order)


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_style_bug_2_rows_shuffled_per_encoder_are_joined_on_ids(first, second):
    left, right = blocks().take(np.array(first)), blocks().take(np.array(second))
    np.testing.assert_array_equal(right.join(left.ids)["b"][:, 0], left["a"][:, 0])


def test_missing_and_repeated_ids_raise():
    with pytest.raises(AlignmentError, match="'s9'"):
        blocks().join(["s1", "s9"])
    with pytest.raises(AlignmentError, match="not unique"):
        blocks().join(["s1", "s1"])
    with pytest.raises(AlignmentError, match="shape"):
        Blocks(ids=np.array(["x"], dtype=object), matrices={"a": np.zeros((2, 2), np.float32)})


def test_encoders_come_in_pool_order_whatever_order_is_asked_for():
    assert blocks().only(["b", "a"]).encoders == ("a", "b")
    with pytest.raises(AlignmentError, match="c"):
        blocks().only(["c"])
