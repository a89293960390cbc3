"""The cards that BioFuse brings: whole, sourced, and of networks that the libraries build with these very counts."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from biofuse.core.errors import EncoderError
from biofuse.encoders import EncoderCard, Precision, get_card, list_cards, resolve
from biofuse.encoders.card import ESSENTIAL, FACT_NAMES, describe
from biofuse.encoders.loaders import forward_of, loader_of
from biofuse.encoders.registry import OWN_CARDS

CARDS = list_cards()
POOL = tuple(card for card in CARDS if "starter" not in card.pools)
"""All but those that install with BioFuse."""

PAPER = {
    "biomedclip": 512,
    "pubmedclip": 512,
    "conch": 512,
    "rad_dino": 768,
    "uni": 1024,
    "uni2_h": 1536,
    "hibou_b": 768,
    "prov_gigapath": 1536,
    "chexagent": 1408,
}
"""The paper's nine and their columns: 8,576 together."""


def measure(card: EncoderCard, network: nn.Module) -> tuple[int, float]:
    """Return columns and GFLOPs of a network on the meta device, run as its loader runs it."""
    side = card.preprocessing.output_size
    forward = forward_of(card, network)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        embedding = forward(torch.empty(1, 3, side, side, device="meta"))
    return embedding.shape[1], counter.get_total_flops() / 1e9


SCHEMA = EncoderCard.model_json_schema()
"""What a card has to be, for programs that do not use BioFuse."""


def names(cards: tuple[EncoderCard, ...]) -> list[str]:
    return [card.name for card in cards]


