"""Novelty: how unlike the development data a sample is, by the distances between embeddings."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError
from biofuse.core.hashing import hash_order
from biofuse.core.linear import slices
from biofuse.core.seals import Arrays, reading
from biofuse.evaluation.intervals import SIGNIFICANCE
from biofuse.evaluation.metrics import Record, Score

Values = NDArray[np.float64]
Embeddings = Mapping[str, NDArray[np.floating[Any]]]
"""Encoder to block, shape (n, dim): the same samples row by row."""

COLUMNS = 128
"""Columns that distances are taken in. Random signs keep distances between them within about 12 % (one in sqrt(64))
whatever the data, so that the development samples are not closer together in them than others, as they would be in
components found on themselves."""

ROWS = 2000
"""Most development samples that are kept: 1 MB."""

NEIGHBOURS = 3
"""Nearest development samples whose distances are averaged. On blood cells, classes that were left out are found about
as often with 1 to 3, and less often with 10; of those the most, so that one odd development sample does not decide."""

FOLDS = 10
"""Parts of the development groups, each of which is compared with the others."""

UNUSUAL = 99.0
"""Percentile above which a sample is said to be unlike the development data."""

SMALLEST = 0.001
"""Smallest p-value that is written out."""

AT_ONCE = 1000
"""Samples whose distances are taken at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """What takes embeddings to the columns that distances are taken in, every encoder counting the same.

    Columns are centred and divided by the root of the mean of two variances, their own and that of all columns of their
    encoder: one that hardly ever differs in the development data cannot decide alone. Then random signs add them up.

    Attributes
    ----------
    dims : dict of str to int
        Columns of each encoder, in order.
    mean, scale : ndarray of float32, shape (sum of dims,)
        Of all encoders, one after the other.
    """

    dims: dict[str, int]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def learn(cls, embeddings: Embeddings) -> Self:
        """Learn means and divisors, after which the squares of a sample add up to about 1 for each encoder."""
        means, scales = [], []
        for block in embeddings.values():
            values = block.astype(np.float64)
            variance = values.var(axis=0)
            level = variance.mean()
            scale = np.sqrt((variance + level) / 2 * len(variance)) if level > 0 else np.ones(len(variance))
            means.append(values.mean(axis=0).astype(np.float32))
            scales.append(scale.astype(np.float32))
        return cls(
            dims={name: block.shape[1] for name, block in embeddings.items()},
            mean=np.concatenate(means),
            scale=np.concatenate(scales),
        )

    def __call__(self, embeddings: Embeddings) -> NDArray[np.float32]:
        """Return samples in the columns that distances are taken in, shape (n, 128).

        Raises
        ------
        AlignmentError
            If an encoder has no block, or one of another width.
        """
        found = np.zeros((len(next(iter(embeddings.values()))), COLUMNS))
        for name, scaled in self._scaled(embeddings):
            found += scaled @ _signs(name, scaled.shape[1])
        return found.astype(np.float32)

    def whole(self, embeddings: Embeddings) -> NDArray[np.float32]:
        """Return samples in all columns, centred and divided but not added up, shape (n, sum of dims).

        Distances there are what those between projected samples are near.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or one of another width.
        """
        return np.concatenate([scaled.astype(np.float32) for _, scaled in self._scaled(embeddings)], axis=1)

    def _scaled(self, embeddings: Embeddings) -> Iterator[tuple[str, Values]]:
        start = 0
        for name, dim in self.dims.items():
            if name not in embeddings or embeddings[name].shape[1] != dim:
                raise AlignmentError(f"Novelty needs a block of {dim} columns by {name}.")
            part = slice(start, start + dim)
            yield name, (embeddings[name].astype(np.float64) - self.mean[part]) / self.scale[part]
            start += dim


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """What the development data look like, and how far apart they are themselves.

    Attributes
    ----------
    projection : Projection
    reference : ndarray of float32, shape (n, 128)
        Projected development samples.
    distances : ndarray of float32, shape (n,)
        Mean distance of each development sample to its nearest ones in other folds of groups, in ascending order. The
        projection that it is taken with was learned without its fold, since that of a new sample is learned without it.
    neighbours : int
        How many nearest ones.
    n_units : int
        Groups that the samples are from, or their number where there are no groups.

    Examples
    --------
    >>> import numpy as np
    >>> from biofuse.evaluation.novelty import Novelty
    >>> random = np.random.default_rng(0)
    >>> known = {"lbp": random.normal(size=(300, 20))}
    >>> novelty = Novelty.learn(known, ids=np.array([f"s{row}" for row in range(300)], dtype=object))
    >>> novelty.percentiles({"lbp": np.vstack([np.zeros(20), np.full(20, 9.0)])}).round(1)
    array([ 0. , 99.7])
    """

    projection: Projection
    reference: NDArray[np.float32]
    distances: NDArray[np.float32]
    neighbours: int
    n_units: int

    @classmethod
    def learn(
        cls, embeddings: Embeddings, *, ids: NDArray[np.object_], groups: NDArray[np.object_] | None = None
    ) -> Self | None:
        """Learn from development samples; None where there are no two groups of them.

        Parameters
        ----------
        embeddings : Blocks, or mapping of str to ndarray of shape (n, dim)
        ids : ndarray of str, shape (n,)
            Names of the samples, which decide what is kept of more than :data:`ROWS`.
        groups : ndarray of str, shape (n,), optional
            What samples are compared with is never of their own group; by default every sample is one.
        """
        kept = np.sort(hash_order([str(name) for name in ids])[:ROWS])
        names, unit = np.unique(np.asarray(ids if groups is None else groups)[kept].astype(str), return_inverse=True)
        if len(names) < 2:
            return None
        fold = np.argsort(hash_order(names.tolist()), kind="stable")[unit] % min(FOLDS, len(names))
        known = {name: block[kept] for name, block in embeddings.items()}
        neighbours = int(min(NEIGHBOURS, len(kept) - np.bincount(fold).max()))
        distances = np.empty(len(kept))
        for each in np.unique(fold):
            own = fold == each
            rest = {name: block[~own] for name, block in known.items()}
            projection = Projection.learn(rest)
            held_out = projection({name: block[own] for name, block in known.items()})
            distances[own] = _nearest(held_out, projection(rest), neighbours)
        projection = Projection.learn(known)
        return cls(
            projection=projection,
            reference=projection(known),
            distances=np.sort(distances).astype(np.float32),
            neighbours=neighbours,
            n_units=len(names),
        )

    def percentiles(self, embeddings: Embeddings) -> Values:
        """Say how unlike the development data samples are, shape (n,).

        Of 100 samples like the development data, one is above 99 on average: it is 100 times one minus the share of the
        development samples, and the sample itself, that are as far from their nearest ones as it is, or further. With
        fewer than 100 development samples nothing can be above 99.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or one of another width.
        """
        found = _nearest(self.projection(embeddings), self.reference, self.neighbours).astype(np.float32)
        n = len(self.distances)
        as_far = n - np.searchsorted(self.distances, found, side="left")
        return np.asarray(100 * (1 - (1 + as_far) / (n + 1)), dtype=np.float64)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return everything :meth:`restore` needs: JSON values and arrays."""
        projection = self.projection
        arrays = {"mean": projection.mean, "scale": projection.scale}
        arrays |= {"reference": self.reference, "distances": self.distances}
        return {"dims": projection.dims, "neighbours": self.neighbours, "n_units": self.n_units}, arrays

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build it from its :meth:`state`.

        Raises
        ------
        ArtifactError
            If the state is malformed.
        """
        with reading("novelty"):
            dims = {str(name): int(dim) for name, dim in json["dims"].items()}
            parts = {name: arrays[name].astype(np.float32) for name in ("mean", "scale", "reference", "distances")}
            n, neighbours = len(parts["reference"]), int(json["neighbours"])
            shapes = {"mean": (sum(dims.values()),), "scale": (sum(dims.values()),), "distances": (n,)}
            if any(parts[name].shape != shape for name, shape in shapes.items()) or not 1 <= neighbours <= n:
                raise ValueError("its arrays do not belong together")
            projection = Projection(dims=dims, mean=parts["mean"], scale=parts["scale"])
            return cls(
                projection=projection,
                reference=parts["reference"],
                distances=parts["distances"],
                neighbours=neighbours,
                n_units=int(json["n_units"]),
            )


