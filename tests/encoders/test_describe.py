"""A card reads like a model card."""

import pytest

from biofuse.encoders import EncoderRegistry, get_card
from biofuse.encoders.card import FACT_NAMES, describe, origins

CARDS = EncoderRegistry(plugins=False).list_cards()
POOL = [card for card in CARDS if card.compared.loading]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_can_be_told(card):
    told = describe(card)
    assert all(told.values())
    assert {"what it is", "licence", "image", "embedding", "chosen by default", "citation"} <= set(told)
    assert [name for name, *_ in origins(card)] == (list(FACT_NAMES) if card.weights else [])


def test_a_gated_encoder_says_where_to_ask_and_how_to_log_in():
    told = describe(get_card("uni2_h"))
    assert "https://huggingface.co/MahmoodLab/UNI2-h" in told["access"]
    assert "hf auth login" in told["access"]
    assert told["licence"] == "CC-BY-NC-ND-4.0: no commercial use"
    assert told["size"].startswith("681,394,176 parameters (2.7 GB in fp32, 1.4 GB in bf16)")


def test_what_is_not_pinned_is_said():
    assert "not pinned, follows 'main'" in describe(get_card("virchow"))["weights"]
    assert "commit 3158645804b69e3f3bc4439d4116edddf0840a72" in describe(get_card("virchow2"))["weights"]


def test_a_known_hash_is_told_beside_the_commit():
    told = describe(get_card("uni2_h"))["weights"]
    assert "commit d517a8dd47902dd7c308b3c36f63bce47e7b9a43\nSHA-256 6e077eda234bebc5" in told


def test_contamination_is_said():
    assert describe(get_card("rad_dino"))["overlaps"].startswith("chestmnist: ChestX-ray14")
    assert describe(get_card("uni"))["overlaps"] == "with MedMNIST: none known"


@pytest.mark.parametrize("card", POOL, ids=lambda card: card.name)
def test_what_was_written_from_memory_is_marked(card):
    told = describe(card)
    for subject, fact in (("trained on", "training_data"), ("citation", "citation")):
        assert told[subject].endswith("(not verified)") == (card.facts[fact].source != "external")
    if card.overlaps:
        assert told["overlaps"].endswith("(not verified)") == (card.facts["overlaps"].source != "external")


def test_what_was_compared_is_told_and_what_was_not():
    assert describe(get_card("uni2_h"))["compared with"] == (
        "loading: timm\npreprocessing: torchvision transforms, written out from the authors' recipe"
    )
    assert "no independent source" in describe(get_card("phikon_v2"))["compared with"]
    assert "compared with" not in describe(get_card("hog"))


def test_what_is_not_on_the_hub_says_so():
    assert "https://github.com/jlianglab/Ark" in describe(get_card("ark_plus"))["access"]


def test_what_is_in_doubt_keeps_an_encoder_from_being_chosen():
    assert describe(get_card("gpfm"))["chosen by default"] == "no: licence not verified; ask for it by name"


def test_a_card_that_says_nothing_of_its_facts_counts_as_unverified():
    card = get_card("uni").model_copy(update={"facts": {}})
    assert {source for _, source, _ in origins(card)} == {"unverified"}
