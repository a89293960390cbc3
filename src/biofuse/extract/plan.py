"""What an extraction has to do: which encoder still lacks which of the distinct images, and what it computes in."""

import contextlib
import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DiskError, UnreadableImageError, option
from biofuse.core.files import read_json, write_text
from biofuse.core.hashing import Contents, hash_order, to_hex
from biofuse.core.machine import usable_cores
from biofuse.core.progress import duration
from biofuse.data.decoding import FileSource
from biofuse.data.samples import Samples, known_contents
from biofuse.data.volumes import VolumeSlice
from biofuse.encoders.card import BYTES, IMPORTED, EncoderCard, Precision
from biofuse.encoders.encoder import Encoder
from biofuse.encoders.loaders.imported import refuse_images
from biofuse.extract.options import ExtractOptions, PrecisionOption
from biofuse.extract.prepare import Chunk
from biofuse.store.store import EmbeddingStore, EncoderFolder

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")

PARITY_IMAGES = 16
"""Images of the job that are embedded at both precisions before the lower one is trusted."""

PARITY_COSINE = 0.999
"""Least cosine between an image's embeddings at the lower precision and at fp32 (issue: cosine >= 0.999, else fp32)."""

ENOUGH = 0.5
"""Share of the embeddings needed that the store must hold at a precision for ``auto`` to go on with that one."""

CPU_BF16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16")
"""Instruction sets with arithmetic or conversion of bfloat16, as ``torch.cpu.get_capabilities`` names them."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The precision of one encoder.

    Attributes
    ----------
    precision : {"fp32", "bf16", "fp16"}
    reason : str
        Why it is not what one would expect; empty where there is nothing to say.
    check : bool
        Whether it must still pass the comparison with fp32 on real images before a row is written.
    """

    precision: Precision = "fp32"
    reason: str = ""
    check: bool = False

    def refused(self, cosine: float) -> "Choice":
        """Return fp32 in its place, because of an image whose embeddings differ too much."""
        return replace(
            self,
            precision="fp32",
            check=False,
            reason=f"{self.precision} changes an embedding too much (cosine {cosine:.5f} to fp32, {PARITY_COSINE} "
            "is asked for)",
        )


def native(precision: Precision, device: str) -> bool:
    """Tell whether a device computes at a precision by itself, faster than at fp32.

    A processor without bfloat16 instructions emulates them, which takes longer than fp32; none is quick at float16.
    """
    if precision == "fp32":
        return True
    import torch

    kind = device.partition(":")[0]
    if kind == "cpu":
        # Releases of torch that cannot tell are taken to be on a processor without.
        able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return precision == "bf16" and any(able.get(name) for name in CPU_BF16)
    if kind == "cuda" and precision == "bf16":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind in {"cuda", "mps"} and precision == "fp16"


def advised(card: EncoderCard, device: str) -> Precision:
    """Return what an encoder should compute in on a device: the card's advice, where the device has it.

    A processor gets bf16 for either of the low precisions: it has no float16, and those who run an encoder at float16
    on an accelerator have shown that it stands less mantissa; the comparison with fp32 has the last word.
    """
    if card.runtime == "numpy" or card.advised_precision == "fp32" or card.loader == "onnx":
        return "fp32"
    if device.partition(":")[0] == "cpu":
        return "bf16" if native("bf16", device) else "fp32"
    return card.advised_precision if native(card.advised_precision, device) else "fp32"


