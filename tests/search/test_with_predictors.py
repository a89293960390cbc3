"""The search with the real folds, fusion and heads."""

from functools import partial

import numpy as np
import pytest

from biofuse.core.target import Task
from biofuse.data.splits import ValidationPlan, make_folds
from biofuse.predictors.fused import fit_predictor
from biofuse.search import runner
from biofuse.search.rules import select
from biofuse.search.runner import run_search
from biofuse.search.strategies import Exhaustive

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


def test_shuffled_rows_and_more_workers_give_the_same_board(tiny, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)
    blocks, labels = tiny.planted(120)
    groups = np.array([f"g{i // 3}" for i in range(120)], dtype=object)
    order = np.random.default_rng(0).permutation(120)
    one = search(tiny, blocks, labels, Task.MULTICLASS, groups=groups)
    two = search(tiny, blocks.take(order), labels[order], Task.MULTICLASS, groups=groups[order], workers=2)
    assert [row.folds for row in one] == [row.folds for row in two]
