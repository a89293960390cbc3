import time
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.core.errors import SearchError
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets, check_pool, count_subsets, in_pool_order
from biofuse.search.rules import greedy_path
from biofuse.search.runner import run_search
from biofuse.search.strategies import (
    STRATEGIES,
    AllEncoders,
    Exhaustive,
    Listed,
    Walk,
    make_strategy,
    screening_strategy,
)


def test_exhaustive_goes_by_size_then_pool_order():
    pool = tuple("dacb")
    expected = [subset for size in range(1, 5) for subset in combinations(pool, size)]
    asked = []
    Exhaustive().run(pool, lambda subsets: asked.extend(subsets) or [])
    assert asked == expected == Exhaustive().subsets(pool)
    assert len(Exhaustive().subsets(tuple("abcdefghi"))) == 511


def test_exhaustive_refuses_large_pools_with_a_remedy():
    with pytest.raises(SearchError, match="65,535 subsets") as error:
        Exhaustive().subsets(tuple(f"e{i}" for i in range(16)))
    for remedy in ("screen", "greedy", "beam"):
        assert f"`search='{remedy}'`" in error.value.remedy
    assert "at most 15" in error.value.remedy


def test_a_large_pool_is_exhausted_up_to_a_size_that_allows_it():
    pool = tuple(f"e{i}" for i in range(20))
    assert len(Exhaustive(max_encoders=3).subsets(pool)) == 20 + 190 + 1140 + 1
    with pytest.raises(SearchError, match="60,459 subsets of up to 6"):
        Exhaustive(max_encoders=6).subsets(pool)
    with pytest.raises(SearchError, match="1,152,921,504,606,846,975 subsets"):
        Exhaustive().subsets(tuple(f"e{i}" for i in range(60)))


def test_all_scores_the_pool_and_nothing_else():
    asked = []
    AllEncoders().run(("a", "b"), lambda subsets: asked.extend(subsets) or [])
    assert asked == [("a", "b")]


def test_names():
    assert list(STRATEGIES) == ["exhaustive", "greedy", "beam", "all"]
    for name in STRATEGIES:
        assert make_strategy(name, metric="accuracy", max_encoders=3).name == name
        assert make_strategy(name).max_encoders is None
    assert make_strategy("greedy", metric="accuracy").metric == "accuracy"
    with pytest.raises(SearchError, match="no search 'grid'"):
        make_strategy("grid")
    with pytest.raises(SearchError, match="no search 'screen'"):
        make_strategy("screen")


def test_subsets_are_named_in_pool_order():
    assert in_pool_order(("b", "a", "c"), ["a", "b"]) == ("b", "a")
    for bad in ([], ["x"], ["a", "a"]):
        with pytest.raises(SearchError):
            in_pool_order(("a", "b"), bad)
    with pytest.raises(SearchError, match="empty"):
        check_pool([])
    with pytest.raises(SearchError, match="a more than once"):
        check_pool(["a", "b", "a"])


def scores(values, *, pool, dims=None):
    """Evaluate from a mapping of subset to mean; keeps what was asked, batch by batch."""
    batches = []

    def evaluate(subsets):
        batches.append(list(subsets))
        return [
            Row(subset=s, n_dims=sum((dims or {}).get(name, 1) for name in s), folds={"auroc": (values[s],)})
            for s in subsets
        ]

    return evaluate, batches


def asked(strategy, pool, values, **options):
    evaluate, batches = scores(values, pool=pool, **options)
    strategy.run(pool, evaluate)
    return {subset for batch in batches for subset in batch}


ABCD = tuple("abcd")


def table(**given):
    return {subset: given.get("".join(subset), 0.5) for subset in all_subsets(ABCD)}


def test_greedy_goes_on_while_an_encoder_helps_and_scores_all_beside():
    values = table(a=0.7, b=0.6, c=0.65, d=0.6, ab=0.7, ac=0.72, ad=0.71, abc=0.72, acd=0.7)
    singles = {("a",), ("b",), ("c",), ("d",)}
    expected = singles | {ABCD} | {("a", "b"), ("a", "c"), ("a", "d")} | {("a", "b", "c"), ("a", "c", "d")}
    assert asked(make_strategy("greedy"), ABCD, values) == expected
    assert asked(make_strategy("greedy", max_encoders=1), ABCD, values) == singles | {ABCD}
    assert asked(make_strategy("greedy", max_encoders=2), ABCD, values) == {s for s in expected if len(s) != 3}


def test_greedy_breaks_ties_by_fewer_dimensions_then_pool_order():
    tied = table(a=0.7, b=0.7)
    assert ("a", "c") in asked(make_strategy("greedy"), ABCD, tied)
    assert ("a", "c") not in asked(make_strategy("greedy"), ABCD, tied, dims={"a": 2})


def test_a_beam_finds_a_pair_of_weak_encoders_that_greedy_misses():
    values = table(a=0.8, b=0.6, c=0.55, bc=0.95)
    assert ("b", "c") not in asked(make_strategy("greedy"), ABCD, values)
    assert ("b", "c") in asked(make_strategy("beam"), ABCD, values)
    assert ("b", "c") not in asked(Walk(name="narrow", metric="auroc", patience=2), ABCD, values)


def test_a_beam_stops_after_sizes_without_a_better_subset():
    pool = tuple("abcdef")
    values = {subset: 0.9 if len(subset) == 1 else 0.5 for subset in all_subsets(pool)}
    for patience in (1, 2, 3):
        beam = Walk(name="beam", metric="auroc", width=2, patience=patience)
        sizes = {len(subset) for subset in asked(beam, pool, values)}
        assert sizes == {*range(1, patience + 2), 6}


