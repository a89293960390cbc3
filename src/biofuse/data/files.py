"""Images in files: folders of them, and tables (CSV, TSV, Parquet, data frames) that list them."""

import csv
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.core.errors import BioFuseWarning, DataError, option
from biofuse.core.files import refuse_special_file
from biofuse.data.decoding import FileSource
from biofuse.data.labels import RawLabels, label_text, listing, natural_key
from biofuse.data.samples import SPLIT_NAMES, Request, SampleTable, split_name, ungrouped_warnings

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({
    ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
})  # fmt: skip
"""Suffixes (in lower case) of files that are taken for images; they are those of the formats that are opened."""

FOREIGN_SUFFIXES = frozenset({".avif", ".czi", ".dcm", ".dicom", ".heic", ".mrxs", ".ndpi", ".nii", ".npy", ".svs"})
"""Suffixes of images that are not read: passing over them is worth a warning."""


def is_image_name(path: Path | PurePosixPath) -> bool:
    """Tell whether a file is an image by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def load_folder(root: Path, request: Request) -> SampleTable:
    """Read ``[split/]class/**/image``, or a folder of images without classes.

    Raises
    ------
    DataError
        If the layout is mixed, so that some images would have no class or no split.
    """
    request.only("a folder", "exclude")
    files = _images_below(root, request.config.exclude)
    splits, labels = _layout(root, files, labelled=request.labelled is not False)
    return SampleTable(
        name=root.resolve().name,
        ids=[path.as_posix() for path in files],
        sources=[FileSource(root / path) for path in files],
        labels=labels,
        splits=splits,
    )


def load_image_file(path: Path, request: Request) -> SampleTable:
    """Read one image file as an unlabelled data set of one sample."""
    request.only("a single image")
    return SampleTable(name=path.stem, ids=[path.name], sources=[FileSource(path)])


def excluded(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    """Tell whether a file name, or a path relative to the data, matches one of the shell patterns."""
    return any(fnmatch(path.name, pattern) or fnmatch(path.as_posix(), pattern) for pattern in patterns)


def _images_below(root: Path, patterns: Sequence[str]) -> list[PurePosixPath]:
    files: list[PurePosixPath] = []
    passed_over: Counter[str] = Counter()
    seen: set[str] = set()
    # Linked class folders are common; the set of real paths keeps a link to a parent from turning in circles.
    for folder, names_below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        names_below[:] = [] if real in seen else [n for n in names_below if not n.startswith((".", "__MACOSX"))]
        if real in seen:
            continue
        seen.add(real)
        for name in names:
            path = PurePosixPath(Path(folder, name).relative_to(root).as_posix())
            if name.startswith(".") or excluded(path, patterns):
                continue
            if is_image_name(path):
                files.append(path)
            else:
                passed_over[path.suffix.lower() or path.name] += 1
    _tell_passed_over(root, passed_over)
    if not files:
        there = f" Other files there: {listing(sorted(passed_over))}." if passed_over else ""
        raise DataError(
            f"No images in {root}.{there}",
            remedy=f"Check the path; images end in {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    return sorted(files, key=lambda path: natural_key(path.as_posix()))


def _tell_passed_over(root: Path, passed_over: Counter[str]) -> None:
    foreign = {suffix: n for suffix, n in passed_over.items() if suffix in FOREIGN_SUFFIXES}
    if foreign:
        counts = ", ".join(f"{n} {suffix}" for suffix, n in sorted(foreign.items()))
        warnings.warn(f"{root}: files of formats that are not read were passed over: {counts}.", BioFuseWarning, 2)
    if passed_over:
        logger.info("%s: passed over files that are no images: %s", root, dict(passed_over))


def _layout(root: Path, files: Sequence[PurePosixPath], *, labelled: bool) -> tuple[list[str] | None, list[str] | None]:
    tops = {path.parts[0] for path in files if len(path.parts) > 1}
    split_folders = {top for top in tops if top.lower() in SPLIT_NAMES}
    splits = None
    inner = list(files)
    if split_folders:
        stray = [path.as_posix() for path in files if path.parts[0] not in split_folders]
        if stray:
            raise DataError(
                f"{root} has split folders ({listing(sorted(split_folders))}), but these images lie outside them: "
                f"{listing(stray)}.",
                remedy=f"Move them into a split, or leave them out: {option('exclude')}.",
            )
        if len({split_name(top) for top in split_folders}) != len(split_folders):
            raise DataError(f"{root} has two folders for one split: {listing(sorted(split_folders))}.")
        splits = [split_name(path.parts[0]) for path in files]
        inner = [PurePosixPath(*path.parts[1:]) for path in files]
    if not labelled:
        return splits, None
    loose = [file.as_posix() for file, path in zip(files, inner, strict=True) if len(path.parts) == 1]
    if len(loose) == len(files):
        return splits, None
    if loose:
        raise DataError(
            f"{root}: some images lie in class folders and others beside them: {listing(loose)}.",
            remedy=f"Move them into a class folder, or leave them out: {option('exclude')}; to embed without classes: "
            f"{option('labelled', False)}.",
        )
    return splits, [path.parts[0] for path in inner]


PATH_COLUMNS = ("path", "image", "file", "filename", "filepath", "file_name", "file_path", "image_path")
LABEL_COLUMNS = ("label", "class", "target", "diagnosis")
"""Column names that are recognised, in any case; others are named by the user."""

TABLE_OPTIONS = (
    "label", "group", "split", "id", "path", "root", "extension", "label_separator", "blank_as", "exclude",
)  # fmt: skip
"""Options that mean something for a table."""

MANIFEST_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})

Columns = Mapping[str, Sequence[Any]]


def load_manifest(path: Path, request: Request) -> SampleTable:
    """Read a CSV, TSV or Parquet table of images; paths are relative to its folder, or to ``root``.

    Raises
    ------
    DataError
        If the table is malformed, a column is missing or ambiguous, or a path is blank or listed twice.
    """
    columns = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    return _table(columns, request, name=path.stem, root=request.config.root or path.parent, where=str(path))


def load_frame(frame: "pd.DataFrame", request: Request) -> SampleTable:
    """Read a pandas data frame; paths are relative to ``root=``, or to the working directory."""
    names = [str(name) for name in frame.columns]
    _refuse_twins(names, "The data frame")
    columns = {name: frame.iloc[:, position].tolist() for position, name in enumerate(names)}
    return _table(columns, request, name="data frame", root=request.config.root or Path(), where="The data frame")


def _read_csv(path: Path) -> Columns:
    try:
        refuse_special_file(path)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", remedy="Give a file that you may read.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.", remedy="Save it again as UTF-8.") from error
    header_line = text.split("\n", 1)[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header_line.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    lines = _parsed(reader, path)
    header = [name.strip() for name in next(lines, [])]
    if not any(header):
        raise DataError(f"{path} has no header line.", remedy="Begin it with column names, such as path,label.")
    _refuse_twins(header, str(path))
    rows = []
    for row in lines:
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


def _parsed(reader: Any, path: Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV; a quotation mark that is never closed makes one huge value of all that follows it."""
    begins = 1
    try:
        for row in reader:
            yield row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {begins}: cannot be read as CSV: {error}.",
            remedy="Look there for a quotation mark that is not closed; within a quoted value it is written twice.",
        ) from error


