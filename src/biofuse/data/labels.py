"""From labels as people write them to class indices and one class table."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError, UnsettledTaskError, option
from biofuse.core.target import MISSING, Labels, Task, is_negative

INTEGER = re.compile(r"[+-]?\d+")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
WHOLE = re.compile(r"([+-]?\d+)\.0*")
"""A whole number as a column of floats is saved."""

UNCERTAIN = frozenset({"-1", "-1.0"})
"""How CheXpert's table marks a finding that its report leaves open (Irvin et al., AAAI 2019, section 3)."""

ZERO_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, "false": 0, "true": 1}
"""How tables write absent and present; a text file keeps the 1.0 that a column of floats was saved as."""

MISSING_WORDS = frozenset({"nan", "na", "n/a", "#n/a", "null", "nat", "nil", "?", "-"})
"""What programs write where there is no value; as a label each is worth a warning."""

LIST = re.compile(r"\[.*\]|\{.*\}|\(.*,.*\)")
"""A list as a program writes it."""

SEPARATORS = "|;,/+& "
"""What people put between several labels of one cell."""

FEW_NUMBERS, MANY_NUMBERS = 10, 20
"""Different numbers up to which a label column holds grades or codes, whatever it looks like; and from which it does
not, unless they count from 0 or 1. In between it depends on how often each occurs."""

RawLabels = Sequence[Any] | NDArray[Any]
"""One label per row; a list of labels per row; or a table [n, n_labels] of zeros and ones."""


@dataclass(frozen=True, eq=False)
class EncodedLabels:
    """Labels as numbers.

    Attributes
    ----------
    labels : ndarray
        Class indices, zeros and ones, or numbers, as :class:`biofuse.core.target.Target` says.
    classes : tuple of str
        The class table.
    task : Task
        Given or inferred.
    kept : ndarray of bool, shape (n_rows,), or None
        The rows that have a label in the table; None where all have. ``labels`` are theirs.
    notes : tuple of str
        What was decided, in words.
    warnings : tuple of str
        What looks as if it was not meant.
    """

    labels: Labels
    classes: tuple[str, ...]
    task: Task
    kept: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which ``img2`` comes before ``img10``; ties are broken by the exact text."""
    pieces = re.split(r"(\d+)", text)
    key = tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece.casefold()) for piece in pieces if piece)
    return (*key, (2, 0, text))


def class_table(names: Iterable[str]) -> tuple[str, ...]:
    """Order class names: by number if all are numbers, else naturally. The order of the rows plays no part.

    Of two classes one that says that nothing was found, such as ``normal``, comes first: the other is the positive one.
    """
    unique = set(names)
    if all(NUMBER.fullmatch(name) for name in unique):
        return tuple(sorted(unique, key=lambda name: (float(name), name)))
    table = sorted(unique, key=natural_key)
    if len(table) == 2 and is_negative(table[1], table[0]) and not is_negative(table[0], table[1]):
        table.reverse()
    return tuple(table)


def label_text(value: object) -> str:
    """Return the name of a label; empty where it is missing (None, NaN or blank)."""
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return ""
    if isinstance(value, float | np.floating):
        # A column of integers with a gap arrives as floats: 3.0 is class "3".
        if np.isnan(value):
            return ""
        return str(int(value)) if float(value).is_integer() else str(value)
    if isinstance(value, np.ndarray) and value.size == 1:
        return label_text(value.item())
    if hasattr(value, "item") and not isinstance(value, np.ndarray):
        return label_text(value.item())
    return str(value).strip()


def cell_text(value: object) -> str:
    """Return what a cell of a column of numbers holds; empty also where a word such as NA says that it is missing."""
    text = label_text(value)
    return "" if text.casefold() in MISSING_WORDS else text


def listing(items: Sequence[str], *, limit: int = 5) -> str:
    """Name the first few of many for a message."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def counted(counts: Iterable[tuple[str, int]], *, limit: int = 5) -> str:
    """Name the first few of many with how often they occur."""
    return listing([f"{name} ({count})" for name, count in counts], limit=limit)


