"""The screen of times to an event: ridge regression on martingale residuals, by rows, by columns and in torch."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from biofuse.blocks.blocks import Blocks
from biofuse.core.target import Target
from biofuse.data.splits import ValidationPlan
from biofuse.heads.hazard import PartialLikelihood
from biofuse.search.closed_form import ClosedFormScorer
from biofuse.search.closed_form_torch import TorchScorer


@pytest.mark.parametrize("mode", ["dual", "primal"])
def test_it_is_ridge_on_the_residuals_of_the_null_model_of_the_training_rows(mode: str) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal(80)
    labels = np.column_stack([rng.exponential(np.exp(-hidden)), rng.random(80) < 0.6]).astype(np.float64)
    matrices = {name: rng.standard_normal((80, 6)).astype(np.float32) for name in ("a", "b")}
    matrices["a"][:, 0] += hidden
    ids = np.array([f"{row:03d}" for row in range(80)], dtype=object)
    fit, held = np.arange(60), np.arange(60, 80)
    plan = ValidationPlan.cross_validation([(fit, held)], ids=ids)
    target = Target.until([0.5, 1.0])
    scorer = ClosedFormScorer(
        Blocks(ids=ids, matrices=matrices), labels, plan=plan, task=target.kind, classes=target.classes, mode=mode,
        metrics=("harrell_c",),
    )  # fmt: skip
    found = scorer.solve(("a", "b"), 0)
    X = np.hstack(list(matrices.values())).astype(np.float64)
    scaler = StandardScaler().fit(X[fit])
    ridge = Ridge(alpha=found.alphas[0]).fit(scaler.transform(X[fit]), PartialLikelihood.at(labels[fit]).residuals)
    expected = ridge.predict(scaler.transform(X[held]))
    np.testing.assert_allclose(found.estimates, np.tile(expected[:, None], 2), atol=1e-6)
    in_torch = TorchScorer(scorer, device="cpu", threads=1)
    value = scorer.score(("a", "b")).folds["harrell_c"]
    assert in_torch.score(("a", "b")).folds["harrell_c"] == pytest.approx(value, abs=1e-6)
    assert value[0] > 0.6
