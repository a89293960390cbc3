"""Heads of labels that are missing of some rows, and the screen of such labels."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError
from biofuse.core.target import MISSING, Target, Task
from biofuse.data.splits import ValidationPlan
from biofuse.heads.base import make_head
from biofuse.heads.linear import FittedLinear
from biofuse.heads.logistic import Logistic
from biofuse.heads.masked import FittedPerLabel
from biofuse.heads.ridge import Ridge
from biofuse.search.closed_form import ClosedFormScorer
from biofuse.search.closed_form_torch import TorchScorer

N, LABELS = 120, 3
TARGET = Target(Task.MULTILABEL, ("a", "b", "c"))


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels, 30 % of which are missing."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 20)).astype(np.float32)
    labels = (X[:, :LABELS] + rng.normal(size=(N, LABELS)) > 0).astype(np.int64)
    labels[rng.random(labels.shape) < 0.3] = MISSING
    return X, labels


@pytest.mark.parametrize(
    ("head", "reference"),
    [
        (Ridge(alpha=3.0), RidgeClassifier(alpha=3.0)),
        (Logistic(C=0.02), LogisticRegression(C=0.02, tol=1e-10, max_iter=10_000)),
    ],
)
def test_each_label_is_fitted_as_scikit_learn_fits_the_rows_of_which_it_is_known(data, head, reference) -> None:
    X, labels = data
    fitted = head.fit(X, labels, target=TARGET)
    for label in range(LABELS):
        known = labels[:, label] != MISSING
        model = reference.fit(X[known].astype(np.float64), labels[known, label])
        ours = fitted.margins(X)[:, label]
        np.testing.assert_allclose(ours, model.decision_function(X.astype(np.float64)), atol=1e-4)


@pytest.mark.parametrize("name", ["logistic", "ridge", "lda", "knn", "xgboost"])
def test_every_head_takes_gaps_and_survives_saving(data, name) -> None:
    X, labels = data
    fitted = make_head(name).fit(X, labels, target=TARGET)
    known = labels[:, 1] != MISSING
    alone = make_head(name).fit(X[known], labels[known, 1:2], target=Target(Task.MULTILABEL, ("b",)))
    assert fitted.predict_proba(X)[:, 1] == pytest.approx(alone.predict_proba(X)[:, 0])
    json, arrays = fitted.state()
    again = make_head(name).restore(json, arrays)
    assert isinstance(again, FittedPerLabel if name in {"knn", "xgboost"} else FittedLinear)
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert np.array_equal(again.decision(X), fitted.decision(X))
    if isinstance(again, FittedPerLabel):
        with pytest.raises(ArtifactError, match="do not fit together"):
            make_head(name).restore(json | {"n_features": 3}, arrays)


def test_a_label_of_which_nothing_is_known_is_said(data) -> None:
    X, labels = data
    gone = labels.copy()
    gone[:, 2] = MISSING
    fitted = Ridge().fit(X, gone, target=TARGET)
    assert fitted.notes == ("Nothing is known of label 2 in the training rows: probability 0.",)
    assert not fitted.predict_proba(X)[:, 2].any()


@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_the_screen_fits_the_rows_of_which_a_label_is_known(data, mode, device) -> None:
    X, labels = data
    blocks = Blocks(ids=np.array([f"{row:03d}" for row in range(N)], dtype=object), matrices={"x": X})
    rows = np.arange(N)
    plan = ValidationPlan.cross_validation([(rows[rows % 4 > 0], rows[rows % 4 == 0])], ids=blocks.ids)
    scorer = ClosedFormScorer(
        blocks, labels, plan=plan, task=Task.MULTILABEL, classes=TARGET.classes, mode=mode, keep=np.ones(N, bool)
    )
    on = scorer if device is None else TorchScorer(scorer, device=device)
    found = on.score(("x",)).out_of_fold[0]
    fit, held_out = plan.folds[0]
    standard = (X - X[fit].mean(axis=0, dtype=np.float64)) / X[fit].std(axis=0, dtype=np.float64)
    for label in range(LABELS):
        known = fit[labels[fit, label] != MISSING]
        head = Ridge().fit(standard[known], labels[known, label : label + 1], target=Target(Task.MULTILABEL, ("l",)))
        np.testing.assert_allclose(found[:, label], (1 + head.margins(standard[held_out])[:, 0]) / 2, atol=1e-6)
