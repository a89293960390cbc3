"""Boosted trees as plain arrays, which can be checked before use, and need no library to predict.

LightGBM's own text is no safe format: of 421 damaged copies of one small model its parser (version 4.7.0) crashed the
process on 186.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.fusion.protocol import Arrays
from biofuse.heads.linear import ROWS_AT_ONCE

LINES = {
    "num_leaves": "leaves",
    "split_feature": "feature",
    "threshold": "threshold",
    "left_child": "left",
    "right_child": "right",
    "leaf_value": "value",
}
"""Which line of LightGBM's text holds which array."""

REAL, WHOLE = ("threshold", "value"), ("leaves", "feature", "left", "right")
"""The arrays of real and of whole numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """Trees whose leaf values add up to margins; tree t belongs to margin ``t % width``.

    A tree of k leaves has k - 1 nodes, the first of which is its root. A row goes left at a node where its feature is
    at most the threshold. Children from 0 on are nodes of the same tree, after their parent; -1 is its first leaf, -2
    its second.

    Attributes
    ----------
    leaves : ndarray of int64, shape (n_trees,)
        Leaves of each tree.
    feature, left, right : ndarray of int64, shape (n_nodes,)
        Of all nodes, tree after tree.
    threshold : ndarray of float64, shape (n_nodes,)
    value : ndarray of float64, shape (n_leaves,)
        Of all leaves, tree after tree.
    """

    leaves: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]

    @classmethod
    def from_lightgbm(cls, text: str) -> Self:
        """Read the text of a booster just grown, of numeric features without missing values."""
        arrays: dict[str, list[str]] = {name: [] for name in LINES.values()}
        for line in text.partition("\nTree=0\n")[2].partition("\nend of trees\n")[0].splitlines():
            key, _, values = line.partition("=")
            if key in LINES:
                arrays[LINES[key]] += values.split()
        return cls(
            leaves=np.array(arrays["leaves"], dtype=np.int64),
            feature=np.array(arrays["feature"], dtype=np.int64),
            threshold=np.array(arrays["threshold"], dtype=np.float64),
            left=np.array(arrays["left"], dtype=np.int64),
            right=np.array(arrays["right"], dtype=np.int64),
            value=np.array(arrays["value"], dtype=np.float64),
        )

    def margins(self, X: NDArray[np.float32], *, width: int) -> NDArray[np.float64]:
        """Add up the leaf values of each row, shape (n, width)."""
        total = np.zeros((len(X), width))
        for start in range(0, len(X), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            for number, values in enumerate(self._values(X[rows])):
                total[rows, number % width] += values
        return total

    def _values(self, X: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
        leaf_ends, node_ends = np.cumsum(self.leaves), np.cumsum(self.leaves - 1)
        for leaves, leaf_end, node_end in zip(self.leaves, leaf_ends, node_ends, strict=True):
            nodes = slice(node_end - leaves + 1, node_end)
            feature, threshold = self.feature[nodes], self.threshold[nodes]
            left, right = self.left[nodes], self.right[nodes]
            place = np.full(len(X), 0 if leaves > 1 else -1)
            while len(inside := np.flatnonzero(place >= 0)):
                at = place[inside]
                place[inside] = np.where(X[inside, feature[at]] <= threshold[at], left[at], right[at])
            yield self.value[leaf_end - leaves : leaf_end][~place]

    def state(self, prefix: str) -> Arrays:
        """Return its arrays, their names beginning with ``prefix``."""
        return {f"{prefix}.{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], prefix: str, *, n_features: int, width: int) -> Self:
        """Build the forest whose state this is.

        Raises
        ------
        ArtifactError
            If an array is missing, or a row could leave a tree other than by a leaf of its own.
        """
        try:
            given = {field.name: np.array(arrays[f"{prefix}.{field.name}"]) for field in fields(cls)}
        except KeyError as error:
            raise ArtifactError(f"The saved trees are incomplete: {error} is missing.", remedy="Fit again.") from error
        forest = cls(**given)
        if not forest._is_sound(n_features=n_features, width=width):
            raise ArtifactError("The saved trees are malformed.", remedy="Fit again.")
        return forest

    def _is_sound(self, *, n_features: int, width: int) -> bool:
        kinds = dict.fromkeys(REAL, np.dtype(np.float64)) | dict.fromkeys(WHOLE, np.dtype(np.int64))
        if any(getattr(self, name).dtype != kind or getattr(self, name).ndim != 1 for name, kind in kinds.items()):
            return False
        if len(self.leaves) == 0 or len(self.leaves) % width or self.leaves.min() < 1:
            return False
        # Compared one by one first: a sum of huge numbers could wrap around.
        if self.leaves.max() > len(self.value) or self.leaves.sum() != len(self.value):
            return False
        nodes = self.leaves - 1
        if {len(self.feature), len(self.threshold), len(self.left), len(self.right)} != {int(nodes.sum())}:
            return False
        index = np.arange(nodes.sum()) - np.repeat(np.cumsum(nodes) - nodes, nodes)
        size = np.repeat(nodes, nodes)
        sound = (self.feature >= 0) & (self.feature < n_features) & np.isfinite(self.threshold)
        for child in (self.left, self.right):
            sound &= np.where(child >= 0, (child > index) & (child < size), child >= -size - 1)
        return bool(sound.all() and np.isfinite(self.value).all())
