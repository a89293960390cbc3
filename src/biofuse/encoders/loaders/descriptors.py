"""Classical image descriptors from scikit-image: no weights, no device, the honest baseline.

Each takes one prepared RGB image and gives one vector; a constant image gives finite values. Parameters are those of
the papers on the cards unless a constant below says otherwise.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from skimage import feature, filters
from skimage.color import rgb2gray, rgb2lab

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import Embeddings, UInt8Images, require_embeddings, require_images

Image = NDArray[np.uint8]
Vector = NDArray[np.float64]

COLOUR_BINS = 4
"""Bins per channel of the joint RGB histogram: 64 in all, few enough to be filled by a 128-pixel image."""

ROUNDING = 1e-12
"""A third central moment below this is zero: rounding errors of 1e-14 would grow to 2e-5 under the cube root."""

LBP_RINGS = ((8, 1), (16, 2), (24, 3))
"""Points and radius in pixels of each ring: the three that Ojala et al. (2002) combine."""

GREY_LEVELS = 32
"""Grey levels of the co-occurrence matrices; 256 would leave most of each matrix empty."""

GLCM_DISTANCES = (1, 2, 4)
"""Pixels between the two grey levels that are counted."""

GLCM_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "ASM", "correlation", "entropy")
"""The statistics of each matrix that scikit-image offers and that are not functions of one another."""

ANGLES = tuple(np.pi * step / 4 for step in range(4))
"""Directions of the co-occurrence matrices: 0, 45, 90 and 135 degrees, as in Haralick et al. (1973)."""

GABOR_FREQUENCIES = (0.4, 0.2, 0.1, 0.05)
"""Cycles per pixel, an octave apart: Manjunath and Ma (1996), four scales from 0.05 to 0.4."""

GABOR_ORIENTATIONS = 6
"""Directions per frequency, as in Manjunath and Ma (1996)."""

GABOR_MARGIN = 16
"""Pixels by which the image is mirrored at its border, so that the transform's wrap-around stays outside."""

HOG_CELL = 32
"""Pixels per cell: 4 x 4 cells on a 128-pixel image, 324 values."""


def grey(image: Image) -> Image:
    """Return the luminance as 8-bit grey levels, shape (height, width)."""
    levels: Image = np.rint(rgb2gray(image) * 255).astype(np.uint8)
    return levels