def choose_precision(
    card: EncoderCard,
    contents: Contents,
    *,
    store: EmbeddingStore,
    wanted: PrecisionOption,
    fixed: Mapping[str, Precision],
    device: Callable[[], str],
) -> Choice:
    """Decide what an encoder computes in, as far as that can be told before it is loaded.

    Parameters
    ----------
    card : EncoderCard
    contents : ndarray of S16
        The images whose embeddings are needed.
    store : EmbeddingStore
    wanted : {"auto", "fp32", "bf16", "fp16"}
        What the user asked for.
    fixed : mapping of str to precision
        What encoders were run at before and have to be run at again, such as those of a fitted model.
    device : callable
        Returns the device; not called where the store has everything.

    Returns
    -------
    Choice
    """
    if card.runtime == "numpy":
        return Choice()
    if card.name in fixed:
        return _again(card, fixed[card.name], contents, store, device)
    if wanted != "auto":
        return _asked(card, wanted, device)
    shares = {precision: _share(store, card, precision, contents) for precision in PRECISIONS}
    most = max(PRECISIONS, key=lambda precision: shares[precision])  # fp32 among equals
    if len(contents) and shares[most] == 1:
        return Choice(precision=most, reason="" if most == "fp32" else "the store has these embeddings")
    if shares[most] >= ENOUGH and native(most, device()):
        reason = "" if most == "fp32" else "the store has most of these embeddings"
        return Choice(precision=most, reason=reason, check=most != "fp32")
    best = advised(card, device())
    return Choice(precision=best, check=best != "fp32")


def _again(
    card: EncoderCard, precision: Precision, contents: Contents, store: EmbeddingStore, device: Callable[[], str]
) -> Choice:
    if precision == "fp32" or _share(store, card, precision, contents) == 1 or native(precision, device()):
        return Choice(precision=precision)
    return Choice(reason=f"this device has no {precision}, which it was run at before")


def _asked(card: EncoderCard, precision: Precision, device: Callable[[], str]) -> Choice:
    if precision != "fp32" and card.loader == "onnx":
        return Choice(reason="the precision of an ONNX file is fixed")
    if not native(precision, device()):
        return Choice(reason=f"this device has no {precision}")
    return Choice(precision=precision, check=precision != "fp32")


def _share(store: EmbeddingStore, card: EncoderCard, precision: Precision, contents: Contents) -> float:
    folder = store.open(card, precision=precision)
    if not len(contents) or not folder.part_paths():
        return 0.0
    return 1 - float(folder.missing(contents).mean())


