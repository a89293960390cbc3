from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from biofuse.core.errors import SearchError, UndefinedMetricError
from biofuse.evaluation.comparison import corrected_standard_error
from biofuse.search.attribution import Attribution, attribute
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets


def board(pool, value, *, n_folds=5, metric="auroc", n_train=80, n_test=20):
    """``value`` gives the fold values (or one for all folds) of a subset; None leaves it out."""
    found = {subset: value(subset) for subset in all_subsets(tuple(pool))}
    return Leaderboard(
        encoders=tuple(pool),
        metrics=(metric,),
        rows=tuple(
            Row(subset=subset, n_dims=1, folds={metric: tuple(np.broadcast_to(values, n_folds))})
            for subset, values in found.items()
            if values is not None
        ),
        n_train=(n_train,) * n_folds,
        n_test=(n_test,) * n_folds,
    )


def random_values(m, n_folds, seed):
    random = np.random.default_rng(seed)
    pool = "abcdefgh"[:m]
    return pool, {subset: random.uniform(0.4, 1, n_folds) for subset in all_subsets(tuple(pool))}


def by_permutations(pool, mean, empty):
    """Shapley values by their definition: mean gain over all orders in which encoders may join."""
    total = dict.fromkeys(pool, 0.0)
    for order in permutations(pool):
        before = empty
        for size in range(1, len(pool) + 1):
            after = mean[tuple(sorted(order[:size]))]
            total[order[size - 1]] += after - before
            before = after
    return [total[name] / factorial(len(pool)) for name in pool]


