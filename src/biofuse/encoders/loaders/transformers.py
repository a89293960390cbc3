"""Encoders built from classes of transformers, by name and from the card's own configuration.

No configuration is read from a hub and no code from one is run: automatic classes choose by what a repository says of
itself, which is not always true.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.encoder import class_and_mean
from biofuse.encoders.hub import endpoint, first_file, read_config
from biofuse.encoders.loaders import FORMS, make_card
from biofuse.encoders.preprocessing import from_processor

State = dict[str, torch.Tensor]


FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""Where transformers keeps weights in a repository; the first that is there is taken."""

CLIP_REST = ("text_model.*", "text_projection.*", "logit_scale", "logit_bias")

VISION_MODELS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "clip": ("CLIPVisionModelWithProjection", "projected", CLIP_REST),
    "clip_vision_model": ("CLIPVisionModelWithProjection", "projected", ()),
    "dinov2": ("Dinov2Model", "cls", ()),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "cls", ()),
    "siglip": ("SiglipVisionModel", "pooled", CLIP_REST),
    "siglip_vision_model": ("SiglipVisionModel", "pooled", ()),
    "vit": ("ViTModel", "cls", ("pooler.*", "embeddings.mask_token")),
}
"""Per model type of a configuration: the class that is built, its output, and the names it has no use for."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What BioFuse knows of a class of transformers.

    Attributes
    ----------
    configuration : str
        The class of its configuration.
    outputs : tuple of str
        What it can give.
    any_size : bool
        Whether its position embeddings follow the size of the image.
    options : tuple of (str, bool)
        Constructor arguments beyond the configuration.
    """

    configuration: str
    outputs: tuple[str, ...]
    any_size: bool = False
    options: tuple[tuple[str, bool], ...] = ()


TOKENS = ("cls", "cls+mean")

KINDS = {
    "Blip2VisionModel": Kind("Blip2VisionConfig", ("cls",)),
    "CLIPVisionModel": Kind("CLIPVisionConfig", ("cls",)),
    "CLIPVisionModelWithProjection": Kind("CLIPVisionConfig", ("projected",)),
    "Dinov2Model": Kind("Dinov2Config", TOKENS, any_size=True),
    "Dinov2WithRegistersModel": Kind("Dinov2WithRegistersConfig", TOKENS, any_size=True),
    "SamVisionModel": Kind("SamVisionConfig", ("pooled",)),
    "SiglipVisionModel": Kind("SiglipVisionConfig", ("pooled",)),
    "ViTModel": Kind("ViTConfig", TOKENS, options=(("add_pooling_layer", False),)),
}
"""The classes that a card may name."""

ROOTS = ("vision_model.", "vision_encoder.")
"""Beginnings that a checkpoint, or a release of transformers, gives to all names of a vision tower or leaves out."""

RELEASED_NAMES = (
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(?<=\d)\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_out\.", ".mlp.down_proj."),
)
"""Names as the checkpoints on hubs have them (transformers 4.x), and as transformers 5.x has them."""

FUSED = re.compile(r"(.*\.mlp\.)weights_in\.(weight|bias)")
"""The gate and the value of SwiGLU in one matrix, which transformers 5.x holds as two."""

BUFFERS = re.compile(r"(.*\.)?position_ids")
"""A table of 0, 1, 2, ... that older releases saved with the weights."""


def build_architecture(card: EncoderCard) -> nn.Module:
    """Build the network of a card of the ``transformers`` family, without weights.

    May run under ``torch.device("meta")``.

    Raises
    ------
    EncoderError
        If the class or its configuration is not one that BioFuse knows, or contradicts the card.
    """
    kind = KINDS.get(card.architecture)
    if kind is None:
        raise EncoderError(
            f"{card.name}: {card.architecture!r} is not a class of transformers that BioFuse builds.",
            remedy=f"There are {', '.join(KINDS)}.",
        )
    if card.output not in kind.outputs:
        raise EncoderError(
            f"{card.architecture} gives {' and '.join(kind.outputs)}, not {card.output!r} as {card.name} asks."
        )
    configuration = getattr(transformers, kind.configuration)
    # transformers takes any argument, and ignores those it does not know.
    unknown = sorted(card.arguments.keys() - {field.name for field in dataclasses.fields(configuration)})
    if unknown:
        raise EncoderError(f"{card.name}: {kind.configuration} of transformers has no {', '.join(unknown)}.")
    try:
        settings = configuration(**card.arguments)
        network: nn.Module = getattr(transformers, card.architecture)(settings, **dict(kind.options))
    except (AssertionError, KeyError, RuntimeError, StrictDataclassError, TypeError, ValueError) as error:
        raise EncoderError(
            f"transformers {transformers.__version__} cannot build {card.architecture} for {card.name}: {error}.",
            remedy="Correct the arguments on the card, or install another release of transformers.",
        ) from error
    _agrees(card, settings, any_size=kind.any_size)
    return network


def _agrees(card: EncoderCard, settings: Any, *, any_size: bool) -> None:
    side = card.preprocessing.output_size
    if side != settings.image_size and not (any_size and side % settings.patch_size == 0):
        raise EncoderError(
            f"{card.name} prepares images of {side} pixels, but its network is built for {settings.image_size}.",
            remedy="Correct image_size on the card, or its preprocessing.",
        )
    dim: int = settings.hidden_size
    if card.output == "projected":
        dim = settings.projection_dim
    elif card.output == "cls+mean":
        dim = 2 * settings.hidden_size
    elif card.architecture == "SamVisionModel":
        dim = settings.output_channels
    if dim != card.dim:
        raise EncoderError(f"{card.name} promises {card.dim} dimensions, but {card.architecture} gives {dim}.")


