from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from biofuse.core.errors import AlignmentError, SearchError, UndefinedMetricError
from biofuse.core.target import Task
from biofuse.evaluation.intervals import Units
from biofuse.evaluation.metrics import score
from biofuse.search.evidence import (
    FEWEST_RESAMPLES,
    MOST_RESAMPLES,
    HeldOutPredictions,
    correct_optimism,
    default_resamples,
)
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets, label
from biofuse.search.rules import RULES, choose, select

METRICS = ("auroc", "accuracy", "log_loss")


def names(n):
    return np.array([f"s{i:04d}" for i in range(n)], dtype=object)


def folds_of(n, n_folds=5, repeats=1, seed=7):
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(repeats):
        place = random.permutation(n) % n_folds
        rows += [np.flatnonzero(place == fold) for fold in range(n_folds)]
    return rows


def board(labels, predictions, rows, *, task=Task.BINARY, metrics=METRICS, dims=None):
    """A leaderboard of subsets whose held-out predictions for all samples (a matrix per fold set) are given."""
    encoders = tuple(dict.fromkeys(name for subset in predictions for name in subset))
    n = len(labels)
    table, kept = [], {}
    for subset, matrix in predictions.items():
        kept[subset] = tuple(matrix[part] for part in rows)
        found = [score(task, labels[part], matrix[part], metrics=metrics) for part in rows]
        folds = {name: tuple(values[name] for values in found) for name in metrics}
        table.append(Row(subset=subset, n_dims=sum((dims or {}).get(e, 1) for e in subset), folds=folds))
    return Leaderboard(
        encoders=encoders,
        metrics=metrics,
        rows=tuple(table),
        n_train=tuple(n - len(part) for part in rows),
        n_test=tuple(map(len, rows)),
        out_of_fold=kept,
    )


def one_by_one(n_subsets):
    return [(f"e{number:03d}",) for number in range(n_subsets)]


def noise(labels, subsets, *, n_classes=2, seed=0):
    random = np.random.default_rng(seed)
    return {subset: random.dirichlet(np.ones(n_classes), len(labels)) for subset in subsets}


def with_signal(labels, shifts, *, seed=0):
    """Probabilities of the second class, whose true AUROC is known from each shift."""
    random = np.random.default_rng(seed)
    found = {}
    for subset, shift in shifts.items():
        second = 1 / (1 + np.exp(-random.normal(shift * (labels - 0.5))))
        found[subset] = np.column_stack([1 - second, second])
    return found


def slow(leaderboard, labels, *, rows, ids, groups, task, rule, metric, n_resamples, seed):
    """The same, sample by sample: drawn rows are repeated, and everything else is left to ``score`` and ``select``."""
    units, values, picked = Units.of(ids, groups), [], []
    for counts in np.concatenate(list(units.weights(n_resamples, seed=seed)), axis=1).T.astype(int):
        drawn = [np.repeat(np.arange(len(part)), counts[part]) for part in rows]
        left = [np.flatnonzero(counts[part] == 0) for part in rows]

        def at(subset, wheres):
            return [
                score(task, labels[part][where], leaderboard.out_of_fold[subset][fold][where], metrics=[metric])[metric]
                for fold, (part, where) in enumerate(zip(rows, wheres, strict=True))
            ]

        resampled = [replace(row, folds={metric: tuple(at(row.subset, drawn))}) for row in leaderboard]
        chosen = select(replace(leaderboard, rows=tuple(resampled)), rule=rule, metric=metric).chosen.subset
        picked.append(chosen)
        values.append(np.mean(at(chosen, left)))
    return np.mean(values), np.quantile(values, [0.025, 0.975]), picked


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("task", "metric", "grouped"),
    [
        (Task.BINARY, "auroc", False),
        (Task.MULTICLASS, "auroc", True),
        (Task.MULTICLASS, "log_loss", False),
        (Task.MULTILABEL, "accuracy", False),
    ],
)
def test_equals_repeating_rows_and_choosing_anew(rule, task, metric, grouped):
    random = np.random.default_rng(3)
    n, n_classes = 240, 2 if task is Task.BINARY else 3
    labels = random.integers(0, 2, (n, 3)) if task is Task.MULTILABEL else random.integers(0, n_classes, n)
    right = labels if task is Task.MULTILABEL else np.eye(n_classes)[labels]
    predictions = {}
    for subset in all_subsets("abcd"):
        raw = np.round(random.random((n, n_classes)) + 0.05 * len(subset) * right, 1) + 0.1  # many ties
        predictions[subset] = raw / 2 if task is Task.MULTILABEL else raw / raw.sum(axis=1, keepdims=True)
    rows = folds_of(n, 3, repeats=2)
    ids = names(n)
    groups = np.array([f"g{i // 2}" for i in range(n)]) if grouped else None
    leaderboard = board(labels, predictions, rows, task=task, metrics=(metric,), dims={"a": 3, "b": 2})
    options = {"rows": rows, "ids": ids, "groups": groups, "task": task, "rule": rule, "metric": metric, "seed": 5}
    mean, ends, picked = slow(leaderboard, labels, n_resamples=40, **options)
    found = correct_optimism(leaderboard, labels, n_resamples=40, **options)
    assert found.corrected == pytest.approx(mean, abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(ends), abs=1e-12)
    assert len(set(picked)) > 1
    assert {s: picked.count(s) / 40 for s in found.picked} == pytest.approx(dict(found.picked))
    chosen = select(leaderboard, rule=rule, metric=metric).chosen
    assert (found.chosen, found.apparent) == (chosen.subset, chosen.mean(metric))
    assert (found.unit, found.n_units) == (("groups", 120) if grouped else ("samples", 240))


