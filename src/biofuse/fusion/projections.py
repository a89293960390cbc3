"""Fusions that multiply each standardised block with a matrix of its own: components, whitening, projected mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import ArtifactError, SearchError
from biofuse.core.linear import ROWS_AT_ONCE, Standard, leading_eigenvectors, principal_components, signs, slices
from biofuse.core.seals import Arrays, OwnPart, reading
from biofuse.core.target import Labels
from biofuse.fusion.base import fitting_block, require_training_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedProjection:
    """Blocks standardised, projected, then put side by side or added up.

    Attributes
    ----------
    encoders : tuple of str
        In pool order.
    standards : tuple of Standard
        What standardises the columns of each block.
    axes : tuple of ndarray of float64, shape (columns of the block, columns kept of it)
        What each standardised block is multiplied with.
    summed : bool
        Whether the projections are added up (they then have the same width), not put side by side.
    """

    encoders: tuple[str, ...]
    standards: tuple[Standard, ...]
    axes: tuple[NDArray[np.float64], ...]
    summed: bool

    @property
    def dim(self) -> int:
        """Columns of the fused matrix."""
        widths = [axes.shape[1] for axes in self.axes]
        return widths[0] if self.summed else sum(widths)

    @property
    def columns(self) -> dict[str, slice]:
        """Columns of the fused matrix that belong to each encoder; empty where projections are added up."""
        if self.summed:
            return {}
        widths = [axes.shape[1] for axes in self.axes]
        ends = np.cumsum(widths).tolist()
        return {name: slice(end - width, end) for name, width, end in zip(self.encoders, widths, ends, strict=True)}

    def transform(self, blocks: Blocks) -> Matrix:
        """Standardise, project and fuse; see :meth:`~biofuse.fusion.base.FittedFusion.transform`."""
        blocks.only(self.encoders)  # names the missing ones
        columns = self.columns
        fused = np.zeros((blocks.n_samples, self.dim))
        for encoder, standard, axes in zip(self.encoders, self.standards, self.axes, strict=True):
            matrix = fitting_block(blocks, encoder, dim=len(axes))
            part = fused if self.summed else fused[:, columns[encoder]]
            for rows in slices(blocks.n_samples, ROWS_AT_ONCE):
                part[rows] += standard(matrix[rows]) @ axes
        return fused.astype(np.float32)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        arrays: Arrays = {}
        for number, (standard, axes) in enumerate(zip(self.standards, self.axes, strict=True)):
            arrays |= {f"mean_{number}": standard.mean, f"scale_{number}": standard.scale, f"axes_{number}": axes}
        return {"encoders": list(self.encoders), "summed": self.summed}, arrays

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted fusion whose state this is."""
        with reading("projection"):
            encoders = tuple(str(name) for name in json["encoders"])
            read = [
                [np.array(arrays[f"{name}_{number}"], dtype=np.float64) for name in ("mean", "scale", "axes")]
                for number in range(len(encoders))
            ]
            fitted = cls(
                encoders=encoders,
                standards=tuple(Standard(mean=mean, scale=scale) for mean, scale, _ in read),
                axes=tuple(axes for _, _, axes in read),
                summed=bool(json["summed"]),
            )
        widths = {axes.shape[1] for axes in fitted.axes if axes.ndim == 2}
        belong = all(
            axes.ndim == 2 and standard.mean.shape == standard.scale.shape == (len(axes),)
            for standard, axes in zip(fitted.standards, fitted.axes, strict=True)
        )
        if not belong or not widths or (fitted.summed and len(widths) > 1):
            raise ArtifactError("The saved projection's matrices do not fit its encoders.", remedy="Fit again.")
        return fitted


Scaling = Literal["none", "block"]

COMPONENTS = 64
"""Components kept of a block where no number is given. With a logistic head on all blocks of the starter pool, a few
splits each: on blood cells (80 and 250 rows) AUROC is within .0003 of that of all columns, on brain MRI (400 and 1,500
rows) .005 and .008 below (128 components: .003 and .003). Whitened, 32 are better on blood cells and 128 on brain MRI:
set it where it matters."""

SMALLEST_VARIANCE = 1e-8
"""Variance, relative to the largest of the block, below which a component is not whitened but dropped. Embeddings are
float32: rounding alone gives a column whose mean is a thousand times its deviation a relative variance near 1e-9, and
whitening would blow that up to the size of the signal."""


@dataclass(frozen=True, kw_only=True)
class PrincipalComponents(OwnPart[FittedProjection]):
    """Standardise every column, keep the leading principal components of every block, put them side by side.

    Equal, block by block, to scikit-learn's ``StandardScaler`` and ``PCA(svd_solver="full")``.

    Parameters
    ----------
    components : int, default 64
        Most components kept of a block; fewer where it has fewer columns, or not that many rows but one.
    scaling : {"none", "block"}, default "none"
        ``block``: every block is also divided by the square root of its number of columns, as in
        :class:`biofuse.fusion.concatenation.Concatenation`.
    """

    name = "pca"
    fitted = FittedProjection

    components: int = COMPONENTS
    scaling: Scaling = "none"

    def __post_init__(self) -> None:
        check_count("components", self.components)
        if self.scaling not in {"none", "block"}:
            raise SearchError(f"scaling must be 'none' or 'block', not {self.scaling!r}.")

    def fit(self, blocks: Blocks, labels: Labels | None = None) -> FittedProjection:  # noqa: ARG002
        """Learn standardisation and components; labels are not used. See :meth:`~biofuse.fusion.base.Fusion.fit`."""
        require_training_rows(blocks)
        found = [principal_components(matrix, count=self.components) for matrix in blocks.values()]
        axes = [part.axes / (np.sqrt(len(part.axes)) if self.scaling == "block" else 1.0) for part in found]
        standards = tuple(part.standard for part in found)
        return FittedProjection(encoders=blocks.encoders, standards=standards, axes=tuple(axes), summed=False)


