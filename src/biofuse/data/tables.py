"""Tables that list images: CSV, TSV, JSON lines, Parquet, Feather and data frames."""

import csv
import gzip
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.core.errors import DataError, option
from biofuse.core.files import refuse_special_file
from biofuse.data.assembly import Request, SampleTable
from biofuse.data.columns import (
    IMAGE_HEADERS,
    PATH_HEADERS,
    SPLIT_HEADERS,
    Columns,
    asked_column,
    holds_images,
    id_column,
    label_column,
    path_column,
    paths_of,
    plain,
    split_of,
    split_values,
    ungrouped_warnings,
)
from biofuse.data.config import IDENTIFIERS
from biofuse.data.cuts import Source
from biofuse.data.decoding import FileSource, ItemSource
from biofuse.data.labels import RawLabels, label_text, listing
from biofuse.data.lookup import ImageFinder, bare_name, excluding, is_address, is_image_name, left_out
from biofuse.data.remote import address_names, below_address, remote_sources
from biofuse.data.samples import row_id

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz")
ARROW_SUFFIXES = (".parquet", ".feather")
TABLE_SUFFIXES = TEXT_SUFFIXES + JSON_SUFFIXES + ARROW_SUFFIXES
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
"""Names of files that are tables, and of those that must be exported first."""

TABLE_OPTIONS = (
    "label", "time", "event", "group", "bag", "weight", "by", "site", "split", "id", "path", "root", "extension",
    "label_separator", "blank_as", "uncertain_as", "exclude", "allow_remote", "allow_private", "remote_cache",
)  # fmt: skip
"""Options that mean something for a table."""

