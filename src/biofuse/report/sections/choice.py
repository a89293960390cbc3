"""Which encoders serve best: the answer, every scored subset, what each encoder is worth, and what it costs."""

from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from typing import Literal

import numpy as np

from biofuse.core.errors import option
from biofuse.evaluation.intervals import SIGNIFICANCE, corrected_t
from biofuse.evaluation.metrics import SELECTABLE, get_metric
from biofuse.model.evaluate import Evaluation
from biofuse.report import content
from biofuse.report.input import ReportInput, name_of
from biofuse.report.sections.maps import SQUARE, similarity_chart
from biofuse.search.attribution import Attribution, CrossModal, Gain, paired_gain
from biofuse.search.evidence import Nested
from biofuse.search.leaderboard import Leaderboard, Row, label
from biofuse.search.rules import CHOSEN, LEAN, LEAN_RULE, pareto_front, summed_cost
from biofuse.search.screen import SCREENED_BY

OTHERS = {"best_single": "the best single encoder", "all": "all encoders together"}
"""What the answer compares the chosen model with, in words."""


def answer(given: ReportInput) -> str:
    """Say which encoders were chosen, how much better they are, whether that is noise, and what fewer would cost."""
    said = _cross_validated(given) if given.evaluation is None else _tested(given, given.evaluation)
    return " ".join(filter(None, (said, _lean(given))))


def _lean(given: ReportInput) -> str:
    """Say in one sentence what the lean model saves and costs; nothing where there is none, or it was asked for."""
    row, pool, found = given.record.companions.get(LEAN), given.pool, given.evaluation
    if row is None or given.record.choice.rule == LEAN_RULE or len(pool) == 1:
        return ""
    fewer = len(given.chosen) - row.n_encoders
    if fewer <= 0:
        return "No subset of fewer encoders is within one standard error of the best."
    saved = f"{fewer} encoder{'s' if fewer > 1 else ''}"
    if given.latency:
        whole, less = (summed_cost(subset, given.latency) for subset in (given.chosen, row.subset))
        saved += f" and {whole - less:.1f} of {whole:.1f} ms per image"
    text = f"The lean model, {' + '.join(row.subset)}, saves {saved}"
    own = None if given.record.members else given.board.get(given.chosen)
    compared = None if found is None else found.comparisons.get(LEAN)
    if compared is not None and not isnan(compared.difference):
        sign = 1 if get_metric(given.metric).higher_is_better else -1
        low, high = sorted((sign * compared.low, sign * compared.high))
        gap, noise, where = sign * compared.difference, compared.noise, ""
    elif found is None and own is not None:
        gain = paired_gain(given.board, own, row, metric=given.metric)
        gap, low, high, noise, where = gain.gain, gain.low, gain.high, gain.noise, " in cross-validation"
    else:
        return f"{text}."
    if gap == low == high == 0:
        return f"{text}, and scores the same{where}."
    does = f"costs {gap:.4f} of" if gap >= 0 else f"gains {-gap:.4f} of"
    ends = (low, high) if gap >= 0 else (-high, -low)
    interval = "" if isnan(low) else f" (95 % interval {ends[0]:+z.4f} to {ends[1]:+z.4f})"
    verdict = "within noise" if noise else "beyond noise"
    return f"{text}, and {does} {given.metric_title}{where}{interval}, {verdict}."


def _subject(given: ReportInput) -> str:
    encoders, pool, members = given.chosen, len(given.pool), given.record.members
    if len(members) > 1:
        return f"The average of {len(members)} subsets ({name_of(encoders, pool)}) reaches"
    if len(encoders) == 1:
        return f"{encoders[0]} alone, of {pool} encoders, reaches" if pool > 1 else f"{encoders[0]} reaches"
    if len(encoders) == pool:
        return f"All {pool} encoders together reach" if pool > 4 else f"{' + '.join(encoders)}, all encoders, reach"
    return f"{' + '.join(encoders)}, {len(encoders)} of {pool} encoders, reach"


