from itertools import combinations

import pytest

from biofuse.core.errors import SearchError
from biofuse.search.strategies import AllEncoders, Exhaustive, make_strategy
from biofuse.search.subsets import check_pool, in_pool_order


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
    assert "at most 15" in error.value.remedy


def test_all_scores_the_pool_and_nothing_else():
    asked = []
    AllEncoders().run(("a", "b"), lambda subsets: asked.extend(subsets) or [])
    assert asked == [("a", "b")]


def test_names():
    assert make_strategy("exhaustive").name == "exhaustive"
    assert make_strategy("all").name == "all"
    with pytest.raises(SearchError, match="no search 'grid'"):
        make_strategy("grid")


def test_subsets_are_named_in_pool_order():
    assert in_pool_order(("b", "a", "c"), ["a", "b"]) == ("b", "a")
    for bad in ([], ["x"], ["a", "a"]):
        with pytest.raises(SearchError):
            in_pool_order(("a", "b"), bad)
    with pytest.raises(SearchError, match="empty"):
        check_pool([])
    with pytest.raises(SearchError, match="a more than once"):
        check_pool(["a", "b", "a"])
