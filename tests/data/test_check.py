"""Duplicates, leaks and what a careful person asks about a data set."""

import io
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from biofuse.core.errors import DataError
from biofuse.core.target import Task
from biofuse.data.check import Overlap, Repeats, Spread, _guessable, check_samples, find_duplicates
from biofuse.data.cuts import Bag, FileFacts
from biofuse.data.decoding import ArraySource
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples

MakeImages = Callable[..., list[Path]]


def noise(seed: int, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def make_samples(contents: str, *, labels: str, splits: list[str] | None = None) -> Samples:
    """Build one sample per letter; equal letters are identical images."""
    return load_samples([noise(ord(letter)) for letter in contents], labels=list(labels), split=splits)


def hashes(names: list[str]) -> np.ndarray:
    return np.array([name.encode() for name in names], dtype="S16")


def test_duplicates_within_and_across_splits() -> None:
    splits = ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    samples = make_samples("AABCDAEABB", labels="xxyyxxyxyy", splits=splits)
    report = find_duplicates(samples, hashes(list("AABCDAEABB")))
    assert report.sets == (("000000", "000001", "000005", "000007"), ("000002", "000008", "000009"))
    assert report.repeats == (
        Repeats(split="train", n_repeated=2, n_contents=1, n_extra=1),
        Repeats(split="test", n_repeated=2, n_contents=1, n_extra=1),
    )
    assert report.overlap("test", "train") == Overlap(
        split="test", other="train", n=3, n_split=3, by_class={"y": 2, "x": 1}
    )
    assert report.overlap("train", "test") == Overlap(
        split="train", other="test", n=3, n_split=5, by_class={"x": 2, "y": 1}
    )
    assert report.overlap("val", "test") == Overlap(split="val", other="test", n=1, n_split=2, by_class={"x": 1})
    assert report.conflicts == ()
    assert report.overlap("test", "val") is not None


def test_conflicting_labels_of_one_image() -> None:
    report = find_duplicates(make_samples("AAB", labels="xyx"), hashes(list("AAB")))
    assert [(conflict.ids, conflict.labels) for conflict in report.conflicts] == [(("000000", "000001"), ("x", "y"))]
    assert report.repeats == (Repeats(split="all", n_repeated=2, n_contents=1, n_extra=1),)
    assert report.overlaps == ()


def test_unreadable_images_are_duplicates_of_nothing() -> None:
    report = find_duplicates(make_samples("ABC", labels="xyx"), hashes(["", "", "1"]))
    assert (report.n_samples, report.sets) == (1, ())
    with pytest.raises(DataError, match="3 samples but 2 content hashes"):
        find_duplicates(make_samples("ABC", labels="xyx"), hashes(["1", "2"]))


@pytest.mark.slow
def test_the_leak_in_the_brain_mri_folders_is_found_exactly(shared_data: Path) -> None:
    samples = load_samples(shared_data / "brain-mri")
    report = check_samples(samples)
    leak = report.duplicates.overlap("test", "train")
    assert leak is not None
    assert (leak.n, leak.n_split) == (251, 394)
    assert leak.by_class == {"meningioma_tumor": 106, "no_tumor": 105, "pituitary_tumor": 22, "glioma_tumor": 18}
    train = next(repeats for repeats in report.duplicates.repeats if repeats.split == "train")
    assert train.n_repeated == 176
    assert (
        "251 of 394 test images are byte-identical to train images "
        "(106 meningioma_tumor, 105 no_tumor, 22 pituitary_tumor, 18 glioma_tumor)."
    ) in report.warnings
    assert any(line.startswith("176 images of split train repeat among themselves") for line in report.warnings)
    assert report.duplicates.pixels is not None
    assert report.duplicates.pixels.sets == report.duplicates.sets
    assert report.n_samples == 3264
    assert report.modes == {"L": 3264}
    assert report.unreadable == ()


def test_a_clean_manifest_has_no_leak(shared_data: Path) -> None:
    samples = load_samples(shared_data / "brain-mri" / "manifest-clean.csv")
    report = check_samples(samples.take(np.arange(0, len(samples), 8)))
    assert report.duplicates.overlaps == ()
    assert report.torn_groups == {}


@dataclass(frozen=True, eq=False)
class CountingSource:
    """A source that counts its readings."""

    description: str
    raw: bytes
    reads: list[int]
    lock: threading.Lock

    def read(self) -> bytes:
        with self.lock:
            self.reads.append(1)
        return self.raw


def test_bug_17_every_image_is_read_once(watching: Any) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(1)).save(buffer, format="PNG")
    reads: list[int] = []
    samples = Samples(
        ids=np.array(["a", "b", "c"], dtype=object),
        sources=tuple(CountingSource(name, buffer.getvalue(), reads, threading.Lock()) for name in "abc"),
    )
    report = check_samples(samples, workers=2, progress=watching)
    assert len(reads) == 3
    assert (watching.totals, watching.counts) == ({"reading": 3}, {"reading": 3})
    assert report.n_bytes == 3 * len(buffer.getvalue())
    assert (report.task, report.counts, report.split_sizes) == (None, {}, {"all": 3})


