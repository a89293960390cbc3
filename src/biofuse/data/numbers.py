"""Numbers as labels: values that are measured, and times to an event with whether it happened."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError, option
from biofuse.core.target import Labels, Target, Task
from biofuse.data.columns import YES
from biofuse.data.labels import EncodedLabels, RawLabels, cell_text, listing

EVENTS = YES | {
    "event": True, "dead": True, "deceased": True, "died": True, "1:deceased": True,
    "censored": False, "alive": False, "living": False, "0:living": False,
}  # fmt: skip
"""What tables write of an event that happened, and of one that had not: also cBioPortal's words."""

QUARTERS = (0.25, 0.5, 0.75)
"""Quantiles of the times of events that are the horizons where none are given."""

DIGITS = 3
"""Digits that these keep."""

FEWEST_EVENTS = 2
"""Events without which nothing can be said of a hazard."""


def encode_numbers(
    values: RawLabels,
    task: Task,
    *,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    horizons: Sequence[float] = (),
    development: NDArray[np.bool_] | None = None,
    strict: bool = True,
) -> EncodedLabels:
    """Turn the cells of columns into values, or into times and events.

    Parameters
    ----------
    values : sequence or ndarray
        One value per row, or a table of them; of times to an event a table [n, 2] of time and event.
    task : Task
        Values or times.
    rows : sequence of str
        What to call the rows in messages.
    columns : sequence of str
        Names of the table's columns.
    classes : sequence of str, optional
        Names of the columns of values, or the horizons in words, where they are known already.
    horizons : sequence of float
        Times by which an event is to be predicted; otherwise the quartiles of the times of events.
    development : ndarray of bool, shape (n,), optional
        Rows that are no test samples: what is said of all is found from these; by default all.
    strict : bool, default True
        False for data that are only compared with a model: then nothing need vary.

    Raises
    ------
    DataError
        If a cell is no finite number, a time is negative, an event is neither yes nor no, or, where it is strict,
        there is nothing to learn from.
    """
    if len(values) != len(rows):
        raise DataError(f"{len(rows)} images but {len(values)} labels.", remedy="Give one label per image.")
    table = [list(row) if isinstance(row, list | tuple | np.ndarray) else [row] for row in values]
    width = len(table[0]) if table else 1
    used = np.ones(len(rows), dtype=np.bool_) if development is None or not development.any() else development
    if task.timed:
        if width != 2:
            raise DataError(
                f"Times to an event are two columns, time and event, not {width}.",
                remedy=f"Name them: {option('time', 'months')} and {option('event', 'died')}.",
            )
        names = tuple(columns) if len(columns) == 2 else ("time", "event")
        return _times(table, rows, names, classes=classes, horizons=horizons, used=used, strict=strict)
    names = tuple(columns) or tuple(classes or ()) or (("value",) if width == 1 else tuple(map(str, range(width))))
    found = np.column_stack([_numbers([row[place] for row in table], rows, name) for place, name in enumerate(names)])
    flat = [name for place, name in enumerate(names) if np.ptp(found[used, place]) == 0]
    if strict and flat:
        raise DataError(
            f"{listing(flat)} has the value {found[used, names.index(flat[0])][0]:g} in all samples: there is nothing "
            "to learn.",
            remedy=f"Leave it out of {option('label')}, or correct the table.",
        )
    target = Target(task, tuple(classes) if classes else names)
    ends = [f"{name} from {column.min():g} to {column.max():g}" for name, column in zip(names, found.T, strict=True)]
    return EncodedLabels(target.as_labels(found), target.classes, task, notes=(f"Values: {listing(ends, limit=20)}.",))


def _numbers(cells: Sequence[object], rows: Sequence[str], name: str) -> NDArray[np.float64]:
    """Read the cells of a column; a comma for the point, or words, are refused by the row."""
    found, wrong, blank = np.zeros(len(cells)), [], []
    for place, (cell, row) in enumerate(zip(cells, rows, strict=True)):
        text = cell_text(cell)
        try:
            found[place] = float(text or "nan")
        except ValueError:
            found[place] = np.nan
        if not text:
            blank.append(row)
        elif not np.isfinite(found[place]):
            wrong.append(f"{row} ({text})")
    if wrong:
        raise DataError(
            f"Column {name!r} holds {len(wrong)} cell(s) that are no finite numbers: {listing(wrong)}.",
            remedy="Write numbers, with a point, or leave these rows out"
            + (f"; for classes, give {option('task', 'multiclass')}." if name not in {"time", "event"} else "."),
        )
    _refuse_blank(blank, name)
    return found