def match_names(names: Iterable[str], table: Sequence[str]) -> dict[str, str]:
    """Find class names in another table of classes: as written, as numbers (1, 1.0, True), or whatever the case.

    Returns
    -------
    dict of str to str
        The class of each name that has one; others, and names that fit two classes, are left out. A number is never
        taken for a position.
    """
    known = set(table)
    by_number, by_words = _unique_keys(table, _number), _unique_keys(table, _words)
    found: dict[str, str] = {}
    for name in names:
        match = name if name in known else by_number.get(_number(name)) or by_words.get(_words(name))
        if match is not None:
            found[name] = match
    return found


def _unique_keys(table: Sequence[str], key: Any) -> dict[Any, str]:
    counts = Counter(map(key, table))
    return {key(name): name for name in table if key(name) is not None and counts[key(name)] == 1}


def is_number(name: str) -> bool:
    """Tell whether a class is called by a number."""
    return NUMBER.fullmatch(name) is not None


def _number(name: str) -> float | None:
    return float(name) if is_number(name) else {"false": 0.0, "true": 1.0}.get(name.casefold())


def _words(name: str) -> str:
    """Return a name without its case and its way of writing accents, and with one blank between its words."""
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", unicodedata.normalize("NFKC", name).casefold())


def encode_labels(
    values: RawLabels,
    *,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
    positive: str | None = None,
    blank_as: str | None = None,
    uncertain_as: Literal["ignore", "zeros", "ones"] = "ignore",
    drop_below: int | None = None,
    strict: bool = True,
) -> EncodedLabels:
    """Turn labels into numbers.

    Parameters
    ----------
    values : sequence or ndarray
        One label per row, a list of labels per row (multi-label), or a table of zeros and ones [n, n_labels].
    rows : sequence of str
        What to call the rows in messages.
    columns : sequence of str
        Label names of a table's columns; "0", "1", ... by default.
    task : Task, optional
        Inferred where not given: two classes are binary, several labels per row multi-label, the rest multi-class.
    classes : sequence of str, optional
        The user's class table. Then data with one class only, or one row, are accepted, and numbers beside a table of
        names are positions in it.
    known : sequence of str, optional
        The class table that comes with the data; integers are positions in it.
    positive : str, optional
        Of two classes the one that comes second.
    blank_as : str, optional
        What a blank label stands for; of a table of zeros and ones by default that nothing is known.
    uncertain_as : {"ignore", "zeros", "ones"}
        What -1 in a table of zeros and ones stands for: that nothing is known, absent, or present.
    drop_below : int, optional
        Rows of classes with fewer are left out; so are labels with fewer rows.
    strict : bool, default True
        False for data that are only compared with a model: whatever classes, in whatever order, will do.

    Raises
    ------
    DataError
        If labels are missing or unknown, there are fewer than two rows or classes, or the task does not fit.
    """
    if len(values) != len(rows):
        raise DataError(f"{len(rows)} images but {len(values)} labels.", remedy="Give one label per image.")
    compared, strict = not strict, strict and classes is None
    if strict and len(rows) < 2:
        raise DataError(f"{len(rows)} labelled sample(s): at least 2 are needed.", remedy="Add images of every class.")
    table = tuple(str(name) for name in classes) if classes is not None else known
    if table is not None and len(set(table)) != len(table):
        raise DataError(f"The class table names a class twice: {listing(list(table), limit=20)}.")
    array = values if isinstance(values, np.ndarray) else None
    if array is not None and array.ndim == 2 and array.shape[1] > 1:
        array, notes = _filled(array, columns, blank_as)
        if compared and table is not None:
            array, columns, left = _known_columns(array, columns, table)
            notes += left
        array, said = _certain(array, columns, uncertain_as)
        notes += said
        found = _encode_matrix(array, rows, columns, task, table)
    elif _are_sets(values):
        found, notes = _encode_sets(
            values, rows, task, table, blank=blank_as is not None or compared, compared=compared
        )
    else:
        names, notes = _single_names(values, rows, blank_as)
        own = classes is None and known is not None and all(_is_integer(value) for value in values)
        known_rows, left = None, []
        if compared and classes is not None:
            names, known_rows, left = _known_rows(names, classes)
        found = _encode_single(names, task, table, positions=own, strict=strict)
        found = replace(found, kept=known_rows, warnings=(*found.warnings, *left))
    found = replace(found, notes=(*notes, *found.notes))
    if drop_below is not None and not compared:
        found = _without_small_classes(found, drop_below, task)
    if compared:
        return found
    found = replace(found, warnings=(*found.warnings, *_unscored(found)))
    if positive is None and not strict:
        return found
    return _with_positive(found, positive, chosen=table is not None)


