"""The rules that choose a subset, and what stands beside the choice."""

from collections.abc import Callable, Sequence
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

Eligible = Callable[[Row], bool]
"""Whether a subset may be chosen: few enough encoders, quick enough, licensed for the purpose."""


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
        The subset with the best mean, of those that may be chosen.
    best_single, all, greedy : Row or None
        Best single encoder, all encoders, end of the greedy path; None where the search did not score them. The first
        two stand here even if they may not be chosen; the greedy path takes no step that may not be chosen.
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
    leaderboard: Leaderboard,
    *,
    rule: str = "one_se",
    metric: str | None = None,
    chance: float | None = None,
    eligible: Eligible | None = None,
    screen: Leaderboard | None = None,
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
    eligible : callable, optional
        Which rows may be chosen; all by default. It must not depend on scores.
    screen : Leaderboard, optional
        The cheaper scores from which the leaderboard's subsets were taken as finalists. The greedy path is walked on
        it, and what is better than chance must be so after correction for every subset on it.

    Raises
    ------
    SearchError
        If nothing was scored or may be chosen, the rule is unknown, or ``one_se`` is asked of fewer than two folds.
    UndefinedMetricError
        If the metric is undefined in every fold.
    """
    if rule not in RULES:
        raise SearchError(f"There is no selection rule {rule!r}.", remedy=f"Choose one of {', '.join(RULES)}.")
    if not leaderboard.rows:
        raise SearchError("No subset was scored, so none can be chosen.")
    name = metric or leaderboard.metrics[0]
    if rule == "one_se" and leaderboard.n_folds < 2:
        raise SearchError(
            "The rule one_se needs at least two folds; this search has a single validation split.",
            remedy='Use rule="best" or "first_best", or select by cross-validation.',
        )
    offered = [row for row in leaderboard.rows if eligible is None or eligible(row)]
    if not offered:
        raise SearchError(
            f"None of {len(leaderboard)} scored subsets is within the limits on what may be chosen.",
            remedy="Allow more encoders or time, or offer other encoders.",
        )
    ranked = sorted(offered, key=lambda row: row.rank(name))
    within: tuple[Row, ...] = ()
    if rule == "one_se":
        within = _within_one_se(leaderboard, ranked, name)
        chosen = min(within, key=lambda row: (row.n_encoders, row.n_dims, -row.quality(name)))
    elif rule == "best":
        chosen = ranked[0]
    else:
        chosen = max(offered, key=lambda row: row.quality(name))
    path = greedy_path(leaderboard if screen is None else screen, metric=name, eligible=eligible)
    tried = offered if screen is None else [row for row in screen.rows if eligible is None or eligible(row)]
    selection = Selection(
        rule=next(known for known in RULES if known == rule),
        metric=name,
        chosen=chosen,
        best=ranked[0] if rule != "first_best" else chosen,
        best_single=min(leaderboard.singles, key=lambda row: row.rank(name), default=None),
        all=leaderboard.get(leaderboard.encoders),
        greedy=leaderboard.get(path[-1].subset) if path else None,
        within=within,
        better_than_chance=_better_than_chance(
            leaderboard, ranked[0], name, chance, n_tried=max(len(tried), len(offered))
        ),
        reason="",
        notes=leaderboard.notes,
    )
    return replace(selection, reason=_reason(selection, leaderboard, n_offered=len(offered), screen=screen))


def greedy_path(
    leaderboard: Leaderboard, *, metric: str | None = None, eligible: Eligible | None = None
) -> tuple[Row, ...]:
    """Read the greedy path off a leaderboard: the best single encoder, then the best addition while one helps.

    Parameters
    ----------
    leaderboard : Leaderboard
        The scored subsets.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    eligible : callable, optional
        Which rows may be stepped on; all by default.

    Returns
    -------
    tuple of Row
        Empty where single encoders were not scored; it ends where the next step was not scored in full, or no step may
        be taken.
    """
    name = metric or leaderboard.metrics[0]
    path: list[Row] = []
    while True:
        base = path[-1].subset if path else ()
        steps = [leaderboard.get((*base, encoder)) for encoder in leaderboard.encoders if encoder not in base]
        scored = [row for row in steps if row is not None]
        rows = [row for row in scored if eligible is None or eligible(row)]
        if not rows or len(scored) < len(steps):
            return tuple(path)
        best = min(rows, key=lambda row: row.rank(name))
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


def _better_than_chance(
    leaderboard: Leaderboard, best: Row, metric: str, chance: float | None, *, n_tried: int
) -> bool | None:
    """Test the best subset (Bonferroni over all that were tried) and all encoders (one test), half the level each.

    The best of many is high by luck too, hence the correction; all encoders were not chosen by their score, so that
    a single test with more power may speak for them.
    """
    level = get_metric(metric).chance if chance is None else chance
    if level is None or (~np.isnan(best.values(metric))).sum() < 2:
        return None
    everything = leaderboard.get(leaderboard.encoders)
    p = _p_above(leaderboard, best, metric, level) * n_tried
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


def _reason(selection: Selection, leaderboard: Leaderboard, *, n_offered: int, screen: Leaderboard | None) -> str:
    title, chosen, best = get_metric(selection.metric).title, selection.chosen, selection.best
    mean = f"mean {title} {chosen.mean(selection.metric):.4f}"
    scored = f"{len(leaderboard)} scored subset{'s' if len(leaderboard) > 1 else ''}"
    if screen is not None:
        scored = f"{len(leaderboard)} finalists out of {len(screen)} screened subsets"
    if n_offered < len(leaderboard):
        scored = f"{n_offered} that may be chosen out of {scored}"
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
