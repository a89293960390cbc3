"""Scores subsets without refitting: ridge regression in closed form, from products that add up over encoders."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import ColumnBlocks, GramBlocks, Scaling
from biofuse.core.errors import AlignmentError, SearchError
from biofuse.core.tasks import Task
from biofuse.evaluation.metrics import get_metric, score
from biofuse.heads.protocol import ClassWeight
from biofuse.heads.ridge import RELATIVE_PENALTIES
from biofuse.heads.threads import limit_threads
from biofuse.search.closed_form_cost import Way, Work, choose, estimate, flops_per_fold
from biofuse.search.closed_form_folds import Weighting, prepare_folds, state_problems
from biofuse.search.kept_rows import KEEP_BYTES, count_subsets, kept_in_folds, rows_to_keep
from biofuse.search.leave_one_out import SMALLEST, Matrix64, Path, Workspace, column_path, row_path
from biofuse.search.memory import memory_limit as usual_memory_limit
from biofuse.search.plan import ValidationPlan
from biofuse.search.scorer import FoldPart, FoldScores, gather
from biofuse.search.strategies import EXHAUSTIVE_LIMIT
from biofuse.search.subsets import Subset, in_pool_order

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
    keep_bytes : int
        Most memory for the estimates of all subsets as float32. Where those of all rows would take more, only the rows
        of :func:`biofuse.search.kept_rows.rows_to_keep` are kept.
    keep_rows : ndarray of bool, shape (n,), optional
        The rows whose estimates are kept, instead.
    memory_limit : int, optional
        Bytes; a share of what is available if not given.
    threads : int, default 1
        Cores for the products that are computed here and now; scoring is left to the caller's limit.

    Attributes
    ----------
    mode : {"dual", "primal"}
        The way chosen.
    works : dict
        What either way costs.
    kept_rows : tuple of ndarray of int64
        Per fold, the indices into the development rows of the rows of ``FoldScores.out_of_fold``; all held-out rows
        where nothing is left out.

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
        keep_bytes: int = KEEP_BYTES,
        keep_rows: NDArray[np.bool_] | None = None,
        memory_limit: int | None = None,
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
        self._reduce_to = reduce_to
        self._workspace = Workspace()
        kept = self._rows_to_keep(plan, keep_bytes, keep_rows)
        self.kept_rows = kept_in_folds(plan, kept)
        truth = np.ascontiguousarray(labels)
        problems = state_problems(truth, plan, task=task, n_classes=len(classes), class_weight=class_weight)
        self._n_weightings = max(1, *(len(weightings) for _, weightings in problems))
        self.works: dict[Way, Work] = estimate(
            tuple(blocks.dims.values()),
            n_train=self.n_train,
            n_test=self.n_test,
            n_columns=len(classes),
            n_weightings=self._n_weightings,
            n_alphas=len(self._relative),
            reduce_to=reduce_to,
        )
        limit = usual_memory_limit() if memory_limit is None else memory_limit
        self.mode: Way = choose(self.works, mode=mode, memory_limit=limit)
        self._folds = prepare_folds(
            blocks,
            truth,
            plan,
            problems=problems,
            mode=self.mode,
            scaling=scaling,
            reduce_to=reduce_to,
            kept=kept,
            threads=threads,
        )

    def n_dims(self, subset: Subset) -> int:
        """Columns of the subset's blocks together, before any reduction."""
        return sum(self._dims[name] for name in subset)

    def relative_work(self, subset: Subset) -> float:
        """Return how long scoring a subset takes, in operations: of use only against that of other subsets."""
        reduce_to = self._reduce_to
        dims = [self._dims[name] if reduce_to is None else min(self._dims[name], reduce_to) for name in subset]
        return sum(
            flops_per_fold(
                self.mode,
                dims=dims,
                n_train=n_train,
                n_test=n_test,
                n_columns=len(self._classes),
                n_weightings=self._n_weightings,
                n_alphas=len(self._relative),
            )
            for n_train, n_test in zip(self.n_train, self.n_test, strict=True)
        )

    def score(self, subset: Subset) -> FoldScores:
        """Score a subset on every fold."""
        return gather(self.metrics, [self.score_fold(subset, fold) for fold in range(len(self._folds))])

    def score_many(self, subsets: Sequence[Subset], *, threads: int = 1) -> list[FoldScores]:
        """Score subsets, fold by fold, so that one fold's products stay in the cache; the same as :meth:`score`."""

        def of_fold(fold: int) -> list[FoldPart]:
            return [self.score_fold(subset, fold) for subset in subsets]

        with limit_threads(1), ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(of_fold, range(len(self._folds))))
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
        predictions = found.estimates if kept.kept is None else found.estimates[kept.kept]
        return FoldPart(
            values=dict(values),
            seconds=time.perf_counter() - start,
            notes=tuple(notes),
            predictions=predictions if self.keeps_predictions else None,
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
            path = self._path(kept.algebra, names, weighting)
            paths.append(path)
            places = path.best(weighting.columns)
            chosen = list(zip(places, weighting.columns, strict=True))
            coef = np.hstack([path.coef[place][:, columns] for place, columns in chosen])
            intercept = np.concatenate([path.intercept[place, columns] for place, columns in chosen])
            found = kept.algebra.apply(names, coef) + intercept
            for problem, columns, place in zip(weighting.problems, weighting.columns, places, strict=True):
                margins[problem] = found[:, columns]
                alphas[problem] = float(path.alphas[place])
        outputs, n = kept.setup.outputs, len(kept.labels)
        shares = [np.hstack([1 - m, 1 + m]) / 2 if m.shape[1] == 1 else (1 + m) / 2 for m in margins]
        return ClosedForm(
            decision=outputs.decision(margins, n=n, log_odds=False),
            estimates=outputs.place(shares, n=n),
            alphas=tuple(alphas),
            paths=tuple(paths),
        )

    def _path(self, algebra: GramBlocks | ColumnBlocks, names: Subset, weighting: Weighting) -> Path:
        if isinstance(algebra, GramBlocks):
            return row_path(
                algebra.total(names, out=self._workspace.array("products", algebra.train.shape[1:])),
                targets=weighting.targets,
                weights=weighting.weights,
                relative=self._relative,
                groups=weighting.columns,
                workspace=self._workspace,
            )
        if weighting.moments is None:
            raise SearchError("The products of columns were not prepared.")
        mean, products, crossed = weighting.moments
        columns = algebra.columns(names)
        return column_path(
            algebra.train,
            columns=algebra.slices(names),
            mean=mean[columns],
            products=products[np.ix_(columns, columns)],
            crossed=crossed[columns],
            targets=weighting.targets,
            weights=weighting.weights,
            relative=self._relative,
            groups=weighting.columns,
        )

    def _rows_to_keep(
        self, plan: ValidationPlan, keep_bytes: int, keep_rows: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_]:
        if keep_rows is None:
            n_subsets = count_subsets(self.encoders, most=EXHAUSTIVE_LIMIT)
            return rows_to_keep(plan, n_subsets=n_subsets, n_classes=len(self._classes), keep_bytes=keep_bytes)
        if keep_rows.shape != plan.ids.shape or keep_rows.dtype != np.bool_:
            raise AlignmentError(f"keep_rows must be {len(plan.ids)} booleans, one for each development row.")
        return keep_rows


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