def test_bug_7_unreadable_images_are_named_and_never_replaced(tmp_path: Path, make_images: MakeImages) -> None:
    paths = make_images(tmp_path / "data")
    paths[0].write_bytes(paths[0].read_bytes()[:-40])
    paths[1].write_text("not a picture")
    paths[2].write_bytes(b"")
    report = check_samples(load_samples(tmp_path / "data"))
    assert [image.id for image in report.unreadable] == ["blue/000.png", "blue/001.png", "blue/002.png"]
    assert ["truncated" in report.unreadable[0].reason, "known format" in report.unreadable[1].reason] == [True, True]
    assert all(str(tmp_path) in image.reason and image.remedy for image in report.unreadable)
    assert (report.contents == b"").tolist() == [True] * 3 + [False] * 9
    assert sum(report.formats.values()) == 9
    assert report.warnings[0].startswith("3 image(s) cannot be read: blue/000.png")


def test_a_report_is_plain_json(make_images: MakeImages, tmp_path: Path) -> None:
    make_images(tmp_path / "data")
    values = check_samples(load_samples(tmp_path / "data")).to_dict()
    assert json.loads(json.dumps(values))["counts"] == {"all": {"blue": 6, "red": 6}}
    assert values["width"] == {"minimum": 24.0, "median": 24.0, "maximum": 24.0}
    assert values["duplicates"]["pixels"]["sets"] == ()
    assert "contents" not in values


def warnings_of(samples: Samples) -> str:
    return "\n".join(check_samples(samples).warnings)


def test_classes_absent_from_a_split_and_tiny_classes() -> None:
    text = warnings_of(
        load_samples(
            [noise(seed) for seed in range(40)], labels=["a"] * 37 + ["b"] * 3, split=["train"] * 39 + ["test"]
        )
    )
    assert "Split test has no sample of a" in text
    assert "Fewer than 10 development samples: b (2)" in text
    assert "No groups are given" in text


@pytest.mark.parametrize("column", ["patient_id", "patient `id`", "age"])
def test_groups_are_asked_for_once(tmp_path: Path, column: str) -> None:
    rows = [(f"`x=y` {number}.png", "ab"[number % 2], f"p{number // 2}") for number in range(24)]
    for number, (name, _, _) in enumerate(rows):
        Image.fromarray(noise(number)).save(tmp_path / name)
    text = warnings_of(load_samples(pd.DataFrame(rows, columns=["path", "label", column]), root=tmp_path))
    assert text.count("`group='none'`") == 1
    assert ("No groups are given" in text) == (column == "age")


def test_classes_in_one_group() -> None:
    samples = load_samples([noise(seed) for seed in range(24)], labels=["a", "b"] * 12, group=["p", "q"] * 12)
    assert "All development samples of a, b are one group" in warnings_of(samples)
    same = load_samples([noise(seed) for seed in range(12)] + [noise(99)] * 12, labels=["a"] * 12 + ["b"] * 12)
    assert "All development samples of b are one group or one image" in warnings_of(same)


def test_imbalance() -> None:
    samples = load_samples([noise(seed) for seed in range(42)], labels=["a"] * 40 + ["b"] * 2)
    assert "The largest class has 20 times the samples of the smallest" in warnings_of(samples)


def test_flat_images_and_mixed_modes() -> None:
    images = [noise(1), np.full((8, 8), 7, dtype=np.uint8), noise(2, (8, 8, 3)), noise(3)]
    report = check_samples(load_samples(images, labels=list("abab")))
    assert report.flat == ("000001",)
    assert "1 image(s) are nearly one colour: 000001." in report.warnings
    assert "Colour modes are mixed: 3 uint8, 1 uint8x3." in report.warnings


def test_a_file_property_that_gives_the_class_away(tmp_path: Path) -> None:
    for label, suffix in (("ill", "png"), ("well", "bmp")):
        (tmp_path / label).mkdir()
        for number in range(12):
            Image.fromarray(noise(number + 50 * (label == "ill"))).save(tmp_path / label / f"{number}.{suffix}")
    text = warnings_of(load_samples(tmp_path))
    assert "The file format alone guesses the class of 100% of the images (the largest class: 50%)" in text
    assert "The image size" not in text


def test_the_guess_uses_other_images_only() -> None:
    labels = [0, 1] * 50
    assert _guessable(list(range(100)), labels)[0] <= 0.5
    assert _guessable([0] * 100, labels)[0] <= 0.5
    assert _guessable(labels, labels) == (1.0, 0.5)
    assert _guessable([], []) == (0.0, 0.0)


