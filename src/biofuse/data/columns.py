"""Which column of a table is what: by its header, and where headers do not say it, by what the column holds."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from biofuse.core.errors import DataError, option
from biofuse.data.labels import label_text, listing
from biofuse.data.lookup import ImageFinder, as_path, is_address, is_image_name

Columns = Mapping[str, Sequence[Any]]
"""The cells of a table, by header."""

PATH_HEADERS = frozenset({
    "path", "paths", "filepath", "filepaths", "imagepath", "imagepaths", "imgpath", "relpath", "relativepath",
    "fullpath", "abspath", "absolutepath", "localpath", "pngpath", "jpgpath", "tifpath", "file", "files", "filename",
    "filenames", "fname", "imagefile", "imgfile", "imagefilename", "imgfilename", "imagefilepath", "filelocation",
    "imagelocation",
})  # fmt: skip
IMAGE_HEADERS = frozenset({
    "image", "images", "img", "imgs", "imagename", "imagenames", "imgname", "imageid", "imageids", "imgid",
    "imageindex", "imageuid", "imagekey", "imageno", "imagenumber", "idcode", "isicid", "picture", "photo", "pic",
    "scan", "tile", "patch", "slice", "frame",
})  # fmt: skip
"""Headers of image paths, of the surer kind and of the other, as :func:`plain` writes them."""

LABEL_HEADERS = frozenset({"label", "class", "target", "diagnosis"})
MORE_LABEL_HEADERS = frozenset({
    "labels", "classes", "targets", "category", "categories", "cls", "classname", "classlabel", "labelname",
    "finelabel", "dx", "diagnoses", "findinglabel", "findinglabels", "finding", "findings", "groundtruth", "gt",
    "outcome", "pathology", "disease", "grade", "level", "severity", "benignmalignant", "celltype", "tissuetype",
    "tumortype", "diagnosislabel", "imagelabel", "truelabel", "goldlabel", "ytrue",
})  # fmt: skip
"""Headers of labels, of the surer kind and of the other."""

SPLIT_HEADERS = frozenset({"split", "splits"})
MORE_SPLIT_HEADERS = frozenset({
    "partition", "set", "subset", "phase", "datasplit", "splitname", "dataset", "traintest", "traintestsplit", "usage",
    "fold", "mode", "purpose", "cohort",
})  # fmt: skip
FOLD_HEADERS = frozenset({"fold", "folds", "kfold", "cvfold", "foldid"})
YES_SPLITS = {
    "istest": "test", "intest": "test", "testset": "test", "isval": "val", "isvalidation": "val",
    "istrain": "train", "istraining": "train", "intrain": "train",
}  # fmt: skip
"""Headers of columns of yes and no, and the split that yes means."""
YES = {"1": True, "true": True, "yes": True, "y": True, "t": True, "0": False, "false": False, "no": False, "n": False,
       "f": False, "1.0": True, "0.0": False}  # fmt: skip

SPLIT_NAMES = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val", "tune": "val", "tuning": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
"""What folders, columns and data sets call their splits, as :func:`split_of` reads them."""
SPLIT_AFFIXES = re.compile(
    r"^(?:stage[ _-]?\d+[ _-]|images?[ _-]|imgs?[ _-])|[ _-]?(?:sets?|data|splits?|images?|imgs?)$"
)

PROBED = 200
"""How many values of a column are looked for on the disk to tell whether they name images."""
ENOUGH = 0.5
"""The share of them that must be found."""
MOST_COLUMNS = 1000
"""How many columns are looked at where no header says which one names the images."""


def plain(header: str) -> str:
    """Write a header in lower case, letters and digits only: ``Image Index``, ``image_index``, ``imageIndex``."""
    return "".join(letter for letter in header.casefold() if letter.isalnum())


def split_of(text: object) -> str | None:
    """Return the split that a name such as ``Training``, ``test_set`` or ``dev`` means; None where it is none."""
    name = str(text).strip().casefold()
    for _ in range(3):
        if name in SPLIT_NAMES:
            return SPLIT_NAMES[name]
        name = SPLIT_AFFIXES.sub("", name).strip(" _-")
    return None


def asked_column(columns: Collection[str], name: str, what: str, where: str) -> str:
    """Return the column of that name; one whose header differs in case or signs only counts where it is alone.

    Raises
    ------
    DataError
        If there is none.
    """
    if name in columns:
        return name
    alike = [column for column in columns if plain(column) == plain(name)]
    if len(alike) == 1:
        return alike[0]
    near = difflib.get_close_matches(name.casefold(), [column.casefold() for column in columns], n=1, cutoff=0.6)
    close = next((column for column in columns if near and column.casefold() == near[0]), None)
    raise DataError(
        f"{where} has no column {name!r}; its columns are {listing(list(columns), limit=20)}.",
        remedy=f"Did you mean {option(what, close)}?" if close else f"Correct {option(what)}.",
    )


def path_column(
    columns: Columns, asked: str | None, finder: ImageFinder, where: str, used: Collection[str] = ()
) -> tuple[str, list[str]]:
    """Find the column that names images.

    Parameters
    ----------
    columns : mapping of str to sequence
    asked : str or None
        What it was said to be.
    finder : ImageFinder
        Tells which values are images that are there.
    where : str
        What the table is called.
    used : collection of str
        Columns that are something else.

    Returns
    -------
    column : str
    notes : list of str
        How it was chosen, where more than one could be meant.

    Raises
    ------
    DataError
        If there is none, or two that name different images.
    """
    if asked is not None:
        return asked_column(columns, asked, "path", where), []
    named = [name for name in columns if plain(name) in PATH_HEADERS | IMAGE_HEADERS]
    if len(named) == 1 and (_looks_like_paths(columns[named[0]]) or _share(columns[named[0]], finder)):
        return named[0], []
    free = [name for name in list(columns)[:MOST_COLUMNS] if name not in {*named, *used} and not _is_told(name)]
    others = [name for name in free if _mostly_distinct(columns[name])]
    best = _naming(columns, named, finder) or _naming(columns, others, finder)
    if not best and named:
        best = [name for name in named if plain(name) in PATH_HEADERS] or named
    if len(best) > 1 and len({tuple(map(label_text, columns[name])) for name in best}) == 1:
        best = best[:1]
    if len(best) == 1 and not named and finder.count([best[0]]):
        raise DataError(
            f"{where}: its first line looks like data, not like column names: {listing(list(columns))}.",
            remedy="Put a line of column names above it, such as path,label.",
        )
    if len(best) == 1:
        over = [name for name in named if name != best[0]]
        if not over and named:
            return best[0], []
        why = f", not {listing(over)}" if over else "; no header says so"
        return best[0], [f"{where}: column {best[0]!r} names the images{why}. {option('path')} names another."]
    if best:
        raise DataError(
            f"{where} has several path columns: {listing(best)}.",
            remedy=f"Choose one: {' or '.join(option('path', name) for name in best[:4])}.",
        )
    raise DataError(
        f"{where} has no column of image paths; its columns are {listing(list(columns), limit=20)}.",
        remedy=f"Name it: {option('path')}; and where its names lack a folder or an extension, {option('root')} and "
        f"{option('extension')}.",
    )


def _is_told(header: str) -> bool:
    """Tell whether a header says that a column is something else than images."""
    others = LABEL_HEADERS | MORE_LABEL_HEADERS | SPLIT_HEADERS | MORE_SPLIT_HEADERS | FOLD_HEADERS | set(YES_SPLITS)
    return plain(header) in others | {"group", "age", "sex"}


def _naming(columns: Columns, names: Sequence[str], finder: ImageFinder) -> list[str]:
    """Return the columns most of whose values are images that are there, or else are called as images are."""
    there = [name for name in names if _share(columns[name], finder) > ENOUGH]
    return there or [name for name in names if _looks_like_paths(columns[name])]


def _sample(values: Sequence[Any]) -> list[str]:
    """Return some of the values of a column as text, spread over the table."""
    step = max(len(values) // PROBED, 1)
    return [
        label_text(value) for value in values[::step][:PROBED] if isinstance(value, str | int) and label_text(value)
    ]


def _share(values: Sequence[Any], finder: ImageFinder) -> float:
    """Return for which share of a column's values there is an image."""
    if values and holds_images(values):
        return 1.0
    names = _sample(values)
    if not names or any("://" in name or len(name) > 1000 for name in names):
        return 0.0
    return finder.count(names) / len(names)


