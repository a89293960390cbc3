"""Stacks of channels, depths and times, as microscopes write them: TIFF of any kind, OME and ImageJ among them.

- A channel is what a file calls one, or a sample of a pixel. Where it names no channels, its pages are taken for them.
- All that is neither channel nor row nor column (depths, times, positions) is a page; pages come in the file's order.
- Of a file of several images, the first is read; of an image at several resolutions, the finest.
"""

import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import DependencyError, UnreadableImageError, option
from biofuse.data.tiff import (
    BLACK_IS_ZERO,
    RGB,
    UPRIGHT,
    WHITE_IS_ZERO,
    TiffPage,
    UnsupportedTiffError,
    require_whole_directories,
)

if TYPE_CHECKING:
    from tifffile import TiffPageSeries

CHANNELS, ROWS_AND_COLUMNS = "CS", "YX"
"""tifffile's letters for axes of channels and samples, of rows and of columns."""
UNNAMED = "IQ"
"""Its letters for pages of which the file says nothing."""

OME_CHANNELS = re.compile(r'SizeC="(\d+)"')
"""OME-TIFF 2016-06, Pixels: the number of channels."""
IMAGEJ_CHANNELS = re.compile(r"^ImageJ=.*^channels=(\d+)", re.DOTALL | re.MULTILINE)
"""ImageJ's description of a hyperstack (ij.io.FileSaver.getDescriptionString)."""


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels of one image, each of which becomes 8-bit by itself.

    Attributes
    ----------
    pixels : ndarray, shape (height, width, n)
        As stored.
    places : tuple of int
        Which window of the decode policy is each channel's, from 0.
    """

    pixels: NDArray[np.generic]
    places: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of the pixels."""
        return self.pixels.nbytes


@dataclass(frozen=True, kw_only=True)
class StackLayout:
    """What a stack holds.

    Attributes
    ----------
    pages, channels : int
    names : tuple of str
        Of the channels, as many as there are; empty where the file does not say them.
    """

    pages: int
    channels: int
    names: tuple[str, ...] = ()

    @property
    def called(self) -> tuple[str, ...]:
        """The names of the channels, or else their numbers."""
        return self.names or tuple(map(str, range(self.channels)))

    def channel(self, name: str) -> int:
        """Return the number of a channel that is called so, or is this number, from 0.

        Raises
        ------
        LookupError
            If there is none.
        """
        if name in self.names:
            return self.names.index(name)
        if name.isdecimal() and int(name) < self.channels:
            return int(name)
        called = f": {', '.join(self.names)}" if self.names else ""
        raise LookupError(f"it has no channel {name}, but {self.channels} (counted from 0){called}")

    def choose(self, names: Sequence[str], pixels: NDArray[np.generic], *, description: str) -> Channels:
        """Take channels, by their names, out of an array [n, height, width].

        Raises
        ------
        UnreadableImageError
            If there is none of a name.
        """
        try:
            numbers = [self.channel(name) for name in names]
        except LookupError as error:
            remedy = f"Choose others: {option('channels')}."
            raise UnreadableImageError(f"{description}: {error.args[0]}.", remedy=remedy) from error
        return Channels(np.moveaxis(pixels[numbers], 0, 2), tuple(range(len(numbers))))


def channels_of(pixels: NDArray[np.generic], names: Sequence[str], *, description: str) -> Channels:
    """Take channels, by their numbers, out of an array [height, width] or [height, width, n].

    Raises
    ------
    UnreadableImageError
        If it has another shape, or no such channel.
    """
    stacked = pixels[..., None] if pixels.ndim == 2 else pixels
    if stacked.ndim != 3:
        raise UnreadableImageError(f"{description}: an array of shape {pixels.shape} is not one image.")
    layout = StackLayout(pages=1, channels=stacked.shape[2])
    return layout.choose(names, np.moveaxis(stacked, 2, 0), description=description)


def layout_of(path: Path) -> StackLayout:
    """Find out what a TIFF file holds, without reading pixels.

    Raises
    ------
    OSError, ValueError, LookupError
        If it is damaged.
    UnsupportedTiffError
        If it is of a kind that is not read.
    """
    with _series(path) as series:
        return _layout(series)[0]


