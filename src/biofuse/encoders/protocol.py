"""What a loaded encoder can do."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biofuse.encoders.card import EncoderCard

UInt8Images = NDArray[np.uint8]
"""Images of one size, shape (n, height, width, 3), red-green-blue, 0-255: already resized and cropped."""

Embeddings = NDArray[np.float32]
"""One row per image, shape (n, dim)."""


class Encoder(Protocol):
    """A frozen model that turns one image into one vector."""

    @property
    def card(self) -> EncoderCard:
        """The record it was built from."""
        ...

    def encode(self, images: UInt8Images) -> Embeddings:
        """Embed a batch that ``card.preprocessing.apply`` has prepared; normalisation happens here, on the device.

        Parameters
        ----------
        images : ndarray of uint8, shape (n, height, width, 3)

        Returns
        -------
        ndarray of float32, shape (n, card.dim)
            Row i depends on image i alone.
        """
        ...
