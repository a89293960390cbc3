"""The search from embeddings to a choice: budget, head, screen, finalists, and the predictors fitted on it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import SearchError
from biofuse.core.machine import memory_limit, usable_cores
from biofuse.core.progress import Silent, Tell
from biofuse.core.target import Labels
from biofuse.encoders.card import EncoderCard
from biofuse.evaluation.metrics import board_metrics, get_metric
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.local import measure_latency
from biofuse.extract.options import ExtractOptions
from biofuse.fusion.concatenation import Concatenation
from biofuse.heads.base import LINEAR_HEADS, Head, cheap_heads, within_limits
from biofuse.predictors.attention import fit_attention
from biofuse.predictors.combined import average, fit_late_fusion
from biofuse.predictors.fused import Predictor, fit_predictor
from biofuse.predictors.mean import MeanFits
from biofuse.predictors.shared import FusedFits, shared_bytes
from biofuse.search.config import AUTO, SearchConfig
from biofuse.search.leaderboard import Leaderboard, Subset
from biofuse.search.out_of_fold import OutOfFold
from biofuse.search.problem import Problem, fusion_of, head_of
from biofuse.search.rules import CHOSEN, Budget, Ensemble, Selection, choose_ensemble, finalists, select
from biofuse.search.runner import SearchContext, run_search
from biofuse.search.scorers import RefitScorer
from biofuse.search.screen import Screen, run_screen
from biofuse.search.strategies import Listed, Strategy, make_strategy


def allowed(cards: Sequence[EncoderCard], *, commercial_only: bool) -> tuple[tuple[EncoderCard, ...], tuple[str, ...]]:
    """Leave encoders out of the pool whose licence does not allow commercial use, or does not say, if asked to.

    Returns
    -------
    cards : tuple of EncoderCard
    notes : tuple of str
        Which were left out, and why.

    Raises
    ------
    SearchError
        If none is left.
    """
    kept = tuple(card for card in cards if card.commercial is True or not commercial_only)
    left_out = [card for card in cards if card not in kept]
    if not kept:
        raise SearchError(
            f"None of {', '.join(card.name for card in cards)} has a licence that allows commercial use.",
            remedy="Offer others: biofuse encoders list --commercial.",
        )
    why = {False: "does not allow commercial use", None: "does not say whether commercial use is allowed"}
    notes = [f"{card.name} is left out: its licence ({card.licence}) {why[card.commercial]}." for card in left_out]
    return kept, tuple(notes)


def make_budget(
    config: SearchConfig,
    embeddings: EmbeddingSet,
    *,
    options: ExtractOptions,
    known: Mapping[str, float] | None = None,
    tell: Tell,
) -> Budget:
    """Return what the options allow; where latency is limited, encoders not ``known`` are timed on this machine."""
    latency: dict[str, float] = {}
    if config.max_latency is not None:
        latency = dict(known or {})
        if any(card.name not in latency for card in embeddings.cards):
            latency = measure_latency(
                embeddings.samples, embeddings.cards, options=options.but(precisions=embeddings.precisions)
            )
        tell("Milliseconds per image: " + ", ".join(f"{name} {value:.1f}" for name, value in latency.items()) + ".")
    return Budget(max_encoders=config.max_encoders, max_latency=config.max_latency, latency=latency)


KEEP_BYTES = 256 * 2**20
"""Most memory for the out-of-fold predictions of refitted subsets; beyond, the choice is not corrected by them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """What a search found.

    Attributes
    ----------
    leaderboard : Leaderboard
        Subsets scored by refitting the predictor: what the choice is made from.
    selection : Selection
    head : str
        The head they were refitted with.
    heads : dict of str to float
        Mean score of each head that it was chosen from; empty where it was given.
    screen : Screen or None
        Scores of all subsets in closed form, from which the finalists were taken.
    ensemble : Ensemble or None
        The average of subsets, where one was asked for.
    kept_rows : tuple of ndarray or None
        Per fold, the samples that the leaderboard's predictions belong to.
    final : Leaderboard or None
        Scores of the models' encoders by the predictor that the models are, where subsets were compared by another.
    out_of_fold : OutOfFold or None
        What the chosen predictor says of samples that it was not fitted on; None before :func:`with_out_of_fold`.
    """

    leaderboard: Leaderboard
    selection: Selection
    head: str
    heads: Mapping[str, float]
    screen: Screen | None
    ensemble: Ensemble | None
    kept_rows: tuple[NDArray[np.int64], ...] | None
    final: Leaderboard | None = None
    out_of_fold: OutOfFold | None = None

    @property
    def chosen(self) -> Subset:
        """The encoders that the chosen predictor needs."""
        return self.selection.chosen.subset if self.ensemble is None else self.ensemble.encoders

    @property
    def reason(self) -> str:
        """The choice in words."""
        return self.selection.reason if self.ensemble is None else str(self.ensemble)

    @property
    def all_scores(self) -> Leaderboard:
        """The leaderboard with the most subsets: the screen's, where there was one."""
        return self.leaderboard if self.screen is None else self.screen.leaderboard

    def __repr__(self) -> str:
        return f"<Search: {self.reason}>"

    def _repr_html_(self) -> str:
        tried = ", ".join(f"{name} {value:.4f}" for name, value in self.heads.items())
        said = [self.reason, f"Head: {self.head}{f', of {tried}' if tried else ''}."]
        if self.screen is not None:
            said.append(f"{len(self.all_scores)} subsets were screened, {len(self.leaderboard)} of them refitted.")
        return "".join(f"<p>{escape(sentence)}</p>" for sentence in said) + self.leaderboard._repr_html_()


