"""Scores per group: patients, slides, sites."""

import numpy as np

from biofuse.report.content import Chart, Column, Dots, Item, Series, Table
from biofuse.report.curves import RANKED_GROUPS, Predicted, group_scores

GROUPS_DRAWN, GROUPS_LISTED = 30, RANKED_GROUPS
"""Groups on the figure and in its table, the worst first."""

DRAWN_FROM = 3
"""Samples of a group that is drawn: with fewer, the interval of its accuracy spans two thirds of the scale."""


def group_item(predicted: Predicted) -> Item | None:
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
    table = Table(
        id="groups-data",
        caption=f"Scores per group{listed}",
        columns=(
            Column(title="group"),
            Column(title="samples", number=True),
            *(Column(title=name, number=True, decimals=3) for name in ("accuracy", "low", "high", "AUROC")),
        ),
        rows=tuple((s.name, s.n, s.accuracy, s.low, s.high, s.auroc) for s in scores[:GROUPS_LISTED]),
        filtered=True,
    )
    if perfect == len(scores) or len(drawn) < 2:
        return table
    return Chart(
        id="groups",
        title="Scores per group",
        summary=f"{len(scores):,} groups; in {perfect:,} of them everything is right. The worst is {scores[0].name}: "
        f"accuracy {scores[0].accuracy:.3f} over {scores[0].n} samples.{more}",
        body=Dots(
            labels=tuple(f"{score.name} ({score.n})" for score in drawn),
            series=(
                Series(
                    name="accuracy",
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
