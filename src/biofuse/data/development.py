"""Development data: train and validation samples in one table, and never a test sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from biofuse.core.errors import DataError, LeakageError
from biofuse.core.progress import Progress
from biofuse.data.load import describe_task, load_samples
from biofuse.data.samples import Samples, hash_samples
from biofuse.data.splits import with_splits


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
    test: Any = None,
    seed: int = 0,
) -> Development:
    """Read the data a search may see, and set the test data aside.

    Parameters
    ----------
    train : anything :func:`biofuse.load_samples` takes
        With a split column (or split folders), its train and validation samples are used and its test samples left
        alone; without, all of it is development data.
    val : likewise, optional
        Validation data where they come apart from the training data. The two then decide who is train and who is val,
        and ids get the split's name in front where both use the same one.
    label, group, labels, val_labels, task
        As for :func:`biofuse.load_samples`; ``val_labels`` go with ``val``.
    test : "auto", None or as ``train``
        ``auto``: test samples are set aside where the data have none, by :func:`split_off_test`. Or test data that come
        apart.
    seed : int, default 0
        Of that.

    Raises
    ------
    DataError
        If there are no labels, no training samples, or test data in two places.
    LeakageError
        If ``train`` and ``val`` are given apart and test samples are among them.
    """
    if val is None:
        if val_labels is not None:
            raise DataError("val_labels= without validation data.", remedy="Give the validation images as val.")
        samples = _load(train, label=label, group=group, labels=labels, task=task)
    else:
        first = _part(_load(train, label=label, group=group, labels=labels, task=task), "train")
        second = _part(_load(val, label=label, group=group, labels=val_labels, task=task), "val")
        samples = _joined(first, second, "val", task=task)
    if samples.labels is None:
        raise DataError(
            f"{samples.name} has no labels, so nothing can be learned from it.",
            remedy="Name the label column with --label (label=...), or arrange the images in class folders.",
        )
    notes = [describe_task(samples)]
    if isinstance(test, str) and test == "auto":
        samples, made = split_off_test(samples, seed=seed)
        notes += [made] if made else []
    elif test is not None:
        if samples.splits is not None and "test" in samples.splits.tolist():
            raise DataError(
                f"{samples.name} has test samples of its own.", remedy="Leave test= out, or give other data."
            )
        apart = replace(_load(test, label=label, group=group, labels=None, task=task), splits=None)
        samples = _joined(samples, apart, "test", task=task)
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
    """Make the splits that labelled samples lack, keeping groups and identical images together.

    Without splits, or with train alone, all three are made; with train and val, test is taken out of both; with train
    and test, val is taken out of train and the test images stay unread.

    Returns
    -------
    samples : Samples
        With train, val and test; unchanged where all are given.
    note : str or None
        What was done, in words.
    """
    given = set() if samples.splits is None else set(samples.splits.tolist())
    if {"train", "val", "test"} <= given or (given and "train" not in given):
        return samples, None
    # Test samples that are given stay unread. What cannot be read is like nothing else, and is named later.
    development = None if samples.splits is None else samples.splits != "test"
    samples, _ = hash_samples(samples, rows=development, progress=progress)
    if given == {"train", "val"}:
        made = with_splits(replace(samples, splits=None), seed=seed).splits
        splits = np.where(made == "test", "test", samples.splits).astype(object)  # type: ignore[arg-type]
        samples, what = replace(samples, splits=splits), "Test samples were taken out of train and val"
    else:
        samples = with_splits(samples, seed=seed)
        what = "Val was taken out of train" if "test" in given else "Splits were made"
    kept = [] if samples.splits is None else samples.splits.tolist()
    sizes = ", ".join(f"{kept.count(name)} {name}" for name in ("train", "val", "test"))
    return samples, f"{what} by a hash of ids and seed {seed}: {sizes}."


def _load(data: Any, **options: Any) -> Samples:
    """Load labelled data; samples that are ready already take no options, and a task they have anyway is none."""
    if isinstance(data, Samples) and data.task is not None and options["task"] == str(data.task):
        options["task"] = None
    return load_samples(data, **options)


def _joined(first: Samples, second: Samples, split: str, *, task: str | None) -> Samples:
    """Put samples that were loaded apart, for the sake of their own labels, into one table with one table of classes.

    Splits that the first has stay; ids get the split's name in front where both use the same one.
    """
    known = first.classes if set(second.classes) <= set(first.classes) else None
    samples = load_samples({"train": first, split: second}, task=task, classes=known, name=first.name)
    ids = np.concatenate([first.ids, second.ids])
    if len(set(ids.tolist())) == len(ids):
        samples = replace(samples, ids=ids)
    if first.splits is None or samples.splits is None:
        return samples
    return replace(samples, splits=np.concatenate([first.splits, samples.splits[len(first) :]]))


def _part(samples: Samples, split: str) -> Samples:
    """Drop splits, since the caller has said which split this is; but never make training data of test samples."""
    n_test = 0 if samples.splits is None else int((samples.splits == "test").sum())
    if n_test:
        raise LeakageError(
            f"{n_test} of the samples given as {split} are of split test.",
            remedy=f'Give samples.in_split("{split}"), or load the data with use_splits=False.',
        )
    return replace(samples, splits=None)
