import numpy as np
import pytest
from scipy.stats import ttest_1samp
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from biofuse.core.errors import AlignmentError, ArtifactError
from biofuse.core.target import Target, Task
from biofuse.evaluation.calibration import Calibration, CalibrationTest, calibrate, measure_calibration


def predicted(n_classes, *, n=400, seed=0):
    """Return probabilities of held-out rows by a logistic regression that is too sure, their labels, and the model."""
    X, y = make_classification(
        n, 30, n_informative=4, n_classes=n_classes, n_clusters_per_class=1, flip_y=0.2, random_state=seed
    )
    fitted = LogisticRegression(max_iter=5000).fit(X[: n // 4], y[: n // 4])
    held_out = X[n // 4 :]
    return fitted.predict_proba(held_out), y[n // 4 :], fitted, held_out


@pytest.mark.parametrize(("task", "n_classes"), [(Task.BINARY, 2), (Task.MULTICLASS, 4), (Task.ORDINAL, 3)])
def test_the_temperature_is_that_of_scikit_learn(task, n_classes):
    p, y, fitted, held_out = predicted(n_classes)
    target = Target.numbered(task, n_classes)
    reference = CalibratedClassifierCV(FrozenEstimator(fitted), method="temperature").fit(held_out, y)
    found = calibrate(target, y, p, rows=np.arange(len(y)), pseudo=0)
    assert found.temperatures[0] > 1.1
    np.testing.assert_allclose(found.apply(target, p), reference.predict_proba(held_out), atol=1e-6)


def test_samples_of_unknown_class_are_counted_in_as_samples_of_every_class_with_little_weight():
    from sklearn.calibration import _TemperatureScaling

    p, y, *_ = predicted(3)
    n = len(y)
    found = calibrate(Target.numbered(Task.MULTICLASS, 3), y, p, rows=np.arange(n))
    every = np.repeat(np.arange(3), n)
    share = 1 / (n + 1)
    weights = np.where(every == np.tile(y, 3), 1 - share, 0) + share / 3
    reference = _TemperatureScaling().fit(np.tile(p, (3, 1)), every, sample_weight=weights)
    assert found.temperatures[0] == pytest.approx(1 / reference.beta_, rel=1e-6)


def test_each_of_several_labels_has_its_own_temperature():
    parts = [predicted(2, seed=seed) for seed in (1, 2)]
    p, y = np.column_stack([part[0][:, 1] for part in parts]), np.column_stack([part[1] for part in parts])
    p, y = np.column_stack([p, p[:, 0]]), np.column_stack([y, np.zeros(len(y), dtype=np.int64)])
    target = Target.numbered(Task.MULTILABEL, 3)
    found = calibrate(target, y, p, rows=np.arange(len(y)), pseudo=0)
    for label, (pair, truth, fitted, held_out) in enumerate(parts):
        reference = CalibratedClassifierCV(FrozenEstimator(fitted), method="temperature").fit(held_out, truth)
        assert np.allclose(found.apply(target, p)[:, label], reference.predict_proba(held_out)[:, 1], atol=1e-6)
        assert np.array_equal(np.argsort(found.apply(target, p)[:, label]), np.argsort(pair[:, 1]))
    assert found.temperatures[2] == 1  # no sample has the label: there is nothing to learn from


def test_classes_and_the_order_of_samples_stay():
    random = np.random.default_rng(0)
    for task, width in ((Task.BINARY, 2), (Task.MULTICLASS, 5)):
        target, p = Target.numbered(task, width), random.dirichlet(np.full(width, 0.3), size=500)
        p[:5] = 1 / width
        for temperature in (0.2, 0.9, 4.0):
            after = Calibration(temperatures=(temperature,), n=10).apply(target, p)
            np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-12)
            assert np.array_equal(target.decide(after), target.decide(p))
            if width == 2:
                assert (np.diff(after[np.argsort(p[:, 1]), 1]) >= 0).all()


def test_a_predictor_without_a_mistake_is_not_taken_to_make_none_ever():
    target, y = Target.numbered(Task.BINARY, 2), np.tile([0, 1], 50)
    p = np.where(y[:, None] == [0, 1], 0.8, 0.2)
    surest = calibrate(target, y, p, rows=np.arange(100)).apply(target, p).max()
    assert 0.99 < surest < 0.999  # one of two hundred: half a sample of unknown class among a hundred
    again = calibrate(target, np.tile(y, 3), np.tile(p, (3, 1)), rows=np.tile(np.arange(100), 3))
    assert again.n == 100
    assert again.apply(target, p).max() == pytest.approx(surest)  # three repeats are no three hundred samples


def test_what_is_saved_is_read_back_and_what_is_wrong_is_refused():
    made = Calibration(temperatures=(0.5, 2.0), n=30)
    assert Calibration.restore(*made.state()) == made
    for wrong in ({"temperatures": [0.0], "n": 3}, {"temperatures": [], "n": 3}, {"temperatures": [1.0]}, {"n": 3}):
        with pytest.raises(ArtifactError, match="calibration"):
            Calibration.restore(wrong, {})
    with pytest.raises(AlignmentError, match="2 temperatures do not fit 3 labels"):
        made.apply(Target.numbered(Task.MULTILABEL, 3), np.full((4, 3), 0.5))


# --- what it does to test samples


@pytest.mark.parametrize(("task", "n_classes"), [(Task.BINARY, 2), (Task.MULTICLASS, 4)])
def test_what_is_measured_is_what_scikit_learn_and_scipy_say(task, n_classes):
    p, y, *_ = predicted(n_classes)
    target, ids = Target.numbered(task, n_classes), np.arange(len(y)).astype(str)
    calibration = Calibration(temperatures=(1.7,), n=10)
    after = calibration.apply(target, p)
    found = measure_calibration(target, y, p, after, calibration=calibration, ids=ids)
    for quality, said in ((found.before, p), (found.after, after)):
        assert quality.loss.estimate == pytest.approx(log_loss(y, said))
        assert quality.brier.estimate == pytest.approx(brier_score_loss(y, said if n_classes > 2 else said[:, 1]))
        right, confidence = said.argmax(axis=1) == y, said.max(axis=1)
        share, mean = calibration_curve(right, confidence, n_bins=10, strategy="uniform")
        counts = np.histogram(confidence, bins=np.linspace(0, 1, 11))[0]
        assert quality.ece.estimate == pytest.approx(np.average(np.abs(share - mean), weights=counts[counts > 0]))
        assert quality.ece.low <= quality.ece.estimate <= quality.ece.high
    losses = -np.log(after[np.arange(len(y)), y])
    reference = ttest_1samp(losses, 0).confidence_interval()
    assert (found.after.loss.low, found.after.loss.high) == pytest.approx((reference.low, reference.high))


def test_groups_widen_the_intervals_and_few_of_them_are_doubted():
    p, y, *_ = predicted(2)
    target, ids = Target.numbered(Task.BINARY, 2), np.arange(len(y)).astype(str)
    groups = np.argsort(np.argsort(np.abs(p[:, 0] - (y == 0)))) // 50  # samples of a group are as hard as one another
    alone = measure_calibration(target, y, p, p, calibration=None, ids=ids)
    together = measure_calibration(target, y, p, p, calibration=None, ids=ids, groups=groups)
    assert together.few_groups
    assert not alone.few_groups
    assert together.after.loss.high - together.after.loss.low > 3 * (alone.after.loss.high - alone.after.loss.low)
    assert CalibrationTest.model_validate_json(together.model_dump_json()) == together


@pytest.mark.slow
def test_perfect_probabilities_are_beyond_chance_once_in_twenty():
    random, beyond = np.random.default_rng(0), []
    target = Target.numbered(Task.MULTICLASS, 3)
    for _ in range(100):
        p = random.dirichlet(np.full(3, 0.7), size=200)
        y = (random.random(200)[:, None] > p.cumsum(axis=1)).sum(axis=1)
        found = measure_calibration(target, y, p, p, calibration=None, ids=np.arange(200).astype(str))
        beyond.append(found.after.ece.estimate > found.chance_high)
    assert 0.01 <= np.mean(beyond) <= 0.11
