"""Simulate how often intervals of test scores hold the truth, and how often comparisons find what is not there.

``python perf/coverage.py`` prints one JSON object: the share of simulated test sets whose 95 % interval holds the score
that the predictor has in the population (or, of comparisons, whose p-value is at most .05 although both predictors are
equally good), by number of samples, prevalence and score; and by number of groups. About ten minutes on two cores.

Two classes; scores are normal, with the mean of positives so far from that of negatives that the AUROC is as given, and
a threshold that makes the accuracy as given. A group has an effect of its own, which makes up 0.3 of the variance.
The predictors of a comparison have the same distribution, and errors that correlate by 0.6. Grades, for quadratic
kappa, are cut from two normal values that correlate. Of the expected calibration error, log-odds are true and what is
said is divided by a temperature; its truth is that of the same bins in the population.
"""

import argparse
import functools
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import cohen_kappa_score

from biofuse.core.target import Target, Task
from biofuse.evaluation.calibration import BINS, measure_calibration
from biofuse.evaluation.intervals import compare, score_intervals

SAMPLES = (50, 100, 300, 1000)
AUROCS = (0.7, 0.8, 0.9, 0.95, 0.99)
ACCURACIES = (0.5, 0.7, 0.9, 0.99)
PREVALENCES = (0.1, 0.2, 0.5)
GROUPS = (5, 10, 20, 50)
GROUP_SIZES = (4, 12)
WITHIN = 0.3
"""Part of the variance of scores, or of what decides whether a row is right, that a group's rows share."""

Values = NDArray[np.float64]


def ids_of(n: int) -> list[str]:
    return [str(row) for row in range(n)]


def labels_of(n: int, prevalence: float) -> NDArray[np.int64]:
    return (np.arange(n) < round(n * prevalence)).astype(np.int64)


def probabilities(scores: Values) -> Values:
    return np.asarray(norm.cdf(scores / 2))


def covered_auroc(n: int, prevalence: float, truth: float, seed: int) -> bool:
    random = np.random.default_rng([seed, n])
    labels = labels_of(n, prevalence)
    scores = random.normal(size=n) + labels * norm.ppf(truth) * np.sqrt(2)
    found = score_intervals(Task.BINARY, labels, probabilities(scores), ids=ids_of(n), metrics=["auroc"])["auroc"]
    return bool(found.low <= truth <= found.high)


def covered_accuracy(metric: str, n: int, prevalence: float, truth: float, seed: int) -> bool:
    random = np.random.default_rng([seed, n])
    labels = labels_of(n, prevalence)
    right = random.random(n) < truth
    said = np.where(right, labels, 1 - labels)
    found = score_intervals(Task.BINARY, labels, 0.1 + 0.8 * said, ids=ids_of(n), metrics=[metric])[metric]
    return bool(found.low <= truth <= found.high)


def grouped(random: np.random.Generator, n_groups: int, size: int) -> tuple[NDArray[np.int64], Values]:
    groups = np.repeat(np.arange(n_groups), size)
    effects = np.sqrt(WITHIN) * random.normal(size=n_groups)
    return groups, effects[groups] + np.sqrt(1 - WITHIN) * random.normal(size=len(groups))


def covered_by_group(metric: str, n_groups: int, size: int, truth: float, seed: int) -> bool:
    random = np.random.default_rng([seed, n_groups, size])
    groups, noise = grouped(random, n_groups, size)
    if metric == "auroc":
        labels = (groups % 2).astype(np.int64)
        scores = noise + labels * norm.ppf(truth) * np.sqrt(2)
    else:
        labels = random.integers(0, 2, len(groups))
        scores = np.where(noise < norm.ppf(truth), 1.0, -1.0) * (2 * labels - 1)
    found = score_intervals(
        Task.BINARY, labels, probabilities(scores), ids=ids_of(len(groups)), groups=groups.astype(str), metrics=[metric]
    )[metric]
    return bool(found.low <= truth <= found.high)


def graded(truth: float, n_grades: int, n: int, random: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """Draw grades, each cut from one of two normal values that correlate by ``truth``, equally many of each."""
    cuts = norm.ppf(np.arange(1, n_grades) / n_grades)
    latent = random.multivariate_normal(np.zeros(2), [[1, truth], [truth, 1]], size=n)
    return tuple(np.searchsorted(cuts, column) for column in latent.T)


@functools.cache
def kappa_of(truth: float, n_grades: int) -> float:
    first, second = graded(truth, n_grades, 1_000_000, np.random.default_rng(0))
    return float(cohen_kappa_score(first, second, weights="quadratic"))


def covered_kappa(n: int, n_grades: int, truth: float, seed: int) -> bool:
    labels, said = graded(truth, n_grades, n, np.random.default_rng([seed, n]))
    shares = 0.1 / n_grades + 0.9 * (said[:, None] == np.arange(n_grades))
    name = "quadratic_kappa"
    found = score_intervals(Task.ORDINAL, labels, shares, ids=ids_of(n), metrics=[name])[name]
    return bool(np.isnan(found.estimate) or found.low <= kappa_of(truth, n_grades) <= found.high)


def logits_of(n: int, spread: float, random: np.random.Generator) -> Values:
    """Draw log-odds of four classes, which are right as often as they say."""
    return np.asarray(spread * random.normal(size=(n, 4)))


@functools.cache
def error_of(spread: float, temperature: float) -> float:
    """Return the error, over bins, of those log-odds divided by a temperature, from a million draws."""
    logits = logits_of(1_000_000, spread, np.random.default_rng(0))
    true, stated = softmax(logits, axis=1).max(axis=1), softmax(logits / temperature, axis=1).max(axis=1)
    place = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], stated)
    return float(np.abs(np.bincount(place, true - stated)).sum() / len(true))


