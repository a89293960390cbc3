"""What corrects and explains a choice: the winner's optimism, nested cross-validation, contributions of encoders."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError, UndefinedMetricError
from biofuse.core.hashing import derive_seed
from biofuse.core.machine import usable_cores
from biofuse.encoders.card import EncoderCard
from biofuse.evaluation.intervals import corrected_t
from biofuse.evaluation.metrics import Record, Score, get_metric, score
from biofuse.evaluation.robustness import Robustness, robustness
from biofuse.search.attribution import GENERAL, Attribution, CrossModal, attribute, cross_modal
from biofuse.search.leaderboard import Leaderboard, Subset, label
from biofuse.search.optimism import Optimism, correct_optimism, cross_validate_choice
from biofuse.search.problem import Problem, fusion_of, make_plan
from biofuse.search.rules import Budget
from biofuse.search.runner import SearchContext
from biofuse.search.screen import SCREENED_BY
from biofuse.search.search import Search, fit_predictors, run

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
    low, high = (float(np.clip(end, *get_metric(config.metric).ends)) for end in (low, high))
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
        Whether all that is about the screen's scores, which are those of ridge regression on concatenated encoders
        whatever is fitted in the end, and about the choice that the rule would make from them alone.
    attribution : Attribution or None
        What each encoder contributes; None unless every subset was scored.
    modality : CrossModal or None
        Gains over the general-purpose baseline; None without such an encoder.
    nested : Nested or None
        Scores of the search itself, where asked for.
    robustness : Robustness or None
        How much of the encoders' and the chosen fusion's neighbourhoods is the site; None without sites or classes.
    """

    optimism: Optimism | None = None
    uncorrected: str = ""
    screened: bool = False
    attribution: Attribution | None = None
    modality: CrossModal | None = None
    nested: Nested | None = None
    robustness: Robustness | None = None

    def __repr__(self) -> str:
        facts = []
        if self.optimism is not None:
            corrected = self.optimism
            title = get_metric(corrected.metric).title
            facts.append(f"{title} {corrected.corrected:.4f} ({corrected.ends}) corrected")
        facts += [name for name in ("attribution", "modality", "nested") if getattr(self, name) is not None]
        return f"<Evidence: {', '.join(facts) or 'none'}>"

    @property
    def scored_by(self) -> str:
        """Say what the scores of the screen are scores of, where there was one."""
        return f"These are scores of the screen: {SCREENED_BY}." if self.screened else ""

    def sentences(self) -> list[str]:
        """Return what the user is told of it."""
        said = []
        if self.optimism is not None:
            said.append(f"{self.optimism} {self.scored_by}".strip())
        if self.uncorrected:
            said.append(f"The best score is not corrected for having been chosen. {self.uncorrected}")
        return [*said, *(str(each) for each in (self.nested, self.robustness) if each is not None)]


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
    empty = problem.chance
    attribution = None
    if _complete(board) and len(board) > 1 and len(board.encoders) <= EXPLAINED and empty is not None:
        attribution = attribute(board, metric=metric, empty=empty)
    optimism, uncorrected = _optimism(problem, search, context, budget)
    return Evidence(
        optimism=optimism,
        uncorrected=uncorrected,
        screened=search.screen is not None,
        attribution=attribution,
        modality=_modality(board, cards, metric),
        nested=nested_cv(problem, context, budget=budget) if problem.config.select == "nested" else None,
        robustness=_robustness(problem, search),
    )


FUSED = "the chosen encoders together"
"""What they are called among embeddings."""


def _robustness(problem: Problem, search: Search) -> Robustness | None:
    """Measure how much of each encoder is the site, in the columns that a head would see of it, beside the classes."""
    samples = problem.samples
    if samples.site is None or not problem.target.categorical:
        return None
    subsets = {name: (name,) for name in problem.blocks.encoders} | {FUSED: search.chosen}
    fusion = fusion_of(problem.config)
    blocks = {name: problem.blocks.only(subset) for name, subset in subsets.items()}
    return robustness(
        {name: fusion.fit(each, problem.labels).transform(each) for name, each in blocks.items()},
        problem.labels,
        samples.by[samples.site],
        column=samples.site,
        ids=samples.ids,
        groups=problem.units,
        seed=problem.config.seed,
    )


def _modality(board: Leaderboard, cards: Sequence[EncoderCard], metric: str) -> CrossModal | None:
    modality = {card.name: card.modality for card in cards}
    scored = all(board.get([name]) is not None for name in board.encoders)
    if not scored or GENERAL not in modality.values() or len(set(modality.values())) < 2:
        return None
    return cross_modal(board, modality, metric=metric)


def _optimism(problem: Problem, search: Search, context: SearchContext, budget: Budget) -> tuple[Optimism | None, str]:
    """Correct the choice, or say why that cannot be done: the models are worth keeping all the same."""
    board, screen = search.all_scores, search.screen
    rows = search.kept_rows if screen is None else screen.kept_rows
    if len(board) < 2 or rows is None:
        return None, ""
    try:
        if screen is not None and _complete(board) and problem.plan.kind == "cv":
            return cross_validate_choice(problem, screen, context, budget=budget), ""
        found = correct_optimism(
            board,
            problem.labels,
            rows=rows,
            ids=problem.samples.ids,
            groups=problem.units,
            task=problem.target,
            rule=problem.config.rule,
            metric=problem.config.metric,
            eligible=budget.allows_row,
            seed=problem.config.seed,
        )
    except (UndefinedMetricError, SearchError) as error:
        return None, str(error).replace("\n", " ")
    return found, ""


def _complete(board: Leaderboard) -> bool:
    return bool(len(board) == 2 ** len(board.encoders) - 1)
