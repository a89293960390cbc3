"""The development images that are most like a new one, as a sheet to look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from biofuse.report.content import Gallery, Picture, Table, Value
from biofuse.report.html import TablePage
from biofuse.report.input import picture_of

SIDE = 160
"""Most pixels of a picture, in either direction."""


@dataclass(frozen=True, kw_only=True)
class SimilarImage:
    """A development image, and how far it is from the one asked about.

    Attributes
    ----------
    rank : int
        1 for the nearest.
    id, label, group, split : str
        Of the development sample; group is empty where there are none.
    distance : float
        See :func:`biofuse.similar`.
    identical : bool
        Whether it is the very image that was asked about.
    """

    rank: int
    id: str
    label: str
    group: str
    split: str
    distance: float
    identical: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class SimilarImages(TablePage):
    """The nearest development images of one image.

    Attributes
    ----------
    query : str
        Id of the image that was asked about.
    nearest : tuple of SimilarImage
        The nearest first.
    encoders : tuple of str
    typical : str
        How far development images are from each other, in words; empty where that is not known.
    called : str
        What the model says of the image, in words.
    pictures : callable
        Returns the picture of the image asked about (None as argument) or of a development sample by id, None where
        there is none.
    remarks : tuple of str
    """

    query: str
    nearest: tuple[SimilarImage, ...]
    encoders: tuple[str, ...]
    typical: str
    called: str
    pictures: Callable[[str | None], Image.Image | None]
    remarks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What the sheet is called."""
        return f"Development images most like {self.query}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known to read it."""
        labels = [each.label for each in self.nearest]
        counts = {label: labels.count(label) for label in dict.fromkeys(labels)}
        often = ", ".join(f"{count} {label}" for label, count in sorted(counts.items(), key=lambda each: -each[1]))
        listed = f"Of the {len(labels)} nearest development images, {often}"
        if len(counts) == len(labels) > 1:  # numbers, of which each is another
            listed = f"The {len(labels)} nearest development images have {', '.join(labels)}"
        return (
            f"{self.called} {listed}.",
            f"Distances are Euclidean, between the embeddings of {' + '.join(self.encoders)}, standardised so that "
            f"every encoder counts the same. {self.typical}".rstrip(),
            *self.remarks,
        )

    def galleries(self) -> tuple[Gallery, ...]:
        """Return the picture of the image, and those of its neighbours that are at hand."""
        own = self._picture(None, f"{self.query}, the image asked about", self.query)
        found = [
            self._picture(
                each.id,
                f"neighbour {each.rank}, labelled {each.label}",
                f"{each.rank}. {each.label}, distance {each.distance:.3f}: {each.id}",
            )
            for each in self.nearest
        ]
        near = tuple(picture for picture in found if picture is not None)
        return (
            *([Gallery(id="asked", title="The image", pictures=(own,))] if own is not None else []),
            *([Gallery(id="nearest", title="Most alike, the nearest first", pictures=near)] if near else []),
        )

    def _picture(self, sample: str | None, alternative: str, caption: str) -> Picture | None:
        image = self.pictures(sample)
        return None if image is None else picture_of(image, side=SIDE, alternative=alternative, caption=caption)

    def tables(self) -> list[Table]:
        """Return a row per neighbour."""
        grouped = any(each.group for each in self.nearest)
        columns = ("rank", "label", "distance", "id", *(["group"] if grouped else []), "split")
        rows: list[tuple[Value, ...]] = [
            (
                each.rank,
                each.label,
                f"{each.distance:.4f}",
                f"{each.id} (the same image)" if each.identical else each.id,
                *([each.group] if grouped else []),
                each.split,
            )
            for each in self.nearest
        ]
        return [Table.of("Nearest development images", columns, rows, aligned=("rank", "distance"))]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "query": self.query,
            "encoders": list(self.encoders),
            "distance": "Euclidean, standardised columns, every encoder counting the same",
            "typical": self.typical,
            "called": self.called,
            "neighbours": [vars(each) for each in self.nearest],
            "remarks": list(self.remarks),
        }


def missing(names: Sequence[str]) -> str:
    """Say which development images could not be read, so that there is no picture of them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} of these development images cannot be read any more: {', '.join(names[:3])}{more}."
