"""Headers, separators and kinds of tables as people write them."""

import gzip
import io
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from biofuse.core.errors import DataError
from biofuse.data.columns import split_of
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name, "PNG")


def labels(samples: Samples) -> list[str]:
    return [samples.classes[label] for label in samples.labels]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures(tmp_path, *(f"{number}.png" for number in range(1, 7)))
    return tmp_path


def load(folder: Path, text: str, name: str = "m.csv", **options: object) -> Samples:
    (folder / name).write_text(text, encoding="utf-8")
    return load_samples(folder / name, **options)


HEADERS = [
    "image_id", "image_name", "Image Index", "img", "image_path", "ImagePath", "image path", "id_code", "filename",
    "File Name", "fname", "Path", "imageId",
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
def test_usual_headers_of_images_are_recognised(folder: Path, header: str) -> None:
    samples = load(folder, f"{header},label\n1.png,a\n2.png,b\n")
    assert samples.ids.tolist() == ["1.png", "2.png"]
    assert [note for note in samples.notes if "column" in note] == []


def test_a_column_that_holds_images_is_found_whatever_it_is_called(folder: Path) -> None:
    samples = load(folder, "patientId;x;Target\n1;7;0\n2;8;1\n3;9;1\n", label="Target")
    assert samples.ids.tolist() == ["1", "2", "3"]
    assert "column 'patientId' names the images; no header says so. `path=` names another." in samples.notes[0]


def test_of_two_columns_of_images_the_one_that_is_there_is_taken(folder: Path) -> None:
    samples = load(folder, "image,path,label\nscan 1,1.png,a\nscan 2,2.png,b\n")
    assert samples.ids.tolist() == ["1.png", "2.png"]
    assert "column 'path' names the images, not image" in samples.notes[0]
    with pytest.raises(DataError, match="several path columns: image, path") as caught:
        load(folder, "image,path,label\n1.png,2.png,a\n2.png,3.png,b\n")
    assert "`path='image'` or `path='path'`" in caught.value.remedy


@pytest.mark.parametrize("header", ["labels", "Category", "cls", "Class Label", "dx", "Finding Labels", "level"])
def test_usual_headers_of_labels_are_recognised_and_said(folder: Path, header: str) -> None:
    samples = load(folder, f"path,{header}\n1.png,a\n2.png,b\n")
    assert labels(samples) == ["a", "b"]
    assert f"column '{header}' holds the labels. `label=` names another." in samples.notes[0]


def test_labels_that_are_not_recognised_are_said(folder: Path) -> None:
    nothing = load(folder, "path,age\n1.png,3\n2.png,4\n")
    assert nothing.labels is None
    named = "Name it with `label=`, or a time to an event with `time=` and `event=`."
    assert f"no label column was recognised among age. {named}" in nothing.notes[0]
    several = load(folder, "path,dx,grade\n1.png,a,1\n2.png,b,2\n")
    assert several.labels is None
    assert "dx, grade may hold the labels, and none is used. Choose one: `label='dx'` or" in several.warnings[0]


def test_a_column_that_was_asked_for_is_found_in_any_case_or_suggested(folder: Path) -> None:
    text = "path,Finding Labels\n1.png,a\n2.png,b\n"
    assert labels(load(folder, text, label="finding_labels")) == ["a", "b"]
    with pytest.raises(DataError, match="no column 'findng labels'") as caught:
        load(folder, text, label="findng labels")
    assert caught.value.remedy == "Did you mean `label='Finding Labels'`?"


@pytest.mark.parametrize(
    ("header", "values", "found"),
    [
        ("partition", ["train", "Valid", "test", "train"], ["train", "val", "test", "train"]),
        ("set", ["training_set", "dev", "test_set", "train"], ["train", "val", "test", "train"]),
        ("anything", ["train", "test", "test", "train"], ["train", "test", "test", "train"]),
        ("is_test", ["0", "1", "1", "0"], ["train", "test", "test", "train"]),
        ("is_train", ["True", "False", "True", "True"], ["train", "test", "train", "train"]),
    ],
)
def test_splits_are_recognised_under_other_names(
    folder: Path, header: str, values: list[str], found: list[str]
) -> None:
    rows = "".join(f"{row + 1}.png,{'ab'[row % 2]},{value}\n" for row, value in enumerate(values))
    samples = load(folder, f"path,label,{header}\n{rows}")
    assert samples.splits.tolist() == found
    assert f"column '{header}' holds the splits" in samples.notes[0]
    assert "`use_splits=False` makes new ones" in samples.notes[0]
    assert load(folder, f"path,label,{header}\n{rows}", use_splits=False).splits is None


def test_splits_that_are_not_used_or_contradict_each_other_are_said(folder: Path) -> None:
    rows = [("1.png", "a", "train", "test", "0"), ("2.png", "b", "test", "train", "1")]
    both = pd.DataFrame(rows, columns=["path", "label", "split", "partition", "fold"])
    samples = load_samples(both, root=folder)
    assert samples.splits.tolist() == ["train", "test"]
    assert "'partition' seems to hold splits and is not used. To use it: `split='partition'`" in samples.warnings[0]
    assert "column 'fold' numbers 2 folds, which are not used" in samples.warnings[1]
    with pytest.raises(DataError, match="partition, usage hold different splits") as caught:
        load_samples(both.rename(columns={"split": "usage"})[["path", "label", "partition", "usage"]], root=folder)
    assert "`split='partition'` or `split='usage'`" in caught.value.remedy
    with pytest.raises(DataError, match="'holdout' is no split") as caught:
        load(folder, "path,label,split\n1.png,a,train\n2.png,b,holdout\n")
    assert "`use_splits=False`" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "split"),
    [("Training", "train"), ("train_images", "train"), ("stage_2_train_images", "train"), ("testset", "test"),
     ("val-data", "val"), ("tune", "val"), ("dev", "val"), ("contest", None), ("images", None), ("holdout", None)],
)  # fmt: skip
def test_words_for_splits(text: str, split: str | None) -> None:
    assert split_of(text) == split


