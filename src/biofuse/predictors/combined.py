"""Predictors made of others: averages, and late fusion; and reading back any that was saved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, BioFuseError, SearchError
from biofuse.core.hashing import derive_seed
from biofuse.core.seals import Sealed
from biofuse.core.target import Labels, Target, Task
from biofuse.data.splits import ValidationPlan, make_folds
from biofuse.fusion.base import Fusion
from biofuse.heads.base import ClassWeight, Head, Scores
from biofuse.heads.linear import FittedLinear
from biofuse.heads.logistic import Logistic
from biofuse.heads.ridge import Ridge
from biofuse.predictors.attention import AttentionPredictor
from biofuse.predictors.fused import (
    FusedPredictor,
    Predictor,
    below,
    fit_predictor,
    in_order,
    log_odds,
    member_folders,
    read_artefact,
    readable,
    write_artefact,
)
from biofuse.predictors.mean import MeanPredictor


def union(members: Sequence[Predictor], *, pool: Sequence[str]) -> tuple[str, ...]:
    """Return the encoders of all members, in pool order.

    Raises
    ------
    AlignmentError
        If one is not in the pool, or the pool names one twice.
    SearchError
        If there are no members, or they are not about the same task.
    """
    if not members:
        raise SearchError("There are no predictors to combine.")
    about = {(member.task, member.n_classes) for member in members}
    if len(about) > 1:
        listed = ", ".join(sorted(f"{task} over {n_classes} classes" for task, n_classes in about))
        raise SearchError(f"The predictors to combine are about different tasks: {listed}.")
    needed = {name for member in members for name in member.encoders}
    if needed - set(pool) or len(set(pool)) != len(pool):
        raise AlignmentError(
            f"The pool ({', '.join(pool) or 'empty'}) must name each encoder once; the predictors to combine need "
            f"{', '.join(sorted(needed))}."
        )
    return tuple(name for name in pool if name in needed)


def probabilities(members: Sequence[Predictor], blocks: Blocks) -> Scores:
    """Return the members' probabilities, shape (n_members, n, n_classes)."""
    return np.stack([member.predict_proba(blocks) for member in members])


def notes_of(members: Sequence[Predictor]) -> tuple[str, ...]:
    """Return the members' notes, each with the encoders it is about; once where all say the same."""
    common = set(members[0].notes).intersection(*(member.notes for member in members))
    own = [
        f"{' + '.join(member.encoders)}: {note}" for member in members for note in member.notes if note not in common
    ]
    return tuple(dict.fromkeys([*(note for note in members[0].notes if note in common), *own]))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Combined:
    """What predictors that are made of others share; ``kind`` is what ``predictor.json`` calls each."""

    kind: ClassVar[str]

    members: tuple[Predictor, ...]
    encoders: tuple[str, ...]

    @property
    def task(self) -> Task:
        """Kind of task."""
        return self.members[0].task

    @property
    def n_classes(self) -> int:
        """Number of classes, or labels."""
        return self.members[0].n_classes


@dataclass(frozen=True, kw_only=True, eq=False)
class EnsemblePredictor(_Combined):
    """The mean of the probabilities of several predictors, of whatever subsets; see :func:`average`.

    Attributes
    ----------
    members : tuple of Predictor
        All about the same task.
    encoders : tuple of str
        Those of all members, in pool order.
    """

    kind = "ensemble"

    @property
    def notes(self) -> tuple[str, ...]:
        """The members' notes, each with the encoders it is about."""
        return notes_of(self.members)

    def predict_proba(self, blocks: Blocks) -> Scores:
        """Return the mean probabilities; see :meth:`Predictor.predict_proba`."""
        return np.asarray(probabilities(self.members, blocks.only(self.encoders)).mean(axis=0))

    def decision(self, blocks: Blocks) -> Scores:
        """Return the log-odds of the mean probabilities, which rank as those do."""
        return log_odds(self.predict_proba(blocks), task=self.task)

    def save(self, folder: Path) -> None:
        """Write it and its members; see :meth:`Predictor.save`."""
        write_artefact(
            folder, kind=self.kind, content={"encoders": list(self.encoders)}, arrays={}, members=self.members
        )

    @classmethod
    def from_artefact(
        cls,
        folder: Path,
        content: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],  # noqa: ARG003 (it has none of its own)
        members: Sequence[Predictor],
    ) -> Self:
        """Build it from what was read; ``folder`` is named in errors only."""
        return cls(members=tuple(members), encoders=read_encoders(folder, content, members))


