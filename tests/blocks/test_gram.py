"""Linear CKA equals its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from biofuse.blocks.blocks import Blocks, linear_cka
from biofuse.blocks.gram import column_blocks, gram_blocks, reduced_columns
from biofuse.core.errors import AlignmentError, DataError
from biofuse.fusion.concatenation import Concatenation

TRAIN, TEST = np.arange(5, 45), np.concatenate([np.arange(5), np.arange(45, 60)])


def make_blocks(dims=None, n=60, seed=0):
    random = np.random.default_rng(seed)
    dims = dims or {"a": 7, "b": 300, "c": 30}
    matrices = {
        name: (random.normal(size=(n, d)) * random.uniform(0.1, 9, d) + 5 * random.normal(size=d)).astype(np.float32)
        for name, d in dims.items()
    }
    return Blocks(ids=np.array([f"s{i}" for i in range(n)], dtype=object), matrices=matrices)


def standardised(matrix, scaling="none"):
    scaler = StandardScaler().fit(matrix[TRAIN].astype(np.float64))
    divisor = np.sqrt(matrix.shape[1]) if scaling == "block" else 1.0
    return [scaler.transform(matrix[rows].astype(np.float64)) / divisor for rows in (TRAIN, TEST)]


@pytest.mark.parametrize("scaling", ["none", "block"])
@pytest.mark.parametrize("subset", [("a",), ("a", "c"), ("a", "b", "c")])
def test_products_add_up_to_those_of_the_concatenation(scaling, subset):
    blocks = make_blocks()
    grams = gram_blocks(blocks, TRAIN, TEST, scaling=scaling)
    train, test = grams.total(subset), grams.apply(subset, np.eye(len(TRAIN)))
    X = [np.hstack(parts) for parts in zip(*(standardised(blocks[name], scaling) for name in subset), strict=True)]
    assert np.allclose(train, X[0] @ X[0].T, rtol=0, atol=1e-9)
    assert np.allclose(test, X[1] @ X[0].T, rtol=0, atol=1e-9)
    fitted = Concatenation(scaling=scaling).fit(blocks.only(subset).take(TRAIN))
    fused = fitted.transform(blocks.only(subset).take(TRAIN)).astype(np.float64)
    assert np.allclose(train, fused @ fused.T, rtol=1e-5, atol=1e-3)  # the fusion rounds to float32


def test_a_total_leaves_the_blocks_alone_and_ignores_the_order_of_names():
    grams = gram_blocks(make_blocks(), TRAIN, TEST)
    before = grams.train.copy()
    first = grams.total(("c", "a"))
    again = grams.total(("a", "c"))
    assert np.array_equal(first, again)
    first += 1
    assert np.array_equal(before, grams.train)


@pytest.mark.parametrize("scaling", ["none", "block"])
def test_columns_and_their_moments_are_those_of_the_concatenation(scaling):
    blocks = make_blocks()
    columns = column_blocks(blocks, TRAIN, TEST, scaling=scaling)
    assert columns.dims == (7, 300, 30)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(TRAIN))
    targets = np.random.default_rng(2).normal(size=(len(TRAIN), 3))
    mean, products, crossed = columns.moments(weights, targets)
    chosen = columns.columns(("c", "a"))
    X = [np.hstack(parts) for parts in zip(*(standardised(blocks[m], scaling) for m in ("a", "c")), strict=True)]
    assert np.allclose(columns.train[:, chosen], X[0], rtol=0, atol=1e-12)
    assert np.allclose(columns.test[:, chosen], X[1], rtol=0, atol=1e-12)
    assert np.allclose(mean[chosen], np.average(X[0], axis=0, weights=weights), rtol=0, atol=1e-12)
    expected = np.cov(X[0].T, aweights=weights, ddof=0) * weights.sum()
    assert np.allclose(products[np.ix_(chosen, chosen)], expected, rtol=0, atol=1e-10)
    expected = (X[0] - mean[chosen]).T @ (weights[:, None] * (targets - np.average(targets, axis=0, weights=weights)))
    assert np.allclose(crossed[chosen], expected, rtol=0, atol=1e-10)
    coef = np.random.default_rng(3).normal(size=(len(chosen), 2))
    assert np.allclose(columns.apply(("c", "a"), coef), X[1] @ coef, rtol=0, atol=1e-10)
    own = columns.only(("c", "a"))
    assert (own.encoders, own.dims) == (("a", "c"), (7, 30))
    assert np.array_equal(own.train, columns.train[:, chosen])
    assert np.array_equal(own.test, columns.test[:, chosen])
    assert columns.slices(("c", "a")) == [slice(0, 7), slice(307, 337)]
    assert columns.slices(("b", "a")) == [slice(0, 307)]


def test_reduction_is_pca_fitted_on_the_training_rows():
    blocks = make_blocks()
    columns = column_blocks(blocks, TRAIN, TEST, reduce_to=9)
    assert columns.dims == (7, 9, 9)  # "b" is reduced by way of rows, "c" by way of columns, "a" not at all
    grams = gram_blocks(blocks, TRAIN, TEST, reduce_to=9)
    for place, name in enumerate(blocks.encoders):
        train, test = standardised(blocks[name])
        if name != "a":
            pca = PCA(9, svd_solver="full").fit(train)
            train, test = pca.transform(train), pca.transform(test)
        own = columns.columns((name,))
        for found, expected in ((columns.train[:, own], train), (columns.test[:, own], test)):
            signs = np.sign((found * expected).sum(axis=0))
            assert np.allclose(found * signs if name != "a" else found, expected, rtol=0, atol=1e-9)
        assert np.allclose(grams.train[place], train @ train.T, rtol=0, atol=1e-8)
        assert np.allclose(grams.test[place], test @ train.T, rtol=0, atol=1e-8)


@pytest.mark.parametrize("scaling", ["none", "block"])
def test_folds_reduced_together_are_those_reduced_one_by_one(scaling):
    blocks = make_blocks({"narrow": 7, "wide": 300, "shared": 30, "flat": 12})
    blocks["flat"][:] = 0.1
    folds = [(TRAIN, TEST), (np.arange(40), np.arange(40, 60)), (np.arange(20, 60), np.arange(20))]
    together = reduced_columns(blocks, folds, scaling=scaling, reduce_to=9, threads=2)
    for found, fold in zip(together, folds, strict=True):
        alone = column_blocks(blocks, *fold, scaling=scaling, reduce_to=9)
        assert found.dims == alone.dims == (7, 9, 9, 1)
        assert np.allclose(found.train, alone.train, rtol=0, atol=1e-9)
        assert np.allclose(found.test, alone.test, rtol=0, atol=1e-9)
        products = found.train.T @ found.train
        columns = found.columns(("shared", "narrow"))
        assert np.array_equal(found.between(("shared", "narrow"), products), products[np.ix_(columns, columns)])


def test_held_out_rows_decide_nothing():
    blocks = make_blocks()
    changed = {name: matrix.copy() for name, matrix in blocks.items()}
    for matrix in changed.values():
        matrix[TEST] *= 100
    other = Blocks(ids=blocks.ids, matrices=changed)
    for reduce_to in (None, 5):
        assert np.array_equal(
            gram_blocks(blocks, TRAIN, TEST, reduce_to=reduce_to).train,
            gram_blocks(other, TRAIN, TEST, reduce_to=reduce_to).train,
        )
        assert np.array_equal(
            column_blocks(blocks, TRAIN, TEST, reduce_to=reduce_to).train,
            column_blocks(other, TRAIN, TEST, reduce_to=reduce_to).train,
        )


@pytest.mark.parametrize("reduce_to", [None, 3])
def test_constant_columns_become_zero(reduce_to):
    blocks = make_blocks()
    matrices = dict(blocks) | {"flat": np.full((60, 5), 0.1, dtype=np.float32)}
    with_flat = Blocks(ids=blocks.ids, matrices=matrices)
    grams = gram_blocks(with_flat, TRAIN, TEST, reduce_to=reduce_to)
    assert abs(grams.train[3]).max() < 1e-20
    assert abs(grams.test[3]).max() < 1e-20
    columns = column_blocks(with_flat, TRAIN, TEST, reduce_to=reduce_to)
    assert abs(columns.train[:, columns.columns(("flat",))]).max() < 1e-10


def test_bad_input_is_named():
    blocks = make_blocks()
    matrices = {name: matrix.copy() for name, matrix in blocks.items()}
    matrices["c"][3, 2] = np.nan
    bad = Blocks(ids=blocks.ids, matrices=matrices)
    for build in (gram_blocks, column_blocks):
        with pytest.raises(DataError, match="'s3' by c"):
            build(bad, TRAIN, TEST)
        with pytest.raises(DataError, match="0 training rows"):
            build(blocks, TRAIN[:0], TEST)
        with pytest.raises(DataError, match="reduced to 0"):
            build(blocks, TRAIN, TEST, reduce_to=0)
    with pytest.raises(AlignmentError, match="x"):
        gram_blocks(blocks, TRAIN, TEST).total(("a", "x"))
    with pytest.raises(AlignmentError):
        column_blocks(blocks, TRAIN, TEST).columns(())


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
