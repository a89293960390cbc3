"""How far greedy and beam search fall short of scoring every subset, on published tables of scores.

``python perf/strategies.py --grid DIR`` prints one JSON object. DIR holds CSV files with the results of every
subset of a pool, one file per data set, with validation and test columns, as the authors of the original BioFuse
published them (``results_<data set>_<size>.csv``; the header names 10 columns, the rows have 11). Scores are looked up,
not computed.
"""

import argparse
import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

from biofuse.search.leaderboard import Subset, in_pool_order
from biofuse.search.rules import select
from biofuse.search.runner import run_search
from biofuse.search.scorers import FoldScores
from biofuse.search.strategies import PATIENCE, WIDTH, Strategy, Walk, make_strategy

SUBSET, VALIDATION, TEST = 2, {"accuracy": 6, "auroc": 7}, {"accuracy": 8, "auroc": 9}
"""Columns."""

Table = dict[Subset, list[str]]


def read(path: Path) -> tuple[Subset, Table]:
    """Return the pool, in the order of its single rows, and the rows by subset."""
    with path.open(newline="") as file:
        table = {tuple(row[SUBSET].split(",")): row for row in list(csv.reader(file))[1:]}
    return tuple(subset[0] for subset in table if len(subset) == 1), table


class LookedUp:
    """A scorer that looks one metric up; every encoder has one column, so that fewer encoders mean fewer."""

    n_train = n_test = (1,)
    keeps_predictions = False

    def __init__(self, pool: Subset, scores: dict[Subset, float], *, metric: str) -> None:
        self.encoders, self.metrics = pool, (metric,)
        self._scores = {in_pool_order(pool, subset): score for subset, score in scores.items()}

    def n_dims(self, subset: Subset) -> int:
        return len(subset)

    def score(self, subset: Subset) -> FoldScores:
        return FoldScores(folds={self.metrics[0]: (self._scores[subset],)})


def measure(pool: Subset, table: Table, *, metric: str, strategies: dict[str, Strategy]) -> dict[str, Any]:
    """Let every strategy choose by a validation column; say what it reached there and on test data."""
    scores = {subset: float(row[VALIDATION[metric]]) for subset, row in table.items()}
    found: dict[str, Any] = {}
    for name, strategy in strategies.items():
        board = run_search(pool, strategy, LookedUp(pool, scores, metric=metric), metric=metric)
        chosen = select(board, rule="best").chosen
        row = next(row for subset, row in table.items() if set(subset) == set(chosen.subset))
        found[name] = {
            "scored": len(board),
            "chosen": list(chosen.subset),
            "validation": chosen.mean(metric),
            "test": {test: float(row[column]) for test, column in TEST.items()},
        }
    for result in found.values():
        result["short_of_exhaustive"] = round(found["exhaustive"]["validation"] - result["validation"], 6)
    return found


def summarise(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Average over data sets."""
    return {
        name: {
            "scored": round(mean(results[name]["scored"] for results in found.values()), 1),
            "mean_short": round(mean(results[name]["short_of_exhaustive"] for results in found.values()), 5),
            "most_short": max(results[name]["short_of_exhaustive"] for results in found.values()),
            "sets_at_the_best": sum(results[name]["short_of_exhaustive"] == 0 for results in found.values()),
            "test": {test: round(mean(results[name]["test"][test] for results in found.values()), 4) for test in TEST},
        }
        for name in next(iter(found.values()))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=Path, required=True, help="folder of CSV files")
    parser.add_argument("--width", type=int, default=WIDTH, help="subsets of each size that the beam goes on from")
    parser.add_argument("--patience", type=int, default=PATIENCE, help="sizes without a better subset before it stops")
    options = parser.parse_args()
    files = sorted(options.grid.glob("*.csv"))
    if not files:
        parser.error(f"no CSV file in {options.grid}")
    result: dict[str, Any] = {"width": options.width, "patience": options.patience}
    for metric in VALIDATION:
        strategies = {name: make_strategy(name, metric=metric) for name in ("exhaustive", "greedy", "all")}
        strategies["beam"] = Walk(name="beam", metric=metric, width=options.width, patience=options.patience)
        found = {}
        for path in files:
            pool, table = read(path)
            found[next(iter(table.values()))[0]] = measure(pool, table, metric=metric, strategies=strategies)
        result[metric] = {"sets": found, "mean": summarise(found)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
