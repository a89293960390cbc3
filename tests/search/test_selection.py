import numpy as np
import pytest

from biofuse.core.errors import SearchError, UndefinedMetricError
from biofuse.core.target import Task
from biofuse.search.closed_form import ClosedFormScorer
from biofuse.search.rules import RULES, greedy_path, select
from biofuse.search.runner import run_search
from biofuse.search.scorers import TableScorer
from biofuse.search.strategies import AllEncoders, Exhaustive, Listed, screening_strategy


def search(table, *, pool="abc", dims=None, strategy=None, metric="auroc", n_train=None, n_test=None):
    table = {tuple(subset): {metric: values} for subset, values in table.items()}
    scorer = TableScorer(tuple(pool), table, dims=dims, n_train=n_train, n_test=n_test)
    return run_search(tuple(pool), strategy or Exhaustive(), scorer, metric=metric)


FOLDS = {"n_train": [80] * 4, "n_test": [20] * 4}
TABLE = {
    "a": [0.80, 0.82, 0.81, 0.83],
    "b": [0.90, 0.89, 0.91, 0.90],
    "c": [0.93, 0.86, 0.93, 0.87],
    "ab": [0.91, 0.90, 0.905, 0.905],
    "ac": [0.85, 0.86, 0.85, 0.84],
    "bc": [0.91, 0.90, 0.91, 0.90],
    "abc": [0.92, 0.89, 0.91, 0.915],
}


def test_one_se_by_hand():
    found = select(search(TABLE, **FOLDS))
    best = np.array(TABLE["abc"])
    inside = []
    for subset, values in TABLE.items():
        d = best - np.array(values)
        if d.mean() <= np.sqrt((1 / 4 + 20 / 80) * d.var(ddof=1)):
            inside.append(subset)
    assert inside == ["c", "ab", "bc", "abc"]  # b is steadily .009 worse, c is worse but varies
    assert sorted("".join(subset) for subset in found.within) == sorted(inside)
    assert found.chosen.subset == ("c",)
    assert found.best.subset == ("a", "b", "c")
    assert found.best_single.subset == ("b",)
    assert found.all.subset == ("a", "b", "c")
    assert "smallest of 4 subsets within one standard error of the best of 7 scored subsets, a+b+c" in found.reason


def test_one_se_prefers_fewer_dimensions_then_the_higher_mean_then_pool_order():
    wobble = np.array([0.1, -0.1, 0.1, -0.1])
    table = {"a": 0.800 + wobble, "b": 0.799 - wobble, "c": 0.7999 - wobble, "abc": [0.81] * 4}
    table |= {"ab": [0.5] * 4, "ac": [0.5] * 4, "bc": [0.5] * 4}
    assert select(search(table, **FOLDS, dims={"a": 9, "b": 3, "c": 9})).chosen.subset == ("b",)
    assert select(search(table, **FOLDS, dims={"a": 9, "b": 9, "c": 9})).chosen.subset == ("a",)
    table["c"] = table["a"]
    assert select(search(table, **FOLDS)).chosen.subset == ("a",)
    assert select(search(table, **FOLDS, pool="cba")).chosen.subset == ("c",)


def test_best_and_first_best():
    table = {"a": [0.7], "b": [0.8], "c": [0.8], "ab": [0.9], "ac": [0.9], "bc": [0.9], "abc": [0.9]}
    assert select(search(table), rule="best").chosen.subset == ("a", "b")
    assert select(search(table, dims={"a": 5, "b": 5, "c": 1}), rule="best").chosen.subset == ("a", "c")
    assert select(search(table, dims={"a": 5, "b": 5, "c": 1}), rule="first_best").chosen.subset == ("a", "b")
    # Rounding must not choose: .1 + .2 is not .3.
    table = {"a": [0.1 + 0.2], "b": [0.3], "ab": [0.1]}
    assert select(search(table, pool="ba"), rule="first_best").chosen.subset == ("b",)


def test_losses_are_better_when_lower():
    table = {"a": [0.5, 0.6], "b": [0.4, 0.3], "ab": [0.7, 0.7]}
    found = select(search(table, pool="ab", metric="log_loss"), rule="best")
    assert found.chosen.subset == ("b",)
    assert found.better_than_chance is None
    assert select(search(table, pool="ab", metric="log_loss")).chosen.subset == ("b",)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("strategy", [Exhaustive(), AllEncoders()], ids=lambda s: s.name)
def test_bug_13_a_choice_is_always_set(rule, strategy):
    found = select(search(TABLE, **FOLDS, strategy=strategy), rule=rule)
    assert found.chosen is not None
    assert found.best is not None
    assert found.all.subset == ("a", "b", "c")
    assert found.reason
    assert (found.best_single is None) == (strategy.name == "all")
    assert (found.greedy is None) == (strategy.name == "all")


def test_what_cannot_be_chosen_is_refused():
    single = search({"a": [0.5], "b": [0.6], "ab": [0.7]}, pool="ab")
    with pytest.raises(SearchError, match="at least two folds"):
        select(single)
    with pytest.raises(SearchError, match="no selection rule"):
        select(single, rule="max")
    with pytest.raises(SearchError, match="no metric"):
        select(single, rule="best", metric="accuracy")
    with pytest.raises(UndefinedMetricError, match="every fold"):
        search({"a": [float("nan")] * 2}, pool="a")


