"""L2-regularised logistic regression, solved exactly, and fast on embeddings.

The objective is scikit-learn's: the weighted sum of log-losses plus ``|W|^2 / (2 C)``, intercepts free, one logit for
two classes and a softmax for more. scikit-learn's solvers take it as it stands; with embeddings its curvature spans
three or four orders of magnitude, because a few directions hold most of the variance, and L-BFGS needs hundreds of
steps. Here L-BFGS works in coordinates in which the curvature is close to the identity: the leading principal
directions are rescaled, first for the curvature at the start, then once more for that near the minimum. That is a
linear change of variables, so the minimum is the same.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.descent import minimise_convex
from biofuse.core.errors import SearchError
from biofuse.core.linear import slices
from biofuse.heads.base import MATRIX_CELLS, Classification, Features, Limits, OwnHead, Setup
from biofuse.heads.linear import FittedLinear

DIRECTIONS = 16
"""Principal directions that are rescaled. Measured on 1,450 x 3,044 real embeddings (4 classes): 32 or 64 save
no steps, and with none there are about five times as many."""

TOLERANCES = (1e-2, 3e-6)
"""Largest gradient entry at the end of each of the two rounds, in coordinates of unit curvature, where the penalty is
the default one (LOGIT_VARIANCE); smaller in proportion where a weaker penalty lets logits vary more. Measured on real
embeddings (300, 1,450 and 1,980 rows, 3,044 and 4,324 columns, 2 and 4 classes, C from the default to 100 times that)
and on separable made-up data: probabilities of new rows are then within 4e-5 of the exact minimum's."""

LOOSE = 100.0
"""A gradient this many times above the tolerance counts as not converged."""

LOGIT_VARIANCE = 30.0
"""Prior variance of a logit where C is not given: C = 30 / (mean squared distance of a row from the mean row).

The penalty is a normal prior on the coefficients with variance C, so a sample at the typical distance has a logit of
variance C times that distance squared. Setting this, and not C, makes the strength independent of the number and scale
of the columns. Chosen on real embeddings by 5-fold grouped cross-validation (blood cells, 3 classes, and brain MRI, 4
classes; 250 and 1,431 or 2,416 rows; EfficientNet-Lite0 and 2, HOG and colour descriptors in 5 subsets of 112 to 4,436
columns), among 0.1, 1, 3, 10, 30, 100, 1,000 and 10,000, and on test data (seven encoders together; brain MRI and
brain regions, 300 rows, blood cells, 150 rows): AUROC at 10 and 30 is the same within .001, 1 and 1,000 are clearly
worse in AUROC or log-loss, and probabilities are too unsure rather than too sure: log-loss falls from 10 to 30 on all
three, .616 to .608, .612 to .544 and .137 to .121. It takes 40 % more steps. A choice by inner folds would cost
several times the fit, and could not keep groups whole, since a head is not told them."""

SLICE = 128
"""Rows of a matrix without entries above its diagonal that are multiplied at a time: few enough to leave most zeros
out, and to stay in a core's cache between the two products of a step. 762 rows, 8 columns: .40 ms for both products in
slices of 95 to 128 rows, 1.06 ms in one piece."""

PRODUCT, FEWEST = 320_000, 8
"""Multiplications in a product of a slice of another matrix, and rows below which it is left whole: OpenBLAS computes
small products at twice the speed of others with as few columns. 6,000 x 4,000, 8 columns: 24 ms for both products of a
step in slices of 16 rows, 58 ms in one piece; 756 x 544: .26 ms of 73, .61 ms."""

