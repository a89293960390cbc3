"""Files that are laid out as somebody outside BioFuse says are loaded, and others are refused.

See :mod:`tests.encoders.published` for what they are made from.
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders.layouts import Shapes
from tests.encoders.published import (
    CARDS,
    LEARNED,
    PROJECTION,
    RECIPES,
    SOURCED,
    VARIANTS,
    WIDTH,
    published,
    shapes_of,
    shrunk,
    small_numbers,
)
from tests.encoders.test_cards import of_one_network

from biofuse.core.errors import EncoderError, WrongWeightsError
from biofuse.encoders import load_encoder
from biofuse.encoders.loaders import loader_of
from biofuse.encoders.preprocessing import differences, from_open_clip, from_processor
from biofuse.encoders.weights import fill, is_wanted

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.mark.parametrize("card", LEARNED.values(), ids=LEARNED)
def test_a_card_has_a_recipe_or_says_that_its_layout_is_unverified(card):
    fact = card.facts["layout"]
    if card.name in SOURCED:
        assert (fact.source, fact.reference) == ("external", SOURCED[card.name]["source"])
    else:
        assert fact.source == "unverified"
        assert not card.selectable_by_default
        assert not set(card.pools) - {"paper"}


def test_every_recipe_is_of_a_card():
    assert set(RECIPES) <= set(LEARNED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cards", of_one_network(card for card in (LEARNED | VARIANTS).values() if card.base in SOURCED)
)
def test_every_name_and_shape_of_the_file_is_the_networks(cards, full_size):
    network = full_size(cards[0])
    for card in cards:
        recipe = RECIPES[card.base]
        shapes = shapes_of(recipe, recipe["numbers"])
        assert (card.weights.file, card.weights.entry) == (recipe["file"], recipe.get("entry", ""))
        prefix, ignore = card.weights.prefix, card.weights.ignore
        state = {
            name.removeprefix(prefix): torch.empty(shape, device="meta")
            for name, shape in shapes.items()
            if is_wanted(name, prefix=prefix, ignore=ignore)
        }
        family = loader_of(card.loader)
        convert = family.layout_of(card, network) if hasattr(family, "layout_of") else None
        fill(network, card, state, path=Path(card.weights.file), convert=convert)
        assert (card.name, heads_of(network)) == (card.name, heads_in(recipe))


def heads_of(network: torch.nn.Module) -> int | None:
    """Return the heads of a network's first attention; None of a network without, and of Swin's."""
    names = ("num_heads", "num_attention_heads")
    found = [getattr(part, name, None) for part in network.modules() for name in names]
    return next((heads for heads in found if isinstance(heads, int)), None)


def heads_in(recipe: dict[str, Any]) -> int | None:
    numbers = recipe["numbers"]
    if "depths" in numbers:
        return numbers["heads"][0]
    if "dual" in numbers:
        return numbers["width"] // 32
    if "layers" not in numbers:
        return None
    return recipe.get("unseen", {}).get("heads", numbers["width"] // HEAD_WIDTH)


HEAD_WIDTH = 64
"""Columns of a head where a recipe does not say."""


@pytest.mark.parametrize("name", SOURCED)
def test_a_card_names_the_grid_of_positions_that_its_loader_would_resample(name):
    recipe, card = SOURCED[name], CARDS[name]
    tables = [shape for key, shape in shapes_of(recipe, recipe["numbers"]).items() if POSITIONS.search(key)]
    resampled = card.loader in {"timm", "conch", "projection"} and tables and card.arguments.get("positions") != "first"
    assert card.weights.grid == (math.isqrt(tables[0][-2]) if resampled else None)


POSITIONS = re.compile(r"(^|\.)(pos_embed|embed_positions\.A\.weight)$")


KINDS = {
    "timm": ("uni", "norm.bias", "pos_embed"),
    "open_clip": ("biomedclip", "visual.trunk.norm.bias", "visual.trunk.pos_embed"),
    "transformers": ("phikon", "layernorm.bias", "embeddings.position_embeddings"),
    "conch": ("conch", "visual.ln_contrast.bias", "visual.trunk.pos_embed"),
    "projection": ("keep", "visual.norm.bias", "visual.pos_embed"),
    "chexagent": ("chexagent", "vision_model.post_layernorm.bias", "vision_model.embeddings.position_embedding"),
}
"""An encoder of each loader, the name of a weight in its file, and that of its positions."""


def test_every_loader_of_the_pool_is_given_wrong_files():
    assert {card.loader for card in LEARNED.values()} == set(KINDS)
    said = {card.loader for card in LEARNED.values() if card.weights.configuration or card.weights.processor}
    assert said == {CARDS[name].loader for name, *_ in DESCRIBED}


def with_another_grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of positions of one row and one column more."""
    return (*shape[:-2], shape[-2] + 2 * math.isqrt(shape[-2]) + 1, shape[-1])


def refusal(hub: Any, name: str, change: Callable[[Shapes], Shapes]) -> str:
    recipe = RECIPES[name]
    shapes = change(shapes_of(recipe, small_numbers(recipe)))
    with pytest.raises(WrongWeightsError) as caught:
        load_encoder(published(hub, shrunk(CARDS[name], recipe), recipe, shapes))
    return caught.value.message


