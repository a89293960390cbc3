"""Charts, drawn twice from one layout: by Plotly for the page, and by Matplotlib as files for a paper.

Plotly's figures have roles in place of colours, which the page fills in: it knows whether it is light or dark.
"""

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.core.files import atomic_path
from biofuse.report.content import (
    BarChart,
    Chart,
    DotPlot,
    Heatmap,
    LineChart,
    LineSeries,
    PointGroup,
    ScatterPlot,
    Series,
    Values,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as StaticFigure
    from plotly.graph_objects import Figure

PALETTE = ("#0b6bb8", "#b35c00", "#1a7f4e", "#a3328f", "#00808f", "#6a4fc4", "#7a6a00", "#7b4a2d", "#5d6670")
"""Colours of series and classes on white, each with a contrast of at least 4.5 to 1. Red is for what is worse."""

DARK_PALETTE = ("#63aef0", "#f2a65a", "#5fc690", "#e08cd2", "#4cc4d2", "#ad99f5", "#dcbc4a", "#cf9f82", "#a9b3bd")
"""The same on a dark page."""

LIGHT = {
    "text": "#1b1f24", "quiet": "#545c66", "grid": "#e3e8ed", "muted": "#a3adb8", "emphasis": "#14181d",
    "low": "#f2f6fa", "high": "#0b4f8a", "below": "#7a5a12", "middle": "#f4f4f2", "above": "#0b5f9e",
}  # fmt: skip
"""Colours of the roles on white: ``low`` to ``high`` is a scale, and ``below`` over ``middle`` to ``above`` another."""

DARK = {
    "text": "#e8ecf0", "quiet": "#a9b3bd", "grid": "#2b333b", "muted": "#5c6772", "emphasis": "#ffffff",
    "low": "#1d2329", "high": "#7db8f0", "below": "#d9b45a", "middle": "#242a31", "above": "#63aef0",
}  # fmt: skip
"""The same on a dark page."""

SPREAD = 0.22
"""Between the series of one row of dots, where the rows are 1 apart."""

DASHES = {"solid": "-", "dash": "--", "dot": ":"}
"""Lines of the same colour, told apart: Plotly's names, and Matplotlib's."""

CROWDED = 16
"""Rows or columns of a heat map above which nothing is written into its cells."""

TREE_SHARE = 0.18
"""Part of a heat map's height that its dendrogram takes."""

SYMBOLS = {"diamond": "D", "square": "s", "triangle-up": "^"}
"""Of marks on curves: Plotly's names, and Matplotlib's."""

UNIT = (-0.02, 1.02)
"""Ends of the axes of the unit square."""

NAMED = "%{text}<br>%{y:.4f}<extra>%{fullData.name}</extra>"
"""What is shown of a point whose place has a name."""

BAND = 0.16
"""How dark the band of an interval is beside its line."""

DIGITS = 6
"""Significant digits of what is drawn: a pixel is a thousandth of an axis. Tables keep the full precision."""


def css_variables(palette: tuple[str, ...], roles: dict[str, str]) -> str:
    """Return the colours as declarations of CSS variables."""
    colours = {f"c{number}": colour for number, colour in enumerate(palette)} | roles
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def _short(name: str, most: int = 36) -> str:
    """Leave out the middle of a long name: names often differ at their ends."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def _places(body: DotPlot, number: int) -> Values:
    """Return where the dots of a series are, from top to bottom."""
    return np.arange(len(body.labels), dtype=np.float64) + (number - (len(body.series) - 1) / 2) * SPREAD


def _dash(number: int) -> str:
    return list(DASHES)[number // len(PALETTE) % len(DASHES)]


def _limits(body: Heatmap) -> tuple[float, float]:
    return body.limits or (float(np.nanmin(body.values)), float(np.nanmax(body.values)))


def _branches(body: Heatmap) -> list[tuple[list[float], tuple[float, ...]]]:
    """Return the lines of a dendrogram; SciPy puts leaf i at 10 i + 5."""
    if body.tree is None:
        return []
    return [([(x - 5) / 10 for x in xs], ys) for xs, ys in zip(body.tree.x, body.tree.height, strict=True)]


# --- for the page


def make_figure(chart: Chart) -> "Figure":
    """Return a chart as a Plotly figure without colours.

    Every trace has ``meta.role``: a number of the palette, ``muted``, ``emphasis``, ``line``, ``sequential`` or
    ``diverging``.
    """
    from plotly.graph_objects import Figure

    match chart.body:
        case DotPlot() as body:
            data, layout = _dots(body)
        case BarChart() as body:
            data, layout = _bars(body)
        case LineChart() as body:
            data, layout = _lines(body)
        case Heatmap() as body:
            data, layout = _heatmap(body)
        case ScatterPlot() as body:
            data, layout = _scatter(body)
    common = {
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "dragmode": False,
        "hovermode": "closest",
        "font": {"size": 13},
        "legend": {
            "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemsizing": "constant",
            "traceorder": "normal",
        },
    }  # fmt: skip
    figure = Figure(data=data, layout=common | layout)
    figure.layout.template = {}
    return figure


def _numbers(values: Values) -> list[float | None]:
    """Return values as JSON has them, to :data:`DIGITS` digits; NaN is null."""
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]


def _text(words: str) -> str:
    """Return words that Plotly shows as they are: it reads a few HTML tags."""
    return escape(words, quote=False)


def _axis(title: str = "", **more: Any) -> dict[str, Any]:
    return {"title": {"text": _text(title)}, "automargin": True, "zeroline": False, "fixedrange": True} | more


def _names(labels: tuple[str, ...], title: str = "", *, reverse: bool = False, **more: Any) -> dict[str, Any]:
    """Return a numeric axis with names on it: as categories, equal names would fall together."""
    ends = [len(labels) - 0.5, -0.5] if reverse else [-0.5, len(labels) - 0.5]
    shown = [_text(_short(name)) for name in labels]
    common = {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": shown, "range": ends}
    return _axis(title, **common, showgrid=False, **more)


def _line(x: Any, y: Any, role: str | int, **line: Any) -> dict[str, Any]:
    """Return a line that is no series: nothing to point at, and not in the legend."""
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"width": 1.5} | line,
        "hoverinfo": "skip", "showlegend": False, "meta": {"role": role},
    }  # fmt: skip


Drawn = tuple[list[dict[str, Any]], dict[str, Any]]
"""Traces and layout."""


def _dots(body: DotPlot) -> Drawn:
    several = len(body.series) > 1
    rows = range(len(body.labels))
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": _text(series.name),
            "x": _numbers(series.values),
            "y": _places(body, number).tolist(),
            "text": [_text(name) for name in body.labels],
            "hovertemplate": "%{text}<br>%{x:.4f}<extra>%{fullData.name}</extra>",
            "marker": {
                "size": [11 if row in body.emphasised else 8 for row in rows],
                "symbol": ["diamond" if row in body.emphasised else "circle" for row in rows],
                "line": {"width": 0},
            },
            "meta": {"role": number},
            "showlegend": several,
        }
        | _interval(series.values, series.low, series.high, axis="x")
        for number, series in enumerate(body.series)
    ]
    layout: dict[str, Any] = {
        "xaxis": _axis(body.axis),
        "yaxis": _names(body.labels, reverse=True),
        "height": 110 + (30 if len(body.labels) <= 8 else 26) * len(body.labels) + 24 * several,
    }
    if body.baseline is not None:
        at = {"x0": body.baseline, "x1": body.baseline, "xref": "x", "y0": 0, "y1": 1, "yref": "paper"}
        layout["shapes"] = [{"type": "line", **at, "line": {"dash": "dot"}}]
        layout["margin"] = {"l": 8, "r": 12, "t": 26, "b": 8}
        if body.baseline_name and not several:
            said = _text(f"{body.baseline_name} {body.baseline:.4f}")
            above = {"x": body.baseline, "xref": "x", "y": 1, "yref": "paper", "yanchor": "bottom"}
            layout["annotations"] = [{**above, "text": said, "showarrow": False}]
    return data, layout


def _interval(values: Values, low: Values | None, high: Values | None, *, axis: str) -> dict[str, Any]:
    if low is None or high is None:
        return {}
    ends = {"array": _numbers(high - values), "arrayminus": _numbers(values - low)}
    return {f"error_{axis}": {"type": "data", "symmetric": False, **ends, "thickness": 1.5, "width": 3}}


def _bars(body: BarChart) -> Drawn:
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": _text(series.name),
            "x": _numbers(series.values),
            "y": list(range(len(body.labels))),
            "text": [_text(name) for name in body.labels],
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


def _lines(body: LineChart) -> Drawn:
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if body.dotted else "lines",
            "name": _text(line.name),
            "x": _numbers(line.x),
            "y": _numbers(line.y),
            "hovertemplate": "%{x:.3f}, %{y:.3f}<extra>%{fullData.name}</extra>",
            "line": {"width": 2, "dash": _dash(number)},
            "marker": {"size": 8},
            "meta": {"role": number},
            "showlegend": True,
        }
        | (_interval(line.y, line.low, line.high, axis="y") if body.dotted else {})
        for number, line in enumerate(body.lines)
    ]
    bands = [] if body.dotted else [_band(line, number) for number, line in enumerate(body.lines)]
    if body.diagonal:
        data.append(_line([0, 1], [0, 1], "muted", dash="dot"))
    if body.places:
        for trace, line in zip(data, body.lines, strict=False):
            names = [body.places[round(x)] for x in line.x]
            trace |= {"text": [_text(name) for name in names], "hovertemplate": NAMED}
    data += [_marks(marks, symbol) for symbol, marks in zip(SYMBOLS, body.marks, strict=False)]
    data += [band for band in bands if band is not None]
    upwards = {} if body.places else {"range": list(body.height or UNIT)}
    layout = {
        "xaxis": _names(body.places, body.x_axis)
        if body.places
        else _axis(body.x_axis, range=list(body.width or UNIT)),
        "yaxis": _axis(body.y_axis, **upwards),
        "height": 360 + 16 * (len(body.lines) + len(body.marks)),
    }
    return data, layout


def _band(line: LineSeries, number: int) -> dict[str, Any] | None:
    """Return what lies between the ends of a line's intervals; None where it has none."""
    if line.low is None or line.high is None:
        return None
    there = np.isfinite(line.low) & np.isfinite(line.high)
    x, low, high = line.x[there], line.low[there], line.high[there]
    around = {"x": _numbers(np.concatenate([x, x[::-1]])), "y": _numbers(np.concatenate([high, low[::-1]]))}
    return _line(**around, role=number, width=0) | {"fill": "toself"}


def _marks(marks: LineSeries, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": _text(marks.name),
        "x": _numbers(marks.x),
        "y": _numbers(marks.y),
        "hovertemplate": "%{x:.3f}, %{y:.3f}<extra>%{fullData.name}</extra>",
        "marker": {"size": 11, "symbol": symbol},
        "meta": {"role": "emphasis"},
        "showlegend": True,
    }


def _heatmap(body: Heatmap) -> Drawn:
    rows, columns = body.values.shape
    low, high = _limits(body)
    hover = [
        [_text(f"{body.row_axis} {row}, {body.column_axis} {column}".strip(", ")) for column in body.columns]
        for row in body.rows
    ]
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": list(range(columns)),
            "y": list(range(rows)),
            "z": [_numbers(row) for row in body.values],
            "zmin": low,
            "zmax": high,
            "text": [[_text(cell) for cell in row] for row in body.texts],
            "texttemplate": "" if max(rows, columns) > CROWDED else "%{text}",
            "customdata": hover,
            "hovertemplate": "%{customdata}<br>%{text} (%{z:.3f})<extra></extra>",
            "hoverongaps": False,
            "xgap": 1,
            "ygap": 1,
            "colorbar": {"title": {"text": _text(body.scale), "side": "right"}, "thickness": 12, "outlinewidth": 0},
            "meta": {"role": "diverging" if body.diverging else "sequential"},
        }
    ]
    layout: dict[str, Any] = {
        "xaxis": _names(body.columns, body.column_axis, tickangle=-45),
        "yaxis": _names(body.rows, body.row_axis, reverse=True),
        "height": 170 + (40 if rows <= 8 else 26) * rows,
    }
    if body.tree is not None:
        data += [_line(xs, _numbers(np.array(ys)), "line") | {"yaxis": "y2"} for xs, ys in _branches(body)]
        layout["yaxis"]["domain"] = [0, 1 - TREE_SHARE]
        layout["yaxis2"] = _axis(domain=[1 - TREE_SHARE + 0.01, 1], showgrid=False, showticklabels=False)
        layout["height"] += 90
    return data, layout


