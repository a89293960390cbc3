import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from biofuse.core.linear import FoldMoments, Standard, leading_eigenvectors, principal_components, slices


def test_slices_cover_every_row_once():
    assert list(slices(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(slices(0, 2)) == []


def make_block(n, d, seed=0):
    random = np.random.default_rng(seed)
    block = (random.normal(size=(n, d)) * random.uniform(0.1, 9, d) + 5 * random.normal(size=d)).astype(np.float32)
    block[:, 1] = 0.1  # a constant that float32 does not hold exactly
    return block


@pytest.mark.parametrize("rows", [None, np.arange(3, 30)])
def test_columns_are_standardised_as_scikit_learn_does(rows):
    block = make_block(40, 300)
    train = block if rows is None else block[rows]
    scaler, found = StandardScaler().fit(train.astype(np.float64)), Standard.of(block, rows)
    assert np.allclose(found.mean, scaler.mean_, rtol=1e-14)
    assert np.allclose(found.scale, scaler.scale_, rtol=1e-14)
    assert found.scale[1] == 1
    assert np.allclose(found(block), scaler.transform(block.astype(np.float64)), rtol=0, atol=1e-12)
    assert np.array_equal(found(block[:, 7:9], columns=slice(7, 9)), found(block)[:, 7:9])


@pytest.mark.parametrize(("n", "d"), [(30, 60), (200, 60), (5000, 12)])
def test_principal_components_are_those_of_scikit_learn(n, d):
    block, rows = make_block(n + 10, d), np.arange(n)
    found = principal_components(block, count=8, rows=rows)
    standard = StandardScaler().fit(block[rows].astype(np.float64))
    pca = PCA(8, svd_solver="full").fit(standard.transform(block[rows].astype(np.float64)))
    assert np.allclose(found.axes.T, pca.components_, rtol=0, atol=1e-9)  # signs too
    assert np.allclose(found.variances, pca.explained_variance_, rtol=1e-9)
    new = np.arange(n, n + 10)
    expected = pca.transform(standard.transform(block[new].astype(np.float64)))
    assert np.allclose(found.project(block, new), expected, rtol=0, atol=1e-8)


def test_folds_that_share_rows_have_the_components_of_their_own_rows():
    block = make_block(300, 40) + 1000  # far from 0
    where = np.arange(300) % 3
    folds = [np.flatnonzero(where != fold) for fold in range(3)] + [np.arange(0, 290, 2)]
    for rows, moments in zip(folds, FoldMoments.of_folds(block, folds), strict=True):
        found, expected = moments.components(7), principal_components(block, count=7, rows=rows)
        assert np.allclose(found.standard.scale, expected.standard.scale, rtol=1e-9)
        assert np.allclose(found.variances, expected.variances, rtol=1e-9)
        assert np.allclose(found.project(block, rows), expected.project(block, rows), rtol=0, atol=1e-6)
    block[where != 0, 5] = 3  # constant where the first fold trains, and only there
    first, second, *_ = FoldMoments.of_folds(block, folds)
    assert first.components(7) is None
    assert second.components(7) is not None


def test_directions_without_variance_are_no_components():
    assert principal_components(make_block(5, 30), count=20).axes.shape == (30, 4)
    flat = principal_components(np.full((9, 4), 0.1, dtype=np.float32), count=2)
    assert np.array_equal(flat.axes, np.zeros((4, 1)))
    assert flat.variances.tolist() == [0]
    doubled = np.repeat(make_block(50, 3), 2, axis=1)
    assert principal_components(doubled, count=6).axes.shape[1] == 2  # a constant column, and two others twice
    values, vectors = leading_eigenvectors(np.diag([1.0, 5.0, 3.0, 1e-9]), 3, smallest=1e-6)
    assert values.tolist() == [5, 3, 1]
    assert np.allclose(np.abs(vectors), np.eye(4)[:, [1, 2, 0]])
