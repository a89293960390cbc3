import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError
from biofuse.fusion.base import make_fusion
from biofuse.fusion.concatenation import Concatenation, FittedConcatenation

DIMS = {"zeta": 5, "alpha": 12, "mid": 1}


def make_blocks(n: int = 30, *, seed: int = 0, dims: dict[str, int] = DIMS) -> Blocks:
    rng = np.random.default_rng(seed)
    matrices = {name: (rng.standard_normal((n, dim)) * 30 + 100).astype(np.float32) for name, dim in dims.items()}
    return Blocks(ids=np.array([f"s{i}" for i in range(n)], dtype=object), matrices=matrices)


def test_equals_standard_scaler_on_the_training_rows_and_on_new_ones() -> None:
    train, new = make_blocks(40), make_blocks(9, seed=1)
    fitted = Concatenation().fit(train)
    for name, columns in fitted.columns.items():
        scaler = StandardScaler().fit(train[name].astype(np.float64))
        for blocks in (train, new):
            expected = scaler.transform(blocks[name].astype(np.float64))
            np.testing.assert_allclose(fitted.transform(blocks)[:, columns], expected, atol=1e-6, rtol=1e-6)


def test_constant_columns_become_zero_as_in_standard_scaler() -> None:
    blocks = make_blocks(20)
    for value in (0.0, 0.1, 12345.678):  # 0.1 is not exact in binary: a naive variance is not zero
        blocks["alpha"][:, 3] = value
        fitted = Concatenation().fit(blocks)
        fused = fitted.transform(blocks)[:, fitted.columns["alpha"]]
        assert not fused[:, 3].any()
        assert np.isfinite(fused).all()


def test_a_constant_block_leaves_the_others_alone() -> None:
    blocks = make_blocks(20)
    blocks["mid"][:] = 7.0
    fitted = Concatenation().fit(blocks)
    assert not fitted.transform(blocks)[:, fitted.columns["mid"]].any()
    alone = Concatenation().fit(blocks.only(["zeta", "alpha"]))
    assert np.array_equal(fitted.transform(blocks)[:, :17], alone.transform(blocks))


def test_block_scaling_gives_every_encoder_the_same_weight() -> None:
    blocks = make_blocks(50)
    plain, scaled = Concatenation().fit(blocks), Concatenation(scaling="block").fit(blocks)
    for name, columns in plain.columns.items():
        part = scaled.transform(blocks)[:, columns]
        np.testing.assert_allclose(part, plain.transform(blocks)[:, columns] / np.sqrt(DIMS[name]), rtol=1e-6)
        assert np.square(part).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)


def test_without_standardisation_values_pass_unchanged() -> None:
    blocks = make_blocks()
    fused = Concatenation(standardise=False).fit(blocks).transform(blocks)
    assert np.array_equal(fused, np.hstack([blocks[name] for name in DIMS]))


def test_columns_are_in_pool_order_whatever_order_is_asked_for() -> None:
    blocks = make_blocks()
    fitted = Concatenation().fit(blocks.only(["mid", "alpha", "zeta"]))
    assert fitted.encoders == ("zeta", "alpha", "mid")
    assert fitted.columns == {"zeta": slice(0, 5), "alpha": slice(5, 17), "mid": slice(17, 18)}
    assert fitted.dim == 18


@given(st.permutations(list(DIMS)), st.integers(0, 2**16))
def test_order_of_blocks_and_rows_given_does_not_matter(names: list[str], seed: int) -> None:
    blocks = make_blocks(12)
    fitted = Concatenation().fit(blocks)
    rows = np.random.default_rng(seed).permutation(12)
    turned = Blocks(ids=blocks.ids, matrices={name: blocks[name] for name in names}).take(rows)
    assert np.array_equal(fitted.transform(turned), fitted.transform(blocks)[rows])


@given(st.sets(st.sampled_from(list(DIMS)), min_size=1))
def test_a_subset_is_a_slice_of_all(names: set[str]) -> None:
    blocks = make_blocks(12)
    everything, subset = Concatenation().fit(blocks), Concatenation().fit(blocks.only(sorted(names)))
    fused = everything.transform(blocks)
    expected = np.hstack([fused[:, everything.columns[name]] for name in DIMS if name in names])
    assert np.array_equal(subset.transform(blocks), expected)


def test_only_the_rows_given_are_looked_at() -> None:
    blocks = make_blocks(40)
    train = blocks.take(np.arange(30))
    before = Concatenation().fit(train).mean
    blocks["alpha"][30:] = 1e6
    assert np.array_equal(Concatenation().fit(blocks.take(np.arange(30))).mean, before)


def test_large_offsets_keep_their_precision() -> None:
    # Means and deviations in float64: in float32 a column of 1e4 +- 0.01 has no digits left.
    rng = np.random.default_rng(0)
    column = (1e4 + rng.integers(-8, 8, (5000, 1)) / 1024).astype(np.float32)
    blocks = Blocks(ids=np.arange(5000).astype(str).astype(object), matrices={"a": column})
    fused = Concatenation().fit(blocks).transform(blocks)
    assert fused.std() == pytest.approx(1, rel=1e-4)
    assert fused.mean() == pytest.approx(0, abs=1e-4)


def test_a_fitted_fusion_cannot_be_changed() -> None:
    fitted = make_fusion("concatenation").fit(make_blocks())
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted.encoders = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    "damage",
    [
        lambda values, _: (values, {}),
        lambda values, arrays: (values, arrays | {"mean": arrays["mean"][:-1]}),
        lambda values, arrays: (values | {"encoders": values["encoders"][:-1]}, arrays),
        lambda values, arrays: (values | {"dims": ["many"] * 3}, arrays),
    ],
    ids=["no arrays", "short mean", "an encoder less", "text for dims"],
)
def test_a_malformed_state_is_refused(damage) -> None:
    values, arrays = damage(*Concatenation().fit(make_blocks()).state())
    with pytest.raises(ArtifactError):
        FittedConcatenation.restore(values, arrays)
