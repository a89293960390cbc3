"""Extraction: find out what is missing, plan it, have an engine compute it, keep the rows."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from biofuse.core.errors import UnreadableImageError
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard
from biofuse.extract.allocator import keep_freed_memory
from biofuse.extract.batches import Tell
from biofuse.extract.contents import HashedSamples, hash_samples
from biofuse.extract.engines import Engine, make_engine
from biofuse.extract.job import Job, plan_job
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import ExtractionPlan, duration, make_plan
from biofuse.extract.precision import PARITY_COSINE, announce
from biofuse.extract.progress import Progress, Silent
from biofuse.extract.rates import known_rates, remember_rates
from biofuse.extract.results import EncoderWork, Extraction, Quarantined
from biofuse.extract.stages import READ, Stages
from biofuse.extract.worker import Outcome
from biofuse.extract.writer import Writer
from biofuse.store.store import EmbeddingStore

NAMED_FAILURES = 5
"""Unreadable files named in an error; `biofuse check` lists them all."""

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
        hashed, job, plan = run.look(samples, cards, store)
        if job.todo:
            store.check_writable()
            plan = run.settle(job, plan)
            run.compute(job, plan)
    reasons = _all_reasons(hashed, job)
    if run.options.on_error == "error":
        _refuse(reasons)
    keep = np.array([row not in reasons for row in range(len(samples))], dtype=bool)
    return Extraction(
        samples=samples.take(keep),
        contents=hashed.contents[keep],
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
    return run.look(samples, cards, store, heal=False)[2]


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
    ) -> tuple[HashedSamples, Job, ExtractionPlan]:
        """Read and hash the images, and find out what is missing of them."""
        with self.stages.wall(READ):
            hashed = hash_samples(samples, progress=self.progress)
        if self.options.on_error == "error":
            _refuse(hashed.reasons)
        job = plan_job(
            samples,
            hashed,
            cards,
            store=store,
            options=self.options,
            device=lambda: self.engine.device,
            heal=heal,
        )
        return hashed, job, self._plan(job)

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


def _all_reasons(hashed: HashedSamples, job: Job) -> dict[int, str]:
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
