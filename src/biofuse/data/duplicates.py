"""Identical images: within a split, across splits, and with conflicting labels."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError
from biofuse.data.samples import SPLITS, Samples

Hashes = Sequence[bytes | str | None] | NDArray[np.object_]

WHOLE = "all"
"""What the single part of a data set without splits is called in a report."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Samples of one split whose content also occurs in another.

    Attributes
    ----------
    split, other : str
        Which split's samples are counted, and where their content occurs again.
    n : int
        How many.
    n_split : int
        Samples in ``split``.
    by_class : dict of str to int
        ``n`` by class (a multi-label sample counts for each of its labels).
    """

    split: str
    other: str
    n: int
    n_split: int
    by_class: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Identical images inside one split.

    Attributes
    ----------
    split : str
        The split.
    n_repeated : int
        Samples that have at least one identical sample in this split, first ones included.
    n_contents : int
        Different contents among them.
    n_extra : int
        Samples that would go if one of each content were kept: ``n_repeated - n_contents``.
    """

    split: str
    n_repeated: int
    n_contents: int
    n_extra: int


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Identical images with different labels: ids and their labels, in table order."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DuplicateReport:
    """What is identical in a data set.

    Attributes
    ----------
    n_samples : int
        Rows compared; unreadable images are left out.
    sets : tuple of tuple of str
        Ids of samples with one content, for every content that occurs more than once.
    repeats : tuple of Repeats
        One per split that holds duplicates.
    overlaps : tuple of Overlap
        One per ordered pair of splits that share content, test before val before train.
    conflicts : tuple of Conflict
        Sets whose labels differ.
    pixels : DuplicateReport or None
        The same by decoded pixels: it also finds images saved again in another lossless format.
    """

    n_samples: int
    sets: tuple[tuple[str, ...], ...]
    repeats: tuple[Repeats, ...]
    overlaps: tuple[Overlap, ...]
    conflicts: tuple[Conflict, ...]
    pixels: "DuplicateReport | None" = None

    def overlap(self, split: str, other: str) -> Overlap | None:
        """Return how much of ``split`` occurs in ``other``; None where nothing does."""
        return next((pair for pair in self.overlaps if (pair.split, pair.other) == (split, other)), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def find_duplicates(samples: Samples, contents: Hashes, pixels: Hashes | None = None) -> DuplicateReport:
    """Compare all samples by content hash, and by pixel hash where given.

    Parameters
    ----------
    samples : Samples
        With or without labels and splits.
    contents : sequence of bytes or str, shape (n,)
        Content hashes; None for an unreadable image.
    pixels : sequence of bytes or str, shape (n,), optional
        Pixel hashes.

    Raises
    ------
    DataError
        If there is not one hash per sample.
    """
    rows_of = _rows_by_content(samples, contents)
    repeated = [rows for rows in rows_of.values() if len(rows) > 1]
    splits = [WHOLE] * len(samples) if samples.splits is None else samples.splits.tolist()
    present = [split for split in (*SPLITS, WHOLE) if split in set(splits)]
    names = [_label_names(samples, row) for row in range(len(samples))]
    pairs = [(split, other) for split in reversed(present) for other in present if split != other]
    return DuplicateReport(
        n_samples=sum(len(rows) for rows in rows_of.values()),
        sets=tuple(tuple(samples.ids[rows].tolist()) for rows in repeated),
        repeats=tuple(again for split in present if (again := _repeats(split, repeated, splits)) is not None),
        overlaps=tuple(
            found for split, other in pairs if (found := _overlap(split, other, repeated, splits, names)) is not None
        ),
        conflicts=tuple(
            Conflict(ids=tuple(samples.ids[rows].tolist()), labels=tuple("|".join(names[row]) for row in rows))
            for rows in repeated
            if len({names[row] for row in rows}) > 1
        ),
        pixels=None if pixels is None else find_duplicates(samples, pixels),
    )


def shared_content(
    samples: Samples, contents: Hashes, *, split: str = "test", others: Sequence[str] = ("train", "val")
) -> NDArray[np.bool_]:
    """Mark the samples of one split whose content also occurs in others.

    Returns
    -------
    ndarray of bool, shape (n,)
        False outside ``split``. Scores with and without these rows show what leakage is worth.

    Raises
    ------
    DataError
        If the samples have no splits.
    """
    if samples.splits is None:
        raise DataError(f"{samples.name} has no splits.", remedy="Call biofuse.data.with_splits(samples) first.")
    splits = samples.splits.tolist()
    marked = np.zeros(len(samples), dtype=bool)
    for rows in _rows_by_content(samples, contents).values():
        if any(splits[row] in others for row in rows):
            marked[[row for row in rows if splits[row] == split]] = True
    return marked


def _rows_by_content(samples: Samples, contents: Hashes) -> dict[bytes | str, list[int]]:
    if len(contents) != len(samples):
        raise DataError(f"{samples.name}: {len(samples)} samples but {len(contents)} content hashes.")
    rows: dict[bytes | str, list[int]] = defaultdict(list)
    for row, content in enumerate(contents):
        if content is not None:
            rows[content].append(row)
    return rows


def _repeats(split: str, repeated: list[list[int]], splits: list[str]) -> Repeats | None:
    counts = [sum(splits[row] == split for row in rows) for rows in repeated]
    inside = [count for count in counts if count > 1]
    if not inside:
        return None
    return Repeats(split=split, n_repeated=sum(inside), n_contents=len(inside), n_extra=sum(inside) - len(inside))


def _overlap(
    split: str, other: str, repeated: list[list[int]], splits: list[str], names: list[tuple[str, ...]]
) -> Overlap | None:
    shared = [
        row for rows in repeated if any(splits[row] == other for row in rows) for row in rows if splits[row] == split
    ]
    if not shared:
        return None
    by_class = Counter(name for row in shared for name in names[row])
    return Overlap(
        split=split, other=other, n=len(shared), n_split=splits.count(split), by_class=dict(by_class.most_common())
    )


def _label_names(samples: Samples, row: int) -> tuple[str, ...]:
    if samples.labels is None:
        return ()
    if samples.labels.ndim == 2:
        return tuple(samples.classes[label] for label in np.flatnonzero(samples.labels[row]).tolist())
    return (samples.classes[samples.labels[row]],)
