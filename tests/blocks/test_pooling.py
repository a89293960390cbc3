"""Pooling of a bag's embeddings equals numpy's, bag by bag."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biofuse.blocks import pooling
from biofuse.blocks.pooling import POOLINGS, Bags, Pooling, pool, pooled_width
from biofuse.core.errors import AlignmentError

BY_NUMPY = {
    "mean": lambda bag: bag.mean(axis=0),
    "max": lambda bag: bag.max(axis=0),
    "mean+max": lambda bag: np.concatenate([bag.mean(axis=0), bag.max(axis=0)]),
    "mean+std": lambda bag: np.concatenate([bag.mean(axis=0), bag.std(axis=0)]),
}


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8), how=st.sampled_from(POOLINGS), piece=st.booleans())
def test_pooling_is_numpys(sizes: list[int], how: Pooling, piece: bool) -> None:
    matrix = np.random.default_rng(len(sizes)).normal(size=(sum(sizes), 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "PIECE_BYTES", 8 * 3 * 2 if piece else 1 << 20)
        found = pool(matrix, np.array(sizes), how)
    parts = np.split(matrix.astype(np.float64), np.cumsum(sizes)[:-1])
    assert found.shape == (len(sizes), 3 * pooled_width(how))
    np.testing.assert_allclose(found, np.stack([BY_NUMPY[how](part) for part in parts]), rtol=1e-6, atol=1e-7)


def test_sizes_must_add_up() -> None:
    with pytest.raises(AlignmentError):
        pool(np.zeros((3, 2)), np.array([2, 2]), "mean")


def test_taking_bags_takes_their_rows() -> None:
    matrix = np.arange(6, dtype=np.float32)[:, None]
    bags = Bags(matrices={"a": matrix}, starts=np.array([0, 2, 3]), sizes=np.array([2, 1, 3]))
    some = bags.take(np.array([2, 0]))
    assert some.images("a").ravel().tolist() == [3, 4, 5, 0, 1]
    assert some.pooled("max")["a"].ravel().tolist() == [5, 1]
