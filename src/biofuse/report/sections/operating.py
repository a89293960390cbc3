"""Operating points: what is found and missed at thresholds, what that is worth, and what may be left unanswered."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from biofuse.evaluation.intervals import share_interval
from biofuse.evaluation.metrics import AUROC, auroc_columns
from biofuse.evaluation.operating import (
    GRID,
    Operating,
    OperatingPoint,
    RiskCoverage,
    Share,
    confidences,
    net_benefit,
)
from biofuse.report import content
from biofuse.report.input import Predicted, ReportInput
from biofuse.report.sections.results import DRAWN, thinned

LISTED = 300
"""Rows of the table of operating points, of the classes that are found least: more are read from metrics.json."""

TABLED = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Thresholds of which the table of net benefit has a column."""


def operating_section(given: ReportInput) -> content.Section | None:
    """Show what the chosen model finds and misses; None where it was not tested, or by an earlier version."""
    predicted = given.predicted
    found = None if given.evaluation is None else given.evaluation.operating
    if found is None or predicted is None:
        return None
    items: list[content.Item] = []
    more: list[content.Item] = []
    if found.points:
        items.append(_points(given, found, every=False))
        if len({point.of for point in found.points}) < len(found.points) != len(_shown(found)):
            more.append(_points(given, found, every=True))
    basis = given.of_chosen
    more += [c for c in (_decision(predicted, basis), _abstention(predicted, found, basis)) if c is not None]
    doubts = [*found.notes]
    if any(point.few_groups for point in found.points):
        doubts.append("There are too few groups for these intervals to be trusted.")
    return content.Section(
        id="operating",
        title="Operating points",
        paragraphs=(*found.sentences()[:1], *doubts),
        items=tuple(items),
        remarks=found.sentences()[1:],
        more=tuple(more),
    )


def _shown(found: Operating) -> tuple[OperatingPoint, ...]:
    """Return what is seen first: of one class every point, of several those for the wanted sensitivity."""
    if len({point.of for point in found.points}) == 1:
        return found.points
    return found.at("sensitivity") or found.at("default")


