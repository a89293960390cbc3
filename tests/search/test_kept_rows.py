import numpy as np

from biofuse.search.closed_form import count_subsets, kept_in_folds, positions, rows_to_keep
from biofuse.search.problem import ValidationPlan


def make_plan(ids, repeats=1, n_folds=4):
    folds = []
    for repeat in range(repeats):
        where = np.array([hash((int(name[1:]), repeat)) % n_folds for name in ids])
        folds += [(np.flatnonzero(where != f), np.flatnonzero(where == f)) for f in range(n_folds)]
    return ValidationPlan.cross_validation(folds, ids=ids, n_repeats=repeats)


def names(n):
    return np.array([f"s{i:04d}" for i in range(n)], dtype=object)


def test_all_rows_are_kept_where_they_fit():
    plan = make_plan(names(100), repeats=2)
    size = 200 * 3 * 4 * 7
    assert rows_to_keep(plan, n_subsets=7, n_classes=3, keep_bytes=size).all()
    assert not rows_to_keep(plan, n_subsets=7, n_classes=3, keep_bytes=size - 1).all()


def test_what_is_kept_fits_and_is_most_of_what_would():
    plan = make_plan(names(400), repeats=2)
    limit = 300 * 3 * 4 * 7
    kept = rows_to_keep(plan, n_subsets=7, n_classes=3, keep_bytes=limit)
    assert sum(map(len, kept_in_folds(plan, kept))) == 300
    assert kept.sum() == 150  # the same rows in both repeats
    assert all(len(rows) > 20 for rows in kept_in_folds(plan, kept))


def test_the_choice_hangs_on_ids_alone():
    ids = names(300)
    order = np.random.default_rng(0).permutation(300)
    one = rows_to_keep(make_plan(ids), n_subsets=7, n_classes=2, keep_bytes=7000)
    other = rows_to_keep(make_plan(ids[order]), n_subsets=7, n_classes=2, keep_bytes=7000)
    fewer = rows_to_keep(make_plan(ids, n_folds=3), n_subsets=7, n_classes=2, keep_bytes=3500)
    assert set(ids[one]) == set(ids[order][other])
    assert set(ids[fewer]) < set(ids[one])
    where = np.flatnonzero(one)
    assert where.min() < 30  # from everywhere in the table
    assert where.max() > 270


def test_rows_never_held_out_take_no_room():
    ids = names(100)
    plan = ValidationPlan.cross_validation([(np.arange(50), np.arange(50, 100))], ids=ids)
    kept = rows_to_keep(plan, n_subsets=1, n_classes=1, keep_bytes=4 * 20)
    assert len(kept_in_folds(plan, kept)[0]) == 20
    assert rows_to_keep(plan, n_subsets=1, n_classes=1, keep_bytes=4 * 50).all()


def test_positions_are_those_among_the_held_out():
    held_out, kept = np.array([4, 1, 3]), np.array([True, False, True, True, True])
    assert positions(held_out, kept).tolist() == [0, 2]
    assert positions(held_out[[0, 2]], kept) is None


def test_large_pools_are_counted_as_the_largest_that_is_searched_whole():
    assert count_subsets("abc", most=15) == 7
    assert count_subsets("abcd" * 10, most=15) == 2**15 - 1
