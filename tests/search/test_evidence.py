import json
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import t

from biofuse.core.errors import AlignmentError, DataError, SearchError, UndefinedMetricError
from biofuse.core.target import Task
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.intervals import Units, corrected_t
from biofuse.evaluation.metrics import score
from biofuse.search import evidence as nested
from biofuse.search.closed_form import ClosedFormScorer
from biofuse.search.evidence import Evidence, gather_evidence, nested_cv
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets, label
from biofuse.search.optimism import (
    FEWEST_RESAMPLES,
    MOST_RESAMPLES,
    HeldOutPredictions,
    correct_optimism,
    cross_validate_choice,
    default_resamples,
)
from biofuse.search.rules import DEFAULT_RULE, RULES, Budget, choose, select
from biofuse.search.runner import SearchContext
from biofuse.search.scorers import RefitScorer
from biofuse.search.screen import SCREENED_BY, run_screen

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


def correct(leaderboard, labels, rows, *, task=Task.BINARY, **options):
    return correct_optimism(leaderboard, labels, rows=rows, ids=names(len(labels)), task=task, **options)


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


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auroc", "accuracy"])
def test_the_best_of_pure_noise_is_corrected_to_chance(metric):
    gaps, corrected, apparent = [], [], []
    for seed in range(6):
        labels = np.random.default_rng(seed).permutation(np.arange(100) % 2)
        rows = folds_of(100, seed=seed)
        leaderboard = board(labels, noise(labels, one_by_one(100), seed=seed), rows)
        found = correct(leaderboard, labels, rows, rule="best", metric=metric, n_resamples=200)
        apparent.append(found.apparent)
        corrected.append(found.corrected)
        gaps.append(found.optimism)
        assert found.low < 0.5 < found.high
    assert min(apparent) > 0.57
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.03)
    assert min(gaps) > 0.04


@pytest.mark.slow
def test_the_correction_is_closer_to_the_truth_than_the_winner_looks():
    truth, apparent, corrected = [], [], []
    shifts = dict(zip(one_by_one(60), np.linspace(0.4, 1.0, 60), strict=True))
    for seed in range(12):
        labels = np.random.default_rng(100 + seed).permutation(np.arange(120) % 2)
        rows = folds_of(120, seed=seed)
        leaderboard = board(labels, with_signal(labels, shifts, seed=seed), rows, metrics=("auroc",))
        found = correct(leaderboard, labels, rows, rule="best", n_resamples=100)
        truth.append(NormalDist().cdf(shifts[found.chosen] / np.sqrt(2)))
        apparent.append(found.apparent)
        corrected.append(found.corrected)
    assert np.mean(apparent) - np.mean(truth) > 0.03
    assert abs(np.mean(corrected) - np.mean(truth)) < 0.02


def test_one_subset_was_not_chosen_from_any_so_that_nothing_is_corrected():
    labels = np.random.default_rng(0).permutation(np.arange(300) % 2)
    rows = folds_of(300, repeats=2)
    leaderboard = board(labels, with_signal(labels, {("a",): 1.5}), rows)
    found = correct(leaderboard, labels, rows, n_resamples=400)
    assert found.optimism == pytest.approx(0, abs=0.006)
    assert found.low < found.apparent < found.high
    assert found.picked == {("a",): 1.0}
    assert "Choosing among 1 subset by the rule" in str(found)


def test_one_se_suffers_less_optimism_than_best():
    labels = np.random.default_rng(1).permutation(np.arange(120) % 2)
    rows = folds_of(120)
    leaderboard = board(labels, noise(labels, all_subsets("abcdef"), seed=4), rows)
    gap = {rule: correct(leaderboard, labels, rows, rule=rule, n_resamples=200).optimism for rule in ("best", "one_se")}
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
    found = correct(leaderboard, labels, rows, task=Task.MULTICLASS, n_resamples=100)
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
    found = correct(leaderboard, labels, rows, rule="best", metric="log_loss", n_resamples=60)
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
    found = correct(board(labels, noise(labels, one_by_one(2)), rows), labels, rows)
    assert found.n_resamples == MOST_RESAMPLES


