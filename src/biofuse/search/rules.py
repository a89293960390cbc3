"""The rules that choose a subset, and what stands beside the choice."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError, UndefinedMetricError
from biofuse.core.target import Labels, Target
from biofuse.evaluation.intervals import SIGNIFICANCE, corrected_t
from biofuse.evaluation.metrics import Record, Score, get_metric, score
from biofuse.search.attribution import paired_gain
from biofuse.search.leaderboard import DECIMALS, Leaderboard, Row, Subset, label

CHOSEN = "chosen"
"""Name of the chosen model among those fitted and evaluated."""

LEAN = "lean"
"""Name of the model of the fewest encoders whose score the folds cannot tell from the best."""

COMPANIONS = ("best_single", "all", "greedy", LEAN)
"""Names of the models that it is compared with, where the search scored their subsets."""

VARIANTS = (CHOSEN, *COMPANIONS)
"""Names of the models that a run may keep."""

if TYPE_CHECKING:
    VariantName = str
else:
    VariantName = Literal[VARIANTS]

Values = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What a rule sees: the scores of all subsets that may be chosen, once or for many resamples at a time.

    Attributes
    ----------
    values : ndarray of float64, shape (n_resamples, n_subsets, n_folds)
        Fold values, more being better; NaN where undefined.
    mean : ndarray of float64, shape (n_resamples, n_subsets)
        Over the folds that are defined, rounded so that ties are ties; minus infinity where none is.
    n_encoders : ndarray of int64, shape (n_subsets,)
        Number of encoders of each subset.
    size : ndarray of int64, shape (n_subsets,)
        Place of each subset's number of encoders, then of dimensions, from the smallest: equal for equal sizes.
    best : ndarray of int64, shape (n_resamples,)
        The best mean; ties go to the smallest, then to combination order.
    ratio : float
        Rows scored by rows fitted on.
    """

    values: Values
    mean: Values
    n_encoders: Index
    size: Index
    best: Index
    ratio: float

    def within_one_se(self) -> NDArray[np.bool_]:
        """Return which subsets differ from the best by no more than one corrected standard error.

        The error is that of the mean of paired fold differences (Nadeau and Bengio 2003), as
        :func:`biofuse.evaluation.intervals.corrected_standard_error` has it for one pair.

        Returns
        -------
        ndarray of bool, shape (n_resamples, n_subsets)
            Not even the best itself where fewer than two of its folds are defined.
        """
        differences = np.take_along_axis(self.values, self.best[:, None, None], axis=1) - self.values
        known = (~np.isnan(differences)).sum(axis=2)
        mean = mean_defined(differences, 2)
        squares = np.nansum((differences - mean[:, :, None]) ** 2, axis=2)
        variance = np.where(known > 1, squares / np.maximum(known - 1, 1), np.nan)
        error = np.sqrt((1 / np.maximum(known, 1) + self.ratio) * variance)
        return np.asarray(np.round(mean - error, DECIMALS) <= 0)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a subset is chosen from the scores of all.

    Attributes
    ----------
    text : str
        What it does, in a line of help.
    choose : callable
        Maps scores to the number of the chosen subset in each resample, -1 where there is no telling.
    needs_folds : bool
        Whether it compares fold by fold, for which there must be two.
    among : callable or None
        Which subsets are as good as the best to it, where it chooses among such.
    which : str
        Which of them it takes, in a word.
    """

    text: str
    choose: Callable[[Scores], Index]
    needs_folds: bool = False
    among: Callable[[Scores], NDArray[np.bool_]] | None = None
    which: str = "best"


def _most_within_one_se(scores: Scores) -> Index:
    return _first_within_one_se(scores, -scores.n_encoders)


def _fewest_within_one_se(scores: Scores) -> Index:
    return _first_within_one_se(scores, scores.size)


def _first_within_one_se(scores: Scores, order: Index) -> Index:
    """Return the first in an order of those within one standard error; ties go to the higher mean."""
    within = scores.within_one_se()
    place = np.where(within, order, order.max() + 1)
    first = place == place.min(axis=1, keepdims=True)
    found = np.where(first, scores.mean, -np.inf).argmax(axis=1)
    return np.where(within.any(axis=1), found, -1)


INCLUSIVE_RULE, LEAN_RULE = "inclusive", "one_se"
"""The rule that keeps what does not hurt, and the one that picks the lean subset, whatever the rule of the choice."""

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        INCLUSIVE_RULE: Rule(
            text="the most encoders within one standard error of the best: one is left out only where the data say "
            "that it hurts",
            choose=_most_within_one_se,
            needs_folds=True,
            among=Scores.within_one_se,
            which="largest",
        ),
        LEAN_RULE: Rule(
            text="the fewest encoders within one standard error of the best",
            choose=_fewest_within_one_se,
            needs_folds=True,
            among=Scores.within_one_se,
            which="smallest",
        ),
        "best": Rule(text="the best mean, ties to the fewest encoders", choose=lambda scores: scores.best),
        "first_best": Rule(
            text="the best mean, ties to the first in combination order",
            choose=lambda scores: np.asarray(scores.mean.argmax(axis=1)),
        ),
    }
)
"""The rules by name; the first is the default. One more is a row here, and the function that it needs."""


if TYPE_CHECKING:
    RuleName = str
else:
    RuleName = Literal[tuple(RULES)]  # a fixed choice for whatever reads annotations: options files, the command line

DEFAULT_RULE, PUBLISHED_RULE = next(iter(RULES)), "first_best"
"""With cross-validation, and that of the published protocol, which also serves a single validation split."""


def get_rule(name: str) -> Rule:
    """Return a rule by name.

    Raises
    ------
    SearchError
        If there is none.
    """
    if name not in RULES:
        raise SearchError(f"There is no selection rule {name!r}.", remedy=f"Choose one of {', '.join(RULES)}.")
    return RULES[name]


def choose(
    values: Values, sizes: Sequence[tuple[int, int]], *, n_train: Sequence[int], n_test: Sequence[int], rule: str
) -> Index:
    """Choose one of many subsets, in each of many resamples: the only implementation of the rules.

    Parameters
    ----------
    values : ndarray of float64, shape (n_resamples, n_subsets, n_folds)
        Fold values, more being better, subsets in combination order; NaN where undefined.
    sizes : sequence of (n_encoders, n_dims)
        Of each subset.
    n_train, n_test : sequence of int
        Rows fitted on and scored, per fold.
    rule : str
        One of :data:`RULES`.

    Returns
    -------
    ndarray of int64, shape (n_resamples,)
        Number of the chosen subset; -1 where there is no telling, since too few folds are defined.
    """
    scores = _scores(values, sizes, n_train=n_train, n_test=n_test)
    found = get_rule(rule).choose(scores)
    return np.where(np.isinf(scores.mean.max(axis=1)), -1, found)


def _scores(
    values: Values, sizes: Sequence[tuple[int, int]], *, n_train: Sequence[int], n_test: Sequence[int]
) -> Scores:
    mean = np.round(mean_defined(values, 2), DECIMALS)
    mean[np.isnan(mean)] = -np.inf
    place = {each: number for number, each in enumerate(sorted(set(sizes)))}
    size = np.array([place[each] for each in sizes])
    smallest_first = np.argsort(size, kind="stable")
    return Scores(
        values=values,
        mean=mean,
        n_encoders=np.array([n_encoders for n_encoders, _ in sizes]),
        size=size,
        best=smallest_first[mean[:, smallest_first].argmax(axis=1)],
        ratio=float(np.mean(n_test) / np.mean(n_train)),
    )


def mean_defined(values: Values, axis: int) -> Values:
    """Return the mean of what is defined; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


