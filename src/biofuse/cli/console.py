"""Where the command line writes: results to standard output, everything else to standard error."""

import codecs
import dataclasses
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import ConsoleDimensions, JustifyMethod
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from biofuse.core.errors import BioFuseError, in_command_words
from biofuse.core.progress import SafeConsole, errors

PIPED_WIDTH = 140
"""Columns of tables that go to a file or another program, which has no width of its own."""


class _Output(SafeConsole):
    """A console that, unless it is a terminal, is wide enough for whole names."""

    @property
    def size(self) -> ConsoleDimensions:
        size = super().size
        if self.is_terminal or "COLUMNS" in os.environ:
            return size
        return ConsoleDimensions(PIPED_WIDTH, size.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self.width, self.height = new_size


output = _Output(highlight=False)
"""Standard output: what a script may read."""

LOOK_ALIKES = str.maketrans({
    "•": "*", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "±": "+-", "≤": "<=", "≥": ">=", "→": "->", "█": "#",
    "’": "'", "‘": "'", "“": '"', "”": '"',
})  # fmt: skip
"""What is written where the encoding of an output lacks a sign of BioFuse's own texts."""


def write_what_can_be_written() -> None:
    """Have standard output and error write a look-alike or a code for what their encoding lacks, instead of failing."""
    codecs.register_error("biofuse", _look_alike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="biofuse")


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    written = "".join(
        like if (like := sign.translate(LOOK_ALIKES)).isascii() else sign.encode("ascii", "backslashreplace").decode()
        for sign in lacking
    )
    return written, error.end


def show_error(error: BioFuseError) -> None:
    """Print what is wrong and what to do about it."""
    errors.line_of(f"[bold red]error:[/] {_words(error.message)}")
    if error.remedy:
        errors.line_of(f"[bold]what to do:[/] {_words(error.remedy)}")


def note(message: str) -> None:
    """Print one line for the user on standard error, above the bars if there are any."""
    errors.line_of(_words(message))


def say(message: str) -> None:
    """Print a sentence on standard output, wrapped at words on a terminal and in one line elsewhere."""
    output.line_of(_words(message))


def show_answer(answer: Mapping[str, str]) -> None:
    """Print what it all came to, in a box on standard output.

    Parameters
    ----------
    answer : mapping of str to str
        Each line's heading, and what it says.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for heading, text in answer.items():
        grid.add_row(heading, _words(text))
    output.print(Panel(grid, expand=False, border_style="green"))


def show_json(value: Any) -> None:
    """Print a value as JSON on standard output, without colours or wrapping, in the words of the command line."""
    output.out(json.dumps(_in_words(value), indent=2, default=_plain), highlight=False)


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    numbers: Sequence[str] = (),
    lines: bool = False,
) -> None:
    """Print a table on standard output.

    Parameters
    ----------
    title : str
    columns : sequence of str
    rows : sequence of sequences
    numbers : sequence of str
        Columns aligned to the right.
    lines : bool, default False
        Draw a line between rows, for rows that take several lines.
    """
    if title:
        say(title)  # the table's own title would be folded to the width of a narrow table
    cells = [["" if cell is None else in_command_words(str(cell)) for cell in row] for row in rows]
    # Names and numbers stay whole, so that they can be copied; prose folds, at words where there is room for them.
    whole = [place == 0 or column in numbers for place, column in enumerate(columns)]
    widths = _fitting_widths([columns, *cells], whole, room=output.width - (3 * len(columns) - 1))
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, show_lines=lines, pad_edge=False)
    for column, width, stays in zip(columns, widths, whole, strict=True):
        justify: JustifyMethod = "right" if column in numbers else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=stays, width=width)
    for row in cells:
        table.add_row(*map(escape, row))
    output.print(table)


def _fitting_widths(rows: Sequence[Sequence[str]], whole: Sequence[bool], *, room: int) -> list[int | None]:
    """Share the room among the columns that fold: each gets its longest word first, and then what is left, evenly.

    None leaves a width to the table: of columns that stay whole, and of all where everything fits, or nothing does.
    """
    columns = [[line for row in rows for line in row[place].split("\n")] for place in range(len(whole))]
    wanted = [max(map(len, lines)) for lines in columns]
    words = [max((len(word) for line in lines for word in line.split()), default=0) for lines in columns]
    widths = [full if stays else word for full, word, stays in zip(wanted, words, whole, strict=True)]
    left = room - sum(widths)
    if sum(wanted) <= room or left < 0:
        return [None] * len(whole)
    while left:
        short = [place for place, width in enumerate(widths) if width < wanted[place]]
        place = min(short, key=lambda each: widths[each] / wanted[each])
        widths[place] += 1
        left -= 1
    return [None if stays else width for width, stays in zip(widths, whole, strict=True)]


def _words(message: str) -> str:
    return escape(in_command_words(message))


def _in_words(value: Any) -> Any:
    if isinstance(value, str):
        return in_command_words(value)
    if isinstance(value, Mapping):
        return {name: _in_words(each) for name, each in value.items()}
    return [_in_words(each) for each in value] if isinstance(value, list | tuple) else value


def human_bytes(size: float) -> str:
    """Write a number of bytes for a person."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _in_words(dataclasses.asdict(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
