import numpy as np
import pytest

from biofuse.core.errors import SearchError
from biofuse.search.leaderboard import all_subsets, combination_order
from biofuse.search.rules import finalists, greedy_path, select
from biofuse.search.runner import run_search
from biofuse.search.scorers import TableScorer
from biofuse.search.strategies import Exhaustive, Listed, make_strategy

POOL = tuple("abcdef")
FOLDS = {"n_train": [80] * 4, "n_test": [20] * 4}


def screen(seed=0, *, n_folds=4, strategy=None, pool=POOL):
    random = np.random.default_rng(seed)
    table = {
        subset: {"auroc": random.normal(0.8, 0.05) + random.normal(0, 0.01, n_folds)} for subset in all_subsets(pool)
    }
    scorer = TableScorer(pool, table, n_train=[80] * n_folds, n_test=[20] * n_folds)
    return run_search(pool, strategy or Exhaustive(), scorer)


@pytest.mark.parametrize("seed", range(5))
def test_finalists_are_the_best_and_all_that_they_are_compared_with(seed):
    board = screen(seed)
    ranked = [row.subset for row in board.best_first()]
    sizes = {size: next(s for s in ranked if len(s) == size) for size in range(1, 7)}
    companions = {(name,) for name in POOL} | {POOL} | {row.subset for row in greedy_path(board)}
    for count in (1, 5, 16):
        found = finalists(board, count=count)
        expected = set(ranked[:count]) | set(sizes.values()) | {select(board).chosen.subset} | companions
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
    board = run_search(tuple("abc"), Exhaustive(), TableScorer("abc", table, dims=dims, **FOLDS))
    assert select(board).chosen.subset == ("a", "b")
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
    board = run_search(POOL, Exhaustive(), TableScorer(POOL, table, n_train=[8, 8], n_test=[2, 2]))
    assert ("a", "b") in finalists(board, count=9, metric="log_loss")
    assert sum(len(s) == 5 for s in finalists(board, count=7)) == 6
    assert sum(len(s) == 5 for s in finalists(board, count=7, metric="log_loss")) == 1


def test_refitted_finalists_are_chosen_from_with_the_screen_beside(tiny):
    scorer = tiny.scorer(*tiny.planted(120))
    screened = run_search(scorer.encoders, Exhaustive(), scorer, workers=1)
    chosen = finalists(screened, count=3)
    assert len(chosen) < 20
    refitted = run_search(scorer.encoders, Listed(chosen), scorer, workers=1)
    assert [row.subset for row in refitted] == chosen
    found = select(refitted, screen=screened)
    assert found.chosen.subset == ("a", "b") == select(screened).chosen.subset
    assert found.greedy.subset == greedy_path(screened)[-1].subset
    assert found.best_single is not None
    assert found.all.subset == scorer.encoders