def test_the_same_pixels_in_two_formats(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            Image.fromarray(noise(1000 * len(split) + ord(label))).save(tmp_path / split / label / "own.png")
    Image.fromarray(noise(7)).save(tmp_path / "train" / "a" / "1.png")
    Image.fromarray(noise(7)).save(tmp_path / "test" / "a" / "1.bmp")
    report = check_samples(load_samples(tmp_path))
    assert report.duplicates.overlaps == ()
    assert "1 more test image(s) have the same pixels as train images, in other files." in report.warnings


def test_conflicts_are_told() -> None:
    samples = make_samples("AABC", labels="xyxy")
    assert "1 image(s) occur more than once with different labels: 000000=000001." in warnings_of(samples)


def test_importing_the_package_is_light() -> None:
    import subprocess
    import sys

    heavy = {"torch", "pandas", "sklearn", "scipy", "datasets", "pyarrow"}
    code = f"import biofuse.data, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_samples_of_several_images_are_counted_and_what_they_share_is_said() -> None:
    images = [
        ArraySource(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8), f"i{seed}") for seed in range(6)
    ]
    bags = [Bag((images[0], images[1], images[2]), "a"), Bag((images[3], images[4], images[2]), "b")]
    samples = Samples(ids=np.array(["a", "b"], object), sources=tuple(bags), splits=np.array(["train", "test"], object))
    report = check_samples(samples)
    assert (report.n_images, report.sizes) == (6, Spread(minimum=3, median=3, maximum=3))
    assert report.duplicates.overlaps == ()
    assert "1 of 3 images of test samples also belong to train samples." in report.warnings
    same = replace(samples, sources=(bags[0], Bag(bags[0].images[::-1], "b")))
    assert any("1 of 1 test images are byte-identical to train" in line for line in check_samples(same).warnings)


def test_what_files_say_of_themselves_is_summed_up_and_the_unusual_named() -> None:
    n = 12
    about = [{"slices": 200.0 if row == 3 else 30.0, "window": f"w{row % 2}", "who": str(row)} for row in range(n)]
    samples = Samples(
        ids=np.array([f"v{row:02d}" for row in range(n)], object),
        sources=tuple(ArraySource(np.full((4, 4), row, np.uint8), str(row)) for row in range(n)),
        labels=np.arange(n) % 2,
        classes=("x", "y"),
        task=Task.BINARY,
        opened=_objects([(FileFacts(kind="volume", facts=each),) for each in about]),
    )
    report = check_samples(samples)
    ((kind, files),) = report.files.items()
    assert (kind, files.n, files.numbers["slices"]) == ("volume", 12, Spread(minimum=30, median=30, maximum=200))
    assert files.words["window"] == {"w0": 6, "w1": 6}
    assert "1 volume(s) differ much in their slices from the middle, 30: v03 (200)." in report.warnings
    assert "Not all of 12 volume(s) have the same window: w0 (6), w1 (6)." in report.warnings
    given_away = [line for line in report.warnings if "alone guesses the class" in line]
    assert [line.split(" alone")[0] for line in given_away] == ["The window of a volume"]
    assert "same who" not in " ".join(report.warnings)


def _differences(kind, name, values):
    """What is said of files that differ in one number."""
    samples = Samples(
        ids=np.array([f"v{row:02d}" for row in range(len(values))], object),
        sources=tuple(ArraySource(np.full((4, 4), row, np.uint8), str(row)) for row in range(len(values))),
        opened=_objects([(FileFacts(kind=kind, facts={name: float(value)}),) for value in values]),
    )
    return [line for line in check_samples(samples).warnings if "differ much" in line]


def test_that_slides_are_of_many_sizes_is_no_news_and_that_one_is_unlike_all_others_is() -> None:
    """Sizes of what is cut spread over a factor of about six: one standard deviation is a factor of 1.6."""
    random = np.random.default_rng(0)
    sets = [np.exp(random.normal(10, 0.47, 40)).round() for _ in range(60)]
    assert sum(bool(_differences("slide", "tiles", own)) for own in sets) <= 6
    sets[0][7] = 3e6
    (line,) = _differences("slide", "tiles", sets[0])
    assert line.startswith("1 slide(s) differ much in their tiles from the middle")
    assert "v07 (3e+06)" in line


def test_lengths_should_be_alike_however_many_differ() -> None:
    mixed = [0.25] * 12 + [0.5] * 8
    (line,) = _differences("slide", "file's resolution (µm per pixel)", mixed)
    assert line == "20 slide(s) differ much among themselves: file's resolution (µm per pixel) 0.25 to 0.5."
    spread = np.linspace(1, 4, 20)  # three lie as far from the middle as nothing else tells from the others
    assert not _differences("volume", "slices", spread)
    assert _differences("volume", "spacing (mm)", spread)


def _objects(values):
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        array[place] = value
    return array