def _points(given: ReportInput, found: Operating, *, every: bool) -> content.Table:
    """List points; of too many, those of the classes whose sensitivity is least."""
    points = found.points if every else _shown(found)
    least = {point.of: point.sensitivity.estimate for point in reversed(points)}
    order = sorted(least, key=lambda name: (np.isnan(least[name]), least[name]))
    per_class = max(len(points) // max(len(least), 1), 1)
    kept = set(order[: LISTED // per_class])
    more = f", the {len(kept)} classes that are found least" if len(kept) < len(least) else ""
    prevalence = (
        "the prevalence of these samples"
        if found.prevalence is None
        else f"a stated prevalence of {found.prevalence:.3g}"
    )
    heads = ("sensitivity", "specificity", "positive predictive value", "negative predictive value")
    columns = [*content.words("class", "threshold is"), *content.numbers("threshold")]
    columns += content.numbers(*heads, decimals=3)
    columns += content.numbers("net benefit", decimals=3)
    return content.Table(
        id="operating-every" if every else "operating-points",
        caption=f"{'Every threshold' if every else 'Sensitivity, specificity and predictive values'}{more}",
        basis=given.of_chosen,
        columns=tuple(columns),
        rows=tuple(
            (
                point.of,
                found.said(point.rule) if np.isfinite(point.threshold) else "none: the most probable class",
                point.threshold,
                *_cells(point.sensitivity, point.specificity, point.ppv, point.npv),
                point.net_benefit,
            )
            for point in points
            if point.of in kept
        ),
        notes=(f"Predictive values are at {prevalence}.",),
        filtered=len(points) > LISTED // 10,
    )


def _cells(*shares: Share) -> list[content.Cell]:
    return [content.spanned(share.estimate, share.low, share.high) for share in shares]


def _answers(predicted: Predicted) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return how sure the model is of each answer, whether it is right, and which sample it is about."""
    sure, right = confidences(predicted.target, predicted.targets, predicted.probabilities)
    if not predicted.multilabel:
        return sure, right, np.arange(predicted.n)
    known = predicted.known.ravel()
    return sure[known], right[known], np.nonzero(predicted.known)[0]


def _decision(predicted: Predicted, basis: str) -> content.Chart | None:
    """Draw what acting on the model is worth, beside acting on everybody and on nobody."""
    each = {c: predicted.targets[predicted.known[:, c], c] for c in predicted.ranked}
    columns = [c for c, truth in each.items() if truth.any() and not truth.all()]
    if not columns:
        return None
    said = {c: predicted.probabilities[predicted.known[:, c], c] for c in columns}
    worth = {c: net_benefit(each[c], said[c]) for c in columns}
    areas = np.array([float(auroc_columns(each[c][:, None], said[c][:, None])[0]) for c in columns])
    hardest = set(np.array(columns)[np.argsort(areas, kind="stable")[:DRAWN]].tolist())
    one, names = len(columns) == 1, predicted.classes
    if one:
        model, everyone = worth[columns[0]]
        curves = [("the model", model), ("all are called positive", everyone), ("none is", np.zeros(len(GRID)))]
        axis = "net benefit"
    else:
        gains = {c: model - np.maximum(everyone, 0) for c, (model, everyone) in worth.items()}
        curves = [(names[c], gains[c]) for c in columns if c in hardest]
        axis = "net benefit beyond all or none"
    highest = max(float(curve.max()) for _, curve in curves)
    # Down to a third below zero: how bad the worst choice is does not matter once it is worse than doing nothing.
    height = (-highest / 3, highest * 1.05) if highest > 0 else (-0.1, 0.02)
    more = f" The {DRAWN} classes of least {AUROC.title} are drawn." if len(columns) > DRAWN else ""
    return content.Chart(
        id="decision",
        title="Decision curve" if one else "Decision curves",
        basis=basis,
        summary=_worth_said(worth, predicted) + more,
        body=content.LineChart(
            lines=tuple(
                content.LineSeries(name=name, x=GRID, y=np.where(curve < height[0], np.nan, curve))
                for name, curve in curves
            ),
            x_axis="threshold on the probability",
            y_axis=axis,
            height=height,
        ),
        table=content.Table(
            id="decision-data",
            caption="Net benefit per sample: true positives, less false ones at the exchange rate of the threshold",
            columns=content.words("class", "who is called positive")
            + content.numbers(*(f"at {value:g}" for value in TABLED), decimals=4),
            rows=tuple(
                (names[c], who, *(float(curve[round(value * 100) - 1]) for value in TABLED))
                for c in columns[:LISTED]
                for who, curve in zip(("as the model says", "all"), worth[c], strict=True)
            ),
        ),
    )


def _worth_said(worth: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]], predicted: Predicted) -> str:
    """Say for which thresholds the model is worth more than calling all, or none, positive."""
    said = (
        "Net benefit: true positives, less false positives at what a threshold makes one of them cost (Vickers and "
        "Elkin 2006). "
    )
    if len(worth) > 1:
        useless = [predicted.classes[c] for c, (own, other) in worth.items() if (own <= np.maximum(other, 0)).all()]
        return said + (
            "Above zero a class is better told by the model than by calling all or no samples so."
            if not useless
            else f"At no threshold is the model worth more than that for {', '.join(useless[:5])}."
        )
    ((model, everyone),) = worth.values()
    better = np.flatnonzero(model > np.maximum(everyone, 0))
    longest = max(np.split(better, np.flatnonzero(np.diff(better) > 1) + 1), key=len)
    if not len(longest):
        return f"{said}At no threshold is the model worth more than calling all samples positive, or none."
    ends = f"from {GRID[longest[0]]:.2f} to {GRID[longest[-1]]:.2f}"
    return f"{said}The model is worth more than calling all positive, or none, at thresholds {ends}."


def _abstention(predicted: Predicted, found: Operating, basis: str) -> content.Chart | None:
    """Draw the accuracy of the surest answers."""
    sure, right, _ = _answers(predicted)
    if not len(right) or right.all():
        return None
    curve, best = RiskCoverage.of(sure, right), RiskCoverage.of(right.astype(np.float64), right)
    drawn = _banded(thinned(content.LineSeries(name="the model", x=curve.coverage, y=1 - curve.risk)), predicted)
    lowest = float(min(1 - curve.risk.max(), right.mean()))
    pad = 0.05 * (1 - lowest)
    what = "labels" if predicted.multilabel else "samples"
    return content.Chart(
        id="abstention",
        title="Accuracy against the share answered",
        basis=basis,
        summary=f"How much is right if only the {what} are answered that the model is surest of. Area under risk over "
        f"coverage {curve.area:.4f}; {best.area:.4f} if every mistake were less sure than all that is right, "
        f"{float(curve.risk[-1]):.4f} if being sure meant nothing.",
        body=content.LineChart(
            lines=(
                drawn,
                thinned(content.LineSeries(name="in the best order", x=best.coverage, y=1 - best.risk)),
            ),
            x_axis=f"share of the {what} answered, the surest first",
            y_axis="share of these that is right",
            height=(lowest - pad, 1 + pad),
        ),
        table=content.Table(
            id="abstention-data",
            caption=f"Accuracy of the answers that the model is surest of; area {curve.area:.4f}",
            columns=content.numbers("share answered", decimals=2)
            + content.numbers("share right", "low", "high", "least probability"),
            rows=tuple(
                (each.share, each.accuracy.estimate, each.accuracy.low, each.accuracy.high, each.confidence)
                for each in found.abstention.answered
            ),
        ),
    )


def _banded(line: content.LineSeries, predicted: Predicted) -> content.LineSeries:
    """Add the 95 % interval of the share that is right, of the surest answers up to each point."""
    sure, right, rows = _answers(predicted)
    order = np.argsort(-sure, kind="stable")
    right, units = right[order], predicted.units.of_row[rows][order]
    grouped = predicted.multilabel or predicted.groups is not None
    counts = np.rint(line.x * len(right)).astype(np.int64)
    ends = np.array([share_interval(right[:n], units[:n], grouped=grouped)[1:] for n in counts])
    return replace(line, low=ends[:, 0], high=ends[:, 1])
