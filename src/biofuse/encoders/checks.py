"""What every loaded encoder is held to before its first embedding is believed."""

import numpy as np

from biofuse.core.errors import EncoderError, WeightsError
from biofuse.core.hashing import generator
from biofuse.encoders.encoder import Encoder, TorchEncoder, UInt8Images
from biofuse.encoders.processors import check_published

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""How far a row may differ between a batch and the image alone, relative to the batch's largest value.

Matrix products are summed in another order for another batch size: 2**-24, 2**-11 and 2**-8 per operation for the
three precisions, accumulated over some hundred layers. Batch statistics move a row by far more.
"""

INSENSITIVE = 1e-6
"""Two different images whose embeddings differ by less than this, relative to the largest value, are not told apart."""


def probe_images(side: int) -> UInt8Images:
    """Return three synthetic images that share neither colours nor texture: noise, a gradient and a checkerboard.

    Parameters
    ----------
    side : int
        Pixels.

    Returns
    -------
    ndarray of uint8, shape (3, side, side, 3)
    """
    noise = generator(0, "probe", side).integers(0, 256, (side, side, 3))
    ramp = np.linspace(0, 255, side)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 64.0), axis=2)
    row, column = np.indices((side, side)) * 8 // side
    board = np.where(((row + column) % 2)[..., None], (200, 40, 90), (30, 160, 60))
    return np.stack([noise, gradient, board]).astype(np.uint8)


def tolerance(encoder: Encoder) -> float:
    """Return how far a row may move, relative to the batch's largest value, at the encoder's precision."""
    return TOLERANCE[getattr(encoder, "precision", "fp32")]


def check_encoder(encoder: Encoder) -> None:
    """Refuse an encoder that is not what its card says, by running it on three synthetic images.

    That no weight is missing or left over was checked when they were loaded.

    Parameters
    ----------
    encoder : Encoder
        Just loaded.

    Raises
    ------
    WeightsError
        If the network has another number of parameters than the card.
    EncoderError
        If its repository says that images are prepared otherwise, or embeddings have another dimension, are not
        finite, do not tell the images apart, have one value in all columns, or depend on what else is in the batch.
    """
    card = encoder.card
    check_published(card)
    if isinstance(encoder, TorchEncoder) and card.parameters not in {None, encoder.parameters}:
        raise WeightsError(
            f"{card.name} has {encoder.parameters:,} parameters, its card says {card.parameters:,}: another network.",
            remedy="Name the architecture and arguments that the weights were made for.",
        )
    images = probe_images(card.preprocessing.output_size)
    together = encoder.encode(images)
    if together.shape != (len(images), card.dim) or together.dtype != np.float32:
        raise EncoderError(
            f"{card.name} gave {together.dtype} {together.shape}; its card says float32 ({len(images)}, {card.dim})."
        )
    if not np.isfinite(together).all():
        raise EncoderError(f"{card.name} gave NaN or infinite values for a synthetic image.")
    scale = max(float(np.abs(together).max()), float(np.finfo(np.float32).tiny))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        if np.abs(together[first] - together[second]).max() <= INSENSITIVE * scale:
            raise EncoderError(
                f"{card.name} gives the same embedding for different images: its output is constant.",
                remedy="Its weights are not loaded as they should be, or its code ignores the image.",
            )
    if card.dim > 1 and bool((np.ptp(together, axis=1) <= INSENSITIVE * scale).all()):
        raise EncoderError(
            f"{card.name} gives one and the same value in all {card.dim} columns of an image's embedding.",
            remedy="Its weights are not loaded as they should be, or another of its outputs is meant.",
        )
    last = len(images) - 1
    alone = encoder.encode(images[last:])
    moved = float(np.abs(alone[0] - together[last]).max()) / scale
    if moved > tolerance(encoder):
        raise EncoderError(
            f"{card.name} embeds an image differently alone and in a batch (by {moved:.2g} of the largest value).",
            remedy="Each row may depend on its own image only: no batch statistics, no shared normalisation.",
        )
