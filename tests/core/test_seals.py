import json
import pickle

import pytest

from biofuse.core.errors import ArtifactError
from biofuse.core.hashing import digest_json
from biofuse.core.seals import FORMAT_VERSION, seal, unseal


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.bin").write_bytes(b"abc")
    seal(folder, name="model.json", content={"hello": [1]})
    return folder


def forge(folder, **changes):
    record = json.loads((folder / "model.json").read_text())
    record.pop("checksum")
    record |= changes
    (folder / "model.json").write_text(json.dumps(record | {"checksum": digest_json(record)}))


def test_what_was_sealed_comes_back_from_another_path(sealed, tmp_path):
    assert unseal(sealed.rename(tmp_path / "moved"), name="model.json").content == {"hello": [1]}


def test_a_flipped_byte_in_any_file_is_refused(sealed):
    (sealed / "inner" / "a.bin").write_bytes(b"abd")
    with pytest.raises(ArtifactError, match=r"a\.bin has changed"):
        unseal(sealed, name="model.json")


def test_a_flipped_byte_in_the_seal_is_refused(sealed):
    text = (sealed / "model.json").read_text()
    (sealed / "model.json").write_text(text.replace("hello", "hullo"))
    with pytest.raises(ArtifactError, match="has changed"):
        unseal(sealed, name="model.json")


def test_a_missing_file_is_named(sealed):
    (sealed / "inner" / "a.bin").unlink()
    with pytest.raises(ArtifactError, match=r"a\.bin is missing"):
        unseal(sealed, name="model.json")


def test_a_pickle_in_a_files_place_is_never_opened(sealed):
    (sealed / "inner" / "a.bin").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(ArtifactError, match="not opened"):
        unseal(sealed, name="model.json")
    (sealed / "model.json").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        unseal(sealed, name="model.json")


@pytest.mark.parametrize("path", ["../outside.bin", "/etc/hostname", "inner/../../outside.bin"])
def test_a_path_out_of_the_folder_is_refused_even_if_its_checksum_is_right(sealed, path):
    (sealed.parent / "outside.bin").write_bytes(b"abc")
    forge(sealed, files={path: "0" * 32})
    with pytest.raises(ArtifactError, match="outside"):
        unseal(sealed, name="model.json")


def test_a_newer_format_asks_for_an_update(sealed):
    forge(sealed, format=FORMAT_VERSION + 1)
    with pytest.raises(ArtifactError, match=f"format {FORMAT_VERSION + 1}") as caught:
        unseal(sealed, name="model.json")
    assert "Update" in caught.value.remedy


def test_an_empty_folder_says_what_is_missing(tmp_path):
    with pytest.raises(ArtifactError, match=r"no model\.json"):
        unseal(tmp_path, name="model.json")


def test_a_file_that_was_not_sealed_is_not_opened(sealed):
    (sealed / "inner" / "b.bin").write_bytes(b"foreign")
    files = unseal(sealed, name="model.json")
    assert files.path("inner/a.bin").read_bytes() == b"abc"
    assert files.below("inner").path("a.bin") == sealed / "inner" / "a.bin"
    for folder, name in ((files, "inner/b.bin"), (files.below("inner"), "b.bin"), (files.below("in"), "ner/a.bin")):
        with pytest.raises(ArtifactError, match="not part of what was saved"):
            folder.path(name)


def test_a_seal_of_the_format_before_is_read(sealed):
    forge(sealed, format=1)
    assert unseal(sealed, name="model.json").content == {"hello": [1]}
