"""Time the closed-form screen of all subsets, beside what it cannot do without and mlxtend's exhaustive search.

``python perf/screen.py --n 546 --classes 2`` prints one JSON object. Blocks are synthetic and correlated (see
``measuring.py``). Without ``--reduce-to`` the screen decides as it does in use: unreduced where that takes few
operations.

*Bound*: by products of rows, one LAPACK tridiagonalisation (``dsytrd``) of the training products per subset and fold;
by products of columns, which subsets of few columns always take, the products of each block with itself, and per subset
and fold one symmetric eigendecomposition of the (reduced) products and one sort of the held-out rows per class. Ours
and the bound are timed on a sample of subsets, in turns, in one process and thread.
"""

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from joblib.externals.loky import get_reusable_executor
from measuring import FOLDS, PeakMemory, Processor, make_data
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import GramBlocks
from biofuse.core.machine import limit_threads
from biofuse.core.target import Task
from biofuse.data.splits import ValidationPlan
from biofuse.search.closed_form import ClosedFormScorer, Fold, Size
from biofuse.search.leaderboard import Subset, all_subsets
from biofuse.search.runner import Cost, run_search
from biofuse.search.screen import kept_in_folds, plan_screen, rows_to_keep
from biofuse.search.strategies import make_strategy

PENALTY = 1.0
"""The one relative penalty of the comparison with mlxtend."""

BOUND_SAMPLE = 12
"""Subsets on which the bound is timed where none are given to mlxtend."""


def mlxtend_scores(
    blocks: Blocks, labels: NDArray[np.int64], plan: ValidationPlan, *, subset: Subset, metric: str
) -> NDArray[np.float64]:
    """Score one subset as its only combination of feature groups, with the same penalty."""
    from mlxtend.feature_selection import ExhaustiveFeatureSelector
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X = np.hstack([blocks[name] for name in subset]).astype(np.float64)
    ends = np.cumsum([blocks.dims[name] for name in subset]).tolist()
    groups = [list(range(end - blocks.dims[name], end)) for end, name in zip(ends, subset, strict=True)]
    # Standardised columns have unit variance: the mean squared distance from the mean row is their number.
    search = ExhaustiveFeatureSelector(
        make_pipeline(StandardScaler(), RidgeClassifier(PENALTY * X.shape[1])),
        min_features=len(groups),
        max_features=len(groups),
        feature_groups=groups,
        scoring=metric,
        cv=list(plan.folds),
        n_jobs=1,
        print_progress=False,
    ).fit(X, labels)
    (found,) = search.subsets_.values()
    return np.asarray(found["cv_scores"], dtype=np.float64)


def compare(
    blocks: Blocks, labels: NDArray[np.int64], plan: ValidationPlan, *, sample: Sequence[Subset], n_all: int
) -> dict[str, Any]:
    """Score a sample of subsets both ways, with one penalty, process and thread."""
    metric, theirs = ("auroc", "roc_auc") if labels.max() == 1 else ("accuracy", "accuracy")
    with limit_threads(1):
        mlxtend_scores(blocks, labels, plan, subset=sample[0], metric=theirs)  # imports
        start = time.perf_counter()
        expected = [mlxtend_scores(blocks, labels, plan, subset=subset, metric=theirs) for subset in sample]
        slow = (time.perf_counter() - start) / len(sample)
        start = time.perf_counter()
        scorer = make_scorer(blocks, labels, plan, alphas=(PENALTY,), metrics=(metric,))
        preparing = (time.perf_counter() - start) / n_all
        start = time.perf_counter()
        found = [scorer.score(subset) for subset in sample]
        fast = preparing + (time.perf_counter() - start) / len(sample)
    differences = [np.abs(np.array(f.folds[metric]) - e).max() for f, e in zip(found, expected, strict=True)]
    return {
        "subsets_sampled": len(sample),
        "relative_penalty": PENALTY,
        "seconds_per_subset_mlxtend": slow,
        "seconds_per_subset_biofuse": fast,
        "of_which_its_share_of_preparing": preparing,
        "times_faster": slow / fast,
        "metric": metric,
        "largest_difference": float(max(differences)),
        "processes": 1,
        "threads": 1,
        "hours_for_all_mlxtend_extrapolated": slow * n_all / 3600,
    }


def least_seconds(work: Callable[[], object], *, times: int = 5) -> float:
    """Return the least processor time of some work in this thread: whatever else the machine does only adds to it."""
    seconds = []
    for _ in range(times):
        start = time.thread_time()
        work()
        seconds.append(time.thread_time() - start)
    return min(seconds)


def bound(
    blocks: Blocks, scorer: ClosedFormScorer, *, sample: Sequence[Subset], n_all: int, n_classes: int, preparing: float
) -> dict[str, Any]:
    """Time what no screen of this kind can do without, and what ours does, on a sample of subsets."""
    n_columns, fits = 1 if n_classes == 2 else n_classes, n_all * len(scorer.folds)
    ours, theirs = [], []
    with limit_threads(1):
        for number, subset in enumerate(sample):
            place = number % len(scorer.folds)
            ours.append(least_seconds(partial(scorer.score_fold, subset, place)))
            theirs.append(_least(scorer.folds[place], subset, n_columns=n_columns))
        fit, least = float(np.mean(ours)), float(np.mean(theirs))
        products = 0.0
        if scorer.mode == "primal":
            wide = [matrix.astype(np.float64) for matrix in blocks.values()]
            products = sum(least_seconds(partial(np.matmul, block.T, block), times=2) for block in wide)
    return {
        "subsets_sampled": len(sample),
        "seconds_per_subset_and_fold": fit,
        "seconds_per_subset_and_fold_bound": least,
        "times_the_bound_per_subset_and_fold": fit / least,
        "seconds_of_one_core": preparing + fits * fit,
        "seconds_of_one_core_bound": products + fits * least,
        "times_the_bound": (preparing + fits * fit) / (products + fits * least),
        "processes": 1,
        "threads": 1,
    }