def test_a_backward_walk_goes_on_while_leaving_an_encoder_out_is_no_worse():
    values = table(a=0.9, b=0.6, c=0.6, d=0.6, abcd=0.8, abd=0.8, abc=0.79, bd=0.85)
    walk = Walk(name="walk", metric="auroc", backward=True)
    found = asked(walk, ABCD, values)
    assert {("a", "b", "c"), ("a", "b", "d"), ("a", "c", "d"), ("b", "c", "d")} <= found
    assert {("b", "d"), ("a", "b"), ("a", "d")} <= found
    assert ("b", "c") not in found
    limited = Walk(name="walk", metric="auroc", backward=True, max_encoders=2)
    assert {len(subset) for subset in asked(limited, ABCD, values)} == {1, 2, 4}


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    width=st.integers(1, 3),
    patience=st.integers(1, 3),
    backward=st.booleans(),
    largest=st.none() | st.integers(1, 6),
)
def test_the_plan_of_a_walk_is_enough_for_every_size(data, width, patience, backward, largest):
    pool = tuple("abcdef")[: data.draw(st.integers(1, 6))]
    random = data.draw(st.randoms(use_true_random=False))
    values = {subset: random.choice([0.5, 0.6, 0.7, 0.8]) for subset in all_subsets(pool)}
    walk = Walk(name="w", metric="auroc", width=width, patience=patience, backward=backward, max_encoders=largest)
    planned, found = walk.subsets(pool), asked(walk, pool, values)
    assert len(set(planned)) == len(planned)
    for size in range(1, len(pool) + 1):
        assert sum(len(s) == size for s in found) <= sum(len(s) == size for s in planned)
    assert pool in found
    if largest is not None:
        assert all(len(s) <= largest for s in found if s != pool)
    # The greedy path can be read off whatever walk it was.
    board, every = (
        Leaderboard(
            encoders=pool,
            metrics=("auroc",),
            rows=tuple(Row(subset=s, n_dims=len(s), folds={"auroc": (values[s],)}) for s in subsets),
            n_train=(1,),
            n_test=(1,),
        )
        for subsets in (found, Exhaustive(max_encoders=largest).subsets(pool))
    )
    allowed = None if largest is None else lambda row: row.n_encoders <= largest
    paths = [[row.subset for row in greedy_path(b, eligible=allowed)] for b in (board, every)]
    assert paths[0] == paths[1]


def test_the_plan_of_a_walk_both_ways_counts_both():
    walk = Walk(name="walk", metric="auroc", backward=True)
    sizes = [len(subset) for subset in walk.subsets(tuple("abcdef"))]
    assert [sizes.count(size) for size in range(1, 7)] == [6, 5 + 3, 4 + 4, 3 + 5, 6, 1]


def test_walks_ask_in_batches():
    evaluate, batches = scores(table(a=0.9), pool=ABCD)
    make_strategy("greedy").run(ABCD, evaluate)
    assert [len(batch) for batch in batches] == [5, 3]


def test_listed_subsets_are_scored_in_combination_order_and_nothing_else():
    listed = Listed([("c", "a"), ("b",), ("a", "c")])
    assert listed.subsets(ABCD) == [("b",), ("a", "c")]
    assert asked(listed, ABCD, table()) == {("b",), ("a", "c")}
    with pytest.raises(SearchError, match="unknown encoders z"):
        Listed([("z",)]).subsets(ABCD)
    with pytest.raises(SearchError, match="No subset was listed"):
        Listed([]).subsets(ABCD)


def test_a_limit_on_the_size_keeps_all_encoders_for_comparison():
    assert Exhaustive(max_encoders=2).subsets(ABCD) == [*all_subsets(ABCD, 2), ABCD]
    assert Exhaustive(max_encoders=9).subsets(ABCD) == all_subsets(ABCD)
    with pytest.raises(SearchError, match="at most 3 may be chosen"):
        AllEncoders(max_encoders=3).subsets(ABCD)
    for name in STRATEGIES:
        with pytest.raises(SearchError, match="at most 0 encoders"):
            make_strategy(name, max_encoders=0).subsets(ABCD)


def test_a_screen_scores_everything_up_to_15_encoders_and_walks_above():
    assert screening_strategy(15, "auroc") == Exhaustive()
    walk = screening_strategy(16, "accuracy", max_encoders=None)
    assert (walk.metric, walk.backward, walk.width) == ("accuracy", True, 4)
    assert screening_strategy(20, "auroc", max_encoders=3) == Exhaustive(max_encoders=3)
    assert screening_strategy(60, "auroc", max_encoders=7).max_encoders == 7


def test_a_walk_over_60_encoders_takes_seconds():
    pool = tuple(f"e{i:02d}" for i in range(60))
    worth = {name: (7 * i % 60) / 60 for i, name in enumerate(pool)}

    class Additive:
        encoders, metrics, n_train, n_test, keeps_predictions = pool, ("auroc",), (8,), (2,), False

        def n_dims(self, subset):
            return len(subset)

        def score(self, subset):
            from biofuse.search.scorers import FoldScores

            total = sum(worth[name] for name in subset)
            return FoldScores(folds={"auroc": (total - len(subset) ** 2 / 20,)})

    start = time.perf_counter()
    board = run_search(pool, screening_strategy(60, "auroc"), Additive())
    assert time.perf_counter() - start < 20
    by_worth = sorted(pool, key=worth.get, reverse=True)
    gains = [worth[name] - (2 * size + 1) / 20 for size, name in enumerate(by_worth)]
    expected = {name for name, gain in zip(by_worth, gains, strict=True) if gain > 0}
    assert set(board.best_first()[0].subset) == expected


def test_subsets_are_counted_without_being_made():
    for largest in (None, 1, 3, 9):
        assert count_subsets(6, largest) == len(all_subsets(range(6), largest))
