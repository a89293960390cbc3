"""Encoders asked for by where they lie: ``timm:NAME``, ``hf:OWNER/NAME`` and ``open_clip:NAME``.

Their cards are made on the spot, with the preprocessing that the library or the repository publishes. Nothing of it
has been checked by BioFuse.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from biofuse.core.errors import EncoderError, NotOnHubError, UnknownEncoderError
from biofuse.encoders import open_clip_loader, transformers_loader
from biofuse.encoders.card import EncoderCard, Weights, card_errors
from biofuse.encoders.facts import Fact, FactName, computed, external
from biofuse.encoders.hub import HubFile, ask, cached, commit_of, download, endpoint, is_repository
from biofuse.encoders.published import from_open_clip, from_processor, from_timm, read_json
from biofuse.encoders.timm_loader import RANDOM, create, pooled_output, width

if TYPE_CHECKING:
    from torch import nn

SEED = 0
"""Of random weights."""

TRANSFORMERS_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where the libraries keep weights in a repository; the first that is there is taken."""

COUNTED = computed("counted on the architecture without weights")

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


def is_adhoc(name: str) -> bool:
    """Tell whether a name asks for an ad-hoc encoder."""
    return name.partition(":")[0] in MAKERS and ":" in name


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
    if prefix not in MAKERS or not model:
        raise UnknownEncoderError(f"{name!r} does not say where an encoder lies.", remedy=f"Use {', '.join(FORMS)}.")
    with card_errors(name):
        return _timm(model, random=True) if prefix == "timm" and allow_random_weights else MAKERS[prefix](model)


def _slug(*parts: str) -> str:
    return re.sub(r"[^a-z0-9_.\-]+", "-", "-".join(parts).lower())


def _timm(model: str, *, random: bool = False) -> EncoderCard:
    architecture, arguments, config, weights = _timm_repository(model) if "/" in model else _timm_known(model)
    asked = f"timm:{model}"
    preprocessing = from_timm(config, name=asked)
    network = _on_meta(lambda: create(architecture, arguments, name=asked))
    output = pooled_output(network)
    if output == "cls+mean":
        raise EncoderError(f"{asked} gives no vector per image: timm builds it without pooling.")
    title = model if "/" in model or not config.get("tag") else f"{architecture}.{config['tag']}"
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    weights = weights.model_copy(update={"ignore": tuple(f"{head}.*" for head in heads)})
    if random:
        weights = Weights(repository=RANDOM, revision=str(SEED), file="")
    elif not is_repository(weights.repository):
        raise EncoderError(
            f"The weights of {asked} are on no model hub.",
            remedy="Download them, and register them with register_timm.",
        )
    return _card(
        name=_slug("timm", title) + (".random" if random else ""),
        title=f"{title} with random weights" if random else title,
        loader="timm",
        architecture=architecture,
        arguments=arguments,
        weights=weights,
        preprocessing=preprocessing,
        output=output,
        dim=width(network),
        network=network,
        licence=config.get("license") or "unknown",
        source=f"timm's pretrained configuration of {title}",
        notes=(f"Random weights (seed {SEED}): nothing was learned.",) if random else (),
    )


def _timm_known(model: str) -> tuple[str, dict[str, Any], dict[str, Any], Weights]:
    import timm

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
    weights = Weights(repository=known.hf_hub_id or "", revision="main", file=known.hf_hub_filename or TIMM_FILES[0])
    return architecture, {}, config, weights


def _timm_repository(repository: str) -> tuple[str, dict[str, Any], dict[str, Any], Weights]:
    asked = f"timm:{repository}"
    config, revision = _config(repository, "config.json", asked)
    if "architecture" not in config or "pretrained_cfg" not in config:
        raise EncoderError(f"{repository} holds no model of timm.", remedy=f"Try hf:{repository}.")
    arguments = {key: value for key, value in (config.get("model_args") or {}).items() if key != "num_classes"}
    pooling = config.get("global_pool")
    if isinstance(pooling, str) and pooling:
        arguments.setdefault("global_pool", pooling)
    file = _first(repository, revision, TIMM_FILES, asked)
    weights = Weights(repository=repository, revision=revision, file=file)
    return config["architecture"], arguments, config["pretrained_cfg"], weights


def _hf(repository: str) -> EncoderCard:
    asked = f"hf:{repository}"
    config, revision = _config(repository, "config.json", asked)
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
    processor, _ = _config(repository, "preprocessor_config.json", asked, revision=revision)
    return _describe(
        asked,
        dim=arguments["projection_dim" if output == "projected" else "hidden_size"],
        loader="transformers",
        architecture=architecture,
        arguments=arguments,
        weights=Weights(
            repository=repository,
            revision=revision,
            file=_first(repository, revision, TRANSFORMERS_FILES, asked),
            prefix=_head_prefix(kind, config),
            ignore=(*ignore, "*position_ids"),
            processor="preprocessor_config.json",
        ),
        preprocessing=from_processor(processor, name=asked),
        output=output,
    )


