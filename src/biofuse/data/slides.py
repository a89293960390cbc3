"""Whole slides, and other images too large for one: tiles of tissue, all of one size at one stated resolution.

- A slide is laid out in squares of ``tile_size`` pixels at ``mpp`` micrometres per pixel, from its upper left corner;
  what is left at the right and at the bottom, less than a tile, is left out. All encoders see the same tiles, so that
  their embeddings belong together; each resizes them to what its card says. Most encoders of pathology take 224 pixels,
  which is why that is the default: they see tiles as they are.
- A tile counts where at least ``min_tissue`` of it is tissue: a pixel of a small picture of the slide whose optical
  density is at least :data:`DENSITY` in one of its colours, against the slide's own light. Of these, at most ``tiles``
  are drawn by a hash of their positions: the same whatever the file is called, and the first of more tiles are those of
  fewer.
- Pixels are read from the level next above the resolution asked for, put on the slide's background (white, where it
  says nothing) and scaled down by Lanczos' filter where it is needed. Colour profiles are not applied.
"""

import warnings
import zlib
from base64 import b85decode, b85encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import DependencyError, UnreadableImageError, option
from biofuse.core.hashing import hash_order
from biofuse.data.config import DataConfig
from biofuse.data.cuts import CUT_VERSION, FileFacts, Opened, StampedFile, cut_content
from biofuse.data.decoding import REMEDY, DecodePolicy, RGBImage, decode
from biofuse.data.lookup import SLIDE_SUFFIXES
from biofuse.data.remembered import JSON, remembered

KIND = "slide"
"""What a person would call the file."""

TIFFS = frozenset({".btf", ".tf8", ".tif", ".tiff"})
SUFFIXES = SLIDE_SUFFIXES | TIFFS
"""Suffixes of files that may be slides by themselves."""

LARGE = 50_000_000
"""Pixels from which on a TIFF that is stored in tiles is a slide even where it holds no smaller copies of itself."""

MPP = 0.5
"""Micrometres per pixel where none is said: an objective of 20, on which most encoders of pathology were trained."""
LARGEST_MPP, SMALLEST_MPP = 10.0, 0.01
"""No microscope's picture has larger or smaller pixels; 72 or 300 dots per inch, which programs write into any file,
are 353 and 85 micrometres."""
SHARPENED = 1.1
"""How much finer tiles may be than the slide itself: scanners miss their nominal resolution by a few per cent."""

DENSITY = 0.15
"""Least optical density of tissue, natural logarithm: beta of Macenko et al., A method for normalizing histology slides
for quantitative analysis, ISBI 2009, doi:10.1109/ISBI.2009.5193250."""
LIGHT = 99
"""Percentile of a slide's brightness that is taken for the light that no tissue weakens."""
BLACK = 10
"""Values up to which a pixel is no tissue but what scanners put where they saw nothing."""

PER_TILE = 8
"""Pixels of the small picture along each side of a tile."""
BAND = 1 << 22
"""Pixels that are read at a time for the small picture."""

OPEN = 4
"""Slides that a process keeps open; a worker gets the tiles of one after those of another."""

Box = tuple[float, float, float, float]
"""Left, top, width and height, in pixels of the finest level."""


class Scan(Protocol):
    """A large image that gives any part of itself at any size."""

    width: int
    height: int
    mpp: tuple[float, float] | None
    said: str

    def region(self, box: Box, size: tuple[int, int]) -> Image.Image:
        """Return a part, of so many pixels (width, height), as RGB."""
        ...


class SlideScan:
    """A slide that OpenSlide reads.

    Parameters
    ----------
    file : StampedFile
    """

    def __init__(self, file: StampedFile) -> None:
        self._name = file.description
        openslide = _openslide(self._name)
        with _reading(self._name):
            self._slide = openslide.OpenSlide(file.path)
        self.width, self.height = self._slide.dimensions
        properties = self._slide.properties
        self._background = f"#{properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, 'ffffff')}"
        self.mpp = _plausible(
            properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y)
        )
        power = properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
        self.said = f"; it says that the objective was {power}x" if power else ""

    def region(self, box: Box, size: tuple[int, int]) -> Image.Image:
        """Return a part, from the level next above the resolution asked for."""
        left, top, width, height = box
        wanted = min(width / size[0], height / size[1])
        level = self._slide.get_best_level_for_downsample(wanted * 1.01)  # levels are not exact powers of two
        down = self._slide.level_downsamples[level]
        x, y = floor(left), floor(top)
        inner = ((left - x) / down, (top - y) / down, (left - x + width) / down, (top - y + height) / down)
        with _reading(self._name):
            pixels = self._slide.read_region((x, y), level, (ceil(inner[2]), ceil(inner[3])))
        flat = Image.new("RGB", pixels.size, self._background)
        flat.paste(pixels, mask=pixels.getchannel("A"))
        return _scaled(flat, inner, size)