def _tested(given: ReportInput, found: Evaluation) -> str:
    title, scores = given.metric_title, found.models[CHOSEN]
    value = scores.metrics.get(given.metric, float("nan"))
    if isnan(value):
        return f"{_subject(given)} no defined {title} on {found.n} {found.split} samples."
    interval = scores.intervals.get(given.metric)
    ends = ""
    if interval is not None and not isnan(interval.low):
        ends = f" (95 % interval {interval.low:.4f} to {interval.high:.4f})"
    text = f"{_subject(given)} {_article(title)} {title} of {value:.4f}{ends} on {found.n:,} {found.split} samples"
    said, verdicts = [], []
    for name in OTHERS:
        comparison = found.comparisons.get(name)
        if comparison is not None and not isnan(comparison.difference):
            said.append(f"{comparison.difference:+z.4f} against {_who(given, name)}")
            verdicts.append(_verdict(comparison.difference, comparison.p_holm))
    return _finish(given, text, said, verdicts)


def _cross_validated(given: ReportInput) -> str:
    metric, board = given.metric, given.board
    how = f"in cross-validation over {board.n_folds} folds" if board.n_folds > 1 else "on the validation split"
    text = f"{_subject(given)} a {get_metric(metric).mean_title} of {given.record.mean:.4f} {how}"
    said, verdicts = [], []
    row = None if given.record.members else board.get(given.chosen)
    for name in OTHERS:
        other = given.record.companions.get(name)
        if row is None or other is None or other.subset == row.subset:
            continue
        gain = paired_gain(board, row, other, metric=metric)
        said.append(f"{gain.gain:+z.4f} against {_who(given, name)}")
        verdicts.append(_verdict(gain.gain, gain.p_holm))
    return _finish(given, text, said, verdicts) + " It has not been tested yet."


def _finish(given: ReportInput, text: str, said: list[str], verdicts: list[str]) -> str:
    if not said:
        alone = len(given.chosen) == 1
        return f"{text}; it is {'itself the best single encoder' if alone else 'the only subset compared'}."
    if len(set(verdicts)) == 1:
        both = "both differences are" if len(verdicts) == 2 else "the difference is"
        return f"{text}: {' and '.join(said)}; {both} {verdicts[0]}."
    return (
        f"{text}: " + " and ".join(f"{words}, {verdict}" for words, verdict in zip(said, verdicts, strict=True)) + "."
    )


def _verdict(difference: float, p_holm: float) -> str:
    if not p_holm <= SIGNIFICANCE:
        return "within noise"
    return f"{'better' if difference > 0 else 'worse'} beyond noise (p = {p_holm:.2g})"


def _who(given: ReportInput, name: str) -> str:
    other = given.record.companions.get(name)
    if name == "best_single" and other is not None:
        return f"{OTHERS[name]} ({other.subset[0]})"
    return f"all {len(given.pool)} encoders together" if name == "all" else OTHERS[name]


def _article(title: str) -> str:
    return "an" if title[0] in "AEIOUaeiouF" else "a"


def facts(given: ReportInput) -> tuple[content.KeyFact, ...]:
    """Return the numbers that stand out at the top."""
    chosen = f"{len(given.chosen)} of {len(given.pool)}"
    found = [content.KeyFact(name="Chosen", text=chosen, remark="encoders: " + ", ".join(given.chosen))]
    if given.evaluation is not None:
        found += _test_facts(given, given.evaluation)
    own, n_folds, optimism = given.record.mean, given.board.n_folds, given.record.evidence.optimism
    corrected = ""
    if optimism is not None:
        # Measured on the screen, whose scores are another head's: the size carries over, the level does not.
        by = f"by about {optimism.optimism:.4f}" if optimism.optimism > 0 else "by nothing that can be measured"
        corrected = f"; choosing among {optimism.n_subsets:,} flatters {by} ({given.on_evidence})"
    found.append(
        content.KeyFact(
            name=f"Cross-validated {given.metric_title}" if n_folds > 1 else "Validation",
            text=f"{own:.4f}",
            remark=(f"mean over {n_folds} folds" if n_folds > 1 else "validation split") + corrected,
            basis=f"{given.on_folds}, {name_of(given.chosen, len(given.pool))}",
            value=own,
        )
    )
    scored = len(given.all_scores)
    how = f"{len(given.board)} of them refitted with the {given.record.head} head" if given.run.screen else ""
    found.append(content.KeyFact(name="Subsets scored", text=f"{scored:,}", remark=how, value=float(scored)))
    return tuple(found)


