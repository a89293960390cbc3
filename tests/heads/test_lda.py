import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss, roc_auc_score

from biofuse.core.target import Target, Task
from biofuse.heads.base import Classification
from biofuse.heads.lda import LDA, SLOPES, STRENGTHS, fit_discriminant
from biofuse.heads.logistic import fit_slope

SHAPES = [(60, 150), (200, 40), (80, 80)]


def make_data(n: int, d: int, k: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns of very different scales, one constant; unbalanced classes that are hard to tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, n) - 1, k - 1)
    labels[: 4 * k] = np.tile(np.arange(k), 4)
    scales = np.random.default_rng(8).uniform(0.1, 10, d)
    X = (rng.standard_normal((n, d)) + 0.3 * np.random.default_rng(9).standard_normal((k, d))[labels]) * scales + scales
    X[:, -1] = 1.5
    return X, labels.astype(np.int64)


def reference(X: np.ndarray, y: np.ndarray, shrinkage, priors=None) -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=priors).fit(X, y)


def fit(head: LDA, X: np.ndarray, y: np.ndarray, k: int, **options):
    return head.fit(X, y, target=Target.numbered(Task.MULTICLASS, k), **options)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("shrinkage", ["auto", 0.2, 1.0])
def test_equals_scikit_learn(n: int, d: int, k: int, shrinkage) -> None:
    X, y = make_data(n, d, k)
    new, _ = make_data(50, d, k, seed=1)
    ours = fit(LDA(shrinkage=shrinkage, calibrate=False), X, y, k)
    expected = reference(X, y, shrinkage)
    np.testing.assert_allclose(ours.predict_proba(new), expected.predict_proba(new), atol=1e-6)
    # Probabilities near 0 and 1 hide differences: log-odds do not.
    values = expected.decision_function(new)
    if k == 2:
        np.testing.assert_allclose(ours.decision(new)[:, 1], values, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ours.coef.T, expected.coef_, rtol=1e-6, atol=1e-8)
    else:
        margins = new @ ours.coef + ours.intercept
        np.testing.assert_allclose(margins - margins[:, :1], values - values[:, :1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), SHAPES[:2])
def test_balanced_class_weights_are_equal_priors(n: int, d: int) -> None:
    X, y = make_data(n, d, 3)
    for class_weight, priors in (
        ("balanced", np.full(3, 1 / 3)),
        ({1: 5.0}, np.bincount(y) * [1, 5, 1] / (np.bincount(y) @ [1, 5, 1])),
    ):
        ours = fit(LDA(shrinkage="auto", calibrate=False, class_weight=class_weight), X, y, 3).predict_proba(X)
        np.testing.assert_allclose(ours, reference(X, y, "auto", priors).predict_proba(X), atol=1e-6)


@pytest.mark.parametrize(("n", "d"), SHAPES[:2])
def test_a_sample_weight_of_two_is_a_row_given_twice(n: int, d: int) -> None:
    X, y = make_data(n, d, 3)
    times = np.random.default_rng(0).integers(1, 4, n)
    head = LDA(shrinkage=0.3, calibrate=False)
    weighted = fit(head, X, y, 3, sample_weight=times.astype(np.float64))
    repeated = reference(np.repeat(X, times, axis=0), np.repeat(y, times), 0.3)
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize(("n", "d"), SHAPES[:2])
def test_automatic_shrinkage_with_weights_is_the_formula_written_out(n: int, d: int) -> None:
    X, y = make_data(n, d, 2)
    weights = np.random.default_rng(0).uniform(0.2, 2, n)
    expected = 0.0
    for code in range(2):
        p = weights[y == code] / weights[y == code].sum()
        Z = X[y == code] - p @ X[y == code]
        Z[:, -1] = 0
        Z[:, :-1] /= np.sqrt(p @ Z[:, :-1] ** 2)
        S = (Z.T * p) @ Z
        distance = np.square(S - np.trace(S) / d * np.eye(d)).sum()
        sampling = sum(share**2 * np.square(np.outer(z, z) - S).sum() for share, z in zip(p, Z, strict=True))
        expected += weights[y == code].sum() / weights.sum() * min(sampling / distance, 1)
    ours = fit(LDA(shrinkage="auto"), X, y, 2, sample_weight=weights)
    assert ours.penalty[0] == pytest.approx(expected, rel=1e-9)
    again = fit(LDA(shrinkage="auto"), X, y, 2, sample_weight=weights * 7)
    assert again.penalty[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES[:2])
