"""Class folders, split folders, flat folders and single images; CSV, TSV, Parquet and data frames."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from biofuse.core.errors import DataError, LeakageError, UnreadableImageError
from biofuse.core.target import Task
from biofuse.data.config import DataConfig
from biofuse.data.labels import class_table, natural_key
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples


def picture(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), level).save(path)
    return path


def names(samples: Samples) -> list[str]:
    return [samples.classes[label] for label in samples.labels]


def write(path: Path, text: str, images: bool = True) -> Path:
    """Write a table, and the images that it names."""
    path.write_text(text, encoding="utf-8")
    for name in re.findall(r"(?<![\w./\\-])(?:[\w./]+/)?\w+\.png", text) if images else ():
        picture(path.parent / name)
    return path


def test_a_quotation_mark_that_is_never_closed_is_found(tmp_path: Path) -> None:
    rows = "".join(f"{row}.png,a,some remark\n" for row in range(9000))
    table = write(tmp_path / "m.csv", f'path,label,remark\n0.jpg,b,fine\n1.jpg,b,"open\n{rows}')
    with pytest.raises(DataError, match="line 3: cannot be read as CSV") as caught:
        load_samples(table)
    assert "quotation mark that is not closed" in caught.value.remedy


@pytest.mark.slow
def test_a_table_of_very_many_columns_is_read_at_once(tmp_path: Path) -> None:
    names = ",".join(f"gene{number}" for number in range(100_000))
    table = write(
        tmp_path / "m.csv",
        f"path,label,{names}\n" + "".join(f"{row}.png,{row % 2}{',1' * 100_000}\n" for row in range(4)),
    )
    start = time.perf_counter()
    assert len(load_samples(table)) == 4
    assert time.perf_counter() - start < 20


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
    assert "files left out with `exclude=`: 2 by '*_mask*', 1 by 'masks/*'." in samples.notes[0]
    assert samples.warnings == ()


@pytest.mark.parametrize("data", ["", "m.csv"])
def test_a_pattern_that_leaves_out_nothing_is_said_unless_it_was_meant_for_other_data(
    tmp_path: Path, data: str
) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        picture(tmp_path / name)
    if data:
        write(tmp_path / data, "path,label\na/1.png,a\na/2.png,a\nb/1.png,b\n", images=False)
    samples = load_samples(tmp_path / data, exclude=["2.*", "*.gif"])
    assert samples.ids.tolist() == ["a/1.png", "b/1.png"]
    assert any("left out with `exclude=`: 1 by '2.*'." in note for note in samples.notes)
    assert re.search(r"no (files|rows) are like '\*\.gif', given as `exclude=`", samples.warnings[0])
    other = load_samples(tmp_path / data, like=DataConfig(exclude=("2.*", "*.gif")))
    assert not any("*.gif" in warning for warning in other.warnings)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (["a/1.png", "b/1.png", "overview.png"], "beside them: overview.png"),
        (["train/a/1.png", "train/b/1.png", "extra/1.png"], r"outside them: extra/1.png"),
        (["val/a/1.png", "valid/b/1.png"], "two folders for one split"),
        (["train/a/1.png", "train/b/1.png", "train/1.png"], "beside them: train/1.png"),
        (["data/a/1.png", "data/b/1.png"], "all images lie in data, which holds a, b"),
        (["a/1.png", "a/2.png"], "All 2 samples have the label 'a'"),
        (["a/1.txt"], r"No images in .* Other files there: 1 .txt"),
    ],
)
def test_folders_that_cannot_be_understood(tmp_path: Path, files: list[str], why: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=why):
        load_samples(tmp_path)


def test_images_of_unread_formats_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.nd2"):
        picture(tmp_path / "x.png").rename(tmp_path / "y")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "y").rename(tmp_path / name)
    assert "formats that are not read were passed over: 1 .nd2" in load_samples(tmp_path).warnings[0]


def test_a_link_to_a_parent_folder_does_not_turn_in_circles(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        picture(tmp_path / name)
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    samples = load_samples(tmp_path)
    assert (len(samples), samples.warnings) == (2, ())


@pytest.mark.parametrize("backwards", [False, True])
def test_a_link_to_another_class_is_passed_over_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    for name in ("b/1.png", "c/1.png"):
        picture(tmp_path / name)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "d").symlink_to(tmp_path / "c")

    walk = os.walk

    def in_order(root: Path, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, below, names in walk(root, **options):
            below.sort(reverse=backwards)
            yield folder, below, names

    monkeypatch.setattr(os, "walk", in_order)
    samples = load_samples(tmp_path)
    assert samples.ids.tolist() == ["b/1.png", "c/1.png"]
    assert "passed over: a, which is b, d, which is c." in samples.warnings[0]


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "b/1.png", "shut/1.png"):
        picture(tmp_path / name)
    scan = os.scandir

    def guarded(path: str) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    with monkeypatch.context() as patch:  # the folder is removed after the test
        patch.setattr(os, "scandir", guarded)
        with pytest.raises(DataError, match=r"shut cannot be listed: Permission denied"):
            load_samples(tmp_path)


# --- tables


def test_a_csv_with_every_column(tmp_path: Path) -> None:
    table = write(
        tmp_path / "m.csv",
        "path,label,group,split,id\nimg/1.png,pos,p1,train,s1\nimg/2.png,neg,p1,train,s2\nimg/3.png,pos,p2,test,s3\n",
    )
    samples = load_samples(table)
    assert samples.ids.tolist() == ["s1", "s2", "s3"]
    assert samples.classes == ("neg", "pos")
    assert samples.splits.tolist() == ["train", "train", "test"]
    assert samples.groups.tolist() == ["p1", "p1", "p2"]
    assert samples.sources[0].description == str(tmp_path / "img" / "1.png")
    assert load_samples(table, id="path").ids.tolist() == ["img/1.png", "img/2.png", "img/3.png"]


@pytest.mark.parametrize("column", ["path", "image", "FILE", "Filename", "filepath"])
@pytest.mark.parametrize("label", ["label", "Class", "target", "diagnosis"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_and_separators_are_recognised(tmp_path: Path, column: str, label: str, separator: str) -> None:
    rows = [(column, label), ("1.png", "a"), ("2.png", "b")]
    samples = load_samples(write(tmp_path / "m.csv", "\ufeff" + "\n".join(separator.join(row) for row in rows)))
    assert samples.ids.tolist() == ["1.png", "2.png"]
    assert names(samples) == ["a", "b"]


def test_tsv_parquet_and_frame_agree(tmp_path: Path) -> None:
    frame = pd.DataFrame({"path": ["1.png", "2.png", "3.png"], "label": [10, 9, 10], "split": ["train", "test", "val"]})
    for name in frame["path"]:
        picture(tmp_path / name)
    frame.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    frame.to_parquet(tmp_path / "m.parquet")
    loaded = [
        load_samples(tmp_path / "m.tsv"),
        load_samples(tmp_path / "m.parquet"),
        load_samples(frame, root=tmp_path),
    ]
    for samples in loaded:
        assert samples.classes == ("9", "10")  # by number, not "10" before "9"
        assert samples.labels.tolist() == [1, 0, 1]
        assert samples.sources[0].description == str(tmp_path / "1.png")
        assert samples.ids.tolist() == loaded[0].ids.tolist()


def test_a_column_of_integers_with_a_gap_keeps_its_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"path": ["1.png", "2.png", "3.png"], "label": [1, None, 2]})
    assert frame["label"].dtype == float
    for name in frame["path"]:
        picture(tmp_path / name)
    with pytest.raises(DataError, match=r"1 sample\(s\) have no label: 2.png"):
        load_samples(frame, root=tmp_path)
    assert load_samples(frame.dropna(), root=tmp_path).classes == ("1", "2")


@pytest.mark.parametrize("blank", ["", "  "])
def test_missing_labels_are_listed(tmp_path: Path, blank: str) -> None:
    rows = "".join(f"{i}.png,{blank}\n" for i in range(7))
    table = write(tmp_path / "m.csv", f"path,label\na.png,x\nb.png,y\n{rows}")
    with pytest.raises(DataError, match=r"7 sample\(s\) have no label: 0.png, .*4.png and 2 more") as caught:
        load_samples(table)
    assert "labelled=False" in caught.value.remedy
    assert load_samples(table, labelled=False).labels is None


def test_labels_that_look_like_missing_values_are_labels(tmp_path: Path) -> None:
    samples = load_samples(write(tmp_path / "m.csv", "path,label\n1.png,NA\n2.png,None\n"))
    assert samples.classes == ("None", "NA")  # that nothing was found is the negative class
    assert "'NA' (1) is read as a class" in " ".join(samples.warnings)


def test_label_columns_of_zeros_and_ones_are_multilabel(tmp_path: Path) -> None:
    table = write(tmp_path / "m.csv", "path,mass,edema\n1.png,1,0\n2.png,1,1\n3.png,0,0\n")
    samples = load_samples(table, label=["mass", "edema"])
    assert samples.task is Task.MULTILABEL
    assert samples.classes == ("mass", "edema")
    assert samples.labels.tolist() == [[1, 0], [1, 1], [0, 0]]
    with pytest.raises(DataError, match=r"exactly one label per image, but not so in 2.png, 3.png"):
        load_samples(table, label=["mass", "edema"], task="multiclass")


def test_one_hot_columns_can_be_told_to_be_one_label(tmp_path: Path) -> None:
    table = write(tmp_path / "m.csv", "image,MEL,NV,BCC\n1.png,1.0,0.0,0.0\n2.png,0.0,0.0,1.0\n")
    samples = load_samples(table, label=["MEL", "NV", "BCC"], task="multiclass")
    assert names(samples) == ["MEL", "BCC"]


def test_joined_labels(tmp_path: Path) -> None:
    table = write(tmp_path / "m.csv", "path,label\n1.png,mass|edema\n2.png,none\n3.png,edema | hernia\n")
    samples = load_samples(table, label_separator="|")
    assert samples.classes == ("edema", "hernia", "mass", "none")
    assert samples.labels.tolist() == [[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        ("age,label\n7,a\n", {}, "no column of image paths; its columns are age, label"),
        ("path,image,label\n1.png,2.png,a\n", {}, "several path columns: path, image"),
        ("path,label,class\n1.png,a,b\n", {}, "several label columns"),
        ("path,label\n1.png,a\n", {"group": "patient"}, "no column 'patient'"),
        ("path,label\n1.png,a\n1.png,b\n", {}, "lists 1 image.s. more than once: 1.png"),
        ("path,label\na/../1.png,a\n./1.png,b\n", {}, "more than once: 1.png"),
        ("path,label\n,a\n2.png,b\n", {}, "no path in row 1"),
        ("path,label,id\n1.png,a,s\n2.png,b,s\n", {"id": "id"}, "1 sample ids occur more than once"),
        ("path,label,split\n1.png,a,train\n2.png,b,holdout\n", {}, "'holdout' is no split"),
        ("path,label,split\n1.png,a,train\n2.png,b,\n", {}, "no split: 2.png"),
        ("path,label,group\n1.png,a,g\n2.png,b,\n", {}, "no group: 2.png"),
        ("path,label,label\n1.png,a,b\n", {}, "two columns named label"),
        ("", {}, "no header"),
        ("path,label\n", {}, "has no images"),
        ("path,label\n1.png,a\n", {}, "1 labelled sample.s.: at least 2"),
        ("path,label\n1.png,a\n2.png,b\n3.png,c\n", {"task": "binary"}, "3 classes are no binary task"),
        ("path,label\n1.png,a\n2.png,b\n", {"task": "multilabel"}, "several labels per image"),
        ("path,label\n1.png,a\n2.png,b\n", {"task": "ranking"}, "no task 'ranking'"),
        ("path,label\n1.png,a\n2.png,b\n", {"task": "ordinal"}, "needs the order of its classes"),
        ("path,label\n1.png,a\n2.png,b\n", {"classes": ["a", "c"]}, "not in the class table: b"),
        ("path,m,e\n1.png,1,2\n2.png,1,0\n", {"label": ["m", "e"]}, r"0 or 1, but do not in 1.png \(e = 2\)"),
        # bug 15 of the original: a row longer than its header
        ("path,label\n1.png,a\n2.png,b,0.9\n", {}, "line 3: 3 values, but the header names 2 columns"),
        ("path,label\n1.png,a\n2.png,b\n", {"labels": [0, 1]}, "`labels=` cannot be used with a table"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, options: dict[str, object], why: str) -> None:
    with pytest.raises(DataError, match=why):
        load_samples(write(tmp_path / "m.csv", text), **options)  # type: ignore[arg-type]


def test_missing_files_are_found_when_they_are_read(tmp_path: Path) -> None:
    table = write(tmp_path / "m.csv", "path,label\n1.png,a\n2.png,b\n", images=False)
    with pytest.raises(DataError, match=r"2 of 2 images are missing, such as 1\.png"):
        load_samples(table)
    picture(tmp_path / "2.png")
    samples = load_samples(table)
    assert "1 of 2 images are missing, such as 1.png" in samples.warnings[0]
    with pytest.raises(UnreadableImageError, match="does not exist"):
        samples.sources[0].read()


def test_paths_and_ids_relative_to_a_root(tmp_path: Path) -> None:
    path = picture(tmp_path / "images" / "1.png")
    table = write(tmp_path / "m.csv", f"path,label\n{path},a\nsub\\2.png,b\n")
    samples = load_samples(table, root=tmp_path / "images")
    assert samples.ids.tolist() == ["1.png", "sub/2.png"]
    assert samples.sources[1].description == str(tmp_path / "images" / "sub" / "2.png")


def test_a_group_in_two_splits_is_leakage(tmp_path: Path) -> None:
    table = write(tmp_path / "m.csv", "path,label,patient,split\n1.png,a,p1,train\n2.png,b,p1,test\n3.png,b,p2,test\n")
    assert load_samples(table).groups is None
    with pytest.raises(LeakageError, match=r"1 group\(s\) lie in more than one split: p1 \(train, test\)") as caught:
        load_samples(table, group="patient")
    assert "use_splits=False" in caught.value.remedy
    assert load_samples(table, group="patient", use_splits=False).splits is None


def test_ordinal_grades(tmp_path: Path) -> None:
    table = write(tmp_path / "m.csv", "path,label\n1.png,severe\n2.png,mild\n")
    samples = load_samples(table, task="ordinal", classes=["none", "mild", "severe"])
    assert (samples.task, samples.labels.tolist()) == (Task.ORDINAL, [2, 1])


def test_a_given_class_table_allows_one_class(tmp_path: Path) -> None:
    samples = load_samples(write(tmp_path / "m.csv", "path,label\n1.png,b\n"), classes=["a", "b"])
    assert (samples.labels.tolist(), samples.task) == ([1], Task.BINARY)


@given(st.permutations(["10", "9", "-1", "2"]), st.permutations(["grade 10", "grade 9", "Grade 1"]))
def test_bug_8_the_class_table_does_not_depend_on_row_order(numbers: list[str], texts: list[str]) -> None:
    assert class_table(numbers) == ("-1", "2", "9", "10")
    assert class_table(texts) == ("Grade 1", "grade 9", "grade 10")


@given(st.lists(st.text(max_size=8), max_size=8))
def test_natural_order_is_total(texts: list[str]) -> None:
    assert [str(text) for text in sorted(texts, key=natural_key)] == sorted(sorted(texts), key=natural_key)
    assert len({natural_key(text) for text in texts}) == len(set(texts))


# --- layouts that mean something else than they seem to


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["fold_0/all/1.png", "fold_0/hem/2.png", "fold_1/all/3.png"], "hold the same folders .all."),
        (["A/benign/1.png", "A/malignant/2.png", "B/benign/3.png", "B/malignant/4.png"], "hold the same folders"),
        (["images_part_1/1.png", "images_part_2/2.png"], "look like parts of one data set"),
        (["images/1.png", "masks/1.png"], "are some of them masks"),
        (["a/1.png", "a/1_mask.png", "b/2.png", "b/2_mask.png"], r"2 of 4 images look like masks .*'\*_mask\*'`"),
        (["a/1.png", "b/2.png", "b_mask/2.png"], r"are some of them masks.*`exclude='\*b_mask/\*'`"),
        (["a/im/1.png", "a/masks/2.png", "b/im2/3.png"], r"in folders called 'masks'.*`exclude='\*masks/\*'`"),
        (["a/1.png", "b/1.png", "c/1.xyz"], "no file in c is an image .* this class is missing: 1 .xyz"),
        (["a/1.png", "b/1.png", "c/1.heic"], "formats that are not read were passed over: 1 .heic"),
    ],
)  # fmt: skip
def test_layouts_worth_a_second_look_are_said(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        picture(tmp_path / "x.png")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x.png").rename(tmp_path / name)
    assert re.search(said, load_samples(tmp_path).warnings[0])


@pytest.mark.parametrize(
    ("train", "test"), [("training_set", "test_set"), ("train_data", "testset"), ("trn", "Testing")]
)
def test_other_names_of_split_folders_are_understood_and_said(tmp_path: Path, train: str, test: str) -> None:
    for name in (f"{train}/a/1.png", f"{train}/b/2.png", f"{test}/a/3.png"):
        picture(tmp_path / name)
    samples = load_samples(tmp_path)
    assert (samples.classes, sorted(samples.splits)) == (("a", "b"), ["test", "train", "train"])
    assert f"{train} as train" in samples.notes[0]
    assert load_samples(tmp_path, use_splits=False).classes == tuple(sorted((train, test), key=natural_key))


def test_no_more_is_offered_to_be_left_out_than_is_meant(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "overview.png"):
        picture(tmp_path / name)
    with pytest.raises(DataError) as caught:
        load_samples(tmp_path)
    assert "`exclude=['overview.png']`" in caught.value.remedy
    assert len(load_samples(tmp_path, exclude="overview.png")) == 2
    picture(tmp_path / "1.png")
    with pytest.raises(DataError) as caught:
        load_samples(tmp_path)
    assert "exclude" not in caught.value.remedy


def test_classes_called_test_are_classes_without_splits(tmp_path: Path) -> None:
    for name in ("control/1.png", "test/1.png"):
        picture(tmp_path / name)
    with pytest.raises(DataError, match="split folders") as caught:
        load_samples(tmp_path)
    assert "If test is a class: `use_splits=False`" in caught.value.remedy
    assert load_samples(tmp_path, use_splits=False).classes == ("control", "test")


@pytest.mark.parametrize("test", ["test", "test/unknown"])
def test_an_unlabelled_test_folder_is_left_out_and_said(tmp_path: Path, test: str) -> None:
    for name in ("train/a/1.png", "train/b/2.png", f"{test}/3.png"):
        picture(tmp_path / name)
    samples = load_samples(tmp_path)
    assert samples.ids.tolist() == ["train/a/1.png", "train/b/2.png"]
    assert "the 1 images in test have no class folders and are left out as unlabelled" in samples.notes[0]
    assert len(load_samples(tmp_path, labelled=False)) == 3


def test_splits_below_classes_are_splits(tmp_path: Path) -> None:
    for name in ("a/train/1.png", "a/test/2.png", "b/train/3.png"):
        picture(tmp_path / name)
    samples = load_samples(tmp_path)
    assert (names(samples), samples.splits.tolist()) == (["a", "a", "b"], ["test", "train", "train"])
    assert "the folders below the classes are the splits" in samples.notes[0]


def test_what_lies_beside_images_is_passed_over_and_counted(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.jpeg2000.png", "@eaDir/1.png", "$RECYCLE.BIN/2.png"):
        picture(tmp_path / name)
    (tmp_path / "b" / "1.jpeg2000.png").rename(tmp_path / "b" / "1.jpeg2000")
    (tmp_path / "b" / "Thumbs.db").touch()
    (tmp_path / "empty").mkdir()
    write(tmp_path / "labels.csv", "path,label\n", images=False)
    samples = load_samples(tmp_path)
    assert samples.ids.tolist() == ["a/1.png", "b/1.jpeg2000"]
    said = " ".join((*samples.notes, *samples.warnings))
    for part in (
        "1 .db",
        "passed over $RECYCLE.BIN, @eaDir",
        "no files in empty",
        "not read with the folder: labels.csv",
    ):
        assert part in said


@pytest.mark.slow
def test_very_many_files_beside_images_are_counted_at_once(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        picture(tmp_path / name)
    for folder in range(100):
        (tmp_path / f"lost{folder:02d}").mkdir()
        for number in range(200):
            (tmp_path / f"lost{folder:02d}" / f"{number}.xml").touch()
    start = time.perf_counter()
    samples = load_samples(tmp_path)
    assert time.perf_counter() - start < 20
    assert sum("so that this class is missing: 200 .xml" in warning for warning in samples.warnings) == 100
    assert any("passed over files that are no images: 20000 .xml" in note for note in samples.notes)


def test_the_metadata_of_imagefolder_is_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / split / "1.png")
        write(tmp_path / split / "metadata.csv", f"file_name,label\n1.png,{split[1]}\n")
    samples = load_samples(tmp_path)
    assert samples.ids.tolist() == ["test/1.png", "train/1.png"]
    assert (names(samples), samples.splits.tolist()) == (["e", "r"], ["test", "train"])
    assert "read by" in samples.notes[0]
    picture(tmp_path / "test" / "2.png")
    assert (
        "1 images are left out, which test/metadata.csv does not list: test/2.png" in load_samples(tmp_path).warnings[0]
    )


def test_a_table_of_metadata_is_parsed_once_and_another_beside_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        picture(tmp_path / f"{number}.png")
    write(tmp_path / "metadata.csv", "file_name,label\n1.png,a\n2.png,b\n")
    parsed: list[str] = []
    read = Path.read_bytes

    def counted(path: Path) -> bytes:
        parsed.append(path.name)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    assert not load_samples(tmp_path).warnings
    assert parsed == ["metadata.csv"]
    write(tmp_path / "metadata.jsonl", '{"file_name": "1.png", "label": "c"}\n')
    samples = load_samples(tmp_path)
    assert names(samples) == ["a", "b"]
    assert "metadata.jsonl is not read beside metadata.csv" in samples.warnings[0]


def test_file_names_that_are_no_utf8_have_ids_that_can_be_written(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        picture(tmp_path / name)
    (tmp_path / "a").rename(os.fsdecode(os.fsencode(tmp_path) + b"/bild\xe4"))
    samples = load_samples(tmp_path)
    assert sorted(samples.ids) == ["b/2.png", "bild\\xe4/1.png"]
    assert sorted(samples.classes) == ["b", "bild\\xe4"]
    assert all(source.read() for source in samples.sources)
