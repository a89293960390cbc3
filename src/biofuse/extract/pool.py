"""Worker processes that prepare images ahead of the device, a bounded number of batches ahead."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

from biofuse.core.errors import BioFuseError
from biofuse.extract.worker import Chunk, Prepared, prepare

AHEAD = 2
"""Batches held ready per worker, so that memory does not grow when the device is slower than decoding."""

THREADS_ENV = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Workers share the cores among themselves; threads inside them would only compete."""


def prepare_all(chunks: Iterable[Chunk], *, workers: int) -> Iterator[Prepared]:
    """Prepare chunks in order, in this process (``workers=0``) or ahead of time in worker processes.

    loky starts its processes afresh (nothing is forked after a device runtime has started), without importing the
    user's script again and with functions defined in a notebook sent along.

    Raises
    ------
    BioFuseError
        If a worker process dies, which usually means that memory ran out.
    """
    if workers == 0:
        yield from map(prepare, chunks)
        return
    from loky import get_reusable_executor
    from loky.process_executor import TerminatedWorkerError

    executor = get_reusable_executor(max_workers=workers, env=THREADS_ENV)
    pending: deque[Future[Prepared]] = deque()
    try:
        for chunk in chunks:
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
    finally:
        for future in pending:
            future.cancel()