Eligible = Callable[[Row], bool]
"""Whether a subset may be chosen: few enough encoders, quick enough."""


class Selection(Record):
    """The chosen subset, and those that it must be compared with.

    Attributes
    ----------
    rule : str
        How it was chosen: one of :data:`RULES`.
    metric : str
        By which metric.
    chosen : Row
        The choice; there always is one.
    best : Row
        The subset with the best mean, of those that may be chosen.
    best_single, all, greedy : Row or None
        Best single encoder, all encoders, end of the greedy path; None where the search did not score them. The first
        two stand here even if they may not be chosen; the greedy path takes no step that may not be chosen.
    lean : Row or None
        What ``one_se`` chooses among the same subsets: the fewest encoders whose score the folds cannot tell from the
        best; None where there is one fold, one subset, no telling, or the run is of an older version.
    within : tuple of subset
        Those that the rule holds to be as good as the best, where it chooses among such.
    better_than_chance : bool or None
        Whether the scores rule out that no subset is any better than guessing; None where that cannot be told.
    reason : str
        The choice in words.
    notes : tuple of str
        Remarks on the scores.
    """

    rule: RuleName
    metric: str
    chosen: Row
    best: Row
    best_single: Row | None
    all: Row | None
    greedy: Row | None
    lean: Row | None = None
    within: tuple[Subset, ...]
    better_than_chance: bool | None
    reason: str
    notes: tuple[str, ...]

    @property
    def companions(self) -> dict[str, Row]:
        """What the chosen subset is compared with, by name, as far as the search scored it."""
        rows = dict(zip(COMPANIONS, (self.best_single, self.all, self.greedy, self.lean), strict=True))
        return {name: row for name, row in rows.items() if row is not None}

    def __str__(self) -> str:
        return self.reason

    def __repr__(self) -> str:
        return f"<Selection {' + '.join(self.chosen.subset)} by {self.rule}: {self.reason}>"


