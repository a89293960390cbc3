"""From the bytes of an image file, or a pixel array, to one canonical image.

The policy, which the decode version and :class:`DecodePolicy` put into every content hash:

- The EXIF orientation is applied.
- Grey is repeated to red, green and blue; 1-bit images become 0 and 255.
- Transparency (RGBA, grey with alpha, palettes with a transparent entry) is composited on white.
- CMYK, YCbCr and palettes are converted to RGB by Pillow.
- Grey of more than 8 bits, and floating-point grey, follows ``sixteen_bit``: ``minmax`` maps the image's own minimum
  and maximum to 0 and 255 (a constant image becomes 0); ``full`` maps the full range of the type, and floats must be
  0-1.
- TIFF in which zero is white is turned around, whatever its type; signed values are read as such.
- ``percentile`` maps one range of values, found on the development data, to 0 and 255, the same for all images.
- ``channels`` names one to three channels that become red, green and blue, each as grey would; two leave blue black.
  Channels that are no colours are refused where none is named.
- Colour is never stretched: floating-point colour must be 0-1, 16-bit colour arrays are divided by 257, and Pillow
  keeps the high byte of 16-bit colour files.
- Of a file with several pages or frames, ``page`` is read.
- ``draft`` has JPEG files decoded at a half, a quarter or an eighth of their size, at the least at so many pixels:
  other pixels, sooner.

Nothing is guessed: a truncated, empty or foreign file is an :class:`UnreadableImageError`.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from pydantic import BaseModel, ConfigDict, Field

from biofuse.core.errors import DataError, UnknownFormatError, UnreadableImageError, option, printable
from biofuse.core.files import refuse_special_file
from biofuse.core.hashing import canonical_json, digest
from biofuse.data.stacks import Channels, channels_of, hidden_channels, read_stack
from biofuse.data.tiff import (
    BLACK_IS_ZERO,
    RGB,
    WHITE_IS_ZERO,
    TiffPage,
    UnsupportedTiffError,
    is_tiff,
    tiff_length,
    tiff_page,
)

DECODE_VERSION, MISREAD_VERSION = 1, 2
"""Raised when the same bytes and policy would give other pixels; part of the content hash. The second is that of TIFF
files of the kinds that Pillow misreads, which BioFuse has read as they are only since then."""

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the file formats that are opened. EPS, which runs an external program, is not among them."""

PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError,
    RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's readers raise on damaged files; each becomes an UnreadableImageError that carries its text."""

REMEDY = "Repair, replace or remove it."
TOO_LARGE = f"Read it as tiles: {option('mpp', 0.5)}; or save it smaller."

ORIENTATION_TAG = 0x0112
"""EXIF 2.3, table 4: orientation; 1 is upright."""
JPEG2000_END = b"\xff\xd9"
"""ISO/IEC 15444-1, table A.1: end of codestream."""

PlainImage = bytes | NDArray[np.generic]
"""An undecoded image: a file's bytes, or a pixel array [H,W], [H,W,1], [H,W,3] or [H,W,4]."""
RawImage = PlainImage | Channels
"""The same, or channels that were read already."""
RGBImage = NDArray[np.uint8]
"""A decoded image, shape (height, width, 3), red-green-blue, 0-255."""


