"""How well the closed-form screen ranks subsets: against a refitted head, on the same rows and folds.

``python perf/ranking.py DATA --label COLUMN --group COLUMN --head logistic`` prints one JSON object: Spearman's
correlation of the screen's scores with the head's over all subsets, and the regret of keeping the screen's best k: the
head's best score over all subsets less its best among those k. Embeddings come from the store.
"""

import argparse
import json
from typing import Any

import numpy as np
from measuring import at_most

import biofuse
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples

KEPT = (1, 2, 4, 8, 16)


def compare(samples: Samples, encoders: tuple[str, ...], *, head: str, folds: int) -> dict[str, Any]:
    from scipy.stats import spearmanr

    def fit(**options: Any) -> Any:
        fuse = biofuse.BioFuse(encoders, folds=folds, repeats=1, metric="auroc", **options)
        return fuse.fit(samples, progress=False, yes=True).result_

    screen = fit(search="screen", head="ridge", finalists=1).screen
    board = fit(search="exhaustive", head=head).leaderboard
    found: dict[str, Any] = {"rows": len(samples), "subsets": len(board), "folds": board.n_folds}
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
    data = biofuse.embed(samples, arguments.encoders, progress=False)
    found = compare(at_most(data.samples, arguments.rows), tuple(data), head=arguments.head, folds=arguments.folds)
    print(json.dumps({"data": samples.name, "encoders": list(data), "head": arguments.head, **found}, indent=2))


if __name__ == "__main__":
    main()
