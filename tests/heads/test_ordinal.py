"""The head for grades: the same minimum as elsewhere, and grades in order."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from biofuse.core.errors import ArtifactError, SearchError
from biofuse.core.target import Target, Task
from biofuse.heads.base import cheap_heads, make_head
from biofuse.heads.logistic import Logistic
from biofuse.heads.ordinal import FittedOrdinal, Ordinal

GRADES = Target(Task.ORDINAL, ("0", "1", "2", "3"))


def drawn(n: int, d: int = 6, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features and grades by a direction with logistic noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, np.searchsorted([-1.5, 0.0, 2.0], 2 * X[:, 0] - X[:, 1] + rng.logistic(size=n)).astype(np.int64)


def test_two_grades_are_logistic_regression() -> None:
    X, grades = drawn(80)
    labels = (grades > 1).astype(np.int64)
    ours = Ordinal(C=0.5).fit(X, labels, target=Target(Task.ORDINAL, ("low", "high")))
    theirs = LogisticRegression(C=0.5, tol=1e-12, max_iter=10_000).fit(X, labels)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(ours.decision(X)[:, 1], theirs.decision_function(X), atol=1e-5)


@pytest.mark.parametrize("d", [6, 100])
def test_the_minimum_is_that_of_the_likelihood_written_out(d) -> None:
    X, grades = drawn(60, d)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=60)
    fitted = Ordinal(C=0.3).fit(X, grades, target=GRADES, sample_weight=weights)

    def loss(flat: np.ndarray) -> float:
        ends = np.concatenate([[-np.inf], flat[d:], [np.inf]])
        margins = X @ flat[:d]
        share = expit(ends[grades + 1] - margins) - expit(ends[grades] - margins)
        return float(-weights @ np.log(share) + flat[:d] @ flat[:d] / 0.6)

    here = np.concatenate([fitted.coef, fitted.thresholds])
    best = minimize(loss, here, method="BFGS", options={"gtol": 1e-7})
    assert loss(here) == pytest.approx(best.fun, abs=1e-7)
    np.testing.assert_allclose(here, best.x, atol=1e-3)


def test_grades_by_one_direction_are_predicted_better_than_as_classes_and_surely_enough() -> None:
    X, grades = drawn(150, 20)
    new, truth = drawn(4000, 20, seed=9)
    ours, theirs = (head.fit(X, grades, target=GRADES).predict_proba(new) for head in (Ordinal(), Logistic()))

    def log_loss(found: np.ndarray) -> float:
        return float(-np.log(found[np.arange(len(truth)), truth]).mean())

    assert log_loss(ours) < log_loss(theirs)
    assert ours.sum(axis=1) == pytest.approx(1)
    assert (ours >= 0).all()
    assert ours.mean(axis=0) == pytest.approx(np.bincount(truth) / len(truth), abs=0.05)


def test_it_is_for_grades_and_survives_saving_and_missing_ones() -> None:
    X, grades = drawn(60)
    assert "ordinal" in cheap_heads(GRADES)
    assert "ordinal" not in cheap_heads(Target(Task.MULTICLASS, GRADES.classes))
    with pytest.raises(SearchError, match="ordinal"):
        Ordinal().fit(X, grades, target=Target(Task.MULTICLASS, GRADES.classes))
    kept = grades != 2
    fitted = Ordinal().fit(X[kept], grades[kept], target=GRADES)
    assert not fitted.predict_proba(X)[:, 2].any()
    assert np.isfinite(fitted.decision(1e3 * X)).all()
    one = Ordinal().fit(X, np.zeros(60, dtype=np.int64), target=GRADES)
    assert (one.predict_proba(X) == [1, 0, 0, 0]).all()
    for each in (fitted, one):
        json, arrays = each.state()
        again = make_head("ordinal").restore(json, arrays)
        assert isinstance(again, FittedOrdinal)
        assert np.array_equal(again.predict_proba(X), each.predict_proba(X))
        with pytest.raises(ArtifactError, match="do not fit its grades"):
            make_head("ordinal").restore(json, arrays | {"thresholds": np.zeros(7)})
