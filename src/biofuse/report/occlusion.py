"""Occlusion maps: what of an image a prediction rests on, by covering one part of it after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.report.draw import LIGHT

RGBImage = NDArray[np.uint8]

SHARE = 4
"""A window is one part in so many of each side of the image."""

STEPS = 7
"""Windows along each side: they overlap by half, so that every part but the rim is covered four times."""

TINT = 0.75
"""How opaque the colour of the greatest change is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Occlusion:
    """One image, and how its probability of a class changes where it is covered.

    Attributes
    ----------
    id : str
    called : str
        The class.
    image : ndarray of uint8, shape (height, width, 3)
    probability : float
        Of the class, of the whole image.
    covered : ndarray of float64, shape (STEPS, STEPS)
        The same with each window covered, from the top left.
    """

    id: str
    called: str
    image: RGBImage
    probability: float
    covered: NDArray[np.float64]

    @property
    def drop(self) -> NDArray[np.float64]:
        """By how much covering a pixel lowers the probability: the mean over its windows, shape (height, width)."""
        height, width = self.image.shape[:2]
        total, count = np.zeros((height, width)), np.zeros((height, width))
        for window, probability in zip(windows(height, width), self.covered.ravel(), strict=True):
            total[window] += self.probability - probability
            count[window] += 1
        return total / count

    def picture(self) -> Image.Image:
        """Return the image in grey; what speaks for the class is blue, what speaks against it brown."""
        drop = self.drop
        most = float(np.abs(drop).max()) or 1.0
        grey = np.asarray(Image.fromarray(self.image).convert("L").convert("RGB"), dtype=np.float64)
        colours = [np.array([int(LIGHT[name][at : at + 2], 16) for at in (1, 3, 5)]) for name in ("above", "below")]
        tint = np.where((drop > 0)[..., None], *colours)
        alpha = TINT * (np.abs(drop) / most)[..., None]
        return Image.fromarray((grey * (1 - alpha) + tint * alpha).astype(np.uint8))


def windows(height: int, width: int) -> list[tuple[slice, slice]]:
    """Return the windows of an image of so many pixels, from the top left, row by row."""

    def along(length: int) -> list[slice]:
        size = max(1, -(-length // SHARE))
        return [slice(start, start + size) for start in np.rint(np.linspace(0, length - size, STEPS)).astype(int)]

    return [(rows, columns) for rows in along(height) for columns in along(width)]


def occlude(
    wanted: Sequence[tuple[str, int, RGBImage]],
    classes: Sequence[str],
    predict: Callable[[list[RGBImage]], NDArray[np.float64]],
) -> tuple[Occlusion, ...]:
    """Cover each window of images with the image's mean colour (Zeiler and Fergus 2014), and predict again.

    Parameters
    ----------
    wanted : sequence of (id, column, image)
        The class, and the image as uint8, shape (height, width, 3).
    classes : sequence of str
        Names of the columns.
    predict : callable
        Returns probabilities of images, shape (n, n_classes). It is called once, with 50 images for each wanted one.
    """
    images: list[RGBImage] = []
    for _, _, image in wanted:
        images.append(image)
        for window in windows(*image.shape[:2]):
            covered = image.copy()
            covered[window] = image.mean(axis=(0, 1)).round().astype(np.uint8)
            images.append(covered)
    found = predict(images).reshape(len(wanted), STEPS**2 + 1, len(classes))
    return tuple(
        Occlusion(
            id=name,
            called=classes[column],
            image=image,
            probability=float(own[0, column]),
            covered=own[1:, column].reshape(STEPS, STEPS),
        )
        for (name, column, image), own in zip(wanted, found, strict=True)
    )