def _test_facts(given: ReportInput, evaluation: Evaluation) -> list[content.KeyFact]:
    scores, found = evaluation.models[CHOSEN], []
    for name in dict.fromkeys((given.metric, *SELECTABLE)):
        value, interval = scores.metrics.get(name, float("nan")), scores.intervals.get(name)
        if isnan(value):
            continue
        known = interval is not None and not isnan(interval.low) and not isnan(interval.high)
        ends = f"95 % interval {interval.low:.3f} to {interval.high:.3f}" if interval is not None and known else ""
        title = f"{evaluation.split.capitalize()} {get_metric(name).title}"
        found.append(content.KeyFact(name=title, text=f"{value:.4f}", remark=ends, basis=given.of_chosen, value=value))
    return found


PICTURED = 8
"""Encoders by themselves on the answer's picture, the best of them."""


def picture(given: ReportInput) -> content.Chart | None:
    """Draw the chosen model's score beside all that it is compared with; None where no score is known."""
    found = _tested_rows(given) if given.evaluation is not None else _validated_rows(given)
    found = [row for row in found if not isnan(row[2])]
    if not found:
        return None
    title, scored = given.metric_title, given.on_test if given.evaluation is not None else given.on_folds
    names, encoders = tuple(row[0] for row in found), [row[1] for row in found]
    values, low, high = (np.array([row[place] for row in found]) for place in (2, 3, 4))
    return content.Chart(
        id="answer-figure",
        title=f"{title} of the chosen model and of what it stands beside",
        basis=f"{scored}; each row's own encoders",
        summary="Bars are 95 % intervals of each score by itself, and say little about differences."
        + (" Those are in the table of test results." if given.evaluation is not None else ""),
        body=content.DotPlot(
            labels=names,
            series=(content.Series(name=title, values=values, low=low, high=high),),
            axis=f"{title}, 95 % interval",
            emphasised=frozenset({0}),
            baseline=float(values[0]),
            baseline_name="chosen",
        ),
        table=content.Table(
            id="answer-data",
            caption=f"{title} by model",
            columns=content.words("model") + content.numbers(title) + content.words("encoders"),
            rows=tuple(
                (name, content.spanned(*map(float, each)), " + ".join(own))
                for name, own, *each in zip(names, encoders, values, low, high, strict=True)
            ),
            marked=frozenset({0}),
        ),
        wide=True,
    )


Drawn = tuple[str, Sequence[str], float, float, float]
"""Name, encoders, score and interval of a model."""


def _tested_rows(given: ReportInput) -> list[Drawn]:
    rows: list[Drawn] = []
    if (found := given.evaluation) is None:
        return rows
    for called, scores in found.distinct_models.items():
        interval, value = scores.intervals.get(given.metric), scores.metrics.get(given.metric, float("nan"))
        ends = (float("nan"),) * 2 if interval is None else (interval.low, interval.high)
        names = " = ".join(MARKS.get(name, name) for name in called)
        rows.append((f"{names} ({_count(scores.encoders)})", scores.encoders, value, *ends))
    there = {tuple(row[1]) for row in rows}
    sign = 1 if get_metric(given.metric).higher_is_better else -1
    alone = {name: each.get(given.metric, float("nan")) for name, each in found.singles.items()}
    best = sorted((name for name in alone if not isnan(alone[name])), key=lambda name: -sign * alone[name])
    none = (float("nan"),) * 2
    return rows + [(f"{name} alone", (name,), alone[name], *none) for name in best if (name,) not in there][:PICTURED]


def _validated_rows(given: ReportInput) -> list[Drawn]:
    board, metric, record = given.board, given.metric, given.record
    named = {CHOSEN: record.choice.chosen} if record.ensemble is None else {}
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, row in (named | record.companions).items():
        rows.setdefault(row.subset, []).append(MARKS.get(name, name))
    found: list[Drawn] = []
    for subset, names in rows.items():
        scored = board.get(subset)
        if scored is not None:
            mean, low, high, _ = corrected_t(scored.values(metric), board.n_train, board.n_test)
            found.append((f"{' = '.join(names)} ({_count(subset)})", subset, mean, low, high))
    return found


