"""Nested cross-validation: the whole search, repeated inside each outer fold, scored on what it never saw."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biofuse.api.fitting import fit_predictors
from biofuse.api.problem import Problem, make_plan
from biofuse.api.runtime import Runtime
from biofuse.api.searching import Search, run
from biofuse.core.seeds import derive_seed
from biofuse.evaluation.comparison import corrected_standard_error
from biofuse.evaluation.metrics import get_metric, score
from biofuse.extract import usable_cores
from biofuse.search import Budget, Subset, label

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Nested:
    """Scores of the search itself.

    Attributes
    ----------
    metric : str
    folds : dict of str to tuple of float
        Per outer fold the score of ``chosen``, ``best_single`` and ``all``, each as the inner search found it.
    picked : tuple of subset
        What the inner search chose in each outer fold.
    low, high : float
        95 % interval of the mean of ``chosen``, with the corrected standard error of overlapping training sets.
    """

    metric: str
    folds: dict[str, tuple[float, ...]]
    picked: tuple[Subset, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean score of the chosen predictor over the outer folds."""
        return float(np.nanmean(self.folds["chosen"]))

    def __str__(self) -> str:
        others = " and ".join(
            f"{np.nanmean(self.folds[name]):.4f} for {words}"
            for name, words in (("best_single", "the best single encoder"), ("all", "all encoders"))
            if name in self.folds
        )
        distinct = len(set(self.picked))
        return (
            f"Nested cross-validation, the whole search repeated in each of {len(self.picked)} outer folds: mean "
            f"{get_metric(self.metric).title} {self.mean:.4f} (95 % interval {self.low:.4f} to {self.high:.4f}) for "
            f"what the search chooses, {others}. It chose {distinct} different subset{'s' if distinct > 1 else ''}: "
            f"{', '.join(dict.fromkeys(label(subset) for subset in self.picked))}."
        )


def nest(problem: Problem, runtime: Runtime, *, budget: Budget) -> Nested:
    """Repeat the search inside each outer fold, and score what it chose on the outer fold's held-out rows.

    Raises
    ------
    DataError
        If an outer fold leaves too few samples of a class to search on.
    """
    config = problem.config
    outer = make_plan(problem.samples, problem.contents, config.model_copy(update={"repeats": 1}))
    found: dict[str, list[float]] = {}
    picked = []
    runtime.progress.begin("outer folds", len(outer.folds))
    for number, (fit, held) in enumerate(outer.folds):
        inner = replace(problem.restrict(fit), config=config.model_copy(update={"seed": _seed(config.seed, number)}))
        inner = replace(inner, plan=make_plan(inner.samples, inner.contents, inner.config))
        search = run(inner, runtime.below(f"nested-{number + 1}"), budget=budget)
        for name, value in _scores(problem, inner, search, held).items():
            found.setdefault(name, []).append(value)
        picked.append(search.chosen)
        runtime.progress.advance("outer folds", 1)
    folds = {name: tuple(values) for name, values in found.items() if len(values) == len(outer.folds)}
    low, high = _interval(np.array(folds["chosen"]), outer.n_train, outer.n_test)
    return Nested(metric=config.metric, folds=folds, picked=tuple(picked), low=low, high=high)


def _scores(problem: Problem, inner: Problem, search: Search, held: NDArray[np.int64]) -> dict[str, float]:
    predictors = fit_predictors(inner, search, inner.fitted_rows, threads=usable_cores())
    blocks, metric = problem.blocks.take(held), problem.config.metric
    return {
        name: score(
            problem.task,
            problem.labels[held],
            predictor.predict_proba(blocks),
            classes=problem.classes,
            metrics=[metric],
            decision=predictor.decision(blocks),
        )[metric]
        for name, predictor in predictors.items()
    }


def _seed(seed: int, number: int) -> int:
    return derive_seed(seed, "nested", number) % 2**31


def _interval(values: NDArray[np.float64], n_train: tuple[int, ...], n_test: tuple[int, ...]) -> tuple[float, float]:
    from scipy.stats import t

    error = corrected_standard_error(values, n_train, n_test)
    count = int((~np.isnan(values)).sum())
    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error if count > 1 else float("nan")
    low, high = np.clip(np.nanmean(values) + np.array([-reach, reach]), 0, 1)  # AUROC and accuracy end there
    return float(low), float(high)
