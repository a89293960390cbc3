import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import SearchError, advised
from biofuse.core.target import Task
from biofuse.data.splits import ValidationPlan
from biofuse.search.closed_form import ClosedFormScorer, Size
from biofuse.search.screen import expect, kept_in_folds, plan_screen, reduction_loss, rows_to_keep

NINE = (512, 512, 512, 768, 768, 1024, 1408, 1536, 1536)
GIB = 2**30


def plan(n, *, dims=NINE, classes=2, workers=2, memory_limit=12 * GIB, reduce="auto"):
    size = Size(
        dims=dims,
        n_train=(n * 4 // 5,) * 5,
        n_test=(n // 5,) * 5,
        n_columns=1 if classes == 2 else classes,
        n_weightings=1,
        n_subsets=2 ** len(dims) - 1,
    )
    return plan_screen(size, workers=workers, memory_limit=memory_limit, reduce=reduce)


def test_few_rows_are_screened_whole_by_products_of_rows():
    found = plan(546)
    assert (found.mode, found.reduce_to, found.n_subsets) == ("dual", None, 511)
    assert str(found).startswith("Screen: 511 subsets by products of rows, about 0.")


def test_many_rows_are_reduced_as_little_as_will_do():
    found = plan(1700, classes=7)
    assert (found.mode, found.reduce_to) == ("primal", 128)
    assert "by products of columns, each block reduced to 128 components" in str(found)
    many = plan(89_996, classes=9)
    assert (many.mode, many.reduce_to, many.penalties) == ("primal", 128, "generalised")
    assert "128 components, penalties by generalised cross-validation" in str(many)
    assert many.memory < 8 * GIB


def test_nothing_is_reduced_where_that_is_asked_for():
    for n, chosen in ((2600, "leave_one_out"), (89_996, "generalised")):
        found, reduced = plan(n, reduce="none", memory_limit=900 * GIB), plan(n, memory_limit=900 * GIB)
        assert (found.mode, found.reduce_to, found.penalties) == ("dual" if n == 2600 else "primal", None, chosen)
        assert found.operations > 2 * reduced.operations
        assert found.memory > reduced.memory


@pytest.mark.parametrize(("n", "dims"), [(300, (200, 150)), (300, (20, 30)), (2600, (20, 30))])
def test_what_a_screen_takes_is_told_by_the_speed_of_the_machine(n, dims):
    size = Size(dims=dims, n_train=(n,) * 2, n_test=(n,) * 2, n_columns=1, n_weightings=1, n_subsets=3)
    found = expect(size, plan_screen(size, reduce="none"), workers=1)
    assert found.scoring.n_fits == 6
    assert 0 < found.preparing < 60
    assert 0 < found.scoring.seconds < 60
    more = Size(dims=dims, n_train=(n,) * 2, n_test=(n,) * 2, n_columns=1, n_weightings=1, n_subsets=3000)
    assert expect(more, plan_screen(more, reduce="none"), workers=1).scoring.seconds > 10 * found.scoring.seconds


def test_how_far_blocks_are_reduced_does_not_depend_on_the_cores():
    for n in (546, 1500, 7007, 89_996):
        assert len({plan(n, workers=workers, memory_limit=2000 * GIB).reduce_to for workers in (1, 2, 64)}) == 1


@pytest.mark.slow
def test_narrow_blocks_are_not_reduced_to_more_than_they_have():
    assert plan(2_000_000, dims=(32, 48, 64), memory_limit=2000 * GIB).reduce_to is None
    assert plan(50_000_000, dims=(32, 48, 100), memory_limit=9000 * GIB).reduce_to == 64


def test_too_little_memory_is_refused_with_a_remedy():
    small = plan(7007, memory_limit=2 * GIB)
    assert small.reduce_to is not None  # what fits is taken
    assert small.memory <= 2 * GIB
    with pytest.raises(SearchError, match="GiB of memory") as error:
        plan(89_996, memory_limit=GIB // 100)
    assert advised([error.value.remedy]) == {"reduce": "auto"}
    # Where one process would do, many may still be too many.
    enough = plan(546, workers=1).memory
    assert plan(546, workers=1, memory_limit=enough).memory == enough
    with pytest.raises(SearchError, match="GiB of memory"):
        plan(546, workers=64, memory_limit=enough)


def fold_plan(ids, repeats=1, n_folds=4):
    folds = []
    for repeat in range(repeats):
        where = np.array([hash((int(name[1:]), repeat)) % n_folds for name in ids])
        folds += [(np.flatnonzero(where != f), np.flatnonzero(where == f)) for f in range(n_folds)]
    return ValidationPlan.cross_validation(folds, ids=ids, n_repeats=repeats)


def names(n):
    return np.array([f"s{i:04d}" for i in range(n)], dtype=object)


def test_all_rows_are_kept_where_they_fit():
    plan = fold_plan(names(100), repeats=2)
    size = 200 * 3 * 4 * 7
    assert rows_to_keep(plan, n_subsets=7, n_classes=3, keep_bytes=size).all()
    assert not rows_to_keep(plan, n_subsets=7, n_classes=3, keep_bytes=size - 1).all()


def test_what_is_kept_fits_and_is_most_of_what_would():
    plan = fold_plan(names(400), repeats=2)
    limit = 300 * 3 * 4 * 7
    kept = rows_to_keep(plan, n_subsets=7, n_classes=3, keep_bytes=limit)
    assert sum(map(len, kept_in_folds(plan, kept))) == 300
    assert kept.sum() == 150  # the same rows in both repeats
    assert all(len(rows) > 20 for rows in kept_in_folds(plan, kept))


def test_the_choice_hangs_on_ids_alone():
    ids = names(300)
    order = np.random.default_rng(0).permutation(300)
    one = rows_to_keep(fold_plan(ids), n_subsets=7, n_classes=2, keep_bytes=7000)
    other = rows_to_keep(fold_plan(ids[order]), n_subsets=7, n_classes=2, keep_bytes=7000)
    fewer = rows_to_keep(fold_plan(ids, n_folds=3), n_subsets=7, n_classes=2, keep_bytes=3500)
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


def make_data(n=240, seed=0):
    """The label hangs on the largest direction of "easy", and on a small one of "hidden"."""
    random = np.random.default_rng(seed)
    sign = random.choice([-1, 1], n)
    easy, hidden = random.normal(size=(n, 20)), random.normal(size=(n, 20))
    easy += sign[:, None] * 0.8
    hidden[:, :10] += 5 * random.normal(size=(n, 1))
    hidden[:, 10:] += 5 * random.normal(size=(n, 1))
    hidden[:, 0] += 1.2 * sign
    ids = np.array([f"s{i:03d}" for i in range(n)], dtype=object)
    blocks = Blocks(ids=ids, matrices={"easy": easy.astype(np.float32), "hidden": hidden.astype(np.float32)})
    where = np.arange(n) % 3
    folds = [(np.flatnonzero(where != f), np.flatnonzero(where == f)) for f in range(3)]
    return blocks, (sign > 0).astype(np.int64), ValidationPlan.cross_validation(folds, ids=ids)


def loss(blocks, labels, plan, **options):
    return reduction_loss(blocks, labels, plan, task=Task.BINARY, classes=["no", "yes"], **options)


def test_the_loss_is_the_difference_of_scores():
    blocks, labels, plan = make_data()
    found = loss(blocks, labels, plan, reduce_to=2, n_folds=3)
    whole, reduced = (
        ClosedFormScorer(blocks, labels, plan=plan, task=Task.BINARY, classes=["no", "yes"], reduce_to=components)
        for components in (None, 2)
    )
    assert list(found.differences) == [("easy",), ("hidden",), ("easy", "hidden")]
    for subset, difference in found.differences.items():
        expected = np.mean(np.array(reduced.score(subset).folds["auroc"]) - whole.score(subset).folds["auroc"])
        assert difference == pytest.approx(expected, abs=1e-12)
    assert found.differences["hidden",] < -0.1
    assert abs(found.differences["easy",]) < 0.05
    assert found.worst == found.differences["hidden",]
    assert found.mean == pytest.approx(np.mean(list(found.differences.values())))


def test_it_is_said_in_words():
    found = loss(*make_data(), reduce_to=2, n_rows=200)
    assert str(found).startswith("Reducing each block to 2 components changes the auroc by -0.")
    assert "at worst by -0." in str(found)
    assert "(hidden): 3 subsets on 200 rows" in str(found)


def test_a_reduction_that_leaves_all_columns_loses_nothing():
    found = loss(*make_data(), reduce_to=64)
    assert set(found.differences.values()) == {0.0}


def test_the_sample_does_not_hang_on_the_order_of_the_table():
    blocks, labels, plan = make_data()
    order = np.random.default_rng(1).permutation(len(labels))
    turned = blocks.take(order)
    place = np.argsort(order)
    folds = [(place[fit], place[held_out]) for fit, held_out in plan.folds]
    one = loss(blocks, labels, plan, reduce_to=2, n_rows=90)
    other = loss(turned, labels[order], ValidationPlan.cross_validation(folds, ids=turned.ids), reduce_to=2, n_rows=90)
    assert one.n_rows == other.n_rows == 90
    assert one.differences == pytest.approx(other.differences, abs=1e-9)


def test_too_few_rows_are_refused():
    blocks, labels, plan = make_data()
    for n_rows in (1, 3):
        with pytest.raises(SearchError, match="rows"):
            loss(blocks, np.zeros_like(labels), plan, reduce_to=2, n_rows=n_rows)
