"""Checkpoints built from outside the card: for every encoder a recipe of how its file is laid out, and who says so.

A recipe is ``recipes/NAME.toml``. Nothing in it is taken from the card:

``source``
    Where the layout was read: somebody else's code that loads the very file, or the library that wrote it. The card
    names the same source as that of its fact ``layout``; a card without a recipe calls that fact unverified.
``file``, ``entry``, ``prefix``
    The file, the key under which the weights lie in it, and what stands before the names of the layout.
``written_by``
    ``"torch"`` or ``"safetensors"``, where the ending of the file says otherwise.
``layout``, ``[numbers]``
    One of :data:`tests.encoders.layouts.LAYOUTS` and its numbers, as published.
``beside``
    Names of further weights in the file (after no prefix), which the encoder leaves out.
``[objects]``
    What lies beside the weights in a checkpoint: ``"argparse.Namespace"``, ``"optimizer"``, ``"int"``, ``"float64"``.
``[files]``
    Other files of the repository that somebody has seen, with their text.
``[unseen]``
    What weights do not show and is not usual for the layout, as
    :class:`tests.encoders.vision_transformers.Unseen`; what is otherwise in a further vector stands in a table of its
    name.

Each recipe is used twice: at full size without memory, where every name and shape must be the network's, and as a real
file of two layers that is loaded as users load it, and gives the vectors of ``networks.py``. A recipe without
``source`` is of a file that nobody outside BioFuse was found to describe; its names are those of the library whose
network it is.
"""

import argparse
import io
import json
import math
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from tests.encoders.layouts import LAYOUTS, Shapes

from biofuse.encoders import EncoderCard, EncoderRegistry, Preprocessing

FOLDER = Path(__file__).with_name("recipes")

RECIPES = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.toml"))}

SOURCED = {name: recipe for name, recipe in RECIPES.items() if "source" in recipe}
"""Those of files that somebody outside BioFuse describes."""

CARDS = {card.name: card for card in EncoderRegistry(plugins=False).list_cards()}

VARIANTS = {f"{name}:{variant}": card.variant(variant) for name, card in CARDS.items() for variant in card.variants}

LEARNED = {name: card for name, card in CARDS.items() if card.weights is not None and "starter" not in card.pools}

WIDTH, HEADS, LAYERS, PROJECTION = 48, 3, 2, 24
"""Of the small networks."""


