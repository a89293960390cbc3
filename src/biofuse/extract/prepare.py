"""Images prepared for encoders: decoded and resized in worker processes; and where the time goes, stage by stage."""

import math
import mmap
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import PicklingError
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import BioFuseError, EncoderError, UnreadableImageError, option
from biofuse.core.machine import exit_with_parent, workers_ignore_interrupts
from biofuse.data.cuts import Cut, Source
from biofuse.data.decoding import DecodePolicy, Remarks, content_hash, decode_with_facts
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.encoder import Encoder
from biofuse.encoders.preprocessing import Preprocessing

READ, DECODE, RESIZE, TRANSFER, FORWARD, WRITE = STAGES = ("read", "decode", "resize", "transfer", "forward", "write")
"""Files read and hashed; bytes to pixels; pixels to an encoder's size; host to device; networks; embeddings to disk."""


class Stages:
    """Seconds spent in each stage, summed over everything that worked on it at the same time.

    Reading, transfer and writing count as long as they take, since they wait for something else than a processor; so do
    forward passes on an accelerator. Decoding, resizing and forward passes on a CPU count processor time, since they
    share the cores with one another.
    """

    def __init__(self, seconds: Mapping[tuple[str, str], float] | None = None) -> None:
        self._seconds: dict[tuple[str, str], float] = dict(seconds or {})
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[tuple[str, str], float]:
        return self._seconds

    def __setstate__(self, state: dict[tuple[str, str], float]) -> None:
        self._seconds = state
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float, *, encoder: str = "") -> None:
        """Count time; forward passes are told apart by encoder."""
        with self._lock:
            self._seconds[stage, encoder] = self._seconds.get((stage, encoder), 0.0) + seconds

    def wall(self, stage: str, *, encoder: str = "") -> AbstractContextManager[None]:
        """Count as long as the context lasts."""
        return self._counting(time.perf_counter, stage, encoder)

    def processor(self, stage: str, *, encoder: str = "") -> AbstractContextManager[None]:
        """Count the processor time that this thread takes while the context lasts."""
        return self._counting(time.thread_time, stage, encoder)

    @contextmanager
    def _counting(self, clock: Callable[[], float], stage: str, encoder: str) -> Iterator[None]:
        start = clock()
        try:
            yield
        finally:
            self.add(stage, clock() - start, encoder=encoder)

    def merge(self, other: "Stages") -> None:
        """Add what another has counted."""
        for (stage, encoder), seconds in list(other._seconds.items()):
            self.add(stage, seconds, encoder=encoder)

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self._seconds.values())

    def seconds(self, stage: str) -> float:
        """Return the seconds of one stage, over all encoders."""
        return sum(value for (name, _), value in self._seconds.items() if name == stage)

    def by_encoder(self) -> dict[str, float]:
        """Return the seconds of each encoder's forward passes."""
        return {encoder: value for (stage, encoder), value in self._seconds.items() if stage == FORWARD and encoder}

    def to_json(self) -> dict[str, object]:
        """Return seconds by stage, and those of forward passes by encoder."""
        return {
            "seconds": {stage: round(self.seconds(stage), 3) for stage in STAGES},
            "forward": {encoder: round(value, 3) for encoder, value in self.by_encoder().items()},
        }

    def sentence(self) -> str:
        """Name the slowest stage and the shares of all; empty where nothing was counted."""
        if self.total <= 0:
            return ""
        order = sorted((stage for stage in STAGES if self.seconds(stage) > 0), key=self.seconds, reverse=True)
        shares = {stage: self.seconds(stage) / self.total for stage in order}
        first, *others = order
        forward = self.by_encoder()
        which = ""
        if first == FORWARD and forward:
            most = max(forward, key=lambda name: forward[name])
            which = f" ({most} alone {forward[most] / self.total:.0%})"
        rest = "; ".join(f"{stage} {shares[stage]:.0%}" for stage in others)
        said = f"Slowest stage: {first}, {shares[first]:.0%} of {self.total:,.1f} s of work{which}"
        return f"{said}; {rest}." if rest else f"{said}."


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
    place : Place or None
        Memory shared with the process that asks, for the images that device encoders need.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    sources: tuple[Source, ...]
    contents: tuple[bytes, ...]
    decode: DecodePolicy
    resizes: dict[Any, Preprocessing]
    encoders: dict[str, Encoder]
    place: "Place | None" = None

    @property
    def shapes(self) -> dict[Any, tuple[int, ...]]:
        """Of the images for each resize specification, if all of them can be decoded."""
        sides = {key: each.output_size for key, each in self.resizes.items()}
        return {key: (len(self.rows), side, side, 3) for key, side in sides.items()}

    @property
    def n_bytes(self) -> int:
        """Of the images for the device encoders."""
        return sum(math.prod(shape) for shape in self.shapes.values())


