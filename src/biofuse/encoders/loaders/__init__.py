"""Loader families: what builds the encoders of each kind, a module each.

A module has ``build``, which turns a card into a loaded encoder, and ``LIBRARIES``, the modules it imports and the
distributions that bring them. Those whose networks can be built without weights have ``build_architecture`` and
``forward_of`` as well; those that make the cards of ad-hoc encoders (``timm:NAME``) have ``adhoc_card``. No module
imports a model library before it has to.
"""

import importlib
from pathlib import Path
from typing import Any, Protocol

from biofuse.core.errors import UnknownEncoderError
from biofuse.encoders.card import EncoderCard, Precision, card_errors
from biofuse.encoders.encoder import Encoder

FAMILIES = {
    "timm": "timm",
    "open_clip": "open_clip",
    "transformers": "transformers",
    "conch": "conch",
    # CheXagent's vision tower is BLIP-2's; the family's name is part of fingerprints.
    "chexagent": "transformers",
    "onnx": "onnx",
    "packaged": "packaged",
    "descriptor": "descriptors",
    "imported": "imported",
}
"""BioFuse's own families, as cards name them, and the module of each."""

PREFIXES = {"timm": "timm", "hf": "transformers", "open_clip": "open_clip"}
"""What the names of ad-hoc encoders begin with, and the family that makes their cards."""


class Builder(Protocol):
    """Turns a card into a loaded encoder."""

    def __call__(self, card: EncoderCard, *, device: str, precision: Precision, weights_path: Path | None) -> Encoder:
        """Build it."""
        ...


def loader_of(family: str) -> Any:
    """Return the module of a loader family, None where the family is not one of BioFuse's."""
    return importlib.import_module(f"{__name__}.{FAMILIES[family]}") if family in FAMILIES else None


def libraries_of(family: str) -> dict[str, str]:
    """Return the modules that a family imports, and the distributions that bring them; none are imported here."""
    return getattr(loader_of(family), "LIBRARIES", {})


def is_adhoc(name: str) -> bool:
    """Tell whether a name asks for an ad-hoc encoder."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix in PREFIXES


def adhoc_card(name: str, *, allow_random_weights: bool = False) -> EncoderCard:
    """Make the card of an encoder that is asked for by where it lies.

    ``timm:NAME`` with a tag (``resnet18.a1_in1k``), without (timm's default tag), or a repository of timm's
    (``timm:owner/name``); ``hf:OWNER/NAME`` of a vision model of transformers; ``open_clip:MODEL/TAG``, or a repository
    of open_clip's. Small configuration files may be downloaded; weights are not.

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
    UnknownEncoderError
        If the library knows no such model.
    EncoderError
        If BioFuse cannot build it, or cannot prepare images as it asks.
    UnavailableWeightsError
        If its configuration cannot be had.
    """
    prefix, _, model = name.partition(":")
    if prefix not in PREFIXES or not model:
        forms = ", ".join(loader_of(family).FORM for family in PREFIXES.values())
        raise UnknownEncoderError(f"{name!r} does not say where an encoder lies.", remedy=f"Use {forms}.")
    with card_errors(name):
        card: EncoderCard = loader_of(PREFIXES[prefix]).adhoc_card(model, random_weights=allow_random_weights)
    return card
