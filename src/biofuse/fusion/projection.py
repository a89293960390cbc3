"""The fitted form of every fusion that multiplies each standardised block with a matrix of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import ArtifactError
from biofuse.fusion.protocol import Arrays
from biofuse.fusion.standard import ROWS_AT_ONCE, Matrix64, Standard, fitting_block, slices


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
    axes: tuple[Matrix64, ...]
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
        """Standardise, project and fuse; see :meth:`biofuse.fusion.FittedFusion.transform`."""
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
        try:
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
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"The saved projection is malformed: {error!r}.", remedy="Fit again.") from error
        widths = {axes.shape[1] for axes in fitted.axes if axes.ndim == 2}
        belong = all(
            axes.ndim == 2 and standard.mean.shape == standard.scale.shape == (len(axes),)
            for standard, axes in zip(fitted.standards, fitted.axes, strict=True)
        )
        if not belong or not widths or (fitted.summed and len(widths) > 1):
            raise ArtifactError("The saved projection's matrices do not fit its encoders.", remedy="Fit again.")
        return fitted
