"""Data sets of other libraries: torch and Hugging Face, recognised by what they can do, not by importing them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from biofuse.core.errors import DataError, UnreadableImageError
from biofuse.data.arrays import as_label_rows, per_row, row_id
from biofuse.data.decoding import ItemSource, Rows
from biofuse.data.labels import listing
from biofuse.data.manifest import LABEL_COLUMNS
from biofuse.data.samples import LoadOptions, SampleTable

PROBED_ROWS = 4
"""Rows of a torch data set that are read twice at loading, to find random transforms."""


def is_hugging_face(data: object) -> bool:
    """Tell whether an object is a Hugging Face data set with random access."""
    return (
        type(data).__module__.split(".")[0] == "datasets" and hasattr(data, "cast_column") and hasattr(data, "__len__")
    )


def is_row_data(data: object) -> bool:
    """Tell whether an object has rows by number, as torch data sets do."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def load_hugging_face(data: Any, options: LoadOptions) -> SampleTable:
    """Read a Hugging Face ``Dataset``; its files' original bytes are what is hashed and decoded.

    Raises
    ------
    DataError
        If there is no image column, or a named column does not exist.
    """
    options.only("a Hugging Face data set", "label", "group", "id", "path")
    from datasets import Image

    features = data.features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    column = options.path or (images[0] if len(images) == 1 else None)
    if column is None or column not in features:
        raise DataError(
            f"The data set has {len(images)} image columns; its columns are {listing(list(features), limit=20)}.",
            remedy="Name the image column with path=.",
        )
    raw = data.select_columns([column])
    if isinstance(features[column], Image):
        raw = raw.cast_column(column, Image(decode=False))
    ids = _column_values(data, options.id, "id")
    labels, classes = _hugging_face_labels(data, options)
    return SampleTable(
        name=str(getattr(data.info, "dataset_name", None) or "data set"),
        ids=[row_id(row) for row in range(len(data))] if ids is None else [str(value) for value in ids],
        sources=[ItemSource(raw, row, column, f"row {row}, column {column!r}") for row in range(len(data))],
        labels=labels,
        classes=classes,
        groups=_column_values(data, options.group or ("group" if "group" in features else None), "group"),
    )


def load_rows(data: Rows, options: LoadOptions) -> SampleTable:
    """Read a torch-style data set whose rows are images or (image, label).

    Labels come from ``data.targets`` where that has one entry per row and no ``target_transform`` is set; otherwise
    every row is read once.

    Raises
    ------
    DataError
        If rows are no images, or differ from one reading to the next.
    """
    options.only("a torch data set", "labels", "group", "split", "id")
    n = len(data)
    if n == 0:
        raise DataError("The data set has no rows.", remedy="Check how it was made.")
    first = data[0]
    pair = isinstance(first, tuple | list) and len(first) >= 2
    rows: Rows = data if pair else _Single(data)
    sources = [ItemSource(rows, row, 0, f"row {row} of {type(data).__name__}") for row in range(n)]
    _refuse_random(sources[:PROBED_ROWS])
    labels = options.labels
    if labels is None and pair and options.labelled is not False:
        labels = _torch_labels(data, n)
    classes = getattr(data, "classes", None)
    named = labels is not None and isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes)
    base = SampleTable(name=type(data).__name__, ids=[row_id(row) for row in range(n)], sources=sources)
    return _with_columns(base, options, labels, tuple(classes) if named and classes else None)


class _Single:
    """A data set of bare images, given the shape of one with labels."""

    def __init__(self, data: Rows) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, row: int) -> tuple[Any]:
        return (self._data[row],)


def _with_columns(base: SampleTable, options: LoadOptions, labels: Any, classes: tuple[str, ...] | None) -> SampleTable:
    n = len(base.ids)
    ids = per_row(options.id, n, "id")
    return replace(
        base,
        ids=base.ids if ids is None else [str(value) for value in ids],
        labels=None if labels is None else as_label_rows(labels),
        classes=classes,
        splits=per_row(options.split, n, "split"),
        groups=per_row(options.group, n, "group"),
    )


def _refuse_random(sources: Sequence[ItemSource]) -> None:
    for source in sources:
        try:
            once, again = source.read(), source.read()
        except UnreadableImageError as error:
            raise DataError(f"The data set's images cannot be used: {error.message}", remedy=error.remedy) from error
        same = once == again if isinstance(once, bytes) else np.array_equal(once, np.asarray(again), equal_nan=False)
        if not same:
            raise DataError(
                f"{source.description} gives other pixels each time it is read.",
                remedy="Take random transforms out: embeddings are computed once per image.",
            )


def _torch_labels(data: Any, n: int) -> list[Any]:
    targets = getattr(data, "targets", None)
    if targets is not None and len(targets) == n and getattr(data, "target_transform", None) is None:
        return [_plain(value) for value in targets]
    return [_plain(data[row][1]) for row in range(n)]


def _plain(value: Any) -> Any:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        flat = np.asarray(value).ravel()
        return flat[0].item() if flat.size == 1 else flat
    return value


def _hugging_face_labels(data: Any, options: LoadOptions) -> tuple[Any, tuple[str, ...] | None]:
    from datasets import ClassLabel

    if options.labelled is False:
        return None, None
    if options.label is not None and not isinstance(options.label, str):
        raise DataError(
            "Several label columns of a Hugging Face data set are not read.", remedy="Use data.to_pandas()."
        )
    found = [name for name in data.features if name.lower() in {*LABEL_COLUMNS, "labels"}]
    if options.label is None and len(found) > 1:
        raise DataError(f"The data set has several label columns: {listing(found)}.", remedy="Choose one with label=.")
    column = options.label or (found[0] if found else None)
    values = _column_values(data, column, "label")
    if values is None:
        return None, None
    feature = data.features[column]
    inner = getattr(feature, "feature", feature)
    if not isinstance(inner, ClassLabel):
        return values, None
    names = tuple(inner.names)

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(item) for item in value]
        # -1 is that library's mark for "no label".
        return None if value is None or value < 0 else names[value]

    named = [name(value) for value in values]
    return (None if all(value is None for value in named) else named), names


def _column_values(data: Any, column: object, what: str) -> list[Any] | None:
    if column is None:
        return None
    if column not in data.features:
        raise DataError(
            f"The data set has no column {column!r}; its columns are {listing(list(data.features), limit=20)}.",
            remedy=f"Correct {what}=.",
        )
    return list(data[column])
