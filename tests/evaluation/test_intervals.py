import time

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest

from biofuse.core.errors import AlignmentError
from biofuse.core.target import Task
from biofuse.evaluation.intervals import Units, bootstrap_intervals, wilson
from biofuse.evaluation.metrics import get_metric, prepare, score


def data(n=120, k=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), random.integers(0, k, n - k)])
    p = softmax(random.normal(size=(n, k)) + 1.0 * (labels[:, None] == np.arange(k)), axis=1)
    return labels, p, np.array([f"s{i:05d}" for i in range(n)], dtype=object)


def test_the_draw_depends_on_names_and_seed_not_on_order():
    labels, p, ids = data()
    groups = np.array([f"g{i // 4}" for i in range(len(ids))], dtype=object)
    shuffle = np.random.default_rng(1).permutation(len(ids))
    for by in (None, groups):
        a = bootstrap_intervals(Task.MULTICLASS, labels, p, ids=ids, groups=by, n_resamples=200, method="bca")
        b = bootstrap_intervals(
            Task.MULTICLASS,
            labels[shuffle],
            p[shuffle],
            ids=ids[shuffle],
            groups=None if by is None else by[shuffle],
            n_resamples=200,
            method="bca",
        )
        for name in a:
            assert (a[name].low, a[name].high) == pytest.approx((b[name].low, b[name].high), abs=1e-12)
    other = bootstrap_intervals(Task.MULTICLASS, labels, p, ids=ids, n_resamples=200, seed=1)
    assert other["auroc"].low != bootstrap_intervals(Task.MULTICLASS, labels, p, ids=ids, n_resamples=200)["auroc"].low


def test_resampling_weights_equal_scoring_the_drawn_rows():
    labels, p, ids = data(n=50)
    units = Units.of(ids, np.array([f"g{i % 9}" for i in range(50)]))
    prepared = prepare(Task.MULTICLASS, labels, p)
    weights = np.concatenate(list(units.weights(20, seed=3)), axis=1)
    values = get_metric("auroc").resample(prepared, weights)
    for column in range(20):
        rows = np.repeat(np.arange(50), weights[:, column].astype(int))
        assert values[column] == pytest.approx(
            score(Task.MULTICLASS, labels[rows], p[rows])["auroc"], abs=1e-12, nan_ok=True
        )


def test_groups_are_drawn_whole():
    groups = np.array(["a", "b", "a", "c", "b"])
    weights = np.concatenate(list(Units.of(list("vwxyz"), groups).weights(50, seed=0)), axis=1)
    assert (weights[0] == weights[2]).all()
    assert (weights[1] == weights[4]).all()
    assert (weights[[0, 1, 3]].sum(axis=0) == 3).all()


def test_groups_that_agree_make_the_interval_wider():
    labels, p, ids = data(n=60)
    copies = [np.repeat(x, 6, axis=0) for x in (labels, p, ids)]
    names = np.array([f"{name}-{i}" for i, name in enumerate(copies[2])], dtype=object)
    alone = bootstrap_intervals(Task.MULTICLASS, copies[0], copies[1], ids=names, n_resamples=400)["accuracy"]
    grouped = bootstrap_intervals(Task.MULTICLASS, copies[0], copies[1], ids=names, groups=copies[2], n_resamples=400)[
        "accuracy"
    ]
    assert grouped.unit == "groups"
    assert grouped.n_units == 60
    assert grouped.high - grouped.low > 1.7 * (alone.high - alone.low)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_of_a_proportion_covers_as_it_should(method):
    random = np.random.default_rng(5)
    inside = 0
    for repeat in range(150):
        right = random.random(80) < 0.7
        p = np.where(right, 0.9, 0.1)
        found = bootstrap_intervals(
            Task.BINARY,
            np.ones(80, int),
            p,
            ids=[f"{i}" for i in range(80)],
            metrics=["accuracy"],
            n_resamples=300,
            method=method,
            seed=repeat,
        )["accuracy"]
        inside += found.low <= 0.7 <= found.high
    assert 0.87 <= inside / 150 <= 0.995


def test_bca_equals_scipy_on_a_mean():
    from scipy.stats import bootstrap

    random = np.random.default_rng(0)
    right = random.random(60) < 0.85
    ours = bootstrap_intervals(
        Task.BINARY, np.ones(60, int), np.where(right, 0.9, 0.1), ids=[str(i) for i in range(60)],
        metrics=["accuracy"], n_resamples=20000, method="bca",
    )["accuracy"]  # fmt: skip
    theirs = bootstrap((right.astype(float),), np.mean, n_resamples=20000, method="BCa", rng=1).confidence_interval
    # One sample is 1/60; resampled means are a grid of that width.
    assert abs(ours.low - theirs.low) <= 1 / 60 + 1e-9
    assert abs(ours.high - theirs.high) <= 1 / 60 + 1e-9


def test_undefined_resamples_are_counted_and_reported():
    labels, p, ids = data(n=40)
    labels[:] = 0
    labels[:2], labels[2:20] = 2, 1
    found = bootstrap_intervals(Task.MULTICLASS, labels, p, ids=ids, n_resamples=500)
    assert 0.05 < found["auroc"].n_undefined / 500 < 0.25  # (1 - 2/40)^40 = .13
    assert found["accuracy"].n_undefined == 0
    assert found["auroc"].low <= found["auroc"].estimate <= found["auroc"].high
    assert "undefined in" in str(found["auroc"])
    absent = bootstrap_intervals(Task.MULTICLASS, np.zeros(40, int), p, ids=ids, n_resamples=50)["auroc"]
    assert np.isnan([absent.estimate, absent.low, absent.high]).all()
    assert absent.n_undefined == 50


def test_empty_and_misnamed_rows():
    none = bootstrap_intervals(Task.BINARY, [], np.zeros((0, 2)), ids=[], n_resamples=10, method="bca")["auroc"]
    assert np.isnan(none.low)
    with pytest.raises(AlignmentError):
        Units.of(["a", "a"])
    with pytest.raises(AlignmentError):
        Units.of(["a", "b"], ["g"])
    with pytest.raises(AlignmentError):
        bootstrap_intervals(Task.BINARY, [0, 1], [0.1, 0.2], ids=["a"])


def test_two_thousand_resamples_of_ten_thousand_samples_take_seconds():
    labels, p, ids = data(n=10_000, k=2)
    start = time.perf_counter()
    found = bootstrap_intervals(Task.BINARY, labels, p, ids=ids)
    assert found["auroc"].n_resamples == 2000
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(("right", "n"), [(0, 4), (4, 4), (3, 7), (50, 60)])
def test_wilson_intervals_are_scipys(right, n):
    ends = binomtest(right, n).proportion_ci(method="wilson")
    low, high = wilson(np.array([right / n]), np.array([n]))
    assert (low[0], high[0]) == pytest.approx((ends.low, ends.high), abs=1e-12)
