"""CONCH and CONCH v1.5: a vision transformer of timm whose tokens one learned query attends to.

Written from the published description (Lu et al. 2024, and the architecture files that the authors publish), with the
names that their checkpoints have. What CONCH adds for captions and for matching texts is left out.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.timm_loader import create, timm_layout
from biofuse.encoders.torch_encoder import TorchEncoder
from biofuse.encoders.weights import load_weights, unfilled

if TYPE_CHECKING:
    import torch
    from torch import nn

    State = dict[str, torch.Tensor]

POOLER: dict[str, Any] = {"pooler_dim": None, "pooler_heads": 8, "pooler_queries": 1, "pooler_bias": True}
"""The pooler's arguments and what they are where a card does not say; all other arguments are the trunk's."""


def build(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> TorchEncoder:
    """Build the encoder that a card of the ``conch`` family describes.

    Raises
    ------
    EncoderError
        If timm does not know the trunk, or the network contradicts the card.
    WeightsError
        If there is no checkpoint, or it is not the one on the card.
    """
    network = unfilled(lambda: build_architecture(card))
    card = load_weights(network, card, weights_path=weights_path, convert=_trunk_layout(network))
    return TorchEncoder(card, network, device=device, precision=precision)


def build_architecture(card: EncoderCard) -> "nn.Module":
    """Build the network of a card of the ``conch`` family, without weights; may run under the meta device.

    Raises
    ------
    EncoderError
        If timm does not know the trunk, or the network contradicts the card.
    """
    if card.output != "pooled" or card.arguments.get("pooler_dim") != card.dim:
        raise EncoderError(
            f"{card.name} promises {card.dim} columns of the output {card.output!r}; the conch family gives pooler_dim "
            f"({card.arguments.get('pooler_dim')}) columns, pooled."
        )
    side, built = card.preprocessing.output_size, card.arguments.get("img_size", 224)
    if side != built:
        raise EncoderError(f"{card.name} prepares images of {side} pixels, but its network is built for {built}.")
    pooler = POOLER | {name: value for name, value in card.arguments.items() if name in POOLER}
    others = {name: value for name, value in card.arguments.items() if name not in POOLER}
    if card.dim % pooler["pooler_heads"]:
        raise EncoderError(f"{card.name}: {card.dim} columns cannot be shared among {pooler['pooler_heads']} heads.")
    from biofuse.encoders.conch_network import AttentionPooled

    return AttentionPooled(
        create(card.architecture, others, name=card.name),
        dim=card.dim,
        heads=pooler["pooler_heads"],
        queries=pooler["pooler_queries"],
        bias=pooler["pooler_bias"],
    )


def _trunk_layout(network: Any) -> "Callable[[State], State]":
    convert_trunk = timm_layout(network.trunk)

    def convert(state: "State") -> "State":
        trunk = {key.removeprefix("trunk."): value for key, value in state.items() if key.startswith("trunk.")}
        others = {key: value for key, value in state.items() if not key.startswith("trunk.")}
        return {f"trunk.{key}": value for key, value in convert_trunk(trunk).items()} | others

    return convert
