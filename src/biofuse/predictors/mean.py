"""The mean over heads and sub-subsets: what is lost by choosing one of each is not lost.

Every linear head is fitted to several views of the blocks: each encoder by itself, and all of them together, with equal
say. The logits of one head's views are averaged: a mean of linear functions is linear, so that one map per head is all
that is kept, and predicting costs what one head on all encoders costs. The probabilities of the heads are averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError, SearchError, option
from biofuse.core.target import Labels, Target, Task
from biofuse.fusion.concatenation import Concatenation, FittedConcatenation
from biofuse.heads.base import LINEAR_HEADS, Head, Scores, cheap_heads, check_limits, make_head
from biofuse.heads.linear import FittedLinear
from biofuse.predictors.fused import Predictor, below, log_odds, readable, write_artefact
from biofuse.predictors.shared import TrainingRows


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanPredictor:
    """The mean of the probabilities of linear heads, each itself a mean of logits; see :class:`MeanFits`.

    Attributes
    ----------
    fusion : FittedConcatenation
        Standardised columns side by side.
    heads : mapping of str to FittedLinear
        By name, on all of its columns.
    task : Task
        Kind of task.
    kind : str
        What ``predictor.json`` calls it.
    """

    kind: ClassVar = "mean"

    fusion: FittedConcatenation
    heads: Mapping[str, FittedLinear]
    task: Task

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders whose blocks it takes, in pool order."""
        return self.fusion.encoders

    @property
    def n_classes(self) -> int:
        """Number of classes, or labels."""
        return next(iter(self.heads.values())).n_classes

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user would want to know about the fits, once for all heads that say it."""
        return tuple(dict.fromkeys(note for head in self.heads.values() for note in head.notes))

    def predict_proba(self, blocks: Blocks) -> Scores:
        """Return probabilities; see :meth:`~biofuse.predictors.fused.Predictor.predict_proba`."""
        matrix = self.fusion.transform(blocks)
        return np.asarray(np.mean([head.predict_proba(matrix) for head in self.heads.values()], axis=0))

    def decision(self, blocks: Blocks) -> Scores:
        """Return the log-odds of the mean probabilities, which rank as those do."""
        return log_odds(self.predict_proba(blocks), task=self.task)

    def save(self, folder: Path) -> None:
        """Write ``predictor.json`` and ``arrays.safetensors``; see :meth:`~biofuse.predictors.fused.Predictor.save`."""
        fusion, arrays = self.fusion.state()
        kept = {f"fusion.{name}": array for name, array in arrays.items()}
        heads = []
        for number, (name, head) in enumerate(self.heads.items()):
            state, arrays = head.state()
            heads.append({"name": name, "state": state})
            kept |= {f"head{number}.{key}": array for key, array in arrays.items()}
        content = {
            "task": str(self.task),
            "encoders": list(self.encoders),
            "fusion": fusion,
            "heads": heads,
        }
        write_artefact(folder, kind=self.kind, content=content, arrays=kept)

    @classmethod
    def from_artefact(
        cls,
        folder: Path,
        content: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        members: Sequence[Predictor],  # noqa: ARG003 (it has none)
    ) -> Self:
        """Build it from what was read; ``folder`` is named in errors only."""
        with readable(folder):
            predictor = cls(
                fusion=FittedConcatenation.restore(content["fusion"], below("fusion.", arrays)),
                heads={
                    str(head["name"]): FittedLinear.restore(head["state"], below(f"head{number}.", arrays))
                    for number, head in enumerate(content["heads"])
                },
                task=Task(content["task"]),
            )
        shapes = {(head.n_features, head.n_classes, head.outputs.task) for head in predictor.heads.values()}
        if list(predictor.encoders) != content.get("encoders") or len(shapes) != 1:
            raise ArtifactError(f"The heads in {folder} do not belong together.", remedy="Fit again.")
        if next(iter(shapes))[0] != predictor.fusion.dim:
            raise ArtifactError(f"The fusion and the heads in {folder} do not belong together.", remedy="Fit again.")
        return predictor


TOGETHER = 0.5
"""Weight of the view of all encoders together; the single ones share the rest. Test AUROC / accuracy at 300 rows, seven
encoders, three heads, means of two resamples, for a weight of 0, .5 and 1: brain regions .9809 / .8252, .9801 / .8284,
.9772 / .8205; scikit-learn's digits as images .9890 / .9432, .9897 / .9566, .9897 / .9521; blood cells .9949, .9949,
.9951 / .9916, .9930, .9944. Some forty sub-subsets of all sizes, at many times the cost: .9816 / .8315, .9914 / .9577,
.9949 / .9944. Without equal say, where the encoder with the most columns decides: .9729, .9850, .9954."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What a head is fitted to: encoders with equal say, whatever their number of columns.

    Attributes
    ----------
    encoders : tuple of str
    weight : float
        Of its logits in the mean.
    """

    encoders: tuple[str, ...]
    weight: float


def views_of(encoders: Sequence[str]) -> tuple[View, ...]:
    """Return the views of a subset; their weights add up to 1.

    Examples
    --------
    >>> from biofuse.predictors.mean import views_of
    >>> [(view.encoders, view.weight) for view in views_of(["a", "b"])]
    [(('a',), 0.25), (('b',), 0.25), (('a', 'b'), 0.5)]
    """
    together = tuple(encoders)
    if len(together) == 1:
        return (View(encoders=together, weight=1.0),)
    each = (1 - TOGETHER) / len(together)
    return (*(View(encoders=(name,), weight=each) for name in together), View(encoders=together, weight=TOGETHER))


class MeanFits:
    """Fits of linear heads to the views of many subsets of the same training rows, each made once.

    Subsets share what heads make of single encoders, so that another subset costs one fit per head. Standardisation is
    column by column, so that a view is the same in every subset. Heads have equal weights, views those of
    :func:`views_of`.

    Parameters
    ----------
    blocks : Blocks
        Training rows.
    labels : ndarray, shape (n,) or (n, n_columns)
        Row i belongs to ``blocks.ids[i]``.
    heads : sequence of str or object, optional
        Linear ones: registered names, or objects with options of their own; by default all cheap ones.
    target : Target
        What is predicted, classes that are absent included.
    sample_weight : ndarray of float64, shape (n,), optional
        Weight of each row.
    seed, threads : int
        Given to the heads.

    Raises
    ------
    AlignmentError
        If there is not one label or weight per row.
    SearchError
        If there is no head, or one twice.
    """

    def __init__(
        self,
        blocks: Blocks,
        labels: Labels,
        *,
        heads: Sequence[str | Head] | None = None,
        target: Target,
        sample_weight: NDArray[np.float64] | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self._heads = [make_head(head) for head in (averaged_heads(target) if heads is None else heads)]
        if not self._heads or len({head.name for head in self._heads}) < len(self._heads):
            raise SearchError("A mean over heads needs at least one head, and each once.")
        self._target, self._seed = target, seed
        self._rows = TrainingRows(
            blocks, labels, concatenation=Concatenation(), target=target, sample_weight=sample_weight, threads=threads
        )
        self._fitted: dict[tuple[str, tuple[str, ...]], FittedLinear] = {}

    def predictor(self, encoders: Sequence[str] | None = None) -> MeanPredictor:
        """Return the mean of a subset, all encoders if it is not given.

        It is the same, bit for bit, in whatever order rows and encoders are given.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or is named twice.
        DataError
            If the features or labels cannot be used.
        SearchError
            If a head is not linear, or the problem is beyond its limits.
        """
        names = self._rows.ordered(encoders)
        fusion = self._rows.fusion(names)
        root = np.repeat(np.sqrt(fusion.dims), fusion.dims)
        places = {name: np.arange(fusion.dim)[columns] for name, columns in fusion.columns.items()}
        for head in self._heads:
            check_limits(head, rows=len(self._rows.labels), features=fusion.dim, target=self._target)
        averaged: dict[str, FittedLinear] = {}
        for view in views_of(names):
            columns = np.concatenate([places[name] for name in view.encoders])
            for name, fitted in self._fits(view.encoders).items():
                part = _on_all_columns(
                    fitted, columns=columns, scale=root[columns], width=fusion.dim, weight=view.weight
                )
                averaged[name] = part if name not in averaged else _sum(averaged[name], part)
        return MeanPredictor(fusion=fusion, heads=averaged, task=self._target.kind)

    def _fits(self, encoders: tuple[str, ...]) -> dict[str, FittedLinear]:
        """Return what each head makes of a view: of blocks divided by the root of their number of columns."""
        divisors = {name: float(np.sqrt(self._rows.matrix(name).shape[1])) for name in encoders}
        view = self._rows.view(encoders, divisors=divisors)
        for head in self._heads:
            if (head.name, encoders) in self._fitted:
                continue
            fitted = view.fit(head, seed=self._seed)
            if not isinstance(fitted, FittedLinear):
                raise SearchError(
                    f"The head {head.name} is not linear: a mean over sub-subsets could not be made one map.",
                    remedy=f"Use {option('predictor', 'fused')}, or one of the heads "
                    f"{', '.join(averaged_heads(self._target))}.",
                )
            self._fitted[head.name, encoders] = fitted
        return {head.name: self._fitted[head.name, encoders] for head in self._heads}


def averaged_heads(target: Target) -> tuple[str, ...]:
    """Return the heads that are averaged for such a target: cheap and linear."""
    return tuple(name for name in cheap_heads(target) if name in LINEAR_HEADS)


def _on_all_columns(
    fitted: FittedLinear, *, columns: NDArray[np.int64], scale: Scores, width: int, weight: float
) -> FittedLinear:
    """Return the weighted logits of a view as a function of the columns of all encoders."""
    slope = np.full(len(fitted.intercept), weight) if fitted.slope is None else weight * fitted.slope
    coef = np.zeros((width, len(slope)))
    coef[columns] = fitted.coef * slope / scale[:, None]
    return FittedLinear(outputs=fitted.outputs, coef=coef, intercept=fitted.intercept * slope, notes=fitted.notes)


def _sum(one: FittedLinear, other: FittedLinear) -> FittedLinear:
    """Add up logits of the same classes; what both note is said once."""
    notes = tuple(dict.fromkeys((*one.notes, *other.notes)))
    return replace(one, coef=one.coef + other.coef, intercept=one.intercept + other.intercept, notes=notes)
