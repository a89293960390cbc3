"""What maps blocks to probabilities: a fusion and a head."""

from biofuse.predictors.fused import FusedPredictor, fit_predictor
from biofuse.predictors.loading import load_predictor
from biofuse.predictors.protocol import Predictor, predict_labels

__all__ = ["FusedPredictor", "Predictor", "fit_predictor", "load_predictor", "predict_labels"]
