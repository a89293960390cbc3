"""The streamed discriminant equals scikit-learn's, whatever the blocks."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import top_k_accuracy_score

from biofuse.core.errors import AlignmentError, SearchError
from biofuse.studies.imagenet import LinearScores, Moments

CLASSES = 7


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 600)
    mixing = generator.normal(size=(9, 9))
    X = (generator.normal(size=(600, 9)) + labels[:, None] * np.linspace(0, 0.6, 9)) @ mixing + 1000
    return X.astype(np.float32), labels


def moments(X, labels, *, blocks=1, order=None, n_classes=CLASSES):
    found = Moments(X.shape[1], n_classes)
    order = np.arange(len(X)) if order is None else order
    for part in np.array_split(order, blocks):
        found.add(X[part], labels[part])
    return found


def decision(head, X):
    return X.astype(np.float64) @ head.coef + head.intercept


def test_without_shrinkage_it_is_scikit_learns_discriminant(rows):
    X, labels = rows
    head = LinearScores.fit(moments(X, labels, blocks=4), slice(None), shrinkage=0)
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(X.astype(np.float64), labels)
    # Of several classes scikit-learn's scores have the same differences between classes.
    theirs = reference.decision_function(X.astype(np.float64))
    mine = decision(head, X)
    np.testing.assert_allclose(mine - mine[:, :1], theirs - theirs[:, :1], rtol=1e-5, atol=1e-5)


def test_shrinkage_shrinks_correlations(rows):
    X, labels = rows
    head = LinearScores.fit(moments(X, labels), slice(None), shrinkage=0.3)
    X = X.astype(np.float64)
    means = np.stack([X[labels == code].mean(axis=0) for code in range(CLASSES)])
    centred = X - means[labels]
    within = centred.T @ centred / len(X)
    shrunk = 0.7 * within + 0.3 * np.diag(np.diag(within))
    centre = X.mean(axis=0)  # around which the direct formula loses no precision
    coef = np.linalg.solve(shrunk, (means - centre).T)
    direct = (X - centre) @ coef - 0.5 * np.einsum("ij,ji->i", means - centre, coef)
    direct += np.log(np.bincount(labels) / len(X))
    mine = decision(head, X)
    np.testing.assert_allclose(mine - mine[:, :1], direct - direct[:, :1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("blocks", [1, 3, 50])
def test_neither_blocks_nor_order_matter(rows, blocks):
    X, labels = rows
    one = LinearScores.fit(moments(X, labels), slice(None), shrinkage=0.01)
    order = np.random.default_rng(1).permutation(len(X))
    other = LinearScores.fit(moments(X, labels, blocks=blocks, order=order), slice(None), shrinkage=0.01)
    np.testing.assert_allclose(decision(other, X), decision(one, X), rtol=1e-6, atol=1e-5)


def test_an_encoders_head_is_a_principal_submatrix_of_all(rows):
    X, labels = rows
    whole = moments(X, labels)
    part = LinearScores.fit(whole, slice(3, 7), shrinkage=0.05)
    alone = LinearScores.fit(moments(X[:, 3:7], labels), slice(None), shrinkage=0.05)
    np.testing.assert_allclose(part.coef, alone.coef, rtol=1e-7)
    np.testing.assert_allclose(part.intercept, alone.intercept, rtol=1e-7)


def test_moments_add_up(rows):
    X, labels = rows
    first = moments(X[:400], labels[:400])
    second = Moments(9, CLASSES, shift=first.shift)
    second.add(X[400:], labels[400:])
    first.merge(second)
    whole = LinearScores.fit(moments(X, labels), slice(None), shrinkage=0.05)
    np.testing.assert_allclose(LinearScores.fit(first, slice(None), shrinkage=0.05).coef, whole.coef, rtol=1e-6)
    with pytest.raises(AlignmentError, match="different points"):
        first.merge(moments(X[5:], labels[5:]))


def test_ranks_give_scikit_learns_top_k(rows):
    X, labels = rows
    head = LinearScores.fit(moments(X, labels), slice(None), shrinkage=0.05)
    ranks, scores = head.ranks(X, labels), decision(head, X)
    for k in (1, 2, 5):
        assert (ranks < k).mean() == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(CLASSES)))
    np.testing.assert_array_equal(ranks == 0, scores.argmax(axis=1) == labels)


def test_ties_go_to_the_first_class():
    head = LinearScores(coef=np.zeros((2, 3)), intercept=np.zeros(3), shrinkage=0)
    assert head.ranks(np.zeros((3, 2)), np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_a_class_without_rows_is_never_named(rows):
    X, labels = rows
    head = LinearScores.fit(moments(X, labels, n_classes=CLASSES + 1), slice(None), shrinkage=0.05)
    assert np.isneginf(head.intercept[CLASSES])
    np.testing.assert_array_equal(
        head.ranks(X, labels), LinearScores.fit(moments(X, labels), slice(None), shrinkage=0.05).ranks(X, labels)
    )


def test_constant_columns_change_nothing(rows):
    X, labels = rows
    wider = np.concatenate([X, np.full((len(X), 2), 5, np.float32)], axis=1)
    head = LinearScores.fit(moments(wider, labels), slice(None), shrinkage=0.05)
    plain = LinearScores.fit(moments(X, labels), slice(None), shrinkage=0.05)
    np.testing.assert_allclose(decision(head, wider), decision(plain, X), rtol=1e-6, atol=1e-5)


def test_columns_that_depend_on_one_another_need_shrinkage(rows):
    X, labels = rows
    twice = np.concatenate([X, X], axis=1)
    with pytest.raises(SearchError, match="depend on one another"):
        LinearScores.fit(moments(twice, labels), slice(None), shrinkage=0)
    assert np.isfinite(LinearScores.fit(moments(twice, labels), slice(None), shrinkage=1e-3).coef).all()


def test_nothing_to_learn_from():
    with pytest.raises(SearchError, match="no training row"):
        LinearScores.fit(Moments(3, 2), slice(None), shrinkage=0.1)
    with pytest.raises(AlignmentError):
        Moments(3, 2).add(np.zeros((4, 3)), np.zeros(5, dtype=np.int64))
