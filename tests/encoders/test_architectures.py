"""Every card's own loader can build its network, at full size, with its columns and its parameters."""

import importlib

import pytest
import torch

from biofuse.core.errors import EncoderError
from biofuse.encoders import list_cards
from biofuse.encoders.registry import FAMILIES

NETWORKS = [card for card in list_cards() if card.loader in FAMILIES and card.loader not in {"descriptor", "packaged"}]


def family(card):
    return importlib.import_module(f"biofuse.encoders.{FAMILIES[card.loader]}")


@pytest.mark.parametrize("card", NETWORKS, ids=lambda card: card.name)
def test_the_loader_builds_the_whole_network_without_memory(card, full_size):
    network = full_size(card)
    assert all(parameter.is_meta for parameter in network.parameters())
    if card.parameters is not None:
        assert sum(parameter.numel() for parameter in network.parameters()) == card.parameters


SMALLEST = {
    kind: min(cards, key=lambda card: card.parameters or 0)
    for kind in sorted({(card.loader, card.output) for card in NETWORKS})
    if (cards := [card for card in NETWORKS if (card.loader, card.output) == kind])
}


@pytest.mark.parametrize("card", SMALLEST.values(), ids=lambda card: card.name)
def test_another_number_of_columns_is_refused_before_any_weight_is_read(card):
    with torch.device("meta"), pytest.raises(EncoderError, match=card.name):
        family(card).build_architecture(card.model_copy(update={"dim": card.dim + 1}))


def test_all_families_are_met():
    assert {card.loader for card in NETWORKS} >= {"timm", "transformers", "open_clip", "conch", "chexagent"}
    assert len(NETWORKS) >= 36
