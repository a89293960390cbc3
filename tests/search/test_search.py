import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biofuse.core.errors import SearchError
from biofuse.core.target import Target, Task
from biofuse.encoders.registry import get_card
from biofuse.heads.base import cheap_heads
from biofuse.predictors.mean import MeanPredictor
from biofuse.predictors.shared import shared_bytes
from biofuse.search import runner
from biofuse.search import search as searching
from biofuse.search.closed_form import ClosedFormScorer
from biofuse.search.leaderboard import label
from biofuse.search.problem import head_of
from biofuse.search.rules import Budget, finalists, greedy_path, select
from biofuse.search.runner import SearchContext
from biofuse.search.scorers import RefitScorer
from biofuse.search.search import (
    Fit,
    allowed,
    encoders_to_fit,
    fit_predictors,
    folds_held,
    out_of_fold,
    refit,
    singles_to_fit,
    with_out_of_fold,
)
from biofuse.search.strategies import Listed

CHEAP_HEADS = cheap_heads(Target.numbered(Task.BINARY, 2))

PLANTED = ("a", "b", "c", "d")
EVERY = [subset for size in range(1, 5) for subset in itertools.combinations(PLANTED, size)]


def scores(board, metric="auroc"):
    return {row.subset: row.folds[metric] for row in board}


def by_set(board):
    return {frozenset(row.subset): row.mean("auroc") for row in board}


@pytest.fixture
def scored(monkeypatch):
    """Collect the folds that are scored in closed form and by refitting."""
    found = SimpleNamespace(screened=set(), refitted=set())

    def watch(scorer, seen):
        score_fold = scorer.score_fold

        def watched(self, subset, fold):
            seen.add((subset, fold))
            return score_fold(self, subset, fold)

        monkeypatch.setattr(scorer, "score_fold", watched)

    watch(ClosedFormScorer, found.screened)
    watch(RefitScorer, found.refitted)
    return found


# --- the default: screen, finalists, choice


def test_the_screen_scores_every_subset_and_the_finalists_are_refitted(plant, searched, scored):
    search = searched(plant(), head="ridge", finalists=1)
    screen, board = search.screen.leaderboard, search.leaderboard
    assert [row.subset for row in screen] == EVERY
    assert scored.screened == {(subset, fold) for subset in EVERY for fold in range(2)}
    kept = [row.subset for row in board]
    assert kept == finalists(screen, count=1, metric="auroc")
    assert scored.refitted == {(subset, fold) for subset in kept for fold in range(2)}
    assert len(kept) < len(EVERY)
    assert {(name,) for name in PLANTED} | {PLANTED} <= set(kept)
    assert {row.subset for row in greedy_path(screen)} <= set(kept)
    assert {row.subset for row in screen.best_first()[:1]} | {search.screen.choice.subset} <= set(kept)
    assert search.chosen in kept
    assert search.selection.chosen is board[search.chosen]
    assert search.selection.greedy.subset == greedy_path(screen)[-1].subset
    assert f"{len(kept)} finalists out of 15 screened subsets" in search.reason


def test_a_screen_of_all_columns_says_first_what_it_costs(plant, searched, scored, monkeypatch):
    told = []
    found = searched(plant(), head="ridge", reduce="none", tell=told.append)
    plan, cost, *_ = [line for line in told if line.startswith("Screen: ")]
    assert "15 subsets by products of" in plan
    assert "nothing is reduced" in cost
    assert "operations: about" in cost
    assert scores(found.screen.leaderboard) == scores(searched(plant(), head="ridge").screen.leaderboard)
    scored.screened.clear()
    monkeypatch.setattr(runner, "LONG_SECONDS", 0.0)
    with pytest.raises(SearchError, match="would take about") as refused:
        searched(plant(), head="ridge", reduce="none")
    assert "--yes" in refused.value.remedy or "yes=True" in refused.value.remedy
    assert not scored.screened