@pytest.mark.parametrize("shrinkage", ["auto", 0.2, 1.0])
def test_left_out_values_equal_a_model_without_the_row(n: int, d: int, shrinkage) -> None:
    X, y = make_data(n, d, 3)
    y[y == 2] = 0
    y[5] = 2  # a class of one row
    weights = np.random.default_rng(0).uniform(0.5, 2, n)
    fitted = fit_discriminant(X, Classification(codes=y, n_codes=3, weights=weights), shrinkage=shrinkage)
    assert np.flatnonzero(fitted.alone).tolist() == [5]
    shares = weights / np.bincount(y, weights=weights)[y]
    priors = np.bincount(y, weights=weights) / weights.sum()
    means = np.stack([shares[y == code] @ X[y == code] for code in range(3)])
    Z = X - means[y]
    inverse = np.linalg.inv(_covariance(X, y, shares, priors, shrinkage))
    kept = _kept(Z, y, shares, shrinkage)
    for row in (0, 1, 17, n - 1):
        p, without = shares[row], means.copy()
        others = (y == y[row]) & (np.arange(n) != row)
        without[y[row]] = shares[others] @ X[others] / shares[others].sum()
        c = priors[y[row]] * kept[y[row]] * p / (1 - p)
        changed = np.linalg.inv(np.linalg.inv(inverse) - c * np.outer(Z[row], Z[row]))
        centred = without - X[row]
        expected = np.log(priors) - 0.5 * np.einsum("kj,jl,kl->k", centred, changed, centred)
        values = fitted.left_out[row]
        np.testing.assert_allclose(values - values[0], expected - expected[0], rtol=1e-6, atol=1e-6)


def _kept(Z: np.ndarray, y: np.ndarray, shares: np.ndarray, shrinkage) -> list[float]:
    if shrinkage != "auto":
        return [1 - shrinkage] * 3
    amounts = []
    for code in range(int(y.max()) + 1):
        one = Classification(codes=(y != code).astype(np.int64), n_codes=2, weights=np.where(y == code, shares, 1e-12))
        amounts.append(1 - fit_discriminant(Z, one, shrinkage="auto").shrinkage)
    return amounts


def _covariance(X, y, shares, priors, shrinkage) -> np.ndarray:
    total = np.zeros((X.shape[1], X.shape[1]))
    for code in range(3):
        Z = X[y == code] - shares[y == code] @ X[y == code]
        S = (Z.T * shares[y == code]) @ Z
        if shrinkage == "auto":
            amount = 1 - _kept(X - np.stack([shares[y == c] @ X[y == c] for c in range(3)])[y], y, shares, "auto")[code]
            variance = np.diag(S).copy()
            scale = np.where(variance < 1e-20, 1.0, variance)
            target = np.diag(scale) * (variance / scale).mean()
        else:
            amount, target = shrinkage, np.eye(len(S)) * np.diag(S).mean()
        total += priors[code] * ((1 - amount) * S + amount * target)
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "k"), [(60, 150, 3), (200, 40, 3), (80, 80, 2)])
def test_the_shrinkage_chosen_is_the_best_of_models_fitted_without_each_row(n: int, d: int, k: int) -> None:
    X, y = make_data(n, d, k)
    weights = np.random.default_rng(0).uniform(0.5, 2, n)
    shares = weights / np.bincount(y, weights=weights)[y]
    priors = np.bincount(y, weights=weights) / weights.sum()
    means = np.stack([shares[y == code] @ X[y == code] for code in range(k)])
    kept = np.array(_kept(X - means[y], y, shares, "auto"))
    spread = np.stack([np.square(X - means[y])[y == code].T @ shares[y == code] for code in range(k)])
    scale = np.where(spread < 1e-20, 1.0, spread)
    added = priors @ ((1 - kept[:, None]) * scale * (spread / scale).mean(axis=1)[:, None])
    Z, around = (X - means[y]) / np.sqrt(added), (means - priors @ means) / np.sqrt(added)
    rows = (priors * kept)[y] * shares
    W = (Z.T * rows) @ Z
    problem = Classification(codes=y, n_codes=k, weights=weights)
    losses = {}
    for strength in STRENGTHS:
        c = (np.trace(W) + d) / (np.trace(W) + strength * d)
        S = c * (W + strength * np.eye(d))
        values = np.empty((n, k))
        for row in range(n):
            p, without = shares[row], around.copy()
            without[y[row]] -= p / (1 - p) * Z[row]
            centred = without - around[y[row]] - Z[row]
            changed = np.linalg.inv(S - c * rows[row] / (1 - p) * np.outer(Z[row], Z[row]))
            values[row] = np.log(priors) - 0.5 * np.einsum("kj,jl,kl->k", centred, changed, centred)
        logits = values[:, 1:] - values[:, :1] if k == 2 else values
        sure = fit_slope(logits, problem, bounds=SLOPES) * logits
        sure = np.hstack([np.zeros_like(sure), sure]) if k == 2 else sure
        losses[strength] = log_loss(y, softmax(sure, axis=1), sample_weight=weights)
    best = min(losses, key=losses.get)
    c = (np.trace(W) + d) / (np.trace(W) + best * d)
    coef = (np.linalg.inv(c * (W + best * np.eye(d))) @ around.T) / np.sqrt(added)[:, None]
    fitted = fit_discriminant(X, problem, shrinkage="left_out")
    np.testing.assert_allclose(fitted.coef, coef, rtol=1e-6, atol=1e-9)


