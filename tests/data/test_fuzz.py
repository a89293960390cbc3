"""Tables and folders as people have them, made up with a known truth.

The importer returns that truth, or refuses with a remedy, or says what was ambiguous: never another table in silence.
"""

import csv
import io
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biofuse import load_samples
from biofuse.core.errors import BioFuseError

FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(kw_only=True)
class Truth:
    """A made-up data set, and what a careful person reads from it.

    Attributes
    ----------
    data, options
        What is given to the importer.
    labels, splits
        By image file; splits are None where none are meant.
    unless_said : dict of str to tuple of str
        By part of the truth: words of which one must be said where that part is read otherwise.
    said : tuple of str
        Words that must be said in any case.
    """

    data: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    labels: dict[Path, frozenset[str]] = field(default_factory=dict)
    splits: dict[Path, str] | None = None
    unless_said: dict[str, tuple[str, ...]] = field(default_factory=dict)
    said: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Found:
    """What the importer made of it, or why it did not."""

    refusal: str | None = None
    said: str = ""
    labels: dict[Path, frozenset[str]] = field(default_factory=dict)
    splits: dict[Path, str] | None = None


def plain(text: str) -> str:
    """Bring a label into one form: 1.0 is 1, and True is 1."""
    try:
        return str(int(float(text))) if float(text).is_integer() else str(float(text))
    except (ValueError, OverflowError):
        return {"True": "1", "False": "0"}.get(text, text)


def read(truth: Truth) -> Found:
    """Load a made-up data set, and list what came of it by image file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            samples = load_samples(truth.data, **truth.options)
        except BioFuseError as error:
            return Found(refusal=str(error) if error.remedy else f"{error}\nTHERE IS NO REMEDY")
    said = "\n".join([*samples.notes, *samples.warnings, *(str(each.message) for each in caught)])
    files = [Path(source.description) for source in samples.sources]
    missing = [path for path in files if not path.exists()]
    if missing:
        return Found(refusal=f"refused when the files are read: {missing[0]} does not exist", said=said)

    def by_file(values: Iterable[Any]) -> dict[Path, Any]:
        return dict(zip([file.resolve() for file in files], values, strict=True))

    names = [plain(name) for name in samples.classes]
    if samples.labels is None:
        labels = by_file([frozenset()] * len(samples))
    elif samples.labels.ndim == 2:
        labels = by_file(frozenset(names[k] for k in (row == 1).nonzero()[0]) for row in samples.labels)
    else:
        labels = by_file(frozenset([names[k]]) for k in samples.labels)
    return Found(said=said, labels=labels, splits=None if samples.splits is None else by_file(samples.splits))


def differences(truth: Truth, found: Found) -> list[str]:
    """Name the parts that were read otherwise than they are meant."""
    shared = set(truth.labels) & set(found.labels)
    meant = {path: frozenset(map(plain, names)) for path, names in truth.labels.items()}
    parts = ["rows"] if set(truth.labels) != set(found.labels) else []
    parts += ["labels"] if any(found.labels[path] != meant[path] for path in shared) else []
    if truth.splits is None or found.splits is None:
        return [*parts, *(["splits"] if truth.splits is not found.splits else [])]
    return parts + (["splits"] if any(found.splits[path] != truth.splits[path] for path in shared) else [])


def check_nothing_is_silent(truth: Truth) -> None:
    """Whatever was read otherwise than meant must have been said, and so must what is not meant."""
    found = read(truth)
    assert found.refusal is None or "NO REMEDY" not in found.refusal, found.refusal
    if found.refusal is not None:
        return
    for part in differences(truth, found):
        words = truth.unless_said.get(part, ())
        assert any(word.casefold() in found.said.casefold() for word in words), (
            f"{part} were misread, and none of {words} was said:\n{found.said or 'nothing'}\n{truth}\n{found}"
        )
    for word in truth.said:
        assert word.casefold() in found.said.casefold(), f"{word} was not said:\n{found.said or 'nothing'}\n{found}"


def check_all_is_read(truth: Truth) -> None:
    """A data set that leaves no doubt must be read as it is meant."""
    found = read(truth)
    assert found.refusal is None, found.refusal
    assert not differences(truth, found), f"{differences(truth, found)} were misread:\n{truth}\n{found}"


def in_a_folder(check: Callable[[Truth], None], make: Callable[[Path], Truth]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(make(Path(folder).resolve() / "study"))


def touch(path: Path) -> Path:
    """Make a file that is found; nothing of it is read here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


