"""What is no data, data of several parts, and the line for the log."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from biofuse.core.errors import DataError
from biofuse.core.target import Task
from biofuse.data.load import describe_task, development_data, load_samples


@pytest.mark.parametrize(
    ("data", "options", "why"),
    [
        (np.zeros((8, 9, 3)), {}, "is one image"),
        (np.zeros((2, 3, 8, 9)), {}, r"channels come first: array.transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 28, 28, 28)), {}, "Volumes are not embedded"),
        (np.zeros(4), {}, "no stack of images"),
        (np.zeros((2, 6, 5)), {"labels": [1, 2, 3]}, "2 images but 3 labels"),
        (np.zeros((2, 6, 5)), {"group": ["a"]}, "2 images but 1 values in `group=`"),
        (np.zeros((2, 6, 5)), {"group": "patient"}, "one value per image"),
        ([object()], {}, "object is not an image"),
        ([], {}, "no images"),
        (3, {}, "int is no data BioFuse can read"),
        ({}, {}, "empty mapping"),
        ("no/such/folder", {}, "does not exist"),
        ("brestmnist", {}, "did you mean the MedMNIST data set 'breastmnist'"),
    ],
)
def test_data_that_cannot_be_used(data: object, options: dict[str, object], why: str) -> None:
    with pytest.raises(DataError, match=why):
        load_samples(data, **options)  # type: ignore[arg-type]


def test_samples_pass_through_unchanged() -> None:
    samples = load_samples(np.zeros((2, 6, 5)), labels=[0, 1])
    assert load_samples(samples) is samples
    with pytest.raises(DataError, match="`labels=` cannot change them"):
        load_samples(samples, labels=[1, 0])


def test_bug_8_parts_loaded_apart_get_one_class_table(tmp_path: Path) -> None:
    for name in ("one/b/1.png", "one/c/1.png", "two/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    val = load_samples(tmp_path / "two", classes=["a", "z"])
    samples = load_samples({"train": tmp_path / "one", "validation": val})
    assert samples.ids.tolist() == ["train/b/1.png", "train/c/1.png", "val/a/1.png"]
    assert samples.classes == ("a", "b", "c")
    assert [samples.classes[label] for label in samples.labels] == ["b", "c", "a"]
    with pytest.raises(DataError, match="'fold7' is no split"):
        load_samples({"fold7": tmp_path / "one"})
    with pytest.raises(DataError, match="Some splits have labels and others have none"):
        load_samples({"train": tmp_path / "one", "val": tmp_path / "two" / "a"})
    unlabelled = load_samples({"train": tmp_path / "one", "test": tmp_path / "two" / "a"})
    assert unlabelled.ids.tolist() == ["train/b/1.png", "train/c/1.png"]
    assert unlabelled.notes[0] == "The 1 images of test have no labels: left out."


def test_describe_task() -> None:
    stack = np.zeros((3, 6, 5), dtype=np.uint8)
    grouped = load_samples(stack, labels=["b", "a", "b"], group=["x", "x", "y"], name="trial")
    assert describe_task(grouped) == "trial: 3 samples in 2 groups, binary, 2 classes: a (1), b (2)"
    multi = load_samples(stack, labels=[["m"], ["m", "e"], ["e"]])
    assert describe_task(multi) == "images: 3 samples, multilabel, 2 labels: e (2), m (2)"
    assert "ordinal, 3 classes, lowest first" in describe_task(load_samples(stack, labels=[0, 2, 1], task="ordinal"))
    assert describe_task(load_samples(stack)) == "images: 3 samples, no labels"


def test_a_class_of_test_samples_alone_is_taken_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for row in range(15):
        (tmp_path / f"{row}.png").touch()
    rows = [("a", "train"), ("b", "train"), ("a", "val"), ("b", "test"), ("z", "test")] * 3
    frame = pd.DataFrame(
        {"path": [f"{row}.png" for row in range(15)], "label": [r[0] for r in rows], "split": [r[1] for r in rows]}
    )
    found = development_data(frame)
    assert (found.samples.classes, found.samples.task) == (("a", "b"), Task.BINARY)
    assert set(found.samples.labels) == {0, 1}
    assert found.held_out is not None
    assert found.held_out.classes == ("a", "b", "z")
    assert any("Only test samples are of z (3)" in note for note in found.notes)
    frame.loc[frame["split"] != "test", "label"] = "a"
    with pytest.raises(DataError, match=r"one class in train and val; of b \(3\), z \(3\)"):
        development_data(frame)