def test_the_planted_pair_is_found_by_every_search_that_may_find_it(plant, searched):
    for options in ({}, {"search": "exhaustive"}, {"search": "greedy"}, {"search": "beam"}):
        search = searched(plant(96), head="ridge", folds=3, **options)
        assert search.selection.lean.subset == ("a", "b"), options
        assert {"a", "b"} <= set(search.chosen), options
        assert search.selection.better_than_chance


def test_nothing_to_find_is_said_to_be_nothing(plant, searched):
    search = searched(plant(noise=True), head="ridge", folds=5)
    assert search.selection.better_than_chance is False
    assert "No subset is shown to be better than chance" in search.reason


@pytest.mark.parametrize("weighted", [False, True])
def test_the_screen_is_the_ridge_head_on_every_subset_without_its_fits(plant, searched, weighted):
    data = plant()
    if weighted:  # whatever one forgets, the other has
        plain = searched(data, head="ridge").screen.leaderboard
        weights = np.random.default_rng(2).uniform(0.1, 9, len(data.samples))
        data = replace(data, samples=replace(data.samples, weights=weights))
    quick, thorough = searched(data, head="ridge"), searched(data, head="ridge", search="exhaustive")
    assert not weighted or scores(quick.screen.leaderboard) != scores(plain)
    assert thorough.screen is None
    assert [row.subset for row in thorough.leaderboard] == EVERY
    slow = scores(thorough.leaderboard, "accuracy")  # the head ranks several classes by their softmax
    for subset, values in scores(quick.screen.leaderboard, "accuracy").items():
        assert values == pytest.approx(slow[subset], abs=1e-6)
    slow = scores(thorough.leaderboard)
    for subset, values in scores(quick.leaderboard).items():
        assert values == slow[subset]  # how a subset came to be refitted changes nothing
    assert quick.chosen == thorough.chosen


@pytest.mark.parametrize("rule", ["inclusive", "one_se", "best", "first_best"])
def test_the_rule_chooses_among_the_finalists(plant, searched, rule):
    search = searched(plant(seed=3), head="ridge", rule=rule)
    assert search.selection.rule == rule
    assert search.chosen == select(search.leaderboard, rule=rule, metric="auroc").chosen.subset
    best = max(row.mean("auroc") for row in search.leaderboard)
    assert search.selection.best.mean("auroc") == best
    assert rule in {"inclusive", "one_se"} or search.selection.chosen is search.selection.best


def test_accuracy_chooses_where_it_is_asked_for(plant, searched):
    search = searched(plant(), head="ridge", metric="accuracy", rule="best")
    assert search.leaderboard.metrics[0] == search.screen.leaderboard.metrics[0] == "accuracy"
    assert search.selection.best.mean("accuracy") == max(row.mean("accuracy") for row in search.leaderboard)


@pytest.mark.parametrize("task", [Task.BINARY, Task.ORDINAL, Task.MULTILABEL])
def test_every_kind_of_task_goes_through_the_screen(plant, searched, posed, task):
    embeddings = plant(task=task)
    search = searched(embeddings, head="ridge")
    assert len(search.screen.leaderboard) == 15
    metric = "accuracy" if task is Task.ORDINAL else "auroc"  # the head ranks several classes by their softmax
    slow = scores(searched(embeddings, head="ridge", search="exhaustive").leaderboard, metric)
    for subset, values in scores(search.screen.leaderboard, metric).items():
        assert values == pytest.approx(slow[subset], abs=1e-6)
    lean = search.selection.lean.subset
    assert "a" in lean
    assert ("b" in lean) == (task is not Task.BINARY)  # which knows nothing of the only bit
    problem = posed(embeddings, head="ridge")
    proba = fit_predictors(problem, search, problem.fitted_rows, threads=1)["chosen"].predict_proba(problem.blocks)
    width = {Task.BINARY: 2, Task.ORDINAL: 3, Task.MULTILABEL: 2}[task]
    assert proba.shape == (48, width)


