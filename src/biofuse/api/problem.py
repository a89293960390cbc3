"""A search as it is posed: development embeddings, labels, and the plan by which subsets are validated."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.api.config import AUTO, Config
from biofuse.api.embedding import EmbeddingSet
from biofuse.api.evaluation import hex_contents
from biofuse.api.leakage import refuse_leaked_labels
from biofuse.blocks import Blocks
from biofuse.core.errors import DataError
from biofuse.core.hashing import digest_json
from biofuse.core.tasks import Task
from biofuse.data.samples import Samples
from biofuse.data.splits import make_folds, merge_groups, with_splits
from biofuse.fusion import Concatenation, Fusion, make_fusion
from biofuse.heads import Head, make_head
from biofuse.search import ValidationPlan, search_key

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
    contents : ndarray of str, shape (n,)
        Hexadecimal content hashes.
    fingerprints : tuple of (name, fingerprint)
        The encoders in pool order.
    plan : ValidationPlan
    config : Config
    """

    blocks: Blocks
    labels: NDArray[np.int64]
    samples: Samples
    contents: NDArray[np.str_]
    fingerprints: tuple[tuple[str, str], ...]
    plan: ValidationPlan
    config: Config

    @property
    def task(self) -> Task:
        """The kind of labels."""
        if self.samples.task is None:
            raise DataError(f"{self.samples.name} has no labels.")
        return self.samples.task

    @property
    def classes(self) -> tuple[str, ...]:
        """Class or label names."""
        return self.samples.classes

    @property
    def units(self) -> NDArray[np.object_] | None:
        """What stays together: groups, joined where samples are byte for byte the same; None where every row is one."""
        return _units(self.samples, self.contents)

    @property
    def chance(self) -> float | None:
        """What guessing scores, where the metric alone does not say it."""
        if self.config.metric == "accuracy" and self.labels.ndim == 1:
            return float(np.bincount(self.labels).max() / len(self.labels))
        return None

    @property
    def fitted_rows(self) -> NDArray[np.int64]:
        """Rows the final models are fitted on, by id: train and validation after cross-validation, else train."""
        order: NDArray[np.int64] = np.argsort(self.samples.ids.astype(str), kind="stable")
        if self.config.cross_validates or self.samples.splits is None:
            return order
        train = self.samples.splits[order] == "train"
        return np.asarray(order[train], dtype=np.int64)

    @property
    def fitted_on(self) -> str:
        """The same in words."""
        return "train + val" if self.config.cross_validates else "train"

    def key(self, **settings: Any) -> str:
        """Hash everything that decides scores: data, folds, encoders, and the settings given (JSON values)."""
        order = np.argsort(self.samples.ids.astype(str), kind="stable")
        common = {
            "seed": self.config.seed,
            "task": str(self.task),
            "classes": list(self.classes),
            "contents": digest_json([str(self.contents[row]) for row in order]),
        }
        return search_key(
            plan=self.plan, labels=self.labels, fingerprints=self.fingerprints, settings=common | settings
        )

    def restrict(self, rows: NDArray[np.int64]) -> Self:
        """Return the same search on some of the rows, cross-validated within them."""
        samples, contents = self.samples.take(rows), self.contents[rows]
        return replace(
            self,
            blocks=self.blocks.take(rows),
            labels=self.labels[rows],
            samples=samples,
            contents=contents,
            plan=make_plan(samples, contents, self.config),
        )


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
    if not config.cross_validates and samples.splits is not None and "val" not in set(samples.splits.tolist()):
        samples = with_splits(
            replace(samples, splits=None), seed=config.seed, fractions=HOLDOUT, contents=contents.tolist()
        )
        notes.append(f"Validation samples ({HOLDOUT[1]:.0%}) were taken out of train by a hash of ids and the seed.")
    plan = make_plan(samples, contents, config)
    return Problem(
        blocks=embeddings.blocks,
        labels=labels,
        samples=samples,
        contents=contents,
        fingerprints=tuple(
            (card.name, card.fingerprint(precision=embeddings.precisions.get(card.name, "fp32")))
            for card in embeddings.cards
        ),
        plan=replace(plan, notes=(*notes, *plan.notes)),
        config=config,
    )


def fusion_of(config: Config) -> Fusion:
    """Return the fusion that was asked for.

    Raises
    ------
    SearchError
        If there is none of that name.
    """
    return Concatenation(scaling=config.scaling) if config.fusion == "concatenation" else make_fusion(config.fusion)


def head_of(config: Config, name: str | None = None) -> Head:
    """Return a head with the class weights that were asked for; by default the configured one.

    Raises
    ------
    SearchError
        If there is none of that name.
    """
    return make_head(name or config.head, class_weight=config.class_weight)


def check_parts(config: Config) -> None:
    """Refuse a head or fusion that does not exist, before hours of embedding.

    Raises
    ------
    SearchError
        If one of them does not exist.
    """
    fusion_of(config)
    if config.head != AUTO:
        head_of(config)


def make_plan(samples: Samples, contents: NDArray[np.str_], config: Config) -> ValidationPlan:
    """Divide development samples as the options say; groups and identical contents stay whole.

    Raises
    ------
    DataError
        If there are no labels, no validation split where one is asked for, or too few samples of a class.
    """
    if not config.cross_validates:
        if samples.splits is None:
            raise DataError(f"{samples.name} has no validation split.")
        plan = ValidationPlan.holdout(ids=samples.ids, splits=samples.splits)
        return replace(plan, notes=_shared_by_splits(contents, samples.splits))
    if samples.labels is None:
        raise DataError(f"{samples.name} has no labels.")
    units = _units(samples, contents)
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


def _units(samples: Samples, contents: NDArray[np.str_]) -> NDArray[np.object_] | None:
    if len(set(contents.tolist())) == len(contents):
        return samples.groups
    merged = merge_groups(None if samples.groups is None else samples.groups.tolist(), contents.tolist())
    return np.asarray(merged, dtype=object)


def _shared_by_splits(contents: NDArray[np.str_], splits: NDArray[np.object_]) -> tuple[str, ...]:
    shared = int(np.isin(contents[splits == "val"], contents[splits == "train"]).sum())
    if not shared:
        return ()
    overlap = f"{shared} of {int((splits == 'val').sum())} validation samples are also training samples, byte for byte"
    return (f"{overlap}: selection by this split is optimistic.",)