def test_columns_of_yes_and_no_are_splits_together(folder: Path) -> None:
    for first, second in (("is_train", "is_test"), ("train", "test")):
        samples = load(folder, f"path,label,{first},{second}\n1.png,a,1,0\n2.png,b,0,1\n3.png,a,1,0\n")
        assert samples.splits.tolist() == ["train", "test", "train"]
        assert f"{first} and {second}" in samples.notes[0]
    assert load(folder, "path,label,test\n1.png,a,1\n2.png,b,0\n").splits is None


@pytest.mark.parametrize(
    ("first", "second", "splits"),
    [("is_val", "is_test", ["train", "val", "test"]), ("is_train", "is_test", None), ("train", "test", None)],
)
def test_a_row_of_no_split_is_train_only_where_no_column_says_which_are(
    folder: Path, first: str, second: str, splits: list[str] | None
) -> None:
    text = f"path,label,{first},{second}\n1.png,a,0,0\n2.png,b,1,0\n3.png,a,0,1\n"
    if splits is None:
        with pytest.raises(DataError, match=f"{first}, {second} hold different splits"):
            load(folder, text)
    else:
        assert load(folder, text).splits.tolist() == splits


def test_an_id_that_repeats_is_none(folder: Path) -> None:
    samples = load(folder, "path,ID,label\n1.png,p,a\n2.png,p,b\n3.png,q,a\n")
    assert samples.ids.tolist() == ["1.png", "2.png", "3.png"]
    assert "column 'ID' holds 2 values for 3 rows" in samples.notes[0]
    assert "`group='ID'`" in samples.notes[0]


def test_rows_of_one_image_that_agree_are_merged(folder: Path) -> None:
    samples = load(folder, "image,x,Target\n1.png,3,1\n1.png,9,1\n2.png,,0\n")
    assert (samples.ids.tolist(), labels(samples)) == (["1.png", "2.png"], ["1", "0"])
    assert "1 rows list an image again and say the same of it, such as 1.png; 2 images remain" in " ".join(
        samples.notes
    )


@pytest.mark.parametrize(
    "text",
    [
        "path,label,,\n1.png,a,,\n2.png,b,,\n",
        "path,label\n1.png,a,\n2.png,b\n,\n",
        ",path,label\n0,1.png,a\n1,2.png,b\n",
        "sep=;\npath;label\n1.png;a\n2.png;b\n",
        "# made by hand, on a Monday\npath,label\n1.png,a\n2.png,b\n",
        "#path,label\n1.png,a\n2.png,b\n",
        'path;label;"note (a,b,c,d)"\n1.png;a;x\n2.png;b;y\n',
        "path|label\n1.png|a\n2.png|b\n",
        'path,label,note\n1.png,a,"two\nlines, with a comma"\n2.png,b,5" wide\n',
    ],
)
def test_text_of_spreadsheets_is_read(folder: Path, text: str) -> None:
    samples = load(folder, text)
    assert (samples.ids.tolist(), labels(samples)) == (["1.png", "2.png"], ["a", "b"])