def _are_sets(values: RawLabels) -> bool:
    first = next((value for value in values if value is not None), None)
    several = isinstance(first, np.ndarray) and first.size > 1
    return several or isinstance(first, list | tuple | set | frozenset)


def _is_integer(value: object) -> bool:
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)


def _single_names(values: RawLabels, rows: Sequence[str], blank_as: str | None) -> tuple[list[str], list[str]]:
    """Return one label per row as text: whole numbers without the .0 of a column of floats."""
    names = [label_text(value) for value in values]
    notes = []
    if blank_as is not None and "" in names:
        notes.append(f"{names.count('')} blank labels count as {blank_as!r}.")
        names = [name or blank_as for name in names]
    _refuse_missing([row for row, name in zip(rows, names, strict=True) if not name])
    numbers = [name for name in set(names) if NUMBER.fullmatch(name)]
    if all(float(name).is_integer() for name in numbers):
        names = [WHOLE.sub(r"\1", name) if WHOLE.fullmatch(name) else name for name in names]
    return names, notes


def _known_rows(names: list[str], classes: Sequence[str]) -> tuple[list[str], NDArray[np.bool_] | None, list[str]]:
    """Leave out rows of classes that are not in the user's table, where others are."""
    found = match_names(set(names), classes)
    kept = np.array([name in found for name in names])
    if kept.all() or not kept.any():
        return names, None, []
    left = Counter(name for name in names if name not in found)
    note = (
        f"{int((~kept).sum())} of {len(names)} samples are left out, of other classes: {counted(left.most_common())}."
    )
    return [name for name in names if name in found], kept, [note]


def _known_columns(
    matrix: NDArray[Any], columns: Sequence[str], table: Sequence[str]
) -> tuple[NDArray[Any], Sequence[str], list[str]]:
    """Leave out the label columns that a model does not know, and call the others as it does."""
    match = match_names(columns, table)
    if not columns or sorted(match.values()) != sorted(table):
        return matrix, columns, []
    other = [name for name in columns if name not in match]
    notes = [f"{name} is read as {known}." for name, known in match.items() if name != known]
    if other:
        notes.append(f"The model does not know the label(s) {listing(other)}; they are not scored.")
    places = [place for place, name in enumerate(columns) if name in match]
    return matrix[:, places], tuple(match[columns[place]] for place in places), notes


def _encode_single(
    names: list[str], task: Task | None, table: Sequence[str] | None, *, positions: bool, strict: bool
) -> EncodedLabels:
    counts = Counter(names)
    if task is not None and task.several:
        raise DataError(
            "A multi-label task needs several labels per image.",
            remedy=f"Name several columns with {option('label')}, or give "
            f"{option('label_separator', next(_separators(counts), ('|', ()))[0])} for labels joined in one column.",
        )
    if strict and task is not None and task.ordered and table is None and not all(map(NUMBER.fullmatch, counts)):
        raise DataError(
            f"An ordinal task needs the order of its classes: {listing(class_table(counts), limit=20)}.",
            remedy=f"Give {option('classes')} from lowest to highest, or number the grades.",
        )
    if strict and task is None and table is None:
        _refuse_measurements(counts)
    order = class_table(counts) if table is None else tuple(table)
    place, notes = _places(counts, order, positions=positions)
    present = sorted({order[place[name]] for name in counts})
    if strict and len(present) < 2:
        raise DataError(
            f"All {len(names)} samples have the label {present[0]!r}: there is nothing to learn.",
            remedy="Give at least two classes. For class folders, point at the folder that holds them; "
            f"to embed without labels give {option('labelled', False)}.",
        )
    labels = np.array([place[name] for name in names], dtype=np.int64)
    warnings = tuple(_suspicions(counts)) if table is None else ()
    if strict and task is None and table is None and len(order) > 2 and all(map(is_number, order)):
        notes.append(
            f"The {len(order)} different numbers of the label are read as classes without an order; "
            f"{option('task', 'ordinal')} takes them for grades, {option('task', 'value')} for values."
        )
    return EncodedLabels(
        labels, order, _single_task(task, len(order), strict=strict), notes=tuple(notes), warnings=warnings
    )


