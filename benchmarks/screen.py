"""Time the closed-form screen of all subsets, and compare with mlxtend's exhaustive search on a sample of them.

``python benchmarks/screen.py`` prints one JSON object. Blocks are synthetic and correlated: every encoder sees the same
hidden factors, which the label depends on, through its own mixing and noise.
"""

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks import Blocks
from biofuse.core.tasks import Task
from biofuse.heads.ridge import RELATIVE_PENALTIES
from biofuse.heads.threads import limit_threads
from biofuse.search import ClosedFormScorer, Subset, ValidationPlan, make_strategy, run_search
from biofuse.search.subsets import all_subsets

DIMS = (512, 512, 512, 768, 768, 1024, 1408, 1536, 1536)
FACTORS = 48
FOLDS = 5


def make_data(n: int, n_classes: int, seed: int) -> tuple[Blocks, NDArray[np.int64], ValidationPlan]:
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(n, FACTORS)) * np.linspace(2, 0.3, FACTORS)
    logits = hidden[:, :12] @ random.normal(size=(12, n_classes)) + 3 * random.normal(size=(n, n_classes))
    matrices = {
        f"encoder-{number}": (
            (hidden * (random.random(FACTORS) < 0.7)) @ random.normal(size=(FACTORS, dim))
            + 6 * random.normal(size=(n, dim))
        ).astype(np.float32)
        for number, dim in enumerate(DIMS)
    }
    ids = np.array([f"s{row:06d}" for row in range(n)], dtype=object)
    where = random.permutation(n) % FOLDS
    folds = [(np.flatnonzero(where != fold), np.flatnonzero(where == fold)) for fold in range(FOLDS)]
    return (
        Blocks(ids=ids, matrices=matrices),
        logits.argmax(axis=1).astype(np.int64),
        ValidationPlan.cross_validation(folds, ids=ids),
    )


def mlxtend_scores(
    blocks: Blocks,
    labels: NDArray[np.int64],
    plan: ValidationPlan,
    *,
    subset: Subset,
    metric: str,
    penalties: Sequence[float],
) -> NDArray[np.float64]:
    """Score one subset as its only combination of feature groups, with the same penalties."""
    from mlxtend.feature_selection import ExhaustiveFeatureSelector
    from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X = np.hstack([blocks[name] for name in subset]).astype(np.float64)
    ends = np.cumsum([blocks.dims[name] for name in subset]).tolist()
    groups = [list(range(end - blocks.dims[name], end)) for end, name in zip(ends, subset, strict=True)]
    # Standardised columns have unit variance: the mean squared distance from the mean row is their number.
    alphas = np.array(penalties) * X.shape[1]
    head = RidgeClassifier(alphas[0]) if len(alphas) == 1 else RidgeClassifierCV(alphas)
    search = ExhaustiveFeatureSelector(
        make_pipeline(StandardScaler(), head),
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
    scorer: ClosedFormScorer,
    blocks: Blocks,
    labels: NDArray[np.int64],
    plan: ValidationPlan,
    *,
    sample: list[Subset],
    penalties: Sequence[float],
) -> dict[str, Any]:
    metric, theirs = ("auroc", "roc_auc") if labels.max() == 1 else ("accuracy", "accuracy")

    def reference(subset: Subset) -> NDArray[np.float64]:
        return mlxtend_scores(blocks, labels, plan, subset=subset, metric=theirs, penalties=penalties)

    with limit_threads(1):
        reference(sample[0])  # imports
        start = time.perf_counter()
        expected = [reference(subset) for subset in sample]
        slow = time.perf_counter() - start
        start = time.perf_counter()
        found = scorer.score_many(sample)
        fast = time.perf_counter() - start
    differences = [np.abs(np.array(f.folds[metric]) - e).max() for f, e in zip(found, expected, strict=True)]
    return {
        "subsets_sampled": len(sample),
        "seconds_per_subset_mlxtend": slow / len(sample),
        "seconds_per_subset_biofuse": fast / len(sample),
        "times_faster": slow / fast,
        "metric": metric,
        "largest_difference": float(max(differences)),
        "processes": 1,
        "threads": 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=546)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reduce-to", type=int)
    parser.add_argument("--alpha", type=float, help="one relative penalty instead of a choice by leave-one-out")
    parser.add_argument("--sample", type=int, default=12, help="subsets given to mlxtend; 0 to leave it out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    penalties = RELATIVE_PENALTIES if options.alpha is None else (options.alpha,)
    blocks, labels, plan = make_data(options.n, options.classes, options.seed)
    start = time.perf_counter()
    scorer = ClosedFormScorer(
        blocks,
        labels,
        plan=plan,
        task=Task.BINARY if options.classes == 2 else Task.MULTICLASS,
        classes=[f"class {number}" for number in range(options.classes)],
        reduce_to=options.reduce_to,
        alphas=penalties,
    )
    prepared = time.perf_counter()
    board = run_search(blocks.encoders, make_strategy("exhaustive"), scorer, workers=options.workers, yes=True)
    done = time.perf_counter()
    result: dict[str, Any] = {
        "n": options.n,
        "classes": options.classes,
        "subsets": len(board),
        "folds": FOLDS,
        "workers": options.workers,
        "mode": scorer.mode,
        "reduce_to": options.reduce_to,
        "penalties": len(penalties),
        "estimate": {way: str(work) for way, work in scorer.works.items()},
        "seconds_prepare": prepared - start,
        "seconds_score": done - prepared,
        "seconds": done - start,
        "load": os.getloadavg()[0],
        "best": list(board.best_first()[0].subset),
        "best_auroc": board.best_first()[0].mean("auroc"),
    }
    if not options.sample or options.reduce_to is not None:
        result["mlxtend"] = "not asked for"
    elif importlib.util.find_spec("mlxtend") is None:
        result["mlxtend"] = "not installed"
    else:
        pool = all_subsets(blocks.encoders)
        random = np.random.default_rng(options.seed)
        chosen = random.choice(len(pool), min(options.sample, len(pool)), replace=False)
        result["mlxtend"] = compare(
            scorer, blocks, labels, plan, sample=[pool[number] for number in chosen], penalties=penalties
        )
        result["mlxtend"]["hours_for_all_extrapolated"] = (
            result["mlxtend"]["seconds_per_subset_mlxtend"] * len(pool) / 3600
        )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