def _scatter(body: ScatterPlot) -> Drawn:
    data = [_group(group) for group in body.groups]
    if body.front is not None:
        data.append(_line(_numbers(body.front.x), _numbers(body.front.y), "line", shape="hv"))
    for number, line in enumerate(body.lines):
        data.append(_line(_numbers(line.x), _numbers(line.y), "line", dash="solid" if number == 0 else "dash"))
    layout = {
        "xaxis": _axis(body.x_axis, fixedrange=False),
        "yaxis": _axis(body.y_axis, fixedrange=False),
        "height": 520,
    }
    return data, layout


def _group(group: PointGroup) -> dict[str, Any]:
    symbol = "diamond" if group.role == "emphasis" else "circle"
    seen = group.tiles is not None
    return {
        "type": "scatter",
        "mode": "markers",
        "name": _text(group.name),
        "x": _numbers(group.x),
        "y": _numbers(group.y),
        "text": [_text(words) for words in group.texts],
        "customdata": list(group.tiles) if group.tiles is not None else None,
        # Where there are thumbnails, the page's own label shows the text beside them.
        "hoverinfo": "none" if seen else None,
        "hovertemplate": None if seen else "%{text}<br>%{x:,.4g}, %{y:.4f}<extra>%{fullData.name}</extra>",
        "marker": {
            "size": {"muted": 6, "plain": 8, "emphasis": 13}[group.role],
            "symbol": f"{symbol}-open" if group.hollow else symbol,
            "opacity": 0.85,
        },
        "meta": {"role": group.role if group.role != "plain" else group.colour},
        "showlegend": group.named,
        "legendgroup": f"{group.role}-{group.colour}",
    }


