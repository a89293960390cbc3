"""Scores by subgroup: those of the rows alone, and a test that keeps its level and finds what is there."""

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact

from biofuse.core.target import Target, Task
from biofuse.evaluation import subgroups
from biofuse.evaluation.intervals import score_intervals
from biofuse.evaluation.metrics import score
from biofuse.evaluation.subgroups import break_down, cut


def binary(random, n, *, shift=1.5, prevalence=0.4):
    labels = (random.random(n) < prevalence).astype(int)
    decision = random.normal(size=n) + shift * labels
    return labels, 1 / (1 + np.exp(-decision + shift / 2))


def names(n):
    return [f"{row:05d}" for row in range(n)]


def test_each_value_is_scored_as_if_it_were_alone():
    random = np.random.default_rng(0)
    labels, p = binary(random, 120)
    site = np.where(np.arange(120) < 70, "north", "south")
    (found,) = break_down(Task.BINARY, labels, p, {"site": site}, ids=names(120))
    for each in found.subgroups:
        rows = site == each.value
        alone = score_intervals(Task.BINARY, labels[rows], p[rows], ids=np.array(names(120))[rows])
        assert each.intervals == alone
        assert (each.n, each.enough) == (int(rows.sum()), True)
    scores = {each.value: each.intervals["auroc"].estimate for each in found.subgroups}
    assert found.gap.worst == min(scores, key=scores.get)
    assert found.gap.difference == pytest.approx(max(scores.values()) - min(scores.values()))


def test_of_two_shares_the_test_is_fishers():
    """Dealing values out to right and wrong rows is the hypergeometric distribution."""
    right = np.r_[np.ones(28), np.zeros(4), np.ones(20), np.zeros(12)].astype(bool)
    p = np.where(right, 0.9, 0.1)
    values = ["a"] * 32 + ["b"] * 32
    (found,) = break_down(Task.BINARY, np.ones(64, int), p, {"x": values}, ids=names(64), metric="accuracy")
    exact = fisher_exact([[28, 4], [20, 12]]).pvalue
    assert found.gap.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 999))
    assert (found.gap.worst, found.gap.best, found.gap.within_classes) == ("b", "a", False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "prevalence", "groups", "within groups"])
def test_the_test_is_wrong_about_as_often_as_it_says(kind, monkeypatch):
    monkeypatch.setattr(subgroups, "PERMUTATIONS", 59)
    monkeypatch.setattr(subgroups, "FEWEST_PERMUTATIONS", 59)
    monkeypatch.setattr(subgroups, "score_intervals", _only_estimates)
    random, wrong, times, n = np.random.default_rng(1), 0, 200, 120
    for _ in range(times):
        values, groups = random.integers(0, 3, n).astype(str), None
        labels, p = binary(random, n, prevalence=np.where(values == "0", 0.15, 0.5) if kind == "prevalence" else 0.4)
        if "groups" in kind:  # images of a patient look alike, and score alike
            groups = np.repeat(np.arange(60), 2).astype(str)
            labels = np.repeat(random.integers(0, 2, 60), 2)
            p = 1 / (1 + np.exp(-(np.repeat(random.normal(size=60), 2) + random.normal(size=n) / 2 + labels)))
            values = np.repeat(random.integers(0, 3, 60), 2).astype(str) if kind == "groups" else values
        (found,) = break_down(Task.BINARY, labels, p, {"site": values}, ids=names(n), groups=groups)
        assert found.gap.permuted == {"groups": "groups", "within groups": "samples within groups"}.get(kind, "samples")
        wrong += found.gap.p_value <= 0.05
    assert binomtest(wrong, times, 0.05).pvalue > 0.01


def _only_estimates(target, labels, probabilities, *, ids, groups):
    """Score without the intervals, which the test has no part in."""
    from biofuse.evaluation.intervals import Interval
    from biofuse.evaluation.metrics import INTERVAL_METRICS, METRICS

    metrics = [name for name in INTERVAL_METRICS if METRICS[name].applies(target)]
    scores = score(target, labels, probabilities, metrics=metrics)
    same = {"low": 0, "high": 1, "confidence": 0.95, "method": "wilson", "unit": "samples", "n_units": len(ids)}
    return {name: Interval(metric=name, estimate=value, **same) for name, value in scores.items()}


def test_a_site_that_is_worse_is_found_and_columns_are_corrected_together():
    random = np.random.default_rng(2)
    labels, p = binary(random, 400)
    site = np.where(np.arange(400) < 100, "bad", "good")
    p[:100] = random.random(100)
    columns = {"site": site, "sex": random.choice(["f", "m"], 400)}
    worse, same = break_down(Task.BINARY, labels, p, columns, ids=names(400))
    assert (worse.gap.worst, worse.gap.noise, same.gap.noise) == ("bad", False, True)
    assert worse.gap.p_holm == pytest.approx(2 * worse.gap.p_value)
    assert 'worst for "bad" (' in str(worse)
    assert "Holm-corrected over 2 columns" in str(worse)