def average(members: Sequence[Predictor], *, pool: Sequence[str]) -> EnsemblePredictor:
    """Average the probabilities of several predictors.

    Parameters
    ----------
    members : sequence of Predictor
        Fitted, of any subsets and any kind.
    pool : sequence of str
        Encoder names in pool order, others included.

    Raises
    ------
    AlignmentError
        If an encoder of a member is not in the pool, or the pool names one twice.
    SearchError
        If there are no members, or they are not about the same task.
    """
    return EnsemblePredictor(members=tuple(members), encoders=union(members, pool=pool))


def read_encoders(folder: Path, content: Mapping[str, Any], members: Sequence[Predictor]) -> tuple[str, ...]:
    """Return the saved encoders of a predictor made of others.

    Raises
    ------
    ArtifactError
        If they are not those of its members.
    """
    saved = content.get("encoders")
    try:
        encoders = union(members, pool=[str(name) for name in saved] if isinstance(saved, list) else [])
    except BioFuseError as error:
        raise ArtifactError(f"The predictors in {folder} do not belong together: {error.message}") from error
    if list(encoders) != saved:
        raise ArtifactError(f"The predictors in {folder} do not belong together.", remedy="Fit again.")
    return encoders


SMALLEST = 1e-6
"""Probability below which the meta-learner sees no difference: one encoder that is sure and wrong shall not decide a
fit, and heads that count neighbours give zeros."""

META_C = 0.1
"""Inverse penalty of the meta-learner, as in scikit-learn: a normal prior with variance .1 on its coefficients. A
coefficient of 1 takes an encoder's log-probabilities as they stand; several encoders share what one would get. Of .003
to 10, log-loss on blood cells (80 and 250 rows, 7 encoders) is least at .3 to 1, on brain MRI at .03 (400 rows) and .01
(1,500 rows), and at .1 within .035 of the least in all four cases."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LateFusion(_Combined):
    """Predictors of single encoders, combined; see :func:`fit_late_fusion`.

    Attributes
    ----------
    members : tuple of Predictor
        One for each encoder, in pool order.
    encoders : tuple of str
        In pool order.
    meta : FittedLinear or None
        What maps the members' log-probabilities to probabilities (stacking). None: they are averaged.
    remarks : tuple of str
        What was noticed about the inner folds.
    """

    kind = "late-fusion"

    meta: FittedLinear | None = None
    remarks: tuple[str, ...] = ()

    @property
    def how(self) -> Literal["average", "stacking"]:
        """How the members are combined."""
        return "average" if self.meta is None else "stacking"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user would want to know about the fit."""
        own = self.remarks + (self.meta.notes if self.meta is not None else ())
        return (*notes_of(self.members), *(f"stacking: {note}" for note in own))

    def predict_proba(self, blocks: Blocks) -> Scores:
        """Return probabilities; see :meth:`Predictor.predict_proba`."""
        found = probabilities(self.members, blocks.only(self.encoders))
        if self.meta is None:
            return np.asarray(found.mean(axis=0))
        return self.meta.predict_proba(meta_features(found, self.task))

    def decision(self, blocks: Blocks) -> Scores:
        """Return log-odds to rank by; see :meth:`~biofuse.heads.base.FittedHead.decision`."""
        found = probabilities(self.members, blocks.only(self.encoders))
        if self.meta is None:
            return log_odds(found.mean(axis=0), task=self.task)
        return self.meta.decision(meta_features(found, self.task))

    def save(self, folder: Path) -> None:
        """Write it, the meta-learner's arrays, and its members; see :meth:`Predictor.save`."""
        state, arrays = ({}, {}) if self.meta is None else self.meta.state()
        content = {"encoders": list(self.encoders), "how": self.how, "meta": state, "remarks": list(self.remarks)}
        meta = {f"meta.{name}": array for name, array in arrays.items()}
        write_artefact(folder, kind=self.kind, content=content, arrays=meta, members=self.members)

    @classmethod
    def from_artefact(
        cls,
        folder: Path,
        content: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        members: Sequence[Predictor],
    ) -> Self:
        """Build it from what was read; ``folder`` is named in errors only."""
        encoders = read_encoders(folder, content, members)
        with readable(folder):
            how = {"average": False, "stacking": True}[content["how"]]
            meta = FittedLinear.restore(content["meta"], below("meta.", arrays)) if how else None
            remarks = tuple(str(note) for note in content["remarks"])
        fitted = cls(members=tuple(members), encoders=encoders, meta=meta, remarks=remarks)
        width = len(members) * fitted.n_classes
        alone = [member.encoders for member in members] == [(name,) for name in encoders]
        if not alone or (meta is not None and (meta.n_features, meta.n_classes) != (width, fitted.n_classes)):
            raise ArtifactError(f"The predictors in {folder} do not belong together.", remedy="Fit again.")
        return fitted