def _least(fold: Fold, subset: Subset, *, n_columns: int) -> float:
    from scipy.linalg import eigh, lapack

    algebra = fold.algebra_of(subset)
    if isinstance(algebra, GramBlocks):
        products = np.asfortranarray(algebra.total(subset))
        size, _ = lapack.dsytrd_lwork(len(products), lower=1)
        work = products.copy("F")

        def tridiagonalise() -> None:
            work[:] = products
            lapack.dsytrd(work, lower=1, lwork=int(size), overwrite_a=1)

        return least_seconds(tridiagonalise) - least_seconds(lambda: work.__setitem__(slice(None), products))
    known = fold.weightings[0]
    _, products, _ = fold.moments[0] if fold.moments else algebra.moments(known.weights, known.targets)
    between = algebra.between(subset, products)
    decision = np.random.default_rng(0).normal(size=(n_columns, len(fold.labels)))
    return least_seconds(lambda: eigh(between, driver="evd", check_finite=False)) + least_seconds(
        lambda: np.argsort(decision, axis=1)
    )


def make_scorer(blocks: Blocks, labels: NDArray[np.int64], plan: ValidationPlan, **options: Any) -> ClosedFormScorer:
    n_classes = int(labels.max()) + 1
    return ClosedFormScorer(
        blocks,
        labels,
        plan=plan,
        task=Task.BINARY if n_classes == 2 else Task.MULTICLASS,
        classes=[f"class {number}" for number in range(n_classes)],
        **options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=546)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reduce-to", type=int, help="components of each block; 0 for no reduction")
    parser.add_argument("--sample", type=int, default=12, help="subsets given to mlxtend; 0 to leave it out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    announced: list[Cost] = []
    with PeakMemory() as memory:
        blocks, labels, plan = make_data(options.n, options.classes, options.seed)
        data_memory, load, clock = memory.gib, os.getloadavg()[0], Processor()
        size = Size(
            dims=list(blocks.dims.values()),
            n_train=plan.n_train,
            n_test=plan.n_test,
            n_columns=1 if options.classes == 2 else options.classes,
            n_weightings=1,
            n_subsets=2 ** len(blocks) - 1,
        )
        if options.reduce_to is None:
            reduce_to = plan_screen(size, workers=options.workers).reduce_to
        else:
            reduce_to = options.reduce_to or None
        kept = rows_to_keep(plan, n_subsets=size.n_subsets, n_classes=options.classes)
        planned = clock.wall
        scorer = make_scorer(
            blocks,
            labels,
            plan,
            reduce_to=reduce_to,
            keep=kept,
            threads=options.workers,
        )
        prepared = clock.wall
        board = run_search(
            blocks.encoders,
            make_strategy("exhaustive"),
            scorer,
            workers=options.workers,
            announce=announced.append,
            yes=True,
        )
        seconds, peak = clock.wall, memory.gib
        get_reusable_executor().shutdown()  # processor time is counted when a process has ended
        result: dict[str, Any] = {
            "n": options.n,
            "classes": options.classes,
            "subsets": len(board),
            "folds": FOLDS,
            "workers": options.workers,
            "mode": scorer.mode,
            "reduce_to": reduce_to,
            "seconds_plan": planned,
            "seconds_prepare": prepared - planned,
            "seconds_score": seconds - prepared,
            "seconds": seconds,
            "seconds_score_announced": announced[0].seconds,
            "cpu_seconds_with_workers": clock.cpu,
            "load_before": load,
            "rows_with_predictions_kept": sum(map(len, kept_in_folds(plan, kept))),
            "peak_memory_gib_with_workers": peak,
            "of_which_making_the_data": data_memory,
            "times_announced": (seconds - prepared) / announced[0].seconds,
            "best": list(board.best_first()[0].subset),
            "best_auroc": board.best_first()[0].mean("auroc"),
        }
    pool = all_subsets(blocks.encoders)
    random = np.random.default_rng(options.seed)
    chosen = random.choice(len(pool), min(options.sample or BOUND_SAMPLE, len(pool)), replace=False)
    sample = [pool[number] for number in chosen]
    with limit_threads(1):
        clock = Processor()
        scorer = make_scorer(blocks, labels, plan, reduce_to=reduce_to, keep=kept)
        preparing = clock.wall
    result["bound"] = bound(
        blocks, scorer, sample=sample, n_all=len(pool), n_classes=options.classes, preparing=preparing
    )
    if not options.sample or reduce_to is not None:
        result["mlxtend"] = "not asked for" if not options.sample else "does not reduce blocks"
    elif importlib.util.find_spec("mlxtend") is None:
        result["mlxtend"] = "not installed"
    else:
        result["mlxtend"] = compare(blocks, labels, plan, sample=sample, n_all=len(pool))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
