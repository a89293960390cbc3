"""Images in memory, lists of paths, and data sets of other libraries, recognised by what they can do."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import DataError, UnreadableImageError, option
from biofuse.data.assembly import Request, SampleTable
from biofuse.data.config import IDENTIFIERS, DataConfig
from biofuse.data.cuts import Source
from biofuse.data.decoding import ArraySource, FileSource, ItemSource, PillowSource, Rows, raw_image
from biofuse.data.labels import listing
from biofuse.data.lookup import is_address
from biofuse.data.remote import address_names, below_address, remote_sources
from biofuse.data.samples import row_id
from biofuse.data.tables import Located, Read, samples_of


def load_arrays(images: Sequence[Any] | NDArray[Any], request: Request) -> SampleTable:
    """Read an array [n, height, width(, channels)], or a list (or array) of paths, or one of arrays, images or tensors.

    Raises
    ------
    DataError
        If the array is one image, its channels come first, or ``labels``, ``group``, ``split`` or ``id`` do not
        have one value per image.
    """
    request.only(
        "images in memory or a list of paths", "labels", "group", "bag", "weight", "by", "site", "split", "id", "root",
        "allow_remote", "allow_private", "remote_cache",
    )  # fmt: skip
    if isinstance(images, np.ndarray) and images.ndim == 1 and all(isinstance(path, str | Path) for path in images):
        images = images.tolist()
    if isinstance(images, np.ndarray):
        check_stack(images)
    n = len(images)
    paths = n > 0 and all(isinstance(image, str | Path) for image in images)
    ids = [row_id(row) for row in range(n)]
    if paths:
        ids = address_names([image if is_address(image) else Path(image).as_posix() for image in images])
    if paths and len(set(ids)) != n:
        twice = sorted(name for name, count in Counter(ids).items() if count > 1)
        raise DataError(f"The list names {len(twice)} image(s) more than once: {listing(twice)}.")
    sources, notes = _sources(images, request.config)
    return _with_columns(SampleTable(name="images", ids=ids, sources=sources, notes=notes), request, request.labels)


def check_stack(images: NDArray[Any]) -> None:
    """Refuse an array that is not one image behind the other: [n, height, width] or [n, height, width, channels].

    Raises
    ------
    DataError
        If it is one image, its channels come first, or it is no array of images at all.
    """
    if images.dtype.hasobject:
        raise DataError("An array of Python objects is no stack of images.", remedy="Give a list of arrays instead.")
    if images.ndim == 3 and images.shape[2] in {3, 4}:
        raise DataError(
            f"An array of shape {images.shape} is one image, not a stack.", remedy="Put a single image into a list."
        )
    if images.ndim == 4 and images.shape[3] not in {1, 3, 4}:
        first = images.shape[1] in {1, 3, 4}
        raise DataError(
            f"An array of shape {images.shape} is not [n, height, width, channels] with 1, 3 or 4 channels.",
            remedy="Its channels come first: array.transpose(0, 2, 3, 1)."
            if first
            else "Volumes are not embedded; give one slice, or a projection, per image.",
        )
    if images.ndim not in {3, 4}:
        raise DataError(
            f"An array of shape {images.shape} is no stack of images.",
            remedy="Give [n, height, width] or [n, height, width, channels].",
        )


def _sources(images: Sequence[Any] | NDArray[Any], config: DataConfig) -> tuple[list[Source], tuple[str, ...]]:
    if config.root_address is not None:
        images = [below_address(config.root_address, str(image)) for image in images]
    there = [row for row, image in enumerate(images) if is_address(image)]
    remote, notes = remote_sources([images[row] for row in there], config, "The list")
    by_row = dict(zip(there, remote, strict=True))
    here = config.folder or Path()
    return [by_row.get(row) or _source(image, row, here) for row, image in enumerate(images)], tuple(notes)


def _source(image: Any, row: int, root: Path) -> Source:
    if isinstance(image, str | Path):
        return FileSource(root / image)
    description = f"image {row} of the list"
    if isinstance(image, np.ndarray):
        return ArraySource(image, description)
    if isinstance(image, Image.Image):
        return PillowSource(image, description)
    raw = raw_image(image, description=description)
    if isinstance(raw, bytes):
        raise DataError(f"{description}: bytes are not accepted in a list.", remedy="Open them with PIL.Image.open.")
    return ArraySource(raw, description)


def as_label_rows(labels: Any) -> Any:
    """Return labels as a list, or as a table where every row has as many numbers; lists of names stay lists."""
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    if hasattr(labels, "to_numpy"):
        labels = labels.to_numpy()
    rows = list(labels)
    nested = rows and all(isinstance(row, list | tuple | np.ndarray) for row in rows)
    if nested and len({len(row) for row in rows}) == 1 and not isinstance(rows[0][0], str):
        return np.asarray(rows)
    return rows


def per_row(values: object, n: int, what: str) -> Sequence[object] | None:
    """Return one value per image.

    Raises
    ------
    DataError
        If there are more or fewer.
    """
    if values is None:
        return None
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise DataError(f"{option(what)} must give one value per image here.", remedy=f"Give a list of {n} values.")
    rows: list[object] = list(values)  # type: ignore[call-overload]
    if len(rows) != n:
        raise DataError(f"{n} images but {len(rows)} values in {option(what)}.")
    return rows


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


def load_hugging_face(data: Any, request: Request) -> SampleTable:
    """Read a Hugging Face ``Dataset``; its files' original bytes are what is hashed and decoded.

    Transforms that were set on it play no part, and its columns are recognised like those of a table.

    Raises
    ------
    DataError
        If there is no image column, or a named column does not exist.
    """
    request.only(
        "a Hugging Face data set",
        "label",
        "group",
        "bag",
        "weight",
        "by",
        "site",
        "split",
        "id",
        "path",
        "label_separator",
        "blank_as",
    )
    from datasets import Image

    data = data.with_format(None)
    features = data.features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    request, absent = request.fitting(features)
    column = request.config.path or (images[0] if len(images) == 1 else None)
    if column is None or column not in features:
        raise DataError(
            f"The data set has {len(images)} image columns; its columns are {listing(list(features), limit=20)}.",
            remedy=f"Name the image column: {option('path')}.",
        )
    raw = data.select_columns([column])
    if isinstance(features[column], Image):
        raw = raw.cast_column(column, Image(decode=False))
    inner = {name: getattr(feature, "feature", feature) for name, feature in features.items() if name not in images}
    plain_columns = [name for name, feature in inner.items() if type(feature).__name__ in {"Value", "ClassLabel"}]
    columns: dict[str, Sequence[Any]] = {name: list(data[name]) for name in plain_columns if name != column}
    table = samples_of(
        Read(
            columns={column: range(len(data)), **columns},
            names={name: tuple(feature.names) for name, feature in inner.items() if hasattr(feature, "names")},
        ),
        request,
        image=column,
        ids=[row_id(row) for row in range(len(data))],
        locate=lambda kept: Located([ItemSource(raw, row, column, f"row {row}, column {column!r}") for row in kept]),
        name=str(getattr(data.info, "dataset_name", None) or "data set"),
        where="The data set",
    )
    return replace(table, notes=(*absent, *table.notes))


def load_rows(data: Rows, request: Request) -> SampleTable:
    """Read a torch-style data set whose rows are images or (image, label).

    Labels come from ``data.targets`` where that has one entry per row and no ``target_transform`` is set; otherwise
    every row is read once.

    Raises
    ------
    DataError
        If rows are no images, or differ from one reading to the next.
    """
    request.only("a torch data set", "labels", "group", "bag", "weight", "by", "site", "split", "id")
    n = len(data)
    if n == 0:
        raise DataError("The data set has no rows.", remedy="Check how it was made.")
    first = data[0]
    pair = isinstance(first, tuple | list) and len(first) >= 2
    key = 0 if pair else None
    sources = [ItemSource(data, row, key, f"row {row} of {type(data).__name__}") for row in range(n)]
    _refuse_random(sources[:PROBED_ROWS])
    labels = request.labels
    if labels is None and pair and request.labelled is not False:
        labels = _torch_labels(data, n)
    classes = getattr(data, "classes", None)
    named = labels is not None and isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes)
    base = SampleTable(
        name=type(data).__name__,
        ids=[row_id(row) for row in range(n)],
        sources=sources,
        classes=tuple(classes) if named and classes else None,
    )
    return _with_columns(base, request, labels)


def _with_columns(base: SampleTable, request: Request, labels: Any) -> SampleTable:
    n = len(base.ids)
    ids = per_row(request.config.id or request.ids, n, "id")
    files = all(isinstance(source, FileSource) for source in base.sources)
    bag = None if "bag" in request.inherited else request.config.bag_column  # a column of a table that is not here
    said_by_files = files and request.config.group in IDENTIFIERS
    return replace(
        base,
        ids=base.ids if ids is None else [str(value) for value in ids],
        labels=None if labels is None else as_label_rows(labels),
        splits=per_row(request.config.split or request.splits, n, "split"),
        groups=None if said_by_files else per_row(request.config.group_column or request.groups, n, "group"),
        bags=per_row(bag or request.bags, n, "bag"),
        weights=per_row(request.config.weight or request.weights, n, "weight"),
        by=_columns(request, n),
        site=None if request.sites is None else "site",
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


def _columns(request: Request, n: int) -> dict[str, Sequence[object]]:
    if request.config.by:
        raise DataError(
            f"{option('by')} must give values here, not names: these data have no columns.",
            remedy=f"Give a mapping from names to lists of {n} values.",
        )
    found = {str(name): per_row(values, n, "by") or () for name, values in (request.by or {}).items()}
    sites = per_row(request.config.site or request.sites, n, "site")
    return found if sites is None else {**found, "site": sites}


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
