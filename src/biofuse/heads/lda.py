"""Linear discriminants from shrunk class covariances, exact and fast where there are more columns than rows.

The covariance is ``sum_i weight_i z_i z_i' + diag(D)``, where ``z_i`` is row i less its class's mean, and ``D`` is what
shrinkage adds. With fewer rows than columns, the products of rows give the same discriminants by Woodbury's identity,
and the covariance is never formed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.core.linear import ROWS_AT_ONCE, slices
from biofuse.core.ridge import resolvents
from biofuse.heads.base import MATRIX_CELLS, Classification, Features, Limits, OwnHead, Setup
from biofuse.heads.linear import FittedLinear
from biofuse.heads.logistic import fit_slope, log_loss

Shrinkage = float | Literal["left_out", "auto"]

STRENGTHS = tuple(float(value) for value in 10.0 ** np.arange(-3, 3.5, 0.5))
"""What Ledoit and Wolf's formula adds to a covariance is multiplied by one of these, where shrinkage is to be chosen:
from hardly any, for signals that lie in the smallest directions, to so much that only distances from the class means
are left. The formula asks for the best covariance, which is not the best classifier. Test AUROC by the formula and by
the choice: two classes that differ in the smallest 3 of 100 directions, 300 rows, .507 and .746; blood cells
(EfficientNet-Lite0), 200 rows, three in ten labels wrong, .964 and .989; and within .001 of each other on the same
without wrong labels (100 and 300 rows), on its HOG descriptors (300) and on scikit-learn's digits (100, 300 rows; with
wrong labels 200)."""

TIES = 12
"""Decimals after which log-losses are equal."""

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

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    left_out: NDArray[np.float64]
    alone: NDArray[np.bool_]
    shrinkage: float
    spherical: bool


def fit_discriminant(X: Features, problem: Classification, *, shrinkage: Shrinkage) -> Discriminant:
    """Fit one Gaussian per class, all of one covariance: the mean of the classes' own, weighted by the priors.

    Parameters
    ----------
    X : ndarray, shape (n, d)
    problem : Classification
        Classes and weights of the rows. A class's prior is its share of all weights.
    shrinkage : float, "auto" or "left_out"
        How far each class's covariance is moved towards its mean variance times the identity; ``auto`` does so on
        standardised columns, by the formula of Ledoit and Wolf; ``left_out`` as much or as little of that as gives
        the left-out rows the least log-loss, the total variance being kept.
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
    amount = float(priors @ amounts)
    if shrinkage == "left_out" and not spherical and (shares < 1).any():
        strength, scaled_coef, products, evidence = _choose_strength(
            Z, weights, around=around, codes=codes, given=problem.weights[order], shares=shares, priors=priors
        )
        amount = strength * amount / (strength * amount + 1 - amount)
    else:
        scaled_coef, lengths = _solve(Z, weights, around.T)
        products = around @ scaled_coef
        crossed = scaled_coef.T @ Z.T
        evidence = _left_out(
            crossed=crossed, products=products, lengths=lengths, codes=codes, shares=shares, weights=weights
        )
    coef = scaled_coef / scale[:, None]
    left_out = np.empty(evidence.T.shape)
    left_out[order] = evidence.T + np.log(priors)
    alone = np.zeros(len(Z), dtype=np.bool_)
    alone[order] = shares == 1
    left_out[alone] = 0
    return Discriminant(
        coef=coef,
        intercept=np.log(priors) - 0.5 * np.diag(products) - centre @ coef,
        left_out=left_out,
        alone=alone,
        shrinkage=amount,
        spherical=spherical,
    )


def _shrink(
    rows: NDArray[np.float64], shares: NDArray[np.float64], mean: NDArray[np.float64], shrinkage: Shrinkage
) -> tuple[float, NDArray[np.float64]]:
    """Return how far the covariance of the centred rows is shrunk, and the diagonal that this adds to it."""
    variance = shares @ rows**2
    if not isinstance(shrinkage, str):
        return float(shrinkage), np.full(rows.shape[1], shrinkage * variance.mean())
    # As scikit-learn's StandardScaler: no variance beyond the rounding error of the mean counts as none.
    constant = variance <= (len(rows) * np.finfo(np.float64).eps * mean) ** 2
    scale = np.where(constant, 1.0, np.sqrt(variance))
    amount, average = _ledoit_wolf(rows / scale, shares)
    return amount, amount * average * scale**2