def _read_parquet(path: Path) -> Columns:
    from pyarrow import ArrowException, parquet

    try:
        refuse_special_file(path)
        columns: Columns = parquet.read_table(path).to_pydict()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.", remedy="Write the table again.") from error
    return columns


def _refuse_twins(names: Sequence[str], where: str) -> None:
    twins = sorted(name for name, count in Counter(names).items() if count > 1)
    if twins:
        raise DataError(f"{where} has two columns named {listing(twins)}.", remedy="Give every column its own name.")


def _table(columns: Columns, request: Request, *, name: str, root: Path, where: str) -> SampleTable:
    request.only("a table", *TABLE_OPTIONS)
    config = request.config
    for what, values in (("group", request.groups), ("split", request.splits), ("id", request.ids)):
        if values is not None:
            raise DataError(f"{option(what)} must name a column of the table.", remedy=f"{option(what, what)}, say.")
    path_column = _column(columns, config.path, PATH_COLUMNS, "path", where)
    if path_column is None:
        raise DataError(
            f"{where} has no column of image paths; its columns are {listing(list(columns), limit=20)}.",
            remedy=f"Name it: {option('path')}; or call it one of {', '.join(PATH_COLUMNS)}.",
        )
    written = [label_text(value).replace("\\", "/") for value in columns[path_column]]
    blank = [f"row {row + 1}" for row, text in enumerate(written) if not text]
    if blank:
        raise DataError(f"{where}: no path in {listing(blank)}.", remedy="Fill in the paths or remove the rows.")
    paths = [Path(os.path.normpath(Path(text))) for text in written]
    kept = [row for row, path in enumerate(paths) if not excluded(PurePosixPath(path.as_posix()), config.exclude)]
    ids = [_relative(paths[row], root) for row in kept]
    _refuse_repeated(ids, where)

    def pick(column: str | None) -> list[Any] | None:
        return None if column is None else [columns[column][row] for row in kept]

    id_column = _column(columns, config.id, ("id",), "id", where)
    split_column = _column(columns, config.split, ("split",), "split", where)
    group_column = _column(columns, config.group_column, () if config.ungrouped else ("group",), "group", where)
    given_ids = pick(id_column)
    label_columns, labels = _labels(columns, request, kept, where)
    used = {path_column, id_column, split_column, *label_columns, *config.label_columns(columns)}
    ungrouped = group_column is None and not config.ungrouped
    return SampleTable(
        name=name,
        ids=ids if given_ids is None else _given_ids(given_ids, ids, where),
        sources=[FileSource(root / paths[row]) for row in kept],
        labels=labels,
        columns=label_columns,
        splits=pick(split_column),
        groups=pick(group_column),
        warnings=tuple(ungrouped_warnings({n: pick(n) or () for n in columns}, used)) if ungrouped else (),
    )


