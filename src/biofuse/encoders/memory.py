"""How much memory an encoder's weights take."""

from biofuse.encoders.card import EncoderCard, Precision

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes per parameter."""


def weight_bytes(card: EncoderCard, *, precision: Precision = "fp32") -> int | None:
    """Return the bytes that an encoder's weights take.

    Parameters
    ----------
    card : EncoderCard
    precision : {"fp32", "fp16", "bf16"}
        What the encoder computes in; :class:`~biofuse.encoders.TorchEncoder` holds nearly all of its weights in it.

    Returns
    -------
    int or None
        None where the number of parameters is not known. Activations come on top, and grow with the batch.
    """
    if card.weights is None and not card.parameters:
        return 0
    return None if card.parameters is None else card.parameters * BYTES[precision]