def test_numbers_are_cut_and_what_cannot_be_compared_is_said():
    random = np.random.default_rng(3)
    labels, p = binary(random, 200)
    age = [str(value) for value in random.integers(20, 90, 195)] + [""] * 5
    rare = ["x"] * 196 + ["y"] * 4
    by_age, by_rare = break_down(Task.BINARY, labels, p, {"age": age, "rare": rare}, ids=names(200))
    assert len(by_age.subgroups) == 4
    assert sum(each.n for each in by_age.subgroups) == 195
    assert "cut into 4 parts" in str(by_age)
    assert "5 of 200 samples have no value" in str(by_age)
    assert by_rare.gap is None
    assert by_age.gap.p_holm == by_age.gap.p_value  # the only column that was tested
    assert "Holm" not in str(by_age)
    assert "y has fewer than 10 samples" in str(by_rare)


@pytest.mark.parametrize("in_group", [8, 1])
def test_a_test_that_could_find_nothing_is_not_made(in_group):
    """Samples of eight classes, one of each per group: within class and group nothing can be dealt out anew."""
    random, n_groups = np.random.default_rng(5), 30
    labels = np.tile(np.arange(8), n_groups)
    p = random.dirichlet(np.ones(8), 8 * n_groups) / 2 + np.eye(8)[labels] / 2
    groups = np.repeat(np.arange(n_groups), 8).astype(str)
    values = np.where(random.random(8 * n_groups) < 0.5, "a", "b")
    if in_group == 1:  # all but one group have one value, so that values cannot move between groups nor within them
        values = np.repeat(np.where(np.arange(n_groups) % 2, "a", "b"), 8)
        values[0] = "a"
    p[values == "b"] = random.dirichlet(np.ones(8), int((values == "b").sum()))
    (found,) = break_down(Task.MULTICLASS, labels, p, {"x": values}, ids=names(8 * n_groups), groups=groups)
    assert (found.gap.permuted, found.gap.within_classes) == ("samples within groups", False)
    assert (found.gap.p_holm <= 0.01) if in_group == 8 else np.isnan(found.gap.p_holm)
    assert ("of unknown weight" in str(found)) == (in_group == 1)


def test_ranges_hold_what_their_names_say():
    values = [str(number) for number in (*range(100), 3, 3, 3)]
    parts, order, _ = cut(values)
    for value, part in zip(values, parts, strict=True):
        low = float(part.split("above ")[1].split(",")[0]) if "above" in part else -np.inf
        high = float(part.split("up to ")[1]) if "up to" in part else np.inf
        assert low < float(value) <= high
    assert list(order) == sorted(set(parts), key=order.index)
    assert cut(["7", "x", ""])[:2] == (["7", "x", ""], ("7", "x"))
    assert cut(["10", "9", "9"])[1] == ("9", "10")


@pytest.mark.parametrize("kind", ["values", "times", "gaps"])
def test_subgroups_of_numbers_and_of_labels_with_gaps_are_told_apart_where_they_differ(kind):
    random, n = np.random.default_rng(3), 160
    site, signal = np.where(np.arange(n) % 2, "a", "b"), random.normal(size=n)
    said = signal + random.normal(0, np.where(site == "a", 0.2, 3.0), n)
    if kind == "times":
        target, scores = Target.until([5, 10]), -np.expm1(-np.array([0.5, 1]) * np.exp(np.clip(said, -5, 3))[:, None])
        labels = np.column_stack([random.exponential(10 * np.exp(-2 * signal)), random.random(n) < 0.8]).astype(float)
    elif kind == "values":
        target, labels, scores = Target(Task.VALUE, ("age",)), signal, said[:, None]
    else:
        target, scores = Target.numbered(Task.MULTILABEL, 2), 1 / (1 + np.exp(-np.column_stack([said, said])))
        labels = np.where(random.random((n, 2)) < 0.3, -1, (signal > 0)[:, None])
    shuffled = random.permutation(site)
    found = break_down(target, labels, scores, {"site": site, "none": shuffled}, ids=np.arange(n))
    assert (found[0].gap.best, found[0].gap.worst) == ("a", "b")
    assert found[0].gap.p_holm <= 0.01
    assert found[1].gap.noise
    rows = site == "a"
    own = found[0].subgroup("a").intervals[found[0].metric].estimate
    assert own == pytest.approx(score(target, labels[rows], scores[rows])[found[0].metric])