@pytest.mark.parametrize("metric", ["auroc", "accuracy"])
def test_the_best_of_pure_noise_is_corrected_to_chance(metric):
    gaps, corrected, apparent = [], [], []
    for seed in range(6):
        labels = np.random.default_rng(seed).permutation(np.arange(100) % 2)
        rows = folds_of(100, seed=seed)
        leaderboard = board(labels, noise(labels, one_by_one(100), seed=seed), rows)
        found = correct_optimism(
            leaderboard,
            labels,
            rows=rows,
            ids=names(100),
            task=Task.BINARY,
            rule="best",
            metric=metric,
            n_resamples=200,
        )
        apparent.append(found.apparent)
        corrected.append(found.corrected)
        gaps.append(found.optimism)
        assert found.low < 0.5 < found.high
    assert min(apparent) > 0.57
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.03)
    assert min(gaps) > 0.04


def test_the_correction_is_closer_to_the_truth_than_the_winner_looks():
    truth, apparent, corrected = [], [], []
    shifts = dict(zip(one_by_one(60), np.linspace(0.4, 1.0, 60), strict=True))
    for seed in range(12):
        labels = np.random.default_rng(100 + seed).permutation(np.arange(120) % 2)
        rows = folds_of(120, seed=seed)
        leaderboard = board(labels, with_signal(labels, shifts, seed=seed), rows, metrics=("auroc",))
        found = correct_optimism(
            leaderboard, labels, rows=rows, ids=names(120), task=Task.BINARY, rule="best", n_resamples=100
        )
        truth.append(NormalDist().cdf(shifts[found.chosen] / np.sqrt(2)))
        apparent.append(found.apparent)
        corrected.append(found.corrected)
    assert np.mean(apparent) - np.mean(truth) > 0.03
    assert abs(np.mean(corrected) - np.mean(truth)) < 0.02


def test_one_subset_was_not_chosen_from_any_so_that_nothing_is_corrected():
    labels = np.random.default_rng(0).permutation(np.arange(300) % 2)
    rows = folds_of(300, repeats=2)
    leaderboard = board(labels, with_signal(labels, {("a",): 1.5}), rows)
    found = correct_optimism(leaderboard, labels, rows=rows, ids=names(300), task=Task.BINARY, n_resamples=400)
    assert found.optimism == pytest.approx(0, abs=0.006)
    assert found.low < found.apparent < found.high
    assert found.picked == {("a",): 1.0}
    assert "Choosing among 1 subset makes" in str(found)


def test_one_se_suffers_less_optimism_than_best():
    labels = np.random.default_rng(1).permutation(np.arange(120) % 2)
    rows = folds_of(120)
    leaderboard = board(labels, noise(labels, all_subsets("abcdef"), seed=4), rows)
    gap = {
        rule: correct_optimism(
            leaderboard, labels, rows=rows, ids=names(120), task=Task.BINARY, rule=rule, n_resamples=200
        ).optimism
        for rule in ("best", "one_se")
    }
    assert gap["one_se"] < gap["best"]


