"""The closed form on torch's CPU device, against the closed form on the processor."""

import numpy as np
import pytest
from tests.search.test_closed_form import EVERY_ROW, N, make_data, make_scorer

from biofuse.core.errors import SearchError
from biofuse.core.target import Task
from biofuse.search import closed_form_torch as on_torch
from biofuse.search.closed_form_torch import WORTH_DEVICE, TorchScorer, accelerator
from biofuse.search.leaderboard import all_subsets
from biofuse.search.runner import run_search
from biofuse.search.strategies import make_strategy

WEIGHTS = np.random.default_rng(4).uniform(0.2, 5, N)


def close(found, expected):
    for name, values in expected.folds.items():
        np.testing.assert_allclose(found.folds[name], values, rtol=0, atol=1e-9)
    for some, other in zip(found.out_of_fold, expected.out_of_fold, strict=True):
        np.testing.assert_allclose(some, other, rtol=0, atol=1e-9)
    assert found.notes == expected.notes


@pytest.mark.slow
@pytest.mark.parametrize("choosing", ["float64", "float32"])
@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize(
    ("task", "options"),
    [
        (Task.BINARY, {"sample_weight": WEIGHTS}),
        (Task.MULTICLASS, {"class_weight": "balanced"}),
        (Task.ORDINAL, {"class_weight": {0: 3.0, 2: 0.2}, "reduce_to": 12}),
        (Task.MULTILABEL, {"class_weight": "balanced", "sample_weight": WEIGHTS}),
        (Task.MULTILABEL, {"class_weight": "balanced", "reduce_to": 5, "choice": "generalised"}),
    ],
)
def test_scores_and_predictions_of_all_subsets_equal_those_of_the_processor(task, options, mode, choosing):
    blocks, labels = make_data(task)
    scorer = make_scorer(blocks, labels, task, mode=mode, keep=EVERY_ROW, **options)
    subsets = all_subsets(blocks.encoders)
    found = list(TorchScorer(scorer, device="cpu", choosing=choosing, threads=2).score_many(subsets))
    assert len(found) == len(subsets)
    for subset, each in zip(subsets, found, strict=True):
        close(each, scorer.score(subset))


def test_a_single_penalty_is_used_as_it_is():
    blocks, labels = make_data()
    scorer = make_scorer(blocks, labels, Task.MULTICLASS, alphas=(0.5,), keep=EVERY_ROW)
    close(TorchScorer(scorer, device="cpu").score(blocks.encoders), scorer.score(blocks.encoders))


def test_a_search_gives_the_same_leaderboard_a_few_subsets_at_a_time():
    blocks, labels = make_data(Task.BINARY)
    scorer = make_scorer(blocks, labels, Task.BINARY)
    strategy = make_strategy("exhaustive")
    expected = run_search(blocks.encoders, strategy, scorer, workers=1)
    few = TorchScorer(scorer, device="cpu", memory=1)  # less than one subset needs: one at a time
    found = run_search(blocks.encoders, strategy, few)
    assert [row.subset for row in found] == [row.subset for row in expected]
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(row.folds["auroc"], other.folds["auroc"], rtol=0, atol=1e-9)


def test_fewer_subsets_at_a_time_where_memory_runs_out(monkeypatch):
    blocks, labels = make_data(Task.BINARY)
    scorer = make_scorer(blocks, labels, Task.BINARY, keep=EVERY_ROW)
    several = TorchScorer(scorer, device="cpu")
    solve, asked = TorchScorer._solve, []

    def out_of_memory_with_more_than_four(self, subsets, number):
        asked.append(len(subsets))
        if len(subsets) > 4:
            raise RuntimeError("CUDA out of memory.")
        return solve(self, subsets, number)

    monkeypatch.setattr(TorchScorer, "_solve", out_of_memory_with_more_than_four)
    subsets = all_subsets(blocks.encoders)
    for subset, each in zip(subsets, several.score_many(subsets), strict=True):
        close(each, scorer.score(subset))
    assert max(asked) > 4


def test_what_is_not_about_memory_is_raised():
    blocks, labels = make_data(Task.BINARY)
    scorer = make_scorer(blocks, labels, Task.BINARY, mode="dual")
    on_device = TorchScorer(scorer, device="cpu")
    for fold in on_device._folds:
        fold.train.neg_()
    with pytest.raises(SearchError, match="not positive to rounding"):
        on_device.score(blocks.encoders)


@pytest.mark.parametrize(
    ("requested", "operations", "there", "expected"),
    [
        ("auto", 2 * WORTH_DEVICE, True, "cuda"),
        ("cuda:1,cuda:0", 2 * WORTH_DEVICE, True, "cuda:1"),
        ("auto", WORTH_DEVICE / 2, True, None),
        ("auto", 2 * WORTH_DEVICE, False, None),
        ("cpu", 2 * WORTH_DEVICE, True, None),
        ("mps", 2 * WORTH_DEVICE, True, None),
    ],
)
def test_a_device_is_taken_where_it_is_worth_it(monkeypatch, requested, operations, there, expected):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert accelerator(requested, operations=operations) == expected


def test_float32_errors_stay_within_the_allowance():
    """With as many rows as products of rows are used for, the rough errors are as near as is promised."""
    random = np.random.default_rng(0)
    import torch

    n = 437
    X = random.normal(size=(n, 60)) @ random.normal(size=(60, 2000)) + random.normal(size=(n, 2000))
    X -= X.mean(axis=0)
    K = torch.from_numpy(X @ X.T)[None]
    y = torch.from_numpy(np.sign(random.normal(size=(n, 1))))
    for relative in (1e-3, 1e-1, 10.0):
        alpha = relative * K.diagonal(dim1=1, dim2=2).sum(dim=1) / n
        errors = {}
        for dtype in (torch.float32, torch.float64):
            inverse = on_torch._inverse_factor(K.to(dtype), alpha.to(dtype))
            dual = inverse.mT @ (inverse @ y.to(dtype))
            errors[dtype] = float((dual[0, :, 0] / inverse.square().sum(dim=1)[0]).square().sum())
        assert errors[torch.float32] == pytest.approx(errors[torch.float64], rel=on_torch.FLOAT32_ERROR / 2)