# ---------------------------------------------------------------------------------------------------------- tables

PATHS = (
    "path", "image", "Image Index", "image_id", "image_name", "img", "ImagePath", "id_code", "filename", "FileName",
    "file_name", "img_path", "image path", "image_file", "Path",
)  # fmt: skip
LABELS = ("label", "labels", "class", "category", "dx", "target", "diagnosis", "Label", "cls")
SPLIT_COLUMNS = ("split", "partition", "set", "subset", "fold", "Split")
OUTLANDISH = ("scan", "Datei", "photo ref", "x1")
"""Headers that say nothing."""

TEXTS: dict[str, tuple[str, ...]] = {
    "names": ("benign", "malignant", "normal"),
    "long names": ("squamous cell carcinoma", "no finding, unremarkable", "naïve"),
    "numbers": ("0", "1"),
    "grades": ("1", "2", "3"),
    "floats": ("0.0", "1.0"),
    "truths": ("True", "False"),
    "signs in names": ("n/a or benign", "malignant (high-grade)"),
    "like missing": ("NA", "None", "nan"),
    "in two cases": ("Benign", "benign", "malignant"),
    "in two forms": ("M\u00fcller", "Mu\u0308ller", "other"),
    "pipes": ("Mass|Edema", "Edema", "Mass", "Edema|Mass"),
    "semicolons": ("Mass;Edema", "Edema", "Mass", "Edema;Mass"),
    "columns": ("10", "01", "11"),
    "columns with blanks": ("1 ", " 1", "11"),
}
PLAIN_TEXTS = tuple(TEXTS)[:7]
JOINED = {"pipes": "|", "semicolons": ";"}
SPLITS: dict[str, dict[str, str]] = {
    "usual": {"train": "train", "val": "val", "test": "test"},
    "other words": {"Training": "train", "dev": "val", "TEST": "test"},
    "tune": {"train": "train", "tune": "val", "test": "test"},
    "yes and no": {"0": "train", "1": "test"},
    "holdout": {"train": "train", "holdout": "test"},
    "folds": {"0": "", "1": "", "2": ""},
}
STEMS = (
    "{}", "10_left {}", "ISIC_{:07d}", "Müller é {}", "p{}/scan", "a,b {}", "x.{}.y", "#{}%", "{:05d}", "'{}'",
    "{} (1)",
)  # fmt: skip
WRITTEN: dict[str, Callable[[str], str]] = {
    "from the table": lambda path: path,
    "with backslashes": lambda path: path.replace("/", "\\"),
    "with a dot": lambda path: f"./{path}",
    "with spaces around": lambda path: f"  {path} ",
    "bare": lambda path: path.removeprefix("images/"),
    "no suffix": lambda path: path.rpartition(".")[0],
    "bare without suffix": lambda path: path.removeprefix("images/").rpartition(".")[0],
    "suffix in capitals": lambda path: f"{path.rpartition('.')[0]}.{path.rpartition('.')[2].upper()}",
    "from the parent": lambda path: f"study/{path}",
    "decomposed": lambda path: unicodedata.normalize("NFD", path),
    "from elsewhere": lambda path: f"/home/them/study/{path}",
}
EXTRA: dict[str, Callable[[int], Any]] = {
    "": lambda row: row,
    "note": lambda row: f'seen, said "{row}"; and\nmore',
    "age": lambda row: 30 + row * 1.5,
    "sex": lambda row: "MF"[row % 2],
    "view": lambda row: ("AP", "PA")[row % 2],
    "caption": lambda row: f"picture of case {row}",
    "width": lambda row: 512,  # noqa: ARG005
    "patient_id": lambda row: f"p{row // 2}",
    "ID": lambda row: f"p{row // 3}",
    "level": lambda row: row % 4,
    "benign_malignant": lambda row: ("benign", "malignant")[row // 2 % 2],
}
PLAIN_EXTRA = tuple(EXTRA)[:7]


NO_LABEL = ("holds the labels", "hold the labels", "no label column")


@dataclass(frozen=True, kw_only=True)
class Table:
    """How one made-up table is written."""

    path: str
    label: str
    ask: bool
    text: str
    stem: str
    suffix: str
    written: str
    split: str | None
    split_column: str
    extra: list[str]
    file: str
    quirk: str | None
    twin: str
    rows: int
    seed: int

    def make(self, top: Path) -> Truth:
        """Write images and table into a folder."""
        names = [f"images/{self.stem.format(row)}{self.suffix}" for row in range(self.rows)]
        files = [touch(top / name) for name in names]
        for name in names:
            if self.twin == "in another folder":
                touch(top / name.replace("images/", "more images/"))
            elif self.twin:
                touch((top / name).with_suffix(self.twin))
        texts = TEXTS[self.text]
        cells = [texts[row if row < len(texts) else (row * 7 + self.seed) % len(texts)] for row in range(self.rows)]
        truth = Truth(unless_said={"rows": (repr(self.path),), "labels": (repr(self.label), *NO_LABEL)})
        columns: dict[str, list[Any]] = {self.path: list(map(WRITTEN[self.written], names))}
        columns |= {name: [EXTRA[name](row) for row in range(self.rows)] for name in self.extra}
        several = [f"{self.label} {k}" for k in (0, 1)] if self.text.startswith("columns") else []
        columns |= {name: [cell[k].strip() for cell in cells] for k, name in enumerate(several)} or {self.label: cells}
        truth.labels = {file: self._labels(cell) for file, cell in zip(files, cells, strict=True)}
        if self.text in JOINED:
            truth.unless_said["labels"] += ("label_separator",)
        if self.text.startswith("in two") and self.ask:
            truth.said += ("differ only",)
        if "patient_id" in self.extra and self.rows > 3:
            truth.said += ("patient_id",)
        if self.split is not None:
            words = list(SPLITS[self.split].items())
            name = "is_test" if self.split == "yes and no" else self.split_column
            columns[name] = [words[row % len(words)][0] for row in range(self.rows)]
            truth.splits = {file: words[row % len(words)][1] for row, file in enumerate(files)}
            truth.splits = truth.splits if all(truth.splits.values()) else None
            truth.unless_said["splits"] = (name,)
        if self.ask or several:
            truth.options = {"label": several or self.label, "path": self.path}
        truth.data = self._write(top, columns)
        if self.quirk == "no header" and self.file not in {"frame", "parquet"}:
            truth.unless_said |= dict.fromkeys(("labels", "splits"), ("no header",))
            truth.said = ()
        return truth

    def _labels(self, cell: str) -> frozenset[str]:
        if self.text.startswith("columns"):
            return frozenset(f"{self.label} {k}" for k in (0, 1) if cell[k] == "1")
        return frozenset(cell.split(JOINED[self.text]) if self.text in JOINED else [cell])

    def _write(self, top: Path, columns: dict[str, list[Any]]) -> Any:
        if self.file == "frame":
            return pd.DataFrame(columns).assign(**{self.path: [str(top / each.strip()) for each in columns[self.path]]})
        if self.file == "parquet":
            pd.DataFrame(columns).to_parquet(top / "table.parquet")
            return top / "table.parquet"
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=self.file, lineterminator="\r\n" if self.quirk == "CRLF" else "\n")
        writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
        text, encoding = out.getvalue(), "utf-8"
        if self.quirk in {"utf-8-sig", "utf-16", "cp1252", "latin-1"}:
            encoding = self.quirk
        elif self.quirk in QUIRKS:
            text = QUIRKS[self.quirk](text, self.file, len(columns))
        path = top / ("table.tsv" if self.file == "\t" else "table.csv")
        path.write_bytes(text.encode(encoding, errors="replace"))
        return path


