"""The local engine: this machine's cores decode, one device runs the networks."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError, EncoderError
from biofuse.core.machine import free_memory, keep_freed_memory, usable_cores
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import Encoder, TorchEncoder, UInt8Images
from biofuse.encoders.function import pack_builders
from biofuse.encoders.registry import load_encoder
from biofuse.extract.device_process import DeviceProcesses, Share
from biofuse.extract.forward import BatchSizes, CudaStream, Lanes, Sink, Tell
from biofuse.extract.options import SMALL_JOB, ExtractOptions, choose_device
from biofuse.extract.plan import ExtractionPlan, GroupPlan, Hardware, Job
from biofuse.extract.precision import PARITY_COSINE, PARITY_IMAGES, least_cosine
from biofuse.extract.prepare import Decoder, Outcome, encode

CPU_SHARE, DEVICE_SHARE = 0.6, 0.8
"""Share of the free memory that is planned with: on a CPU decode workers, images under way and everything else of the
machine need some of it too; on an accelerator, allocators lose some to fragments."""

PARITY_BATCH = 4
"""Images at a time in the comparison of precisions, where speed does not matter."""


class LocalEngine:
    """Runs encoders on one device of this machine.

    Parameters
    ----------
    options : ExtractOptions
    tell : callable, optional
        Receives news line by line.
    """

    def __init__(self, options: ExtractOptions, *, tell: Tell = lambda _: None) -> None:
        self._options = options
        self._tell = tell
        self._ready: dict[str, Encoder] = {}

    @cached_property
    def device(self) -> str:
        """The torch device that networks run on.

        Raises
        ------
        BioFuseError
            If it does not exist on this machine.
        """
        return choose_device(self._options.device)

    def hardware(self, *, networks: bool) -> Hardware:
        """Return where encoders run; without networks, no device is looked for."""
        if not networks:
            return Hardware(budget=self._options.memory)
        kind = self.device.partition(":")[0]
        lanes = usable_cores() if kind == "cpu" else 1
        budget = self._options.memory
        if budget is None:
            free = free_memory(self.device)
            budget = None if free is None else int(free * (CPU_SHARE if kind == "cpu" else DEVICE_SHARE))
        return Hardware(device=self.device, lanes=lanes, budget=budget)

    def parity(self, job: Job, names: tuple[str, ...], *, keep: bool) -> dict[str, float]:
        """Embed some images of a job at fp32 and at each encoder's lower precision.

        Parameters
        ----------
        job : Job
        names : tuple of str
            Encoders that are to run at a lower precision.
        keep : bool
            Whether to keep the encoders in memory for the run.

        Returns
        -------
        dict of str to float
            The least cosine over the images; -1 where no image could be read.
        """
        chunk = job.chunk(names, job.representative(PARITY_IMAGES), here={})
        with Decoder([chunk], workers=self._options.n_workers(max(job.todo.values()))) as decoder:
            (prepared,) = list(decoder)
        found = {}
        for name in names:
            if not prepared.rows:
                found[name] = -1.0
                continue
            card, images = job.cards[name], prepared.images[job.cards[name].preprocessing.resize_key]
            full = self.load(card, "fp32")
            reference = self._embed(full, images)
            precision = job.choices[name].precision
            low = full.at(precision) if isinstance(full, TorchEncoder) else self.load(card, precision)
            found[name] = least_cosine(self._embed(low, images), reference)
            if keep and found[name] >= PARITY_COSINE:
                self._ready[name] = low
            del full, low
            self._free()
        return found

    def run(self, job: Job, plan: ExtractionPlan, sink: Sink) -> None:
        """Embed what is missing, group by group."""
        with keep_freed_memory() if plan.hardware.device == "cpu" else contextlib.nullcontext():
            for group in plan.groups:
                self._run_group(job, group, plan.hardware, sink)
                self._free()

    def _run_group(self, job: Job, group: GroupPlan, hardware: Hardware, sink: Sink) -> None:
        here = {name: self.load(job.cards[name], "fp32") for name in group.names if _in_worker(job.cards[name])}
        chunks = (job.chunk(names, rows, here=here) for names, rows in job.batches(group.names, group.batch_size))
        with Decoder(chunks, workers=self._options.n_workers(group.images)) as decoder:
            networks = {name: self._prepared(job, name) for name in group.names if name not in here}
            if not networks:
                for prepared in decoder:
                    sink.take(Outcome.of(prepared))
                return
            lanes = min(hardware.lanes, -(-group.images // group.batch_size))
            self.through(networks, self.sizes(networks, group.batch_size), lanes=lanes).run(decoder, sink)

    def sizes(self, encoders: Iterable[str], batch_size: int) -> BatchSizes:
        """Return the batch sizes that encoders begin with; they are halved when this device's memory runs out."""
        return BatchSizes(dict.fromkeys(encoders, batch_size), tell=self._tell, free=self._free)

    def through(
        self, networks: Mapping[str, Encoder], sizes: BatchSizes, *, lanes: int, threads: int | None = None
    ) -> CudaStream | Lanes:
        """Return what runs prepared images through loaded networks on this device."""
        own = {name: each for name, each in networks.items() if isinstance(each, TorchEncoder)}
        if self.device.startswith("cuda") and len(own) == len(networks):
            return CudaStream(own, sizes, device=self.device)
        return Lanes(networks, sizes, lanes=lanes, threads=threads)

    def _prepared(self, job: Job, name: str) -> Encoder:
        if name in self._ready:
            return self._ready.pop(name)
        return self.load(job.cards[name], job.choices[name].precision)

    def load(self, card: EncoderCard, precision: Precision) -> Encoder:
        """Load an encoder, and refuse one whose embeddings would belong in another folder of the store."""
        device = "cpu" if card.runtime == "numpy" else self.device
        path = self._options.weights_of(card)
        encoder = load_encoder(card, device=device, precision=precision, weights_path=path)
        if encoder.card.fingerprint() != card.fingerprint():
            raise EncoderError(
                f"{card.name} was loaded from other weights than its card names, or its card names none in particular.",
                remedy="Put the file's hash on the card: biofuse.encoders.pin(card), or Weights(..., sha256=...).",
            )
        return encoder

    def _embed(self, encoder: Encoder, images: UInt8Images) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
        sizes = BatchSizes({encoder.card.name: PARITY_BATCH}, tell=self._tell, free=self._free)
        pass_through: Callable[[UInt8Images], np.ndarray] = lambda some: encode(encoder, some)  # noqa: E731
        return np.concatenate(sizes.run(encoder.card.name, images, pass_through))

    def _free(self) -> None:
        """Give back what the device's allocator keeps."""
        if "device" not in self.__dict__:
            return
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        elif self.device.startswith("mps"):
            torch.mps.empty_cache()


def _in_worker(card: EncoderCard) -> bool:
    return card.runtime == "numpy"


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
        return LocalEngine(self._options.but(device=self._devices[0]) if several else self._options, tell=self._tell)

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
        options = self._options.but(workers=-(-workers // len(devices)))
        builders = pack_builders(job.cards.values())
        with DeviceProcesses(self._tell) as processes:
            for number, (device, share) in enumerate(zip(devices, shares, strict=True)):
                cores = _cores(number, len(devices)) if device == "cpu" else None
                processes.start(
                    Share(job=_part(job, share), rows=share, plan=plan, builders=builders, cores=cores),
                    options.but(device=device),
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