def covered_ece(n: int, spread: float, temperature: float, seed: int) -> bool:
    random = np.random.default_rng([seed, n])
    logits = logits_of(n, spread, random)
    labels = (softmax(logits, axis=1).cumsum(axis=1) < random.random((n, 1))).sum(axis=1)
    said = softmax(logits / temperature, axis=1)
    target = Target.numbered(Task.MULTICLASS, 4)
    found = measure_calibration(target, labels, said, said, calibration=None, ids=ids_of(n)).after.ece
    return bool(found.low <= error_of(spread, temperature) <= found.high)


def false_alarm(metric: str, n: int, prevalence: float, n_groups: int, seed: int) -> bool:
    truth = 0.85
    random = np.random.default_rng([seed, n, n_groups])
    if n_groups:
        groups, shared = grouped(random, n_groups, n // n_groups)
        labels = (groups % round(1 / prevalence) == 0).astype(np.int64)
    else:
        groups, shared = np.arange(n), random.normal(size=n)
        labels = labels_of(n, prevalence)
    gap = labels * norm.ppf(truth) * np.sqrt(2) - norm.ppf(truth) * np.sqrt(2) / 2
    first, second = (
        probabilities(gap + np.sqrt(0.6) * shared + np.sqrt(0.4) * random.normal(size=len(groups))) for _ in "12"
    )
    found = compare(
        Task.BINARY, labels, first, second,
        ids=ids_of(len(groups)), groups=groups.astype(str) if n_groups else None, metric=metric,
    )  # fmt: skip
    return bool(found.p_value <= 0.05)


Setting = tuple[str, Any, tuple[Any, ...], dict[str, Any]]
"""A table, what simulates, its arguments, and what they mean."""


def by_samples() -> Iterator[Setting]:
    for n in SAMPLES:
        for prevalence in PREVALENCES:
            facts = {"samples": n, "prevalence": prevalence}
            for truth in AUROCS:
                yield "auroc", covered_auroc, (n, prevalence, truth), facts | {"truth": truth}
            for truth in ACCURACIES:
                arguments = ("balanced_accuracy", n, prevalence, truth)
                yield "balanced_accuracy", covered_accuracy, arguments, facts | {"truth": truth}
        for truth in ACCURACIES:
            yield "accuracy", covered_accuracy, ("accuracy", n, 0.5, truth), {"samples": n, "truth": truth}


def by_groups() -> Iterator[Setting]:
    for n_groups in GROUPS:
        for size in GROUP_SIZES:
            for metric, truths in (("accuracy", (0.7, 0.9, 0.97)), ("auroc", (0.75, 0.9, 0.97))):
                for truth in truths:
                    facts = {"groups": n_groups, "samples_each": size, "truth": truth}
                    yield f"{metric} by group", covered_by_group, (metric, n_groups, size, truth), facts


def of_others() -> Iterator[Setting]:
    for n in SAMPLES:
        for n_grades in (3, 5):
            for truth in (0.3, 0.7, 0.9, 0.99):
                facts = {"samples": n, "grades": n_grades, "correlation": truth}
                yield "quadratic kappa", covered_kappa, (n, n_grades, truth), facts
        for spread in (1.0, 3.0):
            for temperature in (0.5, 0.8, 1.0, 1.3, 2.0):
                facts = {"samples": n, "spread": spread, "temperature": temperature}
                yield "calibration error", covered_ece, (n, spread, temperature), facts


def of_comparisons() -> Iterator[Setting]:
    for metric in ("auroc", "accuracy", "balanced_accuracy"):
        for n, n_groups in ((50, 0), (100, 0), (300, 0), (240, 20)):
            for prevalence in (0.2, 0.5):
                facts = {"metric": metric, "samples": n, "groups": n_groups or None, "prevalence": prevalence}
                yield "comparisons", false_alarm, (metric, n, prevalence, n_groups), facts


def share(simulate: Any, arguments: tuple[Any, ...], repeats: int) -> float:
    return float(np.mean([simulate(*arguments, seed) for seed in range(repeats)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000, help="test sets of each kind; the share is within .01")
    parser.add_argument("--tables", nargs="+", help="only these")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    every = itertools.chain(by_samples(), by_groups(), of_others(), of_comparisons())
    asked = [each for each in every if options.tables is None or each[0] in options.tables]
    found = Parallel(n_jobs=options.workers)(
        delayed(share)(simulate, arguments, options.repeats) for _, simulate, arguments, _ in asked
    )
    tables: dict[str, list[dict[str, Any]]] = {}
    for (table, _, _, facts), value in zip(asked, found, strict=True):
        what = "found" if table == "comparisons" else "covered"
        tables.setdefault(table, []).append(facts | {what: round(value, 4)})
    print(json.dumps({"repeats": options.repeats, "tables": tables}, indent=1))


if __name__ == "__main__":
    main()
