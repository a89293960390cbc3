"""What a report says, before anybody decides how it looks: sections of sentences, tables, charts and pictures."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Cell = str | int | float | None
"""What stands in a table: None, and NaN, for what does not exist."""

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Column:
    """How a column of a table is read.

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

    def text(self, cell: Cell) -> str:
        """Return a cell as people read it; empty where there is no value."""
        if cell is None or (isinstance(cell, float) and np.isnan(cell)):
            return ""
        if isinstance(cell, float):
            return f"{cell:{'+' if self.signed else ''}.{self.decimals}f}"
        return f"{cell:,}" if isinstance(cell, int) else cell


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption; the first column names the row.

    Attributes
    ----------
    id : str
        Unique in the report.
    caption : str
    columns : tuple of Column
    rows : tuple of tuple
    marked : frozenset of int
        Rows that stand out.
    filtered : bool
        Whether the reader is offered a filter.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int] = frozenset()
    filtered: bool = False
    kind: Literal["table"] = "table"


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
        Pixels.
    """

    source: str
    alternative: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures beside one another under a title."""

    id: str
    title: str
    pictures: tuple[Picture, ...]
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
class Dots:
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
class Bars:
    """Counts by name, stacked: an array of the labels' length per series."""

    labels: tuple[str, ...]
    series: tuple[Series, ...]
    axis: str
    shape: Literal["bars"] = "bars"


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """A curve."""

    name: str
    x: Values
    y: Values


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines:
    """Curves in the unit square.

    Attributes
    ----------
    lines : tuple of Line
    x_axis, y_axis : str
    diagonal : bool
        Whether the diagonal is drawn: chance, or perfect calibration.
    dotted : bool
        Whether points are marked.
    """

    lines: tuple[Line, ...]
    x_axis: str
    y_axis: str
    diagonal: bool = False
    dotted: bool = False
    shape: Literal["lines"] = "lines"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """A dendrogram over the columns of a heat map: x in units of ten from 5, as SciPy draws them, and heights."""

    x: tuple[tuple[float, ...], ...]
    height: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Heat:
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
class Cloud:
    """Points of one kind.

    Attributes
    ----------
    name : str
    x, y : ndarray of float64, shape (n,)
    texts : tuple of str
        What each point is.
    tiles : tuple of int or None
        Place of each point's thumbnail on the sheet, -1 for none.
    role : {"plain", "muted", "emphasis"}
    hollow : bool
        Whether only outlines are drawn.
    colour : int
        Which of the palette's colours.
    named : bool
        Whether the legend names it; False where another cloud of its colour stands for both.
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
class Sheet:
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
class Points:
    """A scatter plot.

    Attributes
    ----------
    clouds : tuple of Cloud
    x_axis, y_axis : str
    front : Line or None
        A staircase drawn over the points.
    sheet : Sheet or None
        Thumbnails of the points.
    """

    clouds: tuple[Cloud, ...]
    x_axis: str
    y_axis: str
    front: Line | None = None
    sheet: Sheet | None = None
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
    body : Dots, Bars, Lines, Heat or Points
    table : Table
        The same data to read.
    """

    id: str
    title: str
    summary: str
    body: Dots | Bars | Lines | Heat | Points
    table: Table
    kind: Literal["chart"] = "chart"


Item = Chart | Table | Gallery


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """A chapter of the report.

    Attributes
    ----------
    id, title : str
    paragraphs : tuple of str
        What there is to say.
    warnings : tuple of str
        What a careful reader must know.
    items : tuple of Chart, Table or Gallery
    """

    id: str
    title: str
    paragraphs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A number that stands out at the top: its name, how it is written, and a remark."""

    name: str
    text: str
    remark: str = ""
    value: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Everything on the page.

    Attributes
    ----------
    title, subtitle : str
    answer : str
        One sentence: which encoders, how much better, is it noise.
    facts : tuple of Fact
    sections : tuple of Section
    footer : str
    """

    title: str
    subtitle: str
    answer: str
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    footer: str

    @property
    def charts(self) -> tuple[Chart, ...]:
        """All figures, in the order of the page."""
        return tuple(item for section in self.sections for item in section.items if isinstance(item, Chart))
