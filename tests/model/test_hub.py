"""Models on a hub: what is uploaded, what comes back, and what each failure says. The hub stands on loopback."""

import json

import numpy as np
import pytest

from biofuse import BioFuseModel, ExtractOptions
from biofuse.core.errors import AccessDeniedError, ArtifactError, HubUnreachableError, NotOnHubError

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

REPOSITORY = "me/flat-or-wild"
TOKEN = "hf_a_token_of_the_tests"  # noqa: S105 (the stand-in hub's)
ALONE = ExtractOptions(workers=0)


@pytest.fixture
def logged_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def published(hub, made, logged_in):
    """Upload the model."""
    made.model.push_to_hub(REPOSITORY)
    hub.requests.clear()
    return hub.models[REPOSITORY]


def test_an_uploaded_model_comes_back_and_predicts_the_same(hub, made, published, tmp_path):
    again = BioFuseModel.from_pretrained(REPOSITORY)
    assert again.encoders == made.model.encoders
    options = {"store": made.store, "options": ALONE, "progress": False}
    np.testing.assert_array_equal(
        again.predict_proba(made.pictures[:6], **options), made.model.predict_proba(made.pictures[:6], **options)
    )
    assert again.save(tmp_path / "kept").exists()


def test_model_and_card_are_uploaded_and_nothing_that_could_run_code(hub, published):
    assert {"README.md", "model.json", "predictor/predictor.json"} <= set(published.files)
    assert {name.rpartition(".")[2] for name in published.files} <= {"md", "json", "safetensors"}
    card = published.files["README.md"].decode()
    assert card.startswith("---\n")
    assert f'from_pretrained("{REPOSITORY}")' in card


def test_the_token_is_written_nowhere(hub, published):
    assert not any(TOKEN.encode() in content for content in published.files.values())
    BioFuseModel.from_pretrained(REPOSITORY)
    written = [path for path in hub.cache.rglob("*") if path.is_file()]
    assert written
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_a_card_of_ones_own_is_uploaded_as_it_is(hub, made, logged_in):
    address = made.model.push_to_hub(REPOSITORY, card="# Mine\n")
    assert hub.models[REPOSITORY].files["README.md"] == b"# Mine\n"
    assert address.startswith(f"{hub.endpoint}/{REPOSITORY}/commit/")


def test_all_files_are_taken_at_one_commit(hub, published):
    BioFuseModel.from_pretrained(REPOSITORY)
    asked = hub.asked("GET")
    assert any(path.endswith("resolve/main/model.json") for path in asked)
    others = [path for path in asked if not path.endswith("model.json")]
    assert others
    assert all(f"/resolve/{published.commit}/" in path for path in others)


def test_a_commit_that_was_downloaded_needs_no_hub(hub, published):
    BioFuseModel.from_pretrained(REPOSITORY, revision=published.commit)
    hub.requests.clear()
    BioFuseModel.from_pretrained(REPOSITORY, revision=published.commit)
    assert hub.requests == []


def test_a_folder_is_a_model_too(hub, made, tmp_path):
    made.model.save(tmp_path / "model")
    assert BioFuseModel.from_pretrained(tmp_path / "model").encoders == made.model.encoders
    assert hub.requests == []


def test_a_changed_file_is_refused_before_it_is_opened(hub, published):
    name = next(name for name in published.files if name.endswith(".safetensors"))
    content = bytearray(published.files[name])
    content[-1] ^= 1
    published.files[name] = bytes(content)
    with pytest.raises(ArtifactError, match=r"has changed since it was written"):
        BioFuseModel.from_pretrained(REPOSITORY)


@pytest.mark.parametrize("elsewhere", ["../outside.json", "/etc/hostname"])
def test_a_file_outside_of_the_model_is_not_asked_for(elsewhere, hub, published):
    record = json.loads(published.files["model.json"])
    record["files"][elsewhere] = "0" * 32
    published.files["model.json"] = json.dumps(record).encode()
    with pytest.raises(ArtifactError, match="lies outside of it"):
        BioFuseModel.from_pretrained(REPOSITORY)
    assert not any("outside" in path or "hostname" in path for path in hub.asked("GET"))


def test_a_repository_that_is_none(hub, made):
    for name in ("no-owner", "a/b/c", "../up"):
        with pytest.raises(ArtifactError, match="owner/name"):
            BioFuseModel.from_pretrained(name)
        with pytest.raises(ArtifactError, match="owner/name"):
            made.model.push_to_hub(name)
    assert hub.requests == []


def test_a_repository_without_a_model(hub):
    with pytest.raises(NotOnHubError, match="no model repository me/nothing"):
        BioFuseModel.from_pretrained("me/nothing")
    hub.add("me/other", {"config.json": b"{}"})
    with pytest.raises(NotOnHubError, match=r"no file 'model\.json'"):
        BioFuseModel.from_pretrained("me/other")


def test_an_upload_without_login_says_how_to_log_in(hub, made):
    with pytest.raises(AccessDeniedError) as caught:
        made.model.push_to_hub(REPOSITORY)
    assert "hf auth login" in caught.value.remedy


def test_offline_nothing_is_uploaded(hub, made, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE forbids uploading"):
        made.model.push_to_hub(REPOSITORY)
    assert hub.requests == []
