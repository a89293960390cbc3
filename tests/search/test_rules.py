from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.core.errors import SearchError, UndefinedMetricError
from biofuse.evaluation.intervals import corrected_t
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets, combination_order, in_pool_order
from biofuse.search.rules import RULES, Budget, finalists, greedy_path, pareto_front, select, summed_cost
from biofuse.search.strategies import AllEncoders, Exhaustive, Listed, make_strategy


def scored(pool, table, *, dims=None, strategy=None, n_train=None, n_test=None):
    """Return the leaderboard of a table: subset to metric to fold values; ``dims`` are the columns of encoders."""
    pool, rows = tuple(pool), {}
    table = {in_pool_order(pool, subset): folds for subset, folds in table.items()}
    n_folds = len(next(iter(next(iter(table.values())).values())))

    def evaluate(subsets):
        for subset in subsets:
            n_dims = sum((dims or {}).get(name, 1) for name in subset)
            rows[subset] = Row(subset=subset, n_dims=n_dims, folds={m: tuple(v) for m, v in table[subset].items()})
        return [rows[subset] for subset in subsets]

    (strategy or Exhaustive()).run(pool, evaluate)
    return Leaderboard(
        encoders=pool,
        metrics=tuple(next(iter(table.values()))),
        rows=tuple(rows.values()),
        n_train=tuple(n_train or (1,) * n_folds),
        n_test=tuple(n_test or (1,) * n_folds),
    )


def search(table, *, pool="abc", dims=None, strategy=None, metric="auroc", n_train=None, n_test=None):
    table = {tuple(subset): {metric: values} for subset, values in table.items()}
    return scored(pool, table, dims=dims, strategy=strategy, n_train=n_train, n_test=n_test)


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


@pytest.mark.parametrize(("rule", "chosen"), [("one_se", "c"), ("inclusive", "abc"), (None, "abc")])
def test_those_within_one_standard_error_by_hand(rule, chosen):
    found = select(search(TABLE, **FOLDS), **({} if rule is None else {"rule": rule}))
    best = np.array(TABLE["abc"])
    inside = []
    for subset, values in TABLE.items():
        d = best - np.array(values)
        if d.mean() <= np.sqrt((1 / 4 + 20 / 80) * d.var(ddof=1)):
            inside.append(subset)
    assert inside == ["c", "ab", "bc", "abc"]  # b is steadily .009 worse, c is worse but varies
    assert sorted("".join(subset) for subset in found.within) == sorted(inside)
    assert "".join(found.chosen.subset) == chosen
    assert found.best.subset == ("a", "b", "c")
    assert found.best_single.subset == ("b",)
    assert found.all.subset == ("a", "b", "c")
    assert found.lean.subset == ("c",)
    if rule == "one_se":
        assert "smallest of 4 subsets within one standard error of the best of 7 scored subsets, a+b+c" in found.reason


def test_inclusive_leaves_out_what_hurts_and_prefers_the_higher_mean_of_equally_many():
    wobble = np.array([0.01, -0.01, 0.01, -0.01])
    table = {"a": [0.80] * 4, "b": [0.81] * 4, "c": [0.5] * 4, "ab": 0.900 + wobble, "ac": 0.898 - wobble}
    table |= {"bc": 0.899 + wobble, "abc": [0.88, 0.87, 0.88, 0.87]}
    board = search(table, **FOLDS, dims={"a": 1, "b": 5, "c": 3})
    assert select(board).chosen.subset == ("a", "b")  # of pairs the best, though "ac" has fewer columns
    assert select(board, rule="one_se").chosen.subset == ("a", "c")
    assert select(board).lean.subset == ("a", "c")
    only_c = select(board, eligible=lambda row: "c" in row.subset and row.n_encoders < 3)
    assert (only_c.chosen.subset, only_c.lean.subset, only_c.all.subset) == (("b", "c"), ("a", "c"), ("a", "b", "c"))


