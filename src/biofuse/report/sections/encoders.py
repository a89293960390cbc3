"""What encoders are worth: by themselves, and what each contributes to the others."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from biofuse.evaluation.comparison import corrected_t
from biofuse.evaluation.metrics import get_metric
from biofuse.report.content import Chart, Column, Dots, Heat, Item, Section, Series, Table, Values
from biofuse.report.input import CHOSEN, Material, array, finite

EXPLAINED = (
    "The Shapley value shares the score of all encoders together among them, from what guessing scores: it is the mean "
    "gain of an encoder over all orders in which encoders can be added. The marginal gain is its mean gain over all "
    "subsets without it; added last, its gain over all others together."
)


def singles_section(material: Material) -> Section:
    """Rank the encoders by themselves."""
    metric = material.metric
    board = material.board if len(material.board.singles) >= len(material.pool) else material.all_scores
    title = get_metric(metric).title
    found = [(row, *corrected_t(row.values(metric), board.n_train, board.n_test)[:3]) for row in board.singles]
    found = sorted((one for one in found if not np.isnan(one[1])), key=lambda one: -one[1])
    if not found:
        return Section(
            id="singles",
            title="Single encoders",
            paragraphs=('No encoder was scored by itself; `search="all"` fuses all of them without a search.',),
        )
    names = tuple(row.subset[0] for row, *_ in found)
    cards = material.extras.cards
    mean, low, high = (np.array([one[place] for one in found]) for place in (1, 2, 3))
    # A score cannot leave its range, which an interval from a few folds does not know.
    low, high = (np.clip(ends, 0.0, 1.0) for ends in (low, high))
    gap = f", {found[0][1] - found[1][1]:+.4f} before {names[1]}" if len(found) > 1 else ""
    table = Table(
        id="singles-data",
        caption=f"Encoders by themselves, mean {title} over folds with its 95 % interval",
        columns=(
            Column(title="encoder"),
            Column(title=title, number=True),
            Column(title="low", number=True),
            Column(title="high", number=True),
            Column(title="columns", number=True),
            Column(title="trained on"),
        ),
        rows=tuple(
            (name, float(m), float(a), float(b), row.n_dims, _trained(cards[name].modality) if name in cards else "")
            for name, m, a, b, (row, *_) in zip(names, mean, low, high, found, strict=True)
        ),
        marked=frozenset(place for place, name in enumerate(names) if name in material.chosen),
    )
    chart = Chart(
        id="singles",
        title="Score of each encoder by itself",
        summary=f"{names[0]} is the best single encoder with a mean {title} of {mean[0]:.4f}{gap}. "
        "Encoders of the chosen model stand out.",
        body=Dots(
            labels=names,
            series=(Series(name=f"mean {title}", values=mean, low=low, high=high),),
            axis=f"mean {title}, 95 % interval",
            emphasised=table.marked,
            baseline=_chosen_mean(material),
            baseline_name="chosen",
        ),
        table=table,
    )
    return Section(id="singles", title="Single encoders", items=(chart,))


def _chosen_mean(material: Material) -> float | None:
    value = material.run.selection[CHOSEN].get("mean")
    return None if value is None else float(value)


def contribution_section(material: Material) -> Section:
    """Say what each encoder contributes, and which go together."""
    facts = material.run.evidence.get("attribution")
    items: list[Item] = []
    if facts is None:
        said = ["Contributions need the score of every subset of at least two and at most twelve encoders."]
    else:
        said = [EXPLAINED]
        items = [_shapley(facts, material.chosen), _interaction(facts)]
    if material.run.evidence.get("modality"):
        items.append(_modality(material.run.evidence["modality"]))
    return Section(id="contribution", title="Contribution of each encoder", paragraphs=tuple(said), items=tuple(items))


def _shapley(facts: Mapping[str, Any], chosen: tuple[str, ...]) -> Chart:
    values = {name: array(facts[name]) for name in ("shapley", "low", "high", "marginal", "added_last", "alone")}
    order = np.argsort(-values["shapley"], kind="stable")
    names = tuple(facts["encoders"][index] for index in order)
    title = get_metric(facts["metric"]).title
    ordered: dict[str, Values] = {name: each[order] for name, each in values.items()}
    marked = frozenset(place for place, name in enumerate(names) if name in chosen)
    return Chart(
        id="contribution",
        title=f"Contribution to {title}",
        summary=f"From {facts['empty']:.4f} by guessing to {facts['full']:.4f} with all encoders; {names[0]} "
        f"contributes most ({ordered['shapley'][0]:+.4f}), {names[-1]} least ({ordered['shapley'][-1]:+.4f}).",
        body=Dots(
            labels=names,
            series=(
                Series(name="Shapley value", values=ordered["shapley"], low=ordered["low"], high=ordered["high"]),
                Series(name="marginal gain", values=ordered["marginal"]),
                Series(name="added last", values=ordered["added_last"]),
            ),
            axis=f"share of {title}",
            emphasised=marked,
            baseline=0.0,
        ),
        table=Table(
            id="contribution-data",
            caption=f"Contribution of each encoder to {title}",
            columns=(
                Column(title="encoder"),
                *(
                    Column(title=name, number=True, signed=True)
                    for name in ("Shapley value", "low", "high", "marginal gain", "added last")
                ),
                Column(title="alone", number=True),
            ),
            rows=tuple((name, *(float(ordered[key][place]) for key in values)) for place, name in enumerate(names)),
            marked=marked,
        ),
    )


def _interaction(facts: Mapping[str, Any]) -> Chart:
    names = tuple(facts["encoders"])
    matrix = np.array([array(row) for row in facts["interaction"]])
    upper = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    low, high = (np.array([array(row) for row in facts[f"interaction_{end}"]]) for end in ("low", "high"))
    pairs = sorted(upper, key=lambda pair: -matrix[pair])
    (a, b), (c, d) = pairs[0], pairs[-1]
    reach = float(np.nanmax(np.abs(matrix))) or 1.0
    return Chart(
        id="interaction",
        title="Which encoders go together",
        summary="Above zero, two encoders gain more together than each by itself; below, they know much of the same"
        f"{', as all pairs do here' if matrix[a, b] < 0 else ''}. Highest: {names[a]} and {names[b]} "
        f"({matrix[a, b]:+.4f}); lowest: {names[c]} and {names[d]} ({matrix[c, d]:+.4f}).",
        body=Heat(
            rows=names,
            columns=names,
            values=matrix,
            texts=tuple(tuple("" if np.isnan(value) else f"{value:+.3f}" for value in row) for row in matrix),
            row_axis="",
            column_axis="",
            scale="interaction",
            diverging=True,
            limits=(-reach, reach),
        ),
        table=Table(
            id="interaction-data",
            caption="Shapley interaction index of every pair of encoders, with its interval",
            columns=(
                Column(title="first"),
                Column(title="second"),
                *(Column(title=name, number=True, signed=True) for name in ("interaction", "low", "high")),
            ),
            rows=tuple(
                (names[i], names[j], float(matrix[i, j]), float(low[i, j]), float(high[i, j])) for i, j in pairs
            ),
        ),
    )


def _trained(modality: str) -> str:
    return "nothing" if modality == "none" else modality


def _everybody(modality: str) -> str:
    return "all descriptors" if modality == "none" else f"all {modality} encoders"


def _modality(facts: Mapping[str, Any]) -> Table:
    rows = []
    for line in (*facts["modalities"], *facts["encoders"]):
        alone, added = line["alone"], line["added"] or {}
        rows.append(
            (
                _everybody(line["name"]) if line["kind"] == "modality" else line["name"],
                _trained(line["modality"]),
                finite(line["score"]),
                *(finite(alone.get(key)) for key in ("gain", "low", "high", "p_holm")),
                *(finite(added.get(key)) for key in ("gain", "low", "high", "p_holm")),
            )
        )
    title = get_metric(facts["metric"]).title
    gains = [
        Column(title=f"{how} {what}", number=True, signed=what != "p")
        for how in ("alone:", "joined:")
        for what in ("gain", "low", "high", "p")
    ]
    return Table(
        id="modality",
        caption=f"Gain in {title} over {facts['baseline']} ({finite(facts['baseline_score']):.4f}), the best encoder "
        "trained on everyday photographs: in its place (alone), and beside it (joined); p-values after Holm",
        columns=(
            Column(title="encoder"), Column(title="trained on"), Column(title="best alone", number=True), *gains,
        ),
        rows=tuple(rows),
    )  # fmt: skip
