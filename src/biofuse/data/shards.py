"""One of several parts of a table, for machines that each embed their own."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from biofuse.core.errors import DataError, option
from biofuse.data.samples import Samples

REMEDY = f"Write {option('shard', 'i/n')} with i from 1 to n, such as {option('shard', '3/8')}; for SLURM: --array=1-8."


@dataclass(frozen=True)
class Shard:
    """One of several parts of nearly equal size, each a run of neighbouring rows.

    Attributes
    ----------
    index : int
        From 1.
    count : int
        How many there are.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 1 <= self.index <= self.count:
            raise DataError(f"There is no shard {self.index} of {self.count}.", remedy=REMEDY)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``i/n``.

        Raises
        ------
        DataError
            If it is not that, or there is no such shard.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.strip().isdecimal() and count.strip().isdecimal()):
            raise DataError(f"{text!r} does not name a shard.", remedy=REMEDY)
        return cls(int(index), int(count))

    def rows(self, n: int) -> range:
        """Return the rows of this shard of ``n``; those of all shards, one after the other, are all rows."""
        return range(n * (self.index - 1) // self.count, n * self.index // self.count)

    def take(self, samples: Samples) -> Samples:
        """Return this shard of a table; nothing is read."""
        return samples.take(np.array(self.rows(len(samples)), dtype=np.int64))
