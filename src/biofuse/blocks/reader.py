"""From the store to blocks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError
from biofuse.core.hashing import Contents
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.store.parts import locate_ids
from biofuse.store.reading import ROWS_AT_ONCE, Memory
from biofuse.store.store import EmbeddingStore, EncoderFolder


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockReader:
    """Stored embeddings of several encoders, joined on samples but not yet read.

    Holds ids and content hashes, some 100 bytes per sample, and no embedding.

    Attributes
    ----------
    store : EmbeddingStore
    cards : tuple of EncoderCard
        The pool; blocks come in this order.
    ids : ndarray of str (dtype object), shape (n,)
        Sample ids: the rows of every block, in this order.
    contents : ndarray of S16, shape (n,)
        Content hash of each sample.
    precisions : mapping of str to {"fp32", "fp16", "bf16"}
        What each encoder's embeddings were computed in; fp32 for those not named.

    Raises
    ------
    AlignmentError
        If ids repeat, or the two arrays differ in length.
    """

    store: EmbeddingStore
    cards: tuple[EncoderCard, ...]
    ids: NDArray[np.object_]
    contents: Contents
    precisions: Mapping[str, Precision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.contents):
            raise AlignmentError(f"{len(self.ids)} sample ids for {len(self.contents)} content hashes.")
        repeated = np.flatnonzero(locate_ids(self.ids, self.ids) != np.arange(len(self.ids)))
        if len(repeated):
            raise AlignmentError(f"{len(repeated)} sample ids occur again, e.g. {self.ids[repeated[0]]!r}.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dims(self) -> dict[str, int]:
        """Columns of each block."""
        return {card.name: card.dim for card in self.cards}

    @property
    def n_bytes(self) -> int:
        """Size of all blocks, in bytes."""
        return 4 * len(self) * sum(self.dims.values())

    def folders(self) -> dict[str, EncoderFolder]:
        """Return where each encoder's embeddings lie."""
        return {
            card.name: self.store.open(card, precision=self.precisions.get(card.name, "fp32")) for card in self.cards
        }

    def missing(self) -> dict[str, NDArray[np.bool_]]:
        """Tell which samples have no embedding, per encoder, shape (n,) each."""
        return {name: folder.missing(self.contents) for name, folder in self.folders().items()}

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Return the reader of the given rows (indices or a boolean mask)."""
        return replace(self, ids=self.ids[rows], contents=self.contents[rows])

    def join(self, ids: Sequence[str] | NDArray[np.object_]) -> Self:
        """Return the reader of the given ids, in the order given.

        Raises
        ------
        AlignmentError
            If an id is missing here or asked for twice.
        """
        wanted = np.asarray(ids, dtype=object)
        rows = locate_ids(wanted, self.ids)
        absent = np.flatnonzero(rows < 0)
        if len(absent):
            raise AlignmentError(f"{len(absent)} sample ids have no embeddings, e.g. {wanted[absent[0]]!r}.")
        return self.take(rows)

    def read(self, *, memory: Memory = "auto") -> Blocks:
        """Read all blocks; see :meth:`biofuse.store.EncoderFolder.read` for where they are held.

        Raises
        ------
        AlignmentError
            If a sample has no embedding.
        """
        matrices = {name: folder.read(self.contents, memory=memory) for name, folder in self.folders().items()}
        return Blocks(ids=self.ids, matrices=matrices)

    def iter_blocks(self, *, rows: int = ROWS_AT_ONCE) -> Iterator[Blocks]:
        """Read the blocks piece by piece, all encoders of a piece at once.

        Parameters
        ----------
        rows : int, default 65536
            Most samples of a piece.

        Yields
        ------
        Blocks
            Of the next samples, in order.

        Raises
        ------
        AlignmentError
            If a sample has no embedding; before the first piece.
        """
        pieces = {name: folder.iter_blocks(self.contents, rows=rows) for name, folder in self.folders().items()}
        for start in range(0, len(self), rows):
            ids = self.ids[start : start + rows]
            yield Blocks(ids=ids, matrices={name: next(blocks) for name, blocks in pieces.items()})


def read_blocks(
    store: EmbeddingStore,
    cards: Sequence[EncoderCard],
    *,
    ids: NDArray[np.object_],
    contents: Contents,
    precisions: Mapping[str, Precision] | None = None,
    memory: Memory = "auto",
) -> Blocks:
    """Join the embeddings of several encoders on the content of each sample.

    Parameters
    ----------
    store : EmbeddingStore
    cards : sequence of EncoderCard
        The pool; blocks come in this order.
    ids : ndarray of str (dtype object), shape (n,)
        Sample ids: the rows of every block, in this order.
    contents : ndarray of S16, shape (n,)
        Content hash of each sample.
    precisions : mapping of str to {"fp32", "fp16", "bf16"}, optional
        What each encoder's embeddings were computed in; fp32 for those not named.
    memory : {"auto", "ram", "map"}
        See :meth:`biofuse.store.EncoderFolder.read`.

    Returns
    -------
    Blocks

    Raises
    ------
    AlignmentError
        If ids repeat, the two arrays differ in length, or a sample has no embedding.
    """
    reader = BlockReader(store=store, cards=tuple(cards), ids=ids, contents=contents, precisions=precisions or {})
    return reader.read(memory=memory)
