"""Every encoder, loaded as users load it, gives the vectors of an implementation that is neither its card's nor ours.

A file is written as the recipe says (:mod:`tests.encoders.published`), with random weights and at a small width, with
all else as published: patches, positions, grids, registers, image size, pooling. It is loaded by the card. What it
shall give is computed from the file alone (:mod:`tests.encoders.networks`). Preprocessing is compared in
``test_recipes.py``; both are told on the cards and in docs/encoders.md.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.encoders.layouts import LAYOUTS
from tests.encoders.networks import NETWORKS, Unseen
from tests.encoders.published import (
    HEADS,
    LEARNED,
    RECIPES,
    VARIANTS,
    published,
    random_state,
    shapes_of,
    shrunk,
    small_numbers,
)

from biofuse.encoders import EncoderCard, load_encoder
from biofuse.encoders.card import comparisons

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

TOLERANCE = 1e-5
"""Of a vector's largest component, or of one where that is smaller."""

OF_TIMMS_TEST_VIT = 2
"""Heads; see :func:`tests.encoders.published.small_numbers`."""


def unseen(name: str) -> Unseen:
    """Return what the weights of an encoder or a further vector of it do not show, for the small network."""
    base, _, variant = name.partition(":")
    recipe = RECIPES[base]
    said = dict(recipe.get("unseen", {}))
    heads = OF_TIMMS_TEST_VIT if recipe["layout"] == "open_clip timm" else HEADS
    own = {key: value for key, value in said.items() if key != "heads" and not isinstance(value, dict)}
    return Unseen(**{**NETWORKS[recipe["layout"]].usually, **own, **said.get(variant, {}), "heads": heads})


def apart(hub: Any, name: str, card: EncoderCard, said: Unseen | None = None) -> float:
    """Return how far the vectors of a card are from those of the recipe's network, by the largest component.

    The network is computed as ``said`` has it, by default as the recipe says.
    """
    recipe = RECIPES[card.base]
    shapes = shapes_of(recipe, small_numbers(recipe))
    encoder = load_encoder(published(hub, card, recipe, shapes))
    side = card.preprocessing.output_size
    images = np.random.default_rng(3).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    prefix, beside = recipe.get("prefix", ""), recipe.get("beside", ())
    state = random_state(shapes)
    state = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix) and key not in beside}
    with torch.inference_mode():
        pixels = encoder.card.preprocessing.normalise(torch.from_numpy(images))
        theirs = NETWORKS[recipe["layout"]].compute(pixels, state, said or unseen(name)).numpy()
    ours = encoder.encode(images)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / max(1, np.abs(theirs).max()))


def each_network() -> list[Any]:
    """Return the names of encoders, those together whose small networks and files are the same."""
    alike: dict[str, list[str]] = {}
    for name, card in (LEARNED | VARIANTS).items():
        if card.base not in RECIPES:
            continue
        recipe = RECIPES[card.base]
        small = shrunk(card, recipe)
        kind = [small.loader, small.architecture, small.arguments, small.output, small.preprocessing.output_size]
        kind += [recipe.get(key) for key in ("layout", "entry", "prefix", "beside", "objects", "files")]
        kind += [Path(recipe["file"]).suffix, card.weights.ignore, card.weights.rename, small_numbers(recipe)]
        alike.setdefault(json.dumps([*kind, repr(unseen(name))], sort_keys=True), []).append(name)
    return [pytest.param(names, id=names[0]) for names in alike.values()]


@pytest.mark.slow
@pytest.mark.parametrize("names", each_network())
def test_the_vectors_are_those_of_an_independent_implementation(names, hub):
    card = (LEARNED | VARIANTS)[names[0]]
    assert apart(hub, names[0], shrunk(card, RECIPES[card.base])) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("uni", {"epsilon": 1e-5}),
        ("uni", {"activation": "gelu_tanh"}),
        ("uni", {"heads": 2}),
        ("phikon", {"epsilon": 1e-6}),
        ("clip_vit_b32:trunk", {"activation": "gelu"}),
        ("midnight_12k", {"positions": "antialiased"}),
        ("retfound_mae_cfp", {"output": "mean"}),
        ("retfound_dinov2_meh:features", {"output": "mean"}),
        ("eva02_clip_l14_336:trunk", {"pretrained_grid": 24}),
    ],
)
def test_what_no_weight_shows_would_be_seen(hub, name, change):
    card = (LEARNED | VARIANTS)[name]
    said = dataclasses.replace(unseen(name), **change)
    assert apart(hub, name, shrunk(card, RECIPES[card.base]), said) > 2 * TOLERANCE


def test_every_layout_has_a_network():
    assert NETWORKS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("card", (LEARNED | VARIANTS).values(), ids=lambda card: card.name)
def test_a_card_says_what_its_network_is_compared_with_or_why_it_is_not(card):
    if card.base in RECIPES:
        assert card.compared.loading == NETWORKS[RECIPES[card.base]["layout"]].says
    else:
        assert (card.compared.loading, card.facts["layout"].source) == ("", "unverified")
    network, preprocessing = comparisons(card)
    assert ("not compared: " in network) == (card.base not in RECIPES)
    assert ("not compared: " in preprocessing) == (card.facts["preprocessing"].reference in preprocessing)
