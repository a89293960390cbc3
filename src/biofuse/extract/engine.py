"""The local engine: decode each image once, run every encoder that has not seen it, keep the rows."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DiskError, EncoderError, UnreadableImageError
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.protocol import Encoder
from biofuse.encoders.registry import load_encoder
from biofuse.extract.contents import HashedSamples, hash_samples
from biofuse.extract.options import ExtractOptions, choose_device
from biofuse.extract.pool import prepare_all
from biofuse.extract.progress import Progress, Silent
from biofuse.extract.worker import Chunk, Prepared, encode
from biofuse.extract.writer import RowBuffer
from biofuse.store.parts import Contents
from biofuse.store.store import EmbeddingStore, EncoderFolder

NAMED_FAILURES = 5
"""Unreadable files named in an error; `biofuse check` lists them all."""


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A sample set aside because its image cannot be read."""

    id: str
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EncoderWork:
    """What was done for one encoder, in distinct images."""

    encoder: str
    computed: int
    reused: int
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Extraction:
    """Outcome of an extraction: every readable sample has an embedding under every encoder.

    Attributes
    ----------
    samples : Samples
        The readable samples, in the order given.
    contents : ndarray of S16, shape (len(samples),)
        Their content hashes.
    quarantined : tuple of Quarantined
    work : tuple of EncoderWork
        In pool order.
    healed : tuple of str
        Parts that failed their checksum and whose rows were computed again.
    seconds : float
        Wall time of the whole extraction.
    """

    samples: Samples
    contents: Contents
    quarantined: tuple[Quarantined, ...]
    work: tuple[EncoderWork, ...]
    healed: tuple[str, ...]
    seconds: float

    @property
    def computed(self) -> int:
        """Embeddings computed now; zero when the store already had them all."""
        return sum(work.computed for work in self.work)