SEPARATORS = ",;\t|"
SNIFFED = 100
"""How many rows decide what separates the columns."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """A table as it lies on the disk.

    Attributes
    ----------
    columns : mapping of str to sequence
    names : dict of str to tuple of str
        Of columns of numbers that stand for classes, the classes' names.
    orders : dict of str to tuple of str
        Of columns that say in which order their values come, these values.
    notes : list of str
        What was passed over.
    """

    columns: Columns
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    orders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_table_name(path: Path | str) -> bool:
    """Tell by its name whether a file is a table that is read, or could be with a change."""
    return Path(path).name.lower().endswith(TABLE_SUFFIXES + SPREADSHEETS)


def load_manifest(path: Path, request: Request, read: Read | None = None) -> SampleTable:
    """Read a table file of images; paths are relative to its folder, or to ``root``.

    Parameters
    ----------
    path : Path
    request : Request
    read : Read, optional
        What lies in the file, where it is known.

    Raises
    ------
    DataError
        If the table is malformed, a column is missing or ambiguous, or images are missing, ambiguous or listed twice.
    """
    root = request.config.folder
    if root is not None and not root.is_dir() and (path.parent / root).is_dir():
        root = path.parent / root
    read = read_table(path) if read is None else read
    return _table(read, request, name=path.stem, root=root or path.parent, where=str(path))


def load_frame(frame: "pd.DataFrame", request: Request) -> SampleTable:
    """Read a pandas data frame; paths are relative to ``root``, or to the working directory."""
    names = [str(name) for name in frame.columns]
    _refuse_twins(names, "The data frame")
    columns = {name: frame.iloc[:, position].tolist() for position, name in enumerate(names)}
    orders = {
        name: tuple(map(label_text, frame.iloc[:, position].cat.remove_unused_categories().cat.categories))
        for position, name in enumerate(names)
        if getattr(frame.dtypes.iloc[position], "ordered", False)
    }
    read = Read(columns=columns, orders=orders)
    return _table(read, request, name="data frame", root=request.config.folder or Path(), where="The data frame")


def load_shards(root: Path, splits: Mapping[Path, str], request: Request) -> SampleTable:
    """Read the tables that one data set of Hugging Face is kept in, such as ``train-00000-of-00002.parquet``.

    Parameters
    ----------
    root : Path
        The folder that holds them.
    splits : mapping of Path to str
        The split that each of them is named by.
    request : Request

    Raises
    ------
    DataError
        If they differ in their columns or class names, or have a column that contradicts the splits in their names.
    """
    parts = [read_table(path) for path in splits]
    for read in parts:
        if list(read.columns) != list(parts[0].columns) or read.names != parts[0].names:
            what = "columns" if list(read.columns) != list(parts[0].columns) else "class names"
            raise DataError(
                f"{root} holds {len(parts)} tables that have different {what}: "
                f"{listing([path.name for path in splits])}.",
                remedy="Give one of them.",
            )
    columns = {name: [value for read in parts for value in read.columns[name]] for name in parts[0].columns}
    lengths = [len(next(iter(read.columns.values()), ())) for read in parts]
    by_name = [split for split, length in zip(splits.values(), lengths, strict=True) for _ in range(length)]
    own = next((name for name in columns if plain(name) in SPLIT_HEADERS), None)
    if own is None:
        columns["split"] = by_name
    elif request.config.use_splits and request.config.split is None and [*map(split_of, columns[own])] != by_name:
        raise DataError(
            f"{root}: column {own!r} says other splits than the names of the tables: "
            f"{listing([path.name for path in splits])}.",
            remedy=f"To go by the column: {option('split', own)}; to have splits made anew: "
            f"{option('use_splits', False)}.",
        )
    how = ", the splits by their names" if request.config.use_splits and request.config.split is None else ""
    notes = [f"{root}: read from {listing([path.name for path in splits])}{how}."]
    read = Read(columns=columns, names=parts[0].names, notes=[*notes, *(note for read in parts for note in read.notes)])
    return _table(read, request, name=root.resolve().name, root=request.config.folder or root, where=str(root))


def read_table(path: Path) -> Read:
    """Read a table file into columns.

    Raises
    ------
    DataError
        If it cannot be read without a guess.
    """
    name = path.name.lower()
    if name.endswith(SPREADSHEETS):
        raise DataError(f"{path}: spreadsheets are not read.", remedy="Save the sheet as CSV (UTF-8).")
    try:
        refuse_special_file(path)
        if name.endswith(ARROW_SUFFIXES):
            return _read_arrow(path)
        raw = path.read_bytes()
        text = _text(path, gzip.decompress(raw) if name.endswith(".gz") else raw)
        return _read_json(path, text) if name.endswith(JSON_SUFFIXES) else _read_csv(path, text)
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror if isinstance(error, OSError) else error}.",
            remedy="Give a whole file that you may read.",
        ) from error


# --- text


def _text(path: Path, raw: bytes) -> str:
    encoding = "utf-16" if raw[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.", remedy="Save it again as UTF-8.") from error


def _read_json(path: Path, text: str) -> Read:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: no JSON: {error}.", remedy="Write one object a line.") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not an object.", remedy='Write {"path": ..., "label": ...}.')
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return Read(columns={str(name): [row.get(name) for row in rows] for name in names})


def _read_csv(path: Path, text: str) -> Read:
    lines = list(io.StringIO(text, newline=""))
    first, separator = _begin(lines, "\t" if ".tsv" in Path(path.name.lower()).suffixes else None)
    records = _records(path, lines, first, separator)
    _, header = next(records, (0, []))
    header = [
        name.strip().removeprefix("#").strip() if not place else name.strip() for place, name in enumerate(header)
    ]
    notes = []
    if any(map(is_image_name, header)):
        # No column is called x.png: the first line is data already.
        records = itertools.chain([(first + 1, header)], records)
        header = [f"column {place + 1}" for place in range(len(header))]
        notes.append(f"{path}: the first line is no header, so that the columns are called {listing(header)}.")
    if not any(header):
        raise DataError(f"{path} has no header line.", remedy="Begin it with column names, such as path,label.")
    rows: list[list[str]] = []
    blank = 0
    for line, row in records:
        if not any(cell.strip() for cell in row):
            blank += bool(row)
            continue
        # A row longer than its header would silently shift every column (the published grids have such rows).
        if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
            raise DataError(
                f"{path}, line {line}: {len(row)} values, but the header names {len(header)} columns.",
                remedy="Quote values that contain the separator, and name every column.",
            )
        swallowed = _swallowed_row(row, rows[-20:], separator)
        if swallowed:
            raise DataError(
                f"{path}, line {line}: a quoted cell goes on over lines that look like rows, such as {swallowed!r}.",
                remedy="Close the quotation mark in this line.",
            )
        rows.append(row)
    names = {
        place: name or f"column {place + 1}"
        for place, name in enumerate(header)
        if name or any(row[place].strip() for row in rows)
    }
    _refuse_twins(list(names.values()), str(path))
    columns = {name: [row[place] for row in rows] for place, name in names.items()}
    _refuse_rows_for_headers(columns, path)
    if blank:
        notes.append(f"{path}: {blank} blank rows were passed over.")
    return Read(columns=columns, notes=notes)


def _begin(lines: Sequence[str], separator: str | None) -> tuple[int, str]:
    """Return the line of the header, and what separates the columns."""
    first = 0
    while first < len(lines) and not lines[first].strip():
        first += 1
    told = re.fullmatch(r'"?sep=(.)"?\s*', lines[first], re.IGNORECASE) if first < len(lines) else None
    if told:
        return first + 1, told[1]
    while first + 1 < len(lines) and lines[first].startswith("#"):
        # A header may itself begin with "#": one of its columns then names images.
        if any(plain(name) in PATH_HEADERS | IMAGE_HEADERS for name in re.split(f"[{SEPARATORS}]", lines[first])):
            break
        first += 1
    return first, separator or _separator(lines[first:])


def _separator(lines: Sequence[str]) -> str:
    """Return the sign that cuts the most rows into as many columns as the header has."""

    def agreement(sign: str) -> tuple[int, int]:
        try:
            widths = [len(row) for row in itertools.islice(csv.reader(lines, delimiter=sign), SNIFFED) if row]
        except csv.Error:
            return 0, 0
        return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)

    return max(SEPARATORS, key=agreement)


def _records(path: Path, lines: Sequence[str], first: int, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line in which each row begins, and the row."""
    reader = csv.reader(lines[first:], delimiter=separator, strict=True)
    while True:
        line = first + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line}: cannot be read as CSV: {error}.",
                remedy="Look there for a quotation mark that is not closed; within a quoted value it is written twice.",
            ) from error
        yield line, row


