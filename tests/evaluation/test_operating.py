from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix, precision_score, recall_score, roc_curve

from biofuse.core.errors import UndefinedMetricError
from biofuse.core.target import Target, Task
from biofuse.evaluation.intervals import score_intervals, share_interval
from biofuse.evaluation.operating import (
    MOST_STEPS,
    Operating,
    RiskCoverage,
    Share,
    ThresholdCurve,
    Thresholds,
    measure_operating,
    net_benefit,
    predictive_values,
)
from biofuse.evaluation.rows import prepare


def two_classes(n=300, seed=0, decimals=2):
    """Labels and probabilities with ties."""
    random = np.random.default_rng(seed)
    labels = random.random(n) < 0.3
    return labels, np.round(1 / (1 + np.exp(-2 * labels + 1 - random.normal(size=n))), decimals)


@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_thresholds_are_those_of_scikit_learns_curve(decimals):
    labels, p = two_classes(decimals=decimals)
    false, true, _ = roc_curve(labels, p, drop_intermediate=False)
    curve = ThresholdCurve.of(labels, p)
    for wanted in (0.5, 0.8, 0.95):
        above = p > curve.at_sensitivity(wanted)
        needed = np.ceil((labels.sum() + 1) * wanted) / labels.sum()
        assert above[labels].mean() == true[true >= needed].min()
        assert above[~labels].mean() == pytest.approx(false[true >= needed].min())
    above = p > curve.youden()
    assert above[labels].mean() - above[~labels].mean() == pytest.approx((true - false).max())
    assert (np.diff(curve.threshold) < 0).all()


def test_a_threshold_finds_a_new_positive_as_often_as_wanted_on_average():
    """Uniform probabilities: the expected sensitivity is k / (n + 1), and a little more for standing between two."""
    random, n, wanted = np.random.default_rng(0), 40, 0.9
    found = []
    for _ in range(2000):
        p = random.random(2 * n)
        found.append(1 - ThresholdCurve.of(np.arange(2 * n) < n, p).at_sensitivity(wanted))
    assert wanted <= np.mean(found) + 0.005
    assert np.mean(found) < wanted + 1.5 / (n + 1)


def test_what_cannot_be_promised_is_not():
    p = np.linspace(0.01, 0.99, 40)
    few, enough = ThresholdCurve.of(p > 0.54, p), ThresholdCurve.of(p > 0.52, p)
    assert (few.positives, enough.positives) == (18, 19)
    assert not few.promises(0.95)
    assert enough.promises(0.95)
    assert (p > few.at_sensitivity(0.95)).sum() == 18  # all there are
    repeated = ThresholdCurve.of(np.tile(p > 0.54, 3), np.tile(p, 3), rows=np.tile(np.arange(40), 3))
    assert repeated.positives == 18  # seen three times, but no more than before
    nothing = ThresholdCurve.of([True, True, False], [0.0, 0.5, 0.2])
    assert nothing.sensitivity[-1] == 0.5  # no threshold is below 0
    absent, everything = ThresholdCurve.of([False], [0.5]), ThresholdCurve.of([True], [0.5])
    assert np.isnan([absent.at_sensitivity(0.9), absent.youden(), everything.youden()]).all()


def test_a_long_curve_keeps_what_decides():
    labels, p = two_classes(20_000, decimals=15)
    curve, (false, true, _) = ThresholdCurve.of(labels, p), roc_curve(labels, p)
    assert len(curve.threshold) <= MOST_STEPS + 1
    assert (curve.sensitivity + curve.specificity).max() - 1 == pytest.approx((true - false).max())
    for wanted in (0.3, 0.9, 0.99):
        assert wanted <= (p > curve.at_sensitivity(wanted))[labels].mean() <= wanted + 0.002


def test_neighbouring_numbers_are_told_apart():
    low = 0.3
    high = np.nextafter(low, 1)
    curve = ThresholdCurve.of([False, True], [low, high])
    assert low <= curve.threshold[0] < high


def test_a_share_of_groups_has_the_interval_of_an_accuracy():
    random = np.random.default_rng(0)
    groups = random.integers(0, 30, 200).astype(str)
    right = random.random(200) < 0.8
    found = score_intervals(
        Task.BINARY, np.ones(200, int), np.where(right, 0.9, 0.1), ids=np.arange(200).astype(str), groups=groups,
        metrics=["accuracy"],
    )["accuracy"]  # fmt: skip
    units = np.unique(groups, return_inverse=True)[1]
    assert share_interval(right, units, grouped=True) == pytest.approx((found.estimate, found.low, found.high))
    assert np.isnan(share_interval(right[:0], units[:0], grouped=False)).all()