def test_a_row_whose_class_is_shrunk_all_the_way_is_left_out_of_its_mean() -> None:
    rng = np.random.default_rng(0)
    n, d, y = 110, 150, np.repeat([0, 1], [60, 50])
    even = np.tile(np.eye(50), 3)  # as far from each other as can be: nothing of their covariance is kept
    X = np.vstack([rng.standard_normal((60, 3)) @ rng.standard_normal((3, d)) + rng.standard_normal((60, d)), even])
    fitted = fit_discriminant(X, Classification(codes=y, n_codes=2, weights=np.ones(n)), shrinkage="left_out")
    shares, priors = np.where(y == 0, 1 / 60, 1 / 50), np.array([60, 50]) / n
    means = np.stack([X[y == 0].mean(axis=0), X[y == 1].mean(axis=0)])
    Z = X - means[y]
    kept = np.array(_kept(Z, y, shares, "auto"))
    assert kept[1] == pytest.approx(0, abs=1e-9)
    added = (priors * (1 - kept)) @ np.stack([Z[:60].var(axis=0), Z[60:].var(axis=0)])
    W = priors[0] * kept[0] / 60 * (Z[:60] / np.sqrt(added)).T @ (Z[:60] / np.sqrt(added))
    amount = priors @ (1 - kept)
    strength = fitted.shrinkage * (1 - amount) / (amount * (1 - fitted.shrinkage))
    S = (np.trace(W) + d) / (np.trace(W) + strength * d) * (W + strength * np.eye(d))
    inverse = np.linalg.inv(S) / np.sqrt(np.outer(added, added))
    for row in (60, 77):
        centred = np.stack([means[0], (50 * means[1] - X[row]) / 49]) - X[row]
        expected = np.log(priors) - 0.5 * np.einsum("kj,jl,kl->k", centred, inverse, centred)
        values = fitted.left_out[row]
        assert values[1] - values[0] == pytest.approx(expected[1] - expected[0], rel=1e-6)


def test_shrinkage_is_left_out_where_the_signal_lies_in_the_smallest_directions() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(1300) % 2
    X = rng.standard_normal((1300, 100)) * np.logspace(1, -2, 100)
    X[:, -3:] += (2 * y - 1)[:, None] * 0.012
    X = X @ np.linalg.qr(rng.standard_normal((100, 100)))[0]
    score = {
        how: roc_auc_score(y[300:], fit(LDA(shrinkage=how), X[:300], y[:300], 2).predict_proba(X[300:])[:, 1])
        for how in ("auto", "left_out")
    }
    assert score["left_out"] > score["auto"] + 0.15