class PlainScan:
    """A plain image, which is decoded as a whole and held in memory.

    Parameters
    ----------
    file : StampedFile
    policy : DecodePolicy
    """

    def __init__(self, file: StampedFile, policy: DecodePolicy) -> None:
        raw = file.path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large images are expected here
            self._image = Image.fromarray(decode(raw, policy, description=file.description))
            self.mpp = _dots(file.path)
        self.width, self.height = self._image.size
        self.said = ""

    def region(self, box: Box, size: tuple[int, int]) -> Image.Image:
        """Return a part."""
        left, top, width, height = box
        return _scaled(self._image, (left, top, left + width, top + height), size)


@dataclass(frozen=True)
class SlideTile:
    """One tile of a slide: a :class:`biofuse.data.cuts.Cut`.

    Attributes
    ----------
    files : tuple of StampedFile
        The slide, and what lies beside it of formats that are several files.
    box : tuple of int
        Left, top, width and height, in pixels of the slide's finest level.
    side : int
        Pixels of the tile.
    policy : DecodePolicy
        Of plain images.
    """

    files: tuple[StampedFile, ...]
    box: tuple[int, int, int, int]
    side: int
    policy: DecodePolicy

    @property
    def description(self) -> str:
        """The slide, and where in it."""
        left, top, width, height = self.box
        return f"{self.files[0].description}, tile of {width} x {height} pixels at x {left}, y {top}"

    @property
    def place(self) -> dict[str, int]:
        """Its box by name."""
        return dict(zip(("x", "y", "width", "height"), self.box, strict=True))

    def content(self, policy: DecodePolicy) -> bytes:
        """Name the tile by its slide and its place (16 bytes)."""
        return cut_content(self.files, {"tile": self.box, "side": self.side}, policy)

    def read(self) -> RGBImage:
        """Read the tile, shape (side, side, 3).

        Raises
        ------
        UnreadableImageError
            If the slide changed, is gone, or is damaged here.
        """
        scan = _opened(self)
        return np.asarray(scan.region(self.box, (self.side, self.side)))


def recognises(path: Path, start: bytes) -> bool:
    """Tell whether a file is a slide by itself: of a scanner's format, or a TIFF that is a pyramid."""
    del start
    return path.suffix.lower() in SLIDE_SUFFIXES or _is_pyramid(path)


def open_file(path: Path, config: DataConfig, *, called: str = "") -> Opened:
    """Lay out a slide, or any large image, in tiles, and draw those that are embedded.

    Raises
    ------
    DependencyError
        If OpenSlide is not installed.
    UnreadableImageError
        If the file is damaged, says no resolution, is too coarse or too small, or has no tissue.
    """
    first, *beside = _files(path)
    files = (StampedFile.of(first, called), *map(StampedFile.of, beside))
    policy = (config.decoding() or DecodePolicy()).model_copy(update={"draft": None})  # tiles are cut of whole images
    scan = _scan(files, policy)
    mpp = scan.mpp or (config.file_mpp and (config.file_mpp, config.file_mpp))
    wanted = config.mpp or MPP
    if not mpp:
        raise UnreadableImageError(
            f"{path}: does not say how large its pixels are{scan.said}.",
            remedy=f"Say how many micrometres one is in files that do not: {option('file_mpp', 0.25)} at 40x, "
            f"{option('file_mpp', 0.5)} at 20x.",
        )
    scale = (wanted / mpp[0], wanted / mpp[1])
    if min(scale) * SHARPENED < 1:
        raise UnreadableImageError(
            f"{path}: has {max(mpp):.3g} micrometres per pixel, too coarse for tiles of {wanted:g}.",
            remedy=f"Ask for what every slide has: {option('mpp', float(f'{max(mpp):.3g}'))}; or leave it out.",
        )
    boxes, n_grid = _tissue(scan, (config.tile_size * scale[0], config.tile_size * scale[1]), _files(path), config)
    if not boxes:
        raise UnreadableImageError(
            f"{path}: no tile of {n_grid} has {config.min_tissue:.0%} of tissue.",
            remedy=f"If it is not stained, or to take the background too: {option('min_tissue', 0)}.",
        )
    order = hash_order([f"{left},{top}" for left, top, _, _ in boxes])[: config.tiles]
    drawn = sorted((boxes[place] for place in order), key=lambda box: (box[1], box[0]))
    facts = {
        "width (pixels)": scan.width,
        "height (pixels)": scan.height,
        "file's resolution (µm per pixel)": round(max(mpp), 4),
        "tiles of tissue": len(boxes),
    }
    return Opened(
        images=tuple(SlideTile(files=files, box=box, side=config.tile_size, policy=policy) for box in drawn),
        is_bag=True,
        about=FileFacts(kind=KIND, facts=facts),
    )


