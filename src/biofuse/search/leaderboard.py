"""A row per scored subset, with full precision."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError, UndefinedMetricError
from biofuse.core.files import atomic_path
from biofuse.evaluation.metrics import get_metric
from biofuse.search.subsets import Subset, combination_order, label

if TYPE_CHECKING:
    import pandas as pd

Predictions = tuple[NDArray[np.float32], ...]
"""What one subset predicted for held-out rows, an array per fold."""

SHOWN = 10
"""Rows printed."""

DECIMALS = 12
"""Means that agree to so many decimals are tied: the rest is rounding, which must not choose."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """The scores of one subset.

    Attributes
    ----------
    subset : tuple of str
        Encoders in pool order.
    n_dims : int
        Columns of its blocks together.
    folds : mapping of str to tuple of float
        Metric name to one value per fold; NaN where it is undefined there.
    seconds : float
        Time spent on its fits.
    notes : tuple of str
        Remarks of the scorer.
    """

    subset: Subset
    n_dims: int
    folds: Mapping[str, tuple[float, ...]]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def n_encoders(self) -> int:
        """Size of the subset."""
        return len(self.subset)

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return the fold values of a metric, shape (n_folds,).

        Raises
        ------
        SearchError
            If the search did not compute it.
        """
        if metric not in self.folds:
            raise SearchError(f"The search has no metric {metric!r}.", remedy=f"It computed {', '.join(self.folds)}.")
        return np.array(self.folds[metric], dtype=np.float64)

    def mean(self, metric: str) -> float:
        """Return the mean over the folds in which the metric is defined; NaN where it is in none."""
        values = self.values(metric)
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    def std(self, metric: str) -> float:
        """Return the standard deviation over folds; NaN with fewer than two."""
        values = self.values(metric)
        values = values[~np.isnan(values)]
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    def quality(self, metric: str) -> float:
        """Return the mean, turned so that more is better, and rounded so that ties are ties.

        Raises
        ------
        UndefinedMetricError
            If the metric is undefined in every fold.
        """
        mean = self.mean(metric)
        if np.isnan(mean):
            raise UndefinedMetricError(
                f"{get_metric(metric).title} of {label(self.subset)} is undefined in every fold"
                f"{': ' + '; '.join(self.notes[:2]) if self.notes else ''}.",
                remedy="Choose another metric, or give every class enough samples to appear in every fold.",
            )
        return round(mean if get_metric(metric).higher_is_better else -mean, DECIMALS)

    def rank(self, metric: str) -> tuple[float, int, int]:
        """Return a key that sorts from best to worst; ties go to fewer encoders, then fewer dimensions.

        Sorting rows that stand in pool order leaves further ties to that order.
        """
        return -self.quality(metric), self.n_encoders, self.n_dims


@dataclass(frozen=True, kw_only=True, eq=False)
class Leaderboard:
    """All scored subsets, by size, then by pool order.

    Attributes
    ----------
    encoders : tuple of str
        The pool.
    metrics : tuple of str
        Columns, the selecting one first.
    rows : tuple of Row
        One per scored subset.
    n_train, n_test : tuple of int
        Development rows fitted on and scored, per fold.
    key : str
        Hash of everything that decided the scores.
    out_of_fold : mapping of subset to tuple of ndarray
        Predictions per fold (float32), where they were kept; which rows they belong to, the scorer says.
    """

    encoders: Subset
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    n_train: tuple[int, ...]
    n_test: tuple[int, ...]
    key: str = ""
    out_of_fold: Mapping[Subset, Predictions] = field(default_factory=dict)
    _by_set: Mapping[frozenset[str], Row] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.rows, key=lambda row: combination_order(self.encoders, row.subset)))
        kept = {row.subset: self.out_of_fold[row.subset] for row in ordered if row.subset in self.out_of_fold}
        object.__setattr__(self, "rows", ordered)
        object.__setattr__(self, "out_of_fold", kept)
        object.__setattr__(self, "_by_set", {frozenset(row.subset): row for row in ordered})

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, subset: Sequence[str]) -> Row:
        """Return the row of a subset, its encoders in any order."""
        row = self.get(subset)
        if row is None:
            raise KeyError(label(subset))
        return row

    def get(self, subset: Sequence[str]) -> Row | None:
        """Return the row of a subset, or None where it was not scored."""
        return self._by_set.get(frozenset(subset))

    @property
    def singles(self) -> tuple[Row, ...]:
        """Rows of single encoders, in pool order."""
        return tuple(row for row in self.rows if row.n_encoders == 1)

    @property
    def n_folds(self) -> int:
        """Number of folds, repeats included."""
        return len(self.n_train)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the rows, each once."""
        return tuple(dict.fromkeys(note for row in self.rows for note in row.notes))

    @property
    def seconds(self) -> float:
        """Time spent on all fits, summed over workers."""
        return sum(row.seconds for row in self.rows)

    def best_first(self, metric: str | None = None) -> tuple[Row, ...]:
        """Return the rows from best to worst mean; ties go to fewer encoders, fewer dimensions, then pool order."""
        name = metric or self.metrics[0]
        return tuple(sorted(self.rows, key=lambda row: row.rank(name)))

    def to_frame(self) -> "pd.DataFrame":
        """Return a table: subset, n_encoders, n_dims, seconds; per metric mean, std and every fold."""
        import pandas as pd

        records = []
        for row in self.rows:
            record: dict[str, object] = {
                "subset": label(row.subset),
                "n_encoders": row.n_encoders,
                "n_dims": row.n_dims,
            }
            for metric in self.metrics:
                record |= {f"{metric}_mean": row.mean(metric), f"{metric}_std": row.std(metric)}
            for metric in self.metrics:
                record |= {f"{metric}_fold_{fold}": value for fold, value in enumerate(row.folds[metric], start=1)}
            records.append(record | {"seconds": row.seconds})
        return pd.DataFrame.from_records(records)

    def to_parquet(self, path: Path) -> None:
        """Write the table as Parquet, atomically."""
        with atomic_path(path) as temporary:
            self.to_frame().to_parquet(temporary, index=False)

    def to_csv(self, path: Path) -> None:
        """Write the table as CSV with full precision, atomically."""
        with atomic_path(path) as temporary:
            self.to_frame().to_csv(temporary, index=False)

    def _top(self) -> "pd.DataFrame":
        import pandas as pd

        rows = self.best_first()[:SHOWN]
        return pd.DataFrame(
            {
                "subset": [label(row.subset) for row in rows],
                "encoders": [row.n_encoders for row in rows],
                "dims": [row.n_dims for row in rows],
                **{
                    metric: [f"{row.mean(metric):.4f} ± {row.std(metric):.4f}" for row in rows]
                    for metric in self.metrics
                },
            }
        )

    def _title(self) -> str:
        first = f", best {min(SHOWN, len(self))} by {get_metric(self.metrics[0]).title}" if self.rows else ""
        return (
            f"{len(self)} subsets of {len(self.encoders)} encoders, {self.n_folds} folds{first} (mean ± std over folds)"
        )

    def __repr__(self) -> str:
        return f"{self._title()}\n{self._top().to_string(index=False)}" if self.rows else self._title()

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{self._top().to_html(index=False, border=0)}"
