"""Images in memory, and lists of paths."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import DataError
from biofuse.data.decoding import ArraySource, FileSource, PillowSource, raw_image
from biofuse.data.labels import listing
from biofuse.data.samples import LoadOptions, SampleTable, Source

ID_DIGITS = 6
"""Index-based ids are padded to this width, so that they sort in the order of the rows."""


def row_id(row: int) -> str:
    """Name a row by its number: ``000012``."""
    return f"{row:0{ID_DIGITS}d}"


def load_arrays(images: Sequence[Any] | NDArray[Any], options: LoadOptions) -> SampleTable:
    """Read an array [n, height, width(, channels)], or a list of arrays, Pillow images, tensors or paths.

    Raises
    ------
    DataError
        If the array is one image, its channels come first, or ``labels``, ``group``, ``split`` or ``id`` do not
        have one value per image.
    """
    options.only("images in memory or a list of paths", "labels", "group", "split", "id", "root")
    if isinstance(images, np.ndarray):
        _check_stack(images)
    n = len(images)
    paths = n > 0 and all(isinstance(image, str | Path) for image in images)
    root = options.root or Path()
    ids = [Path(image).as_posix() for image in images] if paths else [row_id(row) for row in range(n)]
    if paths and len(set(ids)) != n:
        twice = sorted(name for name, count in Counter(ids).items() if count > 1)
        raise DataError(f"The list names {len(twice)} image(s) more than once: {listing(twice)}.")
    given = per_row(options.id, n, "id")
    return SampleTable(
        name="images",
        ids=ids if given is None else [str(value) for value in given],
        sources=[_source(image, row, root) for row, image in enumerate(images)],
        labels=options.labels if options.labels is None else as_label_rows(options.labels),
        splits=per_row(options.split, n, "split"),
        groups=per_row(options.group, n, "group"),
    )


def _check_stack(images: NDArray[Any]) -> None:
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
        raise DataError(f"{what}= must give one value per image here.", remedy=f"Give a list of {n} values.")
    rows: list[object] = list(values)  # type: ignore[call-overload]
    if len(rows) != n:
        raise DataError(f"{n} images but {len(rows)} values in {what}=.")
    return rows
