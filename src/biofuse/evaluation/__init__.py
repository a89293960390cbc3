"""Metrics, intervals and paired comparisons."""

from biofuse.evaluation.comparison import Comparison, compare, compare_with, corrected_standard_error, holm, sentence
from biofuse.evaluation.intervals import Interval, bootstrap_intervals
from biofuse.evaluation.metrics import METRICS, Metrics, applicable, auroc_columns, get_metric, score

__all__ = [
    "METRICS",
    "Comparison",
    "Interval",
    "Metrics",
    "applicable",
    "auroc_columns",
    "bootstrap_intervals",
    "compare",
    "compare_with",
    "corrected_standard_error",
    "get_metric",
    "holm",
    "score",
    "sentence",
]
