"""Scores of encoders or methods over data sets: a heat map, ranks, and tests with a data set as unit."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import isnan
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError
from biofuse.evaluation.across import FEWEST_SETS, MeanRanks, SignedRank, mean_ranks, signed_ranks
from biofuse.report.content import Cell, Table, Tone, Value
from biofuse.report.plates import Plate, rank_plate

MARKS = ("\u00b9", "\u00b2", "\u00b3")
"""Superscripts of the first three ranks: the marks must not rest on colour alone."""

LEGEND = f"{', '.join(MARKS)}: best of its column, second and third; equal values share a mark."

RANKED = (
    "A mean rank is taken among these, column by column: 1 is the best, and equal values share the mean of their ranks."
)

SIGNED_RANKS = (
    "Wilcoxon's signed-rank test, two-sided, with a data set as unit; Holm's correction over the rows. With fewer than "
    "six data sets no difference can reach p < .05."
)

TONES: tuple[Tone, ...] = ("best", "next", "next")
"""The best, and the second and third, of each column, as in Figures 4 and 5 of the BioFuse paper."""


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
class ScoreMatrix:
    """Scores of encoders over data sets.

    Attributes
    ----------
    title : str
    rows, columns : tuple of str
        Encoders and data sets.
    values : ndarray of float64, shape (len(rows), len(columns))
        NaN where an encoder was not scored.
    digits : int
        Decimals that are shown, and compared.
    what : str
        What a row is.
    alike : bool
        Whether the columns are scores of one kind, so that a mean over them says something.
    higher_is_better : bool
        False for losses: then the lowest value is the best.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    digits: int = 4
    what: str = "encoder"
    alike: bool = True
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.rows), len(self.columns)):
            raise AlignmentError(
                f"{self.title}: {self.values.shape} values for {len(self.rows)} x {len(self.columns)}."
            )

    @property
    def signed(self) -> NDArray[np.float64]:
        """The values, turned so that more is better."""
        return self.values if self.higher_is_better else -self.values

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Dense ranks within each column; see :func:`dense_ranks`."""
        return dense_ranks(self.signed, digits=self.digits)

    @cached_property
    def complete(self) -> Self:
        """The rows that have a value in every column."""
        whole: NDArray[np.bool_] = np.asarray(~np.isnan(self.values).any(axis=1))
        rows = tuple(name for name, there in zip(self.rows, whole.tolist(), strict=True) if there)
        return replace(self, rows=rows, values=np.round(self.values[whole], self.digits))

    @property
    def mean_ranks(self) -> dict[str, float]:
        """Mean rank over the columns of every complete row, among these; equal values share the mean of their ranks."""
        whole = self.complete
        return dict(zip(whole.rows, mean_ranks(whole.signed).tolist(), strict=True)) if len(whole.rows) else {}

    @property
    def tested(self) -> MeanRanks | None:
        """How the complete rows rank; None where there are too few of them, or too few columns."""
        whole = self.complete
        if len(whole.rows) < 2 or len(whole.columns) < FEWEST_SETS:
            return None
        return MeanRanks.of(whole.rows, whole.signed)

    def against(self, name: str) -> tuple[SignedRank, ...]:
        """Compare one complete row with each of the others."""
        whole = self.complete
        place = whole.rows.index(name)
        others = [row for row in range(len(whole.rows)) if row != place]
        return signed_ranks(whole.signed[place], whole.signed[others], [whole.rows[row] for row in others])

    def to_table(self) -> Table:
        """Return it as a table of shaded and marked cells; the shades compare within one column.

        Over several columns, two more have the mean and the mean rank of the complete rows.
        """
        several = self.alike and len(self.columns) > 1 and len(self.complete.rows) > 0
        means = (
            dict(zip(self.complete.rows, self.complete.values.mean(axis=1).tolist(), strict=True)) if several else {}
        )
        ranked = self.mean_ranks if several else {}
        rows: list[list[Value | Cell]] = [
            [
                name,
                *map(self._cell, values.tolist(), ranks.tolist(), shades.tolist()),
                *([f"{means[name]:.{self.digits}f}", f"{ranked[name]:.2f}"] if name in means else []),
                *([None, None] if several and name not in means else []),
            ]
            for name, values, ranks, shades in zip(
                self.rows, self.values, self.ranks, _shades(self.signed), strict=True
            )
        ]
        numbers = (*self.columns, *(("mean", "mean rank") if several else ()))
        notes = (
            LEGEND,
            *((f"Mean and mean rank: where there is a value in every column. {RANKED}",) if several else ()),
        )
        return Table.of(self.title, (self.what, *numbers), rows, aligned=numbers, notes=notes)

    def to_json(self) -> dict[str, dict[str, float | None]]:
        """Return column, row, value; null where there is none."""
        return {
            column: {
                row: None if np.isnan(value) else float(value)
                for row, value in zip(self.rows, self.values[:, place], strict=True)
            }
            for place, column in enumerate(self.columns)
        }

    def _cell(self, value: float, rank: int, shade: float) -> Cell:
        if np.isnan(value):
            return Cell(None, note="not scored")
        marked = 1 <= rank <= len(MARKS)
        return Cell(
            value=f"{value:.{self.digits}f}{MARKS[rank - 1] if marked else ''}",
            tone=TONES[rank - 1] if marked else "",
            shade=float(shade),
            note=f"rank {rank}",
        )


def _shades(values: NDArray[np.float64]) -> NDArray[np.float64]:
    there = ~np.isnan(values)
    high = values.max(axis=0, initial=-np.inf, where=there)
    low = values.min(axis=0, initial=np.inf, where=there)
    with np.errstate(invalid="ignore"):
        span = np.where(high > low, high - low, 1.0)
        return np.asarray(np.nan_to_num((values - low) / span, nan=0.0, posinf=0.0, neginf=0.0))


def tone_of(difference: float, *, noise: bool) -> Tone:
    """Say how a difference is marked."""
    return "noise" if noise else "gain" if difference > 0 else "loss"


def against_table(matrix: ScoreMatrix, first: str) -> Table:
    """Return a row per other method: how often the first wins over data sets, by how much, and whether it is chance."""
    rows: list[tuple[Value | Cell, ...]] = [
        (
            each.name,
            f"{each.wins} / {each.ties} / {each.losses}",
            Cell(f"{each.median:+z.4f}{', noise' if each.noise else ''}", tone=tone_of(each.median, noise=each.noise)),
            f"{each.p_value:.3f}",
            f"{each.p_holm:.3f}",
        )
        for each in matrix.against(first)
    ]
    tested = matrix.tested
    return Table.of(
        f"{first[:1].upper()}{first[1:]} against each other, {matrix.title}",
        ("against", "won / tied / lost", "median difference", "p", "p (Holm)"),
        rows,
        aligned=("p", "p (Holm)"),
        notes=(
            SIGNED_RANKS,
            *([] if tested is None else [str(tested)]),
        ),
    )


def rank_plate_of(matrix: ScoreMatrix) -> Plate | None:
    """Return the critical-difference diagram of the complete rows; None where they cannot be ranked."""
    found = matrix.tested
    if found is None:
        return None
    name = "".join(letter if letter.isalnum() else "-" for letter in matrix.title.lower())
    return rank_plate(found, id=f"ranks-{name}", title=f"Critical differences: {matrix.title}")


def ranks_json(matrix: ScoreMatrix) -> dict[str, Any]:
    """Return mean ranks, their critical difference, and the comparisons of the first row as JSON values."""
    found = matrix.tested
    content: dict[str, Any] = {"data": list(matrix.columns)}
    if found is not None:
        content |= {
            "mean_ranks": dict(zip(found.names, found.mean_ranks.tolist(), strict=True)),
            "friedman": None if isnan(found.statistic) else found.statistic,
            "p_value": None if isnan(found.p_value) else found.p_value,
            "critical_difference": found.critical_difference,
            "groups": [list(found.names[first : last + 1]) for first, last in found.groups],
        }
    if matrix.rows and matrix.rows[0] in matrix.complete.rows:
        content["signed_rank"] = {each.name: asdict(each) for each in matrix.against(matrix.rows[0])}
    return content