def fit_late_fusion(
    blocks: Blocks,
    labels: Labels,
    *,
    encoders: Sequence[str] | None = None,
    fusion: str | Fusion = "concatenation",
    head: str | Head = "logistic",
    target: Target,
    how: Literal["average", "stacking"] = "average",
    groups: Sequence[object] | NDArray[np.object_] | None = None,
    class_weight: ClassWeight = None,
    sample_weight: NDArray[np.float64] | None = None,
    seed: int = 0,
    threads: int = 1,
    n_folds: int = 5,
) -> LateFusion:
    """Fit one predictor per encoder on training rows, and what combines them.

    ``average`` takes the mean of their probabilities, or values. ``stacking`` learns how far to trust each encoder on
    each class: a logistic regression (softmax; for multi-label tasks one per label) on the logarithms of the
    probabilities that the encoders give to rows they were not fitted on (of values a ridge regression on what they
    predict of them), from inner folds (Wolpert (1992), Neural Networks 5:241-259; with
    probabilities as features: Ting and Witten (1999), JAIR 10:271-289). The members are then refitted on all rows.

    The result is the same, bit for bit, in whatever order rows and encoders are given.

    Parameters
    ----------
    blocks : Blocks
        Training rows.
    labels : ndarray, shape (n,) or (n, n_columns)
        Row i belongs to ``blocks.ids[i]``.
    encoders : sequence of str, optional
        The subset; all encoders of the blocks if not given.
    fusion, head : str or object
        Of every member: registered names, or objects with options of their own.
    target : Target
        What is predicted, classes that are absent included.
    how : {"average", "stacking"}
        How the members are combined.
    groups : sequence of str, shape (n,), optional
        Rows of one group stay in one inner fold.
    class_weight : mapping, "balanced" or None
        Of the meta-learner; the members' are the head's own.
    sample_weight : ndarray of float64, shape (n,), optional
        Weight of each row, for members and meta-learner.
    seed, threads : int
        Given to the heads; the seed also decides the inner folds.
    n_folds : int, default 5
        Inner folds; fewer, with a note, where a class has fewer groups.

    Raises
    ------
    AlignmentError
        If an encoder has no block or is named twice, or there is not one label, weight or group per row.
    DataError
        If the features or labels cannot be used, or a class has samples in one group only (stacking).
    SearchError
        If ``how`` is unknown, or no fusion or head has that name.
    """
    if how not in {"average", "stacking"}:
        raise SearchError(f"Late fusion combines by 'average' or 'stacking', not {how!r}.")
    per_row = {"labels": labels, "sample weights": sample_weight, "groups": groups}
    order, subset = in_order(blocks, encoders, per_row)
    ordered = np.asarray(labels)[order]
    weights = None if sample_weight is None else np.asarray(sample_weight)[order]

    def fit(rows: NDArray[np.integer], encoder: str) -> FusedPredictor:
        return fit_predictor(
            subset.only([encoder]).take(rows),
            ordered[rows],
            fusion=fusion,
            head=head,
            target=target,
            sample_weight=None if weights is None else weights[rows],
            seed=seed,
            threads=threads,
        )

    everything = np.arange(len(order))
    meta: FittedLinear | None = None
    remarks: tuple[str, ...] = ()
    if how == "stacking":
        plan = make_folds(
            target.balanced(ordered),
            ids=subset.ids,
            groups=None if groups is None else [groups[row] for row in order.tolist()],
            n_folds=n_folds,
            n_repeats=1,
            seed=derive_seed(seed, "stacking"),
        )
        held_out = _out_of_fold(plan, subset, fit, shape=(len(subset), len(order), target.n_columns))
        features, remarks = meta_features(held_out, target.kind), plan.notes
        learner = Ridge() if target.measured else Logistic(C=META_C, class_weight=class_weight)
        meta = learner.fit(features, ordered, target=target, sample_weight=weights, seed=seed, threads=threads)
    return LateFusion(
        members=tuple(fit(everything, encoder) for encoder in subset.encoders),
        encoders=subset.encoders,
        meta=meta,
        remarks=remarks,
    )


