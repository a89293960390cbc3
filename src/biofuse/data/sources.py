"""Where images come from: files, arrays, rows of archives and of other libraries' data sets.

Every source is small to pickle and holds no open file, so that it can travel to a worker process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import UnreadableImageError
from biofuse.data.decoding import PILLOW_ERRORS, REMEDY, RawImage, pillow_pixels


class Rows(Protocol):
    """A data set of another library: rows by number."""

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def __getitem__(self, row: int, /) -> Any:
        """Return one row."""
        ...


@dataclass(frozen=True)
class FileSource:
    """An image file.

    Attributes
    ----------
    path : Path
        Where it lies.
    """

    path: Path

    @property
    def description(self) -> str:
        """The path."""
        return str(self.path)

    def read(self) -> bytes:
        """Read the file's bytes.

        Raises
        ------
        UnreadableImageError
            If it does not exist, is a folder, or may not be read.
        """
        return read_file(self.path)


@dataclass(frozen=True, eq=False)
class ArraySource:
    """An image held in memory.

    Attributes
    ----------
    array : ndarray
        Pixels [H,W], [H,W,1], [H,W,3] or [H,W,4].
    description : str
        What a person would call it.
    """

    array: NDArray[np.generic] = field(repr=False)
    description: str

    def read(self) -> NDArray[np.generic]:
        """Return the array."""
        return self.array


@dataclass(frozen=True, eq=False)
class PillowSource:
    """A Pillow image held in memory.

    Attributes
    ----------
    image : Image
        Loaded or still lazy; it is not changed.
    description : str
        What a person would call it.
    """

    image: Image.Image = field(repr=False)
    description: str

    def read(self) -> RawImage:
        """Return the upright pixels.

        Raises
        ------
        UnreadableImageError
            If the file behind a lazy image is damaged.
        """
        return raw_image(self.image, description=self.description)


@dataclass(frozen=True)
class MappedRowSource:
    """One row of an uncompressed array inside an archive, read through a memory map.

    Attributes
    ----------
    archive : Path
        The ``.npz`` file.
    member : str
        The array's name, for messages.
    offset : int
        Position of the row's first byte in the file.
    dtype : str
        NumPy type of the values.
    shape : tuple of int
        Shape of the row.
    row : int
        Its number, for messages.
    """

    archive: Path
    member: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    row: int

    @property
    def description(self) -> str:
        """Archive, array and row."""
        return f"{self.archive}: {self.member}, row {self.row}"

    def read(self) -> NDArray[np.generic]:
        """Copy the row out of the file.

        Raises
        ------
        UnreadableImageError
            If the file is gone or shorter than it was.
        """
        try:
            mapped = np.memmap(self.archive, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape)
            return np.array(mapped)
        except (OSError, ValueError) as error:
            raise UnreadableImageError(
                f"{self.description}: cannot be read: {error}.", remedy="Restore the file and load the data again."
            ) from error


@dataclass(frozen=True, eq=False)
class ItemSource:
    """A row of a torch or Hugging Face data set, read when it is asked for.

    Attributes
    ----------
    rows : Rows
        The data set.
    row : int
        Row number.
    key : int or str
        Where in the row the image is: a position or a column name.
    description : str
        What a person would call it.
    """

    rows: Rows = field(repr=False)
    row: int
    key: int | str
    description: str

    def read(self) -> RawImage:
        """Fetch the row and return its image's bytes or pixels.

        Raises
        ------
        UnreadableImageError
            If the data set cannot give the row, or the image is of no known kind.
        """
        try:
            item = self.rows[self.row][self.key]
        except (*PILLOW_ERRORS, LookupError) as error:
            raise UnreadableImageError(
                f"{self.description}: the data set cannot give it: {error}.", remedy=REMEDY
            ) from error
        return raw_image(item, description=self.description)


def read_file(path: Path) -> bytes:
    """Read a file's bytes.

    Raises
    ------
    UnreadableImageError
        If it does not exist, is a folder, or may not be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableImageError(
            f"{path}: does not exist.", remedy="Correct the path, or the root folder that paths are relative to."
        ) from error
    except OSError as error:
        raise UnreadableImageError(f"{path}: cannot be read: {error.strerror}.", remedy=REMEDY) from error


def raw_image(item: object, *, description: str) -> RawImage:
    """Turn what users and data sets call an image into bytes or pixels.

    Parameters
    ----------
    item : object
        Bytes of a file; a path; a Pillow image; an array; a mapping with ``bytes`` and ``path`` (Hugging Face); or a
        tensor: [channels, height, width] or [height, width], uint8, or float 0-1, which becomes uint8 by
        ``round(255 x)``.
    description : str
        Begins every error.

    Raises
    ------
    UnreadableImageError
        If it is none of these, or a tensor has been normalised.
    """
    if isinstance(item, bytes | np.ndarray):
        return item
    if isinstance(item, str | Path):
        return read_file(Path(item))
    if isinstance(item, Image.Image):
        try:
            return pillow_pixels(item)
        except PILLOW_ERRORS as error:
            raise UnreadableImageError(f"{description}: cannot be decoded: {error}.", remedy=REMEDY) from error
    if isinstance(item, Mapping) and item.get("bytes") is not None:
        return bytes(item["bytes"])
    if isinstance(item, Mapping) and item.get("path") is not None:
        return read_file(Path(item["path"]))
    if hasattr(item, "detach") and hasattr(item, "numpy"):
        return _tensor_pixels(item, description)
    raise UnreadableImageError(
        f"{description}: {type(item).__name__} is not an image.",
        remedy="Give paths, Pillow images, NumPy arrays or torch tensors.",
    )


def _tensor_pixels(tensor: Any, description: str) -> NDArray[np.generic]:
    array: NDArray[np.generic] = tensor.detach().cpu().numpy()
    if array.ndim == 3 and array.shape[0] not in {1, 3, 4}:
        raise UnreadableImageError(
            f"{description}: a tensor of shape {array.shape} is not [channels, height, width].",
            remedy="Permute the tensor, or return a NumPy array [height, width, channels].",
        )
    if array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.dtype == np.uint8:
        return array
    values = array.astype(np.float64) if array.dtype.kind == "f" else None
    # NaN fails both comparisons, so it is caught here too.
    if values is None or not (values.min() >= 0.0 and values.max() <= 1.0):
        raise UnreadableImageError(
            f"{description}: a tensor must be uint8, or float within 0-1, not {array.dtype}"
            + (f" from {values.min():.4g} to {values.max():.4g}." if values is not None else "."),
            remedy="Take Normalize out of the data set's transform: every encoder normalises in its own way.",
        )
    return np.rint(values * 255.0).astype(np.uint8)