def test_a_given_validation_split_alone_scores_the_screen_and_the_finalists(plant, searched, posed):
    embeddings = plant(val=16)
    problem = posed(embeddings, select="holdout", head="ridge")
    search = searched(embeddings, select="holdout", head="ridge")
    for board in (search.screen.leaderboard, search.leaderboard):
        assert (board.n_train, board.n_test) == ((32,), (16,))
    assert search.selection.rule == "first_best"
    assert problem.fitted_rows.tolist() == list(range(32))
    best = max(row.quality("auroc") for row in search.leaderboard)
    assert search.chosen == next(row.subset for row in search.leaderboard if row.quality("auroc") == best)


def test_scores_are_those_of_scikit_learn_on_the_same_folds(plant, searched, posed):
    embeddings = plant(task=Task.BINARY)
    problem, search = posed(embeddings, head="ridge"), searched(embeddings, head="logistic", search="exhaustive")
    X, y = np.hstack([embeddings.blocks[name] for name in ("a", "d")]).astype(np.float64), embeddings.labels
    # The head chooses its penalty by leave-one-out; with any sensible one the ranks agree on so clear a signal.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    expected = [
        roc_auc_score(y[held], model.fit(X[fit], y[fit]).decision_function(X[held])) for fit, held in problem.plan.folds
    ]
    assert search.leaderboard[("a", "d")].folds["auroc"] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("search", ["screen", "beam"])
def test_the_order_of_rows_and_encoders_does_not_matter_to_the_choice(plant, searched, search):
    embeddings = plant(seed=5)
    mine = searched(embeddings, head="ridge", search=search)
    order = np.random.default_rng(1).permutation(48)
    pool = ("d", "b", "a", "c")
    blocks = embeddings.blocks.take(order)
    shuffled = replace(
        embeddings,
        samples=embeddings.samples.take(order),
        blocks=replace(blocks, matrices={name: blocks[name] for name in pool}),
        cards=tuple(next(card for card in embeddings.cards if card.name == name) for name in pool),
    )
    theirs = searched(shuffled, head="ridge", search=search)
    assert set(theirs.chosen) == set(mine.chosen)
    assert by_set(theirs.all_scores) == pytest.approx(by_set(mine.all_scores), abs=1e-9)
    assert by_set(theirs.leaderboard) == pytest.approx(by_set(mine.leaderboard), abs=1e-9)


# --- the head


def test_the_best_scoring_head_is_chosen_and_said(plant, searched):
    said = []
    embeddings = plant(seed=2)
    search = searched(embeddings, tell=said.append)
    assert tuple(search.heads) == CHEAP_HEADS
    subsets = {search.screen.choice.subset, PLANTED}
    for name, value in search.heads.items():
        board = searched(embeddings, head=name, search="exhaustive").leaderboard
        assert value == pytest.approx(np.mean([board[subset].mean("auroc") for subset in subsets]), abs=1e-12)
    assert search.head == max(search.heads, key=search.heads.get)
    line = next(line for line in said if line.startswith("Head: "))
    assert line.startswith(f"Head: {search.head} ")
    assert all(f"{name} {value:.4f}" in line for name, value in search.heads.items())
    first = said[said.index(line) - 1]  # before any head is fitted
    rows = search.screen.leaderboard.best_first("auroc")
    assert first.startswith(f"First leaderboard, mean AUROC of {len(rows)} subsets by ridge regression: ")
    told = [*rows[:3], next(row for row in rows if row.n_encoders == 1)]
    assert all(f"{label(row.subset)} {row.mean('auroc'):.4f}" in first for row in told)
    given = searched(embeddings, head=search.head)
    assert given.heads == {}
    assert scores(given.leaderboard) == scores(search.leaderboard)
    assert given.chosen == search.chosen


