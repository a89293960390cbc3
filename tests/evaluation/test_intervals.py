import numpy as np
import pytest
from scipy.special import logit, softmax
from scipy.stats import binomtest, norm
from sklearn.metrics import cohen_kappa_score

from biofuse.core.errors import AlignmentError, UndefinedMetricError
from biofuse.core.target import Target, Task
from biofuse.evaluation.intervals import (
    Units,
    compare,
    compare_with,
    corrected_standard_error,
    corrected_t,
    distinct,
    holm,
    holm_levels,
    score_intervals,
    wilson,
)
from biofuse.evaluation.metrics import get_metric, score
from biofuse.evaluation.rows import prepare


def data(n=120, k=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), random.integers(0, k, n - k)])
    p = softmax(random.normal(size=(n, k)) + 1.0 * (labels[:, None] == np.arange(k)), axis=1)
    return labels, p, np.array([f"s{i:05d}" for i in range(n)], dtype=object)


def intervals(labels, p, ids, *, task=Task.MULTICLASS, **options):
    return score_intervals(task, labels, p, ids=ids, **options)


def proportion(right, **options):
    """The interval of an accuracy, given which rows are predicted right."""
    ids, p = [str(row) for row in range(len(right))], np.where(right, 0.9, 0.1)
    labels = np.ones(len(right), dtype=int)
    return intervals(labels, p, ids, task=Task.BINARY, metrics=["accuracy"], **options)["accuracy"]


@pytest.mark.parametrize("wrong", [0, 1, 30, 60])
def test_an_agreement_of_grades_has_an_interval_that_is_never_a_point(wrong):
    labels = np.arange(60) % 4
    said = (labels + (np.arange(60) < wrong)) % 4
    found = intervals(labels, np.eye(4)[said], list(map(str, range(60))), task=Task.ORDINAL)["quadratic_kappa"]
    assert found.estimate == pytest.approx(cohen_kappa_score(labels, said, weights="quadratic"), abs=1e-12)
    assert -1 <= found.low < found.high <= 1
    assert found.low <= found.estimate <= found.high
    assert "quadratic_kappa" not in intervals(labels, np.eye(4)[said], list(map(str, range(60))))


def area(scores, labels, **options):
    """The interval of an AUROC of two classes."""
    ids = [str(row) for row in range(len(labels))]
    return intervals(labels, scores, ids, task=Task.BINARY, metrics=["auroc"], **options)["auroc"]


def test_names_alone_decide_and_not_the_order_of_rows():
    labels, p, ids = data(n=700)  # more than are left out one by one
    groups = np.array([f"g{i // 4}" for i in range(len(ids))], dtype=object)
    shuffle = np.random.default_rng(1).permutation(len(ids))
    for by in (None, groups):
        moved = None if by is None else by[shuffle]
        a = intervals(labels, p, ids, groups=by)
        b = intervals(labels[shuffle], p[shuffle], ids[shuffle], groups=moved)
        for name in a:
            assert (a[name].low, a[name].high) == pytest.approx((b[name].low, b[name].high), abs=1e-12)


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


def test_groups_of_copies_are_as_good_as_one_row_each():
    labels, p, ids = data(n=60)
    copies = [np.repeat(x, 6, axis=0) for x in (labels, p, ids)]
    names = np.array([f"{name}-{i}" for i, name in enumerate(copies[2])], dtype=object)
    alone = intervals(copies[0], copies[1], names)["accuracy"]
    grouped = intervals(copies[0], copies[1], names, groups=copies[2])["accuracy"]
    single = intervals(labels, p, ids)["accuracy"]
    assert (grouped.unit, grouped.n_units) == ("groups", 60)
    assert grouped.high - grouped.low > 1.7 * (alone.high - alone.low)
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low, rel=0.05)  # Student's t is wider


@pytest.mark.parametrize(("right", "n"), [(50, 60), (60, 60), (0, 30), (1, 2)])
def test_an_accuracy_has_wilsons_interval_as_scipy_computes_it(right, n):
    found = proportion(np.arange(n) < right)
    ends = binomtest(right, n).proportion_ci(method="wilson")
    assert (found.low, found.high, found.method) == (
        pytest.approx(ends.low, abs=1e-9), pytest.approx(ends.high, abs=1e-9), "wilson",
    )  # fmt: skip
    assert found.low < found.high


def delong(scores, labels):
    """DeLong's variance (1988) from its placement values."""
    wins = (scores[labels == 1][:, None] > scores[labels == 0]) + 0.5 * (
        scores[labels == 1][:, None] == scores[labels == 0]
    )
    return wins.mean(), wins.mean(axis=1).var(ddof=1) / len(wins) + wins.mean(axis=0).var(ddof=1) / wins.shape[1]


