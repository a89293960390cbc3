"""What the search found: leaderboard, single encoders, contributions, score against cost."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from biofuse.evaluation.metrics import get_metric
from biofuse.report.content import Chart, LineSeries, PointGroup, ScatterPlot, Section, Table, Value, numbers, words
from biofuse.report.input import ReportInput
from biofuse.search.evidence import Nested
from biofuse.search.leaderboard import Leaderboard, Row, label
from biofuse.search.rules import CHOSEN, pareto_front, summed_cost

LISTED = 5000
"""Subsets on the page, the best first; leaderboard.csv and screen.csv have them all."""

UNMEASURED = (
    "Cost is the number of columns of a subset: times were not measured, and the cards do not state the arithmetic of "
    "every encoder. To have milliseconds measured: biofuse report RUN --latency."
)

MARKS = {CHOSEN: "chosen", "best": "best", "best_single": "best single", "all": "all", "greedy": "greedy"}
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


def leaderboard_section(given: ReportInput) -> Section:
    """List every scored subset."""
    record, board, screen = given.record, given.board, given.run.screen
    folds = f"means over {board.n_folds} folds" if board.n_folds > 1 else "scores of the validation split"
    said = [
        record.reason,
        f"Scores are {folds} of the development data, with the {record.head} head.",
    ]
    if screen is not None:
        said.append(
            f"{len(screen):,} subsets were screened with ridge regression in closed form; {len(board):,} were then "
            "refitted, and the choice is made among those."
        )
    if record.heads:
        tried = ", ".join(f"{name} {value:.4f}" for name, value in record.heads.items())
        said.append(f"The head was chosen by the same folds: {tried}.")
    warnings = () if record.choice.better_than_chance is not False else ("No subset is better than guessing.",)
    if record.evidence.optimism is not None:
        screened = "How much choosing flatters a score, measured on the screen: " if screen is not None else ""
        said.append(f"{screened}{record.evidence.optimism}")
    if record.evidence.nested is not None:
        said.append(_nested(record.evidence.nested))
    return Section(
        id="leaderboard",
        title="Leaderboard",
        paragraphs=tuple(said),
        warnings=warnings,
        items=(_leaderboard(given),),
    )


def _nested(nested: Nested) -> str:
    means = ", ".join(f"{np.nanmean(values):.4f} for {MARKS.get(name, name)}" for name, values in nested.folds.items())
    return (
        f"Nested cross-validation, the whole search repeated in each of {len(nested.picked)} outer folds: mean "
        f"{get_metric(nested.metric).title} {means} (95 % interval of the chosen {nested.low:.4f} to "
        f"{nested.high:.4f})."
    )


def _leaderboard(given: ReportInput) -> Table:
    metric, board, screen = given.metric, given.board, given.run.screen
    metrics = [metric, *(name for name in board.metrics if name != metric)]
    refitted = {frozenset(row.subset): row for row in board}
    screened = {} if screen is None else {frozenset(row.subset): row for row in screen}
    remarks, latency = marks(given), given.latency
    everything = list({**screened, **refitted}.items())

    def place(item: tuple[frozenset[str], Row]) -> tuple[float, float]:
        return (
            -_mean(refitted.get(item[0]), metric, worst=True),
            -_mean(screened.get(item[0]), metric, worst=True),
        )

    everything.sort(key=place)
    if len(everything) > LISTED:
        kept = [item for rank, item in enumerate(everything) if rank < LISTED or item[0] in remarks]
        more = f"; the best {LISTED:,} of {len(everything):,}, all are in screen.csv"
        everything = kept
    else:
        more = ""
    rows = []
    for encoders, row in everything:
        real, quick = refitted.get(encoders), screened.get(encoders)
        cells: list[Value] = [" + ".join(row.subset), remarks.get(encoders, ""), row.n_encoders, row.n_dims]
        cells += [None if real is None else real.mean(name) for name in metrics]
        cells.append(None if real is None else real.std(metric))
        if screen is not None:
            cells.append(None if quick is None else quick.mean(metric))
        if latency:
            cells.append(summed_cost(row.subset, latency))
        rows.append(tuple(cells))
    titles = (get_metric(name).title for name in metrics)
    columns = [*words("encoders", "note"), *numbers("size", "columns", *titles, "± over folds")]
    if screen is not None:
        columns += numbers(f"screened {given.metric_title}")
    if latency:
        columns += numbers("ms per image", decimals=1)
    return Table(
        id="subsets",
        caption=f"Scored subsets, the best first{more}",
        columns=tuple(columns),
        rows=tuple(rows),
        marked=frozenset(
            place for place, (encoders, _) in enumerate(everything) if "chosen" in remarks.get(encoders, "").split(", ")
        ),
        filtered=True,
    )


def _mean(row: Row | None, metric: str, *, worst: bool = False) -> float:
    value = float("nan") if row is None or metric not in row.folds else row.mean(metric)
    if np.isnan(value):
        return float("-inf") if worst else value
    return value if get_metric(metric).higher_is_better else -value


def cost_section(given: ReportInput) -> Section:
    """Set scores against what they cost."""
    cost, unit, said = _cost(given)
    board, metric, title = given.all_scores, given.metric, given.metric_title
    rows = [row for row in board if not np.isnan(row.mean(metric))]
    if not rows:
        return Section(id="cost", title="Score against cost", paragraphs=(f"{title} is undefined in every fold.",))
    known = Leaderboard(
        encoders=board.encoders, metrics=board.metrics, rows=tuple(rows), n_train=board.n_train, n_test=board.n_test
    )
    front = pareto_front(known, cost, metric=metric)
    on_front = {row.subset for row in front}
    remarks = marks(given)
    price = {row.subset: summed_cost(row.subset, cost) for row in rows}

    def group(name: str, chosen: Sequence[Row], role: Literal["plain", "muted", "emphasis"]) -> PointGroup:
        return PointGroup(
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
    scored = "the closed-form screen" if given.run.screen is not None else "the folds"
    table = Table(
        id="cost-data",
        caption=f"Subsets than which none is both cheaper and better ({title} of {scored})",
        columns=(*words("encoders"), *numbers(unit, decimals=2), *numbers(title), *words("note")),
        rows=tuple(
            (" + ".join(row.subset), price[row.subset], row.mean(metric), remarks.get(frozenset(row.subset), ""))
            for row in front
        ),
        marked=frozenset(place for place, row in enumerate(front) if row in picked),
    )
    cheapest, best = front[0], front[-1]
    chart = Chart(
        id="cost",
        title="Score and cost of every subset",
        summary=f"{len(front)} of {len(rows):,} subsets are worth their price: from {label(cheapest.subset)} "
        f"({price[cheapest.subset]:,.4g} {unit}, {cheapest.mean(metric):.4f}) to {label(best.subset)} "
        f"({price[best.subset]:,.4g} {unit}, {best.mean(metric):.4f}).",
        body=ScatterPlot(
            groups=tuple(groups),
            x_axis=unit,
            y_axis=f"mean {title}",
            front=LineSeries(
                name="Pareto front",
                x=np.array([price[row.subset] for row in front]),
                y=np.array([row.mean(metric) for row in front]),
            ),
        ),
        table=table,
    )
    return Section(id="cost", title="Score against cost", paragraphs=(said,), items=(chart,))


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
