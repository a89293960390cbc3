"""What scores a subset of encoders, whatever the means; and the scorer that refits fusion and head."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError
from biofuse.core.hashing import derive_seed
from biofuse.core.target import Task
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.metrics import BOARD_METRICS, get_metric, score
from biofuse.search.leaderboard import Subset


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldScores:
    """Scores of one subset.

    Attributes
    ----------
    folds : mapping of str to tuple of float
        Metric name to one value per fold; NaN where it is undefined there.
    seconds : float
        Time spent, summed over folds.
    notes : tuple of str
        Why values are undefined, and other remarks.
    out_of_fold : tuple of ndarray, or None
        Per fold the predictions [n_scored, n_classes] of ``plan.folds[fold][1]``, where they were kept.
    """

    folds: Mapping[str, tuple[float, ...]]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    out_of_fold: tuple[NDArray[np.float64], ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldPart:
    """Scores of one subset on one fold: what travels back from a worker."""

    values: Mapping[str, float]
    seconds: float
    notes: tuple[str, ...] = ()
    predictions: NDArray[np.float64] | None = None


class Scorer(Protocol):
    """Scores subsets. A strategy sees nothing but this."""

    @property
    def encoders(self) -> Subset:
        """The encoders it can score, in pool order."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics it returns."""
        ...

    @property
    def n_train(self) -> tuple[int, ...]:
        """Rows fitted on, per fold; as long as there are folds."""
        ...

    @property
    def n_test(self) -> tuple[int, ...]:
        """Rows scored, per fold."""
        ...

    @property
    def keeps_predictions(self) -> bool:
        """Whether out-of-fold predictions come with the scores."""
        ...

    def n_dims(self, subset: Subset) -> int:
        """Columns of the subset's blocks together."""
        ...

    def score(self, subset: Subset) -> FoldScores:
        """Score a subset on every fold."""
        ...


@runtime_checkable
class FoldwiseScorer(Scorer, Protocol):
    """A scorer whose folds can be computed apart, in other processes."""

    def score_fold(self, subset: Subset, fold: int) -> FoldPart:
        """Score a subset on one fold."""
        ...


def gather(metrics: Sequence[str], parts: Sequence[FoldPart]) -> FoldScores:
    """Put the folds of one subset together, in fold order."""
    predictions = [part.predictions for part in parts if part.predictions is not None]
    return FoldScores(
        folds={name: tuple(part.values[name] for part in parts) for name in metrics},
        seconds=sum(part.seconds for part in parts),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        out_of_fold=tuple(predictions) if len(predictions) == len(parts) else None,
    )


class FittedPredictor(Protocol):
    """What a fit returns: the part of ``biofuse.predictors.base.Predictor`` that a search uses."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user would want to know about the fit."""
        ...

    def predict_proba(self, blocks: Blocks) -> NDArray[np.floating[Any]]:
        """Return probabilities, shape (n, n_classes)."""
        ...

    def decision(self, blocks: Blocks) -> NDArray[np.floating[Any]]:
        """Return values to rank by, shape (n, n_classes)."""
        ...


class FitFunction(Protocol):
    """Fits a fusion and a head: ``biofuse.predictors.fused.fit_predictor`` with its choices filled in."""

    def __call__(
        self, blocks: Blocks, labels: NDArray[np.int64], *, encoders: Subset, seed: int, threads: int
    ) -> FittedPredictor:
        """Fit on these rows alone."""
        ...


