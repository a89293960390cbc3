import time

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest

from biofuse.core.errors import AlignmentError, UndefinedMetricError
from biofuse.core.target import Task
from biofuse.evaluation.intervals import (
    Units,
    bootstrap_intervals,
    compare,
    compare_with,
    corrected_standard_error,
    corrected_t,
    holm,
    wilson,
)
from biofuse.evaluation.metrics import get_metric, prepare, score


def data(n=120, k=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), random.integers(0, k, n - k)])
    p = softmax(random.normal(size=(n, k)) + 1.0 * (labels[:, None] == np.arange(k)), axis=1)
    return labels, p, np.array([f"s{i:05d}" for i in range(n)], dtype=object)


def intervals(labels, p, ids, *, task=Task.MULTICLASS, **options):
    return bootstrap_intervals(task, labels, p, ids=ids, **options)


def proportion(right, **options):
    """The interval of an accuracy, given which rows are predicted right."""
    ids, p = [str(row) for row in range(len(right))], np.where(right, 0.9, 0.1)
    labels = np.ones(len(right), dtype=int)
    return intervals(labels, p, ids, task=Task.BINARY, metrics=["accuracy"], **options)["accuracy"]


def test_the_draw_depends_on_names_and_seed_not_on_order():
    labels, p, ids = data()
    groups = np.array([f"g{i // 4}" for i in range(len(ids))], dtype=object)
    shuffle = np.random.default_rng(1).permutation(len(ids))
    for by in (None, groups):
        moved = None if by is None else by[shuffle]
        a = intervals(labels, p, ids, groups=by, n_resamples=200, method="bca")
        b = intervals(labels[shuffle], p[shuffle], ids[shuffle], groups=moved, n_resamples=200, method="bca")
        for name in a:
            assert (a[name].low, a[name].high) == pytest.approx((b[name].low, b[name].high), abs=1e-12)
    seeds = [intervals(labels, p, ids, n_resamples=200, seed=seed)["auroc"].low for seed in (0, 1)]
    assert seeds[0] != seeds[1]


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
    alone = intervals(copies[0], copies[1], names, n_resamples=400)["accuracy"]
    grouped = intervals(copies[0], copies[1], names, groups=copies[2], n_resamples=400)["accuracy"]
    assert grouped.unit == "groups"
    assert grouped.n_units == 60
    assert grouped.high - grouped.low > 1.7 * (alone.high - alone.low)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_of_a_proportion_covers_as_it_should(method):
    random = np.random.default_rng(5)
    inside = 0
    for repeat in range(150):
        found = proportion(random.random(80) < 0.7, n_resamples=300, method=method, seed=repeat)
        inside += found.low <= 0.7 <= found.high
    assert 0.87 <= inside / 150 <= 0.995


def test_bca_equals_scipy_on_a_mean():
    from scipy.stats import bootstrap

    random = np.random.default_rng(0)
    right = random.random(60) < 0.85
    ours = proportion(right, n_resamples=20000, method="bca")
    theirs = bootstrap((right.astype(float),), np.mean, n_resamples=20000, method="BCa", rng=1).confidence_interval
    # One sample is 1/60; resampled means are a grid of that width.
    assert abs(ours.low - theirs.low) <= 1 / 60 + 1e-9
    assert abs(ours.high - theirs.high) <= 1 / 60 + 1e-9


def test_undefined_resamples_are_counted_and_reported():
    labels, p, ids = data(n=40)
    labels[:] = 0
    labels[:2], labels[2:20] = 2, 1
    found = intervals(labels, p, ids, n_resamples=500)
    assert 0.05 < found["auroc"].n_undefined / 500 < 0.25  # (1 - 2/40)^40 = .13
    assert found["accuracy"].n_undefined == 0
    assert found["auroc"].low <= found["auroc"].estimate <= found["auroc"].high
    assert "undefined in" in str(found["auroc"])
    absent = intervals(np.zeros(40, int), p, ids, n_resamples=50)["auroc"]
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