def _places(counts: Counter[str], order: tuple[str, ...], *, positions: bool) -> tuple[dict[str, int], list[str]]:
    """Find each label in the table: by its name, or, where nothing has a name in it, by its position."""
    numbered = all(INTEGER.fullmatch(name) and 0 <= int(name) < len(order) for name in counts)
    if positions and numbered:
        return {name: int(name) for name in counts}, []
    index = {name: number for number, name in enumerate(order)}
    found = match_names(counts, order)
    unknown = sorted(set(counts) - set(found), key=natural_key)
    if not unknown:
        renamed = [f"{name} is read as {match}" for name, match in found.items() if name != match]
        return {name: index[match] for name, match in found.items()}, [f"{listing(renamed)}."] if renamed else []
    if found or not numbered or any(NUMBER.fullmatch(name) for name in order):
        raise DataError(
            f"Labels that are not in the class table: {listing(unknown)}. It has {listing(list(order), limit=20)}.",
            remedy=f"Correct the labels, or give {option('classes')} with every class.",
        )
    read = [f"{name} is {order[int(name)]}" for name in sorted(counts, key=int)]
    return (
        {name: int(name) for name in counts},
        [f"Labels are read as positions in the class table: {listing(read, limit=20)}."],
    )


def _refuse_measurements(counts: Counter[str]) -> None:
    """Refuse numbers that are too many, and too rarely the same, to be classes: ages, sizes, doses."""
    if not all(NUMBER.fullmatch(name) for name in counts):
        return
    n, values = sum(counts.values()), sorted(float(name) for name in counts)
    seldom = 2 * len(counts) > n
    numbered = values[0] in {0.0, 1.0} and values == [values[0] + place for place in range(len(values))]
    if len(counts) <= FEW_NUMBERS or not (seldom or (len(counts) > MANY_NUMBERS and not numbered)):
        return
    raise UnsettledTaskError(
        f"The label has {len(counts)} different numbers in {n} rows, from {values[0]:g} to {values[-1]:g}: it looks "
        "like a measurement.",
        remedy=f"Give {option('task', 'value')} to predict the number, {option('task', 'ordinal')} if they are grades, "
        f"or {option('task', 'multiclass')} if every number is a class of its own.",
    )