def test_it_says_in_words_how_much_too_good_the_choice_looks():
    labels = np.random.default_rng(0).permutation(np.arange(100) % 2)
    rows = folds_of(100)
    leaderboard = board(labels, noise(labels, all_subsets("abcde")), rows)
    found = correct(leaderboard, labels, rows, rule="best", n_resamples=50)
    text = str(found)
    assert f"Choosing among 31 subsets by the rule best makes the mean AUROC of {label(found.chosen)} look" in text
    assert f"{found.optimism:.4f} too good: {found.apparent:.4f} as chosen, {found.corrected:.4f} corrected" in text
    assert f"(95% interval {found.low:.4f} to {found.high:.4f}; " in text
    alike = found.model_copy(update={"low": found.corrected, "high": found.corrected})
    assert "corrected (no interval, since all 50 scored alike; the choice" in str(alike)
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


# --- all evidence on a search, and nested cross-validation

PLANTED = ("a", "b", "c", "d")

ONE = SearchContext(workers=1)


@pytest.fixture
def weighed(posed, searched):
    def make(embeddings, *, cards=None, budget=None, **options):
        options = {"head": "ridge", **options}
        search = searched(embeddings, budget=budget, **options)
        problem = posed(embeddings, **options)
        return search, gather_evidence(
            problem, search, cards or embeddings.cards, context=SearchContext(workers=1), budget=budget or Budget()
        )

    return make


def test_contributions_add_up_to_what_all_encoders_gain_over_guessing(plant, weighed):
    search, evidence = weighed(plant())
    found, everything = evidence.attribution, search.screen.leaderboard[PLANTED].mean("auroc")
    assert found.encoders == PLANTED
    assert found.empty == 0.5
    assert found.full == pytest.approx(everything)
    assert sum(found.shapley) == pytest.approx(everything - 0.5, abs=1e-9)
    order = [PLANTED[place] for place in np.argsort(np.negative(found.shapley))]
    assert set(order[:2]) == {"a", "b"}


def test_guessing_scores_the_majority_share_where_accuracy_counts(plant, weighed):
    embeddings = plant(task=Task.ORDINAL)  # half of the rows are of the middle class
    _, evidence = weighed(embeddings, metric="accuracy")
    assert evidence.attribution.empty == 0.5
    assert sum(evidence.attribution.shapley) == pytest.approx(evidence.attribution.full - 0.5, abs=1e-9)


def test_grades_may_be_chosen_by_quadratic_kappa(plant, posed, weighed):
    search, evidence = weighed(plant(task=Task.ORDINAL), metric="qwk", folds=3)
    assert search.leaderboard.metrics[0] == search.screen.leaderboard.metrics[0] == "quadratic_kappa"
    assert (evidence.optimism.metric, evidence.attribution.empty) == ("quadratic_kappa", 0.0)
    assert search.selection.chosen.mean("quadratic_kappa") > 0.5
    assert "quadratic_kappa" not in weighed(plant(), folds=3)[0].leaderboard.metrics
    with pytest.raises(SearchError, match="no quadratic kappa of one class per sample"):
        posed(plant(), metric="qwk")


def test_contributions_need_the_score_of_every_subset(plant, weighed):
    assert weighed(plant(), search="greedy")[1].attribution is None
    assert weighed(plant(), search="all")[1].attribution is None
    search, evidence = weighed(plant(), search="exhaustive")
    assert evidence.attribution.full == search.leaderboard[PLANTED].mean("auroc")