def _looks_like_paths(values: Sequence[Any]) -> bool:
    names = [name.partition("?")[0] if is_address(name) else name for name in _sample(values)]
    return bool(names) and sum(map(is_image_name, names)) > ENOUGH * len(names)


def _mostly_distinct(values: Sequence[Any]) -> bool:
    """Tell a name of images, which may repeat in a table of findings, from a class or a count."""
    return holds_images(values) or len(set(map(label_text, values))) > len(values) / 10


def holds_images(values: Sequence[Any]) -> bool:
    """Tell whether a column holds images themselves, as tables of Hugging Face do: bytes, or ``{bytes, path}``."""
    first = next((value for value in values if value is not None), None)
    return isinstance(first, bytes) or (isinstance(first, Mapping) and bool({"bytes", "path"} & set(first)))


def label_column(columns: Columns, used: Collection[str], where: str) -> tuple[str | None, list[str], list[str]]:
    """Find the column of labels.

    Parameters
    ----------
    columns : mapping of str to sequence
    used : collection of str
        Columns that are something else.
    where : str
        What the table is called.

    Returns
    -------
    column : str or None
    notes : list of str
        That none was recognised, or how it was chosen.
    warnings : list of str
        That several could be meant, so that none was chosen.

    Raises
    ------
    DataError
        If two are called so that they must be meant.
    """
    free = {name: values for name, values in columns.items() if name not in used}
    sure = [name for name in free if plain(name) in LABEL_HEADERS]
    rest = [name for name in free if plain(name) in MORE_LABEL_HEADERS]
    found = sure or rest
    if len(found) > 1 and sure:
        found = [*found, *rest]
    choose = " or ".join(option("label", name) for name in found[:4])
    if len(found) > 1 and sure:
        raise DataError(f"{where} has several label columns: {listing(found)}.", remedy=f"Choose one: {choose}.")
    if len(found) > 1:
        return None, [], [f"{where}: {listing(found)} may hold the labels, and none is used. Choose one: {choose}."]
    if not found and not free:
        return None, [f"{where}: no column but that of the images, so there are no labels."], []
    if not found:
        among = listing(list(free), limit=12)
        names = f"{option('label')}, or a time to an event with {option('time')} and {option('event')}"
        return None, [f"{where}: no label column was recognised among {among}. Name it with {names}."], []
    others = [name for name in rest if name != found[0]]
    if not sure or others:
        over = f", not {listing(others)}" if others else ""
        return found[0], [f"{where}: column {found[0]!r} holds the labels{over}. {option('label')} names another."], []
    return found[0], [], []


