"""Vision towers of open_clip, without their text towers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from open_clip.timm_model import TimmModel
from torch import nn

from biofuse.core.errors import EncoderError, UnknownEncoderError
from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.hub import endpoint, first_file, is_repository, read_config
from biofuse.encoders.loaders import FORMS, make_card
from biofuse.encoders.preprocessing import from_open_clip

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Where open_clip keeps weights in a repository; the first that is there is taken."""

ARGUMENTS = ("embed_dim", "vision_cfg", "quick_gelu")
"""What a card may give, on top of open_clip's own configuration of the model or in place of it."""


def build_architecture(card: EncoderCard) -> nn.Module:
    """Build the vision tower of a card of the ``open_clip`` family, without weights; may run under the meta device.

    Raises
    ------
    EncoderError
        If open_clip does not know the model or its arguments, or the network contradicts the card.
    """
    settings = _settings(card)
    if card.output not in {"projected", "cls"}:
        raise EncoderError(f"The open_clip family gives the outputs projected and cls, not {card.output!r}.")
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
    columns = settings["embed_dim"] if card.output == "projected" else _before_projection(card.name, tower)
    if columns != card.dim:
        raise EncoderError(
            f"{card.name} promises {card.dim} columns of the output {card.output!r}; open_clip's "
            f"{card.architecture or 'tower'} gives {columns}."
        )
    return tower


def contradictions(card: EncoderCard, config: Mapping[str, Any]) -> str:
    """Say in what an ``open_clip_config.json`` describes another network than a card; empty where they agree."""
    theirs = config.get("model_cfg", {})
    ours = _settings(card)
    named = {"quick_gelu": (bool(theirs.get("quick_gelu")), bool(ours.get("quick_gelu")))}
    tower, own = theirs.get("vision_cfg", {}), ours["vision_cfg"]
    named |= {field: (tower[field], own[field]) for field in tower if field in own and field != "timm_model_pretrained"}
    return "; ".join(
        f"{field} is {there} there and {here} on the card" for field, (there, here) in named.items() if there != here
    )


def _before_projection(name: str, tower: Any) -> int:
    """Take its projection from a tower, and return the columns of what is left: the class token, normalised."""
    if isinstance(tower, TimmModel):
        tower.head = nn.Sequential()
        pooled, width = tower.trunk.global_pool, tower.trunk.num_features
    else:
        tower.proj = None
        pooled, width = tower.pool_type, tower.transformer.width
    if pooled not in {"token", "tok"}:
        raise EncoderError(f"{name} promises the output 'cls', but its tower pools by {pooled!r}.")
    columns: int = width
    return columns


def _settings(card: EncoderCard) -> dict[str, Any]:
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


def adhoc_card(model: str, *, random_weights: bool) -> EncoderCard:
    """Make the card of ``open_clip:NAME``; see :func:`biofuse.encoders.loaders.adhoc_card`."""
    del random_weights
    first, _, tag = model.partition("/")
    asked = f"open_clip:{model}"
    if first in open_clip.list_models():
        return _of_open_clip(first, tag, asked)
    config, revision = read_config(model, "open_clip_config.json", asked, form=FORMS["open_clip"])
    settings = config.get("model_cfg", {})
    arguments = {key: settings[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in settings}
    if "embed_dim" not in arguments or "vision_cfg" not in arguments:
        raise EncoderError(f"open_clip_config.json of {model} describes no model.")
    size = arguments["vision_cfg"].get("image_size", 224)
    return make_card(
        asked,
        network=build_architecture,
        source=f"the configuration files of {model}",
        page=f"{endpoint()}/{model}",
        dim=arguments["embed_dim"],
        loader="open_clip",
        architecture="",
        arguments=arguments,
        weights=Weights(
            repository=model,
            revision=revision,
            file=first_file(model, revision, FILES, asked),
            prefix="visual.",
            processor="open_clip_config.json",
        ),
        preprocessing=from_open_clip(config.get("preprocess_cfg", {}), name=asked, size=size),
        output="projected",
    )


def _of_open_clip(model: str, tag: str, asked: str) -> EncoderCard:
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise UnknownEncoderError(
            f"{asked} does not name weights that open_clip {open_clip.__version__} has for {model}.",
            remedy=f"Use open_clip:{model}/TAG, where TAG is one of {', '.join(tags) or 'none'}.",
        )
    table = open_clip.get_pretrained_cfg(model, tag)
    repository, _, file = str(table.get("hf_hub", "")).rpartition("/")
    if not is_repository(repository):
        raise EncoderError(
            f"The weights of {asked} are on no model hub.",
            remedy=f"Download {table.get('url')}, and register a card with loader='open_clip' for the file.",
        )
    config = open_clip.get_model_config(model)
    return make_card(
        asked,
        network=build_architecture,
        source=f"the configuration files of {repository}",
        page=f"{endpoint()}/{repository}",
        dim=config["embed_dim"],
        loader="open_clip",
        architecture=model,
        arguments={"quick_gelu": True} if table.get("quick_gelu") else {},
        weights=Weights(
            repository=repository,
            revision="main",
            file=file or first_file(repository, "main", FILES, asked),
            prefix="visual.",
        ),
        preprocessing=from_open_clip(table, name=asked, size=config["vision_cfg"].get("image_size", 224)),
        output="projected",
    )
