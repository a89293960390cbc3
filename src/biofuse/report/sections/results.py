"""Test results: scores, curves, groups, and what the model is wrong about with the greatest confidence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biofuse.core.target import Target
from biofuse.evaluation.intervals import Comparison, distinct, wilson
from biofuse.evaluation.metrics import ACCURACY, AUROC, auroc_columns, get_metric
from biofuse.evaluation.operating import Operating, OperatingPoint, Share
from biofuse.model.evaluate import Evaluation
from biofuse.report import content
from biofuse.report.input import Predicted, ReportInput, name_of, picture_of
from biofuse.report.sections.maps import SQUARE
from biofuse.runs.run import OWN
from biofuse.search.rules import CHOSEN

RANKED_GROUPS = 300
"""Groups, the worst first, of which AUROC is computed: as many as are listed."""

DRAWN_POINTS = 300
"""Points of a curve that are drawn: more cannot be told apart on a page."""


def thinned(curve: content.LineSeries) -> content.LineSeries:
    """Return at most :data:`DRAWN_POINTS` of the points, evenly along the curve, the ends among them."""
    kept = _kept(curve)
    return replace(curve, x=curve.x[kept], y=curve.y[kept])


def _kept(curve: content.LineSeries) -> NDArray[np.intp]:
    if len(curve.x) <= DRAWN_POINTS:
        return np.arange(len(curve.x))
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y)))])
    kept = np.searchsorted(length, np.linspace(0, length[-1], DRAWN_POINTS))
    return np.unique(np.concatenate([[0], kept.clip(0, len(curve.x) - 1), [len(curve.x) - 1]]))


BANDED = 2
"""Curves up to which each has a band; of more only the hardest has one, since bands over one another say nothing."""


def banded(curve: content.LineSeries, predicted: Predicted, *, recalled: bool) -> content.LineSeries:
    """Return at most :data:`DRAWN_POINTS` of a class's curve, with a 95 % interval of y at the threshold of each point.

    Parameters
    ----------
    curve : LineSeries
        Of :func:`roc_curves` or :func:`precision_recall_curves`.
    predicted : Predicted
    recalled : bool
        Whether y is the share of a class that is found (ROC), not the share of what is called it that is right.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    column = predicted.classes.index(curve.name)
    there = predicted.known[:, column]
    target, values = predicted.targets[there, column], predicted.probabilities[there, column]
    units = predicted.units.of_entries(np.flatnonzero(there))
    thresholds = (roc_curve if recalled else precision_recall_curve)(target, values)[2]
    kept, ends = _kept(curve), []
    for place in kept:
        called = values >= thresholds[place] if place < len(thresholds) else np.zeros(len(values), dtype=bool)
        share = Share.of(called, target, units) if recalled else Share.of(target, called, units)
        ends.append((share.low, share.high))
    low, high = np.array(ends).T
    return replace(curve, x=curve.x[kept], y=curve.y[kept], low=low, high=high)


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
    targets, values, known = predicted.targets, predicted.probabilities, predicted.known
    return [
        (predicted.classes[c], targets[known[:, c], c], values[known[:, c], c])
        for c in predicted.ranked
        if targets[:, c].any()
    ]


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
        agree = ((predicted.probabilities > 0.5) == predicted.targets) & predicted.known
        right = agree.sum(axis=1) / np.maximum(predicted.known.sum(axis=1), 1)
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


def mistaken_column(predicted: Predicted, row: int) -> int:
    """Return the column of the class that a mistake is about: the predicted one, or the label told most wrongly."""
    values = predicted.probabilities[row]
    return int((np.abs(predicted.targets[row] - values) if predicted.multilabel else values).argmax())