def id_column(columns: Columns, asked: str | None, used: Collection[str], where: str) -> tuple[str | None, list[str]]:
    """Find the column of unique names; one called so that repeats is none, and is pointed out.

    Raises
    ------
    DataError
        If there is no column that was asked for.
    """
    if asked is not None:
        return asked_column(columns, asked, "id", where), []
    found = [name for name in columns if plain(name) == "id" and name not in used]
    if len(found) != 1:
        return None, []
    names = [label_text(value) for value in columns[found[0]]]
    if len(set(names)) == len(names) and all(names):
        return found[0], []
    why = f"holds {len(set(names))} values for {len(names)} rows" if all(names) else "has blank cells"
    group = f" If it names patients, add {option('group', found[0])}." if all(names) else ""
    return None, [f"{where}: column {found[0]!r} {why}, so samples are named by their paths.{group}"]


def split_values(
    columns: Columns, asked: str | None, used: Collection[str], where: str
) -> tuple[list[Any] | None, list[str], list[str]]:
    """Find the split of every row.

    Returns
    -------
    splits : list or None
        As they are written; None where no column holds any.
    notes : list of str
        Which column it is, where it is not called split.
    warnings : list of str
        Columns that hold splits and are not used.

    Raises
    ------
    DataError
        If there is no column that was asked for, or two hold different splits.
    """
    if asked is not None:
        column = asked_column(columns, asked, "split", where)
        yes = YES_SPLITS.get(plain(column)) or split_of(plain(column).removeprefix("is"))
        read = None if yes is None else _yes_or_no(columns[column], yes)
        return list(columns[column]) if read is None else read, [], []
    free = {name: values for name, values in columns.items() if name not in used}
    sure = [name for name in free if plain(name) in SPLIT_HEADERS]
    named: dict[str, list[Any]] = {}
    # A column "test" may hold the result of one; "train" and "test" side by side do not.
    pair = [name for name in free if plain(name) in SPLIT_NAMES and _yes_or_no(free[name], "test") is not None]
    yes_of = {name: SPLIT_NAMES[plain(name)] for name in pair} if len(pair) > 1 else {}
    yes_of |= {name: YES_SPLITS[plain(name)] for name in free if plain(name) in YES_SPLITS}
    for name, values in free.items():
        if name in sure:
            continue
        yes = yes_of.get(name)
        read = _yes_or_no(values, yes) if yes else _split_names(values)
        if read is not None:
            named[name] = read
    if sure:
        twin = [name for name in named if named[name] != [split_of(value) for value in free[sure[0]]]]
        warnings = [_not_used(where, name) for name in twin]
        rest = {name: values for name, values in free.items() if name not in {*twin, *sure}}
        return list(free[sure[0]]), [], [*warnings, *_folds(rest, where)]
    together = _joined_yes(named, yes_of)
    if together is not None:
        named = {" and ".join(named): together}
    if len({tuple(values) for values in named.values()}) > 1:
        choose = " or ".join(option("split", name) for name in list(named)[:4])
        raise DataError(
            f"{where}: {listing(list(named))} hold different splits.",
            remedy=f"Choose one: {choose}; or have splits made anew: {option('use_splits', False)}.",
        )
    if not named:
        return None, [], _folds(free, where)
    column, values = next(iter(named.items()))
    counts = ", ".join(f"{values.count(split)} {split}" for split in ("train", "val", "test") if split in values)
    note = f"{where}: column {column!r} holds the splits ({counts}). {option('use_splits', False)} makes new ones."
    return values, [note], []