STEPS = 1000
"""Most L-BFGS steps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """Mean and leading principal directions of a matrix.

    Attributes
    ----------
    mean : ndarray of float64, shape (d,)
    directions : ndarray of float64, shape (d, k)
        Orthonormal columns.
    variances : ndarray of float64, shape (k,)
        Squared norm of the centred matrix along each direction, largest first.
    spread : float
        Mean squared distance of a row from the mean.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    variances: NDArray[np.float64]
    spread: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Coefficients, shape (d, width), intercepts, shape (width,), and whether the minimum was reached."""

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    converged: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class RowSlices:
    """A matrix cut into slices of rows, without the columns that are all 0 in a slice where it is triangular."""

    shape: tuple[int, ...]
    parts: tuple[tuple[slice, NDArray[np.float64]], ...]

    @classmethod
    def of(cls, X: NDArray[np.float64], *, width: int) -> Self:
        """Cut it for products with matrices of so many columns.

        What has nothing but zeros above the diagonal, as :class:`RowSpace` has, is cut for the zeros' sake.
        """
        n, d = X.shape
        lower = not X[0, 1:].any() and not np.triu(X, 1).any()
        size = SLICE if lower else min(SLICE, PRODUCT // (d * width))
        cuts = slices(n, size if size >= FEWEST else n)
        return cls(
            shape=X.shape,
            parts=tuple((rows, np.ascontiguousarray(X[rows, : rows.stop] if lower else X[rows])) for rows in cuts),
        )

    def times(self, coef: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``X @ coef``, column by column in memory, as sums over its few columns are quickest."""
        found = np.empty((coef.shape[1], self.shape[0])).T
        for rows, part in self.parts:
            np.matmul(part, coef[: part.shape[1]], out=found[rows])
        return found

    def across(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``X.T @ values``."""
        found, values = np.zeros((self.shape[1], values.shape[1])), np.ascontiguousarray(values)
        for rows, part in self.parts:
            found[: part.shape[1]] += part.T @ values[rows]
        return found


def spectrum(rows: RowSlices, *, seed: int = 0) -> Spectrum:
    """Find the leading principal directions by randomised subspace iteration.

    They only shape the coordinates of the search for the minimum: an inexact direction costs steps, not accuracy.
    """
    n, d = rows.shape
    mean = rows.across(np.ones((n, 1)))[:, 0] / n
    basis = np.random.default_rng(seed).standard_normal((d, min(DIRECTIONS + 8, n, d)))
    for _ in range(2):
        basis, _ = np.linalg.qr(basis)
        centred = rows.times(basis) - mean @ basis
        basis = rows.across(centred) - np.outer(mean, centred.sum(axis=0))
    basis, _ = np.linalg.qr(basis)
    centred = rows.times(basis) - mean @ basis
    variances, rotation = np.linalg.eigh(centred.T @ centred)
    leading = np.argsort(variances)[::-1][:DIRECTIONS]
    squares = sum(float(np.vdot(part, part)) for _, part in rows.parts)
    return Spectrum(
        mean=mean,
        directions=basis @ rotation[:, leading],
        variances=np.maximum(variances[leading], 0.0),
        spread=max(squares / n - float(mean @ mean), 0.0),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RowSpace:
    """Rows in as few coordinates as they need, with the same products of rows.

    The coordinates are the Cholesky factor of the products, with pivots, so that rows that are sums of others to its
    rounding error add none. Each row has one coordinate more than the row before, which halves what products with the
    matrix cost.

    Attributes
    ----------
    order : ndarray of int64, shape (n,)
        Which row comes where: a pivot is as far as any from the span of those before it.
    places : ndarray of float64, shape (n, r)
        The rows in that order; nothing but zeros above the diagonal.
    """

    order: NDArray[np.int64]
    places: NDArray[np.float64]

    @classmethod
    def of(cls, products: NDArray[np.float64]) -> Self | None:
        """Find it from the products of rows, shape (n, n), which are overwritten; None where all of them are 0."""
        from scipy.linalg import lapack

        # LAPACK's arrays are in column order: its upper factor is the lower one in row order.
        factor, order, rank, _ = lapack.dpstrf(products.T, lower=0, overwrite_a=1)
        if not rank:
            return None
        return cls(order=order.astype(np.int64) - 1, places=np.tril(factor.T[:, :rank]))

    def back(self, coef: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what each row, in the order it was given, adds to coefficients of the columns.

        Parameters
        ----------
        coef : ndarray of float64, shape (r, k)
            Coefficients of the places.

        Returns
        -------
        ndarray of float64, shape (n, k)
            ``X.T`` times it are coefficients of the columns of X that give the rows the same values.
        """
        from scipy.linalg import solve_triangular

        rank = self.places.shape[1]
        found = np.zeros((len(self.order), coef.shape[1]))
        found[self.order[:rank]] = solve_triangular(self.places[:rank], coef, lower=True, trans="T", check_finite=False)
        return found


def minimise(rows: RowSlices, problem: Classification, *, C: float, shape: Spectrum) -> Solution:
    """Minimise the weighted log-loss plus ``|W|^2 / (2 C)``.

    Parameters
    ----------
    rows : RowSlices
    problem : Classification
        Classes and weights of the rows.
    C : float
        Inverse strength of the penalty, as in scikit-learn.
    shape : Spectrum
        That of the rows.
    """
    indicators = problem.indicators.T
    share = indicators @ problem.weights / problem.weights.sum()
    coef = np.zeros((rows.shape[1], len(share)))
    intercept = np.log(share) if len(share) > 1 else np.log(share / (1 - share))
    probabilities = np.broadcast_to(share[:, None], indicators.shape)
    factor = min(1.0, LOGIT_VARIANCE / (C * shape.spread)) if shape.spread else 1.0
    gradient = np.inf
    for tolerance in TOLERANCES:
        curvature = float(((probabilities * (1 - probabilities)) @ problem.weights).mean()) / rows.shape[0]
        objective = _Objective.at(rows, problem, C=C, shape=shape, curvature=curvature)
        found = minimise_convex(objective, objective.pack(coef, intercept), tolerance=tolerance * factor, steps=STEPS)
        coef, intercept = objective.unpack(found.place)
        _, probabilities = log_loss(objective.logits(coef, intercept), objective.targets, problem.weights)
        gradient = float(np.abs(found.gradient).max())
    if len(intercept) > 1:
        intercept = intercept - intercept.mean()  # softmax does not see a shift; this is the one scikit-learn ends at
    return Solution(
        coef=coef,
        intercept=intercept - shape.mean @ coef,
        converged=gradient <= LOOSE * TOLERANCES[-1] * factor,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Objective:
    """Value and gradient as functions of the rescaled coefficients of the centred features.

    ``leading`` (k,), ``rest`` and ``free`` are the square roots of the inverse curvature along the leading directions,
    along all others (which are taken to be like the last of the leading ones), and of the intercepts. One curvature
    serves all classes: giving each its own breaks the symmetry of the softmax, and takes nearly twice the steps.
    """

    rows: RowSlices
    weights: NDArray[np.float64]
    targets: NDArray[np.float64]
    C: float
    shape: Spectrum
    leading: NDArray[np.float64]
    rest: float
    free: float

    @classmethod
    def at(
        cls, rows: RowSlices, problem: Classification, *, C: float, shape: Spectrum, curvature: float
    ) -> "_Objective":
        leading = 1 / np.sqrt(curvature * shape.variances + 1 / C)
        return cls(
            rows=rows,
            weights=problem.weights,
            targets=np.ascontiguousarray(problem.weights * problem.indicators.T),
            C=C,
            shape=shape,
            leading=leading,
            rest=float(leading[-1]),
            free=float(1 / np.sqrt(max(curvature, np.finfo(np.float64).tiny) * rows.shape[0])),
        )

    def _rescale(self, values: NDArray[np.float64], leading: NDArray[np.float64], rest: float) -> NDArray[np.float64]:
        V = self.shape.directions
        found = V @ ((leading - rest)[:, None] * (V.T @ values))
        found += rest * values
        return np.asarray(found)

    def pack(self, coef: NDArray[np.float64], intercept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return rescaled coefficients and intercepts as one vector."""
        return np.append(self._rescale(coef, 1 / self.leading, 1 / self.rest), intercept / self.free)

    def unpack(self, flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return coefficients and intercepts, of the centred features."""
        parameters = flat.reshape(-1, len(self.targets))
        return self._rescale(parameters[:-1], self.leading, self.rest), parameters[-1] * self.free

    def logits(self, coef: NDArray[np.float64], intercept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logits of all rows, shape (width, n)."""
        found = self.rows.times(coef).T
        found += (intercept - self.shape.mean @ coef)[:, None]
        return found

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        coef, intercept = self.unpack(flat)
        loss, errors = log_loss(self.logits(coef, intercept), self.targets, self.weights)
        errors *= self.weights
        errors -= self.targets
        total = errors.sum(axis=1)
        gradient = self.rows.across(errors.T)
        gradient -= self.shape.mean[:, None] * total
        gradient += coef / self.C
        value = loss + float(np.vdot(coef, coef)) / (2 * self.C)
        return value, np.append(self._rescale(gradient, self.leading, self.rest), total * self.free)


def log_loss(
    logits: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the weighted log-loss of all rows together, and the probabilities.

    Arrays have a row for each class: along a last axis that is as short, numpy takes sums ten times as slowly.

    Parameters
    ----------
    logits : ndarray of float64, shape (width, n)
        Overwritten.
    targets : ndarray of float64, shape (width, n)
        How surely a row is of a class, times the row's weight.
    weights : ndarray of float64, shape (n,)
    """
    if len(logits) == 1:
        positive, odds = logits > 0, np.exp(-np.abs(logits))
        sure = weights * positive - targets  # exactly 0 of a row on the side of its class, however far
        return float(np.log1p(odds[0]) @ weights + np.vdot(sure, logits)), np.where(positive, 1.0, odds) / (1 + odds)
    logits -= logits.max(axis=0)
    loss = -float(np.vdot(targets, logits))
    np.exp(logits, out=logits)
    total = logits.sum(axis=0)
    logits /= total
    return loss + float(np.log(total) @ weights), logits


SLOPE_STEPS = 100
"""Most steps to a slope; five to ten are usual, and forty halvings find any in its range."""

SLOPE_ERROR = 1e-5
"""Relative length of the last step to a slope. Newton's steps square it: what remains is of the order of 1e-10."""


def fit_slope(decisions: NDArray[np.float64], problem: Classification, *, bounds: tuple[float, float]) -> float:
    """Return the positive number times which decision values have the least weighted log-loss.

    Rows count as of their class only as surely as their number allows: one of N rows of a class with probability
    (N + 1) / (N + n_codes), after Platt (1999), Advances in Large Margin Classifiers, 61-74, who has two classes. If
    they counted for certain, rows that are told apart without an error would make the number as large as it may be:
    ridge on blood cells, 100 rows, two resamples, numbers up to e^6: log-loss on test data 1.03, and .21 so.

    The loss is convex in the number: Newton's steps, and where one would leave what is known to hold the minimum, the
    middle of that in logarithms.

    Parameters
    ----------
    decisions : ndarray of float64, shape (n, width)
        Of rows that the fit did not see: one column for two classes, else one per class.
    problem : Classification
        Classes and weights of the rows.
    bounds : tuple of float
        Range of the number's natural logarithm.
    """
    totals = np.bincount(problem.codes, weights=problem.weights, minlength=problem.n_codes)
    surely = np.where(np.eye(problem.n_codes), totals[:, None] + 1, 1) / (totals[:, None] + problem.n_codes)
    values, weights = np.ascontiguousarray(decisions.T), problem.weights
    targets = np.ascontiguousarray(weights * surely.T[-len(values) :, problem.codes])
    low, high = (float(bound) for bound in np.exp(bounds))
    typical = float(np.sqrt(np.mean(np.square(values))))
    slope, untried = min(max(1 / typical, low), high) if typical else low, {low, high}
    for _ in range(SLOPE_STEPS):
        _, probabilities = log_loss(slope * values, targets, weights)
        untried.discard(slope)
        inside = probabilities * values
        mean = inside.sum(axis=0)
        first = float(mean @ weights - np.vdot(targets, values))
        second = float((np.einsum("ij,ij->j", inside, values) - mean**2) @ weights)
        low, high = (slope, high) if first < 0 else (low, slope)
        if low == high:
            break
        step = slope - first / second if second > 0 else np.inf
        if not low < step < high:
            end = high if first < 0 else low
            step = end if end in untried else np.sqrt(low * high)
        before, slope = slope, float(step)
        if abs(slope - before) <= SLOPE_ERROR * slope:
            break
    return slope


@dataclass(frozen=True, kw_only=True)
class Logistic(OwnHead[FittedLinear]):
    """Logistic regression with an L2 penalty: one logit for two classes, a softmax for more, one fit per label.

    Parameters
    ----------
    C : float, optional
        Inverse strength of the penalty, as in scikit-learn. If it is not given, it follows from
        :data:`biofuse.heads.logistic.LOGIT_VARIANCE`: 30 over the mean squared distance of a row from the mean row.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; see :data:`biofuse.heads.base.ClassWeight`.
    """

    name = "logistic"
    fitted = FittedLinear
    turns = True
    limits = Limits(
        rows=200_000,
        cells=MATRIX_CELLS,
        classes=1_000,
        reason="the features are held in memory in float64 and read some hundred times",
    )

    C: float | None = None

    def __post_init__(self) -> None:
        if self.C is not None and not 0 < self.C < np.inf:
            raise SearchError(f"C must be positive, not {self.C}.")

    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> FittedLinear:  # noqa: ARG002
        """Minimise each problem's weighted log-loss plus penalty."""
        features, problems = np.ascontiguousarray(X, dtype=np.float64), setup.classifications
        # The penalised coefficients are sums of rows: with fewer rows than columns the minimum is sought among those
        # alone, which takes a fraction of the time and is the same minimum.
        space = RowSpace.of(features @ features.T) if len(features) < features.shape[1] else None
        rows = RowSlices.of(features if space is None else space.places, width=max(setup.outputs.widths, default=1))
        shape = spectrum(rows, seed=seed)
        C = self.C if self.C is not None else LOGIT_VARIANCE / (shape.spread or 1.0)
        solutions = [
            minimise(rows, problem if space is None else problem.take(space.order), C=C, shape=shape)
            for problem in problems
        ]
        stopped = sum(not solution.converged for solution in solutions)
        return FittedLinear.assemble(
            setup,
            [
                (each.coef if space is None else features.T @ space.back(each.coef), each.intercept)
                for each in solutions
            ],
            n_features=X.shape[1],
            penalty=[C] * len(solutions),
            notes=(f"{stopped} of {len(solutions)} fits stopped short of the minimum.",) if stopped else (),
        )