@pytest.mark.parametrize(("n", "d"), SHAPES[:2])
def test_calibration_scales_the_log_odds_and_keeps_the_predicted_class(n: int, d: int) -> None:
    (X, y), (new, truth) = make_data(n, d, 3), make_data(400, d, 3, seed=1)
    for labels in (y, truth):  # a third of the labels is wrong: nothing can be sure
        wrong = np.arange(2, len(labels), 3)
        labels[wrong] = (labels[wrong] + 1) % 3
    raw, calibrated = (fit(LDA(shrinkage="auto", calibrate=calibrate), X, y, 3) for calibrate in (False, True))
    slope = calibrated.intercept[0] / raw.intercept[0]
    assert 0 < slope < 1
    np.testing.assert_allclose(calibrated.coef, slope * raw.coef, rtol=1e-9)
    before, after = raw.predict_proba(new), calibrated.predict_proba(new)
    assert np.array_equal(before.argmax(axis=1), after.argmax(axis=1))
    best = min(log_loss(truth, softmax(s * (new @ raw.coef + raw.intercept), axis=1)) for s in np.logspace(-3, 0, 60))
    assert log_loss(truth, after) < best + 0.1
    assert log_loss(truth, before) > log_loss(truth, after) + 0.05


def test_on_noise_calibrated_probabilities_are_unsure() -> None:
    sure = {True: [], False: []}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X, y, new = rng.standard_normal((60, 400)), np.arange(60) % 2, rng.standard_normal((50, 400))
        for calibrate, values in sure.items():
            fitted = fit(LDA(shrinkage="auto", calibrate=calibrate), X, y, 2)
            values.append(np.abs(fitted.predict_proba(new) - 0.5).mean())
    assert np.mean(sure[True]) < 0.1
    assert np.mean(sure[False]) > 0.3


def test_multilabel_is_one_problem_per_label() -> None:
    X, y = make_data(80, 100, 2)
    labels = np.stack([y, np.arange(80) % 2], axis=1).astype(np.int64)
    ours = LDA().fit(X, labels, target=Target.numbered(Task.MULTILABEL, 2))
    for label in range(2):
        alone = LDA().fit(X, labels[:, label], target=Target.numbered(Task.BINARY, 2))
        np.testing.assert_allclose(ours.predict_proba(X)[:, label], alone.predict_proba(X)[:, 1], atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-50, 50), seed=st.integers(0, 5))
def test_scale_and_origin_of_columns_and_order_of_rows_change_nothing(scale: float, shift: float, seed: int) -> None:
    X, y = make_data(40, 60, 3)
    rng = np.random.default_rng(seed)
    rows, scales = rng.permutation(40), scale * rng.uniform(0.5, 2, 60)
    head = LDA()
    plain = fit(head, X, y, 3).predict_proba(X)
    again = fit(head, X[rows] * scales + shift, y[rows], 3).predict_proba(X * scales + shift)
    np.testing.assert_allclose(again, plain, atol=1e-5)


@pytest.mark.parametrize("d", [3, 50])
@pytest.mark.parametrize("seed", range(10))  # rounding leaves a shrinkage of 1e-16 in some
def test_classes_too_small_for_a_covariance_are_told_apart_by_their_means_and_this_is_noted(d: int, seed: int) -> None:
    X, y = np.random.default_rng(seed).standard_normal((4, d)) * 3 + 1, np.array([0, 0, 1, 1])
    fitted = fit(LDA(shrinkage="auto"), X, y, 2)
    assert "nearest class mean" in fitted.notes[0]
    distances = np.square(X[:, None] - np.stack([X[:2].mean(axis=0), X[2:].mean(axis=0)])).sum(axis=2)
    assert np.array_equal(fitted.predict_proba(X).argmax(axis=1), distances.argmin(axis=1))
    one_each = fit(LDA(), X[[0, 2]], np.array([0, 1]), 2)
    assert one_each.predict_proba(X[[0, 2]]).argmax(axis=1).tolist() == [0, 1]
    assert fit(LDA(), np.ones((6, d)), np.arange(6) % 2, 2).predict_proba(np.ones((1, d))).tolist() == [[0.5, 0.5]]


def test_one_column_is_enough() -> None:
    X, y = make_data(40, 2, 2)
    X = X[:, :1]
    ours = fit(LDA(shrinkage="auto", calibrate=False), X, y, 2).predict_proba(X)
    np.testing.assert_allclose(ours, reference(X, y, "auto").predict_proba(X), atol=1e-6)