QUIRKS: dict[str | None, Callable[[str, str, int], str]] = {
    "separator line": lambda text, sep, n: f"sep={sep}\n{text}",  # noqa: ARG005
    "comment": lambda text, sep, n: f"# exported{sep} from the clinic\n{text}",  # noqa: ARG005
    "blank rows": lambda text, sep, n: f"{text}\n{sep * (n - 1)}\n\n",
    "empty columns": lambda text, sep, n: "".join(f"{row}{sep * 2}\n" for row in text.splitlines()),  # noqa: ARG005
    "no header": lambda text, sep, n: text.partition("\n")[2],  # noqa: ARG005
}


def tables(**chosen: st.SearchStrategy[Any]) -> st.SearchStrategy[Table]:
    made = st.builds(Table, rows=st.integers(6, 12), seed=st.integers(0, 5), ask=st.booleans(),
                     stem=st.sampled_from(STEMS), **chosen)  # fmt: skip
    # Lines within a cell and columns added to every line do not go together.
    return made.filter(lambda table: not ("note" in table.extra and table.quirk == "empty columns"))


usual_tables = tables(
    path=st.sampled_from(PATHS),
    label=st.sampled_from(LABELS),
    text=st.sampled_from(PLAIN_TEXTS),
    suffix=st.sampled_from([".png", ".jpg", ".jpeg", ".tif"]),
    twin=st.sampled_from(["", ".txt"]),
    written=st.sampled_from(list(WRITTEN)),
    split=st.sampled_from([None, "usual", "other words", "tune"]),
    split_column=st.sampled_from(SPLIT_COLUMNS),
    extra=st.lists(st.sampled_from(PLAIN_EXTRA), max_size=3, unique=True),
    file=st.sampled_from([",", ";", "\t", "parquet"]),
    quirk=st.sampled_from([None, "utf-8-sig", "CRLF", "separator line", "blank rows", "empty columns"]),
)
any_tables = tables(
    path=st.sampled_from(PATHS + OUTLANDISH),
    label=st.sampled_from((*LABELS, "Befund", "x2")),
    text=st.sampled_from(list(TEXTS)),
    suffix=st.sampled_from([".png", ".PNG", ".jpeg", ".Tif"]),
    twin=st.sampled_from(["", "", ".bmp", "in another folder"]),
    written=st.sampled_from(list(WRITTEN)),
    split=st.sampled_from([None, *SPLITS]),
    split_column=st.sampled_from([*SPLIT_COLUMNS, "phase", "usage"]),
    extra=st.lists(st.sampled_from(list(EXTRA)), max_size=4, unique=True),
    file=st.sampled_from([",", ";", "\t", "|", "parquet", "frame"]),
    quirk=st.sampled_from([None, "CRLF", "utf-8-sig", "utf-16", "latin-1", "cp1252", *filter(None, QUIRKS)]),
)


