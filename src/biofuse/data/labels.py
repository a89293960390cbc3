"""From labels as people write them to class indices and one class table."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError
from biofuse.core.target import Task

INTEGER = re.compile(r"[+-]?\d+")
ZERO_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, "false": 0, "true": 1}
"""How tables write absent and present; a text file keeps the 1.0 that a column of floats was saved as."""

RawLabels = Sequence[Any] | NDArray[Any]
"""One label per row; a list of labels per row; or a table [n, n_labels] of zeros and ones."""


@dataclass(frozen=True, eq=False)
class EncodedLabels:
    """Labels as numbers.

    Attributes
    ----------
    labels : ndarray of int64, shape (n,) or (n, n_labels)
        Class indices, or zeros and ones.
    classes : tuple of str
        The class table.
    task : Task
        Given or inferred.
    """

    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    task: Task


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which ``img2`` comes before ``img10``; ties are broken by the exact text."""
    pieces = re.split(r"(\d+)", text)
    key = tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece.casefold()) for piece in pieces if piece)
    return (*key, (2, 0, text))


def class_table(names: Iterable[str]) -> tuple[str, ...]:
    """Order class names: by number if all are integers, else naturally. The order of the rows plays no part."""
    unique = set(names)
    if all(INTEGER.fullmatch(name) for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique, key=natural_key))


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


def listing(items: Sequence[str], *, limit: int = 5) -> str:
    """Name the first few of many for a message."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def encode_labels(
    values: RawLabels,
    *,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
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
        The user's class table. Then data with one class only, or one row, are accepted.
    known : sequence of str, optional
        The class table that comes with the data.

    Raises
    ------
    DataError
        If labels are missing or unknown, there are fewer than two rows or classes, or the task does not fit.
    """
    if len(values) != len(rows):
        raise DataError(f"{len(rows)} images but {len(values)} labels.", remedy="Give one label per image.")
    if classes is None and len(rows) < 2:
        raise DataError(f"{len(rows)} labelled sample(s): at least 2 are needed.", remedy="Add images of every class.")
    table = tuple(str(name) for name in classes) if classes is not None else known
    if table is not None and len(set(table)) != len(table):
        raise DataError(f"The class table names a class twice: {listing(list(table), limit=20)}.")
    array = values if isinstance(values, np.ndarray) else None
    if array is not None and array.ndim == 2 and array.shape[1] > 1:
        return _encode_matrix(array, rows, columns, task, table)
    first = next((value for value in values if value is not None), None)
    if isinstance(first, list | tuple | set | frozenset) or (isinstance(first, np.ndarray) and first.size > 1):
        return _encode_sets(values, rows, task, table)
    return _encode_single([label_text(value) for value in values], rows, task, table, strict=classes is None)


def _encode_single(
    names: list[str], rows: Sequence[str], task: Task | None, table: Sequence[str] | None, *, strict: bool
) -> EncodedLabels:
    _refuse_missing([row for row, name in zip(rows, names, strict=True) if not name])
    present = set(names)
    if task is not None and task.ordered and table is None and not all(INTEGER.fullmatch(name) for name in present):
        raise DataError(
            f"An ordinal task needs the order of its classes: {listing(class_table(present), limit=20)}.",
            remedy="Give classes= from lowest to highest, or number the grades.",
        )
    order = class_table(present) if table is None else tuple(table)
    if not present <= set(order):
        # Labels 0, 1, ... beside a table of names are positions in that table.
        positions = all(INTEGER.fullmatch(name) and 0 <= int(name) < len(order) for name in present)
        if not positions:
            unknown = sorted(present - set(order), key=natural_key)
            raise DataError(
                f"Labels that are not in the class table: {listing(unknown)}. It has {listing(list(order), limit=20)}.",
                remedy="Correct the labels, or give classes= with every class.",
            )
        names = [order[int(name)] for name in names]
        present = set(names)
    if strict and len(present) < 2:
        raise DataError(
            f"All {len(names)} samples have the label {names[0]!r}: there is nothing to learn.",
            remedy="Give at least two classes. For class folders, point at the folder that holds them; "
            "to embed without labels use --no-labels (labelled=False in Python).",
        )
    index = {name: number for number, name in enumerate(order)}
    labels = np.array([index[name] for name in names], dtype=np.int64)
    return EncodedLabels(labels, order, _single_task(task, len(order)))