class DecodePolicy(BaseModel):
    """How pixels are read; part of the content hash.

    Attributes
    ----------
    sixteen_bit : {"minmax", "full", "percentile"}
        How 16-bit, 32-bit and floating-point grey images become 8-bit.
    page : int
        Which page of a multi-page file is read, from 0.
    channels : tuple of str
        Names or numbers, from 0, of the one to three channels that become red, green and blue.
    windows : tuple of pairs of float
        With ``percentile``: the values that become 0 and 255, for each channel; empty until they are found, by
        :func:`biofuse.data.microscopy.with_windows`.
    draft : int or None
        Pixels that the shorter side of a JPEG file keeps at the least, where it is decoded at 1/2, 1/4 or 1/8 of its
        size; None: it is decoded whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sixteen_bit: Literal["minmax", "full", "percentile"] = "minmax"
    page: int = Field(default=0, ge=0)
    channels: tuple[str, ...] = Field(default=(), max_length=3)
    windows: tuple[tuple[float, float], ...] = ()
    draft: int | None = Field(default=None, ge=1)

    def hashed(self) -> dict[str, object]:
        """Return what takes part in content hashes: choices that came later only where they are made."""
        said = self.model_dump(mode="json")
        first = {"page", "sixteen_bit"}
        return {name: said[name] for name in said if name in first or name in self.model_dump(exclude_defaults=True)}

    def window(self, place: int, description: str) -> tuple[float, float]:
        """Return the values of a channel that become 0 and 255.

        Raises
        ------
        DataError
            If none were found.
        """
        if place < len(self.windows):
            return self.windows[place]
        raise DataError(
            f"{description}: is of more than 8 bits, and nothing like it was among the images that the window of "
            f"{option('sixteen_bit', 'percentile')} was to be found on.",
            remedy=f"Choose another {option('sixteen_bit')}, or have such images among the development data.",
        )


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
    pages : int
        How many the file has; one is read.
    deep : bool
        Whether it is grey of more than 8 bits, so that the policy's ``sixteen_bit`` decides its brightness.
    """

    format: str
    mode: str
    width: int
    height: int
    pages: int = 1
    deep: bool = False


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
    misread = isinstance(raw, bytes) and (page := tiff_page(raw, policy.page)) is not None and page.misread
    version = MISREAD_VERSION if misread else DECODE_VERSION
    rules = canonical_json({"version": version, **policy.hashed()})
    if isinstance(raw, bytes):
        return digest(b"file", raw, rules)
    if isinstance(raw, Channels):
        raw = raw.pixels
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
    return decode_with_facts(raw, policy, description=description)[0]


def decode_with_facts(raw: RawImage, policy: DecodePolicy, *, description: str) -> tuple[RGBImage, ImageFacts]:
    """Decode one image as :func:`decode` does, and say what it was before.

    Raises
    ------
    UnreadableImageError
        As :func:`decode`; also if there is no memory for its pixels.
    """
    try:
        pixels, facts = read_pixels(raw, policy, description=description)
        return _to_rgb(pixels, policy, description), facts
    except MemoryError as error:
        raise UnreadableImageError(f"{description}: there is no memory to decode it.", remedy=TOO_LARGE) from error


def read_pixels(
    raw: RawImage, policy: DecodePolicy, *, description: str
) -> tuple[NDArray[np.generic] | Channels, ImageFacts]:
    """Read the page and the channels that a policy names, as they are stored, and say what the image is.

    Raises
    ------
    UnreadableImageError
        As :func:`decode`.
    """
    if isinstance(raw, Channels):
        return raw, _array_facts(raw.pixels, deep=_is_deep(raw))
    if isinstance(raw, bytes):
        return _pixels_of_file(raw, policy, description)
    pixels = channels_of(raw, policy.channels, description=description) if policy.channels else raw
    return pixels, _array_facts(raw, deep=_is_deep(pixels))


def _array_facts(
    array: NDArray[np.generic], *, file_format: str = "array", pages: int = 1, deep: bool | None = None
) -> ImageFacts:
    channels = array.shape[2] if array.ndim == 3 else 1
    return ImageFacts(
        format=file_format,
        mode=f"{array.dtype.name}{f'x{channels}' if array.ndim == 3 else ''}",
        width=int(array.shape[1]) if array.ndim > 1 else 0,
        height=int(array.shape[0]) if array.ndim else 0,
        pages=pages,
        deep=_is_deep(array) if deep is None else deep,
    )


