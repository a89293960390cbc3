"""Test results: scores, curves, groups, and what the model is wrong about with the greatest confidence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import in_command_words
from biofuse.core.target import Target
from biofuse.evaluation.intervals import Comparison, distinct, wilson
from biofuse.evaluation.metrics import ACCURACY, AUROC, auroc_columns, get_metric
from biofuse.evaluation.operating import Operating, OperatingPoint
from biofuse.model.evaluate import Evaluation
from biofuse.report import content
from biofuse.report.input import Predicted, ReportInput, name_of, picture_of
from biofuse.runs.run import OWN
from biofuse.search.rules import CHOSEN

RANKED_GROUPS = 300
"""Groups, the worst first, of which AUROC is computed: as many as are listed."""

DRAWN_POINTS = 300
"""Points of a curve that are drawn: more cannot be told apart on a page."""


def thinned(curve: content.LineSeries) -> content.LineSeries:
    """Return at most :data:`DRAWN_POINTS` of the points, evenly along the curve, the ends among them."""
    if len(curve.x) <= DRAWN_POINTS:
        return curve
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y)))])
    kept = np.searchsorted(length, np.linspace(0, length[-1], DRAWN_POINTS))
    kept = np.unique(np.concatenate([[0], kept.clip(0, len(curve.x) - 1), [len(curve.x) - 1]]))
    return replace(curve, x=curve.x[kept], y=curve.y[kept])


def roc_curves(predicted: Predicted) -> dict[str, content.LineSeries]:
    """Return false against true positive rates per class; classes that are absent, or everything, have none."""
    from sklearn.metrics import roc_curve

    found = {}
    for name, target, values in _present(predicted):
        if not target.all():
            x, y, _ = roc_curve(target, values)
            found[name] = content.LineSeries(name=name, x=x, y=y)
    return found


def precision_recall_curves(predicted: Predicted) -> dict[str, content.LineSeries]:
    """Return recall against precision per class; classes that are absent have none."""
    from sklearn.metrics import precision_recall_curve

    found = {}
    for name, target, values in _present(predicted):
        y, x, _ = precision_recall_curve(target, values)
        found[name] = content.LineSeries(name=name, x=x, y=y)
    return found


def _present(predicted: Predicted) -> list[tuple[str, NDArray[np.bool_], NDArray[np.float64]]]:
    """Return name, targets and probabilities of the ranked classes that occur."""
    targets, values = predicted.targets, predicted.probabilities
    return [(predicted.classes[c], targets[:, c], values[:, c]) for c in predicted.ranked if targets[:, c].any()]


def marks_of(found: Operating | None, drawn: Sequence[str]) -> tuple[content.LineSeries, ...]:
    """Return where operating points are on ROC curves: of one class by each rule, of several for the sensitivity."""
    points = () if found is None else tuple(point for point in found.points if point.of in drawn)
    one = len({point.of for point in points}) == 1
    groups: dict[str, list[OperatingPoint]] = {}
    for point in points:
        if np.isfinite(point.threshold) and (one or point.rule == "sensitivity"):
            groups.setdefault(point.rule, []).append(point)
    return tuple(
        content.LineSeries(
            name=f"{found.said(own[0].rule)}{f' ({own[0].threshold:.3g})' if one else ''}" if found else rule,
            x=np.array([1 - point.specificity.estimate for point in own]),
            y=np.array([point.sensitivity.estimate for point in own]),
        )
        for rule, own in groups.items()
    )


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """Scores of one group: how many samples, share right (of labels, for multi-label tasks), its 95 % interval."""

    name: str
    n: int
    accuracy: float
    low: float
    high: float
    auroc: float


def group_scores(predicted: Predicted) -> tuple[GroupScore, ...]:
    """Score every group, the worst first; empty without groups."""
    if predicted.groups is None:
        return ()
    if predicted.multilabel:
        right = ((predicted.probabilities > 0.5) == predicted.targets).mean(axis=1)
    else:
        right = predicted.agrees.astype(np.float64)
    names, place, counts = np.unique(np.array(predicted.groups, dtype=str), return_inverse=True, return_counts=True)
    accuracy = np.bincount(place, right) / counts
    low, high = wilson(accuracy, counts)
    rows_of = np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
    columns = list(predicted.ranked)

    def scored(group: int, *, ranked: bool) -> GroupScore:
        rows = rows_of[group]
        targets, values = predicted.targets[rows][:, columns], predicted.probabilities[rows][:, columns]
        return GroupScore(
            name=str(names[group]),
            n=int(counts[group]),
            accuracy=float(accuracy[group]),
            low=float(low[group]),
            high=float(high[group]),
            auroc=float(auroc_columns(targets, values).mean()) if ranked else float("nan"),
        )

    order = np.lexsort((names, -counts, accuracy)).tolist()
    return tuple(scored(group, ranked=rank < RANKED_GROUPS) for rank, group in enumerate(order))


def worst_mistakes(predicted: Predicted, count: int) -> list[tuple[int, str, float]]:
    """Return the rows that are wrong with the greatest confidence: row, what is wrong in words, and how confident."""
    gap = np.abs(predicted.targets - predicted.probabilities)
    worst = gap.argmax(axis=1)
    size = gap.max(axis=1) if predicted.multilabel else predicted.confidence
    rows = np.flatnonzero(size > 0.5 if predicted.multilabel else ~predicted.agrees)

    def said(row: int) -> str:
        if not predicted.multilabel:
            return f"labelled {predicted.labels[row]}, predicted {predicted.predictions[row]}"
        name, there = predicted.classes[worst[row]], predicted.targets[row, worst[row]]
        return f"has {name}, predicted without" if there else f"predicted {name}, labelled without"

    order = rows[np.argsort(-size[rows], kind="stable")][:count].tolist()
    return [(row, said(row), float(size[row])) for row in order]


def interpolated(curve: content.LineSeries, at: Sequence[float]) -> list[float]:
    """Return the largest y that a curve reaches at x values up to each of those given."""
    order = np.argsort(curve.x, kind="stable")
    x, best = curve.x[order], np.maximum.accumulate(curve.y[order])
    return [float(best[np.searchsorted(x, value, side="right") - 1]) if x[0] <= value else float("nan") for value in at]


def best_beyond(curve: content.LineSeries, at: Sequence[float]) -> list[float]:
    """Return the largest y that a curve has at x values of at least each of those given."""
    return [float(curve.y[curve.x >= value].max(initial=-np.inf)) for value in at]


DRAWN = 10
"""Classes whose curves are drawn: those that are hardest. Tables have them all."""

CONFUSED = 30
"""Classes of a confusion matrix that are drawn."""

CONFUSIONS = 300
"""Pairs of classes that are listed, the most frequently confused first, where there are more classes."""


def results_section(given: ReportInput) -> content.Section:
    """Show how the chosen model does on data that the search never saw."""
    title, found, predicted = "Test results", given.evaluation, given.predicted
    if found is None or (predicted is None and given.record.target.categorical):
        return content.Section(
            id="test",
            title=title,
            paragraphs=(
                "The model has not been tested yet: biofuse evaluate RUN does it, and this page will show it.",
            ),
        )
    split = found.split
    said = [f"{found.n:,} {split} samples of {found.data or 'the data given'}."]
    said += [in_command_words(note) for note in found.notes]
    said += [_readable(comparison) for comparison in distinct(found.comparisons)]
    said += found.models[CHOSEN].metrics.remarks()
    warnings = (
        () if split == "test" else (f"These are {split} samples, which the search has seen: scores are too good.",)
    )
    items: list[content.Item] = [_scores(given, found)]
    if len(given.run.evaluations) > 1:
        items.append(_side_by_side(given))
    if found.leak.without:
        items.append(_without_leak(found))
    if given.record.target.n_columns > 1:
        items.append(_per_class(found, given.record.target))
    if predicted is None:  # what is not about classes has sections of its own
        return content.Section(id="test", title=title, paragraphs=tuple(said), warnings=warnings, items=tuple(items))
    items += _curves(predicted, found.operating)
    if predicted.multilabel:
        items.append(_label_counts(predicted))
    else:
        items.append(_confusion(predicted))
    groups = group_item(predicted)
    if groups is not None:
        items.append(groups)
    return content.Section(id="test", title=title, paragraphs=tuple(said), warnings=warnings, items=tuple(items))


def _readable(comparison: Comparison) -> str:
    sentence = str(comparison)
    return sentence.replace("best_single", "the best single encoder").replace("and all is", "and all encoders is")


def _scores(given: ReportInput, found: Evaluation) -> content.Table:
    chosen = found.models[CHOSEN]
    columns = [*content.words("model", "encoders")]
    for name in chosen.metrics:
        title = get_metric(name).title
        columns += (
            content.numbers(title, f"low {title}", f"high {title}")
            if name in chosen.intervals
            else content.numbers(title)
        )
    rows = []
    for called, scores in found.distinct_models.items():
        cells: list[content.Value] = [" = ".join(called).replace("_", " "), name_of(scores.encoders, len(given.pool))]
        for name in chosen.metrics:
            cells.append(scores.metrics.get(name))
            if name in chosen.intervals:
                interval = scores.intervals.get(name)
                cells += [None, None] if interval is None else [interval.low, interval.high]
        rows.append(tuple(cells))
    return content.Table(
        id="scores",
        caption="Scores of the chosen model and of what it stands beside, with 95 % intervals",
        columns=tuple(columns),
        rows=tuple(rows),
        marked=frozenset({0}),
    )


def _side_by_side(given: ReportInput) -> content.Table:
    """Put the chosen model's scores on the run's own test samples beside those on other data."""
    every = given.run.evaluations
    own = every.get(OWN)
    ordered = {OWN: own, **every} if own is not None else every
    names = list(dict.fromkeys(name for found in ordered.values() for name in found.models[CHOSEN].intervals))
    columns = [*content.words("data", "split"), *content.numbers("samples", decimals=0)]
    for name in names:
        title = get_metric(name).title
        columns += content.numbers(title, f"low {title}", f"high {title}")
    rows = []
    for called, found in ordered.items():
        scores = found.models[CHOSEN]
        cells: list[content.Value] = ["the run's own" if called == OWN else called, found.split, found.n]
        for name in names:
            interval = scores.intervals.get(name)
            ends = (None, None) if interval is None else (interval.low, interval.high)
            cells += [scores.metrics.get(name), *ends]
        rows.append(tuple(cells))
    return content.Table(
        id="side-by-side",
        caption="The chosen model on everything that it was evaluated on, with 95 % intervals",
        columns=tuple(columns),
        rows=tuple(rows),
        notes=() if own is None else ("All else on this page is of the run's own test samples.",),
    )


def _without_leak(found: Evaluation) -> content.Table:
    names = list(found.models[CHOSEN].metrics)
    return content.Table(
        id="without-leak",
        caption="The same without the tested images that are also development images",
        columns=content.words("model") + content.numbers(*(get_metric(name).title for name in names)),
        rows=tuple(
            (" = ".join(called).replace("_", " "), *(found.leak.without[called[0]].get(name) for name in names))
            for called in found.distinct_models
        ),
    )


def _per_class(found: Evaluation, target: Target) -> content.Table:
    table = found.models[CHOSEN].metrics.per_class
    names = list(dict.fromkeys(name for row in table.values() for name in row if name != "n"))
    of, caption = target.noun, f"Scores of the chosen model for each of the {target.noun}"
    if target.categorical:
        of, caption = "class", "Scores of the chosen model per class, each against the rest"
    return content.Table(
        id="per-class",
        caption=caption,
        columns=content.words(of) + content.numbers("samples", *(get_metric(name).title for name in names)),
        rows=tuple((name, int(row["n"]), *(row.get(metric) for metric in names)) for name, row in table.items()),
    )


def _curves(predicted: Predicted, operating: Operating | None) -> list[content.Chart]:
    from sklearn.metrics import auc

    roc, precision = roc_curves(predicted), precision_recall_curves(predicted)
    charts = []
    if roc:
        at = (0.01, 0.05, 0.1, 0.2)
        charts.append(
            _curve_chart(
                "roc", "ROC curves", roc, {name: float(auc(curve.x, curve.y)) for name, curve in roc.items()},
                {name: interpolated(curve, at) for name, curve in roc.items()},
                axes=("false positive rate", "true positive rate"), area="AUROC",
                heads=[f"true positives at {value:.0%} false" for value in at], diagonal=True,
                operating=operating,
            )
        )  # fmt: skip
    if precision:
        at = (0.5, 0.8, 0.9, 0.95)
        charts.append(
            _curve_chart(
                "precision-recall", "Precision-recall curves", precision,
                {name: float(-np.sum(np.diff(c.x) * c.y[:-1])) for name, c in precision.items()},
                {name: best_beyond(curve, at) for name, curve in precision.items()},
                axes=("recall", "precision"), area="average precision",
                heads=[f"precision at {value:.0%} recall" for value in at], diagonal=False,
            )
        )  # fmt: skip
    return charts


def _curve_chart(
    name: str,
    title: str,
    curves: dict[str, content.LineSeries],
    areas: dict[str, float],
    points: dict[str, list[float]],
    *,
    axes: tuple[str, str],
    area: str,
    heads: list[str],
    diagonal: bool,
    operating: Operating | None = None,
) -> content.Chart:
    hardest = sorted(curves, key=lambda each: areas[each])
    drawn = [each for each in curves if each in set(hardest[:DRAWN])]
    more = f" The {DRAWN} hardest of {len(curves)} classes are drawn." if len(curves) > DRAWN else ""
    worst, best = hardest[0], hardest[-1]
    summary = f"{worst}: {area} {areas[worst]:.4f}."
    if len(curves) > 1:
        summary = (
            f"Each class against the rest, {area} from {areas[worst]:.4f} ({worst}) to {areas[best]:.4f} ({best})."
        )
    return content.Chart(
        id=name,
        title=title,
        summary=summary + more,
        body=content.LineChart(
            lines=tuple(replace(thinned(curves[each]), name=f"{each} ({areas[each]:.3f})") for each in drawn),
            x_axis=axes[0],
            y_axis=axes[1],
            diagonal=diagonal,
            marks=marks_of(operating, drawn),
        ),
        table=content.Table(
            id=f"{name}-data",
            caption=f"{title}: area and points of each class",
            columns=content.words("class") + content.numbers(area) + content.numbers(*heads, decimals=3),
            rows=tuple((each, areas[each], *points[each]) for each in curves),
        ),
    )


def _confusion(predicted: Predicted) -> content.Chart:
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(predicted.labels, predicted.predictions, labels=predicted.classes)
    wrong = counts - np.diag(np.diag(counts))
    order = np.arange(len(counts))
    if len(counts) > CONFUSED:
        order = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:CONFUSED])
    names = tuple(predicted.classes[index] for index in order)
    part = counts[np.ix_(order, order)]
    totals = counts.sum(axis=1)[order]
    shares = np.divide(part, totals[:, None], out=np.full(part.shape, np.nan), where=totals[:, None] > 0)
    pairs = sorted(zip(*np.nonzero(wrong), strict=True), key=lambda pair: -wrong[pair])
    right = int(np.trace(counts))
    summary = f"{right:,} of {predicted.n:,} predictions are right."
    if pairs:
        i, j = pairs[0]
        summary += (
            f" Most often {predicted.classes[i]} is taken for {predicted.classes[j]}: {wrong[i, j]:,} of "
            f"{counts[i].sum():,}."
        )
    if len(counts) > CONFUSED:
        summary += f" The {CONFUSED} most confused classes are drawn."
    return content.Chart(
        id="confusion",
        title="Confusion matrix",
        summary=summary,
        body=content.Heatmap(
            rows=names,
            columns=names,
            values=shares,
            texts=tuple(tuple(f"{count:,}" if count else "" for count in row) for row in part.tolist()),
            row_axis="label",
            column_axis="prediction",
            scale="share of the label",
            limits=(0.0, 1.0),
        ),
        table=_confusion_table(predicted, counts, pairs),
    )


def _confusion_table(
    predicted: Predicted, counts: NDArray[np.int64], pairs: Sequence[tuple[int, int]]
) -> content.Table:
    classes = predicted.classes
    if len(counts) <= CONFUSED:
        return content.Table(
            id="confusion-data",
            caption="Labels in rows, predictions in columns",
            columns=content.words("label") + content.numbers(*classes),
            rows=tuple((name, *row) for name, row in zip(classes, counts.tolist(), strict=True)),
        )
    return content.Table(
        id="confusion-data",
        caption="What is taken for what, the most frequent first",
        columns=content.words("label", "prediction") + content.numbers("samples"),
        rows=tuple((classes[i], classes[j], int(counts[i, j])) for i, j in pairs[:CONFUSIONS]),
    )


def _label_counts(predicted: Predicted) -> content.Table:
    said = predicted.probabilities > 0.5
    rows: list[tuple[content.Value, ...]] = []
    for name, truth, guess in zip(predicted.classes, predicted.targets.T, said.T, strict=True):
        cases = (truth & guess, ~truth & guess, truth & ~guess, ~truth & ~guess)
        rows.append((name, *(int(case.sum()) for case in cases)))
    heads = ("present and predicted", "predicted only", "present only", "neither")
    return content.Table(
        id="confusion-data",
        caption="Labels that are present and predicted, at a probability above one half",
        columns=content.words("label") + content.numbers(*heads),
        rows=tuple(rows),
    )


GROUPS_DRAWN, GROUPS_LISTED = 30, RANKED_GROUPS
"""Groups on the figure and in its table, the worst first."""

DRAWN_FROM = 3
"""Samples of a group that is drawn: with fewer, the interval of its accuracy spans two thirds of the scale."""


def group_item(predicted: Predicted) -> content.Item | None:
    """Return a figure of the worst groups, or a table where too few can be drawn; None without groups."""
    scores = group_scores(predicted)
    if len(scores) < 2:
        return None
    large = [score for score in scores if score.n >= DRAWN_FROM]
    drawn = large[:GROUPS_DRAWN]
    perfect = sum(score.accuracy == 1 for score in scores)
    few = f" of at least {DRAWN_FROM} samples" if len(large) < len(scores) else ""
    worst = f"the worst {GROUPS_DRAWN}" if len(large) > GROUPS_DRAWN else f"the {len(large)}"
    more = f" Drawn are {worst} groups{few}." if len(drawn) < len(scores) else ""
    listed = f", the worst {GROUPS_LISTED} of {len(scores):,}" if len(scores) > GROUPS_LISTED else ""
    table = content.Table(
        id="groups-data",
        caption=f"Scores per group{listed}",
        columns=content.words("group")
        + content.numbers("samples")
        + content.numbers(ACCURACY.title, "low", "high", AUROC.title, decimals=3),
        rows=tuple((s.name, s.n, s.accuracy, s.low, s.high, s.auroc) for s in scores[:GROUPS_LISTED]),
        filtered=True,
    )
    if perfect == len(scores) or len(drawn) < 2:
        return table
    return content.Chart(
        id="groups",
        title="Scores per group",
        summary=f"{len(scores):,} groups; in {perfect:,} of them everything is right. The worst is {scores[0].name}: "
        f"accuracy {scores[0].accuracy:.3f} over {scores[0].n} samples.{more}",
        body=content.DotPlot(
            labels=tuple(f"{score.name} ({score.n})" for score in drawn),
            series=(
                content.Series(
                    name=ACCURACY.title,
                    values=np.array([score.accuracy for score in drawn]),
                    low=np.array([score.low for score in drawn]),
                    high=np.array([score.high for score in drawn]),
                ),
            ),
            axis="accuracy, 95 % interval",
            baseline=float(np.average([s.accuracy for s in scores], weights=[s.n for s in scores])),
            baseline_name="all samples",
        ),
        table=table,
    )


MISTAKES = 12
"""Most confident mistakes that are shown."""

SIDE = 176
"""Pixels of their images."""


def mistakes_section(given: ReportInput) -> content.Section | None:
    """Show what the model is wrong about with the greatest confidence; None where there are no classes."""
    if not given.record.target.categorical:
        return None
    title, predicted = "Most confident mistakes", given.predicted
    if predicted is None:
        return content.Section(id="mistakes", title=title, paragraphs=("The model has not been tested yet.",))
    worst, images = worst_mistakes(predicted, MISTAKES), given.test_images
    if not worst:
        return content.Section(id="mistakes", title=title, paragraphs=("There are none: every prediction is right.",))
    pictures = []
    for row, what, confidence in worst:
        name = predicted.ids[row]
        image = None if images is None else images.image(name)
        if image is not None:
            caption = f"{what} ({confidence:.0%}): {name}"
            pictures.append(picture_of(image, side=SIDE, alternative=f"{name}, {what}", caption=caption))
    said = ["What looks like a mistake may be a wrong label: these are the first images to look at again."]
    if len(pictures) < len(worst):
        said.append("Where no image is shown, it is not at hand.")
    items: list[content.Item] = []
    if pictures:
        items.append(content.Gallery(id="mistake-images", title="Images", pictures=tuple(pictures)))
    items.append(
        content.Table(
            id="mistake-list",
            caption=f"The {len(worst)} most confident mistakes",
            columns=content.words("sample", "what is wrong") + content.numbers("probability"),
            rows=tuple((predicted.ids[row], what, confidence) for row, what, confidence in worst),
        )
    )
    return content.Section(id="mistakes", title=title, paragraphs=tuple(said), items=tuple(items))