def forward_of(card: EncoderCard, network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what computes a card's output with its network."""
    registers: int = getattr(network.config, "num_register_tokens", 0)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        output = network(pixel_values=batch)
        embedding: torch.Tensor
        if card.output == "projected":
            embedding = output.image_embeds
        elif card.architecture == "SamVisionModel":
            embedding = output.last_hidden_state.mean(dim=(2, 3))
        elif card.output == "pooled" or card.architecture == "CLIPVisionModel":
            # CLIP normalises its class token there, and nowhere else.
            embedding = output.pooler_output
        elif card.output == "cls+mean":
            embedding = class_and_mean(output.last_hidden_state, prefix=1 + registers)
        else:
            # Not pooler_output: BLIP-2 applies the final LayerNorm a second time there.
            embedding = output.last_hidden_state[:, 0]
        return embedding

    return forward


def layout_of(card: EncoderCard, network: nn.Module) -> Callable[[State], State]:
    """Return what brings a checkpoint, as it lies on a hub, into the layout of this release of transformers.

    Parameters
    ----------
    card : EncoderCard
    network : torch.nn.Module
        Made by transformers.

    Returns
    -------
    callable
        Takes and returns a table of weights.
    """
    del card
    wanted = frozenset(network.state_dict())

    def convert(state: State) -> State:
        return {
            name: tensor
            for key, value in _with_root(state, wanted).items()
            for name, tensor in _modern(key, value, wanted).items()
        }

    return convert


def _with_root(state: State, wanted: frozenset[str]) -> State:
    for root in ROOTS:
        there, here = any(key.startswith(root) for key in state), any(key.startswith(root) for key in wanted)
        if there and not here:
            return {key.removeprefix(root): value for key, value in state.items()}
        if here and not there and all(key.startswith(root) for key in wanted):
            return {root + key: value for key, value in state.items()}
    return state


def _modern(key: str, value: torch.Tensor, wanted: frozenset[str]) -> State:
    if key in wanted:
        return {key: value}
    if BUFFERS.fullmatch(key):
        return {}
    fused = FUSED.fullmatch(key)
    if fused is not None:
        gate, up = value.chunk(2)
        return {f"{fused[1]}gate_proj.{fused[2]}": gate, f"{fused[1]}up_proj.{fused[2]}": up}
    renamed = key
    for pattern, replacement in RELEASED_NAMES:
        renamed = re.sub(pattern, replacement, renamed)
    # ViTModel has lost a level of nesting as well. A name that is still unknown is reported as the file has it.
    spellings = (renamed, re.sub(r"^encoder\.layer\.", "layers.", renamed))
    return {next((name for name in spellings if name in wanted), key): value}


def adhoc_card(repository: str, *, random_weights: bool) -> EncoderCard:
    """Make the card of ``hf:OWNER/NAME``; see :func:`biofuse.encoders.loaders.adhoc_card`."""
    del random_weights
    asked = f"hf:{repository}"
    config, revision = read_config(repository, "config.json", asked, form=FORMS["hf"])
    kind = str(config.get("model_type", ""))
    # Hibou's configuration says dinov2, and describes a network with registers.
    kind = "dinov2_with_registers" if kind == "dinov2" and config.get("num_register_tokens") else kind
    if kind not in VISION_MODELS:
        hint = f"timm:{repository}" if "architecture" in config else ", ".join(VISION_MODELS)
        raise EncoderError(
            f"{repository} is of the model type {kind or 'none'!r}, which BioFuse does not build.",
            remedy=f"Try {hint}." if "architecture" in config else f"Model types it builds: {hint}.",
        )
    architecture, output, ignore = VISION_MODELS[kind]
    arguments = _arguments(architecture, config)
    processor, _ = read_config(repository, "preprocessor_config.json", asked, form=FORMS["hf"], revision=revision)
    return make_card(
        asked,
        network=build_architecture,
        source=f"the configuration files of {repository}",
        page=f"{endpoint()}/{repository}",
        dim=arguments["projection_dim" if output == "projected" else "hidden_size"],
        loader="transformers",
        architecture=architecture,
        arguments=arguments,
        weights=Weights(
            repository=repository,
            revision=revision,
            file=first_file(repository, revision, FILES, asked),
            prefix=_head_prefix(kind, config),
            ignore=(*ignore, "*position_ids"),
            processor="preprocessor_config.json",
        ),
        preprocessing=from_processor(processor, name=asked),
        output=output,
    )


def _arguments(architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    configuration = getattr(transformers, KINDS[architecture].configuration)
    general = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
    own = [field.name for field in dataclasses.fields(configuration) if not field.name.startswith("_")]
    settings = {**config, **(config.get("vision_config") or {})}
    if "projection_dim" in config:
        settings["projection_dim"] = config["projection_dim"]
    # In full, because defaults may change from one release of transformers to the next.
    usual = configuration()
    return {name: settings.get(name, getattr(usual, name)) for name in own if name not in general}


def _head_prefix(kind: str, config: Mapping[str, Any]) -> str:
    trained_for = str((config.get("architectures") or [""])[0])
    return f"{kind}." if "For" in trained_for and "vision_config" not in config else ""