def _refuse_blank(blank: Sequence[str], name: str) -> None:
    if blank:
        raise DataError(
            f"Column {name!r} is blank for {len(blank)} sample(s): {listing(blank)}.",
            remedy=f"Fill it in, or leave these samples out: {option('on_missing', 'drop')}.",
        )


def _times(
    table: Sequence[Sequence[object]],
    rows: Sequence[str],
    names: Sequence[str],
    *,
    classes: Sequence[str] | None,
    horizons: Sequence[float],
    used: NDArray[np.bool_],
    strict: bool,
) -> EncodedLabels:
    time = _numbers([row[0] for row in table], rows, names[0])
    words = [cell_text(row[1]).casefold() for row in table]
    _refuse_blank([row for row, word in zip(rows, words, strict=True) if not word], names[1])
    wrong = [f"{row} ({word})" for row, word in zip(rows, words, strict=True) if word not in EVENTS]
    if wrong:
        raise DataError(
            f"Column {names[1]!r} says of {len(wrong)} sample(s) neither that the event happened nor that it had not: "
            f"{listing(wrong)}.",
            remedy="Write 1 where it happened, and 0 where the observation ended before.",
        )
    negative = [f"{row} ({value:g})" for row, value in zip(rows, time, strict=True) if value < 0]
    if negative:
        raise DataError(
            f"{len(negative)} time(s) in column {names[0]!r} are negative: {listing(negative)}.",
            remedy="Times are counted from the image, or from the diagnosis, onwards: correct them.",
        )
    labels = np.column_stack([time, [EVENTS[word] for word in words]]).astype(np.float64)
    events, n = int(labels[used, 1].sum()), int(used.sum())
    if strict and events < FEWEST_EVENTS:
        raise DataError(
            f"{events or 'None'} of {n} samples {'has' if events < 2 else 'have'} an event in column {names[1]!r}; at "
            f"least {FEWEST_EVENTS} are needed, and some dozens to learn from.",
            remedy=f"Check that {option('event', names[1])} is 1 where the event happened.",
        )
    if strict and np.ptp(time[used]) == 0:
        raise DataError(
            f"All {n} samples have the time {time[used][0]:g}: there is no order to learn.",
            remedy=f"Name the column of times: {option('time')}.",
        )
    said = f"{events} of {n} samples have the event, at {_span(labels[used & (labels[:, 1] == 1), 0])}."
    if classes:
        return EncodedLabels(labels, tuple(classes), Task.SURVIVAL, notes=(said,))
    chosen, note = _horizons(labels[used], horizons)
    return EncodedLabels(labels, Target.until(chosen).classes, Task.SURVIVAL, notes=(said, note))


def _span(times: NDArray[np.float64]) -> str:
    return f"times from {times.min():g} to {times.max():g}" if len(times) else "no time"


def default_horizons(labels: Labels) -> list[float]:
    """Return the quartiles of the times of events, to three digits, ascending; those above 0.

    Parameters
    ----------
    labels : ndarray of float64, shape (n, 2)
        Times and events.
    """
    times = labels[labels[:, 1] == 1, 0]
    quartiles = np.quantile(times, QUARTERS) if len(times) else np.zeros(0)
    return sorted({float(f"{each:.{DIGITS}g}") for each in quartiles if each > 0})


def _horizons(labels: Labels, asked: Sequence[float]) -> tuple[list[float], str]:
    """Return the horizons that were asked for, or the quartiles of the times of events, and say so."""
    if asked:
        beyond = [f"{horizon:g}" for horizon in asked if not 0 < horizon < labels[:, 0].max()]
        if beyond:
            raise DataError(
                f"Nobody was observed beyond the horizon {listing(beyond)}: times go up to {labels[:, 0].max():g}.",
                remedy=f"Give {option('horizon')} above 0 and below that, in the unit of the times.",
            )
        chosen = sorted(set(asked))
        return chosen, f"Risks are predicted by {listing([f'{each:.12g}' for each in chosen])}."
    chosen = default_horizons(labels)
    shown = listing([f"{each:.12g}" for each in chosen])
    return (
        chosen,
        f"Risks are predicted by {shown}, the quartiles of the times of events; {option('horizon')} gives others.",
    )
