"""From the bytes of an image file, or a pixel array, to one canonical image.

The policy, which the decode version and :class:`DecodePolicy` put into every content hash:

- The EXIF orientation is applied.
- Grey is repeated to red, green and blue; 1-bit images become 0 and 255.
- Transparency (RGBA, grey with alpha, palettes with a transparent entry) is composited on white.
- CMYK, YCbCr and palettes are converted to RGB by Pillow.
- Grey of more than 8 bits, and floating-point grey, follows ``sixteen_bit``: ``minmax`` maps the image's own minimum
  and maximum to 0 and 255 (a constant image becomes 0); ``full`` maps the full range of the type, and floats must be
  0-1.
- Colour is never stretched: floating-point colour must be 0-1, 16-bit colour arrays are divided by 257, and Pillow
  keeps the high byte of 16-bit colour files.
- Of a file with several pages or frames, ``page`` is read.

Nothing is guessed: a truncated, empty or foreign file is an :class:`UnreadableImageError`.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from biofuse.core.errors import DataError, UnreadableImageError, printable
from biofuse.core.files import refuse_special_file
from biofuse.core.hashing import canonical_json, digest

DECODE_VERSION = 1
"""Raised when the same bytes and policy would give other pixels; part of the content hash."""

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the file formats that are opened. EPS, which runs an external program, is not among them."""

PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError,
    RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's readers raise on damaged files; each becomes an UnreadableImageError that carries its text."""

REMEDY = "Repair, replace or remove it."
TOO_LARGE = "Cut it into tiles, or save it smaller; whole slides are not single images."

ORIENTATION_TAG = 0x0112
"""EXIF 2.3, table 4: orientation; 1 is upright."""
BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339
"""TIFF 6.0 tags; sample format 2 is signed integer."""

JPEG2000_END = b"\xff\xd9"
"""ISO/IEC 15444-1, table A.1: end of codestream."""

RawImage = bytes | NDArray[np.generic]
"""An undecoded image: a file's bytes, or a pixel array [H,W], [H,W,1], [H,W,3] or [H,W,4]."""
RGBImage = NDArray[np.uint8]
"""A decoded image, shape (height, width, 3), red-green-blue, 0-255."""


