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
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, apply_renamings

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

NOT_VIT = ("pooler.*", "embeddings.mask_token", "decoder.*")

VISION_MODELS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "aimv2": ("Aimv2VisionModel", "pooled", CLIP_REST),
    "aimv2_vision_model": ("Aimv2VisionModel", "pooled", ()),
    "beit": ("BeitModel", "pooled", ("embeddings.mask_token", "*relative_position_index")),
    "bit": ("BitModel", "pooled", ()),
    "clip": ("CLIPVisionModelWithProjection", "projected", CLIP_REST),
    "clip_vision_model": ("CLIPVisionModelWithProjection", "projected", ()),
    "convnext": ("ConvNextModel", "pooled", ()),
    "convnextv2": ("ConvNextV2Model", "pooled", ()),
    "data2vec-vision": ("Data2VecVisionModel", "pooled", ("embeddings.mask_token", "*relative_position_index")),
    "deit": ("DeiTModel", "cls", ("pooler.*", "embeddings.mask_token")),
    "dinov2": ("Dinov2Model", "cls", ()),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "cls", ()),
    "dinov3_convnext": ("DINOv3ConvNextModel", "pooled", ()),
    "dinov3_vit": ("DINOv3ViTModel", "cls", ()),
    "efficientnet": ("EfficientNetModel", "pooled", ()),
    "focalnet": ("FocalNetModel", "pooled", ()),
    "hiera": ("HieraModel", "pooled", ()),
    "ijepa": ("IJepaModel", "pooled", ("pooler.*", "embeddings.mask_token")),
    "levit": ("LevitModel", "pooled", ()),
    "metaclip_2": ("MetaClip2VisionModelWithProjection", "projected", CLIP_REST),
    "metaclip_2_vision_model": ("MetaClip2VisionModelWithProjection", "projected", ()),
    "mlcd": ("MLCDVisionModel", "pooled", ()),
    "mlcd_vision_model": ("MLCDVisionModel", "pooled", ()),
    "mobilenet_v1": ("MobileNetV1Model", "pooled", ()),
    "mobilenet_v2": ("MobileNetV2Model", "pooled", ()),
    "mobilevit": ("MobileViTModel", "pooled", ()),
    "mobilevitv2": ("MobileViTV2Model", "pooled", ()),
    "pixio": ("PixioModel", "pooled", ("embeddings.mask_token",)),
    "regnet": ("RegNetModel", "pooled", ()),
    "resnet": ("ResNetModel", "pooled", ()),
    "siglip": ("SiglipVisionModel", "pooled", CLIP_REST),
    "siglip_vision_model": ("SiglipVisionModel", "pooled", ()),
    "swin": ("SwinModel", "pooled", ("*relative_position_index", "embeddings.mask_token")),
    "swinv2": (
        "Swinv2Model",
        "pooled",
        ("*relative_position_index", "*relative_coords_table", "embeddings.mask_token"),
    ),
    "vit": ("ViTModel", "cls", NOT_VIT),
    # Their encoders are ViT's; the class of the masked one shuffles its patches.
    "vit_mae": ("ViTModel", "cls", NOT_VIT),
    "vit_msn": ("ViTMSNModel", "cls", ("embeddings.mask_token",)),
}
"""Per model type of a configuration: the class that is built, its output, and the names it has no use for.

Of SigLIP 2 the models of one size call themselves ``siglip``."""

OWN_CARD = "Write a card for the network that its authors embed images with (docs/add-an-encoder.md)."

NAFLEX = (
    "it sees an image at its own aspect, cut into as many patches as fit (NaFlex), and BioFuse gives squares",
    "Use SigLIP 2 of one size: siglip2_base, siglip2_so400m, or hf:google/siglip2-base-patch16-224 and its relatives.",
)
TIPS = (
    "its file has other names, which a card of BioFuse's knows",
    "Use tipsv2_b14, tipsv2_l14, tipsv2_so400m14 or tipsv2_g14.",
)
MAPS = ("its class gives a map or tokens, and no vector of the image", OWN_CARD)
BACKBONES = (
    "transformers has it as a backbone or a classifier only, and nobody says what the vector of an image is",
    "Ask timm for it: timm:NAME.",
)
PARTS = ("it finds or outlines parts of an image, and gives no vector of the whole", OWN_CARD)
VIDEOS = ("it sees films, not images", OWN_CARD)
LANGUAGE = ("it is the eye of a language model, whose tokens are for that model", OWN_CARD)
SEQUENCES = ("it reads an image as a sequence of values", OWN_CARD)

