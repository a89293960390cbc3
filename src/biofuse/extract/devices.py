"""Several devices of this machine: a process for each, over a share of what is missing."""

import os
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError
from biofuse.encoders.travel import pack_builders
from biofuse.extract.batches import Tell
from biofuse.extract.device_process import DeviceProcesses, Share
from biofuse.extract.forward import Sink
from biofuse.extract.job import Job
from biofuse.extract.local import LocalEngine
from biofuse.extract.options import SMALL_JOB, ExtractOptions
from biofuse.extract.plan import ExtractionPlan, Hardware


def device_names(requested: str) -> tuple[str, ...]:
    """Return the devices that ``device`` names: ``cuda:0,cuda:1`` names two, ``auto`` all CUDA devices there are."""
    named = tuple(name.strip() for name in requested.split(",") if name.strip())
    if named != ("auto",):
        return named
    import torch

    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) or named


class MachineEngine:
    """Runs encoders on this machine: in this process on one device, in a process per device on several.

    Each process takes a run of neighbouring contents, decodes them with workers of its own, and sends finished batches
    here, where they are counted and written: what is true of the writer is true however many devices there are.
    Processes are started afresh, nothing is forked.

    Parameters
    ----------
    options : ExtractOptions
    tell : callable, optional
        Receives news line by line.
    """

    def __init__(self, options: ExtractOptions, *, tell: Tell = lambda _: None) -> None:
        if not options.device.strip(", "):
            raise BioFuseError(
                "No device is named.", remedy="Use --device auto, or for instance --device cuda:0,cuda:1."
            )
        self._options = options
        self._tell = tell

    @cached_property
    def _devices(self) -> tuple[str, ...]:
        return device_names(self._options.device)

    @cached_property
    def _first(self) -> LocalEngine:
        # "auto" stays as it is where there is nothing to choose: that also finds Apple's devices.
        several = "," in self._options.device or len(self._devices) > 1
        return LocalEngine(
            replace(self._options, device=self._devices[0]) if several else self._options, tell=self._tell
        )

    @property
    def device(self) -> str:
        """The torch device that networks run on; the first of several, which are taken to be alike."""
        return self._first.device

    def hardware(self, *, networks: bool) -> Hardware:
        """Return what the process of one device is planned with."""
        if not networks:
            return Hardware(budget=self._options.memory)
        found, several = self._first.hardware(networks=networks), len(self._devices)
        if several == 1 or not found.device.startswith("cpu"):
            return found
        # The processes share the cores and the memory of the machine.
        budget = found.budget if found.budget is None else found.budget // several
        return replace(found, lanes=max(found.lanes // several, 1), budget=budget)

    def parity(self, job: Job, names: tuple[str, ...], *, keep: bool) -> dict[str, float]:
        """Compare precisions on the first device."""
        return self._first.parity(job, names, keep=keep and len(self._devices) == 1)

    def run(self, job: Job, plan: ExtractionPlan, sink: Sink) -> None:
        """Embed what is missing.

        Raises
        ------
        BioFuseError
            What the process of a device raised, or that it was killed.
        """
        images = max((count for name, count in job.todo.items() if job.cards[name].runtime == "torch"), default=0)
        asked_for = "," in self._options.device
        if not images or len(self._devices) == 1 or (images <= SMALL_JOB and not asked_for):
            self._first.run(job, plan, sink)
            return
        lacking = np.flatnonzero(np.any([job.missing[name] for name in job.todo], axis=0))
        shares = [share for share in np.array_split(lacking, len(self._devices)) if len(share)]
        devices = self._devices[: len(shares)]
        self._tell(f"A process for each of {len(devices)} devices: {', '.join(devices)}.")
        workers = self._options.n_workers(images)
        options = replace(self._options, workers=-(-workers // len(devices)))
        builders = pack_builders(job.cards.values())
        with DeviceProcesses(self._tell) as processes:
            for number, (device, share) in enumerate(zip(devices, shares, strict=True)):
                cores = _cores(number, len(devices)) if device == "cpu" else None
                processes.start(
                    Share(job=_part(job, share), rows=share, plan=plan, builders=builders, cores=cores),
                    replace(options, device=device),
                )
            processes.collect(sink)


def _part(job: Job, rows: NDArray[np.int64]) -> Job:
    """Return the part of a job that is about some of its contents, with nothing of the others."""
    return replace(
        job,
        samples=job.samples.take(job.rows[rows]),
        contents=job.contents[rows],
        rows=np.arange(len(rows), dtype=np.int64),
        missing={name: mask[rows] for name, mask in job.missing.items()},
        folders={},
        healed=[],
        failures={},
    )


def _cores(number: int, of: int) -> tuple[int, ...] | None:
    """Return the cores of one of several processes that all compute on the CPU; None where that cannot be set."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    mine = sorted(os.sched_getaffinity(0))
    return tuple(mine[number::of]) or tuple(mine)


__all__ = ["MachineEngine", "device_names"]
