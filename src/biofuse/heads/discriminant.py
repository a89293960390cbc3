"""Linear discriminants from shrunk class covariances, exact and fast where there are more columns than rows.

The covariance is ``sum_i weight_i z_i z_i' + diag(D)``, where ``z_i`` is row i less its class's mean, and ``D`` is what
shrinkage adds. With fewer rows than columns, the products of rows give the same discriminants by Woodbury's identity,
and the covariance is never formed.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.heads.linear import ROWS_AT_ONCE
from biofuse.heads.problems import Problem
from biofuse.heads.protocol import Features

Matrix64 = NDArray[np.float64]
Shrinkage = float | Literal["auto"]

NEGLIGIBLE = 1e-12
"""Shares below this are rounding errors: the automatic shrinkage of n rows is of the order of 1 / n or more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Discriminant:
    """One linear function per class; differences between them are log-odds under the model.

    Attributes
    ----------
    coef : ndarray of float64, shape (d, n_codes)
    intercept : ndarray of float64, shape (n_codes,)
    left_out : ndarray of float64, shape (n, n_codes)
        The functions' values on each training row without its part in its class's mean and covariance; how far
        covariances are shrunk, and the priors, are kept. Zeros where a row is all there is of its class.
    alone : ndarray of bool, shape (n,)
        Those rows.
    shrinkage : float
        Mean over the classes, weighted by their priors.
    spherical : bool
        Whether no class had rows enough to estimate a covariance, so that the identity took its place.
    """

    coef: Matrix64
    intercept: Matrix64
    left_out: Matrix64
    alone: NDArray[np.bool_]
    shrinkage: float
    spherical: bool


def fit_discriminant(X: Features, problem: Problem, *, shrinkage: Shrinkage) -> Discriminant:
    """Fit one Gaussian per class, all of one covariance: the mean of the classes' own, weighted by the priors.

    Parameters
    ----------
    X : ndarray, shape (n, d)
    problem : Problem
        Classes and weights of the rows. A class's prior is its share of all weights.
    shrinkage : float or "auto"
        How far each class's covariance is moved towards its mean variance times the identity; ``auto`` does so on
        standardised columns, by the formula of Ledoit and Wolf.
    """
    order = np.argsort(problem.codes, kind="stable")
    codes, ends = problem.codes[order], np.cumsum(np.bincount(problem.codes))
    totals = np.bincount(codes, weights=problem.weights[order])
    priors, shares = totals / totals.sum(), problem.weights[order] / totals[codes]
    Z = np.array(X[order], dtype=np.float64, order="C")  # the one copy: centred and scaled in place
    means, diagonal = np.empty((problem.n_codes, Z.shape[1])), np.zeros(Z.shape[1])
    amounts = np.empty(problem.n_codes)
    for code, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        means[code] = shares[start:end] @ Z[start:end]
        Z[start:end] -= means[code]
        amounts[code], added = _shrink(Z[start:end], shares[start:end], means[code], shrinkage)
        diagonal += priors[code] * added
    weights = priors[codes] * (1 - amounts[codes]) * shares
    spherical = not diagonal.any()
    if spherical:
        weights, diagonal = np.zeros(len(Z)), np.ones(Z.shape[1])
    # In units in which what shrinkage adds is the identity, the solve is as stable as it can be.
    centre, scale = priors @ means, np.sqrt(diagonal)
    Z /= scale
    around = (means - centre) / scale
    scaled_coef, lengths = _solve(Z, weights, around.T)
    coef = scaled_coef / scale[:, None]
    products = around @ scaled_coef
    evidence = _left_out(
        crossed=Z @ scaled_coef, products=products, lengths=lengths, codes=codes, shares=shares, weights=weights
    )
    left_out = np.empty_like(evidence)
    left_out[order] = evidence + np.log(priors)
    alone = np.zeros(len(Z), dtype=np.bool_)
    alone[order] = shares == 1
    left_out[alone] = 0
    return Discriminant(
        coef=coef,
        intercept=np.log(priors) - 0.5 * np.diag(products) - centre @ coef,
        left_out=left_out,
        alone=alone,
        shrinkage=float(priors @ amounts),
        spherical=spherical,
    )


def _shrink(rows: Matrix64, shares: Matrix64, mean: Matrix64, shrinkage: Shrinkage) -> tuple[float, Matrix64]:
    """Return how far the covariance of the centred rows is shrunk, and the diagonal that this adds to it."""
    variance = shares @ rows**2
    if shrinkage != "auto":
        return float(shrinkage), np.full(rows.shape[1], shrinkage * variance.mean())
    # As scikit-learn's StandardScaler: no variance beyond the rounding error of the mean counts as none.
    constant = variance <= (len(rows) * np.finfo(np.float64).eps * mean) ** 2
    scale = np.where(constant, 1.0, np.sqrt(variance))
    amount, average = _ledoit_wolf(rows / scale, shares)
    return amount, amount * average * scale**2