def read_stack(raw: bytes) -> tuple[StackLayout, NDArray[Any]]:
    """Read a TIFF file.

    Returns
    -------
    layout : StackLayout
    pixels : ndarray, shape (pages, channels, height, width)
        Upright, and with zero as black.

    Raises
    ------
    OSError, ValueError, LookupError
        If it is damaged, or parts of it are missing.
    UnsupportedTiffError
        If it is of a kind that is not read.
    DependencyError
        If its compression needs imagecodecs, which is not installed.
    """
    require_whole_directories(raw)
    with _series(io.BytesIO(raw)) as series:
        layout, axes = _layout(series)
        if _described(series.keyframe.description) not in {0, layout.channels}:
            raise OSError("image file is truncated: it says that it has other channels than it holds")
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and series.size > 2 * limit:
            raise Image.DecompressionBombError(f"Its {series.size} values exceed the limit of {2 * limit}")
        _require_whole(series, len(raw))
        try:
            stored = series.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise DependencyError(
                "This kind of TIFF is read with imagecodecs, which is not installed.",
                remedy="pip install 'biofuse-embed[microscopy]'",
            ) from error
        height, width = (stored.shape[axes.index(axis)] for axis in ROWS_AND_COLUMNS)
        pages = [place for place, axis in enumerate(axes) if axis not in CHANNELS + ROWS_AND_COLUMNS]
        order = [*pages, *(axes.index(axis) for axis in CHANNELS + ROWS_AND_COLUMNS if axis in axes)]
        pixels = stored.transpose(order).reshape(layout.pages, layout.channels, height, width)
        tags = series.keyframe
        if tags.photometric == WHITE_IS_ZERO:
            pixels = 1 - pixels if pixels.dtype.kind == "f" else np.invert(pixels)
        turn = UPRIGHT.get(int(tags.tags.valueof(274, 1)), np.asarray)
        return layout, np.moveaxis(turn(np.moveaxis(pixels, (0, 1), (2, 3))), (2, 3), (0, 1))


def hidden_channels(page: TiffPage | None) -> int:
    """Count the channels that a TIFF file keeps in pages of their own, as the description of its first says; else 1."""
    return max(_described(page.description), 1) if page is not None and page.channels == 1 else 1


def _described(said: str) -> int:
    """Return how many channels a description speaks of; 0 where it does not."""
    found = OME_CHANNELS.search(said) if "<OME" in said else IMAGEJ_CHANNELS.search(said)
    return int(found[1]) if found else 0


@contextmanager
def _series(file: Path | io.BytesIO) -> Iterator["TiffPageSeries"]:
    import tifffile

    # What it has to say names no file, and is not for who uses BioFuse; damage is looked for here.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with tifffile.TiffFile(file, _multifile=False) as opened:
        yield opened.series[0]


def _layout(series: "TiffPageSeries") -> tuple[StackLayout, str]:
    """Return what there is, and the axes with channels called so."""
    axes, sizes = series.axes, dict(zip(series.axes, series.shape, strict=True))
    if series.keyframe.photometric not in {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB} or not set(ROWS_AND_COLUMNS) <= {*axes}:
        raise UnsupportedTiffError(
            f"TIFF files of this kind (photometric {int(series.keyframe.photometric)}, {axes}) are not read"
        )
    if not any(axis in axes for axis in CHANNELS):
        unnamed = [axis for axis in axes if axis in UNNAMED]
        if len(unnamed) == 1:
            axes = axes.replace(unnamed[0], "C")
            sizes["C"] = sizes[unnamed[0]]
    channels = int(np.prod([sizes.get(axis, 1) for axis in CHANNELS]))
    pages = int(np.prod([size for axis, size in zip(axes, series.shape, strict=True)
                         if axis not in CHANNELS + ROWS_AND_COLUMNS]))  # fmt: skip
    names = tuple(_names(series))
    return StackLayout(pages=pages, channels=channels, names=names if len(names) == channels else ()), axes


def _names(series: "TiffPageSeries") -> Sequence[str]:
    """Return what the file calls the channels."""
    import tifffile

    opened = series.parent
    if opened is None:
        return ()
    if opened.is_ome and opened.ome_metadata:
        image = tifffile.xml2dict(opened.ome_metadata)["OME"].get("Image", {})
        said = (image[0] if isinstance(image, list) else image).get("Pixels", {}).get("Channel", [])
        names = [str(each.get("Name") or "") for each in (said if isinstance(said, list) else [said])]
        return names if all(names) and len(set(names)) == len(names) else ()
    labels = (opened.imagej_metadata or {}).get("Labels") or ()
    return [str(each) for each in labels] if len(set(labels)) == len(labels) else ()


def _require_whole(series: "TiffPageSeries", n_bytes: int) -> None:
    """Refuse a file that tifffile would fill up with zeros."""
    for page in series.pages:
        if page is None:
            raise UnsupportedTiffError("parts of it lie in other files, and such sets of files are not read")
        ends = [start + size for start, size in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if not ends or max(ends) > n_bytes or 0 in page.databytecounts:
            raise OSError("image file is truncated")
    if series.dataoffset is not None and series.dataoffset + series.nbytes > n_bytes:
        raise OSError("image file is truncated")