@pytest.mark.parametrize("loader", KINDS)
def test_a_file_with_a_weight_renamed_is_refused_and_both_names_are_said(hub, loader):
    name, key, _ = KINDS[loader]
    other = key.replace("bias", "offset")
    said = refusal(hub, name, lambda shapes: {other if each == key else each: shapes[each] for each in shapes})
    stem = key.removeprefix(RECIPES[name].get("prefix", "")).removeprefix(".").removesuffix("bias")
    assert re.search(rf"1 missing \((\w+\.)*{stem}bias\); 1 unexpected \((\w+\.)*{stem}offset\)", said), said


@pytest.mark.parametrize("loader", KINDS)
def test_a_file_with_a_weight_more_is_refused_by_its_name(hub, loader):
    name, key, _ = KINDS[loader]
    more = re.sub(r"\w+\.bias$", "adapter.weight", key)
    said = refusal(hub, name, lambda shapes: shapes | {more: (3, 3)})
    assert re.search(r"1 unexpected \((\w+\.)*adapter\.weight\)", said), said


@pytest.mark.parametrize("loader", KINDS)
def test_a_file_with_another_grid_of_positions_is_refused_and_both_grids_are_said(hub, loader):
    name, _, key = KINDS[loader]
    recipe = RECIPES[name]
    theirs = shapes_of(recipe, small_numbers(recipe))[key][-2]
    said = refusal(hub, name, lambda shapes: shapes | {key: with_another_grid(shapes[key])})
    side = math.isqrt(theirs)
    grids = f"a grid of {side + 1} x {side + 1}, and the card says {side} x {side}"
    assert grids in said or re.search(
        rf"{key.rpartition('.')[2]}: .*{theirs + 2 * side + 1}, .*in the file, .*{theirs}", said
    ), said


def test_a_file_with_positions_for_fewer_channels_than_an_image_has_is_refused(hub):
    fewer = {"encoder.vit_backbone.pos_embed": (1, 1 + 2 * 256, WIDTH)}
    said = refusal(hub, "openphenom", lambda shapes: shapes | fewer)
    assert "holds 513 positions, fewer than the 769 of an image" in said


DESCRIBED = [
    (
        "phikon",
        "preprocessor_config.json",
        {"image_processor_type": "BitImageProcessor", "do_center_crop": False},
        "disagrees with the card of phikon: interpolation is bicubic there and bilinear on the card",
    ),
    (
        "phikon",
        "config.json",
        {"model_type": "vit", "hidden_act": "gelu_new", "layer_norm_eps": 1e-12},
        "another network than the card of phikon: hidden_act is gelu_new there and gelu on the card",
    ),
    (
        "chexagent",
        "preprocessor_config.json",
        {"image_processor_type": "BlipImageProcessor", "size": {"height": 384, "width": 384}},
        "disagrees with the card of chexagent: size is 384 there and 448 on the card",
    ),
    (
        "chexagent",
        "config.json",
        {"vision_config": {"hidden_act": "gelu_new"}},
        "another network than the card of chexagent: hidden_act is gelu_new there and gelu on the card",
    ),
    (
        "dermlip_vitb16",
        "open_clip_config.json",
        {"model_cfg": {"embed_dim": PROJECTION, "quick_gelu": True}, "preprocess_cfg": {}},
        "another network than the card of dermlip_vitb16: quick_gelu is True there and False on the card",
    ),
    (
        "dermlip_vitb16",
        "open_clip_config.json",
        {"model_cfg": {"embed_dim": PROJECTION}, "preprocess_cfg": {"interpolation": "bilinear"}},
        "disagrees with the card of dermlip_vitb16: interpolation is bilinear there and bicubic on the card",
    ),
]
"""Of each loader whose repositories describe what they hold: another processor, and another activation."""


@pytest.mark.parametrize(("name", "file", "change", "message"), DESCRIBED)
def test_files_that_describe_another_encoder_are_refused_and_both_sides_are_named(hub, name, file, change, message):
    recipe = RECIPES[name]
    said = json.loads(recipe.get("files", {}).get(file, "{}")) | change
    files = recipe.get("files", {}) | {file: json.dumps(said)}
    shapes = shapes_of(recipe, small_numbers(recipe))
    small = published(hub, shrunk(CARDS[name], recipe), recipe | {"files": files}, shapes)
    with pytest.raises(EncoderError, match=message):
        # Under another title, since a card that has been checked in this process is not checked again.
        load_encoder(small.model_copy(update={"title": f"with another {file}: {message}"}))


@pytest.mark.parametrize(
    ("card", "name", "text"),
    [
        pytest.param(card, name, text, id=card.name)
        for card in LEARNED.values()
        for name, text in RECIPES.get(card.name, {}).get("files", {}).items()
        if name == card.weights.processor
    ],
)
def test_the_card_prepares_images_as_the_published_file_says(card, name, text):
    config = json.loads(text)
    if name == "open_clip_config.json":
        found = from_open_clip(config["preprocess_cfg"], name=card.name, size=card.preprocessing.output_size)
    else:
        found = from_processor(config, name=card.name)
    assert not differences(card.preprocessing, found)
