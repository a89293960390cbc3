from dataclasses import replace

import pytest

from biofuse.core.errors import SearchError
from biofuse.search.cost import Cost, check_cost, duration, estimate_cost
from biofuse.search.runner import run_search
from biofuse.search.scorer import FoldPart
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
    assert cost == Cost(n_subsets=3, n_fits=6, seconds_first_fit=600.0, seconds=(300 + 300 + 600) * 2 / 2, workers=2)
    assert "3 subsets, 6 fits on 2 processes: about 20 minutes" in str(cost)
    nothing, none = estimate_cost(Timed(), [], workers=2)
    assert (nothing.seconds, none) == (0.0, None)


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


def test_durations_read_well():
    assert [duration(s) for s in (0.5, 42, 300, 7200, 200000)] == [
        "0.50 seconds", "42 seconds", "5 minutes", "2 hours", "2.31 days",
    ]  # fmt: skip
