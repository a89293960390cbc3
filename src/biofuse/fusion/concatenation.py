"""Concatenation, the published fusion; and with a weight for each block, by multiple-kernel ridge regression."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import ArtifactError, DataError
from biofuse.core.hashing import hash_order
from biofuse.core.linear import ROWS_AT_ONCE, Standard, slices
from biofuse.core.ridge import WHOLE, row_path
from biofuse.core.seals import Arrays, OwnPart, reading
from biofuse.core.target import Labels
from biofuse.fusion.base import fitting_block, require_training_rows
from biofuse.fusion.projections import check_count


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedConcatenation:
    """A concatenation after fitting.

    Attributes
    ----------
    encoders : tuple of str
        In pool order.
    dims : tuple of int
        Columns of each block.
    mean, scale : ndarray of float64, shape (dim,)
        What is subtracted from each column, and what it is then divided by.
    """

    encoders: tuple[str, ...]
    dims: tuple[int, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def dim(self) -> int:
        """Columns of the fused matrix."""
        return sum(self.dims)

    @property
    def columns(self) -> dict[str, slice]:
        """Columns of the fused matrix that belong to each encoder."""
        ends = np.cumsum(self.dims).tolist()
        return {name: slice(end - dim, end) for name, dim, end in zip(self.encoders, self.dims, ends, strict=True)}

    def transform(self, blocks: Blocks) -> Matrix:
        """Standardise and concatenate; see :meth:`~biofuse.fusion.base.FittedFusion.transform`."""
        blocks.only(self.encoders)  # names the missing ones
        fused = np.empty((blocks.n_samples, self.dim), dtype=np.float32)
        for (encoder, columns), dim in zip(self.columns.items(), self.dims, strict=True):
            matrix = fitting_block(blocks, encoder, dim=dim)
            for rows in slices(blocks.n_samples, ROWS_AT_ONCE):
                fused[rows, columns] = (matrix[rows] - self.mean[columns]) / self.scale[columns]
        return fused

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        return {"encoders": list(self.encoders), "dims": list(self.dims)}, {"mean": self.mean, "scale": self.scale}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted fusion whose state this is."""
        with reading("concatenation"):
            fitted = cls(
                encoders=tuple(str(name) for name in json["encoders"]),
                dims=tuple(int(dim) for dim in json["dims"]),
                mean=np.array(arrays["mean"], dtype=np.float64),
                scale=np.array(arrays["scale"], dtype=np.float64),
            )
        shape = (fitted.dim,)
        if len(fitted.encoders) != len(fitted.dims) or fitted.mean.shape != shape or fitted.scale.shape != shape:
            raise ArtifactError("The saved concatenation's columns do not fit its encoders.", remedy="Fit again.")
        return fitted


@dataclass(frozen=True, kw_only=True)
class Concatenation(OwnPart[FittedConcatenation]):
    """Standardise every column, then put the blocks side by side in pool order.

    Parameters
    ----------
    scaling : {"none", "block"}, default "none"
        ``none``: every column counts the same, so that an encoder with twice the columns has twice the weight.
        ``block``: every block is also divided by the square root of its number of columns, so that every encoder
        counts the same.
    standardise : bool, default True
        Whether to bring every column to mean 0 and standard deviation 1 over the training rows.
    """

    name = "concatenation"
    fitted = FittedConcatenation

    scaling: Literal["none", "block"] = "none"
    standardise: bool = True

    def fit(self, blocks: Blocks, labels: Labels | None = None) -> FittedConcatenation:  # noqa: ARG002
        """Learn means and standard deviations, in float64; labels are not used.

        Columns without variance get mean and divisor as in scikit-learn's ``StandardScaler``: they become 0 on the
        training rows.

        Raises
        ------
        DataError
            If there are no rows or no blocks, or a value is not finite.
        """
        require_training_rows(blocks)
        means, scales = [], []
        for matrix in blocks.values():
            dim = matrix.shape[1]
            standard = Standard.of(matrix) if self.standardise else Standard(mean=np.zeros(dim), scale=np.ones(dim))
            means.append(standard.mean)
            scales.append(standard.scale * np.sqrt(dim) if self.scaling == "block" else standard.scale)
        return FittedConcatenation(
            encoders=blocks.encoders,
            dims=tuple(blocks.dims.values()),
            mean=np.concatenate(means),
            scale=np.concatenate(scales),
        )