def least_cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the least cosine between corresponding rows; NaN, where a row is zero or not finite, counts as -1."""
    a, b = (np.asarray(each, dtype=np.float64) for each in (first, second))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.nan_to_num((a * b).sum(axis=1) / norms, nan=-1.0)
    return float(cosines.min()) if len(cosines) else 1.0


@dataclass(kw_only=True)
class Job:
    """Distinct contents, and which encoder still lacks which of them.

    Attributes
    ----------
    samples : Samples
        What was asked for.
    store : EmbeddingStore
    cards : dict of str to EncoderCard
        In pool order.
    contents : ndarray of S16, shape (n,)
        The distinct content hashes, in the order of the samples.
    rows : ndarray of int, shape (n,)
        The first sample that has each content.
    choices : dict of str to Choice
        The precision of each encoder.
    folders : dict of str to EncoderFolder
        Where the embeddings of each encoder at that precision lie.
    missing : dict of str to ndarray of bool, shape (n,)
        What each encoder has yet to see.
    recomputed : list of str
        Damaged parts, whose rows have to be computed again.
    failures : dict of int to UnreadableImageError
        Contents that cannot be decoded, and why; filled by the run.
    """

    samples: Samples
    store: EmbeddingStore
    cards: dict[str, EncoderCard]
    contents: Contents
    rows: NDArray[np.int64]
    choices: dict[str, Choice] = field(default_factory=dict)
    folders: dict[str, EncoderFolder] = field(default_factory=dict)
    missing: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    recomputed: list[str] = field(default_factory=list)
    failures: dict[int, UnreadableImageError] = field(default_factory=dict)

    @property
    def todo(self) -> dict[str, int]:
        """Number of images each encoder has yet to see; encoders that lack none are left out."""
        counts = {name: int(mask.sum()) for name, mask in self.missing.items()}
        return {name: count for name, count in counts.items() if count}

    @property
    def precisions(self) -> dict[str, Precision]:
        """What each encoder computes in."""
        return {name: choice.precision for name, choice in self.choices.items()}

    def announcements(self) -> list[str]:
        """Say which encoders are run at another precision than fp32, or than was to be expected, and why."""
        reasons = {name: choice for name, choice in self.choices.items() if choice.reason}
        return [f"{name} is run at {choice.precision}: {choice.reason}." for name, choice in reasons.items()]

    def decide(self, name: str, choice: Choice, *, check: bool = True) -> None:
        """Settle an encoder's precision: look what the store has of it, and set damaged parts aside."""
        folder = self.store.open(self.cards[name], precision=choice.precision)
        if check:
            self.recomputed += [str(path) for path in folder.check(self.contents)]
        self.choices[name], self.folders[name] = choice, folder
        self.missing[name] = missing = folder.missing(self.contents)
        if self.cards[name].loader == IMPORTED and missing.any():
            raise refuse_images(self.cards[name], [str(self.samples.ids[row]) for row in self.rows[missing]])

    def batches(self, names: Iterable[str], size: int) -> Iterator[tuple[tuple[str, ...], list[int]]]:
        """Divide what some encoders lack into batches of images that the same encoders lack.

        Each image is then decoded once for all of them. What has failed already is left out.

        Yields
        ------
        names : tuple of str
        rows : list of int
            Positions in ``contents``, at most ``size``.
        """
        chosen = list(names)
        lacking = np.stack([self.missing[name] for name in chosen], axis=1)
        lacking[list(self.failures)] = False
        # Few patterns exist, however many images: each is a row of the unique ones, in the order of first appearance.
        patterns, first, which = np.unique(lacking, axis=0, return_index=True, return_inverse=True)
        for pattern in np.argsort(first, kind="stable"):
            wanted = tuple(name for name, on in zip(chosen, patterns[pattern], strict=True) if on)
            if not wanted:
                continue
            rows = np.flatnonzero(which.reshape(-1) == pattern)
            for start in range(0, len(rows), size):
                yield wanted, [int(row) for row in rows[start : start + size]]

    def chunk(self, names: Iterable[str], rows: Sequence[int], *, here: "dict[str, Encoder]") -> Chunk:
        """Describe images to a decode worker.

        Parameters
        ----------
        names : iterable of str
            The encoders that want them.
        rows : sequence of int
            Positions in ``contents``.
        here : dict of str to Encoder
            Loaded encoders that run in the worker itself; the others get resized images.
        """
        chosen = list(names)
        preprocessings = [self.cards[name].preprocessing for name in chosen if name not in here]
        return Chunk(
            names=tuple(chosen),
            rows=tuple(rows),
            sources=tuple(self.samples.sources[self.rows[row]] for row in rows),
            # Not item by item: numpy would strip zero bytes from the end of a hash.
            contents=tuple(self.contents[row : row + 1].tobytes() for row in rows),
            decode=self.samples.decode,
            resizes={each.resize_key: each for each in preprocessings},
            encoders={name: here[name] for name in chosen if name in here},
        )

    def representative(self, count: int) -> list[int]:
        """Return positions of some contents, drawn by their hash: the same for the same images, whatever is done."""
        return [int(row) for row in hash_order(to_hex(self.contents), seed=0)[:count]]


def plan_job(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions,
    device: Callable[[], str],
    check: bool = True,
) -> Job:
    """Find out what an extraction has to do.

    Parameters
    ----------
    samples : Samples
        Hashed; those whose content is empty cannot be read.
    cards : sequence of EncoderCard
    store : EmbeddingStore
    options : ExtractOptions
    device : callable
        Returns the torch device; called only where a network has something to do.
    check : bool, default True
        Whether parts are hashed, and damaged ones set aside.
    """
    found = known_contents(samples)
    readable = np.flatnonzero(found != b"")
    contents, first = np.unique(found[readable], return_index=True)
    # The table's own order keeps parts in reading order, which later makes a block one run of memory.
    order = np.argsort(first, kind="stable")
    contents, rows = contents[order], readable[first[order]]
    job = Job(
        samples=samples,
        store=store,
        cards={card.name: card for card in cards},
        contents=contents,
        rows=rows.astype(np.int64),
    )
    for card in cards:
        choice = choose_precision(
            card, contents, store=store, wanted=options.precision, fixed=options.precisions, device=device
        )
        job.decide(card.name, choice, check=check)
    return job


