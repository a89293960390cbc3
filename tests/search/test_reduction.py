import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import SearchError
from biofuse.core.target import Task
from biofuse.search.closed_form import ClosedFormScorer
from biofuse.search.problem import ValidationPlan
from biofuse.search.screen import reduction_loss


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