def run(problem: Problem, context: SearchContext, *, budget: Budget) -> Search:
    """Score subsets and choose one.

    Raises
    ------
    SearchError
        If the search would take long and that was not confirmed, memory does not suffice, or no subset is within the
        budget.
    """
    config = problem.config
    screen = run_screen(problem, context, budget=budget) if config.search == "screen" else None
    if screen is not None and len(screen.leaderboard) > 1:
        context.tell(f"{screen}. Heads are fitted to the best of them now.")
    head, heads = choose_head(problem, screen, context)
    strategy = _strategy(problem, screen, budget)
    leaderboard, kept = refit(problem, strategy, head_of(config, head), context)
    selection = select(
        leaderboard,
        rule=config.rule,
        metric=config.metric,
        chance=problem.chance,
        eligible=budget.allows_row,
        screen=None if screen is None else screen.leaderboard,
    )
    ensemble = None
    if config.predictor == "ensemble" and kept is not None:
        ensemble = choose_ensemble(
            leaderboard,
            problem.labels,
            rows=kept,
            target=problem.target,
            metric=config.metric,
            eligible=budget.allows,
        )
    return Search(
        leaderboard=leaderboard,
        selection=selection,
        head=head,
        heads=heads,
        screen=screen,
        ensemble=ensemble,
        kept_rows=kept,
    )


def choose_head(problem: Problem, screen: Screen | None, context: SearchContext) -> tuple[str, dict[str, float]]:
    """Choose the head by the folds that choose the subset, on all encoders together and on the screen's own choice.

    Returns
    -------
    name : str
        The head with the best mean; the given one where it was named.
    scores : dict of str to float
        Mean of each head tried.
    """
    config, pool = problem.config, problem.blocks.encoders
    affordable = _affordable(problem)
    if config.head != AUTO or len(affordable) == 1:
        return affordable[0] if config.head == AUTO else config.head, {}
    subsets = [pool] if screen is None else list(dict.fromkeys([screen.choice.subset, pool]))
    scores: dict[str, float] = {}
    for name in affordable:
        board, _ = refit(problem, Listed(subsets), head_of(config, name), context, quiet=True)
        scores[name] = float(np.mean([board[subset].quality(config.metric) for subset in subsets]))
    best = max(scores, key=lambda name: round(scores[name], 12))
    sign = 1 if get_metric(config.metric).higher_is_better else -1
    scores = {name: sign * value for name, value in scores.items()}
    said = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    context.tell(f"Head: {best} ({get_metric(config.metric).mean_title} over the folds: {said}).")
    return best, scores


