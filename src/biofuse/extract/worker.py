"""What runs in a worker process: read, decode, resize, and encoders that need no device. Never imports torch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError, EncoderError, UnreadableImageError
from biofuse.data.decoding import DecodePolicy, content_hash, decode
from biofuse.data.samples import Source
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.encoders.protocol import Encoder
from biofuse.extract.stages import DECODE, FORWARD, READ, RESIZE, Stages


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Images to be prepared in one trip to a worker.

    Attributes
    ----------
    names : tuple of str
        The encoders that want them.
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

    names: tuple[str, ...]
    rows: tuple[int, ...]
    sources: tuple[Source, ...]
    contents: tuple[bytes, ...]
    decode: DecodePolicy
    resizes: dict[Any, Preprocessing]
    encoders: dict[str, Encoder]


@dataclass(kw_only=True)
class Prepared:
    """What comes back from a worker; everything refers to ``rows``, the positions that could be decoded."""

    names: tuple[str, ...] = ()
    rows: list[int] = field(default_factory=list)
    images: dict[Any, NDArray[np.uint8]] = field(default_factory=dict)
    embeddings: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    stages: Stages = field(default_factory=Stages)


@dataclass(kw_only=True)
class Outcome:
    """A batch that has been through all its encoders: what an engine hands over.

    Attributes
    ----------
    names : tuple of str
        The encoders that this batch was for.
    rows : list of int
        Positions, in the list of distinct contents, that could be decoded.
    embeddings : dict of str to ndarray of float32, shape (len(rows), dim)
        By encoder; empty where no row could be decoded.
    failures : dict of int to str
        Positions that could not be decoded, and why.
    stages : Stages
        The time it took.
    """

    names: tuple[str, ...]
    rows: list[int]
    embeddings: dict[str, NDArray[np.float32]]
    failures: dict[int, str]
    stages: Stages

    @classmethod
    def of(cls, prepared: Prepared, embeddings: dict[str, NDArray[np.float32]] | None = None) -> Self:
        """Join what a worker has computed and what a device has."""
        return cls(
            names=prepared.names,
            rows=prepared.rows,
            embeddings=prepared.embeddings | (embeddings or {}),
            failures=prepared.failures,
            stages=prepared.stages,
        )


def prepare(chunk: Chunk) -> Prepared:
    """Read and decode each image once, resize it for every specification, run the encoders that need no device."""
    result = Prepared(names=chunk.names)
    decoded: list[NDArray[np.uint8]] = []
    for row, source, content in zip(chunk.rows, chunk.sources, chunk.contents, strict=True):
        try:
            decoded.append(_decode(source, content, chunk.decode, result.stages))
        except UnreadableImageError as error:
            result.failures[row] = error.message
        else:
            result.rows.append(row)
    if not decoded:
        return result
    resized: dict[Any, NDArray[np.uint8]] = {}
    for key, preprocessing in chunk.resizes.items():
        resized[key] = _resize(decoded, preprocessing, result.stages)
        result.images[key] = resized[key]
    for name, encoder in chunk.encoders.items():
        key = encoder.card.preprocessing.resize_key
        if key not in resized:
            resized[key] = _resize(decoded, encoder.card.preprocessing, result.stages)
        with result.stages.processor(FORWARD, encoder=name):
            result.embeddings[name] = encode(encoder, resized[key])
    return result


def encode(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed a batch and refuse what no encoder may return.

    Raises
    ------
    EncoderError
        If it fails, the shape is not the card's, or a value is not finite.
    """
    with encoder_errors(encoder.card, len(images)):
        embeddings = np.asarray(encoder.encode(images), dtype=np.float32)
    return accept(encoder.card, embeddings, len(images))


@contextmanager
def encoder_errors(card: EncoderCard, n_images: int) -> Iterator[None]:
    """Name the encoder in whatever its code raises.

    Raises
    ------
    EncoderError
        In place of any error that is not BioFuse's own.
    """
    try:
        yield
    except BioFuseError:
        raise
    except Exception as error:
        raise EncoderError(
            f"Encoder {card.name} failed on a batch of {n_images} images: {type(error).__name__}: {error}",
            remedy="Run `biofuse encoders show` for its facts; for your own encoder, run its contract test.",
        ) from error


def accept(card: EncoderCard, embeddings: NDArray[np.float32], n_images: int) -> NDArray[np.float32]:
    """Return embeddings that have the card's shape and are finite.

    Raises
    ------
    EncoderError
        If they are not.
    """
    if embeddings.shape != (n_images, card.dim):
        raise EncoderError(
            f"Encoder {card.name} gave shape {embeddings.shape} for {n_images} images; "
            f"its card promises {card.dim} columns."
        )
    if not np.isfinite(embeddings).all():
        raise EncoderError(f"Encoder {card.name} gave values that are not finite.")
    return embeddings


def _resize(images: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing, stages: Stages) -> NDArray[np.uint8]:
    with stages.processor(RESIZE):
        return np.stack([preprocessing.apply(image) for image in images])


def _decode(source: Source, content: bytes, policy: DecodePolicy, stages: Stages) -> NDArray[np.uint8]:
    with stages.wall(READ):
        raw = source.read()
        same = content_hash(raw, policy) == content
    if not same:
        raise UnreadableImageError(f"{source.description} changed while it was being embedded.")
    with stages.processor(DECODE):
        return decode(raw, policy, description=source.description)
