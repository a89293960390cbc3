"""Images for the page: small, as JPEG, inside it."""

import base64
import io
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from biofuse.core.errors import UnreadableImageError
from biofuse.data.decoding import RGBImage, decode
from biofuse.data.samples import Samples
from biofuse.data.sources import ItemSource, PillowSource
from biofuse.report.content import Sheet

QUALITY = 72
"""JPEG quality: artefacts are not seen at the size of a thumbnail."""

SHEET_BYTES = 4_500_000
"""Most bytes of a sheet of thumbnails before base64 adds a third: the page stays below 15 MB with 5 MB of Plotly."""

SIDES = (64, 48, 32)
"""Pixels of a thumbnail: the largest that fits is taken."""

PATIENCE = 20.0
"""Seconds after which no more thumbnails are read: a report is something one waits for."""

THREADS = 4
"""Decoding releases the interpreter lock."""


class Album:
    """Images of a table of samples, by id.

    Parameters
    ----------
    samples : Samples
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._row = {sample: row for row, sample in enumerate(samples.ids.tolist())}
        # Rows of other libraries' data sets may share one open file, which threads would mix up.
        self.threads = 1 if any(isinstance(s, ItemSource | PillowSource) for s in samples.sources) else THREADS

    def __contains__(self, sample: str) -> bool:
        return sample in self._row

    def image(self, sample: str) -> Image.Image | None:
        """Return an image as its encoders saw it before resizing; None where it is not there or cannot be read."""
        row = self._row.get(sample)
        if row is None:
            return None
        source = self._samples.sources[row]
        try:
            pixels: RGBImage = decode(source.read(), self._samples.decode, description=source.description)
        except UnreadableImageError:
            return None
        return Image.fromarray(pixels)


def jpeg_uri(image: Image.Image, *, side: int) -> tuple[str, int, int]:
    """Shrink an image to fit a square and return it as a ``data:`` URI, with its width and height in pixels."""
    small = _fit(image, side)
    return _uri(_jpeg(small)), small.width, small.height


def make_sheet(
    wanted: Sequence[tuple[Album | None, str]], *, clock: Callable[[], float] = time.monotonic
) -> tuple[Sheet | None, tuple[int, ...]]:
    """Put thumbnails onto one image, which takes half the bytes that they take one by one.

    Parameters
    ----------
    wanted : sequence of (album, id)
        In the order in which they are read, should patience end.
    clock : callable
        Seconds.

    Returns
    -------
    sheet : Sheet or None
        None where no image could be read.
    tiles : tuple of int
        Place of each sample's thumbnail on the sheet, -1 for none.
    """
    deadline = clock() + PATIENCE

    def small(one: tuple[Album | None, str]) -> Image.Image | None:
        album, sample = one
        image = None if album is None or clock() > deadline else album.image(sample)
        return None if image is None else _fit(image, SIDES[0])

    with ThreadPoolExecutor(min((album.threads for album, _ in wanted if album is not None), default=1)) as threads:
        thumbnails = list(threads.map(small, wanted))
    there = [thumbnail for thumbnail in thumbnails if thumbnail is not None]
    if not there:
        return None, (-1,) * len(wanted)
    places = iter(range(len(there)))
    tiles = tuple(-1 if thumbnail is None else next(places) for thumbnail in thumbnails)
    for side in SIDES:
        sheet, size = _sheet(there, side)
        if size <= SHEET_BYTES:
            break
    return sheet, tiles


def _sheet(thumbnails: Sequence[Image.Image], side: int) -> tuple[Sheet, int]:
    columns = math.ceil(math.sqrt(len(thumbnails)))
    rows = math.ceil(len(thumbnails) / columns)
    page = Image.new("RGB", (columns * side, rows * side), (128, 128, 128))
    for place, thumbnail in enumerate(thumbnails):
        tile = _fit(thumbnail, side)
        left, top = place % columns * side, place // columns * side
        page.paste(tile, (left + (side - tile.width) // 2, top + (side - tile.height) // 2))
    data = _jpeg(page)
    return Sheet(source=_uri(data), columns=columns, rows=rows, side=side), len(data)


def _fit(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST  # pixels of tiny images stay visible
    return image.resize(size, how, reducing_gap=2.0)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def _uri(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
