"""The engines that can run an extraction, by name."""

import contextlib
import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from biofuse.blocks.reader import read_blocks
from biofuse.core.errors import BioFuseError
from biofuse.core.machine import keep_freed_memory
from biofuse.core.progress import Progress, Silent, progress_bars
from biofuse.data.samples import Samples, hash_samples, known_contents, refuse_unreadable
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.doctor import available, pinned_here
from biofuse.extract.embeddings import EmbeddingSet, EncoderWork, Extraction, Quarantined
from biofuse.extract.forward import Sink, Tell
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import (
    ExtractionPlan,
    Hardware,
    Job,
    duration,
    known_rates,
    make_plan,
    plan_job,
    remember_rates,
)
from biofuse.extract.precision import PARITY_COSINE, PRECISIONS, announce
from biofuse.extract.prepare import READ, Outcome, Stages
from biofuse.extract.writer import Writer
from biofuse.store.store import EmbeddingStore

ENGINES = {"local": "biofuse.extract.local:MachineEngine", "ray": "biofuse.extract.ray:RayEngine"}
"""Engines by name: module and class, imported when it is asked for."""


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


MEASURED_SECONDS = 5.0
"""Work after which the time that is left can be told."""

WORTH_TELLING = 1.0
"""Seconds of work from which on it is said where they went."""


