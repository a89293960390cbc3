"""Extraction: what the store lacks of a table of samples is computed and written, then all of it is read."""

import contextlib
import importlib
import mmap
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError, DiskError, UnreadableImageError, option
from biofuse.core.hashing import CONTENT_BYTES, Contents
from biofuse.core.machine import exit_with_parent, keep_freed_memory, workers_ignore_interrupts
from biofuse.core.progress import Progress, Silent, Tell, duration, progress_bars
from biofuse.data.decoding import DecodePolicy, Remarks
from biofuse.data.samples import Samples, contents_of_images, hash_samples, refuse_unreadable
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.doctor import available, pinned_here
from biofuse.encoders.function import Builders, pack_builders
from biofuse.extract.embeddings import EmbeddingSet, EncoderWork, Quarantined, reader_of
from biofuse.extract.local import Sink, devices_of
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import PARITY_COSINE, ExtractionPlan, Hardware, Job, make_plan, plan_job, remember_rates
from biofuse.extract.prepare import READ, WRITE, Batch, Stages
from biofuse.store.parts import HeldPart
from biofuse.store.store import PART_ROWS, EmbeddingStore, EncoderFolder

PART_SECONDS = 60.0
"""Seconds after which a part is written, however few rows it has: what a killed run can lose."""

ENGINES = {"local": "biofuse.extract.local:LocalEngine", "ray": "biofuse.extract.ray:RayEngine"}
"""Engines by name: module and class, imported when it is asked for."""

MEASURED_SECONDS = 5.0
"""Work after which the time that is left can be told."""

WORTH_TELLING = 1.0
"""Seconds of work from which on it is said where they went."""


class Engine(Protocol):
    """Runs encoders somewhere. Made with ``(options, tell=...)``."""

    @property
    def device(self) -> str:
        """The torch device that networks run on; found out when first asked for."""
        ...

    def hardware(self, *, networks: bool) -> Hardware:
        """Return what an extraction is planned with; ``networks``: whether any encoder needs the device."""
        ...

    def parity(self, job: Job, names: tuple[str, ...], *, keep: bool) -> dict[str, float]:
        """Return each encoder's least cosine, over some images, between its lower precision and fp32."""
        ...

    def run(self, job: Job, plan: ExtractionPlan, sink: Sink) -> None:
        """Compute what is missing, and hand it over batch by batch, from the thread that called."""
        ...


def extract(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    progress: Progress | bool = False,
    tell: Tell | None = None,
) -> EmbeddingSet:
    """Embed samples under a pool of encoders; what the store has already is not computed again.

    Parameters
    ----------
    samples : Samples
    cards : sequence of EncoderCard
        The pool.
    store : EmbeddingStore
    options : ExtractOptions, optional
    progress : Progress or bool, default False
        True shows bars where standard error is a terminal.
    tell : callable, optional
        Receives the plan before anything is computed, and news, line by line.

    Returns
    -------
    EmbeddingSet
        Its cards hold the hash of the weights used, where those given left it open.

    Raises
    ------
    UnreadableImageError
        If an image cannot be read and ``options.on_error`` is ``"error"``; finished embeddings are kept.
    DiskError
        If the store cannot be written to.
    EncoderError
        If an encoder cannot be loaded or does not keep its card's promises.
    BioFuseError
        If the pooling is to be chosen, which takes a fit.
    """
    options = options or ExtractOptions()
    pooling = options.pooling
    if pooling == "auto":
        raise BioFuseError(
            f"{option('pooling', 'auto')} is a choice by cross-validation, which only a fit makes.",
            remedy=f"Name one: {option('pooling', 'mean')}.",
        )
    store = store if options.use_store else store.in_memory()
    cards, skipped = available(
        cards,
        on_unavailable=options.on_unavailable,
        weights_dir=options.weights_dir,
        # Where the store holds an encoder's embeddings its weights may no longer be needed; loading it says otherwise.
        needed=lambda card: not store.has(card),
    )
    start = time.perf_counter()
    networks = any(card.runtime == "torch" for card in cards)
    # Memory is kept from before hashing starts threads.
    with progress_bars(progress) as shown, keep_freed_memory() if networks else contextlib.nullcontext():
        run = _Run(options=options, progress=shown, tell=tell or (lambda _: None))
        samples, reasons, job, plan = run.inspect(samples, cards, store)
        if job.todo:
            store.check_writable()
            if store.keep:
                _check_space(job, store)
            plan = run.resolve_precisions(job, plan)
            run.compute(job, plan)
            with contextlib.suppress(DiskError):  # every row is written; tidying up can wait for a better day
                for name in job.todo:
                    job.folders[name].merge()
    reasons |= _undecodable(samples, job)
    run.tell_remarks(samples.decode)
    if options.on_error == "error":
        _refuse(reasons)
    readable = samples.take(np.array([row not in reasons for row in range(len(samples))], dtype=bool))
    precisions = job.precisions
    reader = reader_of(readable, store=store, cards=cards, precisions=precisions, pooling=pooling)
    return EmbeddingSet(
        samples=readable,
        blocks=reader.read(),
        cards=cards,
        quarantined=tuple(
            Quarantined(id=str(samples.ids[row]), source=samples.sources[row].description, reason=error.message)
            for row, error in sorted(reasons.items())
        ),
        work=run.work(job),
        skipped=skipped,
        recomputed=tuple(job.recomputed),
        precisions=precisions,
        pooling=pooling,
        kept=store.keep,
        seconds=time.perf_counter() - start,
        plan=plan,
        stages=run.stages,
    )


