import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from biofuse.core.target import Target, Task
from biofuse.heads.base import Classification
from biofuse.heads.logistic import LOGIT_VARIANCE, Logistic, fit_slope, log_loss


def make_data(n: int, d: int, k: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features with a fast-falling spectrum, as embeddings have; unbalanced classes."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, n) - 1, k - 1)
    labels[:k] = np.arange(k)
    factors = rng.standard_normal((n, 20)) + 0.7 * rng.standard_normal((k, 20))[labels]
    X = factors @ rng.standard_normal((20, d)) * 2 + rng.standard_normal((n, d)) + rng.standard_normal(d)
    return X.astype(np.float32), labels.astype(np.int64)


def exact(C: float, **options) -> LogisticRegression:
    # Its default solver stops some 1e-4 short of the minimum where the penalty is weak.
    return LogisticRegression(C=C, solver="newton-cg", tol=1e-8, max_iter=500, **options)


def reference(X: np.ndarray, y: np.ndarray, C: float, **options) -> LogisticRegression:
    return exact(C, **options).fit(X.astype(np.float64), y)


@pytest.mark.parametrize(("n", "d"), [(60, 300), (300, 60), (80, 80), (150, 3)])
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("C", [None, 1.0, 1e-3])
def test_equals_scikit_learn_on_the_raw_features(n: int, d: int, k: int, C: float | None) -> None:
    X, y = make_data(n, d, k)
    new, _ = make_data(50, d, k, seed=1)
    task = Task.BINARY if k == 2 else Task.MULTICLASS
    fitted = Logistic(C=C).fit(X, y, target=Target.numbered(task, k))
    expected = reference(X, y, fitted.penalty[0])
    np.testing.assert_allclose(fitted.predict_proba(new), expected.predict_proba(new.astype(np.float64)), atol=1e-4)
    assert fitted.notes == ()


def test_coefficients_equal_scikit_learn() -> None:
    X, y = make_data(80, 200, 3)
    fitted = Logistic(C=0.01).fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
    expected = reference(X, y, 0.01)
    np.testing.assert_allclose(fitted.coef.T, expected.coef_, atol=1e-4)
    np.testing.assert_allclose(fitted.intercept, expected.intercept_, atol=1e-3)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 2: 0.5}])
def test_class_weights_equal_scikit_learn(class_weight) -> None:
    X, y = make_data(90, 40, 3)
    plain = Logistic(C=0.01).fit(X, y, target=Target.numbered(Task.MULTICLASS, 3)).predict_proba(X)
    ours = (
        Logistic(C=0.01, class_weight=class_weight)
        .fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
        .predict_proba(X)
    )
    expected = reference(X, y, 0.01, class_weight=class_weight).predict_proba(X.astype(np.float64))
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert np.abs(ours - plain).max() > 0.01


@pytest.mark.parametrize("class_weight", [None, "balanced", {1: 4.0}])
def test_sample_weights_multiply_class_weights(class_weight) -> None:
    X, y = make_data(90, 40, 2)
    weights = np.random.default_rng(0).uniform(0.1, 3, 90)
    ours = Logistic(C=0.01, class_weight=class_weight).fit(
        X, y, target=Target.numbered(Task.BINARY, 2), sample_weight=weights
    )
    totals = np.bincount(y, weights=weights)
    per_class = {"None": np.ones(2), "balanced": weights.sum() / 2 / totals}.get(str(class_weight), np.array([1, 4]))
    product = weights * per_class[y]
    model = exact(0.01).fit(X.astype(np.float64), y, sample_weight=product)
    np.testing.assert_allclose(ours.predict_proba(X), model.predict_proba(X.astype(np.float64)), atol=1e-4)


