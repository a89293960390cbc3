"""The rules that choose a subset, and what stands beside the choice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.evaluation.comparison import SIGNIFICANCE, corrected_standard_error
from biofuse.evaluation.metrics import get_metric
from biofuse.search.leaderboard import DECIMALS, Leaderboard, Row
from biofuse.search.subsets import label

Rule = Literal["one_se", "best", "first_best"]
RULES: tuple[Rule, ...] = ("one_se", "best", "first_best")


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The chosen subset, and those that it must be compared with.

    Attributes
    ----------
    rule : {"one_se", "best", "first_best"}
        How it was chosen.
    metric : str
        By which metric.
    chosen : Row
        The choice; there always is one.
    best : Row
        The subset with the best mean.
    best_single, all, greedy : Row or None
        Best single encoder, all encoders, end of the greedy path; None where the search did not score them.
    within : tuple of Row
        Subsets within one standard error of the best (rule ``one_se``).
    better_than_chance : bool or None
        Whether the scores rule out that no subset is any better than guessing; None where that cannot be told.
    reason : str
        The choice in words.
    notes : tuple of str
        Remarks on the scores.
    """

    rule: Rule
    metric: str
    chosen: Row
    best: Row
    best_single: Row | None
    all: Row | None
    greedy: Row | None
    within: tuple[Row, ...]
    better_than_chance: bool | None
    reason: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return self.reason


def select(
    leaderboard: Leaderboard, *, rule: str = "one_se", metric: str | None = None, chance: float | None = None
) -> Selection:
    """Choose a subset from a leaderboard.

    Parameters
    ----------
    leaderboard : Leaderboard
        The scored subsets.
    rule : {"one_se", "best", "first_best"}
        ``one_se``: among subsets whose paired fold differences to the best have a mean within one corrected standard
        error, the one with the fewest encoders, then the fewest dimensions, then the higher mean, then pool order.
        ``best``: the best mean; ties as before. ``first_best``: the best mean; ties go to the first in combination
        order (the published rule).
    metric : str, optional
        By which metric; the leaderboard's first by default.
    chance : float, optional
        What guessing scores, where the metric alone does not say it (the share of the largest class for accuracy).

    Raises
    ------
    SearchError
        If nothing was scored, the rule is unknown, or ``one_se`` is asked of fewer than two folds.
    UndefinedMetricError
        If the metric is undefined in every fold.
    """
    if rule not in RULES:
        raise SearchError(f"There is no selection rule {rule!r}.", remedy=f"Choose one of {', '.join(RULES)}.")
    if not leaderboard.rows:
        raise SearchError("No subset was scored, so none can be chosen.")
    name = metric or leaderboard.metrics[0]
    ranked = leaderboard.best_first(name)
    within: tuple[Row, ...] = ()
    if rule == "one_se":
        if leaderboard.n_folds < 2:
            raise SearchError(
                "The rule one_se needs at least two folds; this search has a single validation split.",
                remedy='Use rule="best" or "first_best", or select by cross-validation.',
            )
        within = _within_one_se(leaderboard, ranked, name)
        chosen = min(within, key=lambda row: (row.n_encoders, row.n_dims, -row.quality(name)))
    elif rule == "best":
        chosen = ranked[0]
    else:
        chosen = max(leaderboard.rows, key=lambda row: row.quality(name))
    singles = [row for row in ranked if row.n_encoders == 1]
    selection = Selection(
        rule=next(known for known in RULES if known == rule),
        metric=name,
        chosen=chosen,
        best=ranked[0] if rule != "first_best" else chosen,
        best_single=singles[0] if singles else None,
        all=leaderboard.get(leaderboard.encoders),
        greedy=(greedy_path(leaderboard, metric=name) or (None,))[-1],
        within=within,
        better_than_chance=_better_than_chance(leaderboard, ranked[0], name, chance),
        reason="",
        notes=leaderboard.notes,
    )
    return replace(selection, reason=_reason(selection, leaderboard))


