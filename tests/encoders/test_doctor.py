"""What keeps an encoder from running is found without downloading anything."""

import pytest

from biofuse.core.machine import free_memory
from biofuse.encoders import Weights, get_card
from biofuse.encoders.doctor import diagnose
from biofuse.encoders.memory import weight_bytes
from biofuse.encoders.places import locate

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def far(make_vit_card):
    def make(name="far", repository="owner/model", **changes):
        weights = Weights(repository=repository, revision="main", file="model.safetensors", ignore=("head.*",))
        return make_vit_card("unused", name=name, weights=weights, **changes)

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
    assert all(f"(for {each.name})" in each.problem for each in found)
    assert len(hub.requests) < 30


def test_offline_nothing_is_asked(hub, far, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = one(far())
    assert (found.access, found.runs, hub.requests) == ("not asked", False, [])


def test_cached_weights_and_those_of_the_weights_folder_are_loaded(hub, far, vit_file, tmp_path):
    hub.add("owner/model", {"model.safetensors": vit_file.read_bytes()})
    locate("far", far().weights)
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


def test_memory_of_weights_follows_from_the_number_of_parameters():
    card = get_card("efficientnet_lite0")
    assert weight_bytes(card, precision="bf16") == 2 * card.parameters
    assert weight_bytes(card) == 4 * card.parameters
    assert weight_bytes(get_card("hog")) == 0
    assert weight_bytes(card.model_copy(update={"parameters": None})) is None


def test_free_memory_is_less_than_there_is(tmp_path, monkeypatch):
    free = free_memory("cpu")
    assert free is None or 10**6 < free < 10**14
    assert free_memory("meta") is None
    for name, content in {"memory.max": "1000", "memory.current": "900", "memory.stat": "inactive_file 300\n"}.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr("biofuse.encoders.memory.CGROUP", tmp_path)
    assert free_memory("cpu") == 400