def _count(encoders: Sequence[str]) -> str:
    return encoders[0] if len(encoders) == 1 else f"{len(encoders)} encoders"


NOTED = 10
"""Subsets on the picture of a leaderboard, besides the chosen one."""


def leaderboard_chart(board: Leaderboard, chosen: Sequence[str], *, head: str) -> content.Chart:
    """Draw the best subsets of a leaderboard, and the chosen one, with their intervals.

    Parameters
    ----------
    board : Leaderboard
        Its first metric is drawn.
    chosen : sequence of str
        Encoders of the chosen subset.
    head : str
        What the scores are of.
    """
    metric = board.metrics[0]
    title, rows = get_metric(metric).title, board.best_first(metric)
    picked = [row for place, row in enumerate(rows) if place < NOTED or row.subset == tuple(chosen)]
    mean, low, high, _ = np.array([corrected_t(row.values(metric), board.n_train, board.n_test) for row in picked]).T
    names = tuple(" + ".join(row.subset) for row in picked)
    return content.Chart(
        id="leaderboard",
        title=f"{title} of the best subsets",
        summary=f"{names[0]} is best with a {get_metric(metric).mean_title} of {mean[0]:.4f}.",
        basis=f"cross-validation, {head} head",
        body=content.DotPlot(
            labels=names,
            series=(content.Series(name=title, values=mean, low=low, high=high),),
            axis=f"{get_metric(metric).mean_title} over folds ({head} head), 95 % interval",
            emphasised=frozenset(place for place, row in enumerate(picked) if row.subset == tuple(chosen)),
        ),
        table=content.Table(
            id="leaderboard-data",
            caption=f"{title} of the best subsets",
            columns=content.words("encoders") + content.numbers(title),
            rows=tuple(
                (name, content.spanned(*map(float, each))) for name, *each in zip(names, mean, low, high, strict=True)
            ),
        ),
    )


LISTED = 5000
"""Subsets on the page, the best first; leaderboard.csv and screen.csv have them all."""

UNMEASURED = (
    "Cost is the number of columns of a subset: times were not measured, and the cards do not state the arithmetic of "
    "every encoder. To have milliseconds measured: biofuse report RUN --latency."
)

MARKS = {
    CHOSEN: "chosen", "best": "best", "best_single": "best single", "all": "all", "greedy": "greedy", LEAN: "lean",
}  # fmt: skip
"""Names of the rows that matter, in ``run.json`` and in words."""


def marks(given: ReportInput) -> dict[frozenset[str], str]:
    """Return what is remarkable about a subset, by its encoders."""
    found: dict[frozenset[str], list[str]] = {}
    record = given.record
    rows = {"best": record.choice.best, **record.companions}
    if record.ensemble is None:
        rows = {CHOSEN: record.choice.chosen, **rows}
    for name, row in rows.items():
        found.setdefault(frozenset(row.subset), []).append(MARKS[name])
    for member in record.members:
        found.setdefault(frozenset(member), []).append("member")
    return {encoders: ", ".join(words) for encoders, words in found.items()}


def leaderboard_section(given: ReportInput) -> content.Section:
    """List every scored subset."""
    record, board, screen = given.record, given.board, given.run.screen
    folds = f"means over {board.n_folds} folds" if board.n_folds > 1 else "scores of the validation split"
    said = [f"Scores are {folds} of the development data, with the {record.head} head."]
    if screen is not None:
        said.append(
            f"{len(screen):,} subsets were screened in closed form, by {SCREENED_BY}; {len(board):,} were then "
            "refitted, and the choice is made among those."
        )
    said += filter(None, [record.options.compared(record.head, record.target)])
    if record.heads:
        tried = ", ".join(f"{name} {value:.4f}" for name, value in record.heads.items())
        said.append(f"The head was chosen by the same folds: {tried}.")
    warnings = () if record.choice.better_than_chance is not False else ("No subset is better than guessing.",)
    if record.evidence.optimism is not None:
        said.append(f"{record.evidence.optimism} {record.evidence.scored_by}".strip())
    if record.evidence.nested is not None:
        said.append(_nested(record.evidence.nested))
    return content.Section(
        id="leaderboard",
        title="Leaderboard",
        paragraphs=(record.reason,),
        warnings=warnings,
        items=(_leaderboard(given),),
        remarks=tuple(said),
    )


