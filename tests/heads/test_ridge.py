import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV

from biofuse.core.target import Target, Task
from biofuse.heads.ridge import Ridge


def make_data(n: int, d: int, k: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(n) % k, np.zeros(n // 3, dtype=int)])[:n])
    X = rng.standard_normal((n, d)) * 2 + 5 + 0.5 * rng.standard_normal((k, d))[labels]
    return X.astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize(("n", "d"), [(50, 120), (120, 30)])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 1: 0.3}])
def test_decisions_equal_ridge_classifier(n: int, d: int, k: int, class_weight) -> None:
    X, y = make_data(n, d, k)
    task = Task.BINARY if k == 2 else Task.MULTICLASS
    ours = Ridge(alpha=30.0, class_weight=class_weight).fit(X, y, target=Target.numbered(task, k))
    reference = RidgeClassifier(alpha=30.0, class_weight=class_weight, tol=1e-12).fit(X.astype(np.float64), y)
    expected = reference.decision_function(X.astype(np.float64))
    margins = ours.margins(X)
    np.testing.assert_allclose(margins[:, 0] if k == 2 else margins, expected, atol=1e-7)
    assert np.array_equal(ours.predict_proba(X).argmax(axis=1), reference.predict(X.astype(np.float64)))


@pytest.mark.parametrize(("n", "d"), [(50, 120), (120, 30)])
def test_penalty_equals_ridge_classifier_cv(n: int, d: int) -> None:
    for seed in range(4):
        X, y = make_data(n, d, 3, seed=seed)
        ours = Ridge().fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
        centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
        grid = np.square(centred).sum(axis=1).mean() * 10.0 ** np.arange(-3, 4.5, 0.5)
        reference = RidgeClassifierCV(alphas=grid).fit(X.astype(np.float64), y)
        assert ours.penalty[0] == pytest.approx(reference.alpha_)


def test_multilabel_chooses_a_penalty_for_each_label() -> None:
    X, y = make_data(80, 30, 2)
    noise = np.random.default_rng(0).integers(0, 2, 80)
    labels = np.stack([y, noise], axis=1)
    ours = Ridge().fit(X, labels, target=Target.numbered(Task.MULTILABEL, 2))
    assert ours.penalty[0] < ours.penalty[1]
    alone = Ridge().fit(X, y, target=Target.numbered(Task.BINARY, 2))
    np.testing.assert_allclose(ours.predict_proba(X)[:, 0], alone.predict_proba(X)[:, 1], atol=1e-12)


def test_probabilities_are_calibrated_on_rows_left_out() -> None:
    # On pure noise the decisions of the training rows are confident, those of left-out rows are not.
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 200)), rng.integers(0, 2, 60)
    ours = Ridge(alpha=1.0).fit(X, y, target=Target.numbered(Task.BINARY, 2))
    assert np.abs(ours.predict_proba(X) - 0.5).max() < 0.1
    assert np.abs(ours.margins(X)).min() > 0.5


def test_it_is_ranked_by_the_probabilities_that_it_is_judged_by() -> None:
    X, y = make_data(60, 40, 3)
    fitted = Ridge().fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
    p = fitted.predict_proba(X)
    np.testing.assert_allclose(fitted.decision(X), np.log(p) - np.log1p(-p), rtol=1e-6, atol=1e-6)


def test_a_penalty_that_rounding_would_drown_is_raised_and_said() -> None:
    X, y = make_data(40, 90, 2)
    ours = Ridge(alpha=1e-20).fit(X, y, target=Target.numbered(Task.BINARY, 2))
    assert "raised to" in ours.notes[-1]
    assert ours.penalty[0] > 1e-20
    assert np.array_equal(ours.predict_proba(X).argmax(axis=1), y)  # as good as without a penalty
    assert not Ridge(alpha=1e-3).fit(X, y, target=Target.numbered(Task.BINARY, 2)).notes
