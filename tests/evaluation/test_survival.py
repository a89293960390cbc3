"""Every number against scikit-survival, on data with ties in time and in risk, events and censoring at one time."""

import numpy as np
import pytest
from sksurv import compare as sksurv_compare
from sksurv import metrics as sksurv_metrics
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from biofuse.core.errors import AlignmentError
from biofuse.core.target import Target, Task
from biofuse.evaluation.metrics import METRICS, applicable, default_metric, score
from biofuse.evaluation.rows import prepare
from biofuse.evaluation.survival import kaplan_meier, log_rank, still_observed

HORIZONS = (4.0, 9.0, 15.0)


def made(seed, *, n=140, rounded=True):
    """Return times and events, and probabilities by each horizon that say something of them."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=n)
    event_at = random.exponential(10 * np.exp(-0.8 * signal))
    seen_until = random.uniform(2, 30, n)
    time = np.minimum(event_at, seen_until)
    time = np.ceil(time) if rounded else time
    labels = np.column_stack([time, (event_at <= seen_until).astype(np.float64)])
    risk = np.round(signal + random.normal(size=n), 1 if rounded else 12)
    risks = 1 - np.exp(-0.1 * np.array(HORIZONS) * np.exp(0.5 * risk[:, None]))
    return labels, risks


def theirs(labels):
    return Surv.from_arrays(labels[:, 1] == 1, labels[:, 0])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
def test_scores_equal_those_of_scikit_survival(seed, rounded):
    labels, risks = made(seed, rounded=rounded)
    y, event, risk = theirs(labels), labels[:, 1] == 1, risks.mean(axis=1)
    found = score(Target.until(HORIZONS), labels, risks)
    assert found["harrell_c"] == pytest.approx(
        sksurv_metrics.concordance_index_censored(event, labels[:, 0], risk)[0], abs=1e-9
    )
    assert found["uno_c"] == pytest.approx(
        sksurv_metrics.concordance_index_ipcw(y, y, risk, tau=HORIZONS[-1])[0], abs=1e-9
    )
    areas, _ = sksurv_metrics.cumulative_dynamic_auc(y, y, risks, HORIZONS)
    assert [row["dynamic_auc"] for row in found.per_class.values()] == pytest.approx(areas, abs=1e-9)
    assert found["dynamic_auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert found["integrated_brier"] == pytest.approx(
        sksurv_metrics.integrated_brier_score(y, y, 1 - risks, HORIZONS), abs=1e-9
    )
    by_first = (event & (labels[:, 0] <= HORIZONS[0])).sum()
    assert found.per_class["by 4"]["n"] == by_first


@pytest.mark.parametrize("name", ["harrell_c", "uno_c", "dynamic_auc", "integrated_brier"])
def test_weights_are_how_often_a_row_counts(name):
    # The weights for the censoring are those of all rows, as everywhere: repeating a row must not change them.
    labels, risks = made(1)
    counts = np.random.default_rng(0).integers(0, 3, len(labels))
    target = Target.until(HORIZONS)
    data, metric = prepare(target, labels, risks), METRICS[name]
    found = metric.resample(data, np.column_stack([np.ones(len(labels)), counts]))
    repeated = prepare(target, np.repeat(labels, counts, axis=0), np.repeat(risks, counts, axis=0))
    repeated.observed.__dict__["seen"] = data.observed.seen
    assert found[0] == pytest.approx(score(target, labels, risks)[name], abs=1e-12)
    assert found[1] == pytest.approx(metric.resample(repeated, np.ones((counts.sum(), 1)))[0], abs=1e-12)


def test_curves_equal_those_of_scikit_survival():
    labels, _ = made(2)
    time, event = labels[:, 0], labels[:, 1] == 1
    times, shares, ends = kaplan_meier_estimator(event, time, conf_type="log-log")
    curve = kaplan_meier(time, event)
    assert curve.at(times) == pytest.approx(shares, abs=1e-12)
    assert curve.at(0.0) == 1
    low, high = curve.interval(times)
    inside = np.isfinite(low) & (shares > 0)
    assert inside.sum() > 10
    assert low[inside] == pytest.approx(ends[0][inside], abs=1e-9)
    assert high[inside] == pytest.approx(ends[1][inside], abs=1e-9)
    times, shares = kaplan_meier_estimator(event, time, reverse=True)
    assert still_observed(time, event).at(times) == pytest.approx(shares, abs=1e-12)


def test_the_log_rank_test_equals_that_of_scikit_survival():
    labels, risks = made(3)
    groups = np.digitize(risks[:, 0], np.quantile(risks[:, 0], [1 / 3, 2 / 3]))
    statistic, p_value = log_rank(labels[:, 0], labels[:, 1] == 1, groups)
    expected = sksurv_compare.compare_survival(theirs(labels), groups)
    assert (statistic, p_value) == pytest.approx(expected, rel=1e-9)
    assert np.isnan(log_rank(labels[:, 0], labels[:, 1] == 1, np.zeros(len(labels)))[1])


def test_what_cannot_be_scored_is_undefined_and_says_why():
    target, (labels, risks) = Target.until(HORIZONS), made(0)
    assert default_metric(target) == applicable(target)[0] == "harrell_c"
    censored = labels * [1, 0]
    found = score(target, censored, risks)
    assert np.isnan(found["harrell_c"])
    assert "of no two samples is known who had the event first" in found.undefined["harrell_c"]
    early = score(target, np.minimum(labels, [9.0, 1]), risks)
    assert early.partial["dynamic_auc"] == "nobody without an event is seen by 9, by 15"
    assert np.isfinite(early["dynamic_auc"])
    ranked = score(target, labels, risks * 10, decision=risks)  # a screen has no probabilities
    assert np.isnan(ranked["integrated_brier"])
    assert ranked["harrell_c"] == score(target, labels, risks)["harrell_c"]
    with pytest.raises(AlignmentError, match="horizons, which are not given"):
        score(Task.SURVIVAL, labels, risks)
    assert METRICS["integrated_brier"].guessing(target, labels) == pytest.approx(
        sksurv_metrics.integrated_brier_score(
            theirs(labels),
            theirs(labels),
            np.tile(kaplan_meier(labels[:, 0], labels[:, 1] == 1).at(np.array(HORIZONS)), (len(labels), 1)),
            HORIZONS,
        ),
        abs=1e-9,
    )