def _affordable(problem: Problem) -> tuple[str, ...]:
    rows, features = max(problem.plan.n_train), sum(problem.blocks.dims.values())
    averaged = problem.config.predictor == "mean"  # a mean takes linear heads alone
    names = tuple(name for name in cheap_heads(problem.target) if name in LINEAR_HEADS or not averaged)
    heads = {name: head_of(problem.config, name) for name in names}
    fitting = tuple(
        name
        for name, head in heads.items()
        if within_limits(head, rows=rows, features=features, classes=len(problem.classes))
    )
    return fitting or names[:1]  # whose own refusal says what is too large


def refit(
    problem: Problem,
    strategy: Strategy,
    head: Head,
    context: SearchContext,
    *,
    quiet: bool = False,
    stage: str = "scores",
    final: bool = False,
) -> tuple[Leaderboard, tuple[NDArray[np.int64], ...] | None]:
    """Score subsets by fitting the predictor on every fold.

    Parameters
    ----------
    problem : Problem
    strategy : Strategy
        Which subsets.
    head : Head
    context : SearchContext
    quiet : bool, default False
        Whether progress and cost are not told.
    stage : str
        What the file is called in which scores are kept, before the name of the head.
    final : bool, default False
        Whether to fit the predictor that the models are to be, whose predictions are kept, however large they are; else
        that by which subsets are compared.

    Returns
    -------
    leaderboard : Leaderboard
    rows : tuple of ndarray, or None
        Per fold, the samples that the kept predictions belong to; None where they were not kept.
    """
    config, pool = problem.config, problem.blocks.encoders
    fusion = fusion_of(config)
    held_out = tuple(held for _, held in problem.plan.folds)
    size = 4 * sum(map(len, held_out)) * len(problem.classes) * len(strategy.subsets(pool))
    keep = final or config.predictor == "ensemble" or size <= KEEP_BYTES
    fit = Fit(problem, head, final=final)
    held, workers = folds_held(problem, fit, context), context.workers
    if held:
        workers = min(workers or usable_cores(), held)
    leaderboard = run_search(
        pool,
        strategy,
        RefitScorer(
            problem.blocks if fit.weighs_images else replace(problem.blocks, bags=None),
            problem.labels,
            plan=problem.plan,
            fit=fit,
            task=problem.task,
            classes=problem.classes,
            metrics=board_metrics(problem.target),
            seed=config.seed,
            keep_predictions=keep,
            folds_held=held,
            remembers=fit.needs_sharing,
        ),
        metric=config.metric,
        sink=context.sink(f"{stage}-{head.name}"),
        key=problem.key(
            stage="refit",
            predictor=kind_of(config, final=final),
            fusion=[fusion.name, fusion.options],
            head=[head.name, head.options],
            metrics=board_metrics(problem.target),
        ),
        workers=workers,
        engine="local" if held else context.engine,
        ray_address=context.ray_address,
        progress=Silent() if quiet else context.progress,
        announce=None if quiet else lambda cost: context.tell(f"Search: {cost}."),
        yes=context.yes or final,  # what the models say out of fold is wanted as the models are
    )
    return leaderboard, held_out if keep else None


