"""What turns the blocks of a subset into one matrix."""

import functools
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import AlignmentError, DataError
from biofuse.core.registry import Registry
from biofuse.core.seals import Arrays
from biofuse.core.target import Labels


class FittedFusion(Protocol):
    """A fusion after fitting; immutable."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders it takes, in pool order."""

    @property
    def dim(self) -> int:
        """Columns of the fused matrix."""

    @property
    def columns(self) -> Mapping[str, slice]:
        """Columns of the fused matrix that belong to each encoder; empty where they cannot be told apart."""

    def transform(self, blocks: Blocks) -> Matrix:
        """Fuse the blocks of its encoders; other blocks are ignored.

        Parameters
        ----------
        blocks : Blocks
            Any number of rows, zero included.

        Returns
        -------
        ndarray of float32, shape (n, dim)
            Row i depends on row i of the blocks alone.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or one of another width than at fitting.
        DataError
            If a value is not finite.
        """

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return everything :meth:`restore` needs: JSON values and arrays."""

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted fusion whose :meth:`state` this is.

        Raises
        ------
        ArtifactError
            If the state is malformed.
        """


class Fusion(Protocol):
    """How blocks become one matrix; immutable, fitted into a new object."""

    @property
    def name(self) -> str:
        """The name it is registered under."""

    @property
    def options(self) -> dict[str, Any]:
        """Its options as JSON values, for records and resume keys."""

    def fit(self, blocks: Blocks, labels: Labels | None = None) -> FittedFusion:
        """Learn from training rows.

        Parameters
        ----------
        blocks : Blocks
            The blocks of the subset, and of no other encoder.
        labels : ndarray of int64, optional
            For fusions that learn from labels: class indices, shape (n,); zeros and ones, shape (n, n_labels), for
            multi-label tasks.

        Raises
        ------
        DataError
            If there are no rows, a value is not finite, or labels are needed and not given.
        """

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedFusion:
        """Build a fitted fusion of this kind from its state, whatever this object's own options."""


def require_training_rows(blocks: Blocks) -> None:
    """Refuse blocks that a fusion cannot be fitted on.

    Raises
    ------
    DataError
        If there are no rows or no blocks, or a value is not finite.
    """
    if not blocks.encoders or not blocks.n_samples:
        raise DataError(f"Nothing to fuse: {len(blocks)} blocks of {blocks.n_samples} rows.")
    for encoder in blocks.encoders:
        blocks.require_finite(encoder)


def fitting_block(blocks: Blocks, encoder: str, *, dim: int) -> Matrix:
    """Return the block of an encoder, if it is one that the fusion can transform.

    Raises
    ------
    AlignmentError
        If it has another width than at fitting.
    DataError
        If a value is not finite.
    """
    matrix = blocks[encoder]
    if matrix.shape[1] != dim:
        raise AlignmentError(
            f"The block of {encoder} has {matrix.shape[1]} columns; the fusion was fitted with {dim}.",
            remedy="Embed with the same encoder, weights and output layer as at fitting.",
        )
    blocks.require_finite(encoder)
    return matrix


ENTRY_POINT_GROUP = "biofuse.fusions"
"""Each entry point of this group is a class or function that, called without arguments, gives a fusion."""

FUSIONS = {
    "concatenation": "biofuse.fusion.concatenation:Concatenation",
    "pca": "biofuse.fusion.projections:PrincipalComponents",
    "whitening": "biofuse.fusion.projections:Whitening",
    "weighted": "biofuse.fusion.concatenation:WeightedConcatenation",
    "mean": "biofuse.fusion.projections:ProjectedMean",
}
"""BioFuse's own fusions, the default first. A new one is a class in a file of its own and a row here."""


@functools.cache
def fusion_registry() -> "Registry[Callable[[], Fusion]]":
    """Return the registry that :func:`make_fusion` uses."""
    own = {name: EntryPoint(name, where, ENTRY_POINT_GROUP).load for name, where in FUSIONS.items()}
    return Registry(kind="fusion", group=ENTRY_POINT_GROUP, own=own)


def make_fusion(fusion: "str | Fusion") -> "Fusion":
    """Return the fusion of that name with its default options, or the object given.

    Parameters
    ----------
    fusion : str or Fusion
        A registered name (see :data:`FUSIONS`; other packages may bring more), or a fusion.

    Raises
    ------
    SearchError
        If no fusion has that name.
    """
    return fusion_registry().get(fusion)() if isinstance(fusion, str) else fusion
