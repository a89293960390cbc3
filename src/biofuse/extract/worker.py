"""What runs in a worker process: read, decode, resize, and encoders that need no device. Never imports torch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError, EncoderError, UnreadableImageError
from biofuse.data.decoding import DecodePolicy, content_hash, decode
from biofuse.data.samples import Source
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.encoders.protocol import Encoder


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Images to be prepared in one trip to a worker.

    Attributes
    ----------
    rows : tuple of int
        Positions in the list of distinct contents.
    sources : tuple of Source
    contents : tuple of bytes
        Content hashes found when the work was planned.
    decode : DecodePolicy
    resizes : dict of key to Preprocessing
        The distinct resize specifications that device encoders need.
    encoders : dict of name to Encoder
        Encoders that run right here.
    """

    rows: tuple[int, ...]
    sources: tuple[Source, ...]
    contents: tuple[bytes, ...]
    decode: DecodePolicy
    resizes: dict[Any, Preprocessing]
    encoders: dict[str, Encoder]


@dataclass(kw_only=True)
class Prepared:
    """What comes back: everything refers to ``rows``, the positions that could be decoded; seconds are per encoder."""

    rows: list[int] = field(default_factory=list)
    images: dict[Any, NDArray[np.uint8]] = field(default_factory=dict)
    embeddings: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def prepare(chunk: Chunk) -> Prepared:
    """Read and decode each image once, resize it for every specification, run the encoders that need no device."""
    result = Prepared()
    decoded: list[NDArray[np.uint8]] = []
    for row, source, content in zip(chunk.rows, chunk.sources, chunk.contents, strict=True):
        try:
            decoded.append(_decode(source, content, chunk.decode))
        except UnreadableImageError as error:
            result.failures[row] = error.message
        else:
            result.rows.append(row)
    if not decoded:
        return result
    resized: dict[Any, NDArray[np.uint8]] = {}
    for key, preprocessing in chunk.resizes.items():
        resized[key] = _resize(decoded, preprocessing)
        result.images[key] = resized[key]
    for name, encoder in chunk.encoders.items():
        key = encoder.card.preprocessing.resize_key
        if key not in resized:
            resized[key] = _resize(decoded, encoder.card.preprocessing)
        start = time.perf_counter()
        result.embeddings[name] = encode(encoder, resized[key])
        result.seconds[name] = time.perf_counter() - start
    return result


def encode(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed a batch and refuse what no encoder may return.

    Raises
    ------
    EncoderError
        If the shape is not the card's, or a value is not finite.
    """
    try:
        embeddings = np.asarray(encoder.encode(images), dtype=np.float32)
    except BioFuseError:
        raise
    except Exception as error:
        raise EncoderError(
            f"Encoder {encoder.card.name} failed on a batch of {len(images)} images: {type(error).__name__}: {error}",
            remedy="Run `biofuse encoders show` for its facts; for your own encoder, run its contract test.",
        ) from error
    if embeddings.shape != (len(images), encoder.card.dim):
        raise EncoderError(
            f"Encoder {encoder.card.name} gave shape {embeddings.shape} for {len(images)} images; "
            f"its card promises {encoder.card.dim} columns."
        )
    if not np.isfinite(embeddings).all():
        raise EncoderError(f"Encoder {encoder.card.name} gave values that are not finite.")
    return embeddings


def _resize(images: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.stack([preprocessing.apply(image) for image in images])


def _decode(source: Source, content: bytes, policy: DecodePolicy) -> NDArray[np.uint8]:
    raw = source.read()
    if content_hash(raw, policy) != content:
        raise UnreadableImageError(f"{source.description} changed while it was being embedded.")
    return decode(raw, policy, description=source.description)