def binary(n=300, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    signal = labels + random.normal(size=n)
    good = 1 / (1 + np.exp(-signal))
    poor = 1 / (1 + np.exp(-(labels * 0.2 + random.normal(size=n))))
    twin = 1 / (1 + np.exp(-(signal + 0.3 * random.normal(size=n))))
    return labels, good, poor, twin, [f"s{i}" for i in range(n)]


def test_a_real_difference_is_found_and_a_small_one_is_called_noise():
    labels, good, poor, twin, ids = binary()
    found = compare_with(
        Task.BINARY, labels, good, {"best single": poor, "all": twin, "greedy": good}, ids=ids, n_resamples=500
    )
    assert not found["best single"].noise
    assert found["best single"].low > 0
    assert "is better than best single" in str(found["best single"])
    assert "over 300 samples" in str(found["best single"])
    assert found["greedy"].difference == 0
    assert found["greedy"].p_value == 1
    assert "the same on every resample" in str(found["greedy"])
    assert all(c.p_holm >= c.p_value for c in found.values())
    noise = compare(Task.BINARY, labels, twin, good, ids=ids, n_resamples=500, names=("all", "chosen"))
    if noise.noise:
        assert "within noise" in str(noise)


def test_comparison_is_antisymmetric_and_paired():
    labels, good, _, twin, ids = binary()
    a = compare(Task.BINARY, labels, good, twin, ids=ids, n_resamples=300)
    b = compare(Task.BINARY, labels, twin, good, ids=ids, n_resamples=300)
    assert a.difference == pytest.approx(-b.difference)
    assert (a.low, a.high) == pytest.approx((-b.high, -b.low))
    assert a.p_value == pytest.approx(b.p_value)
    # Pairing: the interval is far narrower than the spread of either score.
    assert a.high - a.low < 0.06


def test_by_group_and_in_any_order():
    labels, good, poor, _, ids = binary(120)
    groups = np.array([f"g{i // 5}" for i in range(120)])
    a = compare(Task.BINARY, labels, good, poor, ids=ids, groups=groups, n_resamples=200)
    shuffle = np.random.default_rng(0).permutation(120)
    b = compare(
        Task.BINARY, labels[shuffle], good[shuffle], poor[shuffle],
        ids=np.array(ids)[shuffle], groups=groups[shuffle], n_resamples=200,
    )  # fmt: skip
    assert a.unit == "groups"
    assert a.n_units == 24
    assert (a.low, a.high, a.p_value) == pytest.approx((b.low, b.high, b.p_value), abs=1e-12)


def test_p_values_of_noise_are_not_small_too_often():
    small = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, 60)
        small += (
            compare(
                Task.BINARY, labels, random.random(60), random.random(60),
                ids=[str(i) for i in range(60)], n_resamples=200, seed=seed,
            ).p_value <= 0.05
        )  # fmt: skip
    assert small <= 9  # 3 expected; 10 or more has probability below .001


def test_lower_is_better_for_losses():
    labels, good, poor, _, ids = binary()
    found = compare(
        Task.BINARY, labels, good, poor, ids=ids, metric="log_loss", names=("ours", "theirs"), n_resamples=300
    )
    assert found.difference < 0
    assert "ours is better than theirs" in str(found)


def test_undefined_comparison_says_so():
    found = compare(Task.BINARY, [1, 1], [0.3, 0.4], [0.5, 0.6], ids=["a", "b"], n_resamples=20)
    assert np.isnan(found.p_value)
    assert found.noise
    assert "cannot be compared" in str(found)
    p = np.random.default_rng(0).dirichlet(np.ones(30), (2, 30))
    lonely = compare(Task.MULTICLASS, range(30), p[0], p[1], ids=[str(row) for row in range(30)], n_resamples=20)
    assert np.isfinite(lonely.difference)
    assert "differ cannot be told" in str(lonely)
    with pytest.raises(AlignmentError):
        compare(Task.BINARY, [1, 0], [0.3, 0.4], [0.5, 0.6, 0.7], ids=["a", "b"])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.01, np.nan, 0.02]) == pytest.approx([0.03, np.nan, 0.04], nan_ok=True)
    assert len(holm([])) == 0


def test_nadeau_bengio_by_hand():
    d = [0.1, 0.2, 0.3, 0.2]
    variance = np.var(d, ddof=1)
    assert corrected_standard_error(d, 80, 20) == pytest.approx(np.sqrt((1 / 4 + 0.25) * variance))
    assert corrected_standard_error([*d, np.nan], [80] * 5, [20] * 5) == pytest.approx(np.sqrt(0.5 * variance))
    with pytest.raises(UndefinedMetricError, match="at least two folds"):
        corrected_standard_error([0.1], 80, 20)


def test_corrected_t_is_students_test_with_the_corrected_error():
    from scipy.stats import t

    d = np.array([0.02, 0.01, np.nan, 0.03, 0.01])
    mean, low, high, p = corrected_t(d, 80, 20, confidence=0.9)
    error = corrected_standard_error(d, 80, 20)
    assert mean == pytest.approx(np.nanmean(d))
    assert (low, high) == pytest.approx(t.interval(0.9, 3, loc=mean, scale=error))
    assert p == pytest.approx(2 * t.sf(mean / error, 3))
    assert corrected_t(-d, 80, 20)[3] == p
    assert corrected_t([0.1, 0.1], 80, 20) == (0.1, 0.1, 0.1, 0.0)
    assert corrected_t([0.0, 0.0], 80, 20)[3] == 1
    assert corrected_t([0.1, np.nan], 80, 20)[0] == 0.1
    assert np.isnan(corrected_t([0.1, np.nan], 80, 20)[1:]).all()
