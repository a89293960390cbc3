import math

import numpy as np
import pytest

from biofuse.core.errors import ArtifactError, DataError
from biofuse.core.target import Target, Task
from biofuse.evaluation.conformal import Conformal, measure_sets


def drawn(n, width, random):
    """Return probabilities and labels that are as often right as those say."""
    p = random.dirichlet(np.full(width, 0.6), size=n)
    return p, (random.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(0, width - 1)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_thresholds_are_the_quantiles_of_split_conformal_prediction(coverage):
    """Of n scores the one of rank ceil((n + 1) coverage), as Vovk's and MAPIE's (``conformity_score="lac"``) are."""
    random = np.random.default_rng(0)
    p, y = drawn(173, 4, random)
    target = Target.numbered(Task.MULTICLASS, 4)
    found = Conformal.learn(target, y, p, units=np.arange(173))
    scores = 1 - p[np.arange(173), y]
    expected = np.quantile(scores, math.ceil(174 * coverage) / 173, method="inverted_cdf")
    assert found.thresholds(target, coverage) == pytest.approx(np.full(4, 1 - expected))
    own = [np.sort(scores[y == c]) for c in range(4)]
    ranks = [math.ceil((len(each) + 1) * coverage) for each in own]
    expected = [1 - each[rank - 1] if rank <= len(each) else 0 for each, rank in zip(own, ranks, strict=True)]
    assert found.thresholds(target, coverage, class_conditional=True) == pytest.approx(expected)
    twice = Conformal.learn(target, np.tile(y, 2), np.tile(p, (2, 1)), units=np.tile(np.arange(173), 2))
    assert twice.thresholds(target, coverage) == pytest.approx(found.thresholds(target, coverage))


@pytest.mark.parametrize("grouped", [False, True], ids=["samples", "groups"])
def test_sets_hold_the_truth_as_often_as_asked(grouped):
    """Over many draws of development and test samples; a group's samples are all as hard as one another."""
    random, held, worst = np.random.default_rng(1), [], []
    target = Target.numbered(Task.MULTICLASS, 3)
    for _ in range(300):
        groups = np.repeat(np.arange(80), random.integers(1, 9, 80)) if grouped else np.arange(160)
        hard = random.random(len(groups) if not grouped else 80)[groups if grouped else slice(None)]
        y = random.integers(0, 3, len(groups))
        z = random.normal(size=(len(y), 3)) + 4 * (1 - hard)[:, None] * (y[:, None] == np.arange(3))
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        old = groups < (60 if grouped else 120)
        made = Conformal.learn(target, y[old], p[old], units=groups[old])
        inside = made.sets(target, p[~old], 0.9)
        right = inside[np.arange(len(inside)), y[~old]]
        held.append(np.mean([right[groups[~old] == group].mean() for group in set(groups[~old].tolist())]))
        each = made.sets(target, p[~old], 0.9, class_conditional=True)
        worst.append([each[y[~old] == c, c].mean() for c in range(3)])
    assert 0.89 < np.mean(held) < 0.92
    if not grouped:
        assert ((np.nanmean(worst, axis=0) > 0.89) & (np.nanmean(worst, axis=0) < 0.93)).all()


def test_each_of_several_labels_that_is_there_is_in_the_set_as_often_as_asked():
    random = np.random.default_rng(2)
    target = Target.numbered(Task.MULTILABEL, 2)
    p = random.random((40_000, 2)) ** [1, 3]
    y = (random.random((40_000, 2)) < p).astype(np.int64)
    made = Conformal.learn(target, y[:20_000], p[:20_000], units=np.arange(20_000))
    inside = made.sets(target, p[20_000:], 0.9)
    for label in range(2):
        assert inside[y[20_000:, label] == 1, label].mean() == pytest.approx(0.9, abs=0.02)
    found = measure_sets(
        target, y[20_000:], inside, p[20_000:], asked=0.9, class_conditional=False, ids=np.arange(20_000).astype(str)
    )
    assert found.coverage.estimate == pytest.approx(inside[y[20_000:] == 1].mean())
    assert math.isnan(found.accuracy)


def test_no_set_is_empty_and_too_few_samples_promise_nothing():
    target, p = Target.numbered(Task.BINARY, 2), np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    sure = Conformal.learn(target, np.zeros(50, dtype=np.int64), np.tile([0.99, 0.01], (50, 1)), units=np.arange(50))
    assert sure.sets(target, p, 0.9).tolist() == [[True, False], [False, True], [True, False]]
    few = Conformal.learn(target, np.zeros(8, dtype=np.int64), np.tile([0.99, 0.01], (8, 1)), units=np.arange(8))
    assert few.sets(target, p, 0.9).all()  # the ninth may be the one of ten
    with pytest.raises(DataError, match=r"1\.5"):
        few.sets(target, p, 1.5)


def test_what_is_measured_is_counted():
    target = Target(Task.MULTICLASS, ("a", "b", "c"))
    inside = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 1, 0]], dtype=bool)
    p = np.array([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.1, 0.5, 0.4], [0, 1, 0]])
    found = measure_sets(
        target, np.array([0, 1, 2, 0]), inside, p, asked=0.9, class_conditional=False, ids=np.array(list("wxyz"))
    )
    assert (found.coverage.estimate, found.size.estimate, found.single, found.accuracy) == (0.75, 1.5, 0.5, 0.25)
    assert (found.worst, found.worst_coverage) == ("a", 0.5)


def test_what_is_saved_is_read_back_and_what_is_wrong_is_refused():
    target = Target.numbered(Task.BINARY, 2)
    made = Conformal.learn(target, np.array([0, 1, 1]), np.full((3, 2), 0.5), units=["b", "a", "b"])
    again = Conformal.restore(*made.state())
    assert all(np.array_equal(getattr(again, name), getattr(made, name)) for name in ("given", "classes", "units"))
    assert again.fits(target)
    _, arrays = made.state()
    for wrong in ({}, arrays | {"units": arrays["units"][:2]}):
        with pytest.raises(ArtifactError, match="conformal"):
            Conformal.restore({}, wrong)
