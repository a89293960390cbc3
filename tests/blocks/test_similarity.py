"""Linear CKA equals its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.blocks.blocks import Blocks, linear_cka
from biofuse.core.errors import AlignmentError


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al. 2019, equations 2 to 4, with centring matrices written out."""
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return float(np.trace(k @ centring @ m @ centring)) / (n - 1) ** 2

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@given(st.integers(0, 2**31), st.integers(3, 25), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_cka_equals_its_definition_whichever_side_is_longer(seed: int, n: int, p: int, q: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(3, 2, (n, p)), generator.normal(-1, 5, (n, q))
    found = linear_cka({"x": x, "y": y})
    np.testing.assert_allclose(found, [[1, by_definition(x, y)], [by_definition(x, y), 1]], atol=1e-9)


def test_cka_does_not_change_with_rotation_scale_and_shift() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 8))
    rotation, _ = np.linalg.qr(generator.normal(size=(8, 8)))
    assert linear_cka({"x": x, "y": 7 * x @ rotation + 3})[0, 1] == pytest.approx(1, abs=1e-12)


def test_a_constant_block_has_no_similarity() -> None:
    generator = np.random.default_rng(0)
    found = linear_cka({"x": generator.normal(size=(20, 3)), "y": np.full((20, 4), 0.1, dtype=np.float32)})
    assert found[0, 0] == pytest.approx(1)
    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 1]).all()


def test_blocks_are_taken_in_their_order() -> None:
    generator = np.random.default_rng(0)
    a, b, c = (generator.normal(size=(30, 5)).astype(np.float32) for _ in range(3))
    blocks = Blocks(ids=np.array([str(i) for i in range(30)], dtype=object), matrices={"a": a, "b": b, "c": c})
    assert linear_cka(blocks)[0, 2] == pytest.approx(by_definition(a.astype(float), c.astype(float)))


def test_blocks_of_different_lengths_are_refused() -> None:
    with pytest.raises(AlignmentError, match="different numbers"):
        linear_cka({"x": np.zeros((3, 2)), "y": np.zeros((4, 2))})