def test_an_auroc_of_many_rows_has_the_logit_interval_of_delongs_variance():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 480)
    scores = np.round(1 / (1 + np.exp(-labels - random.normal(size=480))), 2)  # with ties
    found, (estimate, variance) = area(scores, labels), delong(scores, labels)
    reach = 1.959964 * np.sqrt(variance) / (estimate * (1 - estimate))
    assert found.estimate == pytest.approx(estimate)
    assert (logit(found.low), logit(found.high)) == pytest.approx(
        (logit(estimate) - reach, logit(estimate) + reach), abs=0.03 * reach
    )


def test_a_perfect_auroc_has_newcombes_interval():
    """Method 5 of Newcombe (2006): the AUROC from which 1 is just 1.96 standard errors away."""
    found = area(np.array([0.1, 0.2, 0.3, 0.8, 0.9, 0.95]), np.array([0, 0, 0, 1, 1, 1]))
    assert (found.estimate, found.high, found.method) == (1.0, 1.0, "newcombe")
    low = found.low
    variance = low * (1 - low) * (1 + 2 * ((1 - low) / (2 - low) + low / (1 + low))) / 9
    assert 1 - low == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-4)
    none = area(np.array([0.9, 0.8, 0.1]), np.array([0, 0, 1]))
    assert (none.low, none.estimate) == (0.0, 0.0)
    assert none.high > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n", "truth"),
    [("accuracy", 100, 0.99), ("accuracy", 50, 0.7), ("auroc", 100, 0.99), ("auroc", 100, 0.8), ("groups", 12, 0.9)],
)
def test_intervals_hold_the_truth_as_often_as_they_say(kind, n, truth):
    """Of 300 simulated test sets, in 92 to 99.5 of 100: what chance and discreteness leave of 95."""
    inside = 0
    for seed in range(300):
        random = np.random.default_rng([seed, n])
        if kind == "accuracy":
            found = proportion(random.random(n) < truth)
        elif kind == "groups":
            groups = np.repeat(np.arange(n), 5)
            shared = np.sqrt(0.3) * random.normal(size=n)[groups] + np.sqrt(0.7) * random.normal(size=5 * n)
            found = proportion(shared < norm.ppf(truth), groups=groups.astype(str))
        else:
            labels = np.arange(n) % 2
            found = area(norm.cdf(random.normal(size=n) / 2 + labels * norm.ppf(truth) / np.sqrt(2)), labels)
        inside += found.low <= truth <= found.high
    assert 0.92 <= inside / 300 <= 0.995


HORIZONS = (3.0, 8.0, 15.0)


