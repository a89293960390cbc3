"""What corrects and explains a choice: the winner's optimism, nested cross-validation, contributions of encoders."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from biofuse.core.errors import AlignmentError, SearchError, UndefinedMetricError
from biofuse.core.hashing import derive_seed
from biofuse.core.machine import usable_cores
from biofuse.core.target import Task
from biofuse.encoders.card import EncoderCard
from biofuse.evaluation.intervals import Units, corrected_t, percentile_ends
from biofuse.evaluation.metrics import Record, Score, ScoredRows, get_metric, prepare, score
from biofuse.search.attribution import GENERAL, Attribution, CrossModal, attribute, cross_modal
from biofuse.search.leaderboard import Leaderboard, Row, Subset, SubsetKey, label
from biofuse.search.problem import Problem, make_plan
from biofuse.search.rules import DEFAULT_RULE, Budget, Eligible, choose, mean_defined, select
from biofuse.search.runner import SearchContext
from biofuse.search.search import Search, fit_predictors, run

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
        Mean over resamples of the score, on the units that were not drawn, of what the rule chooses on those drawn.
    low, high : float
        Percentile interval of these scores. Each comes from the third of the units that was not drawn, so that the
        interval is, if anything, too wide.
    confidence : float
        Nominal coverage.
    n_subsets : int
        Subsets among which the rule chose.
    n_resamples, n_undefined : int
        Resamples, and how many of them are left out because a score was undefined there.
    unit : {"samples", "groups"}
        What was resampled.
    n_units : int
        How many there are.
    picked : dict of subset to float
        Share of the resamples that chose it, for the ten chosen most often, in descending order.
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

    @property
    def optimism(self) -> float:
        """How much too good the apparent score is: apparent minus corrected, of a loss the other way round."""
        gap = self.apparent - self.corrected
        return gap if get_metric(self.metric).higher_is_better else -gap

    def __str__(self) -> str:
        title = get_metric(self.metric).title
        looks = f"{self.optimism:.4f} too good" if self.optimism > 0 else "no better than it is"
        undefined = f", undefined in {self.n_undefined}" if self.n_undefined else ""
        text = (
            f"Choosing among {self.n_subsets} subset{'s' if self.n_subsets > 1 else ''} makes the mean {title} of "
            f"{label(self.chosen)} look {looks}: {self.apparent:.4f} as chosen, {self.corrected:.4f} corrected "
            f"({self.confidence:.0%} interval {self.low:.4f} to {self.high:.4f}; the choice was repeated on "
            f"{self.n_resamples} resamples of {self.n_units} {self.unit}{undefined})."
        )
        share = self.picked.get(self.chosen, 0.0)
        return f"{text} {share:.0%} of the resamples chose the same subset."


def correct_optimism(
    leaderboard: Leaderboard,
    labels: ArrayLike,
    *,
    rows: Sequence[NDArray[np.int64]],
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    task: Task,
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
    task : Task
        What the labels are.
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
        labels: NDArray[np.int64],
        *,
        rows: Sequence[NDArray[np.int64]],
        task: Task,
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


CONFIDENCE = 0.95


class Nested(Record):
    """Scores of the search itself.

    Attributes
    ----------
    metric : str
    folds : dict of str to tuple of float
        Per outer fold the score of ``chosen``, ``best_single`` and ``all``, each as the inner search found it.
    picked : tuple of subset
        What the inner search chose in each outer fold.
    low, high : float
        95 % interval of the mean of ``chosen``, with the corrected standard error of overlapping training sets.
    """

    metric: str
    folds: dict[str, tuple[Score, ...]]
    picked: tuple[Subset, ...]
    low: Score
    high: Score

    @property
    def mean(self) -> float:
        """Mean score of the chosen predictor over the outer folds."""
        return float(np.nanmean(self.folds["chosen"]))

    def __str__(self) -> str:
        others = " and ".join(
            f"{np.nanmean(self.folds[name]):.4f} for {words}"
            for name, words in (("best_single", "the best single encoder"), ("all", "all encoders"))
            if name in self.folds
        )
        distinct = len(set(self.picked))
        return (
            f"Nested cross-validation, the whole search repeated in each of {len(self.picked)} outer folds: mean "
            f"{get_metric(self.metric).title} {self.mean:.4f} (95 % interval {self.low:.4f} to {self.high:.4f}) for "
            f"what the search chooses, {others}. It chose {distinct} different subset{'s' if distinct > 1 else ''}: "
            f"{', '.join(dict.fromkeys(label(subset) for subset in self.picked))}."
        )


def nested_cv(problem: Problem, context: SearchContext, *, budget: Budget) -> Nested:
    """Repeat the search inside each outer fold, and score what it chose on the outer fold's held-out rows.

    Raises
    ------
    DataError
        If an outer fold leaves too few samples of a class to search on.
    """
    config = problem.config
    outer = make_plan(problem.samples, config.model_copy(update={"repeats": 1}))
    found: dict[str, list[float]] = {}
    picked = []
    context.progress.begin("outer folds", len(outer.folds))
    for number, (fit, held) in enumerate(outer.folds):
        seed = derive_seed(config.seed, "nested", number) % 2**31
        inner = problem.restrict(fit, seed=seed)
        search = run(inner, context.below(f"nested-{number + 1}"), budget=budget)
        for name, value in _scores(problem, inner, search, held).items():
            found.setdefault(name, []).append(value)
        picked.append(search.chosen)
        context.progress.advance("outer folds", 1)
    folds = {name: tuple(values) for name, values in found.items() if len(values) == len(outer.folds)}
    _, low, high, _ = corrected_t(folds["chosen"], outer.n_train, outer.n_test, confidence=CONFIDENCE)
    low, high = float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))  # AUROC and accuracy end there
    return Nested(metric=config.metric, folds=folds, picked=tuple(picked), low=low, high=high)


def _scores(problem: Problem, inner: Problem, search: Search, held: NDArray[np.int64]) -> dict[str, float]:
    predictors = fit_predictors(inner, search, inner.fitted_rows, threads=usable_cores())
    blocks, metric = problem.blocks.take(held), problem.config.metric
    return {
        name: score(
            problem.task,
            problem.labels[held],
            predictor.predict_proba(blocks),
            classes=problem.classes,
            metrics=[metric],
            decision=predictor.decision(blocks),
        )[metric]
        for name, predictor in predictors.items()
    }


EXPLAINED = 12
"""Most encoders whose contributions are computed: pairs and subsets of more are no longer read by anyone."""


class Evidence(Record):
    """What corrects and explains a choice.

    Attributes
    ----------
    optimism : Optimism or None
        The score corrected for having been chosen; None where there was nothing to choose from.
    uncorrected : str
        Why it could not be corrected; empty where it was, or there was nothing to correct.
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
    uncorrected: str = ""
    screened: bool = False
    attribution: Attribution | None = None
    modality: CrossModal | None = None
    nested: Nested | None = None

    def __repr__(self) -> str:
        facts = []
        if self.optimism is not None:
            corrected = self.optimism
            title = get_metric(corrected.metric).title
            facts.append(f"{title} {corrected.corrected:.4f} ({corrected.low:.4f} to {corrected.high:.4f}) corrected")
        facts += [name for name in ("attribution", "modality", "nested") if getattr(self, name) is not None]
        return f"<Evidence: {', '.join(facts) or 'none'}>"

    def sentences(self) -> list[str]:
        """Return what the user is told of it."""
        said = []
        if self.optimism is not None:
            where = "How much choosing flatters a score, measured on the screen. " if self.screened else ""
            said.append(f"{where}{self.optimism}")
        if self.uncorrected:
            said.append(f"The best score is not corrected for having been chosen. {self.uncorrected}")
        return said if self.nested is None else [*said, str(self.nested)]


