"""Loader families: what builds the encoders of each kind, a module each, and what all of them need.

A module of networks has ``build_architecture``, which builds a card's network without weights; where the network does
not simply take the file's names or is not simply called, it has ``layout_of`` and ``forward_of`` as well
(:func:`build_network` uses all three). ``contradictions`` says in what a published configuration differs from a card.
Any other module has ``build``, a :class:`Builder`. Those that make the cards of ad-hoc encoders (``timm:NAME``) have
``adhoc_card``. A module is imported when an encoder of its family is needed.
"""

import functools
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from biofuse.core.errors import DependencyError, EncoderError, UnknownEncoderError
from biofuse.encoders.card import EncoderCard, Precision, computed, external
from biofuse.encoders.encoder import Encoder, TorchEncoder, published_file
from biofuse.encoders.preprocessing import card_errors
from biofuse.encoders.weights import load_weights, unfilled

if TYPE_CHECKING:
    import torch
    from torch import nn

FAMILIES: dict[str, tuple[str, dict[str, str]]] = {
    "timm": ("timm", {"timm": "timm"}),
    "open_clip": ("open_clip", {"open_clip": "open_clip_torch"}),
    "transformers": ("transformers", {"transformers": "transformers"}),
    "conch": ("conch", {"timm": "timm"}),
    "projection": ("projection", {"timm": "timm"}),
    # CheXagent's vision tower is BLIP-2's; the family's name is part of fingerprints.
    "chexagent": ("transformers", {"transformers": "transformers"}),
    "onnx": ("onnx", {"onnxruntime": "onnxruntime"}),
    # Networks of timm under names of another library: EfficientNet-Lite.
    "packaged": ("timm", {"timm": "timm"}),
    "descriptor": ("descriptors", {"skimage": "scikit-image"}),
    "imported": ("imported", {}),
}
"""BioFuse's own families, as cards name them: the module of each, the libraries it imports and what brings them."""

FORMS = {"timm": "timm:NAME[:cls]", "hf": "hf:OWNER/NAME", "open_clip": "open_clip:MODEL/TAG"}
"""How ad-hoc encoders are asked for, by what their names begin with."""


class Builder(Protocol):
    """Turns a card into a loaded encoder."""

    def __call__(self, card: EncoderCard, *, device: str, precision: Precision, weights_path: Path | None) -> Encoder:
        """Build it."""
        ...


def loader_of(family: str) -> Any:
    """Return the module of a loader family, None where the family is not one of BioFuse's."""
    return importlib.import_module(f"{__name__}.{FAMILIES[family][0]}") if family in FAMILIES else None


def libraries_of(family: str) -> dict[str, str]:
    """Return the modules that a family imports, and the distributions that bring them; none are imported here."""
    return FAMILIES[family][1] if family in FAMILIES else {}


def builder_of(family: str) -> Builder | None:
    """Return what builds the encoders of a loader family, None where the family is not one of BioFuse's."""
    module = loader_of(family)
    if module is None:
        return None
    own: Builder = getattr(module, "build", None) or functools.partial(build_network, module)
    return own


RANDOM = "random"
"""What a card of the ``timm`` family names as repository to ask for random weights; its revision is the seed."""


def build_network(
    family: Any, card: EncoderCard, *, device: str, precision: Precision, weights_path: Path | None
) -> TorchEncoder:
    """Build the network of a card and fill it with exactly the weights that the card names.

    Parameters
    ----------
    family : module
        Of its loader family.
    card, device, precision, weights_path
        As of :class:`Builder`.

    Raises
    ------
    EncoderError
        If the library does not know the architecture or its arguments, or the network contradicts the card.
    WeightsError
        If there is no checkpoint, or it is not the one on the card.
    """
    source = card.weights
    if card.loader == "timm" and source is not None and source.repository == RANDOM and weights_path is None:
        network = _initialised(family, card, int(source.revision))
    else:
        network = unfilled(lambda: family.build_architecture(card))
        convert = family.layout_of(card, network) if hasattr(family, "layout_of") else None
        card = load_weights(network, card, weights_path=weights_path, convert=convert)
    return TorchEncoder(card, network, device=device, precision=precision, forward=forward_of(card, network))


