"""Rows on their way to the store."""

import time

import numpy as np
from numpy.typing import NDArray

from biofuse.store.parts import Contents
from biofuse.store.store import EncoderFolder

FIRST_ROWS = 256
"""Rows of the first part. Every further part may be twice as large, up to the limit: a run that is killed early, on a
slow machine, keeps most of its work, and a long run still ends with few parts."""


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
        self._contents: list[Contents] = []
        self._embeddings: list[NDArray[np.float32]] = []
        self._rows = 0
        self._since = time.monotonic()

    def add(self, contents: Contents, embeddings: NDArray[np.float32]) -> None:
        """Take rows; write a part if it is time."""
        if not self._rows:
            self._since = time.monotonic()
        self._contents.append(contents)
        self._embeddings.append(embeddings)
        self._rows += len(contents)
        if self._rows >= self._limit or time.monotonic() - self._since >= self._max_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is held, if anything."""
        if self._rows:
            self._folder.write(np.concatenate(self._contents), np.concatenate(self._embeddings))
            self._contents, self._embeddings, self._rows = [], [], 0
            self._limit = min(2 * self._limit, self._max_rows)