def test_inclusive_says_how_many_it_kept_and_what_speaks_against_the_others():
    assert select(search(TABLE, **FOLDS)).reason == (
        "Kept 3 of 3 encoders, mean AUROC 0.9088: the best of 7 scored subsets, and the largest of 4 within one "
        "standard error."
    )
    table = TABLE | {"ab": [0.93, 0.91, 0.93, 0.93], "abc": [0.92, 0.89, 0.91, 0.915]}
    board = search(table, **FOLDS)
    gain, low, high, p = corrected_t(np.subtract(table["ab"], table["abc"]), 80, 20)
    assert p <= 0.05
    evidence = f"{gain:.4f} (95 % interval {low:+.4f} to {high:+.4f})."
    assert select(board).reason.endswith(f"Left out: c, which hurts by {evidence}")
    noisy = search(table | {"abc": [0.92, 0.87, 0.92, 0.90]}, **FOLDS)
    assert select(noisy).chosen.subset == ("a", "b")
    assert "Left out: c; with it the mean is 0.9025, 0.0225 worse, which may be chance" in select(noisy).reason
    assert select(board, eligible=few(2)).reason.endswith("All 3 together (0.9088) may not be chosen.")
    # All three score more than the pair, but steadily less than the best, to which the pair has a large error.
    table = {"a": [0.9] * 4, "b": [0.5] * 4, "c": [0.5] * 4, "ac": [0.5] * 4, "bc": [0.5] * 4}
    odd = search(table | {"ab": [0.95, 0.80, 0.95, 0.80], "abc": [0.88] * 4}, **FOLDS)
    assert select(odd).chosen.subset == ("a", "b")
    assert select(odd).reason.endswith("Left out: c; with it the mean is 0.8800, steadily below the best.")


def test_one_se_prefers_fewer_dimensions_then_the_higher_mean_then_pool_order():
    wobble = np.array([0.1, -0.1, 0.1, -0.1])
    table = {"a": 0.800 + wobble, "b": 0.799 - wobble, "c": 0.7999 - wobble, "abc": [0.81] * 4}
    table |= {"ab": [0.5] * 4, "ac": [0.5] * 4, "bc": [0.5] * 4}

    def lean(**options):
        found = select(search(table, **FOLDS, **options), rule="one_se")
        assert found.lean is found.chosen
        return found.chosen.subset

    assert lean(dims={"a": 9, "b": 3, "c": 9}) == ("b",)
    assert lean(dims={"a": 9, "b": 9, "c": 9}) == ("a",)
    table["c"] = table["a"]
    assert lean() == ("a",)
    assert lean(pool="cba") == ("c",)


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
    found = select(search(table, pool="ab", metric="log_loss"))
    assert found.chosen.subset == found.lean.subset == ("b",)


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
        select(search({"a": [float("nan")] * 2}, pool="a"))


def test_undefined_folds_are_left_out_of_pairs():
    nan = float("nan")
    table = {"a": [0.9, nan, 0.8, 0.85], "b": [0.7, nan, 0.6, 0.66], "ab": [0.9, nan, 0.8, 0.86]}
    found = select(search(table, pool="ab", **FOLDS))
    assert found.best.subset == found.chosen.subset == ("a", "b")
    assert found.lean.subset == ("a",)


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


@pytest.mark.parametrize(("loss", "better"), [(0.3, True), (1.7, False)])
def test_a_loss_is_better_than_chance_where_it_is_lower(loss, better):
    table = {subset: [loss, loss + 0.01, loss - 0.01, loss] for subset in TABLE}
    assert select(search(table, metric="log_loss", **FOLDS), rule="best", chance=1.0).better_than_chance is better


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


POOL = tuple("abcdef")


def screen(seed=0, *, n_folds=4, strategy=None, pool=POOL):
    random = np.random.default_rng(seed)
    table = {
        subset: {"auroc": random.normal(0.8, 0.05) + random.normal(0, 0.01, n_folds)} for subset in all_subsets(pool)
    }
    return scored(pool, table, strategy=strategy, n_train=[80] * n_folds, n_test=[20] * n_folds)


