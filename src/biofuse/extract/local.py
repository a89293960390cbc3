"""The local engine: this machine's cores decode, one device runs the networks."""

import contextlib
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from biofuse.core.errors import BioFuseError, DataError, EncoderError, option
from biofuse.core.hashing import hash_order
from biofuse.core.machine import free_memory, keep_freed_memory, usable_cores
from biofuse.core.progress import Tell
from biofuse.data.decoding import decode
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import Embeddings, Encoder, TorchEncoder, UInt8Images
from biofuse.encoders.graph import WORTH_SECONDS, in_onnx_runtime
from biofuse.encoders.registry import load_encoder
from biofuse.extract.options import SMALL_JOB, ExtractOptions, choose_device
from biofuse.extract.plan import (
    PARITY_COSINE,
    PARITY_IMAGES,
    ExtractionPlan,
    GroupPlan,
    Hardware,
    Job,
    decode_workers,
    least_cosine,
)
from biofuse.extract.prepare import FORWARD, TRANSFER, Batch, Decoder, accept, encode, encoder_errors

if TYPE_CHECKING:
    import torch


Images = TypeVar("Images", UInt8Images, "torch.Tensor")
Result = TypeVar("Result")

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
"""What is in the message of a ``RuntimeError`` (DefaultCPUAllocator, MPS, ONNX Runtime) that memory ran out."""


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, says that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        named = type(seen).__name__ == "OutOfMemoryError"  # torch's own; torch may not be loaded
        if named or isinstance(seen, MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(words in str(seen).lower() for words in OUT_OF_MEMORY):
            return True
        seen = seen.__cause__
    return False


class BatchSizes:
    """How many images each encoder takes at once; halved when memory runs out, and remembered.

    Parameters
    ----------
    sizes : mapping of str to int
        To begin with.
    tell : callable
        Is told when one is halved.
    free : callable, optional
        Gives memory back that the device's allocator keeps.
    """

    def __init__(
        self, sizes: Mapping[str, int], *, tell: Tell = lambda _: None, free: Callable[[], None] | None = None
    ) -> None:
        self._sizes = dict(sizes)
        self._tell = tell
        self._free = free or (lambda: None)
        self._lock = threading.Lock()

    def run(self, encoder: str, images: Images, encode: Callable[[Images], Result]) -> list[Result]:
        """Embed images, a few at a time, and again in smaller batches where memory runs out.

        Parameters
        ----------
        encoder : str
        images : ndarray or torch.Tensor, shape (n, ...)
        encode : callable
            Takes some of them.

        Returns
        -------
        list
            What ``encode`` gave, in the order of the images.

        Raises
        ------
        EncoderError
            If memory runs out for a single image.
        """
        parts: list[Result] = []
        done = 0
        while done < len(images):
            size = min(self._sizes[encoder], len(images) - done)
            try:
                parts.append(encode(images[done : done + size]))
            except (RuntimeError, MemoryError, EncoderError) as error:
                if not out_of_memory(error):
                    raise
                message = str(error)
            else:
                done += size
                continue
            # Only here: while the error is handled, its traceback holds on to the tensors of the failed pass.
            self._halve(encoder, size, message)
        return parts

    def _halve(self, encoder: str, tried: int, message: str) -> None:
        gc.collect()
        self._free()
        if tried == 1:
            raise EncoderError(
                f"{encoder} runs out of memory with a single image: {message.splitlines()[0]}",
                remedy=f"Use a device with more memory: {option('device', 'cpu')}; or leave this encoder out.",
            )
        with self._lock:
            smaller = tried // 2
            if smaller < self._sizes[encoder]:  # another thread may have been quicker
                self._sizes[encoder] = smaller
                self._tell(f"Memory ran out: {encoder} goes on with batches of {smaller}.")


BATCHES_PER_LANE = 2
"""Batches per lane: one that is computed, and one that waits for it."""


class Sink(Protocol):
    """Receives finished batches."""

    def take(self, batch: Batch) -> None:
        """Receive a batch; may refuse to go on by raising."""
        ...

    def keep(self, batch: Batch) -> None:
        """Receive a batch that was finished when the run was stopped."""
        ...


class ForwardThreads:
    """Whole batches on several threads at the same time, each on its share of the cores.

    One forward pass that spreads over all cores waits for its slowest part after every operation, and that is one whose
    core is decoding an image. Passes that keep to one core each have nothing to wait for, and the operating system
    shares the cores among them and the decode workers. Weights are shared by all.

    Parameters
    ----------
    encoders : mapping of str to Encoder
        The cheapest first.
    sizes : BatchSizes
    lanes : int
        Fewer are used where an encoder is not BioFuse's own, which may not stand two threads.
    threads : int, optional
        Cores of each lane; by default all that this process may use are shared out.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], sizes: BatchSizes, *, lanes: int, threads: int | None = None
    ) -> None:
        self._encoders = dict(encoders)
        self._sizes = sizes
        own = all(isinstance(encoder, TorchEncoder) for encoder in encoders.values())
        self._lanes = lanes if own else 1
        self._threads = threads or max(usable_cores() // self._lanes, 1)

    def run(self, prepared: Iterable[Batch], sink: Sink) -> None:
        """Embed everything, in the order in which it comes."""
        import torch

        before = torch.get_num_threads()
        # The number of threads belongs to the thread that sets it: each lane sets its own.
        pool = ThreadPoolExecutor(self._lanes, "biofuse-lane", torch.set_num_threads, (self._threads,))
        waiting: deque[Future[Batch]] = deque()
        try:
            for item in prepared:
                waiting.append(pool.submit(self._embed, item))
                while len(waiting) >= BATCHES_PER_LANE * self._lanes or (waiting and waiting[0].done()):
                    sink.take(waiting.popleft().result())
            while waiting:
                sink.take(waiting.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)
            for future in waiting:  # a stop by the user, or one bad image, must not lose what is finished
                if not future.cancelled() and future.exception() is None:
                    sink.keep(future.result())

    def _embed(self, item: Batch) -> Batch:
        found: dict[str, Embeddings] = {}
        for name in item.names if item.rows else ():
            if name in self._encoders:
                found[name] = self._through(self._encoders[name], item)
        return item.finished(found)

    def _through(self, encoder: Encoder, item: Batch) -> Embeddings:
        name, images = encoder.card.name, item.images[encoder.card.preprocessing.resize_key]
        # With one thread, processor time is the pass's own, however busy the cores are otherwise.
        clock = item.stages.processor if self._threads == 1 else item.stages.wall
        with clock(FORWARD, encoder=name):
            parts = self._sizes.run(name, images, partial(encode, encoder))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass
class _Launched:
    """A batch whose work is queued on the device."""

    item: Batch
    embeddings: "dict[str, torch.Tensor]"
    moments: "dict[str, tuple[torch.cuda.Event, torch.cuda.Event]]"
    moved: "tuple[torch.cuda.Event, torch.cuda.Event] | None"


class CudaStream:
    """Batches one after the other on a CUDA device, which always has the next one queued.

    Images are copied from pinned memory on a stream of their own while the batch before is computed; embeddings are
    copied back without waiting, and looked at when the batch after has been queued.

    Parameters
    ----------
    encoders : mapping of str to TorchEncoder
        The cheapest first.
    sizes : BatchSizes
    device : str
    """

    def __init__(self, encoders: Mapping[str, TorchEncoder], sizes: BatchSizes, *, device: str) -> None:
        import torch

        self._encoders = dict(encoders)
        self._sizes = sizes
        self._device = torch.device(device)
        self._copies: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def run(self, prepared: Iterable[Batch], sink: Sink) -> None:
        """Embed everything, in the order in which it comes."""
        import torch

        waiting: deque[_Launched] = deque()
        with torch.cuda.device(self._device):
            try:
                for item in prepared:
                    waiting.append(self._launch(item))
                    if len(waiting) > 1:
                        sink.take(self._collect(waiting.popleft()))
                while waiting:
                    sink.take(self._collect(waiting.popleft()))
            finally:
                for launched in waiting:
                    sink.keep(self._collect(launched))

    def _launch(self, item: Batch) -> _Launched:
        import torch

        launched = _Launched(item, {}, {}, None)
        names = [name for name in item.names if name in self._encoders and item.rows]
        if not names:
            return launched
        compute = torch.cuda.current_stream()
        moved: dict[Any, torch.Tensor] = {}
        with torch.cuda.stream(self._copies):
            launched.moved = _events()
            launched.moved[0].record()
            for key, images in item.images.items():
                moved[key] = torch.from_numpy(images).pin_memory().to(self._device, non_blocking=True)
            launched.moved[1].record()
        compute.wait_stream(self._copies)
        for name in names:
            batch = moved[self._encoders[name].card.preprocessing.resize_key]
            # Allocated on the other stream: it must not be given away there while this one still reads it.
            batch.record_stream(compute)
            launched.moments[name] = _events()
            launched.moments[name][0].record()
            launched.embeddings[name] = self._through(self._encoders[name], batch)
            launched.moments[name][1].record()
        return launched

    def _through(self, encoder: TorchEncoder, batch: "torch.Tensor") -> "torch.Tensor":
        import torch

        def pass_through(images: "torch.Tensor") -> "torch.Tensor":
            with encoder_errors(encoder.card, len(images)):
                return encoder.forward(images)

        parts = self._sizes.run(encoder.card.name, batch, pass_through)
        output = parts[0] if len(parts) == 1 else torch.cat(parts)
        return torch.empty(output.shape, dtype=output.dtype, pin_memory=True).copy_(output, non_blocking=True)

    def _collect(self, launched: _Launched) -> Batch:
        stages, found = launched.item.stages, {}
        for name, embeddings in launched.embeddings.items():
            begin, end = launched.moments[name]
            end.synchronize()
            stages.add(FORWARD, begin.elapsed_time(end) / 1000, encoder=name)
            found[name] = accept(self._encoders[name].card, embeddings.numpy().copy(), len(launched.item.rows))
        if launched.moved is not None:
            stages.add(TRANSFER, launched.moved[0].elapsed_time(launched.moved[1]) / 1000)
        return launched.item.finished(found)


def _events() -> "tuple[torch.cuda.Event, torch.cuda.Event]":
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    return begin, end


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
                "No device is named.",
                remedy=f"Use {option('device', 'auto')}, or for instance {option('device', 'cuda:0,cuda:1')}.",
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
        workers, threads = decode_workers(job, names, max(job.todo.values()), self.device, self._options)
        with Decoder([chunk], workers=workers, threads=threads) as decoder:
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
        descriptors = [name for name in group.names if job.cards[name].runtime == "numpy"]
        here = {name: self.load(job.cards[name], "fp32") for name in descriptors}
        chunks = (job.chunk(names, rows, here=here) for names, rows in job.batches(group.names, group.batch_size))
        with Decoder(chunks, workers=group.workers, threads=group.threads) as decoder:
            networks = {
                name: self._ready.pop(name)
                if name in self._ready
                else self.load(job.cards[name], job.choices[name].precision)
                for name in group.names
                if name not in here
            }
            if not networks:
                for batch in decoder:
                    sink.take(batch)
                return
            lanes = min(hardware.lanes, -(-group.images // group.batch_size))
            networks = {
                name: self._quicker(encoder, images=job.todo[name], batch_size=group.batch_size, lanes=lanes)
                for name, encoder in networks.items()
            }
            self.through(networks, self.sizes(networks, group.batch_size), lanes=lanes).run(decoder, sink)

    def _quicker(self, encoder: Encoder, *, images: int, batch_size: int, lanes: int) -> Encoder:
        """Return the encoder as ONNX Runtime runs it, where that is wanted and worth it."""
        runtime = self._options.runtime
        if runtime == "torch" or self.device != "cpu":
            return encoder
        if not isinstance(encoder, TorchEncoder) or encoder.precision != "fp32":
            return encoder
        threads, worth = max(usable_cores() // lanes, 1), WORTH_SECONDS if runtime == "auto" else 0.0
        found = in_onnx_runtime(encoder, images=images, batch_size=batch_size, threads=threads, worth=worth)
        if found is None:
            return encoder
        self._tell(
            f"{encoder.card.name} runs in ONNX Runtime: {found.gain:.1f} times as fast, embeddings within "
            f"{found.difference:.0e} of their largest value."
        )
        return found.encoder

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
        return np.concatenate(sizes.run(encoder.card.name, images, partial(encode, encoder)))

    def _free(self) -> None:
        """Give back what the device's allocator keeps."""
        if "device" not in self.__dict__:
            return
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        elif self.device.startswith("mps"):
            torch.mps.empty_cache()


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


N_TIMED = 16
"""Enough for a batch that is representative, few enough for the slowest encoder on a CPU."""

N_PASSES = 3
"""Timed passes; the quickest counts, since what else the machine does can only slow one down."""


def measure_latency(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    options: ExtractOptions | None = None,
    n_images: int = N_TIMED,
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
    samples = samples.images()
    rows = hash_order(samples.ids.tolist(), seed=0)[: min(n_images, options.batch_size or n_images)]
    sources = [samples.sources[row] for row in rows]
    images = [decode(source.read(), samples.decode, description=source.description) for source in sources]
    found = {}
    # As extraction does, and prediction: otherwise a network would be timed on what it costs to get its memory anew.
    with keep_freed_memory() if device == "cpu" else contextlib.nullcontext():
        for card in cards:
            precision = options.precisions.get(card.name, "fp32")
            encoder = load_encoder(card, device=device, precision=precision, weights_path=options.weights_of(card))
            times = []
            for _ in range(1 + N_PASSES):
                start = time.perf_counter()
                encode(encoder, np.stack([card.preprocessing.apply(image) for image in images]))
                times.append(time.perf_counter() - start)
            found[card.name] = 1000 * min(times[1:]) / len(images)  # the first pass loads libraries and warms up
    return found