def test_the_order_of_samples_does_not_matter():
    random = np.random.default_rng(2)
    labels = random.integers(0, 3, 150)
    predictions, rows, ids = noise(labels, all_subsets("abc"), n_classes=3), folds_of(150), names(150)
    shuffle = random.permutation(150)
    back = np.argsort(shuffle)
    options = {"task": Task.MULTICLASS, "n_resamples": 50}
    one = correct_optimism(
        board(labels, predictions, rows, task=Task.MULTICLASS), labels, rows=rows, ids=ids, **options
    )
    moved = {subset: matrix[shuffle] for subset, matrix in predictions.items()}
    new_rows = [random.permutation(back[part]) for part in rows]
    other = correct_optimism(
        board(labels[shuffle], moved, new_rows, task=Task.MULTICLASS),
        labels[shuffle],
        rows=new_rows,
        ids=ids[shuffle],
        **options,
    )
    assert other.corrected == pytest.approx(one.corrected, abs=1e-12)
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=1e-12)
    assert other.picked == one.picked


def test_groups_are_drawn_whole():
    labels = np.repeat(np.arange(40) % 2, 5)  # five images of each of 40 patients
    predictions = {("a",): np.repeat(noise(labels[::5], [("a",)])[("a",)], 5, axis=0)}
    rows = [np.flatnonzero(np.repeat(np.arange(40) % 4 // 2, 5) == fold) for fold in range(2)]
    leaderboard = board(labels, predictions, rows)
    options = {"rows": rows, "ids": names(200), "task": Task.BINARY, "n_resamples": 300}
    alone = correct_optimism(leaderboard, labels, **options)
    grouped = correct_optimism(leaderboard, labels, groups=np.repeat(np.arange(40), 5), **options)
    assert (grouped.unit, grouped.n_units, alone.unit) == ("groups", 40, "samples")
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_only_eligible_subsets_are_chosen_and_only_their_predictions_are_needed():
    labels = np.random.default_rng(0).permutation(np.arange(80) % 2)
    rows = folds_of(80)
    shifts = {subset: 0.5 * len(subset) for subset in all_subsets("abc")}
    leaderboard = board(labels, with_signal(labels, shifts), rows)
    options = {"rows": rows, "ids": names(80), "task": Task.BINARY, "rule": "best", "n_resamples": 30}
    kept = {subset: parts for subset, parts in leaderboard.out_of_fold.items() if len(subset) < 3}
    only = replace(leaderboard, out_of_fold=kept)
    found = correct_optimism(only, labels, eligible=lambda row: row.n_encoders < 3, **options)
    assert found.n_subsets == 6
    assert found.chosen == select(replace(leaderboard, rows=leaderboard.rows[:6]), rule="best").chosen.subset
    with pytest.raises(SearchError, match=r"no out-of-fold predictions of 1 of 7 subsets, e\.g\. a\+b\+c"):
        correct_optimism(only, labels, **options)
    with pytest.raises(SearchError, match="eligible"):
        correct_optimism(leaderboard, labels, eligible=lambda _: False, **options)


def test_a_rare_class_that_a_resample_lacks_in_some_fold_does_not_undo_it():
    labels = np.array([0, 1, 2] * 10)
    rows = [np.arange(30)[k::5] for k in range(5)]  # two of each class per fold
    leaderboard = board(labels, noise(labels, all_subsets("ab"), n_classes=3), rows, task=Task.MULTICLASS)
    found = correct_optimism(leaderboard, labels, rows=rows, ids=names(30), task=Task.MULTICLASS, n_resamples=100)
    assert found.n_undefined < 5
    assert 0 < found.low < found.corrected < found.high < 1


def test_folds_without_a_class_are_left_out_as_on_the_leaderboard():
    labels = np.array([0, 1] * 20 + [0] * 10)
    rows = [np.arange(0, 20), np.arange(20, 40), np.arange(40, 50)]
    predictions = with_signal(labels, {("a",): 2.0})
    with_third = board(labels, predictions, rows, metrics=("auroc",))
    without = board(labels, predictions, rows[:2], metrics=("auroc",))
    options = {"ids": names(50), "task": Task.BINARY, "rule": "best", "n_resamples": 50}
    one = correct_optimism(with_third, labels, rows=rows, **options)
    assert one.corrected == correct_optimism(without, labels, rows=rows[:2], **options).corrected
    assert one.apparent == without.rows[0].mean("auroc")


def test_of_a_loss_the_optimism_is_what_it_looks_too_low():
    labels = np.random.default_rng(5).permutation(np.arange(90) % 2)
    rows = folds_of(90)
    leaderboard = board(labels, noise(labels, one_by_one(50)), rows)
    found = correct_optimism(
        leaderboard, labels, rows=rows, ids=names(90), task=Task.BINARY, rule="best", metric="log_loss", n_resamples=60
    )
    assert found.apparent < found.corrected
    assert found.optimism == found.corrected - found.apparent > 0


def test_one_hold_out_split_will_do_where_the_rule_needs_no_standard_error():
    labels = np.arange(60) % 2
    rows = [np.arange(30, 60)]
    leaderboard = board(labels, noise(labels, one_by_one(20)), rows, metrics=("accuracy",))
    options = {"rows": rows, "ids": names(60), "task": Task.BINARY, "n_resamples": 50}
    assert correct_optimism(leaderboard, labels, rule="first_best", **options).optimism > 0
    with pytest.raises(SearchError, match="two folds"):
        correct_optimism(leaderboard, labels, rule="one_se", **options)


def test_what_does_not_belong_together_is_refused():
    labels = np.arange(40) % 2
    rows = folds_of(40, 2)
    leaderboard = board(labels, noise(labels, one_by_one(3)), rows)
    options = {"ids": names(40), "task": Task.BINARY, "n_resamples": 10}
    with pytest.raises(AlignmentError, match="40 ids but 39 labels"):
        correct_optimism(leaderboard, labels[1:], rows=rows, **options)
    with pytest.raises(AlignmentError, match="Rows of 1 folds for a leaderboard of 2"):
        correct_optimism(leaderboard, labels, rows=rows[:1], **options)
    with pytest.raises(AlignmentError, match="predictions of e000 are not those"):
        correct_optimism(leaderboard, labels, rows=[rows[0][1:], rows[1]], **options)
    with pytest.raises(SearchError, match="0 resamples"):
        correct_optimism(leaderboard, labels, rows=rows, **options | {"n_resamples": 0})
    groups = np.repeat("one", 40)
    with pytest.raises(UndefinedMetricError, match="nearly all of 10 resamples of 1 groups"):
        correct_optimism(leaderboard, labels, rows=rows, groups=groups, **options)


def test_large_searches_draw_fewer_resamples():
    assert default_resamples(1000) == MOST_RESAMPLES
    assert default_resamples(10**12) == FEWEST_RESAMPLES
    assert FEWEST_RESAMPLES < default_resamples(10_000_000) < MOST_RESAMPLES
    labels = np.arange(40) % 2
    rows = folds_of(40, 2)
    found = correct_optimism(
        board(labels, noise(labels, one_by_one(2)), rows), labels, rows=rows, ids=names(40), task=Task.BINARY
    )
    assert found.n_resamples == MOST_RESAMPLES


def test_it_says_in_words_how_much_too_good_the_choice_looks():
    labels = np.random.default_rng(0).permutation(np.arange(100) % 2)
    rows = folds_of(100)
    leaderboard = board(labels, noise(labels, all_subsets("abcde")), rows)
    found = correct_optimism(
        leaderboard, labels, rows=rows, ids=names(100), task=Task.BINARY, rule="best", n_resamples=50
    )
    text = str(found)
    assert f"Choosing among 31 subsets makes the mean AUROC of {label(found.chosen)} look" in text
    assert f"{found.optimism:.4f} too good: {found.apparent:.4f} as chosen, {found.corrected:.4f} corrected" in text
    assert "50 resamples of 100 samples" in text
    assert f"{found.picked[found.chosen]:.0%} of the resamples chose the same subset" in text
    assert 1 < len(found.picked) <= 10
    shares = list(found.picked.values())
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from(sorted(RULES)),
    metric=st.sampled_from(METRICS),
    n_classes=st.integers(2, 3),
    levels=st.integers(2, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_on_the_data_themselves_it_repeats_the_very_choice(rule, metric, n_classes, levels, seed):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(24) % n_classes)
    rows = folds_of(24, 3, repeats=2, seed=seed)
    assume(sum(len(set(labels[held])) == n_classes for held in rows) >= 2)  # one_se needs two folds with every class
    predictions = {}
    for subset in all_subsets("abc"):
        raw = random.integers(0, levels, (24, n_classes)) + 0.5 + np.eye(n_classes)[labels] * len(subset) / 2  # ties
        predictions[subset] = (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)
    task, dims = Task.BINARY if n_classes == 2 else Task.MULTICLASS, {"a": 1, "b": random.integers(1, 3), "c": 2}
    leaderboard = board(labels, predictions, rows, task=task, metrics=(metric,), dims=dims)
    held_out = HeldOutPredictions(leaderboard, labels, rows=rows, task=task, metric=metric, n_rows=24)
    found = choose(
        held_out.folds(np.ones((24, 3))),
        [(row.n_encoders, row.n_dims) for row in leaderboard],
        n_train=leaderboard.n_train,
        n_test=leaderboard.n_test,
        rule=rule,
    )
    expected = select(leaderboard, rule=rule).chosen
    assert [leaderboard.rows[place] for place in found] == [expected] * 3
