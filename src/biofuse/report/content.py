"""What a report says, before anybody decides how it looks: sections of sentences, tables, charts and pictures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

Value = str | int | float | None
"""What stands in a table: None, and NaN, for what does not exist."""

Tone = Literal["", "best", "next", "gain", "loss", "noise"]
"""How a cell is marked: the best of its column, second or third; a gain, a loss, or a difference that may be chance."""

PALEST, DEEPEST = (0xF7, 0xFB, 0xFF), (0xB5, 0xD4, 0xE9)
"""Ends of the scale of shaded cells, light enough that the red of the second and third keeps a contrast of 5 to 1."""


@dataclass(frozen=True)
class Cell:
    """A cell that stands out, or has a remark.

    Attributes
    ----------
    value : str, int, float or None
    tone : str
        See :data:`Tone`.
    shade : float or None
        0 to 1: where the value stands between the lowest and the highest of its column; None for no colour.
    note : str
        What a reader is told who asks more of it.
    ends : pair of float or None
        Of the 95 % interval of the value.
    """

    value: Value
    tone: Tone = ""
    shade: float | None = None
    note: str = ""
    ends: tuple[float, float] | None = None

    @property
    def background(self) -> str:
        """The colour of the cell as CSS; empty where it has none, or its tone decides."""
        if self.shade is None or self.tone == "best":
            return ""
        mixed = (round(low + (high - low) * self.shade) for low, high in zip(PALEST, DEEPEST, strict=True))
        return "#" + "".join(f"{part:02x}" for part in mixed)


@dataclass(frozen=True, kw_only=True)
class Column:
    """How a column of a table is read; the ends of intervals have no more than three decimals, but of differences all.

    Attributes
    ----------
    title : str
    number : bool
        Whether its cells are numbers, set to the right.
    decimals : int
        Shown of a float; the page keeps the full precision beside it.
    signed : bool
        Whether a plus is written.
    code : bool
        Whether its cells are names for machines: hashes, versions.
    """

    title: str
    number: bool = False
    decimals: int = 4
    signed: bool = False
    code: bool = False

    def text(self, cell: Value | Cell) -> str:
        """Return a cell as people read it; empty where there is no value."""
        if isinstance(cell, Cell) and cell.ends is not None:
            low, high = map(self.end, cell.ends)
            return f"{self.text(cell.value)} ({low}\u2013{high})"
        value = cell.value if isinstance(cell, Cell) else cell
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return ""
        if isinstance(value, float):
            return f"{value:{'+' if self.signed else ''}.{self.decimals}f}"
        return f"{value:,}" if isinstance(value, int) else value

    def end(self, value: float) -> str:
        """Return the end of an interval as people read it."""
        return f"{value:+z.{self.decimals}f}" if self.signed else f"{value:.{min(self.decimals, 3)}f}"


def spanned(value: float | None, low: float | None, high: float | None, *, tone: Tone = "") -> Cell:
    """Return a cell with a 95 % interval, where there is one."""
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return Cell(value, tone=tone)
    return Cell(value, tone=tone, ends=(float(low), float(high)))


def words(*titles: str, code: bool = False) -> tuple[Column, ...]:
    """Return columns of text."""
    return tuple(Column(title=title, code=code) for title in titles)


def numbers(*titles: str, decimals: int = 4, signed: bool = False) -> tuple[Column, ...]:
    """Return columns of numbers."""
    return tuple(Column(title=title, number=True, decimals=decimals, signed=signed) for title in titles)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption; the first column names the row.

    Attributes
    ----------
    id : str
        Unique in the page.
    caption : str
    columns : tuple of Column
    rows : tuple of tuple
        As long as ``columns``.
    notes : tuple of str
        Sentences below it.
    marked : frozenset of int
        Rows that stand out.
    filtered : bool
        Whether the reader is offered a filter.
    basis : str
        What its scores are of: which samples, which head or the screen, which encoders.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value | Cell, ...], ...]
    notes: tuple[str, ...] = ()
    marked: frozenset[int] = frozenset()
    filtered: bool = False
    basis: str = ""
    kind: Literal["table"] = "table"

    @classmethod
    def of(
        cls,
        caption: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Value | Cell]],
        *,
        aligned: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> Self:
        """Return a table whose columns are no more than titles; those ``aligned`` are set to the right."""
        right = set(aligned)
        return cls(
            id="-".join("".join(letter if letter.isalnum() else " " for letter in caption.lower()).split()),
            caption=caption,
            columns=tuple(Column(title=title, number=title in right) for title in columns),
            rows=tuple(map(tuple, rows)),
            notes=tuple(notes),
        )

    def texts(self) -> list[list[str]]:
        """Return the rows as people read them."""
        return [[column.text(cell) for column, cell in zip(self.columns, row, strict=True)] for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image inside the page.

    Attributes
    ----------
    source : str
        ``data:`` URI.
    alternative : str
        What it shows, in words.
    caption : str
    width, height : int
        Pixels at which it is shown; it may have more, which are seen when it is enlarged.
    """

    source: str
    alternative: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures beside one another under a title; where they have a basis, that is seen in its place."""

    id: str
    title: str
    pictures: tuple[Picture, ...]
    basis: str = ""
    kind: Literal["gallery"] = "gallery"


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One row of dots: a value per label, perhaps with an interval.

    Attributes
    ----------
    name : str
    values : ndarray of float64, shape (n,)
    low, high : ndarray of float64, shape (n,), or None
        NaN where there is no interval.
    """

    name: str
    values: Values
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class DotPlot:
    """Values and intervals by name, the first name on top.

    Attributes
    ----------
    labels : tuple of str
    series : tuple of Series
    axis : str
        What the values are.
    emphasised : frozenset of int
        Labels that stand out.
    baseline : float or None
        A value to compare with, drawn as a line.
    baseline_name : str
    """

    labels: tuple[str, ...]
    series: tuple[Series, ...]
    axis: str
    emphasised: frozenset[int] = frozenset()
    baseline: float | None = None
    baseline_name: str = ""
    shape: Literal["dots"] = "dots"


