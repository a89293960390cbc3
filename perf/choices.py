"""Does the search choose better than simpler rules? Resamples development and test data by group, and compares.

``python perf/choices.py DATA --label COLUMN --group COLUMN`` prints one JSON object: per way of choosing the mean
test AUROC and accuracy over the resamples, and the paired difference of the default from it with a 95 % interval
(Nadeau and Bengio's correction for resamples that overlap). Every resample draws development and test data anew, groups
whole. Embeddings are computed once and come from the store.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import biofuse
from biofuse.data.load import load_samples
from biofuse.data.splits import with_splits
from biofuse.evaluation.comparison import corrected_standard_error
from biofuse.evaluation.metrics import score
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.predictors.base import Predictor
from biofuse.search.config import SearchConfig
from biofuse.search.problem import Problem
from biofuse.search.rules import Budget
from biofuse.search.runner import SearchContext
from biofuse.search.search import fit_predictors, run

METRICS = ("auroc", "accuracy")
PAPER_RULE = {"search": "exhaustive", "select": "holdout", "rule": "first_best", "metric": "accuracy"}
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "ensemble": {"predictor": "ensemble"},
    "logistic": {"head": "logistic"},
    "best mean": {"rule": "best"},
    "late average": {"predictor": "average", "head": "logistic"},
    "paper's rule, logistic": {**PAPER_RULE, "head": "logistic"},
}
"""Ways of choosing, as options of BioFuse. The default also gives best single, all and greedy."""

SMALL: dict[str, dict[str, Any]] = {
    "default": {},
    "paper's rule, XGBoost": {**PAPER_RULE, "head": "xgboost"},
}
"""Ways of choosing among few encoders on few rows, where boosted trees are affordable."""


def part(data: EmbeddingSet, rows: NDArray[np.int64]) -> EmbeddingSet:
    return EmbeddingSet(samples=data.samples.take(rows), blocks=data.blocks.take(rows), cards=data.cards)


def resample(data: EmbeddingSet, seed: int, most: int | None) -> tuple[EmbeddingSet, EmbeddingSet]:
    """Divide into development (with a validation split) and test, groups whole; at most so many development rows."""
    samples = with_splits(replace(data.samples, splits=None), seed=seed)
    data, splits = replace(data, samples=samples), np.asarray(samples.splits)
    development = np.flatnonzero(splits != "test")
    if most is not None and len(development) > most:
        # A second split, of the development data alone, says which groups stay.
        inner = part(data, development)
        share = most / len(development)
        kept = with_splits(
            replace(inner.samples, splits=None),
            seed=seed + 1000,
            fractions=(share, 0.0, 1 - share),
        )
        development = development[np.asarray(kept.splits) == "train"]
    return part(data, development), part(data, np.flatnonzero(splits == "test"))


def scores(problem: Problem, predictor: Predictor, test: EmbeddingSet) -> dict[str, float]:
    found = score(
        problem.task,
        np.asarray(test.labels),
        predictor.predict_proba(test.blocks),
        classes=problem.classes,
        metrics=METRICS,
        decision=predictor.decision(test.blocks),
    )
    return {name: float(found[name]) for name in METRICS} | {"encoders": len(predictor.encoders)}


def choose(
    name: str, options: dict[str, Any], development: EmbeddingSet, test: EmbeddingSet, *, folder: Path
) -> dict[str, Any]:
    config = SearchConfig(encoders=tuple(card.name for card in development.cards), **options)
    problem = Problem.from_embeddings(development, config)
    search = run(problem, SearchContext(folder=folder, yes=True), budget=Budget())
    predictors = fit_predictors(problem, search, problem.fitted_rows, threads=1)
    found = {name: scores(problem, predictors["chosen"], test)}
    if name == "default":
        companions = {"best_single": "best single", "all": "all", "greedy": "greedy"}
        found |= {said: scores(problem, predictors[key], test) for key, said in companions.items() if key in predictors}
        found[name]["head"] = search.head
    return found


def study(
    data: EmbeddingSet,
    ways: dict[str, dict[str, Any]],
    *,
    resamples: int,
    most: int | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {}
    n_development, n_test = [], []
    for seed in range(resamples):
        development, test = resample(data, seed, most)
        n_development.append(len(development.samples))
        n_test.append(len(test.samples))
        # In one folder, ways that share scores share the work.
        with tempfile.TemporaryDirectory() as folder:
            for name, options in ways.items():
                for found, values in choose(name, options, development, test, folder=Path(folder)).items():
                    rows.setdefault(found, []).append(values)
                    tell(f"resample {seed + 1}: {found}: {values}")
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
    parser.add_argument("--resamples", type=int, default=10)
    parser.add_argument("--ways", help="names separated by semicolons; all by default")
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
    found = study(data, ways, resamples=arguments.resamples, most=most, tell=tell)
    print(json.dumps({"data": samples.name, "encoders": list(data), **found}, indent=2))


if __name__ == "__main__":
    main()
