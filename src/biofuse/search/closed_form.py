"""Scores subsets without refitting: ridge regression in closed form, from products that add up over encoders."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import ColumnBlocks, GramBlocks, Scaling, column_blocks, gram_blocks
from biofuse.core.errors import AlignmentError, SearchError
from biofuse.core.tasks import Task
from biofuse.evaluation.metrics import get_metric, score
from biofuse.heads.problems import Setup, set_up
from biofuse.heads.protocol import ClassWeight
from biofuse.heads.ridge import RELATIVE_PENALTIES
from biofuse.heads.threads import limit_threads
from biofuse.search.closed_form_cost import Way, Work, choose, estimate
from biofuse.search.leave_one_out import SMALLEST, Matrix64, Path, Workspace, column_path, row_path
from biofuse.search.plan import ValidationPlan
from biofuse.search.scorer import FoldPart, FoldScores, gather
from biofuse.search.subsets import Subset, in_pool_order

MEMORY_LIMIT = 8 * 2**30
"""Bytes that the products of all folds may take: half of what a common workstation has."""

METRICS = ("auroc", "accuracy", "balanced_accuracy")
"""What a screen computes: nothing that needs calibrated probabilities."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosedForm:
    """One subset on one fold.

    Attributes
    ----------
    decision : ndarray of float64, shape (n_scored, n_classes)
        Decision values of the held-out rows; both signs of one value for two classes.
    estimates : ndarray of float64, shape (n_scored, n_classes)
        Least-squares estimates of the class probabilities, ``(1 + decision) / 2``: they rank and decide as the decision
        values do and add up to 1 where classes exclude each other, but may lie outside 0 and 1. Absent classes are 0.
    alphas : tuple of float
        The penalty chosen for each problem: one, or one per label that varies.
    paths : tuple of Path
        Errors and solutions for every penalty, per weighting of the rows.
    """

    decision: Matrix64
    estimates: Matrix64
    alphas: tuple[float, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Weighting:
    """The problems that weight the training rows alike, their targets side by side."""

    weights: Matrix64
    targets: Matrix64
    problems: tuple[int, ...]
    columns: tuple[slice, ...]
    mean: Matrix64 | None = None
    products: Matrix64 | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fold:
    """What is kept of one fold."""

    algebra: GramBlocks | ColumnBlocks
    setup: Setup
    weightings: tuple[_Weighting, ...]
    labels: NDArray[np.int64]


class ClosedFormScorer:
    """Ridge regression on targets of -1 and 1 for every fold, with the penalty chosen by leave-one-out inside it.

    Scores are those of the ``ridge`` head on concatenated blocks, up to that fusion's rounding to float32: standardised
    on the training rows, intercept not penalised, one class against the rest, the penalty with the least (weighted)
    squared leave-one-out error, chosen for all classes together and for each label of a multi-label task by itself.

    Parameters
    ----------
    blocks : Blocks
        Development data only, in pool order.
    labels : ndarray of int64, shape (n,) or (n, n_labels)
        Labels of ``blocks.ids``.
    plan : ValidationPlan
        Must have the same ids in the same order.
    task : Task
        What the labels are.
    classes : sequence of str
        Class or label names.
    scaling : {"none", "block"}
        As for ``biofuse.fusion.Concatenation``.
    class_weight : mapping, "balanced" or None
        As for the heads: rows are weighted in the fit and in its leave-one-out errors.
    alphas : sequence of float
        Penalties tried, in units of the mean squared (weighted) distance of a training row from the mean row, which is
        the trace of the products divided by their number. By default those of the ridge head: 15 from 1e-3 to 1e4. A
        single one is used as it is, several times faster than a choice.
    mode : {"auto", "dual", "primal"}
        Products of rows (dual), of columns (primal), or whichever needs fewer operations and fits into memory. Scores
        do not depend on it.
    reduce_to : int, optional
        Principal components kept of each block, fitted inside the fold; all columns if not given.
    metrics : sequence of str
        Which metrics to compute.
    keep_predictions : bool, default False
        Whether out-of-fold estimates are kept.
    memory_limit : int
        Bytes.
    threads : int, default 1
        Cores for the products that are computed here and now; scoring is left to the caller's limit.

    Raises
    ------
    AlignmentError
        If blocks, labels and plan are not about the same samples.
    SearchError
        If memory would exceed the limit, a metric needs calibrated probabilities, or penalties make no sense.
    DataError
        If values are not finite or labels do not fit the task.
    """

    def __init__(
        self,
        blocks: Blocks,
        labels: NDArray[np.int64],
        *,
        plan: ValidationPlan,
        task: Task,
        classes: Sequence[str],
        scaling: Scaling = "none",
        class_weight: ClassWeight = None,
        alphas: Sequence[float] = RELATIVE_PENALTIES,
        mode: Literal["auto", "dual", "primal"] = "auto",
        reduce_to: int | None = None,
        metrics: Sequence[str] = METRICS,
        keep_predictions: bool = False,
        memory_limit: int = MEMORY_LIMIT,
        threads: int = 1,
    ) -> None:
        if len(labels) != blocks.n_samples or list(plan.ids) != list(blocks.ids):
            raise AlignmentError("Blocks, labels and validation plan of a search are not about the same samples.")
        _check(metrics, alphas, reduce_to)
        self.encoders: Subset = blocks.encoders
        self.metrics: tuple[str, ...] = tuple(metrics)
        self.n_train: tuple[int, ...] = plan.n_train
        self.n_test: tuple[int, ...] = plan.n_test
        self.keeps_predictions = keep_predictions
        self._dims = blocks.dims
        self._task = task
        self._classes = tuple(classes)
        self._relative = np.sort(np.asarray(alphas, dtype=np.float64))
        self._workspace = Workspace()
        truth = np.ascontiguousarray(labels)
        setups = [self._set_up(truth[fit], class_weight) for fit, _ in plan.folds]
        weightings = [_weightings(setup) for setup in setups]
        self.works: dict[Way, Work] = estimate(
            tuple(blocks.dims.values()),
            n_train=self.n_train,
            n_test=self.n_test,
            n_columns=len(classes),
            n_weightings=max(1, *(len(group) for group in weightings)),
            n_alphas=len(self._relative),
            reduce_to=reduce_to,
        )
        self.mode: Way = choose(self.works, mode=mode, memory_limit=memory_limit)
        build = gram_blocks if self.mode == "dual" else column_blocks
        with limit_threads(threads):
            algebras = [build(blocks, fit, held, scaling=scaling, reduce_to=reduce_to) for fit, held in plan.folds]
            self._folds = tuple(
                _Fold(algebra=algebra, setup=setup, weightings=_with_moments(group, algebra), labels=truth[held])
                for algebra, setup, group, (_, held) in zip(algebras, setups, weightings, plan.folds, strict=True)
            )

    def n_dims(self, subset: Subset) -> int:
        """Columns of the subset's blocks together, before any reduction."""
        return sum(self._dims[name] for name in subset)

    def score(self, subset: Subset) -> FoldScores:
        """Score a subset on every fold."""
        return gather(self.metrics, [self.score_fold(subset, fold) for fold in range(len(self._folds))])

    def score_many(self, subsets: Sequence[Subset]) -> list[FoldScores]:
        """Score subsets, fold by fold, so that one fold's products stay in the cache; the same as :meth:`score`."""
        with limit_threads(1):
            parts = [[self.score_fold(subset, fold) for subset in subsets] for fold in range(len(self._folds))]
        return [gather(self.metrics, found) for found in zip(*parts, strict=True)]

    def score_fold(self, subset: Subset, fold: int) -> FoldPart:
        """Fit a subset on one fold's training rows and score its held-out rows."""
        start = time.perf_counter()
        kept, found = self._folds[fold], self.solve(subset, fold)
        values = score(
            self._task,
            kept.labels,
            found.estimates,
            classes=self._classes,
            metrics=self.metrics,
            decision=found.decision,
        )
        notes = [f"{name} is undefined in fold {fold + 1}: {why}" for name, why in values.undefined.items()]
        notes += [f"fold {fold + 1}: {note}" for note in kept.setup.notes]
        return FoldPart(
            values=dict(values),
            seconds=time.perf_counter() - start,
            notes=tuple(notes),
            predictions=found.estimates if self.keeps_predictions else None,
        )

    def solve(self, subset: Subset, fold: int) -> ClosedForm:
        """Return decision values and penalties of a subset on one fold.

        Raises
        ------
        SearchError
            If the subset is empty or names an encoder that is not in the pool.
        """
        names, kept = in_pool_order(self.encoders, subset), self._folds[fold]
        n_problems = len(kept.setup.problems)
        margins: list[Matrix64] = [np.empty((0, 0))] * n_problems
        alphas = [0.0] * n_problems
        paths = []
        for weighting in kept.weightings:
            path, held_out = self._path(kept.algebra, names, weighting)
            paths.append(path)
            for problem, columns, place in zip(
                weighting.problems, weighting.columns, path.best(weighting.columns), strict=True
            ):
                margins[problem] = held_out @ path.coef[place][:, columns] + path.intercept[place, columns]
                alphas[problem] = float(path.alphas[place])
        outputs, n = kept.setup.outputs, len(kept.labels)
        shares = [np.hstack([1 - m, 1 + m]) / 2 if m.shape[1] == 1 else (1 + m) / 2 for m in margins]
        return ClosedForm(
            decision=outputs.decision(margins, n=n, log_odds=False),
            estimates=outputs.place(shares, n=n),
            alphas=tuple(alphas),
            paths=tuple(paths),
        )

    def _path(self, algebra: GramBlocks | ColumnBlocks, names: Subset, weighting: _Weighting) -> tuple[Path, Matrix64]:
        """Return the solutions, and what their coefficients of the held-out rows are multiplied with."""
        if isinstance(algebra, GramBlocks):
            space = self._workspace
            train, test = algebra.total(
                names,
                out=(space.array("train", algebra.train.shape[1:]), space.array("test", algebra.test.shape[1:])),
            )
            path = row_path(
                train,
                targets=weighting.targets,
                weights=weighting.weights,
                relative=self._relative,
                workspace=space,
            )
            return path, test
        if weighting.mean is None or weighting.products is None:
            raise SearchError("The products of columns were not prepared.")
        columns = algebra.columns(names)
        path = column_path(
            algebra.train[:, columns],
            mean=weighting.mean[columns],
            products=weighting.products[np.ix_(columns, columns)],
            targets=weighting.targets,
            weights=weighting.weights,
            relative=self._relative,
        )
        return path, algebra.test[:, columns]

    def _set_up(self, labels: NDArray[np.int64], class_weight: ClassWeight) -> Setup:
        # The features have their own checks; a column of zeros stands in for them.
        return set_up(
            np.zeros((len(labels), 1)),
            labels,
            task=self._task,
            n_classes=len(self._classes),
            class_weight=class_weight,
            sample_weight=None,
        )


def _weightings(setup: Setup) -> tuple[_Weighting, ...]:
    """Put problems with the same row weights together: they share a decomposition."""
    alike: dict[bytes, list[int]] = {}
    for number, problem in enumerate(setup.problems):
        alike.setdefault(problem.weights.tobytes(), []).append(number)
    found = []
    for numbers in alike.values():
        targets = [2 * setup.problems[number].indicators - 1 for number in numbers]
        ends = np.cumsum([part.shape[1] for part in targets]).tolist()
        found.append(
            _Weighting(
                weights=setup.problems[numbers[0]].weights,
                targets=np.hstack(targets),
                problems=tuple(numbers),
                columns=tuple(slice(end - part.shape[1], end) for part, end in zip(targets, ends, strict=True)),
            )
        )
    return tuple(found)


def _with_moments(weightings: tuple[_Weighting, ...], algebra: GramBlocks | ColumnBlocks) -> tuple[_Weighting, ...]:
    if isinstance(algebra, GramBlocks):
        return weightings
    moments = [algebra.moments(weighting.weights) for weighting in weightings]
    return tuple(
        replace(weighting, mean=mean, products=products)
        for weighting, (mean, products) in zip(weightings, moments, strict=True)
    )


def _check(metrics: Sequence[str], alphas: Sequence[float], reduce_to: int | None) -> None:
    for name in metrics:
        get_metric(name)
    if "log_loss" in metrics:
        raise SearchError(
            "A closed-form screen has no calibrated probabilities, which log-loss needs.",
            remedy="Leave it out, or use a search that refits the head.",
        )
    penalties = np.asarray(alphas, dtype=np.float64)
    if not penalties.size or not np.isfinite(penalties).all() or (penalties < SMALLEST).any():
        raise SearchError(
            f"Relative penalties must be finite and at least {SMALLEST:g}, not {list(alphas)}.",
            remedy="Leave alphas out to try 1e-3 to 1e4.",
        )
    if reduce_to is not None and reduce_to < 1:
        raise SearchError(f"A block cannot be reduced to {reduce_to} columns.")
