"""Scorers that refit, by themselves and with the real folds, fusion and heads."""

from functools import partial

import numpy as np
import pytest

from biofuse.core.errors import AlignmentError
from biofuse.core.target import Task
from biofuse.data.splits import ValidationPlan, make_folds
from biofuse.evaluation.metrics import score
from biofuse.predictors.fused import fit_predictor
from biofuse.search import runner
from biofuse.search.rules import select
from biofuse.search.runner import FoldwiseScorer, run_search
from biofuse.search.strategies import Exhaustive


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
    assert isinstance(tiny.scorer(blocks, labels), FoldwiseScorer)


POOL = ("a", "b", "c")


def search(tiny, blocks, labels, task, *, head="logistic", workers=1, groups=None):
    folds = make_folds(labels, ids=blocks.ids, groups=groups, n_folds=4, n_repeats=1, seed=1)
    plan = ValidationPlan.cross_validation(
        folds.folds, ids=blocks.ids, groups=groups, n_repeats=folds.n_repeats, notes=folds.notes
    )
    n_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    fit = partial(fit_predictor, head=head, task=task, n_classes=n_classes)
    return run_search(POOL, Exhaustive(), tiny.scorer(blocks, labels, plan=plan, fit=fit, task=task), workers=workers)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_planted_winner(tiny, task, head):
    blocks, labels = tiny.planted(160, task=task)
    found = select(search(tiny, blocks, labels, task, head=head))
    # Block a alone knows the binary label; the others need both bits.
    assert set(found.chosen.subset) >= ({"a"} if task is Task.BINARY else {"a", "b"})
    assert found.chosen.n_encoders <= 2
    assert found.better_than_chance


@pytest.mark.slow
def test_shuffled_rows_and_more_workers_give_the_same_board(tiny, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)
    blocks, labels = tiny.planted(120)
    groups = np.array([f"g{i // 3}" for i in range(120)], dtype=object)
    order = np.random.default_rng(0).permutation(120)
    one = search(tiny, blocks, labels, Task.MULTICLASS, groups=groups)
    two = search(tiny, blocks.take(order), labels[order], Task.MULTICLASS, groups=groups[order], workers=2)
    assert [row.folds for row in one] == [row.folds for row in two]