@pytest.mark.parametrize("seed", range(5))
def test_finalists_are_the_best_and_all_that_they_are_compared_with(seed):
    board = screen(seed)
    ranked = [row.subset for row in board.best_first()]
    sizes = {size: next(s for s in ranked if len(s) == size) for size in range(1, 7)}
    companions = {(name,) for name in POOL} | {POOL} | {row.subset for row in greedy_path(board)}
    for count in (1, 5, 16):
        found = finalists(board, count=count)
        choice = select(board)
        expected = set(ranked[:count]) | set(sizes.values()) | {choice.chosen.subset, choice.lean.subset} | companions
        assert set(found) == expected
        assert len(found) == len(expected)
        assert found == sorted(found, key=lambda subset: combination_order(POOL, subset))
    assert finalists(board, count=999) == [row.subset for row in board]


def test_the_choice_that_the_screen_would_make_is_a_finalist():
    # Within one standard error of abc, the best, are two pairs: bc scores more, ab has fewer dimensions.
    wobble = np.array([0.02, -0.02, 0.02, -0.02])
    table = {subset: {"auroc": [0.6] * 4} for subset in all_subsets("abc")}
    table |= {tuple("abc"): {"auroc": [0.9] * 4}, ("c",): {"auroc": [0.7] * 4}}  # greedy: c, bc, abc
    table |= {tuple("bc"): {"auroc": 0.898 + wobble}, tuple("ab"): {"auroc": 0.897 + wobble}}
    dims = {"a": 1, "b": 1, "c": 9}
    board = scored("abc", table, dims=dims, **FOLDS)
    assert select(board).lean.subset == ("a", "b")
    assert set(finalists(board, count=1)) == {("a",), ("b",), ("c",), ("a", "b"), ("b", "c"), ("a", "b", "c")}


def test_finalists_keep_to_what_may_be_chosen_but_for_the_companions():
    board = screen()
    found = finalists(board, count=8, eligible=lambda row: row.n_encoders <= 3)
    assert {subset for subset in found if len(subset) > 3} == {POOL}
    allowed = [row.subset for row in board.best_first() if row.n_encoders <= 3]
    assert set(allowed[:8]) <= set(found)
    found = finalists(board, count=8, eligible=lambda row: "a" not in row.subset)
    assert {subset for subset in found if "a" in subset} == {("a",), POOL}
    with pytest.raises(SearchError, match="within the limits"):
        finalists(board, count=16, eligible=lambda _: False)


def test_a_screen_that_walked_or_has_one_split_has_finalists_too():
    walked = screen(strategy=make_strategy("greedy"))
    found = finalists(walked, count=2)
    assert {row.subset for row in greedy_path(walked)} <= set(found)
    assert POOL in found
    single = screen(n_folds=1)
    assert single.best_first()[0].subset in finalists(single, count=1)
    alone = screen(strategy=make_strategy("all"))
    assert finalists(alone, count=16) == [POOL]
    assert finalists(screen(pool=("a",)), count=16) == [("a",)]


def test_no_finalist_is_refused():
    with pytest.raises(SearchError, match="at least one finalist, not 0"):
        finalists(screen(), count=0)


def test_another_metric_has_other_finalists():
    table = {
        subset: {"auroc": [0.5 + len(subset) / 20] * 2, "log_loss": [1 + len(subset)] * 2}
        for subset in all_subsets(POOL)
    }
    board = scored(POOL, table, n_train=[8, 8], n_test=[2, 2])
    assert ("a", "b") in finalists(board, count=9, metric="log_loss")
    assert sum(len(s) == 5 for s in finalists(board, count=7)) == 6
    assert sum(len(s) == 5 for s in finalists(board, count=7, metric="log_loss")) == 1


def board(table, *, pool="abc", metric="auroc"):
    values = {subset: np.broadcast_to(value, 4) for subset, value in table.items()}
    return search(values, pool=pool, metric=metric, strategy=Listed([tuple(subset) for subset in table]))


PRICED = {"a": 0.70, "b": 0.80, "c": 0.75, "ab": 0.85, "ac": 0.78, "bc": 0.86, "abc": 0.86}
COST = {"a": 1.0, "b": 4.0, "c": 5.0}


def shown(rows):
    return ["".join(row.subset) for row in rows]


def test_the_front_holds_what_is_worth_its_price():
    assert shown(pareto_front(board(PRICED), COST)) == ["a", "b", "ab", "bc"]
    assert shown(pareto_front(board(PRICED), COST, eligible=lambda row: "b" not in row.subset)) == [
        "a",
        "c",
        "ac",
    ]
    losses = {subset: -value for subset, value in PRICED.items()}
    assert shown(pareto_front(board(losses, metric="log_loss"), COST)) == ["a", "b", "ab", "bc"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 5), levels=st.integers(2, 30))
