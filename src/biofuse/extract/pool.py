"""Worker processes that prepare images ahead of the device, a bounded number of batches ahead."""

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pickle import PicklingError

from biofuse.core.errors import BioFuseError
from biofuse.core.interrupts import workers_ignore_interrupts
from biofuse.extract.worker import Chunk, Prepared, prepare

AHEAD = 2
"""Batches held ready per worker, so that memory does not grow when the device is slower than decoding."""

THREADS_ENV = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Workers share the cores among themselves; threads inside them would only compete."""


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


def prepare_all(chunks: Iterable[Chunk], *, workers: int) -> Iterator[Prepared]:
    """Prepare chunks in order, in this process (``workers=0``) or ahead of time in worker processes.

    loky starts its processes afresh (nothing is forked after a device runtime has started), without importing the
    user's script again and with functions defined in a notebook sent along.

    Raises
    ------
    BioFuseError
        If a worker process dies, which usually means that memory ran out, or what it needs cannot be sent to it.
    """
    if workers == 0:
        yield from map(prepare, chunks)
        return
    from loky import get_reusable_executor
    from loky.process_executor import BrokenProcessPool, TerminatedWorkerError

    executor = get_reusable_executor(
        max_workers=workers, env=THREADS_ENV, initializer=exit_with_parent, initargs=(os.getpid(),)
    )
    pending: deque[Future[Prepared]] = deque()
    try:
        for chunk in chunks:
            with workers_ignore_interrupts():  # workers start when there is something to do
                pending.append(executor.submit(prepare, chunk))
            if len(pending) >= AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
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
    finally:
        for future in pending:
            future.cancel()
