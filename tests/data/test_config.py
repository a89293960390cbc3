"""How data are read is said once, and means the same by name, as an object, and for data that are read alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from biofuse.core.errors import DataError
from biofuse.data.config import DataConfig
from biofuse.data.decoding import DecodePolicy
from biofuse.data.load import development_data, load_samples


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of four images below a folder of their own, with columns of names that nothing recognises."""
    (tmp_path / "below").mkdir()
    rows = ["picture,finding,who,mass,edema,when"]
    for number in range(4):
        Image.new("L", (4, 4), number).save(tmp_path / "below" / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},p{number // 2},{number % 2},{number // 2},train")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "t.csv"


SAID = {"path": "picture", "label": "finding", "group": "who", "split": "when"}


def test_options_by_name_as_an_object_and_both(table: Path) -> None:
    root = table.parent / "below"
    named = load_samples(table, root=root, **SAID)
    config = DataConfig(root=root, **SAID)
    given, both = load_samples(table, config=config), load_samples(table, config=config, group="none")
    assert given.ids.tolist() == named.ids.tolist() == [f"{number}.png" for number in range(4)]
    assert given.groups is not None
    assert given.groups.tolist() == ["p0", "p0", "p1", "p1"]
    assert both.groups is None
    assert all(isinstance(source.read(), bytes) for source in given.sources)


@pytest.mark.parametrize("label", ["mass,edema", " mass , edema ", ("mass", "edema"), ["mass", "edema"]])
def test_several_label_columns(table: Path, label: object) -> None:
    samples = load_samples(table, path="picture", label=label)
    assert (samples.task, samples.classes) == ("multilabel", ("mass", "edema"))


def test_a_column_whose_name_has_a_comma_is_one_column(table: Path) -> None:
    (table.parent / "below" / "t.csv").write_text('path,"a,b"\n1.png,x\n2.png,y\n')
    assert load_samples(table.parent / "below" / "t.csv", label="a,b").classes == ("x", "y")


@pytest.mark.parametrize(("written", "read"), [("b,a", ("b", "a")), (["b", "a"], ("b", "a")), (["a, b"], ("a, b",))])
def test_a_class_table_is_a_list_or_one_text(written: object, read: tuple[str, ...]) -> None:
    assert DataConfig(classes=written).classes == read


def test_data_that_are_read_alike_keep_what_they_have_and_say_what_they_lack(table: Path) -> None:
    before = DataConfig(root="elsewhere", drop_classes_below=9, **SAID)
    alike = load_samples(table, root=table.parent / "below", like=before)
    assert alike.groups is not None
    assert alike.classes == ("a", "b")
    text = table.read_text().replace("who", "patient")
    table.write_text(text)
    other = load_samples(table, root=table.parent / "below", like=before)
    assert other.groups is None
    assert "`group='who'`" in " ".join(other.notes)
    with pytest.raises(DataError, match="no column 'who'"):
        load_samples(table, config=DataConfig(**SAID))
    assert len(load_samples(table.parent / "below", like=before)) == 4
    with pytest.raises(DataError, match="`group=`, `label=`, `path=`, `root=`, `split=` cannot be used with a folder"):
        load_samples(table.parent / "below", config=before)


def test_columns_that_scores_are_given_by_travel_with_the_samples(table: Path) -> None:
    before = DataConfig(by=["site", "age"])
    frame = pd.DataFrame({"path": [f"{row}.png" for row in range(4)], "label": ["a", "b", "a", "b"]})
    frame["site"], frame["age"] = ["n", "s", None, "n"], [40, 50.5, 60, None]
    samples = load_samples(frame, root=table.parent / "below", config=before)
    assert {name: values.tolist() for name, values in samples.by.items()} == {
        "site": ["n", "s", "", "n"],
        "age": ["40", "50.5", "60", ""],
    }
    assert samples.take([3, 1]).by["site"].tolist() == ["n", "s"]
    parts = load_samples({"train": samples, "test": samples.take([1])})
    assert parts.by["age"].tolist() == ["40", "50.5", "60", "", "50.5"]
    alike = load_samples(frame.drop(columns="age"), root=table.parent / "below", like=before)
    assert list(alike.by) == ["site"]
    assert "`by='age'` was said of other data" in " ".join(alike.notes)
    assert load_samples(frame, root=table.parent / "below", by="label").classes == ("a", "b")
    images = [np.zeros((4, 4), np.uint8)] * 2
    assert load_samples(images, by={"site": ["n", "s"]}).by["site"].tolist() == ["n", "s"]
    for by, data in (("sitte", frame), ("site", table.parent / "below"), ("site", images), ({"x": [1]}, images)):
        with pytest.raises(DataError, match="by"):
            load_samples(data, by=by)


def test_weights_are_read_and_travel_with_the_samples(table: Path) -> None:
    root = table.parent / "below"
    frame = pd.DataFrame({"path": [f"{row}.png" for row in range(4)], "label": ["a", "b", "a", "b"]})
    frame["w"], frame["split"] = ["2", 0.5, "1e1", None], ["train", "train", "val", "test"]
    samples = load_samples(frame, root=root, weight="w")
    assert samples.weights.tolist() == [2, 0.5, 10, 1]  # nothing is fitted on what has split test
    assert samples.take([2, 0]).weights.tolist() == [10, 2]
    assert any("scores count all samples alike" in note for note in samples.notes)
    assert load_samples(frame, root=root).weights is None
    parts = {"train": frame[:2], "test": frame[2:].drop(columns=["w", "split"])}
    assert load_samples(parts, root=root, weight="w").weights.tolist() == [2, 0.5, 1, 1]
    found = development_data(frame[:2], config=DataConfig(root=root, weight="w"), test=parts["test"])
    assert (found.samples.weights.tolist(), len(found.held_out)) == ([2, 0.5], 2)
    images = [np.zeros((4, 4), np.uint8)] * 2
    assert load_samples(images, labels=["a", "b"], weight=[1, 3]).weights.tolist() == [1, 3]
    frame["split"] = "train"
    for wrong, text in ((None, "blank"), ("0", "0"), (-1, "-1"), ("inf", "inf"), ("x", "x")):
        with pytest.raises(DataError, match=rf"1 weight\(s\) are no positive numbers: '?3\.png \({text}\)"):
            load_samples(frame.assign(w=["2", 0.5, "1e1", wrong]), root=root, weight="w")
    twice = pd.concat([frame[:2], frame[:1].assign(w="7")])
    with pytest.raises(DataError, match=r"0\.png"):
        load_samples(twice, root=root, weight="w")
    for data, weight in ((frame, "u"), (root, "w"), (images, [1]), (samples, "w")):
        with pytest.raises(DataError, match="weight"):
            load_samples(data, weight=weight)
    with pytest.raises(DataError, match="Some samples have weights and those of val have none"):
        load_samples({"train": samples.take([0, 1]), "val": replace(samples.take([2]), weights=None)})


def test_no_groups_may_be_said_of_any_data(table: Path) -> None:
    assert load_samples(table.parent / "below", group="none").groups is None
    assert load_samples(np.zeros((2, 6, 5), dtype=np.uint8), group="none").groups is None


def test_folders_called_like_splits_are_classes_where_splits_do_not_count(tmp_path: Path) -> None:
    for name in ("control/1.png", "test/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name)
    with pytest.raises(DataError, match="`use_splits=False`"):
        load_samples(tmp_path)
    samples = load_samples(tmp_path, use_splits=False)
    assert (samples.classes, samples.splits) == (("control", "test"), None)


def test_how_pixels_are_read_is_chosen_field_by_field(table: Path) -> None:
    folder, policy = table.parent / "below", DecodePolicy(sixteen_bit="full", page=1)
    assert load_samples(folder, page=2).decode == DecodePolicy(page=2)
    assert load_samples(folder, page=2, decode=policy).decode == DecodePolicy(page=2, sixteen_bit="full")
    assert load_samples(folder, decode=policy).decode == policy


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lable": "a"}, "no option 'lable'"),
        ({"task": "ranking"}, "no task 'ranking'"),
        ({"page": -1}, "`page=` cannot be -1"),
        ({"group": ["a", "b"]}, "`group=` cannot be "),
    ],
)
def test_options_that_are_none(options: dict[str, object], why: str) -> None:
    with pytest.raises(DataError, match=why):
        DataConfig(**options)


def test_a_set_of_volumes_is_refused_before_it_is_fetched() -> None:
    with pytest.raises(DataError, match="organmnist3d holds volumes"):
        load_samples("organmnist3d")