ACTIVATION_VALUES = 112
"""Numbers per input pixel that a forward pass holds at its peak: what the memory of a batch is planned with. Measured
on EfficientNet-Lite0, whose early layers are wide (22 MB an image of 224 pixels); ViT-B/16 holds half of that."""

UNKNOWN_PARAMETERS = 1_200_000_000
"""Planned with where a card does not know its number of parameters: the largest encoders of the pool, ViT-g, have
about 1.1 billion."""

CPU_BATCH = 16
"""Images per forward pass on one core. From 16 on, torch uses oneDNN for 1 x 1 convolutions also with a single thread:
EfficientNet-Lite0 took 11 ms an image in eights and 7.3 in sixteens on one processor (processor time). On another, an
AMD EPYC, in twos, fours, eights and sixteens: EfficientNet-Lite0 13.8, 13.2, 13.7, 12.7; ResNet-50 98, 90, 88, 81;
ViT-Ti/16 38, 35, 34, 34; ViT-B/16 383, 379, 380 (up to eights)."""

DEVICE_BATCH = 64
"""Most images per forward pass on an accelerator, unless the user asks for more: at 197 tokens an image, 12,600 rows
in every matrix product keep a large one busy, and decoded images wait in little memory."""

GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where networks run.

    Attributes
    ----------
    device : str
        A torch device; ``cpu`` also where no network has anything to do.
    lanes : int
        Forward passes at the same time: one per core on a CPU, one on an accelerator.
    budget : int or None
        Bytes that weights and batches may take; None where nobody can tell.
    """

    device: str = "cpu"
    lanes: int = 1
    budget: int | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderPlan:
    """What one encoder is going to do.

    Attributes
    ----------
    encoder : str
    precision : {"fp32", "bf16", "fp16"}
    checked : bool
        Whether that precision has yet to pass the comparison with fp32 on images of this job.
    images : int
        How many it computes.
    stored : int
        How many the store has.
    weights : int
        Bytes of its weights; a guess where the card does not know them.
    per_image : int
        Bytes that each image of a batch takes; a rough bound.
    known : bool
        Whether the card knows the number of parameters.
    """

    encoder: str
    precision: Precision
    checked: bool
    images: int
    stored: int
    weights: int
    per_image: int
    known: bool = True

    def bytes(self, batch_size: int, lanes: int) -> int:
        """Bytes at a batch size."""
        return self.weights + self.per_image * batch_size * lanes


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """Encoders that are in memory at the same time: images are decoded once for all of them.

    Attributes
    ----------
    encoders : tuple of EncoderPlan
        The cheapest first, which is the order in which each batch goes through them.
    batch_size : int
    images : int
        Distinct images that are decoded for this group.
    bytes : int
        Of weights and of the batches that are under way.
    workers : int
        Processes, or threads, that decode and resize.
    threads : bool
        Which of the two.
    """

    encoders: tuple[EncoderPlan, ...]
    batch_size: int
    images: int
    bytes: int
    workers: int
    threads: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders' names."""
        return tuple(each.encoder for each in self.encoders)