def select(
    leaderboard: Leaderboard,
    *,
    rule: str = DEFAULT_RULE,
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
    rule : str
        One of :data:`RULES`. ``inclusive``: among subsets whose paired fold differences to the best have a mean within
        one corrected standard error, the one with the most encoders, then the higher mean, then pool order. ``one_se``:
        among the same, the one with the fewest encoders, then the fewest dimensions, then the higher mean, then pool
        order. ``best``: the best mean; ties to the fewest encoders, the fewest dimensions, pool order. ``first_best``:
        the best mean; ties go to the first in combination order (the published rule).
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
        If nothing was scored or may be chosen, the rule is unknown, or needs more folds than there are.
    UndefinedMetricError
        If the metric is undefined in every fold, or in so many that the rule cannot tell.
    """
    needs_folds = get_rule(rule).needs_folds
    if not leaderboard.rows:
        raise SearchError("No subset was scored, so none can be chosen.")
    name = metric or leaderboard.metrics[0]
    if needs_folds and leaderboard.n_folds < 2:
        raise SearchError(
            f"The rule {rule} needs at least two folds; this search has a single validation split.",
            remedy=f"{_other_rules()}, or select by cross-validation.",
        )
    offered = [row for row in leaderboard.rows if eligible is None or eligible(row)]
    if not offered:
        raise SearchError(
            f"None of {len(leaderboard)} scored subsets is within the limits on what may be chosen.",
            remedy="Allow more encoders or time, or offer other encoders.",
        )
    ranked = sorted(offered, key=lambda row: row.rank(name))
    chosen, within = _choose(leaderboard, offered, name, rule)
    path = greedy_path(leaderboard if screen is None else screen, metric=name, eligible=eligible)
    tried = offered if screen is None else [row for row in screen.rows if eligible is None or eligible(row)]
    selection = Selection(
        rule=rule,
        metric=name,
        chosen=chosen,
        best=chosen if chosen.quality(name) == ranked[0].quality(name) else ranked[0],
        best_single=min(leaderboard.singles, key=lambda row: row.rank(name), default=None),
        all=leaderboard.get(leaderboard.encoders),
        greedy=leaderboard.get(path[-1].subset) if path else None,
        lean=_lean(leaderboard, offered, name),
        within=within,
        better_than_chance=_better_than_chance(
            leaderboard, ranked[0], name, chance, n_tried=max(len(tried), len(offered))
        ),
        reason="",
        notes=leaderboard.notes,
    )
    reason = _reason(selection, leaderboard, offered=offered, screen=screen)
    return selection.model_copy(update={"reason": reason})


def fold_values(rows: Sequence[Row], metric: str) -> tuple[Values, list[tuple[int, int]]]:
    """Return what :func:`choose` needs of rows: values of shape (1, n_rows, n_folds), more being better, and sizes."""
    values = get_metric(metric).signed(np.array([row.values(metric) for row in rows]))
    return values[None], [(row.n_encoders, row.n_dims) for row in rows]


def _choose(leaderboard: Leaderboard, rows: Sequence[Row], metric: str, rule: str) -> tuple[Row, tuple[Subset, ...]]:
    """Return the chosen row, and the subsets among which the rule chose it."""
    values, sizes = fold_values(rows, metric)
    n_train, n_test, among = leaderboard.n_train, leaderboard.n_test, RULES[rule].among
    place = int(choose(values, sizes, n_train=n_train, n_test=n_test, rule=rule)[0])
    if place < 0:
        raise UndefinedMetricError(
            f"The rule {rule} needs at least two folds in which {get_metric(metric).title} is defined.",
            remedy=f"{_other_rules()}, or give every class enough samples to appear in every fold.",
        )
    if among is None:
        return rows[place], ()
    within = among(_scores(values, sizes, n_train=n_train, n_test=n_test))[0]
    return rows[place], tuple(row.subset for row, near in zip(rows, within.tolist(), strict=True) if near)


def _lean(leaderboard: Leaderboard, rows: Sequence[Row], metric: str) -> Row | None:
    if leaderboard.n_folds < 2 or len(rows) < 2:
        return None
    values, sizes = fold_values(rows, metric)
    found = choose(values, sizes, n_train=leaderboard.n_train, n_test=leaderboard.n_test, rule=LEAN_RULE)
    place = int(found[0])
    return rows[place] if place >= 0 else None


def _other_rules() -> str:
    return f"Use a rule that needs one fold ({', '.join(name for name, rule in RULES.items() if not rule.needs_folds)})"


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
    above = get_metric(metric).signed(row.values(metric) - level)
    gain, _, _, p = corrected_t(above, leaderboard.n_train, leaderboard.n_test)
    return p / 2 if gain > 0 else 1 - p / 2


def _reason(
    selection: Selection, leaderboard: Leaderboard, *, offered: Sequence[Row], screen: Leaderboard | None
) -> str:
    title, chosen, best = get_metric(selection.metric).mean_title, selection.chosen, selection.best
    mean = f"{title} {chosen.mean(selection.metric):.4f}"
    scored = f"{len(leaderboard)} scored subset{'s' if len(leaderboard) > 1 else ''}"
    if screen is not None:
        scored = f"{len(leaderboard)} finalists out of {len(screen)} screened subsets"
    if len(offered) < len(leaderboard):
        scored = f"{len(offered)} that may be chosen out of {scored}"
    if len(leaderboard) == 1:
        text = f"{label(chosen.subset)} ({mean}) is the only subset that was scored."
    elif selection.rule == INCLUSIVE_RULE:
        text = _inclusive_reason(selection, leaderboard, scored=scored, all_allowed=selection.all in offered)
    elif selection.within and chosen is not best:
        text = (
            f"{label(chosen.subset)} ({mean}, {chosen.n_encoders} of {len(leaderboard.encoders)} encoders) is "
            f"the {RULES[selection.rule].which} of {len(selection.within)} subsets within one standard error of the "
            f"best of {scored}, {label(best.subset)} ({best.mean(selection.metric):.4f})."
        )
    else:
        text = f"{label(chosen.subset)} ({mean}) is the best of {scored}."
    if selection.better_than_chance is False:
        text += f" No subset is shown to be better than chance: do not rely on this choice ({scored})."
    return text


def _inclusive_reason(selection: Selection, leaderboard: Leaderboard, *, scored: str, all_allowed: bool) -> str:
    """Say how many encoders are kept, and what the scores say against those that are left out."""
    metric, chosen, best, pool = selection.metric, selection.chosen, selection.best, leaderboard.encoders
    names = "" if chosen.subset == pool else f" ({label(chosen.subset)})"
    text = f"Kept {chosen.n_encoders} of {len(pool)} encoders{names}, {get_metric(metric).mean_title} "
    text += f"{chosen.mean(metric):.4f}: "
    if chosen is best:
        text += f"the best of {scored}"
        text += f", and the largest of {len(selection.within)} within one standard error." if selection.within else "."
    else:
        text += (
            f"the largest of {len(selection.within)} subsets within one standard error of the best of {scored}, "
            f"{label(best.subset)} ({best.mean(metric):.4f})."
        )
    everything = selection.all
    if everything is None or everything is chosen:
        return text
    left_out, mean = ", ".join(name for name in pool if name not in chosen.subset), everything.mean(metric)
    if not all_allowed:
        return f"{text} All {len(pool)} together ({mean:.4f}) may not be chosen."
    found, one = paired_gain(leaderboard, chosen, everything, metric=metric), len(pool) - chosen.n_encoders == 1
    evidence = f"(95 % interval {found.low:+z.4f} to {found.high:+z.4f})"
    if found.gain > 0 and not found.noise:
        return f"{text} Left out: {left_out}, which hurt{'s' if one else ''} by {found.gain:.4f} {evidence}."
    text += f" Left out: {left_out}; with {'it' if one else 'them'} the mean is {mean:.4f}"
    if found.gain > 0:
        return f"{text}, {found.gain:.4f} worse, which may be chance {evidence}."
    return f"{text}, steadily below the best."


def finalists(
    screen: Leaderboard,
    *,
    count: int,
    rule: str = DEFAULT_RULE,
    metric: str | None = None,
    eligible: Eligible | None = None,
) -> list[Subset]:
    """Choose the subsets to refit: those that may win, and those that the winner is compared with.

    Parameters
    ----------
    screen : Leaderboard
        Cheap scores of many subsets.
    count : int
        How many of the best means are kept; fewer where fewer may be chosen.
    rule : str
        The rule that will choose among them.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    eligible : callable, optional
        Which rows may be chosen; all by default. The companions stay whether they may be chosen or not.

    Returns
    -------
    list of Subset
        The best ``count``, the best of every size, what the rule chooses from these scores (with too few folds for it,
        the best), the lean subset of these scores, every single encoder, all encoders together, and the greedy path:
        each once, in combination order.

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
    suits = screen.n_folds > 1 or not get_rule(rule).needs_folds
    choice = select(screen, rule=rule if suits else "best", metric=name, eligible=eligible)
    ranked = sorted((row for row in screen if eligible is None or eligible(row)), key=lambda row: row.rank(name))
    by_size = groupby(sorted(ranked, key=_size), key=_size)
    kept = [
        *ranked[:count],
        *(next(rows) for _, rows in by_size),
        choice.chosen,
        *screen.singles,
        *greedy_path(screen, metric=name, eligible=eligible),
        *(row for row in (choice.all, choice.lean) if row is not None),
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

    def check(self, leaderboard: Leaderboard) -> None:
        """Refuse a leaderboard of which no row keeps to every limit.

        Raises
        ------
        SearchError
            Naming the tightest limit, and what it would have to be.
        """
        if not any(map(self.allows_row, leaderboard)):
            raise self._nothing(leaderboard)

    def _limits(self) -> dict[str, Callable[[Sequence[str]], bool]]:
        limits: dict[str, Callable[[Sequence[str]], bool]] = {}
        if (most := self.max_encoders) is not None:
            limits["max_encoders"] = lambda subset: len(subset) <= most
        if (longest := self.max_latency) is not None:
            limits["max_latency"] = lambda subset: summed_cost(subset, self.latency) <= longest
        return limits

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
        if tightest == "max_latency":
            cheapest = min(leaderboard, key=lambda row: summed_cost(row.subset, self.latency))
            needs = f"{summed_cost(cheapest.subset, self.latency):.3g} ms per image ({label(cheapest.subset)})"
            what = f"max_latency of {self.max_latency:g} ms per image: the cheapest takes {needs}"
        else:
            smallest = min(row.n_encoders for row in leaderboard)
            what = f"max_encoders of {self.max_encoders}: the smallest has {smallest}"
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
    eligible: Eligible | None = None,
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
    rows = [row for row in leaderboard.best_first(name) if eligible is None or eligible(row)]
    if not rows:
        raise SearchError("No scored subset is eligible." if leaderboard.rows else "No subset was scored.")
    front: list[Row] = []
    # The sort is stable: among equal costs the best comes first, among equals in both the simplest.
    for row in sorted(rows, key=lambda row: summed_cost(row.subset, cost)):
        if not front or row.quality(name) > front[-1].quality(name):
            front.append(row)
    return tuple(front)


SIZES = (1, 2, 4, 8)
"""Numbers of members tried."""


class Ensemble(Record):
    """The average that was chosen, and those that it was chosen from.

    Attributes
    ----------
    metric : str
        By which metric.
    members : tuple of subset
        The best subsets, best first.
    encoders : subset
        All encoders that they need, in pool order.
    scores : dict of int to tuple of float
        One value per fold for each number of members tried.
    """

    metric: str
    members: tuple[Subset, ...]
    encoders: Subset
    scores: dict[int, tuple[Score, ...]]

    @property
    def mean(self) -> float:
        """Mean score over the folds."""
        return float(np.nanmean(self.scores[len(self.members)]))

    def __str__(self) -> str:
        tried = ", ".join(f"{size}: {np.nanmean(values):.4f}" for size, values in self.scores.items())
        named = ", ".join(label(member) for member in self.members)
        return (
            f"The average of the best {len(self.members)} subsets has {get_metric(self.metric).mean_title} "
            f"{self.mean:.4f} over the folds (by number of subsets: {tried}). It needs {len(self.encoders)} encoders: "
            f"{named}."
        )


def choose_ensemble(
    leaderboard: Leaderboard,
    labels: Labels,
    *,
    rows: Sequence[NDArray[np.int64]],
    target: Target,
    metric: str,
    sizes: Sequence[int] = SIZES,
    eligible: Callable[[Sequence[str]], bool] | None = None,
) -> Ensemble:
    """Average the out-of-fold probabilities of the best subsets, and take the number of them that scores best.

    Parameters
    ----------
    leaderboard : Leaderboard
        Of subsets refitted with their predictions kept.
    labels : ndarray of int64
        Of the development samples.
    rows : sequence of ndarray of int64
        Per fold, the samples that the kept predictions belong to.
    target : Target
        What is predicted.
    metric : str
        What subsets are ranked and their averages compared by.
    sizes : sequence of int
        Numbers of members tried, in increasing order; fewer members win ties.
    eligible : callable, optional
        Whether encoders may be used together.

    Raises
    ------
    SearchError
        If the predictions were not kept, or no subset is eligible.
    """
    ranked = [row for row in leaderboard.best_first(metric) if eligible is None or eligible(row.subset)]
    missing = [row for row in ranked if row.subset not in leaderboard.out_of_fold]
    if not ranked or missing:
        raise SearchError("An ensemble needs scored subsets with their out-of-fold predictions.")
    scores: dict[int, tuple[float, ...]] = {}
    for size in sizes:
        members = ranked[:size]
        if len(members) < size or (eligible is not None and not eligible(_union(leaderboard, members))):
            break
        scores[size] = tuple(
            _score(leaderboard, members, labels[held], fold, target=target, metric=metric)
            for fold, held in enumerate(rows)
        )
    means = {size: get_metric(metric).signed(np.nanmean(values, keepdims=True)) for size, values in scores.items()}
    best = max(means, key=lambda size: (round(means[size].item(), DECIMALS), -size))
    return Ensemble(
        metric=metric,
        members=tuple(row.subset for row in ranked[:best]),
        encoders=_union(leaderboard, ranked[:best]),
        scores=scores,
    )


def _score(
    leaderboard: Leaderboard,
    members: Sequence[Row],
    labels: Labels,
    fold: int,
    *,
    target: Target,
    metric: str,
) -> float:
    kept = np.array([leaderboard.out_of_fold[row.subset][fold] for row in members], dtype=np.float64)
    mean = target.add_up(kept.mean(axis=0))  # kept in single precision, in which rows do not quite add up
    return score(target.kind, labels, mean, classes=target.classes, metrics=[metric])[metric]


def _union(leaderboard: Leaderboard, members: Sequence[Row]) -> Subset:
    used = {name for row in members for name in row.subset}
    return tuple(name for name in leaderboard.encoders if name in used)
