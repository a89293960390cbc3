"""``biofuse compare``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biofuse.cli.console import note, output, say, show_json, show_table
from biofuse.cli.options import Json

if TYPE_CHECKING:
    from biofuse.report.page import Table

MANY_COLUMNS = 8
"""Columns from which the rows of a table take several lines, and need lines between them."""

BETWEEN = 3
"""Columns of output that a table puts between two of its own."""


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories that `biofuse fit` wrote, evaluated.", show_default=False)
    ],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write everything into one HTML page, too.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Put runs side by side: what was chosen, single encoders over data sets, gains of each modality.

    In the tables of single encoders ¹, ² and ³ mark the best three of each data set; equal values share a mark.

    [bold]Examples[/bold]

      biofuse compare run-blood run-brain

      biofuse compare benchmark/* --out compare.html

      biofuse compare run-a run-b --json
    """
    from biofuse.benchmark.published import medmnist_modality
    from biofuse.core.files import write_text
    from biofuse.report.comparison import Comparison

    comparison = Comparison.read(runs, modality_of=medmnist_modality)
    if out is not None:
        write_text(out, comparison.to_html())
    if as_json:
        show_json(comparison.to_json())
    else:
        show_tables(comparison.tables())
        for sentence in comparison.notes:
            say(sentence)
    if out is not None:
        note(f"Written to {out}.")


def show_tables(tables: "Sequence[Table]") -> None:
    """Print the tables of a page, each note once, below the first table that has it.

    A table that would have to break words is printed row by row instead, a line per column.
    """
    said: set[str] = set()
    for table in tables:
        if narrowest(table) > output.width:
            _show_rows(table)
        else:
            lines = len(table.columns) > MANY_COLUMNS
            show_table(table.title, table.columns, table.texts(), numbers=tuple(table.numbers), lines=lines)
        for sentence in table.notes:
            if sentence not in said:
                say(sentence)
        said |= set(table.notes)
        say("")


def narrowest(table: "Table") -> int:
    """Return the columns of output below which a table has to break words."""
    by_column = zip(table.columns, *table.texts(), strict=True)
    words = [[word for text in texts for word in text.split()] for texts in by_column]
    return sum(max(map(len, each), default=0) + BETWEEN for each in words)


def _show_rows(table: "Table") -> None:
    say(table.title)
    width = max(map(len, table.columns[1:]), default=0)
    for name, *cells in table.texts():
        say("")
        say(name)
        for column, text in zip(table.columns[1:], cells, strict=True):
            say(f"  {column:<{width}}   {text}")
    say("")
