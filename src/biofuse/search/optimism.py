"""How much of a chosen subset's score is luck: the choice repeated without each fold, or on resamples."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from biofuse.core.errors import AlignmentError, SearchError, UndefinedMetricError, option
from biofuse.core.machine import usable_cores
from biofuse.core.ridge import Choice
from biofuse.core.target import Labels, Target, Task
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.intervals import Units, corrected_t, percentile_ends
from biofuse.evaluation.metrics import Record, Score, get_metric, score
from biofuse.evaluation.rows import ScoredRows, prepare
from biofuse.search.closed_form import ClosedForm, ClosedFormScorer
from biofuse.search.closed_form_torch import TorchScorer, accelerator
from biofuse.search.leaderboard import Leaderboard, Row, Subset, SubsetKey, label
from biofuse.search.problem import Problem
from biofuse.search.rules import DEFAULT_RULE, Budget, Eligible, choose, mean_defined, select
from biofuse.search.runner import SearchContext, run_search
from biofuse.search.scorers import FoldPart
from biofuse.search.screen import Screen
from biofuse.search.strategies import Listed

Values = NDArray[np.float64]

MOST_RESAMPLES = 500
"""Resamples where they are cheap: chance in the draws then adds 4 % of the scores' spread to the corrected score."""

FEWEST_RESAMPLES = 100
"""Resamples where they are dear: 10 % of the spread, which itself is known to 7 %."""

CELLS = 2_000_000_000
"""Row, column, subset and resample combinations that may be scored: some 12 seconds of one core for AUROC."""

PIECE = 2**14
"""Weights scored at a time; more would leave the fast part of the cache (measured: three times slower)."""

HELD = 2**24
"""Fold values held at a time (128 MB, and some more while a rule compares them)."""

PICKED = 10
"""Subsets listed among those that resamples chose."""


class Optimism(Record):
    """The score of a chosen subset, corrected for having been chosen.

    Attributes
    ----------
    metric, rule : str
        By which metric and rule it was chosen.
    chosen : tuple of str
        What the rule chooses on all samples.
    apparent : float
        Its cross-validated mean, which is too good because it was chosen by it.
    corrected : float
        ``nested``: mean over the folds of the score of what the rule chooses without each. ``bootstrap``: mean over
        resamples of the score, on the units that were not drawn, of what the rule chooses on those drawn.
    low, high : float
        Interval of it. ``nested``: by the corrected t statistic of the folds. ``bootstrap``: percentiles of the scores,
        each of which comes from the third of the units that was not drawn, so that they are rather too far apart.
    confidence : float
        Nominal coverage.
    n_subsets : int
        Subsets among which the rule chose.
    n_resamples, n_undefined : int
        Choices that were made again, one per fold or resample, and how many are left out because a score was undefined.
    unit : {"samples", "groups"}
        What is held out, or resampled, whole.
    n_units : int
        How many there are.
    picked : dict of subset to float
        Share of the choices made again that fell on it, for the ten chosen most often, in descending order.
    method : {"nested", "bootstrap"}
        How the choice was made again.
    """

    metric: str
    rule: str
    chosen: Subset
    apparent: Score
    corrected: Score
    low: Score
    high: Score
    confidence: float
    n_subsets: int
    n_resamples: int
    n_undefined: int
    unit: Literal["samples", "groups"]
    n_units: int
    picked: dict[SubsetKey, float] = Field(default_factory=dict)
    method: Literal["nested", "bootstrap"] = "bootstrap"

    @property
    def optimism(self) -> float:
        """How much too good the apparent score is: apparent minus corrected, of a loss the other way round."""
        gap = self.apparent - self.corrected
        return gap if get_metric(self.metric).higher_is_better else -gap

    @property
    def ends(self) -> str:
        """Its interval in words; if all choices made again scored alike, nothing is known of how far it would move."""
        if self.low == self.high:
            return f"no interval, since all {self.n_resamples} scored alike"
        return f"{self.confidence:.0%} interval {self.low:.4f} to {self.high:.4f}"

    def __str__(self) -> str:
        title = get_metric(self.metric).mean_title
        looks = f"{self.optimism:.4f} too good" if self.optimism > 0 else "no better than it is"
        undefined = f", undefined in {self.n_undefined}" if self.n_undefined else ""
        again = {
            "nested": f"each of {self.n_resamples} folds was scored by what the rule chooses without it",
            "bootstrap": f"the choice was repeated on {self.n_resamples} resamples of {self.n_units} {self.unit}",
        }[self.method]
        noun = {"nested": "folds", "bootstrap": "resamples"}[self.method]
        text = (
            f"Choosing among {self.n_subsets} subset{'s' if self.n_subsets > 1 else ''} by the rule {self.rule} makes "
            f"the {title} of {label(self.chosen)} look {looks}: {self.apparent:.4f} as chosen, "
            f"{self.corrected:.4f} corrected ({self.ends}; {again}{undefined})."
        )
        share = self.picked.get(self.chosen, 0.0)
        return f"{text} {share:.0%} of the {noun} chose the same subset."