def _nested(nested: Nested) -> str:
    means = ", ".join(f"{np.nanmean(values):.4f} for {MARKS.get(name, name)}" for name, values in nested.folds.items())
    return (
        f"Nested cross-validation, the whole search repeated in each of {len(nested.picked)} outer folds: mean "
        f"{get_metric(nested.metric).title} {means} (95 % interval of the chosen {nested.low:.4f} to "
        f"{nested.high:.4f})."
    )


def _leaderboard(given: ReportInput) -> content.Table:
    metric, board, screen = given.metric, given.board, given.run.screen
    metrics = [metric, *(name for name in board.metrics if name != metric)]
    refitted = {frozenset(row.subset): row for row in board}
    screened = {} if screen is None else {frozenset(row.subset): row for row in screen}
    remarks, latency = marks(given), given.latency
    everything = sorted(
        {**screened, **refitted}.items(),
        key=lambda item: (_rank(refitted.get(item[0]), metric), _rank(screened.get(item[0]), metric)),
    )
    more = ""
    if len(everything) > LISTED:
        more = f"; the best {LISTED:,} of {len(everything):,}, all are in screen.csv"
        everything = [item for rank, item in enumerate(everything) if rank < LISTED or item[0] in remarks]
    rows = []
    for encoders, row in everything:
        real, quick = refitted.get(encoders), screened.get(encoders)
        cells: list[content.Value] = [" + ".join(row.subset), remarks.get(encoders, ""), row.n_encoders, row.n_dims]
        cells += [None if real is None else real.mean(name) for name in metrics]
        cells.append(None if real is None else real.std(metric))
        if screen is not None:
            cells.append(None if quick is None else quick.mean(metric))
        if latency:
            cells.append(summed_cost(row.subset, latency))
        rows.append(tuple(cells))
    titles = (get_metric(name).title for name in metrics)
    columns = [*content.words("encoders", "note"), *content.numbers("size", "columns", *titles, "± over folds")]
    if screen is not None:
        columns += content.numbers(f"screened {given.metric_title} (ridge)")
    if latency:
        columns += content.numbers("ms per image", decimals=1)
    return content.Table(
        id="subsets",
        caption=f"Scored subsets, the best first{more}",
        columns=tuple(columns),
        rows=tuple(rows),
        marked=frozenset(
            place for place, (encoders, _) in enumerate(everything) if "chosen" in remarks.get(encoders, "").split(", ")
        ),
        filtered=True,
        basis=f"{given.on_folds}" + (f"; the column “screened” by {SCREENED_BY}" if screen is not None else ""),
    )


def _rank(row: Row | None, metric: str) -> float:
    """Return what sorts rows from the best mean down, those without one last."""
    value = float("nan") if row is None or metric not in row.folds else row.mean(metric)
    if np.isnan(value):
        return float("inf")
    return -value if get_metric(metric).higher_is_better else value


