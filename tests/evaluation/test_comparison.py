import numpy as np
import pytest

from biofuse.core.errors import AlignmentError, UndefinedMetricError
from biofuse.core.target import Task
from biofuse.evaluation.intervals import compare, compare_with, corrected_standard_error, corrected_t, holm, sentence


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
    assert "the same on every resample" in sentence(found["greedy"])
    assert all(c.p_holm >= c.p_value for c in found.values())
    noise = compare(Task.BINARY, labels, twin, good, ids=ids, n_resamples=500, names=("all", "chosen"))
    if noise.noise:
        assert "within noise" in sentence(noise)


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
    assert "ours is better than theirs" in sentence(found)


def test_undefined_comparison_says_so():
    found = compare(Task.BINARY, [1, 1], [0.3, 0.4], [0.5, 0.6], ids=["a", "b"], n_resamples=20)
    assert np.isnan(found.p_value)
    assert found.noise
    assert "cannot be compared" in sentence(found)
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
