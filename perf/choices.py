"""Does the search choose better than simpler rules? Resamples development and test data by group, and compares.

``python perf/choices.py DATA --label COLUMN --group COLUMN`` prints one JSON object: per way the mean test AUROC,
accuracy and log-loss over the resamples, and the paired difference of the default from it with a 95 % interval (Nadeau
and Bengio's correction for resamples that overlap). Every resample draws development and test data anew, groups whole.

One search per resample, with its default rule, gives the chosen encoders, the best single one, all, the greedy path and
the lean subset; every predictor is fitted to those. *Default* is the default predictor on the chosen encoders; a name
without a predictor is the default predictor on other encoders, a name with one is that predictor on the encoders named.
The paper's rule is a search of its own. *Oracle* is the subset that happens to have the best test AUROC among all, with
the head that the search chose: nobody can choose it. Embeddings are computed once and come from the store; evidence,
attribution and intervals of single runs are left out, since none of them changes a model.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from typing import Any

import numpy as np
from measuring import at_most
from numpy.typing import NDArray

import biofuse
from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import DataError
from biofuse.core.target import Target, Task
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.data.splits import with_splits
from biofuse.evaluation.intervals import corrected_standard_error
from biofuse.evaluation.metrics import score
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.heads.base import cheap_heads
from biofuse.predictors.combined import average, fit_late_fusion
from biofuse.predictors.fused import Predictor, fit_predictor
from biofuse.predictors.mean import MeanFits
from biofuse.search.config import SearchConfig
from biofuse.search.leaderboard import Subset, all_subsets
from biofuse.search.problem import Problem
from biofuse.search.rules import Budget, choose_ensemble
from biofuse.search.runner import SearchContext
from biofuse.search.search import Fit, Search, encoders_to_fit, head_of
from biofuse.search.search import run as run_search

METRICS = ("auroc", "accuracy", "log_loss")
CHOSEN = "chosen"
BESIDE = {"best_single": "best single", "all": "all", "greedy": "greedy", "lean": "lean"}
"""What every search compares its choice with."""

DEFAULT = "default"
ALONE = SearchContext(workers=1)
NO_BUDGET = Budget()


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """One resample: development embeddings, with a validation split for who needs one, and test embeddings."""

    development: EmbeddingSet
    test: EmbeddingSet

    @classmethod
    def of(cls, data: EmbeddingSet, seed: int, most: int | None) -> "Draw":
        """Divide into train, validation and test samples, groups whole; at most so many are not test samples."""
        samples = with_splits(replace(data.samples, splits=None), seed=seed)
        test = np.asarray(samples.splits) == "test"
        kept = np.isin(samples.ids, at_most(samples.take(np.flatnonzero(~test)), most, seed=seed + 1000).ids)
        return cls(
            development=_rows(data, samples, np.flatnonzero(kept)), test=_rows(data, samples, np.flatnonzero(test))
        )

    @cached_property
    def problem(self) -> Problem:
        """What the default search works on."""
        return self.pose(predictor="fused")

    @cached_property
    def search(self) -> Search:
        """The default search: its subsets are compared by one head."""
        return run_search(self.problem, ALONE, budget=NO_BUDGET)

    @cached_property
    def subsets(self) -> dict[str, Subset]:
        """The chosen encoders, and what they are compared with."""
        return encoders_to_fit(self.search)

    @cached_property
    def means(self) -> MeanFits:
        """Fits of all heads to all views."""
        return MeanFits(*self.rows, **self.about)

    @property
    def rows(self) -> tuple[Blocks, NDArray[np.int64]]:
        """Blocks and labels of all development samples."""
        return self.problem.blocks, self.problem.labels

    @property
    def about(self) -> dict[str, Any]:
        """What predictors are told about the labels."""
        return {"target": self.problem.target}

    def pose(self, **options: Any) -> Problem:
        """Return the problem of a search with other options than the defaults."""
        encoders = self.development.blocks.encoders
        return Problem.from_embeddings(self.development, SearchConfig(encoders=encoders, **options))

    def scores(self, predictor: Predictor) -> dict[str, Any]:
        """Score a predictor on the test samples."""
        target, blocks = self.problem.target, self.test.blocks
        found = score(
            target.kind,
            self.test.samples.labels,
            predictor.predict_proba(blocks),
            classes=target.classes,
            metrics=METRICS,
            decision=predictor.decision(blocks),
        )
        return {name: float(found[name]) for name in METRICS} | {"encoders": list(predictor.encoders)}


def _rows(data: EmbeddingSet, samples: Samples, rows: NDArray[np.int64]) -> EmbeddingSet:
    return EmbeddingSet(
        samples=samples.take(rows), blocks=data.blocks.take(rows), cards=data.cards, precisions=data.precisions
    )


Way = Callable[[Draw], Predictor]


def mean(draw: Draw, *, which: str) -> Predictor:
    """Fit the mean over the heads and views of a subset."""
    return draw.means.predictor(draw.subsets[which])


def fused(draw: Draw, *, which: str = CHOSEN, head: str | None = None) -> Predictor:
    """Fit one head, that of the search if none is named, to a subset."""
    return fit_predictor(*draw.rows, encoders=draw.subsets[which], head=head or draw.search.head, **draw.about)


def ensemble(draw: Draw) -> Predictor:
    """Average the best subsets."""
    problem, search = draw.problem, draw.search
    found = choose_ensemble(
        search.leaderboard,
        problem.labels,
        rows=[held for _, held in problem.plan.folds],
        target=problem.target,
        metric=problem.config.metric,
    )
    members = [fit_predictor(*draw.rows, encoders=subset, head=search.head, **draw.about) for subset in found.members]
    return average(members, pool=problem.blocks.encoders)


def late(draw: Draw, *, how: Any) -> Predictor:
    """Combine logistic heads on each of the chosen encoders."""
    units = draw.problem.units
    return fit_late_fusion(
        *draw.rows,
        encoders=draw.subsets[CHOSEN],
        how=how,
        groups=None if units is None else units.tolist(),
        **draw.about,
    )


def papers_rule(draw: Draw, *, head: str) -> Predictor:
    """Refit every subset, take the best accuracy on the validation split, the first of ties, and its fit on train."""
    problem = draw.pose(preset="paper", head=head)
    search, rows = run_search(problem, ALONE, budget=NO_BUDGET), problem.fitted_rows
    fit = Fit(problem, head_of(problem.config, head))
    return fit(problem.blocks.take(rows), problem.labels[rows], encoders=search.chosen, seed=0, threads=1)


def oracle(draw: Draw) -> Predictor:
    """Return the subset with the best test AUROC, with the head of the search."""
    fits = (
        fit_predictor(*draw.rows, encoders=subset, head=draw.search.head, **draw.about)
        for subset in all_subsets(draw.problem.blocks.encoders)
    )
    return max(fits, key=lambda predictor: draw.scores(predictor)["auroc"])


WAYS: dict[str, Way] = {
    DEFAULT: partial(mean, which=CHOSEN),
    **{name: partial(mean, which=model) for model, name in BESIDE.items()},
    "fused": fused,
    **{f"fused, {name}": partial(fused, which=model) for model, name in BESIDE.items()},
    **{f"fused, {head}": partial(fused, head=head) for head in cheap_heads(Target.numbered(Task.BINARY, 2))},
    "ensemble": ensemble,
    "late average": partial(late, how="average"),
    "stacking": partial(late, how="stacking"),
    "paper's rule, logistic": partial(papers_rule, head="logistic"),
    "oracle": oracle,
}
"""Ways of choosing and fitting."""

SLOW: dict[str, Way] = {"paper's rule, XGBoost": partial(papers_rule, head="xgboost")}
"""Affordable among few encoders on few rows; to be asked for by name."""


def study(
    data: EmbeddingSet, ways: Mapping[str, Way], *, resamples: int, most: int | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Compare ways on as many resamples as are asked for; draws that cannot be searched are counted, and left out."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    n_development, n_test, heads, refused = [], [], [], 0
    for seed in count():
        if len(heads) == resamples:
            break
        draw = Draw.of(data, seed, most)
        try:
            heads.append(draw.search.head)
        except DataError as error:
            refused += 1
            tell(f"draw {seed}: {error}")
            if refused > resamples:
                raise
            continue
        n_development.append(len(draw.development.samples))
        n_test.append(len(draw.test.samples))
        for name, way in ways.items():
            rows[name].append(draw.scores(way(draw)))
            tell(f"draw {seed}: {name}: {rows[name][-1]}")
    return {
        "rows_development": int(np.mean(n_development)),
        "rows_test": int(np.mean(n_test)),
        "resamples": resamples,
        "draws_refused": refused,
        "heads_chosen": heads,
        "ways": {name: summary(rows[DEFAULT], values, n_development, n_test) for name, values in rows.items()},
    }


def summary(
    reference: list[dict[str, Any]], values: list[dict[str, Any]], n_train: list[int], n_test: list[int]
) -> dict[str, Any]:
    """Return means, and the default's paired differences with their intervals."""
    from scipy.stats import t

    found: dict[str, Any] = {
        "mean_encoders": float(np.mean([len(value["encoders"]) for value in values])),
        "subsets": [value["encoders"] for value in values],
    }
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
    parser.add_argument("--ways", help="names separated by semicolons, the default among them; all but XGBoost's")
    parser.add_argument("--rows", type=int, help="most development rows")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    samples = load_samples(arguments.data, label=arguments.label, group=arguments.group, labelled=True)
    data = biofuse.embed(samples, arguments.encoders, progress=False)
    ways: Mapping[str, Way] = WAYS
    if arguments.ways:
        ways = {name: {**WAYS, **SLOW}[name] for name in arguments.ways.split(";")}
    tell = (lambda _: None) if arguments.quiet else (lambda line: print(line, file=sys.stderr, flush=True))
    found = study(data, ways, resamples=arguments.resamples, most=arguments.rows, tell=tell)
    print(json.dumps({"data": samples.name, "encoders": list(data), **found}, indent=2))


if __name__ == "__main__":
    main()