class RefitScorer:
    """Refits fusion and head on each fold's training rows, and scores the held-out ones.

    Metrics are computed per fold, never on predictions pooled over folds; those that rank use decision values.

    Parameters
    ----------
    blocks : Blocks
        Development data only, in pool order.
    labels : ndarray of int64, shape (n,) or (n, n_labels)
        Labels of ``blocks.ids``.
    plan : ValidationPlan
        Must have the same ids in the same order.
    fit : Fit
        Called with the training rows of a subset's blocks.
    task : Task
        What the labels are.
    classes : sequence of str
        Class or label names.
    metrics : sequence of str
        Which metrics to compute.
    seed : int
        Each fit gets its own, derived from the names of the encoders and the fold.
    keep_predictions : bool, default False
        Whether out-of-fold predictions are kept.

    Raises
    ------
    AlignmentError
        If blocks, labels and plan are not about the same samples.
    """

    def __init__(
        self,
        blocks: Blocks,
        labels: NDArray[np.int64],
        *,
        plan: ValidationPlan,
        fit: FitFunction,
        task: Task,
        classes: Sequence[str],
        metrics: Sequence[str] = BOARD_METRICS,
        seed: int = 0,
        keep_predictions: bool = False,
    ) -> None:
        if len(labels) != blocks.n_samples or list(plan.ids) != list(blocks.ids):
            raise AlignmentError("Blocks, labels and validation plan of a search are not about the same samples.")
        for name in metrics:
            get_metric(name)
        self._names = blocks.encoders
        # Plain arrays, so that worker processes share all of them by memory map and copy none.
        self._matrices = tuple(np.ascontiguousarray(blocks[name]) for name in self._names)
        self._ids = blocks.ids.astype(str)
        self._labels = np.ascontiguousarray(labels)
        self._folds = plan.folds
        self._fit = fit
        self._task = task
        self._classes = tuple(classes)
        self._metrics = tuple(metrics)
        self._seed = seed
        self._keep = keep_predictions

    @property
    def encoders(self) -> Subset:
        """The encoders it can score, in pool order."""
        return self._names

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics it returns."""
        return self._metrics

    @property
    def n_train(self) -> tuple[int, ...]:
        """Rows fitted on, per fold."""
        return tuple(len(fit) for fit, _ in self._folds)

    @property
    def n_test(self) -> tuple[int, ...]:
        """Rows scored, per fold."""
        return tuple(len(score) for _, score in self._folds)

    @property
    def keeps_predictions(self) -> bool:
        """Whether out-of-fold predictions come with the scores."""
        return self._keep

    def n_dims(self, subset: Subset) -> int:
        """Columns of the subset's blocks together."""
        return sum(self._matrices[self._names.index(name)].shape[1] for name in subset)

    def score(self, subset: Subset) -> FoldScores:
        """Score a subset on every fold, here and now."""
        return gather(self._metrics, [self.score_fold(subset, fold) for fold in range(len(self._folds))])

    def score_fold(self, subset: Subset, fold: int) -> FoldPart:
        """Fit a subset on one fold's training rows and score its held-out rows."""
        start = time.perf_counter()
        fit_rows, score_rows = self._folds[fold]
        seed = derive_seed(self._seed, "fit", *sorted(subset), fold)
        predictor = self._fit(
            self._take(subset, fit_rows), self._labels[fit_rows], encoders=subset, seed=seed, threads=1
        )
        held_out = self._take(subset, score_rows)
        predictions = np.asarray(predictor.predict_proba(held_out), dtype=np.float64)
        found = score(
            self._task,
            self._labels[score_rows],
            predictions,
            classes=self._classes,
            metrics=self._metrics,
            decision=predictor.decision(held_out),
        )
        notes = [f"{name} is undefined in fold {fold + 1}: {why}" for name, why in found.undefined.items()]
        notes += [f"fold {fold + 1}: {note}" for note in predictor.notes]
        return FoldPart(
            values=dict(found),
            seconds=time.perf_counter() - start,
            notes=tuple(notes),
            predictions=predictions if self._keep else None,
        )

    def _take(self, subset: Subset, rows: NDArray[np.int64]) -> Blocks:
        matrices = {name: self._matrices[self._names.index(name)][rows] for name in subset}
        return Blocks(ids=self._ids[rows].astype(object), matrices=matrices)