NEIGHBOURS = 2
"""Folds to either side, in a circle, by which is chosen without a fold: all others of five folds, four of more, so that
there are never more than twice as many pairs as folds."""

FEWEST_FOLDS = 3
"""Folds that leave two to choose by without each."""


def cross_validate_choice(
    problem: Problem,
    screen: Screen,
    context: SearchContext,
    *,
    budget: Budget,
    penalties: Choice = "generalised",
    confidence: float = 0.95,
) -> Optimism:
    """Correct the winner's score by nested cross-validation of the choice, in closed form.

    Each fold is scored by what the rule chooses from the other folds alone, by predictors that were fitted without it:
    those that score fold j for the choice without fold k are fitted on neither. One fit without a pair of folds serves
    the choices without either. They decide which subset is chosen and not what it scores, so that generalised
    cross-validation is good enough for their penalties, in half the time that leaving every row out takes. With five
    folds all of it takes as long as the screen or less, with more, where four of the others choose, less than twice as
    long. The labels of a fold have no part in what it is scored by; on pure noise the expected score is that of
    guessing.

    Parameters
    ----------
    problem : Problem
    screen : Screen
        Closed-form scores of every subset.
    context : SearchContext
        Where scores are kept as they come in, and how many processes work.
    budget : Budget
        What may be chosen.
    penalties : {"leave_one_out", "generalised"}
        How those of the fits without two folds are chosen.
    confidence : float, default 0.95
        Nominal coverage of the interval.

    Raises
    ------
    SearchError
        If memory does not suffice.
    UndefinedMetricError
        If there are too few folds, or the metric is undefined in nearly all of them.
    """
    config, plan = problem.config, problem.plan
    if plan.n_folds < FEWEST_FOLDS:
        raise UndefinedMetricError(
            f"Choosing again without each fold needs {FEWEST_FOLDS} folds; there are {plan.n_folds}.",
            remedy=f"Use more folds ({option('folds')}), or gather more samples of the rarest class.",
        )
    board = replace(screen.leaderboard, rows=tuple(filter(budget.allows_row, screen.leaderboard)))
    if not board.rows:
        raise SearchError("No scored subset is eligible, so none can be chosen.")
    chosen = select(board, rule=config.rule, metric=config.metric).chosen
    table = np.array([row.values(config.metric) for row in board])
    repeats = [
        _choices_without_each(problem, screen, board, number, context, penalties=penalties)
        for number in range(plan.n_repeats)
    ]
    picks = np.concatenate(repeats)
    values = np.where(picks >= 0, table[picks, np.arange(len(picks))], np.nan)
    defined = ~np.isnan(values)
    if defined.sum() < 2:
        raise UndefinedMetricError(
            f"{get_metric(config.metric).title} is undefined in nearly all of {len(values)} folds.",
            remedy="There are too few samples of some class; gather more.",
        )
    mean, low, high, _ = corrected_t(values, board.n_train, board.n_test, confidence=confidence)
    units = Units.of(problem.samples.ids, problem.units)
    least, most = get_metric(config.metric).ends
    return Optimism(
        metric=config.metric,
        rule=config.rule,
        chosen=chosen.subset,
        apparent=float(chosen.values(config.metric)[defined].mean()),
        corrected=mean,
        low=max(low, least),
        high=min(high, most),
        confidence=confidence,
        n_subsets=len(board),
        n_resamples=len(values),
        n_undefined=int((~defined).sum()),
        unit=units.kind,
        n_units=units.n,
        picked=_shares(board.rows, picks[picks >= 0]),
        method="nested",
    )


