"""Worker processes that prepare images ahead of the device, a bounded number of batches ahead."""

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pickle import PicklingError
from types import TracebackType
from typing import Self

from biofuse.core.errors import BioFuseError
from biofuse.core.interrupts import workers_ignore_interrupts
from biofuse.extract.worker import Chunk, Prepared, prepare

AHEAD = 2
"""Batches held ready per worker, so that memory does not grow when the device is slower than decoding."""

THREADS_ENV = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Workers share the cores among themselves; threads inside them would only compete."""

MEMORY_ENV = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(256 << 20))
"""A worker keeps the memory of one image for the next; glibc would give it back and have it filled with zeros anew."""


PARENT_CHECK_SECONDS = 2.0
"""How long a worker may outlive a process that was killed."""


def exit_with_parent(parent: int) -> None:
    """Make this worker process end when the one that started it is gone.

    A killed parent cannot stop its workers, and one that is waiting to hand over a batch would wait, and hold its
    memory, for ever.

    Parameters
    ----------
    parent : int
        Process id of the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="exit-with-parent").start()


class Decoder:
    """Prepares chunks in order, in this process (``workers=0``) or ahead of time in worker processes.

    loky starts its processes afresh (nothing is forked after a device runtime has started), without importing the
    user's script again and with functions defined in a notebook sent along. A context manager and an iterable.

    Parameters
    ----------
    chunks : iterable of Chunk
    workers : int
    """

    def __init__(self, chunks: Iterable[Chunk], *, workers: int) -> None:
        self._chunks = iter(chunks)
        self._workers = workers
        self._pending: deque[Future[Prepared]] = deque()

    def __enter__(self) -> Self:
        """Start the workers on the first chunks: before the caller loads networks onto a device."""
        self._fill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in self._pending:
            future.cancel()
        self._pending.clear()

    def __iter__(self) -> Iterator[Prepared]:
        """Yield what is ready, in order.

        Raises
        ------
        BioFuseError
            If a worker process dies, which usually means that memory ran out, or what it needs cannot be sent to it.
        """
        if self._workers == 0:
            yield from map(prepare, self._chunks)
            return
        while self._pending:
            with worker_errors():
                prepared = self._pending.popleft().result()
                self._fill()
            yield prepared

    def _fill(self) -> None:
        if self._workers == 0:
            return
        from loky import get_reusable_executor

        with worker_errors():
            executor = get_reusable_executor(
                max_workers=self._workers,
                env=THREADS_ENV | MEMORY_ENV,
                initializer=exit_with_parent,
                initargs=(os.getpid(),),
            )
            while len(self._pending) < AHEAD * self._workers:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return
                with workers_ignore_interrupts():  # workers start when there is something to do
                    self._pending.append(executor.submit(prepare, chunk))


@contextmanager
def worker_errors() -> Iterator[None]:
    """Say what it means that a worker process is gone, or could not be sent its work.

    Raises
    ------
    BioFuseError
        In place of loky's errors.
    """
    from loky.process_executor import BrokenProcessPool, TerminatedWorkerError

    try:
        yield
    except TerminatedWorkerError as error:
        raise BioFuseError(
            "A worker process that decodes images was killed, most likely because memory ran out.",
            remedy="Use fewer workers (--workers 1) or a smaller --batch-size. Finished embeddings are kept.",
        ) from error
    except (BrokenProcessPool, PicklingError) as error:
        raise BioFuseError(
            f"An encoder or an image source cannot be sent to a worker process: {error.__cause__ or error}",
            remedy="Do everything in one process: --workers 0 (workers=0 in Python).",
        ) from error
