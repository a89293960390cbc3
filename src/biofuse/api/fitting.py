"""From development embeddings to a chosen subset and fitted models."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.api.config import Config
from biofuse.api.embedding import EmbeddingSet
from biofuse.api.evaluation import CHOSEN, hex_contents
from biofuse.api.leakage import refuse_leaked_labels
from biofuse.blocks import Blocks
from biofuse.core.errors import DataError
from biofuse.core.hashing import digest_json
from biofuse.core.tasks import Task
from biofuse.data.samples import Samples
from biofuse.data.splits import make_folds, merge_groups, with_splits
from biofuse.extract import Progress
from biofuse.fusion import Concatenation, Fusion, make_fusion
from biofuse.heads import Head, make_head
from biofuse.model import BioFuseModel
from biofuse.predictors import fit_predictor
from biofuse.search import (
    Cost,
    Leaderboard,
    RefitScorer,
    Selection,
    Subset,
    ValidationPlan,
    make_strategy,
    run_search,
    search_key,
    select,
)

METRICS = ("auroc", "accuracy", "balanced_accuracy", "log_loss")
"""Columns of the leaderboard."""

HOLDOUT = (0.8, 0.2, 0.0)
"""Shares of train, val and test where selection by hold-out needs a validation split and none is given: DESIGN.md's 60
to 15 for train and val, without a test split."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Everything a search needs, aligned.

    Attributes
    ----------
    blocks : Blocks
        Development embeddings, in pool order.
    labels : ndarray of int64
        Shape (n,) or (n, n_labels).
    samples : Samples
        The development samples, same rows.
    plan : ValidationPlan
    fusion : Fusion
    head : Head
    config : Config
    key : str
        Hash of everything that decides the scores.
    """

    blocks: Blocks
    labels: NDArray[np.int64]
    samples: Samples
    plan: ValidationPlan
    fusion: Fusion
    head: Head
    config: Config
    key: str

    @property
    def task(self) -> Task:
        """The kind of labels."""
        if self.samples.task is None:
            raise DataError(f"{self.samples.name} has no labels.")
        return self.samples.task

    @property
    def fitted_rows(self) -> NDArray[np.int64]:
        """Rows the final models are fitted on, by id: train and validation after cross-validation, else train."""
        order: NDArray[np.int64] = np.argsort(self.samples.ids.astype(str), kind="stable")
        if self.config.select == "cv" or self.samples.splits is None:
            return order
        train = self.samples.splits[order] == "train"
        return np.asarray(order[train], dtype=np.int64)

    @property
    def fitted_on(self) -> str:
        """The same in words."""
        return "train + val" if self.config.select == "cv" else "train"


def make_parts(config: Config) -> tuple[Fusion, Head]:
    """Return the fusion and the head that were asked for.

    Raises
    ------
    SearchError
        If one of them does not exist.
    """
    head = make_head(config.head, class_weight=config.class_weight)
    fusion = Concatenation(scaling=config.scaling) if config.fusion == "concatenation" else make_fusion(config.fusion)
    return fusion, head


def pose(embeddings: EmbeddingSet, config: Config) -> Problem:
    """Plan the validation of development embeddings.

    Raises
    ------
    DataError
        If there are fewer than two classes, or a class has too few samples or groups to be validated.
    LeakageError
        If a column of an embedding is the label itself.
    """
    samples, labels = embeddings.samples, embeddings.samples.labels
    if labels is None:
        raise DataError(f"{samples.name} has no labels.")
    if not len(samples):
        raise DataError(f"No image of {samples.name} could be read.", remedy="`biofuse check` lists what is wrong.")
    refuse_leaked_labels(embeddings.blocks, labels)
    contents = hex_contents(embeddings)
    notes = []
    if config.select == "holdout" and samples.splits is not None and "val" not in set(samples.splits.tolist()):
        samples = with_splits(
            replace(samples, splits=None), seed=config.seed, fractions=HOLDOUT, contents=contents.tolist()
        )
        notes.append(f"Validation samples ({HOLDOUT[1]:.0%}) were taken out of train by a hash of ids and the seed.")
    plan = _plan(samples, contents, config)
    plan = replace(plan, notes=(*notes, *plan.notes))
    fusion, head = make_parts(config)
    order = np.argsort(samples.ids.astype(str), kind="stable")
    settings: dict[str, Any] = {
        "fusion": [fusion.name, fusion.options],
        "head": [head.name, head.options],
        "metrics": METRICS,
        "seed": config.seed,
        "task": str(samples.task),
        "classes": list(samples.classes),
        "contents": digest_json([str(contents[row]) for row in order]),
    }
    fingerprints = [(card.name, card.fingerprint()) for card in embeddings.cards]
    return Problem(
        blocks=embeddings.blocks,
        labels=labels,
        samples=samples,
        plan=plan,
        fusion=fusion,
        head=head,
        config=config,
        key=search_key(plan=plan, labels=labels, fingerprints=fingerprints, settings=settings),
    )


def search(
    problem: Problem,
    *,
    sink: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    announce: Callable[[Cost], None] | None = None,
    yes: bool = False,
) -> tuple[Leaderboard, Selection]:
    """Score subsets and choose one.

    Parameters
    ----------
    problem : Problem
    sink : Path, optional
        Where scores are kept as they come in; a killed search goes on from there.
    workers : int, optional
        Processes; by default one per core.
    progress : Progress, optional
    announce : callable, optional
        Told the expected cost before the work starts.
    yes : bool, default False
        Whether a search of more than an hour is wanted.
    """
    scorer = RefitScorer(
        problem.blocks,
        problem.labels,
        plan=problem.plan,
        fit=_Fit(problem.fusion, problem.head, problem.task, len(problem.samples.classes)),
        task=problem.task,
        classes=problem.samples.classes,
        metrics=METRICS,
        seed=problem.config.seed,
    )
    leaderboard = run_search(
        problem.blocks.encoders,
        make_strategy(problem.config.search),
        scorer,
        metric=problem.config.metric,
        sink=sink,
        key=problem.key,
        workers=workers,
        progress=progress,
        announce=announce,
        yes=yes,
    )
    chance = _majority(problem.labels) if problem.config.metric == "accuracy" and problem.labels.ndim == 1 else None
    return leaderboard, select(leaderboard, rule=problem.config.rule, metric=problem.config.metric, chance=chance)


def subsets_to_fit(selection: Selection) -> dict[str, Subset]:
    """Return the chosen subset and those it is compared with, by name."""
    rows = {
        CHOSEN: selection.chosen,
        "best_single": selection.best_single,
        "all": selection.all,
        "greedy": selection.greedy,
    }
    return {name: row.subset for name, row in rows.items() if row is not None}


def fit_models(
    problem: Problem, selection: Selection, embeddings: EmbeddingSet, *, threads: int
) -> dict[str, BioFuseModel]:
    """Fit the chosen subset and those it is compared with on the development data.

    Returns
    -------
    dict of str to BioFuseModel
        ``chosen`` first; ``best_single``, ``all`` and ``greedy`` where the search scored them. One subset is fitted
        once, however many names it has.
    """
    subsets = subsets_to_fit(selection)
    fitted: dict[Subset, BioFuseModel] = {}
    for subset in subsets.values():
        if subset not in fitted:
            fitted[subset] = _fit_model(problem, subset, selection, embeddings, threads=threads)
    return {name: fitted[subset] for name, subset in subsets.items()}


class _Fit:
    """Fits one predictor; an object rather than a closure, so that it travels to worker processes."""

    def __init__(self, fusion: Fusion, head: Head, task: Task, n_classes: int) -> None:
        self._fit = partial(fit_predictor, fusion=fusion, head=head, task=task, n_classes=n_classes)

    def __call__(self, blocks: Blocks, labels: NDArray[np.int64], *, encoders: Subset, seed: int, threads: int) -> Any:
        return self._fit(blocks, labels, encoders=encoders, seed=seed, threads=threads)


def _fit_model(
    problem: Problem, subset: Subset, selection: Selection, embeddings: EmbeddingSet, *, threads: int
) -> BioFuseModel:
    rows = problem.fitted_rows
    predictor = fit_predictor(
        problem.blocks.take(rows),
        problem.labels[rows],
        encoders=subset,
        fusion=problem.fusion,
        head=problem.head,
        task=problem.task,
        n_classes=len(problem.samples.classes),
        seed=problem.config.seed,
        threads=threads,
    )
    return BioFuseModel(
        cards=tuple(card for card in embeddings.cards if card.name in subset),
        predictor=predictor,
        task=problem.task,
        classes=problem.samples.classes,
        decode=problem.samples.decode,
        facts={
            "fitted_on": problem.fitted_on,
            "version": importlib.metadata.version("biofuse-embed"),
            "n_samples": len(rows),
            "data": problem.samples.name,
            "selection": selection.reason,
            "config": problem.config.model_dump(mode="json"),
        },
    )


def _plan(samples: Samples, contents: NDArray[np.str_], config: Config) -> ValidationPlan:
    repeated = len(set(contents.tolist())) < len(contents)
    units = samples.groups
    if repeated:
        units = merge_groups(None if units is None else units.tolist(), contents.tolist())
    if config.select == "holdout":
        if samples.splits is None:
            raise DataError(f"{samples.name} has no validation split.")
        plan = ValidationPlan.holdout(ids=samples.ids, splits=samples.splits)
        return replace(plan, notes=_shared_by_splits(contents, samples.splits))
    if samples.labels is None:
        raise DataError(f"{samples.name} has no labels.")
    folds = make_folds(
        samples.labels,
        ids=samples.ids.tolist(),
        groups=None if units is None else units.tolist(),
        n_folds=config.folds,
        n_repeats=config.repeats,
        seed=config.seed,
        classes=samples.classes,
    )
    return ValidationPlan.cross_validation(
        folds.folds,
        ids=samples.ids,
        splits=samples.splits,
        groups=units,
        n_repeats=folds.n_repeats,
        notes=folds.notes,
    )


def _shared_by_splits(contents: NDArray[np.str_], splits: NDArray[np.object_]) -> tuple[str, ...]:
    shared = int(np.isin(contents[splits == "val"], contents[splits == "train"]).sum())
    if not shared:
        return ()
    overlap = f"{shared} of {int((splits == 'val').sum())} validation samples are also training samples, byte for byte"
    return (f"{overlap}: selection by this split is optimistic.",)


def _majority(labels: NDArray[np.int64]) -> float:
    return float(np.bincount(labels).max() / len(labels))