SPREAD = 2.0
"""Standard deviation of the normal prior on the logarithm of a weight about their mean, so that one weight being seven
times another is no surprise. It decides little where there are many rows; with few it keeps weights from running off
to 0, and where labels tell nothing it leaves them equal. On real embeddings (brain MRI, 400 and 1,500 rows, logistic
and ridge heads) 1 and 3 differ by less than .001 in AUROC, to the advantage of 1."""

STARTS = tuple(float(value) for value in 10.0 ** np.arange(-4, 3.5, 0.5))
"""Totals of equal weights tried as the start: the inverse of the relative penalties that the ridge head tries."""

BOUNDS = (float(np.log(1e-8)), float(np.log(1e4)))
"""Range of the logarithm of a weight before they are divided by their sum."""

STEPS = 200
"""Most L-BFGS steps."""

TOLERANCE = 1e-2
"""Largest gradient entry at the end: what the log-likelihood gains as a weight grows by one per cent, times a hundred.
On made-up blocks weights are then within 2e-4 of the minimum's, after 1 to 45 evaluations."""


def kernel_weights(kernels: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the weights that predict each row best from all others.

    Parameters
    ----------
    kernels : ndarray of float64, shape (n_kernels, n, n)
        Of comparable size; rows and columns of each sum to 0.
    targets : ndarray of float64, shape (n, n_columns)
        Columns sum to 0.

    Returns
    -------
    ndarray of float64, shape (n_kernels,)
        Non-negative, with sum 1. Equal where there is nothing to learn from: targets without variance, or fewer than
        three rows.
    """
    from scipy.optimize import minimize

    count, n = len(kernels), len(targets)
    total = float(np.square(targets).sum())
    if count == 1 or n < 3 or total <= n * np.finfo(np.float64).eps:
        return np.full(count, 1 / count)
    scaled = targets / np.sqrt(total)
    start = np.log(_best_start(kernels, scaled) / count)
    result = minimize(
        objective,
        np.full(count, start, dtype=np.float64),
        args=(kernels, scaled),
        jac=True,
        method="L-BFGS-B",
        bounds=[BOUNDS] * count,
        options={"maxiter": STEPS, "gtol": TOLERANCE, "ftol": 0.0},
    )
    weights = np.exp(result.x)
    return np.asarray(weights / weights.sum())


def objective(
    logs: NDArray[np.float64], kernels: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Return minus the logarithm of likelihood times prior, and its derivative in the logarithms of the weights.

    The likelihood is that of the leave-one-out errors, normal with a variance of their own.
    """
    n = len(targets)
    G = _inverse(np.tensordot(np.exp(logs), kernels, axes=1))
    dual = G @ targets
    leaving = np.diag(G) - 1 / n
    errors = dual / leaving[:, None]
    total = float(np.square(errors).sum())
    # d errors = d dual / leaving - errors * d diag(G) / leaving, and dG = -G dK G.
    outward = G @ (errors / leaving[:, None])
    inward = np.square(errors).sum(axis=1) / leaving
    slope = (G * inward) @ G - outward @ dual.T
    off = logs - logs.mean()
    value = 0.5 * n * np.log(total) + float(off @ off) / (2 * SPREAD**2)
    change = np.exp(logs) * (kernels.reshape(len(kernels), -1) @ slope.ravel())
    return value, np.asarray(n * change / total + off / SPREAD**2)


def _best_start(kernels: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Return the total of equal weights with the least leave-one-out error; the smallest among equals."""
    mean = kernels.mean(axis=0)
    spread = float(np.trace(mean)) / len(mean) or 1.0
    relative = 1 / (np.array(STARTS) * spread)
    path = row_path(mean, targets=targets, weights=np.ones(len(mean)), relative=relative)
    return STARTS[path.best(WHOLE)[0]]


def _inverse(K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverse of ``K + 1``, K positive semi-definite."""
    from scipy.linalg import lapack

    K.flat[:: len(K) + 1] += 1
    factor, failed = lapack.dpotrf(K, lower=0, overwrite_a=1)
    inverse, singular = lapack.dpotri(factor, lower=0, overwrite_c=1)
    if failed or singular:
        raise np.linalg.LinAlgError("The weighted kernels are not positive to rounding.")
    upper = np.triu(inverse)
    return np.asarray(upper + np.triu(upper, 1).T, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedWeightedConcatenation(FittedConcatenation):
    """A weighted concatenation after fitting: as :class:`FittedConcatenation`, and the weights.

    Attributes
    ----------
    shares : ndarray of float64, shape (n_encoders,)
        The weights, in pool order.
    """

    shares: NDArray[np.float64]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each encoder; they add up to 1."""
        return dict(zip(self.encoders, self.shares.tolist(), strict=True))

    def transform(self, blocks: Blocks) -> Matrix:
        """Standardise, weigh and concatenate; see :meth:`~biofuse.fusion.base.FittedFusion.transform`."""
        fused = super().transform(blocks)
        fused *= np.repeat(np.sqrt(self.shares), self.dims).astype(np.float32)
        return fused

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        json, arrays = super().state()
        return json, arrays | {"weights": self.shares}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted fusion whose state this is."""
        plain = FittedConcatenation.restore(json, arrays)
        with reading("weights"):
            shares = np.array(arrays["weights"], dtype=np.float64)
        if shares.shape != (len(plain.encoders),) or not (shares >= 0).all():
            raise ArtifactError("The saved weights do not fit the encoders.", remedy="Fit again.")
        return cls(**vars(plain), shares=shares)


ROWS = 500
"""Training rows from which weights are learned where no number is given. There are only as many weights as encoders,
and the time grows with the cube of the rows: about a second for nine blocks at 500, ten seconds at 1,000."""


@dataclass(frozen=True, kw_only=True)
class WeightedConcatenation(OwnPart[FittedWeightedConcatenation]):
    """Standardise every column, then put the blocks side by side, each as strong as it helps to predict the labels.

    A block of d columns is multiplied by ``sqrt(weight / d)``, so that the inner products of fused rows are the
    weighted sum of those of the blocks. Weights are non-negative, add up to 1, and are those with which kernel ridge
    regression on the labels (one column of zeros and ones per class or label) predicts each row best when it is left
    out; see :mod:`biofuse.fusion.concatenation`. Near-duplicate rows make leaving one out optimistic.

    Parameters
    ----------
    rows : int, default 500
        Most training rows to learn the weights from. Of more, those that come first by a hash of their ids are taken;
        means and standard deviations are always those of all rows.
    """

    name = "weighted"
    fitted = FittedWeightedConcatenation

    rows: int = ROWS

    def __post_init__(self) -> None:
        check_count("rows", self.rows)

    def fit(self, blocks: Blocks, labels: Labels | None = None) -> FittedWeightedConcatenation:
        """Learn means, standard deviations and weights.

        Parameters
        ----------
        blocks : Blocks
            Training rows.
        labels : ndarray of int64, shape (n,) or (n, n_labels)
            Class indices; zeros and ones for multi-label tasks.

        Raises
        ------
        DataError
            If there are no labels, not one for each row, no rows, or a value is not finite.
        """
        if labels is None or len(labels) != blocks.n_samples:
            raise DataError(
                f"The fusion {self.name!r} learns from labels: {blocks.n_samples} are needed, "
                f"{0 if labels is None else len(labels)} were given."
            )
        plain = Concatenation(scaling="block").fit(blocks)
        rows = hash_order([str(name) for name in blocks.ids], seed=0)[: self.rows]
        fused = plain.transform(blocks.take(rows))
        kernels = np.stack([_centred_kernel(fused[:, columns]) for columns in plain.columns.values()])
        return FittedWeightedConcatenation(**vars(plain), shares=kernel_weights(kernels, _targets(labels[rows])))


def _targets(labels: Labels) -> NDArray[np.float64]:
    """Return one centred column for each label, or each class that occurs; of values one of variance 1 for each."""
    if np.issubdtype(labels.dtype, np.floating):
        values = labels.reshape(len(labels), -1).astype(np.float64)
        return Standard.of(values)(values)
    columns = labels if labels.ndim == 2 else labels[:, None] == np.unique(labels)
    targets = columns.astype(np.float64)
    return np.asarray(targets - targets.mean(axis=0))


def _centred_kernel(part: Matrix) -> NDArray[np.float64]:
    rows = part.astype(np.float64)
    rows -= rows.mean(axis=0)
    return rows @ rows.T