def _swallowed_row(row: list[str], before: Sequence[list[str]], separator: str) -> str:
    """Return a line inside a cell that looks like a row, because an earlier quotation mark was not closed."""
    inner = [line for cell in row if "\n" in cell or "\r" in cell for line in cell.splitlines()[1:]]
    shapes = {_shape(earlier[0]) for earlier in before} if inner else set()
    for line in inner:
        pieces = line.split(separator)
        like = _shape(pieces[0]) in shapes or any(map(is_image_name, pieces))
        if len(row) > 1 and len(pieces) >= len(row) and like:
            return line[:80]
    return ""


def _shape(text: str) -> str:
    return re.sub(r"\d", "0", text.strip())


def _refuse_twins(names: Sequence[str], where: str) -> None:
    twins = sorted(name for name, count in Counter(names).items() if count > 1)
    if twins:
        raise DataError(f"{where} has two columns named {listing(twins)}.", remedy="Give every column its own name.")


def _refuse_rows_for_headers(columns: Columns, path: Path) -> None:
    for name, values in columns.items():
        below = [value for value in values[:SNIFFED] if "/" in value]
        if "/" in name and values and len(below) == len(values[:SNIFFED]):
            raise DataError(
                f"{path}: its first line looks like data, not like column names: {listing(list(columns))}.",
                remedy="Put a line of column names above it, such as path,label.",
            )


# --- Arrow


def _read_arrow(path: Path) -> Read:
    from pyarrow import ArrowException, feather, parquet

    try:
        table = parquet.read_table(path) if path.suffix.lower() == ".parquet" else feather.read_table(path)
        _refuse_twins(table.column_names, str(path))
        return Read(columns=table.to_pydict(), names=_class_names(table.schema))
    except (ArrowException, OSError) as error:
        kind = path.suffix.lower().lstrip(".").capitalize()
        raise DataError(f"{path} cannot be read as {kind}: {error}.", remedy="Write the table again.") from error


def _class_names(schema: "pa.Schema") -> dict[str, tuple[str, ...]]:
    """Return the class names that Hugging Face keeps in a table's metadata."""
    try:
        kept = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = kept.get("info", {}).get("features", {})
        found = {name: _names_of(feature) for name, feature in features.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}
    return {name: tuple(map(str, names)) for name, names in found.items() if names}


