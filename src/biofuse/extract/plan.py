"""What an extraction is going to do, as data and as lines to read, before it does it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.memory import BYTES, weight_bytes
from biofuse.extract.job import Job
from biofuse.extract.options import ExtractOptions

ACTIVATION_VALUES = 112
"""Numbers per input pixel that a forward pass holds at its peak: what the memory of a batch is planned with. Measured
on EfficientNet-Lite0, whose early layers are wide (22 MB an image of 224 pixels); ViT-B/16 holds half of that."""

UNKNOWN_PARAMETERS = 1_200_000_000
"""Planned with where a card does not know its number of parameters: the largest encoders of the pool, ViT-g, have
about 1.1 billion."""

CPU_BATCH = 16
"""Images per forward pass on one core. From 16 on, torch uses oneDNN for 1 x 1 convolutions also with a single thread:
EfficientNet-Lite0 takes 11 ms an image in eights and 7.3 in sixteens (processor time); ViT-B/16 the same in all."""

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
    """

    encoders: tuple[EncoderPlan, ...]
    batch_size: int
    images: int
    bytes: int

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
    workers : int
        Processes that decode and resize.
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
    workers: int
    seconds: float | None = None
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the plan in sentences."""
        if not self.groups:
            return [f"The store has all embeddings of {self.images:,} images: nothing to compute.", *self.notes]
        where = self.hardware.device
        if self.hardware.lanes > 1:
            where += f", {self.hardware.lanes} batches at a time"
        workers = f"{self.workers} processes decode" if self.workers else "this process decodes"
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
            "workers": self.workers,
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


def make_plan(
    job: Job, hardware: Hardware, options: ExtractOptions, *, seconds_per_image: Mapping[str, float] | None = None
) -> ExtractionPlan:
    """Pack the encoders that have something to do into as few groups as memory allows, the cheapest first.

    Memory of an encoder is that of its weights at the precision it computes in, and, for each image that is under way,
    :data:`ACTIVATION_VALUES` numbers per input pixel. Encoders without a network take none.

    Parameters
    ----------
    job : Job
    hardware : Hardware
    options : ExtractOptions
    seconds_per_image : mapping of str to float, optional
        What has been measured; the plan has an expected time where all encoders have one.
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
    known = seconds_per_image or {}
    seconds = None
    if todo and all(name in known for name in todo):
        seconds = sum(known[name] * count for name, count in todo.items())
    return ExtractionPlan(
        images=len(job.contents),
        groups=tuple(_group(job, group, size, hardware) for group, size in packed),
        complete=tuple(name for name in job.cards if name not in todo),
        hardware=hardware,
        workers=options.n_workers(max(todo.values(), default=0)),
        seconds=seconds,
        notes=tuple(notes),
    )


def duration(seconds: float) -> str:
    """Write a time for a person."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _plan_of(job: Job, name: str) -> EncoderPlan:
    card, choice = job.cards[name], job.choices[name]
    missing = int(job.missing[name].sum())
    network = card.runtime == "torch"
    weights = weight_bytes(card, precision=choice.precision) if network else 0
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


def _group(job: Job, plans: Sequence[EncoderPlan], size: int, hardware: Hardware) -> GroupPlan:
    images = int(np.any([job.missing[each.encoder] for each in plans], axis=0).sum())
    activations = max(each.per_image for each in plans) * size * hardware.lanes
    return GroupPlan(
        encoders=tuple(plans),
        batch_size=size,
        images=images,
        bytes=sum(each.weights for each in plans) + activations,
    )


def _encoder(plan: EncoderPlan) -> str:
    precision = plan.precision + (", compared with fp32 first" if plan.checked else "")
    stored = f"; {plan.stored:,} in the store" if plan.stored else ""
    return f"{plan.encoder} ({precision}{stored})"


__all__ = [
    "EncoderPlan",
    "ExtractionPlan",
    "GroupPlan",
    "Hardware",
    "duration",
    "make_plan",
]