def cost_section(given: ReportInput) -> content.Section:
    """Set scores against what they cost."""
    cost, unit, said = _cost(given)
    board, metric, title = given.all_scores, given.metric, given.metric_title
    rows = [row for row in board if not np.isnan(row.mean(metric))]
    if not rows:
        return content.Section(
            id="cost", title="Score against cost", paragraphs=(f"{title} is undefined in every fold.",)
        )
    front = pareto_front(replace(board, rows=tuple(rows)), cost, metric=metric)
    on_front = {row.subset for row in front}
    remarks = marks(given)
    price = {row.subset: summed_cost(row.subset, cost) for row in rows}

    def group(name: str, chosen: Sequence[Row], role: Literal["plain", "muted", "emphasis"]) -> content.PointGroup:
        return content.PointGroup(
            name=name,
            x=np.array([price[row.subset] for row in chosen]),
            y=np.array([row.mean(metric) for row in chosen]),
            texts=tuple(label(row.subset).replace("+", " + ") for row in chosen),
            role=role,
        )

    others = [
        row for row in rows if row.subset not in on_front and "chosen" not in remarks.get(frozenset(row.subset), "")
    ]
    picked = [row for row in rows if "chosen" in remarks.get(frozenset(row.subset), "").split(", ")]
    groups = [group("other subsets", others, "muted"), group("Pareto front", front, "plain")]
    if picked:
        groups.append(group("chosen", picked, "emphasis"))
    table = content.Table(
        id="cost-data",
        caption="Subsets than which none is both cheaper and better",
        columns=content.words("encoders")
        + content.numbers(unit, decimals=2)
        + content.numbers(title)
        + content.words("note"),
        rows=tuple(
            (" + ".join(row.subset), price[row.subset], row.mean(metric), remarks.get(frozenset(row.subset), ""))
            for row in front
        ),
        marked=frozenset(place for place, row in enumerate(front) if row in picked),
    )
    cheapest, best = front[0], front[-1]
    chart = content.Chart(
        id="cost",
        title="Score and cost of every subset",
        summary=f"{len(front)} of {len(rows):,} subsets are worth their price: from {label(cheapest.subset)} "
        f"({price[cheapest.subset]:,.4g} {unit}, {cheapest.mean(metric):.4f}) to {label(best.subset)} "
        f"({price[best.subset]:,.4g} {unit}, {best.mean(metric):.4f}).",
        body=content.ScatterPlot(
            groups=tuple(groups),
            x_axis=unit,
            y_axis=get_metric(metric).mean_title,
            front=content.LineSeries(
                name="Pareto front",
                x=np.array([price[row.subset] for row in front]),
                y=np.array([row.mean(metric) for row in front]),
            ),
        ),
        table=table,
        basis=f"{given.on_screen}, every subset",
        wide=True,
    )
    return content.Section(id="cost", title="Score against cost", paragraphs=(said,), items=(chart,))


def _cost(given: ReportInput) -> tuple[dict[str, float], str, str]:
    cards, latency = given.cards, given.latency
    if latency:
        said = ", ".join(f"{name} {latency[name]:.1f}" for name in given.pool)
        return (
            dict(latency),
            "ms per image",
            f"Cost is the time per image of a subset's encoders, measured on this machine in milliseconds: {said}.",
        )
    if all(card.gflops is not None for card in cards.values()):
        return (
            {name: float(card.gflops or 0.0) for name, card in cards.items()},
            "GFLOPs per image",
            "Cost is the arithmetic per image of a subset's encoders, from their cards; times were not measured.",
        )
    return {name: float(card.dim) for name, card in cards.items()}, "columns", UNMEASURED


EXPLAINED = (
    "The Shapley value shares the score of all encoders together among them, from what guessing scores: it is the mean "
    "gain of an encoder over all orders in which encoders can be added. The marginal gain is its mean gain over all "
    "subsets without it; added last, its gain over all others together."
)


