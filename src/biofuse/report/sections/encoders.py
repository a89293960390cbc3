"""What encoders are worth: by themselves, and what each contributes to the others."""

import numpy as np

from biofuse.evaluation.intervals import corrected_t
from biofuse.evaluation.metrics import get_metric
from biofuse.report.content import Chart, DotPlot, Heatmap, Item, Section, Series, Table, numbers, words
from biofuse.report.input import ReportInput
from biofuse.search.attribution import Attribution, CrossModal, Gain

EXPLAINED = (
    "The Shapley value shares the score of all encoders together among them, from what guessing scores: it is the mean "
    "gain of an encoder over all orders in which encoders can be added. The marginal gain is its mean gain over all "
    "subsets without it; added last, its gain over all others together."
)


def singles_section(given: ReportInput) -> Section:
    """Rank the encoders by themselves."""
    metric, title = given.metric, given.metric_title
    board = given.board if len(given.board.singles) >= len(given.pool) else given.all_scores
    found = [(row, *corrected_t(row.values(metric), board.n_train, board.n_test)[:3]) for row in board.singles]
    found = sorted((one for one in found if not np.isnan(one[1])), key=lambda one: -one[1])
    if not found:
        return Section(
            id="singles",
            title="Single encoders",
            paragraphs=('No encoder was scored by itself; `search="all"` fuses all of them without a search.',),
        )
    names = tuple(row.subset[0] for row, *_ in found)
    mean, low, high = (np.array([one[place] for one in found]) for place in (1, 2, 3))
    # A score cannot leave its range, which an interval from a few folds does not know.
    low, high = (np.clip(ends, 0.0, 1.0) for ends in (low, high))
    gap = f", {found[0][1] - found[1][1]:+.4f} before {names[1]}" if len(found) > 1 else ""
    table = Table(
        id="singles-data",
        caption=f"Encoders by themselves, mean {title} over folds with its 95 % interval",
        columns=(
            *words("encoder"),
            *numbers(title, "low", "high", "columns"),
            *words("trained on"),
        ),
        rows=tuple(
            (name, float(m), float(a), float(b), row.n_dims, _trained(given.cards[name].modality))
            for name, m, a, b, (row, *_) in zip(names, mean, low, high, found, strict=True)
        ),
        marked=given.marked(names),
    )
    chart = Chart(
        id="singles",
        title="Score of each encoder by itself",
        summary=f"{names[0]} is the best single encoder with a mean {title} of {mean[0]:.4f}{gap}. "
        "Encoders of the chosen model stand out.",
        body=DotPlot(
            labels=names,
            series=(Series(name=f"mean {title}", values=mean, low=low, high=high),),
            axis=f"mean {title}, 95 % interval",
            emphasised=table.marked,
            baseline=given.record.mean,
            baseline_name="chosen",
        ),
        table=table,
    )
    return Section(id="singles", title="Single encoders", items=(chart,))


def contribution_section(given: ReportInput) -> Section:
    """Say what each encoder contributes, and which go together."""
    facts, modality = given.record.evidence.attribution, given.record.evidence.modality
    items: list[Item] = []
    if facts is None:
        said = ["Contributions need the score of every subset of at least two and at most twelve encoders."]
    else:
        said = [EXPLAINED]
        items = [_shapley(facts, given), _interaction(facts)]
    if modality is not None:
        items.append(_modality(modality))
    return Section(id="contribution", title="Contribution of each encoder", paragraphs=tuple(said), items=tuple(items))


def _shapley(facts: Attribution, given: ReportInput) -> Chart:
    order = np.argsort(np.negative(facts.shapley), kind="stable")
    names = tuple(facts.encoders[index] for index in order)
    title = get_metric(facts.metric).title
    shapley, low, high, marginal, added_last, alone = (
        np.array(values)[order]
        for values in (facts.shapley, facts.low, facts.high, facts.marginal, facts.added_last, facts.alone)
    )
    marked = given.marked(names)
    return Chart(
        id="contribution",
        title=f"Contribution to {title}",
        summary=f"From {facts.empty:.4f} by guessing to {facts.full:.4f} with all encoders; {names[0]} "
        f"contributes most ({shapley[0]:+.4f}), {names[-1]} least ({shapley[-1]:+.4f}).",
        body=DotPlot(
            labels=names,
            series=(
                Series(name="Shapley value", values=shapley, low=low, high=high),
                Series(name="marginal gain", values=marginal),
                Series(name="added last", values=added_last),
            ),
            axis=f"share of {title}",
            emphasised=marked,
            baseline=0.0,
        ),
        table=Table(
            id="contribution-data",
            caption=f"Contribution of each encoder to {title}",
            columns=(
                *words("encoder"),
                *numbers("Shapley value", "low", "high", "marginal gain", "added last", signed=True),
                *numbers("alone"),
            ),
            rows=tuple(
                (name, *map(float, each))
                for name, *each in zip(names, shapley, low, high, marginal, added_last, alone, strict=True)
            ),
            marked=marked,
        ),
    )


def _interaction(facts: Attribution) -> Chart:
    names, matrix, low, high = (
        facts.encoders, *map(np.array, (facts.interaction, facts.interaction_low, facts.interaction_high)),
    )  # fmt: skip
    upper = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    pairs = sorted(upper, key=lambda pair: -matrix[pair])
    (a, b), (c, d) = pairs[0], pairs[-1]
    reach = float(np.nanmax(np.abs(matrix))) or 1.0
    return Chart(
        id="interaction",
        title="Which encoders go together",
        summary="Above zero, two encoders gain more together than each by itself; below, they know much of the same"
        f"{', as all pairs do here' if matrix[a, b] < 0 else ''}. Highest: {names[a]} and {names[b]} "
        f"({matrix[a, b]:+.4f}); lowest: {names[c]} and {names[d]} ({matrix[c, d]:+.4f}).",
        body=Heatmap(
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
                *words("first", "second"),
                *numbers("interaction", "low", "high", signed=True),
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


def _modality(facts: CrossModal) -> Table:
    def numbers_of(gain: Gain | None) -> tuple[float | None, ...]:
        return (None,) * 4 if gain is None else (gain.gain, gain.low, gain.high, gain.p_holm)

    columns = [*words("encoder", "trained on"), *numbers("best alone")]
    for how in ("alone:", "joined:"):
        columns += [*numbers(f"{how} gain", f"{how} low", f"{how} high", signed=True), *numbers(f"{how} p")]
    return Table(
        id="modality",
        caption=f"Gain in {get_metric(facts.metric).title} over {facts.baseline} ({facts.baseline_score:.4f}), the "
        "best encoder trained on everyday photographs: in its place (alone), and beside it (joined); p-values after "
        "Holm",
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
    )
