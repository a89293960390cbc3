"""Charts as Plotly figures. Colours are roles that the page fills in: it knows whether it is light or dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError
from biofuse.report.content import Bars, Chart, Cloud, Dots, Heat, Lines, Points, Values

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Tone = Literal["", "best", "next", "gain", "loss", "noise"]
"""How a cell is marked: the best of its column, second or third; a gain, a loss, or a difference that may be chance."""


LIGHT, SHADED = (0xF7, 0xFB, 0xFF), (0xB5, 0xD4, 0xE9)
"""Ends of the scale of a heat map, light enough that the red of the second and third keeps a contrast of 5 to 1."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes
    ----------
    text : str
    tone : str
        See :data:`Tone`.
    shade : float or None
        0 to 1: where the value stands between the lowest and the highest of its column; None for no colour.
    note : str
        What a reader is told who asks more of it.
    """

    text: str
    tone: Tone = ""
    shade: float | None = None
    note: str = ""

    @property
    def background(self) -> str:
        """The colour of the cell as CSS; empty where it has none, or its tone decides."""
        if self.shade is None or self.tone == "best":
            return ""
        mixed = (round(low + (high - low) * self.shade) for low, high in zip(LIGHT, SHADED, strict=True))
        return "#" + "".join(f"{part:02x}" for part in mixed)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of a page.

    Attributes
    ----------
    title : str
    columns : tuple of str
        The first one heads the names of the rows.
    rows : tuple of tuple of Cell
        As long as ``columns``.
    notes : tuple of str
        Sentences below it.
    numbers : frozenset of str
        Columns aligned to the right.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    numbers: frozenset[str] = frozenset()

    def texts(self) -> list[list[str]]:
        """Return the rows as plain text."""
        return [[cell.text for cell in row] for row in self.rows]


def cells(*values: object) -> tuple[Cell, ...]:
    """Return a row of plain cells; cells that are some already are kept, and None is an empty one."""
    return tuple(
        value if isinstance(value, Cell) else Cell(text="" if value is None else str(value)) for value in values
    )


DIGITS = 6
"""Significant digits of what is drawn: a pixel is a thousandth of an axis. Tables keep the full precision."""

TREE_SHARE = 0.18
"""Part of a heat map's height that its dendrogram takes."""


def make_figure(chart: Chart) -> "Figure":
    """Return a chart as a Plotly figure without colours.

    Every trace has ``meta.role``: a number of the palette, ``muted``, ``emphasis``, ``line``, ``sequential`` or
    ``diverging``.
    """
    from plotly.graph_objects import Figure

    match chart.body:
        case Dots() as body:
            data, layout = _dots(body)
        case Bars() as body:
            data, layout = _bars(body)
        case Lines() as body:
            data, layout = _lines(body)
        case Heat() as body:
            data, layout = _heat(body)
        case Points() as body:
            data, layout = _points(body)
    common = {"margin": {"l": 8, "r": 12, "t": 8, "b": 8}, "dragmode": False, "hovermode": "closest"}
    layout = common | {"legend": _legend(), "font": {"size": 13}} | layout
    figure = Figure(data=data, layout=layout)
    figure.layout.template = {}
    return figure


def _legend() -> dict[str, Any]:
    return {
        "orientation": "h",
        "x": 0,
        "y": 1.02,
        "yanchor": "bottom",
        "itemsizing": "constant",
        "traceorder": "normal",
    }


def numbers(values: Values) -> list[float | None]:
    """Return values as JSON has them, to :data:`DIGITS` digits; NaN is null."""
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]


def text(words: str) -> str:
    """Return words that Plotly shows as they are: it reads a few HTML tags."""
    return escape(words, quote=False)


def _axis(title: str = "", **more: Any) -> dict[str, Any]:
    return {"title": {"text": text(title)}, "automargin": True, "zeroline": False, "fixedrange": True} | more


