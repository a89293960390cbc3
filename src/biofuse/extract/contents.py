"""Content hashes of samples: what makes two images the same."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import UnreadableImageError
from biofuse.data.decoding import content_hash
from biofuse.data.samples import Samples
from biofuse.data.sources import ItemSource, PillowSource
from biofuse.extract.progress import Progress, Silent
from biofuse.store.parts import CONTENT_BYTES, Contents

THREADS = 8
"""Reading waits for the disk and hashing releases the interpreter lock, so threads pay even on few cores."""


@dataclass(frozen=True, eq=False)
class HashedSamples:
    """Content hashes aligned with a table of samples.

    Attributes
    ----------
    contents : ndarray of S16, shape (n,)
        Meaningless where ``readable`` is false.
    readable : ndarray of bool, shape (n,)
    reasons : dict of int to str
        Why a row could not be read.
    """

    contents: Contents
    readable: NDArray[np.bool_]
    reasons: dict[int, str]


def hash_samples(samples: Samples, *, progress: Progress | None = None) -> HashedSamples:
    """Read every image's bytes once and hash them.

    Parameters
    ----------
    samples : Samples
    progress : Progress, optional

    Returns
    -------
    HashedSamples
        Unreadable rows are listed, not raised: whether they are an error is the caller's choice.
    """
    progress = progress or Silent()
    progress.begin("reading", len(samples))
    contents = np.zeros(len(samples), dtype=f"S{CONTENT_BYTES}")
    reasons: dict[int, str] = {}
    for row, outcome in enumerate(_outcomes(samples)):
        if isinstance(outcome, str):
            reasons[row] = outcome
        else:
            contents[row] = outcome
        progress.advance("reading", 1)
    readable = np.ones(len(samples), dtype=bool)
    readable[list(reasons)] = False
    return HashedSamples(contents, readable, reasons)


def _outcomes(samples: Samples) -> Iterator[bytes | str]:
    def outcome(row: int) -> bytes | str:
        try:
            return content_hash(samples.sources[row].read(), samples.decode)
        except UnreadableImageError as error:
            return error.message

    # Rows of other libraries' data sets may share one open file, and threads would mix up what they read from it.
    alone = any(isinstance(source, ItemSource | PillowSource) for source in samples.sources)
    with ThreadPoolExecutor(1 if alone else THREADS) as threads:
        yield from threads.map(outcome, range(len(samples)))