def _split_names(values: Sequence[Any]) -> list[str] | None:
    """Read a column of split names; None where a value is none, or all are the same."""
    distinct = {label_text(value) for value in values if isinstance(value, str)}
    if not 2 <= len(distinct) <= 12 or not all(isinstance(value, str) for value in values):
        return None
    names = {text: split_of(text) for text in distinct}
    found = {name for name in names.values() if name is not None}
    if None in names.values() or len(found) < 2 or "train" not in found:
        return None
    return [names[label_text(value)] or "" for value in values]


def _yes_or_no(values: Sequence[Any], yes: str) -> list[str] | None:
    read = [YES.get(label_text(value).casefold()) for value in values]
    if None in read or len(set(read)) < 2:
        return None
    return [yes if value else "test" if yes == "train" else "train" for value in read]


def _joined_yes(named: Mapping[str, list[Any]], yes_of: Mapping[str, str]) -> list[str] | None:
    """Join columns such as is_train, is_val and is_test, where no row is in two of them.

    A row that is in none is train where no column says which are; where one does, such a row is in no split at all.
    """
    if len(named) < 2 or any(name not in yes_of for name in named):
        return None
    joined: list[str] = []
    for row in range(len(next(iter(named.values())))):
        held = {yes_of[name] for name in named if named[name][row] == yes_of[name]}
        if len(held) > 1 or (not held and "train" in {yes_of[name] for name in named}):
            return None
        joined.append(held.pop() if held else "train")
    return joined


