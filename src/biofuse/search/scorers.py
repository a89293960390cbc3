"""What scores a subset: its scores on the folds, and fits of fusion and head to them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError
from biofuse.core.hashing import derive_seed
from biofuse.core.target import Labels, Task
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.metrics import BOARD_METRICS, get_metric, score
from biofuse.predictors.fused import Predictor
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

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics it returns."""

    @property
    def n_train(self) -> tuple[int, ...]:
        """Rows fitted on, per fold; as long as there are folds."""

    @property
    def n_test(self) -> tuple[int, ...]:
        """Rows scored, per fold."""

    @property
    def keeps_predictions(self) -> bool:
        """Whether out-of-fold predictions come with the scores."""

    def n_dims(self, subset: Subset) -> int:
        """Columns of the subset's blocks together."""

    def score(self, subset: Subset) -> FoldScores:
        """Score a subset on every fold."""


@runtime_checkable
class FoldwiseScorer(Scorer, Protocol):
    """A scorer whose folds can be computed apart, in other processes."""

    def score_fold(self, subset: Subset, fold: int) -> FoldPart:
        """Score a subset on one fold."""


@runtime_checkable
class ManyScorer(Scorer, Protocol):
    """A scorer that is quickest with many subsets at a time, in this process."""

    def score_many(self, subsets: Sequence[Subset]) -> Iterator[FoldScores]:
        """Score subsets, and yield them in their order."""
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


class FitFunction(Protocol):
    """Fits a fusion and a head: :func:`~biofuse.predictors.fused.fit_predictor` with its choices filled in."""

    def __call__(self, blocks: Blocks, labels: Labels, *, encoders: Subset, seed: int, threads: int) -> Predictor:
        """Fit on these rows alone."""


class SharingFit(FitFunction, Protocol):
    """A fit that may make once what several subsets have in common."""

    def to(self, blocks: Blocks, labels: Labels, *, seed: int, threads: int) -> Callable[[Subset, int], Predictor]:
        """Return what fits subsets to these rows, each by a seed; what they share has a seed of its own."""


class _Held:
    """What fits of the folds asked for last share; a copy sent to another process starts empty."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[int, Callable[[Subset, int], Predictor]] = {}

    def __reduce__(self) -> tuple[type["_Held"], tuple[int]]:
        return _Held, (self._most,)

    def get(
        self, fold: int, make: Callable[[], Callable[[Subset, int], Predictor]]
    ) -> Callable[[Subset, int], Predictor]:
        found = self._found.pop(fold, None) or make()
        while len(self._found) >= self._most:
            del self._found[next(iter(self._found))]
        self._found[fold] = found
        return found


class RefitScorer:
    """Refits fusion and head on each fold's training rows, and scores the held-out ones.

    Metrics are computed per fold, never on predictions pooled over folds; those that rank use decision values.

    Parameters
    ----------
    blocks : Blocks
        Development data only, in pool order; with the images behind them where ``fit`` takes those.
    labels : ndarray, shape (n,) or (n, n_columns)
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
    folds_held : int, default 0
        Of how many folds at once to keep what fits of several subsets share; ``fit`` then is a :class:`SharingFit`.
    remembers : bool, default False
        Whether fits are among what is kept, so that a subset takes longer the first time.

    Attributes
    ----------
    encoders, metrics, n_train, n_test, keeps_predictions
        As every :class:`Scorer` has them.
    folds_held : int
    remembers : bool

    Raises
    ------
    AlignmentError
        If blocks, labels and plan are not about the same samples.
    """

    def __init__(
        self,
        blocks: Blocks,
        labels: Labels,
        *,
        plan: ValidationPlan,
        fit: FitFunction | SharingFit,
        task: Task,
        classes: Sequence[str],
        metrics: Sequence[str] = BOARD_METRICS,
        seed: int = 0,
        keep_predictions: bool = False,
        folds_held: int = 0,
        remembers: bool = False,
    ) -> None:
        if len(labels) != blocks.n_samples or list(plan.ids) != list(blocks.ids):
            raise AlignmentError("Blocks, labels and validation plan of a search are not about the same samples.")
        for name in metrics:
            get_metric(name)
        self.encoders = blocks.encoders
        self.metrics = tuple(metrics)
        self.n_train = tuple(len(fit) for fit, _ in plan.folds)
        self.n_test = tuple(len(score) for _, score in plan.folds)
        self.keeps_predictions = keep_predictions
        # Plain arrays, so that worker processes share all of them by memory map and copy none.
        self._matrices = tuple(np.ascontiguousarray(blocks[name]) for name in self.encoders)
        self._bags = blocks.bags
        self._ids = blocks.ids.astype(str)
        self._labels = np.ascontiguousarray(labels)
        self._folds = plan.folds
        self._fit = fit
        self._task = task
        self._classes = tuple(classes)
        self._seed = seed
        self.folds_held, self.remembers = folds_held, remembers
        self._held = _Held(folds_held)

    def n_dims(self, subset: Subset) -> int:
        """Columns of the subset's blocks together."""
        return sum(self._matrices[self.encoders.index(name)].shape[1] for name in subset)

    def score(self, subset: Subset) -> FoldScores:
        """Score a subset on every fold, here and now."""
        return gather(self.metrics, [self.score_fold(subset, fold) for fold in range(len(self._folds))])

    def score_fold(self, subset: Subset, fold: int) -> FoldPart:
        """Fit a subset on one fold's training rows and score its held-out rows."""
        start = time.perf_counter()
        fit_rows, _ = self._folds[fold]
        seed = derive_seed(self._seed, "fit", *sorted(subset), fold)
        if self.folds_held:
            predictor = self._fits(fold)(subset, seed)
        else:
            blocks = self._take(subset, fit_rows)
            predictor = self._fit(blocks, self._labels[fit_rows], encoders=subset, seed=seed, threads=1)
        return self.judge(predictor, fold, start=start)

    def _fits(self, fold: int) -> Callable[[Subset, int], Predictor]:
        rows, _ = self._folds[fold]
        fit = cast("SharingFit", self._fit)
        seed = derive_seed(self._seed, "fit", fold)
        return self._held.get(
            fold, lambda: fit.to(self._take(self.encoders, rows), self._labels[rows], seed=seed, threads=1)
        )

    def judge(self, predictor: Predictor, fold: int, *, start: float) -> FoldPart:
        """Score a predictor, fitted since ``start`` of :func:`time.perf_counter`, on one fold's held-out rows."""
        _, score_rows = self._folds[fold]
        held_out = self._take(predictor.encoders, score_rows)
        predictions = np.asarray(predictor.predict_proba(held_out), dtype=np.float64)
        found = score(
            self._task,
            self._labels[score_rows],
            predictions,
            classes=self._classes,
            metrics=self.metrics,
            decision=predictor.decision(held_out),
        )
        notes = [f"{name} is undefined in fold {fold + 1}: {why}" for name, why in found.undefined.items()]
        notes += [f"fold {fold + 1}: {note}" for note in predictor.notes]
        return FoldPart(
            values=dict(found),
            seconds=time.perf_counter() - start,
            notes=tuple(notes),
            predictions=predictions if self.keeps_predictions else None,
        )

    def _take(self, subset: Subset, rows: NDArray[np.int64]) -> Blocks:
        matrices = {name: self._matrices[self.encoders.index(name)][rows] for name in subset}
        bags = None if self._bags is None else self._bags.only(subset).take(rows)
        return Blocks(ids=self._ids[rows].astype(object), matrices=matrices, bags=bags)
