"""Charts as Plotly figures. Colours are roles that the page fills in: it knows whether it is light or dark."""

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.report.content import Bars, Chart, Cloud, Dots, Heat, Lines, Points, Values

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

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