def _is_deep(pixels: NDArray[np.generic] | Channels) -> bool:
    if isinstance(pixels, Channels):
        return pixels.pixels.dtype.kind in "iuf" and pixels.pixels.dtype != np.uint8
    return pixels.dtype.kind in "iuf" and pixels.dtype != np.uint8 and (pixels.ndim == 2 or pixels.shape[-1] == 1)


class Remarks:
    """What a person should hear of many images that could be read: how many there are of a kind, and the first few.

    Each is a guess that changes pixels (which page, how bright), or an image that takes very much memory.
    """

    def __init__(self) -> None:
        self._contents: dict[str, set[bytes]] = {}
        self._named: dict[str, list[str]] = {}

    def add(self, content: bytes, description: str, facts: ImageFacts) -> None:
        """Remember what is remarkable about one image; an image that comes again is the same one."""
        large = facts.width * facts.height > (Image.MAX_IMAGE_PIXELS or math.inf)
        named = {
            "pages": f"{description} ({facts.pages})" if facts.pages > 1 else None,
            "large": f"{description} ({facts.width} x {facts.height})" if large else None,
            "deep": description if facts.deep else None,
        }
        for kind, name in named.items():
            if name is not None:
                self._add(kind, {content}, [name])

    def merge(self, other: "Remarks") -> None:
        """Add what another remembers."""
        for kind, contents in other._contents.items():
            self._add(kind, contents, other._named[kind])

    def _add(self, kind: str, contents: set[bytes], names: list[str]) -> None:
        known = self._named.setdefault(kind, [])
        known += [name for name in names if name not in known][: REMARKED - len(known)]
        self._contents.setdefault(kind, set()).update(contents)

    def sentences(self, policy: DecodePolicy) -> list[str]:
        """Say it, with the option that decides otherwise."""
        written = {
            "pages": f"have several pages, of which page {policy.page} (from 0) is read: {option('page')} chooses",
            "deep": f"are grey of more than 8 bits and were made 8-bit by {option('sixteen_bit', policy.sixteen_bit)}"
            + SIXTEEN_BITS[policy.sixteen_bit],
            "large": "have so many pixels that decoding one takes much memory; consider tiles",
        }
        said = []
        for kind in [kind for kind in written if kind in self._contents]:
            count, names = len(self._contents[kind]), self._named[kind]
            more = ", ..." if count > len(names) else ""
            said.append(f"{count} image(s) {written[kind]}: {', '.join(names)}{more}.")
        return said


SIXTEEN_BITS = {
    "minmax": ": each from its own darkest to its own brightest value",
    "full": "",
    "percentile": ": all by one window",
}
"""What is added of how images of more than 8 bits became 8-bit."""

REMARKED = 3
"""Images named in a remark."""


def pillow_pixels(image: Image.Image) -> NDArray[np.generic]:
    """Return the upright pixels of a Pillow image in the array layouts that :func:`decode` accepts.

    Raises
    ------
    OSError, ValueError
        Whatever Pillow raises (see ``PILLOW_ERRORS``) on a damaged file or a mode that has no RGB form.
    """
    _refuse_half_images()
    page, stored = _page_of(image), _stored_integer(image)
    if page is not None and page.misread:
        raise UnsupportedTiffError(f"Pillow reads other values than a TIFF file of this kind ({page.words}) holds")
    image.load()
    # Only now: Pillow itself turns TIFF images while it loads them, and clears the tag.
    if image.getexif().get(ORIENTATION_TAG, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return np.asarray(image) if stored is None or image.mode != "I" else np.asarray(image).astype(stored)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode in {"1", "L", "RGB"} else image.convert("RGB"))


