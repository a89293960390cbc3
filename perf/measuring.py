"""What several programs need: made-up blocks, fewer samples, and the memory and processor time that work takes."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.data.samples import Samples
from biofuse.data.splits import ValidationPlan, with_splits

DIMS = (512, 512, 512, 768, 768, 1024, 1408, 1536, 1536)
FACTORS = 48
FOLDS = 5
ROWS_AT_ONCE = 10_000


def make_data(n: int, n_classes: int, seed: int) -> tuple[Blocks, NDArray[np.int64], ValidationPlan]:
    """Make correlated blocks: every encoder sees the hidden factors that the label depends on in its own way."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(n, FACTORS)) * np.linspace(2, 0.3, FACTORS)
    logits = hidden[:, :12] @ random.normal(size=(12, n_classes)) + 3 * random.normal(size=(n, n_classes))
    matrices = {}
    for number, dim in enumerate(DIMS):
        mixing = (random.random(FACTORS) < 0.7)[:, None] * random.normal(size=(FACTORS, dim))
        matrices[f"encoder-{number}"] = matrix = np.empty((n, dim), dtype=np.float32)
        for begin in range(0, n, ROWS_AT_ONCE):
            rows = slice(begin, begin + ROWS_AT_ONCE)
            matrix[rows] = hidden[rows] @ mixing + 6 * random.normal(size=(len(hidden[rows]), dim))
    ids = np.array([f"s{row:06d}" for row in range(n)], dtype=object)
    where = random.permutation(n) % FOLDS
    folds = [(np.flatnonzero(where != fold), np.flatnonzero(where == fold)) for fold in range(FOLDS)]
    return (
        Blocks(ids=ids, matrices=matrices),
        logits.argmax(axis=1).astype(np.int64),
        ValidationPlan.cross_validation(folds, ids=ids),
    )


def at_most(samples: Samples, n: int | None, *, seed: int = 0) -> Samples:
    """Return at most so many samples, groups whole, without splits."""
    samples = replace(samples, splits=None)
    if n is None or n >= len(samples):
        return samples
    share = n / len(samples)
    kept = with_splits(samples, seed=seed, fractions=(share, 0.0, 1 - share)).in_split("train")
    return replace(kept, splits=None)


class PeakMemory:
    """The most memory that this process and its descendants had at once, looked at a few times a second.

    Pages that several of them share count once (``Pss`` of Linux).
    """

    def __init__(self, every: float = 0.25) -> None:
        self.peak = 0
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def gib(self) -> float:
        """The most so far."""
        return round(self.peak / 2**30, 2)

    def look(self) -> int:
        """Look now; return the most so far in bytes."""
        self.peak = max(self.peak, sum(_size(process) for process in _family(os.getpid())))
        return self.peak

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._every)


def _family(process: int) -> list[int]:
    children = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children += [int(number) for number in file.read_text().split()]
        except OSError:  # it has just ended
            continue
    return [process, *(number for child in children for number in _family(child))]


def _size(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


class Processor:
    """Wall-clock and processor time of this process and of children that have ended, since it was made."""

    def __init__(self) -> None:
        self._wall, self._times = time.perf_counter(), os.times()

    @property
    def wall(self) -> float:
        """Seconds since."""
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        """Seconds of processor time, user's and system's."""
        now = os.times()
        return sum(now[:4]) - sum(self._times[:4])