def test_optimism_repeats_the_choice_over_every_subset_that_was_scored(plant, weighed):
    search, evidence = weighed(plant(), folds=3)
    assert (evidence.optimism.method, evidence.optimism.n_subsets) == ("nested", 15)
    assert evidence.optimism.chosen == search.screen.choice.subset
    assert evidence.optimism.apparent == pytest.approx(search.screen.choice.mean("auroc"))
    assert (evidence.optimism.rule, evidence.optimism.metric) == (DEFAULT_RULE, "auroc")
    assert (evidence.optimism.unit, evidence.optimism.n_units) == ("samples", 48)
    thorough = weighed(plant(), search="exhaustive", folds=3)
    assert thorough[1].optimism.method == "bootstrap"
    assert thorough[1].optimism.chosen == thorough[0].chosen
    walked = weighed(plant(), search="greedy")
    assert walked[1].optimism.n_subsets == len(walked[0].leaderboard) < 15
    assert weighed(plant(), search="all")[1].optimism is None  # there was nothing to choose from
    few = weighed(plant(), folds=2)[1]
    assert few.optimism is None
    assert "needs 3 folds; there are 2" in few.sentences()[0]
    assert evidence.sentences()[0].endswith(f"These are scores of the screen: {SCREENED_BY}.")
    assert "screen" not in thorough[1].sentences()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "rule"), [*(("rows", rule) for rule in RULES), ("groups and copies", "inclusive"), ("labels", "one_se")]
)
def test_each_fold_is_scored_by_what_is_chosen_without_it(plant, posed, units, rule):
    """The same, fit by fit: no fit, choice or scaling sees the fold that is scored."""
    groups = contents = None
    if units == "groups and copies":
        groups = [f"p{row // 4}" for row in range(48)]
        contents = [f"image {0 if row in (0, 44) else row}" for row in range(48)]
    task = Task.MULTILABEL if units == "labels" else Task.MULTICLASS
    embeddings = plant(groups=groups, contents=contents, task=task, noise=True)
    n_folds = 7 if units == "rows" else 3
    problem = posed(embeddings, head="ridge", rule=rule, folds=n_folds, repeats=2)
    screen = run_screen(problem, ONE, budget=Budget())
    found = cross_validate_choice(problem, screen, ONE, budget=Budget())
    plan, expected, picked = problem.plan, [], []
    for number, (fit, held) in enumerate(plan.folds):
        start = number // n_folds * n_folds
        around = {(number - start + step) % n_folds for step in (-2, -1, 1, 2)} - {number - start}
        others = [start + fold for fold in sorted(around)]  # all others of three to five folds
        inner = [(np.setdiff1d(fit, plan.folds[other][1]), plan.folds[other][1]) for other in others]
        options = {"task": problem.task, "classes": problem.classes}
        inside, outside = (
            ClosedFormScorer(
                problem.blocks,
                problem.labels,
                plan=ValidationPlan.cross_validation(folds, ids=problem.blocks.ids, groups=problem.units),
                choice=choice,
                **options,
            )
            for folds, choice in ((inner, "generalised"), ([(fit, held)], "leave_one_out"))
        )
        rows = tuple(
            Row(subset=s, n_dims=inside.n_dims(s), folds=inside.score(s).folds) for s in all_subsets(inside.encoders)
        )
        board = replace(screen.leaderboard, rows=rows, n_train=inside.n_train, n_test=inside.n_test, out_of_fold={})
        picked.append(select(board, rule=rule).chosen.subset)
        expected.append(outside.score(picked[-1]).folds["auroc"][0])
    assert found.corrected == pytest.approx(np.mean(expected), abs=1e-7)
    assert {subset: picked.count(subset) / len(picked) for subset in found.picked} == pytest.approx(dict(found.picked))
    _, low, high, _ = corrected_t(expected, plan.n_train, plan.n_test)
    assert (found.low, found.high) == pytest.approx((low, min(high, 1)), abs=1e-6)
    assert found.apparent == pytest.approx(screen.choice.mean("auroc"))
    assert f"each of {2 * n_folds} folds was scored by what the rule chooses without it" in str(found)


def test_a_stopped_estimate_goes_on_where_it_was(plant, posed, tmp_path, monkeypatch):
    problem, context = posed(plant(), head="ridge", folds=3), SearchContext(folder=tmp_path, workers=1)
    screen = run_screen(problem, context, budget=Budget())
    first = cross_validate_choice(problem, screen, context, budget=Budget())
    monkeypatch.setattr(ClosedFormScorer, "solve", lambda *_: pytest.fail("solved again"))
    assert cross_validate_choice(problem, screen, context, budget=Budget()) == first


@pytest.mark.slow
def test_the_best_of_pure_noise_is_corrected_to_guessing(plant, posed):
    apparent, corrected = [], []
    for seed in range(12):
        problem = posed(plant(60, task=Task.BINARY, noise=True, seed=seed), head="ridge", rule="best", folds=5)
        screen = run_screen(problem, ONE, budget=Budget())
        found = cross_validate_choice(problem, screen, ONE, budget=Budget())
        apparent.append(found.apparent)
        corrected.append(found.corrected)
    error = np.std(corrected, ddof=1) / np.sqrt(12)
    assert np.mean(apparent) > np.mean(corrected) + 0.04
    assert np.mean(corrected) == pytest.approx(0.5, abs=3 * error)


def test_optimism_keeps_groups_whole_and_chooses_what_may_be_chosen(plant, weighed):
    groups = [f"p{row // 4}" for row in range(48)]
    _, evidence = weighed(plant(groups=groups), budget=Budget(max_encoders=1), folds=3)
    assert (evidence.optimism.unit, evidence.optimism.n_units) == ("groups", 12)
    assert evidence.optimism.n_subsets == 4
    assert {len(subset) for subset in evidence.optimism.picked} == {1}


