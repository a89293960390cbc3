"""`biofuse check`."""

import io
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image


def picture(path, *, seed, size=(20, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def messy(tmp_path):
    """Splits that leak, duplicates, a conflict, unreadable files, mixed modes and sizes."""
    root = tmp_path / "messy"
    for number in range(10):
        for index, name in enumerate(("cyst", "tumour")):
            picture(root / "train" / name / f"{number}.png", seed=10 * number + index)
    for number in range(4):
        picture(root / "test" / "cyst" / f"{number}.png", seed=1000 + number, size=(30, 16), mode="L")
        picture(root / "test" / "tumour" / f"{number}.png", seed=2000 + number)
    shutil.copy(root / "train" / "cyst" / "0.png", root / "test" / "cyst" / "leak.png")
    shutil.copy(root / "train" / "cyst" / "1.png", root / "train" / "cyst" / "twin.png")
    shutil.copy(root / "train" / "cyst" / "2.png", root / "train" / "tumour" / "conflict.png")
    (root / "train" / "tumour" / "empty.png").write_bytes(b"")
    (root / "train" / "tumour" / "text.png").write_text("not an image")
    return root


def test_all_sections(messy, biofuse):
    ran = biofuse("check", messy)
    said = ran.out
    assert ran.code == 1  # two files cannot be read
    assert "messy: 33 samples, task binary" in said
    counts = {line.split()[0]: line.split()[1:] for line in said.splitlines() if len(line.split()) == 3}
    assert (counts["cyst"], counts["tumour"], counts["all"]) == (["11", "5"], ["13", "4"], ["24", "9"])
    assert "width 24 to 30" in said or "width" in said
    assert "height" in said
    assert "PNG" in said
    assert "1 of 9 test images are byte-identical to train images (1 cyst)." in said
    assert "4 images of split train repeat among themselves (2 different ones)" in said
    assert "1 image(s) occur more than once with different labels" in said
    assert "train/tumour/conflict.png" in said
    assert "2 image(s) cannot be read" in said
    assert said.endswith(f"next: biofuse fit {messy} --on-error quarantine --out run\n")
    for name in ("empty.png", "text.png"):
        assert name in said
    assert "Worth thinking about" in said
    assert "Traceback" not in ran.everything


def test_json_has_the_same_facts(messy, biofuse):
    ran = biofuse("check", messy, "--json")
    facts = json.loads(ran.out)
    assert ran.code == 1
    assert facts["counts"]["train"] == {"cyst": 11, "tumour": 13}
    assert {image["id"] for image in facts["unreadable"]} == {"train/tumour/empty.png", "train/tumour/text.png"}
    assert facts["torn_groups"] == {}


def test_clean_data_is_exit_code_0(images, succeeds):
    said = succeeds("check", images).out
    assert "images: 24 samples, task binary" in said
    assert "cannot be read" not in said
    assert "leak" not in said


def test_groups_that_span_splits_are_reported_with_everything_else(messy, biofuse, tmp_path):
    paths = sorted(path for path in messy.rglob("*.png") if path.stat().st_size > 100)
    frame = pd.DataFrame(
        {
            "path": [str(path) for path in paths],
            "label": [path.parent.name for path in paths],
            "split": [path.parent.parent.name for path in paths],
            "patient": [f"p{path.stem}" for path in paths],
        }
    )
    frame.to_csv(tmp_path / "m.csv", index=False)
    ran = biofuse("check", tmp_path / "m.csv", "--group", "patient")
    assert ran.code == 1
    assert ran.out.count("4 group(s) lie in several splits: p0, p1, p2, p3.") == 1
    assert "1 of 9 test images are byte-identical" in ran.out  # the rest of the report is there too
    assert ran.out.splitlines()[-1].endswith("m.csv --group patient --no-splits --out run")
    facts = json.loads(biofuse("check", tmp_path / "m.csv", "--group", "patient", "--json").out)
    assert facts["torn_groups"] == {f"p{i}": ["train", "test"] for i in range(4)}


def test_unlabelled_folder(images, succeeds):
    said = succeeds("check", images / "red").out
    assert "12 samples, task none" in said
    assert said.endswith(f"next: biofuse embed {images / 'red'} --out embeddings.parquet\n")


def test_what_is_advised_stands_in_the_command_that_comes_next(images, succeeds, tmp_path):
    rows = [(f"images/{path.parent.name}/{path.name}", path.parent.name) for path in sorted(images.rglob("*.png"))]
    table = pd.DataFrame(rows, columns=["image_id", "tumour"]).assign(patient_id=[f"p{row // 2}" for row in range(24)])
    table.to_csv(tmp_path / "t.csv", index=False)
    said = succeeds("check", tmp_path / "t.csv", "--label", "tumour").out
    assert "patient_id has 12 values for 24 rows: add --group patient_id" in said
    assert said.splitlines()[-1].endswith("t.csv --label tumour --group patient_id --out run")
    plain = succeeds("check", tmp_path / "t.csv", "--group", "none").out
    assert "No groups" not in plain
    assert "no label column was recognised" in plain
    assert plain.splitlines()[-1].endswith("t.csv --group none --label COLUMN --out run")


def test_a_class_that_no_fold_can_hold_out_is_exit_code_1(images, biofuse):
    picture(images / "rare" / "0.png", seed=1)
    ran = biofuse("check", images)
    assert ran.code == 1
    assert "All development samples of rare are one group or one image" in ran.out
    assert ran.out.endswith(f"next: biofuse fit {images} --drop-classes-below 2 --out run\n")
    facts = json.loads(biofuse("check", images, "--json").out)
    assert [text.endswith("Leave them out with --drop-classes-below 2.") for text in facts["refusals"]] == [True]
    assert facts["warnings"][0] == facts["refusals"][0]


def test_many_classes_fit_a_screen(biofuse, tmp_path):
    for number in range(30):
        for image in range(2 + (number < 12)):
            picture(tmp_path / "many" / f"class {number}" / f"{image}.png", seed=10 * number + image)
    said = biofuse("check", tmp_path / "many").out
    assert "18 smaller classes" in said
    assert len(said.splitlines()) < 40


@pytest.mark.slow
def test_brain_mri_overlaps_are_those_its_readme_states(shared_data, biofuse):
    """251 of 394 test files are training files: 106 meningioma, 105 no tumour, 22 pituitary, 18 glioma; 176 repeat."""
    ran = biofuse("check", shared_data / "brain-mri")
    assert ran.code == 0, ran.everything
    assert "brain-mri: 3264 samples, task multiclass" in ran.out
    leak = next(line for line in ran.out.splitlines() if "test images are byte-identical to train images" in line)
    assert "251 of 394" in leak
    for part in ("106 meningioma", "105 no", "22 pituitary", "18 glioma"):
        assert part in leak
    assert "176 images of split train repeat among themselves" in ran.out


def test_a_column_of_many_numbers_is_asked_about_at_a_terminal_and_refused_elsewhere(
    tmp_path, make_images, biofuse, monkeypatch
):
    paths = make_images(tmp_path / "images", classes=("a", "b"), per_class=10)
    table = tmp_path / "ages.csv"
    table.write_text("path,age\n" + "".join(f"{path},{40.5 + row}\n" for row, path in enumerate(paths)))
    refused = biofuse("check", table, "--label", "age")
    assert refused.code == 1
    assert all(f"--task {way}" in refused.err for way in ("value", "ordinal", "multiclass"))
    monkeypatch.setattr("sys.stdin", io.StringIO("classes\nvalue\n"))
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    asked = biofuse("check", table, "--label", "age")
    assert asked.code == 0
    assert "Which is it?" in asked.err
    assert "--task value" in asked.err
    assert "age: 40.5 to 59.5" in asked.out


def test_show_draws_what_an_encoder_receives(make_images, tmp_path, succeeds, biofuse):
    make_images(tmp_path / "images", per_class=3)
    out = tmp_path / "sheet.png"
    said = succeeds("check", tmp_path / "images", "--show", out, "--encoder", "lbp").out
    assert f"{out}: 6 images as lbp receives them, their shorter side scaled to 128 pixels" in said.replace("\n", " ")
    with Image.open(out) as sheet:
        assert sheet.size[0] > 6 * 128
    facts = json.loads(succeeds("check", tmp_path / "images", "--show", out, "--json").out)
    assert facts["sheet"] == {"path": str(out), "images": 6, "encoder": "efficientnet_lite0"}
    for arguments, why in (
        (["--show", "sheet.xyz"], "names no kind of picture"),
        (["--encoder", "lbp"], "is for --show"),
    ):
        ran = biofuse("check", tmp_path / "images", *arguments)
        assert ran.code > 0
        assert why in ran.everything