def thumbnail(tile: SlideTile, *, longest: int = 1024) -> tuple[RGBImage, float]:
    """Return a small picture of the slide that a tile is of, and by what its boxes are multiplied to lie on it.

    Parameters
    ----------
    tile : SlideTile
    longest : int, default 1024
        Pixels of the longer side, at the most.

    Returns
    -------
    image : ndarray of uint8, shape (height, width, 3)
    scale : float

    Raises
    ------
    UnreadableImageError
        If the slide changed, is gone, or is damaged.
    """
    scan = _opened(tile)
    scale = min(1.0, longest / max(scan.width, scan.height))
    size = (max(1, round(scan.width * scale)), max(1, round(scan.height * scale)))
    rows = size[1] / scan.height
    return _in_bands(scan, (0, 0, scan.width, scan.height), size, step=max(1, int(BAND / scan.width * rows))), scale


def _tissue(
    scan: Scan, tile: tuple[float, float], files: Sequence[Path], config: DataConfig
) -> tuple[list[tuple[int, int, int, int]], int]:
    """Return the boxes of the tiles that count, row by row, and how many there are on the whole slide."""
    width, height = tile
    columns, rows = int(scan.width / width + 1e-6), int(scan.height / height + 1e-6)
    if not columns or not rows:
        raise UnreadableImageError(
            f"{files[0]}: is {scan.width} x {scan.height} pixels, and a tile would be {width:.0f} x {height:.0f} of "
            "them.",
            remedy=f"Ask for smaller tiles ({option('tile_size', 112)}) or finer ones ({option('mpp')}).",
        )
    share = np.ones((rows, columns))
    if config.min_tissue > 0:
        what: dict[str, JSON] = {"fact": "tissue", "version": CUT_VERSION, "tile": tile, "pixels": PER_TILE}
        what |= {"light": LIGHT, "density": DENSITY, "black": BLACK}
        found = remembered(files, what, lambda: _shares(scan, tile, rows, columns))
        counts = np.frombuffer(zlib.decompress(b85decode(found)), dtype=np.uint8)
        share = counts.reshape(rows, columns) / PER_TILE**2
    size_of = (round(width), round(height))
    last = (scan.width - size_of[0], scan.height - size_of[1])
    places = np.argwhere(share >= config.min_tissue).tolist()
    corners = [(min(round(column * width), last[0]), min(round(row * height), last[1])) for row, column in places]
    return [(*corner, *size_of) for corner in corners], rows * columns


def _shares(scan: Scan, tile: tuple[float, float], rows: int, columns: int) -> str:
    """Return how many pixels of the small picture of each tile are tissue, a byte each, row by row, as text."""
    width, height = tile
    size = (columns * PER_TILE, rows * PER_TILE)
    step = PER_TILE * max(1, int(BAND / (columns * width * height)))
    small = _in_bands(scan, (0, 0, columns * width, rows * height), size, step=step)
    counts = _is_tissue(small).reshape(rows, PER_TILE, columns, PER_TILE).sum(axis=(1, 3))
    return b85encode(zlib.compress(counts.astype(np.uint8).tobytes())).decode()


def _is_tissue(image: RGBImage) -> NDArray[np.bool_]:
    """Tell for each pixel of a small picture whether it is tissue, shape (height, width)."""
    light = np.maximum(np.percentile(image.reshape(-1, 3), LIGHT, axis=0), BLACK + 1)
    density = -np.log((image.astype(np.float32) + 1) / (light + 1))
    return np.asarray((density.max(axis=2) >= DENSITY) & (image.max(axis=2) > BLACK))


