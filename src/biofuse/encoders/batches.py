"""What goes into an encoder and what must come out of it."""

from typing import Any

import numpy as np

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.protocol import Embeddings, UInt8Images


def require_images(card: EncoderCard, images: UInt8Images) -> UInt8Images:
    """Return the batch if it is what ``card.preprocessing.apply`` makes.

    Raises
    ------
    EncoderError
        If dtype or shape differ; nothing is converted or resized behind the caller's back.
    """
    side = card.preprocessing.output_size
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
        raise EncoderError(
            f"{card.name} takes uint8 images of shape (n, {side}, {side}, 3), not {images.dtype} {images.shape}.",
            remedy="Prepare each image with card.preprocessing.apply first.",
        )
    return images


def require_embeddings(card: EncoderCard, values: Any, *, rows: int) -> Embeddings:
    """Return an encoder's output as contiguous float32 if it has the promised shape and is finite.

    Parameters
    ----------
    card : EncoderCard
        Whose output it is.
    values : array_like
        What the encoder computed.
    rows : int
        Number of images that went in.

    Raises
    ------
    EncoderError
        If rows or columns are missing or extra, or a value is not finite.
    """
    array = np.asarray(values)
    if array.shape != (rows, card.dim):
        raise EncoderError(
            f"{card.name} gave an array of shape {array.shape} for {rows} images; its card says ({rows}, {card.dim}).",
            remedy="Correct dim on the card, or return one row per image.",
        )
    if array.dtype.kind not in "fiub":
        raise EncoderError(f"{card.name} gave values of type {array.dtype}, not numbers.")
    result = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(result).all(axis=1)
    if not finite.all():
        raise EncoderError(
            f"{card.name} gave NaN or infinite values for {int((~finite).sum())} of {rows} images.",
            remedy="Run it in fp32; if that does not help, its weights or its code are broken.",
        )
    return result