def _choose_strength(
    Z: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    around: NDArray[np.float64],
    codes: NDArray[np.int64],
    given: NDArray[np.float64],
    shares: NDArray[np.float64],
    priors: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Choose ``strength`` in ``S = kept * (sum_i weight_i z_i z_i' + strength * I)`` by log-loss of left-out rows.

    Each strength is judged with the slope that is best for it, and ``kept`` keeps the trace as it is at strength 1. One
    decomposition, of the smaller of row and column products, serves all.

    Returns
    -------
    strength : float
        One of :data:`STRENGTHS`; ties go to the larger.
    coef : ndarray of float64, shape (d, n_codes)
        ``S^-1 around'``.
    products : ndarray of float64, shape (n_codes, n_codes)
        Of the class means with each other, in the inner product of ``S^-1``.
    evidence : ndarray of float64, shape (n_codes, n)
        As of :func:`_left_out`.
    """
    n, d = Z.shape
    total = float(weights @ np.einsum("ij,ij->i", Z, Z))
    # Below the rounding error of products of that size, no strength is told from another.
    strengths = np.maximum(STRENGTHS[::-1], n * np.finfo(np.float64).eps * total)
    path = (_by_columns if n > d else _by_rows)(Z, weights, around, strengths)
    kept = (total + d) / (total + strengths * d)
    alone = shares == 1
    seen = Classification(codes=codes, n_codes=len(priors), weights=np.where(alone, 0.0, given))
    targets, certainly = np.log(priors)[:, None], np.ascontiguousarray(seen.weights * seen.indicators.T)
    evidence, losses = [], []
    for crossed, product, lengths, keep in zip(path.crossed, path.products, path.lengths, kept, strict=True):
        found = _left_out(
            crossed=crossed / keep,
            products=product / keep,
            lengths=lengths / keep,
            codes=codes,
            shares=shares,
            weights=weights * keep,
        )
        evidence.append(found)
        decisions = np.where(alone, 0, found + targets)
        logits = decisions[1:] - decisions[:1] if len(priors) == 2 else decisions
        loss, _ = log_loss(fit_slope(logits.T, seen, bounds=SLOPES) * logits, certainly, seen.weights)
        losses.append(round(loss / float(seen.weights.sum()), TIES))
    best = int(np.argmin(losses))
    return float(strengths[best]), path.coef(best) / kept[best], path.products[best] / kept[best], evidence[best]


@dataclass(frozen=True, kw_only=True, eq=False)
class _StrengthPath:
    """Inner products of ``(sum_i weight_i z_i z_i' + strength * I)^-1`` for every strength.

    Attributes
    ----------
    crossed : ndarray of float64, shape (n_strengths, n_codes, n)
        Of class means and rows.
    products : ndarray of float64, shape (n_strengths, n_codes, n_codes)
        Of the class means with each other.
    lengths : ndarray of float64, shape (n_strengths, n)
        Of each row with itself.
    coef : callable
        From the place of a strength to the inverse times the class means, shape (d, n_codes).
    """

    crossed: NDArray[np.float64]
    products: NDArray[np.float64]
    lengths: NDArray[np.float64]
    coef: Callable[[int], NDArray[np.float64]]


def _by_columns(
    Z: NDArray[np.float64], weights: NDArray[np.float64], around: NDArray[np.float64], strengths: NDArray[np.float64]
) -> _StrengthPath:
    """Find them by an eigendecomposition of the products of columns."""
    from scipy.linalg import eigh

    values, axes = eigh(_covariance(Z, weights), driver="evd", overwrite_a=True, check_finite=False)
    inverses = 1 / (np.maximum(values, 0) + strengths[:, None])
    positions = around @ axes
    placed = inverses[:, None, :] * positions  # (n_strengths, n_codes, d)
    flat = placed.reshape(-1, len(values))
    crossed, lengths = np.empty((len(flat), len(Z))), np.empty((len(strengths), len(Z)))
    for rows in slices(len(Z), ROWS_AT_ONCE):
        scores = Z[rows] @ axes
        np.matmul(flat, scores.T, out=crossed[:, rows])
        np.matmul(inverses, np.square(scores, out=scores).T, out=lengths[:, rows])
    return _StrengthPath(
        crossed=crossed.reshape(len(strengths), -1, len(Z)),
        products=placed @ positions.T,
        lengths=lengths,
        coef=lambda place: np.asarray(axes @ placed[place].T),
    )


def _by_rows(
    Z: NDArray[np.float64], weights: NDArray[np.float64], around: NDArray[np.float64], strengths: NDArray[np.float64]
) -> _StrengthPath:
    """Find them by a tridiagonalisation of the products of rows, by Woodbury's identity."""
    products, root, positions = Z @ Z.T, np.sqrt(weights), Z @ around.T
    # A row that weighs nothing has no column of its own in what is inverted: it is one more target.
    nothing = np.flatnonzero(root == 0)
    targets = root[:, None] * np.hstack([positions, products[:, nothing]])
    solved, diagonals = resolvents(root[:, None] * products * root, targets, strengths)
    k, over = len(around), strengths[:, None]
    dual = root * solved[:, :k]
    scale = np.where(root == 0, 1.0, root)
    crossed, lengths = solved[:, :k] / scale, (1 - over * diagonals) / scale**2
    if len(nothing):
        crossed[:, :, nothing] = (positions[nothing].T - dual @ products[:, nothing]) / over[:, None]
        within = np.einsum("scn,nc->sc", solved[:, k:], targets[:, k:])
        lengths[:, nothing] = (np.diag(products)[nothing] - within) / over
    return _StrengthPath(
        crossed=crossed,
        products=(around @ around.T - dual @ positions) / over[:, None],
        lengths=lengths,
        coef=lambda place: np.asarray(around.T - Z.T @ dual[place].T) / strengths[place],
    )


def _ledoit_wolf(Z: NDArray[np.float64], shares: NDArray[np.float64]) -> tuple[float, float]:
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


def _solve(
    Z: NDArray[np.float64], weights: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``S^-1 targets`` and each row's ``z' S^-1 z`` for ``S = sum_i weight_i z_i z_i' + I``."""
    from scipy.linalg import cholesky, solve_triangular

    n, d = Z.shape
    if n > d:
        S = _covariance(Z, weights)
        S[np.diag_indices(d)] += 1
        root = cholesky(S, lower=True, overwrite_a=True, check_finite=False)
        lengths = np.empty(n)
        for rows in slices(n, ROWS_AT_ONCE):
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


def _covariance(Z: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros((Z.shape[1], Z.shape[1]))
    for rows in slices(len(Z), ROWS_AT_ONCE):
        block = Z[rows] * np.sqrt(weights[rows])[:, None]
        total += block.T @ block
    return total


def _left_out(
    *,
    crossed: NDArray[np.float64],
    products: NDArray[np.float64],
    lengths: NDArray[np.float64],
    codes: NDArray[np.int64],
    shares: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return each row's discriminants, without priors, from the model without it, by the Sherman-Morrison formula.

    In the inner product of the inverse covariance, ``crossed`` holds those of the class means and z_i, ``products``
    those of the means with each other, ``lengths`` those of z_i with itself. Taking row i, of share p, from its class
    moves that class's mean by ``-moved z_i``, ``moved = p / (1 - p)``, and the covariance by
    ``-weight / (1 - p) z_i z_i'``. ``crossed`` and what is returned have the shape (n_codes, n).
    """
    own = codes, np.arange(len(codes))
    rest = np.where(shares == 1, 1.0, 1 - shares)
    moved, removed = shares / rest, weights / rest
    position = crossed[own] + lengths  # of the row and z
    slants = crossed.copy()  # of the means and z
    slants[own] -= moved * lengths
    values = products[:, codes] + crossed  # of the row and the means
    values[own] -= moved * position
    norms = np.tile(np.diag(products)[:, None], len(codes))  # of the means with themselves
    norms[own] += moved**2 * lengths - 2 * moved * crossed[own]
    # Rounding could bring 1 - removed * lengths, which is positive, to 0.
    gain = removed / np.maximum(1 - removed * lengths, NEGLIGIBLE)
    return np.asarray(values + gain * position * slants - 0.5 * (norms + gain * slants**2))


SLOPES = (-12.0, 0.0)
"""Range of the logarithm of the slope: from next to nothing to the model's own probabilities, never sharper ones."""


@dataclass(frozen=True, kw_only=True)
class LDA(OwnHead[FittedLinear]):
    """scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr")``: one Gaussian per class, all of one covariance.

    The covariance is the mean of the classes' own, each shrunk, weighted by the priors. Two classes give one logit,
    three or more a softmax, each label of a multi-label task is a problem of two classes.

    Shrinkage: the formula of Ledoit and Wolf (2004), J. Multivar. Anal. 88(2): 365-411, on each class's standardised
    columns, which ``auto`` takes as it is, as scikit-learn does. ``left_out`` multiplies what it adds by one of
    :data:`biofuse.heads.lda.STRENGTHS`, chosen by the log-loss of left-out training rows.

    Probabilities: with as many columns as embeddings have, the model's own are far too sure (log-loss 3.0 on 1,500 x
    3,020 real embeddings of brain MRI, 4 classes, 5-fold grouped cross-validation; .46 after calibration, .40 of
    logistic regression). The log-odds are therefore multiplied by the one number up to 1 that minimises the log-loss of
    left-out training rows, as :class:`biofuse.heads.ridge.Ridge` does; the predicted class is unchanged.

    Parameters
    ----------
    shrinkage : float, "left_out" or "auto", default "left_out"
        0 < shrinkage <= 1 or ``auto``, as in scikit-learn; see above.
    calibrate : bool, default True
        False leaves coefficients and probabilities as scikit-learn's are.
    class_weight : mapping, "balanced" or None
        Sets the priors: ``None`` takes each class's share of the rows, ``"balanced"`` equal priors, a mapping the share
        times the weight. Sample weights count in priors, means and covariances, and in the automatic shrinkage, where
        a row of weight 2 is no more information than any other row.
    """

    name = "lda"
    fitted = FittedLinear
    limits = Limits(
        rows=200_000,
        smaller=10_000,
        cells=MATRIX_CELLS,
        classes=1_000,
        reason="the products of all rows or all columns are solved for, at the cube of the smaller number",
    )

    shrinkage: Shrinkage = "left_out"
    calibrate: bool = True

    def __post_init__(self) -> None:
        named = self.shrinkage in ("left_out", "auto")
        if not named and (isinstance(self.shrinkage, str) or not 0 < self.shrinkage <= 1):
            raise SearchError(
                f"shrinkage must be 'left_out' or 'auto', or above 0 and at most 1, not {self.shrinkage!r}."
            )

    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> FittedLinear:  # noqa: ARG002
        """Fit a discriminant to each problem."""
        solutions, shrinkages, spherical = [], [], 0
        for problem in setup.classifications:
            fitted = fit_discriminant(X, problem, shrinkage=self.shrinkage)
            solutions.append(self._logits(fitted, problem))
            shrinkages.append(fitted.shrinkage)
            spherical += fitted.spherical
        note = (
            f"{spherical} of {len(solutions)} fits had too few rows per class to estimate a covariance: "
            "the nearest class mean is predicted."
        )
        return FittedLinear.assemble(
            setup,
            solutions,
            n_features=X.shape[1],
            penalty=shrinkages,
            notes=(note,) if spherical else (),
        )

    def _logits(self, fitted: Discriminant, problem: Classification) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        coef, intercept, left_out = fitted.coef, fitted.intercept, fitted.left_out
        if problem.n_codes == 2:
            coef, intercept = coef[:, 1:] - coef[:, :1], intercept[1:] - intercept[:1]
            left_out = left_out[:, 1:] - left_out[:, :1]
        if not self.calibrate or fitted.alone.all():
            return coef, intercept
        seen = replace(problem, weights=np.where(fitted.alone, 0.0, problem.weights))
        slope = fit_slope(left_out, seen, bounds=SLOPES)
        return slope * coef, slope * intercept