def with_out_of_fold(problem: Problem, search: Search, context: SearchContext) -> Search:
    """Return the search with what its chosen predictor says of samples that it was not fitted on.

    Predictions that the search kept are taken; those that it did not are made by refitting on its folds.
    """
    kept, head = search.leaderboard.out_of_fold, head_of(problem.config, search.head)
    members = (search.chosen,) if search.ensemble is None else search.ensemble.members
    if kind_of(problem.config, final=True) != kind_of(problem.config, final=False):
        models = {**encoders_to_fit(search), **singles_to_fit(search)}.values()
        board, _ = refit(
            problem, Listed(list(dict.fromkeys(models))), head, context, quiet=True, stage="models", final=True
        )
        kept = board.out_of_fold
        search = replace(search, final=board)
    elif any(member not in kept for member in members):
        board, _ = refit(problem, Listed(members), head, context, quiet=True, stage="chosen", final=True)
        kept = board.out_of_fold
    found = OutOfFold.of(problem.plan, [kept[member] for member in members], target=problem.target)
    return replace(search, out_of_fold=found)


def out_of_fold(problem: Problem, search: Search, encoders: Subset) -> OutOfFold | None:
    """Return what the predictor of a subset says of samples that it was not fitted on; None where that was not kept."""
    if search.ensemble is None and encoders == search.chosen and search.out_of_fold is not None:
        return search.out_of_fold
    board = search.leaderboard if search.final is None else search.final
    kept = board.out_of_fold.get(encoders)
    return None if kept is None else OutOfFold.of(problem.plan, [kept], target=problem.target)