@dataclass(kw_only=True)
class Batch:
    """Images on their way through the encoders.

    Attributes
    ----------
    names : tuple of str
        The encoders that want them.
    rows : list of int
        Positions, in the list of distinct contents, that could be decoded; images and embeddings are in this order.
    images : dict of key to ndarray of uint8
        By resize specification, for the encoders that need a device.
    embeddings : dict of str to ndarray of float32, shape (len(rows), dim)
        By encoder, as far as they have been computed.
    failures : dict of int to UnreadableImageError
        Positions that could not be decoded, and why.
    stages : Stages
        The time it took so far.
    placed : bool
        Whether the images lie in the chunk's place, one specification behind the other, and did not come along.
    remarks : Remarks
        What a person should hear of the images.
    """

    names: tuple[str, ...] = ()
    rows: list[int] = field(default_factory=list)
    images: dict[Any, NDArray[np.uint8]] = field(default_factory=dict)
    embeddings: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    failures: dict[int, UnreadableImageError] = field(default_factory=dict)
    stages: Stages = field(default_factory=Stages)
    placed: bool = False
    remarks: Remarks = field(default_factory=Remarks)

    def finished(self, embeddings: dict[str, NDArray[np.float32]]) -> Self:
        """Return the batch with what a device has computed, and without images."""
        return replace(self, images={}, embeddings=self.embeddings | embeddings)


def prepare(chunk: Chunk) -> Batch:
    """Read and decode each image once, resize it for every specification, run the encoders that need no device."""
    result = Batch(names=chunk.names)
    decoded: list[NDArray[np.uint8]] = []
    for row, source, content in zip(chunk.rows, chunk.sources, chunk.contents, strict=True):
        try:
            decoded.append(_decode(source, content, chunk.decode, result))
        except UnreadableImageError as error:
            result.failures[row] = error
        else:
            result.rows.append(row)
    if not decoded:
        return result
    resized: dict[Any, NDArray[np.uint8]] = {}
    memory = None if chunk.place is None else chunk.place.memory()
    places = {} if memory is None else _arrays(memory, chunk.shapes)
    result.placed = bool(places)
    for key, preprocessing in chunk.resizes.items():
        out = places[key][: len(decoded)] if places else None
        resized[key] = _resize(decoded, preprocessing, result.stages, out=out)
        if not places:
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