@pytest.mark.parametrize("class_weight", [None, "balanced", {1: 5.0}])
def test_multilabel_equals_one_vs_rest(class_weight) -> None:
    X, _ = make_data(100, 60, 2)
    labels = (X[:, :3] + np.random.default_rng(1).standard_normal((100, 3)) * 8 > 5).astype(np.int64)
    ours = Logistic(C=0.01, class_weight=class_weight).fit(X, labels, target=Target.numbered(Task.MULTILABEL, 3))
    expected = (
        OneVsRestClassifier(exact(0.01, class_weight=class_weight))
        .fit(X.astype(np.float64), labels)
        .predict_proba(X.astype(np.float64))
    )
    np.testing.assert_allclose(ours.predict_proba(X), expected, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 1e3), copies=st.integers(1, 3))
def test_default_penalty_does_not_depend_on_scale_or_number_of_columns(scale: float, copies: int) -> None:
    X, y = make_data(60, 40, 3)
    plain = Logistic().fit(X, y, target=Target.numbered(Task.MULTICLASS, 3)).predict_proba(X)
    wide = np.hstack([X.astype(np.float64) * scale] * copies)
    again = Logistic().fit(wide, y, target=Target.numbered(Task.MULTICLASS, 3)).predict_proba(wide)
    np.testing.assert_allclose(again, plain, atol=1e-4)


def test_default_penalty_is_the_one_documented() -> None:
    X, y = make_data(60, 40, 3)
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    C = LOGIT_VARIANCE / np.square(centred).sum(axis=1).mean()
    assert Logistic().fit(X, y, target=Target.numbered(Task.MULTICLASS, 3)).penalty == (pytest.approx(C),)


def test_rows_and_columns_in_another_order_give_the_same() -> None:
    X, y = make_data(70, 150, 3)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(70), rng.permutation(150)
    plain = Logistic().fit(X, y, target=Target.numbered(Task.MULTICLASS, 3)).predict_proba(X)
    again = (
        Logistic()
        .fit(X[rows][:, columns], y[rows], target=Target.numbered(Task.MULTICLASS, 3))
        .predict_proba(X[:, columns])
    )
    np.testing.assert_allclose(again, plain, atol=5e-5)


def test_constant_and_duplicated_columns_are_harmless() -> None:
    X, y = make_data(60, 10, 2)
    useless = np.hstack([X, np.full((60, 3), 7.0, dtype=np.float32)])
    plain, padded = (
        Logistic(C=0.1).fit(M, y, target=Target.numbered(Task.BINARY, 2)).predict_proba(M) for M in (X, useless)
    )
    np.testing.assert_allclose(padded, plain, atol=5e-5)
    nothing = Logistic().fit(np.ones((60, 4)), y, target=Target.numbered(Task.BINARY, 2)).predict_proba(np.ones((1, 4)))
    assert nothing[0, 1] == pytest.approx(y.mean(), abs=1e-4)


def test_separable_data_far_from_rounding_still_rank() -> None:
    X = np.linspace(-1, 1, 40)[:, None].astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)
    decision = Logistic(C=1e8).fit(X, y, target=Target.numbered(Task.BINARY, 2)).decision(X * 1000)
    assert len(np.unique(decision[:, 1])) == 40
    assert np.array_equal(decision[:, 0], -decision[:, 1])


def test_three_class_decision_is_the_log_odds_of_each_class() -> None:
    X, y = make_data(70, 30, 3)
    fitted = Logistic().fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
    p = fitted.predict_proba(X)
    np.testing.assert_allclose(fitted.decision(X), np.log(p) - np.log1p(-p), rtol=1e-6, atol=1e-6)


def test_a_fit_that_stops_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from biofuse.heads import logistic as likelihood

    monkeypatch.setattr(likelihood, "STEPS", 2)
    X, y = make_data(60, 40, 3)
    assert "stopped short" in Logistic(C=10).fit(X, y, target=Target.numbered(Task.MULTICLASS, 3)).notes[0]