def _pixels_of_file(
    raw: bytes, policy: DecodePolicy, description: str
) -> tuple[NDArray[np.generic] | Channels, ImageFacts]:
    if policy.channels:
        return _channels_of_file(raw, policy, description)
    page = tiff_page(raw, policy.page)
    hidden = hidden_channels(page) if policy.page == 0 else 1
    if hidden > 1 or (page is not None and page.several):
        raise UnreadableImageError(
            f"{description}: has {max(hidden, page.channels if page else 1)} channels, which are no colours.",
            remedy=f"Choose up to three as red, green and blue: {option('channels', '0,1,2')}; or let each be an image "
            f"of the sample: {option('channels', 'each')}.",
        )
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            pages = _seek(image, policy.page, description)
            _refuse_open_end(image, raw)
            facts = ImageFacts(image.format or "unknown", image.mode, image.width, image.height, pages)
            if policy.draft is not None and isinstance(image, JpegImageFile):  # libjpeg scales while it decodes
                image.draft(None, (policy.draft, policy.draft))
            pixels = page.read(raw) if page is not None and page.misread else pillow_pixels(image)
            return pixels, replace(facts, deep=_is_deep(pixels))
    except UnidentifiedImageError as error:
        if page is None:
            raise _no_image(raw, description) from error
    except PILLOW_ERRORS as error:
        raise undecodable(error, description) from error
    try:
        pixels = page.read(raw)
        return pixels, _array_facts(pixels, file_format="TIFF", pages=tiff_length(raw))
    except PILLOW_ERRORS as error:
        raise undecodable(error, description) from error


def _channels_of_file(raw: bytes, policy: DecodePolicy, description: str) -> tuple[Channels, ImageFacts]:
    page = tiff_page(raw, 0)
    coloured = page is not None and page.photometric not in {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB}
    if coloured or not is_tiff(raw):
        pixels, facts = _pixels_of_file(raw, policy.model_copy(update={"channels": ()}), description)
        found = channels_of(np.asarray(pixels), policy.channels, description=description)
        return found, replace(facts, deep=_is_deep(found))
    try:
        layout, stack = read_stack(raw)
    except PILLOW_ERRORS as error:
        raise undecodable(error, description) from error
    if policy.page >= layout.pages:
        raise _no_page(policy.page, layout.pages, description)
    found = layout.choose(policy.channels, stack[policy.page], description=description)
    return found, _array_facts(found.pixels, file_format="TIFF", pages=layout.pages, deep=_is_deep(found))


def undecodable(error: Exception, description: str) -> UnreadableImageError:
    """Return the error for a file on which a reader failed, with what it said."""
    remedy = TOO_LARGE if isinstance(error, Image.DecompressionBombError) else REMEDY
    if isinstance(error, UnsupportedTiffError):
        remedy = "Save it as grey or red, green and blue, of 8 or 16 bits, uncompressed; or give the file itself."
    if isinstance(error, UnreadableImageError):
        return error
    said = str(error).rstrip(".") or type(error).__name__
    return UnreadableImageError(f"{description}: cannot be decoded: {said}.", remedy=remedy)


