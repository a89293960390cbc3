"""What corrects and explains a choice: optimism of the winner, nested scores, contributions of the encoders."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from biofuse.api.nested import Nested, nest
from biofuse.api.problem import Problem
from biofuse.api.runtime import Runtime
from biofuse.api.searching import Search
from biofuse.encoders.card import EncoderCard
from biofuse.evaluation.metrics import get_metric
from biofuse.search import (
    Attribution,
    Budget,
    CrossModal,
    Leaderboard,
    Optimism,
    attribute,
    correct_optimism,
    cross_modal,
)
from biofuse.search.modality import GENERAL

EXPLAINED = 12
"""Most encoders whose contributions are computed: pairs and subsets of more are no longer read by anyone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What corrects and explains a choice.

    Attributes
    ----------
    optimism : Optimism or None
        The score corrected for having been chosen; None where there was nothing to choose from.
    screened : bool
        Whether that is about the screen's scores and the choice the rule would make from them alone.
    attribution : Attribution or None
        What each encoder contributes; None unless every subset was scored.
    modality : CrossModal or None
        Gains over the general-purpose baseline; None without such an encoder.
    nested : Nested or None
        Scores of the search itself, where asked for.
    """

    optimism: Optimism | None = None
    screened: bool = False
    attribution: Attribution | None = None
    modality: CrossModal | None = None
    nested: Nested | None = None

    def sentences(self) -> list[str]:
        """Return what the user is told of it."""
        said = []
        if self.optimism is not None:
            where = "How much choosing flatters a score, measured on the screen. " if self.screened else ""
            said.append(f"{where}{self.optimism}")
        return said if self.nested is None else [*said, str(self.nested)]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _plain(part) for name, part in parts.items() if part is not None and part is not False}


def weigh(
    problem: Problem, search: Search, cards: Sequence[EncoderCard], *, runtime: Runtime, budget: Budget
) -> Evidence:
    """Gather the evidence on a finished search.

    Raises
    ------
    DataError
        If the search is to be nested and an outer fold leaves too few samples of a class.
    """
    board, metric = search.all_scores, problem.config.metric
    complete = len(board) == 2 ** len(board.encoders) - 1
    empty = problem.chance if problem.chance is not None else get_metric(metric).chance
    attribution = None
    if complete and len(board) > 1 and len(board.encoders) <= EXPLAINED and empty is not None:
        attribution = attribute(board, metric=metric, empty=empty)
    return Evidence(
        optimism=_optimism(problem, search, budget),
        screened=search.screen is not None,
        attribution=attribution,
        modality=_modality(board, cards, metric),
        nested=nest(problem, runtime, budget=budget) if problem.config.select == "nested" else None,
    )


def _modality(board: Leaderboard, cards: Sequence[EncoderCard], metric: str) -> CrossModal | None:
    modality = {card.name: card.modality for card in cards}
    scored = all(board.get([name]) is not None for name in board.encoders)
    if not scored or GENERAL not in modality.values() or len(set(modality.values())) < 2:
        return None
    return cross_modal(board, modality, metric=metric)


def _optimism(problem: Problem, search: Search, budget: Budget) -> Optimism | None:
    board = search.all_scores
    rows = search.kept_rows if search.screen is None else search.screen.kept_rows
    if len(board) < 2 or rows is None:
        return None
    return correct_optimism(
        board,
        problem.labels,
        rows=rows,
        ids=problem.samples.ids,
        groups=problem.units,
        task=problem.task,
        rule=problem.config.rule,
        metric=problem.config.metric,
        eligible=np.array([budget.allows_row(row) for row in board]),
        seed=problem.config.seed,
    )


def _plain(value: Any) -> Any:
    """Turn dataclasses, arrays and subsets into JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, dict) or hasattr(value, "items"):
        return {"+".join(key) if isinstance(key, tuple) else key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
