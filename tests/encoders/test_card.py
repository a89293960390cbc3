"""The fingerprint holds what decides the values, and nothing else."""

import pytest
from pydantic import ValidationError

from biofuse.encoders import EncoderCard, Preprocessing, Weights, get_card, list_cards


@pytest.mark.parametrize("card", list_cards(), ids=lambda card: card.name)
def test_starter_cards_are_complete(card):
    assert EncoderCard.model_validate_json(card.model_dump_json()) == card
    assert card.pools == ("starter",)
    assert card.source
    assert card.citation
    assert card.licence in {"Apache-2.0", "BSD-3-Clause"}
    assert card.parameters is not None
    assert (card.weights is None) == (card.runtime == "numpy")


def test_fingerprints_differ_between_encoders():
    assert len({card.fingerprint() for card in list_cards()}) == len(list_cards())


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "tf_efficientnet_lite1"},
        {"arguments": {"global_pool": "max"}},
        {"output": "cls"},
        {"dim": 640},
        {"version": 2},
        {"preprocessing": Preprocessing(size=256, crop=224)},
        {"weights": Weights(repository="pypi:x", revision="0.1.1", file="f", sha256="0" * 64)},
        {"weights": None},
    ],
)
def test_whatever_decides_the_values_changes_the_fingerprint(change):
    card = get_card("efficientnet_lite0")
    assert card.model_copy(update=change).fingerprint() != card.fingerprint()


@pytest.mark.parametrize("change", [{"title": "x"}, {"licence": "x"}, {"pools": ()}, {"source": "x"}, {"requires": ()}])
def test_prose_does_not_change_the_fingerprint(change):
    card = get_card("efficientnet_lite0")
    assert card.model_copy(update=change).fingerprint() == card.fingerprint()


def test_precision_counts_for_networks_only():
    assert get_card("efficientnet_lite0").fingerprint(precision="fp16") != get_card("efficientnet_lite0").fingerprint()
    assert get_card("lbp").fingerprint(precision="fp16") == get_card("lbp").fingerprint()


def test_local_weights_are_known_by_hash_not_by_path():
    card = get_card("efficientnet_lite0")

    def stored_at(path: str, sha256: str | None) -> str:
        weights = Weights(repository="local", revision=path, file=path, sha256=sha256)
        return card.model_copy(update={"weights": weights}).fingerprint()

    assert stored_at("a.pth", "1" * 64) == stored_at("b.pth", "1" * 64)
    assert stored_at("a.pth", "1" * 64) != stored_at("a.pth", "2" * 64)
    assert stored_at("a.pth", None) != stored_at("b.pth", None)


def test_two_files_of_one_revision_never_share_a_fingerprint():
    # AutoIntent PR 337: two models fell back to revision "main" and one served the other's embeddings.
    card = get_card("efficientnet_lite0")
    weights = [Weights(repository=name, revision="main", file="model.safetensors") for name in ("a/b", "c/d")]
    assert len({card.model_copy(update={"weights": item}).fingerprint() for item in weights}) == 2


@pytest.mark.parametrize("change", [{"name": "Has Spaces"}, {"name": ""}, {"dim": 0}, {"output": "logits"}, {"x": 1}])
def test_invalid_cards_are_refused(change):
    with pytest.raises(ValidationError):
        EncoderCard.model_validate(get_card("lbp").model_dump() | change)


def test_malformed_hash_is_refused():
    with pytest.raises(ValidationError):
        Weights(repository="local", revision="1", file="x", sha256="abc")
