"""How a pool is screened: the way, the reduction, and what that will take on this machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from biofuse.heads.ridge import RELATIVE_PENALTIES
from biofuse.heads.threads import limit_threads
from biofuse.search.closed_form_cost import Way, Work, estimate, flops_per_fold, too_large
from biofuse.search.cost import START_SECONDS, duration
from biofuse.search.leave_one_out import column_path, row_path
from biofuse.search.memory import memory_limit as usual_memory_limit

PATIENCE = 300.0
"""Seconds that an unreduced screen may take."""

REDUCTIONS = (128, 64)
"""Components kept of each block where that is too long; the last one whatever it takes."""

SAMPLE = 512
"""Rows or columns of the solves that are timed: large enough to run at the speed of the real ones, some ten
milliseconds each."""

SAMPLE_ROWS = 4096
"""Rows of the timed solve by products of columns."""

PREPARING = 0.4
"""Part of the speed of a large matrix product that preparing a fold reaches: it also copies and standardises. Measured
on blocks of 512 to 1,536 columns, of 546 and 7,007 rows."""

Speed = Callable[[Way | Literal["products"], int, int], float]
"""Floating-point operations per second of scoring by either way, or of preparing, for rows and columns of a solve."""


@dataclass(frozen=True, kw_only=True)
class ScreenPlan:
    """How a pool will be screened.

    Attributes
    ----------
    mode : {"dual", "primal"}
        Products of rows or of columns.
    reduce_to : int or None
        Principal components kept of each block, fitted inside the folds; None for all columns.
    n_subsets : int
        Subsets to be scored.
    memory : int
        Bytes of all processes together, beyond the blocks.
    seconds : float
        Expected, for preparing and scoring.
    workers : int
        Processes.
    """

    mode: Way
    reduce_to: int | None
    n_subsets: int
    memory: int
    seconds: float
    workers: int

    def __str__(self) -> str:
        of = {"dual": "rows", "primal": "columns"}[self.mode]
        reduced = "" if self.reduce_to is None else f", each block reduced to {self.reduce_to} components"
        return (
            f"Screen: {self.n_subsets:,} subsets by products of {of}{reduced}, about {_amount(self.memory)} and "
            f"{_rounded(self.seconds)}"
        )


def plan_screen(
    dims: Sequence[int],
    *,
    n_train: Sequence[int],
    n_test: Sequence[int],
    n_columns: int = 1,
    n_weightings: int = 1,
    n_alphas: int = len(RELATIVE_PENALTIES),
    n_subsets: int | None = None,
    reduce_to: int | Literal["auto"] | None = "auto",
    memory_limit: int | None = None,
    workers: int = 1,
    patience: float = PATIENCE,
    speed: Speed | None = None,
) -> ScreenPlan:
    """Choose how to screen: without reduction where that is expected to be quick, else as little reduced as is.

    The expected time comes from timing a solve on this machine.

    Parameters
    ----------
    dims : sequence of int
        Columns of each block.
    n_train, n_test : sequence of int
        Rows fitted on and scored, per fold.
    n_columns : int
        Columns of targets: 1 for two classes, else one per class or label.
    n_weightings : int
        Different weightings of the rows: the number of labels of a multi-label task with class weights, else 1.
    n_alphas : int
        Penalties tried.
    n_subsets : int, optional
        How many are scored; all by default.
    reduce_to : int, None or "auto"
        Components to keep of each block, None for no reduction; chosen by default.
    memory_limit : int, optional
        Bytes; a share of what is available by default.
    workers : int
        Processes.
    patience : float
        Seconds that a screen may take before blocks are reduced (further).
    speed : callable, optional
        Instead of timing solves.

    Raises
    ------
    SearchError
        If every way that is left to choose needs more memory than the limit.
    """
    limit = usual_memory_limit() if memory_limit is None else memory_limit
    rate = speed or measure_speed
    count = 2 ** len(dims) - 1 if n_subsets is None else n_subsets
    tried: list[int | None] = [None, *REDUCTIONS] if reduce_to == "auto" else [reduce_to]
    refused: dict[Way, Work] = {}
    plan: ScreenPlan | None = None
    for components in tried:
        if components is not None and components >= max(dims) and (plan is not None or refused):
            continue  # it would change nothing
        works = estimate(
            dims,
            n_train=n_train,
            n_test=n_test,
            n_columns=n_columns,
            n_weightings=n_weightings,
            n_alphas=n_alphas,
            n_subsets=count,
            reduce_to=components,
        )
        fitting: list[Way] = [way for way in works if works[way].bytes(workers) <= limit]
        if not fitting:
            refused = works
            continue
        # By operations, as the scorer chooses: it may not time anything.
        way = min(fitting, key=lambda name: works[name].total_flops)
        kept = [dim if components is None else min(dim, components) for dim in dims]
        plan = ScreenPlan(
            mode=way,
            reduce_to=components,
            n_subsets=count,
            memory=works[way].bytes(workers),
            seconds=_seconds(way, works[way], rate, rows=max(n_train), columns=sum(kept) // 2, workers=workers),
            workers=workers,
        )
        if plan.seconds <= patience:
            break
    if plan is None:
        raise too_large(refused, memory_limit=limit, workers=workers)
    return plan


def _seconds(way: Way, work: Work, rate: Speed, *, rows: int, columns: int, workers: int) -> float:
    preparing = work.setup_flops / (PREPARING * rate("products", rows, columns))
    scoring = work.flops / rate(way, rows, columns)
    start = START_SECONDS if workers > 1 and scoring > START_SECONDS else 0.0
    return (preparing + scoring) / workers + start


def measure_speed(what: Way | Literal["products"], rows: int, columns: int) -> float:
    """Time one solve, or one matrix product, on one core.

    Parameters
    ----------
    what : {"dual", "primal", "products"}
        What to time.
    rows, columns : int
        Of the real one; those of the timed one are at most :data:`SAMPLE_ROWS` and :data:`SAMPLE`.

    Returns
    -------
    float
        Floating-point operations per second, as :mod:`biofuse.search.closed_form_cost` counts them.
    """
    random = np.random.default_rng(0)
    n = max(8, min(rows, SAMPLE_ROWS if what == "primal" else SAMPLE))
    d = max(4, min(columns, SAMPLE))
    X = random.normal(size=(n, d))
    X -= X.mean(axis=0)
    targets, relative = np.sign(random.normal(size=(n, 1))), np.array(RELATIVE_PENALTIES)
    weights = np.ones(n)
    products = X @ X.T if what == "dual" else X.T @ X

    def solve() -> float:
        if what == "dual":
            row_path(products.copy(), targets=targets, weights=weights, relative=relative)
        elif what == "primal":
            column_path(
                X,
                columns=[slice(0, d)],
                mean=np.zeros(d),
                products=products,
                crossed=X.T @ targets,
                targets=targets,
                weights=weights,
                relative=relative,
            )
        else:
            X.T @ X
            return 1.0 * n * d**2  # symmetric: half of the operations are spared
        return flops_per_fold(what, dims=[d], n_train=n, n_test=0, n_columns=1, n_weightings=1, n_alphas=len(relative))

    with limit_threads(1):
        solve()
        start = time.perf_counter()
        flops = [solve() for _ in range(3)]
        return sum(flops) / max(time.perf_counter() - start, 1e-9)


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 20 else f"{max(1, round(size / 2**20))} MiB"


def _rounded(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{max(1, round(seconds))} seconds"