@pytest.mark.slow
@FUZZ
@given(usual_tables)
def test_usual_tables_are_read(table: Table) -> None:
    in_a_folder(check_all_is_read, table.make)


@pytest.mark.slow
@FUZZ
@given(any_tables)
def test_no_table_is_misread_in_silence(table: Table) -> None:
    in_a_folder(check_nothing_is_silent, table.make)


# --------------------------------------------------------------------------------------------------------- folders

CLASSES = (
    ("benign", "malignant"), ("0", "1", "2"), ("Grade 1", "Grade 2"), ("AKIEC", "nv", "mel"), ("Müller", "Öst"),
    ("a b", "c'd"), ("class_0", "class_1"), ("normal", "test"), ("valid", "invalid"), ("left", "right"), ("1", "10"),
)  # fmt: skip
SPLIT_FOLDERS: tuple[dict[str, str], ...] = (
    {"train": "train", "val": "val", "test": "test"},
    {"Train": "train", "Test": "test"},
    {"training_set": "train", "test_set": "test"},
    {"train_data": "train", "valid_data": "val", "test_data": "test"},
    {"trainset": "train", "testset": "test"},
    {"training": "train", "validation": "val", "testing": "test"},
    {"train": "train", "dev": "val", "test": "test"},
)
OUTER = (("fold_0", "fold_1", "fold_2"), ("hospital_A", "hospital_B"), ("part_1", "part_2"), ("p01", "p02", "p03"))


def _masks(top: Path, truth: Truth) -> None:
    for file in truth.labels:
        touch(file.with_name(f"{file.stem}_mask{file.suffix}"))
    truth.said += ("mask",)
    truth.unless_said["rows"] = ("mask",)


def _hidden(top: Path, truth: Truth) -> None:
    first = next(iter(truth.labels))
    for path in (first.with_name(".DS_Store"), first.with_name(f"._{first.name}"), top / "__MACOSX" / first.name):
        touch(path)


def _junk(top: Path, truth: Truth) -> None:
    for name in ("@eaDir", "$RECYCLE.BIN", ".ipynb_checkpoints", "#recycle", ".thumbnails"):
        touch(top / name / "x.png")


def _foreign(suffix: str, whole: bool) -> Callable[[Path, Truth], None]:
    def rename(top: Path, truth: Truth) -> None:
        first = next(iter(truth.labels.values()))
        chosen = [file for file, label in truth.labels.items() if label == first][: None if whole else 1]
        for file in chosen:
            file.rename(file.with_suffix(suffix))
            truth.labels[file.with_suffix(suffix)] = truth.labels.pop(file)
        truth.unless_said |= {"rows": (suffix,), "labels": (suffix,), "splits": (suffix, *truth.unless_said["splits"])}
        truth.said += (suffix,)

    return rename


def _stray(top: Path, truth: Truth) -> None:
    touch(top / "overview.png")
    truth.unless_said["rows"] = ("overview.png",)