def greedy_path(leaderboard: Leaderboard, *, metric: str | None = None) -> tuple[Row, ...]:
    """Read the greedy path off a leaderboard: the best single encoder, then the best addition while one helps.

    Returns
    -------
    tuple of Row
        Empty where single encoders were not scored; it ends where the next step was not scored in full.
    """
    name = metric or leaderboard.metrics[0]
    path: list[Row] = []
    while True:
        base = path[-1].subset if path else ()
        steps = [leaderboard.get((*base, encoder)) for encoder in leaderboard.encoders if encoder not in base]
        rows = [row for row in steps if row is not None]
        if not rows or len(rows) < len(steps):
            return tuple(path)
        best = min(rows, key=lambda row: (-row.quality(name), row.n_dims))
        if path and best.quality(name) <= path[-1].quality(name):
            return tuple(path)
        path.append(best)


def _signed(row: Row, metric: str) -> NDArray[np.float64]:
    return row.values(metric) if get_metric(metric).higher_is_better else -row.values(metric)


def _within_one_se(leaderboard: Leaderboard, ranked: Sequence[Row], metric: str) -> tuple[Row, ...]:
    best = _signed(ranked[0], metric)
    kept = [ranked[0]]
    for row in ranked[1:]:
        differences = best - _signed(row, metric)
        error = corrected_standard_error(differences, leaderboard.n_train, leaderboard.n_test)
        if round(float(np.nanmean(differences)) - error, DECIMALS) <= 0:
            kept.append(row)
    return tuple(kept)


def _better_than_chance(leaderboard: Leaderboard, best: Row, metric: str, chance: float | None) -> bool | None:
    """Test the best subset (Bonferroni over all scored) and all encoders (one test), half the significance each.

    The best of many is high by luck too, hence the correction; all encoders were not chosen by their score, so that
    a single test with more power may speak for them.
    """
    level = get_metric(metric).chance if chance is None else chance
    if level is None or (~np.isnan(best.values(metric))).sum() < 2:
        return None
    everything = leaderboard.get(leaderboard.encoders)
    p = _p_above(leaderboard, best, metric, level) * len(leaderboard)
    if everything is not None:
        p = min(p, _p_above(leaderboard, everything, metric, level))
    return bool(p <= SIGNIFICANCE / 2)


def _p_above(leaderboard: Leaderboard, row: Row, metric: str, level: float) -> float:
    from scipy.stats import t

    gains = row.values(metric) - level
    gains = gains[~np.isnan(gains)]
    error = corrected_standard_error(gains, leaderboard.n_train, leaderboard.n_test)
    if error == 0:
        return 0.0 if gains.mean() > 0 else 1.0
    return float(t.sf(gains.mean() / error, len(gains) - 1))


def _reason(selection: Selection, leaderboard: Leaderboard) -> str:
    title, chosen, best = get_metric(selection.metric).title, selection.chosen, selection.best
    mean = f"mean {title} {chosen.mean(selection.metric):.4f}"
    scored = f"{len(leaderboard)} scored subset{'s' if len(leaderboard) > 1 else ''}"
    if len(leaderboard) == 1:
        text = f"{label(chosen.subset)} ({mean}) is the only subset that was scored."
    elif selection.rule == "one_se" and chosen is not best:
        text = (
            f"{label(chosen.subset)} ({mean}, {chosen.n_encoders} of {len(leaderboard.encoders)} encoders) is the "
            f"smallest of {len(selection.within)} subsets within one standard error of the best of {scored}, "
            f"{label(best.subset)} ({best.mean(selection.metric):.4f})."
        )
    else:
        text = f"{label(chosen.subset)} ({mean}) is the best of {scored}."
    if selection.better_than_chance is False:
        text += f" No subset is shown to be better than chance: do not rely on this choice ({scored})."
    return text