def worst_mistakes(predicted: Predicted, count: int) -> list[tuple[int, str, float]]:
    """Return the rows that are wrong with the greatest confidence: row, what is wrong in words, and how confident."""
    gap = np.abs(predicted.targets - predicted.probabilities) * predicted.known
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
    said += found.notes
    said += found.models[CHOSEN].metrics.remarks()
    warnings = (
        () if split == "test" else (f"These are {split} samples, which the search has seen: scores are too good.",)
    )
    items: list[content.Item] = [_scores(given, found)]
    if len(given.run.evaluations) > 1:
        items.append(_side_by_side(given))
    if found.leak.without:
        items.append(_without_leak(found, given.on_test))
    basis, target = given.of_chosen, given.record.target
    more: list[content.Item | None] = [_other_scores(given, found)]
    if target.n_columns > 1:
        more.append(_per_class(found, target, basis))
    if predicted is not None:  # what is not about classes has sections of its own
        curves = _curves(predicted, found.operating, basis)
        items += curves[:1]
        items.append(_label_counts(predicted, basis) if predicted.multilabel else _confusion(predicted, basis))
        more += [*curves[1:], group_item(predicted, basis)]
    return content.Section(
        id="test",
        title=title,
        paragraphs=tuple(said),
        warnings=warnings,
        items=tuple(items),
        remarks=tuple(_readable(comparison) for comparison in distinct(found.comparisons)),
        more=tuple(filter(None, more)),
    )


def _readable(comparison: Comparison) -> str:
    sentence = str(comparison)
    return sentence.replace("best_single", "the best single encoder").replace("and all is", "and all encoders is")


def _scores(given: ReportInput, found: Evaluation) -> content.Table:
    chosen = found.models[CHOSEN]
    columns = [
        *content.words("model", "encoders"),
        *content.numbers(*(get_metric(name).title for name in chosen.intervals)),
        *content.numbers("chosen less this", signed=True),
        *content.numbers("p", decimals=3),
    ]
    rows = []
    for called, scores in found.distinct_models.items():
        cells: list[content.Value | content.Cell] = [" = ".join(called).replace("_", " ")]
        cells.append(name_of(scores.encoders, len(given.pool)))
        for name in chosen.intervals:
            interval, value = scores.intervals.get(name), scores.metrics.get(name)
            ends = (None, None) if interval is None else (interval.low, interval.high)
            cells.append(content.spanned(value, *ends))
        rows.append((*cells, *_against(found.comparisons.get(called[0]))))
    compared = next(iter(found.comparisons.values()), None)
    how = "" if compared is None else (
        f"Differences are of {get_metric(compared.metric).title}, with {compared.confidence:.0%} intervals over "
        f"{compared.n_units:,} {compared.unit} and p-values after Holm's correction; those within noise are grey."
    )  # fmt: skip
    return content.Table(
        id="scores",
        caption="The chosen model and what it stands beside, with 95 % intervals",
        basis=f"{given.on_test}; each row's own encoders",
        columns=tuple(columns),
        rows=tuple(rows),
        notes=tuple(filter(None, [how])),
        marked=frozenset({0}),
    )


def _other_scores(given: ReportInput, found: Evaluation) -> content.Table | None:
    """Return the scores that have no interval; None where every one has."""
    chosen = found.models[CHOSEN]
    names = [name for name in chosen.metrics if name not in chosen.intervals]
    if not names:
        return None
    return content.Table(
        id="scores-other",
        caption="Other scores of these models",
        basis=f"{given.on_test}; each row's own encoders",
        columns=content.words("model") + content.numbers(*(get_metric(name).title for name in names)),
        rows=tuple(
            (" = ".join(called).replace("_", " "), *(scores.metrics.get(name) for name in names))
            for called, scores in found.distinct_models.items()
        ),
        marked=frozenset({0}),
    )


def _against(comparison: Comparison | None) -> tuple[content.Value | content.Cell, ...]:
    if comparison is None:
        return None, None
    better = (comparison.difference > 0) == get_metric(comparison.metric).higher_is_better
    tone: content.Tone = "noise" if comparison.noise else "gain" if better else "loss"
    return content.spanned(comparison.difference, comparison.low, comparison.high, tone=tone), comparison.p_holm


