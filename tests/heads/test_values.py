"""Heads on values: scikit-learn's and XGBoost's regressors, and the contract that all heads keep."""

import json

import numpy as np
import pytest
import xgboost
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor

from biofuse.core.errors import DataError, SearchError
from biofuse.core.target import Target, Task
from biofuse.heads.base import make_head, takes
from biofuse.heads.knn import Neighbours
from biofuse.heads.ridge import RELATIVE_PENALTIES, Ridge
from biofuse.heads.xgboost import XGBoost

TARGET = Target(Task.VALUE, ("age", "weight"))
HEADS = {"ridge": Ridge(), "knn": Neighbours(k=5), "xgboost": XGBoost(trees=15, device="cpu")}


def make_data(n=70, d=30, *, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)).astype(np.float32) * 2 + 1
    ages = 60 + 4 * X[:, 0] + rng.standard_normal(n)
    return X, np.column_stack([ages, 1e-3 * X[:, 1:4].sum(axis=1) - 5]), rng.uniform(0.2, 3, n)


def reference(name, X, y, weights):
    """The regressor of another library that a head is, for one column."""
    if name == "ridge":
        mean = np.average(X, axis=0, weights=weights)
        spread = (weights @ np.square(X - mean)).sum() / len(X)
        return RidgeCV(alphas=np.array(RELATIVE_PENALTIES) * spread).fit(X, y, sample_weight=weights)
    if name == "knn":
        return KNeighborsRegressor(5, metric="cosine", algorithm="brute").fit(X, y)
    settings = {"n_estimators": 15, "learning_rate": 0.1, "max_depth": 6, "tree_method": "hist", "n_jobs": 1}
    return xgboost.XGBRegressor(**settings, random_state=0).fit(X, y, sample_weight=weights)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("weighted", [False, True])
def test_each_column_is_predicted_as_by_the_library_that_is_known_for_it(name, weighted):
    if weighted and name == "knn":
        pytest.skip("scikit-learn's neighbours have no weights of rows")
    X, y, weights = make_data()
    new, _, _ = make_data(40, seed=1)
    fitted = HEADS[name].fit(X, y, target=TARGET, sample_weight=weights if weighted else None)
    found = fitted.predict_proba(new)
    for column in range(2):
        other = reference(name, X.astype(np.float64), y[:, column], weights if weighted else np.ones(len(X)))
        np.testing.assert_allclose(found[:, column], other.predict(new.astype(np.float64)), rtol=1e-6, atol=1e-6)
    assert np.array_equal(fitted.decision(new), found)
    values, arrays = fitted.state()
    restored = HEADS[name].restore(json.loads(json.dumps(values, allow_nan=False)), arrays)
    assert np.array_equal(restored.predict_proba(new), found)
    assert (restored.n_classes, restored.predict_proba(new[:0]).shape) == (2, (0, 2))
    alone = HEADS[name].fit(
        X, y[:, 0], target=Target(Task.VALUE, ("age",)), sample_weight=weights if weighted else None
    )
    np.testing.assert_allclose(alone.predict_proba(new)[:, 0], found[:, 0], rtol=1e-9)


@pytest.mark.parametrize("name", HEADS)
def test_a_constant_column_is_predicted_and_what_are_no_values_is_refused(name):
    X, y, _ = make_data()
    y[:, 1] = 7
    fitted = HEADS[name].fit(X, y, target=TARGET)
    np.testing.assert_allclose(fitted.predict_proba(X)[:, 1], 7, rtol=1e-6)
    assert "Column 1 is 7 in all training rows" in fitted.notes[0]
    y[3, 0] = np.inf
    with pytest.raises(DataError, match="1 of 140 labels are no finite numbers"):
        HEADS[name].fit(X, y, target=TARGET)
    with pytest.raises(DataError, match="no classes that could be weighted"):
        make_head(name, class_weight="balanced").fit(X, make_data()[1], target=TARGET)


def test_heads_of_classes_say_which_heads_predict_values():
    X, y, _ = make_data()
    with pytest.raises(SearchError, match="logistic does not predict a number") as caught:
        make_head("logistic").fit(X, y, target=TARGET)
    assert all(name in caught.value.remedy for name in HEADS)
    assert [name for name in ("logistic", "lda", *HEADS) if takes(make_head(name), TARGET)] == list(HEADS)