def _folds(columns: Columns, where: str) -> list[str]:
    """Point out columns that number folds, or hold the words of splits among others."""
    found = []
    for name, values in columns.items():
        if plain(name) not in FOLD_HEADERS | MORE_SPLIT_HEADERS | {"isvalid"}:
            continue
        texts = {label_text(value) for value in values[:10_000]}
        if plain(name) in FOLD_HEADERS and 2 <= len(texts) <= 20 and not any(map(split_of, texts)):
            found.append(
                f"{where}: column {name!r} numbers {len(texts)} folds, which are not used: folds are made anew. Where "
                f"one of them is the test set, write train and test into a column and name it: {option('split')}."
            )
        elif len(texts) <= 12 and (any(map(split_of, texts)) or plain(name) == "isvalid"):
            found.append(_not_used(where, name, texts))
    return found


def _not_used(where: str, name: str, texts: Collection[str] = ()) -> str:
    held = f" ({listing(sorted(text or 'blank' for text in texts))})" if texts else ""
    return f"{where}: column {name!r} seems to hold splits{held} and is not used. To use it: {option('split', name)}."


def paths_of(columns: Columns, name: str, where: str) -> list[str]:
    """Return the paths of a column.

    Raises
    ------
    DataError
        If a cell is blank.
    """
    written = [label_text(value) for value in columns[name]]
    blank = [f"row {row + 1}" for row, text in enumerate(written) if not text]
    if blank:
        raise DataError(f"{where}: no path in {listing(blank)}.", remedy="Fill in the paths or remove the rows.")
    return [as_path(text) for text in written]


GROUPING = frozenset({
    "accession", "animal", "biopsy", "case", "donor", "exam", "examination", "individual", "lesion", "mouse",
    "participant", "patient", "person", "slide", "smear", "specimen", "study", "subject", "volunteer", "wsi",
})  # fmt: skip
NAMING = frozenset({
    "code", "hash", "id", "identifier", "instance", "key", "name", "no", "nr", "num", "number", "pid", "uid",
})  # fmt: skip
"""Words for what several images have in common, and for the name of such a thing."""


def looks_like_groups(column: str) -> bool:
    """Tell whether a column names patients, slides or the like, by its own name.

    Examples
    --------
    >>> [looks_like_groups(name) for name in ("patientId", "Patient ID", "subjects", "StudyInstanceUID", "smear")]
    [True, True, True, True, True]
    >>> [looks_like_groups(name) for name in ("Patient Age", "id", "image_name")]
    [False, False, False]
    """
    words = [word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+", column)]
    things = [word for word in words if word in GROUPING or word.removesuffix("s") in GROUPING or word == "pid"]
    return bool(things) and all(word in NAMING or word in things for word in words)


def ungrouped_warnings(columns: Mapping[str, Sequence[Any]], used: Collection[str | None]) -> Iterator[str]:
    """Point out columns that name patients or the like and repeat, where samples are given no groups.

    Parameters
    ----------
    columns : mapping of str to sequence
        Values of the rows that are used, by column.
    used : collection of str
        Columns that have a role already.
    """
    found = []
    for name, values in columns.items():
        if name not in used and looks_like_groups(name):
            texts = [text for value in values if (text := label_text(value))]
            if 1 < len(set(texts)) < len(texts):
                found.append((len(set(texts)), name))
    if found:
        shown = " and ".join(f"{name} has {n} values" for n, name in sorted(found))
        yield (
            f"{shown} for {len(next(iter(columns.values())))} rows: add {option('group', min(found)[1])}, so that what "
            f"belongs together stays together in every split, or {option('group', 'none')}."
        )