@dataclass(frozen=True, kw_only=True)
class ExtractionPlan:
    """What an extraction is going to do.

    Attributes
    ----------
    images : int
        Distinct readable images.
    groups : tuple of GroupPlan
        In the order in which they run; empty where the store has everything.
    complete : tuple of str
        Encoders of which the store has everything.
    hardware : Hardware
    seconds : float or None
        Expected time in encoders, which is nearly all where decoding keeps up; None where one of them has not been
        measured on this machine yet.
    notes : tuple of str
        What is unusual.
    """

    images: int
    groups: tuple[GroupPlan, ...]
    complete: tuple[str, ...]
    hardware: Hardware
    seconds: float | None = None
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the plan in sentences."""
        if not self.groups:
            return [f"The store has all embeddings of {self.images:,} images: nothing to compute.", *self.notes]
        where = self.hardware.device
        if self.hardware.lanes > 1:
            where += f", {self.hardware.lanes} batches at a time"
        workers = " and ".join(dict.fromkeys(_decoders(group) for group in self.groups))
        time = (
            "time unknown until the first batches"
            if self.seconds is None
            else f"about {duration(self.seconds)} in encoders"
        )
        said = [f"Plan: {self.images:,} images on {where}; {workers}; {time}."]
        for number, group in enumerate(self.groups, start=1):
            which = f"Group {number} of {len(self.groups)}" if len(self.groups) > 1 else "One pass"
            said.append(
                f"{which}: {group.images:,} images to decode, batches of {group.batch_size}, "
                f"about {group.bytes / GIGA:.1f} GB: " + ", ".join(_encoder(each) for each in group.encoders) + "."
            )
        if self.complete:
            said.append(f"From the store: {', '.join(self.complete)}.")
        return [*said, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "images": self.images,
            "device": self.hardware.device,
            "lanes": self.hardware.lanes,
            "memory_budget": self.hardware.budget,
            "workers": max((group.workers for group in self.groups), default=0),
            "expected_seconds": self.seconds,
            "groups": [
                {
                    "batch_size": group.batch_size,
                    "images": group.images,
                    "bytes": group.bytes,
                    "encoders": [
                        {
                            "encoder": each.encoder,
                            "precision": each.precision,
                            "compared_with_fp32_first": each.checked,
                            "images": each.images,
                            "stored": each.stored,
                            "weights_bytes": each.weights if each.known else None,
                        }
                        for each in group.encoders
                    ],
                }
                for group in self.groups
            ],
            "complete": list(self.complete),
            "notes": list(self.notes),
        }


def make_plan(job: Job, hardware: Hardware, options: ExtractOptions) -> ExtractionPlan:
    """Pack the encoders that have something to do into as few groups as memory allows, the cheapest first.

    Memory of an encoder is that of its weights at the precision it computes in, and, for each image that is under way,
    :data:`ACTIVATION_VALUES` numbers per input pixel. Encoders without a network take none. The plan has an
    expected time where all encoders have been measured on this machine's device.

    Parameters
    ----------
    job : Job
    hardware : Hardware
    options : ExtractOptions
    """
    todo = job.todo
    cheapest = sorted(todo, key=lambda name: _cost(job.cards[name]))
    plans = [_plan_of(job, name) for name in cheapest]
    packed = _pack(plans, hardware, options)
    notes = []
    if len(packed) > 1:
        notes.append(
            f"Not all encoders fit in memory at once: images are decoded once for each of {len(packed)} groups."
        )
    notes += [
        f"{group[0].encoder} may not fit: it needs about {group[0].bytes(1, 1) / GIGA:.1f} GB, "
        f"{hardware.budget / GIGA:.1f} GB are planned with."
        for group, _ in packed
        if hardware.budget is not None and group[0].bytes(1, 1) > hardware.budget
    ]
    unknown = [each.encoder for each in plans if not each.known]
    if unknown:
        notes.append(f"How large {', '.join(unknown)} is, its card does not say: a large encoder is planned with.")
    notes += _enlarged(job)
    rates = _read_rates(job.store).get(_machine(hardware), {})
    measured = [rates.get(job.folders[name].path.name) for name in todo]
    known = [rate * count for rate, count in zip(measured, todo.values(), strict=True) if rate is not None]
    return ExtractionPlan(
        images=len(job.contents),
        groups=tuple(_group(job, group, size, hardware, options) for group, size in packed),
        complete=tuple(name for name in job.cards if name not in todo),
        hardware=hardware,
        seconds=sum(known) if todo and len(known) == len(todo) else None,
        notes=tuple(notes),
    )


def _enlarged(job: Job) -> list[str]:
    """Say which encoders see images larger than they may be decoded."""
    draft = job.samples.decode.draft
    sides = {name: job.cards[name].preprocessing.size for name in job.todo}
    larger = [f"{name} ({side})" for name, side in sides.items() if draft is not None and draft < side]
    said = (
        f"{option('draft', draft)} may decode JPEG files smaller than encoders take them, which then see them enlarged"
    )
    return [f"{said}: {', '.join(larger)}."] if larger else []


def _plan_of(job: Job, name: str) -> EncoderPlan:
    card, choice = job.cards[name], job.choices[name]
    missing = int(job.missing[name].sum())
    network = card.runtime == "torch"
    weights = card.weight_bytes(choice.precision) if network else 0
    pixels = card.preprocessing.output_size**2
    return EncoderPlan(
        encoder=name,
        precision=choice.precision,
        checked=choice.check,
        images=missing,
        stored=len(job.contents) - missing,
        weights=UNKNOWN_PARAMETERS * BYTES[choice.precision] if weights is None else weights,
        per_image=ACTIVATION_VALUES * pixels * BYTES[choice.precision] if network else 0,
        known=weights is not None,
    )


def _cost(card: EncoderCard) -> tuple[bool, float]:
    """Order by arithmetic per image: known before unknown; of an unknown one, its weights tell something."""
    if card.runtime == "numpy":
        return False, 0.0
    if card.gflops is not None:
        return False, card.gflops
    return True, float(card.parameters or UNKNOWN_PARAMETERS)


def first_part(cards: Iterable[EncoderCard]) -> tuple[str, ...]:
    """Return the encoders of a first result: the cheapest, which together take at most half of a pool's arithmetic.

    What takes an unknown amount is left for later. Empty where nothing would be left for later.

    Parameters
    ----------
    cards : iterable of EncoderCard
        The pool.
    """
    costs = {card.name: _cost(card) for card in cards}
    amounts = {name: math.inf if unknown else amount for name, (unknown, amount) in costs.items()}
    cheapest = sorted(amounts, key=lambda name: amounts[name])
    so_far = np.cumsum([amounts[name] for name in cheapest])
    part = {name for name, sum_ in zip(cheapest, so_far, strict=True) if math.isfinite(sum_) and 2 * sum_ <= so_far[-1]}
    return () if len(part) == len(costs) else tuple(name for name in costs if name in part)


def _pack(
    plans: Sequence[EncoderPlan], hardware: Hardware, options: ExtractOptions
) -> list[tuple[list[EncoderPlan], int]]:
    groups: list[tuple[list[EncoderPlan], int]] = []
    for plan in plans:
        if groups:
            together = [*groups[-1][0], plan]
            size = _batch_size(together, hardware, options)
            if size:
                groups[-1] = (together, size)
                continue
        groups.append(([plan], _batch_size([plan], hardware, options) or 1))
    return groups


def _batch_size(plans: Sequence[EncoderPlan], hardware: Hardware, options: ExtractOptions) -> int:
    """Return the images per batch that a group has room for; 0 where it does not fit.

    Encoders run one after the other, so that the largest activations count, and all weights.
    """
    most = options.batch_size or (CPU_BATCH if hardware.device == "cpu" else DEVICE_BATCH)
    images = max(each.images for each in plans)
    # A small job is shared by the lanes rather than done by one of them.
    most = max(min(most, math.ceil(images / hardware.lanes)), 1) if options.batch_size is None else most
    if hardware.budget is None:
        return most
    room = hardware.budget - sum(each.weights for each in plans)
    per_image = max(each.per_image for each in plans) * hardware.lanes
    if room < per_image:
        return 0
    if per_image == 0 or options.batch_size is not None:
        return most
    return most if per_image * most <= room else 2 ** int(math.log2(room // per_image))


def _group(job: Job, plans: Sequence[EncoderPlan], size: int, hardware: Hardware, options: ExtractOptions) -> GroupPlan:
    images = int(np.any([job.missing[each.encoder] for each in plans], axis=0).sum())
    activations = max(each.per_image for each in plans) * size * hardware.lanes
    workers, threads = decode_workers(job, [each.encoder for each in plans], images, hardware.device, options)
    return GroupPlan(
        encoders=tuple(plans),
        batch_size=size,
        images=images,
        bytes=sum(each.weights for each in plans) + activations,
        workers=workers,
        threads=threads,
    )


MAX_THREADS = 4
"""Most cores on which threads decode for networks on a CPU. Two processes take a second and a half of processor time to
start: 300 photographs of 1,024 pixels take 9.9 s of it with EfficientNet-Lite0 and threads, 11.6 s with processes. More
threads than this get in one another's way: some tenth of decoding is Python's."""


def decode_workers(
    job: Job, names: Iterable[str], images: int, device: str, options: ExtractOptions
) -> tuple[int, bool]:
    """Return how many decode images for some encoders, and whether they are threads rather than processes.

    Threads do where they spend their time in libraries that let others run meanwhile: plain image files, and slices of
    NIfTI volumes, each of which is then unpacked once for all of them; and encoders that are networks. A number of
    workers that was asked for is one of processes.
    """
    workers = options.n_workers(images)
    sources = (job.samples.sources[row] for row in job.rows)
    threads = (
        options.workers is None
        and options.engine == "local"
        and device == "cpu"
        and usable_cores() <= MAX_THREADS
        and all(job.cards[name].runtime == "torch" for name in names)
        and all(type(source) in {FileSource, VolumeSlice} for source in sources)
    )
    return (min(usable_cores(), images), True) if threads else (workers, False)


def _decoders(group: GroupPlan) -> str:
    if not group.workers:
        return "this process decodes"
    return f"{group.workers} {'threads' if group.threads else 'processes'} decode"


def _encoder(plan: EncoderPlan) -> str:
    precision = plan.precision + (", compared with fp32 first" if plan.checked else "")
    stored = f"; {plan.stored:,} in the store" if plan.stored else ""
    return f"{plan.encoder} ({precision}{stored})"


RATES_FILE = ".rates.json"
"""Name of the file in the store's folder; a hint, and no part of the store."""

