import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.core.errors import SearchError
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets
from biofuse.search.rules import Budget, pareto_front, summed_cost


def board(table, *, pool="abc", metric="auroc", n_folds=4):
    return Leaderboard(
        encoders=tuple(pool),
        metrics=(metric,),
        rows=tuple(
            Row(subset=tuple(subset), n_dims=len(subset), folds={metric: tuple(np.broadcast_to(values, n_folds))})
            for subset, values in table.items()
        ),
        n_train=(75,) * n_folds,
        n_test=(25,) * n_folds,
    )


TABLE = {"a": 0.70, "b": 0.80, "c": 0.75, "ab": 0.85, "ac": 0.78, "bc": 0.86, "abc": 0.86}
COST = {"a": 1.0, "b": 4.0, "c": 5.0}


def shown(rows):
    return ["".join(row.subset) for row in rows]


def test_the_front_holds_what_is_worth_its_price():
    assert shown(pareto_front(board(TABLE), COST)) == ["a", "b", "ab", "bc"]
    assert shown(pareto_front(board(TABLE), COST, eligible=lambda row: "b" not in row.subset)) == ["a", "c", "ac"]
    losses = {subset: -value for subset, value in TABLE.items()}
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
        pareto_front(board(TABLE), {"a": 1.0, "b": 1.0} | bad)


def test_nothing_to_choose_from_is_said():
    with pytest.raises(SearchError, match="eligible"):
        pareto_front(board(TABLE), COST, eligible=lambda _row: False)
    with pytest.raises(SearchError, match="No subset was scored"):
        pareto_front(board({}), COST)
    with pytest.raises(SearchError, match="No subset was scored"):
        Budget(max_encoders=1).eligible(board({}))


def allowed(**limits):
    leaderboard = board(TABLE)
    mask = Budget(**limits).eligible(leaderboard)
    rows = [row for row, kept in zip(leaderboard, mask, strict=True) if kept]
    assert [Budget(**limits).allows_row(row) for row in leaderboard] == mask.tolist()
    return shown(rows)


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
        Budget(max_latency=0.5, max_encoders=2, latency=COST).eligible(board(TABLE))
    with pytest.raises(SearchError, match="max_encoders of 1: the smallest has 2"):
        Budget(max_encoders=1).eligible(board({"ab": 0.8, "abc": 0.9}))
    latency = {"a": 1.0, "b": 1.0, "c": 9.0}
    with pytest.raises(SearchError, match="each limit alone leaves: max_encoders 1, max_latency 1") as error:
        Budget(max_encoders=1, max_latency=5, latency=latency).eligible(board({"ab": 0.8, "ac": 0.7, "c": 0.9}))
    assert "The tightest is max_encoders" in error.value.remedy


def test_limits_that_make_no_sense_or_cannot_be_checked_are_refused():
    with pytest.raises(SearchError, match="at most 0 encoders"):
        Budget(max_encoders=0)
    with pytest.raises(SearchError, match="at most 0 ms"):
        Budget(max_latency=0)
    with pytest.raises(SearchError, match="cost of a is not known"):
        Budget(max_latency=5).allows(("a",))
