import numpy as np
import pytest
from scipy.linalg import eigh

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, DataError, SearchError
from biofuse.fusion.projections import ProjectedMean
from biofuse.testing import assert_fusion_contract

DIMS = {"wide": 50, "narrow": 6, "middle": 15}


def make_blocks(n: int, *, seed: int = 0, shared: int = 4, noise: float = 0.3) -> tuple[Blocks, np.ndarray]:
    """Blocks that are each another linear view of the same few factors, with noise of their own."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(7)
    factors = rng.standard_normal((n, shared))
    matrices = {
        name: (factors @ shape.standard_normal((shared, dim)) + noise * rng.standard_normal((n, dim)) + 3).astype(
            np.float32
        )
        for name, dim in DIMS.items()
    }
    return Blocks(ids=np.array([f"s{i}" for i in range(n)], dtype=object), matrices=matrices), factors


@pytest.mark.parametrize("options", [{}, {"dim": 2}, {"components": 3}, {"ridge": 1e-3}])
def test_keeps_the_contract(options: dict) -> None:
    assert_fusion_contract(lambda: ProjectedMean(**options), tolerance=1e-4)


def test_blocks_are_brought_to_one_space_before_the_mean() -> None:
    train, _ = make_blocks(300)
    new, _ = make_blocks(200, seed=1)
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
    train, _ = make_blocks(300)
    new, factors = make_blocks(200, seed=1)
    fused = ProjectedMean(dim=4).fit(train).transform(new).astype(np.float64)
    design = np.column_stack([fused, np.ones(len(fused))])
    fit, *_ = np.linalg.lstsq(design, factors, rcond=None)
    explained = 1 - np.square(factors - design @ fit).sum() / np.square(factors - factors.mean(axis=0)).sum()
    assert explained > 0.95


def test_what_one_encoder_alone_sees_comes_after_what_all_see() -> None:
    train, _ = make_blocks(300)
    own = np.random.default_rng(3).standard_normal((300, 1)).astype(np.float32)
    train = Blocks(
        ids=train.ids, matrices={**train.matrices, "wide": np.hstack([train["wide"], np.repeat(own, 50, 1)])}
    )
    fused = ProjectedMean(dim=4).fit(train).transform(train)
    assert np.abs(np.corrcoef(fused.T, own[:, 0])[:-1, -1]).max() < 0.3


def test_is_maxvar_canonical_correlation_solved_by_its_definition() -> None:
    train, _ = make_blocks(80)
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
    train, _ = make_blocks(60)
    fitted = ProjectedMean().fit(train)
    assert fitted.columns == {}
    assert fitted.dim == 59  # as many directions as rows allow
    assert ProjectedMean(dim=5).fit(train).dim == 5


def test_the_same_rows_give_the_same_matrix_bit_for_bit() -> None:
    train, _ = make_blocks(60)
    first, second = (ProjectedMean().fit(train).transform(train) for _ in range(2))
    assert np.array_equal(first, second)


def test_one_encoder_or_none_with_variance_can_be_fused() -> None:
    train, _ = make_blocks(40)
    assert np.isfinite(ProjectedMean().fit(train.only(["narrow"])).transform(train)).all()
    flat = Blocks(ids=train.ids, matrices={name: np.ones_like(train[name]) for name in DIMS})
    assert not ProjectedMean().fit(flat).transform(train).any()


@pytest.mark.parametrize("options", [{"dim": 0}, {"components": 0}, {"ridge": 0.0}, {"ridge": float("inf")}])
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(SearchError, match=next(iter(options))):
        ProjectedMean(**options)


def test_bad_blocks_are_named() -> None:
    train, _ = make_blocks(30)
    fitted = ProjectedMean().fit(train)
    with pytest.raises(AlignmentError, match="middle"):
        fitted.transform(train.only(["wide", "narrow"]))
    with pytest.raises(DataError):
        ProjectedMean().fit(train.take(np.arange(0)))
