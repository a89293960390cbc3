import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import column_blocks
from biofuse.core.errors import AlignmentError, ArtifactError, DataError, SearchError
from biofuse.fusion.projections import FittedProjection, PrincipalComponents, Whitening
from biofuse.testing import assert_fusion_contract

DIMS = {"wide": 60, "narrow": 3, "middle": 20}


def make_blocks(n: int, *, seed: int = 0, dims: dict[str, int] = DIMS) -> Blocks:
    """Blocks with a spectrum that falls off, and columns of different offsets and sizes, as embeddings have."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(99)
    matrices = {}
    for name, dim in dims.items():
        mixing = shape.standard_normal((dim, dim)) * np.geomspace(10, 0.1, dim)[:, None]
        offset, size = shape.uniform(-5, 5, dim), shape.uniform(0.1, 10, dim)
        matrices[name] = ((rng.standard_normal((n, dim)) @ mixing + offset) * size).astype(np.float32)
    return Blocks(ids=np.array([f"s{i}" for i in range(n)], dtype=object), matrices=matrices)


@pytest.mark.parametrize("components", [1, 5, 1000])
@pytest.mark.parametrize("scaling", ["none", "block"])
@pytest.mark.parametrize("kind", [PrincipalComponents, Whitening])
def test_keeps_the_contract(kind, scaling: str, components: int) -> None:
    assert_fusion_contract(lambda: kind(components=components, scaling=scaling))


@pytest.mark.parametrize("n", [30, 200], ids=["fewer rows than columns", "more rows than columns"])
@pytest.mark.parametrize("whiten", [False, True])
def test_equals_scikit_learns_scaler_and_full_pca_block_by_block(n: int, whiten: bool) -> None:
    train, new = make_blocks(n), make_blocks(9, seed=1)
    fitted = (Whitening if whiten else PrincipalComponents)(components=8).fit(train)
    assert fitted.columns == {"wide": slice(0, 8), "narrow": slice(8, 11), "middle": slice(11, 19)}
    for name, columns in fitted.columns.items():
        pca = PCA(columns.stop - columns.start, svd_solver="full", whiten=whiten)
        pipeline = make_pipeline(StandardScaler(), pca).fit(train[name].astype(np.float64))
        for blocks in (train, new):
            expected = pipeline.transform(blocks[name].astype(np.float64))
            np.testing.assert_allclose(fitted.transform(blocks)[:, columns], expected, atol=2e-5, rtol=1e-5)


def test_keeps_at_most_one_component_less_than_rows() -> None:
    fitted = PrincipalComponents(components=50).fit(make_blocks(12))
    assert {name: part.stop - part.start for name, part in fitted.columns.items()} == {
        "wide": 11,
        "narrow": 3,
        "middle": 11,
    }


def test_all_components_keep_all_distances() -> None:
    train = make_blocks(100)
    fused = PrincipalComponents(components=1000).fit(train).transform(train).astype(np.float64)
    plain = np.hstack([StandardScaler().fit_transform(train[name].astype(np.float64)) for name in DIMS])
    np.testing.assert_allclose(fused @ fused.T, plain @ plain.T, atol=1e-3)


@pytest.mark.parametrize("n", [15, 100])
@pytest.mark.parametrize("scaling", ["none", "block"])
def test_is_what_the_closed_form_search_reduces_blocks_to(n: int, scaling: str) -> None:
    blocks = make_blocks(n + 10)
    train, test = np.arange(n), np.arange(n, n + 10)
    fitted = PrincipalComponents(components=6, scaling=scaling).fit(blocks.take(train))  # type: ignore[arg-type]
    searched = column_blocks(blocks, train, test, scaling=scaling, reduce_to=6)  # type: ignore[arg-type]
    fused = fitted.transform(blocks.take(test)).astype(np.float64)
    expected = searched.test @ searched.train.T
    found = fused @ fitted.transform(blocks.take(train)).T.astype(np.float64)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_whitened_components_have_unit_variance_and_no_correlation() -> None:
    train = make_blocks(200)
    fitted = Whitening(components=10).fit(train)
    for columns in fitted.columns.values():
        covariance = np.cov(fitted.transform(train)[:, columns].T.astype(np.float64))
        np.testing.assert_allclose(covariance, np.eye(len(covariance)), atol=1e-5)


def test_block_scaling_gives_every_whitened_encoder_the_same_weight() -> None:
    train = make_blocks(200)
    fitted = Whitening(components=10, scaling="block").fit(train)
    for columns in fitted.columns.values():
        part = fitted.transform(train)[:, columns].astype(np.float64)
        assert np.square(part).sum(axis=1).mean() == pytest.approx(199 / 200, rel=1e-5)


def test_whitening_does_not_blow_up_directions_of_rounding_error() -> None:
    rng = np.random.default_rng(0)
    column = rng.standard_normal((80, 3)) + 1000
    twins = np.hstack([column, column * 2, column + 5]).astype(np.float32)  # rank 3, but for float32
    blocks = Blocks(ids=np.arange(80).astype(str).astype(object), matrices={"twins": twins})
    assert Whitening(components=9).fit(blocks).dim == 3


def test_a_block_without_variance_becomes_one_column_of_zeros() -> None:
    blocks = make_blocks(30)
    blocks["narrow"][:] = 7.5
    for kind in (PrincipalComponents, Whitening):
        fitted = kind(components=4).fit(blocks)
        fused = fitted.transform(blocks)
        assert fitted.columns["narrow"] == slice(4, 5)
        assert not fused[:, 4].any()
        alone = kind(components=4).fit(blocks.only(["wide", "middle"])).transform(blocks)
        assert np.array_equal(np.delete(fused, 4, axis=1), alone)


def test_the_same_rows_give_the_same_matrix_bit_for_bit() -> None:
    train = make_blocks(50)
    for kind in (PrincipalComponents, Whitening):
        first, second = (kind().fit(train).transform(train) for _ in range(2))
        assert np.array_equal(first, second)


def test_many_rows_are_projected_in_pieces() -> None:
    from biofuse.core.linear import ROWS_AT_ONCE

    train = make_blocks(ROWS_AT_ONCE + 5, dims={"a": 4})
    fitted = PrincipalComponents().fit(train)
    expected = make_pipeline(StandardScaler(), PCA()).fit_transform(train["a"].astype(np.float64))
    np.testing.assert_allclose(fitted.transform(train), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [PrincipalComponents, Whitening])
def test_options_that_make_no_sense_are_refused(kind) -> None:
    with pytest.raises(SearchError, match="components"):
        kind(components=0)
    with pytest.raises(SearchError, match="scaling"):
        kind(scaling="rows")


def test_bad_blocks_are_named() -> None:
    train = make_blocks(20)
    fitted = PrincipalComponents().fit(train)
    with pytest.raises(AlignmentError, match=r"narrow has 4 columns.* 3"):
        fitted.transform(make_blocks(5, dims=DIMS | {"narrow": 4}))
    with pytest.raises(DataError):
        PrincipalComponents().fit(train.take(np.arange(0)))
    train["middle"][3, 0] = np.nan
    for act in (lambda: PrincipalComponents().fit(train), lambda: fitted.transform(train)):
        with pytest.raises(DataError, match="'s3' by middle"):
            act()


def _without_axes(values: dict, arrays: dict) -> tuple[dict, dict]:
    return values, {name: array for name, array in arrays.items() if name != "axes_1"}


def _short_mean(values: dict, arrays: dict) -> tuple[dict, dict]:
    return values, arrays | {"mean_0": arrays["mean_0"][:-1]}


def _flat_axes(values: dict, arrays: dict) -> tuple[dict, dict]:
    return values, arrays | {"axes_2": arrays["axes_2"][:, 0]}


def _no_encoders(values: dict, arrays: dict) -> tuple[dict, dict]:
    return values | {"encoders": []}, arrays


def _added_up(values: dict, arrays: dict) -> tuple[dict, dict]:
    return values | {"summed": True}, arrays


@pytest.mark.parametrize("damage", [_without_axes, _short_mean, _flat_axes, _no_encoders, _added_up])
def test_a_malformed_state_is_refused(damage) -> None:
    values, arrays = damage(*PrincipalComponents(components=5).fit(make_blocks(20)).state())
    with pytest.raises(ArtifactError):
        FittedProjection.restore(values, arrays)
