"""The sections of values and of times to an event: the numbers of their tables, and both drawings."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from biofuse.core.target import Target, Task
from biofuse.evaluation.risks import GROUPS, KnownRisks, measure_risks
from biofuse.evaluation.survival import kaplan_meier
from biofuse.evaluation.values import KnownValues, measure_values
from biofuse.report.content import Section
from biofuse.report.draw import make_figure, static_figure
from biofuse.report.sections.risks import risks_section
from biofuse.report.sections.values import values_section


def given(predictions: pd.DataFrame, **found: Any) -> Any:
    return SimpleNamespace(
        evaluation=SimpleNamespace(predictions=predictions, **({"values": None, "risks": None} | found)),
        of_chosen="test samples, ridge head, a + b",
    )


def table(section: Section, name: str) -> Any:
    items = [getattr(item, "table", item) for item in section.items]
    return next(item for item in items if item.id == name)


def drawn(section: Section) -> None:
    """Draw every chart for the page and for a paper."""
    for item in section.items:
        if hasattr(item, "body"):
            assert make_figure(item).data
            pyplot.close(static_figure(item))


def test_predicted_values_stand_beside_the_true_ones() -> None:
    random, target = np.random.default_rng(0), Target(Task.VALUE, ("age", "<b>weight</b>"))
    truth = random.normal(60, 10, (400, 2))
    predicted = truth + random.normal(1, 4, (400, 2))
    known = KnownValues.learn(target, truth[:300], predicted[:300], units=np.arange(300))
    new, said = truth[300:], predicted[300:]
    found = measure_values(target, new, said, known=known, ids=np.arange(100))
    columns = {f"{what}{name}": values[:, c] for what, values in (("true_", new), ("p_", said))
               for c, name in enumerate(target.classes)}  # fmt: skip
    section = values_section(given(pd.DataFrame({"id": np.arange(100), **columns}), values=found))
    assert section is not None
    worst = table(section, "value-0-data").rows[0]
    place = int(np.abs(said - new)[:, 0].argmax())
    assert worst == (str(place), new[place, 0], said[place, 0], said[place, 0] - new[place, 0])
    parts = table(section, "value-1-residuals-data").rows
    assert [row[-1] for row in parts] == [20] * 5
    assert np.mean([row[2] for row in parts]) == pytest.approx((said - new)[:, 1].mean())
    assert table(section, "value-1-agreement-data").rows[0][1] == pytest.approx((said - new)[:, 1].mean())
    first = table(section, "value-intervals").rows[0]
    assert first[2] == pytest.approx((np.abs(said - new)[:, 0] <= known.reach(0.9)[0]).mean())
    assert first[5] == pytest.approx(known.reach(0.9)[0])
    cuts = table(section, "value-thresholds").rows
    assert len(cuts) == 6
    assert cuts[1][2] == (new[:, 0] > np.median(truth[:300, 0])).sum()
    band = section.items[0].body.lines[1:]  # type: ignore[union-attr]
    assert band[1].y - band[1].x == pytest.approx(known.reach(0.9)[0])
    drawn(section)
    assert values_section(given(pd.DataFrame())) is None


def test_what_became_of_the_risk_groups() -> None:
    random, target = np.random.default_rng(1), Target.until([3, 8, 15])
    signal = random.normal(size=500)
    event_at, seen_until = random.exponential(10 * np.exp(-signal)), random.uniform(2, 40, 500)
    labels = np.column_stack([np.minimum(event_at, seen_until), event_at <= seen_until]).astype(float)
    risks = -np.expm1(-0.1 * np.array(target.horizons) * np.exp(signal[:, None]))
    known = KnownRisks.learn(target, labels[:300], risks[:300])
    new, said = labels[300:], known.apply(risks[300:])
    found = measure_risks(target, new, said, known=known, ids=np.arange(200))
    names = [GROUPS[each] for each in known.group(target, said)]
    frame = pd.DataFrame({"id": np.arange(200), "time": new[:, 0], "event": new[:, 1].astype(int), "prediction": names})
    section = risks_section(given(frame, risks=found))
    assert section is not None
    rows = table(section, "risk-groups-data").rows
    assert [row[0] for row in rows] == [*GROUPS, "all"]
    high = np.array(names) == "high"
    curve = kaplan_meier(new[high, 0], new[high, 1] == 1)
    assert rows[2][1:3] == (high.sum(), new[high, 1].sum())
    assert [rows[2][3], rows[2][7], rows[2][11]] == pytest.approx(1 - curve.at(np.array(target.horizons)))
    assert [rows[2][6], rows[2][10], rows[2][14]] == pytest.approx(said[high].mean(axis=0))
    line = section.items[0].body.lines[2]  # type: ignore[union-attr]
    at = np.searchsorted(line.x, [3.0, 8.0, 15.0], side="right") - 1
    assert line.y[at] == pytest.approx(curve.at(np.array(target.horizons)))
    assert (np.diff(line.x) >= 0).all()
    assert (np.diff(line.y) <= 0).all()
    assert (line.name, line.y[0], line.y[-1]) == (f"high risk ({high.sum()})", 1, curve.shares[-1])
    observed = table(section, "risk-calibration-data").rows
    assert len(observed) == 12
    assert f"p = {found.p_value:.3g}" in section.items[0].summary  # type: ignore[union-attr]
    drawn(section)
    assert risks_section(given(frame)) is None
