"""What a search works on: development embeddings and labels, how they are divided, and the key of all that."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import DataError, LeakageError, SearchError, option
from biofuse.core.hashing import digest_json, to_hex
from biofuse.core.linear import Standard
from biofuse.core.progress import Progress, progress_bars
from biofuse.core.target import Labels, Target, Task
from biofuse.data.samples import Samples, contents_of_images, hash_samples, known_contents
from biofuse.data.splits import ValidationPlan, leave_sites_out, make_folds, units_of, with_splits
from biofuse.evaluation.metrics import check_selectable, default_metric, get_metric
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.options import ExtractOptions
from biofuse.fusion.base import Fusion, fusion_registry, make_fusion
from biofuse.fusion.concatenation import Concatenation
from biofuse.heads.base import ESTIMATOR_PREFIX, Head, head_registry, make_head, other_target, takes
from biofuse.predictors.attention import require_bags
from biofuse.search.config import AUTO, SearchConfig


def search_key(
    *,
    plan: ValidationPlan,
    labels: Labels,
    fingerprints: Sequence[tuple[str, str]],
    settings: dict[str, Any],
) -> str:
    """Hash everything that decides the scores of a search; a leaderboard of another key is never resumed.

    Parameters
    ----------
    plan : ValidationPlan
        Its samples and folds.
    labels : ndarray, shape (n,) or (n, n_columns)
        Labels of ``plan.ids``.
    fingerprints : sequence of (name, fingerprint)
        The encoders in pool order (the order of the fused columns).
    settings : dict
        JSON values: fusion, head and their options, class weights, seed, task, classes, versions.
    """
    order = np.argsort(plan.ids.astype(str), kind="stable")
    samples = [[str(plan.ids[row]), np.asarray(labels[row]).tolist()] for row in order]
    return digest_json(
        {
            "plan": plan.key(),
            "samples": samples,
            "encoders": [list(pair) for pair in fingerprints],
            "settings": settings,
        }
    )


COPIED = 1e-9
"""How far the correlation of an embedding's column with a value may be from 1 where the column is that value: they
are float32, which rounds by 6e-8, and a correlation loses the square of that, and some rounding of its own."""

ENOUGH_ROWS = 10
"""Rows per class from which a column that is constant within every class cannot be chance in real images."""


def refuse_leaked_labels(blocks: Blocks, labels: Labels) -> None:
    """Refuse embeddings of which one column is the label itself.

    An embedding computed from pixels varies within a class. A column that is constant within every class, and differs
    between classes (the label itself, or whether it is a certain class), was written by somebody who knew the labels.
    Classes of fewer than :data:`ENOUGH_ROWS` samples are not looked at. A column that is a value times a constant, plus
    a constant, is that value.

    Parameters
    ----------
    blocks : Blocks
    labels : ndarray, shape (n,) or (n, n_columns)

    Raises
    ------
    LeakageError
        Naming the encoder and the column.
    """
    if np.issubdtype(labels.dtype, np.floating):
        _refuse_copied_values(blocks, labels)
        return
    indicators = labels[:, None] if labels.ndim == 1 else labels
    for target in indicators.T:
        classes, counts = np.unique(target, return_counts=True)
        classes = classes[counts >= ENOUGH_ROWS]
        if len(classes) < 2:
            continue
        for encoder, matrix in blocks.items():
            lows = np.array([matrix[target == name].min(axis=0) for name in classes])
            highs = np.array([matrix[target == name].max(axis=0) for name in classes])
            leaked = (lows == highs).all(axis=0) & (lows != lows[0]).any(axis=0)
            if leaked.any():
                column = int(np.flatnonzero(leaked)[0])
                raise LeakageError(
                    f"Column {column} of encoder {encoder} is the label itself: it is constant within every class and "
                    "differs between classes.",
                    remedy="Leave this encoder out, or correct the embeddings or files it was made from.",
                )


def _refuse_copied_values(blocks: Blocks, labels: Labels) -> None:
    values = labels.reshape(len(labels), -1).astype(np.float64)
    columns = Standard.of(values)(values)
    for encoder, matrix in blocks.items() if len(labels) >= ENOUGH_ROWS else ():
        near = 1 - np.abs(Standard.of(matrix)(matrix).T @ columns).max(axis=1) / len(labels)
        if near.min() < COPIED:
            raise LeakageError(
                f"Column {int(near.argmin())} of encoder {encoder} is the value itself.",
                remedy="Leave this encoder out, or correct the embeddings or files it was made from.",
            )


HOLDOUT = (0.8, 0.2, 0.0)
"""Shares of train, val and test where selection by hold-out needs a validation split and none is given."""


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
    fingerprints : tuple of (name, fingerprint)
        The encoders in pool order.
    plan : ValidationPlan
    config : SearchConfig
    """

    blocks: Blocks
    labels: Labels
    samples: Samples
    fingerprints: tuple[tuple[str, str], ...]
    plan: ValidationPlan
    config: SearchConfig

    @classmethod
    def from_embeddings(cls, embeddings: EmbeddingSet, config: SearchConfig) -> Self:
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
        samples, plan = _planned(samples, config)
        return cls(
            blocks=embeddings.blocks,
            labels=labels,
            samples=samples,
            fingerprints=tuple(
                (card.name, card.fingerprint(precision=embeddings.precisions.get(card.name, "fp32")))
                for card in embeddings.cards
            ),
            plan=plan,
            config=config,
        )

    @property
    def target(self) -> Target:
        """What is predicted."""
        if self.samples.target is None:
            raise DataError(f"{self.samples.name} has no labels.")
        return self.samples.target

    @property
    def task(self) -> Task:
        """The kind of labels."""
        return self.target.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Class or label names."""
        return self.target.classes

    @property
    def units(self) -> NDArray[np.object_] | None:
        """What stays together: groups, joined where samples are byte for byte the same; None where every row is one."""
        return units_of(self.samples)

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """How much each row counts in a fit, 1 on average; None where all count alike."""
        given = self.samples.weights
        return None if given is None else given / given.mean()

    @property
    def chance(self) -> float | None:
        """What guessing scores by the selecting metric; None where that cannot be told."""
        return get_metric(self.config.metric).guessing(self.target, self.labels)

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
        contents = known_contents(self.samples)[order]
        common = {
            "seed": self.config.seed,
            "task": str(self.task),
            "classes": list(self.classes),
            "contents": digest_json(to_hex(contents)),
        }
        if self.blocks.bags is not None:
            common["pooling"] = self.blocks.bags.pooling
        if self.samples.weights is not None:
            common["weights"] = digest_json(self.samples.weights[order].tolist())
        return search_key(
            plan=self.plan, labels=self.labels, fingerprints=self.fingerprints, settings=common | settings
        )

    def restrict(self, rows: NDArray[np.int64], *, seed: int) -> Self:
        """Return the same search on some of the rows, cross-validated within them by another seed."""
        samples, config = self.samples.take(rows), self.config.model_copy(update={"seed": seed})
        return replace(
            self,
            config=config,
            blocks=self.blocks.take(rows),
            labels=self.labels[rows],
            samples=samples,
            plan=make_plan(samples, config),
        )


def fusion_of(config: SearchConfig) -> Fusion:
    """Return the fusion that was asked for.

    Raises
    ------
    SearchError
        If there is none of that name.
    """
    return Concatenation(scaling=config.scaling) if config.fusion == "concatenation" else make_fusion(config.fusion)


def head_of(config: SearchConfig, name: str | None = None) -> Head:
    """Return a head with the class weights that were asked for; by default the configured one.

    Raises
    ------
    SearchError
        If there is none of that name.
    """
    return make_head(name or config.head, class_weight=config.class_weight)


def check_savable(config: SearchConfig) -> None:
    """Refuse a head that could not be saved, before hours of fitting.

    Raises
    ------
    DependencyError, ArtifactError
        As of :meth:`biofuse.heads.estimator.EstimatorHead.check_savable`.
    """
    if config.head.startswith(ESTIMATOR_PREFIX):
        head: Any = head_of(config)
        head.check_savable()


def suited(config: SearchConfig, target: Target) -> SearchConfig:
    """Return the options as they are for a target: the metric is the first that exists for it, unless one was named.

    Raises
    ------
    SearchError
        If what was named is not for such a target: metric, head, predictor, or weights of classes.
    """
    if "metric" not in config.model_fields_set:
        config = config.but(metric=default_metric(target))
    check_selectable(config.metric, target)
    if config.head != AUTO and not takes(head_of(config), target):
        raise other_target(config.head, target)
    if config.class_weight is not None and not target.categorical:
        raise SearchError(
            f"There are no classes that could be weighted: {target.text} is predicted.",
            remedy=f"Leave {option('class_weight')} out; {option('weight')} names a column of weights.",
        )
    if config.predictor == "attention" and not target.categorical:
        raise SearchError(
            f"Attention predicts classes or labels, and here {target.text} is predicted.",
            remedy=f"Leave {option('predictor')} out.",
        )
    if config.predictor == "stacking" and target.timed:
        raise SearchError(
            "Stacking does not predict times to an event.",
            remedy=f"Use {option('predictor', 'average')}, or leave {option('predictor')} out.",
        )
    return config


def check_parts(config: SearchConfig) -> SearchConfig:
    """Return the options with head and fusion as they are written here; refuse those that do not exist.

    Raises
    ------
    SearchError
        If one of them does not exist.
    """
    config = config.model_copy(
        update={"fusion": fusion_registry().spelled(config.fusion), "head": head_registry().spelled(config.head)}
    )
    fusion_of(config)
    if config.head != AUTO:
        head_of(config)
    return config


def check_plan(
    samples: Samples, config: SearchConfig, *, options: ExtractOptions, progress: Progress | bool = False
) -> Samples:
    """Refuse development samples that cannot be validated as the options say, before the first image is embedded.

    Returns
    -------
    Samples
        The same, with the hashes of what was read.

    Raises
    ------
    DataError
        As of :meth:`Problem.from_embeddings`.
    """
    if config.predictor == "attention":
        require_bags(samples.bagged)
    with progress_bars(progress) as shown:
        samples, reasons = hash_samples(samples, progress=shown)
    if reasons and options.on_error == "error":
        return samples  # an extraction says which
    readable = samples.take([row for row in range(len(samples)) if row not in reasons])
    # Files that are all the same, byte for byte, are empty or damaged: an extraction says how.
    if len(np.unique(known_contents(readable))) > 1:
        _planned(readable, config)
        _check_outer_folds(readable, config)
    return samples


def _check_outer_folds(samples: Samples, config: SearchConfig) -> None:
    """Refuse a nested search of which some outer fold leaves too few samples of a class to search on."""
    if config.select != "nested":
        return
    for fit, _ in make_plan(samples, config.model_copy(update={"repeats": 1})).folds:
        try:
            make_plan(samples.take(fit), config)
        except DataError as error:
            raise DataError(
                f"A nested search is repeated without each outer fold, and one of them cannot be: {error.message}",
                remedy=f"{error.remedy} Or use {option('select', 'cv')}.",
            ) from error


def _planned(samples: Samples, config: SearchConfig) -> tuple[Samples, ValidationPlan]:
    """Plan the validation, with a validation split where one is needed and none was given."""
    if config.cross_validates or samples.splits is None or "val" in set(samples.splits.tolist()):
        return samples, make_plan(samples, config)
    samples = with_splits(replace(samples, splits=None), seed=config.seed, fractions=HOLDOUT)
    plan = make_plan(samples, config)
    said = f"Validation samples ({HOLDOUT[1]:.0%}) were taken out of train by a hash of ids and the seed."
    return samples, replace(plan, notes=(said, *plan.notes))


def make_plan(samples: Samples, config: SearchConfig) -> ValidationPlan:
    """Divide development samples as the options say; groups and identical contents stay whole.

    Raises
    ------
    DataError
        If there are no labels, no validation split where one is asked for, or too few samples of a class.
    SearchError
        If the metric to choose by does not exist for what is predicted.
    """
    if samples.target is not None:
        check_selectable(config.metric, samples.target)
    if not config.cross_validates:
        if samples.splits is None:
            raise DataError(f"{samples.name} has no validation split.")
        plan = ValidationPlan.holdout(ids=samples.ids, splits=samples.splits)
        return replace(plan, notes=_shared_by_splits(samples, samples.splits))
    if samples.labels is None:
        raise DataError(f"{samples.name} has no labels.")
    units = units_of(samples)
    labels, strata = _stratified_by(samples)
    if config.select == "site":
        if samples.site is None:
            raise DataError(
                f"{samples.name} has no sites to leave out.", remedy=f"Name their column: {option('site', 'hospital')}."
            )
        return leave_sites_out(
            labels,
            ids=samples.ids.tolist(),
            sites=samples.by[samples.site].tolist(),
            units=None if units is None else units.tolist(),
            seed=config.seed,
            classes=strata,
            splits=samples.splits,
        )
    return make_folds(
        labels,
        ids=samples.ids.tolist(),
        groups=None if units is None else units.tolist(),
        n_folds=config.folds,
        n_repeats=config.repeats,
        seed=config.seed,
        classes=strata,
        splits=samples.splits,
    )


def _stratified_by(samples: Samples) -> tuple[Labels, Sequence[str]]:
    """Return what folds are balanced by: labels, or quantiles of values or times; and what they are called."""
    if samples.target is None or samples.labels is None:
        raise DataError(f"{samples.name} has no labels.")
    found = samples.target.balanced(samples.labels)
    if samples.target.categorical:
        return found, samples.classes
    return found, [f"part {number + 1}" for number in range(found.shape[-1] if found.ndim > 1 else 1)]


def _shared_by_splits(samples: Samples, splits: NDArray[np.object_]) -> tuple[str, ...]:
    """Say how many validation samples have an image in common with training samples."""
    contents, owners = contents_of_images(samples), samples.owners
    val = splits[owners] == "val"
    shared = len(np.unique(owners[val][np.isin(contents[val], contents[splits[owners] == "train"])]))
    if not shared:
        return ()
    overlap = f"{shared} of {int((splits == 'val').sum())} validation samples are also training samples, byte for byte"
    return (f"{overlap}: selection by this split is optimistic.",)
