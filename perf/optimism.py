"""How much too good a chosen subset looks, and what is left of that when it is corrected, where the truth is known.

Nine blocks of random numbers, two classes: on pure noise every score is .5 in truth. With --signal some blocks know
something of the class, and the truth is what the chosen subset, fitted on all development rows, scores on fresh rows.

    python perf/optimism.py --repeats 100

The fits without two folds, by which is chosen again, take their penalties from generalised cross-validation;
``shift_leave_one_out`` is by how much the corrected number moves where they leave every row out instead.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.target import Task
from biofuse.data.samples import Samples
from biofuse.data.splits import make_folds
from biofuse.evaluation.metrics import AUROC, score
from biofuse.search.config import SearchConfig
from biofuse.search.optimism import correct_optimism, cross_validate_choice
from biofuse.search.problem import Problem, head_of
from biofuse.search.rules import DEFAULT_RULE, Budget
from biofuse.search.runner import SearchContext
from biofuse.search.screen import run_screen
from biofuse.search.search import Fit

CLASSES = ("negative", "positive")
GUESSING = 0.5
FRESH = 4000
SHIFT = 0.24
"""How far apart the classes are along every column of a block that knows something, in standard deviations."""


def make_blocks(random: np.random.Generator, labels: NDArray[np.int64], options: argparse.Namespace) -> Blocks:
    """Make blocks of which the first few know something of the labels."""
    sides = SHIFT * (labels[:, None] - 0.5)
    matrices = {
        f"encoder-{number}": (
            random.normal(size=(len(labels), options.columns)) + sides * (number < options.signal)
        ).astype(np.float32)
        for number in range(options.blocks)
    }
    return Blocks(ids=np.array([f"s{row:05d}" for row in range(len(labels))], dtype=object), matrices=matrices)


class Unread(NamedTuple):
    """Stands for an image that nobody reads."""

    name: str


def make_problem(blocks: Blocks, labels: NDArray[np.int64], config: SearchConfig) -> Problem:
    """Pose the search as ``fit`` does."""
    names = blocks.ids.tolist()
    return Problem(
        blocks=blocks,
        labels=labels,
        samples=Samples(
            ids=blocks.ids,
            sources=tuple(map(Unread, names)),
            labels=labels,
            classes=CLASSES,
            task=Task.BINARY,
            contents=np.array([name.encode().ljust(16) for name in names], dtype="S16"),
        ),
        fingerprints=tuple((name, "made up") for name in blocks.encoders),
        plan=make_folds(labels, ids=names, n_folds=config.folds, n_repeats=config.repeats, seed=config.seed),
        config=config,
    )


def simulate(n: int, options: argparse.Namespace, seed: int) -> dict[str, dict[str, float]]:
    """Screen all subsets once; per rule, what the chosen one seems to score, corrected in two ways, and the truth."""
    random = np.random.default_rng([seed, n])
    labels = random.permutation(np.arange(n) % 2).astype(np.int64)
    blocks = make_blocks(random, labels, options)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for rule in options.rules:
            config = SearchConfig(
                encoders=blocks.encoders, rule=rule, head="ridge", seed=seed, repeats=options.divisions
            )
            # Scores do not depend on the rule: those of the first are found in the folder.
            found[rule] = correct(make_problem(blocks, labels, config), Path(folder), random, options)
    return found


def correct(
    problem: Problem, folder: Path, random: np.random.Generator, options: argparse.Namespace
) -> dict[str, float]:
    """Do so for one rule."""
    context = SearchContext(workers=1, folder=folder)
    screen = run_screen(problem, context, budget=Budget())
    nested = cross_validate_choice(problem, screen, context, budget=Budget())
    slowly = cross_validate_choice(problem, screen, context, budget=Budget(), penalties="leave_one_out")
    drawn = correct_optimism(
        screen.leaderboard,
        problem.labels,
        rows=screen.kept_rows,
        ids=problem.samples.ids,
        task=Task.BINARY,
        rule=problem.config.rule,
        n_resamples=100,
        seed=problem.config.seed,
    )
    return {
        "apparent": nested.apparent,
        "nested": nested.corrected,
        "nested_leave_one_out": slowly.corrected,
        "bootstrap": drawn.corrected,
        "held": float(nested.low <= GUESSING <= nested.high),
        "truth": true_score(problem, screen.choice.subset, random, options) if options.signal else GUESSING,
    }


def true_score(
    problem: Problem, subset: tuple[str, ...], random: np.random.Generator, options: argparse.Namespace
) -> float:
    """Score a subset, fitted on all development rows, on fresh ones."""
    fit = Fit(problem, head_of(problem.config))
    predictor = fit(problem.blocks, problem.labels, encoders=subset, seed=0, threads=1)
    labels = (np.arange(FRESH) % 2).astype(np.int64)
    fresh = make_blocks(random, labels, options)
    predictions, decision = predictor.predict_proba(fresh), predictor.decision(fresh)
    return score(Task.BINARY, labels, predictions, metrics=[AUROC.name], decision=decision)[AUROC.name]


def summary(found: list[dict[str, float]]) -> dict[str, Any]:
    """Average over simulations; biases with their standard errors."""
    columns = {name: np.array([one[name] for one in found]) for name in found[0]}
    table: dict[str, Any] = {name: round(float(columns[name].mean()), 4) for name in ("truth", "apparent")}
    for name in ("apparent", "nested", "bootstrap"):
        table[f"bias_{name}"] = _mean(columns[name] - columns["truth"])
    table["shift_leave_one_out"] = _mean(columns["nested_leave_one_out"] - columns["nested"])
    if (columns["truth"] == GUESSING).all():
        table["intervals_that_hold_the_truth"] = round(float(columns["held"].mean()), 3)
    return table


def _mean(values: NDArray[np.float64]) -> dict[str, float]:
    return {
        "mean": round(float(values.mean()), 4),
        "standard_error": round(float(values.std(ddof=1) / np.sqrt(len(values))), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100, help="simulations of each kind")
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 200, 300, 500])
    parser.add_argument("--rules", nargs="+", default=[DEFAULT_RULE, "best"])
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--columns", type=int, default=16, help="of each block")
    parser.add_argument("--divisions", type=int, default=2, help="repeats of the cross-validation")
    parser.add_argument("--signal", type=int, default=0, help="blocks that know something of the class")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    tasks = [(n, seed) for n in options.rows for seed in range(options.repeats)]
    found = Parallel(n_jobs=options.workers)(delayed(simulate)(n, options, seed) for n, seed in tasks)
    table = [
        {"rows": n, "rule": rule} | summary([one[rule] for one, task in zip(found, tasks, strict=True) if task[0] == n])
        for n in options.rows
        for rule in options.rules
    ]
    print(json.dumps({"subsets": 2**options.blocks - 1, "repeats": options.repeats, "table": table}, indent=1))


if __name__ == "__main__":
    main()