def _choices_without_each(
    problem: Problem, screen: Screen, board: Leaderboard, repeat: int, context: SearchContext, *, penalties: Choice
) -> NDArray[np.int64]:
    """Return the number of the subset that is chosen without each fold of a repeat; -1 where there is no telling."""
    config, plan = problem.config, problem.plan
    first = repeat * plan.n_folds
    folds = plan.folds[first : first + plan.n_folds]
    pairs = [
        (one, other)
        for one, other in combinations(range(plan.n_folds), 2)
        if min(other - one, plan.n_folds - other + one) <= NEIGHBOURS
    ]
    scorer = PairScorer(
        problem,
        [(folds[one], folds[other]) for one, other in pairs],
        choice=penalties,
        reduce_to=screen.plan.reduce_to,
    )
    device = accelerator(context.device, operations=screen.plan.operations)
    found = run_search(
        board.encoders,
        Listed([row.subset for row in board]),
        scorer if device is None else TorchScorer(scorer, device=device, threads=usable_cores()),
        metric=config.metric,
        sink=context.sink(f"pairs-of-folds-{repeat + 1}"),
        key=problem.key(
            stage="pairs of folds",
            repeat=repeat,
            metric=config.metric,
            scaling=config.scaling,
            class_weight=config.class_weight,
            reduce_to=screen.plan.reduce_to,
            penalties=penalties,
        ),
        workers=context.workers,
        progress=context.progress,
        yes=True,  # it takes about as long as the screen, which was confirmed
    )
    # Per subset and pair of folds, the score of the first and of the second.
    scores = np.array([np.stack(found.out_of_fold[row.subset]) for row in board], dtype=np.float64)
    sizes = [(row.n_encoders, row.n_dims) for row in board]
    picks = []
    for without in range(plan.n_folds):
        ends = [(place, pair.index(without)) for place, pair in enumerate(pairs) if without in pair]
        others = [pairs[place][1 - end] for place, end in ends]
        inside = np.stack([scores[:, place, 1 - end] for place, end in ends], axis=1)
        picks.append(
            choose(
                get_metric(config.metric).signed(inside)[None],
                sizes,
                n_train=[scorer.n_train[place] for place, _ in ends],
                n_test=[len(folds[other][1]) for other in others],
                rule=config.rule,
            )
        )
    return np.concatenate(picks)


class PairScorer(ClosedFormScorer):
    """Ridge regression fitted without two folds, scored on each of them.

    In place of predictions it keeps, per pair, the scores of the first and of the second fold.

    Parameters
    ----------
    problem : Problem
    pairs : sequence of pair of (fit_rows, score_rows)
        Folds of one repeat.
    choice : {"leave_one_out", "generalised"}
    reduce_to : int or None
        As for :class:`biofuse.search.closed_form.ClosedFormScorer`.
    """

    def __init__(self, problem: Problem, pairs: Sequence[Any], *, choice: Choice, reduce_to: int | None) -> None:
        plan = ValidationPlan.cross_validation(
            [(np.intersect1d(one[0], other[0]), np.concatenate([one[1], other[1]])) for one, other in pairs],
            ids=problem.blocks.ids,
        )
        super().__init__(
            problem.blocks,
            problem.labels,
            plan=plan,
            task=problem.task,
            classes=problem.classes,
            scaling=problem.config.scaling,
            class_weight=problem.config.class_weight,
            sample_weight=problem.weights,
            choice=choice,
            reduce_to=reduce_to,
            metrics=(problem.config.metric,),
            keep=np.ones(problem.blocks.n_samples, dtype=np.bool_),
            threads=usable_cores(),
        )
        self._halves = [
            (np.isin(held, one[1]), np.isin(held, other[1]))
            for (one, other), (_, held) in zip(pairs, plan.folds, strict=True)
        ]

    def judge(self, found: ClosedForm, fold: int, *, since: float) -> FoldPart:
        """Score both folds of a pair."""
        metric = self.metrics[0]
        values = np.array(
            [
                score(
                    self._task,
                    self.folds[fold].labels[half],
                    found.estimates[half],
                    classes=self._classes,
                    metrics=self.metrics,
                    decision=found.decision[half],
                )[metric]
                for half in self._halves[fold]
            ]
        )
        return FoldPart(
            values={metric: float(mean_defined(values, 0))},
            seconds=time.perf_counter() - since,
            predictions=values,
        )


