"""Files that are laid out as somebody outside BioFuse says are loaded, and others are refused.

See :mod:`tests.encoders.published` for what they are made from.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders.layouts import Shapes
from tests.encoders.published import (
    CARDS,
    LAYERS,
    LEARNED,
    PROJECTION,
    RECIPES,
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
    if card.name in RECIPES:
        assert (fact.source, fact.reference) == ("external", RECIPES[card.name]["source"])
    else:
        assert fact.source == "unverified"
        assert not card.selectable_by_default
        assert not set(card.pools) - {"paper"}


def test_every_recipe_is_of_a_card():
    assert set(RECIPES) <= set(LEARNED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cards", of_one_network(card for card in (LEARNED | VARIANTS).values() if card.base in RECIPES)
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


def each_kind_of_file() -> list[Any]:
    """Return a card of each kind of small network and file: those of one family differ only at full size."""
    kinds: dict[str, Any] = {}
    for name, card in (LEARNED | VARIANTS).items():
        if card.base not in RECIPES:
            continue
        recipe = RECIPES[card.base]
        small = shrunk(card, recipe)
        kind = [
            small.loader,
            small.architecture,
            small.arguments,
            small.output,
            recipe["layout"],
            small_numbers(recipe),
        ]
        kind += [recipe.get(key) for key in ("entry", "prefix", "beside", "objects", "files")]
        kind += [Path(recipe["file"]).suffix, card.weights.ignore, card.weights.rename]
        if small.architecture and small.arguments.get("depth") == LAYERS:
            kind[1] = ""  # timm's names of sizes, all of which are given
        kinds.setdefault(json.dumps(kind, sort_keys=True), pytest.param(card, recipe, id=name))
    return list(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize(("card", "recipe"), each_kind_of_file())
def test_a_file_of_that_layout_is_loaded_and_embeds(card, recipe, hub):
    small = published(hub, shrunk(card, recipe), recipe, shapes_of(recipe, small_numbers(recipe)))
    encoder = load_encoder(small)
    assert encoder.card.weights.sha256 is not None


def renamed(shapes: Shapes) -> Shapes:
    return {name.replace("layernorm.bias", "layernorm.offset"): shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"1 missing \(layernorm\.bias\); 1 unexpected \(layernorm\.offset\)"),
        (lambda shapes: shapes | {"adapter.weight": (3, 3)}, r"1 unexpected \(adapter\.weight\)"),
        (
            lambda shapes: shapes | {"embeddings.position_embeddings": (1, 257, WIDTH)},
            r"position_embeddings: \(1, 257, 48\) in the file, \(1, 197, 48\) in the network",
        ),
    ],
)
def test_a_file_of_another_layout_is_refused_and_both_sides_are_named(hub, change, message):
    recipe = RECIPES["phikon"]
    shapes = change(shapes_of(recipe, small_numbers(recipe)))
    with pytest.raises(WrongWeightsError, match=message):
        load_encoder(published(hub, shrunk(CARDS["phikon"], recipe), recipe, shapes))


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
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
            "dermlip_vitb16",
            "open_clip_config.json",
            {"model_cfg": {"embed_dim": PROJECTION, "quick_gelu": True}, "preprocess_cfg": {}},
            "another network than the card of dermlip_vitb16: quick_gelu is True there and False on the card",
        ),
    ],
)
def test_files_that_describe_another_encoder_are_refused_and_both_sides_are_named(hub, name, file, change, message):
    card = CARDS[name]
    # Nobody has described DermLIP's file, so the network's own names have to do for its activation.
    recipe = RECIPES.get(name, RECIPES["bmc_clip_cf"] | {"file": card.weights.file, "entry": "", "prefix": "visual."})
    numbers = small_numbers(recipe) | ({} if name in RECIPES else {"patch": 16, "tokens": 197})
    said = json.loads(recipe.get("files", {}).get(file, "{}")) | change
    files = recipe.get("files", {}) | {file: json.dumps(said)}
    small = published(hub, shrunk(card, recipe), recipe | {"files": files}, shapes_of(recipe, numbers))
    with pytest.raises(EncoderError, match=message):
        # Under another title, since a card that has been checked in this process is not checked again.
        load_encoder(small.model_copy(update={"title": f"with another {file}"}))


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