def test_a_validation_split_has_evidence_too(plant, weighed):
    _, evidence = weighed(plant(val=20), select="holdout")
    assert evidence.optimism.rule == "first_best"
    assert sum(evidence.attribution.shapley) == pytest.approx(evidence.attribution.full - 0.5, abs=1e-9)
    assert np.isnan(evidence.attribution.low).all()
    content = json.loads(evidence.model_dump_json())
    assert content["attribution"]["low"] == [None] * 4  # one split has no interval


def test_the_gain_over_general_purpose_encoders_is_told_where_there_are_any(plant, weighed):
    embeddings = plant()
    assert weighed(embeddings)[1].modality is None
    modality = {"a": "pathology", "b": "general", "c": "general", "d": "radiology"}
    cards = [card.model_copy(update={"modality": modality[card.name]}) for card in embeddings.cards]
    search, evidence = weighed(embeddings, cards=cards)
    singles = {row.subset[0]: row.mean("auroc") for row in search.screen.leaderboard.singles}
    assert evidence.modality.baseline == max(("b", "c"), key=singles.get)
    assert evidence.modality.baseline_score == pytest.approx(singles[evidence.modality.baseline])
    assert {line.name for line in evidence.modality.modalities} >= {"pathology", "radiology"}
    general = [card.model_copy(update={"modality": "general"}) for card in embeddings.cards]
    assert weighed(embeddings, cards=general)[1].modality is None


def test_what_is_said_is_what_there_is():
    assert Evidence().sentences() == []


@pytest.fixture
def inner(monkeypatch):
    """Collect the searches that are run inside the outer folds, and what is scored afterwards."""
    seen = []
    run, scored = nested.run, nested._scores

    def watched(problem, runtime, *, budget):
        seen.append([problem, runtime])
        return run(problem, runtime, budget=budget)

    def watched_scores(problem, inside, search, held):
        seen[-1] += [search, held]
        return scored(problem, inside, search, held)

    monkeypatch.setattr(nested, "run", watched)
    monkeypatch.setattr(nested, "_scores", watched_scores)
    return seen


@pytest.mark.parametrize("units", ["rows", "groups and copies"])
def test_what_an_outer_fold_holds_out_is_never_in_its_search(plant, posed, inner, units):
    groups = contents = None
    if units != "rows":
        groups = [f"p{row // 4}" for row in range(48)]
        contents = [f"image {0 if row in (0, 44) else row}" for row in range(48)]
    embeddings = plant(groups=groups, contents=contents)
    problem = posed(embeddings, head="ridge", select="nested", folds=3)
    found = nested_cv(problem, ONE, budget=Budget())
    rows = {name: each for each, name in enumerate(problem.samples.ids)}
    held_out = []
    for part, _, _, held in inner:
        held_out += held.tolist()
        # By id, by image, by patient, and by what the embeddings themselves hold.
        inside = [rows[name] for name in part.samples.ids]
        assert not set(inside) & set(held.tolist())
        assert len(inside) + len(held) == 48
        contents = part.samples.contents
        assert not np.isin(contents, problem.samples.contents[held]).any()
        np.testing.assert_array_equal(contents, embeddings.contents[inside])
        assert list(part.blocks.ids) == list(part.plan.ids) == list(part.samples.ids)
        assert part.labels.tolist() == problem.labels[inside].tolist()
        for name in part.blocks:
            np.testing.assert_array_equal(part.blocks[name], problem.blocks[name][inside])
        if groups is not None:
            assert not {groups[row] for row in inside} & {groups[row] for row in held}
            assert {0, 1, 2, 3, 44, 45, 46, 47} <= set(inside) or not {0, 1, 2, 3, 44, 45, 46, 47} & set(inside)
    assert sorted(held_out) == list(range(48))
    assert found.picked == tuple(search.chosen for _, _, search, _ in inner)


def test_without_a_search_it_is_cross_validation(plant, posed, searched):
    """All encoders, one head, nothing to choose: the scores of the leaderboard, found another way."""
    embeddings = plant()
    for metric in ("auroc", "accuracy"):
        options = {"head": "ridge", "search": "all", "folds": 4, "metric": metric}
        found = nested_cv(posed(embeddings, select="nested", **options), ONE, budget=Budget())
        plain = searched(embeddings, **options).leaderboard
        assert found.folds["chosen"] == pytest.approx(plain.rows[0].folds[metric], abs=1e-9)
        assert found.folds["all"] == found.folds["chosen"]
        assert "best_single" not in found.folds
        assert found.mean == pytest.approx(plain.rows[0].mean(metric), abs=1e-9)


