"""What model files say about how images are prepared, in BioFuse's words.

Three formats: the image processors of transformers (``preprocessor_config.json``), open_clip's
``open_clip_config.json``, and timm's pretrained configurations. What cannot be said exactly in BioFuse's words is an
error, never an approximation.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biofuse.core.errors import EncoderError, HubUnreachableError
from biofuse.encoders.card import EncoderCard, card_errors
from biofuse.encoders.hub import HubFile, download, is_repository
from biofuse.encoders.preprocessing import Preprocessing

RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
"""Pillow's numbers of its filters, which processors of transformers are written with."""

CLOSE = 1e-4
"""Relative difference below which two published means or standard deviations are the same number, rounded."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises
    ------
    EncoderError
        If it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} is not a configuration file: {error}.", remedy="Download it again.") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path} is not a configuration file: it holds no object.", remedy="Download it again.")
    return content


def from_processor(config: Mapping[str, Any], *, name: str) -> Preprocessing:
    """Return the preprocessing that an image processor of transformers describes.

    Parameters
    ----------
    config : mapping
        The content of ``preprocessor_config.json``.
    name : str
        The encoder, for messages.

    Raises
    ------
    EncoderError
        If it does something that BioFuse's preprocessing does not.
    """
    config = config.get("image_processor") or config
    if not config.get("do_resize", True) or config.get("do_pad", False):
        raise _cannot(name, "images that are padded, or not resized")
    crops = bool(config.get("do_center_crop", "crop_size" in config))
    resize, size = _resize(config.get("size"), name)
    crop = _square(config.get("crop_size"), name) if crops else None
    if resize == "shortest" and crop is None:
        raise _cannot(name, "images of any aspect")
    resample = config.get("resample", 3)
    if resample not in RESAMPLING:
        raise _cannot(name, f"the resampling filter {resample!r}")
    rescaled = config.get("do_rescale", True)
    if rescaled and not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=CLOSE):
        raise _cannot(name, f"pixel values multiplied by {config['rescale_factor']}")
    normalised = config.get("do_normalize", True)
    if normalised and not ("image_mean" in config and "image_std" in config):
        raise _cannot(name, "a normalisation without image_mean and image_std")
    return _preprocessing(
        name,
        resize=resize,
        size=size,
        crop=None if crop == size and resize == "squash" else crop,
        interpolation=RESAMPLING[resample],
        mean=config["image_mean"] if normalised else (0, 0, 0),
        std=config["image_std"] if normalised else (1, 1, 1),
        value_range="0-1" if rescaled else "0-255",
    )


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


def check_published(card: EncoderCard) -> None:
    """Refuse a card that contradicts what the repository of its weights says about preparing images.

    Nothing is compared where the card names no such file, or it is neither in the hub's cache nor to be had.

    Raises
    ------
    EncoderError
        If they disagree.
    UnavailableWeightsError
        If the repository has no such file, or does not give it to this user.
    """
    weights = card.weights
    if weights is None or not weights.processor or not is_repository(weights.repository):
        return
    wanted = HubFile(
        repository=weights.repository,
        revision=weights.revision,
        file=weights.processor,
        encoder=card.name,
        title=card.title,
        page=card.page,
    )
    try:
        config = read_json(download(wanted))
    except HubUnreachableError:
        return
    if weights.processor.endswith("open_clip_config.json"):
        size = card.preprocessing.output_size
        published = from_open_clip(config.get("preprocess_cfg", {}), name=card.name, size=size)
    else:
        published = from_processor(config, name=card.name)
    different = _differences(card.preprocessing, published)
    if different:
        raise EncoderError(
            f"{weights.processor} of {weights.repository} disagrees with the card of {card.name}: {different}.",
            remedy="Correct the preprocessing on the card, or take processor off it if the authors say otherwise.",
        )


def _differences(card: Preprocessing, file: Preprocessing) -> str:
    found = [
        f"{field} is {theirs} there and {ours} on the card"
        for field, ours, theirs in (
            (field, getattr(card, field), getattr(file, field)) for field in Preprocessing.model_fields
        )
        if not _same(ours, theirs)
    ]
    return "; ".join(found)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, tuple):
        return all(math.isclose(one, other, rel_tol=CLOSE) for one, other in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


def _resize(size: Any, name: str) -> tuple[str, int]:
    if isinstance(size, int):
        return "shortest", size
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
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
        remedy="Register it under a name of its own, with the preprocessing that you find right.",
    )