def test_undefined_folds_are_left_out_of_pairs():
    nan = float("nan")
    table = {"a": [0.9, nan, 0.8, 0.85], "b": [0.7, nan, 0.6, 0.66], "ab": [0.9, nan, 0.8, 0.86]}
    found = select(search(table, pool="ab", **FOLDS))
    assert found.best.subset == ("a", "b")
    assert found.chosen.subset == ("a",)


def test_greedy_path_is_read_off():
    found = search(TABLE, **FOLDS)
    assert ["".join(row.subset) for row in greedy_path(found)] == ["b", "ab", "abc"]
    flat = {"a": [0.9], "b": [0.5], "ab": [0.9]}
    assert ["".join(row.subset) for row in greedy_path(search(flat, pool="ab"))] == ["a"]


def few(limit):
    return lambda row: row.n_encoders <= limit


def test_only_eligible_subsets_are_chosen_and_companions_stay():
    board = search(TABLE, **FOLDS)
    found = select(board, rule="best", eligible=few(2))
    assert (found.chosen.subset, found.best.subset) == (("a", "b"), ("a", "b"))
    assert found.all.subset == ("a", "b", "c")
    assert found.greedy.subset == ("a", "b")
    assert "the best of 6 that may be chosen out of 7 scored subsets" in found.reason
    found = select(board, eligible=lambda row: "b" not in row.subset)
    assert set(found.within) <= {("a",), ("c",), ("a", "c")}
    assert found.best.subset == ("c",)
    assert found.best_single.subset == ("b",)  # to be compared with, though it may not be chosen
    assert found.greedy.subset == ("c",)
    found = select(board, rule="first_best", eligible=lambda row: row.subset == ("a",))
    assert found.chosen.subset == found.best.subset == ("a",)
    assert "is the best of 1 that may be chosen out of 7 scored subsets" in found.reason
    for rule in RULES:
        with pytest.raises(SearchError, match="None of 7 scored subsets is within the limits"):
            select(board, rule=rule, eligible=few(0))


def test_chance_is_corrected_for_the_subsets_that_may_be_chosen():
    # a is .7 with noise: p is about .012, below .025 once but not seven times; all encoders are no better than chance.
    table = {subset: [0.5, 0.52, 0.48, 0.5] for subset in TABLE} | {"a": [0.6, 0.7, 0.8, 0.7]}
    board = search(table, **FOLDS)
    assert select(board, rule="best").better_than_chance is False
    assert select(board, rule="best", eligible=lambda row: row.subset == ("a",)).better_than_chance is True


def test_the_greedy_path_takes_no_step_that_may_not_be_taken():
    board = search(TABLE, **FOLDS)
    assert ["".join(row.subset) for row in greedy_path(board, eligible=few(1))] == ["b"]
    without = greedy_path(board, eligible=lambda row: "a" not in row.subset)
    assert ["".join(row.subset) for row in without] == ["b", "bc"]
    assert greedy_path(board, eligible=few(0)) == ()


def test_finalists_are_selected_among_and_compared_with_the_greedy_path_of_the_screen():
    screen = search(TABLE, **FOLDS)  # its greedy path: b, ab, abc
    refits = {"a": [0.7] * 4, "b": [0.8, 0.81, 0.8, 0.8], "c": [0.9, 0.91, 0.9, 0.9], "ab": [0.7] * 4}
    board = search(refits, strategy=Listed([tuple(s) for s in refits]), **FOLDS)
    found = select(board, screen=screen)
    assert found.chosen.subset == ("c",)
    assert (found.greedy, found.all) == (None, None)  # not among these finalists
    assert "best of 4 finalists out of 7 screened subsets" in found.reason
    refits["abc"] = [0.85] * 4
    board = search(refits, strategy=Listed([tuple(s) for s in refits]), **FOLDS)
    found = select(board, screen=screen)
    assert found.greedy.subset == ("a", "b", "c")
    assert select(board).greedy.subset == ("c",)  # what their own scores can tell: no pair with c was refitted


def test_chance_is_corrected_for_all_screened_subsets():
    table = {subset: [0.5, 0.52, 0.48, 0.5] for subset in TABLE} | {"a": [0.6, 0.7, 0.8, 0.7]}
    refitted = search(table, strategy=Listed([("a",)]), **FOLDS)
    assert select(refitted).better_than_chance is True
    assert select(refitted, screen=search(table, **FOLDS)).better_than_chance is False


def screened(tiny, *, signal, seed):
    blocks, labels = tiny.planted(160, signal=signal, seed=seed)
    scorer = ClosedFormScorer(
        blocks, labels, plan=tiny.plan(blocks.ids), task=Task.MULTICLASS, classes=[f"class {i}" for i in range(4)]
    )
    return run_search(blocks.encoders, screening_strategy(5, "auroc"), scorer, workers=1)


@pytest.mark.parametrize("seed", range(3))
def test_planted_pair_of_complementary_encoders_is_found_by_the_screen(tiny, seed):
    found = select(screened(tiny, signal=1.5, seed=seed))
    assert found.chosen.subset == ("a", "b")
    assert found.better_than_chance


@pytest.mark.parametrize("seed", range(3))
def test_on_pure_noise_the_screen_says_that_nothing_is_better_than_chance(tiny, seed):
    found = select(screened(tiny, signal=0.0, seed=seed))
    assert found.better_than_chance is False
    assert "No subset is shown to be better than chance" in found.reason
