import json

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from biofuse.encoders import Preprocessing, register_encoder
from biofuse.encoders.registry import ENCODERS


@pytest.fixture
def unknown():
    """Register an encoder that nobody has golden vectors of."""

    with ENCODERS.temporary():

        @register_encoder("t_unknown", dim=3, preprocessing=Preprocessing(resize="squash", size=8))
        def unknown(images):
            return images.mean(axis=(1, 2))

        yield "t_unknown"


def test_descriptors_are_what_they_were(succeeds):
    said = succeeds("encoders", "verify", "hog", "lbp").out
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.split()}
    assert rows["hog"][0] == rows["lbp"][0] == "yes"
    assert float(rows["hog"][1]) >= 0.9999


def test_embeddings_that_are_not_the_golden_ones_are_exit_code_1(biofuse, succeeds, tmp_path):
    succeeds("encoders", "verify", "hog", "--write", tmp_path)
    path = tmp_path / "hog.safetensors"
    with safe_open(path, framework="numpy") as file:
        facts = file.metadata()
    save_file({"embeddings": load_file(path)["embeddings"][::-1].copy()}, path, metadata=facts)
    ran = biofuse("encoders", "verify", "hog", "--against", tmp_path)
    assert ran.code == 1
    assert "not the golden ones" in ran.out
    (found,) = json.loads(biofuse("encoders", "verify", "hog", "--against", tmp_path, "--json").out)
    assert found["agrees"] is False
    assert found["cosine"] < 0.9999


def test_new_golden_vectors_are_written_and_hold(succeeds, unknown, tmp_path):
    ran = succeeds("encoders", "verify", unknown)
    assert "nothing to compare with" in ran.out
    assert "--write" in ran.err
    ran = succeeds("encoders", "verify", unknown, "--write", tmp_path / "golden")
    assert "t_unknown.safetensors" in ran.err
    (found,) = json.loads(succeeds("encoders", "verify", unknown, "--against", tmp_path / "golden", "--json").out)
    assert found["agrees"] is True


def test_an_encoder_that_cannot_be_run_is_named_and_the_others_are_verified(biofuse, tmp_path):
    ran = biofuse("encoders", "verify", "rad_dino", "hog", "--write", tmp_path)
    assert ran.code == 1
    assert "HF_HUB_OFFLINE" in ran.out
    assert (tmp_path / "hog.safetensors").is_file()
    assert not (tmp_path / "rad_dino.safetensors").exists()
