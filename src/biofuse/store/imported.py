"""Rows that were made elsewhere, on their way into the store."""

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError
from biofuse.store.folder import EncoderFolder
from biofuse.store.parts import Contents
from biofuse.store.reading import in_blocks

PART_ROWS = 4096
"""Rows of a part, as an extraction writes them."""

TOLERANCE = 1e-5
"""How far two embeddings of one image may differ, relative to the larger value, and still be the same."""


def first_of_each(
    contents: Contents, embeddings: NDArray[np.float32], ids: NDArray[np.object_], *, name: str
) -> NDArray[np.int64]:
    """Return the rows at which each content occurs first; others with the same content must have the same embedding.

    Raises
    ------
    AlignmentError
        If identical images have different embeddings.
    """
    _, first, which = np.unique(contents, return_index=True, return_inverse=True)
    twin = first[which.reshape(-1)]
    rows = np.flatnonzero(twin != np.arange(len(contents)))
    wrong = rows[_differ(embeddings[rows], embeddings[twin[rows]])]
    if len(wrong):
        raise AlignmentError(
            f"{ids[twin[wrong[0]]]!r} and {ids[wrong[0]]!r} are the same image, but the embeddings given for {name} "
            f"differ ({len(wrong)} such pairs).",
            remedy="Embeddings belong to images: check how the ids of the file were matched.",
        )
    return np.sort(first)


def add_rows(
    folder: EncoderFolder, contents: Contents, embeddings: NDArray[np.float32], ids: NDArray[np.object_]
) -> int:
    """Write the rows that are not there yet; those that are must be the same.

    Parameters
    ----------
    folder : EncoderFolder
    contents : ndarray of S16, shape (n,)
        Distinct.
    embeddings : ndarray of float32, shape (n, dim)
    ids : ndarray of str, shape (n,)
        For messages.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    AlignmentError
        If the store has another embedding for one of these images; nothing is written then.
    DiskError
        If the disk is full or read-only.
    """
    new = folder.missing(contents)
    known = np.flatnonzero(~new)
    for piece in in_blocks(len(known), PART_ROWS):
        rows = known[piece]
        wrong = rows[_differ(embeddings[rows], folder.read(contents[rows]))]
        if len(wrong):
            raise AlignmentError(
                f"The store has another {folder.card.name} embedding for {ids[wrong[0]]!r} than the file "
                f"({len(wrong)} such samples).",
                remedy=f"Import them under another name, or remove {folder.path} first.",
            )
    fresh = np.flatnonzero(new)
    for piece in in_blocks(len(fresh), PART_ROWS):
        folder.write(contents[fresh[piece]], embeddings[fresh[piece]])
    return len(fresh)


def _differ(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.bool_]:
    scale = np.maximum(np.abs(left).max(axis=1, initial=0), np.abs(right).max(axis=1, initial=0))
    return np.asarray(np.abs(left - right).max(axis=1, initial=0) > TOLERANCE * scale)