def folds_held(problem: Problem, fit: "Fit", context: SearchContext) -> int:
    """Return of how many folds at once what fits have in common can be kept; 0 where each is to be made by itself.

    All processes together keep no more, so that no more of them may work.
    """
    if not fit.shares or (context.engine == "ray" and not fit.needs_sharing):
        return 0
    n_folds, workers = len(problem.plan.folds), context.workers or usable_cores()
    size = shared_bytes(rows=max(problem.plan.n_train), dims=list(problem.blocks.dims.values()))
    fitting = min(max(n_folds, workers), memory_limit() // 2 // size)
    if fit.needs_sharing:
        return max(1, fitting)
    return fitting if fitting >= (n_folds if workers == 1 else min(workers, n_folds)) else 0


def kind_of(config: SearchConfig, *, final: bool) -> str:
    """Return the kind of predictor that subsets are compared by, or that the final models (or their members) are."""
    by_one_head = config.predictor == "ensemble" or (config.predictor in {"mean", "attention"} and not final)
    return "fused" if by_one_head else config.predictor


class Fit:
    """Fits one predictor; an object rather than a closure, so that it travels to worker processes.

    Parameters
    ----------
    problem : Problem
        Whose options it follows.
    head : Head
    final : bool, default True
        Whether the predictor is what the models are to be; else that by which subsets are compared.

    Attributes
    ----------
    shares : bool
        Whether fits of different subsets to the same rows have something in common; see :meth:`to`.
    needs_sharing : bool
        Whether that is most of their work.
    weighs_images : bool
        Whether predictors take the images of a sample one by one.
    """

    def __init__(self, problem: Problem, head: Head, *, final: bool = True) -> None:
        config, kind = problem.config, kind_of(problem.config, final=final)
        fusion, late = fusion_of(config), kind in {"average", "stacking"}
        options: dict[str, Any] = {"target": problem.target}
        self.needs_sharing, self.weighs_images = kind == "mean", kind == "attention"
        linear = kind == "fused" and head.name in LINEAR_HEADS and isinstance(fusion, Concatenation)
        self.shares = linear or self.needs_sharing
        if self.needs_sharing:
            options["heads"] = [head_of(config, name) for name in _affordable(problem)]
        elif not self.weighs_images:
            options |= {"fusion": fusion, "head": head}
        if late:
            options["how"] = kind
        if late or self.weighs_images:
            options["class_weight"] = config.class_weight
        self._options = options
        self._fit: Callable[..., Predictor] = fit_late_fusion if late else fit_predictor
        if self.weighs_images:
            self._fit = fit_attention
        units = problem.units if late or self.weighs_images else None
        self._of_row: dict[str, dict[str, Any]] = {
            name: dict(zip(problem.blocks.ids.tolist(), values.tolist(), strict=True))
            for name, values in {"groups": units, "sample_weight": problem.weights}.items()
            if values is not None
        }

    def __call__(self, blocks: Blocks, labels: Labels, *, encoders: Subset, seed: int, threads: int) -> Predictor:
        """Fit on these rows alone."""
        return self.to(blocks.only(encoders), labels, seed=seed, threads=threads)(encoders, seed)

    def to(self, blocks: Blocks, labels: Labels, *, seed: int, threads: int) -> Callable[[Subset, int], Predictor]:
        """Return what fits subsets to these rows, each by a seed, and makes once what several of them have in common.

        What they share has a seed of its own.
        """
        per_row = {name: [of[row] for row in blocks.ids.tolist()] for name, of in self._of_row.items()}
        options = {**self._options, **per_row}
        if self.needs_sharing:
            means = MeanFits(blocks, labels, seed=seed, threads=threads, **options)
            return lambda encoders, _: means.predictor(encoders)
        if self.shares:
            fits = FusedFits(blocks, labels, threads=threads, **options)
            return lambda encoders, seed: fits.predictor(encoders, seed=seed)
        return lambda encoders, seed: self._fit(
            blocks, labels, encoders=encoders, seed=seed, threads=threads, **options
        )


def _strategy(problem: Problem, screen: Screen | None, budget: Budget) -> Strategy:
    config = problem.config
    if screen is not None:
        chosen = finalists(
            screen.leaderboard,
            count=config.finalists,
            rule=config.rule,
            metric=config.metric,
            eligible=budget.allows_row,
        )
        return Listed(chosen)
    return make_strategy(config.search, metric=config.metric, max_encoders=budget.max_encoders)


def encoders_to_fit(search: Search) -> dict[str, Subset]:
    """Return the encoders of the chosen model and of those it is compared with, by name."""
    return {CHOSEN: search.chosen} | {name: row.subset for name, row in search.selection.companions.items()}


def singles_to_fit(search: Search) -> dict[str, Subset]:
    """Return every encoder of the pool that the search scored by itself, by name."""
    board = search.leaderboard
    return {name: (name,) for name in board.encoders if board.get([name]) is not None}


def fitted_to(
    problem: Problem, search: Search, rows: NDArray[np.int64], *, threads: int
) -> Callable[[Subset], Predictor]:
    """Return what gives the predictor of a subset, fitted on the given rows, once however often it is asked for."""
    seed = problem.config.seed
    fit = Fit(problem, head_of(problem.config, search.head))
    fitted = fit.to(problem.blocks.take(rows), problem.labels[rows], seed=seed, threads=threads)
    return cache(lambda encoders: fitted(encoders, seed))


def fit_predictors(problem: Problem, search: Search, rows: NDArray[np.int64], *, threads: int) -> dict[str, Predictor]:
    """Fit the chosen predictor and those it is compared with on the given rows.

    Returns
    -------
    dict of str to Predictor
        ``chosen`` first; ``best_single``, ``all``, ``greedy`` and ``lean`` where there is one. One subset is fitted
        once, however many names it has.
    """
    return predictors_of(problem, search, fitted_to(problem, search, rows, threads=threads))


def predictors_of(
    problem: Problem,
    search: Search,
    fitted_on: Callable[[Subset], Predictor],
    *,
    only: Collection[str] | None = None,
) -> dict[str, Predictor]:
    """Return the same from what gives the predictor of a subset; where some are named, these ``only``."""
    found: dict[str, Predictor] = {}
    for name, encoders in encoders_to_fit(search).items():
        if only is not None and name not in only:
            continue
        if name == CHOSEN and search.ensemble is not None and len(search.ensemble.members) > 1:
            members = [fitted_on(subset) for subset in search.ensemble.members]
            found[name] = average(members, pool=problem.blocks.encoders)
        else:
            found[name] = fitted_on(encoders)
    return found