@pytest.mark.parametrize("m", [1, 2, 4])
def test_equals_brute_force_over_permutations(m):
    pool, values = random_values(m, 5, seed=m)
    found = attribute(board(pool, values.get), empty=0.5)
    mean = {subset: row.mean() for subset, row in values.items()}
    assert found.shapley == pytest.approx(by_permutations(pool, mean, 0.5), abs=1e-12)
    assert found.alone == pytest.approx([mean[(name,)] for name in pool])
    everything = tuple(pool)
    if m > 1:
        rest = [tuple(other for other in pool if other != name) for name in pool]
        assert found.added_last == pytest.approx([mean[everything] - mean[subset] for subset in rest], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(m=st.integers(1, 7), n_folds=st.integers(1, 4), seed=st.integers(0, 2**32 - 1), empty=st.floats(0, 1))
def test_shapley_values_add_up_from_guessing_to_all_encoders(m, n_folds, seed, empty):
    pool, values = random_values(m, n_folds, seed)
    found = attribute(board(pool, values.get, n_folds=n_folds), empty=empty)
    assert sum(found.shapley) == pytest.approx(values[tuple(pool)].mean() - empty, abs=1e-12)
    assert (found.empty, found.full) == pytest.approx((empty, values[tuple(pool)].mean()))


@settings(max_examples=40, deadline=None)
@given(m=st.integers(2, 6), seed=st.integers(0, 2**32 - 1), place=st.integers(0, 5))
def test_an_encoder_that_never_changes_anything_gets_nothing(m, seed, place):
    pool, values = random_values(m, 4, seed)
    dummy = pool[place % m]

    def value(subset):
        rest = tuple(name for name in subset if name != dummy)
        return values[rest] if rest else 0.5

    found = attribute(board(pool, value, n_folds=4))
    at = pool.index(dummy)
    assert (found.shapley[at], found.marginal[at], found.added_last[at]) == pytest.approx((0, 0, 0), abs=1e-12)
    assert (found.low[at], found.high[at]) == pytest.approx((0, 0), abs=1e-12)
    assert np.delete(found.interaction[at], at) == pytest.approx(np.zeros(m - 1), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(2, 6), seed=st.integers(0, 2**32 - 1))
def test_encoders_that_can_stand_for_each_other_get_the_same(m, seed):
    pool, values = random_values(m, 4, seed)
    swap = {pool[0]: pool[1], pool[1]: pool[0]}

    def value(subset):
        other = tuple(sorted(swap.get(name, name) for name in subset))
        return (values[subset] + values[other]) / 2

    found = attribute(board(pool, value, n_folds=4))
    for column in (found.shapley, found.low, found.high, found.marginal, found.added_last, found.alone):
        assert column[0] == pytest.approx(column[1], abs=1e-12)
    assert found.interaction[0][2:] == pytest.approx(found.interaction[1][2:], abs=1e-12)


def test_the_order_of_the_pool_does_not_matter():
    pool, values = random_values(5, 4, seed=0)
    turned = pool[::-1]
    one = attribute(board(pool, values.get, n_folds=4))
    other = attribute(board(turned, lambda subset: values[tuple(sorted(subset))], n_folds=4))
    assert other.shapley[::-1] == pytest.approx(one.shapley, abs=1e-12)
    assert np.array(other.interaction)[::-1, ::-1] == pytest.approx(np.array(one.interaction), abs=1e-12, nan_ok=True)


def test_mean_marginal_gain_counts_every_subset_the_same():
    pool, values = random_values(4, 3, seed=1)
    found = attribute(board(pool, values.get, n_folds=3), empty=0.5)
    mean = {(): 0.5} | {subset: row.mean() for subset, row in values.items()}
    gains = [mean[tuple(sorted((*subset, "c")))] - mean[subset] for subset in mean if "c" not in subset]
    assert len(gains) == 8
    assert found.marginal[2] == pytest.approx(np.mean(gains), abs=1e-12)


def test_interaction_is_that_of_grabisch_and_roubens():
    pool, values = random_values(5, 2, seed=3)
    found = attribute(board(pool, values.get, n_folds=2), empty=0.5)
    mean = {(): 0.5} | {subset: row.mean() for subset, row in values.items()}
    expected = 0.0
    for subset in mean:
        if not {"b", "d"} & set(subset):
            size, m = len(subset), 5
            weight = factorial(m - size - 2) * factorial(size) / factorial(m - 1)

            def v(*more, subset=subset):
                return mean[tuple(sorted((*subset, *more)))]

            expected += weight * (v("b", "d") - v("b") - v("d") + v())
    assert found.interaction[1][3] == found.interaction[3][1] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(np.diag(found.interaction)).all()


def test_intervals_are_corrected_t_intervals_of_the_folds():
    pool, values = random_values(3, 6, seed=4)
    found = attribute(board(pool, values.get, n_folds=6), empty=0.5, confidence=0.9)
    per_fold = [
        by_permutations(pool, {subset: row[fold] for subset, row in values.items()}, 0.5)[1] for fold in range(6)
    ]
    reach = t.ppf(0.95, 5) * corrected_standard_error(per_fold, 80, 20)
    mean = np.mean(per_fold)
    assert (found.low[1], found.shapley[1], found.high[1]) == pytest.approx((mean - reach, mean, mean + reach))
    single = attribute(board(pool, lambda subset: values[subset][:1], n_folds=1))
    assert np.isnan(single.low).all()
    assert np.isfinite(single.shapley).all()


def test_it_says_who_complements_whom_and_who_is_redundant():
    wobble = np.array([0.001, -0.001, 0.002, -0.002, 0.0])

    def value(subset):
        # a and b need each other; c and d know the same.
        return 0.5 + 0.3 * ({"a", "b"} <= set(subset)) + 0.1 * bool({"c", "d"} & set(subset)) + wobble

    found = attribute(board("abcd", value))
    assert [(p.first, p.second) for p in (found.pairs[0], found.pairs[-1])] == [("a", "b"), ("c", "d")]
    first, second = found.complements()
    assert first.startswith("a and b complement each other (interaction +0.3")
    assert second.startswith("c and d know much of the same (interaction -0.1")
    assert "add up, as far as these folds can tell" in str(found.pairs[2])
    frame = found.to_frame()
    assert list(frame.columns) == ["encoder", "shapley", "low", "high", "marginal", "added_last", "alone"]
    assert list(frame["encoder"]) == ["a", "b", "c", "d"]
    assert frame["shapley"].is_monotonic_decreasing
    assert str(found).startswith("Shapley values of AUROC, from 0.5000 to 0.9000: a +0.1500, b +0.1500")


def test_of_a_loss_the_contribution_is_what_it_saves():
    found = attribute(board("ab", lambda subset: 1.0 - 0.2 * len(subset), metric="log_loss"), empty=1.0)
    assert found.shapley == pytest.approx([0.2, 0.2])
    assert (found.empty, found.full) == pytest.approx((-1.0, -0.6))


def test_guessing_must_be_known():
    leaderboard = board("ab", lambda _: 0.8, metric="accuracy")
    with pytest.raises(SearchError, match="What guessing scores is not known for accuracy"):
        attribute(leaderboard)
    assert sum(attribute(leaderboard, empty=0.6).shapley) == pytest.approx(0.2)
    assert attribute(board("ab", lambda _: 0.8)).empty == 0.5


def test_folds_in_which_a_score_is_undefined_are_left_out():
    pool, values = random_values(3, 4, seed=5)
    holes = {subset: np.append(row, np.nan) for subset, row in values.items()}
    found = attribute(board(pool, holes.get, n_folds=5))
    assert found.n_folds == 4
    assert found.shapley == pytest.approx(attribute(board(pool, values.get, n_folds=4)).shapley)
    with pytest.raises(UndefinedMetricError, match="undefined for some subset in every fold"):
        attribute(board("ab", lambda _: np.nan))


def test_an_incomplete_leaderboard_is_refused():
    pool, values = random_values(4, 5, seed=6)
    with pytest.raises(SearchError, match="all 15 subsets of 4 encoders; 9 are there") as error:
        attribute(board(pool, lambda subset: values[subset] if len(subset) != 2 else None))
    assert "exhaustively" in error.value.remedy


def test_it_is_read_back_from_json_as_it_was():
    pool, values = random_values(3, 1, seed=7)
    found = attribute(board(pool, values.get, n_folds=1))  # one fold has no interval: NaN
    assert np.isnan(found.low).all()
    written = found.model_dump_json()
    assert "NaN" not in written
    assert Attribution.model_validate_json(written) == found


def test_fifteen_encoders_take_a_moment():
    random = np.random.default_rng(0)
    found = attribute(board("abcdefghijklmno", lambda _: random.random(3), n_folds=3))
    assert sum(found.shapley) == pytest.approx(found.full - 0.5)
