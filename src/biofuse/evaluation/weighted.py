"""Statistics of numbers under many weightings of the rows at once: what metrics of values are made of.

Weights have shape (n, n_weightings): ones, how often a bootstrap drew each row, or zero for what is left out.
"""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

NOTHING = 1e-12
"""Share of the variance of all rows below which rows of a weighting are all alike, up to rounding."""


def divide(over: Values, under: Values) -> Values:
    """Return a quotient; NaN where the divisor is not positive."""
    quotient = np.full(np.broadcast_shapes(over.shape, under.shape), np.nan)
    np.divide(over, under, out=quotient, where=under > 0)
    return quotient


def running(weights: Values) -> Values:
    """Return sums of the first 0, 1, ... n rows, shape (n + 1, n_weightings)."""
    return np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights, axis=0)])


def mean(values: Values, weights: Values) -> Values:
    """Return weighted means, shape (n_weightings,); NaN without weight."""
    return divide(values @ weights, weights.sum(axis=0))


def explained(truth: Values, predicted: Values, weights: Values) -> Values:
    """Return R²: one less the squared errors over the squares around the mean, shape (n_weightings,).

    NaN where all values are alike: there is nothing to explain.
    """
    errors = np.square(truth - predicted) @ weights
    centred, scale = _standard(truth)
    spread = _around_mean(centred, weights) * scale**2
    return 1 - divide(errors, spread)


def correlation(truth: Values, predicted: Values, weights: Values) -> Values:
    """Return Pearson's correlation, shape (n_weightings,).

    Zero where all predictions are alike, as ``sklearn.feature_selection.r_regression`` has it; NaN where all values
    are.
    """
    return _correlated(_standard(truth)[0][:, None], _standard(predicted)[0][:, None], weights)


def rank_correlation(truth: Values, predicted: Values, weights: Values) -> Values:
    """Return Spearman's correlation: Pearson's of the ranks, those of ties their mean, shape (n_weightings,)."""
    return _correlated(_ranks(truth, weights), _ranks(predicted, weights), weights)


def _standard(values: Values) -> tuple[Values, float]:
    """Return values with mean 0 and variance 1, and what they were divided by; zeros where all are alike."""
    centred = values - (values.mean() if len(values) else 0.0)
    scale = float(np.sqrt(np.square(centred).mean())) if len(values) else 0.0
    if scale <= NOTHING * np.abs(values).max(initial=0.0):
        return np.zeros_like(centred), 1.0
    return centred / scale, scale


def _around_mean(values: Values, weights: Values) -> Values:
    """Return the weighted sum of squares around the mean of standardised values; 0 for what is rounding."""
    total = weights.sum(axis=0)
    found = np.square(values) @ weights - np.square(values @ weights) / np.where(total > 0, total, 1)
    return np.where(found > NOTHING * total, found, 0.0)


def _correlated(first: Values, second: Values, weights: Values) -> Values:
    """Correlate columns, shape (n, 1) or (n, n_weightings), of numbers of the order of one."""
    total = weights.sum(axis=0)
    shares = weights / np.where(total > 0, total, 1)
    a, b = (each - (each * shares).sum(axis=0) for each in (first, second))
    spread_a, spread_b = ((np.square(each) * shares).sum(axis=0) for each in (a, b))
    spread_a, spread_b = (np.where(each > NOTHING, each, 0.0) for each in (spread_a, spread_b))
    found = divide((a * b * shares).sum(axis=0), np.sqrt(spread_a * spread_b))
    return np.where((spread_b == 0) & (spread_a > 0), 0.0, found)


def _ranks(values: Values, weights: Values) -> Values:
    """Return the share of the weight below each row, half of its ties counted, shape (n, n_weightings)."""
    order = np.argsort(values, kind="stable")
    ascending, sums = values[order], running(weights[order])
    below, up_to = (np.searchsorted(ascending, values, side=side) for side in ("left", "right"))
    total = weights.sum(axis=0)
    return np.asarray((sums[below] + sums[up_to]) / np.where(total > 0, 2 * total, 1))
