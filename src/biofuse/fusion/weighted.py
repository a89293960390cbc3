"""Concatenation of standardised blocks, each with a weight learned from the labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import ArtifactError, DataError
from biofuse.core.seeds import hash_order
from biofuse.fusion.components import check_count
from biofuse.fusion.concatenation import Concatenation, FittedConcatenation
from biofuse.fusion.kernel_weights import Matrix64, kernel_weights
from biofuse.fusion.protocol import Arrays

ROWS = 500
"""Training rows from which weights are learned where no number is given. There are only as many weights as encoders,
and the time grows with the cube of the rows: about a second for nine blocks at 500, ten seconds at 1,000."""


@dataclass(frozen=True, kw_only=True)
class WeightedConcatenation:
    """Standardise every column, then put the blocks side by side, each as strong as it helps to predict the labels.

    A block of d columns is multiplied by ``sqrt(weight / d)``, so that the inner products of fused rows are the
    weighted sum of those of the blocks. Weights are non-negative, add up to 1, and are those with which kernel ridge
    regression on the labels (one column of zeros and ones per class or label) predicts each row best when it is left
    out; see :mod:`biofuse.fusion.kernel_weights`. Near-duplicate rows make leaving one out optimistic.

    Parameters
    ----------
    rows : int, default 500
        Most training rows to learn the weights from. Of more, those that come first by a hash of their ids are taken;
        means and standard deviations are always those of all rows.
    """

    rows: int = ROWS

    def __post_init__(self) -> None:
        check_count("rows", self.rows)

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return "weighted"

    @property
    def options(self) -> dict[str, Any]:
        """Its options as JSON values."""
        return {"rows": self.rows}

    def fit(self, blocks: Blocks, labels: NDArray[np.int64] | None = None) -> "FittedWeightedConcatenation":
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
        return FittedWeightedConcatenation(plain=plain, shares=kernel_weights(kernels, _targets(labels[rows])))

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "FittedWeightedConcatenation":
        """Build a fitted weighted concatenation from its state."""
        return FittedWeightedConcatenation.restore(json, arrays)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedWeightedConcatenation:
    """A weighted concatenation after fitting.

    Attributes
    ----------
    plain : FittedConcatenation
        The same with equal blocks.
    shares : ndarray of float64, shape (n_encoders,)
        The weights, in pool order.
    """

    plain: FittedConcatenation
    shares: Matrix64

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each encoder; they add up to 1."""
        return dict(zip(self.encoders, self.shares.tolist(), strict=True))

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders it takes, in pool order."""
        return self.plain.encoders

    @property
    def dim(self) -> int:
        """Columns of the fused matrix."""
        return self.plain.dim

    @property
    def columns(self) -> dict[str, slice]:
        """Columns of the fused matrix that belong to each encoder."""
        return self.plain.columns

    def transform(self, blocks: Blocks) -> Matrix:
        """Standardise, weigh and concatenate; see :meth:`biofuse.fusion.FittedFusion.transform`."""
        fused = self.plain.transform(blocks)
        fused *= np.repeat(np.sqrt(self.shares), self.plain.dims).astype(np.float32)
        return fused

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        json, arrays = self.plain.state()
        return json, arrays | {"weights": self.shares}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted fusion whose state this is."""
        plain = FittedConcatenation.restore(json, arrays)
        try:
            shares = np.array(arrays["weights"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"The saved weights are malformed: {error!r}.", remedy="Fit again.") from error
        if shares.shape != (len(plain.encoders),) or not (shares >= 0).all():
            raise ArtifactError("The saved weights do not fit the encoders.", remedy="Fit again.")
        return cls(plain=plain, shares=shares)


def _targets(labels: NDArray[np.int64]) -> Matrix64:
    """Return one centred column for each label, or each class that occurs."""
    columns = labels if labels.ndim == 2 else labels[:, None] == np.unique(labels)
    targets = columns.astype(np.float64)
    return np.asarray(targets - targets.mean(axis=0))


def _centred_kernel(part: Matrix) -> Matrix64:
    rows = part.astype(np.float64)
    rows -= rows.mean(axis=0)
    return rows @ rows.T
