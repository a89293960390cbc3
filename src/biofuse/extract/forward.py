"""How many images go through an encoder at once, found out where it has to be."""

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from biofuse.core.errors import EncoderError
from biofuse.core.machine import usable_cores
from biofuse.core.progress import Tell
from biofuse.encoders.encoder import Embeddings, Encoder, TorchEncoder, UInt8Images
from biofuse.extract.prepare import FORWARD, TRANSFER, Outcome, Prepared, accept, encode, encoder_errors

if TYPE_CHECKING:
    import torch


class Sliceable(Protocol):
    """Images that some can be taken of: an array, or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


Batch = TypeVar("Batch", bound=Sliceable)
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

    def __getitem__(self, encoder: str) -> int:
        return self._sizes[encoder]

    def run(self, encoder: str, images: Batch, encode: Callable[[Batch], Result]) -> list[Result]:
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
                remedy="Use a device with more memory (--device cpu), or leave this encoder out.",
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

    def take(self, outcome: Outcome) -> None:
        """Receive a batch; may refuse to go on by raising."""
        ...

    def keep(self, outcome: Outcome) -> None:
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

    def run(self, prepared: Iterable[Prepared], sink: Sink) -> None:
        """Embed everything, in the order in which it comes."""
        import torch

        before = torch.get_num_threads()
        # The number of threads belongs to the thread that sets it: each lane sets its own.
        pool = ThreadPoolExecutor(self._lanes, "biofuse-lane", torch.set_num_threads, (self._threads,))
        waiting: deque[Future[Outcome]] = deque()
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

    def _embed(self, item: Prepared) -> Outcome:
        found: dict[str, Embeddings] = {}
        for name in item.names if item.rows else ():
            if name in self._encoders:
                found[name] = self._through(self._encoders[name], item)
        return Outcome.of(item, found)

    def _through(self, encoder: Encoder, item: Prepared) -> Embeddings:
        def pass_through(images: UInt8Images) -> Embeddings:
            return encode(encoder, images)

        name, images = encoder.card.name, item.images[encoder.card.preprocessing.resize_key]
        # With one thread, processor time is the pass's own, however busy the cores are otherwise.
        clock = item.stages.processor if self._threads == 1 else item.stages.wall
        with clock(FORWARD, encoder=name):
            parts = self._sizes.run(name, images, pass_through)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass
class _Launched:
    """A batch whose work is queued on the device."""

    item: Prepared
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

    def run(self, prepared: Iterable[Prepared], sink: Sink) -> None:
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

    def _launch(self, item: Prepared) -> _Launched:
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

    def _collect(self, launched: _Launched) -> Outcome:
        stages, found = launched.item.stages, {}
        for name, embeddings in launched.embeddings.items():
            begin, end = launched.moments[name]
            end.synchronize()
            stages.add(FORWARD, begin.elapsed_time(end) / 1000, encoder=name)
            found[name] = accept(self._encoders[name].card, embeddings.numpy().copy(), len(launched.item.rows))
        if launched.moved is not None:
            stages.add(TRANSFER, launched.moved[0].elapsed_time(launched.moved[1]) / 1000)
        return Outcome.of(launched.item, found)


def _events() -> "tuple[torch.cuda.Event, torch.cuda.Event]":
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    return begin, end
