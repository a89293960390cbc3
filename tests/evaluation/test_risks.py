import numpy as np
import pytest

from biofuse.core.errors import ArtifactError
from biofuse.core.target import Target
from biofuse.evaluation.risks import GROUPS, KnownRisks, measure_risks
from biofuse.evaluation.survival import kaplan_meier, log_rank

HORIZONS = (3.0, 8.0, 15.0)
TARGET = Target.until(HORIZONS)


def made(seed, n, *, extreme=1.0, shift=0.0):
    """Return times and events of a proportional hazards model, and its risks, too extreme and shifted."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=n)
    event_at, seen_until = random.exponential(10 * np.exp(-0.8 * signal)), random.uniform(2, 40, n)
    labels = np.column_stack([np.minimum(event_at, seen_until), event_at <= seen_until]).astype(np.float64)
    hazards = 0.1 * np.array(HORIZONS) * np.exp(0.8 * signal[:, None] * extreme + shift)
    return labels, -np.expm1(-hazards), -np.expm1(-0.1 * np.array(HORIZONS) * np.exp(0.8 * signal[:, None]))


def test_risks_that_are_too_extreme_and_too_high_are_brought_back():
    labels, said, true = made(0, 4000, extreme=1.8, shift=0.5)
    known = KnownRisks.learn(TARGET, labels, said)
    assert known.slope == pytest.approx(1 / 1.8, abs=0.05)
    found = known.apply(said)
    assert np.abs(said - true).mean() > 0.1
    assert np.abs(found - true).mean() < 0.02
    assert (np.diff(found, axis=1) >= 0).all()
    assert (np.diff(found[np.argsort(said[:, 0])], axis=0) >= -1e-12).all()  # the order of samples stays
    honest = KnownRisks.learn(TARGET, *made(1, 4000)[:2])
    assert (honest.slope, honest.shift) == (pytest.approx(1, abs=0.08), pytest.approx([0, 0, 0], abs=0.08))
    json, arrays = known.state()
    assert (KnownRisks.restore(json, arrays).apply(said) == found).all()
    with pytest.raises(ArtifactError):
        KnownRisks.restore(json, arrays | {"cuts": np.zeros(3)})
    assert known.fits(TARGET)
    assert not known.fits(Target.until([1]))


def test_risks_of_few_neighbours_some_of_them_0_stay_right_on_the_whole():
    """A curve of forty neighbours is 0 where none of them had the event: the others are not pulled along."""
    labels, _, true = made(7, 2000)
    said = np.maximum.accumulate(np.random.default_rng(8).binomial(40, true) / 40, axis=1)
    assert (said == 0).any()
    found = KnownRisks.learn(TARGET, labels, said).apply(said)
    happened = 1 - kaplan_meier(labels[:, 0], labels[:, 1] == 1).at(np.array(HORIZONS))
    assert found.mean(axis=0) == pytest.approx(happened, abs=0.01)


def test_risk_groups_are_thirds_of_the_development_samples_and_keep_their_thresholds():
    labels, said, _ = made(2, 900)
    known = KnownRisks.learn(TARGET, labels, said)
    calibrated = known.apply(said)
    assert np.bincount(known.group(TARGET, calibrated)) == pytest.approx([300, 300, 300], abs=1)
    test, risks, _ = made(3, 150)
    risks = known.apply(risks)
    found = measure_risks(TARGET, test, risks, known=known, ids=np.arange(150))
    member = known.group(TARGET, risks)
    assert [group.n for group in found.groups] == np.bincount(member, minlength=3).tolist()
    high = member == 2
    curve = kaplan_meier(test[high, 0], test[high, 1] == 1)
    assert [each.estimate for each in found.groups[2].observed] == pytest.approx(1 - curve.at(np.array(HORIZONS)))
    assert found.groups[2].predicted == pytest.approx(risks[high].mean(axis=0))
    assert (found.statistic, found.p_value) == log_rank(test[:, 0], test[:, 1] == 1, member)
    assert found.p_value < 0.001
    said = " ".join(found.sentences())
    assert "By 15 the model expects the event in" in said
    assert f"of {found.groups[0].n} at low risk" in said
    assert "more than chance" in said
    assert type(found).model_validate_json(found.model_dump_json()) == found
    grouped = measure_risks(TARGET, test, risks, known=None, ids=np.arange(150), groups=np.arange(150) % 5)
    assert (grouped.groups, grouped.few_groups) == ((), True)
    assert "take the samples of a group as independent" in " ".join(grouped.sentences())
    assert GROUPS == ("low", "middle", "high")


def test_what_was_not_observed_has_no_share():
    labels, risks, _ = made(4, 60)
    early = np.minimum(labels, [7.0, 1.0])
    early[labels[:, 0] > 7, 1] = 0
    found = measure_risks(TARGET, early, risks, known=None, ids=np.arange(60)).everyone.observed
    assert np.isfinite(found[0].estimate)
    assert np.isnan(found[1].estimate)
    none = KnownRisks.learn(TARGET, early * [1, 0], risks)  # no event, nothing to learn
    assert (none.shift.tolist(), none.slope) == ([0, 0, 0], 1)


@pytest.mark.slow
def test_intervals_of_what_happened_hold_the_truth_as_often_as_they_say():
    """Of 400 test sets, in 93 to 97.5 of 100 at each horizon; the truth is that of many samples."""
    _, _, true = made(5, 400_000)
    truth, inside = true.mean(axis=0), np.zeros(3)
    for seed in range(400):
        labels, risks, _ = made([6, seed], 120)
        found = measure_risks(TARGET, labels, risks, known=None, ids=np.arange(120)).everyone.observed
        inside += [each.low <= share <= each.high for each, share in zip(found, truth, strict=True)]
    assert ((inside / 400 >= 0.93) & (inside / 400 <= 0.975)).all(), inside