def _singles(given: ReportInput) -> content.Chart | None:
    """Rank the encoders by themselves; None where none was scored alone."""
    metric, title = given.metric, given.metric_title
    refitted = len(given.board.singles) >= len(given.pool)
    board = given.board if refitted else given.all_scores
    found = [(row, *corrected_t(row.values(metric), board.n_train, board.n_test)[:3]) for row in board.singles]
    found = sorted((one for one in found if not np.isnan(one[1])), key=lambda one: -one[1])
    if not found:
        return None
    names = tuple(row.subset[0] for row, *_ in found)
    mean, low, high = (np.array([one[place] for one in found]) for place in (1, 2, 3))
    if given.record.target.categorical:
        # A score cannot leave its range, which an interval from a few folds does not know.
        low, high = (np.clip(ends, 0.0, 1.0) for ends in (low, high))
    gap = f", {found[0][1] - found[1][1]:+z.4f} before {names[1]}" if len(found) > 1 else ""
    table = content.Table(
        id="singles-data",
        caption=f"Encoders by themselves, {get_metric(metric).mean_title} over folds with its 95 % interval",
        columns=content.words("encoder")
        + content.numbers(title, "low", "high", "columns")
        + content.words("trained on"),
        rows=tuple(
            (name, float(m), float(a), float(b), row.n_dims, _trained(given.cards[name].modality))
            for name, m, a, b, (row, *_) in zip(names, mean, low, high, found, strict=True)
        ),
        marked=given.marked(names),
    )
    return content.Chart(
        id="singles",
        title="Score of each encoder by itself",
        basis=f"{given.on_folds if refitted else given.on_screen}, single encoders",
        summary=f"{names[0]} is the best single encoder with a {get_metric(metric).mean_title} of {mean[0]:.4f}{gap}. "
        "Encoders of the chosen model stand out.",
        body=content.DotPlot(
            labels=names,
            series=(content.Series(name=get_metric(metric).mean_title, values=mean, low=low, high=high),),
            axis=f"{get_metric(metric).mean_title}, 95 % interval",
            emphasised=table.marked,
            baseline=given.record.mean,
            baseline_name="chosen",
        ),
        table=table,
    )


def contribution_section(given: ReportInput) -> content.Section:
    """Say what each encoder is worth by itself and with others, and which go together."""
    facts, modality = given.record.evidence.attribution, given.record.evidence.modality
    alone = _singles(given)
    items: list[content.Item] = [] if alone is None else [alone]
    said: list[str] = []
    remarks: list[str] = []
    if alone is None:
        said.append(f"No encoder was scored by itself; {option('search', 'all')} fuses all of them without a search.")
    if facts is None:
        said.append("Contributions need the score of every subset of at least two and at most twelve encoders.")
    else:
        remarks = [EXPLAINED, *filter(None, [given.record.evidence.scored_by])]
        items.append(_shapley(facts, given))
        told = facts.additive and any(pair.told for pair in facts.pairs)
        if told:
            items.append(_interaction(facts, given.on_evidence))
            remarks.append(INTERACTIONS)
        elif len(facts.pairs):
            said.append(ADD_UP if facts.additive else SATURATED)
    alike = similarity_chart(given)
    if alike is not None:
        items.append(alike)
    elif given.development is None:
        said.append(f"How alike the encoders are is not known. {given.why}")
    more: list[content.Item] = []
    if modality is not None:
        more.append(_modality(modality, given.on_evidence))
    return content.Section(
        id="contribution",
        title="What each encoder is worth",
        paragraphs=tuple(said),
        items=tuple(items),
        remarks=tuple(remarks),
        more=tuple(more),
    )


def _shapley(facts: Attribution, given: ReportInput) -> content.Chart:
    order = np.argsort(np.negative(facts.shapley), kind="stable")
    names = tuple(facts.encoders[index] for index in order)
    title = get_metric(facts.metric).title
    shapley, low, high, marginal, added_last, alone = (
        np.array(values)[order]
        for values in (facts.shapley, facts.low, facts.high, facts.marginal, facts.added_last, facts.alone)
    )
    alone = get_metric(facts.metric).signed(alone)
    what = f"share of {title}" if get_metric(facts.metric).higher_is_better else f"by how much it lowers {title}"
    marked = given.marked(names)
    return content.Chart(
        id="contribution",
        title=f"Contribution to {title}",
        basis=f"{given.on_evidence}, every subset",
        summary=f"From {facts.score(facts.empty):.4f} by guessing to {facts.score(facts.full):.4f} with all encoders; "
        f"{names[0]} contributes most ({shapley[0]:+z.4f}), {names[-1]} least ({shapley[-1]:+z.4f}).",
        body=content.DotPlot(
            labels=names,
            series=(
                content.Series(name="Shapley value", values=shapley, low=low, high=high),
                content.Series(name="marginal gain", values=marginal),
                content.Series(name="added last", values=added_last),
            ),
            axis=what,
            emphasised=marked,
            baseline=0.0,
        ),
        table=content.Table(
            id="contribution-data",
            caption=f"Contribution of each encoder to {title}",
            columns=content.words("encoder")
            + content.numbers("Shapley value", "low", "high", "marginal gain", "added last", signed=True)
            + content.numbers("alone"),
            rows=tuple(
                (name, *map(float, each))
                for name, *each in zip(names, shapley, low, high, marginal, added_last, alone, strict=True)
            ),
            marked=marked,
        ),
    )