def _in_bands(scan: Scan, box: Box, size: tuple[int, int], *, step: int) -> RGBImage:
    """Draw a small picture of a large part, reading so many of its rows of pixels at a time."""
    left, top, width, height = box
    result = np.empty((size[1], size[0], 3), dtype=np.uint8)
    unit = height / size[1]
    for first in range(0, size[1], step):
        last = min(first + step, size[1])
        part = (left, top + first * unit, width, (last - first) * unit)
        result[first:last] = np.asarray(scan.region(part, (size[0], last - first)))
    return result


def _scaled(image: Image.Image, inner: Sequence[float], size: tuple[int, int]) -> Image.Image:
    """Cut out a box (left, top, right, bottom) and bring it to a size; as it is, where it has that size."""
    whole = tuple(round(each) for each in inner)
    if (whole[2] - whole[0], whole[3] - whole[1]) == size and np.allclose(whole, inner, atol=1e-3):
        return image.crop((whole[0], whole[1], whole[2], whole[3]))
    box = (inner[0], inner[1], min(inner[2], image.width), min(inner[3], image.height))
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _opened(tile: SlideTile) -> Scan:
    for file in tile.files:
        file.require_unchanged()
    return _scan(tile.files, tile.policy)


def _scan(files: tuple[StampedFile, ...], policy: DecodePolicy) -> Scan:
    """Open a slide, once in a process as long as few others are asked for; of plain images one is held."""
    suffix = files[0].path.suffix.lower()
    if suffix in SLIDE_SUFFIXES or (suffix in TIFFS and _is_tiled(files[0])):
        return _slide(files)
    return _plain(files, policy)


@lru_cache(maxsize=OPEN)
def _slide(files: tuple[StampedFile, ...]) -> SlideScan:
    return SlideScan(files[0])


@lru_cache(maxsize=1)
def _plain(files: tuple[StampedFile, ...], policy: DecodePolicy) -> PlainScan:
    return PlainScan(files[0], policy)


def _files(path: Path) -> list[Path]:
    """Return a slide and what belongs to it: MIRAX keeps its pixels in a folder of the same name."""
    beside = path.with_suffix("") if path.suffix.lower() == ".mrxs" else None
    return [path, *(sorted(each for each in beside.iterdir() if each.is_file()) if beside and beside.is_dir() else ())]


@contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    """Open a TIFF to look at its directories; None where it is damaged, which its reader then says."""
    import tifffile

    try:
        file = tifffile.TiffFile(path)
    except (OSError, ValueError, tifffile.TiffFileError):
        yield None
        return
    with file:
        yield file


@lru_cache(maxsize=4096)
def _is_tiled(tiff: StampedFile) -> bool:
    with _tiff(tiff.path) as file:
        return file is not None and bool(file.pages[0].is_tiled)


def _is_pyramid(path: Path) -> bool:
    """Tell whether a TIFF is a slide: colour, stored in tiles, and with smaller copies of itself or very large."""
    with _tiff(path) as file:
        if file is None:
            return False
        first = file.pages[0]
        if not first.is_tiled or first.samplesperpixel < 3 or first.dtype != np.uint8:
            return False
        several = bool(first.subifds) or any(page.is_reduced for page in file.pages[1:4])
        return several or first.imagewidth * first.imagelength >= LARGE


def _dots(path: Path) -> tuple[float, float] | None:
    """Return the micrometres per pixel that a plain image states, if a microscope's picture can have them."""
    with Image.open(path) as image:
        dots = image.info.get("dpi")
    return None if not dots or not all(dots) else _plausible(25_400 / float(dots[0]), 25_400 / float(dots[1]))


def _plausible(x: Any, y: Any) -> tuple[float, float] | None:
    try:
        found = (float(x), float(y))
    except (TypeError, ValueError):
        return None
    return found if all(SMALLEST_MPP <= each <= LARGEST_MPP for each in found) else None


def _openslide(name: str) -> Any:
    try:
        import openslide
    except ImportError as error:
        raise DependencyError(
            f"{name} is a slide, which OpenSlide reads.", remedy="pip install 'biofuse-embed[slides]'"
        ) from error
    return openslide


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Name the slide in what OpenSlide raises; after an error a slide that is open cannot be read any more.

    Raises
    ------
    UnreadableImageError
        In place of any error of OpenSlide.
    """
    openslide = _openslide(name)
    try:
        yield
    except (openslide.OpenSlideError, OSError) as error:
        _slide.cache_clear()
        raise UnreadableImageError(f"{name}: cannot be read as a slide: {error}.", remedy=REMEDY) from error
