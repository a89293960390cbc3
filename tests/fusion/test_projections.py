import numpy as np
import pytest
from scipy.linalg import eigh
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import column_blocks
from biofuse.core.errors import ArtifactError
from biofuse.fusion.projections import FittedProjection, PrincipalComponents, ProjectedMean, Whitening

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


def test_many_rows_are_projected_in_pieces() -> None:
    from biofuse.core.linear import ROWS_AT_ONCE

    train = make_blocks(ROWS_AT_ONCE + 5, dims={"a": 4})
    fitted = PrincipalComponents().fit(train)
    expected = make_pipeline(StandardScaler(), PCA()).fit_transform(train["a"].astype(np.float64))
    np.testing.assert_allclose(fitted.transform(train), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "damage",
    [
        lambda values, arrays: (values, {name: array for name, array in arrays.items() if name != "axes_1"}),
        lambda values, arrays: (values, arrays | {"mean_0": arrays["mean_0"][:-1]}),
        lambda values, arrays: (values, arrays | {"axes_2": arrays["axes_2"][:, 0]}),
        lambda values, arrays: (values | {"encoders": []}, arrays),
        lambda values, arrays: (values | {"summed": True}, arrays),
    ],
    ids=["axes missing", "short mean", "flat axes", "no encoders", "added up"],
)
def test_a_malformed_state_is_refused(damage) -> None:
    values, arrays = damage(*PrincipalComponents(components=5).fit(make_blocks(20)).state())
    with pytest.raises(ArtifactError):
        FittedProjection.restore(values, arrays)


VIEWS = {"wide": 50, "narrow": 6, "middle": 15}


def make_views(n: int, *, seed: int = 0, shared: int = 4, noise: float = 0.3) -> tuple[Blocks, np.ndarray]:
    """Blocks that are each another linear view of the same few factors, with noise of their own."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(7)
    factors = rng.standard_normal((n, shared))
    matrices = {
        name: (factors @ shape.standard_normal((shared, dim)) + noise * rng.standard_normal((n, dim)) + 3).astype(
            np.float32
        )
        for name, dim in VIEWS.items()
    }
    return Blocks(ids=np.array([f"s{i}" for i in range(n)], dtype=object), matrices=matrices), factors


def test_blocks_are_brought_to_one_space_before_the_mean() -> None:
    train, _ = make_views(300)
    new, _ = make_views(200, seed=1)
    fitted = ProjectedMean(dim=4).fit(train)
    alone = [
        standard(new[name]) @ axes
        for name, standard, axes in zip(fitted.encoders, fitted.standards, fitted.axes, strict=True)
    ]
    np.testing.assert_allclose(fitted.transform(new), sum(alone), atol=1e-5)
    for first in alone:
        for second in alone:
            agreement = [np.corrcoef(first[:, column], second[:, column])[0, 1] for column in range(4)]
            assert min(agreement) > 0.85


def test_finds_the_factors_that_the_blocks_share() -> None:
    train, _ = make_views(300)
    new, factors = make_views(200, seed=1)
    fused = ProjectedMean(dim=4).fit(train).transform(new).astype(np.float64)
    design = np.column_stack([fused, np.ones(len(fused))])
    fit, *_ = np.linalg.lstsq(design, factors, rcond=None)
    explained = 1 - np.square(factors - design @ fit).sum() / np.square(factors - factors.mean(axis=0)).sum()
    assert explained > 0.95


def test_what_one_encoder_alone_sees_comes_after_what_all_see() -> None:
    train, _ = make_views(300)
    own = np.random.default_rng(3).standard_normal((300, 1)).astype(np.float32)
    train = Blocks(
        ids=train.ids, matrices={**train.matrices, "wide": np.hstack([train["wide"], np.repeat(own, 50, 1)])}
    )
    fused = ProjectedMean(dim=4).fit(train).transform(train)
    assert np.abs(np.corrcoef(fused.T, own[:, 0])[:-1, -1]).max() < 0.3


def test_is_maxvar_canonical_correlation_solved_by_its_definition() -> None:
    train, _ = make_views(80)
    fusion = ProjectedMean(dim=3, components=1000, ridge=0.5)
    hats, inner = [], []
    for name in train.encoders:
        Z = train[name].astype(np.float64)
        Z = (Z - Z.mean(axis=0)) / Z.std(axis=0)
        penalty = 0.5 * np.square(Z).sum() / np.linalg.matrix_rank(Z)
        inner.append(np.linalg.solve(Z.T @ Z + penalty * np.eye(Z.shape[1]), Z.T))
        hats.append(Z @ inner[-1])
    _, common = eigh(sum(hats), subset_by_index=(77, 79))
    expected = sum(hats) @ common[:, ::-1] / 3 * np.sqrt(79)
    fused = fusion.fit(train).transform(train)
    for column in range(3):
        sign = np.sign(fused[:, column] @ expected[:, column])
        np.testing.assert_allclose(fused[:, column], sign * expected[:, column], atol=1e-4)


def test_columns_belong_to_no_encoder() -> None:
    train, _ = make_views(60)
    fitted = ProjectedMean().fit(train)
    assert fitted.columns == {}
    assert fitted.dim == 59  # as many directions as rows allow
    assert ProjectedMean(dim=5).fit(train).dim == 5


def test_one_encoder_or_none_with_variance_can_be_fused() -> None:
    train, _ = make_views(40)
    assert np.isfinite(ProjectedMean().fit(train.only(["narrow"])).transform(train)).all()
    flat = Blocks(ids=train.ids, matrices={name: np.ones_like(train[name]) for name in VIEWS})
    assert not ProjectedMean().fit(flat).transform(train).any()