def _resize(
    images: Sequence[NDArray[np.uint8]],
    preprocessing: Preprocessing,
    stages: Stages,
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    with stages.processor(RESIZE):
        return np.stack([preprocessing.apply(image) for image in images], out=out)


def _decode(source: Source, content: bytes, policy: DecodePolicy, batch: Batch) -> NDArray[np.uint8]:
    with batch.stages.wall(READ):
        raw = source.read()  # of an image cut from a file, it refuses one that was written to
        same = isinstance(source, Cut) or content_hash(raw, policy) == content
    if not same:
        raise UnreadableImageError(f"{source.description} changed while it was being embedded.")
    with batch.stages.processor(DECODE):
        image, facts = decode_with_facts(raw, policy, description=source.description)
    batch.remarks.add(content, source.description, facts)
    return image


def _start_worker(parent: int, folder: str) -> None:
    exit_with_parent(parent)
    os.chdir(folder)  # an argument, so that workers that were started in another one are not used again
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it names no file; Remarks do


BATCHES_PER_WORKER = 2
"""Batches held ready per worker, so that memory does not grow when the device is slower than decoding."""

SPARE = 4
"""Batches in shared memory beyond twice those held ready, which leaves room for those that are computed. Where there
are more, they come through a pipe."""

THREADS_ENV = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Workers share the cores among themselves; threads inside them would only compete."""

MEMORY_ENV = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(256 << 20))
"""A worker keeps the memory of one image for the next; glibc would give it back and have it filled with zeros anew."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in the memory of another process images are to be put.

    Attributes
    ----------
    path : str
        Of that memory, as long as the process has it open.
    token : int
        Tells it from memory that had the same path before.
    begin, size : int
        Bytes.
    """

    path: str
    token: int
    begin: int
    size: int

    def memory(self) -> NDArray[np.uint8] | None:
        """Return the memory, for as long as the array is held; None where it cannot be opened, or is gone."""
        try:
            with Path(self.path).open("r+b") as file:
                if os.fstat(file.fileno()).st_ino != self.token:
                    return None
                return np.frombuffer(mmap.mmap(file.fileno(), self.size, offset=self.begin), np.uint8)
        except OSError:
            return None


def _arrays(memory: NDArray[np.uint8], shapes: Mapping[Any, tuple[int, ...]]) -> dict[Any, NDArray[np.uint8]]:
    """Cut memory into arrays of these shapes, one behind the other."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()]).tolist()
    return {
        key: memory[end - math.prod(shape) : end].reshape(shape)
        for end, (key, shape) in zip(ends, shapes.items(), strict=True)
    }


class SharedMemory:
    """Memory that worker processes write images into, in slots of one size; a slot is free again when nobody has it.

    Through a pipe, images would be copied four times, most of them while this process can do nothing else. The memory
    has no name in any file system, so that nothing is left behind however the process ends. Linux only.

    Parameters
    ----------
    slots : int
    size : int
        Bytes of a slot.
    """

    def __init__(self, slots: int, size: int) -> None:
        size += -size % mmap.ALLOCATIONGRANULARITY
        self._file = os.memfd_create("biofuse-images")
        os.ftruncate(self._file, slots * size)
        self._token = os.fstat(self._file).st_ino
        self._memory = mmap.mmap(self._file, slots * size)
        self._size = size
        self._free = list(range(slots))

    @classmethod
    def of(cls, chunk: Chunk, *, slots: int) -> Self | None:
        """Return memory for so many chunks like this one; None where there is no need of it, or no such thing."""
        if not chunk.n_bytes or not hasattr(os, "memfd_create") or not Path("/proc/self/fd").is_dir():
            return None
        return cls(slots, chunk.n_bytes)

    def place(self, chunk: Chunk) -> Place | None:
        """Take a slot for the images of a chunk; None where there is none, or it is too small."""
        if not self._free or not 0 < chunk.n_bytes <= self._size:
            return None
        path = f"/proc/{os.getpid()}/fd/{self._file}"
        return Place(path=path, token=self._token, begin=self._free.pop() * self._size, size=chunk.n_bytes)

    def fetch(self, chunk: Chunk, batch: Batch) -> Batch:
        """Give a batch the images that a worker has put into the chunk's place, which is theirs until they are gone."""
        place = chunk.place
        if place is None:
            return batch
        # What is made of an array holds on to it, and so to its slot.
        whole = np.frombuffer(self._memory, np.uint8, place.size, place.begin)
        weakref.finalize(whole, self._free.append, place.begin // self._size).atexit = False
        if not batch.placed:
            return batch
        images = {key: array[: len(batch.rows)] for key, array in _arrays(whole, chunk.shapes).items()}
        return replace(batch, images=images, placed=False)

    def close(self) -> None:
        """Give the memory back as soon as the last image is gone."""
        os.close(self._file)


class Decoder:
    """Prepares chunks in order, in this process (``workers=0``) or ahead of time in worker processes or threads.

    loky starts its processes afresh (nothing is forked after a device runtime has started), without importing the
    user's script again and with functions defined in a notebook sent along. A context manager and an iterable.

    Parameters
    ----------
    chunks : iterable of Chunk
    workers : int
    threads : bool, default False
        Whether they are threads of this process: started at once, and quick where little but reading, decoding and
        resizing is to be done, during which other threads can run.
    """

    def __init__(self, chunks: Iterable[Chunk], *, workers: int, threads: bool = False) -> None:
        self._chunks = iter(chunks)
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, "biofuse-decoder") if threads and workers else None
        self._pending: deque[tuple[Chunk, Future[Batch]]] = deque()
        self._memory: SharedMemory | None = None

    def __enter__(self) -> Self:
        """Start the workers on the first chunks: before the caller loads networks onto a device."""
        self._fill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        if self._memory is not None:
            self._memory.close()

    def __iter__(self) -> Iterator[Batch]:
        """Yield what is ready, in order.

        Raises
        ------
        BioFuseError
            If a worker process dies, which usually means that memory ran out, or what it needs cannot be sent to it.
        """
        if self._workers == 0:
            yield from map(prepare, self._chunks)
            return
        while self._pending:
            with nullcontext() if self._threads is not None else worker_errors():
                chunk, future = self._pending.popleft()
                prepared = future.result()
                if self._memory is not None:
                    prepared = self._memory.fetch(chunk, prepared)
                self._fill()
            yield prepared

    def _fill(self) -> None:
        if self._workers == 0:
            return
        if self._threads is not None:
            while (chunk := self._next()) is not None:
                self._pending.append((chunk, self._threads.submit(prepare, chunk)))
            return
        from loky import get_reusable_executor

        with worker_errors():
            executor = get_reusable_executor(
                max_workers=self._workers,
                env=THREADS_ENV | MEMORY_ENV,
                initializer=_start_worker,
                initargs=(os.getpid(), os.getcwd()),  # noqa: PTH109
            )
            while (chunk := self._next()) is not None:
                chunk = self._placed(chunk)
                with workers_ignore_interrupts():  # workers start when there is something to do
                    self._pending.append((chunk, executor.submit(prepare, chunk)))

    def _next(self) -> Chunk | None:
        """Return the next chunk that is to be prepared; None where there is none, or enough is held ready."""
        return next(self._chunks, None) if len(self._pending) < BATCHES_PER_WORKER * self._workers else None

    def _placed(self, chunk: Chunk) -> Chunk:
        """Give a chunk a place for its images; those of the first are as many as there will be in one."""
        if self._memory is None and not self._pending:
            self._memory = SharedMemory.of(chunk, slots=2 * BATCHES_PER_WORKER * self._workers + SPARE)
        place = None if self._memory is None else self._memory.place(chunk)
        return chunk if place is None else replace(chunk, place=place)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Say what it means that a worker process is gone, or could not be sent its work.

    Raises
    ------
    BioFuseError
        In place of loky's errors.
    """
    from loky.process_executor import BrokenProcessPool, TerminatedWorkerError

    try:
        yield
    except TerminatedWorkerError as error:
        raise BioFuseError(
            "A worker process that decodes images was killed, most likely because memory ran out.",
            remedy=f"Use fewer workers: {option('workers', 1)}; or a smaller {option('batch_size')}. Finished "
            "embeddings are kept.",
        ) from error
    except (BrokenProcessPool, PicklingError) as error:
        raise BioFuseError(
            f"An encoder or an image source cannot be sent to a worker process: {error.__cause__ or error}",
            remedy=f"Do everything in one process: {option('workers', 0)}.",
        ) from error