def colour(image: Image) -> Vector:
    """Mean, deviation and skewness of each channel in RGB and CIELAB, and a joint RGB histogram (82 values).

    The skewness is the cube root of the third central moment (Stricker and Orengo, 1995): 0 where nothing varies.
    The histogram holds square roots of shares, so that Euclidean distance becomes Hellinger's.
    """
    # Each colour once, with the share of the pixels that have it: a grey image has at most 256.
    packed = image.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    found, counts = np.unique(packed, return_counts=True)
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1).astype(np.uint8)
    shares = counts / packed.size
    channels = np.hstack([colours / 255, rgb2lab(colours[None])[0] / 100])
    mean = shares @ channels
    centred = channels - mean
    third = shares @ centred**3
    third[np.abs(third) < ROUNDING] = 0
    moments = [mean, np.sqrt(shares @ centred**2), np.cbrt(third)]
    bins = (colours.astype(np.int64) * COLOUR_BINS // 256) @ np.array([COLOUR_BINS**2, COLOUR_BINS, 1])
    return np.concatenate([*moments, np.sqrt(np.bincount(bins, weights=shares, minlength=COLOUR_BINS**3))])


def lbp(image: Image) -> Vector:
    """Histograms of rotation-invariant uniform local binary patterns on three rings (54 values)."""
    uniform_patterns: Any = feature.local_binary_pattern
    levels = grey(image)
    histograms = [
        np.bincount(
            uniform_patterns(levels, points, radius, method="uniform").astype(np.int64).ravel(),
            minlength=points + 2,
        )
        for points, radius in LBP_RINGS
    ]
    return np.concatenate(histograms) / levels.size


def haralick(image: Image) -> Vector:
    """Mean and range over four directions of six co-occurrence statistics at three distances (36 values)."""
    graycomatrix: Any = feature.graycomatrix
    graycoprops: Any = feature.graycoprops
    levels = (grey(image).astype(np.int64) * GREY_LEVELS // 256).astype(np.uint8)
    matrices = graycomatrix(levels, GLCM_DISTANCES, ANGLES, levels=GREY_LEVELS, symmetric=True, normed=True)
    statistics = np.stack([graycoprops(matrices, name) for name in GLCM_PROPERTIES])
    return np.concatenate([statistics.mean(axis=2).ravel(), np.ptp(statistics, axis=2).ravel()])


def gabor(image: Image) -> Vector:
    """Mean and deviation of the magnitude of 24 Gabor responses, four scales by six directions (48 values)."""
    levels = grey(image).astype(np.float32) / 255
    padded = np.pad(levels - levels.mean(), GABOR_MARGIN, mode="symmetric")
    spectrum = fft.fft2(padded)
    responses = np.abs(fft.ifft2(spectrum * _gabor_bank(padded.shape[0])))
    inside = responses[:, GABOR_MARGIN:-GABOR_MARGIN, GABOR_MARGIN:-GABOR_MARGIN]
    return np.concatenate([inside.mean(axis=(1, 2)), inside.std(axis=(1, 2))]).astype(np.float64)


@functools.cache
def _gabor_bank(side: int) -> NDArray[np.complex64]:
    """Spectra of the filters on a square of ``side`` pixels, each without response to a constant."""
    gabor_kernel: Any = filters.gabor_kernel
    bank = np.zeros((len(GABOR_FREQUENCIES) * GABOR_ORIENTATIONS, side, side), dtype=np.complex64)
    for place, frequency in enumerate(GABOR_FREQUENCIES):
        for step in range(GABOR_ORIENTATIONS):
            kernel = gabor_kernel(frequency, theta=np.pi * step / GABOR_ORIENTATIONS)
            height, width = kernel.shape
            spread = np.zeros((side, side), dtype=np.complex128)
            rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
            np.add.at(spread, np.ix_(rows % side, columns % side), kernel - kernel.mean())
            bank[place * GABOR_ORIENTATIONS + step] = fft.fft2(spread)
    bank.flags.writeable = False
    return bank


def hog(image: Image) -> Vector:
    """Histograms of gradient directions in 4 x 4 cells, normalised over blocks of 2 x 2 (324 values)."""
    values: Vector = feature.hog(
        grey(image), orientations=9, pixels_per_cell=(HOG_CELL, HOG_CELL), cells_per_block=(2, 2), block_norm="L2-Hys"
    )
    return values


DESCRIPTORS: dict[str, Callable[[Image], Vector]] = {
    "colour": colour,
    "lbp": lbp,
    "haralick": haralick,
    "gabor": gabor,
    "hog": hog,
}
"""What a card of the ``descriptor`` family may name as its architecture."""


@dataclass(frozen=True)
class DescriptorEncoder:
    """Runs one descriptor over a batch, image by image."""

    card: EncoderCard

    def encode(self, images: UInt8Images) -> Embeddings:
        """Embed a batch that ``card.preprocessing.apply`` has prepared.

        Raises
        ------
        EncoderError
            If the images are not of the card's size.
        """
        require_images(self.card, images)
        describe = DESCRIPTORS[self.card.architecture]
        values = np.array([describe(image) for image in images]).reshape(
            len(images), -1 if len(images) else self.card.dim
        )
        return require_embeddings(self.card, values, rows=len(images))


def build(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> DescriptorEncoder:
    """Build the encoder that a card of the ``descriptor`` family describes.

    Raises
    ------
    EncoderError
        If there is no such descriptor.
    """
    del device, precision, weights_path
    if card.architecture not in DESCRIPTORS:
        raise EncoderError(
            f"{card.name}: there is no descriptor {card.architecture!r}; there are {', '.join(DESCRIPTORS)}."
        )
    return DescriptorEncoder(card)
