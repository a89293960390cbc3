"""The one table every data source becomes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError
from biofuse.core.tasks import Task
from biofuse.data.decoding import DecodePolicy

SPLITS = ("train", "val", "test")
"""Names of the splits; the first two are development data."""


class Source(Protocol):
    """Where one image comes from. Must survive a trip to a worker process."""

    @property
    def description(self) -> str:
        """What a person would call it: a path, or "row 3 of array X"."""
        ...

    def read(self) -> bytes | NDArray[np.generic]:
        """Read the undecoded bytes of an image file, or the pixel array.

        Raises
        ------
        UnreadableImageError
            If there is nothing to read.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """An immutable, ordered table of labelled images.

    Attributes
    ----------
    ids : ndarray of str (dtype object), shape (n,)
        Unique, stable names: they do not depend on the order of the rows.
    sources : tuple of Source
        Where each image is read from.
    labels : ndarray of int64 or None
        Shape (n,) class indices into ``classes``, or (n, n_labels) zeros and ones for multi-label tasks.
        None where the data are unlabelled.
    classes : tuple of str
        Class (or label) names; one table for all splits.
    task : Task or None
        None where the data are unlabelled.
    splits : ndarray of str (dtype object), shape (n,), or None
        "train", "val" or "test" for every sample; None while no split has been made.
    groups : ndarray of str (dtype object), shape (n,), or None
        Samples of one group (patient, slide) must stay together.
    decode : DecodePolicy
        How files become pixels; part of every content hash.
    name : str
        What the data set is called in logs and reports.
    """

    ids: NDArray[np.object_]
    sources: tuple[Source, ...]
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    task: Task | None = None
    splits: NDArray[np.object_] | None = None
    groups: NDArray[np.object_] | None = None
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    name: str = "data"

    def __post_init__(self) -> None:
        n = len(self.ids)
        columns = {"sources": self.sources, "labels": self.labels, "splits": self.splits, "groups": self.groups}
        for column, values in columns.items():
            if values is not None and len(values) != n:
                raise DataError(f"{self.name}: {n} ids but {len(values)} {column}.")
        unique, counts = np.unique(self.ids.astype(str), return_counts=True)
        if len(unique) != n:
            raise DataError(
                f"{self.name}: {int((counts > 1).sum())} sample ids occur more than once, "
                f"e.g. {unique[counts > 1][0]!r}.",
                remedy="Give every row its own id, or leave the id column out: paths are used then.",
            )
        if self.labels is not None and self.task is None:
            raise DataError(f"{self.name}: labels without a task.")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Return the given rows, in the given order (indices or a boolean mask)."""
        chosen = np.asarray(rows)
        # An empty list has no type of its own, and NumPy would take it for floating point.
        index = np.arange(len(self))[chosen if chosen.size else chosen.astype(np.int64)]
        return replace(
            self,
            ids=self.ids[index],
            sources=tuple(self.sources[i] for i in index),
            labels=None if self.labels is None else self.labels[index],
            splits=None if self.splits is None else self.splits[index],
            groups=None if self.groups is None else self.groups[index],
        )

    def in_split(self, *names: str) -> Self:
        """Return the samples of the named splits, in table order.

        Raises
        ------
        DataError
            If the table has no splits yet.
        """
        if self.splits is None:
            raise DataError(f"{self.name} has no splits.", remedy="Call biofuse.data.with_splits(samples) first.")
        return self.take(np.isin(self.splits.astype(str), names))
