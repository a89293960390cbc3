"""Bags: rows that are the images of one sample."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from biofuse.core.errors import DataError, LeakageError
from biofuse.data.containers import private_name
from biofuse.data.cuts import Bag, ranges
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples, hash_samples
from biofuse.data.splits import units_of

PATIENTS = ["p1", "p1", "p2", "p3", "p3", "p3"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(random.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def frame(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(
        {"path": [f"{n}.png" for n in range(6)], "patient": PATIENTS, "label": ["a", "a", "b", "a", "a", "a"]} | columns
    )


def read(folder: Path, table: pd.DataFrame, **options: object) -> Samples:
    samples, reasons = hash_samples(load_samples(table, root=folder, bag="patient", **options))
    assert not reasons
    return samples


def test_rows_of_a_bag_are_one_sample(folder: Path) -> None:
    samples = read(folder, frame())
    assert samples.ids.tolist() == ["p1", "p2", "p3"]
    assert samples.sizes.tolist() == [2, 1, 3]
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 0]
    assert samples.images().ids.tolist() == ["p1#000", "p1#001", "p2#000", "p3#000", "p3#001", "p3#002"]
    source = samples.sources[2]
    assert isinstance(source, Bag)
    assert source.read() == (folder / "4.png").read_bytes()


def test_order_of_rows_changes_nothing(folder: Path) -> None:
    table = frame()
    first, second = read(folder, table), read(folder, table.iloc[[5, 2, 0, 4, 1, 3]])
    order = [second.ids.tolist().index(name) for name in first.ids]
    again = second.take(order)
    for name in ("contents", "image_contents", "labels"):
        assert np.array_equal(getattr(first, name), getattr(again, name))


def test_taking_samples_takes_their_images(folder: Path) -> None:
    samples = read(folder, frame())
    some = samples.take([2, 0])
    assert some.image_contents is not None
    assert samples.image_contents is not None
    assert np.array_equal(some.image_contents, samples.image_contents[[3, 4, 5, 0, 1]])
    assert np.array_equal(some.images().contents, hash_samples(some.images())[0].contents)
    assert ranges(np.array([3, 0]), np.array([3, 2])).tolist() == [3, 4, 5, 0, 1]


def test_bags_that_share_an_image_stay_together(folder: Path) -> None:
    samples = read(folder, frame(path=["0.png", "1.png", "1.png", "3.png", "4.png", "5.png"]))
    units = units_of(samples)
    assert units is not None
    assert units.tolist() == ["p1", "p1", "p3"]
    assert len(set(samples.contents.tolist() if samples.contents is not None else [])) == 3


@pytest.mark.parametrize(
    ("columns", "kind", "match"),
    [
        ({"label": ["a", "b", "b", "a", "a", "a"]}, DataError, r"'p1'.* label.*0\.png \(a\).*1\.png \(b\)"),
        ({"split": ["train", "test", "train", "val", "val", "val"]}, LeakageError, "'p1'.* split"),
        ({"group": ["x", "y", "x", "x", "x", "x"]}, LeakageError, "'p1'.* group"),
        ({"patient": ["p1", None, "p2", "p3", "p3", "p3"]}, DataError, r"no bag: 1\.png"),
    ],
)
def test_bags_that_disagree_are_refused(
    folder: Path, columns: dict[str, object], kind: type[Exception], match: str
) -> None:
    with pytest.raises(kind, match=match):
        load_samples(frame(**columns), root=folder, bag="patient")


def test_folders_are_bags(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "data"
    for number, place in enumerate(["a/one", "a/one", "a/two", "b/three", "b/three", "b/three"]):
        (root / place).mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").rename(root / place / f"{number}.png")
    samples = load_samples(root, bag="folder")
    assert samples.ids.tolist() == ["a/one", "a/two", "b/three"]
    assert samples.sizes.tolist() == [2, 1, 3]
    with pytest.raises(DataError, match=r"no column 'patient'.* do not say"):
        load_samples(root, bag="patient")


def test_images_in_memory_have_bags() -> None:
    images = [np.full((4, 4), value, np.uint8) for value in range(4)]
    samples = load_samples(images, labels=["a", "a", "b", "b"], bag=["x", "x", "y", "y"])
    assert samples.sizes.tolist() == [2, 2]


def test_private_names_hide_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOFUSE_HOME", str(tmp_path / "one"))
    first = private_name("1.2.840")
    assert first == private_name("1.2.840") != private_name("1.2.841")
    assert ((tmp_path / "one" / "identifiers.key").stat().st_mode & 0o777) == 0o600
    monkeypatch.setenv("BIOFUSE_HOME", str(tmp_path / "two"))
    assert private_name("1.2.840") != first