def _signs(name: str, dim: int) -> Values:
    """Return the random signs that the columns of an encoder are projected by, shape (dim, 128): the same for ever."""
    bits = np.frombuffer(hashlib.shake_256(f"novelty {name}".encode()).digest(dim * COLUMNS // 8), dtype=np.uint8)
    return np.where(np.unpackbits(bits).reshape(dim, COLUMNS), 1.0, -1.0) / np.float64(np.sqrt(COLUMNS))


def _nearest(rows: NDArray[np.float32], reference: NDArray[np.float32], count: int) -> Values:
    """Return the mean distance of each row to the nearest of the reference."""
    from scipy.spatial.distance import cdist

    found, known = np.empty(len(rows)), reference.astype(np.float64)
    for part in slices(len(rows), AT_ONCE):
        distances = cdist(rows[part].astype(np.float64), known)
        found[part] = np.partition(distances, count - 1, axis=1)[:, :count].mean(axis=1)
    return found


class Unusual(Record):
    """How many samples are unlike the development data, and whether that is more than chance explains.

    Attributes
    ----------
    n, above : int
        Samples, and those of them above the 99th percentile of the development data's own distances.
    p_value : float
        Probability of as many, or more, if they were like the development data.
    """

    n: int
    above: int
    p_value: Score

    @classmethod
    def of(cls, percentiles: Values, *, known: int, groups: NDArray[np.object_] | None = None) -> Self:
        """Count samples above :data:`UNUSUAL`.

        Their number is beta-binomial, because the development data say only about where the percentile is. Samples of
        one group are alike, so that where there are groups their number stands for that of the samples.

        Parameters
        ----------
        percentiles : ndarray of float64, shape (n,)
        known : int
            Development samples, or groups of them, that percentiles are of.
        groups : ndarray of str, shape (n,), optional
        """
        from scipy.stats import betabinom

        n, above = len(percentiles), int((percentiles > UNUSUAL).sum())
        units = n if groups is None else len(np.unique(groups.astype(str)))
        counted, rare = round(above * units / max(n, 1)), 1 - UNUSUAL / 100
        p_value = float(betabinom.sf(counted - 1, units, rare * (known + 1), (1 - rare) * (known + 1)))
        return cls(n=n, above=above, p_value=p_value)

    @property
    def expected(self) -> float:
        """How many would be above if all were like the development data."""
        return self.n * (1 - UNUSUAL / 100)

    @property
    def surprising(self) -> bool:
        """Whether there are more than chance explains."""
        return self.p_value <= SIGNIFICANCE

    def __str__(self) -> str:
        verb, chance = "is" if self.above == 1 else "are", f"{self.expected:.1f} would be expected"
        counts = f"{self.above} of {self.n} samples {verb} unlike the development data (beyond their 99th percentile)"
        if self.surprising:
            p_value = f"p = {self.p_value:.2g}" if self.p_value >= SMALLEST else f"p < {SMALLEST:g}"
            return f"{counts}, where {chance} ({p_value}): do not rely on predictions of these."
        return f"{counts}, no more than chance explains: {chance}."
