"""Class folders, split folders, flat folders and single images."""

from pathlib import Path

import pytest
from PIL import Image

from biofuse.core.errors import BioFuseWarning, DataError
from biofuse.core.target import Task
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples


def picture(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), level).save(path)
    return path


def names(samples: Samples) -> list[str]:
    assert samples.labels is not None
    return [samples.classes[label] for label in samples.labels]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_class_folders(tmp_path: Path) -> None:
    for name in ("b/img10.png", "b/img2.png", "a/deep/er/1.JPG", "a/2.tif"):
        picture(tmp_path / name)
    write(tmp_path / "a" / "notes.txt", "not an image")
    write(tmp_path / "a" / ".hidden.png", "nor this")
    samples = load_samples(tmp_path)
    assert samples.ids.tolist() == ["a/2.tif", "a/deep/er/1.JPG", "b/img2.png", "b/img10.png"]
    assert names(samples) == ["a", "a", "b", "b"]
    assert (samples.task, samples.splits, samples.name) == (Task.BINARY, None, tmp_path.name)
    assert isinstance(samples.sources[0].read(), bytes)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "validation", "Testing"), ("TRAIN", "valid", "test")],
)
def test_split_folders_above_class_folders(tmp_path: Path, train: str, val: str, test: str) -> None:
    for split in (train, val, test):
        for label in ("x", "y", "z"):
            picture(tmp_path / split / label / "1.png")
    samples = load_samples(tmp_path)
    assert samples.splits is not None
    assert sorted(samples.splits) == ["test"] * 3 + ["train"] * 3 + ["val"] * 3
    assert samples.task is Task.MULTICLASS
    assert dict(zip(samples.ids, samples.splits, strict=True))[f"{val}/y/1.png"] == "val"
    assert load_samples(tmp_path, use_splits=False).splits is None


def test_bug_8_one_class_table_for_all_splits(tmp_path: Path) -> None:
    for name in ("train/b/1.png", "train/c/1.png", "val/a/1.png", "val/c/1.png"):
        picture(tmp_path / name)
    samples = load_samples(tmp_path)
    assert samples.classes == ("a", "b", "c")
    assert names(samples.in_split("train")) == ["b", "c"]
    assert names(samples.in_split("val")) == ["a", "c"]


def test_bug_8_the_listing_is_sorted_whatever_the_disk_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for number in (1, 2, 10):
        picture(tmp_path / "a" / f"{number}.png")
        picture(tmp_path / "b" / f"{number}.png")
    walk = os.walk

    def backwards(root: Path, **options: bool) -> object:
        return ((folder, below, names[::-1]) for folder, below, names in list(walk(root, **options))[::-1])

    expected = load_samples(tmp_path).ids.tolist()
    monkeypatch.setattr(os, "walk", backwards)
    assert load_samples(tmp_path).ids.tolist() == expected == [f"{c}/{n}.png" for c in "ab" for n in (1, 2, 10)]


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    samples = load_samples(str(tmp_path))
    assert (samples.labels, samples.task, samples.classes) == (None, None, ())
    with pytest.raises(DataError, match="no labels"):
        load_samples(tmp_path, labelled=True)


def test_one_image_file(tmp_path: Path) -> None:
    samples = load_samples(picture(tmp_path / "one.png"))
    assert samples.ids.tolist() == ["one.png"]
    assert samples.labels is None


def test_labels_can_be_ignored(tmp_path: Path) -> None:
    picture(tmp_path / "only" / "1.png")
    picture(tmp_path / "beside.png")
    assert len(load_samples(tmp_path, labelled=False)) == 2


def test_masks_can_be_excluded(tmp_path: Path) -> None:
    for name in ("benign/1.png", "benign/1_mask.png", "malignant/1.png", "malignant/1_mask_1.png", "masks/x/1.png"):
        picture(tmp_path / name)
    samples = load_samples(tmp_path, exclude=["*_mask*", "masks/*"])
    assert samples.ids.tolist() == ["benign/1.png", "malignant/1.png"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (["a/1.png", "b/1.png", "overview.png"], "beside them: overview.png"),
        (["train/a/1.png", "train/b/1.png", "extra/1.png"], r"outside them: extra/1.png"),
        (["val/a/1.png", "valid/b/1.png"], "two folders for one split"),
        (["train/a/1.png", "train/b/1.png", "test/1.png"], "beside them: test/1.png"),
        (["a/1.png", "a/2.png"], "All 2 samples have the label 'a'"),
        (["a/1.txt"], r"No images in .* Other files there: .txt"),
    ],
)
def test_folders_that_cannot_be_understood(tmp_path: Path, files: list[str], why: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=why):
        load_samples(tmp_path)


def test_images_of_unread_formats_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.dcm"):
        picture(tmp_path / "x.png").rename(tmp_path / "y")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "y").rename(tmp_path / name)
    with pytest.warns(BioFuseWarning, match="1 .dcm"):
        load_samples(tmp_path)


def test_a_link_to_a_parent_folder_does_not_turn_in_circles(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        picture(tmp_path / name)
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    assert len(load_samples(tmp_path)) == 2
