"""From a choice to fitted models."""

import importlib.metadata
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from biofuse.api.embedding import EmbeddingSet
from biofuse.api.evaluation import CHOSEN
from biofuse.api.problem import Problem, head_of
from biofuse.api.searching import Fit, Search
from biofuse.model import BioFuseModel
from biofuse.predictors import Predictor, average
from biofuse.search import Subset

COMPANIONS = ("best_single", "all", "greedy")
"""Models that stand beside the chosen one, where the search scored their subsets."""


def encoders_to_fit(search: Search) -> dict[str, Subset]:
    """Return the encoders of the chosen model and of those it is compared with, by name."""
    selection = search.selection
    rows = dict(zip(COMPANIONS, (selection.best_single, selection.all, selection.greedy), strict=True))
    return {CHOSEN: search.chosen} | {name: row.subset for name, row in rows.items() if row is not None}


def singles_to_fit(search: Search) -> dict[str, Subset]:
    """Return every encoder of the pool that the search scored by itself, by name."""
    board = search.leaderboard
    return {name: (name,) for name in board.encoders if board.get([name]) is not None}


def fit_predictors(problem: Problem, search: Search, rows: NDArray[np.int64], *, threads: int) -> dict[str, Predictor]:
    """Fit the chosen predictor and those it is compared with on the given rows.

    Returns
    -------
    dict of str to Predictor
        ``chosen`` first; ``best_single``, ``all`` and ``greedy`` where the search scored them. One subset is fitted
        once, however many names it has.
    """
    fit = Fit(problem, head_of(problem.config, search.head))
    blocks, labels = problem.blocks.take(rows), problem.labels[rows]
    fitted: dict[Subset, Predictor] = {}

    def fitted_on(subset: Subset) -> Predictor:
        if subset not in fitted:
            fitted[subset] = fit(blocks, labels, encoders=subset, seed=problem.config.seed, threads=threads)
        return fitted[subset]

    found: dict[str, Predictor] = {}
    for name, encoders in encoders_to_fit(search).items():
        if name == CHOSEN and search.ensemble is not None and len(search.ensemble.members) > 1:
            members = [fitted_on(subset) for subset in search.ensemble.members]
            found[name] = average(members, pool=problem.blocks.encoders)
        else:
            found[name] = fitted_on(encoders)
    return found


def fit_models(problem: Problem, search: Search, embeddings: EmbeddingSet, *, threads: int) -> dict[str, BioFuseModel]:
    """Fit the chosen predictor and those it is compared with on the development data.

    Returns
    -------
    dict of str to BioFuseModel
        As of :func:`fit_predictors`.
    """
    predictors = fit_predictors(problem, search, problem.fitted_rows, threads=threads)
    return _as_models(predictors, problem, search, embeddings)


def fit_singles(
    problem: Problem,
    search: Search,
    embeddings: EmbeddingSet,
    models: Mapping[str, BioFuseModel],
    *,
    threads: int,
) -> dict[str, BioFuseModel]:
    """Fit every encoder of the pool by itself on the development data, for a ranking of encoders on test data.

    Returns
    -------
    dict of str to BioFuseModel
        By encoder. One that stands by itself among ``models`` is taken from there; without a search there are none.
    """
    known = {model.encoders: model for model in models.values()}
    singles = singles_to_fit(search)
    fit, rows = Fit(problem, head_of(problem.config, search.head)), problem.fitted_rows
    blocks, labels = problem.blocks.take(rows), problem.labels[rows]
    fitted = _as_models(
        {
            name: fit(blocks, labels, encoders=subset, seed=problem.config.seed, threads=threads)
            for name, subset in singles.items()
            if subset not in known
        },
        problem, search, embeddings,
    )  # fmt: skip
    return {name: fitted[name] if name in fitted else known[subset] for name, subset in singles.items()}


def _as_models(
    predictors: Mapping[str, Predictor], problem: Problem, search: Search, embeddings: EmbeddingSet
) -> dict[str, BioFuseModel]:
    facts = {
        "fitted_on": problem.fitted_on,
        "version": importlib.metadata.version("biofuse-embed"),
        "n_samples": len(problem.fitted_rows),
        "data": problem.samples.name,
        "selection": search.reason,
        "config": problem.config.with_head(search.head).model_dump(mode="json"),
    }
    return {
        name: BioFuseModel(
            cards=tuple(card for card in embeddings.cards if card.name in predictor.encoders),
            predictor=predictor,
            task=problem.task,
            classes=problem.classes,
            decode=problem.samples.decode,
            facts=facts,
            precisions={n: p for n, p in embeddings.precisions.items() if n in predictor.encoders},
        )
        for name, predictor in predictors.items()
    }