def _ledoit_wolf(Z: Matrix64, shares: Matrix64) -> tuple[float, float]:
    """Return the shrinkage of ``S = sum_i share_i z_i z_i'`` towards its mean variance, and that variance.

    The shrinkage is the sampling variance of S, ``sum_i share_i**2 |z_i z_i' - S|**2``, over its squared distance from
    the target. Where that distance is nothing, S is the target already.
    """
    n, d = Z.shape
    lengths = np.einsum("ij,ij->i", Z, Z)
    average = float(shares @ lengths) / d
    if n <= d:
        spread = (Z @ Z.T) ** 2 @ shares  # z' S z of each row
        norm, crossed = float(shares @ spread), float(shares**2 @ spread)
    else:
        S = _covariance(Z, shares)
        norm = float(np.vdot(S, S))
        even = bool((shares == shares[0]).all())
        crossed = norm / n if even else float(shares**2 @ np.einsum("ij,ij->i", Z @ S, Z))
    distance = norm - d * average**2
    if distance <= NEGLIGIBLE * norm:
        return 1.0, average
    variance = float(shares**2 @ lengths**2) - 2 * crossed + norm * float(shares @ shares)
    amount = min(variance / distance, 1.0)
    return (amount if amount > NEGLIGIBLE else 0.0), average


def _solve(Z: Matrix64, weights: Matrix64, targets: Matrix64) -> tuple[Matrix64, Matrix64]:
    """Return ``S^-1 targets`` and each row's ``z' S^-1 z`` for ``S = sum_i weight_i z_i z_i' + I``."""
    from scipy.linalg import cholesky, solve_triangular

    n, d = Z.shape
    if n > d:
        S = _covariance(Z, weights)
        S[np.diag_indices(d)] += 1
        root = cholesky(S, lower=True, overwrite_a=True, check_finite=False)
        lengths = np.empty(n)
        for start in range(0, n, ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            lengths[rows] = np.square(solve_triangular(root, Z[rows].T, lower=True, check_finite=False)).sum(axis=0)
        half = solve_triangular(root, targets, lower=True, check_finite=False)
        return solve_triangular(root, half, lower=True, trans="T", check_finite=False), lengths
    weighting = np.sqrt(weights)[:, None]
    products = Z @ Z.T
    K = weighting * products * weighting.T
    K[np.diag_indices(n)] += 1
    root = cholesky(K, lower=True, overwrite_a=True, check_finite=False)
    shadow = solve_triangular(root, weighting * products, lower=True, check_finite=False)
    half = solve_triangular(root, weighting * (Z @ targets), lower=True, check_finite=False)
    dual = weighting * solve_triangular(root, half, lower=True, trans="T", check_finite=False)
    return targets - Z.T @ dual, np.diag(products) - np.square(shadow).sum(axis=0)


def _covariance(Z: Matrix64, weights: Matrix64) -> Matrix64:
    total = np.zeros((Z.shape[1], Z.shape[1]))
    for start in range(0, len(Z), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        block = Z[rows] * np.sqrt(weights[rows])[:, None]
        total += block.T @ block
    return total


def _left_out(
    *,
    crossed: Matrix64,
    products: Matrix64,
    lengths: Matrix64,
    codes: NDArray[np.int64],
    shares: Matrix64,
    weights: Matrix64,
) -> Matrix64:
    """Return each row's discriminants, without priors, from the model without it, by the Sherman-Morrison formula.

    In the inner product of the inverse covariance, ``crossed`` holds those of z_i and the class means, ``products``
    those of the means with each other, ``lengths`` those of z_i with itself. Taking row i, of share p, from its class
    moves that class's mean by ``-moved z_i``, ``moved = p / (1 - p)``, and the covariance by
    ``-weight / (1 - p) z_i z_i'``.
    """
    own = np.arange(len(codes)), codes
    rest = np.where(shares == 1, 1.0, 1 - shares)
    moved, removed = shares / rest, weights / rest
    position = crossed[own] + lengths  # of the row and z
    slants = crossed.copy()  # of the means and z
    slants[own] -= moved * lengths
    values = products[codes] + crossed  # of the row and the means
    values[own] -= moved * position
    norms = np.tile(np.diag(products), (len(codes), 1))  # of the means with themselves
    norms[own] += moved**2 * lengths - 2 * moved * crossed[own]
    # Rounding could bring 1 - removed * lengths, which is positive, to 0.
    gain = removed / np.maximum(1 - removed * lengths, NEGLIGIBLE)
    return np.asarray(values + (gain * position)[:, None] * slants - 0.5 * (norms + gain[:, None] * slants**2))
