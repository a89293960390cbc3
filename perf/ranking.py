"""How well the closed-form screen ranks subsets: against a refitted head, on the same rows and folds.

``python perf/ranking.py DATA --label COLUMN --group COLUMN --head logistic`` prints one JSON object: Spearman's
correlation of the screen's scores with the head's over all subsets, and the regret of keeping the screen's best k: the
head's best score over all subsets less its best among those k. Embeddings come from the store.
"""

import argparse
import json
from typing import Any

import numpy as np
from choices import part

import biofuse
from biofuse.data.load import load_samples
from biofuse.data.splits import with_splits
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.search.config import SearchConfig
from biofuse.search.problem import Problem, head_of
from biofuse.search.rules import Budget
from biofuse.search.runner import SearchContext
from biofuse.search.screen import run_screen
from biofuse.search.search import refit
from biofuse.search.strategies import make_strategy

KEPT = (1, 2, 4, 8, 16)


def draw(data: EmbeddingSet, most: int) -> EmbeddingSet:
    """Return at most so many rows, groups whole."""
    from dataclasses import replace

    share = min(1.0, most / len(data.samples))
    if share == 1:
        return replace(data, samples=replace(data.samples, splits=None))
    samples = with_splits(
        replace(data.samples, splits=None),
        seed=0,
        fractions=(share, 0.0, 1 - share),
    )
    chosen = part(data, np.flatnonzero(np.asarray(samples.splits) == "train"))
    return replace(chosen, samples=replace(chosen.samples, splits=None))


def compare(data: EmbeddingSet, *, head: str, folds: int) -> dict[str, Any]:
    from scipy.stats import spearmanr

    config = SearchConfig(encoders=tuple(data), search="screen", head=head, folds=folds, repeats=1, metric="auroc")
    problem, runtime = Problem.from_embeddings(data, config), SearchContext(yes=True)
    screen = run_screen(problem, runtime, budget=Budget()).leaderboard
    board, _ = refit(problem, make_strategy("exhaustive"), head_of(config), runtime)
    found: dict[str, Any] = {"rows": len(data.samples), "subsets": len(board), "folds": board.n_folds}
    for metric in ("auroc", "accuracy"):
        cheap = np.array([screen[row.subset].mean(metric) for row in board])
        real = np.array([row.mean(metric) for row in board])
        order = np.argsort(-cheap, kind="stable")
        found[metric] = {
            "spearman": float(spearmanr(cheap, real).statistic),
            "regret": {k: float(real.max() - real[order[:k]].max()) for k in KEPT},
            "range_of_head": float(real.max() - real.min()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--label")
    parser.add_argument("--group")
    parser.add_argument("--encoders", default="starter")
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--folds", type=int, default=5)
    arguments = parser.parse_args()
    samples = load_samples(arguments.data, label=arguments.label, group=arguments.group, labelled=True)
    data = draw(biofuse.embed(samples, arguments.encoders, progress=False), arguments.rows)
    found = compare(data, head=arguments.head, folds=arguments.folds)
    print(json.dumps({"data": samples.name, "encoders": list(data), "head": arguments.head, **found}, indent=2))


if __name__ == "__main__":
    main()