def _side_by_side(given: ReportInput) -> content.Table:
    """Put the chosen model's scores on the run's own test samples beside those on other data."""
    every = given.run.evaluations
    own = every.get(OWN)
    ordered = {OWN: own, **every} if own is not None else every
    names = list(dict.fromkeys(name for found in ordered.values() for name in found.models[CHOSEN].intervals))
    columns = [*content.words("data", "split"), *content.numbers("samples", decimals=0)]
    columns += content.numbers(*(get_metric(name).title for name in names))
    rows = []
    for called, found in ordered.items():
        scores = found.models[CHOSEN]
        cells: list[content.Value | content.Cell] = ["the run's own" if called == OWN else called, found.split, found.n]
        for name in names:
            interval = scores.intervals.get(name)
            ends = (None, None) if interval is None else (interval.low, interval.high)
            cells.append(content.spanned(scores.metrics.get(name), *ends))
        rows.append(tuple(cells))
    return content.Table(
        id="side-by-side",
        caption="The chosen model on everything that it was evaluated on, with 95 % intervals",
        basis=given.of_chosen,
        columns=tuple(columns),
        rows=tuple(rows),
        notes=() if own is None else ("All else on this page is of the run's own test samples.",),
    )


def _without_leak(found: Evaluation, basis: str) -> content.Table:
    names = list(found.models[CHOSEN].metrics)
    return content.Table(
        id="without-leak",
        basis=f"{basis}; each row's own encoders",
        caption="The same without the tested images that are also development images",
        columns=content.words("model") + content.numbers(*(get_metric(name).title for name in names)),
        rows=tuple(
            (" = ".join(called).replace("_", " "), *(found.leak.without[called[0]].get(name) for name in names))
            for called in found.distinct_models
        ),
    )


def _per_class(found: Evaluation, target: Target, basis: str) -> content.Table:
    table = found.models[CHOSEN].metrics.per_class
    names = list(dict.fromkeys(name for row in table.values() for name in row if name != "n"))
    of, caption = target.noun, f"Scores of the chosen model for each of the {target.noun}"
    if target.categorical:
        of, caption = "class", "Scores of the chosen model per class, each against the rest"
    return content.Table(
        id="per-class",
        basis=basis,
        caption=caption,
        columns=content.words(of) + content.numbers("samples", *(get_metric(name).title for name in names)),
        rows=tuple((name, int(row["n"]), *(row.get(metric) for metric in names)) for name, row in table.items()),
    )


