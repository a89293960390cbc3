"""Test data in the terms of a fitted model: its classes, its task, its way of decoding."""

from dataclasses import replace
from typing import Any

import numpy as np

from biofuse.core.errors import DataError
from biofuse.core.tasks import Task
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.model import BioFuseModel


def load_test(
    data: Any,
    model: BioFuseModel,
    *,
    split: str = "test",
    labels: Any = None,
    label: Any = None,
    group: str | None = None,
) -> Samples:
    """Load test data as the model needs them: its classes, its task, its way of decoding.

    Parameters
    ----------
    data : anything :func:`biofuse.load_samples` takes
        Of data with several splits, only ``split`` is returned; data with one split or none are returned whole.
    model : BioFuseModel
    split : {"test", "val", "train"}
    labels, label, group
        As for :func:`biofuse.load_samples`.

    Raises
    ------
    DataError
        If the data have several splits and none of them is the one asked for.
    """
    if isinstance(data, Samples):
        samples = load_samples(data, labels=labels, label=label, group=group)
    else:
        samples = load_samples(
            data, labels=labels, label=label, group=group, classes=model.classes, task=model.task, decode=model.decode
        )
    given = set() if samples.splits is None else set(samples.splits.tolist())
    if split in given:
        return samples.in_split(split)
    if len(given) > 1:
        raise DataError(
            f"{samples.name} has no {split} samples, only {', '.join(sorted(given))}.",
            remedy="Choose one with --split, or give the samples to be scored alone.",
        )
    return samples


def align_classes(samples: Samples, model: BioFuseModel) -> Samples:
    """Express labels in the model's own table of classes, and have images decoded as at fitting.

    Raises
    ------
    DataError
        If there are no labels, or a class is not among the model's.
    """
    if samples.labels is None or samples.task is None:
        raise DataError(
            f"{samples.name} has no labels, so there is nothing to evaluate against.",
            remedy="Name the label column with --label, or use `biofuse predict`.",
        )
    multi = model.task is Task.MULTILABEL
    if multi != (samples.task is Task.MULTILABEL):
        raise DataError(f"{samples.name} is a {samples.task} task, but the model was fitted for {model.task}.")
    unknown = [name for name in samples.classes if name not in model.classes]
    if unknown:
        raise DataError(
            f"{samples.name} has classes the model does not know: {', '.join(unknown)}.",
            remedy=f"The model's classes are {', '.join(model.classes)}.",
        )
    position = np.array([model.classes.index(name) for name in samples.classes], dtype=np.int64)
    if multi:
        labels = np.zeros((len(samples), len(model.classes)), dtype=np.int64)
        labels[:, position] = samples.labels
    else:
        labels = position[samples.labels]
    return replace(samples, labels=labels, classes=model.classes, task=model.task, decode=model.decode)
