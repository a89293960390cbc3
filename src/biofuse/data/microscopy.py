"""Images of microscopes: stacks of channels and pages as the images of one sample; one brightness for a data set."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import DataError, UnreadableImageError, option
from biofuse.core.hashing import hash_order
from biofuse.core.progress import Progress, Silent
from biofuse.data.config import ALL, EACH, DataConfig
from biofuse.data.cuts import Bag, FileFacts, Opened, Source, StampedFile, cut_content
from biofuse.data.decoding import (
    PILLOW_ERRORS,
    DecodePolicy,
    ImageFacts,
    RawImage,
    read_file,
    read_pixels,
    undecodable,
)
from biofuse.data.remembered import JSON
from biofuse.data.samples import Samples
from biofuse.data.stacks import Channels, StackLayout, layout_of, read_stack
from biofuse.data.tiff import is_tiff

SUFFIXES = frozenset({".btf", ".gif", ".tf8", ".tif", ".tiff"})
"""Suffixes of files that may hold several pages; channels of TIFF alone."""

PERCENTILES = (0.1, 99.9)
"""Which values of the data set become black and white. Wider than what is usual for one image at a time (1 and 99 in
Cellpose, Stringer et al., Nature Methods 2021; 1 and 99.8 in StarDist's examples), since one window serves images of
every brightness."""
LOOKED_AT, PER_IMAGE = 2_000, 10_000
"""Images, drawn by a hash of their ids, and values of each channel of each, that percentiles are taken of: the same
weight for every image, and at most 160 MB."""


@dataclass(frozen=True)
class StackImage:
    """One page of a file, or some channels of it: a :class:`biofuse.data.cuts.Cut`.

    Attributes
    ----------
    file : StampedFile
    page : int
        From 0.
    channels : tuple of str
        Names or numbers; none where the page is read as a file of one page would be.
    places : tuple of int
        Which window of the decode policy is each one's.
    """

    file: StampedFile
    page: int
    channels: tuple[str, ...] = ()
    places: tuple[int, ...] = ()

    @property
    def description(self) -> str:
        """File, page and channels."""
        named = f", channel {', '.join(self.channels)}" if self.channels else ""
        return f"{self.file.description}, page {self.page}{named}"

    def content(self, policy: DecodePolicy) -> bytes:
        """Return the content hash (16 bytes).

        Raises
        ------
        UnreadableImageError
            If the file cannot be read.
        """
        cut: dict[str, JSON] = {"page": self.page, "channels": self.channels, "places": self.places}
        return cut_content([self.file], cut, policy)

    def read(self) -> RawImage:
        """Read the pixels as they are stored.

        Raises
        ------
        UnreadableImageError
            If the file is damaged, or another than it was.
        """
        self.file.require_unchanged()
        if not self.channels:
            return read_pixels(_bytes(self.file), DecodePolicy(page=self.page), description=self.description)[0]
        layout, pixels = _stack(self.file)
        found = layout.choose(self.channels, pixels[self.page], description=self.description)
        return Channels(found.pixels, self.places)


def recognises(path: Path, start: bytes) -> bool:
    """Tell whether a file may hold several pages or channels."""
    del path
    return is_tiff(start) or start.startswith(b"GIF8")


def open_file(path: Path, config: DataConfig, *, called: str = "") -> Opened | None:
    """Take a file apart into pages and channels, where it was asked for; else None.

    Raises
    ------
    UnreadableImageError
        If it is damaged, or has no such page or channel.
    """
    if not (config.each_channel or config.all_pages):
        return None
    file = StampedFile.of(path, called)
    try:
        by_channels = bool(config.channels) and is_tiff(_start(path))
        layout = layout_of(path) if by_channels else StackLayout(pages=_pages(path), channels=1)
        chosen = [[name] for name in layout.called] if config.each_channel else [list(config.channels)]
        numbers = [[layout.channel(name) for name in names] for names in chosen] if by_channels else [[]]
    except PILLOW_ERRORS as error:
        raise undecodable(error, file.description) from error
    pages = range(layout.pages) if config.all_pages else [int(config.page)]
    if pages[-1] >= layout.pages:
        raise UnreadableImageError(
            f"{file.description}: page {config.page} was asked for, but it has {layout.pages} (counted from 0).",
            remedy=f"Choose another {option('page')}, or {option('page', ALL)}.",
        )
    images = [
        StackImage(file, page, tuple(names), tuple(places if config.each_channel else range(len(places))))
        for page in pages
        for names, places in zip(chosen if by_channels else [[]], numbers, strict=True)
    ]
    facts: dict[str, str | float] = {"pages": layout.pages, "channels": layout.channels}
    return Opened(images=tuple(images), is_bag=True, about=FileFacts(kind="image stack", facts=facts))


def require_cut(sources: Sequence[Source], config: DataConfig, *, inherited: Collection[str] = ()) -> None:
    """Refuse to take channels and pages apart where there are none.

    Parameters
    ----------
    sources : sequence of Source
    config : DataConfig
    inherited : collection of str
        Options that were said of other data.

    Raises
    ------
    DataError
        If it was asked for, and no file was taken apart.
    """
    asked = {"channels": EACH} if config.each_channel else {"page": ALL} if config.all_pages else {}
    for name, value in asked.items():
        if name not in inherited and not any(isinstance(source, Bag) for source in sources):
            kinds = "TIFF files" if name == "channels" else "TIFF and GIF files"
            raise DataError(f"{option(name, value)} is for {kinds}, and there are none.", remedy="Leave it out.")


def _start(path: Path) -> bytes:
    """Read what a TIFF file is known by."""
    with path.open("rb") as file:
        return file.read(4)


def _pages(path: Path) -> int:
    with Image.open(path) as image:
        return int(getattr(image, "n_frames", 1))


@lru_cache(maxsize=1)
def _bytes(file: StampedFile) -> bytes:
    return read_file(file.path)


@lru_cache(maxsize=1)
def _stack(file: StampedFile) -> tuple[StackLayout, NDArray[np.generic]]:
    try:
        return read_stack(read_file(file.path))
    except PILLOW_ERRORS as error:
        raise undecodable(error, file.description) from error


def with_windows(samples: Samples, *, progress: Progress | None = None) -> Samples:
    """Find the one window by which images of more than 8 bits become 8-bit, where the decode policy asks for it.

    Samples of split test are not looked at. Images that cannot be read are passed over: they are named where they are
    embedded.

    Parameters
    ----------
    samples : Samples
        Images are read where their policy is ``percentile`` and has no windows; others are returned as they are.
    progress : Progress, optional

    Returns
    -------
    Samples
        Under a policy with a window for each channel, and a note that states them.
    """
    if samples.decode.sixteen_bit != "percentile" or samples.decode.windows:
        return samples
    seen = (samples if samples.splits is None else samples.take(samples.splits != "test")).images()
    looked_at = seen.take(np.sort(hash_order([str(name) for name in seen.ids])[:LOOKED_AT]))
    values: dict[int, list[NDArray[np.float64]]] = {}
    progress = progress or Silent()
    progress.begin("looking at brightness", len(looked_at))
    random = np.random.default_rng(0)
    for source in looked_at.sources:
        progress.advance("looking at brightness", 1)
        try:
            pixels, facts = read_pixels(source.read(), samples.decode, description=source.description)
        except UnreadableImageError:
            continue
        for place, channel in _deep(pixels, facts):
            drawn = channel.ravel()[random.integers(0, channel.size, PER_IMAGE)].astype(np.float64)
            values.setdefault(place, []).append(drawn[np.isfinite(drawn)])
    windows = [_window(values.get(place, [])) for place in range(max(values, default=-1) + 1)]
    found = samples.decoded_by(samples.decode.model_copy(update={"windows": tuple(windows)}))
    return replace(found, notes=(*found.notes, _said(windows, len(looked_at))))


def _deep(pixels: NDArray[np.generic] | Channels, facts: ImageFacts) -> list[tuple[int, NDArray[np.generic]]]:
    """Return the channels that are of more than 8 bits, with the places of their windows."""
    if not facts.deep:
        return []
    if isinstance(pixels, Channels):
        return [(place, pixels.pixels[:, :, at]) for at, place in enumerate(pixels.places)]
    return [(0, pixels)]


def _window(values: list[NDArray[np.float64]]) -> tuple[float, float]:
    drawn = np.concatenate(values) if values else np.zeros(0)
    if not drawn.size:
        return 0.0, 0.0
    low, high = np.percentile(drawn, PERCENTILES)
    return float(low), float(high)


def _said(windows: list[tuple[float, float]], n_images: int) -> str:
    asked = option("sixteen_bit", "percentile")
    if not windows:
        return f"{asked}: none of the images looked at is of more than 8 bits; they are read as they are."
    ranges = ", ".join(f"{low:.6g} to {high:.6g}" for low, high in windows)
    each = f"a window for each channel: {ranges}" if len(windows) > 1 else f"one window: {ranges}"
    return (
        f"Images of more than 8 bits become 8-bit by {each}; percentiles {PERCENTILES[0]} and "
        f"{PERCENTILES[1]} of the values of {n_images:,} images."
    )
