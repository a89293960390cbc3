"""Tables that list images: CSV, TSV, Parquet and pandas data frames."""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.core.errors import DataError
from biofuse.data.decoding import FileSource
from biofuse.data.folders import excluded
from biofuse.data.labels import RawLabels, label_text, listing
from biofuse.data.samples import LoadOptions, SampleTable

if TYPE_CHECKING:
    import pandas as pd

PATH_COLUMNS = ("path", "image", "file", "filename", "filepath", "file_name", "file_path", "image_path")
LABEL_COLUMNS = ("label", "class", "target", "diagnosis")
"""Column names that are recognised, in any case; others are named by the user."""

MANIFEST_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})

Columns = Mapping[str, Sequence[Any]]


def load_manifest(path: Path, options: LoadOptions) -> SampleTable:
    """Read a CSV, TSV or Parquet table of images; paths are relative to its folder, or to ``root=``.

    Raises
    ------
    DataError
        If the table is malformed, a column is missing or ambiguous, or a path is blank or listed twice.
    """
    columns = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    return _table(columns, options, name=path.stem, root=options.root or path.parent, where=str(path))


def load_frame(frame: "pd.DataFrame", options: LoadOptions) -> SampleTable:
    """Read a pandas data frame; paths are relative to ``root=``, or to the working directory."""
    names = [str(name) for name in frame.columns]
    _refuse_twins(names, "The data frame")
    columns = {name: frame.iloc[:, position].tolist() for position, name in enumerate(names)}
    return _table(columns, options, name="data frame", root=options.root or Path(), where="The data frame")


def _read_csv(path: Path) -> Columns:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.", remedy="Save it again as UTF-8.") from error
    header_line = text.split("\n", 1)[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header_line.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    header = [name.strip() for name in next(reader, [])]
    if not any(header):
        raise DataError(f"{path} has no header line.", remedy="Begin it with column names, such as path,label.")
    _refuse_twins(header, str(path))
    rows = []
    for row in reader:
        if not row:
            continue
        # A row longer than its header would silently shift every column (the published grids have such rows).
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {reader.line_num}: {len(row)} values, but the header names {len(header)} columns.",
                remedy="Quote values that contain the separator, and name every column.",
            )
        rows.append(row)
    return {name: [row[position] for row in rows] for position, name in enumerate(header)}


def _read_parquet(path: Path) -> Columns:
    import pyarrow
    from pyarrow import parquet

    try:
        columns: Columns = parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.", remedy="Write the table again.") from error
    return columns


def _refuse_twins(names: Sequence[str], where: str) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise DataError(f"{where} has two columns named {listing(twins)}.", remedy="Give every column its own name.")


def _table(columns: Columns, options: LoadOptions, *, name: str, root: Path, where: str) -> SampleTable:
    options.only("a table", "label", "group", "split", "id", "path", "root", "label_separator", "exclude")
    path_column = _column(columns, options.path, PATH_COLUMNS, "path", where)
    if path_column is None:
        raise DataError(
            f"{where} has no column of image paths; its columns are {listing(list(columns), limit=20)}.",
            remedy=f"Name it with path=, or call it one of {', '.join(PATH_COLUMNS)}.",
        )
    written = [label_text(value).replace("\\", "/") for value in columns[path_column]]
    blank = [f"row {row + 1}" for row, text in enumerate(written) if not text]
    if blank:
        raise DataError(f"{where}: no path in {listing(blank)}.", remedy="Fill in the paths or remove the rows.")
    paths = [os.path.normpath(Path(text)) for text in written]
    kept = [
        row for row, path in enumerate(paths) if not excluded(PurePosixPath(Path(path).as_posix()), options.exclude)
    ]
    ids = [_relative(paths[row], root) for row in kept]
    _refuse_repeated(ids, where)

    def pick(column: str | None) -> list[Any] | None:
        return None if column is None else [columns[column][row] for row in kept]

    id_column = _column(columns, _name(options.id, "id"), ("id",), "id", where)
    split_column = _column(columns, _name(options.split, "split"), ("split",), "split", where)
    group_column = _column(columns, _name(options.group, "group"), ("group",), "group", where)
    given_ids = pick(id_column)
    label_columns, labels = _labels(columns, options, kept, where)
    return SampleTable(
        name=name,
        ids=ids if given_ids is None else _given_ids(given_ids, ids, where),
        sources=[FileSource(root / paths[row]) for row in kept],
        labels=labels,
        columns=label_columns,
        splits=pick(split_column),
        groups=pick(group_column),
    )


def _name(value: object, what: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise DataError(f"{what}= must name a column of the table.", remedy=f'For example {what}="patient".')


def _column(columns: Columns, asked: str | None, usual: Sequence[str], what: str, where: str) -> str | None:
    if asked is not None:
        if asked not in columns:
            raise DataError(
                f"{where} has no column {asked!r}; its columns are {listing(list(columns), limit=20)}.",
                remedy=f"Correct {what}=.",
            )
        return asked
    found = [name for name in columns if name.strip().lower() in usual]
    if len(found) > 1:
        raise DataError(f"{where} has several {what} columns: {listing(found)}.", remedy=f"Choose one with {what}=.")
    return found[0] if found else None


def _labels(
    columns: Columns, options: LoadOptions, kept: Sequence[int], where: str
) -> tuple[tuple[str, ...], RawLabels | None]:
    if options.labelled is False:
        return (), None
    several = options.label is not None and not isinstance(options.label, str)
    if several:
        names = [_column(columns, name, (), "label", where) for name in options.label or ()]
        chosen = tuple(name for name in names if name is not None)
        if len(chosen) > 1:
            cells = np.empty((len(kept), len(chosen)), dtype=object)
            for position, name in enumerate(chosen):
                cells[:, position] = [columns[name][row] for row in kept]
            return chosen, cells
        label = chosen[0] if chosen else None
    else:
        label = _column(columns, _name(options.label, "label"), LABEL_COLUMNS, "label", where)
    if label is None:
        return (), None
    values = [columns[label][row] for row in kept]
    if options.label_separator is None:
        return (), values
    return (), [_split_labels(value, options.label_separator) for value in values]


def _split_labels(value: object, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in label_text(value).split(separator) if part.strip())


def _relative(path: str, root: Path) -> str:
    if Path(path).is_absolute():
        try:
            return Path(path).relative_to(root.resolve()).as_posix()
        except ValueError:  # outside the root: the absolute path is its name
            return Path(path).as_posix()
    return Path(path).as_posix()


def _refuse_repeated(ids: Sequence[str], where: str) -> None:
    if len(set(ids)) == len(ids):
        return
    twice = sorted(name for name, count in Counter(ids).items() if count > 1)
    raise DataError(
        f"{where} lists {len(twice)} image(s) more than once: {listing(twice)}.",
        remedy="Give one row per image; where several people labelled an image, agree on one label first.",
    )


def _given_ids(values: Sequence[object], paths: Sequence[str], where: str) -> list[str]:
    ids = [label_text(value) for value in values]
    blank = [path for path, name in zip(paths, ids, strict=True) if not name]
    if blank:
        raise DataError(f"{where}: no id for {listing(blank)}.", remedy="Fill in the ids, or rename the id column.")
    return ids
