"""Predicted values on test data: against the true ones, how far they are off, and what prediction intervals hold."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biofuse.evaluation.values import ColumnTest, ValuesTest
from biofuse.model.evaluate import TRUE
from biofuse.report import content
from biofuse.report.input import ReportInput
from biofuse.search.out_of_fold import PREFIX

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float64]

DRAWN = 4
"""Columns of values that are drawn; tables have them all."""

LISTED = 300
"""Samples that are listed, those predicted worst first."""

PARTS = 5
"""Parts of equal size, by predicted value, of which errors are given."""


def values_section(given: ReportInput) -> content.Section | None:
    """Show predicted values beside the true ones; None where no values were tested."""
    found = None if given.evaluation is None else given.evaluation.values
    if given.evaluation is None or found is None:
        return None
    frame, said = given.evaluation.predictions, list(found.sentences())
    if found.few_groups:
        said.append("There are too few groups for these intervals to be trusted.")
    if len(found.columns) > DRAWN:
        said.append(f"The first {DRAWN} of {len(found.columns)} columns are drawn.")
    items: list[content.Item] = []
    for place, column in enumerate(found.columns[:DRAWN]):
        truth, predicted = (frame[f"{prefix}{column.of}"].to_numpy(np.float64) for prefix in (TRUE, PREFIX))
        items += [
            _against(place, column, frame, truth, predicted),
            _residuals(place, column, frame, truth, predicted),
            _agreement(place, column, frame, truth, predicted),
        ]
    items += [_ranges(found), _cuts(found)]
    return content.Section(
        id="values",
        title="Predicted values",
        paragraphs=tuple(said),
        items=tuple(replace(item, basis=given.of_chosen) for item in items),
    )


def _points(frame: "pd.DataFrame", x: Values, y: Values) -> content.PointGroup:
    texts = tuple(frame["id"].astype(str))
    return content.PointGroup(name="test samples", x=x, y=y, texts=texts, named=False)


def _flat(name: str, ends: Values, height: float) -> content.LineSeries:
    return content.LineSeries(name=name, x=ends, y=np.full(2, height))


def _against(place: int, column: ColumnTest, frame: "pd.DataFrame", truth: Values, predicted: Values) -> content.Chart:
    ends = np.array([min(truth.min(), predicted.min()), max(truth.max(), predicted.max())])
    lines = [content.LineSeries(name="predicted = true", x=ends, y=ends)]
    summary = "On the line, predictions are right."
    if column.ranges and np.isfinite(column.ranges[0].reach):
        first = column.ranges[0]
        lines += [
            content.LineSeries(name=f"{first.asked:.0%} prediction interval", x=ends, y=ends + sign * first.reach)
            for sign in (-1, 1)
        ]
        summary += (
            f" Between the outer lines are those whose {first.asked:.0%} prediction interval, {first.reach:.4g} to "
            f"both sides, holds the true value: {first.coverage.estimate:.1%}."
        )
    ids = frame["id"].astype(str).tolist()
    worst = np.argsort(-np.abs(predicted - truth), kind="stable")[:LISTED]
    listed = f", the {LISTED} that are predicted worst" if len(truth) > LISTED else ", those predicted worst first"
    return content.Chart(
        id=f"value-{place}",
        title=f"{column.of}: predicted against true",
        summary=summary,
        body=content.ScatterPlot(
            groups=(_points(frame, truth, predicted),),
            x_axis=f"true {column.of}",
            y_axis=f"predicted {column.of}",
            lines=tuple(lines),
        ),
        table=content.Table(
            id=f"value-{place}-data",
            caption=f"{column.of} of test samples{listed}",
            columns=content.words("sample") + content.numbers("true", "predicted", decimals=3)
            + content.numbers("off", decimals=3, signed=True),
            rows=tuple(
                (ids[row], float(truth[row]), float(predicted[row]), float(predicted[row] - truth[row]))
                for row in worst.tolist()
            ),
            filtered=True,
        ),
    )  # fmt: skip


def _residuals(
    place: int, column: ColumnTest, frame: "pd.DataFrame", truth: Values, predicted: Values
) -> content.Chart:
    off, ends = predicted - truth, np.array([predicted.min(), predicted.max()])
    parts = [part for part in np.array_split(np.argsort(predicted, kind="stable"), PARTS) if len(part)]
    first, last = (float(off[part].mean()) for part in (parts[0], parts[-1]))
    return content.Chart(
        id=f"value-{place}-residuals",
        title=f"{column.of}: errors by predicted value",
        summary=f"Predicted less true. The lowest {1 / PARTS:.0%} of the predictions are {first:+.4g} off on average, "
        f"the highest {last:+.4g}: a slope, or a funnel, is something that the model does not know of itself.",
        body=content.ScatterPlot(
            groups=(_points(frame, predicted, off),),
            x_axis=f"predicted {column.of}",
            y_axis="predicted less true",
            lines=(_flat("no error", ends, 0.0),),
        ),
        table=content.Table(
            id=f"value-{place}-residuals-data",
            caption=f"Errors by predicted {column.of}, in parts of about equal size",
            columns=content.numbers("mean predicted", "mean true", decimals=3)
            + content.numbers("mean error", decimals=3, signed=True)
            + content.numbers("mean absolute error", decimals=3)
            + content.numbers("samples"),
            rows=tuple(
                (
                    float(predicted[part].mean()), float(truth[part].mean()), float(off[part].mean()),
                    float(np.abs(off[part]).mean()), len(part),
                )
                for part in parts
            ),
        ),
    )  # fmt: skip


def _agreement(
    place: int, column: ColumnTest, frame: "pd.DataFrame", truth: Values, predicted: Values
) -> content.Chart:
    middle = (truth + predicted) / 2
    ends = np.array([middle.min(), middle.max()])
    limits = {"mean difference": column.bias, "lower limit": column.lower, "upper limit": column.upper}
    return content.Chart(
        id=f"value-{place}-agreement",
        title=f"{column.of}: agreement (Bland-Altman)",
        summary=f"Were the differences normal, 95 % of them would be between {column.lower.estimate:+.4g} and "
        f"{column.upper.estimate:+.4g}, around {column.bias.estimate:+.4g}.",
        body=content.ScatterPlot(
            groups=(_points(frame, middle, predicted - truth),),
            x_axis=f"mean of true and predicted {column.of}",
            y_axis="predicted less true",
            lines=tuple(_flat(name, ends, found.estimate) for name, found in limits.items()),
        ),
        table=content.Table(
            id=f"value-{place}-agreement-data",
            caption=f"Agreement of predicted and true {column.of}, with 95 % intervals",
            columns=content.words("what") + content.numbers("difference", "low", "high", decimals=3, signed=True),
            rows=tuple((name, each.estimate, each.low, each.high) for name, each in limits.items()),
        ),
    )


def _ranges(found: ValuesTest) -> content.Table:
    return content.Table(
        id="value-intervals",
        caption="Prediction intervals: how often they hold the true value, with 95 % intervals, and how far they reach",
        columns=content.words("column")
        + content.numbers("asked", decimals=2)
        + content.numbers("held", "low held", "high held", "reach to both sides", decimals=3),
        rows=tuple(
            (column.of, each.asked, each.coverage.estimate, each.coverage.low, each.coverage.high, each.reach)
            for column in found.columns
            for each in column.ranges
        ),
        notes=("Where no reach is given, there are too few development samples, or groups, to promise one.",)
        if any(np.isnan(each.reach) for column in found.columns for each in column.ranges)
        else (),
    )


def _cuts(found: ValuesTest) -> content.Table:
    shares = {
        "sensitivity": "sensitivity", "specificity": "specificity",
        "ppv": "positive predictive value", "npv": "negative predictive value",
    }  # fmt: skip
    ends = ("estimate", "low", "high")
    columns = content.words("column") + content.numbers("threshold", decimals=3) + content.numbers("samples above")
    for title in shares.values():
        columns += content.numbers(title, f"low {title}", f"high {title}", decimals=3)
    return content.Table(
        id="value-thresholds",
        caption="Values above a threshold told from others, at the quartiles of the development data",
        columns=columns,
        rows=tuple(
            (
                column.of, cut.threshold, cut.above,
                *(getattr(getattr(cut, name), end) for name in shares for end in ends),
            )
            for column in found.columns
            for cut in column.cuts
        ),
    )  # fmt: skip
