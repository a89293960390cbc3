"""The contract test that the author of an encoder runs, and that BioFuse runs on its own."""

from pathlib import Path
from typing import Any

import numpy as np

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.checks import check_encoder, probe_images, tolerance
from biofuse.encoders.protocol import Encoder, UInt8Images
from biofuse.encoders.registry import load_encoder


def assert_encoder_contract(
    encoder: str | EncoderCard | Encoder,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    weights_path: Path | None = None,
) -> None:
    """Fail unless an encoder keeps every promise that the rest of BioFuse relies on.

    Parameters
    ----------
    encoder : str, EncoderCard or Encoder
        A registered name, a card, or an encoder already loaded.
    device, precision, weights_path
        How to load it, as in :func:`biofuse.encoders.load_encoder`.

    Raises
    ------
    AssertionError
        If a promise is broken; the message says which.
    BioFuseError
        If the encoder cannot be loaded at all.
    """
    if isinstance(encoder, str | EncoderCard):
        loaded = load_encoder(encoder, device=device, precision=precision, weights_path=weights_path)
    else:
        loaded = encoder
    try:
        check_encoder(loaded)
    except EncoderError as error:
        raise AssertionError(str(error)) from error
    _card_is_complete(loaded.card)
    _any_image_can_be_embedded(loaded)
    _rows_are_independent(loaded)
    _bad_batches_are_refused(loaded)
    if loaded.card.runtime == "numpy":
        _travels_to_workers(loaded)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _card_is_complete(card: EncoderCard) -> None:
    again = EncoderCard.model_validate_json(card.model_dump_json())
    _require(again == card, f"{card.name}: the card does not survive JSON.")
    _require(again.fingerprint() == card.fingerprint(), f"{card.name}: the fingerprint does not survive JSON.")
    for field in ("title", "licence", "source", "modality"):
        _require(bool(getattr(card, field)), f"{card.name}: the card has no {field}.")
    if card.weights is not None:
        _require(card.weights.sha256 is not None, f"{card.name}: the hash of the weights is not on the card.")


def _odd_images() -> list[UInt8Images]:
    noise: UInt8Images = np.random.default_rng(0).integers(0, 256, (37, 81, 3), dtype=np.uint8)
    flat = [np.full((1, 1, 3), level, np.uint8) for level in (0, 127, 255)]
    return [noise, np.ascontiguousarray(noise.swapaxes(0, 1)), noise[:1], noise[:, :1], *flat]


def _any_image_can_be_embedded(encoder: Encoder) -> None:
    card = encoder.card
    side = card.preprocessing.output_size
    batch: UInt8Images = np.stack([card.preprocessing.apply(image) for image in _odd_images()])
    _require(batch.shape[1:] == (side, side, 3), f"{card.name}: preprocessing gives {batch.shape[1:]}.")
    batch.flags.writeable = False
    embeddings = encoder.encode(batch)
    _require(
        isinstance(embeddings, np.ndarray)
        and embeddings.dtype == np.float32
        and embeddings.shape == (len(batch), card.dim),
        f"{card.name}: embeddings are not float32 of shape (n, {card.dim}).",
    )
    _require(bool(np.isfinite(embeddings).all()), f"{card.name}: a constant or tiny image gives NaN or infinity.")
    _require(encoder.encode(batch[:0]).shape == (0, card.dim), f"{card.name}: an empty batch must give no rows.")


def _rows_are_independent(encoder: Encoder) -> None:
    name = encoder.card.name
    images = probe_images(encoder.card.preprocessing.output_size)
    before = images.copy()
    first = encoder.encode(images)
    _require(np.array_equal(images, before), f"{name}: encode changes the images it is given.")
    allowed = tolerance(encoder) * float(np.abs(first).max())
    _require(
        bool(np.abs(encoder.encode(images) - first).max() <= allowed), f"{name}: the same images give other embeddings."
    )
    _require(
        bool(np.abs(encoder.encode(images[::-1])[::-1] - first).max() <= allowed),
        f"{name}: the order of the images changes their embeddings.",
    )


def _bad_batches_are_refused(encoder: Encoder) -> None:
    images = probe_images(encoder.card.preprocessing.output_size)
    wrong: list[Any] = [images.astype(np.float32), images[0], images[:, 1:], images[..., :1]]
    for bad in wrong:
        try:
            encoder.encode(bad)
        except EncoderError:
            continue
        raise AssertionError(f"{encoder.card.name}: a batch of {bad.dtype} {bad.shape} must raise an EncoderError.")


def _travels_to_workers(encoder: Encoder) -> None:
    import pickle

    import cloudpickle  # type: ignore[import-untyped]

    images = probe_images(encoder.card.preprocessing.output_size)
    there = pickle.loads(cloudpickle.dumps(encoder))  # noqa: S301 - our own bytes, as a worker process receives them
    _require(
        np.array_equal(there.encode(images), encoder.encode(images)),
        f"{encoder.card.name}: embeds differently in a worker process.",
    )