def test_of_heads_that_score_the_same_the_first_is_taken(plant, posed, monkeypatch):
    row = SimpleNamespace(quality=lambda _: 0.75)
    monkeypatch.setattr(searching, "refit", lambda *_, **__: ({PLANTED: row}, None))
    head, found = searching.choose_head(posed(plant()), None, searching.SearchContext())
    assert head == CHEAP_HEADS[0]
    assert found == dict.fromkeys(CHEAP_HEADS, 0.75)


def test_a_head_that_the_problem_is_too_large_for_is_not_tried(plant, searched, monkeypatch):
    monkeypatch.setattr(searching, "within_limits", lambda head, **_: head.name != "logistic")
    search = searched(plant())
    assert set(search.heads) == set(CHEAP_HEADS) - {"logistic"}


def test_without_a_screen_heads_are_compared_on_all_encoders_together(plant, searched, scored):
    search = searched(plant(), search="greedy")
    assert not scored.screened
    for name, value in search.heads.items():
        alone = searched(plant(), head=name, search="all")
        assert value == pytest.approx(alone.leaderboard[PLANTED].mean("auroc"), abs=1e-12)


# --- other searches


@pytest.mark.parametrize("strategy", ["exhaustive", "greedy", "beam", "all"])
def test_other_searches_refit_what_they_ask_for(plant, searched, scored, strategy):
    search = searched(plant(), head="ridge", search=strategy)
    subsets = [row.subset for row in search.leaderboard]
    assert search.screen is None
    assert search.all_scores is search.leaderboard
    assert not scored.screened
    timed = {(subset, fold) for subset, fold in scored.refitted if subset not in subsets}
    assert {subset for subset, _ in scored.refitted} >= set(subsets)
    assert {fold for _, fold in timed} <= {0}  # what a fit takes is found out on the first fold of a few subsets
    assert len(timed) <= (2 if strategy == "greedy" else 0)
    assert PLANTED in subsets
    if strategy == "all":
        assert subsets == [PLANTED]
        assert search.chosen == PLANTED
        assert set(encoders_to_fit(search)) == {"chosen", "all"}
    else:
        assert {(name,) for name in PLANTED} <= set(subsets)
        assert (len(subsets) < 15) == (strategy == "greedy")  # four encoders are few enough for a beam to see them all
        assert strategy == "greedy" or subsets == EVERY


# --- what may be chosen


@pytest.mark.parametrize("strategy", ["screen", "exhaustive", "greedy", "beam"])
def test_a_limit_binds_the_choice_while_its_companions_remain(plant, searched, strategy):
    search = searched(plant(), head="ridge", search=strategy, budget=Budget(max_encoders=1))
    assert len(search.chosen) == 1
    assert search.selection.all.subset == PLANTED
    assert encoders_to_fit(search)["all"] == PLANTED
    assert len(search.selection.greedy.subset) == 1  # a path takes no step that may not be chosen


def test_time_binds_the_choice(plant, searched):
    latency = {"a": 3.0, "b": 8.0, "c": 1.0, "d": 1.0}
    search = searched(plant(), head="ridge", rule="best", budget=Budget(max_latency=7.5, latency=latency))
    assert "a" in search.chosen
    assert "b" not in search.chosen
    assert search.selection.best is search.selection.chosen
    assert search.selection.all.subset == PLANTED


@pytest.mark.parametrize("strategy", ["screen", "exhaustive", "greedy", "all"])
def test_nothing_that_may_be_chosen_is_refused_with_a_remedy(plant, searched, strategy):
    budget = Budget(max_latency=0.5, latency=dict.fromkeys(PLANTED, 1.0))
    with pytest.raises(SearchError, match=r"within the limits|max_latency") as caught:
        searched(plant(), head="ridge", search=strategy, budget=budget)
    assert caught.value.remedy


