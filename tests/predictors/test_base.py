import numpy as np
import pytest

from biofuse.core.target import Task
from biofuse.heads.base import CERTAIN
from biofuse.predictors.base import log_odds, predict_labels


def test_labels_from_probabilities() -> None:
    probabilities = np.array([[0.4, 0.4, 0.2], [0.1, 0.51, 0.7]])
    assert predict_labels(probabilities, task=Task.MULTICLASS).tolist() == [0, 2]
    assert predict_labels(probabilities, task=Task.MULTILABEL).tolist() == [[0, 0, 0], [0, 1, 1]]


def test_log_odds_stay_fine_and_finite_where_probabilities_round() -> None:
    probability = np.array([[1.0, 1e-20, 0.0], [1.0, 1e-30, 0.0], [1.0, 0.0, 0.0]])
    odds = log_odds(probability, task=Task.MULTICLASS)
    assert odds[0, 0] == pytest.approx(20 * np.log(10))
    assert odds[1, 0] == pytest.approx(30 * np.log(10))
    assert odds[2].tolist() == [CERTAIN, -CERTAIN, -CERTAIN]
    assert np.abs(log_odds(np.array([[0.0, 1.0]]), task=Task.MULTILABEL)).tolist() == [[CERTAIN] * 2]