def gather_evidence(
    problem: Problem, search: Search, cards: Sequence[EncoderCard], *, context: SearchContext, budget: Budget
) -> Evidence:
    """Gather the evidence on a finished search.

    Raises
    ------
    DataError
        If the search is to be nested and an outer fold leaves too few samples of a class.
    """
    board, metric = search.all_scores, problem.config.metric
    complete = len(board) == 2 ** len(board.encoders) - 1
    empty = problem.chance
    attribution = None
    if complete and len(board) > 1 and len(board.encoders) <= EXPLAINED and empty is not None:
        attribution = attribute(board, metric=metric, empty=empty)
    optimism, uncorrected = _optimism(problem, search, budget)
    return Evidence(
        optimism=optimism,
        uncorrected=uncorrected,
        screened=search.screen is not None,
        attribution=attribution,
        modality=_modality(board, cards, metric),
        nested=nested_cv(problem, context, budget=budget) if problem.config.select == "nested" else None,
    )


def _modality(board: Leaderboard, cards: Sequence[EncoderCard], metric: str) -> CrossModal | None:
    modality = {card.name: card.modality for card in cards}
    scored = all(board.get([name]) is not None for name in board.encoders)
    if not scored or GENERAL not in modality.values() or len(set(modality.values())) < 2:
        return None
    return cross_modal(board, modality, metric=metric)


def _optimism(problem: Problem, search: Search, budget: Budget) -> tuple[Optimism | None, str]:
    """Correct the choice, or say why that cannot be done: the models are worth keeping all the same."""
    board = search.all_scores
    rows = search.kept_rows if search.screen is None else search.screen.kept_rows
    if len(board) < 2 or rows is None:
        return None, ""
    try:
        found = correct_optimism(
            board,
            problem.labels,
            rows=rows,
            ids=problem.samples.ids,
            groups=problem.units,
            task=problem.task,
            rule=problem.config.rule,
            metric=problem.config.metric,
            eligible=budget.allows_row,
            seed=problem.config.seed,
        )
    except UndefinedMetricError as error:
        return None, str(error).replace("\n", " ")
    return found, ""