def _out_of_fold(
    plan: ValidationPlan,
    blocks: Blocks,
    fit: Callable[[NDArray[np.integer], str], Predictor],
    *,
    shape: tuple[int, int, int],
) -> Scores:
    """Return the probabilities that every encoder gives to rows it was not fitted on."""
    held_out = np.full(shape, np.nan)
    for train, test in plan.folds:
        given = blocks.take(test)
        for number, encoder in enumerate(blocks.encoders):
            held_out[number, test] = fit(train, encoder).predict_proba(given)
    return held_out


def meta_features(probability: Scores, task: Task) -> Scores:
    """Return what the meta-learner sees.

    Parameters
    ----------
    probability : ndarray of float64, shape (n_members, n, n_classes)
    task : Task

    Returns
    -------
    ndarray of float64, shape (n, n_members * n_classes)
        Logarithms of the probabilities (for multi-label tasks their log-odds), or the values that are predicted, those
        of each member side by side.
    """
    if task.measured:
        return np.concatenate(list(probability), axis=1)
    cut = np.maximum(probability, SMALLEST)
    logs = np.log(cut)
    if task.several:
        logs = logs - np.log(np.maximum(1 - probability, SMALLEST))
    return np.concatenate(list(logs), axis=1)


KINDS: Mapping[str, Callable[[Path, Mapping[str, Any], Mapping[str, NDArray[Any]], Sequence[Predictor]], Predictor]] = {
    kind.kind: kind.from_artefact
    for kind in (FusedPredictor, MeanPredictor, EnsemblePredictor, LateFusion, AttentionPredictor)
}
"""What builds each kind of predictor of its folder (which errors name), content, arrays and members."""


def load_predictor(sealed: Sealed) -> Predictor:
    """Read what a predictor's ``save`` wrote; nothing in it is executed.

    Parameters
    ----------
    sealed : Sealed
        Its folder, verified by the seal of what it belongs to: nothing else in it is opened.

    Raises
    ------
    ArtifactError
        If something is missing, malformed, of a newer format or of an unknown kind.
    """
    kind, content, arrays = read_artefact(sealed)
    if kind not in KINDS:
        raise ArtifactError(
            f"{sealed.folder} holds a predictor of kind {kind!r}; this version of BioFuse knows {', '.join(KINDS)}.",
            remedy="Update BioFuse: pip install -U biofuse-embed.",
        )
    members = [load_predictor(member) for member in member_folders(sealed, content)]
    return KINDS[kind](sealed.folder, content, arrays, members)
