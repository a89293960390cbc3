import numpy as np
import pytest

from biofuse.core.target import Task
from biofuse.heads.base import CERTAIN
from biofuse.predictors.combined import log_odds


def test_log_odds_stay_fine_and_finite_where_probabilities_round() -> None:
    probability = np.array([[1.0, 1e-20, 0.0], [1.0, 1e-30, 0.0], [1.0, 0.0, 0.0]])
    odds = log_odds(probability, task=Task.MULTICLASS)
    assert odds[0, 0] == pytest.approx(20 * np.log(10))
    assert odds[1, 0] == pytest.approx(30 * np.log(10))
    assert odds[2].tolist() == [CERTAIN, -CERTAIN, -CERTAIN]
    assert np.abs(log_odds(np.array([[0.0, 1.0]]), task=Task.MULTILABEL)).tolist() == [[CERTAIN] * 2]
