"""`biofuse store`."""

import json
import re

import numpy as np
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


def spoil(store, name):
    """Make an encoder's embeddings wrong, with valid checksums."""
    (folder,) = [each for each in store.folders() if each.card.name == name]
    contents = np.concatenate([part.contents for part in folder.parts()])
    values = folder.read(contents) + np.float32(0.01)
    for path in folder.part_paths():
        path.unlink()
    EmbeddingStore(store.root).open(folder.card).write(contents, values)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".csv"])
def test_export_writes_what_embed_writes(filled, images, succeeds, tmp_path, suffix):
    succeeds("embed", images, "-e", "haralick,hog", "--out", tmp_path / f"embed{suffix}")
    said = succeeds("store", "export", images, "-e", "haralick,hog", "-o", tmp_path / f"export{suffix}")
    assert "24 samples × 360 columns of haralick, hog" in said.err
    assert (tmp_path / f"export{suffix}").read_bytes() == (tmp_path / f"embed{suffix}").read_bytes()


def test_export_to_anndata(filled, images, succeeds, tmp_path):
    anndata = pytest.importorskip("anndata")
    succeeds("store", "export", images, "-o", tmp_path / "e.h5ad")
    table = anndata.read_h5ad(tmp_path / "e.h5ad")
    assert {name: matrix.shape for name, matrix in table.obsm.items()} == {"X_haralick": (24, 36), "X_hog": (24, 324)}
    assert table.obs["label"].value_counts().to_dict() == {"blue": 12, "red": 12}


def test_export_computes_nothing(filled, images, make_images, fails, tmp_path):
    make_images(images, per_class=13)
    ran = fails("store", "export", images, "-e", "hog", "-o", tmp_path / "e.npz")
    assert "have no hog embedding" in ran.err
    assert "biofuse embed" in ran.err
    assert not (tmp_path / "e.npz").exists()
    assert "no embeddings of lbp" in fails("store", "export", images, "-e", "lbp", "-o", tmp_path / "e.npz").err


def test_recompute_says_that_all_is_well(filled, images, succeeds):
    said = succeeds("store", "verify", "--recompute", 3, "--data", images).err
    assert "haralick (fp32): 3 of 24 embeddings recomputed, 0 differ; least cosine 1.000000" in said
    assert "hog (fp32): 3 of 24" in said


def test_recompute_fails_and_names_encoder_and_rows(filled, images, biofuse):
    spoil(filled, "hog")
    ran = biofuse("store", "verify", "--recompute", 2, "--data", images)
    assert ran.code == 1
    assert "hog (fp32): 2 of 24 embeddings recomputed, 2 differ" in ran.err
    assert "differs for " in ran.err
    assert ".png" in ran.err
    assert "haralick (fp32): 2 of 24 embeddings recomputed, 0 differ" in ran.err
    ran = biofuse("store", "verify", "--recompute", 2, "--data", images, "--encoder", "haralick")
    assert ran.code == 0
    ran = biofuse("store", "verify", "--recompute", 2, "--data", images, "--json")
    assert ran.code == 1
    haralick, hog = json.loads(ran.out)
    assert (haralick["recomputed"]["differing"], len(hog["recomputed"]["differing"])) == ([], 2)


def test_recompute_of_other_images_and_half_an_option_are_refused(filled, make_images, fails, biofuse, tmp_path):
    make_images(tmp_path / "others", per_class=2, size=30)
    assert "None of the 4 images" in fails("store", "verify", "--recompute", 2, "--data", tmp_path / "others").err
    assert biofuse("store", "verify", "--recompute", 2).code == 2
    assert biofuse("store", "verify", "--data", tmp_path / "others").code == 2


def test_import_then_fit_and_show(filled, images, succeeds, fails, tmp_path):
    before = np.load(tmp_path / "before.npz")
    order = np.random.default_rng(0).permutation(24)
    np.savez(tmp_path / "own.npz", ids=before["id"][order], vectors=before["hog"][order] * 2)
    said = succeeds("store", "import", tmp_path / "own.npz", "-e", "own", "--data", images, "--title", "Our network")
    assert "Imported 24 embeddings of 324 columns as own." in said.err
    assert "--encoders imported:own" in said.err
    listed = succeeds("store", "ls")
    assert "own" in listed.out
    assert "own (imported:own): imported from own.npz (SHA-256 " in listed.err
    succeeds("store", "export", images, "-e", "imported:own", "-o", tmp_path / "back.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "back.npz")["own"], before["hog"] * 2)
    run = tmp_path / "run"
    succeeds("fit", images, "-e", "haralick,imported:own", "--folds", 2, "--repeats", 1, "--out", run)
    record = json.loads((run / "run.json").read_text())
    assert "own" in json.dumps(record["config"]["encoders"] if "config" in record else record)
    assert "name of an encoder" in fails("store", "import", tmp_path / "own.npz", "-e", "hog", "--data", images).err
    again = json.loads(succeeds("store", "import", tmp_path / "own.npz", "-e", "own", "--data", images, "--json").out)
    assert (again["written"], again["known"], again["card"]["title"]) == (0, 24, "Our network")


def test_folders_without_a_readable_card_are_named_and_left_alone(filled, biofuse, succeeds):
    strange = filled.root / "strange"
    strange.mkdir()
    (strange / "card.json").write_text("{}")
    (filled.root / "empty").mkdir()
    assert "strange has no readable card.json" in succeeds("store", "gc").err
    ran = succeeds("store", "ls")
    assert "hog" in ran.out
    assert "strange has no readable card.json" in ran.err
    ran = biofuse("store", "verify")
    assert ran.code == 1
    assert "2 parts of 2 encoders verified, 0 damaged" in ran.err
    assert "strange has no readable card.json" in ran.err
    assert (strange / "card.json").exists()
    # An empty folder may be that of a run that is about to write its card.
    assert json.loads(succeeds("store", "gc", "--json").out)["unreadable"] == [str(strange)]
