"""How much longer an exhaustive search with the published head would take than the closed-form screen.

``python perf/against_xgboost.py`` prints one JSON object. The screen of all subsets is run in full; XGBoost with
the published settings is fitted on one fold of a few subsets, and on some of its rows where asked, and its time for all
subsets and folds is extrapolated from that: in proportion to columns (and to rows, where not all were used). Both use
one process and one thread. Blocks are synthetic (see ``measuring.py``).
"""

import argparse
import json
import os
import time
from typing import Any

import numpy as np
from measuring import FOLDS, Processor, make_data
from screen import make_scorer

from biofuse.core.machine import limit_threads
from biofuse.core.target import Target, Task
from biofuse.heads.xgboost import XGBoost
from biofuse.search.leaderboard import all_subsets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=546)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1, 3, 5], help="encoders of each subset that is fitted"
    )
    parser.add_argument("--rows", type=int, help="training rows given to XGBoost; all by default")
    parser.add_argument("--reduce-to", type=int, help="for the screen")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    blocks, labels, plan = make_data(options.n, options.classes, options.seed)
    pool, (train, _) = all_subsets(blocks.encoders), plan.folds[0]
    random = np.random.default_rng(options.seed)
    load = os.getloadavg()[0]
    clock = Processor()
    scorer = make_scorer(blocks, labels, plan, reduce_to=options.reduce_to)
    for subset in pool:
        scorer.score(subset)
    screen, screen_cpu = clock.wall, clock.cpu
    head = XGBoost(device="cpu")
    rows = train if options.rows is None else random.permutation(train)[: options.rows]
    fits: list[dict[str, Any]] = []
    with limit_threads(1):
        for size in [1, *options.sizes]:  # the first one is not counted: it loads the library
            of_size = [subset for subset in pool if len(subset) == size]
            subset = of_size[random.integers(len(of_size))]
            X = np.hstack([blocks[name][rows] for name in subset])
            clock, start = Processor(), time.perf_counter()
            head.fit(
                X if fits else X[:, :64],
                labels[rows],
                target=Target.numbered(Task.natural(options.classes), options.classes),
                seed=options.seed,
                threads=1,
            )
            fits.append(
                {
                    "subset": list(subset),
                    "columns": X.shape[1],
                    "seconds": time.perf_counter() - start,
                    "cpu_seconds": clock.cpu,
                }
            )
    fits = fits[1:]
    columns = sum(fit["columns"] for fit in fits)
    all_columns = sum(scorer.n_dims(subset) for subset in pool) * FOLDS * len(train) / len(rows)
    wall, cpu = (sum(fit[key] for fit in fits) / columns * all_columns for key in ("seconds", "cpu_seconds"))
    print(
        json.dumps(
            {
                "n": options.n,
                "classes": options.classes,
                "head": head.options,
                "fits_measured": fits,
                "training_rows_measured": len(rows),
                "training_rows_of_a_fold": len(train),
                "xgboost_hours_extrapolated": wall / 3600,
                "extrapolation": "in proportion to columns, and to training rows where not all were used, to "
                f"{len(pool)} subsets on {FOLDS} folds; predicting is left out",
                "screen": {"mode": scorer.mode, "reduce_to": options.reduce_to, "seconds": screen},
                "times_faster": wall / screen,
                "times_faster_by_cpu_time": cpu / screen_cpu,
                "processes": 1,
                "threads": 1,
                "load_before": load,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