def plan_extraction(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    progress: Progress | bool = False,
) -> ExtractionPlan:
    """Return what :func:`extract` would do; images are read and hashed, nothing is decoded, computed or downloaded."""
    options = options or ExtractOptions()
    store = store if options.use_store else store.in_memory()
    known, absent = pinned_here(cards, weights_dir=options.weights_dir)
    with progress_bars(progress) as shown:
        run = _Run(options=options, progress=shown, tell=lambda _: None)
        plan = run.inspect(samples, known, store, check=False)[3]
    notes = [f"{name}: its weights are not here yet; they are fetched first." for name in absent]
    return replace(plan, notes=(*plan.notes, *notes))


@dataclass(kw_only=True)
class _Run:
    """One extraction on its way."""

    options: ExtractOptions
    progress: Progress
    tell: Tell
    stages: Stages = field(default_factory=Stages)
    engine: Engine = field(init=False)
    computed: dict[str, int] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)

    def __post_init__(self) -> None:
        module, _, name = ENGINES[self.options.engine].partition(":")
        self.engine = getattr(importlib.import_module(module), name)(self.options, tell=self.tell)

    def inspect(
        self, samples: Samples, cards: Sequence[EncoderCard], store: EmbeddingStore, *, check: bool = True
    ) -> tuple[Samples, dict[int, UnreadableImageError], Job, ExtractionPlan]:
        """Read and hash the images, and find out what is missing of them."""
        with self.stages.wall(READ):
            samples, reasons = hash_samples(samples, progress=self.progress)
        if self.options.on_error == "error":
            _refuse(reasons)
        job = self.job(samples.images(), cards, store, check=check)
        return samples, reasons, job, self.plan(job)

    def resolve_precisions(self, job: Job, plan: ExtractionPlan) -> ExtractionPlan:
        """Tell the plan, compare lower precisions with fp32, and plan anew where one is refused."""
        for line in plan.lines():
            self.tell(line)
        unsure = tuple(name for name in job.todo if job.choices[name].check)
        keep = len(plan.groups) == 1 and len(devices_of(self.options, job)) == 1
        cosines = self.engine.parity(job, unsure, keep=keep) if unsure else {}
        for name, cosine in cosines.items():
            if cosine < PARITY_COSINE:
                job.decide(name, job.choices[name].refused(cosine))
            else:
                self.tell(f"{name} at {job.choices[name].precision}: cosine to fp32 at least {cosine:.5f}.")
        for line in job.announcements():
            self.tell(line)
        return self.plan(job) if cosines else plan

    def compute(self, job: Job, plan: ExtractionPlan) -> None:
        """Compute what is missing, on one device or on several, and write it."""
        for name, count in job.todo.items():
            self.progress.begin(name, count)
        if len(plan.groups) == 1:  # of several, the first says little
            self.progress = _Estimate(self.progress, todo=sum(job.todo.values()), tell=self.tell)
        devices = devices_of(self.options, job)
        if len(devices) == 1:
            self.compute_here(job, plan)
        else:
            self._compute_on(devices, job, plan)
        remember_rates(job, plan.hardware, seconds=self.stages.by_encoder(), computed=self.computed)
        if self.stages.total >= WORTH_TELLING:
            self.tell(self.stages.sentence())

    def compute_here(self, job: Job, plan: ExtractionPlan) -> None:
        """Have the engine compute what is missing, and write it from this process."""
        folders = {name: job.folders[name] for name in job.todo}
        with Writer(folders, max_rows=PART_ROWS, max_seconds=PART_SECONDS, stages=self.stages) as writer:
            self.engine.run(job, plan, _WritingSink(job=job, run=self, writer=writer))

    def tell_remarks(self, policy: DecodePolicy) -> None:
        """Say which choices decided the pixels of what was decoded."""
        for sentence in self.remarks.sentences(policy):
            self.tell(sentence)

    def work(self, job: Job) -> tuple[EncoderWork, ...]:
        """Say what was done for each encoder."""
        forward = self.stages.by_encoder()
        return tuple(
            EncoderWork(
                encoder=name,
                computed=self.computed.get(name, 0),
                reused=len(job.contents) - int(job.missing[name].sum()),
                seconds=forward.get(name, 0.0),
                precision=choice.precision,
                reason=choice.reason,
            )
            for name, choice in job.choices.items()
        )

    def job(self, samples: Samples, cards: Sequence[EncoderCard], store: EmbeddingStore, *, check: bool) -> Job:
        """Find out what there is to do."""
        device = lambda: self.engine.device  # noqa: E731
        return plan_job(samples, cards, store=store, options=self.options, device=device, check=check)

    def plan(self, job: Job) -> ExtractionPlan:
        """Plan how to do it."""
        networks = any(job.cards[name].runtime == "torch" for name in job.todo)
        return make_plan(job, self.engine.hardware(networks=networks), self.options)

    def _compute_on(self, devices: Sequence[str], job: Job, plan: ExtractionPlan) -> None:
        """Give each device a run of neighbouring images, and a process that extracts them into the same store."""
        lacking = np.flatnonzero(np.any([job.missing[name] for name in job.todo], axis=0))
        parts = [rows for rows in np.array_split(lacking, len(devices)) if len(rows)]
        devices = devices[: len(parts)]
        self.tell(f"A process for each of {len(devices)} devices: {', '.join(devices)}.")
        workers = self.options.n_workers(max(job.todo.values()))
        with _DeviceProcesses(self.progress, self.tell) as processes:
            for number, (device, rows) in enumerate(zip(devices, parts, strict=True)):
                on_cpu = device.startswith("cpu")
                share = _Share(
                    samples=job.samples.take(job.rows[rows]),
                    cards=tuple(job.cards[name] for name in job.todo),
                    builders=pack_builders(job.cards.values()),
                    store=job.store,
                    options=self.options.but(
                        device=device,
                        precisions=job.precisions,
                        workers=-(-workers // len(devices)),
                        memory=plan.hardware.budget if on_cpu else self.options.memory,
                    ),
                )
                processes.start(share, rows, cores=_cores(number, len(devices)) if on_cpu else None)
            for done, rows in processes.finished():
                self.stages.merge(done.stages)
                self.remarks.merge(done.remarks)
                for name, count in done.computed.items():
                    self.computed[name] = self.computed.get(name, 0) + count
                for name, held in done.held.items():
                    for part in held:
                        job.folders[name].write(part.contents, part.embeddings)
                job.failures |= {int(rows[row]): why for row, why in done.failures.items()}


FIRST_ROWS = 256
"""Rows of the first part. Every further part may be twice as large, up to the limit: a run that is killed early, on a
slow machine, keeps most of its work, and a long run still ends with few parts."""

QUEUE = 32
"""Batches that may wait for the disk; beyond that the encoders wait too, so that memory does not grow."""

WAIT_SECONDS = 0.5
"""How long a full queue is waited for before looking whether the writer is still there."""


class RowBuffer:
    """Collects the rows of one encoder and writes a part when there are enough, or they have waited long enough.

    Parameters
    ----------
    folder : EncoderFolder
    max_rows : int
        Most rows per part.
    max_seconds : float
        Longest time a finished row stays in memory only.
    """

    def __init__(self, folder: EncoderFolder, *, max_rows: int, max_seconds: float) -> None:
        self._folder = folder
        self._max_rows = max_rows
        self._limit = min(FIRST_ROWS, max_rows)
        self._max_seconds = max_seconds
        self._contents = np.zeros(0, dtype=f"S{CONTENT_BYTES}")
        self._embeddings = np.zeros((0, 0), dtype=np.float32)
        self._rows = 0
        self._since = time.monotonic()

    def add(self, contents: Contents, embeddings: NDArray[np.float32]) -> None:
        """Take rows; write a part if it is time."""
        if not self._rows:
            self._since = time.monotonic()
        end = self._rows + len(contents)
        if end > len(self._contents):
            self._make_room(max(end, self._max_rows), embeddings.shape[1])
        self._contents[self._rows : end] = contents
        self._embeddings[self._rows : end] = embeddings
        self._rows = end
        if self._rows >= self._limit or self.due == 0:
            self.flush()

    @property
    def due(self) -> float:
        """Seconds until what is held has to be written; infinite where nothing is held."""
        return max(self._since + self._max_seconds - time.monotonic(), 0.0) if self._rows else float("inf")

    def flush(self) -> None:
        """Write what is held, if anything."""
        if self._rows:
            self._folder.write(self._contents[: self._rows], self._embeddings[: self._rows])
            self._rows = 0
            self._limit = min(2 * self._limit, self._max_rows)

    def _make_room(self, rows: int, dim: int) -> None:
        # Straight from the operating system, which gives pages as they are filled: pieces of growing parts would leave
        # holes in the memory that the networks keep for themselves.
        memory = np.frombuffer(mmap.mmap(-1, rows * dim * 4), dtype=np.float32).reshape(rows, dim)
        contents = np.zeros(rows, dtype=self._contents.dtype)
        if self._rows:
            memory[: self._rows] = self._embeddings[: self._rows]
            contents[: self._rows] = self._contents[: self._rows]
        self._contents, self._embeddings = contents, memory


class Writer:
    """Takes finished rows and writes them while the encoders go on; a context manager.

    Leaving the context writes what is held, also after an error or a stop by the user, except where the error is that
    the disk cannot be written.

    Parameters
    ----------
    folders : mapping of str to EncoderFolder
    max_rows, max_seconds
        As for :class:`RowBuffer`.
    stages : Stages, optional
        Where the time is counted.

    Raises
    ------
    DiskError
        From :meth:`add` or at the end, as soon as writing has failed once.
    """

    def __init__(
        self, folders: Mapping[str, EncoderFolder], *, max_rows: int, max_seconds: float, stages: Stages | None = None
    ) -> None:
        self._buffers = {
            name: RowBuffer(folder, max_rows=max_rows, max_seconds=max_seconds) for name, folder in folders.items()
        }
        self._stages = stages or Stages()
        self._queue: queue.Queue[tuple[str, Contents, NDArray[np.float32]] | None] = queue.Queue(QUEUE)
        self._failure: BaseException | None = None
        # A daemon: a second Ctrl-C while the last rows are written ends the process without waiting for it.
        self._thread = threading.Thread(target=self._work, daemon=True, name="biofuse-writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        given_up = isinstance(error, DiskError)  # what is still in memory cannot be written either
        if given_up and self._failure is None:
            self._failure = error
            with contextlib.suppress(queue.Full):  # then it has something to wake up for already
                self._queue.put_nowait(None)
        elif self._failure is None:
            self._put(None)
        self._thread.join()
        if not given_up:
            self._raise()

    def add(self, encoder: str, contents: Contents, embeddings: NDArray[np.float32]) -> None:
        """Hand rows over; waits where the disk is far behind.

        Parameters
        ----------
        encoder : str
        contents : ndarray of S16, shape (n,)
        embeddings : ndarray of float32, shape (n, dim)
        """
        self._put((encoder, contents, embeddings))

    def _put(self, item: tuple[str, Contents, NDArray[np.float32]] | None) -> None:
        while True:
            self._raise()
            try:
                return self._queue.put(item, timeout=WAIT_SECONDS)
            except queue.Full:
                continue

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while (item := self._next()) is not None and self._failure is None:
                name, contents, embeddings = item
                if name:
                    with self._stages.wall(WRITE):
                        self._buffers[name].add(contents, embeddings)
                self._flush(only_due=True)
            if self._failure is None:
                self._flush(only_due=False)
        except BaseException as error:  # raised again in the thread that hands rows over
            self._failure = error

    def _next(self) -> tuple[str, Contents, NDArray[np.float32]] | None:
        due = min((buffer.due for buffer in self._buffers.values()), default=float("inf"))
        try:
            return self._queue.get(timeout=None if due == float("inf") else due)
        except queue.Empty:
            return "", np.zeros(0, dtype="S16"), np.zeros((0, 0), dtype=np.float32)

    def _flush(self, *, only_due: bool) -> None:
        for buffer in self._buffers.values():
            if not only_due or buffer.due == 0:
                with self._stages.wall(WRITE):
                    buffer.flush()


@dataclass(kw_only=True)
class _WritingSink:
    """Hands finished batches to the writer, counts them, and refuses to go on after an unreadable image."""

    job: Job
    run: _Run
    writer: Writer

    def take(self, batch: Batch) -> None:
        """Count and keep a batch."""
        self.job.failures |= batch.failures
        if self.run.options.on_error == "error":
            _refuse(batch.failures)
        self.keep(batch)
        for name in batch.names:
            self.run.progress.advance(name, len(batch.rows) + len(batch.failures))

    def keep(self, batch: Batch) -> None:
        """Keep a batch."""
        self.run.stages.merge(batch.stages)
        self.run.remarks.merge(batch.remarks)
        for name, embeddings in batch.embeddings.items():
            self.writer.add(name, self.job.contents[batch.rows], embeddings)
            self.run.computed[name] = self.run.computed.get(name, 0) + len(embeddings)


class _Estimate:
    """Passes progress on, and says once how long it will take, as soon as that can be told."""

    def __init__(self, progress: Progress, *, todo: int, tell: Tell) -> None:
        self._progress, self._todo, self._tell = progress, todo, tell
        self._done = 0
        self._first: tuple[float, int] | None = None

    def begin(self, task: str, total: int) -> None:
        self._progress.begin(task, total)

    def advance(self, task: str, units: int) -> None:
        self._progress.advance(task, units)
        self._done += units
        now = time.perf_counter()
        since, before = self._first = self._first or (now, self._done)  # what starting took is not needed again
        if not self._todo or now - since < MEASURED_SECONDS:
            return
        left = (now - since) / max(self._done - before, 1) * (self._todo - self._done)
        self._todo = 0
        if left > MEASURED_SECONDS:
            self._tell(f"Measured on the first batches: about {duration(left)} left.")


def _check_space(job: Job, store: EmbeddingStore) -> None:
    """Refuse what does not fit on the store's disk, before the first image is embedded."""
    needed = sum(count * (4 * job.cards[name].dim + CONTENT_BYTES) for name, count in job.todo.items())
    free = shutil.disk_usage(store.root).free
    if needed > free:
        raise DiskError(
            f"The embeddings take {needed / 1e9:.1f} GB, and the disk that holds {store.root} has {free / 1e9:.1f} "
            "GB left.",
            remedy=f"Free some space, keep them on another disk: {option('store')}, or use fewer encoders.",
        )


def _undecodable(samples: Samples, job: Job) -> dict[int, UnreadableImageError]:
    """Give every sample that shares an undecodable content its reason, not only the one that was tried."""
    contents, owners = contents_of_images(samples), samples.owners
    return {
        int(owners[image]): why
        for row, why in job.failures.items()
        for image in np.flatnonzero(contents == job.contents[row])
    }


def _refuse(reasons: dict[int, UnreadableImageError]) -> None:
    refuse_unreadable(reasons, otherwise=f"Or set unreadable images aside with {option('on_error', 'quarantine')}.")


# --- several devices of one machine

POLL_SECONDS = 0.1
"""How often the progress of the devices' processes is looked at."""

END_SECONDS = 10.0
"""How long processes that were told to stop may take to write what they have finished."""


@dataclass(frozen=True, kw_only=True)
class _Share:
    """The images of one device, all hashed, and how they are extracted."""

    samples: Samples
    cards: tuple[EncoderCard, ...]
    builders: Builders
    store: EmbeddingStore
    options: ExtractOptions


@dataclass(frozen=True, kw_only=True)
class _ShareDone:
    """What became of a share: the embeddings are in the store, or ``held`` where that keeps nothing."""

    stages: Stages
    computed: dict[str, int]
    failures: dict[int, UnreadableImageError]
    remarks: Remarks
    held: dict[str, list[HeldPart]]


class _DeviceProcesses:
    """A process per device that extracts its share into the store like ``--shard``; none outlives this context.

    Each is an executor of its own, so that the death of one is told apart, and the others can write what they have.
    """

    def __init__(self, progress: Progress, tell: Tell) -> None:
        # As for the decode workers: not the user's script again, and functions of a notebook come along.
        from loky.backend import get_context

        self._context = get_context("loky")
        self._news, self._stop = self._context.Queue(), self._context.Event()
        self._progress, self._tell = progress, tell
        self._executors: list[Any] = []
        self._shares: dict[Future[_ShareDone], tuple[str, NDArray[np.int64]]] = {}

    def __enter__(self) -> Self:
        return self

    def start(self, share: _Share, rows: NDArray[np.int64], *, cores: Sequence[int] | None) -> None:
        """Start a process on ``share.options.device``, which may use the given cores only."""
        from loky.process_executor import ProcessPoolExecutor

        executor = ProcessPoolExecutor(
            1, context=self._context, initializer=_join, initargs=(os.getpid(), self._news, self._stop, cores)
        )
        self._executors.append(executor)
        with workers_ignore_interrupts():
            self._shares[executor.submit(_extract_share, share)] = share.options.device, rows

    def finished(self) -> Iterator[tuple[_ShareDone, NDArray[np.int64]]]:
        """Pass on progress and news until all are done, and yield (outcome, rows) of each.

        Raises
        ------
        BioFuseError
            What a process raised, or that it was killed.
        """
        from loky.process_executor import TerminatedWorkerError

        left = set(self._shares)
        while left:
            done, left = wait(left, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            self._pass_on_news()
            for future in done:
                device, rows = self._shares[future]
                try:
                    yield future.result(), rows
                except TerminatedWorkerError as error:
                    raise BioFuseError(
                        f"The process of {device} was killed: most likely memory ran out.",
                        remedy=f"Use fewer workers: {option('workers', 1)}; or a smaller {option('batch_size')}. "
                        "Finished embeddings are kept.",
                    ) from error

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        wait(self._shares, timeout=END_SECONDS)
        for executor in self._executors:
            executor.shutdown(kill_workers=True)
        self._news.close()

    def _pass_on_news(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                task, news = self._news.get_nowait()
                if isinstance(news, int):
                    self._progress.advance(task, news)
                else:
                    self._tell(news)


class _Relay(Silent):
    """In the process of a device: sends progress and news to the parent, and stops where the parent says so."""

    news: ClassVar[Any]
    stop: ClassVar[Any]

    def advance(self, task: str, units: int) -> None:
        self.news.put((task, units))
        if self.stop.is_set():
            raise BioFuseError("The extraction was stopped.")

    def tell(self, line: str) -> None:
        self.news.put(("", line))


def _join(parent: int, news: Any, stop: Any, cores: Sequence[int] | None) -> None:
    """Begin the process of a device."""
    exit_with_parent(parent)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    _Relay.news, _Relay.stop = news, stop


def _extract_share(share: _Share) -> _ShareDone:
    """Do the work of the process of a device."""
    share.builders.register()
    device, relay = share.options.device, _Relay()
    run = _Run(options=share.options, progress=relay, tell=lambda line: relay.tell(f"{device}: {line}"))
    try:
        job = run.job(share.samples, share.cards, share.store, check=False)
        run.compute_here(job, run.plan(job))
        held = {name: folder.held for name, folder in job.folders.items()}
        return _ShareDone(
            stages=run.stages, computed=run.computed, failures=job.failures, remarks=run.remarks, held=held
        )
    except BioFuseError:
        raise
    except Exception as error:  # the parent has to hear of it, whatever it is
        raise BioFuseError(f"The process of {device} failed: {type(error).__name__}: {error}") from error
    finally:
        if share.options.workers:
            from loky import get_reusable_executor

            # Otherwise this process would wait for its decode workers, which wait for more to do.
            get_reusable_executor(reuse=True).shutdown(kill_workers=True)
        relay.news.close()
        relay.news.join_thread()  # what was said arrives before the result does


def _cores(number: int, of: int) -> tuple[int, ...] | None:
    """Return the cores of one of several processes that all compute on the CPU; None where that cannot be set."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    mine = sorted(os.sched_getaffinity(0))
    return tuple(mine[number::of]) or tuple(mine)
