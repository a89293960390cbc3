"""Does the search choose better than simpler rules? Resamples development and test data by group, and compares.

``python perf/choices.py DATA --label COLUMN --group COLUMN`` prints one JSON object: per way of choosing the mean
test AUROC, accuracy and log-loss over the resamples, and the paired difference of the default from it with a 95 %
interval (Nadeau and Bengio's correction for resamples that overlap). Every resample draws development and test data
anew, groups whole. *Oracle* is the subset that happens to be the best on the test data, with the default's head: nobody
can choose it. Embeddings are computed once and come from the store.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from measuring import at_most

import biofuse
from biofuse.core.target import Target
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.data.splits import with_splits
from biofuse.evaluation.intervals import corrected_standard_error
from biofuse.evaluation.metrics import score
from biofuse.predictors.fused import fit_predictor
from biofuse.search.leaderboard import all_subsets

METRICS = ("auroc", "accuracy", "log_loss")
PAPER_RULE = {"search": "exhaustive", "select": "holdout", "rule": "first_best", "metric": "accuracy"}
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "mean": {"predictor": "mean"},
    "ensemble": {"predictor": "ensemble"},
    "logistic": {"head": "logistic"},
    "best mean": {"rule": "best"},
    "late average": {"predictor": "average", "head": "logistic"},
    "paper's rule, logistic": {**PAPER_RULE, "head": "logistic"},
}
"""Ways of choosing, as options of BioFuse. The default also gives best single, all, greedy and lean."""

SMALL: dict[str, dict[str, Any]] = {
    "default": {},
    "paper's rule, XGBoost": {**PAPER_RULE, "head": "xgboost"},
}
"""Ways of choosing among few encoders on few rows, where boosted trees are affordable."""

BESIDE = {"best_single": "best single", "all": "all", "greedy": "greedy", "lean": "lean"}
"""What every fit compares its choice with."""


def resample(samples: Samples, seed: int, most: int | None) -> Samples:
    """Divide into train, validation and test samples, groups whole; at most so many are not test samples."""
    samples = with_splits(replace(samples, splits=None), seed=seed)
    test = np.asarray(samples.splits) == "test"
    kept = at_most(samples.take(np.flatnonzero(~test)), most, seed=seed + 1000)
    return samples.take(np.flatnonzero(test | np.isin(samples.ids, kept.ids)))


def choose(samples: Samples, encoders: tuple[str, ...], name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Fit and evaluate; the default's companions are returned too."""
    result = biofuse.BioFuse(encoders, **options).fit(samples, progress=False, yes=True)
    shown = {"chosen": name} | (BESIDE if name == "default" else {})
    found: dict[str, Any] = {
        shown[model]: {metric: float(scores.metrics[metric]) for metric in METRICS} | {"encoders": len(scores.encoders)}
        for model, scores in result.evaluate(progress=False).models.items()
        if model in shown
    }
    found[name]["head"] = result.search.head
    return found


def oracle(samples: Samples, encoders: tuple[str, ...], head: str) -> dict[str, Any]:
    """Fit the head on every subset of encoders, and return the scores of the one with the best test AUROC."""
    development, test = (
        biofuse.embed(samples.in_split(*splits), encoders, progress=False) for splits in (("train", "val"), ("test",))
    )
    target = Target(development.samples.task, development.samples.classes)
    found = []
    for subset in all_subsets(encoders):
        predictor = fit_predictor(
            development.blocks,
            development.samples.labels,
            encoders=subset,
            head=head,
            task=target.kind,
            n_classes=target.n_columns,
        )
        scores = score(
            target.kind,
            test.samples.labels,
            predictor.predict_proba(test.blocks),
            classes=target.classes,
            metrics=METRICS,
            decision=predictor.decision(test.blocks),
        )
        found.append({metric: float(scores[metric]) for metric in METRICS} | {"encoders": len(subset), "head": head})
    return max(found, key=lambda values: values["auroc"])


def study(
    samples: Samples,
    encoders: tuple[str, ...],
    ways: dict[str, dict[str, Any]],
    *,
    resamples: int,
    most: int | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {}
    n_development, n_test = [], []
    for seed in range(resamples):
        drawn = resample(samples, seed, most)
        n_test.append(len(drawn.in_split("test")))
        n_development.append(len(drawn) - n_test[-1])
        for name, options in ways.items():
            for found, values in choose(drawn, encoders, name, options).items():
                rows.setdefault(found, []).append(values)
                tell(f"resample {seed + 1}: {found}: {values}")
        best = oracle(drawn, encoders, rows["default"][-1]["head"])
        rows.setdefault("oracle", []).append(best)
        tell(f"resample {seed + 1}: oracle: {best}")
    return {
        "rows_development": int(np.mean(n_development)),
        "rows_test": int(np.mean(n_test)),
        "resamples": resamples,
        "heads_chosen": [values["head"] for values in rows["default"]],
        "ways": {name: summary(rows["default"], values, n_development, n_test) for name, values in rows.items()},
    }


def summary(
    reference: list[dict[str, Any]], values: list[dict[str, Any]], n_train: list[int], n_test: list[int]
) -> dict[str, Any]:
    from scipy.stats import t

    found: dict[str, Any] = {"mean_encoders": float(np.mean([value["encoders"] for value in values]))}
    for name in METRICS:
        mine = np.array([value[name] for value in reference])
        theirs = np.array([value[name] for value in values])
        error = corrected_standard_error(mine - theirs, n_train, n_test)
        reach = float(t.ppf(0.975, len(mine) - 1)) * error
        gain = float((mine - theirs).mean())
        found[name] = {
            "mean": float(theirs.mean()),
            "default_minus_this": gain,
            "interval": [gain - reach, gain + reach],
            "each": theirs.tolist(),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--label")
    parser.add_argument("--group")
    parser.add_argument("--encoders", default="starter")
    parser.add_argument("--resamples", type=int, default=10, help="at least 2")
    parser.add_argument("--ways", help="names separated by semicolons, the default among them; all by default")
    parser.add_argument("--small", action="store_true", help="at most 500 rows, and the XGBoost rule")
    parser.add_argument("--rows", type=int, help="most development rows")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    samples = load_samples(arguments.data, label=arguments.label, group=arguments.group, labelled=True)
    data = biofuse.embed(samples, arguments.encoders, progress=False)
    ways = SMALL if arguments.small else WAYS
    if arguments.ways:
        ways = {name: ways[name] for name in arguments.ways.split(";")}
    most = arguments.rows or (500 if arguments.small else None)
    tell = (lambda _: None) if arguments.quiet else (lambda line: print(line, file=sys.stderr, flush=True))
    found = study(data.samples, tuple(data), ways, resamples=arguments.resamples, most=most, tell=tell)
    print(json.dumps({"data": samples.name, "encoders": list(data), **found}, indent=2))


if __name__ == "__main__":
    main()