def _arguments(architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    import transformers

    configuration = getattr(transformers, transformers_loader.KINDS[architecture].configuration)
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


def _open_clip(model: str) -> EncoderCard:
    import open_clip

    first, _, tag = model.partition("/")
    asked = f"open_clip:{model}"
    if first in open_clip.list_models():
        return _open_clip_known(first, tag, asked)
    config, revision = _config(model, "open_clip_config.json", asked)
    settings = config.get("model_cfg", {})
    arguments = {key: settings[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in settings}
    if "embed_dim" not in arguments or "vision_cfg" not in arguments:
        raise EncoderError(f"open_clip_config.json of {model} describes no model.")
    size = arguments["vision_cfg"].get("image_size", 224)
    return _describe(
        asked,
        dim=arguments["embed_dim"],
        loader="open_clip",
        architecture="",
        arguments=arguments,
        weights=Weights(
            repository=model,
            revision=revision,
            file=_first(model, revision, OPEN_CLIP_FILES, asked),
            prefix="visual.",
            processor="open_clip_config.json",
        ),
        preprocessing=from_open_clip(config.get("preprocess_cfg", {}), name=asked, size=size),
        output="projected",
    )


def _open_clip_known(model: str, tag: str, asked: str) -> EncoderCard:
    import open_clip

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
    return _describe(
        asked,
        dim=config["embed_dim"],
        loader="open_clip",
        architecture=model,
        arguments={"quick_gelu": True} if table.get("quick_gelu") else {},
        weights=Weights(
            repository=repository,
            revision="main",
            file=file or _first(repository, "main", OPEN_CLIP_FILES, asked),
            prefix="visual.",
        ),
        preprocessing=from_open_clip(table, name=asked, size=config["vision_cfg"].get("image_size", 224)),
        output="projected",
    )


def _describe(asked: str, *, loader: str, **fields: Any) -> EncoderCard:
    prefix, _, model = asked.partition(":")
    repository = fields["weights"].repository
    card = _card(
        name=_slug(prefix, model),
        title=model,
        loader=loader,
        network=None,
        licence="unknown",
        source=f"the configuration files of {repository}",
        page=f"{endpoint()}/{repository}",
        **fields,
    )
    family = transformers_loader if loader == "transformers" else open_clip_loader
    return card.model_copy(update={"parameters": _count(_on_meta(lambda: family.build_architecture(card)))})


def _card(*, network: "nn.Module | None", source: str, **fields: Any) -> EncoderCard:
    stated = external(source)
    origins: dict[FactName, Fact] = {
        "weights": stated,
        "architecture": stated,
        "preprocessing": stated,
        "output": stated,
        "dim": COUNTED,
        "parameters": COUNTED,
    }
    return EncoderCard(
        **fields,
        parameters=None if network is None else _count(network),
        gated=None,
        modality="unknown",
        source=source,
        facts=origins,
    )


def _on_meta(build: "Callable[[], nn.Module]") -> "nn.Module":
    import torch

    with torch.device("meta"):
        return build()


def _count(network: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _config(repository: str, file: str, asked: str, *, revision: str = "main") -> tuple[dict[str, Any], str]:
    """Return a configuration file of a repository, and the commit it was read at."""
    if not is_repository(repository):
        raise UnknownEncoderError(
            f"{asked}: {repository!r} is not a model repository (owner/name).", remedy=f"Use {', '.join(FORMS)}."
        )
    path = download(HubFile(repository=repository, revision=revision, file=file, encoder=asked))
    return read_json(path), commit_of(path) or revision


def _first(repository: str, revision: str, files: Sequence[str], asked: str) -> str:
    """Return the first of the files that the repository has."""
    wanted = [HubFile(repository=repository, revision=revision, file=file, encoder=asked) for file in files]
    here = [one.file for one in wanted if cached(one) is not None]
    if here:
        return here[0]
    for one in wanted:
        try:
            ask(one)
        except NotOnHubError:
            continue
        return one.file
    raise NotOnHubError(
        f"{repository} (for {asked}) has none of the files {', '.join(files)}.",
        remedy="Register the encoder under a name of its own, with the file it has.",
    )


MAKERS: dict[str, Callable[[str], EncoderCard]] = {"timm": _timm, "hf": _hf, "open_clip": _open_clip}
"""What makes the card of each prefix."""

FORMS = ("timm:NAME", "hf:OWNER/NAME", "open_clip:MODEL/TAG")