def test_all_encoders_together_are_refused_where_fewer_may_be_chosen(plant, searched):
    with pytest.raises(SearchError, match="at most 2 may be chosen") as caught:
        searched(plant(), head="ridge", search="all", budget=Budget(max_encoders=2))
    assert "another search" in caught.value.remedy


def test_no_more_processes_share_folds_than_memory_holds(plant, posed, monkeypatch):
    problem = posed(plant(), predictor="mean")
    size = shared_bytes(rows=max(problem.plan.n_train), dims=list(problem.blocks.dims.values()))
    monkeypatch.setattr(searching, "memory_limit", lambda: 6 * size)
    asked = []
    monkeypatch.setattr(searching, "run_search", lambda *_, workers, **_more: asked.append(workers))
    for workers, most in [(16, 3), (2, 2)]:
        refit(problem, Listed(EVERY), head_of(problem.config, "ridge"), SearchContext(workers=workers), final=True)
        assert asked.pop() == most


@pytest.mark.slow
@pytest.mark.parametrize("predictor", ["fused", "mean"])
def test_what_folds_share_changes_no_score_whatever_of_it_memory_holds(plant, posed, monkeypatch, predictor):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)
    monkeypatch.setattr(runner, "SAVED_SECONDS", 0.0)  # some subsets at a time, as where fits take long
    monkeypatch.setattr(runner, "FEWEST_TOGETHER", 3)
    problem = posed(plant(), predictor=predictor, head="auto" if predictor == "mean" else "logistic")
    head, final = head_of(problem.config, "logistic"), predictor == "mean"
    held, boards = [], []
    for memory, workers in [(2**40, 1), (2**40, 2), (2, 1), (2, 2)]:
        monkeypatch.setattr(searching, "memory_limit", lambda memory=memory: memory)
        context = SearchContext(workers=workers)
        held.append(folds_held(problem, Fit(problem, head, final=final), context))
        board, _ = refit(problem, Listed(EVERY), head, context, quiet=True, final=final)
        boards.append({row.subset: row.folds for row in board})
    assert held == [len(problem.plan.folds)] * 2 + [int(predictor == "mean")] * 2
    assert boards[1:] == boards[:1] * 3


# --- going on


def test_a_finished_search_scores_nothing_again(plant, searched, scored, tmp_path):
    first = searched(plant(), folder=tmp_path)
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {
        "screen.jsonl", *(f"scores-{name}.jsonl" for name in CHEAP_HEADS)
    }  # fmt: skip
    scored.screened.clear()
    scored.refitted.clear()
    second = searched(plant(), folder=tmp_path)
    assert not scored.screened | scored.refitted
    assert (second.chosen, second.head, dict(second.heads)) == (first.chosen, first.head, dict(first.heads))
    assert scores(second.leaderboard) == scores(first.leaderboard)
    assert scores(second.screen.leaderboard) == scores(first.screen.leaderboard)


class KilledError(Exception):
    """What stands for a kill."""


class Killer:
    """Progress that ends the search after so many subsets."""

    def __init__(self, after):
        self.left = after

    def begin(self, _task, _total):
        pass

    def advance(self, _task, units):
        self.left -= units
        if self.left < 0:
            raise KilledError


