"""Encoders built from timm's architectures and a checkpoint."""

import fnmatch
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from biofuse.core.errors import EncoderError
from biofuse.core.hashing import digest_file
from biofuse.encoders.card import EncoderCard, Precision, Weights, card_errors
from biofuse.encoders.layers import with_layers
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.encoders.torch_encoder import TorchEncoder, class_and_mean
from biofuse.encoders.weights import load_weights, locate, unfilled

if TYPE_CHECKING:
    import torch
    from torch import nn

    from biofuse.encoders.registry import Registry

    State = dict[str, torch.Tensor]

RANDOM = "random"
"""What a card names as repository to ask for random weights; its revision is the seed."""

NOT_WEIGHTS = ("*attn_mask", "*relative_position_index", "mask_token")
"""Names of a checkpoint that timm leaves out by itself: tables that follow from the shape, and the token of masked
training. It may leave out no other."""


def build(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> TorchEncoder:
    """Build the encoder that a card of the ``timm`` family describes.

    Raises
    ------
    EncoderError
        If timm does not know the architecture or its arguments, or the network contradicts the card.
    WeightsError
        If there is no checkpoint, or it is not the one on the card.
    """
    return build_network(card, device=device, precision=precision, weights_path=weights_path)


def build_network(
    card: EncoderCard,
    *,
    device: str,
    precision: Precision,
    weights_path: Path | None,
    rename: Callable[[str], str] | None = None,
) -> TorchEncoder:
    """Build a timm network without its classifier, and fill it; ``rename`` is as in :func:`load_weights`."""
    if card.weights is not None and card.weights.repository == RANDOM and weights_path is None:
        network = _initialised(card, card.weights)
    else:
        network = unfilled(lambda: build_architecture(card))
        card = load_weights(network, card, weights_path=weights_path, rename=rename, convert=timm_layout(network))
    return TorchEncoder(card, network, device=device, precision=precision, forward=_forward(card, network))


def build_architecture(card: EncoderCard) -> "nn.Module":
    """Build the network of a card of the ``timm`` family, without weights.

    May run under ``torch.device("meta")``.

    Raises
    ------
    EncoderError
        If timm does not know the architecture or its arguments, or the network contradicts the card.
    """
    network = create(card.architecture, with_layers(card.arguments), name=card.name)
    _agrees(card, network)
    return network


def create(architecture: str, arguments: Mapping[str, Any], *, name: str) -> "nn.Module":
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
    import timm

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


def _initialised(card: EncoderCard, weights: Weights) -> "nn.Module":
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(weights.revision))
        return build_architecture(card)


def _forward(card: EncoderCard, network: Any) -> "Callable[[torch.Tensor], torch.Tensor]":
    def pooled(batch: "torch.Tensor") -> "torch.Tensor":
        output: torch.Tensor = network.forward_head(network.forward_features(batch), pre_logits=True)
        return output

    def tokens(batch: "torch.Tensor") -> "torch.Tensor":
        return class_and_mean(network.forward_features(batch), prefix=network.num_prefix_tokens)

    if card.output == "projected":
        whole: Callable[[torch.Tensor], torch.Tensor] = network
        return whole
    return tokens if card.output == "cls+mean" else pooled


def timm_layout(network: "nn.Module") -> "Callable[[State], State]":
    """Return what brings a checkpoint into the layout of this release of timm, by timm's own rules.

    Older names are mapped, and position embeddings of another grid resampled. A checkpoint with patches of another
    size is left as it is, so that it is refused: resampling them would make another model of it. So is one of which
    timm would drop weights.

    Parameters
    ----------
    network : torch.nn.Module
        Made by timm.

    Returns
    -------
    callable
        Takes and returns a table of weights.
    """
    rules = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)

    def convert(state: "State") -> "State":
        wanted = network.state_dict()
        shapes = {key: value.shape for key, value in wanted.items()}
        patch = "patch_embed.proj.weight"
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
    if dim != card.dim:
        raise EncoderError(f"{card.name} promises {card.dim} dimensions, but {card.architecture} gives {dim}.")


def register_timm(
    name: str,
    architecture: str,
    *,
    checkpoint: str | Path,
    dim: int,
    preprocessing: Preprocessing,
    output: Literal["cls", "pooled", "cls+mean", "projected"],
    arguments: Mapping[str, Any] | None = None,
    entry: str = "",
    prefix: str = "",
    ignore: tuple[str, ...] = (),
    parameters: int | None = None,
    title: str = "",
    licence: str = "unknown",
    commercial: bool | None = None,
    modality: str = "unknown",
    training_data: str = "",
    source: str = "",
    citation: str = "",
    pools: tuple[str, ...] = (),
    replace: bool = False,
    registry: "Registry | None" = None,
) -> EncoderCard:
    """Register an encoder made of a timm architecture and a checkpoint of your own.

    Parameters
    ----------
    name : str
        What it will be called.
    architecture : str
        timm's name of the architecture.
    checkpoint : str or Path
        ``.safetensors``, or a torch checkpoint that holds weights only. It is hashed now; a later change is refused.
    dim : int
        Length of the embedding.
    preprocessing : Preprocessing
        How the images were prepared when it was trained.
    output : {"cls", "pooled", "cls+mean", "projected"}
        The class token; what the architecture pools to (the average over positions, or attention); the class token
        and the mean of the patch tokens; the last layer.
    arguments : mapping, optional
        Further arguments of the architecture, such as ``{"img_size": 224, "global_pool": "token"}``; classes as dotted
        names. ``cls+mean`` needs ``{"global_pool": ""}``, ``projected`` needs ``{"num_classes": dim}``.
    entry, prefix, ignore
        How the checkpoint's names relate to the network's; see :class:`biofuse.encoders.Weights`.
    parameters : int, optional
        Number of parameters without the classifier, if known; checked at loading.
    title, licence, commercial, modality, training_data, source, citation, pools
        Facts for the card.
    replace : bool, default False
        Whether to replace an encoder of that name.
    registry : Registry, optional
        Where to register; BioFuse's own by default.

    Returns
    -------
    EncoderCard
        The registered card.

    Raises
    ------
    WeightsError
        If the checkpoint does not exist.
    EncoderError
        If the name is taken.
    """
    from biofuse.encoders.registry import default_registry

    unseen = Weights(
        repository="local",
        revision="",
        file=str(Path(checkpoint).expanduser().resolve()),
        entry=entry,
        prefix=prefix,
        ignore=ignore,
    )
    sha256 = digest_file(locate(name, unseen), algorithm="sha256")
    with card_errors(name):
        card = EncoderCard(
            name=name,
            title=title or name,
            loader="timm",
            architecture=architecture,
            arguments=dict(arguments or {}),
            weights=unseen.model_copy(update={"sha256": sha256, "revision": sha256[:12]}),
            preprocessing=preprocessing,
            output=output,
            dim=dim,
            parameters=parameters,
            licence=licence,
            commercial=commercial,
            modality=modality,
            training_data=training_data,
            pools=pools,
            source=source or f"checkpoint {Path(checkpoint).name}",
            citation=citation,
        )
    (registry or default_registry()).register(card, replace=replace)
    return card