def extract(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
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
    tell : callable, optional
        Receives the plan before anything is computed, and news, line by line.

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
    run = _Run(options=options or ExtractOptions(), progress=progress or Silent(), tell=tell or (lambda _: None))
    networks = any(card.runtime == "torch" for card in cards)
    with keep_freed_memory() if networks else contextlib.nullcontext():  # before hashing starts threads
        samples, reasons, job, plan = run.look(samples, cards, store)
        if job.todo:
            store.check_writable()
            plan = run.settle(job, plan)
            run.compute(job, plan)
    reasons |= _undecodable(samples, job)
    if run.options.on_error == "error":
        _refuse(reasons)
    keep = np.array([row not in reasons for row in range(len(samples))], dtype=bool)
    return Extraction(
        samples=samples.take(keep),
        quarantined=tuple(
            Quarantined(id=str(samples.ids[row]), source=samples.sources[row].description, reason=reason)
            for row, reason in sorted(reasons.items())
        ),
        work=run.work(job),
        healed=tuple(job.healed),
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
    progress: Progress | None = None,
) -> ExtractionPlan:
    """Return what :func:`extract` would do; images are read and hashed, nothing is decoded, computed or written."""
    run = _Run(options=options or ExtractOptions(), progress=progress or Silent(), tell=lambda _: None)
    return run.look(samples, cards, store, heal=False)[3]


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

    def look(
        self, samples: Samples, cards: Sequence[EncoderCard], store: EmbeddingStore, *, heal: bool = True
    ) -> tuple[Samples, dict[int, str], Job, ExtractionPlan]:
        """Read and hash the images, and find out what is missing of them."""
        with self.stages.wall(READ):
            samples, reasons = hash_samples(samples, progress=self.progress)
        if self.options.on_error == "error":
            _refuse(reasons)
        job = plan_job(
            samples,
            cards,
            store=store,
            options=self.options,
            device=lambda: self.engine.device,
            heal=heal,
        )
        return samples, reasons, job, self._plan(job)

    def settle(self, job: Job, plan: ExtractionPlan) -> ExtractionPlan:
        """Tell the plan, compare lower precisions with fp32, and plan anew where one is refused."""
        for line in plan.lines():
            self.tell(line)
        unsure = tuple(name for name in job.todo if job.choices[name].check)
        cosines = self.engine.parity(job, unsure, keep=len(plan.groups) == 1) if unsure else {}
        for name, cosine in cosines.items():
            if cosine < PARITY_COSINE:
                job.decide(name, job.choices[name].refused(cosine))
            else:
                self.tell(f"{name} at {job.choices[name].precision}: cosine to fp32 at least {cosine:.5f}.")
        for line in announce(job.choices, list(job.cards)):
            self.tell(line)
        return self._plan(job) if cosines else plan

    def compute(self, job: Job, plan: ExtractionPlan) -> None:
        """Have the engine compute what is missing, and write it."""
        for name, count in job.todo.items():
            self.progress.begin(name, count)
        folders = {name: job.folders[name] for name in job.todo}
        options = self.options
        with Writer(
            folders, max_rows=options.part_rows, max_seconds=options.part_seconds, stages=self.stages
        ) as writer:
            self.engine.run(job, plan, _Kept(job=job, plan=plan, run=self, writer=writer))
        remember_rates(job, plan.hardware, seconds=self.stages.by_encoder(), computed=self.computed)
        if self.stages.total >= WORTH_TELLING:
            self.tell(self.stages.sentence())

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

    def _plan(self, job: Job) -> ExtractionPlan:
        networks = any(job.cards[name].runtime == "torch" for name in job.todo)
        hardware = self.engine.hardware(networks=networks)
        return make_plan(job, hardware, self.options, seconds_per_image=known_rates(job, hardware))


@dataclass(kw_only=True)
class _Kept:
    """Hands finished batches to the writer, counts them, and refuses to go on after an unreadable image."""

    job: Job
    plan: ExtractionPlan
    run: _Run
    writer: Writer
    first: tuple[float, int] | None = None
    told: bool = False

    def take(self, outcome: Outcome) -> None:
        """Count and keep a batch."""
        self.job.failures |= outcome.failures
        if self.run.options.on_error == "error":
            _refuse(outcome.failures)
        self.keep(outcome)
        for name in outcome.names:
            self.run.progress.advance(name, len(outcome.rows) + len(outcome.failures))
        self._estimate()

    def keep(self, outcome: Outcome) -> None:
        """Keep a batch."""
        self.run.stages.merge(outcome.stages)
        for name, embeddings in outcome.embeddings.items():
            self.writer.add(name, self.job.contents[outcome.rows], embeddings)
            self.run.computed[name] = self.run.computed.get(name, 0) + len(embeddings)

    def _estimate(self) -> None:
        """Say once how long it will take, as soon as that can be told; of several groups, the first says little."""
        now, done = time.perf_counter(), sum(self.run.computed.values())
        since, before = self.first = self.first or (now, done)  # what was needed to start is not needed again
        if self.told or now - since < MEASURED_SECONDS or len(self.plan.groups) > 1:
            return
        self.told = True
        left = (now - since) / max(done - before, 1) * (sum(self.job.todo.values()) - done)
        if left > MEASURED_SECONDS:
            self.run.tell(f"Measured on the first batches: about {duration(left)} left.")


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


def embed_samples(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    progress: Progress | bool = True,
    tell: Tell | None = None,
) -> EmbeddingSet:
    """Embed a table of samples; :func:`embed` with everything already resolved.

    Returns
    -------
    EmbeddingSet
        Its cards hold the hash of the weights used, where those given left it open.
    """
    options = options or ExtractOptions()
    cards, skipped = available(
        cards,
        on_unavailable=options.on_unavailable,
        weights_paths=options.weights_paths,
        weights_dir=options.weights_dir,
        # Where the store holds an encoder's embeddings its weights may no longer be needed; loading it says otherwise.
        needed=lambda card: not stored(store, card),
    )
    if isinstance(progress, bool):
        with progress_bars(quiet=not progress) as bars:
            done = extract(samples, cards, store=store, options=options, progress=bars, tell=tell)
    else:
        done = extract(samples, cards, store=store, options=options, progress=progress, tell=tell)
    return EmbeddingSet(
        samples=done.samples,
        blocks=read_blocks(store, cards, ids=done.samples.ids, contents=done.contents, precisions=done.precisions),
        cards=cards,
        quarantined=done.quarantined,
        work=done.work,
        healed=done.healed,
        skipped=skipped,
        precisions=done.precisions,
        plan=done.plan,
        stages=done.stages,
    )


def plan_embedding(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    progress: Progress | bool = True,
) -> ExtractionPlan:
    """Return what :func:`embed_samples` would do; images are read and hashed, nothing is computed or downloaded.

    Raises
    ------
    DataError
        If the data set cannot be used as it is.
    """
    options = options or ExtractOptions()
    known, absent = pinned_here(cards, weights_paths=options.weights_paths, weights_dir=options.weights_dir)
    with progress_bars(quiet=progress is False) as bars:
        watched = bars if isinstance(progress, bool) else progress
        plan = plan_extraction(samples, known, store=store, options=options, progress=watched)
    notes = [f"{name}: its weights are not here yet; they are fetched first." for name in absent]
    return replace(plan, notes=(*plan.notes, *notes))


def stored(store: EmbeddingStore, card: EncoderCard) -> bool:
    """Tell whether the store has any embedding of an encoder, at whatever precision."""
    return any(store.open(card, precision=precision).part_paths() for precision in PRECISIONS)