ENOUGH_IMAGES = 128
"""Fewer do not tell: the first batches of a run are slow, and the last one is small."""


def remember_rates(job: Job, hardware: Hardware, *, seconds: Mapping[str, float], computed: Mapping[str, int]) -> None:
    """Keep what was measured.

    Parameters
    ----------
    job : Job
    hardware : Hardware
    seconds : mapping of str to float
        Of the forward passes of each encoder, over all lanes.
    computed : mapping of str to int
        Images that each has seen.
    """
    new = {
        job.folders[name].path.name: spent / computed[name] / hardware.lanes
        for name, spent in seconds.items()
        if computed.get(name, 0) >= ENOUGH_IMAGES
    }
    if not new or not job.store.keep:
        return
    rates = _read_rates(job.store)
    rates[_machine(hardware)] = rates.get(_machine(hardware), {}) | new
    with contextlib.suppress(DiskError):  # the embeddings are written; without the hint the next plan has no time
        write_text(job.store.root / RATES_FILE, json.dumps(rates, indent=1) + "\n")


def _machine(hardware: Hardware) -> str:
    return f"{platform.node()} {hardware.device} {hardware.lanes}"


def _read_rates(store: EmbeddingStore) -> dict[str, dict[str, float]]:
    if not store.on_disk:
        return {}
    try:
        found = read_json(store.root / RATES_FILE)
        return {str(key): {str(name): float(value) for name, value in each.items()} for key, each in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
