"""Predicted risks of an event on test data: what became of the risk groups, and whether risks are right."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.evaluation.risks import RiskGroup, RisksTest
from biofuse.evaluation.survival import kaplan_meier
from biofuse.report import content
from biofuse.report.input import ReportInput
from biofuse.runs.run import EVALUATE


def risks_section(given: ReportInput) -> content.Section | None:
    """Show curves by risk group and calibration at the horizons; None where no times were tested.

    Raises
    ------
    ArtifactError
        If ``predictions.parquet`` does not belong to the run.
    """
    found = None if given.evaluation is None else given.evaluation.risks
    if given.evaluation is None or found is None:
        return None
    frame = given.evaluation.predictions
    if not {"time", "event", "prediction"} <= set(frame.columns):
        raise ArtifactError("predictions.parquet does not belong to this run: it has no times.", remedy=EVALUATE)
    said = list(found.sentences())
    if found.few_groups:
        said.append("There are too few groups for these intervals to be trusted.")
    time, event = frame["time"].to_numpy(np.float64), frame["event"].to_numpy() == 1
    names = frame["prediction"].fillna("").astype(str).to_numpy(dtype=object)
    items: list[content.Item] = [_curves(found, time, event, names), _calibration(found)]
    return content.Section(
        id="risks",
        title="Predicted risks",
        paragraphs=tuple(said),
        items=tuple(replace(item, basis=given.of_chosen) for item in items),
    )


def _rows_of(found: RisksTest) -> tuple[RiskGroup, ...]:
    return (*(group for group in found.groups if group.n), found.everyone)


def _curves(
    found: RisksTest, time: NDArray[np.float64], event: NDArray[np.bool_], names: NDArray[np.object_]
) -> content.Chart:
    lines = []
    for group in _rows_of(found)[:-1] or (found.everyone,):
        rows = names == group.name if group is not found.everyone else np.ones(len(time), dtype=np.bool_)
        curve = kaplan_meier(time[rows], event[rows])
        # Each step is two points: down at its time, and on to the next.
        x = np.concatenate([[0.0], np.repeat(curve.times, 2)])
        y = np.concatenate([np.repeat(np.concatenate([[1.0], curve.shares[:-1]]), 2), curve.shares[-1:]])
        lines.append(content.LineSeries(name=f"{group.name} risk ({group.n})", x=x, y=y))
    test = (
        f" Log-rank test of whether the groups differ: chi squared {found.statistic:.2f}, p = {found.p_value:.3g}."
        if np.isfinite(found.p_value)
        else ""
    )
    horizons = [name.removeprefix("by ") for name in found.horizons]
    return content.Chart(
        id="risk-groups",
        title="Share without the event, by predicted risk",
        summary=f"Kaplan-Meier curves of test samples; thirds of the development samples by risk are the groups.{test}",
        body=content.LineChart(
            lines=tuple(lines),
            x_axis="time",
            y_axis="share without the event",
            width=(0.0, float(time.max(initial=0.0))),
        ),
        table=content.Table(
            id="risk-groups-data",
            caption="Share that has had the event, with 95 % intervals, and what was predicted",
            columns=content.words("risk")
            + content.numbers("samples", "events")
            + tuple(
                each
                for horizon in horizons
                for each in content.numbers(
                    f"by {horizon}", f"low {horizon}", f"high {horizon}", f"predicted {horizon}", decimals=3
                )
            ),
            rows=tuple(
                (
                    group.name, group.n, group.events,
                    *(
                        value
                        for share, said in zip(group.observed, group.predicted, strict=True)
                        for value in (share.estimate, share.low, share.high, said)
                    ),
                )
                for group in _rows_of(found)
            ),
        ),
    )  # fmt: skip


def _calibration(found: RisksTest) -> content.Chart:
    groups = _rows_of(found)
    lines = [
        content.LineSeries(
            name=horizon,
            x=np.array([group.predicted[place] for group in groups[:-1] or groups]),
            y=np.array([group.observed[place].estimate for group in groups[:-1] or groups]),
            low=np.array([group.observed[place].low for group in groups[:-1] or groups]),
            high=np.array([group.observed[place].high for group in groups[:-1] or groups]),
        )
        for place, horizon in enumerate(found.horizons)
    ]
    last, every = found.horizons[-1], found.everyone
    how = f" Calibration multiplied their spread by {found.slope:.3f}." if np.isfinite(found.slope) else ""
    return content.Chart(
        id="risk-calibration",
        title="Predicted and observed risk",
        summary=f"Of each risk group, at each horizon; on the diagonal as many events happen as are predicted. Of all, "
        f"{last}: predicted {every.predicted[-1]:.3f}, observed {every.observed[-1].estimate:.3f}.{how}",
        body=content.LineChart(
            lines=tuple(lines), x_axis="mean predicted risk", y_axis="share with the event", diagonal=True, dotted=True
        ),
        table=content.Table(
            id="risk-calibration-data",
            caption="Predicted and observed risk by horizon",
            columns=content.words("horizon", "risk")
            + content.numbers("predicted", "observed", "low observed", "high observed", decimals=3),
            rows=tuple(
                (horizon, group.name, group.predicted[place], share.estimate, share.low, share.high)
                for place, horizon in enumerate(found.horizons)
                for group in groups
                for share in (group.observed[place],)
            ),
        ),
    )
