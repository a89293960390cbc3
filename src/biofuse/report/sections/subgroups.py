"""Scores of the chosen model for every value of columns that were asked for, and how much of encoders is the site."""

import numpy as np

from biofuse.evaluation.metrics import get_metric
from biofuse.evaluation.robustness import EVEN, Robustness
from biofuse.evaluation.subgroups import Breakdown
from biofuse.report import content
from biofuse.report.input import ReportInput

DRAWN = 30
"""Values of a column that are drawn: those with the most samples. The table has them all."""


def subgroups_section(given: ReportInput) -> content.Section | None:
    """Show the scores by subgroup, and how robust encoders are to the site; None where neither was asked for."""
    found = () if given.evaluation is None else given.evaluation.subgroups
    sites = given.record.evidence.robustness
    if not found and sites is None:
        return None
    paragraphs, warnings = _said(found) if found else ([], [])
    items = [_item(each, number, given.of_chosen) for number, each in enumerate(found)]
    if sites is not None:
        paragraphs.append(str(sites))
        items += [_robustness(sites)] if sites.embeddings else []
    return content.Section(
        id="subgroups",
        title="Subgroups and sites" if sites is not None else "Subgroups",
        paragraphs=tuple(paragraphs),
        warnings=tuple(warnings),
        items=tuple(items),
    )


def _said(found: tuple[Breakdown, ...]) -> tuple[list[str], list[str]]:
    """Return what is to be said of scores by subgroup, and to be warned of."""
    tested = found[0].n_tested
    corrected = f", Holm-corrected over the {tested} columns," if tested > 1 else ""
    metric = get_metric(found[0].metric)
    paragraphs = [
        *map(str, found),
    ]
    paragraphs.append(
        f"Whether the values of a column differ is tested once for all of them{corrected} by dealing the values out at "
        "random. Each interval stands for itself: of twenty such intervals one misses the truth."
    )
    if any(each.gap is not None and each.gap.within_classes for each in found):
        paragraphs.append(
            f"Values are dealt out within each class: {metric.title} tells how well classes are told apart, not how "
            "frequent they are."
        )
    worse = [each for each in found if each.gap is not None and not each.gap.noise]
    warnings = [
        f"The model is worse for {each.gap.worst} of {each.column} than for others, by more than chance."
        for each in worse
        if each.gap is not None
    ]
    return paragraphs, warnings


def _robustness(found: Robustness) -> content.Chart:
    each = found.embeddings
    return content.Chart(
        id="robustness",
        title=f"Robustness to {found.column}",
        basis="development embeddings, no head; each row's own encoders",
        summary=f"Of the {found.neighbours} nearest development samples of each, those count that share either the "
        f"class or the {found.column}, but not both: the share that has the class, over {found.n:,} samples of "
        f"{found.n_sites} values. Below the line the {found.column} shapes the embedding more than the class; with any "
        f"samples for neighbours it would be {found.by_chance:.2f}.",
        body=content.DotPlot(
            labels=tuple(one.name for one in each),
            series=(
                content.Series(
                    name="robustness index",
                    values=np.array([one.index for one in each]),
                    low=np.array([one.low for one in each]),
                    high=np.array([one.high for one in each]),
                ),
            ),
            axis="robustness index, 95 % interval",
            emphasised=frozenset({len(each) - 1}),
            baseline=EVEN,
            baseline_name="class and site count the same",
        ),
        table=content.Table(
            id="robustness-data",
            caption=f"Robustness index of each encoder, and of the chosen ones together, to {found.column}",
            columns=content.words("embedding") + content.numbers("index", "low", "high", decimals=3),
            rows=tuple((one.name, one.index, one.low, one.high) for one in each),
        ),
    )


def _item(found: Breakdown, number: int, basis: str) -> content.Item:
    """Return a forest plot; a table where fewer than two values can be drawn."""
    title, metrics = get_metric(found.metric).title, list(found.subgroups[0].intervals) if found.subgroups else []
    columns = [*content.words("value"), *content.numbers("samples", "units")]
    columns += content.numbers(*(get_metric(name).title for name in metrics), decimals=3)
    rows = []
    for each in found.subgroups:
        cells: list[content.Value | content.Cell] = [each.value, each.n, each.n_units]
        for name in metrics:
            interval = each.intervals[name]
            cells.append(content.spanned(interval.estimate, interval.low, interval.high))
        rows.append(tuple(cells))
    table = content.Table(
        id=f"subgroups-{number}-data",
        caption=f"Scores by {found.column}, with 95 % intervals",
        basis=basis,
        columns=tuple(columns),
        rows=tuple(rows),
        filtered=len(rows) > DRAWN,
    )
    most = sorted(found.subgroups, key=lambda each: -each.n)[:DRAWN]
    drawn = [each for each in found.subgroups if each in most and np.isfinite(each.intervals[found.metric].estimate)]
    if len(drawn) < 2:
        return table
    ends = [each.intervals[found.metric] for each in drawn]
    worst = None if found.gap is None else found.gap.worst
    summary = f"All samples together have {title} {found.overall:.4f}."
    if found.gap is not None:
        summary += f" The worst is {found.gap.worst}, the best {found.gap.best}."
    if len(drawn) < len(found.subgroups):
        summary += f" Drawn are {len(drawn)} of {len(found.subgroups)} values."
    return content.Chart(
        id=f"subgroups-{number}",
        title=f"{title[:1].upper()}{title[1:]} by {found.column}",
        basis=basis,
        summary=summary,
        body=content.DotPlot(
            labels=tuple(f"{each.value} ({each.n})" for each in drawn),
            series=(
                content.Series(
                    name=title,
                    values=np.array([end.estimate for end in ends]),
                    low=np.array([end.low for end in ends]),
                    high=np.array([end.high for end in ends]),
                ),
            ),
            axis=f"{title}, 95 % interval",
            emphasised=frozenset(place for place, each in enumerate(drawn) if each.value == worst),
            baseline=found.overall if np.isfinite(found.overall) else None,
            baseline_name="all samples",
        ),
        table=table,
    )