def each(cards: tuple[EncoderCard, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("card", cards, ids=lambda card: card.name)


LARGE = 5e8
"""Parameters beyond which a network takes more than a second to build, even without memory."""


def of_one_network(cards: Iterable[EncoderCard]) -> list[Any]:
    """Return the cards, those of one network together, so that each network is built but once."""
    alike: dict[str, list[EncoderCard]] = {}
    for card in cards:
        network = [card.loader, card.architecture, card.arguments, card.output, card.preprocessing.output_size]
        alike.setdefault(json.dumps(network, sort_keys=True), []).append(card)
    return [
        pytest.param(group, id=group[0].name, marks=[pytest.mark.slow] if (group[0].parameters or 0) > LARGE else [])
        for group in alike.values()
    ]


@pytest.mark.parametrize("cards", of_one_network(POOL))
def test_the_network_at_full_size_is_the_one_on_the_cards(cards, full_size):
    network = full_size(cards[0])
    assert all(parameter.is_meta for parameter in network.parameters())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    dim, gflops = measure(cards[0], network.eval())
    for card in cards:
        assert (card.name, card.parameters, card.dim) == (card.name, parameters, dim)
        assert (card.name, card.gflops) == (card.name, pytest.approx(gflops, rel=1e-3))


SMALLEST = {
    kind: min(cards, key=lambda card: card.parameters or 0)
    for kind in sorted({(card.loader, card.output) for card in POOL})
    if (cards := [card for card in POOL if (card.loader, card.output) == kind])
}


@pytest.mark.parametrize("card", SMALLEST.values(), ids=lambda card: card.name)
def test_another_number_of_columns_is_refused_before_any_weight_is_read(card):
    with torch.device("meta"), pytest.raises(EncoderError, match=card.name):
        loader_of(card.loader).build_architecture(card.model_copy(update={"dim": card.dim + 1}))


@each(CARDS)
def test_cards_are_complete(card):
    assert EncoderCard.model_validate_json(card.model_dump_json()) == card
    for field in ("title", "licence", "source", "citation", "modality"):
        assert getattr(card, field), field
    assert (card.weights is None) == (card.runtime == "numpy")
    assert card.weights is None or (card.training_data and card.precision_note)
    assert card.gated is False or card.page.startswith("https://")
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz") and name.endswith("mnist") for name in card.overlaps)


@each(CARDS)
def test_every_card_and_variant_can_be_shown(card):
    for one in (card, *map(card.variant, card.variants)):
        assert describe(one)["image"]


@each(POOL)
def test_every_fact_says_where_it_comes_from(card):
    assert tuple(card.facts) == tuple(name for name in FACT_NAMES if name in card.facts)
    assert set(card.facts) == set(FACT_NAMES)
    assert card.parameters is not None
    assert card.gflops is not None
    assert all(fact.reference for fact in card.facts.values())


def test_the_paper_has_nine_encoders_with_8576_columns():
    cards = resolve("paper")
    assert {card.name: card.dim for card in cards} == PAPER
    assert sum(card.dim for card in cards) == 8576


def test_gigapath_is_not_dinov2():
    real, used = get_card("prov_gigapath"), get_card("dinov2_g")
    assert real.arguments["patch_size"] == 16
    assert "patch_size" not in used.arguments
    assert real.parameters - used.parameters == 184_320
    assert any("Prov-GigaPath" in note for note in used.notes)


@pytest.mark.parametrize("alias", ["pathology", "radiology", "general", "open"])
def test_an_alias_holds_nothing_with_unverified_essentials(alias):
    cards = resolve(alias)
    assert cards
    assert all(card.selectable_by_default for card in cards)
    if alias == "open":
        assert all(card.gated is False for card in cards)
    else:
        assert all(card.modality == alias for card in cards)


@each(tuple(card for card in POOL if card.unverified))
def test_an_encoder_with_unverified_essentials_is_in_no_alias_but_the_papers(card):
    assert set(card.pools) <= {"paper"}
    assert set(card.unverified) <= set(ESSENTIAL)


@each(POOL)
def test_a_licence_that_is_not_known_promises_nothing(card):
    if card.facts["licence"].source != "external":
        assert card.commercial is not True
    if card.licence.startswith("CC-BY-NC"):
        assert card.commercial is not True


@each(POOL)
def test_weights_are_pinned_or_said_not_to_be(card):
    assert card.weights is not None
    if card.weights.repository == "manual":
        assert "path has to be given" in " ".join(card.notes)
    elif not card.weights.pinned:
        assert card.weights.revision == "main"
    else:
        assert len(card.weights.revision) == 40


@pytest.mark.slow
@each(CARDS)
def test_cards_are_valid_by_the_exported_json_schema(card):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(card.model_dump_json()), SCHEMA)


def test_the_exported_json_schema_refuses_what_is_no_card():
    jsonschema = pytest.importorskip("jsonschema")
    card = json.loads(get_card("uni").model_dump_json())
    for change in ({"dim": 0}, {"name": "No Name"}, {"output": "logits"}, {"facts": {"dim": {"source": "hearsay"}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(card | change, SCHEMA)


RECORDED = json.loads(Path(__file__).with_name("fingerprints.json").read_text(encoding="utf-8"))
"""Folders in stores that people have: the fingerprint of an encoder changes only where its card was wrong."""


def test_fingerprints_are_the_recorded_ones():
    whole = [each for card in CARDS for each in (card, *map(card.variant, card.variants))]
    now = {
        card.name: {precision: card.fingerprint(precision=precision) for precision in get_args(Precision)}
        for card in whole
    }
    assert now == RECORDED
    assert len({one["fp32"].rpartition("-")[2] for one in now.values()}) == len(now)


AUDITED = json.loads(Path(__file__).with_name("fingerprints_e595349.json").read_text(encoding="utf-8"))
"""Fingerprints at the commit that was held against the authors' code, and what was wrong there."""


@pytest.mark.parametrize("name", AUDITED)
def test_a_fingerprint_has_changed_since_the_audit_only_where_the_card_was_wrong(name):
    before = AUDITED[name]
    assert (get_card(name).fingerprint() != before["fingerprint"]) == bool(before["wrong"])


def test_every_own_card_lies_under_its_name_and_those_with_a_place_come_first():
    folder = Path(str(OWN_CARDS))
    assert {path.stem for path in folder.iterdir()} == {card.name for card in CARDS}
    assert [card.name for card in resolve("starter")][:3] == ["efficientnet_lite0", "efficientnet_lite2", "colour"]
    assert [card.name for card in CARDS] == [name for name in RECORDED if ":" not in name]


@each(tuple(card for card in POOL if card.selectable_by_default))
def test_an_encoder_without_unverified_essentials_is_in_the_aliases_of_its_kind(card):
    assert card.modality in card.pools
    assert ("open" in card.pools) == (card.gated is False)
