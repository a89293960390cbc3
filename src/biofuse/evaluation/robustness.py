"""How much of what lies near in an embedding is the site an image comes from, and not its class."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError
from biofuse.core.hashing import generator, hash_order
from biofuse.core.target import Labels
from biofuse.evaluation.intervals import Units, percentile_ends
from biofuse.evaluation.metrics import Record, Score

Matrix = NDArray[np.floating]

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
"""Numbers of neighbours tried: of them the one by which the class is told best, on average over the embeddings, as
Kömen et al. choose it (2025, arXiv:2507.17845)."""

MOST_ROWS = 2000
"""Samples that are looked at, chosen by a hash of their ids: all pairs of them are compared, in a second."""

RESAMPLES = 999
"""Of units, for the intervals."""

EVEN = 0.5
"""The index where class and site count the same."""


class SiteRobustness(Record):
    """The robustness index of one embedding.

    Attributes
    ----------
    name : str
        An encoder, or what a fusion is called.
    index : float
        Of the neighbours that share either the class or the site, but not both, the share that has the class.
    low, high : float
        95 % interval, units drawn with replacement.
    """

    name: str
    index: Score
    low: Score
    high: Score


class Robustness(Record):
    """Robustness indices of several embeddings of the same samples.

    Attributes
    ----------
    column : str
        Of the sites.
    n, n_sites : int
        Samples that were looked at, and their sites.
    neighbours : int
        How many of each sample count.
    by_chance : float
        The index where neighbours are any samples.
    embeddings : tuple of SiteRobustness
    undefined : str
        Why there is no index; empty where there is one.
    """

    column: str
    n: int
    n_sites: int
    neighbours: int = 0
    by_chance: Score = math.nan
    embeddings: tuple[SiteRobustness, ...] = ()
    undefined: str = ""

    def __str__(self) -> str:
        if self.undefined:
            return f"How robust the encoders are to {self.column} cannot be said: {self.undefined}"
        *encoders, chosen = self.embeddings
        least = min(encoders, key=lambda each: each.index)
        most = max(encoders, key=lambda each: each.index)
        return (
            f"Robustness to {self.column} (1: neighbours share the class; 0: they share the {self.column}; "
            f"{self.by_chance:.2f} by chance): {chosen.name} {chosen.index:.2f} (95 % interval {chosen.low:.2f} to "
            f"{chosen.high:.2f}); of the encoders from {least.index:.2f} ({least.name}) to {most.index:.2f} "
            f"({most.name})."
        )


def robustness(
    embeddings: Mapping[str, Matrix],
    labels: Labels,
    sites: Sequence[str] | NDArray[np.object_],
    *,
    column: str,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Robustness:
    """Compute the robustness index of embeddings: the share of the class among neighbours that tell class from site.

    Of the k nearest neighbours (by the angle) of all samples, SO have the same class and another site, OS another class
    and the same site; the index is SO / (SO + OS) (Kömen et al. 2025). Above one half the class counts more, which is
    the same as a ratio SO / OS above one. Neighbours of a sample's own unit (patient, slide) do not count.

    Parameters
    ----------
    embeddings : mapping of str to ndarray, shape (n, dim)
        The last one is spoken of as the one that matters.
    labels : ndarray of int64, shape (n,) or (n, n_labels)
        Classes; of several labels, the set of them is the class.
    sites : sequence of str, shape (n,)
        Blank where unknown: such samples do not take part.
    column : str
        What the sites are called.
    ids : array-like of str, shape (n,)
    groups : array-like of str, shape (n,), optional
        Units; by default each sample is one.
    seed : int
        Of the resamples.

    Raises
    ------
    AlignmentError
        If there are not as many sites as samples.
    """
    place, names = np.asarray(sites).astype(str), np.asarray(ids).astype(str)
    if len(place) != len(labels):
        raise AlignmentError(f"{len(labels)} labels but {len(place)} sites.")
    rows = np.array([row for row in hash_order(names.tolist(), seed=0) if place[row]][:MOST_ROWS], dtype=np.int64)
    rows = np.sort(rows)
    classes = labels if labels.ndim == 1 else np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    classes, place = classes[rows], place[rows]
    units = Units.of(names[rows], None if groups is None else np.asarray(groups)[rows])
    begun = Robustness(column=column, n=len(rows), n_sites=len(np.unique(place)))
    apart = units.of_row[:, None] != units.of_row
    same, here = classes[:, None] == classes, place[:, None] == place
    likely = np.array([(apart & same & ~here).sum(axis=1), (apart & ~same & here).sum(axis=1)], dtype=np.float64)
    if not likely[0].any() or not likely[1].any():
        why = _why(begun.n_sites, same_class=bool(likely[0].any()))
        return begun.model_copy(update={"undefined": why})
    most = int(min(max(NEIGHBOURS), apart.sum(axis=1).min()))
    near = {name: _nearest(matrix[rows], apart, most) for name, matrix in embeddings.items()}
    tried = [k for k in NEIGHBOURS if k <= most] or [most]
    k = max(tried, key=lambda k: np.mean([_told(each[:, :k], classes) for each in near.values()]))
    chances = (likely / apart.sum(axis=1)).sum(axis=1)
    found = {
        "neighbours": k,
        "by_chance": float(chances[0] / chances.sum()),
        "embeddings": tuple(
            _index(name, each[:, :k], same, here, units=units, seed=seed) for name, each in near.items()
        ),
    }
    return begun.model_copy(update=found)


def _why(n_sites: int, *, same_class: bool) -> str:
    if n_sites < 2:
        return "all samples are of one."
    return "no two samples of one have different classes." if same_class else "every class is of one only."


def _nearest(matrix: Matrix, apart: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """Return the k rows of other units at the smallest angle, nearest first, shape (n, k)."""
    unit = matrix.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    likeness = np.where(apart, unit @ unit.T, -np.inf)
    return np.asarray(np.argsort(-likeness, axis=1, kind="stable")[:, :k], dtype=np.int64)


def _told(near: NDArray[np.int64], classes: Labels) -> float:
    """Return how often most of the neighbours have the class of a sample, as the mean over classes."""
    votes = (classes[near][:, :, None] == np.unique(classes)).sum(axis=1)
    right = np.unique(classes)[votes.argmax(axis=1)] == classes
    return float(np.mean([right[classes == each].mean() for each in np.unique(classes)]))


def _index(
    name: str,
    near: NDArray[np.int64],
    same: NDArray[np.bool_],
    here: NDArray[np.bool_],
    *,
    units: Units,
    seed: int,
) -> SiteRobustness:
    rows = np.arange(len(near))[:, None]
    of_class = (same[rows, near] & ~here[rows, near]).sum(axis=1).astype(np.float64)
    of_site = (~same[rows, near] & here[rows, near]).sum(axis=1).astype(np.float64)
    both = np.stack([np.bincount(units.of_row, counts, minlength=units.n) for counts in (of_class, of_site)])
    drawn = generator(seed, "robustness", units.n).multinomial(units.n, np.full(units.n, 1 / units.n), size=RESAMPLES)
    sums = drawn @ both.T
    total = sums.sum(axis=1)
    resampled = np.divide(sums[:, 0], total, out=np.full(RESAMPLES, np.nan), where=total > 0)
    low, high = percentile_ends(resampled, confidence=0.95)
    found = both.sum(axis=1)
    index = float(found[0] / found.sum()) if found.sum() else float("nan")
    return SiteRobustness(name=name, index=index, low=low, high=high)