def test_a_first_line_that_is_no_header_is_data(folder: Path) -> None:
    samples = load(folder, "1.png,a\n2.png,b\n", label="column 2")
    assert (samples.ids.tolist(), labels(samples)) == (["1.png", "2.png"], ["a", "b"])
    assert "the first line is no header, so that the columns are called column 1, column 2" in samples.notes[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("MURA/train/study1/,1\nMURA/train/study2/,0\n", "first line looks like data"),
        ('path,label,note\n1.png,a,"open\n2.png,b,x\n3.png,a,"y"\n', "line 2"),
        ('path,label,note\n1.png,a,fine\n2.png,b,"open\n3.png,a,x\n4.png,b,closed"\n', "line 3: a quoted cell goes on"),
    ],
)
def test_text_that_would_be_misread_is_refused(folder: Path, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        load(folder, text)


def test_a_first_line_that_names_an_image_without_its_extension_is_no_header(folder: Path) -> None:
    with pytest.raises(DataError, match="first line looks like data"):
        load(folder, "1,a\n2,b\n3,a\n")


def test_tables_of_other_kinds_agree(folder: Path) -> None:
    frame = pd.DataFrame({"path": ["1.png", "2.png"], "label": ["a", "b"]})
    frame.to_feather(folder / "m.feather")
    text = frame.to_csv(index=False)
    (folder / "m.csv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "m16.csv").write_bytes(text.encode("utf-16"))
    (folder / "m.txt").write_text(text.replace(",", "\t"))
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    for name in ("m.feather", "m.csv.gz", "m16.csv", "m.txt", "m.jsonl"):
        samples = load_samples(folder / name)
        assert (samples.ids.tolist(), labels(samples)) == (["1.png", "2.png"], ["a", "b"])
    for name, why in (("m.xlsx", "Save the sheet as CSV"), ("bad.jsonl", "line 1: no JSON"), ("m.gz.csv.gz", "read")):
        (folder / name).write_bytes(b"{" * 3)
        with pytest.raises(DataError, match=why):
            load_samples(folder / name)


@pytest.mark.parametrize("name", ["m.tsv", "M.TSV"])
def test_a_name_that_says_what_separates_the_columns_counts_in_any_case(folder: Path, name: str) -> None:
    samples = load(folder, "path\tlabel,sure\n1.png\ta,1\n2.png\tb,0\n", name, label="label,sure")
    assert sorted(samples.classes) == ["a,1", "b,0"]


CLASSES = {"names": ["ok", "ill"], "_type": "ClassLabel"}


def hub_table(path: Path, n: int, features: object = None, **columns: list[object]) -> None:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    images = [{"bytes": buffer.getvalue(), "path": None}] * n
    kept = {"info": {"features": features or {"label": CLASSES}}}
    table = pa.table({"image": images, "label": [row % 2 for row in range(n)]} | columns)
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(kept)}), path)


def test_parquet_of_the_hub_holds_its_images_and_class_names(tmp_path: Path) -> None:
    hub_table(tmp_path / "train-00000-of-00001.parquet", 4)
    samples = load_samples(tmp_path / "train-00000-of-00001.parquet")
    assert (samples.ids.tolist()[1], labels(samples)) == ("000001", ["ok", "ill", "ok", "ill"])
    assert samples.sources[0].read().startswith(b"\x89PNG")
    hub_table(tmp_path / "test-00000-of-00001.parquet", 2)
    assert sorted(load_samples(tmp_path).splits) == ["test"] * 2 + ["train"] * 4


@pytest.mark.parametrize(
    ("features", "values"),
    [
        ({"label": {"feature": CLASSES, "_type": "Sequence"}}, [[0], [0, 1], [1], [0]]),
        ({"label": [CLASSES]}, [[0], [0, 1], [1], [0]]),
        ({"box": [{"dtype": "int64", "_type": "Value"}], "label": CLASSES}, [0, 1, 1, 0]),
        ({"box": {"names": {"dtype": "string", "_type": "Value"}}, "label": CLASSES}, [0, 1, 1, 0]),
    ],
)
def test_class_names_of_the_hub_are_found_wherever_they_stand(
    tmp_path: Path, features: object, values: list[object]
) -> None:
    hub_table(tmp_path / "m.parquet", 4, features, label=values)
    assert sorted(load_samples(tmp_path / "m.parquet").classes) == ["ill", "ok"]


