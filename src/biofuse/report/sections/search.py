"""What the search found: leaderboard, single encoders, contributions, score against cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from biofuse.evaluation.metrics import get_metric
from biofuse.report.content import Cell, Chart, Cloud, Column, Line, Points, Section, Table
from biofuse.report.input import CHOSEN, Material, array, finite
from biofuse.search.leaderboard import Leaderboard, Row, label
from biofuse.search.optimism import Optimism
from biofuse.search.rules import pareto_front, summed_cost

LISTED = 5000
"""Subsets on the page, the best first; leaderboard.csv and screen.csv have them all."""

UNMEASURED = (
    "Cost is the number of columns of a subset: times were not measured, and the cards do not state the arithmetic of "
    "every encoder. To have milliseconds measured: biofuse report RUN --latency."
)

MARKS = {CHOSEN: "chosen", "best": "best", "best_single": "best single", "all": "all", "greedy": "greedy"}
"""Names of the rows that matter, in ``run.json`` and in words."""


def marks(material: Material) -> dict[frozenset[str], str]:
    """Return what is remarkable about a subset, by its encoders."""
    found: dict[frozenset[str], list[str]] = {}
    for name, words in MARKS.items():
        row = material.run.selection.get(name)
        if isinstance(row, dict) and "members" not in row:
            found.setdefault(frozenset(row["encoders"]), []).append(words)
    for member in material.run.selection[CHOSEN].get("members", []):
        found.setdefault(frozenset(member), []).append("member")
    return {encoders: ", ".join(words) for encoders, words in found.items()}


def leaderboard_section(material: Material) -> Section:
    """List every scored subset."""
    selection, board, screen = material.run.selection, material.board, material.screen
    folds = f"means over {board.n_folds} folds" if board.n_folds > 1 else "scores of the validation split"
    said = [
        str(selection["reason"]),
        f"Scores are {folds} of the development data, with the {selection.get('head')} head.",
    ]
    if screen is not None:
        said.append(
            f"{len(screen):,} subsets were screened with ridge regression in closed form; {len(board):,} were then "
            "refitted, and the choice is made among those."
        )
    if selection.get("heads"):
        tried = ", ".join(f"{name} {value:.4f}" for name, value in selection["heads"].items())
        said.append(f"The head was chosen by the same folds: {tried}.")
    warnings = () if selection.get("better_than_chance", True) else ("No subset is better than guessing.",)
    optimism = _optimism(material)
    if optimism:
        screened = "How much choosing flatters a score, measured on the screen: " if screen is not None else ""
        said.append(f"{screened}{optimism}")
    if material.run.evidence.get("nested"):
        said.append(_nested(material.run.evidence["nested"]))
    return Section(
        id="leaderboard",
        title="Leaderboard",
        paragraphs=tuple(said),
        warnings=warnings,
        items=(_leaderboard(material),),
    )


def _optimism(material: Material) -> str:
    facts = material.run.evidence.get("optimism")
    if facts is None:
        return ""
    picked = {tuple(name.split("+")): share for name, share in facts["picked"].items()}
    return str(Optimism(**{**facts, "chosen": tuple(facts["chosen"]), "picked": picked}))


def _nested(facts: Mapping[str, Any]) -> str:
    title = get_metric(facts["metric"]).title
    means = ", ".join(
        f"{np.nanmean(array(values)):.4f} for {MARKS.get(name, name)}" for name, values in facts["folds"].items()
    )
    return (
        f"Nested cross-validation, the whole search repeated in each of {len(facts['picked'])} outer folds: mean "
        f"{title} {means} (95 % interval of the chosen {finite(facts['low']):.4f} to {finite(facts['high']):.4f})."
    )


def _leaderboard(material: Material) -> Table:
    metric, board, screen = material.metric, material.board, material.screen
    metrics = [metric, *(name for name in board.metrics if name != metric)]
    refitted = {frozenset(row.subset): row for row in board}
    screened = {} if screen is None else {frozenset(row.subset): row for row in screen}
    remarks, latency = marks(material), material.latency
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
        cells: list[Cell] = [" + ".join(row.subset), remarks.get(encoders, ""), row.n_encoders, row.n_dims]
        cells += [None if real is None else real.mean(name) for name in metrics]
        cells.append(None if real is None else real.std(metric))
        if screen is not None:
            cells.append(None if quick is None else quick.mean(metric))
        if latency:
            cells.append(summed_cost(row.subset, latency))
        rows.append(tuple(cells))
    columns = [
        Column(title="encoders"),
        Column(title="note"),
        Column(title="size", number=True),
        Column(title="columns", number=True),
        *(Column(title=get_metric(name).title, number=True) for name in metrics),
        Column(title="± over folds", number=True),
    ]
    if screen is not None:
        columns.append(Column(title=f"screened {get_metric(metric).title}", number=True))
    if latency:
        columns.append(Column(title="ms per image", number=True, decimals=1))
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


def cost_section(material: Material) -> Section:
    """Set scores against what they cost."""
    cost, unit, said = _cost(material)
    board, metric = material.all_scores, material.metric
    title = get_metric(metric).title
    rows = [row for row in board if not np.isnan(row.mean(metric))]
    if not rows:
        return Section(id="cost", title="Score against cost", paragraphs=(f"{title} is undefined in every fold.",))
    known = Leaderboard(
        encoders=board.encoders, metrics=board.metrics, rows=tuple(rows), n_train=board.n_train, n_test=board.n_test
    )
    front = pareto_front(known, cost, metric=metric)
    on_front = {row.subset for row in front}
    remarks = marks(material)
    price = {row.subset: summed_cost(row.subset, cost) for row in rows}

    def cloud(name: str, chosen: list[Row], role: str) -> Cloud:
        return Cloud(
            name=name,
            x=np.array([price[row.subset] for row in chosen]),
            y=np.array([row.mean(metric) for row in chosen]),
            texts=tuple(label(row.subset).replace("+", " + ") for row in chosen),
            role=role,  # type: ignore[arg-type]
        )

    others = [
        row for row in rows if row.subset not in on_front and "chosen" not in remarks.get(frozenset(row.subset), "")
    ]
    picked = [row for row in rows if "chosen" in remarks.get(frozenset(row.subset), "").split(", ")]
    clouds = [cloud("other subsets", others, "muted"), cloud("Pareto front", list(front), "plain")]
    if picked:
        clouds.append(cloud("chosen", picked, "emphasis"))
    scored = "the closed-form screen" if material.screen is not None else "the folds"
    table = Table(
        id="cost-data",
        caption=f"Subsets than which none is both cheaper and better ({title} of {scored})",
        columns=(
            Column(title="encoders"),
            Column(title=unit, number=True, decimals=2),
            Column(title=title, number=True),
            Column(title="note"),
        ),
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
        body=Points(
            clouds=tuple(clouds),
            x_axis=unit,
            y_axis=f"mean {title}",
            front=Line(
                name="Pareto front",
                x=np.array([price[row.subset] for row in front]),
                y=np.array([row.mean(metric) for row in front]),
            ),
        ),
        table=table,
    )
    return Section(id="cost", title="Score against cost", paragraphs=(said,), items=(chart,))


def _cost(material: Material) -> tuple[dict[str, float], str, str]:
    cards, latency = material.extras.cards, material.latency
    if latency:
        said = ", ".join(f"{name} {latency[name]:.1f}" for name in material.pool)
        return (
            dict(latency),
            "ms per image",
            f"Cost is the time per image of a subset's encoders, measured on this machine in milliseconds: {said}.",
        )
    if all(name in cards and cards[name].gflops is not None for name in material.pool):
        return (
            {name: float(cards[name].gflops or 0.0) for name in material.pool},
            "GFLOPs per image",
            "Cost is the arithmetic per image of a subset's encoders, from their cards; times were not measured.",
        )
    return {name: float(dim) for name, dim in material.dims.items()}, "columns", UNMEASURED