@dataclass(frozen=True, kw_only=True, eq=False)
class BarChart:
    """Counts by name, stacked: an array of the labels' length per series."""

    labels: tuple[str, ...]
    series: tuple[Series, ...]
    axis: str
    shape: Literal["bars"] = "bars"


@dataclass(frozen=True, kw_only=True, eq=False)
class LineSeries:
    """A curve, perhaps with an interval at every point.

    Attributes
    ----------
    name : str
    x, y : ndarray of float64, shape (n,)
    low, high : ndarray of float64, shape (n,), or None
        Of y; NaN where there is no interval.
    """

    name: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LineChart:
    """Curves in the unit square or over the unit interval, or over places with names.

    Attributes
    ----------
    lines : tuple of Line
    x_axis, y_axis : str
    diagonal : bool
        Whether the diagonal is drawn: chance, or perfect calibration.
    dotted : bool
        Whether points are marked.
    places : tuple of str
        Names of 0, 1, 2, ... on the x axis; none in the unit square. The y axis is then as long as the values need.
    marks : tuple of Line
        Points that stand out, a symbol for each group of them.
    height, width : pair of float or None
        Ends of the y axis, and of the x axis, where they are not from 0 to 1.
    """

    lines: tuple[LineSeries, ...]
    x_axis: str
    y_axis: str
    diagonal: bool = False
    dotted: bool = False
    places: tuple[str, ...] = ()
    marks: tuple[LineSeries, ...] = ()
    height: tuple[float, float] | None = None
    width: tuple[float, float] | None = None
    shape: Literal["lines"] = "lines"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """A dendrogram over the columns of a heat map: x in units of ten from 5, as SciPy draws them, and heights."""

    x: tuple[tuple[float, ...], ...]
    height: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Heatmap:
    """A matrix in colours.

    Attributes
    ----------
    rows, columns : tuple of str
        Names, the first row on top.
    values : ndarray of float64, shape (rows, columns)
        What the colour stands for; NaN is left blank.
    texts : tuple of tuple of str
        What is written into the cells.
    row_axis, column_axis, scale : str
        What rows, columns and colours are.
    diverging : bool
        Whether zero is the middle of the colours.
    limits : pair of float or None
        Values of the first and the last colour.
    tree : Tree or None
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Values
    texts: tuple[tuple[str, ...], ...]
    row_axis: str
    column_axis: str
    scale: str
    diverging: bool = False
    limits: tuple[float, float] | None = None
    tree: Tree | None = None
    shape: Literal["heat"] = "heat"


@dataclass(frozen=True, kw_only=True, eq=False)
class PointGroup:
    """Points of one kind.

    Attributes
    ----------
    name : str
    x, y : ndarray of float64, shape (n,)
    texts : tuple of str
        What each point is.
    tiles : tuple of int or None
        Place of each point's thumbnail in the grid, -1 for none.
    role : {"plain", "muted", "emphasis"}
    hollow : bool
        Whether only outlines are drawn.
    colour : int
        Which of the palette's colours.
    named : bool
        Whether the legend names it; False where another group of its colour stands for both.
    """

    name: str
    x: Values
    y: Values
    texts: tuple[str, ...]
    tiles: tuple[int, ...] | None = None
    role: Literal["plain", "muted", "emphasis"] = "plain"
    hollow: bool = False
    colour: int = 0
    named: bool = True


@dataclass(frozen=True, kw_only=True)
class ThumbnailGrid:
    """Many thumbnails in one image, row by row.

    Attributes
    ----------
    source : str
        ``data:`` URI.
    columns, rows : int
        Tiles side by side, and below one another.
    side : int
        Pixels of a tile.
    """

    source: str
    columns: int
    rows: int
    side: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ScatterPlot:
    """A scatter plot.

    Attributes
    ----------
    groups : tuple of PointGroup
    x_axis, y_axis : str
    front : Line or None
        A staircase drawn over the points.
    lines : tuple of Line
        Straight lines drawn over the points, named in what the chart says.
    thumbnails : ThumbnailGrid or None
        Thumbnails of the points.
    """

    groups: tuple[PointGroup, ...]
    x_axis: str
    y_axis: str
    front: LineSeries | None = None
    lines: tuple[LineSeries, ...] = ()
    thumbnails: ThumbnailGrid | None = None
    shape: Literal["points"] = "points"


@dataclass(frozen=True, kw_only=True, eq=False)
class Chart:
    """A figure: what it shows in words, its data as a table, and the drawing itself.

    Attributes
    ----------
    id : str
        Unique in the report; names the files of ``--figures``.
    title, summary : str
        What it is, and what can be seen in it.
    body : DotPlot, BarChart, LineChart, Heatmap or ScatterPlot
    table : Table
        The same data to read.
    basis : str
        What its scores are of: which samples, which head or the screen, which encoders.
    wide : bool
        Whether it needs the whole width of the page.
    """

    id: str
    title: str
    summary: str
    body: DotPlot | BarChart | LineChart | Heatmap | ScatterPlot
    table: Table
    basis: str = ""
    wide: bool = False
    kind: Literal["chart"] = "chart"


Item = Chart | Table | Gallery


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """A section of the report.

    Attributes
    ----------
    id, title : str
    paragraphs : tuple of str
        What there is to say.
    warnings : tuple of str
        What a careful reader must know.
    items : tuple of Chart, Table or Gallery
    remarks : tuple of str
        What is to be said to who asks for more.
    more : tuple of Chart, Table or Gallery
        What is seen by who asks for more.
    """

    id: str
    title: str
    paragraphs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    remarks: tuple[str, ...] = ()
    more: tuple[Item, ...] = ()

    @property
    def within(self) -> str:
        """What who asks for more will see, in words."""
        titles = [item.caption if isinstance(item, Table) else item.title for item in self.more]
        named = list(dict.fromkeys(title.partition(",")[0].partition(":")[0] for title in titles))
        return " \u00b7 ".join(named[:4] + ([f"{len(named) - 4} more"] if len(named) > 4 else []))


@dataclass(frozen=True, kw_only=True)
class KeyFact:
    """A number that stands out at the top: its name, how it is written, what it is of, and a remark."""

    name: str
    text: str
    remark: str = ""
    basis: str = ""
    value: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Chapter:
    """Sections that belong together, under one heading of the contents."""

    title: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Everything on the page.

    Attributes
    ----------
    title, subtitle : str
    answer : str
        One sentence: which encoders, how much better, is it noise.
    facts : tuple of Fact
    picture : Chart or None
        The answer as a figure.
    parts : tuple of Chapter
    footer : str
    """

    title: str
    subtitle: str
    answer: str
    facts: tuple[KeyFact, ...]
    picture: Chart | None
    parts: tuple[Chapter, ...]
    footer: str

    @property
    def sections(self) -> tuple[Section, ...]:
        """All sections, in the order of the page."""
        return tuple(section for part in self.parts for section in part.sections)

    @property
    def charts(self) -> tuple[Chart, ...]:
        """All figures, in the order of the page."""
        items = (item for section in self.sections for item in (*section.items, *section.more))
        return tuple(item for item in (self.picture, *items) if isinstance(item, Chart))
