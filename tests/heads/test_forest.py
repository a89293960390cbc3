import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.core.errors import ArtifactError
from biofuse.heads.lightgbm import Forest


def forest() -> Forest:
    """A tree of three leaves, and one of a single leaf."""
    return Forest(
        leaves=np.array([3, 1]),
        feature=np.array([0, 2]),
        threshold=np.array([0.5, -1.0]),
        left=np.array([1, -1]),
        right=np.array([-3, -2]),
        value=np.array([1.0, 2.0, 4.0, 10.0]),
    )


def test_rows_go_left_up_to_the_threshold() -> None:
    X = np.array([[0.5, 9, -1], [0.5, 9, 0], [0.6, 9, -1]], dtype=np.float32)
    assert forest().margins(X, width=1).tolist() == [[11], [12], [14]]
    assert forest().margins(X, width=2).tolist() == [[1, 10], [2, 10], [4, 10]]
    assert forest().margins(X[:0], width=2).shape == (0, 2)


def test_survives_its_state() -> None:
    again = Forest.restore(forest().state("f"), "f", n_features=3, width=2)
    X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    assert np.array_equal(again.margins(X, width=2), forest().margins(X, width=2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("leaves", [3, 0]),
        ("leaves", [4]),
        ("leaves", [3, 2]),
        ("leaves", [5, -1]),
        ("leaves", [2**62, 2**62]),
        ("leaves", []),
        ("leaves", [[3, 1]]),
        ("feature", [0, 3]),
        ("feature", [-1, 2]),
        ("feature", [0]),
        ("feature", [0.0, 2.0]),
        ("threshold", [0.5, np.nan]),
        ("left", [0, -1]),  # a node that is its own child
        ("left", [1, 0]),  # a child before its parent
        ("left", [2, -1]),  # a node of another tree
        ("right", [-4, -2]),  # a leaf of another tree
        ("right", [-(2**63), -2]),
        ("value", [1.0, 2.0, np.inf, 10.0]),
        ("value", [1.0, 2.0, 4.0]),
    ],
)
def test_a_tree_that_a_row_could_not_leave_is_refused(name: str, value: list) -> None:
    with pytest.raises(ArtifactError):
        Forest.restore(forest().state("f") | {f"f.{name}": np.array(value)}, "f", n_features=3, width=2)


def test_trees_that_do_not_share_out_among_the_margins_are_refused() -> None:
    with pytest.raises(ArtifactError):
        Forest.restore(forest().state("f"), "f", n_features=3, width=3)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(["leaves", "feature", "left", "right"]),
    position=st.integers(0, 1),
    value=st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1),
)
def test_whatever_is_not_refused_predicts(name: str, position: int, value: int) -> None:
    state = {key: array.copy() for key, array in forest().state("f").items()}
    state[f"f.{name}"][position] = value
    try:
        restored = Forest.restore(state, "f", n_features=3, width=1)
    except ArtifactError:
        return
    margins = restored.margins(np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32), width=1)
    assert np.isin(margins, [11, 12, 14]).all()
