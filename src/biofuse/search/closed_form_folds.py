"""What closed-form scores are computed from: products of rows or of columns per fold, and the problems to be solved."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import ColumnBlocks, GramBlocks, Scaling, column_blocks, gram_blocks
from biofuse.core.tasks import Task
from biofuse.heads.problems import Setup, set_up
from biofuse.heads.protocol import ClassWeight
from biofuse.heads.threads import limit_threads
from biofuse.search.closed_form_cost import Way
from biofuse.search.kept_rows import positions
from biofuse.search.leave_one_out import Matrix64
from biofuse.search.plan import ValidationPlan


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighting:
    """Problems that weight the training rows alike, and so share a decomposition.

    Attributes
    ----------
    weights : ndarray of float64, shape (n_train,)
    targets : ndarray of float64, shape (n_train, n_columns)
        -1 and 1, those of all problems side by side.
    problems : tuple of int
        Places of the problems in the fold's set-up.
    columns : tuple of slice
        The targets of each.
    moments : tuple of ndarray, or None
        Those of :meth:`biofuse.blocks.ColumnBlocks.moments`, where products are of columns.
    """

    weights: Matrix64
    targets: Matrix64
    problems: tuple[int, ...]
    columns: tuple[slice, ...]
    moments: tuple[Matrix64, Matrix64, Matrix64] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One fold.

    Attributes
    ----------
    algebra : GramBlocks or ColumnBlocks
        Products of the standardised blocks.
    setup : Setup
        What there is to fit on the training rows.
    weightings : tuple of Weighting
        The same, ordered by row weights.
    labels : ndarray of int64
        Of the held-out rows.
    kept : ndarray of int64, or None
        Which held-out rows predictions are kept of; None for all.
    """

    algebra: GramBlocks | ColumnBlocks
    setup: Setup
    weightings: tuple[Weighting, ...]
    labels: NDArray[np.int64]
    kept: NDArray[np.int64] | None


Problems = tuple[Setup, tuple[Weighting, ...]]


def state_problems(
    labels: NDArray[np.int64], plan: ValidationPlan, *, task: Task, n_classes: int, class_weight: ClassWeight
) -> list[Problems]:
    """Say what there is to fit, per fold.

    Raises
    ------
    DataError
        If labels do not fit the task.
    """
    setups = [
        # The features have their own checks; a column of zeros stands in for them.
        set_up(
            np.zeros((len(fit), 1)),
            labels[fit],
            task=task,
            n_classes=n_classes,
            class_weight=class_weight,
            sample_weight=None,
        )
        for fit, _ in plan.folds
    ]
    return [(setup, _weightings(setup)) for setup in setups]


def prepare_folds(
    blocks: Blocks,
    labels: NDArray[np.int64],
    plan: ValidationPlan,
    *,
    problems: Sequence[Problems],
    mode: Way,
    scaling: Scaling,
    reduce_to: int | None,
    kept: NDArray[np.bool_],
    threads: int,
) -> tuple[Fold, ...]:
    """Standardise, maybe reduce, and multiply the blocks of every fold, several folds at a time.

    Raises
    ------
    DataError
        If values are not finite.
    """
    build = gram_blocks if mode == "dual" else column_blocks

    def prepare(number: int) -> Fold:
        fit, held_out = plan.folds[number]
        setup, weightings = problems[number]
        algebra = build(blocks, fit, held_out, scaling=scaling, reduce_to=reduce_to)
        return Fold(
            algebra=algebra,
            setup=setup,
            weightings=_with_moments(weightings, algebra),
            labels=labels[held_out],
            kept=positions(held_out, kept),
        )

    workers = min(threads, len(plan.folds))
    with limit_threads(threads // workers), ThreadPoolExecutor(workers) as pool:
        return tuple(pool.map(prepare, range(len(plan.folds))))


def _weightings(setup: Setup) -> tuple[Weighting, ...]:
    """Put problems with the same row weights together: they share a decomposition."""
    alike: dict[bytes, list[int]] = {}
    for number, problem in enumerate(setup.problems):
        alike.setdefault(problem.weights.tobytes(), []).append(number)
    found = []
    for numbers in alike.values():
        targets = [2 * setup.problems[number].indicators - 1 for number in numbers]
        ends = np.cumsum([part.shape[1] for part in targets]).tolist()
        found.append(
            Weighting(
                weights=setup.problems[numbers[0]].weights,
                targets=np.hstack(targets),
                problems=tuple(numbers),
                columns=tuple(slice(end - part.shape[1], end) for part, end in zip(targets, ends, strict=True)),
            )
        )
    return tuple(found)


def _with_moments(weightings: tuple[Weighting, ...], algebra: GramBlocks | ColumnBlocks) -> tuple[Weighting, ...]:
    if isinstance(algebra, GramBlocks):
        return weightings
    return tuple(
        replace(weighting, moments=algebra.moments(weighting.weights, weighting.targets)) for weighting in weightings
    )
