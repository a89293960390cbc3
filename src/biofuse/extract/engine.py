"""Extraction: what the store lacks of a table of samples is computed, then all of it is read."""

import contextlib
import importlib
import os
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import read_blocks
from biofuse.core.errors import BioFuseError
from biofuse.core.machine import exit_with_parent, keep_freed_memory, workers_ignore_interrupts
from biofuse.core.progress import Progress, Silent, Tell, duration, progress_bars
from biofuse.data.samples import Samples, hash_samples, known_contents, refuse_unreadable
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.doctor import available, pinned_here
from biofuse.encoders.function import Builders, pack_builders
from biofuse.extract.embeddings import EmbeddingSet, EncoderWork, Quarantined
from biofuse.extract.forward import Sink
from biofuse.extract.local import devices_of
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import (
    ExtractionPlan,
    Hardware,
    Job,
    known_rates,
    make_plan,
    plan_job,
    remember_rates,
)
from biofuse.extract.precision import PARITY_COSINE, PRECISIONS, announce
from biofuse.extract.prepare import READ, Outcome, Stages
from biofuse.extract.writer import Writer
from biofuse.store.store import EmbeddingStore

PART_ROWS = 4096
"""Rows after which a part is written."""

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


def make_engine(options: ExtractOptions, *, tell: Tell) -> Engine:
    """Return the engine that the options name.

    Raises
    ------
    BioFuseError
        If there is none of that name.
    """
    if options.engine not in ENGINES:
        raise BioFuseError(f"There is no engine {options.engine!r}.", remedy=f"Use one of: {', '.join(ENGINES)}.")
    module, _, name = ENGINES[options.engine].partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(options, tell=tell)
    return engine


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
    """
    options = options or ExtractOptions()
    cards, skipped = available(
        cards,
        on_unavailable=options.on_unavailable,
        weights_dir=options.weights_dir,
        # Where the store holds an encoder's embeddings its weights may no longer be needed; loading it says otherwise.
        needed=lambda card: not stored(store, card),
    )
    start = time.perf_counter()
    networks = any(card.runtime == "torch" for card in cards)
    # Memory is kept from before hashing starts threads.
    with progress_bars(progress) as shown, keep_freed_memory() if networks else contextlib.nullcontext():
        run = _Run(options=options, progress=shown, tell=tell or (lambda _: None))
        samples, reasons, job, plan = run.inspect(samples, cards, store)
        if job.todo:
            store.check_writable()
            plan = run.resolve_precisions(job, plan)
            run.compute(job, plan)
    reasons |= _undecodable(samples, job)
    if options.on_error == "error":
        _refuse(reasons)
    readable = samples.take(np.array([row not in reasons for row in range(len(samples))], dtype=bool))
    contents, precisions = known_contents(readable), job.precisions
    return EmbeddingSet(
        samples=readable,
        blocks=read_blocks(store, cards, ids=readable.ids, contents=contents, precisions=precisions),
        cards=cards,
        quarantined=tuple(
            Quarantined(id=str(samples.ids[row]), source=samples.sources[row].description, reason=reason)
            for row, reason in sorted(reasons.items())
        ),
        work=run.work(job),
        skipped=skipped,
        recomputed=tuple(job.recomputed),
        precisions=precisions,
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
    known, absent = pinned_here(cards, weights_dir=options.weights_dir)
    with progress_bars(progress) as shown:
        run = _Run(options=options, progress=shown, tell=lambda _: None)
        plan = run.inspect(samples, known, store, check=False)[3]
    notes = [f"{name}: its weights are not here yet; they are fetched first." for name in absent]
    return replace(plan, notes=(*plan.notes, *notes))


def stored(store: EmbeddingStore, card: EncoderCard) -> bool:
    """Tell whether the store has any embedding of an encoder, at whatever precision."""
    return any(store.open(card, precision=precision).part_paths() for precision in PRECISIONS)


@dataclass(kw_only=True)
class _Run:
    """One extraction on its way."""

    options: ExtractOptions
    progress: Progress
    tell: Tell
    stages: Stages = field(default_factory=Stages)
    engine: Engine = field(init=False)
    computed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = make_engine(self.options, tell=self.tell)

    def inspect(
        self, samples: Samples, cards: Sequence[EncoderCard], store: EmbeddingStore, *, check: bool = True
    ) -> tuple[Samples, dict[int, str], Job, ExtractionPlan]:
        """Read and hash the images, and find out what is missing of them."""
        with self.stages.wall(READ):
            samples, reasons = hash_samples(samples, progress=self.progress)
        if self.options.on_error == "error":
            _refuse(reasons)
        job = self._job(samples, cards, store, check=check)
        return samples, reasons, job, self._plan(job)

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
        for line in announce(job.choices, list(job.cards)):
            self.tell(line)
        return self._plan(job) if cosines else plan

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

    def compute_share(self, share: "_Share") -> dict[int, str]:
        """Do one device's share of a larger extraction; return what could not be decoded, and why."""
        job = self._job(share.samples, share.cards, share.store, check=False)
        self.compute_here(job, self._plan(job))
        return job.failures

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

    def _job(self, samples: Samples, cards: Sequence[EncoderCard], store: EmbeddingStore, *, check: bool) -> Job:
        device = lambda: self.engine.device  # noqa: E731
        return plan_job(samples, cards, store=store, options=self.options, device=device, check=check)

    def _plan(self, job: Job) -> ExtractionPlan:
        networks = any(job.cards[name].runtime == "torch" for name in job.todo)
        hardware = self.engine.hardware(networks=networks)
        return make_plan(job, hardware, self.options, seconds_per_image=known_rates(job, hardware))

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
                for name, count in done.computed.items():
                    self.computed[name] = self.computed.get(name, 0) + count
                job.failures |= {int(rows[row]): why for row, why in done.failures.items()}


@dataclass(kw_only=True)
class _WritingSink:
    """Hands finished batches to the writer, counts them, and refuses to go on after an unreadable image."""

    job: Job
    run: _Run
    writer: Writer

    def take(self, outcome: Outcome) -> None:
        """Count and keep a batch."""
        self.job.failures |= outcome.failures
        if self.run.options.on_error == "error":
            _refuse(outcome.failures)
        self.keep(outcome)
        for name in outcome.names:
            self.run.progress.advance(name, len(outcome.rows) + len(outcome.failures))

    def keep(self, outcome: Outcome) -> None:
        """Keep a batch."""
        self.run.stages.merge(outcome.stages)
        for name, embeddings in outcome.embeddings.items():
            self.writer.add(name, self.job.contents[outcome.rows], embeddings)
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


def _undecodable(samples: Samples, job: Job) -> dict[int, str]:
    """Give every sample that shares an undecodable content its reason, not only the one that was tried."""
    contents = known_contents(samples)
    return {
        int(sample): why
        for row, why in job.failures.items()
        for sample in np.flatnonzero(contents == job.contents[row])
    }


def _refuse(reasons: dict[int, str]) -> None:
    refuse_unreadable(
        reasons,
        remedy="Repair or remove the file(s), or set them aside with --on-error quarantine "
        "(on_error='quarantine' in Python).",
    )


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
    """What became of a share: the embeddings are in the store."""

    stages: Stages
    computed: dict[str, int]
    failures: dict[int, str]


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
                        remedy="Use fewer workers (--workers 1) or a smaller --batch-size. "
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
        failures = run.compute_share(share)
        return _ShareDone(stages=run.stages, computed=run.computed, failures=failures)
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
