"""Which development rows are fitted on and which are scored."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import LeakageError, SearchError
from biofuse.core.hashing import digest, digest_json

Rows = NDArray[np.int64]

DEVELOPMENT = frozenset({"train", "val"})
"""The splits that a search may see."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidationPlan:
    """Cross-validation folds, or one hold-out split, of development data.

    Attributes
    ----------
    kind : {"cv", "holdout"}
        How the rows were divided.
    ids : ndarray of str (dtype object), shape (n,)
        The development samples; rows below are indices into them.
    folds : tuple of (fit_rows, score_rows)
        Rows within a fold are ordered by id, so that the order of the table cannot matter to a fit.
    n_repeats : int
        How often the data were divided into folds anew.
    notes : tuple of str
        What a reader should know, such as a number of folds that had to fall.
    """

    kind: Literal["cv", "holdout"]
    ids: NDArray[np.object_]
    folds: tuple[tuple[Rows, Rows], ...]
    n_repeats: int = 1
    notes: tuple[str, ...] = ()

    @classmethod
    def cross_validation(
        cls,
        folds: Iterable[tuple[ArrayLike, ArrayLike]],
        *,
        ids: ArrayLike,
        splits: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        n_repeats: int = 1,
        notes: Sequence[str] = (),
    ) -> "ValidationPlan":
        """Plan from (training rows, held-out rows) pairs.

        Parameters
        ----------
        folds : iterable of (rows, rows)
            Indices into ``ids``; held-out rows are scored by a predictor fitted on the training rows.
        ids : array-like of str, shape (n,)
            The development samples.
        splits, groups : array-like of str, shape (n,), optional
            Checked where given: a test row, or a group on both sides of a fold, raises.

        Raises
        ------
        LeakageError
            If test rows are among the samples, or a row or group is both fitted on and scored.
        SearchError
            If there is no fold, or one without rows to fit or to score.
        """
        names = _development(ids, splits)
        return cls(kind="cv", ids=names, folds=_folds(folds, names, groups), n_repeats=n_repeats, notes=tuple(notes))

    @classmethod
    def holdout(cls, *, ids: ArrayLike, splits: ArrayLike, groups: ArrayLike | None = None) -> "ValidationPlan":
        """Plan to fit on the rows of split ``train`` and to score those of split ``val``.

        Raises
        ------
        LeakageError, SearchError
            As for :meth:`cross_validation`.
        """
        names = _development(ids, splits)
        where = np.asarray(splits).astype(str)
        pair = (np.flatnonzero(where == "train"), np.flatnonzero(where == "val"))
        return cls(kind="holdout", ids=names, folds=_folds([pair], names, groups))

    @property
    def n_train(self) -> tuple[int, ...]:
        """Rows fitted on, per fold."""
        return tuple(len(fit) for fit, _ in self.folds)

    @property
    def n_test(self) -> tuple[int, ...]:
        """Rows scored, per fold."""
        return tuple(len(score) for _, score in self.folds)

    def key(self) -> str:
        """Hash of the division; the order of the table does not take part."""

        def names(rows: Rows) -> str:
            return digest(*(str(self.ids[row]).encode() for row in rows)).hex()

        return digest_json([self.kind, [[names(fit), names(score)] for fit, score in self.folds]])


def search_key(
    *,
    plan: ValidationPlan,
    labels: NDArray[np.int64],
    fingerprints: Sequence[tuple[str, str]],
    settings: dict[str, Any],
) -> str:
    """Hash everything that decides the scores of a search; a leaderboard of another key is never resumed.

    Parameters
    ----------
    plan : ValidationPlan
        Its samples and folds.
    labels : ndarray of int64, shape (n,) or (n, n_labels)
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


def _development(ids: ArrayLike, splits: ArrayLike | None) -> NDArray[np.object_]:
    names = np.asarray(ids, dtype=object)
    if len(set(names.tolist())) != len(names):
        raise SearchError("Sample ids are not unique.")
    if splits is not None:
        where = np.asarray(splits).astype(str)
        outside = sorted(set(where.tolist()) - DEVELOPMENT)
        if outside:
            count = int(np.isin(where, outside).sum())
            raise LeakageError(
                f"{count} samples of split {', '.join(outside)} were given to a search, which sees train and val only.",
                remedy='Pass samples.in_split("train", "val").',
            )
    return names


def _folds(
    folds: Iterable[tuple[ArrayLike, ArrayLike]], names: NDArray[np.object_], groups: ArrayLike | None
) -> tuple[tuple[Rows, Rows], ...]:
    rank = np.argsort(np.argsort(names.astype(str), kind="stable"))
    unit = None if groups is None else np.asarray(groups).astype(str)
    checked = []
    for number, pair in enumerate(folds, start=1):
        fit, score = (np.asarray(rows, dtype=np.int64) for rows in pair)
        if not len(fit) or not len(score):
            raise SearchError(
                f"Fold {number} fits on {len(fit)} rows and scores {len(score)}.",
                remedy="Give both train and val samples, or use cross-validation.",
            )
        if len(np.intersect1d(fit, score)):
            raise LeakageError(f"Fold {number} scores rows that it was fitted on.")
        shared = [] if unit is None else np.intersect1d(unit[fit], unit[score]).tolist()
        if shared:
            raise LeakageError(
                f"Fold {number} has {len(shared)} groups on both sides, e.g. {shared[0]!r}.",
                remedy="Split by group, so that each patient or slide is on one side.",
            )
        checked.append((fit[np.argsort(rank[fit])], score[np.argsort(rank[score])]))
    if not checked:
        raise SearchError("There is no fold to score on.", remedy="Ask for at least two folds.")
    return tuple(checked)
