"""How data are read, said on the command line; and what is refused before anything is embedded."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

SMALL = ("-e", "haralick,hog", "--folds", 2, "--repeats", 1, "--head", "ridge")
COLUMNS = ("--path", "picture", "--label", "finding", "--group", "who")


@pytest.fixture
def study(tmp_path):
    """Return a function that writes a table of images in a folder of their own, and returns it."""

    def make(name, group="who"):
        folder = tmp_path / name / "images"
        folder.mkdir(parents=True)
        rows = [f"picture,finding,{group}"]
        for number in range(16):
            noise = np.random.default_rng(number).integers(0, 120 if number % 2 else 250, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{number}.png")
            rows.append(f"{number}.png,{'ab'[number % 2]},p{number // 2}")
        (tmp_path / name / "t.csv").write_text("\n".join(rows) + "\n")
        return tmp_path / name / "t.csv"

    return make


@pytest.mark.slow
def test_a_run_is_evaluated_and_predicts_as_it_was_read(study, succeeds, tmp_path, monkeypatch):
    table, other, third = study("one"), study("two"), study("three", group="subject")
    run = tmp_path / "run"
    monkeypatch.chdir(table.parent)
    succeeds("fit", table, *COLUMNS, "--root", "images", "--exclude", "15.*", *SMALL, "--out", run)
    record = json.loads((run / "run.json").read_text())["data"]["config"]
    assert (record["path"], record["group"], record["root"]) == ("picture", "who", str(table.parent / "images"))
    monkeypatch.chdir(tmp_path)
    succeeds("evaluate", run)
    succeeds("evaluate", run, other, "--root", other.parent / "images")
    predictions = pd.read_parquet(run / "evaluations" / "t" / "predictions.parquet")
    assert len(predictions) == 15
    assert predictions["group"].notna().all()
    succeeds("evaluate", run, other, "--root", other.parent / "images", "--sixteen-bit", "full")
    otherwise = pd.read_parquet(run / "evaluations" / "t-2" / "predictions.parquet")
    assert not set(predictions["content"]) & set(otherwise["content"])  # how pixels are read is part of these hashes
    said = succeeds("evaluate", run, third, "--root", third.parent / "images").err
    assert "--group who" in said
    succeeds("evaluate", run, third, "--root", third.parent / "images", "--group", "subject")
    succeeds("predict", run, other, "--root", other.parent / "images", "--out", tmp_path / "p.csv")
    assert len(pd.read_csv(tmp_path / "p.csv")) == 15
    odd, root = tmp_path / "odd.csv", other.parent / "images"
    odd.write_text(other.read_text().replace("picture", "path"))
    assert "--path picture" in succeeds("predict", run, odd, "--root", root, "--out", tmp_path / "p.csv").err
    succeeds("predict", run, other.parent / "images", "--out", tmp_path / "p.csv")


def test_flags_of_reading(study, succeeds, tmp_path):
    table = study("one")
    root = ("--root", table.parent / "images", "--path", "picture")
    report = json.loads(succeeds("check", table, *root, "--label", "finding", "--exclude", "1*", "--json").out)
    assert report["n_samples"] == 9
    report = json.loads(succeeds("check", table, *root, "--label", "finding", "--classes", "b,a", "--json").out)
    assert report["classes"] == ["b", "a"]
    folders = tmp_path / "folders"
    for name in ("control", "test"):
        (folders / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((4, 4), number, dtype=np.uint8)).save(folders / name / f"{name}{number}.png")
    (tmp_path / "c.toml").write_text("use_splits = false\n")
    for flags in (["--no-splits"], ["--config", tmp_path / "c.toml"]):
        assert json.loads(succeeds("check", folders, *flags, "--json").out)["classes"] == ["control", "test"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "{images}", "--label", "x"), ["--label cannot be used", "--exclude", "--no-splits"]),
        (("check", "{table}", "--root", "."), ["--path"]),
        (("check", "{table}", "--path", "picture", "--group", "patient"), ["Correct --group"]),
        (("fit", "{images}", "--out", "new"), ["In a folder", "--label"]),
    ],
)
def test_messages_are_in_the_words_of_the_command_line(arguments, said, study, fails):
    table = study("one")
    given = [each.format(images=table.parent / "images", table=table) for each in arguments]
    ran = fails(*given, *(SMALL if given[0] == "fit" else ()))
    for words in said:
        assert words in ran.err
    assert "`" not in ran.err.replace("`biofuse", "")
    assert "= in Python" not in ran.err


@pytest.mark.parametrize("where", ["file", "full", "below a file", "other"])
def test_a_place_that_cannot_be_written_to_is_refused_first(where, images, fails, succeeds, tmp_path):
    run = tmp_path / "run"
    store = ("--store", tmp_path / "store")
    if where == "other":
        succeeds("fit", images, *SMALL, "--out", run)
    elif where == "full":
        run.mkdir()
        (run / "notes.txt").write_text("mine")
    else:
        run.write_text("mine")
    out = run / "deep" if where == "below a file" else run
    fails("fit", images, *SMALL, "--seed", 7, *store, "--out", out)
    assert not (tmp_path / "store").exists() or not any((tmp_path / "store").rglob("*.arrow"))


@pytest.mark.parametrize("command", ["embed", "predict"])
def test_a_table_that_cannot_be_written_is_refused_first(command, images, fails, succeeds, tmp_path):
    (tmp_path / "e.csv").mkdir()
    if command == "predict":
        succeeds("fit", images, *SMALL, "--out", tmp_path / "run")
        fails("predict", tmp_path / "run", images, "--store", tmp_path / "store", "--out", tmp_path / "e.csv")
    else:
        fails("embed", images, "-e", "hog", "--store", tmp_path / "store", "--out", tmp_path / "e.csv")
    assert not any((tmp_path / "store").rglob("*.arrow"))


def test_a_class_that_cannot_be_validated_is_refused_before_anything_is_embedded(images, fails, tmp_path):
    (images / "alone").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(images / "alone" / "1.png")
    ran = fails("fit", images, *SMALL, "--no-test", "--store", tmp_path / "store", "--out", tmp_path / "run")
    assert "alone" in ran.err
    assert not any((tmp_path / "store").rglob("*.arrow"))


@pytest.mark.parametrize("command", ["embed", "fit"])
def test_nothing_readable_is_a_failure(command, tmp_path, fails):
    for name in (f"{label}/{number}.png" for label in "ab" for number in range(8)):
        (tmp_path / "bad" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bad" / name).write_bytes(name.encode())
    options = SMALL if command == "fit" else ("-e", "hog")
    out = tmp_path / ("run" if command == "fit" else "e.csv")
    ran = fails(command, tmp_path / "bad", *options, "--on-error", "quarantine", "--out", out)
    assert "could be read" in ran.err
    assert not out.is_file()


def test_a_disk_without_room_is_found_before_anything_is_embedded(images, fails, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    store = tmp_path / "store"
    assert "GB left" in fails("embed", images, "-e", "hog", "--store", store, "--out", tmp_path / "e.csv").err
    assert not any(store.rglob("*.arrow"))


@pytest.mark.parametrize("command", ["data", "medmnist", "imagenet"])
def test_a_benchmark_that_cannot_be_written_is_refused_first(command, images, fails, tmp_path):
    (tmp_path / "mine").write_text("mine")
    rest = {"data": [images], "medmnist": ["breastmnist"], "imagenet": ["--root", images]}[command]
    assert "mine" in fails("benchmark", command, *rest, "--out", tmp_path / "mine").err
