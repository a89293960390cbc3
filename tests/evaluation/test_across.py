"""Ranks over data sets: equal to autorank 1.3.0 and scikit-posthocs 0.17.1 on published scores, and by hand."""

import numpy as np
import pytest
from scipy import stats

from biofuse.core.errors import AlignmentError
from biofuse.evaluation.across import MeanRanks, signed_ranks
from biofuse.studies.published import published_results

EXPECTED = {
    # metric: Friedman's p, critical difference, mean ranks by autorank; the first and last of each of its groups, best
    # first; number of pairs whose p of Nemenyi's test by scikit-posthocs is below .05
    "auroc": (
        0.0006085604216636999, 4.358165597832117,
        [4.166667, 4.583333, 5.125, 5.25, 5.25, 5.375, 5.458333, 6.041667, 6.458333, 8.958333, 9.333333],
        ((0, 8), (2, 10)), 4,
    ),
    "accuracy": (
        4.340811466390132e-05, 4.358165597832117,
        [2.583333, 4.25, 5.041667, 5.25, 5.791667, 5.833333, 6.208333, 6.25, 6.958333, 8.75, 9.083333],
        ((0, 7), (1, 8), (2, 10)), 5,
    ),
}  # fmt: skip

SIGNED_RANKS = {
    # the first of the methods against the ten others: p by SciPy alone, and after Holm's correction by statsmodels
    "auroc": (
        [1.0, 0.339844, 0.62207, 0.733398, 0.791016, 0.380371, 0.03418, 0.001953, 0.196289, 0.519531],
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.307617, 0.019531, 1.0, 1.0],
    ),
    "accuracy": (
        [0.539062, 0.044922, 0.764648, 0.233398, 0.339355, 0.909668, 0.092285, 0.026855, 0.949219, 0.050781],
        [1.0, 0.404297, 1.0, 1.0, 1.0, 1.0, 0.645996, 0.268555, 1.0, 0.40625],
    ),
}


def published(metric):
    results = [each for each in published_results().results if len(each.scores(metric)) == 12]
    flags = published_results().datasets
    return [each.method for each in results], np.array([[each.scores(metric)[f] for f in flags] for each in results])


@pytest.mark.parametrize("metric", EXPECTED)
def test_ranks_and_groups_are_those_of_an_independent_computation(metric):
    p_value, difference, ranks, groups, n_apart = EXPECTED[metric]
    found = MeanRanks.of(*published(metric))
    assert found.p_value == pytest.approx(p_value, rel=1e-9)
    assert found.critical_difference == pytest.approx(difference, rel=1e-4)  # theirs is from a table of quantiles
    np.testing.assert_allclose(found.mean_ranks, ranks, atol=1e-6)
    assert found.groups == groups
    gaps = found.mean_ranks[None] - found.mean_ranks[:, None]
    assert int((gaps > found.critical_difference).sum()) == n_apart
    beyond = [name for name, rank in zip(found.names, ranks, strict=True) if rank - ranks[0] > difference]
    assert f"by more than the critical difference: {', '.join(beyond)}. Critical" in str(found)


@pytest.mark.parametrize("metric", SIGNED_RANKS)
def test_signed_ranks_are_those_of_an_independent_computation(metric):
    names, scores = published(metric)
    found = signed_ranks(scores[0], scores[1:], names[1:])
    alone, holm = SIGNED_RANKS[metric]
    np.testing.assert_allclose([each.p_value for each in found], alone, atol=1e-6)
    np.testing.assert_allclose([each.p_holm for each in found], holm, atol=1e-6)
    assert [each.wins + each.ties + each.losses for each in found] == [12] * 10


def test_where_friedmans_test_finds_nothing_everything_is_one_group():
    scores = np.array([[0.9, 0.8, 0.7], [0.8, 0.9, 0.7], [0.7, 0.8, 0.9], [0.6, 0.9, 0.8]])
    found = MeanRanks.of("abcd", scores)
    assert found.p_value == pytest.approx(stats.friedmanchisquare(*scores).pvalue)
    assert found.p_value > 0.05
    assert found.groups == ((0, 3),)


def test_equal_methods_are_equal_and_what_cannot_be_ranked_is_refused():
    same = MeanRanks.of("abc", np.full((3, 4), 0.5))
    assert (same.mean_ranks.tolist(), same.p_value, same.groups) == ([2, 2, 2], 1.0, ((0, 2),))
    assert signed_ranks(np.zeros(4), np.zeros((1, 4)), ["b"])[0].p_value == 1
    for scores in (np.zeros((1, 4)), np.zeros((3, 2)), np.full((3, 4), np.nan)):
        with pytest.raises(AlignmentError, match="cannot be ranked"):
            MeanRanks.of("abc"[: len(scores)], scores)
