"""Labels as people write them: names, numbers, blanks, joined cells, columns of zeros and ones."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from biofuse.core.errors import DataError, in_command_words
from biofuse.core.target import Task
from biofuse.data.labels import match_names
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the images exist that tables name; nobody opens them."""
    monkeypatch.chdir(tmp_path)
    for row in range(400):
        (tmp_path / f"{row}.png").touch()


def table(labels: Sequence[object], **columns: Sequence[object]) -> pd.DataFrame:
    return pd.DataFrame({"path": [f"{row}.png" for row in range(len(labels))], "label": list(labels), **columns})


def load(labels: Sequence[object], **chosen: object) -> Samples:
    return load_samples(table(labels), **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("normal", "glioma"), ("normal", "glioma")),
        (("melanoma", "benign_nevus"), ("benign_nevus", "melanoma")),
        (("tumour", "no_tumour"), ("no_tumour", "tumour")),
        (("covid", "non-COVID"), ("non-COVID", "covid")),
        (("sick", "Healthy controls"), ("Healthy controls", "sick")),
        (("abnormal", "node"), ("abnormal", "node")),  # neither says that nothing was found: by name
        (("benign", "normal"), ("benign", "normal")),  # both do
        ((1, 0), ("0", "1")),
    ],
)
def test_of_two_classes_the_one_in_which_nothing_was_found_is_negative_and_the_other_is_named(names, classes) -> None:
    samples = load([*names, *names])
    assert samples.classes == classes
    assert f"The positive class is {classes[1]!r}" in " ".join(samples.notes)


def test_the_positive_class_can_be_chosen() -> None:
    samples = load(["a", "b", "b"], positive="A")
    assert (samples.classes, samples.labels.tolist()) == (("b", "a"), [1, 0, 0])
    with pytest.raises(DataError, match="no class 'c'; the classes are a and b"):
        load(["a", "b"], positive="c")
    with pytest.raises(DataError, match="for two classes, and these are a, b, c"):
        load(["a", "b", "c"], positive="a")


def test_whole_numbers_are_the_same_as_floats_and_as_text() -> None:
    assert load(["1", "1.0", "0"]).classes == load([1.0, 1.0, 0.0]).classes == load([1, 1, 0]).classes == ("0", "1")
    assert load(["0.5", "1.0", "2"]).classes == ("0.5", "1.0", "2")


@pytest.mark.parametrize("values", [range(30, 70), [row / 7 for row in range(24)], [str(row) for row in range(3, 60)]])
def test_a_column_of_measurements_is_refused_until_somebody_says_what_it_is(values) -> None:
    with pytest.raises(DataError, match=r"different numbers in .* looks like a measurement") as caught:
        load(list(values))
    assert "--task multiclass" in in_command_words(caught.value.remedy)
    assert len(load(list(values), task="multiclass").classes) == len(list(values))


def test_grades_and_numbered_classes_are_no_measurements() -> None:
    assert load([0, 0.5, 1, 2, 3] * 3).task is Task.MULTICLASS
    assert len(load(list(range(100)) * 2).classes) == 100


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["Benign", "benign", "malignant"], "'Benign' (1), 'benign' (1) differ only in how they are written"),
        (["no finding", "No_Finding", "mass"], "'No_Finding' (1), 'no finding' (1) differ only"),
        (["nan", "mass", "edema"], "'nan' (1) is read as a class"),
        (["a|b", "b|a", "a"], "2 of 3 labels look like several joined by '|', such as 'a|b'"),
        (["mass; edema", "mass", "none"], "give `label_separator=';'`"),
        (["1 3", "3", "1"], "1 of 3 labels look like several joined by ' '"),
        (["['mass', 'edema']", "['mass']", "[]"], "3 of 3 labels are written as lists, such as \"['mass', 'edema']\""),
        (["M\u00fcller", "Mu\u0308ller", "other"], "differ only in how they are written"),
    ],
)
def test_names_that_look_as_if_they_were_not_meant_are_pointed_out(labels, said) -> None:
    assert said in " ".join(load(labels).warnings)