@pytest.mark.parametrize("value", [2, -2, "ok", 0.5])
def test_a_number_of_no_class_is_refused(tmp_path: Path, value: object) -> None:
    hub_table(tmp_path / "m.parquet", 2, label=[value, value])
    with pytest.raises(DataError, match=rf"'label' holds {value!r}, .* none of its 2 classes"):
        load_samples(tmp_path / "m.parquet")


def test_shards_that_name_their_classes_otherwise_are_refused(tmp_path: Path) -> None:
    hub_table(tmp_path / "train-0.parquet", 4)
    hub_table(tmp_path / "test-0.parquet", 2, {"label": {"names": ["ill", "ok"], "_type": "ClassLabel"}})
    with pytest.raises(DataError, match=r"2 tables that have different class names: test-0\.parquet"):
        load_samples(tmp_path)


def test_a_split_column_of_shards_is_not_overwritten(tmp_path: Path) -> None:
    for split, column in (("train", ["train", "train", "val", "val"]), ("test", ["test"] * 4)):
        hub_table(tmp_path / f"{split}.parquet", 4, split=column)
    with pytest.raises(DataError, match="column 'split' says other splits than the names") as caught:
        load_samples(tmp_path)
    assert "`split='split'`" in caught.value.remedy
    samples = load_samples(tmp_path, split="split")
    assert sorted(samples.splits) == ["test"] * 4 + ["train"] * 2 + ["val"] * 2
    assert load_samples(tmp_path, use_splits=False).splits is None
    hub_table(tmp_path / "train.parquet", 4, split=["training"] * 4)
    assert sorted(load_samples(tmp_path).splits) == ["test"] * 4 + ["train"] * 4


PUBLIC: list[tuple[list[str], str, dict[str, object], list[str]]] = [
    (
        ["part_1/ISIC_1.jpg", "part_2/ISIC_2.jpg"],
        "lesion_id,image_id,dx,dx_type,age\nHAM_1,ISIC_1,nv,histo,80\nHAM_2,ISIC_2,mel,histo,75\n",
        {},
        ["mel", "nv"],
    ),
    (
        ["images_001/images/1_000.png", "images_002/images/2_000.png"],
        (
            "Image Index,Finding Labels,Patient ID,OriginalImage[Width,Height],Spacing[x,y],\n"
            "1_000.png,Mass|Edema,1,2682,2749,0.143,0.143,\n2_000.png,Edema,2,2682,2749,0.143,0.143,\n"
        ),
        {"label_separator": "|"},
        ["Edema", "Mass"],
    ),
    (
        ["train_images/0a-1.png", "train_images/0b-2.png"],
        "patientId;x;y;width;height;Target\n0a-1;1;2;3;4;1\n0a-1;5;6;7;8;1\n0b-2;;;;;0\n",
        {},
        ["0", "1"],
    ),
    (["train/10_left.jpeg", "train/10_right.jpeg"], "image,level\n10_left,0\n10_right,2\n", {}, ["0", "2"]),
    (
        ["Dataset 1/001.bmp", "Dataset 1/001.png", "Dataset 1/002.bmp", "Dataset 1/002.png"],
        "image ID,class\n1,1\n2,3\n",
        {"extension": ".bmp"},
        ["1", "3"],
    ),
]
"""Headers of public label tables: the images, the table, the one option that is needed, and the classes."""


@pytest.mark.parametrize(("images", "text", "options", "classes"), PUBLIC)
def test_public_tables_are_read_with_one_option_at_most(
    tmp_path: Path, images: list[str], text: str, options: dict[str, object], classes: list[str]
) -> None:
    pictures(tmp_path, *images)
    samples = load(tmp_path, text, **options)
    assert (len(samples), list(samples.classes)) == (2, classes)
    for name in options:
        assert f"`{name}=" in said_of(tmp_path, text)


def said_of(folder: Path, text: str) -> str:
    """Return the warnings or the refusal of a table."""
    try:
        return " ".join(load(folder, text).warnings)
    except DataError as error:
        return error.remedy
