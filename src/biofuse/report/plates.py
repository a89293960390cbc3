"""Figures of comparisons, for pages without a script and for a paper: mean ranks, heat maps, gains by modality."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.core.files import atomic_path
from biofuse.evaluation.across import MeanRanks
from biofuse.evaluation.intervals import SIGNIFICANCE
from biofuse.report.content import Cell, Table
from biofuse.report.draw import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.5
"""Inches: the width of a page's text."""

DPI = 300
"""Pixels per inch of the PNG files, which journals ask for."""

BEST, TEXT = "#08519c", "#1a1a1a"
"""Behind the best of a column, and the letters of everything else, as on the page."""

LEAST_SPAN = 0.02
"""The least gain that the end of the colours stands for, so that noise alone does not shine."""

ABSENT = "\u2013"
"""What stands where there is nothing to show."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plate:
    """A figure of a page without a script.

    Attributes
    ----------
    id : str
        Unique in the page; names its files.
    title, summary : str
        What it is, and what can be seen in it.
    figure : matplotlib Figure
        On white.
    shown : bool
        Whether the page shows it, or has its numbers as a table already.
    """

    id: str
    title: str
    summary: str
    figure: "Figure"
    shown: bool = True

    @property
    def source(self) -> str:
        """The figure as a ``data:`` URI."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.image('svg')).decode()}"

    def image(self, kind: str) -> bytes:
        """Return the figure as a file of a kind that Matplotlib writes; equal figures are equal files."""
        from matplotlib import rc_context

        buffer = io.BytesIO()
        nothing = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        with rc_context({"svg.hashsalt": self.id, "svg.fonttype": "none", "text.parse_math": False}):
            self.figure.savefig(buffer, format=kind, dpi=DPI, bbox_inches="tight", metadata=nothing)
        return buffer.getvalue()


def write_plates(plates: Iterable[Plate], folder: Path) -> tuple[Path, ...]:
    """Write every figure as ``<id>.svg`` and ``<id>.png``.

    Raises
    ------
    DiskError
        If the folder cannot be written to.
    """
    written = []
    for plate in plates:
        for kind in ("svg", "png"):
            path = folder / f"{plate.id}.{kind}"
            with atomic_path(path) as temporary:
                temporary.write_bytes(plate.image(kind))
            written.append(path)
    return tuple(written)


