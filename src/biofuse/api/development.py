"""Development data: train and validation samples in one table, and never a test sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from biofuse.core.errors import DataError
from biofuse.data.load import describe_task, load_samples
from biofuse.data.samples import Samples
from biofuse.data.splits import with_splits
from biofuse.extract import Progress, hash_samples


@dataclass(frozen=True, kw_only=True, eq=False)
class Development:
    """What a search may see, and what it may not.

    Attributes
    ----------
    samples : Samples
        Train and validation samples with labels; every sample has a split.
    held_out : Samples or None
        Test samples; they are carried along unread.
    notes : tuple of str
        What was found and decided, in words for the log.
    """

    samples: Samples
    held_out: Samples | None
    notes: tuple[str, ...]


def development_data(
    train: Any,
    val: Any = None,
    *,
    label: str | Sequence[str] | None = None,
    group: str | None = None,
    labels: Any = None,
    val_labels: Any = None,
    task: str | None = None,
) -> Development:
    """Read the data a search may see.

    Parameters
    ----------
    train : anything :func:`biofuse.load_samples` takes
        With a split column (or split folders), its train and validation samples are used and its test samples left
        alone; without, all of it is development data.
    val : likewise, optional
        Validation data where they come apart from the training data.
    label, group, labels, val_labels, task
        As for :func:`biofuse.load_samples`; ``val_labels`` go with ``val``.

    Raises
    ------
    DataError
        If there are no labels, or no training samples.
    """
    samples = load_samples(train, label=label, group=group, labels=labels, task=task)
    if val is not None:
        # Loaded apart for the sake of their own labels, then joined, so that both share one table of classes.
        more = load_samples(val, label=label, group=group, labels=val_labels, task=task)
        samples = load_samples({"train": _whole(samples), "val": _whole(more)}, task=task)
    if samples.labels is None:
        raise DataError(
            f"{samples.name} has no labels, so nothing can be learned from it.",
            remedy="Name the label column with --label (label=...), or arrange the images in class folders.",
        )
    notes = [describe_task(samples)]
    if samples.splits is None:
        samples = replace(samples, splits=np.array(["train"] * len(samples), dtype=object))
        return Development(samples=samples, held_out=None, notes=tuple(notes))
    development, held_out = samples.in_split("train", "val"), samples.in_split("test")
    if "train" not in set(development.splits.tolist() if development.splits is not None else ()):
        raise DataError(f"{samples.name} has no training samples.", remedy="Give samples of split train.")
    if len(held_out):
        notes.append(f"{len(held_out)} test samples are set aside; the search does not read them.")
    return Development(samples=development, held_out=held_out if len(held_out) else None, notes=tuple(notes))


def split_off_test(samples: Samples, *, seed: int, progress: Progress | None = None) -> tuple[Samples, str | None]:
    """Give labelled samples without a test split one, keeping groups and identical images together.

    Returns
    -------
    samples : Samples
        With train, val and test; unchanged where train and val are given.
    note : str or None
        What was done, in words.
    """
    given = set() if samples.splits is None else set(samples.splits.tolist())
    if {"train", "val"} <= given:
        return samples, None
    hashed = hash_samples(samples, progress=progress)
    contents = [hashed.contents[row : row + 1].tobytes() for row in range(len(samples))]
    # What cannot be read is like nothing else, and shows up in the quarantine later.
    contents = [
        content if ok else str(row).encode()
        for row, (content, ok) in enumerate(zip(contents, hashed.readable, strict=True))
    ]
    samples = with_splits(samples, seed=seed, contents=contents)
    made_splits = [] if samples.splits is None else samples.splits.tolist()
    counts = {name: made_splits.count(name) for name in ("train", "val", "test")}
    made = "val was taken out of train" if "test" in given else "splits were made"
    sizes = ", ".join(f"{count} {name}" for name, count in counts.items())
    return samples, f"{made[0].upper()}{made[1:]} by a hash of ids and seed {seed}: {sizes}."


def _whole(samples: Samples) -> Samples:
    """Drop splits: the caller has said which split this is."""
    return replace(samples, splits=None)