# --- for a paper

WIDTH = 6.5
"""Inches: the width of a page's text."""

DPI = 300
"""What journals ask of figures with lines and shades."""

FORMATS = ("svg", "png")


def write_figures(charts: Iterable[Chart], folder: Path) -> tuple[Path, ...]:
    """Write every chart as ``<id>.svg`` and ``<id>.png``: no browser is needed.

    Raises
    ------
    DiskError
        If the folder cannot be written to.
    """
    from matplotlib import rc_context

    written = []
    for chart in charts:
        # A fixed salt: equal figures are equal files.
        with rc_context({"svg.hashsalt": chart.id, "svg.fonttype": "none", "font.size": 9, "text.parse_math": False}):
            figure = static_figure(chart)
            for kind in FORMATS:
                path = folder / f"{chart.id}.{kind}"
                with atomic_path(path) as temporary:
                    nothing = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
                    figure.savefig(temporary, format=kind, dpi=DPI, bbox_inches="tight", metadata=nothing)
                written.append(path)
    return tuple(written)


def inline_picture(chart: Chart) -> str:
    """Return a chart as an HTML image, for a notebook."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": chart.id, "font.size": 9, "text.parse_math": False}):
        file = io.BytesIO()
        static_figure(chart).savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    source = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/svg+xml;base64,{source}" alt="{escape(f"{chart.title}. {chart.summary}")}">'


def static_figure(chart: Chart) -> "StaticFigure":
    """Return a chart as a Matplotlib figure."""
    match chart.body:
        case DotPlot() | BarChart() as body:
            figure = _new(0.9 + 0.24 * len(body.labels))
            _static_rows(figure.subplots(), body)
            _static_legend(figure, len(body.series))
        case LineChart() as body:
            figure = _new(WIDTH * 0.75)
            _static_lines(figure.subplots(), body)
        case Heatmap() as body:
            figure = _new(1.6 + 0.32 * len(body.rows))
            _static_heatmap(figure, body)
        case ScatterPlot() as body:
            figure = _new(WIDTH * 0.75)
            _static_scatter(figure.subplots(), body)
            _static_legend(figure, sum(group.named for group in body.groups))
    figure.suptitle(chart.title, fontsize=10)
    return figure


def _new(height: float) -> "StaticFigure":
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, max(height, 2.2)), layout="constrained")


def _static_legend(figure: "StaticFigure", count: int) -> None:
    if count > 1:
        figure.legend(loc="outside lower center", fontsize=7, frameon=False, ncols=min(count, 4))


def _static_rows(axes: "Axes", body: DotPlot | BarChart) -> None:
    left = np.zeros(len(body.labels))
    for number, series in enumerate(body.series):
        colour = PALETTE[number % len(PALETTE)]
        if isinstance(body, DotPlot):
            _static_dots(axes, body, number, series, colour)
        else:
            axes.barh(range(len(body.labels)), series.values, left=left, color=colour, label=series.name)
            left = left + series.values
    if isinstance(body, DotPlot):
        axes.grid(axis="x", linewidth=0.4)
        if body.baseline is not None:
            axes.axvline(body.baseline, color=LIGHT["quiet"], linewidth=1, linestyle=":")
    axes.set_yticks(range(len(body.labels)), [_short(name) for name in body.labels])
    axes.set_ylim(len(body.labels) - 0.5, -0.5)
    axes.set_xlabel(body.axis)


def _static_dots(axes: "Axes", body: DotPlot, number: int, series: Series, colour: str) -> None:
    places = _places(body, number)
    if series.low is not None and series.high is not None:
        there = ~np.isnan(series.low)
        axes.hlines(places[there], series.low[there], series.high[there], colors=colour, linewidth=1.2)
    for marker, wanted in (("o", False), ("D", True)):
        rows = [row for row in range(len(body.labels)) if (row in body.emphasised) is wanted]
        label = series.name if wanted is (len(body.emphasised) == len(body.labels)) else None
        axes.plot(series.values[rows], places[rows], marker, color=colour, markersize=5, label=label)


def _static_lines(axes: "Axes", body: LineChart) -> None:
    if body.diagonal:
        axes.plot([0, 1], [0, 1], ":", color=LIGHT["muted"], linewidth=1)
    for number, line in enumerate(body.lines):
        colour, marker = PALETTE[number % len(PALETTE)], "o" if body.dotted else None
        style = DASHES[_dash(number)]
        axes.plot(line.x, line.y, style, marker=marker, color=colour, linewidth=1.4, label=line.name)
        if line.low is not None and line.high is not None:
            if body.dotted:
                axes.vlines(line.x, line.low, line.high, color=colour, linewidth=1)
            else:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=BAND, linewidth=0)
    for symbol, marks in zip(SYMBOLS.values(), body.marks, strict=False):
        axes.plot(marks.x, marks.y, symbol, color=LIGHT["emphasis"], markersize=6, label=marks.name)
    axes.set(xlabel=body.x_axis, ylabel=body.y_axis)
    if body.places:
        axes.set_xticks(range(len(body.places)), [_short(name) for name in body.places])
    else:
        square = body.height is None and body.width is None
        axes.set(xlim=body.width or UNIT, ylim=body.height or UNIT, aspect="equal" if square else "auto")
    axes.grid(linewidth=0.4)
    axes.legend(fontsize=7, frameon=False)


def _static_heatmap(figure: "StaticFigure", body: Heatmap) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    if body.tree is None:
        axes = figure.subplots()
    else:
        above, axes = figure.subplots(2, 1, height_ratios=(TREE_SHARE, 1 - TREE_SHARE), sharex=True)
        for xs, heights in _branches(body):
            above.plot(xs, heights, color=LIGHT["quiet"], linewidth=1)
        above.axis("off")
    low, high = _limits(body)
    names = ("below", "middle", "above") if body.diverging else ("low", "high")
    colours = LinearSegmentedColormap.from_list("scale", [LIGHT[name] for name in names])
    image = axes.imshow(body.values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    if max(body.values.shape) <= CROWDED:
        _write_cells(axes, body, image)
    axes.set_xticks(range(len(body.columns)), [_short(name) for name in body.columns], rotation=45, ha="right")
    axes.set_yticks(range(len(body.rows)), [_short(name) for name in body.rows])
    axes.set(xlabel=body.column_axis, ylabel=body.row_axis)
    figure.colorbar(image, ax=axes, label=body.scale, shrink=0.8)


def _write_cells(axes: "Axes", body: Heatmap, image: Any) -> None:
    for row, texts in enumerate(body.texts):
        for column, words in enumerate(texts):
            value = body.values[row, column]
            shade = image.cmap(image.norm(value))[:3] if np.isfinite(value) else (1, 1, 1)
            # Rec. 709: how bright the cell is decides the colour of what is written on it.
            bright = np.dot(shade, (0.2126, 0.7152, 0.0722)) > 0.5
            axes.text(column, row, words, ha="center", va="center", fontsize=7, color="black" if bright else "white")


def _static_scatter(axes: "Axes", body: ScatterPlot) -> None:
    for group in body.groups:
        colour = PALETTE[group.colour % len(PALETTE)] if group.role == "plain" else LIGHT[group.role]
        axes.scatter(
            group.x,
            group.y,
            s={"muted": 8, "plain": 14, "emphasis": 50}[group.role],
            marker="D" if group.role == "emphasis" else "o",
            facecolors="none" if group.hollow else colour,
            edgecolors=colour,
            linewidths=0.8,
            label=group.name if group.named else None,
            rasterized=len(group.x) > 500,
        )
    if body.front is not None:
        axes.step(body.front.x, body.front.y, where="post", color=LIGHT["quiet"], linewidth=1)
    for number, line in enumerate(body.lines):
        axes.plot(line.x, line.y, DASHES["solid" if number == 0 else "dash"], color=LIGHT["quiet"], linewidth=1)
    axes.set(xlabel=body.x_axis, ylabel=body.y_axis)
    axes.grid(linewidth=0.4)