def share(hits, n):
    return Share.of(np.arange(n) < hits, np.ones(n, bool), units_of(n))


def units_of(n):
    from biofuse.evaluation.intervals import Units

    return Units.of(np.arange(n))


def test_predictive_values_follow_bayes_and_their_intervals_mercaldo_where_there_is_much():
    """Mercaldo, Lau and Zhou (2007): the delta method on the logit."""
    positives, negatives, prevalence = 4000, 6000, 0.02
    a, b = share(3600, positives), share(5100, negatives)
    ppv, npv = predictive_values(a, b, prevalence)
    assert ppv.estimate == pytest.approx(0.9 * 0.02 / (0.9 * 0.02 + 0.15 * 0.98))
    assert npv.estimate == pytest.approx(0.85 * 0.98 / (0.85 * 0.98 + 0.1 * 0.02))

    def ends(value, variance):
        middle = np.log(value / (1 - value))
        return tuple(1 / (1 + np.exp(-middle - sign * 1.959964 * np.sqrt(variance))) for sign in (-1, 1))

    expected = ends(ppv.estimate, 0.1 / 0.9 / positives + 0.85 / 0.15 / negatives)
    assert (ppv.low, ppv.high) == pytest.approx(expected, rel=2e-3)
    expected = ends(npv.estimate, 0.9 / 0.1 / positives + 0.15 / 0.85 / negatives)
    assert (npv.low, npv.high) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("n", "found", "spared"), [(30, 0.9, 0.8), (60, 0.97, 0.99)])
def test_intervals_of_predictive_values_hold_the_truth_as_often_as_they_say(n, found, spared):
    random, inside = np.random.default_rng(n), np.zeros(2)
    truth = [found * 0.1 / (found * 0.1 + (1 - spared) * 0.9), spared * 0.9 / (spared * 0.9 + (1 - found) * 0.1)]
    for _ in range(600):
        got = predictive_values(share(random.binomial(n, found), n), share(random.binomial(n, spared), n), 0.1)
        inside += [each.low <= value <= each.high for each, value in zip(got, truth, strict=True)]
    assert (inside / 600 >= 0.93).all()


@pytest.mark.parametrize(("hits", "spared", "expected"), [(0, 5, (np.nan, 0.5)), (5, 5, (1, 1)), (5, 0, (0.5, np.nan))])
def test_the_ends_of_the_scale_have_predictive_values(hits, spared, expected):
    found = predictive_values(share(hits, 5), share(spared, 5), 0.5)
    assert [each.estimate for each in found] == pytest.approx(expected, nan_ok=True)
    for each in found:
        assert np.isnan(each.estimate) or (each.low <= each.estimate <= each.high and each.low < each.high)


def test_net_benefit_by_hand():
    labels, p = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]), np.array([0.9, 0.6, 0.1, 0.7, 0.3, 0.2, 0.1, 0.1, 0.0, 0.5])
    model, everyone = net_benefit(labels, p, [0.2, 0.5])
    assert model == pytest.approx([(2 - 3 * 0.25) / 10, (2 - 1) / 10])
    assert everyone == pytest.approx([(3 - 7 * 0.25) / 10, (3 - 7) / 10])


def test_risk_over_coverage_is_the_mean_over_all_orders_of_equals():
    sure, right = np.array([0.9, 0.7, 0.7, 0.7, 0.5]), np.array([1, 0, 1, 1, 0], bool)
    orders = [order for order in permutations(range(5)) if (np.diff(sure[list(order)]) <= 0).all()]
    expected = np.mean([np.cumsum(~right[list(order)]) / np.arange(1, 6) for order in orders], axis=0)
    curve = RiskCoverage.of(sure, right)
    assert curve.risk == pytest.approx(expected)
    assert curve.coverage == pytest.approx(np.arange(1, 6) / 5)
    assert curve.area == pytest.approx(expected.mean())
    assert RiskCoverage.of(right, right).area == pytest.approx(np.mean([0, 0, 0, 1 / 4, 2 / 5]))
    assert np.isnan(RiskCoverage.of([], []).area)


