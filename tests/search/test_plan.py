import numpy as np
import pytest

from biofuse.core.errors import LeakageError, SearchError
from biofuse.data.splits import ValidationPlan
from biofuse.search.problem import search_key

IDS = [f"s{i}" for i in range(10)]
FOLDS = [(np.arange(5), np.arange(5, 10)), (np.arange(5, 10), np.arange(5))]


def test_rows_of_a_fold_stand_in_the_order_of_their_ids():
    ids = np.array(["c", "a", "d", "b"], dtype=object)
    plan = ValidationPlan.cross_validation([([0, 1], [2, 3])], ids=ids)
    assert [ids[rows].tolist() for rows in plan.folds[0]] == [["a", "c"], ["b", "d"]]
    assert (plan.n_train, plan.n_test) == ((2,), (2,))


def test_a_search_refuses_test_rows():
    splits = ["train"] * 6 + ["val"] * 3 + ["test"]
    with pytest.raises(LeakageError, match="1 samples of split test"):
        ValidationPlan.holdout(ids=IDS, splits=splits)
    with pytest.raises(LeakageError):
        ValidationPlan.cross_validation(FOLDS, ids=IDS, splits=splits)
    splits[-1] = "val"
    plan = ValidationPlan.holdout(ids=IDS, splits=splits)
    assert (plan.kind, plan.n_train, plan.n_test) == ("holdout", (6,), (4,))


def test_a_row_or_group_on_both_sides_is_refused():
    with pytest.raises(LeakageError, match="fitted on"):
        ValidationPlan.cross_validation([([0, 1], [1, 2])], ids=IDS)
    with pytest.raises(LeakageError, match="groups on both sides"):
        ValidationPlan.cross_validation(FOLDS, ids=IDS, groups=["g"] * 10)
    ValidationPlan.cross_validation(FOLDS, ids=IDS, groups=["g"] * 5 + ["h"] * 5)


def test_empty_folds_and_repeated_ids_are_refused():
    for folds in ([], [([], [1])], [([1], [])]):
        with pytest.raises(SearchError):
            ValidationPlan.cross_validation(folds, ids=IDS)
    with pytest.raises(SearchError, match="unique"):
        ValidationPlan.cross_validation(FOLDS, ids=["a"] * 10)
    with pytest.raises(SearchError):
        ValidationPlan.holdout(ids=IDS, splits=["train"] * 10)


def key(**changes):
    given = {
        "plan": ValidationPlan.cross_validation(FOLDS, ids=IDS),
        "labels": np.arange(10) % 2,
        "fingerprints": [("a", "a-1"), ("b", "b-1")],
        "settings": {"fusion": "concatenation", "head": "logistic", "seed": 0},
    }
    return search_key(**(given | changes))


def test_bug_13_and_15_the_key_holds_data_folds_encoders_fusion_head_and_seed():
    other_folds = [(np.arange(1, 6), np.array([0, 6, 7, 8, 9])), FOLDS[1]]
    changed = [
        key(plan=ValidationPlan.cross_validation(other_folds, ids=IDS)),
        key(plan=ValidationPlan.cross_validation(FOLDS, ids=[f"t{i}" for i in range(10)])),
        key(plan=ValidationPlan.holdout(ids=IDS, splits=["train"] * 5 + ["val"] * 5)),
        key(labels=(np.arange(10) + 1) % 2),
        key(fingerprints=[("a", "a-2"), ("b", "b-1")]),
        key(fingerprints=[("a", "a-1")]),
        key(settings={"fusion": "mean", "head": "logistic", "seed": 0}),
        key(settings={"fusion": "concatenation", "head": "xgboost", "seed": 0}),
        key(settings={"fusion": "concatenation", "head": "logistic", "seed": 1}),
    ]
    assert len({key(), *changed}) == len(changed) + 1


def test_the_key_does_not_depend_on_the_order_of_rows():
    order = np.random.default_rng(0).permutation(10)
    ids = np.array(IDS, dtype=object)[order]
    place = np.argsort(order)
    folds = [(place[fit], place[held]) for fit, held in FOLDS]
    assert key(plan=ValidationPlan.cross_validation(folds, ids=ids), labels=(np.arange(10) % 2)[order]) == key()