def test_nothing_on_the_front_is_dominated_and_everything_off_it_is(seed, m, levels):
    random = np.random.default_rng(seed)
    pool = "abcde"[:m]
    leaderboard = board({s: random.integers(levels) / levels for s in all_subsets(tuple(pool))}, pool=pool)
    cost = {name: float(random.integers(0, 4)) for name in pool}
    front = pareto_front(leaderboard, cost)

    def point(row):
        return summed_cost(row.subset, cost), -row.mean("auroc")

    def dominates(one, other):
        return all(x <= y for x, y in zip(one, other, strict=True)) and one != other

    for row in leaderboard:
        dominated = any(dominates(point(other), point(row)) for other in leaderboard)
        assert dominated == (point(row) not in [point(kept) for kept in front])
    assert len({point(row) for row in front}) == len(front)
    assert [point(row)[0] for row in front] == sorted(point(row)[0] for row in front)
    for row in front:
        ties = [other for other in leaderboard if point(other) == point(row)]
        assert row.n_encoders == min(other.n_encoders for other in ties)


@pytest.mark.parametrize("bad", [{}, {"c": float("nan")}, {"c": -1.0}, {"c": float("inf")}])
def test_a_cost_that_is_not_known_is_named(bad):
    with pytest.raises(SearchError, match="The inference cost of c is not known"):
        pareto_front(board(PRICED), {"a": 1.0, "b": 1.0} | bad)


def test_nothing_to_choose_from_is_said():
    with pytest.raises(SearchError, match="eligible"):
        pareto_front(board(PRICED), COST, eligible=lambda _row: False)
    with pytest.raises(SearchError, match="No subset was scored"):
        pareto_front(replace(board(PRICED), rows=()), COST)
    with pytest.raises(SearchError, match="No subset was scored"):
        Budget(max_encoders=1).check(replace(board(PRICED), rows=()))


def allowed(**limits):
    leaderboard = board(PRICED)
    Budget(**limits).check(leaderboard)
    return shown(filter(Budget(**limits).allows_row, leaderboard))


def test_a_budget_keeps_what_is_within_every_limit():
    assert allowed() == ["a", "b", "c", "ab", "ac", "bc", "abc"]
    assert allowed(max_encoders=1) == ["a", "b", "c"]
    assert allowed(max_latency=5, latency=COST) == ["a", "b", "c", "ab"]
    assert allowed(max_latency=5, max_encoders=1, latency=COST) == ["a", "b", "c"]
    assert Budget(max_latency=5, latency=COST).allows(("a", "b"))
    assert not Budget(max_latency=4.999, latency=COST).allows(("a", "b"))


def test_when_nothing_is_within_the_budget_the_tightest_limit_is_named():
    with pytest.raises(
        SearchError, match=r"None of 7 scored subsets keeps to max_latency of 0.5 ms per image: the cheapest takes 1 ms"
    ):
        Budget(max_latency=0.5, max_encoders=2, latency=COST).check(board(PRICED))
    with pytest.raises(SearchError, match="max_encoders of 1: the smallest has 2"):
        Budget(max_encoders=1).check(board({"ab": 0.8, "abc": 0.9}))
    latency = {"a": 1.0, "b": 1.0, "c": 9.0}
    with pytest.raises(SearchError, match="each limit alone leaves: max_encoders 1, max_latency 1") as error:
        Budget(max_encoders=1, max_latency=5, latency=latency).check(board({"ab": 0.8, "ac": 0.7, "c": 0.9}))
    assert "The tightest is max_encoders" in error.value.remedy


def test_limits_that_make_no_sense_or_cannot_be_checked_are_refused():
    with pytest.raises(SearchError, match="at most 0 encoders"):
        Budget(max_encoders=0)
    with pytest.raises(SearchError, match="at most 0 ms"):
        Budget(max_latency=0)
    with pytest.raises(SearchError, match="cost of a is not known"):
        Budget(max_latency=5).allows(("a",))