def check_configuration(card: EncoderCard) -> None:
    """Refuse a card whose network is another than the repository of its weights describes.

    Weights do not show everything: an activation has none, and heads share one matrix.

    Raises
    ------
    EncoderError
        That names both sides.
    """
    family = loader_of(card.loader)
    file = "" if card.weights is None else card.weights.configuration
    config = published_file(card, file) if hasattr(family, "contradictions") else None
    different = "" if config is None or card.weights is None else family.contradictions(card, config)
    if different and card.weights is not None:
        raise EncoderError(
            f"{file} of {card.weights.repository} describes another network than the card of {card.name}: {different}.",
            remedy="Correct the arguments on the card, or take configuration off it if the authors say otherwise.",
        )


def _initialised(family: Any, card: EncoderCard, seed: int) -> "nn.Module":
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = family.build_architecture(card)
    return network


def forward_of(card: EncoderCard, network: "nn.Module") -> "Callable[[torch.Tensor], torch.Tensor]":
    """Return what computes a card's output with its network: the network, unless its family says otherwise."""
    own = getattr(loader_of(card.loader), "forward_of", None)
    forward: Callable[[torch.Tensor], torch.Tensor] = network if own is None else own(card, network)
    return forward


def is_adhoc(name: str) -> bool:
    """Tell whether a name asks for an ad-hoc encoder."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix in FORMS


def adhoc_card(name: str, *, allow_random_weights: bool = False) -> EncoderCard:
    """Make the card of an encoder that is asked for by where it lies.

    ``timm:NAME`` with a tag (``resnet18.a1_in1k``), without (timm's default tag), or a repository of timm's
    (``timm:owner/name``, ``timm:hf-hub/owner/name``), any of them with the pooling at the end (``:cls``, ``:mean``,
    ``:cls+mean``) where timm's own is not meant or there is none; ``hf:OWNER/NAME`` of a vision model of transformers;
    ``open_clip:MODEL/TAG``, or a repository of open_clip's. Small configuration files may be downloaded; weights are
    not.

    Parameters
    ----------
    name : str
        With its prefix.
    allow_random_weights : bool, default False
        Whether ``timm:NAME`` gets random weights in place of trained ones, always the same. Only good for trying
        things out; the card says so, and its fingerprint is another. Other prefixes take no notice.

    Returns
    -------
    EncoderCard
        Its name is ``name`` with characters that names cannot have replaced, such as ``timm-resnet18.a1_in1k``.

    Raises
    ------
    DependencyError
        If the library is not installed.
    UnknownEncoderError
        If the library knows no such model.
    EncoderError
        If BioFuse cannot build it, or cannot prepare images as it asks.
    UnavailableWeightsError
        If its configuration cannot be had.
    """
    prefix, _, model = name.partition(":")
    if prefix not in FORMS or not model:
        raise UnknownEncoderError(
            f"{name!r} does not say where an encoder lies.", remedy=f"Use {', '.join(FORMS.values())}."
        )
    try:
        family = loader_of("transformers" if prefix == "hf" else prefix)
    except ImportError as error:
        raise DependencyError(
            f"{name} needs a library that cannot be imported: {error}.", remedy=f"pip install {error.name}"
        ) from error
    with card_errors(name):
        card: EncoderCard = family.adhoc_card(model, random_weights=allow_random_weights)
    return card


COUNTED = computed("counted on the architecture without weights")


def make_card(asked: str, *, network: "Callable[[EncoderCard], nn.Module]", source: str, **fields: Any) -> EncoderCard:
    """Make the card of an ad-hoc encoder.

    Parameters
    ----------
    asked : str
        How it was asked for, with prefix; its name and title unless ``fields`` say otherwise.
    network : callable
        Builds its network without weights, to count the parameters; run under the meta device.
    source : str
        What states the facts.
    **fields
        The other fields of the card.
    """
    stated = external(source)
    card = EncoderCard(
        **{"name": slug(asked), "title": asked.partition(":")[2], "licence": "unknown"} | fields,
        gated=None,
        modality="unknown",
        source=source,
        facts={
            **dict.fromkeys(("weights", "layout", "architecture", "preprocessing", "output"), stated),
            **dict.fromkeys(("dim", "parameters"), COUNTED),
        },
    )
    parameters = sum(parameter.numel() for parameter in on_meta(lambda: network(card)).parameters())
    return card.model_copy(update={"parameters": parameters})


def slug(text: str) -> str:
    """Return a text as a name that cards can have."""
    return re.sub(r"[^a-z0-9_.\-]+", "-", text.lower())


def on_meta(build: "Callable[[], nn.Module]") -> "nn.Module":
    """Build a network whose parameters have no memory."""
    import torch

    with torch.device("meta"):
        return build()
