"""How an encoder's authors prepare an image, as data, and the code that does it."""

from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from biofuse.core.errors import EncoderError, UnreadableImageError

if TYPE_CHECKING:
    import torch

MAX_RESIZED_PIXELS = 1 << 26
"""Pixels of a resized image before its crop (201 MB as RGB), so that a 1 x 100,000 strip is an error, not a crash."""


class ResizeKey(NamedTuple):
    """What decides the pixels an encoder sees; encoders with equal keys can share one resized image."""

    resize: str
    size: int
    interpolation: str
    crop: int | None


class Preprocessing(BaseModel):
    """Resize, crop and normalise; every field is part of the fingerprint.

    Attributes
    ----------
    resize : {"shortest", "squash"}
        ``shortest`` scales the shorter side to ``size`` and keeps the aspect; ``squash`` makes a square of ``size``.
    size : int
        Pixels.
    interpolation : {"bilinear", "bicubic", "lanczos", "nearest", "box"}
        Pillow's filters; all but ``nearest`` are antialiased when shrinking.
    crop : int or None
        Side of the centre crop in pixels, after resizing; at most ``size``. None only with ``squash``.
    mean, std : tuple of float
        Per channel (red, green, blue), on the scale that ``value_range`` sets. ``std`` is positive.
    value_range : {"0-1", "0-255", "min-max"}
        Scale of the pixel values before ``mean`` and ``std`` are applied; ``min-max`` stretches each image so that its
        darkest value (of all channels) is 0 and its brightest 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    resize: Literal["shortest", "squash"] = "shortest"
    size: int = Field(gt=0)
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest", "box"] = "bicubic"
    crop: int | None = Field(default=None, gt=0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    value_range: Literal["0-1", "0-255", "min-max"] = "0-1"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.resize == "shortest" and self.crop is None:
            raise ValueError("resize='shortest' keeps the aspect, so it needs a crop for all images to end up one size")
        if self.crop is not None and self.crop > self.size:
            raise ValueError(f"crop {self.crop} is larger than the resized image's shorter side {self.size}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {self.std}")
        return self

    @property
    def output_size(self) -> int:
        """Side in pixels of the square image that the encoder receives."""
        return self.size if self.crop is None else self.crop

    @property
    def resize_key(self) -> ResizeKey:
        """The part that decides the pixels; normalisation happens later, on the device."""
        return ResizeKey(self.resize, self.size, self.interpolation, self.crop)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop one image, exactly as torchvision's ``Resize`` and ``CenterCrop`` do to a Pillow image.

        Parameters
        ----------
        image : ndarray of uint8, shape (height, width, 3)
            Red-green-blue, any size from 1 x 1.

        Returns
        -------
        ndarray of uint8, shape (output_size, output_size, 3)
            May share memory with ``image`` where nothing had to be done.

        Raises
        ------
        EncoderError
            If the array is not an 8-bit RGB image.
        UnreadableImageError
            If the image is so elongated that resizing its shorter side would need an absurd amount of memory.
        """
        from PIL import Image

        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise EncoderError(f"Expected a uint8 image of shape (height, width, 3), not {image.dtype} {image.shape}.")
        height, width = self._resized_shape(*image.shape[:2])
        side = self.output_size
        if image.shape[:2] == (height, width) == (side, side):
            return np.ascontiguousarray(image)
        picture = Image.fromarray(np.ascontiguousarray(image))
        picture = picture.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if (height, width) != (side, side):
            # Half pixels round to even, as in torchvision.
            top, left = round((height - side) / 2), round((width - side) / 2)
            picture = picture.crop((left, top, left + side, top + side))
        return np.asarray(picture)

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        if self.resize == "squash":
            return self.size, self.size
        # The longer side is truncated, not rounded: torchvision's rule.
        longer = int(self.size * max(height, width) / min(height, width))
        if longer * self.size > MAX_RESIZED_PIXELS:
            raise UnreadableImageError(
                f"An image of {width} x {height} pixels is too elongated to scale its shorter side to {self.size}.",
                remedy="Cut it into pieces or crop it, or quarantine it with on_error='quarantine'.",
            )
        return (self.size, longer) if height <= width else (longer, self.size)

    def normalise(self, batch: "torch.Tensor") -> "torch.Tensor":
        """Turn prepared images into network input, as torchvision's ``ToTensor`` and ``Normalize`` do.

        Parameters
        ----------
        batch : torch.Tensor of uint8, shape (n, height, width, 3)
            On any device.

        Returns
        -------
        torch.Tensor of float32, shape (n, 3, height, width)
            On the same device.
        """
        import torch

        # Strides stay those of NHWC ("channels last"), which convolutions run faster on and nothing has to be copied.
        pixels = batch.permute(0, 3, 1, 2).to(torch.float32)
        if self.value_range == "0-1":
            pixels = pixels.div_(255)
        elif self.value_range == "min-max":
            low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
            # An image of one colour becomes 0; whole grey levels are never nearer than 1.
            pixels = pixels.sub_(low).div_((high - low).clamp_(min=1))
        mean, std = (torch.tensor(values, device=batch.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)
