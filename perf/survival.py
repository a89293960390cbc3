"""Times to an event on real images: how the screen ranks subsets, and how its best sixteen do.

``python perf/survival.py DATA --group COLUMN`` prints one JSON object. Times are simulated: the hazard depends on what
is measured in the pixels (saturation and contrast), not on any embedding, times are Weibull, and observation ends at
random. All subsets are scored by the closed-form screen (ridge on martingale residuals of the null model) and by Cox
regression refitted on the same folds: Spearman's correlation, and the regret of keeping the screen's best k. Of all
encoders together both heads are scored, the Kaplan-Meier curves with several numbers of neighbours. ``--table FILE``
also writes the set as a table of paths, days and events. Embeddings come from the store.
"""

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import at_most
from numpy.typing import NDArray

import biofuse
from biofuse.core.target import Target
from biofuse.data.decoding import decode
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.evaluation.metrics import default_metric, score
from biofuse.heads.cox import Cox
from biofuse.heads.kaplan_meier import KaplanMeier
from biofuse.predictors.fused import fit_predictor
from biofuse.search.config import SearchConfig
from biofuse.search.problem import Problem, suited

KEPT = (1, 2, 4, 8, 16)
NEIGHBOURS = (10, 20, 40, 80, 160)
EFFECTS = (0.8, -0.5)
"""Log hazard ratios of a standard deviation of saturation, and of contrast."""
SCALE, SHAPE = 1000.0, 1.5
CENSORED = (200.0, 2500.0)
"""Days of the Weibull distribution, and between which observation ends."""


def measured(samples: Samples) -> NDArray[np.float64]:
    """Return saturation and contrast of every image, standardised, shape (n, 2)."""
    found = []
    for source in samples.sources:
        pixels = decode(source.read(), samples.decode, description=source.description).astype(np.float64) / 255
        saturation = (pixels.max(axis=2) - pixels.min(axis=2)).mean()
        found.append((saturation, np.abs(np.diff(pixels.mean(axis=2), axis=0)).mean()))
    values = np.array(found)
    return np.asarray((values - values.mean(axis=0)) / np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), 1))


def with_times(samples: Samples, *, seed: int = 0) -> Samples:
    """Return samples with simulated times and events for labels."""
    rng, n = np.random.default_rng(seed), len(samples)
    ratio = measured(samples) @ EFFECTS
    time = SCALE * (rng.exponential(size=n) * np.exp(-ratio)) ** (1 / SHAPE)
    end = rng.uniform(*CENSORED, n)
    labels = np.column_stack([np.minimum(time, end), time <= end]).astype(np.float64)
    horizons = np.quantile(labels[labels[:, 1] == 1, 0], [0.25, 0.5, 0.75])
    target = Target.until([float(f"{horizon:.3g}") for horizon in horizons])
    return replace(samples, labels=labels, classes=target.classes, task=target.kind)


def write_table(samples: Samples, path: Path) -> None:
    """Write paths, days and events."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "days", "event", *(["group"] if samples.groups is not None else [])])
        for row, (time, event) in enumerate(samples.labels if samples.labels is not None else ()):
            group = [] if samples.groups is None else [samples.groups[row]]
            table.writerow([samples.sources[row].description, f"{time:.1f}", int(event), *group])


def ranking(samples: Samples, encoders: tuple[str, ...], *, folds: int) -> dict[str, Any]:
    """Compare the screen with refitted Cox regression over all subsets."""
    from scipy.stats import spearmanr

    def fit(**options: Any) -> Any:
        fuse = biofuse.BioFuse(encoders, folds=folds, repeats=1, head="cox", predictor="fused", **options)
        return fuse.fit(samples, progress=False, yes=True).result_

    target = samples.target
    metric = default_metric(target) if target else ""
    screen, board = fit(search="screen", finalists=1).screen, fit(search="exhaustive").leaderboard
    cheap = np.array([screen[row.subset].mean(metric) for row in board])
    real = np.array([row.mean(metric) for row in board])
    order = np.argsort(-cheap, kind="stable")
    return {
        "subsets": len(board),
        "spearman": float(spearmanr(cheap, real).statistic),
        "regret": {k: float(real.max() - real[order[:k]].max()) for k in KEPT},
        "range_of_cox": float(real.max() - real.min()),
        "best_of_cox": float(real.max()),
    }


def heads(data: Any, *, folds: int) -> dict[str, dict[str, float]]:
    """Score the heads on all encoders together, mean over folds."""
    encoders = tuple(data.blocks.encoders)
    config = SearchConfig(encoders=encoders, folds=folds, repeats=1)
    problem = Problem.from_embeddings(data, suited(config, data.samples.target))
    tried = {"cox": Cox(), **{f"km, {k} neighbours": KaplanMeier(k=k) for k in NEIGHBOURS}}
    found: dict[str, dict[str, float]] = {}
    for name, head in tried.items():
        parts = []
        for fit, held in problem.plan.folds:
            blocks = problem.blocks.take(fit)
            predictor = fit_predictor(blocks, problem.labels[fit], head=head, target=problem.target)
            new = problem.blocks.take(held)
            parts.append(
                score(
                    problem.target,
                    problem.labels[held],
                    predictor.predict_proba(new),
                    decision=predictor.decision(new),
                )
            )
        found[name] = {metric: float(np.mean([part[metric] for part in parts])) for metric in parts[0]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--group")
    parser.add_argument("--encoders", default="starter")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    samples = load_samples(arguments.data, group=arguments.group, labelled=False)
    samples = with_times(at_most(replace(samples, splits=None), arguments.rows))
    if arguments.table is not None:
        write_table(samples, arguments.table)
    data = biofuse.embed(samples, arguments.encoders, progress=False)
    labels = samples.labels if samples.labels is not None else np.zeros((0, 2))
    found = {
        "data": samples.name,
        "encoders": list(data),
        "rows": len(samples),
        "events": int(labels[:, 1].sum()),
        "ranking": ranking(data.samples, tuple(data), folds=arguments.folds),
        "heads": heads(data, folds=arguments.folds),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
