"""Heat maps of scores over data sets, with the best, the second and the third of each marked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError
from biofuse.report.page import Cell, Table, Tone

MARKS = ("\u00b9", "\u00b2", "\u00b3")
"""Superscripts of the first three ranks: the marks must not rest on colour alone."""

LEGEND = f"{', '.join(MARKS)}: best of its column (white), second and third (red); equal values share a mark."

TONES: tuple[Tone, ...] = ("best", "next", "next")
"""The best in white, the second and third in red, as in Figures 4 and 5 of the BioFuse paper."""


def dense_ranks(values: ArrayLike, *, digits: int) -> NDArray[np.int64]:
    """Rank each column from the highest value down; equal values share a rank, and none is left out after them.

    Parameters
    ----------
    values : array-like, shape (n_rows, n_columns)
        NaN where there is none.
    digits : int
        Values are compared as they are shown: what reads the same is the same.

    Returns
    -------
    ndarray of int64, shape (n_rows, n_columns)
        1 for the best; 0 where there is no value.
    """
    given = np.asarray(values, dtype=np.float64)
    # Through text, because rounding numbers and writing them can differ in the last place.
    texts = [f"{value:.{digits}f}" for value in given.ravel().tolist()]
    shown: NDArray[np.float64] = np.array(texts, dtype=np.float64).reshape(given.shape)
    ranks = np.zeros(shown.shape, dtype=np.int64)
    for column in range(shown.shape[1]):
        there = ~np.isnan(shown[:, column])
        distinct, place = np.unique(-shown[there, column], return_inverse=True)
        if len(distinct):
            ranks[there, column] = place + 1
    return ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class Heatmap:
    """Scores of encoders over data sets; more is better.

    Attributes
    ----------
    title : str
    rows, columns : tuple of str
        Encoders and data sets.
    values : ndarray of float64, shape (len(rows), len(columns))
        NaN where an encoder was not scored.
    digits : int
        Decimals that are shown, and compared.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    digits: int = 4

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.rows), len(self.columns)):
            raise AlignmentError(
                f"{self.title}: {self.values.shape} values for {len(self.rows)} x {len(self.columns)}."
            )

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Dense ranks within each column; see :func:`dense_ranks`."""
        return dense_ranks(self.values, digits=self.digits)

    def to_table(self, *, corner: str = "encoder", notes: Sequence[str] = ()) -> Table:
        """Return it as a table of shaded and marked cells; the shades compare within one column."""
        ranks, shades = self.ranks, _shades(self.values)
        rows = []
        for place, name in enumerate(self.rows):
            row = [
                _cell(value, rank, shade, self.digits)
                for value, rank, shade in zip(self.values[place], ranks[place], shades[place], strict=True)
            ]
            rows.append((Cell(text=name), *row))
        return Table(
            title=self.title,
            columns=(corner, *self.columns),
            rows=tuple(rows),
            notes=(LEGEND, *notes),
            numbers=frozenset(self.columns),
        )

    def to_json(self) -> dict[str, dict[str, float | None]]:
        """Return column, row, value; null where there is none."""
        return {
            column: {
                row: None if np.isnan(value) else float(value)
                for row, value in zip(self.rows, self.values[:, place], strict=True)
            }
            for place, column in enumerate(self.columns)
        }


def _cell(value: float, rank: int, shade: float, digits: int) -> Cell:
    if np.isnan(value):
        return Cell(text="", note="not scored")
    marked = 1 <= rank <= len(MARKS)
    return Cell(
        text=f"{value:.{digits}f}{MARKS[rank - 1] if marked else ''}",
        tone=TONES[rank - 1] if marked else "",
        shade=float(shade),
        note=f"rank {rank}",
    )


def _shades(values: NDArray[np.float64]) -> NDArray[np.float64]:
    filled = np.where(np.isnan(values), -np.inf, values), np.where(np.isnan(values), np.inf, values)
    high = filled[0].max(axis=0, initial=-np.inf)
    low = filled[1].min(axis=0, initial=np.inf)
    with np.errstate(invalid="ignore"):
        span = np.where(high > low, high - low, 1.0)
        return np.asarray(np.nan_to_num((values - low) / span, nan=0.0, posinf=0.0, neginf=0.0))
