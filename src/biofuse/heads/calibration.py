"""One number that turns decision values into logits."""

import numpy as np
from numpy.typing import NDArray

from biofuse.heads.likelihood import log_loss
from biofuse.heads.problems import Problem


def fit_slope(decisions: NDArray[np.float64], problem: Problem, *, bounds: tuple[float, float]) -> float:
    """Return the positive number times which decision values have the least weighted log-loss.

    Parameters
    ----------
    decisions : ndarray of float64, shape (n, width)
        Of rows that the fit did not see: one column for two classes, else one per class.
    problem : Problem
        Classes and weights of the rows.
    bounds : tuple of float
        Range of the number's natural logarithm.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_slope: float) -> float:
        losses, _ = log_loss(np.exp(log_slope) * decisions, problem.indicators)
        return float(losses @ problem.weights)

    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