@pytest.mark.parametrize("after", [0, 7, 15, 18])
def test_a_killed_search_goes_on_where_it_was(plant, searched, scored, tmp_path, after):
    """After 15 subsets the screen is complete, and finalists are being refitted."""
    reference = searched(plant(), head="ridge")
    with pytest.raises(KilledError):
        searched(plant(), head="ridge", folder=tmp_path, progress=Killer(after))
    done = len((tmp_path / "screen.jsonl").read_bytes().splitlines()) - 1
    assert done == min(after + 1, 15)
    refitted = set()
    if after >= 15:
        refitted = (tmp_path / "scores-ridge.jsonl").read_text().splitlines()[1:]
        assert len(refitted) == after + 1 - 15
    scored.screened.clear()
    scored.refitted.clear()
    resumed = searched(plant(), head="ridge", folder=tmp_path)
    assert len(scored.screened) == 2 * (15 - done)
    assert len(scored.refitted) == 2 * (len(resumed.leaderboard) - len(refitted))
    assert resumed.chosen == reference.chosen
    assert scores(resumed.leaderboard) == scores(reference.leaderboard)
    for subset, folds in resumed.screen.leaderboard.out_of_fold.items():
        for mine, theirs in zip(folds, reference.screen.leaderboard.out_of_fold[subset], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_other_options_do_not_take_over_scores_that_are_not_theirs(plant, searched, tmp_path):
    searched(plant(), head="ridge", folder=tmp_path)
    for options in ({"scaling": "block"}, {"class_weight": "balanced"}, {"seed": 1}):
        fresh = searched(plant(), head="ridge", **options)
        there = searched(plant(), head="ridge", folder=tmp_path, **options)
        assert scores(there.leaderboard) == scores(fresh.leaderboard), options
        assert scores(there.screen.leaderboard) == scores(fresh.screen.leaderboard), options


def test_a_search_too_large_to_keep_predictions_is_resumed_too(plant, searched, scored, tmp_path, monkeypatch):
    """The choice of the head keeps those of its two subsets, the finalists do not keep theirs."""
    monkeypatch.setattr(searching, "KEEP_BYTES", 4 * 48 * 4 * 2)  # float32, rows, classes, subsets
    first = searched(plant(), folder=tmp_path)
    assert first.kept_rows is None
    scored.screened.clear()
    scored.refitted.clear()
    second = searched(plant(), folder=tmp_path)
    assert not scored.screened | scored.refitted
    assert scores(second.leaderboard) == scores(first.leaderboard)


# --- what the chosen predictor says of samples that it was not fitted on


@pytest.fixture(params=[0, searching.KEEP_BYTES], ids=["made", "kept"])
def few_bytes(request, monkeypatch):
    """Let the search keep none of its predictions, or all."""
    monkeypatch.setattr(searching, "KEEP_BYTES", request.param)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"head": "ridge", "repeats": 2},
        {"head": "ridge", "predictor": "ensemble"},
        {"head": "logistic", "predictor": "average"},
        {"head": "ridge", "predictor": "mean"},
        {"head": "ridge", "select": "holdout"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("few_bytes")
def test_out_of_fold_predictions_are_those_of_the_chosen_predictor_fitted_on_other_folds(
    plant, searched, posed, options
):
    embeddings = plant(val=16)
    problem = posed(embeddings, **options)
    found = with_out_of_fold(problem, searched(embeddings, **options), SearchContext(workers=1))
    fit, labels = Fit(problem, head_of(problem.config, found.head)), problem.labels
    members = (found.chosen,) if found.ensemble is None else found.ensemble.members
    number = 0
    for fold, (train, held) in enumerate(problem.plan.folds):
        there = found.out_of_fold.fold == fold
        assert found.out_of_fold.rows[there].tolist() == held.tolist()
        blocks = problem.blocks.take(train)
        fitted = [fit(blocks, labels[train], encoders=subset, seed=0, threads=1) for subset in members]
        expected = np.mean([each.predict_proba(problem.blocks.take(held)) for each in fitted], axis=0)
        np.testing.assert_allclose(found.out_of_fold.probabilities[there], expected, atol=1e-6)
        number += len(held)
    assert len(found.out_of_fold) == number
    np.testing.assert_allclose(found.out_of_fold.probabilities.sum(axis=1), 1, atol=1e-15)


# --- averages of several, and late fusion


def test_an_ensemble_averages_the_best_subsets_and_is_what_is_fitted(plant, searched, posed):
    embeddings = plant(seed=7)
    problem = posed(embeddings, head="ridge", predictor="ensemble")
    search = searched(embeddings, head="ridge", predictor="ensemble")
    ranked = [row.subset for row in search.leaderboard.best_first("auroc")]
    count = len(search.ensemble.members)
    assert search.ensemble.members == tuple(ranked[:count])
    assert search.chosen == tuple(name for name in PLANTED if any(name in each for each in ranked[:count]))
    assert search.reason == str(search.ensemble)
    assert count > 1
    fitted = fit_predictors(problem, search, problem.fitted_rows, threads=1)
    alone = searched(embeddings, head="ridge")
    members = [searching.Fit(posed(embeddings, head="ridge"), searching.head_of(problem.config))(
        problem.blocks, problem.labels, encoders=subset, seed=0, threads=1
    ) for subset in ranked[:count]]  # fmt: skip
    by_hand = np.mean([member.predict_proba(problem.blocks) for member in members], axis=0)
    np.testing.assert_allclose(fitted["chosen"].predict_proba(problem.blocks), by_hand, atol=1e-6)
    assert scores(alone.leaderboard) == scores(search.leaderboard)  # its members are scored like any subset


def test_an_ensemble_keeps_to_the_limits_as_a_whole(plant, searched):
    free = searched(plant(seed=7), head="ridge", predictor="ensemble")
    bound = searched(plant(seed=7), head="ridge", predictor="ensemble", budget=Budget(max_encoders=2))
    assert len(free.chosen) > 2 >= len(bound.chosen)


def test_late_fusion_averages_the_encoders_of_a_subset(plant, searched, posed):
    embeddings = plant()
    problem, search = posed(embeddings, head="ridge", predictor="average"), searched(
        embeddings, head="ridge", predictor="average", rule="best"
    )  # fmt: skip
    fitted = fit_predictors(problem, search, problem.fitted_rows, threads=1)
    fit = searching.Fit(posed(embeddings, head="ridge"), searching.head_of(problem.config))
    singles = [fit(problem.blocks, problem.labels, encoders=(name,), seed=0, threads=1) for name in PLANTED]
    by_hand = np.mean([single.predict_proba(problem.blocks) for single in singles], axis=0)
    np.testing.assert_allclose(fitted["all"].predict_proba(problem.blocks), by_hand, atol=1e-6)
    fused = searched(embeddings, head="ridge")
    assert scores(search.screen.leaderboard) == scores(fused.screen.leaderboard)
    for name in PLANTED:  # a single encoder has nothing to be averaged with
        assert search.leaderboard[(name,)].folds["log_loss"] == pytest.approx(
            fused.leaderboard[(name,)].folds["log_loss"], abs=1e-6
        )
    assert search.leaderboard[PLANTED].folds["auroc"] != fused.leaderboard[PLANTED].folds["auroc"]


def test_stacking_keeps_groups_and_copies_of_an_image_together_inside_its_folds(plant, posed, monkeypatch):
    groups = [f"p{row // 8}" for row in range(48)]
    contents = [f"image {0 if row in (0, 44) else row}" for row in range(48)]
    problem = posed(plant(groups=groups, contents=contents), head="ridge", predictor="stacking")
    seen = []
    fit_late_fusion = searching.fit_late_fusion

    def watched(blocks, labels, **options):
        seen.append(dict(zip(blocks.ids, options["groups"], strict=True)))
        return fit_late_fusion(blocks, labels, **options)

    monkeypatch.setattr(searching, "fit_late_fusion", watched)
    fit = searching.Fit(problem, searching.head_of(problem.config))
    rows = np.arange(47, -1, -2)
    fit(problem.blocks.take(rows), problem.labels[rows], encoders=("a", "b"), seed=0, threads=1)
    (unit_of,) = seen
    assert set(unit_of) == {f"s{row:03d}" for row in rows}
    for one, two in itertools.combinations(rows.tolist(), 2):
        mates = groups[one] == groups[two] or {groups[one], groups[two]} == {"p0", "p5"}
        assert (unit_of[f"s{one:03d}"] == unit_of[f"s{two:03d}"]) == mates


def test_class_weights_reach_what_stacks(plant, posed):
    embeddings = plant(60, task=Task.BINARY)
    rows = np.flatnonzero((embeddings.labels == 0) | (np.arange(60) % 3 == 0))  # a third of class 1
    probability = {}
    for weight in (None, "balanced"):
        problem = posed(embeddings, head="logistic", predictor="stacking", class_weight=weight)
        fit = searching.Fit(problem, searching.head_of(problem.config))
        fitted = fit(problem.blocks.take(rows), problem.labels[rows], encoders=("a", "d"), seed=0, threads=1)
        probability[weight] = fitted.predict_proba(problem.blocks)[:, 1].mean()
    assert probability[None] < 0.45
    assert probability["balanced"] == pytest.approx(0.5, abs=0.05)


def test_a_mean_is_chosen_by_one_head_and_every_model_is_one(plant, searched, posed):
    embeddings, options = plant(40), {"head": "ridge", "folds": 2, "repeats": 1}
    fused, mean = (searched(embeddings, predictor=predictor, **options) for predictor in ("fused", "mean"))
    assert scores(mean.leaderboard) == scores(fused.leaderboard)
    assert (mean.chosen, mean.reason) == (fused.chosen, fused.reason)
    problem = posed(embeddings, predictor="mean", **options)
    found = with_out_of_fold(problem, mean, SearchContext(workers=1))
    predictors = fit_predictors(problem, found, problem.fitted_rows, threads=1)
    assert {type(predictor) for predictor in predictors.values()} == {MeanPredictor}
    for subset in {*encoders_to_fit(found).values(), *singles_to_fit(found).values()}:
        said = out_of_fold(problem, found, subset).probabilities
        by_one_head = np.concatenate(found.leaderboard.out_of_fold[subset])
        assert not np.allclose(said, by_one_head, atol=1e-3)


@pytest.mark.parametrize("predictor", ["mean", "ensemble", "average", "stacking"])
@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTILABEL])
def test_predictors_of_several_members_suit_every_kind_of_task(plant, searched, posed, predictor, task):
    embeddings = plant(40, task=task)
    options = {"head": "ridge", "predictor": predictor, "finalists": 1}
    problem, search = posed(embeddings, **options), searched(embeddings, **options)
    proba = fit_predictors(problem, search, problem.fitted_rows, threads=1)["chosen"].predict_proba(problem.blocks)
    assert proba.shape == (40, 2)
    assert "a" in search.chosen
    assert np.mean((proba[:, 1] > 0.5) == (embeddings.labels if task is Task.BINARY else embeddings.labels[:, 1])) > 0.7


@pytest.fixture
def cards():
    """Return encoders that may, may not, and may or may not be used commercially."""
    licences = {"free": ("MIT", True), "closed": ("CC-BY-NC-4.0", False), "silent": ("unknown", None)}
    return [
        get_card("lbp").model_copy(update={"name": name, "licence": licence, "commercial": commercial})
        for name, (licence, commercial) in licences.items()
    ]


def test_encoders_that_may_not_be_used_commercially_are_left_out_and_named_with_the_reason(cards):
    kept, notes = allowed(cards, commercial_only=True)
    assert [card.name for card in kept] == ["free"]
    assert notes == (
        "closed is left out: its licence (CC-BY-NC-4.0) does not allow commercial use.",
        "silent is left out: its licence (unknown) does not say whether commercial use is allowed.",
    )
    assert allowed(cards, commercial_only=False) == (tuple(cards), ())


def test_a_pool_without_any_is_refused_with_a_remedy(cards):
    with pytest.raises(SearchError, match="None of closed, silent has a licence that allows commercial use") as caught:
        allowed(cards[1:], commercial_only=True)
    assert "biofuse encoders list --commercial" in caught.value.remedy
