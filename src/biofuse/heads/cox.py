"""Cox regression with a ridge penalty, for times to an event that were not all observed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.core.linear import Matrix64
from biofuse.core.target import Target
from biofuse.heads.base import MATRIX_CELLS, Features, Limits, OwnHead, Setup, TimeToEvent
from biofuse.heads.hazard import PartialLikelihood
from biofuse.heads.linear import FittedLinear

VARIANCES = tuple(float(value) for value in 10.0 ** np.arange(-2, 3.5, 0.5))
"""Prior variances of the log hazard ratio that are tried where alpha is not given, the strongest penalty first.

The penalty is a normal prior on the coefficients with variance 1 / alpha, so that a sample at the typical distance has
a log hazard ratio of variance (mean squared distance) / alpha. From 0.01, hardly any effect, to 1,000, where the
penalty no longer stops anything."""

FOLDS = 5
"""Inner folds among which the penalty is chosen."""

WORSE = 2
"""Weaker penalties in a row that are worse than the best before the path is left: its likelihood has one maximum."""

TOLERANCES = (1e-2, 1e-7)
"""Largest gradient entry, in coordinates of about unit curvature, for comparing penalties and for the fit itself."""

SLOPES = (-3.0, 1.5)
"""Range of the logarithm of the slope that calibrates the log hazard ratios of rows that were not fitted on."""

STEPS = 500
"""Most L-BFGS steps."""

LOOSE = 100.0
"""A gradient this many times above the tolerance counts as not converged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Rows in as few coordinates as they need, each with a variance of its own: their principal components.

    The penalised coefficients are sums of centred rows, so that the maximum is the same; and along principal
    components the curvature is about the number of events times the variance, so that it can be made about 1.

    Attributes
    ----------
    rows : ndarray of float64, shape (n, r)
        With the same products as the centred rows.
    squares : ndarray of float64, shape (r,)
        Sum of squares of each coordinate.
    spread : float
        Mean squared distance of a row from the mean row.
    back : callable
        Takes coefficients, shape (r,), to coefficients of the columns, shape (d,).
    """

    rows: Matrix64
    squares: Matrix64
    spread: float
    back: Callable[[Matrix64], Matrix64]

    @classmethod
    def of(cls, X: Matrix64) -> Self:
        """Find them, from the products of rows or of columns, whichever are fewer."""
        from scipy.linalg import eigh

        centred = X - X.mean(axis=0)
        wide = len(X) <= X.shape[1]
        products = centred @ centred.T if wide else centred.T @ centred
        spread = float(np.trace(products)) / len(X)
        values, vectors = eigh(products, driver="evd", overwrite_a=True, check_finite=False)
        reached = values > max(float(values[-1]), 0.0) * len(products) * np.finfo(np.float64).eps
        squares, vectors = values[reached], vectors[:, reached]
        lengths = np.sqrt(squares)
        rows = np.ascontiguousarray(vectors * lengths if wide else centred @ vectors)

        def back(coef: Matrix64) -> Matrix64:
            return np.asarray(centred.T @ (vectors @ (coef / lengths)) if wide else vectors @ coef)

        return cls(rows=rows, squares=squares, spread=spread, back=back)


def maximise(
    rows: Matrix64, likelihood: PartialLikelihood, *, alpha: float, squares: Matrix64, start: Matrix64, tolerance: float
) -> tuple[Matrix64, bool]:
    """Maximise the logarithm of the partial likelihood less ``alpha / 2 |coef|^2``.

    Parameters
    ----------
    rows : ndarray of float64, shape (n, r)
        In principal components.
    likelihood : PartialLikelihood
        Of these rows.
    alpha : float
        Strength of the penalty, as in scikit-survival.
    squares : ndarray of float64, shape (r,)
        About the sum of squares of each coordinate: with it the search for the maximum is short.
    start : ndarray of float64, shape (r,)
        Coefficients to begin with.
    tolerance : float
        Largest gradient entry at the end, in coordinates of about unit curvature.

    Returns
    -------
    coef : ndarray of float64, shape (r,)
    converged : bool
        Whether the gradient ended near the tolerance.
    """
    from scipy.optimize import minimize

    share = float(likelihood.weights @ likelihood.event) / len(rows)
    scale = 1 / np.sqrt(share * squares + alpha)

    def objective(place: Matrix64) -> tuple[float, Matrix64]:
        coef = scale * place
        value, gradient = likelihood(rows @ coef)
        return alpha / 2 * float(coef @ coef) - value, scale * (alpha * coef - rows.T @ gradient)

    result = minimize(
        objective,
        start / scale,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": STEPS, "maxcor": 20, "gtol": tolerance, "ftol": 0.0},
    )
    return scale * result.x, bool(np.abs(result.jac).max(initial=0.0) <= LOOSE * tolerance)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenPenalty:
    """The penalty that inner folds favour, and what it makes of the rows that each of them left out.

    Attributes
    ----------
    alpha : float
    left_out : ndarray of float64, shape (n,)
        Log hazard ratio of each row, by the fit without its fold.
    start : ndarray of float64, shape (r,)
        Mean coefficients of these fits.
    """

    alpha: float
    left_out: Matrix64
    start: Matrix64


def inner_folds(likelihood: PartialLikelihood) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return rows to fit on and rows left out of up to five folds, each with its share of events, early and late.

    Parameters
    ----------
    likelihood : PartialLikelihood
        Of two events or more.
    """
    rows = np.arange(len(likelihood.place))
    fold = np.empty(len(rows), dtype=np.int64)
    fold[np.lexsort((likelihood.place, ~likelihood.event))] = rows % min(FOLDS, int(likelihood.event.sum()))
    return [(rows[fold != number], rows[fold == number]) for number in range(fold.max() + 1)]


