"""Of which development rows a search keeps out-of-fold predictions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biofuse.core.hashing import digest
from biofuse.search.plan import ValidationPlan

KEEP_BYTES = 256 * 2**20
"""Most memory for the predictions of all subsets. Enough for every row of some ten thousand rows and classes together,
and for far more rows than a bootstrap needs where there are more."""

NUMBER = 4
"""Bytes of a kept number: leaderboards hold float32."""


def rows_to_keep(
    plan: ValidationPlan, *, n_subsets: int, n_classes: int, keep_bytes: int = KEEP_BYTES
) -> NDArray[np.bool_]:
    """Choose development rows so that their predictions by all subsets fit into a limit.

    All rows where they fit, else those whose ids have the smallest hashes: a choice that depends neither on the order
    of the table nor on labels, folds or chance, and is the same for all subsets and repeats.

    Parameters
    ----------
    plan : ValidationPlan
        Says how often each row is held out.
    n_subsets, n_classes : int
        Predictions per held-out row.
    keep_bytes : int
        Bytes.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    times = np.zeros(len(plan.ids), dtype=np.int64)
    for _, held_out in plan.folds:
        times[held_out] += 1
    allowed = keep_bytes // (NUMBER * n_subsets * n_classes)
    if times.sum() <= allowed:
        return np.ones(len(plan.ids), dtype=np.bool_)
    hashes = np.array([digest(str(name).encode()) for name in plan.ids], dtype=object)
    order = np.argsort(hashes)
    kept = np.zeros(len(plan.ids), dtype=np.bool_)
    kept[order] = np.cumsum(times[order]) <= allowed
    return kept


def kept_in_folds(plan: ValidationPlan, kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """Return, per fold, the held-out rows that are kept, as indices into the development rows."""
    return tuple(held_out[kept[held_out]] for _, held_out in plan.folds)


def positions(held_out: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Return where the kept rows stand among the held-out ones; None for all of them."""
    inside = kept[held_out]
    return None if inside.all() else np.flatnonzero(inside)


def count_subsets(pool: Sequence[str], *, most: int) -> int:
    """Return how many subsets a pool has, or as many as a pool of ``most`` encoders if it is larger."""
    return int(2 ** min(len(pool), most) - 1)
