"""What choosing penalties by generalised cross-validation, and not by leaving each row out, costs the screen.

``python perf/penalties.py --n 3000 5000 --classes 2 5`` prints one JSON object: per set the difference of the scores of
subsets (mean and largest size), how often both choose the same penalty, and whether the best subset is the same;
where it is not, what the other's best loses by the scores of leaving one out (the regret), beside the corrected
standard error of that difference. Blocks are made up (see ``measuring.py``), or embeddings of images: ``--data DATA
--label COLUMN --group COLUMN``, which come from the store where they are there.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from measuring import make_data
from numpy.typing import NDArray

import biofuse
from biofuse.blocks.blocks import Blocks
from biofuse.core.machine import usable_cores
from biofuse.core.target import Target, Task
from biofuse.data.load import load_samples
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.intervals import corrected_standard_error
from biofuse.search.closed_form import Choice, ClosedFormScorer
from biofuse.search.config import SearchConfig
from biofuse.search.leaderboard import Leaderboard, all_subsets
from biofuse.search.problem import Problem
from biofuse.search.runner import run_search
from biofuse.search.strategies import Listed

METRIC = "auroc"

Case = tuple[str, Blocks, NDArray[Any], ValidationPlan, Target]


def made_up(sizes: list[int], classes: list[int], seeds: int) -> Iterator[Case]:
    for n in sizes:
        for n_classes in classes:
            for seed in range(seeds):
                blocks, labels, plan = make_data(n, n_classes, seed)
                task = Task.BINARY if n_classes == 2 else Task.MULTICLASS
                names = tuple(f"class {number}" for number in range(n_classes))
                yield f"made up, {n} rows, {n_classes} classes, seed {seed}", blocks, labels, plan, Target(task, names)


def of_images(data: str, *, label: str | None, group: str | None, encoders: str) -> Iterator[Case]:
    samples = replace(load_samples(data, label=label, group=group, labelled=True), splits=None)
    found = biofuse.embed(samples, encoders, progress=False)
    problem = Problem.from_embeddings(found, SearchConfig(encoders=found.blocks.encoders, repeats=1))
    yield samples.name, problem.blocks, problem.labels, problem.plan, problem.target


def compare(case: Case, *, reduce_to: int, most: int) -> dict[str, Any]:
    """Score subsets both ways, at most so many."""
    name, blocks, labels, plan, target = case
    pool = all_subsets(blocks.encoders)
    random = np.random.default_rng(0)
    chosen = Listed([pool[number] for number in random.choice(len(pool), min(most, len(pool)), replace=False)])
    boards: list[Leaderboard] = []
    alphas = []
    choices: tuple[Choice, Choice] = ("leave_one_out", "generalised")
    for choice in choices:
        scorer = ClosedFormScorer(
            blocks,
            labels,
            plan=plan,
            task=target.kind,
            classes=target.classes,
            mode="primal",
            choice=choice,
            reduce_to=reduce_to,
            metrics=(METRIC,),
            threads=usable_cores(),
        )
        boards.append(run_search(blocks.encoders, chosen, scorer, yes=True))
        alphas.append([scorer.solve(row.subset, fold).alphas for row in boards[0] for fold in (0,)])
    scores = [np.array([row.values(METRIC) for row in board]) for board in boards]
    exact, cheap = (found.mean(axis=1) for found in scores)
    best, other = int(exact.argmax()), int(cheap.argmax())
    lost = scores[0][best] - scores[0][other]
    return {
        "data": name,
        "rows": len(labels),
        "rows_fitted_on": min(plan.n_train),
        "subsets": len(exact),
        "components": reduce_to,
        "columns": sum(min(dim, reduce_to) for dim in blocks.dims.values()),
        "mean_difference": float(np.abs(cheap - exact).mean()),
        "largest_difference": float(np.abs(cheap - exact).max()),
        "same_penalty": float(np.mean([np.allclose(one, two) for one, two in zip(*alphas, strict=True)])),
        "same_best": best == other,
        "regret": float(lost.mean()),
        "standard_error": float(corrected_standard_error(lost, plan.n_train, plan.n_test)) if best != other else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="*", default=[])
    parser.add_argument("--classes", type=int, nargs="*", default=[2])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--reduce-to", type=int, default=64)
    parser.add_argument("--subsets", type=int, default=511, help="most subsets, drawn at random")
    parser.add_argument("--data")
    parser.add_argument("--label")
    parser.add_argument("--group")
    parser.add_argument("--encoders", default="starter")
    options = parser.parse_args()
    cases = made_up(options.n, options.classes, options.seeds)
    if options.data:
        cases = of_images(options.data, label=options.label, group=options.group, encoders=options.encoders)
    sets = [compare(case, reduce_to=options.reduce_to, most=options.subsets) for case in cases]
    print(json.dumps({"metric": METRIC, "sets": sets}, indent=2))


if __name__ == "__main__":
    main()