def test_names_with_separators_of_their_own_are_left_alone() -> None:
    assert load(["normal, benign", "malignant", "T1/T2", "no mass", "mass"]).warnings == ()


def test_joined_labels_called_multilabel_are_told_how_to_be_taken_apart() -> None:
    with pytest.raises(DataError, match="needs several labels per image") as caught:
        load(["a;b", "b;c", "a"], task="multilabel")
    assert "--label-separator ';'" in in_command_words(caught.value.remedy)


def test_blank_cells_are_counted_and_mean_what_is_said() -> None:
    frame = table([None] * 4, mass=[1, None, 0, 1], edema=[None, 1, 1, None])
    missing = load_samples(frame, label=("mass", "edema"))
    assert missing.labels.tolist() == [[1, -1], [-1, 1], [0, 1], [1, -1]]
    assert "left out of fits and scores of its label: mass (1), edema (2), of 4 samples" in missing.notes[-1]
    assert "--blank-as 0" in in_command_words(missing.notes[-1])
    samples = load_samples(frame, label=("mass", "edema"), blank_as="0")
    assert samples.labels.tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    assert "Blank cells count as '0': mass (1), edema (2)." in samples.notes
    one = load(["1", None, "1"], blank_as="0")
    assert (one.classes, one.labels.tolist()) == (("0", "1"), [1, 0, 1])
    sets = load(["a|b", None, "b"], label_separator="|", blank_as="0")
    assert sets.labels.tolist() == [[1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize(("way", "labels"), [("ignore", [-1, 1]), ("zeros", [0, 1]), ("ones", [1, 1])])
def test_uncertain_labels_are_what_was_said(way: str, labels: list[int]) -> None:
    frame = table([None] * 3, mass=[1, 0, 1], edema=[-1.0, 1, 0])
    samples = load_samples(frame, label=("mass", "edema"), uncertain_as=way)
    assert samples.labels[:2, 1].tolist() == labels
    assert "Labels of -1" in " ".join(samples.notes)


def test_samples_without_any_label_are_left_out_where_that_was_asked_for() -> None:
    frame = table([None] * 4, mass=[1, "NA", 0, 1], edema=[None, "nan", 1, 0])
    with pytest.raises(DataError, match="1 sample") as caught:
        load_samples(frame, label=("mass", "edema"))
    assert "--on-missing drop" in in_command_words(caught.value.remedy)
    samples = load_samples(frame, label=("mass", "edema"), on_missing="drop")
    assert samples.labels.tolist() == [[1, -1], [0, 1], [1, 0]]
    assert "1 sample(s) have no label and are left out" in " ".join(samples.notes)
    joined = load_samples({"train": samples.take([0, 1]), "test": samples.take([2])})
    assert joined.labels.tolist() == samples.labels.tolist()


def test_a_label_that_never_occurs_is_pointed_out() -> None:
    frame = table([None] * 4, mass=[1, 0, 1, 1], hernia=[0, 0, 0, 0], edema=[0, 1, 1, 0])
    assert "hernia" in load_samples(frame, label=("mass", "hernia", "edema")).warnings[-1]
    assert load_samples(frame, label=("mass", "edema")).warnings == ()


def test_label_columns_of_another_data_set_are_found_whatever_their_case_and_others_are_left_out() -> None:
    frame = table([None] * 2, Edema=[1, 0], other=[-1, 0], MASS=[0, 1])
    samples = load_samples(frame, label=("Edema", "other", "MASS"), classes=("mass", "edema"), strict=False)
    assert (samples.classes, samples.labels.tolist()) == (("mass", "edema"), [[0, 1], [1, 0]])
    assert "MASS is read as mass." in samples.notes
    assert "The model does not know the label(s) other; they are not scored." in samples.notes
    with pytest.raises(DataError, match="there is none for edema"):
        load_samples(frame, label=("MASS", "other"), classes=("mass", "edema"), strict=False)


def test_two_one_hot_columns_are_binary_when_called_multiclass_and_doubtful_when_not() -> None:
    frame = table([None] * 4, MEL=[1.0, 0, 1, 0], NV=[0.0, 1, 0, 1])
    samples = load_samples(frame, label=("MEL", "NV"), task="multiclass")
    assert (samples.task, samples.classes, samples.labels.tolist()) == (Task.BINARY, ("MEL", "NV"), [0, 1, 0, 1])
    unsaid = load_samples(frame, label=("MEL", "NV"))
    assert unsaid.task is Task.MULTILABEL
    assert "exactly one of the 2 labels: give `task='multiclass'`" in unsaid.notes[0]


def test_small_classes_are_left_out_when_asked() -> None:
    samples = load([*"aabbccd"], drop_classes_below=2)
    assert (samples.classes, len(samples)) == (("a", "b", "c"), 6)
    assert "1 samples are left out, of classes with fewer than 2: d (1)." in samples.notes
    frame = table([None] * 3, mass=[1, 0, 1], edema=[0, 1, 1], hernia=[0, 0, 0])
    assert load_samples(frame, label=("mass", "edema", "hernia"), drop_classes_below=1).classes == ("mass", "edema")
    with pytest.raises(DataError, match="there is only one class"):
        load([*"aab"], drop_classes_below=2)


def test_data_for_a_model_may_have_other_classes_which_are_left_out_where_the_wanted_are_named() -> None:
    samples = load([0, 1, 2, 1], classes=("1", "2"), strict=False)
    assert [samples.classes[label] for label in samples.labels] == ["1", "2", "1"]
    assert samples.ids.tolist() == ["1.png", "2.png", "3.png"]
    assert "1 of 4 samples are left out, of other classes: 0 (1)." in samples.warnings
    assert load(["a"], strict=False).classes == ("a",)


def test_numbers_are_positions_only_beside_a_table_of_names_and_that_is_said() -> None:
    samples = load([0, 2, 1], classes=("zebra", "apple", "mango"))
    assert [samples.classes[label] for label in samples.labels] == ["zebra", "mango", "apple"]
    assert "read as positions in the class table: 0 is zebra, 1 is apple, 2 is mango" in " ".join(samples.notes)
    with pytest.raises(DataError, match="not in the class table: 0"):
        load([0, 1, 1], classes=("1", "2", "3"))


def test_names_are_matched_as_written_as_numbers_and_whatever_the_case() -> None:
    assert match_names(["1.0", "03", "4"], ["1", "2", "3"]) == {"1.0": "1", "03": "3"}
    assert match_names(["BENIGN", "grade-1"], ["Benign", "Grade 1"]) == {"BENIGN": "Benign", "grade-1": "Grade 1"}
    assert match_names(["0", "1.0"], ["False", "True"]) == {"0": "False", "1.0": "True"}
    assert match_names(["a"], ["A", "a "]) == {"a": "A"}
    assert match_names(["er"], ["ER+", "ER-"]) == {}


@pytest.mark.parametrize("column", ["patient_id", "PatientID", "Subject", "lesion_id", "StudyInstanceUID"])
def test_a_column_of_patients_that_repeat_is_pointed_out(column) -> None:
    frame = table(["a", "b"] * 6, **{column: [f"p{row // 3}" for row in range(12)]})
    said = f"{column} has 4 values for 12 rows: add `group='{column}'`"
    assert said in load_samples(frame).warnings[0]
    assert load_samples(frame, group="none").warnings == ()
    assert load_samples(frame, group="none").groups is None
    assert len(set(load_samples(frame, group=column).groups)) == 4
    assert load_samples(table(["a", "b"] * 6, **{column: list(range(12))})).warnings == ()


def test_a_group_column_can_be_left_unused() -> None:
    frame = table(["a", "b"] * 2, group=["p", "p", "q", "q"])
    assert load_samples(frame).groups is not None
    assert load_samples(frame, group="none").groups is None


@pytest.mark.parametrize("values", [["lo", "hi", "mid"], [3, 1, 2], ["normal", "b", "a"]])
def test_the_order_of_a_categorical_column_is_the_order_of_the_classes(values) -> None:
    frame = table(values * 2)
    frame["label"] = pd.Categorical(frame["label"], categories=[*values, "unused"], ordered=True)
    samples = load_samples(frame)
    assert samples.classes == tuple(map(str, values))
    assert samples.labels.tolist() == [0, 1, 2] * 2
