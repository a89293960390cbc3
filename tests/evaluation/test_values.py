import numpy as np
import pytest
from scipy.stats import t

from biofuse.core.errors import ArtifactError, DataError
from biofuse.core.target import Target, Task
from biofuse.evaluation.intervals import Units
from biofuse.evaluation.values import KnownValues, limits_of_agreement, measure_values

AGE = Target(Task.VALUE, ("age",))


@pytest.mark.parametrize("grouped", [False, True], ids=["samples", "groups"])
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_prediction_intervals_hold_the_value_as_often_as_asked(grouped, coverage):
    """Over 300 draws of development and test samples, heavy tails; a group's samples are off together."""
    random, held = np.random.default_rng(1), []
    for _ in range(300):
        groups = np.repeat(np.arange(80), random.integers(1, 9, 80)) if grouped else np.arange(160)
        off = random.standard_t(3, len(groups)) + (2 * random.normal(size=80)[groups] if grouped else 0)
        old = groups < (60 if grouped else 120)
        truth = 50 + off
        known = KnownValues.learn(AGE, truth[old], np.full((old.sum(), 1), 50.0), units=groups[old])
        low, high = known.ends(np.full((int((~old).sum()), 1), 50.0), coverage)
        inside = (low[:, 0] <= truth[~old]) & (truth[~old] <= high[:, 0])
        new = groups[~old]
        held.append(np.mean([inside[new == group].mean() for group in set(new.tolist())]))
    assert coverage - 0.01 < np.mean(held) < coverage + 0.02


def test_intervals_reach_the_quantile_of_split_conformal_prediction():
    random = np.random.default_rng(0)
    truth, predicted = random.normal(size=(2, 57, 2))
    target = Target(Task.VALUE, ("age", "weight"))
    known = KnownValues.learn(target, truth, predicted, units=np.arange(57))
    rank = int(np.ceil(58 * 0.9)) - 1
    assert known.reach(0.9) == pytest.approx(np.sort(np.abs(truth - predicted), axis=0)[rank])
    assert known.fits(target)
    assert not known.fits(AGE)
    json, arrays = known.state()
    assert KnownValues.restore(json, arrays).reach(0.9) == pytest.approx(known.reach(0.9))
    with pytest.raises(ArtifactError):
        KnownValues.restore(json, arrays | {"cuts": arrays["cuts"][:1]})
    with pytest.raises(DataError, match="coverage"):
        known.reach(1.0)
    few = KnownValues.learn(target, truth[:5], predicted[:5], units=np.arange(5))
    assert np.isinf(few.reach(0.9)).all()
    found = measure_values(target, truth, predicted, known=few, ids=np.arange(57)).columns[0]
    assert (found.ranges[0].coverage.estimate, np.isnan(found.ranges[0].reach)) == (1, True)
    assert "Too few development samples promise an interval that holds the value in 90%" in str(found)


def test_agreement_is_that_of_bland_and_altman():
    """Their approximate error of a limit (1986) and the jackknife's agree on normal differences."""
    differences = np.random.default_rng(3).normal(1.5, 2, 200)
    bias, lower, upper = limits_of_agreement(differences, Units.of(np.arange(200)))
    deviation, quantile = differences.std(ddof=1), t.ppf(0.975, 199)
    assert bias.estimate == pytest.approx(differences.mean())
    assert bias.high - bias.estimate == pytest.approx(quantile * deviation / np.sqrt(200), rel=1e-9)
    assert (lower.estimate, upper.estimate) == pytest.approx(differences.mean() + 1.96 * deviation * np.array([-1, 1]))
    assert upper.high - upper.estimate == pytest.approx(quantile * deviation * np.sqrt(3 / 200), rel=0.15)
    one = limits_of_agreement(np.array([1.0]), Units.of(["a"]))
    assert np.isnan(one[0].low)


def test_values_above_a_threshold_are_told_from_others():
    random = np.random.default_rng(2)
    truth = random.normal(60, 10, 400)
    predicted = truth + random.normal(0, 5, 400)
    known = KnownValues.learn(AGE, truth[:200], predicted[:200, None], units=np.arange(200))
    found = measure_values(AGE, truth[200:], predicted[200:, None], known=known, ids=np.arange(200))
    column = found.columns[0]
    assert [cut.threshold for cut in column.cuts] == pytest.approx(np.quantile(truth[:200], [0.25, 0.5, 0.75]))
    middle = column.cuts[1]
    above, called = truth[200:] > middle.threshold, predicted[200:] > middle.threshold
    assert middle.above == above.sum()
    assert middle.sensitivity.estimate == pytest.approx(called[above].mean())
    assert middle.ppv.estimate == pytest.approx(above[called].mean())
    assert middle.npv.estimate == pytest.approx((~above)[~called].mean())
    assert type(found).model_validate_json(found.model_dump_json()) == found
    assert found.sentences()[0].startswith("age: predictions are ")
    assert not found.few_groups
    assert measure_values(
        AGE, truth, predicted[:, None], known=None, ids=np.arange(400), groups=np.arange(400) % 8
    ).few_groups