OTHER_FILES: tuple[tuple[bytes, int, str, str], ...] = (
    (b"DICM", 128, "a DICOM file", "Give it as a file whose name ends in .dcm."),
    (b"version https://git-lfs", 0, "a Git LFS pointer: the image itself was never fetched", "Run `git lfs pull`."),
    (b"/annex/objects/", 0, "a git-annex pointer: the image itself was never fetched", "Run `git annex get`."),
    (
        b"<!doctype html",
        0,
        "a web page, as servers send it where they refuse a download",
        "Download it again, with the login or the licence that the site asks for.",
    ),
    (
        b"<html",
        0,
        "a web page, as servers send it where they refuse a download",
        "Download it again, with the login or the licence that the site asks for.",
    ),
    (b"<?xml", 0, "an XML text", "A download that failed leaves such files; SVG drawings are to be saved as PNG."),
    (b"<svg", 0, "an SVG drawing", "Save it as PNG."),
    (b"{", 0, "a JSON text", "A download that failed leaves such files: download it again."),
    (b"PK\x03\x04", 0, "a ZIP archive", "Unpack it."),
    (b"\x1f\x8b", 0, "a gzip archive (.gz)", "Unpack it; of a NIfTI volume the name ends in .nii.gz."),
    (b"%PDF", 0, "a PDF document", "Save its pictures as PNG."),
    (b"%!PS", 0, "a PostScript drawing", "Save it as PNG."),
    (b"\x93NUMPY", 0, "a NumPy array", "Save it as PNG or TIFF, or give the array in Python."),
    (b"\x89HDF", 0, "an HDF5 file (as new MATLAB files are)", "Save the images in it as PNG or TIFF."),
    (b"MATLAB 5.0", 0, "a MATLAB file", "Save the images in it as PNG or TIFF."),
    (b"ZISRAWFILE", 0, "a Zeiss CZI file, which is not read", "Export it as TIFF."),
    (b"8BPS", 0, "a Photoshop file, which is not read", "Save it as PNG or TIFF."),
    (b"SIMPLE  =", 0, "a FITS file, which is not read", "Save it as TIFF."),
    (b"ftyphei", 4, "a HEIC picture, which is not read", "Save it as PNG or JPEG."),
    (b"ftypmif1", 4, "a HEIC picture, which is not read", "Save it as PNG or JPEG."),
    (b"ftypavif", 4, "an AVIF picture, which is not read", "Save it as PNG or JPEG."),
    (b"ftyp", 4, "a film, which is not read", "Save its frames as PNG."),
    (b"\x00\x00\x00\x0cJXL ", 0, "a JPEG XL picture, which is not read", "Save it as PNG or JPEG."),
    (b"n+1\x00", 344, "a NIfTI volume", "Give it as a file whose name ends in .nii or .nii.gz."),
)
"""Files that people find under the name of an image: what they begin with (in lower case for texts), where, what they
are, and what to do."""