def numbers(random, n, kind):
    """Return the target, labels and predictions of values, times or grades, and groups where there are any."""
    signal, groups = random.normal(size=n), None
    if kind == "times":
        event_at, seen_until = random.exponential(10 * np.exp(-0.8 * signal)), random.uniform(2, 30, n)
        labels = np.column_stack([np.minimum(event_at, seen_until), event_at <= seen_until]).astype(np.float64)
        risk = signal + random.normal(0, 0.7, n)
        return Target.until(HORIZONS), labels, 1 - np.exp(-0.1 * np.array(HORIZONS) * np.exp(0.6 * risk[:, None])), None
    if kind == "grades":
        labels, said = (np.digitize(signal + random.normal(0, off, n), [-1, 0, 1]) for off in (0, 0.2))
        return Target.numbered(Task.ORDINAL, 4), labels, np.eye(4)[said], None
    off = random.normal(0, 0.6, n)
    if kind == "groups":
        groups = np.repeat(np.arange(n // 5), 5)
        off += random.normal(0, 0.5, n // 5)[groups]
    return Target(Task.VALUE, ("age",)), signal + off, 0.9 * signal, groups


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n", "metrics"),
    [
        ("values", 60, ("r2", "mae", "rmse", "pearson", "spearman")),
        ("groups", 150, ("r2", "mae")),
        ("times", 80, ("harrell_c", "uno_c", "dynamic_auc", "integrated_brier")),
        ("grades", 60, ("grade_error",)),
    ],
)
def test_intervals_of_numbers_hold_the_truth_as_often_as_they_say(kind, n, metrics):
    """Of 300 test sets, in 92 to 99.5 of 100; the truth is the score of many samples."""
    target, labels, predicted, _ = numbers(np.random.default_rng(0), 40_000, kind)
    truth = score(target, labels, predicted, metrics=metrics)
    inside = dict.fromkeys(metrics, 0)
    for seed in range(300):
        target, labels, predicted, groups = numbers(np.random.default_rng([seed, n]), n, kind)
        found = score_intervals(target, labels, predicted, ids=np.arange(n), groups=groups, metrics=metrics)
        for name in metrics:
            inside[name] += found[name].low <= truth[name] <= found[name].high
    assert all(0.92 <= each / 300 <= 0.995 for each in inside.values()), inside


@pytest.mark.parametrize(("kind", "metric"), [("values", "r2"), ("groups", "mae"), ("times", "harrell_c")])
def test_predictors_that_are_equally_good_seldom_differ(kind, metric):
    small = 0
    for seed in range(60):
        random = np.random.default_rng([seed, 7])
        target, labels, one, groups = numbers(random, 60, kind)
        moved = np.log(-np.log1p(-one)) if kind == "times" else one
        pair = [moved + random.normal(0, 0.3, (60, *[1] * (moved.ndim - 1))) for _ in range(2)]
        pair = [-np.expm1(-np.exp(each)) for each in pair] if kind == "times" else pair
        small += compare(target, labels, *pair, ids=np.arange(60), groups=groups, metric=metric).p_value <= 0.05
    assert small <= 9  # 3 expected; 10 or more has probability below .001


def test_scores_at_the_end_of_what_is_possible_have_no_point_for_an_interval():
    ids = list(map(str, range(40)))
    perfect = score_intervals(Task.VALUE, np.arange(40.0), np.arange(40.0), ids=ids)
    assert perfect["r2"].estimate == 1
    assert all(np.isnan([each.low, each.high]).all() for each in perfect.values())
    times = np.column_stack([np.arange(40.0), np.ones(40)])
    ordered = score_intervals(Target.until([20]), times, np.linspace(0.9, 0.1, 40), ids=ids)["harrell_c"]
    assert (ordered.estimate, ordered.high, ordered.method) == (1, 1, "newcombe")
    assert 0.8 < ordered.low < 1
    labels = np.arange(40) % 4
    for wrong in (0, 1):  # without the one that is wrong no error is left
        said = (labels + (np.arange(40) < wrong)) % 4
        found = score_intervals(Task.ORDINAL, labels, np.eye(4)[said], ids=ids, metrics=["grade_error"])["grade_error"]
        assert 0 <= found.low <= found.estimate == wrong / 40 < found.high < 0.3


def test_labels_of_which_nothing_is_known_do_not_count_as_units():
    random = np.random.default_rng(0)
    labels = (random.random((60, 2)) < 0.4).astype(np.int64)
    p = np.clip(0.5 * labels + 0.6 * random.random((60, 2)), 0, 1)
    ids = np.array([f"s{row:02d}" for row in range(60)])
    gaps = labels.copy()
    gaps[30:, 1] = -1
    gaps[:, 0] = -1
    gaps[0, 0] = labels[0, 0]
    own = score_intervals(Task.MULTILABEL, labels[:30, [1]], p[:30, [1]], ids=ids[:30])["auroc"]
    masked = score_intervals(Task.MULTILABEL, gaps, p, ids=ids)["auroc"]
    assert (masked.estimate, masked.low, masked.high) == pytest.approx((own.estimate, own.low, own.high), abs=0.02)


def test_few_groups_are_said_to_be_too_few():
    labels, p, ids = data(n=40)
    few = intervals(labels, p, ids, groups=np.array([f"g{i % 9}" for i in range(40)]))["accuracy"]
    assert not few.trusted
    assert "9 groups: too few for an interval to be trusted" in str(few)
    assert intervals(labels, p, ids)["accuracy"].trusted


def test_an_undefined_score_has_no_interval():
    _, p, ids = data(n=40)
    absent = intervals(np.zeros(40, int), p, ids)["auroc"]
    assert np.isnan([absent.estimate, absent.low, absent.high]).all()
    none = score_intervals(Task.BINARY, [], np.zeros((0, 2)), ids=[])["auroc"]
    assert np.isnan(none.low)


def test_misnamed_rows_are_refused():
    with pytest.raises(AlignmentError):
        Units.of(["a", "a"])
    with pytest.raises(AlignmentError):
        Units.of(["a", "b"], ["g"])
    with pytest.raises(AlignmentError):
        score_intervals(Task.BINARY, [0, 1], [0.1, 0.2], ids=["a"])


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
    found = compare_with(Task.BINARY, labels, good, {"best single": poor, "all": twin, "greedy": good}, ids=ids)
    assert not found["best single"].noise
    assert found["best single"].low > 0
    assert "is better than best single" in str(found["best single"])
    assert "over 300 samples" in str(found["best single"])
    assert found["greedy"].difference == 0
    assert found["greedy"].p_value == 1
    assert "the same, whichever rows are left out" in str(found["greedy"])
    assert all(c.p_holm >= c.p_value for c in found.values())
    noise = compare(Task.BINARY, labels, twin, good, ids=ids, names=("all", "chosen"))
    if noise.noise:
        assert "within noise" in str(noise)


def test_one_model_under_several_names_counts_once():
    labels, good, poor, twin, ids = binary(80)
    rivals = {"best single": poor, "all": twin}
    alone = compare_with(Task.BINARY, labels, good, rivals, ids=ids)
    several = compare_with(Task.BINARY, labels, good, {**rivals, "greedy": twin, "lean": poor}, ids=ids)
    for name, other in (("best single", "lean"), ("all", "greedy")):
        assert several[name] == alone[name].model_copy(update={"same": (other,)})
        assert several[other] == several[name].model_copy(update={"second": other, "same": (name,)})
    assert [comparison.second for comparison in distinct(several)] == ["best single", "all"]
    assert "and all = greedy " in str(several["all"])


def test_a_corrected_interval_says_what_the_corrected_p_value_says():
    random = np.random.default_rng(1)
    disagree = 0
    for _ in range(300):
        p = random.beta(0.3, 3, 4)
        corrected, levels = holm_levels(p)
        assert corrected == pytest.approx(holm(p))
        assert (np.array(levels) >= 0.95 - 1e-12).all()
        assert ((p < 1 - np.array(levels)) == (np.array(corrected) < 0.05)).all()
        disagree += int(((p < 0.05) != (np.array(corrected) < 0.05)).any())
    assert disagree > 20  # the intervals of one comparison alone would have contradicted these
    assert holm_levels([0.03])[1] == pytest.approx([0.95])
    assert holm_levels([np.nan, 0.0, 1.0])[1] == pytest.approx([0.95 + 0.05 / 2, 1 - 0.05 / 3, 0.95], abs=1e-12)
    labels, good, poor, twin, ids = binary(60)
    found = compare_with(Task.BINARY, labels, twin, {"a": good, "b": poor}, ids=ids)
    assert all((c.p_holm < 0.05) == (c.low > 0 or c.high < 0) for c in found.values())
    assert any("after Holm's correction" in str(c) for c in found.values())


def test_comparison_is_antisymmetric_and_paired():
    labels, good, _, twin, ids = binary()
    a = compare(Task.BINARY, labels, good, twin, ids=ids)
    b = compare(Task.BINARY, labels, twin, good, ids=ids)
    assert a.difference == pytest.approx(-b.difference)
    assert (a.low, a.high) == pytest.approx((-b.high, -b.low))
    assert a.p_value == pytest.approx(b.p_value)
    # Pairing: the interval is far narrower than the spread of either score.
    assert a.high - a.low < 0.06


def test_by_group_and_in_any_order():
    labels, good, poor, _, ids = binary(120)
    groups = np.array([f"g{i // 5}" for i in range(120)])
    a = compare(Task.BINARY, labels, good, poor, ids=ids, groups=groups)
    shuffle = np.random.default_rng(0).permutation(120)
    b = compare(
        Task.BINARY, labels[shuffle], good[shuffle], poor[shuffle],
        ids=np.array(ids)[shuffle], groups=groups[shuffle],
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
                ids=[str(i) for i in range(60)],
            ).p_value <= 0.05
        )  # fmt: skip
    assert small <= 9  # 3 expected; 10 or more has probability below .001


def test_lower_is_better_for_losses():
    labels, good, poor, _, ids = binary()
    found = compare(Task.BINARY, labels, good, poor, ids=ids, metric="log_loss", names=("ours", "theirs"))
    assert found.difference < 0
    assert "ours is better than theirs" in str(found)


def test_undefined_comparison_says_so():
    found = compare(Task.BINARY, [1, 1], [0.3, 0.4], [0.5, 0.6], ids=["a", "b"])
    assert np.isnan(found.p_value)
    assert found.noise
    assert "cannot be compared" in str(found)
    p = np.random.default_rng(0).dirichlet(np.ones(30), (2, 30))
    lonely = compare(Task.MULTICLASS, range(30), p[0], p[1], ids=[str(row) for row in range(30)])
    assert np.isfinite(lonely.difference)
    assert "differ cannot be told" in str(lonely)
    perfect = compare(Task.BINARY, [1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1], [0.5] * 4, ids=list("abcd"))
    assert perfect.difference == 0.5
    assert perfect.noise  # leaving rows out moves neither score, which proves nothing on four rows
    assert "differ cannot be told" in str(perfect)
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
