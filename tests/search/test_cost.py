from dataclasses import replace

import pytest

from biofuse.core.errors import SearchError
from biofuse.search.runner import START_SECONDS, Cost, check_cost, estimate_cost, run_search
from biofuse.search.scorers import FoldPart
from biofuse.search.strategies import Exhaustive


class Timed:
    """Fits that say they take a second per column."""

    encoders, metrics, n_train, n_test, keeps_predictions = ("a", "b"), ("auroc",), (8, 8), (2, 2), False

    def n_dims(self, subset):
        return 3 * len(subset)

    def score(self, _subset):
        raise AssertionError

    def score_fold(self, subset, _fold):
        return FoldPart(values={"auroc": 0.5}, seconds=float(self.n_dims(subset)) * 100)


def test_cost_is_estimated_from_a_timed_fit():
    cost, first = estimate_cost(Timed(), [("a",), ("b",), ("a", "b")], workers=2)
    assert first[0] == ("a", "b")
    expected = (300 + 300 + 600) * 2 / 2 + START_SECONDS
    assert cost == Cost(n_subsets=3, n_fits=6, seconds_first_fit=600.0, seconds=expected, workers=2)
    assert "3 subsets, 6 fits on 2 processes: about 20 minutes" in str(cost)
    nothing, none = estimate_cost(Timed(), [], workers=2)
    assert (nothing.seconds, none) == (0.0, None)


def test_a_scorer_may_know_better_how_long_its_subsets_take():
    class Knowing(Timed):
        def relative_work(self, subset):
            return {("a",): 4.0, ("b",): 1.0, ("a", "b"): 2.0}[subset]

    cost, first = estimate_cost(Knowing(), [("a",), ("b",), ("a", "b")], workers=1)
    assert first[0] == ("a",)  # the one that takes longest
    assert cost.seconds == pytest.approx(300 * 2 * 7 / 4)


def test_quick_fits_are_timed_more_than_once():
    class Unsteady(Timed):
        def __init__(self, *times):
            self.times = iter(times)

        def score_fold(self, _subset, _fold):
            return FoldPart(values={"auroc": 0.5}, seconds=next(self.times))

    for times, expected in (((9.0,), 9.0), ((2.0, 0.5), 0.5), ((2.0, 0.01, 0.03, 0.8, 0.02, 0.01, 0.02), 0.02)):
        cost, _ = estimate_cost(Unsteady(*times), [("a",)], workers=1)
        assert cost.seconds_first_fit == expected


def test_more_than_an_hour_is_asked_for():
    cost = Cost(n_subsets=1, n_fits=1, seconds_first_fit=1.0, seconds=3601.0, workers=1)
    with pytest.raises(SearchError, match="about 60 minutes") as error:
        check_cost(cost, yes=False)
    assert "--yes" in error.value.remedy
    check_cost(cost, yes=True)
    check_cost(replace(cost, seconds=3599.0), yes=False)

    class Slower(Timed):
        def score_fold(self, subset, fold):
            return replace(super().score_fold(subset, fold), seconds=5000.0)

    told = []
    with pytest.raises(SearchError, match="would take about"):
        run_search(("a", "b"), Exhaustive(), Slower(), workers=1, announce=told.append)
    assert told[0].n_fits == 6
    assert len(run_search(("a", "b"), Exhaustive(), Slower(), workers=1, yes=True)) == 3
