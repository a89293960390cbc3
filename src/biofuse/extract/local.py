"""The local engine: this machine's cores decode, one device runs the networks."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from biofuse.core.errors import BioFuseError, DataError, EncoderError
from biofuse.core.hashing import hash_order
from biofuse.core.machine import free_memory, keep_freed_memory, usable_cores
from biofuse.core.progress import Tell
from biofuse.data.decoding import decode
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import Encoder, TorchEncoder, UInt8Images
from biofuse.encoders.registry import load_encoder
from biofuse.extract.forward import BatchSizes, CudaStream, ForwardThreads, Sink
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
    """Runs encoders on one device of this machine: the first, where the options name several, taken to be alike.

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
        self._ready: dict[str, Encoder] = {}

    @cached_property
    def device(self) -> str:
        """The torch device that networks run on.

        Raises
        ------
        BioFuseError
            If it does not exist on this machine.
        """
        names = device_names(self._options.device)
        # "auto" stays as it is where there is nothing to choose: that also finds Apple's devices.
        return choose_device(names[0] if len(names) > 1 else self._options.device)

    def hardware(self, *, networks: bool) -> Hardware:
        """Return where encoders run; without networks, no device is looked for."""
        budget = self._options.memory
        if not networks:
            return Hardware(budget=budget)
        on_cpu = self.device.startswith("cpu")
        if budget is None:
            free = free_memory(self.device)
            budget = None if free is None else int(free * (CPU_SHARE if on_cpu else DEVICE_SHARE))
        # Several processes on the CPU share the cores and the memory of the machine.
        several = len(device_names(self._options.device)) if on_cpu else 1
        return Hardware(
            device=self.device,
            lanes=max(usable_cores() // several, 1) if on_cpu else 1,
            budget=budget if budget is None else budget // several,
        )

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
    ) -> CudaStream | ForwardThreads:
        """Return what runs prepared images through loaded networks on this device."""
        own = {name: each for name, each in networks.items() if isinstance(each, TorchEncoder)}
        if self.device.startswith("cuda") and len(own) == len(networks):
            return CudaStream(own, sizes, device=self.device)
        return ForwardThreads(networks, sizes, lanes=lanes, threads=threads)

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


def devices_of(options: ExtractOptions, job: Job) -> tuple[str, ...]:
    """Return the devices that what is missing is divided among: one, except for many images or where several are named.

    Several are for the local engine only, and where a network has something to do.
    """
    images = max((count for name, count in job.todo.items() if job.cards[name].runtime == "torch"), default=0)
    if options.engine != "local" or not images or (images <= SMALL_JOB and "," not in options.device):
        return (options.device,)
    return device_names(options.device)


IMAGES = 16
"""Enough for a batch that is representative, few enough for the slowest encoder on a CPU."""

REPEATS = 3
"""Timed passes; the quickest counts, since what else the machine does can only slow one down."""


def measure_latency(
    samples: Samples, cards: Sequence[EncoderCard], *, options: ExtractOptions | None = None, n_images: int = IMAGES
) -> dict[str, float]:
    """Time resizing and forward pass of some of the images; decoding, which all encoders share, is left out.

    Parameters
    ----------
    samples : Samples
        Readable images; those timed are drawn by a hash of their ids.
    cards : sequence of EncoderCard
    options : ExtractOptions, optional
        Device, batch size, and the precision of each encoder.
    n_images : int, default 16

    Returns
    -------
    dict of str to float
        Milliseconds per image of each encoder.

    Raises
    ------
    DataError
        If there is no image.
    """
    if not len(samples):
        raise DataError(f"{samples.name} holds no image to time encoders on.")
    options = options or ExtractOptions()
    device = "cpu"
    if any(card.runtime == "torch" for card in cards):
        device = choose_device(options.device)
    rows = hash_order(samples.ids.tolist(), seed=0)[: min(n_images, options.batch_size or n_images)]
    sources = [samples.sources[row] for row in rows]
    images = [decode(source.read(), samples.decode, description=source.description) for source in sources]
    found = {}
    for card in cards:
        precision = options.precisions.get(card.name, "fp32")
        encoder = load_encoder(card, device=device, precision=precision, weights_path=options.weights_of(card))
        times = []
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            encode(encoder, np.stack([card.preprocessing.apply(image) for image in images]))
            times.append(time.perf_counter() - start)
        found[card.name] = 1000 * min(times[1:]) / len(images)  # the first pass loads libraries and warms up
    return found