def test_what_each_inner_search_chose_is_fitted_on_its_own_rows_and_scored_on_the_held_out_ones(plant, posed, inner):
    from sklearn.metrics import roc_auc_score

    problem = posed(plant(task=Task.BINARY, seed=1), head="ridge", select="nested", folds=3)
    found = nested_cv(problem, ONE, budget=Budget())
    for fold, (part, _, search, held) in enumerate(inner):
        fit = nested.fit_predictors(part, search, part.fitted_rows, threads=1)
        for name in ("chosen", "best_single", "all"):
            values = fit[name].decision(problem.blocks.take(held))[:, 1]
            assert found.folds[name][fold] == pytest.approx(roc_auc_score(problem.labels[held], values), abs=1e-12)
        assert fit["chosen"].encoders == search.chosen


def test_the_interval_is_that_of_overlapping_training_sets(plant, posed):
    found = nested_cv(posed(plant(seed=2), head="ridge", select="nested", folds=4), ONE, budget=Budget())
    values = np.array(found.folds["chosen"])
    assert len(values) == 4
    error = np.sqrt((1 / 4 + 12 / 36) * values.var(ddof=1))  # Nadeau and Bengio (2003)
    reach = t.ppf(0.975, 3) * error
    ends = np.clip([values.mean() - reach, values.mean() + reach], 0, 1)
    assert (found.low, found.high) == pytest.approx(tuple(ends), abs=1e-12)


def test_choosing_among_noise_looks_good_only_to_the_search_itself(plant, posed, searched):
    apparent, honest = [], []
    for seed in range(2):
        embeddings = plant(40, task=Task.BINARY, noise=True, seed=seed)
        options = {"head": "ridge", "rule": "best", "finalists": 1}
        apparent.append(searched(embeddings, **options).selection.chosen.mean("auroc"))
        honest.append(nested_cv(posed(embeddings, select="nested", **options), ONE, budget=Budget()).mean)
    assert np.mean(apparent) > 0.55
    assert np.mean(honest) < np.mean(apparent) - 0.05


def test_limits_bind_the_inner_choices_too(plant, posed):
    problem = posed(plant(), head="ridge", select="nested")
    found = nested_cv(problem, ONE, budget=Budget(max_encoders=1))
    assert {len(subset) for subset in found.picked} == {1}


def test_what_is_said_holds_the_numbers_and_the_choices(plant, posed):
    found = nested_cv(posed(plant(), head="ridge", select="nested", folds=3), ONE, budget=Budget())
    said = str(found)
    assert f"in each of 3 outer folds: mean AUROC {found.mean:.4f}" in said
    assert f"({found.low:.4f} to {found.high:.4f})" in said.replace("95 % interval ", "")
    for name in ("best_single", "all"):
        assert f"{np.mean(found.folds[name]):.4f} for" in said
    assert all("+".join(subset) in said for subset in found.picked)
    once = str(found.model_copy(update={"picked": (("a", "b"),) * 3}))
    assert "It chose 1 different subset: a+b." in once


def test_outer_scores_are_the_same_however_rows_are_ordered(plant, posed):
    embeddings = plant()
    order = np.random.default_rng(0).permutation(48)
    shuffled = replace(
        embeddings,
        samples=embeddings.samples.take(order),
        blocks=embeddings.blocks.take(order),
    )
    one, two = (
        nested_cv(posed(each, head="ridge", select="nested"), ONE, budget=Budget()) for each in (embeddings, shuffled)
    )
    assert one.picked == two.picked
    assert one.folds["chosen"] == pytest.approx(two.folds["chosen"], abs=1e-9)


def test_a_stopped_nested_search_goes_on_in_folders_of_its_own(plant, posed, tmp_path, monkeypatch):
    problem = posed(plant(), head="ridge", select="nested")
    first = nested_cv(problem, SearchContext(folder=tmp_path, workers=1), budget=Budget())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nested-1", "nested-2"]
    monkeypatch.setattr(RefitScorer, "score_fold", lambda *_: pytest.fail("scored again"))
    second = nested_cv(problem, SearchContext(folder=tmp_path, workers=1), budget=Budget())
    assert second.folds == first.folds


def test_too_few_samples_for_inner_folds_are_refused(plant, posed):
    problem = posed(plant(8), head="ridge", select="nested")  # two of each class: one is left inside
    with pytest.raises(DataError, match="class"):
        nested_cv(problem, ONE, budget=Budget())
