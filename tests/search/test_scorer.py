import numpy as np
import pytest

from biofuse.core.errors import AlignmentError, SearchError
from biofuse.core.target import Task
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.metrics import score
from biofuse.search.scorers import FoldwiseScorer, TableScorer


def test_fits_see_training_rows_only_and_the_scores_are_those_of_held_out_rows(tiny):
    blocks, labels = tiny.planted(60)
    calls = []
    plan = tiny.plan(blocks.ids, 3)
    scorer = tiny.scorer(blocks, labels, calls=calls, plan=plan, keep_predictions=True)
    found = scorer.score(("a", "b"))
    assert [set(ids) for _, _, ids in calls] == [set(blocks.ids[fit]) for fit, _ in plan.folds]
    for fold, (fit_rows, score_rows) in enumerate(plan.folds):
        predictor = tiny.make_fit()(
            blocks.only(["a", "b"]).take(fit_rows), labels[fit_rows], encoders=("a", "b"), seed=0, threads=1
        )
        p = predictor.predict_proba(blocks.only(["a", "b"]).take(score_rows))
        assert found.out_of_fold[fold] == pytest.approx(p, abs=1e-12)
        ranks = predictor.decision(blocks.only(["a", "b"]).take(score_rows))
        assert found.folds["auroc"][fold] == score(Task.MULTICLASS, labels[score_rows], p, decision=ranks)["auroc"]
        assert found.folds["accuracy"][fold] == score(Task.MULTICLASS, labels[score_rows], p)["accuracy"]
    assert found.seconds > 0
    assert tiny.scorer(blocks, labels, plan=plan).score(("a",)).out_of_fold is None


@pytest.mark.parametrize("task", list(Task))
def test_every_task_is_scored(tiny, task):
    blocks, labels = tiny.planted(task=task)
    found = tiny.scorer(blocks, labels, task=task, metrics=("auroc", "accuracy", "f1")).score(("a", "b"))
    assert list(found.folds) == ["auroc", "accuracy", "f1"]
    assert np.mean(found.folds["auroc"]) > 0.8
    assert not found.notes


def test_a_metric_undefined_in_a_fold_is_nan_and_said(tiny):
    blocks, labels = tiny.planted(60)
    plan = tiny.plan(blocks.ids, 3)
    labels[plan.folds[1][1]] = 0
    labels[plan.folds[1][0][:4]] = [0, 1, 2, 3]
    found = tiny.scorer(blocks, labels, plan=plan).score(("a",))
    assert np.isnan(found.folds["auroc"]).tolist() == [False, True, False]
    assert "auroc is undefined in fold 2: no sample of class 1, class 2, class 3" in found.notes


def test_seeds_come_from_names(tiny):
    blocks, labels = tiny.planted(40)
    calls = []
    scorer = tiny.scorer(blocks, labels, calls=calls)
    scorer.score(("a", "b"))
    scorer.score(("c",))
    assert len({seed for _, seed, _ in calls}) == len(calls)
    again = []
    tiny.scorer(blocks, labels, calls=again).score(("c",))
    assert [seed for _, seed, _ in again] == [seed for encoders, seed, _ in calls if encoders == ("c",)]


def test_scorer_needs_one_set_of_samples(tiny):
    blocks, labels = tiny.planted(40)
    with pytest.raises(AlignmentError):
        tiny.scorer(blocks, labels[:-1])
    shuffled = ValidationPlan.cross_validation([([0], [1])], ids=blocks.ids[::-1])
    with pytest.raises(AlignmentError):
        tiny.scorer(blocks, labels, plan=shuffled)


def test_table_scorer_looks_up_in_any_order_and_refuses_gaps(tiny):
    scorer = TableScorer(["a", "b"], {("b", "a"): {"auroc": [0.8]}, ("a",): {"auroc": [0.7]}})
    assert scorer.score(("a", "b")).folds == {"auroc": (0.8,)}
    assert scorer.n_dims(("a", "b")) == 2
    with pytest.raises(SearchError, match="no row for b"):
        scorer.score(("b",))
    with pytest.raises(SearchError, match="same metrics"):
        TableScorer(["a", "b"], {("a",): {"auroc": [0.8]}, ("b",): {"auroc": [0.7, 0.6]}})
    with pytest.raises(SearchError, match="unknown"):
        TableScorer(["a"], {("x",): {"auroc": [0.8]}})
    assert not isinstance(scorer, FoldwiseScorer)
    assert isinstance(tiny.scorer(*tiny.planted(20)), FoldwiseScorer)