def _others(top: Path, truth: Truth) -> None:
    (top / "README.txt").write_text("read me")
    (top / "empty").mkdir()
    touch(next(iter(truth.labels)).with_suffix(".txt"))


def _other_case(top: Path, truth: Truth) -> None:
    last = max(truth.labels, key=lambda file: file.relative_to(top).parts[:-1])
    folder = next(part for part in last.relative_to(top).parts if {part} == truth.labels[last])
    if folder.swapcase() != folder:
        there = Path(str(last).replace(f"/{folder}/", f"/{folder.swapcase()}/"))
        there.parent.mkdir(parents=True, exist_ok=True)
        last.rename(there)
        truth.labels[there] = truth.labels.pop(last)
        truth.unless_said["labels"] = (folder.swapcase(), "folder")


def _flat_test(top: Path, truth: Truth) -> None:
    for row in range(3):
        touch(top / "test" / f"unknown {row}.png")
    truth.unless_said |= {"rows": ("test",), "splits": ("test",)}


def _table(top: Path, truth: Truth) -> None:
    rows = [f"{file.relative_to(top).as_posix()},{row % 2}" for row, file in enumerate(truth.labels)]
    (top / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    truth.unless_said |= {"labels": ("metadata.csv",), "splits": ("metadata.csv",)}
    truth.said += ("metadata.csv",)


DISTURB: dict[str | None, Callable[[Path, Truth], None]] = {
    None: lambda top, truth: None,  # noqa: ARG005
    "other case": _other_case,
    "flat test": _flat_test,
    "table": _table,
    "hidden": _hidden,
    "junk": _junk,
    "others": _others,
    "masks": _masks,
    "stray": _stray,
    "one foreign": _foreign(".czi", whole=False),
    "one unknown": _foreign(".fit", whole=False),
    "a class of foreign": _foreign(".heic", whole=True),
}


@dataclass(frozen=True, kw_only=True)
class Tree:
    """How one made-up tree of folders is laid out, from the outermost to the innermost folder."""

    classes: tuple[str, ...]
    layout: str
    splits: dict[str, str]
    outer: tuple[str, ...]
    deeper: str
    rows: int
    suffix: str
    disturbed: str | None

    def make(self, top: Path) -> Truth:
        """Write the images."""
        folders = {"class": self.classes, "split": tuple(self.splits), "outer": self.outer}
        levels = self.layout.split("/")
        found: list[tuple[str, ...]] = [()]
        for level in levels:
            found = [(*above, name) for above in found for name in folders[level]]
        truth = Truth(data=top, unless_said={"labels": ("folder",), "splits": tuple(self.splits)})
        for names in found:
            for row in range(self.rows):
                file = touch(top.joinpath(*names, self.deeper, f"{'_'.join(names)} {row}{self.suffix}"))
                truth.labels[file] = frozenset([names[levels.index("class")]])
        DISTURB[self.disturbed](top, truth)
        if "split" in levels:
            place = len(top.parts) + levels.index("split")
            truth.splits = {file: self.splits[file.parts[place]] for file in truth.labels}
        return truth


def trees(**chosen: st.SearchStrategy[Any]) -> st.SearchStrategy[Tree]:
    return st.builds(Tree, splits=st.sampled_from(SPLIT_FOLDERS), outer=st.sampled_from(OUTER), rows=st.integers(1, 5),
                     suffix=st.sampled_from([".png", ".JPG", ".jpeg", ".tiff"]), **chosen)  # fmt: skip


usual_trees = trees(
    classes=st.sampled_from(CLASSES[:7]),
    layout=st.sampled_from(["class", "split/class"]),
    deeper=st.sampled_from(["", "images"]),
    disturbed=st.sampled_from([None, "hidden", "junk", "others"]),
)
any_trees = trees(
    classes=st.sampled_from(CLASSES),
    layout=st.sampled_from(["class", "split/class", "outer/class", "class/split", "class/outer", "split/outer/class"]),
    deeper=st.sampled_from(["", "images", "2020/01"]),
    disturbed=st.sampled_from(list(DISTURB)),
)


@pytest.mark.slow
@FUZZ
@given(usual_trees)
def test_usual_folders_are_read(tree: Tree) -> None:
    in_a_folder(check_all_is_read, tree.make)


@pytest.mark.slow
@FUZZ
@given(any_trees)
def test_no_folder_is_misread_in_silence(tree: Tree) -> None:
    in_a_folder(check_nothing_is_silent, tree.make)