def _no_image(raw: bytes, description: str) -> UnreadableImageError:
    """Say what a file is that Pillow does not know."""
    if not raw:
        return UnreadableImageError(f"{description}: the file is empty.", remedy=REMEDY)
    text = raw[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, place, what, remedy in OTHER_FILES:
        if raw[place : place + len(start)] == start or (not place and text.startswith(start)):
            return UnknownFormatError(f"{description}: is no image but {what}.", remedy=remedy)
    if not raw.strip(b"\0"):
        return UnreadableImageError(
            f"{description}: holds nothing but zeros, as a copy that was cut off does.", remedy="Copy it again."
        )
    return UnknownFormatError(f"{description}: not an image of a known format ({', '.join(FORMATS)}).", remedy=REMEDY)


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


def _seek(image: Image.Image, page: int, description: str) -> int:
    pages = int(getattr(image, "n_frames", 1))
    if page >= pages:
        raise _no_page(page, pages, description)
    if page:
        image.seek(page)
    # What a phone keeps beside a picture (MPO: the other eye, a depth map) is no page of a stack.
    return pages if image.format != "MPO" else 1


def _no_page(page: int, pages: int, description: str) -> UnreadableImageError:
    return UnreadableImageError(
        f"{description}: page {page} was asked for, but it has {pages} (counted from 0).",
        remedy=f"Choose another {option('page')}, or remove the file.",
    )


def _stored_integer(image: Image.Image) -> np.dtype[np.generic] | None:
    # Pillow widens signed 16-bit and unsigned 32-bit TIFF, and 16-bit PGM, to its mode "I"; "full" needs the type as
    # stored.
    if image.format == "PPM":
        return np.dtype(np.uint16)
    page = _page_of(image) if image.mode == "I" else None
    return None if page is None or page.dtype is None else page.dtype.newbyteorder("=")


def _page_of(image: Image.Image) -> TiffPage | None:
    """Return what the page of a TIFF image says; None of others, and where it says too little."""
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None or image.format != "TIFF":
        return None
    try:
        return TiffPage.of(tags, ">" if tags.prefix == b"MM" else "<")
    except (LookupError, ValueError, TypeError):
        return None


def _to_rgb(pixels: NDArray[np.generic] | Channels, policy: DecodePolicy, description: str) -> RGBImage:
    if isinstance(pixels, Channels):
        return _coloured(pixels, policy, description)
    stacked = _channels_last(pixels, description)
    eight = _eight_bit(stacked, policy, description)
    channels = eight.shape[2]
    if channels == 1:
        eight = np.repeat(eight, 3, axis=2)
    elif channels == 4:
        eight = _on_white(eight)
    return np.ascontiguousarray(eight)


def _coloured(channels: Channels, policy: DecodePolicy, description: str) -> RGBImage:
    """Make red, green and blue of up to three channels; of one, grey."""
    n = len(channels.places)
    eight = [
        _eight_bit(channels.pixels[:, :, at : at + 1], policy, description, channels.places[at]) for at in range(n)
    ]
    black = [np.zeros_like(eight[0])] * (n == 2)
    return np.ascontiguousarray(np.concatenate(eight * 3 if n == 1 else [*eight, *black], axis=2))


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


def _eight_bit(
    pixels: NDArray[np.generic], policy: DecodePolicy, description: str, place: int = 0
) -> NDArray[np.uint8]:
    kind = pixels.dtype.kind
    if kind not in "buif":
        raise UnreadableImageError(
            f"{description}: pixels of type {pixels.dtype} are not numbers.", remedy="Give uint8, uint16 or float 0-1."
        )
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    if kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind == "f" and not np.isfinite(pixels).all():
        raise UnreadableImageError(f"{description}: has NaN or infinite pixels.", remedy=REMEDY)
    grey = pixels.shape[2] == 1
    if grey and policy.sixteen_bit == "minmax":
        return _rescale(pixels, *_range(pixels))
    if grey and policy.sixteen_bit == "percentile":
        return _rescale(pixels, *policy.window(place, description))
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
    low, high = _range(pixels)
    if low < 0.0 or high > 1.0:
        raise UnreadableImageError(
            f"{description}: floating-point pixels run from {low:.4g} to {high:.4g}; they must lie in 0-1.",
            remedy="Divide by the largest possible value, and do not normalise: every encoder does that itself.",
        )
    return _rescale(pixels, 0.0, 1.0)


def _rescale(pixels: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    if high <= low:
        return np.zeros(pixels.shape, dtype=np.uint8)

    def scaled(rows: NDArray[Any]) -> NDArray[Any]:
        return (rows.astype(np.float64).clip(low, high) - low) * (255.0 / (high - low))

    return _in_bands(pixels, pixels.shape[2], scaled)


def _range(pixels: NDArray[Any]) -> tuple[float, float]:
    return float(pixels.min()), float(pixels.max())


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    def composed(rows: NDArray[Any]) -> NDArray[Any]:
        colour, alpha = rows[:, :, :3].astype(np.float64), rows[:, :, 3:].astype(np.float64) / 255.0
        return colour * alpha + 255.0 * (1.0 - alpha)

    return _in_bands(rgba, 3, composed)


BAND = 1 << 20
"""Pixels that are calculated with at a time: a large image in floating point would take eight times its memory."""


def _in_bands(
    pixels: NDArray[Any], channels: int, calculate: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[np.uint8]:
    """Calculate row by row, and round."""
    height, width = pixels.shape[:2]
    result = np.empty((height, width, channels), dtype=np.uint8)
    rows = max(BAND // width, 1)
    for start in range(0, height, rows):
        result[start : start + rows] = np.rint(calculate(pixels[start : start + rows]))
    return result


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

    def read(self) -> PlainImage:
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

    def read(self) -> PlainImage:
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


def raw_image(item: object, *, description: str) -> PlainImage:
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