def _curves(predicted: Predicted, operating: Operating | None, basis: str) -> list[content.Chart]:
    from sklearn.metrics import auc

    roc, precision = roc_curves(predicted), precision_recall_curves(predicted)
    charts = []
    if roc:
        at = (0.01, 0.05, 0.1, 0.2)
        charts.append(
            _curve_chart(
                "roc", "ROC curves", roc,
                {name: float(auc(curve.x, curve.y)) for name, curve in roc.items()},
                {name: interpolated(curve, at) for name, curve in roc.items()},
                predicted=predicted, basis=basis, axes=("false positive rate", "true positive rate"), area="AUROC",
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
                predicted=predicted, basis=basis, axes=("recall", "precision"), area="average precision",
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
    predicted: Predicted,
    basis: str,
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
    with_band = set(drawn if len(drawn) <= BANDED else hardest[:1])
    whose = "Bands are" if len(drawn) <= BANDED else f"The band of {worst}, the hardest, is"
    lines = {
        each: banded(curves[each], predicted, recalled=diagonal) if each in with_band else thinned(curves[each])
        for each in drawn
    }
    return content.Chart(
        id=name,
        title=title,
        basis=basis,
        summary=f"{summary}{more} {whose} 95 % intervals of the {axes[1]} at each threshold.",
        body=content.LineChart(
            lines=tuple(replace(line, name=f"{each} ({areas[each]:.3f})") for each, line in lines.items()),
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


def _confusion(predicted: Predicted, basis: str) -> content.Chart:
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
        basis=basis,
        wide=len(names) > SQUARE,
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


def _label_counts(predicted: Predicted, basis: str) -> content.Table:
    said = predicted.probabilities > 0.5
    rows: list[tuple[content.Value, ...]] = []
    for name, truth, guess, known in zip(
        predicted.classes, predicted.targets.T, said.T, predicted.known.T, strict=True
    ):
        cases = (truth & guess, ~truth & guess & known, truth & ~guess, ~truth & ~guess & known)
        rows.append((name, *(int(case.sum()) for case in cases)))
    heads = ("present and predicted", "predicted only", "present only", "neither")
    return content.Table(
        id="confusion-data",
        caption="Labels that are present and predicted, at a probability above one half",
        basis=basis,
        columns=content.words("label") + content.numbers(*heads),
        rows=tuple(rows),
    )


GROUPS_DRAWN, GROUPS_LISTED = 30, RANKED_GROUPS
"""Groups on the figure and in its table, the worst first."""

DRAWN_FROM = 3
"""Samples of a group that is drawn: with fewer, the interval of its accuracy spans two thirds of the scale."""


def group_item(predicted: Predicted, basis: str) -> content.Item | None:
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
        basis=basis,
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
        basis=basis,
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

SIDE = 164
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
    table = content.Table(
        id="mistake-list",
        caption=f"The {len(worst)} most confident mistakes",
        basis=given.of_chosen,
        columns=content.words("sample", "what is wrong") + content.numbers("probability"),
        rows=tuple((predicted.ids[row], what, confidence) for row, what, confidence in worst),
    )
    if not pictures:
        return content.Section(id="mistakes", title=title, paragraphs=tuple(said), items=(table,))
    gallery = content.Gallery(
        id="mistake-images",
        title=f"The {len(pictures)} most confident",
        pictures=tuple(pictures),
        basis=given.of_chosen,
    )
    return content.Section(
        id="mistakes",
        title=title,
        paragraphs=tuple(said),
        items=(gallery, *_occlusions(given)),
        remarks=(*([RESTS_ON] if given.occlusions else []),),
        more=(*([_occlusion_table(given)] if given.occlusions else []), table),
    )


RESTS_ON = (
    "An occlusion map shows what a prediction rests on, not why: a window of a quarter of each side is covered with "
    "the mean colour of the image, at 49 places, and the model predicts again. Colours are relative to the greatest "
    "change in each image, which the table has; where covering changes little, they say little."
)


def _occlusions(given: ReportInput) -> list[content.Item]:
    """Return what the mistakes rest on, as a gallery; nothing where it was not asked for."""
    pictures = []
    for each in given.occlusions:
        change = float(each.probability - each.covered.min())
        caption = f"{each.called} {each.probability:.0%}, {each.probability - change:.0%} covered: {each.id}"
        alternative = f"occlusion map of {each.id} for {each.called}"
        pictures.append(picture_of(each.picture(), side=SIDE, alternative=alternative, caption=caption))
    basis = (
        f"{given.of_chosen}. Blue: what the probability of the class that the mistake is about rests on; brown: what "
        "speaks against it."
    )
    return [content.Gallery(id="occlusion", title="Occlusion maps", pictures=tuple(pictures), basis=basis)] * bool(
        pictures
    )


def _occlusion_table(given: ReportInput) -> content.Table:
    return content.Table(
        id="occlusion-data",
        caption="Probability with the window covered that changes it most",
        basis=given.of_chosen,
        columns=content.words("sample", "class") + content.numbers("probability", "least covered", "most covered"),
        rows=tuple(
            (each.id, each.called, each.probability, float(each.covered.min()), float(each.covered.max()))
            for each in given.occlusions
        ),
    )
