"""The choice of a pooling: the simplest that folds cannot tell from the best."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.pooling import POOLINGS, Bags
from biofuse.core.target import Task
from biofuse.evaluation.intervals import corrected_standard_error
from biofuse.heads.ridge import Ridge
from biofuse.predictors.fused import fit_predictor
from biofuse.search.pooling import choose_pooling, pooled
from biofuse.search.runner import SearchContext


@pytest.fixture
def problem_of(plant, posed):
    """Return a function that poses a search on bags of 12 images, of which ``deciding`` tell the class."""

    def make(deciding: int):
        rng = np.random.default_rng(0)
        embeddings = plant(80, task=Task.BINARY)
        sizes = np.full(80, 12)
        matrix = rng.standard_normal((960, 3)).astype(np.float32)
        told = (np.arange(960) % 12 < deciding) & np.repeat(embeddings.labels == 1, 12)
        matrix[told] += 4.0 if deciding == 1 else 0.5
        bags = Bags(matrices={"a": matrix}, starts=np.arange(80) * 12, sizes=sizes)
        blocks = Blocks(ids=embeddings.blocks.ids, matrices=bags.pooled("mean"), bags=bags)
        cards = (embeddings.cards[0].model_copy(update={"name": "a"}),)
        return posed(replace(embeddings, blocks=blocks, cards=cards), folds=4, repeats=2)

    return make


@pytest.mark.parametrize(("deciding", "expected"), [(1, "max"), (12, "mean")])
def test_is_the_simplest_within_one_standard_error_of_the_best(problem_of, deciding: int, expected: str) -> None:
    problem = problem_of(deciding)
    choice = choose_pooling(problem, SearchContext())
    by_hand = {}
    for pooling in POOLINGS:
        blocks, folds = problem.blocks.pooled(pooling), []
        for train, held in problem.plan.folds:
            fitted = fit_predictor(blocks.take(train), problem.labels[train], head=Ridge(), target=problem.target)
            folds.append(roc_auc_score(problem.labels[held], fitted.decision(blocks.take(held))[:, 1]))
        by_hand[pooling] = np.array(folds)
    means = {pooling: values.mean() for pooling, values in by_hand.items()}
    assert choice.scores == pytest.approx(means)
    best = max(means, key=means.get)
    plan = problem.plan
    near = [
        name
        for name in POOLINGS
        if name == best
        or means[best] - means[name]
        <= corrected_standard_error(by_hand[best] - by_hand[name], plan.n_train, plan.n_test)
    ]
    assert (choice.pooling, choice.best) == (near[0], best)
    assert choice.pooling == expected
    after = pooled(problem, choice)
    assert after.blocks.bags.pooling == choice.pooling
    assert after.plan.notes[0] == str(choice)
    assert after.key() != replace(problem, plan=after.plan).key() or choice.pooling == "mean"