def _new(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    return figure, figure.add_axes((0, 0, 1, 1))


def rank_plate(ranks: MeanRanks, *, id: str, title: str) -> Plate:  # noqa: A002 (of a figure, as in content.py)
    """Draw a critical-difference diagram: mean ranks on a line, methods that cannot be told apart under one bar.

    Half of the methods, the better ones, are named to the left and half to the right (Demšar 2006, Figure 1).
    """
    n = len(ranks.names)
    left, right = range((n + 1) // 2), range(n - 1, (n + 1) // 2 - 1, -1)
    bars = ranks.groups
    row, top = 0.26, 0.35 + 0.14 * len(bars)  # inches between names, and from the line of ranks to the first name
    figure, axes = _new(WIDTH, 0.75 + top + row * len(left))
    low, high = 1.0, float(n)
    axes.set_xlim(low - (high - low) * 0.4, high + (high - low) * 0.4)
    axes.set_ylim(top + row * len(left), -0.75)  # inches below the line of ranks
    axes.axis("off")
    ink = LIGHT["text"]
    axes.plot([low, high], [0, 0], color=ink, linewidth=1)
    for rank in range(1, n + 1):
        axes.plot([rank, rank], [0, -0.07], color=ink, linewidth=1)
        axes.text(rank, -0.1, str(rank), ha="center", va="bottom", fontsize=8)
    end = min(low + ranks.critical_difference, high)
    axes.plot([low, end], [-0.42, -0.42], color=ink, linewidth=1.5, marker="|")
    said = f"critical difference {ranks.critical_difference:.2f}"
    axes.text(low, -0.48, said, ha="left", va="bottom", fontsize=8)
    for places, edge, side in ((left, low, "right"), (right, high, "left")):
        out = edge + (-0.04 if side == "right" else 0.04) * (high - low)
        for line, place in enumerate(places):
            at, y = float(ranks.mean_ranks[place]), top + row * line
            axes.plot([at, at, out], [0, y, y], color=LIGHT["quiet"], linewidth=0.8)
            axes.text(
                out, y, f" {ranks.names[place]} {at:.2f} ", ha=side, va="center", fontsize=8, color=ink, wrap=False
            )
    for number, (first, last) in enumerate(bars):
        y, reach = 0.16 + 0.14 * number, (high - low) * 0.008
        ends = [ranks.mean_ranks[first] - reach, ranks.mean_ranks[last] + reach]
        axes.plot(ends, [y, y], color=LIGHT["high"], linewidth=3.5, solid_capstyle="butt")
    how = f"A bar joins methods that cannot be told apart at {SIGNIFICANCE:.0%}; 1 is the best."
    return Plate(id=id, title=title, summary=f"{how} {ranks}", figure=figure)


def table_plate(table: Table, *, summary: str) -> Plate:
    """Draw the shaded and marked cells of a table: the best on dark, second and third in bold, as on its page."""
    from matplotlib.colors import to_rgb

    rows = [[_as_cell(cell) for cell in row[1:]] for row in table.rows]
    colours = [[to_rgb(BEST if cell.tone == "best" else cell.background or "white") for cell in row] for row in rows]
    labels = [str(row[0]) for row in table.rows]
    figure, axes = _grid(labels, [column.title for column in table.columns[1:]])
    axes.imshow(np.array(colours), aspect="auto")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            ink = "white" if cell.tone == "best" else TEXT
            weight = "bold" if cell.tone in {"best", "next"} else "normal"
            axes.text(x, y, str(cell.value or ""), ha="center", va="center", fontsize=8, color=ink, weight=weight)
    return Plate(id=table.id, title=table.caption, summary=summary, figure=figure)


def gain_plate(table: Table, gains: Any, *, title: str, summary: str) -> Plate:
    """Draw gains over a baseline: blue above, orange below, and italics where a gain may be chance.

    Parameters
    ----------
    table : Table
        A name in the first column, then a cell per column.
    gains : ndarray of float64, shape (n_rows, n_columns - 1)
        NaN where there is none.
    title, summary : str
    """
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = _grid([str(row[0]) for row in table.rows], [column.title for column in table.columns[1:]])
    end = max(float(np.abs(np.nan_to_num(gains)).max()), LEAST_SPAN)
    scale = LinearSegmentedColormap.from_list("gains", [LIGHT["below"], LIGHT["middle"], LIGHT["above"]])
    image = axes.imshow(gains, cmap=scale, vmin=-end, vmax=end, aspect="auto", alpha=0.55)
    for y, row in enumerate(table.rows):
        for x, cell in enumerate(map(_as_cell, row[1:])):
            gain, *rest = str(cell.value or ABSENT).split()
            style = "italic" if cell.tone == "noise" else "normal"
            axes.text(x, y, gain, ha="center", va="bottom", fontsize=8, color=TEXT, style=style)
            axes.text(x, y, rest[-1] if rest else "", ha="center", va="top", fontsize=6, color=TEXT, style=style)
    figure.colorbar(image, ax=axes, label="gain", fraction=0.04, pad=0.02)
    return Plate(id="gains-by-modality", title=title, summary=summary, figure=figure)


def _grid(rows: Sequence[str], columns: Sequence[str]) -> "tuple[Figure, Axes]":
    figure, axes = _new(max(WIDTH, 1.1 * len(columns)), max(1.2, 0.42 * len(rows)))
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="left", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _as_cell(value: Any) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)
