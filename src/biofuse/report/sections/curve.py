"""Few labels: scores against the number of labelled samples."""

import numpy as np

from biofuse.evaluation.metrics import get_metric
from biofuse.report import content
from biofuse.report.input import ReportInput
from biofuse.search.curve import CurveModel, LearningCurve

DODGE = 0.04
"""Between the curves at one place, where places are 1 apart, so that intervals do not hide one another."""


def curve_section(given: ReportInput) -> content.Section | None:
    """Show which encoders serve best when labels are few; None where ``biofuse curve`` has not measured it."""
    title, found = "Few labels", given.run.curve
    if found is None:
        return None
    return content.Section(
        id="labels",
        title=title,
        paragraphs=tuple(found.sentences()),
        items=(curve_chart(found),),
        remarks=(_how(found),),
        more=(_singles(found),) if found.singles else (),
    )


def _how(found: LearningCurve) -> str:
    return (
        f"Each of {found.n_folds * found.n_repeats} draws takes a fold out of the development samples and fits on more "
        f"and more of the others, with the {found.fitted}; test samples have no part in it. Where classes have "
        "fewer samples than the number per class says, all of theirs are taken."
    )


def curve_chart(found: LearningCurve) -> content.Chart:
    """Return the curves of the models as a figure; the data of all numbers of labels stand in its table."""
    title, first, last = get_metric(found.metric).title, found.shown[0], found.shown[-1]
    chosen = next(iter(found.models.values()))
    lines = tuple(
        _line(name.replace("_", " "), model, found, shift=(number - (len(found.models) - 1) / 2) * DODGE)
        for number, (name, model) in enumerate(found.models.items())
    )
    grouped = any(each.groups is not None for each in found.sets)
    numbers = [*content.numbers("samples", decimals=0), *(content.numbers("groups", decimals=0) if grouped else ())]
    rows = [
        (
            name.replace("_", " "),
            training.text,
            training.rows,
            *([training.groups] if grouped else []),
            point.mean,
            point.low,
            point.high,
        )
        for name, model in found.models.items()
        for training, point in zip(found.sets, model.points, strict=True)
    ]
    return content.Chart(
        id="learning-curve",
        title=f"{title} against the number of labels",
        basis=f"cross-validation, {found.fitted}",
        summary=f"The chosen encoders: {chosen.points[first].mean:.4f} with {found.sets[first].text}, "
        f"{chosen.points[last].mean:.4f} with all labels ({found.sets[last].rows:,.0f} samples). Bars are 95 % "
        "intervals.",
        body=content.LineChart(
            lines=lines,
            x_axis="labelled samples per class",
            y_axis=title,
            dotted=True,
            places=tuple("all" if (number := found.sets[p].per_class) is None else f"{number:,}" for p in found.shown),
        ),
        table=content.Table(
            id="learning-curve-data",
            caption=f"{title} of each model with so many labels, and its 95 % interval",
            columns=(*content.words("model", "labels"), *numbers, *content.numbers(title, "low", "high")),
            rows=tuple(rows),
        ),
    )


def _line(name: str, model: CurveModel, found: LearningCurve, *, shift: float) -> content.LineSeries:
    points = [model.points[place] for place in found.shown]
    return content.LineSeries(
        name=name,
        x=np.arange(len(points), dtype=np.float64) + shift,
        y=np.array([point.mean for point in points]),
        low=np.array([point.low for point in points]),
        high=np.array([point.high for point in points]),
    )


def _singles(found: LearningCurve) -> content.Table:
    """Return the scores of every encoder by itself, the best at the fewest labels first."""
    order = sorted(found.singles, key=lambda name: -np.nan_to_num(found.singles[name].points[found.shown[0]].mean))
    return content.Table(
        id="learning-curve-singles",
        caption=f"{get_metric(found.metric).title} of every encoder by itself with so many labels per class",
        columns=(
            *content.words("encoder"),
            *content.numbers(*(found.sets[place].text for place in found.shown)),
        ),
        rows=tuple((name, *(found.singles[name].points[place].mean for place in found.shown)) for name in order),
        basis=f"cross-validation, {found.fitted}, single encoders",
    )
