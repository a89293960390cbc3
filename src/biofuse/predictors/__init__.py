"""What maps blocks to probabilities: a fusion and a head, or several such combined."""

from biofuse.predictors.ensemble import EnsemblePredictor, average
from biofuse.predictors.fused import FusedPredictor, fit_predictor
from biofuse.predictors.late import LateFusion, fit_late_fusion
from biofuse.predictors.loading import load_predictor
from biofuse.predictors.protocol import Predictor, predict_labels

__all__ = [
    "EnsemblePredictor",
    "FusedPredictor",
    "LateFusion",
    "Predictor",
    "average",
    "fit_late_fusion",
    "fit_predictor",
    "load_predictor",
    "predict_labels",
]