def _names(labels: tuple[str, ...], *, reverse: bool = False) -> dict[str, Any]:
    """Return a numeric axis with names on it: as categories, equal names would fall together."""
    places = list(range(len(labels)))
    ends = [len(labels) - 0.5, -0.5] if reverse else [-0.5, len(labels) - 0.5]
    shown = [text(_short(name)) for name in labels]
    return _axis(tickmode="array", tickvals=places, ticktext=shown, range=ends, showgrid=False)


def _short(name: str, most: int = 28) -> str:
    """Leave out the middle of a long name: names often differ at their ends."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def _dots(body: Dots) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data: list[dict[str, Any]] = []
    several = len(body.series) > 1
    for number, series in enumerate(body.series):
        offset = (number - (len(body.series) - 1) / 2) * 0.22 if several else 0.0
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "name": text(series.name),
            "x": numbers(series.values),
            "y": [place + offset for place in range(len(body.labels))],
            "text": [text(name) for name in body.labels],
            "hovertemplate": "%{text}<br>%{x:.4f}<extra>%{fullData.name}</extra>",
            "marker": {
                "size": [11 if place in body.emphasised else 8 for place in range(len(body.labels))],
                "symbol": ["diamond" if place in body.emphasised else "circle" for place in range(len(body.labels))],
                "line": {"width": 0},
            },
            "meta": {"role": number},
            "showlegend": several,
        }
        if series.low is not None and series.high is not None:
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": numbers(series.high - series.values),
                "arrayminus": numbers(series.values - series.low),
                "thickness": 1.5,
                "width": 3,
            }
        data.append(trace)
    layout: dict[str, Any] = {
        "xaxis": _axis(body.axis),
        "yaxis": _names(body.labels, reverse=True),
        "height": 110 + 30 * len(body.labels) + 24 * several,
    }
    if body.baseline is not None:
        layout["shapes"] = [_upright(body.baseline)]
        layout["margin"] = {"l": 8, "r": 12, "t": 26, "b": 8}
        if body.baseline_name and not several:
            layout["annotations"] = [
                {
                    "x": body.baseline,
                    "xref": "x",
                    "y": 1,
                    "yref": "paper",
                    "yanchor": "bottom",
                    "text": text(f"{body.baseline_name} {body.baseline:.4f}"),
                    "showarrow": False,
                }
            ]
    return data, layout


def _upright(x: float) -> dict[str, Any]:
    return {"type": "line", "x0": x, "x1": x, "xref": "x", "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot"}}


def _bars(body: Bars) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": text(series.name),
            "x": numbers(series.values),
            "y": list(range(len(body.labels))),
            "text": [text(name) for name in body.labels],
            "textposition": "none",
            "hovertemplate": "%{text}: %{x:,}<extra>%{fullData.name}</extra>",
            "meta": {"role": number},
        }
        for number, series in enumerate(body.series)
    ]
    layout = {
        "barmode": "stack",
        "bargap": 0.35,
        "xaxis": _axis(body.axis),
        "yaxis": _names(body.labels, reverse=True),
        "height": 120 + 30 * len(body.labels),
    }
    return data, layout


def _lines(body: Lines) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if body.dotted else "lines",
            "name": text(line.name),
            "x": numbers(line.x),
            "y": numbers(line.y),
            "hovertemplate": "%{x:.3f}, %{y:.3f}<extra>%{fullData.name}</extra>",
            "line": {"width": 2, "dash": DASHES[number // 8 % len(DASHES)]},
            "marker": {"size": 8},
            "meta": {"role": number},
            "showlegend": True,
        }
        for number, line in enumerate(body.lines)
    ]
    if body.diagonal:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [0, 1],
                "y": [0, 1],
                "line": {"dash": "dot", "width": 1.5},
                "hoverinfo": "skip",
                "showlegend": False,
                "meta": {"role": "muted"},
            }
        )
    layout = {
        "xaxis": _axis(body.x_axis, range=[-0.02, 1.02]),
        "yaxis": _axis(body.y_axis, range=[-0.02, 1.02]),
        "height": 400 + 18 * len(body.lines),
    }
    return data, layout


DASHES = ("solid", "dash", "dot")
"""Lines of the same colour, told apart."""


def _heat(body: Heat) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows, columns = len(body.rows), len(body.columns)
    low, high = body.limits or (float(np.nanmin(body.values)), float(np.nanmax(body.values)))
    hover = [
        [text(f"{body.row_axis} {row}, {body.column_axis} {column}".strip(", ")) for column in body.columns]
        for row in body.rows
    ]
    crowded = max(rows, columns) > 16
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": list(range(columns)),
            "y": list(range(rows)),
            "z": [numbers(row) for row in body.values],
            "zmin": low,
            "zmax": high,
            "text": [[text(cell) for cell in row] for row in body.texts],
            "texttemplate": "" if crowded else "%{text}",
            "customdata": hover,
            "hovertemplate": "%{customdata}<br>%{text} (%{z:.3f})<extra></extra>",
            "hoverongaps": False,
            "xgap": 1,
            "ygap": 1,
            "colorbar": {"title": {"text": text(body.scale), "side": "right"}, "thickness": 12, "outlinewidth": 0},
            "meta": {"role": "diverging" if body.diverging else "sequential"},
        }
    ]
    height = 170 + (40 if rows <= 8 else 26) * rows
    layout: dict[str, Any] = {
        "xaxis": _names(body.columns) | {"title": {"text": text(body.column_axis)}, "tickangle": -45},
        "yaxis": _names(body.rows, reverse=True) | {"title": {"text": text(body.row_axis)}},
        "height": height,
        "meta": {"cells": columns},
    }
    if body.tree is not None:
        data += [
            {
                "type": "scatter",
                "mode": "lines",
                # SciPy puts leaf i at 10 i + 5.
                "x": [(x - 5) / 10 for x in xs],
                "y": numbers(np.array(ys)),
                "yaxis": "y2",
                "hoverinfo": "skip",
                "showlegend": False,
                "line": {"width": 1.5},
                "meta": {"role": "line"},
            }
            for xs, ys in zip(body.tree.x, body.tree.height, strict=True)
        ]
        layout["yaxis"]["domain"] = [0, 1 - TREE_SHARE]
        layout["yaxis2"] = _axis(domain=[1 - TREE_SHARE + 0.01, 1], showgrid=False, showticklabels=False)
        layout["height"] = height + 90
    return data, layout


def _points(body: Points) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data = [_cloud(cloud) for cloud in body.clouds]
    if body.front is not None:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": numbers(body.front.x),
                "y": numbers(body.front.y),
                "line": {"shape": "hv", "width": 1.5},
                "hoverinfo": "skip",
                "showlegend": False,
                "meta": {"role": "line"},
            }
        )
    layout = {
        "xaxis": _axis(body.x_axis, fixedrange=False),
        "yaxis": _axis(body.y_axis, fixedrange=False),
        "height": 520,
    }
    return data, layout


def _cloud(cloud: Cloud) -> dict[str, Any]:
    sizes = {"muted": 6, "plain": 8, "emphasis": 13}
    symbol = {"muted": "circle", "plain": "circle", "emphasis": "diamond"}[cloud.role]
    seen = cloud.tiles is not None
    return {
        "type": "scatter",
        "mode": "markers",
        "name": text(cloud.name),
        "x": numbers(cloud.x),
        "y": numbers(cloud.y),
        "text": [text(words) for words in cloud.texts],
        "customdata": list(cloud.tiles) if cloud.tiles is not None else None,
        # Where there are thumbnails, the page's own label shows the text beside them.
        "hoverinfo": "none" if seen else None,
        "hovertemplate": None if seen else "%{text}<br>%{x:,.4g}, %{y:.4f}<extra>%{fullData.name}</extra>",
        "marker": {"size": sizes[cloud.role], "symbol": f"{symbol}-open" if cloud.hollow else symbol, "opacity": 0.85},
        "meta": {"role": cloud.role if cloud.role != "plain" else cloud.colour},
        "showlegend": cloud.named,
        "legendgroup": f"{cloud.role}-{cloud.colour}",
    }


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