def test_points_of_two_classes_are_scikit_learns():
    labels, p = two_classes()
    test, q = two_classes(seed=1)
    found = measured(
        Task.BINARY, test, q, thresholds=Thresholds(curves=(ThresholdCurve.of(labels, p),)), sensitivity=0.8
    )
    assert [point.rule for point in found.points] == ["default", "sensitivity", "youden"]
    for point in found.points:
        said = q > point.threshold
        tn, fp, fn, tp = confusion_matrix(test, said).ravel()
        assert (point.of, point.positives, point.negatives) == ("yes", tp + fn, tn + fp)
        assert point.sensitivity.estimate == tp / (tp + fn)
        assert point.specificity.estimate == tn / (tn + fp)
        assert point.ppv.estimate == pytest.approx(precision_score(test, said))
        assert point.npv.estimate == pytest.approx(tn / (tn + fn))
        assert point.net_benefit == pytest.approx(net_benefit(test, q, [point.threshold])[0][0])
    assert found.points[0].threshold == 0.5
    assert Operating.model_validate_json(found.model_dump_json()) == found
    stated = measured(Task.BINARY, test, q, prevalence=0.01)
    assert stated.points[0].ppv.estimate < found.points[0].ppv.estimate
    assert "no out-of-fold predictions" in stated.notes[0]


def measured(task, labels, p, **given):
    classes = ("no", "yes") if task is Task.BINARY else tuple("abc")
    ids = given.pop("ids", np.arange(len(labels)).astype(str))
    return measure_operating(prepare(task, labels, p, classes=classes), ids=ids, **given)


def test_classes_are_told_from_the_rest():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 90)
    p = random.dirichlet(np.ones(3), 90) * 0.5 + 0.5 * np.eye(3)[labels] * random.random((90, 1))
    p /= p.sum(axis=1, keepdims=True)
    known = Thresholds.learn(Target(Task.MULTICLASS, tuple("abc")), labels, p, rows=np.arange(90))
    found = measured(Task.MULTICLASS, labels, p, thresholds=known, groups=(np.arange(90) // 10).astype(str))
    recalls = recall_score(labels, p.argmax(axis=1), average=None)
    assert [point.sensitivity.estimate for point in found.at("default")] == recalls.tolist()
    assert np.isnan([point.threshold for point in found.at("default")]).all()
    assert all(point.few_groups for point in found.points)
    for column, point in enumerate(found.at("sensitivity")):
        assert point.sensitivity.estimate == ((p[:, column] > point.threshold) & (labels == column)).sum() / sum(
            labels == column
        )
    kept = found.abstention.answered
    assert [each.share for each in kept] == pytest.approx([1, 0.9, 0.8, 0.7, 0.5])
    surest = np.argsort(-p.max(axis=1))[:45]
    assert kept[-1].accuracy.estimate == (p.argmax(axis=1) == labels)[surest].mean()


def test_labels_are_decided_one_by_one():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (60, 3))
    p = np.clip(labels * 0.4 + random.random((60, 3)) * 0.6, 0, 1)
    found = measured(Task.MULTILABEL, labels, p)
    for point, (tn, fp, fn, tp) in zip(
        found.at("default"), multilabel_confusion_matrix(labels, p > 0.5).reshape(3, 4), strict=True
    ):
        assert point.sensitivity.estimate == tp / (tp + fn)
        assert point.specificity.estimate == tn / (tn + fp)
    assert found.abstention.error == ((p > 0.5) != labels).mean()
    assert found.abstention.answered[0].confidence == np.maximum(p, 1 - p).min()


def test_what_is_not_there_is_nan_and_what_is_no_share_is_refused():
    empty = measured(Task.BINARY, np.zeros(0, int), np.zeros((0, 2)))
    assert np.isnan(empty.points[0].sensitivity.estimate)
    assert np.isnan(empty.abstention.area)
    healthy = measured(Task.BINARY, np.zeros(5, int), np.full(5, 0.2))
    assert np.isnan([healthy.points[0].sensitivity.low, healthy.points[0].ppv.estimate]).all()
    for wrong in ({"sensitivity": 0.0}, {"sensitivity": 95}, {"prevalence": 1.0}, {"prevalence": -0.1}):
        with pytest.raises(UndefinedMetricError, match="is no share of samples"):
            measured(Task.BINARY, [0, 1], [0.2, 0.7], **wrong)
