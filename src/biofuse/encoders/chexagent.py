"""CheXagent's vision tower alone: BLIP-2's, out of the shards of the language model that it belongs to."""

from pathlib import Path
from typing import TYPE_CHECKING

from biofuse.encoders import transformers_loader
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.torch_encoder import TorchEncoder

if TYPE_CHECKING:
    from torch import nn


def build(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> TorchEncoder:
    """Build the encoder that a card of the ``chexagent`` family describes.

    The published class needs remote code and 33 GB. Its tower is BLIP-2's, so transformers' own class and the shards
    that hold a name beginning with the card's prefix are enough.

    Raises
    ------
    EncoderError
        If the network contradicts the card.
    WeightsError
        If there is no checkpoint, or it is not the one on the card.
    """
    return transformers_loader.build(card, device=device, precision=precision, weights_path=weights_path)


def build_architecture(card: EncoderCard) -> "nn.Module":
    """Build the network of a card of the ``chexagent`` family, without weights; may run under the meta device.

    Raises
    ------
    EncoderError
        If the configuration contradicts the card.
    """
    return transformers_loader.build_architecture(card)
