"""Values, and times to an event, as tables hold them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from biofuse.core.errors import DataError
from biofuse.core.target import Target, Task
from biofuse.data.check import check_samples
from biofuse.data.config import DataConfig
from biofuse.data.load import describe_task, development_data, load_samples

N = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("numbers")
    for number in range(N):
        Image.new("L", (4, 4), number).save(place / f"{number}.png")
    return place


def table(folder: Path, **changes: object) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(N)],
            "months": rng.exponential(20, N).round(1),
            "died": (rng.random(N) < 0.5).astype(int),
            "split": np.where(np.arange(N) % 4 == 0, "test", "train"),
        }
    )
    return frame.assign(**changes)


TIMES = {"time": "months", "event": "died"}


def test_times_and_events_are_read_and_horizons_are_quartiles_of_events_that_are_no_test_samples(folder: Path) -> None:
    frame = table(folder)
    samples = load_samples(frame, root=folder, **TIMES)
    assert samples.task is Task.SURVIVAL
    np.testing.assert_array_equal(samples.labels, frame[["months", "died"]].to_numpy(dtype=np.float64))
    used = frame[(frame.died == 1) & (frame.split == "train")].months
    expected = [float(f"{used.quantile(share):.3g}") for share in (0.25, 0.5, 0.75)]
    assert samples.target == Target.until(expected)
    assert any("`horizon=`" in note and f"{expected[0]:g}" in note for note in samples.notes)
    chosen = load_samples(frame, root=folder, horizon=[24, 12], **TIMES)
    assert chosen.classes == ("by 12", "by 24")
    assert f"{int(frame.died.sum())} event, {int((1 - frame.died).sum())} censored" in describe_task(samples)


def test_words_for_events_are_those_of_the_field(folder: Path) -> None:
    words = np.where(table(folder).died == 1, "1:DECEASED", "0:LIVING")
    samples = load_samples(table(folder, died=words), root=folder, **TIMES)
    assert samples.labels[:, 1].tolist() == table(folder).died.tolist()


def test_samples_in_memory_and_test_data_that_come_apart_keep_times_and_horizons(folder: Path) -> None:
    frame = table(folder)
    first, second = frame[frame.split == "train"], frame[frame.split == "test"]
    images = [np.full((4, 4), number, dtype=np.uint8) for number in range(N)]
    held = load_samples(images, labels=frame[["months", "died"]].to_numpy(), task="survival", horizon=12)
    assert held.classes == ("by 12",)
    parts = [load_samples(part.drop(columns="split"), root=folder, **TIMES) for part in (first, second)]
    assert parts[0].classes != parts[1].classes
    joined = development_data(parts[0], test=parts[1])
    assert joined.samples.classes == joined.held_out.classes == parts[0].classes
    np.testing.assert_array_equal(joined.held_out.labels, parts[1].labels)


def test_splits_are_stratified_by_events_and_times(folder: Path) -> None:
    samples = development_data(load_samples(table(folder).drop(columns="split"), root=folder, **TIMES), test="auto")
    parts = (samples.samples.labels, samples.held_out.labels)
    shares = [part[:, 1].mean() for part in parts]
    assert abs(shares[0] - shares[1]) < 0.08
    medians = [np.median(part[part[:, 1] == 1, 0]) for part in parts]
    assert 0.4 < medians[0] / medians[1] < 2.5


def test_values_are_read_by_name_one_or_several(folder: Path) -> None:
    frame = table(folder, age=np.linspace(20, 80, N), size=np.arange(N) * 0.5)
    one = load_samples(frame, root=folder, label="age", task="value")
    assert (one.task, one.classes, one.labels.dtype) == (Task.VALUE, ("age",), np.float64)
    assert one.labels.shape == (N,)
    both = load_samples(frame, root=folder, label=["age", "size"], task="value")
    np.testing.assert_array_equal(both.labels, frame[["age", "size"]].to_numpy())
    assert any("age from 20 to 80" in note for note in both.notes)


@pytest.mark.parametrize(
    ("changes", "options", "message", "remedy"),
    [
        ({"months": -1.0}, TIMES, r"60 time\(s\) in column 'months' are negative: 0.png \(-1\)", "correct them"),
        ({"months": "soon"}, TIMES, r"'months' holds 60 cell\(s\) that are no finite numbers: 0.png \(soon\)", "point"),
        ({"months": np.inf}, TIMES, r"no finite numbers: 0.png \(inf\)", "leave these rows out"),
        ({"months": 5.0}, TIMES, "All 45 samples have the time 5", "`time=`"),
        ({"months": None}, TIMES, r"'months' is blank for 60 sample\(s\)", "Fill it in"),
        ({"died": 0}, TIMES, "None of 45 samples has an event", "is 1 where"),
        ({"died": [0, 1, *[0] * 58]}, TIMES, "1 of 45 samples has an event", "is 1 where"),
        ({"died": 2}, TIMES, r"says of 60 sample\(s\) neither", "Write 1"),
        ({"died": ""}, TIMES, r"'died' is blank for 60", "Fill it in"),
        ({}, {"time": "months"}, "`time=` is given without `event=`", "two columns"),
        ({}, {"event": "died"}, "`event=` is given without `time=`", "two columns"),
        ({}, TIMES | {"label": "died"}, "`label=` and `time=` are both given", "one of them"),
        ({}, TIMES | {"horizon": 1e6}, "Nobody was observed beyond the horizon 1e\\+06", "`horizon=`"),
        ({}, TIMES | {"horizon": -1}, "horizon -1", "above 0"),
        ({}, {"label": "died", "horizon": 5}, "`horizon=` is for times to an event", "Name their columns"),
        ({}, TIMES | {"positive": "1"}, "`positive=` cannot be used", "Leave it out"),
        ({"age": "old"}, {"label": "age", "task": "value"}, "'age' holds 60", "multiclass"),
        ({"age": 40.0}, {"label": "age", "task": "value"}, "age has the value 40 in all", "Leave it out"),
        ({"age": -np.inf}, {"label": "age", "task": "value"}, r"0.png \(-inf\)", "Write numbers"),
    ],
)
def test_what_cannot_be_learned_from_is_one_clear_error(
    folder: Path, changes: dict[str, object], options: dict[str, object], message: str, remedy: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_samples(table(folder, **changes), root=folder, **options)
    assert remedy in caught.value.remedy


def test_check_counts_events_and_finds_images_of_two_times(folder: Path) -> None:
    frame = table(folder)
    frame.loc[1, "path"] = "copy.png"
    Image.new("L", (4, 4), 0).save(folder / "copy.png")
    report = check_samples(load_samples(frame, root=folder, **TIMES))
    assert report.counts["train"] == {
        "event": int(frame.died[frame.split == "train"].sum()),
        "censored": int((frame.died[frame.split == "train"] == 0).sum()),
    }
    assert len(report.duplicates.conflicts) == 1
    assert not report.refusals


def test_default_horizons_are_those_of_the_development_data_where_the_split_is_made_here(folder: Path) -> None:
    frame = table(folder).drop(columns="split")
    found = development_data(frame, config=DataConfig(root=folder, **TIMES), test="auto")
    assert found.held_out is not None
    assert found.samples.classes == found.held_out.classes
    inner = frame[frame.path.isin(found.samples.ids)]
    used = inner[inner.died == 1].months
    assert found.samples.target == Target.until([float(f"{used.quantile(share):.3g}") for share in (0.25, 0.5, 0.75)])
    asked = development_data(frame, config=DataConfig(root=folder, horizon=[7], **TIMES), test="auto")
    assert asked.samples.classes == ("by 7",)


def test_samples_without_a_number_are_left_out_where_that_was_asked_for(folder: Path) -> None:
    frame = table(folder, months=["NA", *range(1, N)])
    with pytest.raises(DataError, match="blank for 1 sample") as caught:
        load_samples(frame, root=folder, **TIMES)
    assert "on_missing" in caught.value.remedy
    samples = load_samples(frame, root=folder, on_missing="drop", **TIMES)
    assert samples.ids.tolist() == frame.path[1:].tolist()
    assert "1 sample(s) have no label and are left out: 0.png." in samples.notes
    numbers = check_samples(samples).numbers
    assert (numbers["train"]["time"].minimum, numbers["test"]["time"].maximum) == (1, 56)
