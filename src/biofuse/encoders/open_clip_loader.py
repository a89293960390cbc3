"""Vision towers of open_clip, without their text towers."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.torch_encoder import TorchEncoder
from biofuse.encoders.weights import load_weights, unfilled

if TYPE_CHECKING:
    from torch import nn

ARGUMENTS = ("embed_dim", "vision_cfg", "quick_gelu")
"""What a card may give, on top of open_clip's own configuration of the model or in place of it."""


def build(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> TorchEncoder:
    """Build the encoder that a card of the ``open_clip`` family describes.

    Raises
    ------
    EncoderError
        If open_clip does not know the model or its arguments, or the network contradicts the card.
    WeightsError
        If there is no checkpoint, or it is not the one on the card.
    """
    network = unfilled(lambda: build_architecture(card))
    card = load_weights(network, card, weights_path=weights_path)
    return TorchEncoder(card, network, device=device, precision=precision)


def build_architecture(card: EncoderCard) -> "nn.Module":
    """Build the vision tower of a card of the ``open_clip`` family, without weights; may run under the meta device.

    Raises
    ------
    EncoderError
        If open_clip does not know the model or its arguments, or the network contradicts the card.
    """
    import open_clip
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    settings = _settings(card)
    if card.output != "projected" or settings["embed_dim"] != card.dim:
        raise EncoderError(
            f"{card.name} promises {card.dim} columns of the output {card.output!r}; open_clip's "
            f"{card.architecture or 'tower'} gives {settings['embed_dim']}, projected."
        )
    vision = settings["vision_cfg"]
    unknown = sorted(vision.keys() - {field.name for field in dataclasses.fields(CLIPVisionCfg)})
    if unknown:
        raise EncoderError(f"{card.name}: open_clip's vision towers have no {', '.join(unknown)}.")
    side, built = card.preprocessing.output_size, vision.get("image_size", CLIPVisionCfg.image_size)
    if side != built:
        raise EncoderError(f"{card.name} prepares images of {side} pixels, but its network is built for {built}.")
    try:
        # The public constructors build the text tower too, whose configuration may lie on a hub.
        tower: nn.Module = _build_vision_tower(
            settings["embed_dim"],
            CLIPVisionCfg(**vision | {"timm_model_pretrained": False, "output_tokens": False}),
            quick_gelu=settings.get("quick_gelu", False),
        )
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise EncoderError(
            f"open_clip {open_clip.__version__} cannot build the vision tower of {card.name}: {error}.",
            remedy="Correct architecture and arguments on the card, or install another release of open_clip_torch.",
        ) from error
    return tower


def _settings(card: EncoderCard) -> dict[str, Any]:
    import open_clip

    unknown = sorted(card.arguments.keys() - set(ARGUMENTS))
    if unknown:
        raise EncoderError(f"{card.name}: the open_clip family takes {', '.join(ARGUMENTS)}, not {', '.join(unknown)}.")
    known: dict[str, Any] = {}
    if card.architecture:
        if card.architecture not in open_clip.list_models():
            raise EncoderError(
                f"open_clip {open_clip.__version__} has no model {card.architecture!r}, which {card.name} names.",
                remedy="Correct the architecture on the card; open_clip.list_models() lists them.",
            )
        known = open_clip.get_model_config(card.architecture)
    settings = known | card.arguments
    settings["vision_cfg"] = known.get("vision_cfg", {}) | card.arguments.get("vision_cfg", {})
    if "embed_dim" not in settings or not settings["vision_cfg"]:
        raise EncoderError(f"{card.name} names neither a model of open_clip nor embed_dim and vision_cfg.")
    return settings
