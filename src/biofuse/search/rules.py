"""The rules that choose a subset, and what stands beside the choice."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.evaluation.comparison import SIGNIFICANCE, corrected_standard_error
from biofuse.evaluation.metrics import Record, get_metric
from biofuse.search.leaderboard import DECIMALS, Leaderboard, Row, Subset, label

if TYPE_CHECKING:
    pass

CHOSEN = "chosen"
"""Name of the chosen model among those fitted and evaluated."""

COMPANIONS = ("best_single", "all", "greedy")
"""Names of the models that it is compared with, where the search scored their subsets."""

Rule = Literal["one_se", "best", "first_best"]
RULES: tuple[Rule, ...] = ("one_se", "best", "first_best")

Eligible = Callable[[Row], bool]
"""Whether a subset may be chosen: few enough encoders, quick enough, licensed for the purpose."""


class Selection(Record):
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
    within : tuple of subset
        Those within one standard error of the best (rule ``one_se``).
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
    within: tuple[Subset, ...]
    better_than_chance: bool | None
    reason: str
    notes: tuple[str, ...]

    @property
    def companions(self) -> dict[str, Row]:
        """What the chosen subset is compared with, by name, as far as the search scored it."""
        rows = dict(zip(COMPANIONS, (self.best_single, self.all, self.greedy), strict=True))
        return {name: row for name, row in rows.items() if row is not None}

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
        within=tuple(row.subset for row in within),
        better_than_chance=_better_than_chance(
            leaderboard, ranked[0], name, chance, n_tried=max(len(tried), len(offered))
        ),
        reason="",
        notes=leaderboard.notes,
    )
    reason = _reason(selection, leaderboard, n_offered=len(offered), screen=screen)
    return selection.model_copy(update={"reason": reason})


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


def _within_one_se(leaderboard: Leaderboard, ranked: Sequence[Row], metric: str) -> tuple[Row, ...]:
    table = get_metric(metric)
    best = table.signed(ranked[0].values(metric))
    kept = [ranked[0]]
    for row in ranked[1:]:
        differences = best - table.signed(row.values(metric))
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


COUNT = 16
"""Best subsets that are kept by default."""


def finalists(
    screen: Leaderboard, *, count: int = COUNT, metric: str | None = None, eligible: Eligible | None = None
) -> list[Subset]:
    """Choose the subsets to refit: those that may win, and those that the winner is compared with.

    Parameters
    ----------
    screen : Leaderboard
        Cheap scores of many subsets.
    count : int, default 16
        How many of the best means are kept; fewer where fewer may be chosen.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    eligible : callable, optional
        Which rows may be chosen; all by default. The companions stay whether they may be chosen or not.

    Returns
    -------
    list of Subset
        The best ``count``, the best of every size, what the rule ``one_se`` chooses (with two folds or more), every
        single encoder, all encoders together, and the greedy path: each once, in combination order.

    Raises
    ------
    SearchError
        If ``count`` is less than 1, or nothing may be chosen.
    UndefinedMetricError
        If the metric is undefined in every fold of a subset.
    """
    if count < 1:
        raise SearchError(f"A search needs at least one finalist, not {count}.")
    name = metric or screen.metrics[0]
    choice = select(screen, rule="one_se" if screen.n_folds > 1 else "best", metric=name, eligible=eligible)
    ranked = sorted((row for row in screen if eligible is None or eligible(row)), key=lambda row: row.rank(name))
    by_size = groupby(sorted(ranked, key=_size), key=_size)
    kept = [
        *ranked[:count],
        *(next(rows) for _, rows in by_size),
        choice.chosen,
        *screen.singles,
        *greedy_path(screen, metric=name, eligible=eligible),
        *([choice.all] if choice.all is not None else []),
    ]
    wanted = {row.subset for row in kept}
    return [row.subset for row in screen if row.subset in wanted]


def _size(row: Row) -> int:
    return row.n_encoders


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on what may be chosen.

    Attributes
    ----------
    max_encoders : int or None
        Most encoders of a subset.
    max_latency : float or None
        Most milliseconds per image, summed over the encoders of a subset.
    latency : mapping of str to float
        Milliseconds per image of each encoder; needed where ``max_latency`` is given.

    Raises
    ------
    SearchError
        If a limit makes no sense.
    """

    max_encoders: int | None = None
    max_latency: float | None = None
    latency: Mapping[str, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.max_encoders is not None and self.max_encoders < 1:
            raise SearchError(f"A subset of at most {self.max_encoders} encoders does not exist.")
        if self.max_latency is not None and not self.max_latency > 0:
            raise SearchError(f"No encoder takes at most {self.max_latency} ms per image.")

    def allows(self, subset: Sequence[str]) -> bool:
        """Whether a subset keeps to every limit.

        Raises
        ------
        SearchError
            If the latency of an encoder is needed and not known.
        """
        return all(kept(subset) for kept in self._limits().values())

    def allows_row(self, row: Row) -> bool:
        """Whether the subset of a row keeps to every limit."""
        return self.allows(row.subset)

    def eligible(self, leaderboard: Leaderboard) -> NDArray[np.bool_]:
        """Return which rows of a leaderboard keep to every limit, shape (n_subsets,).

        Raises
        ------
        SearchError
            If none does: the message names the tightest limit, and what it would have to be.
        """
        mask = np.array([self.allows_row(row) for row in leaderboard], dtype=np.bool_)
        if not mask.any():
            raise self._nothing(leaderboard)
        return mask

    def _limits(self) -> dict[str, Callable[[Sequence[str]], bool]]:
        limits: dict[str, Callable[[Sequence[str]], bool]] = {}
        if self.max_encoders is not None:
            limits["max_encoders"] = self._few
        if self.max_latency is not None:
            limits["max_latency"] = self._quick
        return limits

    def _few(self, subset: Sequence[str]) -> bool:
        return self.max_encoders is None or len(subset) <= self.max_encoders

    def _quick(self, subset: Sequence[str]) -> bool:
        return self.max_latency is None or summed_cost(subset, self.latency) <= self.max_latency

    def _nothing(self, leaderboard: Leaderboard) -> SearchError:
        if not leaderboard.rows:
            return SearchError("No subset was scored, so none is within the limits.")
        left = {name: sum(kept(row.subset) for row in leaderboard) for name, kept in self._limits().items()}
        tightest = min(left, key=lambda name: left[name])
        if left[tightest]:
            counts = ", ".join(f"{name} {count}" for name, count in left.items())
            return SearchError(
                f"No scored subset keeps to all limits. Of {len(leaderboard)}, each limit alone leaves: {counts}.",
                remedy=f"The tightest is {tightest}: loosen it, or offer more encoders.",
            )
        return self._impossible(leaderboard, tightest)

    def _impossible(self, leaderboard: Leaderboard, limit: str) -> SearchError:
        if limit == "max_latency":
            cheapest = min(leaderboard, key=lambda row: summed_cost(row.subset, self.latency))
            needs = f"{summed_cost(cheapest.subset, self.latency):.3g} ms per image ({label(cheapest.subset)})"
            what = f"max_latency of {self.max_latency:g} ms per image: the cheapest takes {needs}"
        else:
            least = min(row.n_encoders for row in leaderboard)
            what = f"max_encoders of {self.max_encoders}: the smallest has {least}"
        return SearchError(
            f"None of {len(leaderboard)} scored subsets keeps to {what}.",
            remedy="Loosen this limit, or offer other encoders.",
        )


def summed_cost(subset: Sequence[str], cost: Mapping[str, float]) -> float:
    """Return the cost of a subset, the sum over its encoders.

    Raises
    ------
    SearchError
        If the cost of an encoder is not known, not finite or negative.
    """
    unknown = [name for name in subset if not (name in cost and math.isfinite(cost[name]) and cost[name] >= 0)]
    if unknown:
        raise SearchError(
            f"The inference cost of {', '.join(unknown)} is not known.",
            remedy="Measure the milliseconds per image of every encoder of the pool.",
        )
    return math.fsum(cost[name] for name in subset)


def pareto_front(
    leaderboard: Leaderboard,
    cost: Mapping[str, float],
    *,
    metric: str | None = None,
    eligible: Callable[[Row], bool] | None = None,
) -> tuple[Row, ...]:
    """Return the subsets than which none is both as cheap and as good, one of them more so.

    Parameters
    ----------
    leaderboard : Leaderboard
        The scored subsets.
    cost : mapping of str to float
        Cost of each encoder in any unit, such as milliseconds per image; a subset costs their sum.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    eligible : callable, optional
        Which rows count.

    Returns
    -------
    tuple of Row
        From the cheapest to the best. Of subsets that tie in both, the one with the fewest encoders, then dimensions.

    Raises
    ------
    SearchError
        If the cost of an encoder is not known, or nothing is eligible.
    UndefinedMetricError
        If the metric is undefined in every fold.
    """
    name = metric or leaderboard.metrics[0]
    rows = _eligible(leaderboard, eligible).best_first(name)
    front: list[Row] = []
    # The sort is stable: among equal costs the best comes first, among equals in both the simplest.
    for row in sorted(rows, key=lambda row: summed_cost(row.subset, cost)):
        if not front or row.quality(name) > front[-1].quality(name):
            front.append(row)
    return tuple(front)


def _eligible(leaderboard: Leaderboard, eligible: Callable[[Row], bool] | None) -> Leaderboard:
    rows = tuple(row for row in leaderboard if eligible is None or eligible(row))
    if not rows:
        raise SearchError("No scored subset is eligible." if leaderboard.rows else "No subset was scored.")
    return replace(leaderboard, rows=rows)