def _column(columns: Columns, asked: str | None, usual: Sequence[str], what: str, where: str) -> str | None:
    if asked is not None:
        if asked not in columns:
            raise DataError(
                f"{where} has no column {asked!r}; its columns are {listing(list(columns), limit=20)}.",
                remedy=f"Correct {option(what)}.",
            )
        return asked
    found = [name for name in columns if name.strip().lower() in usual]
    if len(found) > 1:
        raise DataError(f"{where} has several {what} columns: {listing(found)}.", remedy=f"Choose one: {option(what)}.")
    return found[0] if found else None


def _labels(
    columns: Columns, request: Request, kept: Sequence[int], where: str
) -> tuple[tuple[str, ...], RawLabels | None]:
    if request.labelled is False:
        return (), None
    chosen = request.config.label_columns(columns)
    for name in chosen:
        _column(columns, name, (), "label", where)
    if len(chosen) > 1:
        cells = np.empty((len(kept), len(chosen)), dtype=object)
        for position, name in enumerate(chosen):
            cells[:, position] = [columns[name][row] for row in kept]
        return chosen, cells
    label = chosen[0] if chosen else _column(columns, None, LABEL_COLUMNS, "label", where)
    if label is None:
        return (), None
    values = [columns[label][row] for row in kept]
    if request.config.label_separator is None:
        return (), values
    parts = [label_text(value).split(request.config.label_separator) for value in values]
    return (), [tuple(part.strip() for part in each if part.strip()) for each in parts]


def _relative(path: Path, root: Path) -> str:
    inside = path.is_absolute() and path.is_relative_to(root.resolve())  # outside the root its whole path is its name
    return (path.relative_to(root.resolve()) if inside else path).as_posix()


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
