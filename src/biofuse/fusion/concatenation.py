"""Concatenation: blocks side by side, the published fusion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import ArtifactError
from biofuse.core.linear import ROWS_AT_ONCE, Standard, slices
from biofuse.core.seals import Arrays, OwnPart, reading
from biofuse.fusion.base import fitting_block, require_training_rows


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

    def fit(self, blocks: Blocks, labels: NDArray[np.int64] | None = None) -> FittedConcatenation:  # noqa: ARG002
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
