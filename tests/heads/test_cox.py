import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.nonparametric import kaplan_meier_estimator, nelson_aalen_estimator
from sksurv.util import Surv

from biofuse.core.errors import ArtifactError
from biofuse.core.target import Target
from biofuse.heads import cox
from biofuse.heads.cox import Cox, Places, choose_penalty, inner_folds
from biofuse.heads.hazard import PartialLikelihood
from biofuse.heads.kaplan_meier import FittedCurves, KaplanMeier

Data = tuple[np.ndarray, np.ndarray]


def make_data(n: int, d: int, *, effect: float = 1.0, whole: bool = False, seed: int = 0) -> Data:
    """Return features, and times and events; ``whole``: times in whole units, so that many are the same."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((n, 4))
    X = hidden @ np.random.default_rng(9).standard_normal((4, d)) + rng.standard_normal((n, d))
    time, end = rng.exponential(np.exp(-effect * hidden[:, 0])), rng.exponential(1.5, n)
    seen = np.minimum(time, end)
    return X, np.column_stack([np.ceil(6 * seen) if whole else seen, time <= end]).astype(np.float64)


def structured(labels: np.ndarray) -> np.ndarray:
    return Surv.from_arrays(labels[:, 1] == 1, labels[:, 0])


@pytest.mark.parametrize(("n", "d", "whole"), [(120, 8, False), (60, 90, True)])
def test_a_fit_equals_scikit_survival(n: int, d: int, whole: bool) -> None:
    X, labels = make_data(n, d, whole=whole)
    new, _ = make_data(30, d, seed=1)
    theirs = CoxPHSurvivalAnalysis(alpha=2.0, ties="efron", tol=1e-12).fit(X, structured(labels))
    target = Target.until(np.quantile(labels[:, 0], [0.2, 0.5, 0.8]).tolist())
    ours = Cox(alpha=2.0, calibrate=False).fit(X, labels, target=target)
    np.testing.assert_allclose(ours.coef, np.tile(theirs.coef_[:, None], 3), atol=1e-6)
    curves = [1 - curve(target.horizons) for curve in theirs.predict_survival_function(new)]
    np.testing.assert_allclose(ours.predict_proba(new), curves, atol=1e-6)
    far = 1e4 * theirs.coef_[None] * np.array([[1.0], [2.0]])
    assert (ours.predict_proba(far) == 1).all()
    assert np.diff(target.risk(ours.decision(far))) > 0


def test_residuals_of_the_null_model_are_events_less_the_hazard_until_then() -> None:
    _, labels = make_data(50, 2)
    times, hazard = nelson_aalen_estimator(labels[:, 1] == 1, labels[:, 0])
    expected = labels[:, 1] - hazard[np.searchsorted(times, labels[:, 0])]
    found = PartialLikelihood.at(labels, np.full(50, 2.0)).residuals
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert abs(found.sum()) < 1e-10


def test_a_weight_of_two_counts_as_a_row_twice() -> None:
    X, labels = make_data(60, 5)
    censored = labels[:, 1] == 0  # twice the same event would be a tie
    twice = np.concatenate([np.arange(60), np.flatnonzero(censored)])
    target, head = Target.until([0.5]), Cox(alpha=1.0, calibrate=False)
    weighted = head.fit(X, labels, target=target, sample_weight=np.where(censored, 2.0, 1.0))
    repeated = head.fit(X[twice], labels[twice], target=target)
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-7)


def test_the_derivative_is_that_of_the_likelihood() -> None:
    _, labels = make_data(30, 2, whole=True)
    rng = np.random.default_rng(2)
    likelihood, ratios = PartialLikelihood.at(labels, rng.uniform(0.5, 2, 30)), rng.standard_normal(30)
    steps = 1e-6 * np.eye(30)
    slopes = [(likelihood(ratios + step)[0] - likelihood(ratios - step)[0]) / 2e-6 for step in steps]
    np.testing.assert_allclose(likelihood(ratios)[1], slopes, atol=1e-7)


def test_the_penalty_is_the_one_that_refits_by_scikit_survival_favour() -> None:
    X, labels = make_data(60, 6)
    likelihood, places = PartialLikelihood.at(labels), Places.of(X)
    alphas = [places.spread / variance for variance in cox.VARIANCES]
    totals, folds = [], inner_folds(likelihood)
    assert sorted(np.concatenate([held for _, held in folds]).tolist()) == list(range(60))
    for alpha in alphas:
        total = 0.0
        for fit, _ in folds:
            part = CoxPHSurvivalAnalysis(alpha=alpha, ties="efron").fit(X[fit], structured(labels[fit]))
            total += likelihood(X @ part.coef_)[0] - PartialLikelihood.at(labels[fit])(X[fit] @ part.coef_)[0]
        totals.append(total)
    choice = choose_penalty(places, likelihood, alphas)
    assert choice.alpha == alphas[int(np.argmax(totals))]
    fit, held_out = folds[1]
    part = CoxPHSurvivalAnalysis(alpha=choice.alpha, ties="efron", tol=1e-12).fit(X[fit], structured(labels[fit]))
    expected = (X[held_out] - X.mean(axis=0)) @ part.coef_
    np.testing.assert_allclose(choice.left_out[held_out], expected, atol=5e-3)  # compared at a loose tolerance


def test_risks_of_new_rows_are_calibrated_where_the_fit_itself_is_too_sure() -> None:
    X, labels = make_data(150, 400, effect=1.0)
    new, truth = make_data(4000, 400, effect=1.0, seed=1)
    target = Target.until([0.3, 1.0])
    rng = np.random.default_rng(1)  # the draws of make_data, whose times are not all seen
    hidden, _ = rng.standard_normal((4000, 4)), rng.standard_normal((4000, 400))
    time = rng.exponential(np.exp(-hidden[:, 0]))
    assert np.allclose(time[truth[:, 1] == 1], truth[truth[:, 1] == 1, 0])
    weak = Cox(alpha=1e-3 * Places.of(X).spread, calibrate=False).fit(X, labels, target=target)
    errors = {}
    for name, fitted in (("calibrated", Cox().fit(X, labels, target=target)), ("raw", weak)):
        risk = fitted.predict_proba(new)[:, 1]
        parts = np.array_split(np.argsort(risk), 5)
        errors[name] = np.mean([abs(risk[part].mean() - (time[part] <= 1).mean()) for part in parts])
    assert errors["calibrated"] < 0.06
    assert errors["raw"] > 2 * errors["calibrated"]


def test_without_an_effect_everybody_has_the_risk_of_all() -> None:
    X, labels = make_data(200, 50, effect=0.0)
    target = Target.until([0.5])
    risk = Cox().fit(X, labels, target=target).predict_proba(make_data(100, 50, seed=1)[0])[:, 0]
    times, survival = kaplan_meier_estimator(labels[:, 1] == 1, labels[:, 0])
    assert abs(risk.mean() - (1 - survival[np.searchsorted(times, 0.5, side="right") - 1])) < 0.03
    assert risk.std() < 0.03


@pytest.mark.parametrize("weighted", [False, True])
def test_curves_of_neighbours_equal_scikit_survival(weighted: bool) -> None:
    X, labels = make_data(90, 6, whole=True)
    new, _ = make_data(12, 6, seed=1)
    target, k = Target.until([2.0, 4.0, 1000.0]), 15
    weights = np.where(np.arange(90) % 3 == 0, 2.0, 1.0) if weighted else None
    ours = KaplanMeier(k=k).fit(X, labels, target=target, sample_weight=weights)
    near = NearestNeighbors(n_neighbors=k, metric="cosine").fit(X.astype(np.float32))
    for nearest, found in zip(near.kneighbors(new.astype(np.float32))[1], ours.predict_proba(new), strict=True):
        row = nearest if weights is None else np.repeat(nearest, weights[nearest].astype(int))
        times, survival = kaplan_meier_estimator(labels[row, 1] == 1, labels[row, 0])
        curve = np.concatenate([[1.0], survival])
        expected = 1 - curve[np.searchsorted(times, target.horizons, side="right")]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_malformed_state_is_refused() -> None:
    X, labels = make_data(30, 4)
    values, arrays = KaplanMeier().fit(X, labels, target=Target.until([0.5])).state()
    for bad_values, bad_arrays in (
        (values, {}),
        (values | {"k": 31}, arrays),
        (values | {"horizons": [1.0, 2.0]}, arrays),
        (values, arrays | {"labels": arrays["labels"][:-1]}),
        (values, arrays | {"weights": -arrays["weights"]}),
        (values, arrays | {"rows": np.full_like(arrays["rows"], np.nan)}),
    ):
        with pytest.raises(ArtifactError):
            FittedCurves.restore(bad_values, bad_arrays)
