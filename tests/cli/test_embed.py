"""`biofuse embed`."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ENCODERS = "haralick,hog"


def read(path):
    """Read any output format into ids, labels, splits and a matrix per encoder."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            facts = {name: file[name].tolist() for name in file if file[name].ndim == 1}
            return facts, {name: file[name] for name in file if file[name].ndim == 2}
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"id": str})
    facts = {name: frame[name].tolist() for name in frame if name in {"id", "label", "split", "group"}}
    if path.suffix == ".parquet":
        blocks = {name: np.stack(frame[name].to_list()) for name in frame if name not in facts}
    else:
        names = [name for name in frame if name not in facts]
        blocks = {
            encoder: frame[[name for name in names if name.rsplit("_", 1)[0] == encoder]].to_numpy()
            for encoder in dict.fromkeys(name.rsplit("_", 1)[0] for name in names)
        }
    return facts, blocks


@pytest.fixture
def manifest(images, tmp_path):
    """A manifest in an order of its own, with ids, splits and groups that no position could explain."""
    paths = sorted(images.rglob("*.png"))
    order = np.random.default_rng(1).permutation(len(paths))
    table = pd.DataFrame(
        {
            "path": [str(paths[i].relative_to(tmp_path)) for i in order],
            "label": [paths[i].parent.name for i in order],
            "id": [f"s{i:02d}" for i in order],
            "patient": [f"p{i // 2:02d}" for i in order],
            "split": [("train", "train", "val", "test")[i // 2 % 4] for i in order],
        }
    )
    table.to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path / "manifest.csv"


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv"])
def test_output_is_aligned_with_ids_labels_splits_and_groups(suffix, manifest, succeeds, tmp_path):
    out = tmp_path / f"e{suffix}"
    succeeds("embed", manifest, "-e", ENCODERS, "--group", "patient", "--out", out)
    facts, blocks = read(out)
    table = pd.read_csv(manifest)
    assert facts["id"] == table["id"].tolist()
    assert facts["label"] == table["label"].tolist()
    assert facts["split"] == table["split"].tolist()
    assert facts["group"] == table["patient"].tolist()
    assert {name: block.shape for name, block in blocks.items()} == {"haralick": (24, 36), "hog": (24, 324)}
    assert {block.dtype for block in blocks.values()} == {np.dtype("float64" if suffix == ".csv" else "float32")}
    assert not list(tmp_path.glob(".*.tmp"))
    # Each row is the embedding of that row's own image, computed alone.
    for row in (0, 7, 23):
        alone = tmp_path / f"alone{row}.npz"
        succeeds("embed", tmp_path / table["path"][row], "-e", ENCODERS, "--out", alone)
        _, expected = read(alone)
        for name, block in blocks.items():
            np.testing.assert_allclose(block[row], expected[name][0], atol=1e-6)


def test_the_second_run_computes_nothing_and_says_so(images, succeeds, tmp_path):
    first = succeeds("embed", images, "-e", ENCODERS, "--out", tmp_path / "a.npz")
    assert "haralick: 24 embeddings computed" in first.err
    assert "No embedding had to be computed" not in first.err
    second = succeeds("embed", images, "-e", ENCODERS, "--out", tmp_path / "b.npz")
    assert "No embedding had to be computed" in second.err
    assert "embeddings computed in" not in second.err
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    # Only what is new is computed.
    Image.fromarray(np.full((24, 24, 3), 7, dtype=np.uint8)).save(images / "red" / "new.png")
    third = succeeds("embed", images, "-e", f"{ENCODERS},lbp", "--out", tmp_path / "c.npz")
    assert "hog: 1 embeddings computed" in third.err
    assert "24 from the store" in third.err
    assert "lbp: 25 embeddings computed" in third.err


def test_the_default_store_and_a_chosen_one_are_different(images, succeeds, tmp_path, biofuse_home):
    succeeds("embed", images, "-e", "hog", "--store", tmp_path / "mine", "--out", tmp_path / "a.npz")
    assert list((tmp_path / "mine").rglob("*.arrow"))
    assert not list(biofuse_home.rglob("*.arrow"))


def test_shuffling_the_manifest_changes_only_the_order(manifest, succeeds, tmp_path):
    succeeds("embed", manifest, "-e", "hog", "--out", tmp_path / "a.npz")
    table = pd.read_csv(manifest)
    table.iloc[::-1].to_csv(manifest, index=False)
    succeeds("embed", manifest, "-e", "hog", "--store", tmp_path / "other", "--out", tmp_path / "b.npz")
    (before, a), (after, b) = read(tmp_path / "a.npz"), read(tmp_path / "b.npz")
    assert after["id"] == before["id"][::-1]
    assert after["label"] == before["label"][::-1]
    np.testing.assert_array_equal(b["hog"], a["hog"][::-1])


def test_a_folder_without_classes_has_no_label_column(images, succeeds, tmp_path):
    succeeds("embed", images / "red", "-e", "hog", "--out", tmp_path / "e.parquet")
    assert "label" not in pd.read_parquet(tmp_path / "e.parquet").columns


def test_no_labels_ignores_class_folders(images, succeeds, fails, tmp_path):
    for path in (images / "blue").iterdir():
        path.unlink()
    assert "--no-labels" in fails("embed", images, "-e", "hog", "--out", tmp_path / "e.parquet").err
    succeeds("embed", images, "-e", "hog", "--no-labels", "--out", tmp_path / "e.parquet")
    frame = pd.read_parquet(tmp_path / "e.parquet")
    assert list(frame.columns) == ["id", "hog"]
    assert frame["id"].tolist() == [f"red/{i:03d}.png" for i in range(12)]


def test_model_embeds_with_the_encoders_it_chose(fitted, images, succeeds, tmp_path):
    from biofuse.model.model import BioFuseModel

    model = BioFuseModel.load(fitted)
    for where in (fitted, fitted / "model"):
        succeeds("embed", images, "--model", where, "--out", tmp_path / "e.npz")
        facts, blocks = read(tmp_path / "e.npz")
        assert tuple(blocks) == model.encoders
        assert facts["label"] == [name.split("/")[0] for name in facts["id"]]
        np.testing.assert_array_equal(np.concatenate(list(blocks.values()), axis=1), model.embed(images))


def test_model_embeds_unlabelled_images(fitted, images, succeeds, tmp_path):
    (tmp_path / "new").mkdir()
    for number, path in enumerate(sorted((images / "red").iterdir())[:3]):
        (tmp_path / "new" / f"{number}.png").write_bytes(path.read_bytes())
    succeeds("embed", tmp_path / "new", "--model", fitted, "--out", tmp_path / "e.parquet")
    assert pd.read_parquet(tmp_path / "e.parquet")["id"].tolist() == ["0.png", "1.png", "2.png"]


def test_model_that_is_none(images, fails, tmp_path):
    assert str(tmp_path) in fails("embed", images, "--model", tmp_path, "--out", tmp_path / "e.npz").err


@pytest.mark.parametrize("name", ["e.xlsx", "e", "e.pkl"])
def test_unknown_format_is_refused_before_any_work(name, images, biofuse, tmp_path, biofuse_home):
    ran = biofuse("embed", images, "-e", "hog", "--out", tmp_path / name)
    assert ran.code == 1
    assert ".parquet" in ran.err
    assert not list(biofuse_home.rglob("*.arrow"))


def test_dry_run_shows_the_plan_and_leaves_nothing_behind(manifest, succeeds, biofuse_home, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    ran = succeeds("embed", manifest, "-e", ENCODERS, "--dry-run")
    assert "Plan: 24 images on cpu" in ran.out
    assert "haralick (fp32)" in ran.out
    assert "hog (fp32)" in ran.out
    assert sorted(tmp_path.rglob("*")) == before
    assert not (biofuse_home / "embeddings").exists()


def test_dry_run_as_json_tells_what_is_missing(manifest, succeeds, tmp_path):
    succeeds("embed", manifest, "-e", "hog", "--out", tmp_path / "e.npz")
    plan = json.loads(succeeds("embed", manifest, "-e", ENCODERS, "--dry-run", "--json").out)
    (group,) = plan["groups"]
    assert [(each["encoder"], each["images"]) for each in group["encoders"]] == [("haralick", 24)]
    assert plan["complete"] == ["hog"]


def test_dry_run_of_encoders_whose_weights_are_not_here_fetches_none(manifest, succeeds):
    ran = succeeds("embed", manifest, "-e", "uni", "--dry-run")
    assert "uni: its weights are not here yet" in ran.out


@pytest.mark.parametrize("arguments", [(), ("--out", "e.npz", "--dry-run")])
def test_either_a_file_to_write_or_a_dry_run(arguments, manifest, biofuse):
    ran = biofuse("embed", manifest, "-e", "hog", *arguments)
    assert ran.code == 2
    assert "--dry-run" in ran.err


def test_the_plan_is_shown_before_the_work_and_what_was_done_after_it(manifest, succeeds, tmp_path):
    ran = succeeds("embed", manifest, "-e", "hog", "--out", tmp_path / "e.npz", "--json")
    assert ran.err.index("Plan: 24 images") < ran.err.index("hog: 24 embeddings computed")
    done = json.loads(ran.out)
    assert done["encoders"]["hog"]["computed"] == 24
    assert done["stages"]["seconds"]["decode"] > 0


@pytest.mark.parametrize("size", ["auto", "3"])
def test_batch_sizes(size, manifest, succeeds, tmp_path):
    succeeds("embed", manifest, "-e", "hog", "--batch-size", size, "--precision", "fp32", "--out", tmp_path / "e.npz")


@pytest.mark.parametrize("size", ["0", "-1", "many"])
def test_other_batch_sizes_are_refused(size, manifest, biofuse, tmp_path):
    ran = biofuse("embed", manifest, "-e", "hog", f"--batch-size={size}", "--out", tmp_path / "e.npz")
    assert ran.code == 2
    assert "auto" in ran.err