def _single_task(task: Task | None, n_classes: int) -> Task:
    natural = Task.natural(n_classes)
    if task is None or task is natural:
        return natural
    if task.ordered:
        return task
    if task.several:
        raise DataError(
            "A multi-label task needs several labels per image.",
            remedy="Name several label columns, or give label_separator= for labels joined in one column.",
        )
    raise DataError(f"{n_classes} classes are no {task} task.", remedy=f"Leave task= out: it is {natural}.")


def _encode_sets(
    values: RawLabels, rows: Sequence[str], task: Task | None, table: Sequence[str] | None
) -> EncodedLabels:
    if task is not None and not task.several:
        raise DataError(f"Several labels per image are no {task} task.", remedy="Leave task= out: it is multilabel.")
    sets = [() if value is None else tuple(filter(None, map(label_text, value))) for value in values]
    _refuse_missing([row for row, names in zip(rows, sets, strict=True) if not names])
    present = {name for names in sets for name in names}
    order = class_table(present) if table is None else tuple(table)
    unknown = sorted(present - set(order), key=natural_key)
    if unknown:
        raise DataError(
            f"Labels that are not in the class table: {listing(unknown)}.", remedy="Give classes= with every label."
        )
    index = {name: number for number, name in enumerate(order)}
    labels = np.zeros((len(sets), len(order)), dtype=np.int64)
    for row, names in enumerate(sets):
        labels[row, [index[name] for name in names]] = 1
    return EncodedLabels(labels, order, Task.MULTILABEL)


def _encode_matrix(
    matrix: NDArray[Any], rows: Sequence[str], columns: Sequence[str], task: Task | None, table: Sequence[str] | None
) -> EncodedLabels:
    names = tuple(columns) or tuple(table or ()) or tuple(str(column) for column in range(matrix.shape[1]))
    if len(names) != matrix.shape[1]:
        raise DataError(f"{matrix.shape[1]} label columns but {len(names)} names in the class table.")
    if table is not None and tuple(table) != names:
        if set(table) != set(names):
            raise DataError(f"The class table {listing(list(table))} does not name the columns {listing(names)}.")
        matrix = matrix[:, [names.index(name) for name in table]]
        names = tuple(table)
    texts = [[label_text(value) for value in row] for row in matrix.tolist()]
    _refuse_missing([row for row, cells in zip(rows, texts, strict=True) if "" in cells])
    wrong = [
        f"{row} ({name} = {cell})"
        for row, cells in zip(rows, texts, strict=True)
        for name, cell in zip(names, cells, strict=True)
        if cell not in ZERO_ONE
    ]
    if wrong:
        raise DataError(
            f"Label columns must hold 0 or 1, but do not in {listing(wrong)}.",
            remedy="Decide on uncertain labels first, for instance count -1 as 0 or as 1, or leave those rows out.",
        )
    labels = np.array([[ZERO_ONE[cell] for cell in cells] for cells in texts], dtype=np.int64).reshape(len(rows), -1)
    if task is not None and not task.several:
        return _one_hot(labels, names, rows, task)
    return EncodedLabels(labels, names, Task.MULTILABEL)


def _one_hot(labels: NDArray[np.int64], names: tuple[str, ...], rows: Sequence[str], task: Task) -> EncodedLabels:
    wrong = [rows[row] for row in np.flatnonzero(labels.sum(axis=1) != 1).tolist()]
    if wrong:
        raise DataError(
            f"A {task} task has exactly one label per image, but not so in {listing(wrong)}.",
            remedy="Correct these rows, or leave task= out for a multi-label task.",
        )
    return EncodedLabels(labels.argmax(axis=1).astype(np.int64), names, _single_task(task, len(names)))


def _refuse_missing(rows: list[str]) -> None:
    if rows:
        raise DataError(
            f"{len(rows)} sample(s) have no label: {listing(rows)}.",
            remedy="Fill in the labels or take these rows out; to embed without labels use --no-labels "
            "(labelled=False in Python).",
        )