def correct_optimism(
    leaderboard: Leaderboard,
    labels: ArrayLike,
    *,
    rows: Sequence[NDArray[np.int64]],
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    task: Task | Target,
    rule: str = DEFAULT_RULE,
    metric: str | None = None,
    eligible: Eligible | None = None,
    n_resamples: int | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Optimism:
    """Correct the winner's score by bootstrap-bias-corrected cross-validation.

    Units are drawn with replacement, the rule chooses among all subsets by their out-of-fold predictions of what was
    drawn, and the choice is scored on what was not (Tsamardinos, Greasidou and Borboudakis 2018, Machine Learning
    107:1895). No predictor is fitted again. Scores are means over folds, as on the leaderboard: nothing is pooled
    across folds. A class that a resample lacks in some fold is left out of that fold, for every subset alike.

    One core scores 150 to 200 million combinations of row, class, subset and resample a second for AUROC, far more for
    accuracy: 511 subsets of 2,000 samples in 4 classes, 5 folds and 2 repeats, 200 resamples take 11 seconds.

    Parameters
    ----------
    leaderboard : Leaderboard
        With the out-of-fold predictions of all subsets that may be chosen.
    labels : array-like of int, shape (n,) or (n, n_labels)
        Labels of the development samples.
    rows : sequence of ndarray of int64
        Per fold, the development rows that its predictions belong to: ``[score for _, score in plan.folds]``.
    ids : array-like of str, shape (n,)
        Development samples; with the seed they alone decide what is drawn.
    groups : array-like of str, shape (n,), optional
        Patients or slides; whole groups are drawn then.
    task : Task or Target
        What the labels are; of times to an event a target, which has the horizons.
    rule : str
        As for :func:`biofuse.search.rules.select`.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    eligible : callable, optional
        Which rows of the leaderboard may be chosen; all by default.
    n_resamples : int, optional
        By default 500, fewer for large searches (:func:`default_resamples`), never fewer than 100.
    seed : int, default 0
        Seed of the draws.
    confidence : float, default 0.95
        Nominal coverage.

    Raises
    ------
    SearchError
        If predictions were not kept, nothing is eligible, or the rule does not suit the folds.
    AlignmentError
        If labels, ids, rows and predictions do not belong together.
    UndefinedMetricError
        If the metric is undefined on nearly all resamples.
    """
    name = metric or leaderboard.metrics[0]
    board = replace(leaderboard, rows=tuple(row for row in leaderboard if eligible is None or eligible(row)))
    if not board.rows:
        raise SearchError("No scored subset is eligible, so none can be chosen.")
    chosen = select(board, rule=rule, metric=name).chosen
    sizes = [(row.n_encoders, row.n_dims) for row in board]
    truth, units = np.asarray(labels), Units.of(ids, groups)
    predictions = HeldOutPredictions(board, truth, rows=rows, task=task, metric=name, n_rows=len(units.of_row))
    count = predictions.default_resamples() if n_resamples is None else n_resamples
    if count < 1:
        raise SearchError(f"{count} resamples were asked for.", remedy=f"Ask for {FEWEST_RESAMPLES} or more.")
    picks, scores = [], []
    for drawn in _pieces(units, count, seed=seed, cells=len(board) * board.n_folds):
        inside = predictions.folds(drawn)
        found = choose(inside, sizes, n_train=board.n_train, n_test=board.n_test, rule=rule)
        picks.append(found)
        scores.append(predictions.left_out(found, drawn))
    values, picked = np.concatenate(scores), np.concatenate(picks)
    defined = ~np.isnan(values)
    if defined.sum() < 2:
        raise UndefinedMetricError(
            f"{get_metric(name).title} is undefined on nearly all of {count} resamples of {units.n} {units.kind}.",
            remedy="There are too few samples of some class; correct by nested cross-validation, or gather more.",
        )
    low, high = percentile_ends(values, confidence=confidence)
    return Optimism(
        metric=name,
        rule=rule,
        chosen=chosen.subset,
        apparent=chosen.mean(name),
        corrected=float(values[defined].mean()),
        low=low,
        high=high,
        confidence=confidence,
        n_subsets=len(board),
        n_resamples=count,
        n_undefined=int((~defined).sum()),
        unit=units.kind,
        n_units=units.n,
        picked=_shares(board.rows, picked[picked >= 0]),
    )


def default_resamples(n_cells: int) -> int:
    """Return how many resamples are drawn unless told: fewer, the more each costs.

    Parameters
    ----------
    n_cells : int
        Combinations of row (over all folds), class or label, and subset.
    """
    return int(np.clip(CELLS // max(1, n_cells), FEWEST_RESAMPLES, MOST_RESAMPLES))


def _pieces(units: Units, n_resamples: int, *, seed: int, cells: int) -> Iterator[Values]:
    """Yield row weights (n_rows, some resamples), so few at a time that the fold values of all subsets fit."""
    step = max(1, HELD // max(1, cells))
    for weights in units.weights(n_resamples, seed=seed):
        for start in range(0, weights.shape[1], step):
            yield weights[:, start : start + step]


def _shares(rows: Sequence[Row], picked: NDArray[np.int64]) -> dict[Subset, float]:
    counts = np.bincount(picked, minlength=len(rows))
    order = np.argsort(-counts, kind="stable")[:PICKED]
    return {rows[k].subset: float(counts[k] / len(picked)) for k in order if counts[k]}


class HeldOutPredictions:
    """Out-of-fold predictions, scored under row weights."""

    def __init__(
        self,
        board: Leaderboard,
        labels: Labels,
        *,
        rows: Sequence[NDArray[np.int64]],
        task: Task | Target,
        metric: str,
        n_rows: int,
    ) -> None:
        missing = [row.subset for row in board if row.subset not in board.out_of_fold]
        if missing:
            raise SearchError(
                f"The search kept no out-of-fold predictions of {len(missing)} of {len(board)} subsets, "
                f"e.g. {label(missing[0])}.",
                remedy="Score with keep_predictions=True; an interrupted search scores them again.",
            )
        if len(labels) != n_rows:
            raise AlignmentError(f"{n_rows} ids but {len(labels)} labels.")
        if len(rows) != board.n_folds:
            raise AlignmentError(f"Rows of {len(rows)} folds for a leaderboard of {board.n_folds}.")
        for row in board:
            lengths = [len(part) for part in board.out_of_fold[row.subset]]
            if lengths != [len(part) for part in rows]:
                raise AlignmentError(f"The predictions of {label(row.subset)} are not those of the folds' rows.")
        self._board, self._labels, self._rows, self._task = board, labels, rows, task
        self._metric = get_metric(metric)
        # A fold in which the metric is undefined on all samples takes no part on the leaderboard, nor here.
        table = np.array([row.values(metric) for row in board])
        self._used: list[int] = np.flatnonzero(~np.isnan(table).all(axis=0)).tolist()

    def default_resamples(self) -> int:
        """Return how many resamples to draw unless told."""
        columns = self._board.out_of_fold[self._board.rows[0].subset][0].shape[1:]
        n_rows = sum(len(part) for part in self._rows)
        return default_resamples(n_rows * int(np.prod(columns)) * len(self._board))

    def folds(self, weights: Values) -> Values:
        """Return fold values under each weighting, more being better, shape (n_weightings, n_subsets, n_folds)."""
        values = np.full((weights.shape[1], len(self._board), len(self._rows)), np.nan)
        for fold in self._used:
            mine = weights[self._rows[fold]]
            width = max(32, PIECE // len(mine))
            pieces = [np.ascontiguousarray(mine[:, k : k + width]) for k in range(0, mine.shape[1], width)]
            for number in range(len(self._board)):
                data = self._prepare(number, fold)
                found = [self._metric.formula(data, piece) for piece in pieces]
                values[:, number, fold] = self._metric.signed(mean_defined(np.concatenate(found, axis=1), 0))
        return values

    def left_out(self, picks: NDArray[np.int64], drawn: Values) -> Values:
        """Return the score of each resample's pick on the rows that were not drawn, shape (n_resamples,).

        Each class is averaged over the folds that have it, then classes are averaged: with every class in every fold
        the same as the mean over folds, and defined far more often where few rows are left. Classes that no fold can
        score, such as a label that never occurs, take no part.
        """
        scores = np.full(len(picks), np.nan)
        for number in np.unique(picks[picks >= 0]):
            where = np.flatnonzero(picks == number)
            left = (drawn[:, where] == 0).astype(np.float64)
            found = [self._metric.formula(self._prepare(number, fold), left[self._rows[fold]]) for fold in self._used]
            by_class = mean_defined(np.stack(found), 0)
            scores[where] = by_class[self._scored(number)].mean(axis=0)
        return scores

    def _scored(self, number: int) -> NDArray[np.bool_]:
        """Return the classes that are defined in some fold; all where none is."""
        prepared = [self._prepare(number, fold) for fold in self._used]
        whole = np.stack([self._metric.formula(data, np.ones((data.n, 1)))[:, 0] for data in prepared])
        defined: NDArray[np.bool_] = np.logical_not(np.isnan(whole).all(axis=0))
        return defined if defined.any() else np.ones_like(defined)

    def _prepare(self, number: int, fold: int) -> ScoredRows:
        predictions = self._board.out_of_fold[self._board.rows[number].subset][fold]
        return prepare(self._task, self._labels[self._rows[fold]], predictions)