class DecodePolicy(BaseModel):
    """How pixels are read; part of the content hash.

    Attributes
    ----------
    sixteen_bit : {"minmax", "full"}
        How 16-bit, 32-bit and floating-point grey images become 8-bit.
    page : int
        Which page of a multi-page file is read, from 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sixteen_bit: Literal["minmax", "full"] = "minmax"
    page: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class ImageFacts:
    """What an image is before it is decoded.

    Attributes
    ----------
    format : str
        Pillow's name of the file format, or ``"array"``.
    mode : str
        Pillow's mode ("L", "RGB", "I;16"...), or the array's type and channels ("uint8x3").
    width, height : int
        Pixels.
    """

    format: str
    mode: str
    width: int
    height: int


def content_hash(raw: RawImage, policy: DecodePolicy) -> bytes:
    """Name an image by its content: 16 bytes, the same wherever the file lies and whatever it is called.

    Parameters
    ----------
    raw : bytes or ndarray
        A file's bytes; or an array, of which type, shape and values count.
    policy : DecodePolicy
        Takes part: the same bytes read in another way are another image.

    Raises
    ------
    DataError
        If the array holds Python objects.
    """
    rules = canonical_json({"version": DECODE_VERSION, **policy.model_dump(mode="json")})
    if isinstance(raw, bytes):
        return digest(b"file", raw, rules)
    if raw.dtype.hasobject:
        raise DataError("An array of Python objects is not an image.", remedy="Give numeric arrays, one per image.")
    pixels = np.ascontiguousarray(raw, dtype=raw.dtype.newbyteorder("<"))
    shape = canonical_json([int(side) for side in raw.shape])
    return digest(b"array", pixels.dtype.str.encode(), shape, pixels.tobytes(), rules)


def pixel_hash(image: RGBImage) -> bytes:
    """Name a decoded image by its pixels (16 bytes): finds the same picture saved in two lossless formats."""
    shape = canonical_json([int(side) for side in image.shape])
    return digest(b"pixels", shape, np.ascontiguousarray(image).tobytes())


def decode(raw: RawImage, policy: DecodePolicy, *, description: str) -> RGBImage:
    """Decode one image by the policy that this module's docstring states.

    Parameters
    ----------
    raw : bytes or ndarray
        A file's bytes, or a pixel array.
    policy : DecodePolicy
        The choices that are left to the user.
    description : str
        What a person would call the image; begins every error.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)

    Raises
    ------
    UnreadableImageError
        If the image is damaged, no image, of an unsupported format, channel-first, or holds NaN or infinite values.
    """
    pixels = _pixels_of_file(raw, policy, description) if isinstance(raw, bytes) else raw
    return _to_rgb(pixels, policy, description)


def image_facts(raw: RawImage) -> ImageFacts:
    """Read the header of an image that can be decoded; no pixels are touched."""
    if isinstance(raw, bytes):
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            return ImageFacts(image.format or "unknown", image.mode, image.width, image.height)
    channels = f"x{raw.shape[2]}" if raw.ndim == 3 else ""
    return ImageFacts("array", f"{raw.dtype.name}{channels}", int(raw.shape[1]), int(raw.shape[0]))


def pillow_pixels(image: Image.Image) -> NDArray[np.generic]:
    """Return the upright pixels of a Pillow image in the array layouts that :func:`decode` accepts.

    Raises
    ------
    OSError, ValueError
        Whatever Pillow raises (see ``PILLOW_ERRORS``) on a damaged file or a mode that has no RGB form.
    """
    _refuse_half_images()
    stored = _stored_integer(image)
    image.load()
    # Only now: Pillow itself turns TIFF images while it loads them, and clears the tag.
    if image.getexif().get(ORIENTATION_TAG, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" and stored is not None:
        return np.asarray(image).astype(stored)
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return np.asarray(image)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode in {"1", "L", "RGB"} else image.convert("RGB"))


def _pixels_of_file(raw: bytes, policy: DecodePolicy, description: str) -> NDArray[np.generic]:
    if not raw:
        raise UnreadableImageError(f"{description}: the file is empty.", remedy=REMEDY)
    if raw[128:132] == b"DICM":
        raise UnreadableImageError(
            f"{description}: DICOM files are not read.", remedy="Export it as PNG or TIFF with the window you want."
        )
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            _seek(image, policy.page, description)
            _refuse_open_end(image, raw)
            return pillow_pixels(image)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{description}: not an image of a known format ({', '.join(FORMATS)}).", remedy=REMEDY
        ) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"{description}: {error}", remedy=TOO_LARGE) from error
    except PILLOW_ERRORS as error:
        raise UnreadableImageError(
            f"{description}: cannot be decoded: {str(error) or type(error).__name__}.", remedy=REMEDY
        ) from error


def _refuse_half_images() -> None:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError(
            "Pillow's LOAD_TRUNCATED_IMAGES is on in this process: the rest of a cut-off file would be read as grey.",
            remedy="Set PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False, and look for the library that switched it on.",
        )


def _refuse_open_end(image: Image.Image, raw: bytes) -> None:
    # OpenJPEG decodes a file cut off after its header to a black image; the marker cannot occur within pixel data.
    if image.format == "JPEG2000" and JPEG2000_END not in raw:
        raise OSError("image file is truncated (no end-of-codestream marker)")


def _seek(image: Image.Image, page: int, description: str) -> None:
    pages = int(getattr(image, "n_frames", 1))
    if page >= pages:
        raise UnreadableImageError(
            f"{description}: page {page} was asked for, but it has {pages} (counted from 0).",
            remedy="Choose another page in the decode policy, or remove the file.",
        )
    if page:
        image.seek(page)


def _stored_integer(image: Image.Image) -> np.dtype[np.generic] | None:
    # Pillow widens signed 16-bit and unsigned 32-bit TIFF, and 16-bit PGM, to its mode "I"; "full" needs the type as
    # stored.
    tags = getattr(image, "tag_v2", None)
    if image.format == "PPM":
        return np.dtype(np.uint16)
    if tags is None or image.mode != "I":
        return None
    bits, sample_format = tags.get(BITS_PER_SAMPLE, (32,))[0], tags.get(SAMPLE_FORMAT, (1,))[0]
    return np.dtype(f"{'int' if sample_format == 2 else 'uint'}{bits}")


def _to_rgb(pixels: NDArray[np.generic], policy: DecodePolicy, description: str) -> RGBImage:
    stacked = _channels_last(pixels, description)
    eight = _eight_bit(stacked, policy, description)
    channels = eight.shape[2]
    if channels == 1:
        eight = np.repeat(eight, 3, axis=2)
    elif channels == 4:
        eight = _on_white(eight)
    return np.ascontiguousarray(eight)


def _channels_last(pixels: NDArray[np.generic], description: str) -> NDArray[np.generic]:
    if pixels.size == 0:
        raise UnreadableImageError(f"{description}: an array of shape {pixels.shape} has no pixels.", remedy=REMEDY)
    if pixels.ndim == 2:
        return pixels[:, :, None]
    if pixels.ndim == 3 and pixels.shape[2] in {1, 3, 4}:
        return pixels
    if pixels.ndim == 3 and pixels.shape[0] in {1, 3, 4}:
        raise UnreadableImageError(
            f"{description}: an array of shape {pixels.shape} has its channels first.",
            remedy="Put them last: array.transpose(1, 2, 0).",
        )
    raise UnreadableImageError(
        f"{description}: an array of shape {pixels.shape} is not one image.",
        remedy="Give [height, width], or [height, width, channels] with 1, 3 or 4 channels.",
    )


def _eight_bit(pixels: NDArray[np.generic], policy: DecodePolicy, description: str) -> NDArray[np.uint8]:
    kind = pixels.dtype.kind
    if kind not in "buif":
        raise UnreadableImageError(
            f"{description}: pixels of type {pixels.dtype} are not numbers.", remedy="Give uint8, uint16 or float 0-1."
        )
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    if kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind == "f" and not np.isfinite(pixels.astype(np.float64)).all():
        raise UnreadableImageError(f"{description}: has NaN or infinite pixels.", remedy=REMEDY)
    grey = pixels.shape[2] == 1
    if grey and policy.sixteen_bit == "minmax":
        return _rescale(pixels, float(pixels.astype(np.float64).min()), float(pixels.astype(np.float64).max()))
    if kind == "f":
        return _unit_floats(pixels, description)
    # 64-bit integers, and 32-bit ones in colour, are nearly always 0-255 in a careless type: full range would be black.
    if pixels.dtype.itemsize > (4 if grey else 2) or (not grey and kind == "i"):
        raise UnreadableImageError(
            f"{description}: {pixels.dtype} {'grey' if grey else 'colour'} has no agreed brightness range.",
            remedy="Convert to uint8 (0-255), uint16 (0-65535) or float (0-1).",
        )
    limits = np.iinfo(pixels.dtype.name)
    return _rescale(pixels, float(limits.min), float(limits.max))


def _unit_floats(pixels: NDArray[np.generic], description: str) -> NDArray[np.uint8]:
    low, high = float(pixels.astype(np.float64).min()), float(pixels.astype(np.float64).max())
    if low < 0.0 or high > 1.0:
        raise UnreadableImageError(
            f"{description}: floating-point pixels run from {low:.4g} to {high:.4g}; they must lie in 0-1.",
            remedy="Divide by the largest possible value, and do not normalise: every encoder does that itself.",
        )
    return _rescale(pixels, 0.0, 1.0)


def _rescale(pixels: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    if high <= low:
        return np.zeros(pixels.shape, dtype=np.uint8)
    scaled = (pixels.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(scaled).astype(np.uint8)


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    colour, alpha = rgba[:, :, :3].astype(np.float64), rgba[:, :, 3:].astype(np.float64) / 255.0
    return np.rint(colour * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)


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
        return printable(str(self.path)).replace("\n", "\\n")

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
    key : int, str or None
        Where in the row the image is: a position or a column name; None where the row is the image.
    description : str
        What a person would call it.
    """

    rows: Rows = field(repr=False)
    row: int
    key: int | str | None
    description: str

    def read(self) -> RawImage:
        """Fetch the row and return its image's bytes or pixels.

        Raises
        ------
        UnreadableImageError
            If the data set cannot give the row, or the image is of no known kind.
        """
        try:
            item = self.rows[self.row] if self.key is None else self.rows[self.row][self.key]
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
        refuse_special_file(path)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableImageError(
            f"{path}: does not exist.", remedy="Correct the path, or the root folder that paths are relative to."
        ) from error
    except OSError as error:
        raise UnreadableImageError(f"{path}: cannot be read: {error.strerror}.", remedy=REMEDY) from error
    except MemoryError as error:
        raise UnreadableImageError(
            f"{path}: there is no memory to read its {path.stat().st_size:,} bytes.", remedy=TOO_LARGE
        ) from error


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