def _suspicions(counts: Counter[str]) -> Iterator[str]:
    """Say which class names look as if they were not meant."""
    alike: dict[str, list[str]] = {}
    for name in sorted(counts):
        alike.setdefault(_words(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            yield (
                f"{counted([(repr(name), counts[name]) for name in names])} differ only in how they are written, and "
                "are classes of their own: write them the same if they are meant to be one."
            )
    missing = [(repr(name), count) for name, count in sorted(counts.items()) if name.casefold() in MISSING_WORDS]
    if missing:
        yield (
            f"{counted(missing)} {'is' if len(missing) == 1 else 'are'} read as a class: leave these cells blank, or "
            "the rows out, if it means that there is no label."
        )
    lists = [name for name in sorted(counts) if LIST.fullmatch(name)]
    if lists:
        yield (
            f"{sum(counts[name] for name in lists)} of {sum(counts.values())} labels are written as lists, such as "
            f"{max(lists, key=len)!r}, and are read as classes of their own: write the names alone, one separator "
            f"between them, and give it as {option('label_separator')}."
        )
        return
    for separator, joined in _separators(counts):
        n = sum(counts[name] for name in joined)
        yield (
            f"{n} of {sum(counts.values())} labels look like several joined by {separator!r}, such as {joined[0]!r}, "
            "and are read as classes of their own: give "
            f"{option('label_separator', separator)} to read them as several."
        )


def _separators(counts: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Find what seems to stand between several labels of one cell: its parts occur elsewhere, too."""
    for separator in SEPARATORS:
        parts = {name: _parts(name, separator) for name in counts}
        joined = sorted((name for name, each in parts.items() if len(each) > 1), key=natural_key)
        often = Counter(part for each in parts.values() for part in set(each))
        # Names hold blanks of their own, so there every part must be a label by itself.
        if separator == " ":
            joined = [name for name in joined if all(part in counts for part in parts[name])]
        if any(often[part] > 1 for name in joined for part in parts[name]):
            yield separator, joined


def _parts(name: str, separator: str) -> list[str]:
    parts = [part.strip() for part in name.split(separator)]
    return parts if all(parts) else [name]


def _single_task(task: Task | None, n_classes: int, *, strict: bool = True) -> Task:
    natural = Task.natural(n_classes)
    settled = natural if task is None else task.settled(n_classes)
    if settled is not None or not strict:
        return settled or natural
    raise DataError(
        f"{n_classes} classes are no {task} task.",
        remedy=f"Leave {option('task')} out, or give {option('task', natural)}.",
    )


def _with_positive(found: EncodedLabels, positive: str | None, *, chosen: bool) -> EncodedLabels:
    """Put the positive class of two second, and say which it is."""
    if not found.task.has_positive:
        if positive is not None:
            raise DataError(
                f"{option('positive')} is for two classes, and these are {listing(found.classes)}.",
                remedy=f"Leave {option('positive')} out.",
            )
        return found
    first, second = found.classes
    if positive is None:
        why = "" if chosen or is_negative(first, second) else ", the second of the two"
        said = f"The positive class is {second!r}{why}; {option('positive', first)} makes it the other."
        return replace(found, notes=(*found.notes, said))
    match = match_names([positive], found.classes).get(positive)
    if match is None:
        raise DataError(
            f"There is no class {positive!r}; the classes are {first} and {second}.",
            remedy=f"Give {option('positive', second)} or {option('positive', first)}.",
        )
    if match == first:
        found = replace(found, classes=(second, first), labels=1 - found.labels)
    return replace(found, notes=(*found.notes, f"The positive class is {match!r}."))


def _unscored(found: EncodedLabels) -> Iterator[str]:
    """Say which labels every sample has, or none, so that nothing can be told apart."""
    if found.task.several and len(found.labels):
        one_value = ~((found.labels == 0).any(axis=0) & (found.labels == 1).any(axis=0))
        names = [name for name, same in zip(found.classes, one_value, strict=True) if same]
        if names:
            yield f"No sample has, or every one has: {listing(names, limit=20)}. That cannot be scored; the others are."


def _without_small_classes(found: EncodedLabels, fewest: int, task: Task | None) -> EncodedLabels:
    several = found.task.several
    counts = (found.labels == 1).sum(axis=0) if several else np.bincount(found.labels, minlength=len(found.classes))
    large = counts >= fewest
    if large.all():
        return found
    small = [(name, int(count)) for name, count in zip(found.classes, counts, strict=True) if count < fewest]
    classes = tuple(name for name, kept in zip(found.classes, large, strict=True) if kept)
    what = "label" if several else "class"
    if len(classes) < (1 if several else 2):
        raise DataError(
            f"With at least {fewest} samples there is {'no' if not classes else 'only one'} {what}: {counted(small)} "
            "have fewer.",
            remedy=f"Give a smaller number for {option('drop_classes_below')}.",
        )
    if several:
        note = f"Left out, with fewer than {fewest} samples: the label(s) {counted(small, limit=20)}."
        return replace(found, labels=found.labels[:, large], classes=classes, notes=(*found.notes, note))
    kept = large[found.labels]
    note = (
        f"{int((~kept).sum())} samples are left out, of classes with fewer than {fewest}: {counted(small, limit=20)}."
    )
    return replace(
        found,
        labels=(np.cumsum(large) - 1)[found.labels[kept]],
        classes=classes,
        task=found.task if task is not None and task.ordered else Task.natural(len(classes)),
        kept=kept,
        notes=(*found.notes, note),
    )


def _encode_sets(
    values: RawLabels,
    rows: Sequence[str],
    task: Task | None,
    table: Sequence[str] | None,
    *,
    blank: bool,
    compared: bool,
) -> tuple[EncodedLabels, list[str]]:
    if task is not None and not task.several:
        raise DataError(
            f"Several labels per image are no {task} task.",
            remedy=f"Leave {option('task')} out, or give {option('task', 'multilabel')}.",
        )
    sets = [() if value is None else tuple(filter(None, map(label_text, value))) for value in values]
    if not blank:
        _refuse_missing([row for row, names in zip(rows, sets, strict=True) if not names])
    present = Counter(name for names in sets for name in names)
    order = class_table(present) if table is None else tuple(table)
    index = {name: order.index(match) for name, match in match_names(present, order).items()}
    unknown = sorted(set(present) - set(index), key=natural_key)
    notes = []
    if unknown and not (compared and index):
        raise DataError(
            f"Labels that are not in the class table: {listing(unknown)}.",
            remedy=f"Give {option('classes')} with every label.",
        )
    if unknown:
        left = counted([(name, present[name]) for name in unknown])
        notes.append(f"The model does not know the label(s) {left}; they are not scored.")
    labels = np.zeros((len(sets), len(order)), dtype=np.int64)
    for row, names in enumerate(sets):
        labels[row, [index[name] for name in names if name in index]] = 1
    empty = sum(not names for names in sets)
    if empty:
        notes.append(f"{empty} samples have none of the labels.")
    return EncodedLabels(labels, order, Task.MULTILABEL), notes


def _filled(matrix: NDArray[Any], columns: Sequence[str], blank_as: str | None) -> tuple[NDArray[Any], list[str]]:
    """Put what blank cells stand for into them, and say how many there are."""
    blank = np.array([[not cell_text(cell) for cell in row] for row in matrix.tolist()]).reshape(matrix.shape)
    if blank_as is None or not blank.any():
        return matrix, []
    names = columns or [str(column) for column in range(matrix.shape[1])]
    counts = [(name, int(count)) for name, count in zip(names, blank.sum(axis=0), strict=True) if count]
    filled = matrix.astype(object)
    filled[blank] = blank_as
    return filled, [f"Blank cells count as {blank_as!r}: {counted(counts, limit=20)}."]


def _encode_matrix(
    matrix: NDArray[Any], rows: Sequence[str], columns: Sequence[str], task: Task | None, table: Sequence[str] | None
) -> EncodedLabels:
    names = tuple(columns) or tuple(table or ()) or tuple(str(column) for column in range(matrix.shape[1]))
    if len(names) != matrix.shape[1]:
        raise DataError(f"{matrix.shape[1]} label columns but {len(names)} names in the class table.")
    if table is not None and tuple(table) != names:
        if set(table) != set(names):
            absent = [name for name in table if name not in match_names(names, table).values()]
            raise DataError(
                f"The label columns {listing(names)} are not those of the classes, {listing(list(table))}"
                f"{f': there is none for {listing(absent)}' if absent else ''}.",
                remedy=f"Give {option('label')} for each, under these names; one that is 0 throughout means absent.",
            )
        matrix = matrix[:, [names.index(name) for name in table]]
        names = tuple(table)
    texts = [[cell_text(value) for value in row] for row in matrix.tolist()]
    unknown = np.array([[not cell for cell in cells] for cells in texts], dtype=np.bool_).reshape(len(rows), -1)
    if unknown.any() and (task is None or task.several):
        _refuse_missing([rows[row] for row in np.flatnonzero(unknown.all(axis=1)).tolist()])
    elif unknown.any():
        _refuse_missing([rows[row] for row in np.flatnonzero(unknown.any(axis=1)).tolist()])
    wrong = [
        f"{row} ({name} = {cell})"
        for row, cells in zip(rows, texts, strict=True)
        for name, cell in zip(names, cells, strict=True)
        if cell and cell not in ZERO_ONE
    ]
    if wrong:
        raise DataError(
            f"Label columns must hold 0 or 1, but do not in {listing(wrong)}.",
            remedy="Leave a cell blank where nothing is known; to predict the numbers themselves give "
            f"{option('task', 'value')}.",
        )
    coded = [[ZERO_ONE[cell] if cell else MISSING for cell in cells] for cells in texts]
    labels = np.array(coded, dtype=np.int64).reshape(len(rows), -1)
    if task is not None and not task.several:
        return _one_hot(labels, names, rows, task)
    exclusive = task is None and len(rows) > 1 and bool(((labels == 1).sum(axis=1) == 1).all())
    exclusive = exclusive and not unknown.any()
    note = (
        f"Every sample has exactly one of the {len(names)} labels: give {option('task', 'multiclass')} if they exclude "
        f"each other, {option('task', 'multilabel')} if not."
    )
    notes = [note] if exclusive else []
    if unknown.any():
        counts = [(name, int(count)) for name, count in zip(names, unknown.sum(axis=0), strict=True) if count]
        notes.append(
            f"Of blank labels nothing is known, and each is left out of fits and scores of its label: "
            f"{counted(counts, limit=20)}, of {len(rows)} samples. {option('blank_as', '0')} counts them as absent."
        )
    return EncodedLabels(labels, names, Task.MULTILABEL, notes=tuple(notes))


def _certain(
    matrix: NDArray[Any], columns: Sequence[str], uncertain_as: Literal["ignore", "zeros", "ones"]
) -> tuple[NDArray[Any], list[str]]:
    """Put what -1 stands for into a table of zeros and ones, and say how many there are."""
    marked = np.array([[label_text(cell) in UNCERTAIN for cell in row] for row in matrix.tolist()])
    if not marked.any():
        return matrix, []
    names = columns or [str(column) for column in range(matrix.shape[1])]
    counts = [(name, int(count)) for name, count in zip(names, marked.sum(axis=0), strict=True) if count]
    filled = matrix.astype(object)
    filled[marked] = {"ignore": "", "zeros": "0", "ones": "1"}[uncertain_as]
    means = {"ignore": "are left out as unknown", "zeros": "count as absent", "ones": "count as present"}[uncertain_as]
    others = " or ".join(option("uncertain_as", way) for way in ("ignore", "zeros", "ones") if way != uncertain_as)
    return filled, [f"Labels of -1 {means}: {counted(counts, limit=20)}. {others} reads them otherwise."]


def _one_hot(labels: NDArray[np.int64], names: tuple[str, ...], rows: Sequence[str], task: Task) -> EncodedLabels:
    wrong = [rows[row] for row in np.flatnonzero(labels.sum(axis=1) != 1).tolist()]
    if wrong:
        raise DataError(
            f"A {task} task has exactly one label per image, but not so in {listing(wrong)}.",
            remedy=f"Correct these rows, or leave {option('task')} out for a multi-label task.",
        )
    return EncodedLabels(labels.argmax(axis=1).astype(np.int64), names, _single_task(task, len(names)))


def unlabelled(values: RawLabels, *, numbers: bool) -> NDArray[np.bool_]:
    """Return which rows have no label, shape (n,): every cell of a row is blank; of numbers one is enough."""
    test = any if numbers else all
    table = isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] > 1
    read = cell_text if numbers or table else label_text
    return np.array([test(not read(cell) for cell in _cells(value)) for value in values], dtype=np.bool_)


def _cells(value: Any) -> Iterable[Any]:
    several = isinstance(value, list | tuple | set | frozenset) or (isinstance(value, np.ndarray) and value.ndim > 0)
    return value if several else (value,)


def _refuse_missing(rows: list[str]) -> None:
    if rows:
        raise DataError(
            f"{len(rows)} sample(s) have no label: {listing(rows)}.",
            remedy=f"Fill in the labels, or leave these samples out: {option('on_missing', 'drop')}; to embed without "
            f"labels give {option('labelled', False)}. Where a blank label has a meaning, {option('blank_as')} gives "
            "it.",
        )
