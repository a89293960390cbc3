"""How an encoder's authors prepare an image: as data, the code that does it, and what model files say of it.

Three formats are put into BioFuse's words: the image processors of transformers (``preprocessor_config.json``),
open_clip's ``open_clip_config.json``, and timm's pretrained configurations. What cannot be said exactly is an error,
never an approximation.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from biofuse.core.errors import EncoderError, UnreadableImageError, option

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
    odd_crop: str


class Preprocessing(BaseModel):
    """Resize, crop and normalise; every field is part of the fingerprint.

    Attributes
    ----------
    resize : {"shortest", "squash", "longest", "inner"}
        ``shortest`` scales the shorter side to ``size`` and keeps the aspect; ``squash`` makes a square of ``size``;
        ``longest`` scales the longer side to ``size``, keeps the aspect and fills the rest of the square, to the right
        or below, with black; ``inner`` takes the central square of the image and scales that to ``size``.
    size : int
        Pixels.
    interpolation : {"bilinear", "bicubic", "lanczos", "nearest", "box"}
        Pillow's filters; all but ``nearest`` are antialiased when shrinking.
    crop : int or None
        Side of the centre crop in pixels, after resizing; at most ``size``. Needed with ``shortest``; none with
        ``longest`` and ``inner``.
    mean, std : tuple of float
        Per channel (red, green, blue), on the scale that ``value_range`` sets. ``std`` is positive.
    value_range : {"0-1", "0-255", "min-max", "standard", "percentile"}
        Scale of the pixel values before ``mean`` and ``std`` are applied; ``min-max`` stretches each image so that its
        darkest value (of all channels) is 0 and its brightest 1; ``standard`` shifts and scales each channel of each
        image to mean 0 and standard deviation 1; ``percentile`` brings the 1st and the 99th percentile of each channel
        to 0 and 1, and what lies beyond, beyond.
    odd_crop : {"round", "floor"}
        Where a centre crop begins that leaves an odd number of pixels: half a pixel is rounded to even, as torchvision
        does and with it timm and open_clip, or down, as the image processors of transformers do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    resize: Literal["shortest", "squash", "longest", "inner"] = "shortest"
    size: int = Field(gt=0)
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest", "box"] = "bicubic"
    crop: int | None = Field(default=None, gt=0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    value_range: Literal["0-1", "0-255", "min-max", "standard", "percentile"] = "0-1"
    odd_crop: Literal["round", "floor"] = "round"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.resize == "shortest" and self.crop is None:
            raise ValueError("resize='shortest' keeps the aspect, so it needs a crop for all images to end up one size")
        if self.resize in {"longest", "inner"} and self.crop is not None:
            raise ValueError(f"resize={self.resize!r} makes a square, so there is nothing to crop")
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
        return ResizeKey(self.resize, self.size, self.interpolation, self.crop, self.odd_crop)

    def identity(self) -> dict[str, Any]:
        """Return what takes part in the fingerprint.

        ``odd_crop`` is left out where it is as torchvision's, so that cards written before it keep their fingerprints.
        """
        return self.model_dump(mode="json", exclude={"odd_crop"} if self.odd_crop == "round" else None)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop one image, exactly as torchvision's ``Resize`` and ``CenterCrop`` do to a Pillow image.

        With ``odd_crop="floor"``, as an image processor of transformers crops.

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
        if self.resize == "inner":
            image = _inner_square(image)
        height, width = self._resized_shape(*image.shape[:2])
        side = self.output_size
        if image.shape[:2] == (height, width) == (side, side):
            return np.ascontiguousarray(image)
        picture = Image.fromarray(np.ascontiguousarray(image))
        picture = picture.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if self.resize == "longest":
            square = np.zeros((side, side, 3), dtype=np.uint8)
            square[:height, :width] = np.asarray(picture)
            return square
        if (height, width) != (side, side):
            # Python rounds half a pixel to even, as torchvision does.
            place = round if self.odd_crop == "round" else math.floor
            top, left = place((height - side) / 2), place((width - side) / 2)
            picture = picture.crop((left, top, left + side, top + side))
        return np.asarray(picture)

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        if self.resize in {"squash", "inner"}:
            return self.size, self.size
        if self.resize == "longest":
            shorter = max(1, int(min(height, width) * self.size / max(height, width)))
            return (shorter, self.size) if height <= width else (self.size, shorter)
        # The longer side is truncated, not rounded: torchvision's rule.
        longer = int(self.size * max(height, width) / min(height, width))
        if longer * self.size > MAX_RESIZED_PIXELS:
            raise UnreadableImageError(
                f"An image of {width} x {height} pixels is too elongated to scale its shorter side to {self.size}.",
                remedy=f"Cut it into pieces or crop it, or quarantine it: {option('on_error', 'quarantine')}.",
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
        elif self.value_range == "standard":
            middle = pixels.mean((2, 3), keepdim=True)
            # A channel of one colour becomes 0. One pixel that is one grey level off gives more than a thousandth.
            spread = pixels.std((2, 3), correction=0, keepdim=True).clamp_(min=1e-3)
            pixels = pixels.sub_(middle).div_(spread)
        elif self.value_range == "percentile":
            bounds = torch.tensor((0.01, 0.99), device=batch.device)
            # Image by image: torch takes quantiles of 16 million values at the most.
            ends = torch.stack([torch.quantile(image.flatten(1), bounds, dim=1) for image in pixels])
            low, high = (each.view(-1, 3, 1, 1) for each in ends.unbind(1))
            # A channel of one colour becomes 0, as Cellpose has it.
            pixels = torch.where(high - low > 1e-3, (pixels - low) / (high - low).clamp(min=1e-3), 0)
        mean, std = (torch.tensor(values, device=batch.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)


def _inner_square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the central square of an image, placed as torchxrayvision's XRayCenterCrop places it."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = height // 2 - side // 2, width // 2 - side // 2
    return image[top : top + side, left : left + side]


@contextlib.contextmanager
def card_errors(name: str) -> Iterator[None]:
    """Turn the refusal of a card's or a preprocessing's fields into an error that names the encoder.

    Raises
    ------
    EncoderError
        In place of pydantic's ``ValidationError``.
    """
    try:
        yield
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or problem['type']}: {problem['msg']}"
            for problem in error.errors()
        )
        raise EncoderError(
            f"The card of {name!r} is not valid: {problems}.",
            remedy="Correct these fields: biofuse.encoders.EncoderCard and Preprocessing say what each may hold.",
        ) from error


RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
"""Pillow's numbers of its filters, which processors of transformers are written with."""

CLOSE = 1e-4
"""Relative difference below which two published means or standard deviations are the same number, rounded."""


def from_processor(config: Mapping[str, Any], *, name: str) -> Preprocessing:
    """Return the preprocessing that an image processor of transformers describes.

    What its file leaves out is as the processor's class has it: the same file means bilinear to ``ViTImageProcessor``
    and bicubic to ``BitImageProcessor``.

    Parameters
    ----------
    config : mapping
        The content of ``preprocessor_config.json``, in the present or the older style (``ViTFeatureExtractor``).
    name : str
        The encoder, for messages.

    Raises
    ------
    EncoderError
        If it does something that BioFuse's preprocessing does not, or leaves open what it does.
    """
    said = dict(config.get("image_processor") or config)
    kind = processor_class(said)
    full = _class_defaults(kind, name) | {key: value for key, value in said.items() if value is not None}
    if not full.get("do_resize", True) or full.get("do_pad", False):
        raise _cannot(name, "images that are padded, or not resized")
    shape = _as_convnext(full, name) if kind == CONVNEXT else _shape(full, name, kind)
    resample = _stated(full, "resample", name)
    if resample not in RESAMPLING:
        raise _cannot(name, f"the resampling filter {resample!r}")
    rescaled = full.get("do_rescale", True)
    if rescaled and not math.isclose(full.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=CLOSE):
        raise _cannot(name, f"pixel values multiplied by {full['rescale_factor']}")
    normalised = full.get("do_normalize", True)
    return _preprocessing(
        name,
        **shape,
        interpolation=RESAMPLING[resample],
        mean=_stated(full, "image_mean", name) if normalised else (0, 0, 0),
        std=_stated(full, "image_std", name) if normalised else (1, 1, 1),
        value_range="0-1" if rescaled else "0-255",
        # transformers.image_processing_backends, both backends: int((height - crop) / 2).
        odd_crop="round" if shape["crop"] is None else "floor",
    )


DEFAULTS = (
    "size",
    "default_to_square",
    "resample",
    "do_resize",
    "do_center_crop",
    "crop_size",
    "crop_pct",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
)
"""What the classes of image processors have as attributes, and files may leave out."""

STEPS = ("preprocess", "_preprocess", "_preprocess_image_like_inputs", "resize", "center_crop", "rescale", "normalize")
"""Methods of transformers' general image processor. A class with one of its own prepares images in its own way."""

CONVNEXT = "ConvNextImageProcessor"

AS_GENERAL = ("DINOv3ViTImageProcessor", "BeitImageProcessor", CONVNEXT)
"""Classes with steps of their own that come to the same: DINOv3's scales pixels before it resizes, BEiT's also prepares
label maps, and ConvNeXt's rule is :func:`_as_convnext`."""


def processor_class(config: Mapping[str, Any]) -> str:
    """Return the class of image processor that a file names, by its present name; empty where it names none."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    return kind.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")


def _class_defaults(kind: str, name: str) -> dict[str, Any]:
    """Return what an image processor of a class does where nothing is said, read from the installed transformers."""
    if not kind:
        return {}
    import transformers

    found = getattr(transformers, kind, None)
    general = getattr(transformers.image_processing_backends, "TorchvisionBackend", None)
    if found is None or general is None or not issubclass(found, general):
        raise _cannot(name, f"an image processor of the class {kind}, which transformers does not have")
    if kind not in AS_GENERAL and any(getattr(found, step, None) is not getattr(general, step, None) for step in STEPS):
        raise _cannot(name, f"what {kind} of transformers does in steps of its own")
    values = {field: getattr(found, field, None) for field in DEFAULTS}
    return {field: value for field, value in values.items() if value is not None}


def _stated(config: Mapping[str, Any], field: str, name: str) -> Any:
    if field not in config:
        raise _cannot(name, f"a file that states neither {field} nor a class that has one")
    return config[field]


def _shape(config: Mapping[str, Any], name: str, kind: str) -> dict[str, Any]:
    """Return resize, size and crop of transformers' general image processor."""
    # Without a class, a crop size says that there is a crop.
    crops = bool(config.get("do_center_crop", "crop_size" in config and not kind))
    square = config.get("default_to_square")
    resize, size = _resize(_stated(config, "size", name), name, square=None if square is None else bool(square))
    crop = _square(_stated(config, "crop_size", name), name) if crops else None
    if resize == "shortest" and crop is None:
        raise _cannot(name, "images of any aspect")
    return {"resize": resize, "size": size, "crop": None if crop == size and resize == "squash" else crop}


def _as_convnext(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return resize, size and crop as transformers.models.convnext: below 384 pixels, a share of the size is kept."""
    _, side = _resize(_stated(config, "size", name), name, square=False)
    if config.get("do_center_crop"):
        raise _cannot(name, "a second crop after ConvNeXt's own")
    if side >= 384:
        return {"resize": "squash", "size": side, "crop": None}
    return {"resize": "shortest", "size": int(side / _stated(config, "crop_pct", name)), "crop": side}


def from_open_clip(config: Mapping[str, Any], *, name: str, size: Any) -> Preprocessing:
    """Return the preprocessing that open_clip gives its models for inference.

    Parameters
    ----------
    config : mapping
        ``preprocess_cfg`` of ``open_clip_config.json``, or an entry of open_clip's own table.
    name : str
        The encoder, for messages.
    size : int
        Image size of the vision tower, for configurations that do not repeat it.

    Raises
    ------
    EncoderError
        If it does something that BioFuse's preprocessing does not.
    """
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    full = merge_preprocess_dict(PreprocessCfg(size=size), dict(config))
    side = _square(full["size"], name)
    if full["resize_mode"] not in {"shortest", "squash"} or full["mode"] != "RGB":
        raise _cannot(name, f"the resize mode {full['resize_mode']!r} of {full['mode']} images")
    squash = full["resize_mode"] == "squash"
    return _preprocessing(
        name,
        resize=full["resize_mode"],
        size=side,
        crop=None if squash else side,
        interpolation=full["interpolation"],
        mean=full["mean"],
        std=full["std"],
    )


def from_timm(config: Mapping[str, Any], *, name: str) -> Preprocessing:
    """Return the preprocessing that timm gives its models for inference.

    Parameters
    ----------
    config : mapping
        A pretrained configuration: ``input_size``, ``crop_pct``, ``crop_mode``, ``interpolation``, ``mean``, ``std``.
    name : str
        The encoder, for messages.

    Raises
    ------
    EncoderError
        If it does something that BioFuse's preprocessing does not.
    """
    channels, *sides = config["input_size"]
    side = _square(sides, name)
    # timm.data.transforms_factory.transforms_imagenet_eval: the size before the crop is rounded down.
    size = math.floor(side / (config.get("crop_pct") or 0.875))
    mode = config.get("crop_mode") or "center"
    if channels != 3 or mode not in {"center", "squash"}:
        raise _cannot(name, f"images of {channels} channels, cropped by {mode!r}")
    return _preprocessing(
        name,
        resize="squash" if mode == "squash" else "shortest",
        size=size,
        crop=None if mode == "squash" and size == side else side,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )


def differences(card: Preprocessing, file: Preprocessing) -> str:
    """Say in what a card and a model's own file differ, beyond rounded numbers; empty where they agree.

    Where an odd crop begins is not compared: no file says it, it is what the code does that reads the file.
    """
    found = [
        f"{field} is {theirs} there and {ours} on the card"
        for field, ours, theirs in (
            (field, getattr(card, field), getattr(file, field)) for field in Preprocessing.model_fields
        )
        if field != "odd_crop" and not _same(ours, theirs)
    ]
    return "; ".join(found)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, tuple):
        return all(math.isclose(one, other, rel_tol=CLOSE) for one, other in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


def _resize(size: Any, name: str, *, square: bool | None) -> tuple[str, int]:
    """Return how images are resized; ``square`` says what one number means, None that nobody does."""
    if isinstance(size, int):
        if square is None:
            raise _cannot(name, f"the size {size}, without the class that says whether images keep their aspect")
        return ("squash" if square else "shortest"), size
    if isinstance(size, Mapping) and {key for key, value in size.items() if value} == {"shortest_edge"}:
        return "shortest", int(size["shortest_edge"])
    return "squash", _square(size, name)


def _square(size: Any, name: str) -> int:
    sides = size if not isinstance(size, Mapping) else [size.get("height"), size.get("width")]
    sides = [sides] if isinstance(sides, int) else sides
    if not isinstance(sides, list | tuple) or len(set(sides)) != 1 or not isinstance(sides[0], int):
        raise _cannot(name, f"images of the size {size!r}")
    return sides[0]


def _preprocessing(name: str, **fields: Any) -> Preprocessing:
    with card_errors(name):
        return Preprocessing(**fields)


def _cannot(name: str, what: str) -> EncoderError:
    return EncoderError(
        f"{name} is published with a preprocessing that BioFuse does not have: {what}.",
        remedy="Write a card whose [preprocessing] does what its authors' code does, as docs/add-an-encoder.md says.",
    )
