"""The same charts as SVG and PNG files for a paper, drawn by Matplotlib: no browser is needed."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.core.files import atomic_path
from biofuse.report.content import Bars, Chart, Dots, Heat, Lines, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#c42b45", "#56b4e9", "#6a4fc4", "#595959")
"""The Okabe-Ito palette, with its yellow darkened: people with any colour vision tell them apart on white."""

MUTED, EMPHASIS = "#a3adb8", "#c42b45"

WIDTH = 6.5
"""Inches: the width of a page's text."""

DPI = 200

FORMATS = ("svg", "png")


def write_figures(charts: Iterable[Chart], folder: Path) -> tuple[Path, ...]:
    """Write every chart as ``<id>.svg`` and ``<id>.png``.

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
            figure = draw(chart)
            for kind in FORMATS:
                path = folder / f"{chart.id}.{kind}"
                with atomic_path(path) as temporary:
                    nothing = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
                    figure.savefig(temporary, format=kind, dpi=DPI, bbox_inches="tight", metadata=nothing)
                written.append(path)
    return tuple(written)


def draw(chart: Chart) -> "Figure":
    """Return a chart as a Matplotlib figure."""
    match chart.body:
        case Dots() as body:
            figure = _new(0.9 + 0.24 * len(body.labels))
            _dots(figure.subplots(), body)
            _legend(figure, len(body.series))
        case Bars() as body:
            figure = _new(0.9 + 0.24 * len(body.labels))
            _bars(figure.subplots(), body)
            _legend(figure, len(body.series))
        case Lines() as body:
            figure = _new(WIDTH * 0.75)
            _lines(figure.subplots(), body)
        case Heat() as body:
            figure = _new(1.6 + 0.32 * len(body.rows))
            _heat(figure, body)
        case Points() as body:
            figure = _new(WIDTH * 0.75)
            _points(figure.subplots(), body)
            _legend(figure, sum(cloud.named for cloud in body.clouds))
    figure.suptitle(chart.title, fontsize=10)
    return figure


def _new(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, max(height, 2.2)), layout="constrained")


def _legend(figure: "Figure", count: int) -> None:
    if count > 1:
        figure.legend(loc="outside lower center", fontsize=7, frameon=False, ncols=min(count, 4))


def _named(axes: "Axes", labels: tuple[str, ...]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def _dots(axes: "Axes", body: Dots) -> None:
    for number, series in enumerate(body.series):
        places = np.arange(len(body.labels)) + (number - (len(body.series) - 1) / 2) * 0.22
        colour = PALETTE[number % len(PALETTE)]
        if series.low is not None and series.high is not None:
            there = ~np.isnan(series.low)
            axes.hlines(places[there], series.low[there], series.high[there], colors=colour, linewidth=1.2)
        for marker, wanted in (("o", False), ("D", True)):
            rows = [row for row in range(len(body.labels)) if (row in body.emphasised) is wanted]
            label = series.name if not wanted or len(rows) == len(body.labels) else None
            axes.plot(series.values[rows], places[rows], marker, color=colour, markersize=5, label=label)
    if body.baseline is not None:
        axes.axvline(body.baseline, color="#595959", linewidth=1, linestyle=":")
    _named(axes, body.labels)
    axes.set_xlabel(body.axis)
    axes.grid(axis="x", linewidth=0.4)


def _bars(axes: "Axes", body: Bars) -> None:
    left = np.zeros(len(body.labels))
    for number, series in enumerate(body.series):
        axes.barh(range(len(body.labels)), series.values, left=left, color=PALETTE[number], label=series.name)
        left = left + series.values
    _named(axes, body.labels)
    axes.set_xlabel(body.axis)


def _lines(axes: "Axes", body: Lines) -> None:
    if body.diagonal:
        axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1)
    styles = ("-", "--", ":")
    for number, line in enumerate(body.lines):
        axes.plot(
            line.x,
            line.y,
            styles[number // len(PALETTE) % len(styles)],
            marker="o" if body.dotted else None,
            color=PALETTE[number % len(PALETTE)],
            linewidth=1.4,
            label=line.name,
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=body.x_axis, ylabel=body.y_axis, aspect="equal")
    axes.grid(linewidth=0.4)
    axes.legend(fontsize=7, frameon=False)


def _heat(figure: "Figure", body: Heat) -> None:
    if body.tree is None:
        axes = figure.subplots()
    else:
        above, axes = figure.subplots(2, 1, height_ratios=(1, 4), sharex=True)
        for xs, heights in zip(body.tree.x, body.tree.height, strict=True):
            above.plot([(x - 5) / 10 for x in xs], heights, color="#595959", linewidth=1)
        above.axis("off")
    low, high = body.limits or (None, None)
    colours = "RdBu" if body.diverging else "Blues"
    image = axes.imshow(body.values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    if max(body.values.shape) <= 16:
        _write_cells(axes, body, image)
    axes.set_xticks(range(len(body.columns)), body.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(body.rows)), body.rows)
    axes.set(xlabel=body.column_axis, ylabel=body.row_axis)
    figure.colorbar(image, ax=axes, label=body.scale, shrink=0.8)


def _write_cells(axes: "Axes", body: Heat, image: Any) -> None:
    for row, texts in enumerate(body.texts):
        for column, words in enumerate(texts):
            value = body.values[row, column]
            shade = image.cmap(image.norm(value))[:3] if np.isfinite(value) else (1, 1, 1)
            # Rec. 709: how bright the cell is decides the colour of what is written on it.
            bright = np.dot(shade, (0.2126, 0.7152, 0.0722)) > 0.5
            axes.text(column, row, words, ha="center", va="center", fontsize=7, color="black" if bright else "white")


def _points(axes: "Axes", body: Points) -> None:
    for cloud in body.clouds:
        colour = {"muted": MUTED, "emphasis": EMPHASIS}.get(cloud.role, PALETTE[cloud.colour % len(PALETTE)])
        size = {"muted": 8, "plain": 14, "emphasis": 50}[cloud.role]
        axes.scatter(
            cloud.x,
            cloud.y,
            s=size,
            marker="D" if cloud.role == "emphasis" else "o",
            facecolors="none" if cloud.hollow else colour,
            edgecolors=colour,
            linewidths=0.8,
            label=cloud.name if cloud.named else None,
            rasterized=len(cloud.x) > 500,
        )
    if body.front is not None:
        axes.step(body.front.x, body.front.y, where="post", color="#595959", linewidth=1)
    axes.set(xlabel=body.x_axis, ylabel=body.y_axis)
    axes.grid(linewidth=0.4)
