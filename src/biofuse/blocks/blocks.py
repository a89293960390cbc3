"""Matrices of several encoders over one ordered set of samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError

Matrix = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks(Mapping[str, Matrix]):
    """A read-only mapping from encoder name to block, all with the same rows.

    Attributes
    ----------
    ids : ndarray of str (dtype object), shape (n,)
        Sample ids; row i of every block belongs to ``ids[i]``.
    matrices : mapping of str to ndarray of float32, shape (n, dim)
        In pool order.
    """

    ids: NDArray[np.object_]
    matrices: Mapping[str, Matrix]

    def __post_init__(self) -> None:
        if len(set(self.ids.tolist())) != len(self.ids):
            raise AlignmentError("Sample ids of a block are not unique.")
        for name, matrix in self.matrices.items():
            if matrix.ndim != 2 or len(matrix) != len(self.ids):
                raise AlignmentError(f"Block {name} has shape {matrix.shape} for {len(self.ids)} samples.")

    def __getitem__(self, encoder: str) -> Matrix:
        return self.matrices[encoder]

    def __iter__(self) -> Iterator[str]:
        return iter(self.matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoder names in pool order."""
        return tuple(self.matrices)

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return len(self.ids)

    @property
    def dims(self) -> dict[str, int]:
        """Columns of each block."""
        return {name: matrix.shape[1] for name, matrix in self.matrices.items()}

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Return the given rows of every block (indices or a boolean mask)."""
        return type(self)(ids=self.ids[rows], matrices={name: matrix[rows] for name, matrix in self.matrices.items()})

    def only(self, encoders: Sequence[str]) -> Self:
        """Return the blocks of the named encoders, in this object's order whatever the order of the names.

        Raises
        ------
        AlignmentError
            If an encoder has no block here.
        """
        missing = [name for name in encoders if name not in self.matrices]
        if missing:
            raise AlignmentError(f"No block for encoder(s) {', '.join(missing)}; there are {', '.join(self.encoders)}.")
        return type(self)(
            ids=self.ids, matrices={name: m for name, m in self.matrices.items() if name in set(encoders)}
        )

    def join(self, ids: Sequence[str] | NDArray[np.object_]) -> Self:
        """Return the rows of the given ids, in the order given.

        Raises
        ------
        AlignmentError
            If an id is missing here or asked for twice.
        """
        position = {sample: row for row, sample in enumerate(self.ids)}
        missing = [sample for sample in ids if sample not in position]
        if missing:
            raise AlignmentError(f"{len(missing)} sample ids have no embeddings, e.g. {missing[0]!r}.")
        return self.take(np.array([position[sample] for sample in ids], dtype=np.int64))
