"""A contact sheet: images of a data set as an encoder receives them, to be looked at before anything is computed."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError, UnreadableImageError
from biofuse.core.files import atomic_path, check_target
from biofuse.core.hashing import hash_order
from biofuse.data.cuts import Bag, Source
from biofuse.data.decoding import decode
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard

if TYPE_CHECKING:
    from PIL import Image

COLUMNS, ROWS = 8, 6
"""Images beside and below one another: as many as a screen shows at a size at which tissue can be told."""
SIDE, GAP, LINE, LETTERS = 160, 8, 16, 12
"""Pixels of an image, between two, and of a line of text and its letters."""
LINES = 2
"""Of text below an image: which sample it is, and what its label says."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Images side by side, with their names and labels.

    Attributes
    ----------
    picture : PIL Image
    shown : int
        Images on it.
    unreadable : tuple of str
        Images that were chosen for it and cannot be read.
    words : str
        What the encoder does to an image before it looks at it.
    """

    picture: "Image.Image"
    shown: int
    unreadable: tuple[str, ...]
    words: str

    def write(self, path: Path) -> None:
        """Write it as a picture, of the format that its name ends in.

        Raises
        ------
        DiskError
            If that place cannot be written to.
        """
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            self.picture.save(file, format=_format(path))


@dataclass(frozen=True)
class _Shown:
    source: Source
    lines: tuple[str, str]


_Seen = tuple[_Shown, NDArray[np.uint8]]


def check_sheet(path: Path) -> None:
    """Refuse a place for a sheet before any image is read.

    Raises
    ------
    DataError
        If its name ends in no format of pictures.
    DiskError
        If it cannot be written to.
    """
    _format(path)
    check_target(path)


def _format(path: Path) -> str:
    known = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}
    if path.suffix.lower() not in known:
        raise DataError(f"{path} names no kind of picture.", remedy=f"Let it end in one of {', '.join(known)}.")
    return known[path.suffix.lower()]


def contact_sheet(samples: Samples, card: EncoderCard, *, rows: int = ROWS) -> Sheet:
    """Draw images of all classes as an encoder receives them: resized and cropped as its authors publish it.

    They are chosen by a hash of their ids, alike of every class. A sample of several images has a row of its own, with
    images evenly spaced from its first to its last.

    Parameters
    ----------
    samples : Samples
    card : EncoderCard
        Of the encoder.
    rows : int, default 6
        Rows of eight images at the most.

    Returns
    -------
    Sheet

    Raises
    ------
    DataError
        If none of the images can be read.

    Examples
    --------
    >>> import biofuse
    >>> from biofuse.encoders import get_card
    >>> from biofuse.report.sheet import contact_sheet
    >>> sheet = contact_sheet(biofuse.load_samples("images/"), get_card("lbp"), rows=2)
    >>> sheet.shown, sheet.picture.width
    (16, 1352)
    """
    unreadable, lines = list[str](), list[list[_Seen]]()
    for several in _chosen(samples, rows):
        lines.append([])
        for shown in several:
            try:
                lines[-1].append((shown, _received(shown.source, samples, card)))
            except UnreadableImageError:
                unreadable.append(shown.source.description)
    seen = [each for line in lines for each in line]
    if not seen:
        raise DataError(
            f"{samples.name}: none of {len(unreadable)} images can be read, so that there is nothing to show.",
            remedy=f"Look into the first: {', '.join(unreadable[:1])}.",
        )
    single, *bags = lines
    lines = [*(single[first : first + COLUMNS] for first in range(0, len(single), COLUMNS)), *bags]
    words = in_words(card)
    title = f"{samples.name}: {len(seen)} of {samples.n_images:,} images as {card.name} receives them, {words}"
    return Sheet(
        picture=_drawn(title, [line for line in lines if line]),
        shown=len(seen),
        unreadable=tuple(unreadable),
        words=words,
    )


def in_words(card: EncoderCard) -> str:
    """Say what an encoder's preprocessing does to the pixels.

    Examples
    --------
    >>> from biofuse.encoders import get_card
    >>> in_words(get_card("lbp"))
    'their shorter side scaled to 128 pixels (bicubic), the central 128 x 128 kept'
    """
    how = card.preprocessing
    side = how.output_size
    done = {
        "squash": f"squashed to {how.size} x {how.size} pixels",
        "shortest": f"their shorter side scaled to {how.size} pixels",
        "longest": f"their longer side scaled to {how.size} pixels, the rest black",
        "inner": f"their central square scaled to {how.size} x {how.size} pixels",
    }[how.resize]
    crop = f", the central {side} x {side} kept" if how.crop is not None else ""
    stretched = ", each from its darkest to its brightest value" if how.value_range == "min-max" else ""
    return f"{done} ({how.interpolation}){crop}{stretched}"


def _chosen(samples: Samples, rows: int) -> list[list[_Shown]]:
    """Return what is shown: first the samples of one image, then in a list of its own each that has several."""
    target = samples.target
    names = [""] * len(samples) if target is None or samples.labels is None else target.names(samples.labels)
    order = hash_order(samples.ids.tolist()).tolist()
    if target is not None and target.categorical:  # one of each class, then the next of each, and so on
        turns, before = dict[int, int](), Counter[str]()
        for row in order:
            turns[row] = before[names[row]]
            before[names[row]] += 1
        order.sort(key=turns.__getitem__)
    single, several = list[int](), list[int]()
    for row in order:
        (several if samples.sizes[row] > 1 else single).append(row)
        if len(several) + math.ceil(len(single) / COLUMNS) > rows:
            (several if samples.sizes[row] > 1 else single).pop()
    places = {name: place for place, name in enumerate(dict.fromkeys([*samples.classes, *names]))}
    shown = {
        row: list(_images(samples.sources[row], str(samples.ids[row]), names[row]))
        for row in sorted([*single, *several], key=lambda row: (places[names[row]], row))
    }
    bags = [images for row, images in shown.items() if samples.sizes[row] > 1]
    return [[image for row, images in shown.items() if samples.sizes[row] == 1 for image in images], *bags]


def _images(source: Source, name: str, label: str) -> Iterator[_Shown]:
    if not isinstance(source, Bag) or len(source) == 1:
        yield _Shown(source, (name, label))
        return
    n = len(source)
    places = [round(step * (n - 1) / max(min(COLUMNS, n) - 1, 1)) for step in range(min(COLUMNS, n))]
    for place in places:
        yield _Shown(source.images[place], (name, f"{label} {place + 1} of {n}".strip()))


def _received(source: Source, samples: Samples, card: EncoderCard) -> NDArray[np.uint8]:
    """Return the pixels that an encoder is given, before its mean and standard deviation are applied."""
    pixels = card.preprocessing.apply(decode(source.read(), samples.decode, description=source.description))
    if card.preprocessing.value_range != "min-max":
        return pixels
    low, high = int(pixels.min()), int(pixels.max())
    return np.rint((pixels.astype(np.float64) - low) * (255 / max(high - low, 1))).astype(np.uint8)


def _drawn(title: str, lines: Sequence[Sequence[_Seen]]) -> "Image.Image":
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(findfont("DejaVu Sans"), LETTERS)
    width = max(map(len, lines)) * (SIDE + GAP) + GAP
    titles = list(_wrapped(title, font, width - 2 * GAP))
    top = len(titles) * LINE + 2 * GAP
    height = top + len(lines) * (SIDE + LINES * LINE + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(titles):
        draw.text((GAP, GAP + number * LINE), text, fill="black", font=font)
    for row, line in enumerate(lines):
        for column, (shown, pixels) in enumerate(line):
            left, upper = GAP + column * (SIDE + GAP), top + row * (SIDE + LINES * LINE + GAP)
            # What is smaller is shown with its pixels, not smoothed over.
            small = pixels.shape[0] <= SIDE
            picture = Image.fromarray(pixels)
            how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((SIDE, SIDE), how), (left, upper))
            for number, text in enumerate(shown.lines):
                draw.text(
                    (left, upper + SIDE + number * LINE),
                    _end(text, font, SIDE) if not number else _beginning(text, font, SIDE),
                    fill="black",
                    font=font,
                )
    return sheet


def _end(text: str, font: Any, width: int) -> str:
    """Return the end of a name that fits: where names are paths, that tells them apart."""
    return next(
        cut for cut in (text, *(f"…{text[n:]}" for n in range(1, len(text) + 1))) if font.getlength(cut) <= width
    )


def _beginning(text: str, font: Any, width: int) -> str:
    return next(
        cut for cut in (text, *(f"{text[:n]}…" for n in range(len(text) - 1, -1, -1))) if font.getlength(cut) <= width
    )


def _wrapped(text: str, font: Any, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and font.getlength(f"{line} {word}") > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line