_REFUSED = {
    NAFLEX: "siglip2 siglip2_vision_model",
    MAPS: "cvt depth_pro donut-swin dpt glpn poolformer pvt pvt_v2 segformer swiftformer swin2sr vitdet "
    "vitpose_backbone",
    BACKBONES: "dinat hgnet_v2 lw_detr_vit maskformer-swin pp_lcnet pp_lcnet_v3 pp_lcnet_v4 rt_detr_resnet textnet "
    "timm_backbone timm_wrapper uvdoc_backbone radio sapiens2",
    TIPS: "tipsv2 tipsv2_vision_model",
    PARTS: "conditional_detr dab-detr deformable_detr detr rf_detr_dinov2 table-transformer yolos",
    VIDEOS: "timesformer videomae videoprism_vision_model vivit",
    LANGUAGE: "cohere2_vision llama4 mllama shieldgemma2",
    SEQUENCES: "imagegpt perceiver",
}

NOT_BUILT = {kind: refusal for refusal, kinds in _REFUSED.items() for kind in kinds.split()}
"""Model types of transformers that see images and are refused: why, and what to do instead."""


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
        Whether it takes images of any size that its patches divide.
    tokens : bool
        Whether ``pooled`` is the mean over all tokens, since the class itself pools in no way.
    options : tuple of (str, bool)
        Constructor arguments beyond the configuration.
    """

    configuration: str
    outputs: tuple[str, ...]
    any_size: bool = False
    options: tuple[tuple[str, bool], ...] = ()
    tokens: bool = False


TOKENS = ("cls", "cls+mean")

NO_POOLING = (("add_pooling_layer", False),)
CONVOLUTIONS = (
    "BitModel ConvNextModel ConvNextV2Model DINOv3ConvNextModel EfficientNetModel FocalNetModel MobileNetV1Model "
    "MobileNetV2Model MobileViTModel MobileViTV2Model RegNetModel ResNetModel SwinModel Swinv2Model"
)
"""Networks that pool over positions themselves, whatever the size of the image."""

KINDS = {
    **{name: Kind(name.replace("Model", "Config"), ("pooled",), any_size=True) for name in CONVOLUTIONS.split()},
    "Aimv2VisionModel": Kind("Aimv2VisionConfig", ("pooled",)),
    "BeitModel": Kind("BeitConfig", ("pooled",)),
    "Data2VecVisionModel": Kind("Data2VecVisionConfig", ("pooled",), options=(("add_pooling_layer", True),)),
    "DINOv3ViTModel": Kind("DINOv3ViTConfig", TOKENS, any_size=True),
    "DeiTModel": Kind("DeiTConfig", ("cls",), options=NO_POOLING),
    "HieraModel": Kind("HieraConfig", ("pooled",)),
    "IJepaModel": Kind("IJepaConfig", ("pooled",), options=NO_POOLING, tokens=True),
    "ViTMSNModel": Kind("ViTMSNConfig", ("cls",)),
    "LevitModel": Kind("LevitConfig", ("pooled",)),
    "MetaClip2VisionModelWithProjection": Kind("MetaClip2VisionConfig", ("projected",)),
    "MLCDVisionModel": Kind("MLCDVisionConfig", ("pooled",)),
    "PixioModel": Kind("PixioConfig", ("pooled",)),
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
    kind = kind_of(card.architecture, name=card.name)
    if card.output not in kind.outputs:
        raise EncoderError(
            f"{card.architecture} gives {' and '.join(kind.outputs)}, not {card.output!r} as {card.name} asks."
        )
    network, settings = create(card.architecture, card.arguments, name=card.name)
    _agrees(card, settings, any_size=kind.any_size)
    return network


def kind_of(architecture: str, *, name: str) -> Kind:
    """Return what is known of a class.

    Raises
    ------
    EncoderError
        If BioFuse does not build it; ``name`` is the encoder's.
    """
    kind = KINDS.get(architecture)
    if kind is None:
        raise EncoderError(
            f"{name}: {architecture!r} is not a class of transformers that BioFuse builds.",
            remedy=f"There are {', '.join(KINDS)}.",
        )
    return kind


def create(architecture: str, arguments: Mapping[str, Any], *, name: str) -> tuple[nn.Module, Any]:
    """Have transformers build a class, without weights.

    Parameters
    ----------
    architecture : str
        One of :data:`KINDS`.
    arguments : mapping
        Of its configuration.
    name : str
        The encoder, for messages.

    Returns
    -------
    (torch.nn.Module, configuration)

    Raises
    ------
    EncoderError
        If BioFuse does not build the class, its configuration does not have the arguments, or it cannot be built of
        them.
    """
    kind = kind_of(architecture, name=name)
    configuration = getattr(transformers, kind.configuration)
    # transformers takes any argument, and ignores those it does not know.
    unknown = sorted(arguments.keys() - {field.name for field in dataclasses.fields(configuration)})
    if unknown:
        raise EncoderError(f"{name}: {kind.configuration} of transformers has no {', '.join(unknown)}.")
    try:
        settings = configuration(**arguments)
        network: nn.Module = getattr(transformers, architecture)(settings, **dict(kind.options))
    except (AssertionError, KeyError, RuntimeError, StrictDataclassError, TypeError, ValueError) as error:
        raise EncoderError(
            f"transformers {transformers.__version__} cannot build {architecture} for {name}: {error}.",
            remedy="Correct the arguments on the card, or install another release of transformers.",
        ) from error
    return network, settings


def _agrees(card: EncoderCard, settings: Any, *, any_size: bool) -> None:
    side, built = card.preprocessing.output_size, getattr(settings, "image_size", None)
    built = built[0] if isinstance(built, list | tuple) and len(set(built)) == 1 else built
    patch = getattr(settings, "patch_size", 1)
    patch = patch if isinstance(patch, int) else 1
    if built is not None and side != built and not (any_size and side % patch == 0):
        raise EncoderError(
            f"{card.name} prepares images of {side} pixels, but its network is built for {built}.",
            remedy="Correct image_size on the card, or its preprocessing.",
        )
    dim = columns(card.architecture, settings)
    if card.output == "projected":
        dim = settings.projection_dim
    elif card.output == "cls+mean":
        dim *= 2
    if dim != card.dim:
        raise EncoderError(f"{card.name} promises {card.dim} dimensions, but {card.architecture} gives {dim}.")


UNSEEN = ("hidden_act", "layer_norm_eps", "num_attention_heads")
"""What the weights do not show, and a wrong value of which gives other embeddings without a word."""


def contradictions(card: EncoderCard, config: Mapping[str, Any]) -> str:
    """Say in what a ``config.json`` describes another network than a card; empty where they agree."""
    said = config.get("vision_config") or config
    return "; ".join(
        f"{field} is {said[field]} there and {card.arguments[field]} on the card"
        for field in UNSEEN
        if field in said and field in card.arguments and said[field] != card.arguments[field]
    )


def columns(architecture: str, settings: Any) -> int:
    """Return how many columns the class and pooled outputs of a class have, by its configuration."""
    where: dict[str, Callable[[], int]] = {
        "SamVisionModel": lambda: settings.output_channels,
        "EfficientNetModel": lambda: settings.hidden_dim,
        "FocalNetModel": lambda: settings.embed_dim * 2 ** (len(settings.depths) - 1),
        "HieraModel": lambda: int(settings.embed_dim * settings.embed_dim_multiplier ** (len(settings.depths) - 1)),
        "MobileNetV1Model": lambda: int(1024 * settings.depth_multiplier),
        "MobileViTModel": lambda: settings.neck_hidden_sizes[-1],
        "MobileViTV2Model": lambda: int(512 * settings.width_multiplier),
        "SwinModel": lambda: settings.embed_dim * 2 ** (len(settings.depths) - 1),
        "Swinv2Model": lambda: settings.embed_dim * 2 ** (len(settings.depths) - 1),
        # transformers.models.mobilenet_v2: the last convolution never has fewer where finegrained_output asks for it.
        "MobileNetV2Model": lambda: (
            1280
            if settings.finegrained_output and settings.depth_multiplier < 1
            else int(1280 * settings.depth_multiplier)
        ),
    }
    if architecture in where:
        return where[architecture]()
    sizes = getattr(settings, "hidden_sizes", None)
    return int(sizes[-1] if sizes else settings.hidden_size)


def forward_of(card: EncoderCard, network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what computes a card's output with its network; one of one channel is given the mean of the three."""
    registers: int = getattr(network.config, "num_register_tokens", 0)
    grey = getattr(network.config, "num_channels", 3) == 1

    def forward(batch: torch.Tensor) -> torch.Tensor:
        output = network(pixel_values=batch.mean(dim=1, keepdim=True) if grey else batch)
        embedding: torch.Tensor
        if card.output == "projected":
            embedding = output.image_embeds
        elif card.architecture == "SamVisionModel":
            embedding = output.last_hidden_state.mean(dim=(2, 3))
        elif KINDS[card.architecture].tokens:
            embedding = output.last_hidden_state.mean(dim=1)
        elif card.output == "pooled" or card.architecture == "CLIPVisionModel":
            # CLIP normalises its class token there, and nowhere else.
            embedding = output.pooler_output.flatten(1)
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
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    wanted = frozenset(shapes)
    # Cellpose-SAM keeps the tables of SAM's windows, and has none.
    everywhere = (
        card.architecture == "SamVisionModel"
        and len(card.arguments["global_attn_indexes"]) == (card.arguments["num_hidden_layers"])
    )
    # transformers' own list of what it has renamed since.
    known: Any = network
    rules = [each for each in get_model_conversion_mapping(known) if isinstance(each, WeightRenaming)]

    def convert(state: State) -> State:
        modern = {
            name: tensor
            for key, value in _with_root(state, wanted).items()
            for name, tensor in _modern(key, value, wanted, rules).items()
        }
        return {name: _relative(name, value, shapes) for name, value in modern.items()} if everywhere else modern

    return convert