def _names_of(feature: Any) -> list[Any] | None:
    """Return the names of a column of classes, or of lists of classes: ``{feature: ...}``, and ``[...]`` of old."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    elif isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    return names if isinstance(names, list) else None


# --- samples


@dataclass(frozen=True)
class Located:
    """Where the images of rows lie, and what is to be said of it."""

    sources: Sequence[Source]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def _table(read: Read, request: Request, *, name: str, root: Path, where: str) -> SampleTable:
    request.only("a table", *TABLE_OPTIONS)
    columns = read.columns
    request, absent = request.fitting(columns)
    config = request.config
    given = {"group": request.groups, "split": request.splits, "id": request.ids, "by": request.by}
    given |= {"site": request.sites, "weight": request.weights}
    for what, values in given.items():
        if values is not None:
            raise DataError(f"{option(what)} must name a column of the table.", remedy=f"{option(what, what)}, say.")
    finder = ImageFinder(root, searched=config.root is None, extension=config.extension)
    image, notes = path_column(columns, config.path, finder, where, config.label_columns(columns))
    held = holds_images(columns[image])
    paths = _held_names(columns[image]) if held else paths_of(columns, image, where)
    names = paths
    if not held:
        names = address_names([path if is_address(path) else _relative(Path(path), root) for path in paths])
    if not held and config.root_address is not None:
        whole = [name if config.extension is None else bare_name(name) + config.extension for name in paths]
        paths = [below_address(config.root_address, name) for name in whole]
    matched = [excluding(path, config.exclude) for path in paths]
    gone, unlike = left_out(where, "rows", config.exclude, Counter(itertools.chain.from_iterable(matched)))

    def locate(kept: Sequence[int]) -> Located:
        if held:
            return Located([ItemSource(columns[image], row, None, f"{where}: {paths[row]}") for row in kept])
        there = [row for row in kept if is_address(paths[row])]
        here = [row for row in kept if not is_address(paths[row])]
        remote, notes = remote_sources([paths[row] for row in there], config, where)
        found = finder.find([paths[row] for row in here], where=where)
        if config.bag is None:  # bags may share images
            _refuse_one_file_twice(found.paths, [paths[row] for row in here], where)
        sources: dict[int, Source] = dict(zip(there, remote, strict=True))
        sources |= dict(zip(here, map(FileSource, found.paths), strict=True))
        return Located([sources[row] for row in kept], (*notes, *found.notes), found.warnings)

    table = samples_of(
        read,
        request,
        image=image,
        ids=names,
        rows=[row for row, by in enumerate(matched) if not by],
        locate=locate,
        name=name,
        where=where,
    )
    # That patterns for other data have nothing to leave out of these is no mistake.
    warnings = table.warnings if "exclude" in request.inherited else (*unlike, *table.warnings)
    return replace(table, notes=(*absent, *notes, *gone, *table.notes), warnings=warnings)


def samples_of(
    read: Read,
    request: Request,
    *,
    image: str,
    ids: Sequence[str],
    locate: Callable[[Sequence[int]], Located],
    name: str,
    where: str,
    rows: Sequence[int] | None = None,
) -> SampleTable:
    """Make samples of a table whose images are known.

    Parameters
    ----------
    read : Read
    request : Request
    image : str
        The column of the images.
    ids : sequence of str
        What the rows' images are called.
    locate : callable
        From rows to where their images lie.
    name, where : str
        What the data set is called, and what in messages.
    rows : sequence of int, optional
        Those that count; all by default.

    Raises
    ------
    DataError
        If a column is missing or ambiguous, or an image is listed twice with different labels.
    """
    columns = read.columns
    roles = _roles(columns, request, image, where)
    kept, merged = _merged(ids, range(len(ids)) if rows is None else rows, roles, where)
    located = locate(kept)
    used = {image, *roles.used}
    ungrouped = roles.group is None and request.config.group is None and request.labelled is not False
    held = {name: [values[row] for row in kept] for name, values in columns.items() if name not in used}
    label_columns, labels, classes = _labels(read, request, roles.labels, kept)
    return SampleTable(
        name=name,
        ids=[ids[row] for row in kept] if roles.ids is None else _given_ids(roles.ids, ids, kept, where),
        sources=located.sources,
        labels=labels,
        columns=label_columns,
        classes=classes,
        splits=None if roles.splits is None else [roles.splits[row] for row in kept],
        groups=None if roles.group is None else [columns[roles.group][row] for row in kept],
        weights=None if roles.weight is None else [columns[roles.weight][row] for row in kept],
        by={name: [columns[name][row] for row in kept] for name in roles.by},
        site=roles.site,
        bags=None if roles.bag is None else [columns[roles.bag][row] for row in kept],
        notes=(*read.notes, *roles.notes, *located.notes, *merged),
        warnings=(*roles.warnings, *located.warnings, *(ungrouped_warnings(held, used) if ungrouped else ())),
    )


@dataclass(frozen=True, kw_only=True)
class _Roles:
    """What the columns are besides the images."""

    columns: Columns
    labels: tuple[str, ...]
    used: set[str]
    ids: list[str] | None
    splits: list[Any] | None
    group: str | None
    bag: str | None
    weight: str | None
    by: tuple[str, ...]
    site: str | None
    notes: list[str]
    warnings: list[str]

    def of(self, row: int) -> tuple[str, ...]:
        """Return all that is used of a row, so that two rows of one image can be compared."""
        names = (*self.labels, *(name for name in (self.group, self.weight) if name), *self.by)
        used = [label_text(self.columns[name][row]) for name in names]
        return (*used, *(str(column[row]) for column in (self.ids, self.splits) if column is not None))


def _roles(columns: Columns, request: Request, image: str, where: str) -> _Roles:
    config = request.config
    asked = _asked_labels(columns, request, where)
    site = None if config.site is None else asked_column(columns, config.site, "site", where)
    named = [asked_column(columns, name, "by", where) for name in config.by]
    by = tuple(dict.fromkeys([*named, *([] if site is None else [site])]))
    weight = None if config.weight is None else asked_column(columns, config.weight, "weight", where)
    used, notes, warnings = {image, *asked, *([] if weight is None else [weight])}, [], []
    labels = asked
    if request.labelled is False:
        labels = ()
    elif not asked:
        label, said, warned = label_column(columns, {*used, *by}, where)
        if label is None:  # a column may be both
            label, said, warned = label_column(columns, used, where)
        labels, notes, warnings = (label,) if label else (), said, warned
    used |= set(labels)
    bag = None if config.bag_column is None and config.bag not in columns else config.bag
    bag = None if bag is None else asked_column(columns, bag, "bag", where)
    group = config.group_column
    if group is not None and (group in columns or group not in IDENTIFIERS):  # files may say whose they are
        group = asked_column(columns, group, "group", where)
    elif group is not None:
        group = None
    elif not config.ungrouped:
        group = next((name for name in columns if plain(name) == "group" and name not in used), None)
    name, said = id_column(columns, config.id, used, where)
    taken = {*used, *by}
    splits, told, warned = split_values(columns, config.split, taken, where) if config.use_splits else (None, [], [])
    return _Roles(
        columns=columns,
        labels=labels,
        used=used | {column for column in (name, group, bag, config.split) if column is not None},
        ids=None if name is None else [label_text(value) for value in columns[name]],
        splits=splits,
        group=group,
        bag=bag,
        weight=weight,
        by=by,
        site=site,
        notes=[*notes, *said, *told],
        warnings=[*warnings, *warned],
    )


def _asked_labels(columns: Columns, request: Request, where: str) -> tuple[str, ...]:
    """Return the columns of labels, or of time and event, that were asked for."""
    config = request.config
    if not (config.time or config.event):
        return tuple(asked_column(columns, name, "label", where) for name in config.label_columns(columns))
    if config.label and "label" not in request.inherited:
        raise DataError(
            f"{option('label')} and {option('time')} are both given.",
            remedy=f"Predict one of them: leave {option('label')} out, or {option('time')} and {option('event')}.",
        )
    if not config.time or not config.event:
        here, lacks = ("time", "event") if config.time else ("event", "time")
        raise DataError(
            f"{option(here)} is given without {option(lacks)}.",
            remedy=f"A time to an event is two columns: {option('time', 'months')} {option('event', 'died')}.",
        )
    return asked_column(columns, config.time, "time", where), asked_column(columns, config.event, "event", where)


def _labels(
    read: Read, request: Request, names: tuple[str, ...], kept: Sequence[int]
) -> tuple[tuple[str, ...], RawLabels | None, tuple[str, ...] | None]:
    if not names:
        return (), None, None
    numbers = request.config.target is not None and not request.config.target.categorical
    if len(names) > 1 or numbers:
        cells = np.empty((len(kept), len(names)), dtype=object)
        for position, name in enumerate(names):
            cells[:, position] = [read.columns[name][row] for row in kept]
        return names, cells, None
    values = [read.columns[names[0]][row] for row in kept]
    known = read.names.get(names[0])
    if known is not None:
        named = [_class_name(value, known, names[0]) for value in values]
        return (), None if all(value is None for value in named) else named, known
    separator = request.config.label_separator
    if separator is None:
        order = read.orders.get(names[0])
        return (), values if order is None else [label_text(value) for value in values], order
    parts = [label_text(value).split(separator) for value in values]
    return (), [tuple(part.strip() for part in each if part.strip()) for each in parts], None


def _class_name(value: Any, known: Sequence[str], column: str) -> Any:
    """Return the name of a class number; -1 is the mark of Hugging Face for "no label".

    Raises
    ------
    DataError
        If it is the number of no class.
    """
    if isinstance(value, list | tuple):
        return [_class_name(each, known, column) for each in value]
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(known):
        raise DataError(
            f"Column {column!r} holds {value!r}, which is the number of none of its {len(known)} classes "
            f"({listing(list(known))}).",
            remedy=f"Mend the table: its classes are numbered from 0 to {len(known) - 1}, and -1 means no label.",
        )
    return known[value]


def _held_names(values: Sequence[Any]) -> list[str]:
    """Name images that a table holds: by the paths that come with them where these are unique, else by rows."""
    paths = [str(value.get("path") or "") if isinstance(value, dict) else "" for value in values]
    if all(paths) and len(set(paths)) == len(paths):
        return [path.replace("\\", "/") for path in paths]
    return [row_id(row) for row in range(len(values))]


def _relative(path: Path, root: Path) -> str:
    inside = path.is_absolute() and path.is_relative_to(root.resolve())  # outside the root its whole path is its name
    return (path.relative_to(root.resolve()) if inside else path).as_posix()


def _merged(ids: Sequence[str], rows: Sequence[int], roles: _Roles, where: str) -> tuple[list[int], list[str]]:
    """Return one row per image; rows of one image must say the same."""
    if roles.bag is not None:  # an image may be of two bags
        ids = [f"{name} of {label_text(roles.columns[roles.bag][row])}" for row, name in enumerate(ids)]
    first: dict[str, int] = {}
    twice: dict[str, int] = {}
    for row in rows:
        begun = first.setdefault(ids[row], row)
        if begun == row:
            continue
        if roles.of(begun) != roles.of(row):
            unlike = sorted({ids[row] for row in rows if roles.of(first.setdefault(ids[row], row)) != roles.of(row)})
            raise DataError(
                f"{where} lists {len(unlike)} image(s) more than once: {listing(unlike)}.",
                remedy="Their rows differ in label, split, group or id: give one row per image. Where several people "
                "labelled an image, agree on one label first.",
            )
        twice[ids[row]] = twice.get(ids[row], 0) + 1
    if not twice:
        return list(rows), []
    again = f"{sum(twice.values())} rows list an image again and say the same of it, such as {next(iter(twice))}"
    return list(first.values()), [f"{where}: {again}; {len(first)} images remain."]


def _refuse_one_file_twice(paths: Sequence[Path], names: Sequence[str], where: str) -> None:
    by_path: dict[str, list[str]] = {}
    for path, name in zip(map(str, paths), names, strict=True):
        by_path.setdefault(path, []).append(name)
    twice = [(path, several) for path, several in by_path.items() if len(several) > 1]
    if twice:
        path, several = twice[0]
        raise DataError(
            f"{where} lists {len(twice)} image(s) more than once: {listing(several)} are {path}.",
            remedy="Give one row per image.",
        )


def _given_ids(ids: Sequence[str], paths: Sequence[str], kept: Sequence[int], where: str) -> list[str]:
    blank = [paths[row] for row in kept if not ids[row]]
    if blank:
        raise DataError(f"{where}: no id for {listing(blank)}.", remedy="Fill in the ids, or rename the id column.")
    return [ids[row] for row in kept]
