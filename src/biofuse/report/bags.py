"""What the images of a sample argue, for a page: which are shown, and where they lie on a slide."""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from biofuse.core.errors import UnreadableImageError
from biofuse.data.cuts import Source
from biofuse.data.slides import SlideTile, thumbnail
from biofuse.report.draw import LIGHT

if TYPE_CHECKING:
    from biofuse.predictors.arguments import Arguments

FOR, AGAINST = 5, 3
"""Most images of a sample that are shown for the class, and against it."""

LEAST = 0.005
"""What an image adds to the log-odds to be shown: what is smaller is written as 0.00."""

OUTLINE = 3
"""Pixels of the outline of a tile that is shown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArguedSample:
    """One sample, and what its images argue for a class.

    Attributes
    ----------
    id, said : str
        Its name, and what it was labelled and predicted.
    called : str
        The class.
    probability : float
        Of the class.
    sources : tuple of Source
        Where its images are read from.
    values : ndarray of float64, shape (n_images,)
        What each adds to the log-odds of the class.
    weights : ndarray of float64, shape (n_images,), or None
        Those of attention.
    how : str
        How the values were found.
    """

    id: str
    said: str
    called: str
    probability: float
    sources: tuple[Source, ...]
    values: NDArray[np.float64]
    weights: NDArray[np.float64] | None
    how: str

    @classmethod
    def of(
        cls,
        found: "Arguments",
        row: int,
        *,
        column: int,
        called: str,
        sources: Sequence[Source],
        id: str,  # noqa: A002 (of a sample, as everywhere)
        said: str,
        probability: float,
    ) -> "ArguedSample":
        """Take one sample and class out of what the images of several samples argue."""
        own = found.of(row)
        return cls(
            id=id,
            said=said,
            called=called,
            probability=probability,
            sources=tuple(sources),
            values=found.values[own, column],
            weights=None if found.weights is None else found.weights[own],
            how=found.how,
        )

    @property
    def shown(self) -> tuple[int, ...]:
        """The images that argue most for the class, and those that argue most against it, each the strongest first."""
        order = np.argsort(-self.values, kind="stable")
        most = [int(place) for place in order if self.values[place] >= LEAST][:FOR]
        least = [int(place) for place in order[::-1] if self.values[place] <= -LEAST][:AGAINST]
        return (*most, *least)

    @property
    def names(self) -> tuple[str, ...]:
        """What the images are called, without the folder or the file that they have in common."""
        said = [source.description for source in self.sources]
        common = commonprefix(said)  # noqa: RUF071 (letters are meant: what is cut is no path alone)
        start = max((common.rfind(end) + len(end) for end in ("/", ", ") if end in common), default=0)
        return tuple(name[start:] for name in said)

    def caption(self, place: int) -> str:
        """Say what an image argues: in log-odds, and with its weight where it has one."""
        weight = "" if self.weights is None else f", weight {self.weights[place]:.0%}"
        return f"{self.values[place]:+.2f}{weight}: {self.names[place]}"

    def overview(self) -> Image.Image | None:
        """Return the slide with the tiles that are shown outlined: blue for the class, brown against it.

        None where the images are not tiles of one slide, or it cannot be read.
        """
        tiles = [source for source in self.sources if isinstance(source, SlideTile)]
        if len(tiles) < len(self.sources) or len({tile.files for tile in tiles}) > 1:
            return None
        try:
            pixels, scale = thumbnail(tiles[0])
        except UnreadableImageError:
            return None
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
        for place in self.shown:
            left, top, width, height = (scale * length for length in tiles[place].box)
            colour = LIGHT["above" if self.values[place] > 0 else "below"]
            draw.rectangle((left, top, left + width, top + height), outline=colour, width=OUTLINE)
        return image
