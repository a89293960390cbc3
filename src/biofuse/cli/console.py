"""Where the command line writes: results to standard output, everything else to standard error."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from biofuse.core.errors import BioFuseError

output = Console(highlight=False)
"""Standard output: what a script may read."""

errors = Console(stderr=True, highlight=False)
"""Standard error: progress, notes and failures."""


def show_error(error: BioFuseError) -> None:
    """Print what is wrong and what to do about it."""
    errors.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
    if error.remedy:
        errors.print(f"[bold]what to do:[/] {escape(error.remedy)}", soft_wrap=True)


def note(message: str) -> None:
    """Print one line for the user on standard error."""
    errors.print(escape(message), soft_wrap=True)


def show_json(value: Any) -> None:
    """Print a value as JSON on standard output, without colours or wrapping."""
    output.out(json.dumps(value, indent=2, default=_plain), highlight=False)


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[str] = ()
) -> None:
    """Print a table on standard output.

    Parameters
    ----------
    title : str
    columns : sequence of str
    rows : sequence of sequences
    numbers : sequence of str
        Columns aligned to the right.
    """
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        right = column in numbers
        # Names and numbers stay whole, so that they can be copied; prose folds.
        whole = right or place == 0
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    output.print(table)


def human_bytes(size: float) -> str:
    """Write a number of bytes for a person."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