def _relative(name: str, table: torch.Tensor, shapes: Mapping[str, torch.Size]) -> torch.Tensor:
    """Bring a table of relative positions to the network's size, linearly, as SAM does it whenever it runs."""
    if ".rel_pos_" not in name or table.ndim != 2 or len(table) == shapes.get(name, table.shape)[0]:
        return table
    return torch.nn.functional.interpolate(table.T[None], size=shapes[name][0], mode="linear")[0].T.contiguous()


def _with_root(state: State, wanted: frozenset[str]) -> State:
    for root in ROOTS:
        there, here = any(key.startswith(root) for key in state), any(key.startswith(root) for key in wanted)
        if there and not here:
            return {key.removeprefix(root): value for key, value in state.items()}
        if here and not there and all(key.startswith(root) for key in wanted):
            return {root + key: value for key, value in state.items()}
    return state


def _modern(key: str, value: torch.Tensor, wanted: frozenset[str], rules: list[WeightRenaming]) -> State:
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
    spellings = (renamed, re.sub(r"^encoder\.layer\.", "layers.", renamed), apply_renamings(key, rules))
    return {next((name for name in spellings if name in wanted), key): value}


def adhoc_card(repository: str, *, random_weights: bool) -> EncoderCard:
    """Make the card of ``hf:OWNER/NAME``; see :func:`biofuse.encoders.loaders.adhoc_card`."""
    del random_weights
    asked = f"hf:{repository}"
    config, revision = read_config(repository, "config.json", asked, form=FORMS["hf"])
    kind = str(config.get("model_type", ""))
    # Hibou's configuration says dinov2, and describes a network with registers.
    kind = "dinov2_with_registers" if kind == "dinov2" and config.get("num_register_tokens") else kind
    if kind in NOT_BUILT and "architecture" not in config:
        reason, remedy = NOT_BUILT[kind]
        raise EncoderError(
            f"{repository} is of the model type {kind!r}, which BioFuse does not build: {reason}.", remedy=remedy
        )
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
        dim=_columns(architecture, arguments, output),
        loader="transformers",
        architecture=architecture,
        arguments=arguments,
        weights=Weights(
            repository=repository,
            revision=revision,
            file=first_file(repository, revision, FILES, asked),
            prefix=_head_prefix(config),
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


def _columns(architecture: str, arguments: Mapping[str, Any], output: str) -> int:
    settings = getattr(transformers, KINDS[architecture].configuration)(**arguments)
    return int(settings.projection_dim) if output == "projected" else columns(architecture, settings)


def _head_prefix(config: Mapping[str, Any]) -> str:
    """Return what stands before the encoder's names where the repository holds a model with a head."""
    trained_for = str((config.get("architectures") or [""])[0])
    whole = getattr(transformers, trained_for, None)
    return f"{whole.base_model_prefix}." if "For" in trained_for and whole and "vision_config" not in config else ""
