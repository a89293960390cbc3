"""From the store to blocks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError
from biofuse.encoders.card import EncoderCard
from biofuse.store.parts import Contents
from biofuse.store.store import EmbeddingStore


def read_blocks(
    store: EmbeddingStore, cards: Sequence[EncoderCard], *, ids: NDArray[np.object_], contents: Contents
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

    Returns
    -------
    Blocks

    Raises
    ------
    AlignmentError
        If ids repeat, the two arrays differ in length, or a sample has no embedding.
    """
    if len(ids) != len(contents):
        raise AlignmentError(f"{len(ids)} sample ids for {len(contents)} content hashes.")
    return Blocks(ids=ids, matrices={card.name: store.open(card).read(contents) for card in cards})
