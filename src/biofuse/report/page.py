"""A page of tables as one HTML file: no script, no network, readable in print, light and dark."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


def render_page(
    title: str, tables: Sequence[Table], *, lead: Sequence[str] = (), links: Mapping[str, str] | None = None
) -> str:
    """Return a whole HTML document.

    Parameters
    ----------
    title : str
    tables : sequence of Table
    lead : sequence of str
        Paragraphs before the first table.
    links : mapping of str to str, optional
        Other pages that belong to it: what they are called, and their relative addresses.
    """
    version = importlib.metadata.version("biofuse-embed")
    page = _template("tables.html.j2").render(title=title, lead=lead, links=links or {}, tables=tables, version=version)
    return str(page)


def render_tables(tables: Sequence[Table]) -> str:
    """Return the tables alone, for a notebook."""
    return str(_template("macros.html.j2").module.tables_of(tables))


def _template(name: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("biofuse.report", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