def extract(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Make sure that the store holds every encoder's embedding of every sample.

    Parameters
    ----------
    samples : Samples
    cards : sequence of EncoderCard
        The pool, pinned (:func:`biofuse.encoders.pin`): a card that leaves open which weights it means is refused.
    store : EmbeddingStore
    options : ExtractOptions, optional
    progress : Progress, optional

    Returns
    -------
    Extraction

    Raises
    ------
    UnreadableImageError
        If an image cannot be read and ``options.on_error`` is ``"error"``; finished embeddings are kept.
    DiskError
        If the store cannot be written to.
    EncoderError
        If an encoder cannot be loaded or does not keep its card's promises.
    """
    start = time.perf_counter()
    options = options or ExtractOptions()
    progress = progress or Silent()
    hashed = hash_samples(samples, progress=progress)
    if options.on_error == "error":
        _refuse(hashed.reasons)
    job = _plan(hashed, cards, store)
    if job.todo:
        store.check_writable()
        _Run(job, samples, options, progress).run()
    reasons = _all_reasons(hashed, job)
    if options.on_error == "error":
        _refuse(reasons)
    keep = np.array([row not in reasons for row in range(len(samples))], dtype=bool)
    return Extraction(
        samples=samples.take(keep),
        contents=hashed.contents[keep],
        quarantined=tuple(
            Quarantined(id=str(samples.ids[row]), source=samples.sources[row].description, reason=reason)
            for row, reason in sorted(reasons.items())
        ),
        work=tuple(job.summary(card.name) for card in cards),
        healed=tuple(job.healed),
        seconds=time.perf_counter() - start,
    )


@dataclass(kw_only=True)
class _Job:
    """Distinct contents, and which encoder still lacks which of them."""

    cards: dict[str, EncoderCard]
    folders: dict[str, EncoderFolder]
    contents: Contents
    rows: NDArray[np.int64]
    missing: dict[str, NDArray[np.bool_]]
    healed: list[str]
    failures: dict[int, str] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def todo(self) -> dict[str, int]:
        """Number of images each encoder has yet to see."""
        counts = {name: int(mask.sum()) for name, mask in self.missing.items()}
        return {name: count for name, count in counts.items() if count}

    def summary(self, name: str) -> EncoderWork:
        missing = int(self.missing[name].sum())
        return EncoderWork(
            encoder=name,
            computed=self.computed.get(name, 0),
            reused=len(self.contents) - missing,
            seconds=self.seconds.get(name, 0.0),
        )


def _plan(hashed: HashedSamples, cards: Sequence[EncoderCard], store: EmbeddingStore) -> _Job:
    readable = np.flatnonzero(hashed.readable)
    contents, first = np.unique(hashed.contents[readable], return_index=True)
    # The table's own order keeps parts in reading order, which later makes a block one run of memory.
    order = np.argsort(first, kind="stable")
    contents, rows = contents[order], readable[first[order]]
    folders = {card.name: store.open(card) for card in cards}
    healed = [str(path) for folder in folders.values() for path in folder.check()]
    return _Job(
        cards={card.name: card for card in cards},
        folders=folders,
        contents=contents,
        rows=rows.astype(np.int64),
        missing={name: folder.missing(contents) for name, folder in folders.items()},
        healed=healed,
    )


class _Run:
    """One pass over the images that some encoder lacks."""

    def __init__(self, job: _Job, samples: Samples, options: ExtractOptions, progress: Progress) -> None:
        self.job = job
        self.samples = samples
        self.options = options
        self.progress = progress
        device = "cpu"
        if any(job.cards[name].runtime == "torch" for name in job.todo):
            device = choose_device(options.device)
        self.encoders: dict[str, Encoder] = {name: _load(job.cards[name], device, options) for name in job.todo}
        self.buffers = {
            name: RowBuffer(job.folders[name], max_rows=options.part_rows, max_seconds=options.part_seconds)
            for name in job.todo
        }

    def run(self) -> None:
        todo = self.job.todo
        for name, count in todo.items():
            self.progress.begin(name, count)
        workers = self.options.n_workers(max(todo.values()))
        try:
            for chunk, prepared in self._prepared(workers):
                self._take(chunk, prepared)
        except DiskError:
            raise  # What is still in memory cannot be written either.
        except BaseException:
            self._flush()  # A stop by the user, or one bad image, must not lose what is finished.
            raise
        self._flush()

    def _flush(self) -> None:
        for buffer in self.buffers.values():
            buffer.flush()

    def _prepared(self, workers: int) -> Iterator[tuple[tuple[str, ...], Prepared]]:
        plan = list(self._batches())
        chunks = (self._chunk(names, rows) for names, rows in plan)
        yield from zip((names for names, _ in plan), prepare_all(chunks, workers=workers), strict=True)

    def _batches(self) -> Iterator[tuple[tuple[str, ...], list[int]]]:
        """Group images that the same encoders lack, so that each is decoded once for all of them."""
        groups: dict[tuple[str, ...], list[int]] = {}
        masks = {name: self.job.missing[name] for name in self.encoders}
        for row in range(len(self.job.contents)):
            names = tuple(name for name, mask in masks.items() if mask[row])
            if names:
                groups.setdefault(names, []).append(row)
        size = self.options.batch_size
        for names, rows in groups.items():
            yield from ((names, rows[start : start + size]) for start in range(0, len(rows), size))

    def _chunk(self, names: tuple[str, ...], rows: list[int]) -> Chunk:
        on_device = [self.encoders[name].card for name in names if self.encoders[name].card.runtime == "torch"]
        raw = self.job.contents[rows].tobytes()
        width = self.job.contents.dtype.itemsize
        return Chunk(
            rows=tuple(rows),
            sources=tuple(self.samples.sources[self.job.rows[row]] for row in rows),
            contents=tuple(raw[start : start + width] for start in range(0, len(raw), width)),
            decode=self.samples.decode,
            resizes={card.preprocessing.resize_key: card.preprocessing for card in on_device},
            encoders={name: self.encoders[name] for name in names if self.encoders[name].card.runtime == "numpy"},
        )

    def _take(self, names: tuple[str, ...], prepared: Prepared) -> None:
        self.job.failures |= prepared.failures
        if self.options.on_error == "error" and prepared.failures:
            _refuse(prepared.failures)
        for name in names:
            if prepared.rows:
                self._keep(name, prepared)
            self.progress.advance(name, len(prepared.rows) + len(prepared.failures))

    def _keep(self, name: str, prepared: Prepared) -> None:
        embeddings = prepared.embeddings.get(name)
        seconds = prepared.seconds.get(name, 0.0)
        if embeddings is None:
            encoder = self.encoders[name]
            start = time.perf_counter()
            embeddings = encode(encoder, prepared.images[encoder.card.preprocessing.resize_key])
            seconds = time.perf_counter() - start
        self.buffers[name].add(self.job.contents[prepared.rows], embeddings)
        self.job.computed[name] = self.job.computed.get(name, 0) + len(embeddings)
        self.job.seconds[name] = self.job.seconds.get(name, 0.0) + seconds


def _load(card: EncoderCard, device: str, options: ExtractOptions) -> Encoder:
    """Load an encoder, and refuse one whose embeddings would belong in another folder of the store."""
    encoder = load_encoder(card, device=device, weights_path=options.weights_of(card))
    if encoder.card.fingerprint() != card.fingerprint():
        raise EncoderError(
            f"{card.name} was loaded from other weights than its card names, or its card names none in particular.",
            remedy="Put the file's hash on the card: biofuse.encoders.pin(card), or Weights(..., sha256=...).",
        )
    return encoder


def _all_reasons(hashed: HashedSamples, job: _Job) -> dict[int, str]:
    """Give every sample that shares an undecodable content its reason, not only the one that was tried."""
    reasons = dict(hashed.reasons)
    for row, why in job.failures.items():
        same = np.flatnonzero(hashed.readable & (hashed.contents == job.contents[row]))
        reasons |= {int(sample): why for sample in same}
    return reasons


def _refuse(reasons: dict[int, str]) -> None:
    if not reasons:
        return
    shown = [reasons[row] for row in sorted(reasons)[:NAMED_FAILURES]]
    more = f"\n... and {len(reasons) - NAMED_FAILURES} more." if len(reasons) > NAMED_FAILURES else ""
    raise UnreadableImageError(
        "\n".join(shown) + more,
        remedy="Repair or remove the file(s), or set them aside with --on-error quarantine "
        "(on_error='quarantine' in Python).",
    )
