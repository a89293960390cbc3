"""What each rule of choice costs or gains on test data, replayed on published tables of the scores of every subset.

``python perf/rules.py DIR`` prints one JSON object. DIR holds CSV files with the results of every subset of a pool,
one file per MedMNIST set (see perf/strategies.py). The rules are those of :mod:`biofuse.search.rules`; but the tables
hold one score of one validation split, and no folds, so that the standard error is not that of paired differences: it
is Hanley and McNeil's (1982) of the best AUROC, for validation samples divided evenly among the classes (the error of a
mean over classes is that of one of them, as if they erred together), times ``--width``.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from strategies import TEST, VALIDATION, read

from biofuse.data.medmnist import medmnist_catalogue
from biofuse.search.leaderboard import Subset
from biofuse.search.rules import RULES, Scores

Values = NDArray[np.float64]
BY = {
    "inclusive": ("inclusive", "auroc"),
    "one_se": ("one_se", "auroc"),
    "best validation AUROC": ("best", "auroc"),
    "paper's rule: first best validation accuracy": ("first_best", "accuracy"),
}
"""Rule and validation score of every way to choose."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OneSplit(Scores):
    """Scores of one split, with a standard error that comes from elsewhere."""

    error: float

    def within_one_se(self) -> NDArray[np.bool_]:
        """Return which scores are no further below the best than the error."""
        return np.asarray(np.round(self.mean.max(axis=1, keepdims=True) - self.mean - self.error, 12) <= 0)


def hanley_mcneil(area: float, positives: float, negatives: float) -> float:
    """Return the standard error of an AUROC."""
    both_positive, both_negative = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (both_positive - area**2)
    return float(np.sqrt((variance + (negatives - 1) * (both_negative - area**2)) / (positives * negatives)))


def scored(subsets: list[Subset], values: Values, *, error: float) -> OneSplit:
    """Return what a rule sees; every encoder counts as one column."""
    n_encoders = np.array([len(subset) for subset in subsets])
    order = np.argsort(n_encoders, kind="stable")
    best = order[[values[order].argmax()]]
    return OneSplit(
        values=values[None, :, None], mean=values[None], n_encoders=n_encoders, size=n_encoders, best=best, ratio=0.0,
        error=error,
    )  # fmt: skip


def replay(path: Path, *, width: float) -> tuple[str, dict[str, dict[str, float]]]:
    """Return the name of a set, and what each way chooses: encoders, and test scores relative to all encoders."""
    pool, table = read(path)
    name = next(iter(table.values()))[0]
    facts = medmnist_catalogue()[1][name]
    subsets = sorted(table, key=len)
    columns = {
        f"{part} {metric}": np.array([float(table[subset][column]) for subset in subsets])
        for part, columns in (("validation", VALIDATION), ("test", TEST))
        for metric, column in columns.items()
    }
    rows, n_classes = facts.n_samples["val"], len(facts.classes)
    best = float(columns["validation auroc"].max())
    error = width * hanley_mcneil(best, rows / n_classes, rows - rows / n_classes)
    picked = {
        way: int(RULES[rule].choose(scored(subsets, columns[f"validation {metric}"], error=error))[0])
        for way, (rule, metric) in BY.items()
    }
    picked["best single by validation AUROC"] = int(columns["validation auroc"][: len(pool)].argmax())
    everything = len(subsets) - 1
    found = {
        way: {"encoders": float(len(subsets[place]))}
        | {metric: float(columns[f"test {metric}"][place] - columns[f"test {metric}"][everything]) for metric in TEST}
        for way, place in picked.items()
    }
    gains = {metric: columns[f"test {metric}"] - columns[f"test {metric}"][everything] for metric in TEST}
    oracle = int(gains["auroc"].argmax())
    found["oracle: best test AUROC"] = {"encoders": float(len(subsets[oracle]))} | {
        metric: float(gains[metric][oracle]) for metric in TEST
    }
    return name, found


def summarise(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Average over data sets, and count those that a way is worse or better on than all encoders, in AUROC."""
    return {
        way: {
            "encoders": round(mean(each[way]["encoders"] for each in found.values()), 1),
            **{metric: round(mean(each[way][metric] for each in found.values()), 4) for metric in TEST},
            "worse": sum(each[way]["auroc"] < 0 for each in found.values()),
            "better": sum(each[way]["auroc"] > 0 for each in found.values()),
        }
        for way in next(iter(found.values()))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="folder of CSV files")
    parser.add_argument("--width", type=float, nargs="+", default=[1.0, 0.5], help="standard errors that are tolerated")
    options = parser.parse_args()
    files = sorted(options.grid.glob("*.csv"))
    if not files:
        parser.error(f"no CSV file in {options.grid}")
    result: dict[str, Any] = {"sets": len(files)}
    for width in options.width:
        found = dict(replay(path, width=width) for path in files)
        result[f"{width:g} standard errors"] = {"mean": summarise(found), "sets": found}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