def small_numbers(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's numbers with fewer and narrower layers: patches, positions and registers stay as published."""
    numbers = dict(recipe["numbers"])
    if "blocks" in numbers:
        return numbers | {"blocks": [1] * len(numbers["blocks"])}
    if "depths" in numbers:
        projection = {"projection": PROJECTION} if "projection" in numbers else {}
        return numbers | {"width": 24, "depths": [2, 2], "heads": [2, 4], **projection}
    if "dual" in numbers:
        return numbers | {"width": 12, "dual": [1, 1, 1, 1], "projection": PROJECTION}
    if recipe["layout"] == "open_clip timm":
        # timm's test_vit, since open_clip cannot be told how large the transformers of timm shall be.
        return numbers | {"width": 64, "layers": 6, "hidden": 192, "tokens": 101, "projection": PROJECTION}
    if "stages" in numbers:
        return numbers | {"width": PROJECTION // 2, "stages": [1, 1, 1, 1]}
    small = {"width": WIDTH, "layers": LAYERS, "hidden": round(numbers["hidden"] * WIDTH / numbers["width"])}
    small |= {name: PROJECTION for name in ("projection", "head") if name in numbers}
    if recipe["layout"] in {"BEiT shared", "OpenPhenom"}:
        small["heads"] = HEADS
    if recipe["layout"] == "timm DINOv3" and "swiglu" in numbers:
        small["hidden"] = 64 * math.ceil(small["hidden"] / 64)  # as timm makes them even
    if "pool" in numbers:
        small["pool"] = 4 * WIDTH
    if recipe["layout"] == "transformers SAM":
        # At full size the layers that see the whole image take a gigabyte.
        small |= {"grid": 4, "window": 2, "heads": HEADS, "out": PROJECTION}
    if recipe["layout"] == "SAM without windows":
        small |= {"grid": 4, "heads": HEADS, "out": PROJECTION}
    return numbers | small


def at(preprocessing: Preprocessing, side: int) -> Preprocessing:
    return preprocessing.model_copy(update={"size": side, "crop": preprocessing.crop and side})


def narrower(head: list[str]) -> list[str]:
    return [re.sub(r"\d+", str(PROJECTION), layer) for layer in head]


def of_transformers(arguments: Mapping[str, Any], width: int) -> tuple[dict[str, Any], int | None]:
    """Return the arguments of a small network of transformers, and its side in pixels where that is another."""
    small = {**arguments, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    for name in ("intermediate_size", "mlp_dim"):
        if name in small:
            small[name] = small[name] * WIDTH // width
    if "projection_dim" in small:
        small["projection_dim"] = PROJECTION
    if "output_channels" not in small:
        return small, None
    side = 4 * small["patch_size"]
    windows = len(arguments["global_attn_indexes"]) < arguments["num_hidden_layers"]
    seen = {"global_attn_indexes": [1], "window_size": 2} if windows else {"global_attn_indexes": [0, 1]}
    return small | seen | {"output_channels": PROJECTION, "image_size": side}, side


def shrunk(card: EncoderCard, recipe: Mapping[str, Any]) -> EncoderCard:
    """Return a card whose network is as small as :func:`small_numbers` makes the file."""
    numbers = small_numbers(recipe)
    if "blocks" not in numbers:
        return shrunk_transformer(card, recipe)
    changes = {"preprocessing": at(card.preprocessing, 64), "parameters": None}
    changes["arguments"] = card.arguments | {LAYERS_OF[recipe["layout"]]: numbers["blocks"]}
    if recipe["layout"] == "DenseNet":
        layout = LAYOUTS["DenseNet"](**numbers)
        changes["dim"] = layout["features.norm5.weight"][0]
    return card.model_copy(update=changes)


LAYERS_OF = defaultdict(lambda: "layers", DenseNet="block_config")
"""What timm calls the number of layers of each block."""


def shrunk_transformer(card: EncoderCard, recipe: Mapping[str, Any]) -> EncoderCard:
    arguments, width = dict(card.arguments), recipe["numbers"].get("width", WIDTH)
    dim = {"cls+mean": 2 * WIDTH, "projected": PROJECTION}.get(card.output, WIDTH)
    dim *= len(arguments.get("summary", [0])) * (2 if "magnified" in arguments else 1)
    dim *= 3 if arguments.get("channels") == "apart" else 1
    preprocessing = card.preprocessing
    if "depths" in recipe["numbers"]:
        side = 56 if recipe["layout"] == "CTransPath" else 96
        arguments |= {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "img_size": side}
        preprocessing = at(preprocessing, side)
        if card.output == "projected":
            arguments["num_classes"] = PROJECTION
    elif "stages" in recipe["numbers"]:
        dims = [PROJECTION // 2 * 2**stage for stage in range(4)]
        arguments |= {"depths": (1, 1, 1, 1), "dims": dims}
        dim = dims[-1]
    elif "dual" in recipe["numbers"]:
        arguments |= {"depths": (1,) * 4, "embed_dims": (12, 24, 48, 96), "num_heads": (3, 6, 12, 24)}
        arguments["head"] = narrower(arguments["head"])
        preprocessing = at(preprocessing, 64)
    elif card.loader == "conch":
        arguments |= {"embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS, "pooler_dim": PROJECTION}
        dim = PROJECTION
    elif card.loader == "open_clip":
        import open_clip

        known = open_clip.get_model_config(card.architecture)["vision_cfg"] if card.architecture else {}
        vision = known | arguments.get("vision_cfg", {})
        if "timm_model_name" in vision:
            vision |= {"timm_model_name": "test_vit", "image_size": 160}
            dim = 64 if card.output == "cls" else dim
            preprocessing = preprocessing.model_copy(update={"size": 160, "crop": 160})
        else:
            vision |= {"layers": LAYERS, "width": WIDTH, "head_width": WIDTH // HEADS}
        arguments |= {"embed_dim": PROJECTION, "vision_cfg": vision}
    elif card.architecture == "CLIPVisionModel" and card.loader == "projection":
        arguments, _ = of_transformers(arguments, width)
        arguments["head"], dim = [f"linear {WIDTH}"], WIDTH
    elif card.loader in {"timm", "projection"}:
        classes = {"num_classes": PROJECTION} if card.loader == "timm" and card.output == "projected" else {}
        arguments |= {"embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS, **classes}
        arguments |= {key: narrower(value) for key, value in arguments.items() if key == "head"}
    else:
        arguments, side = of_transformers(arguments, width)
        if side is not None:
            dim, preprocessing = PROJECTION, at(preprocessing, side)
    changes = {"arguments": arguments, "dim": dim, "parameters": None, "preprocessing": preprocessing}
    return card.model_copy(update=changes)


def shapes_of(recipe: Mapping[str, Any], numbers: Mapping[str, Any]) -> Shapes:
    """Return names and shapes in the file, those that the encoder has no use for included."""
    prefix = recipe.get("prefix", "")
    shapes = {f"{prefix}{name}": shape for name, shape in LAYOUTS[recipe["layout"]](**numbers).items()}
    return shapes | dict.fromkeys(recipe.get("beside", ()), (1, 1))


OBJECTS: dict[str, Callable[[], Any]] = {
    "argparse.Namespace": lambda: argparse.Namespace(lr=1e-3, data_path="/data", betas=[0.9, 0.95]),
    "optimizer": lambda: {"state": {0: {"step": 1, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]},
    "int": lambda: 50,
    "float64": lambda: np.float64(0.25),
}
"""What training scripts put beside weights."""


def file_of(recipe: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    """Return the files of a repository that hold the weights as the recipe says."""
    name = recipe["file"]
    if name.endswith(".index.json"):
        shards = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
        for number, key in enumerate(state):
            list(shards.values())[number % 2][key] = state[key]
        index = {key: shard for shard, part in shards.items() for key in part}
        listed = json.dumps({"metadata": {}, "weight_map": index}).encode()
        return {name: listed} | {shard: bytes(save(part)) for shard, part in shards.items()}
    usual = "safetensors" if name.endswith(".safetensors") else "torch"
    if recipe.get("written_by", usual) == "safetensors":
        return {name: bytes(save(dict(state)))}
    buffer = io.BytesIO()
    beside = {key: OBJECTS[kind]() for key, kind in recipe.get("objects", {}).items()}
    entry = recipe.get("entry", "")
    torch.save({entry: dict(state), **beside} if entry else dict(state), buffer)
    return {name: buffer.getvalue()}


FIRST = re.compile(
    r"(^|\.)(patch_\w+|embedder|(cls|reg|register)_tokens?|pos_embed|class_embedding|position\w+|vision_embed|embed_positions)\b(?!_)"
)
"""Names of the weights that tokens are made with."""


def random_state(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Return random weights with which tokens begin so small that the epsilon of a normalisation tells."""
    generator = torch.Generator().manual_seed(11)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, value in state.items():
        # Fifty convolutions must not overflow, and a variance is positive.
        value.mul_(0.2 if value.ndim != 4 else min(0.2, value[0].numel() ** -0.5))
        if name.endswith("running_var"):
            value.abs_().add_(0.5)
        elif value.ndim == 1 and name.endswith(("weight", "gamma", "gamma_1", "gamma_2", "lambda1")):
            value.add_(1)
        elif FIRST.search(name) or (value.ndim == 4 and value.shape[-1] > 8):
            value.mul_(0.01)
    return state


def published(hub: Any, card: EncoderCard, recipe: Mapping[str, Any], shapes: Shapes) -> EncoderCard:
    """Put a recipe's small repository on the stand-in hub, and return the card for it."""
    weights = card.weights.model_copy(update={"sha256": None, "shards": ()})
    files = file_of(recipe, random_state(shapes))
    other = {name: text.encode() for name, text in recipe.get("files", {}).items()}
    same = card.preprocessing == of_card(card.name).preprocessing
    if weights.processor not in other or not same:
        weights = weights.model_copy(update={"processor": ""})
    if weights.configuration not in other or not same:
        weights = weights.model_copy(update={"configuration": ""})
    if weights.repository == "manual":
        weights = weights.model_copy(update={"repository": "owner/manual", "revision": "main"})
    commit = weights.revision if len(weights.revision) == 40 else "1" * 40
    hub.add(weights.repository, files | other, commit=commit)
    return card.model_copy(update={"weights": weights})


def of_card(name: str) -> EncoderCard:
    return VARIANTS[name] if ":" in name else CARDS[name]