INTERACTIONS = (
    "Interactions are of the evidence that an AUROC stands for, d\u2032\u00b2 = 2 \u03a6\u207b\u00b9(AUROC)\u00b2: "
    "it adds up over independent encoders, while AUROC itself saturates."
)


ADD_UP = (
    "Of no pair can the folds tell that its encoders do anything but add up, so that no picture is drawn of which go "
    "together."
)

SATURATED = (
    "Which encoders go together is not drawn: the score saturates, so that interactions are below zero even where "
    "encoders know different things."
)


def _interaction(facts: Attribution, basis: str) -> content.Chart:
    names, matrix, low, high = (
        facts.encoders, *map(np.array, (facts.interaction, facts.interaction_low, facts.interaction_high)),
    )  # fmt: skip
    pairs = [(names.index(pair.first), names.index(pair.second)) for pair in facts.pairs]
    known = [pair for pair in pairs if not np.isnan(matrix[pair])]
    told = [pair for pair in facts.pairs if pair.told]
    summary = " ".join(str(pair) for pair in (told[0], told[-1])[: len(told)])
    if known:
        (a, b), (c, d) = known[0], known[-1]
        summary += (
            f" Highest: {names[a]} and {names[b]} ({matrix[a, b]:+z.2f}); lowest: {names[c]} and {names[d]} "
            f"({matrix[c, d]:+z.2f})."
        )
    reach = max((abs(float(matrix[pair])) for pair in known), default=0.0) or 1.0
    return content.Chart(
        id="interaction",
        title="Which encoders go together",
        basis=f"{basis}, every subset",
        wide=len(names) > SQUARE,
        summary=f"Above zero, two encoders complement each other; below, they know much of the same. {summary}",
        body=content.Heatmap(
            rows=names,
            columns=names,
            values=matrix,
            texts=tuple(tuple("" if np.isnan(value) else f"{value:+z.2f}" for value in row) for row in matrix),
            row_axis="",
            column_axis="",
            scale="interaction",
            diverging=True,
            limits=(-reach, reach),
        ),
        table=content.Table(
            id="interaction-data",
            caption="Shapley interaction index of every pair of encoders, with its interval",
            columns=content.words("first", "second") + content.numbers("interaction", "low", "high", signed=True),
            rows=tuple(
                (names[i], names[j], float(matrix[i, j]), float(low[i, j]), float(high[i, j])) for i, j in pairs
            ),
        ),
    )


def _trained(modality: str) -> str:
    return "nothing" if modality == "none" else modality


def _everybody(modality: str) -> str:
    return "all descriptors" if modality == "none" else f"all {modality} encoders"


def _modality(facts: CrossModal, basis: str) -> content.Table:
    def numbers_of(gain: Gain | None) -> tuple[content.Cell | float | None, ...]:
        return (None, None) if gain is None else (content.spanned(gain.gain, gain.low, gain.high), gain.p_holm)

    columns = [*content.words("encoder", "trained on"), *content.numbers("best alone")]
    for how in ("alone:", "joined:"):
        columns += [*content.numbers(f"{how} gain", signed=True), *content.numbers(f"{how} p")]
    return content.Table(
        id="modality",
        caption=f"Gain in {get_metric(facts.metric).title} over {facts.baseline} "
        f"({facts.baseline_score:.4f}), the best encoder trained on everyday photographs: in its place (alone), and "
        "beside it (joined); p-values and intervals after Holm",
        columns=tuple(columns),
        rows=tuple(
            (
                _everybody(line.name) if line.kind == "modality" else line.name,
                _trained(line.modality),
                line.score,
                *numbers_of(line.alone),
                *numbers_of(line.added),
            )
            for line in (*facts.modalities, *facts.encoders)
        ),
        basis=basis,
    )