@dataclass(frozen=True, kw_only=True)
class Whitening(PrincipalComponents):
    """As :class:`PrincipalComponents`, with every component brought to standard deviation 1 over the training rows.

    Equal, block by block, to scikit-learn's ``StandardScaler`` and ``PCA(svd_solver="full", whiten=True)``, but for
    components whose variance is below :data:`SMALLEST_VARIANCE` of the largest: those are dropped.

    Parameters
    ----------
    components : int, default 64
        Most components kept of a block.
    scaling : {"none", "block"}, default "none"
        ``block``: every block is also divided by the square root of its number of components.
    """

    name = "whitening"

    def fit(self, blocks: Blocks, labels: Labels | None = None) -> FittedProjection:  # noqa: ARG002
        """Learn standardisation and components; labels are not used. See :meth:`~biofuse.fusion.base.Fusion.fit`."""
        require_training_rows(blocks)
        found = [
            principal_components(matrix, count=self.components, smallest=SMALLEST_VARIANCE)
            for matrix in blocks.values()
        ]
        axes = [part.axes / np.sqrt(np.where(part.variances > 0, part.variances, 1)) for part in found]
        if self.scaling == "block":
            axes = [part / np.sqrt(part.shape[1]) for part in axes]
        standards = tuple(part.standard for part in found)
        return FittedProjection(encoders=blocks.encoders, standards=standards, axes=tuple(axes), summed=False)


def check_count(name: str, value: int) -> None:
    """Refuse a number of columns below 1.

    Raises
    ------
    SearchError
        Naming the option.
    """
    if value < 1:
        raise SearchError(f"{name} must be at least 1, not {value}.")


DIM = 64
"""Columns of the common space where no number is given."""

MEAN_COMPONENTS = 128
"""Principal components that a block enters with where no number is given."""

RIDGE = 1.0
"""Penalty where none is given, in units of the mean variance of the components that a block enters with. On blood cells
(80 and 250 rows) and brain MRI (400 rows) better in AUROC and log-loss than .1 and .01; 3 is as good (brain MRI, 1,500
rows)."""


@dataclass(frozen=True, kw_only=True)
class ProjectedMean(OwnPart[FittedProjection]):
    """Project every block to a space in which the blocks agree, and take the mean there.

    The spaces of two encoders have nothing to do with each other until they are aligned. Here the common space is the
    one that all blocks predict best by ridge regression: generalised canonical correlation in its MAXVAR form, that is
    the leading eigenvectors of the sum of the blocks' ridge hat matrices (Kettenring (1971), Biometrika 58:433-451;
    with truncation and penalty for wide blocks: Rastogi, Van Durme and Arora (2015), NAACL-HLT, 556-566). A block's
    projection is its ridge regression on them. Labels are not used. What only one encoder sees is mostly lost: that
    is what a mean does, and why concatenation is the default.

    Parameters
    ----------
    dim : int, default 64
        Most columns of the common space.
    components : int, default 128
        Most principal components that a block enters with.
    ridge : float, default 1.0
        Penalty of the regressions, in units of the mean variance of those components.
    """

    name = "mean"
    fitted = FittedProjection

    dim: int = DIM
    components: int = MEAN_COMPONENTS
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        check_count("dim", self.dim)
        check_count("components", self.components)
        if not 0 < self.ridge < np.inf:
            raise SearchError(f"ridge must be positive, not {self.ridge}.")

    def fit(self, blocks: Blocks, labels: Labels | None = None) -> FittedProjection:  # noqa: ARG002
        """Learn components, common space and projections. See :meth:`~biofuse.fusion.base.Fusion.fit`."""
        require_training_rows(blocks)
        found = [principal_components(matrix, count=self.components) for matrix in blocks.values()]
        # Along its components the products of a block are diagonal: Z root (Z root)' is n - 1 times its hat matrix.
        roots = [part.axes / np.sqrt(_penalised(part.variances, self.ridge)) for part in found]
        standards = tuple(part.standard for part in found)
        agreement = _agreement(blocks, standards, roots)
        rounding = len(agreement) * float(np.finfo(np.float64).eps)
        values, vectors = leading_eigenvectors(agreement, self.dim, smallest=rounding)
        if not len(values):  # no block has any variance
            values, vectors = np.zeros(1), np.zeros((len(agreement), 1))
        ends = np.cumsum([root.shape[1] for root in roots])
        axes = [
            root @ (vectors[end - root.shape[1] : end] * np.sqrt(values)) / len(found)
            for root, end in zip(roots, ends, strict=True)
        ]
        sign = signs(np.vstack(axes))
        return FittedProjection(
            encoders=blocks.encoders, standards=standards, axes=tuple(part * sign for part in axes), summed=True
        )


def _penalised(variances: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    total = variances + ridge * variances.mean()
    return np.where(total > 0, total, 1.0)  # a block without variance has a single column of zeros


def _agreement(
    blocks: Blocks, standards: tuple[Standard, ...], roots: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the products of the blocks' columns ``Z root``, those of all blocks side by side, over n - 1."""
    width = sum(root.shape[1] for root in roots)
    products = np.zeros((width, width))
    for rows in slices(blocks.n_samples, ROWS_AT_ONCE):
        projected = [
            standard(matrix[rows]) @ root
            for standard, matrix, root in zip(standards, blocks.values(), roots, strict=True)
        ]
        stacked = np.hstack(projected)
        products += stacked.T @ stacked
    return products / max(blocks.n_samples - 1, 1)
