"""`biofuse demo` and `benchmark`."""

import functools
import json

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from biofuse.studies import demo as module

SMALL = ("-e", "haralick,hog", "--folds", 2, "--repeats", 1, "--head", "ridge")


@pytest.fixture
def archive(tmp_path):
    """Scanned digits as MedMNIST's binary set of 28 pixels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.kron(digits.images * (255 / 16), np.ones((1, 4, 4)))[:, 2:30, 2:30].astype(np.uint8)
    labels = (digits.target[:, None] > 4).astype(np.uint8)
    content = {}
    for split, rows in (("train", slice(0, 30)), ("val", slice(30, 45)), ("test", slice(45, 65))):
        content |= {f"{split}_images": images[rows], f"{split}_labels": labels[rows]}
    (tmp_path / "root").mkdir()
    np.savez(tmp_path / "root" / "breastmnist.npz", **content)
    return tmp_path / "root"


@pytest.mark.slow
def test_medmnist_then_once_more(archive, succeeds, tmp_path):
    command = ("benchmark", "medmnist", "--root", archive, "--size", 28, *SMALL, "--out", tmp_path / "out")
    first = succeeds(*command)
    assert "breastmnist" in first.out
    assert "0.9453" in first.out  # the best published AUC
    assert "finished before" not in first.err
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert found["runs"][0]["n_test"] == 20
    assert "published best single AUC" in (tmp_path / "out" / "benchmark.html").read_text()
    second = succeeds(*command)
    assert "[1/1] breastmnist: finished before." in second.err
    assert second.out == first.out
    assert json.loads(succeeds(*command, "--json").out) == found


@pytest.mark.slow
def test_own_data_with_and_without_the_word_data(images, make_images, succeeds, tmp_path):
    make_images(tmp_path / "more", per_class=12)
    out = tmp_path / "out"
    first = succeeds("benchmark", images, tmp_path / "more", *SMALL, "--out", out)
    assert "Test AUROC of single encoders" in first.out
    assert (out / "images" / "metrics.json").exists()
    assert (out / "more" / "run.json").exists()
    assert "No run" not in first.err
    assert succeeds("benchmark", "data", images, tmp_path / "more", *SMALL, "--out", out).out == first.out
    compared = succeeds("compare", out / "images", out / "more", "--out", tmp_path / "page.html")
    assert "¹" in compared.out
    assert "Chosen subsets" in compared.out
    assert "<table " in (tmp_path / "page.html").read_text()
    facts = json.loads(succeeds("compare", out / "images", out / "more", "--json").out)
    scores = json.loads((out / "images" / "metrics.json").read_text())["singles"]["hog"]["metrics"]
    assert facts["singles"]["auroc"]["images"]["hog"] == scores["auroc"]


def test_a_data_set_that_cannot_be_read_makes_the_command_fail_after_the_others(images, biofuse, tmp_path):
    (tmp_path / "nothing").mkdir()
    ran = biofuse("benchmark", tmp_path / "nothing", images, *SMALL, "--out", tmp_path / "out")
    assert ran.code == 1
    assert "nothing cannot be run: No images" in ran.err
    assert "1 data set could not be run" in ran.err
    assert "Test AUROC of single encoders" in ran.out
    assert "Traceback" not in ran.everything


def test_imagenet(make_images, succeeds, fails, tmp_path):
    make_images(tmp_path / "root" / "train", classes=("a", "b", "c"), per_class=6)
    make_images(tmp_path / "root" / "val", classes=("a", "b", "c"), per_class=2)
    command = ("benchmark", "imagenet", "--root", tmp_path / "root", "-e", "haralick,hog", "--out", tmp_path / "out")
    ran = succeeds(*command)
    assert "3 classes, 18 training and 6 validation images" in ran.err
    assert "all 2 fused" in ran.out
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert set(found["scores"]) == {"haralick", "hog", "all"}
    assert "train/<class>" in fails("benchmark", "imagenet", "--root", tmp_path, "--out", tmp_path / "x").err


def test_benchmarks_that_do_not_exist(fails, tmp_path):
    assert "does not exist" in fails("benchmark", tmp_path / "nowhere", "--out", tmp_path / "out").err
    ran = fails("benchmark", "medmnist", "nosuchmnist", "--out", tmp_path / "out")
    assert "There are pathmnist" in ran.err


def test_compare_refuses_what_is_no_run(fails, tmp_path):
    assert "biofuse fit" in fails("compare", tmp_path).err


def test_a_card_before_and_after_evaluation(fitted, succeeds, tmp_path):
    before = succeeds("card", fitted)
    assert "was not evaluated" in before.err
    assert "Not evaluated on test data." in (fitted / "README.md").read_text()
    succeeds("evaluate", fitted)
    after = succeeds("card", fitted, "--repository", "me/mine", "--out", tmp_path / "card.md")
    assert "was not evaluated" not in after.err
    text = (tmp_path / "card.md").read_text()
    scores = json.loads((fitted / "metrics.json").read_text())["models"]["chosen"]
    assert f"{scores['metrics']['auroc']:.4f} ({scores['intervals']['auroc']['low']:.4f}" in text
    assert 'from_pretrained("me/mine")' in text
    results = {result.metric_type: result.metric_value for result in ModelCard(text).data.eval_results}
    assert results["roc_auc"] == pytest.approx(scores["metrics"]["auroc"])
    assert str(tmp_path) not in text  # nothing of this machine is published


def test_a_new_fit_takes_an_old_card_away(fitted, images, succeeds):
    succeeds("card", fitted)
    succeeds("fit", images, "-e", "haralick", "--folds", 2, "--repeats", 1, "--overwrite", "--out", fitted)
    assert not (fitted / "README.md").exists()


def test_tables_too_wide_for_the_terminal_are_printed_row_by_row(monkeypatch, capsys):
    from biofuse.cli.report import narrowest, show_tables
    from biofuse.report.content import Table

    columns = ("run", *(f"encoders of column {number}" for number in range(9)))
    table = Table.of("Wide", columns, [("blood", *(f"efficientnet_lite{n}" for n in range(9)))])
    for width, broken in ((narrowest(table), False), (narrowest(table) - 1, True)):
        monkeypatch.setenv("COLUMNS", str(width))
        show_tables([table])
        said = capsys.readouterr().out
        assert all(f"efficientnet_lite{number}" in said for number in range(9))  # no word is broken
        assert ("encoders of column 8   efficientnet_lite8" in said) is broken


@pytest.fixture
def small_demo(monkeypatch, make_images):
    """Let the demo run on a few made-up images and the two cheapest encoders."""

    def build(folder, *, progress):
        paths = make_images(folder, classes=("cortex", "thalamus"), per_class=15)
        splits = ["train", "train", "val", "test", "test"] * 6
        table = pd.DataFrame({"path": paths, "label": [path.parent.name for path in paths], "split": splits})
        table.to_csv(folder / "manifest.csv", index=False)
        return folder / "manifest.csv"

    monkeypatch.setattr(module, "build_demo", build)
    monkeypatch.setattr(module, "run_demo", functools.partial(module.run_demo, encoders="haralick,hog"))


@pytest.mark.slow
def test_the_demo_goes_from_images_to_pictures_and_a_second_time_computes_nothing(small_demo, succeeds, tmp_path):
    first = succeeds("demo", "--out", tmp_path / "demo")
    assert "3 subsets of 3 screened scored with the " in first.out
    assert "Share of each encoder in the AUROC of all together" in first.out
    assert "12 samples; 95 % intervals" in first.out
    for name in ("predictions.png", "scores.png"):
        assert f"Picture: {tmp_path / 'demo' / name}" in first.err
        assert min(Image.open(tmp_path / "demo" / name).size) > 100
    record = json.loads((tmp_path / "demo" / "run" / "run.json").read_text())
    assert record["state"] == "complete"
    assert record["counts"]["test"] == {"cortex": 6, "thalamus": 6}
    assert json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())["n"] == 12
    assert '<table id="scores"' in (tmp_path / "demo" / "run" / "report.html").read_text()

    second = succeeds("demo", "--out", tmp_path / "demo")
    assert "No embedding had to be computed" in second.err
    assert "No fit had to be computed" in second.err
    assert second.out == first.out
