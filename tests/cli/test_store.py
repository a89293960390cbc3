import json
import re

import pytest

from biofuse.store.store import EmbeddingStore


@pytest.fixture
def filled(images, succeeds, tmp_path):
    succeeds("embed", images, "-e", "haralick,hog", "--out", tmp_path / "before.npz")
    return EmbeddingStore()


def flip_a_byte(store):
    part = next((store.root).glob("hog-*/*.arrow"), None) or next(iter(store.root.rglob("*.arrow")))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    return part


def test_ls(filled, succeeds):
    said = succeeds("store", "ls").out
    assert str(filled.root) in said
    assert re.search(r"haralick +24 +36 +fp32 +1 +0 ", said)
    entries = json.loads(succeeds("store", "ls", "--json").out)
    assert [(e["encoder"], e["embeddings"], e["dim"]) for e in entries] == [("haralick", 24, 36), ("hog", 24, 324)]


def test_commands_on_an_empty_store(succeeds):
    assert succeeds("store", "ls").code == 0
    assert json.loads(succeeds("store", "ls", "--json").out) == []
    assert "0 parts" in succeeds("store", "verify").err
    assert "Removed 0 files" in succeeds("store", "gc").err


def test_verify_finds_a_flipped_byte_the_next_run_heals_it_and_gc_cleans_up(
    filled, biofuse, succeeds, images, tmp_path
):
    assert "2 parts of 2 encoders verified, 0 damaged" in succeeds("store", "verify").err
    part = flip_a_byte(filled)
    ran = biofuse("store", "verify")
    assert ran.code == 1
    assert "1 damaged" in ran.err
    assert part.name in ran.err
    assert "Traceback" not in ran.everything
    again = succeeds("embed", images, "-e", "haralick,hog", "--out", tmp_path / "after.npz")
    assert "hog: 24 embeddings computed" in again.err
    assert (tmp_path / "after.npz").read_bytes() == (tmp_path / "before.npz").read_bytes()
    assert "Would remove 1 files" in succeeds("store", "gc", "--dry-run").err
    assert "Removed 1 files" in succeeds("store", "gc").err
    assert "Removed 0 files" in succeeds("store", "gc").err
    assert "2 parts of 2 encoders verified, 0 damaged" in succeeds("store", "verify").err


def test_embed_heals_a_flipped_byte_without_verify_and_says_so(filled, succeeds, images, tmp_path):
    part = flip_a_byte(filled)
    ran = succeeds("embed", images, "-e", "haralick,hog", "--out", tmp_path / "after.npz")
    assert "damaged part was found" in ran.err
    assert part.name in ran.err
    assert (tmp_path / "after.npz").read_bytes() == (tmp_path / "before.npz").read_bytes()


def test_verify_json(filled, biofuse):
    flip_a_byte(filled)
    ran = biofuse("store", "verify", "--json")
    assert ran.code == 1
    assert sum(len(entry["broken"]) for entry in json.loads(ran.out)) == 1


def test_gc_json_dry_run_removes_nothing(filled, biofuse, succeeds):
    flip_a_byte(filled)
    biofuse("store", "verify")
    before = sorted(filled.root.rglob("*"))
    assert len(json.loads(succeeds("store", "gc", "--dry-run", "--json").out)["removed"]) == 1
    assert sorted(filled.root.rglob("*")) == before