def test_the_slope_of_rows_told_apart_without_error_is_that_of_smoothed_targets() -> None:
    from scipy.optimize import minimize

    codes = np.array([0, 0, 0, 1, 1, 2])
    decisions = np.eye(3)[codes] + 0.1 * np.random.default_rng(0).standard_normal((6, 3))
    problem = Classification(codes=codes, n_codes=3, weights=np.ones(6))
    sure = np.array([4 / 6, 3 / 5, 2 / 4])[codes]  # (N + 1) / (N + 3)
    targets = np.where(np.eye(3)[codes] == 1, sure[:, None], (1 - sure[:, None]) / 2)

    def loss(slope: np.ndarray) -> float:
        logits = slope[0] * decisions
        return float(-(targets * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum())

    best = minimize(loss, [1.0], tol=1e-10).x[0]
    assert fit_slope(decisions, problem, bounds=(-3.0, 5.0)) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("k", [2, 5])
def test_the_loss_of_logits_of_any_size_is_that_of_scipy(size: float, k: int) -> None:
    from scipy.special import log_softmax

    rng = np.random.default_rng(0)
    logits = rng.standard_normal((1 if k == 2 else k, 60)) * size
    surely, weights = rng.dirichlet(np.ones(k), 60).T, rng.uniform(0.1, 3, 60)
    surely[:, :30] = np.eye(k)[:, rng.integers(0, k, 30)]
    logs = log_softmax(np.vstack([np.zeros(60), logits]) if k == 2 else logits, axis=0)
    targets = weights * surely
    loss, probabilities = log_loss(logits.copy(), targets[1:] if k == 2 else targets, weights)
    assert loss == pytest.approx(-float((targets * logs).sum()), rel=1e-12)
    np.testing.assert_allclose(probabilities, np.exp(logs[1:] if k == 2 else logs), rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("scale", [1e-3, 0.3, 1e3, 1e9])
def test_the_slope_is_the_minimum_within_its_range(k: int, scale: float) -> None:
    from scipy.optimize import minimize_scalar

    rng = np.random.default_rng(0)
    codes = np.arange(80) % k
    decisions = ((np.eye(k)[codes] + rng.standard_normal((80, k))) * scale)[:, -1 if k == 2 else 0 :]
    decisions = decisions - 0.5 * scale * (k == 2)
    problem = Classification(codes=codes, n_codes=k, weights=rng.uniform(0.2, 3, 80))
    totals = np.bincount(codes, weights=problem.weights)
    targets = np.where(np.eye(k), totals[:, None] + 1, 1)[codes] / (totals[codes, None] + k)

    def loss(log_slope: float) -> float:
        logits = np.exp(log_slope) * decisions
        logits = np.hstack([np.zeros_like(logits), logits]) if k == 2 else logits
        tops = logits.max(axis=1, keepdims=True)
        logs = logits - tops - np.log(np.exp(logits - tops).sum(axis=1, keepdims=True))
        return float(-problem.weights @ (targets * logs).sum(axis=1))

    best = minimize_scalar(loss, bounds=(-12.0, 3.0), method="bounded", options={"xatol": 1e-9}).x
    found = np.log(fit_slope(decisions, problem, bounds=(-12.0, 3.0)))
    assert found == pytest.approx(best, abs=1e-6)
    assert loss(found) <= loss(best) * (1 + 1e-13)


def test_a_step_along_a_weak_penalty_reaches_the_minimum_that_scipy_reaches() -> None:
    from scipy.optimize import minimize

    X, y = make_data(60, 120, 3)
    fitted = Logistic(C=1e3).fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        coef = flat.reshape(-1, 3)
        value, found = log_loss((X @ coef[:-1] + coef[-1]).T.copy(), np.eye(3)[y].T, np.ones(60))
        errors = (found - np.eye(3)[y].T).T
        return value + np.square(coef[:-1]).sum() / 2e3, np.vstack(
            [X.T @ errors + coef[:-1] / 1e3, errors.sum(axis=0)]
        ).ravel()

    start = np.vstack([fitted.coef, fitted.intercept]).ravel()
    assert loss(start)[0] <= minimize(loss, np.zeros(363), jac=True, method="L-BFGS-B").fun * (1 + 1e-6)
