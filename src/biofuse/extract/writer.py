"""Rows on their way to the store, written by a thread of their own."""

import contextlib
import mmap
import queue
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DiskError
from biofuse.core.hashing import CONTENT_BYTES, Contents
from biofuse.extract.prepare import WRITE, Stages
from biofuse.store.store import EncoderFolder

FIRST_ROWS = 256
"""Rows of the first part. Every further part may be twice as large, up to the limit: a run that is killed early, on a
slow machine, keeps most of its work, and a long run still ends with few parts."""

QUEUE = 32
"""Batches that may wait for the disk; beyond that the encoders wait too, so that memory does not grow."""

WAIT_SECONDS = 0.5
"""How long a full queue is waited for before looking whether the writer is still there."""


class RowBuffer:
    """Collects the rows of one encoder and writes a part when there are enough, or they have waited long enough.

    Parameters
    ----------
    folder : EncoderFolder
    max_rows : int
        Most rows per part.
    max_seconds : float
        Longest time a finished row stays in memory only.
    """

    def __init__(self, folder: EncoderFolder, *, max_rows: int, max_seconds: float) -> None:
        self._folder = folder
        self._max_rows = max_rows
        self._limit = min(FIRST_ROWS, max_rows)
        self._max_seconds = max_seconds
        self._contents = np.zeros(0, dtype=f"S{CONTENT_BYTES}")
        self._embeddings = np.zeros((0, 0), dtype=np.float32)
        self._rows = 0
        self._since = time.monotonic()

    def add(self, contents: Contents, embeddings: NDArray[np.float32]) -> None:
        """Take rows; write a part if it is time."""
        if not self._rows:
            self._since = time.monotonic()
        end = self._rows + len(contents)
        if end > len(self._contents):
            self._make_room(max(end, self._max_rows), embeddings.shape[1])
        self._contents[self._rows : end] = contents
        self._embeddings[self._rows : end] = embeddings
        self._rows = end
        if self._rows >= self._limit or self.due == 0:
            self.flush()

    @property
    def due(self) -> float:
        """Seconds until what is held has to be written; infinite where nothing is held."""
        return max(self._since + self._max_seconds - time.monotonic(), 0.0) if self._rows else float("inf")

    def flush(self) -> None:
        """Write what is held, if anything."""
        if self._rows:
            self._folder.write(self._contents[: self._rows], self._embeddings[: self._rows])
            self._rows = 0
            self._limit = min(2 * self._limit, self._max_rows)

    def _make_room(self, rows: int, dim: int) -> None:
        # Straight from the operating system, which gives pages as they are filled: pieces of growing parts would leave
        # holes in the memory that the networks keep for themselves.
        memory = np.frombuffer(mmap.mmap(-1, rows * dim * 4), dtype=np.float32).reshape(rows, dim)
        contents = np.zeros(rows, dtype=self._contents.dtype)
        if self._rows:
            memory[: self._rows] = self._embeddings[: self._rows]
            contents[: self._rows] = self._contents[: self._rows]
        self._contents, self._embeddings = contents, memory


class Writer:
    """Takes finished rows and writes them while the encoders go on; a context manager.

    Leaving the context writes what is held, also after an error or a stop by the user, except where the error is that
    the disk cannot be written.

    Parameters
    ----------
    folders : mapping of str to EncoderFolder
    max_rows, max_seconds
        As for :class:`RowBuffer`.
    stages : Stages, optional
        Where the time is counted.

    Raises
    ------
    DiskError
        From :meth:`add` or :meth:`close`, as soon as writing has failed once.
    """

    def __init__(
        self, folders: Mapping[str, EncoderFolder], *, max_rows: int, max_seconds: float, stages: Stages | None = None
    ) -> None:
        self._buffers = {
            name: RowBuffer(folder, max_rows=max_rows, max_seconds=max_seconds) for name, folder in folders.items()
        }
        self._stages = stages or Stages()
        self._queue: queue.Queue[tuple[str, Contents, NDArray[np.float32]] | None] = queue.Queue(QUEUE)
        self._failure: BaseException | None = None
        # A daemon: a second Ctrl-C while the last rows are written ends the process without waiting for it.
        self._thread = threading.Thread(target=self._work, daemon=True, name="biofuse-writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DiskError):
            self._stop()  # What is still in memory cannot be written either.
            return
        self.close()

    def add(self, encoder: str, contents: Contents, embeddings: NDArray[np.float32]) -> None:
        """Hand rows over; waits where the disk is far behind.

        Parameters
        ----------
        encoder : str
        contents : ndarray of S16, shape (n,)
        embeddings : ndarray of float32, shape (n, dim)
        """
        self._put((encoder, contents, embeddings))

    def close(self) -> None:
        """Write what is held, and wait until it is on disk."""
        if self._failure is None:
            self._put(None)
        self._thread.join()
        self._raise()

    def _stop(self) -> None:
        if self._thread.is_alive() and self._failure is None:
            self._failure = DiskError("Writing was given up.")
            self._put_quietly()
        self._thread.join()

    def _put(self, item: tuple[str, Contents, NDArray[np.float32]] | None) -> None:
        while True:
            self._raise()
            try:
                return self._queue.put(item, timeout=WAIT_SECONDS)
            except queue.Full:
                continue

    def _put_quietly(self) -> None:
        with contextlib.suppress(queue.Full):  # then it has something to wake up for already
            self._queue.put_nowait(None)

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while (item := self._next()) is not None and self._failure is None:
                name, contents, embeddings = item
                if name:
                    with self._stages.wall(WRITE):
                        self._buffers[name].add(contents, embeddings)
                self._flush(only_due=True)
            if self._failure is None:
                self._flush(only_due=False)
        except BaseException as error:  # raised again in the thread that hands rows over
            self._failure = error

    def _next(self) -> tuple[str, Contents, NDArray[np.float32]] | None:
        due = min((buffer.due for buffer in self._buffers.values()), default=float("inf"))
        try:
            return self._queue.get(timeout=None if due == float("inf") else due)
        except queue.Empty:
            return "", np.zeros(0, dtype="S16"), np.zeros((0, 0), dtype=np.float32)

    def _flush(self, *, only_due: bool) -> None:
        for buffer in self._buffers.values():
            if not only_due or buffer.due == 0:
                with self._stages.wall(WRITE):
                    buffer.flush()
