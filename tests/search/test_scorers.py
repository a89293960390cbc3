"""What fits see, and what is scored."""

import pytest

from biofuse.core.errors import AlignmentError
from biofuse.core.target import Task
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.metrics import score
from biofuse.search.scorers import FoldwiseScorer


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
    assert isinstance(tiny.scorer(blocks, labels), FoldwiseScorer)