def choose_penalty(places: Places, likelihood: PartialLikelihood, alphas: Sequence[float]) -> ChosenPenalty:
    """Choose the penalty with the largest cross-validated partial likelihood (Verweij and van Houwelingen 1993).

    That of a fold is the logarithm of the partial likelihood of all rows, less that of the rows fitted on: a few rows
    left out have hardly any order of their own.

    Parameters
    ----------
    places : Places
    likelihood : PartialLikelihood
        Of the same rows.
    alphas : sequence of float
        The largest first.
    """
    folds = inner_folds(likelihood)
    parts = [(places.rows[fit], likelihood.take(fit)) for fit, _ in folds]
    coefs = [np.zeros(places.rows.shape[1]) for _ in folds]
    best, most, worse = None, -np.inf, 0
    for alpha in alphas:
        total, left_out = 0.0, np.empty(len(places.rows))
        for number, ((_, held_out), (rows, part)) in enumerate(zip(folds, parts, strict=True)):
            coefs[number], _ = maximise(
                rows, part, alpha=alpha, squares=places.squares, start=coefs[number], tolerance=TOLERANCES[0]
            )
            ratios = places.rows @ coefs[number]
            total += likelihood(ratios)[0] - part(rows @ coefs[number])[0]
            left_out[held_out] = ratios[held_out]
        if best is None or total > most:
            best, most, worse = ChosenPenalty(alpha=alpha, left_out=left_out, start=np.mean(coefs, axis=0)), total, 0
            continue
        worse += 1
        if worse == WORSE:
            break
    assert best is not None  # noqa: S101
    return best


def calibrating_slope(ratios: Matrix64, likelihood: PartialLikelihood) -> float:
    """Return the positive number times which log hazard ratios have the largest partial likelihood.

    Parameters
    ----------
    ratios : ndarray of float64, shape (n,)
        Of rows that the fits did not see.
    likelihood : PartialLikelihood
        Of the same rows.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda log: -likelihood(np.exp(log) * ratios)[0], bounds=SLOPES, method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True, kw_only=True)
class Cox(OwnHead[FittedLinear]):
    """Cox regression: every sample has the same hazard over time, times a number that depends on its features.

    Ties as by Efron, penalty as scikit-survival's ``CoxPHSurvivalAnalysis(alpha, ties="efron")``, whose coefficients
    these are; that one decomposes a matrix of all columns at every step, which thousands of columns do not allow. The
    margin of each horizon is the logarithm of the cumulative hazard until then.

    Probabilities: what a fit makes of its own training rows is too sure. So the log hazard ratios of the rows that
    inner folds left out are multiplied by the one positive number with the largest partial likelihood, and the
    cumulative hazard is Breslow's estimate from them.

    Parameters
    ----------
    alpha : float, optional
        Strength of the penalty, as in scikit-survival. Chosen by five inner folds if not given, by their partial
        likelihood. A head is not told groups: near-duplicate rows make that optimistic.
    calibrate : bool, default True
        Whether probabilities are calibrated as above; otherwise they are scikit-survival's.
    class_weight : None
        Times have no classes.
    """

    name = "cox"
    fitted = FittedLinear
    limits = Limits(
        rows=200_000,
        smaller=10_000,
        cells=MATRIX_CELLS,
        reason="the products of all rows or all columns are decomposed, at the cube of the smaller number",
    )

    alpha: float | None = None
    calibrate: bool = True

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha < np.inf:
            raise SearchError(f"alpha must be positive, not {self.alpha}.")

    def takes(self, target: Target) -> bool:
        """Return whether it predicts such a target: times to an event."""
        return target.timed

    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> FittedLinear:  # noqa: ARG002
        """Choose the penalty, fit all rows with it, and calibrate."""
        (problem,) = setup.problems
        assert isinstance(problem, TimeToEvent)  # noqa: S101
        features = np.asarray(X, dtype=np.float64)
        likelihood, places = problem.likelihood, Places.of(features)
        alphas = [places.spread / variance for variance in VARIANCES] if self.alpha is None else [self.alpha]
        if not places.rows.shape[1]:
            alphas = [1.0]  # constant features: there is nothing to penalise
        choice = choose_penalty(places, likelihood, alphas) if self.calibrate or len(alphas) > 1 else None
        coef, converged = maximise(
            places.rows,
            likelihood,
            alpha=alphas[0] if choice is None else choice.alpha,
            squares=places.squares,
            start=np.zeros(places.rows.shape[1]) if choice is None else choice.start,
            tolerance=TOLERANCES[1],
        )
        slope, ratios = 1.0, places.rows @ coef
        if self.calibrate and choice is not None:
            slope = calibrating_slope(choice.left_out, likelihood)
            ratios = slope * choice.left_out
        hazard = likelihood.cumulative_hazard(ratios, problem.horizons)
        coef = slope * places.back(coef)
        return FittedLinear.assemble(
            setup,
            [
                (
                    np.tile(coef[:, None], len(hazard)),
                    np.log(np.maximum(hazard, np.finfo(np.float64).tiny)) - features.mean(axis=0) @ coef,
                )
            ],
            n_features=X.shape[1],
            penalty=[alphas[0] if choice is None else choice.alpha],
            notes=() if converged else ("The fit stopped short of the maximum.",),
        )
