"""Scores of predictions, with a reason wherever a score does not exist."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from biofuse.core.errors import UndefinedMetricError
from biofuse.core.tasks import Task
from biofuse.evaluation.formulas import METRICS, auroc_columns, get_metric, is_probability
from biofuse.evaluation.prepared import Prepared, prepare

__all__ = ["METRICS", "Metrics", "auroc_columns", "get_metric", "score"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Metrics(Mapping[str, float]):
    """A read-only mapping from metric name to value.

    Attributes
    ----------
    values_by_name : mapping of str to float
        NaN where a metric is undefined.
    undefined : mapping of str to str
        Why, for every metric that is NaN.
    per_class : mapping of str to mapping of str to float
        Class or label name to its one-versus-rest ``auroc``, ``average_precision`` and ``f1`` and its number of rows
        ``n``. The ranking metrics of a binary task belong to the second class alone.
    n : int
        Number of rows scored.
    """

    values_by_name: Mapping[str, float]
    undefined: Mapping[str, str] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    n: int = 0

    def __getitem__(self, metric: str) -> float:
        return self.values_by_name[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in self.items())
        return f"Metrics({shown}; {self.n} samples)"

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values; an undefined metric is null."""
        return {
            "n": self.n,
            "metrics": {name: None if np.isnan(value) else value for name, value in self.items()},
            "undefined": dict(self.undefined),
            "per_class": {
                name: {metric: None if np.isnan(value) else value for metric, value in row.items()}
                for name, row in self.per_class.items()
            },
        }


def score(
    task: Task,
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    decision: ArrayLike | None = None,
) -> Metrics:
    """Score predictions.

    ``auroc`` and ``accuracy`` follow ``medmnist.Evaluator``: one-versus-rest AUROC averaged over classes (second
    class of a binary task, average over labels of a multi-label one); accuracy by the most probable class, at a
    probability above 0.5 for binary tasks, averaged over labels for multi-label ones. ``average_precision`` averages
    likewise, ``f1`` is the plain mean over classes or labels, ``balanced_accuracy`` the mean recall (mean of
    sensitivity and specificity per label), ``mcc`` and ``log_loss`` are averaged over labels; ``quadratic_kappa`` is
    there for ordinal tasks and ``top_5`` beyond five classes.

    Parameters
    ----------
    task : Task
        What the labels are.
    labels : array-like of int
        Shape (n,) class indices, or (n, n_labels) zeros and ones for multi-label tasks.
    probabilities : array-like of float
        Shape (n, n_classes); for binary tasks also (n,), the probability of the second class.
    classes : sequence of str, optional
        Names of the columns; their numbers by default.
    metrics : sequence of str, optional
        Which metrics to compute; by default all that exist for the task.
    decision : array-like of float, optional
        Shape (n, n_classes): what ``auroc`` and ``average_precision`` rank by instead of the probabilities.

    Raises
    ------
    AlignmentError
        If shapes or class indices do not belong together.
    UndefinedMetricError
        If a prediction is not a finite number, or a metric name is unknown or not of this task.
    """
    data = prepare(task, labels, probabilities, classes=classes, decision=decision)
    wanted = applicable(task, len(data.classes)) if metrics is None else tuple(metrics)
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    columns: dict[str, np.ndarray] = {}
    ones = np.ones((data.n, 1))
    for name in wanted:
        metric = get_metric(name)
        if not metric.applies(task, len(data.classes)):
            raise UndefinedMetricError(
                f"There is no {metric.title} for a {task} task with {len(data.classes)} classes."
            )
        columns[name] = _auroc(data) if name == "auroc" else metric.formula(data, ones)[:, 0]
        values[name] = float(columns[name].mean())
        if np.isnan(values[name]):
            undefined[name] = _reason(data, name, columns[name])
    return Metrics(values_by_name=values, undefined=undefined, per_class=_table(data, columns), n=data.n)


def applicable(task: Task, n_classes: int) -> tuple[str, ...]:
    """Return the names of the metrics that exist for a task, in table order."""
    return tuple(name for name, metric in METRICS.items() if metric.applies(task, n_classes))


def _auroc(data: Prepared) -> np.ndarray:
    columns = list(data.ranked_columns)
    return auroc_columns(data.targets[:, columns], data.ranked_by[:, columns])


def _table(data: Prepared, columns: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {
        name: {"n": float(count)} for name, count in zip(data.classes, data.targets.sum(axis=0), strict=True)
    }
    for metric, values in columns.items():
        if METRICS[metric].per_class:
            of = data.ranked_columns if len(values) == len(data.ranked_columns) else range(len(data.classes))
            for column, value in zip(of, values, strict=True):
                table[data.classes[column]][metric] = float(value)
    return table


def _reason(data: Prepared, metric: str, columns: np.ndarray) -> str:
    if not data.n:
        return "there are no samples"
    if metric == "log_loss" and not is_probability(data):
        return "the predictions are not probabilities"
    counts = data.targets.sum(axis=0)
    absent = [name for name, count in zip(data.classes, counts, strict=True) if not count]
    full = [name for name, count in zip(data.classes, counts, strict=True) if count == data.n]
    if metric == "f1":
        lost = [name for name, value in zip(data.classes, columns, strict=True) if np.isnan(value)]
        return f"neither present nor predicted: {_some(lost)}"
    if absent and not (full and metric in {"mcc", "quadratic_kappa"}):
        return f"no sample of {_some(absent)}"
    return f"every sample is {_some(full)}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
