"""Progress of long work, and news about it, shown without the engine knowing how: by one console, in one place."""

import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, Protocol

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.markup import escape as markup
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.table import Column
from rich.text import Text

from biofuse.core.errors import printable
from biofuse.core.files import disk_errors

Tell = Callable[[str], None]
"""Receives news, line by line."""


class SafeConsole(Console):
    """A console on which nothing that is shown is obeyed: names of files may hold escape sequences."""

    def render_str(self, text: str, **how: Any) -> Text:
        """Render markup, with what a terminal would obey written out."""
        return super().render_str(printable(text), **how)

    def line_of(self, text: str) -> None:
        """Print a sentence: broken between words on a terminal, and nowhere else; never within a path or a command."""
        lines = list(self.render_str(text).split("\n", allow_blank=True))
        if self.is_terminal:
            lines = [part for line in lines for part in line.divide(_breaks(line.plain, self.width))]
        for line in lines:
            line.rstrip()
        self.print(Text("\n").join(lines), soft_wrap=True)


def _breaks(line: str, width: int) -> list[int]:
    """Return where a line is broken so that it fits: before words; a word longer than the width stays whole."""
    places, column = [], 0
    for word in re.finditer(r"\S+\s*", line):
        if column and column + cell_len(word[0].rstrip()) > width:
            places.append(word.start())
            column = 0
        column += cell_len(word[0])
    return places


errors = SafeConsole(stderr=True, highlight=False, force_jupyter=False)
"""Standard error. All bars and all news go through this one object, which keeps the lines above the bars."""


def tell_user(line: str) -> None:
    """Write one line of news: above the bars, on standard error, or among the outputs of a notebook."""
    if in_notebook():
        sys.stdout.write(f"{printable(line)}\n")
    else:
        errors.line_of(markup(line))


def in_notebook() -> bool:
    """Tell whether this is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return type(shell).__name__ in {"ZMQInteractiveShell", "Shell"}  # the latter in hosted notebooks


class Progress(Protocol):
    """Receives what happens during long work."""

    def begin(self, task: str, total: int) -> None:
        """Announce a named piece of work of ``total`` units."""
        ...

    def advance(self, task: str, units: int) -> None:
        """Report that ``units`` more of the named work are done."""
        ...


class Silent:
    """Progress that nobody watches."""

    def begin(self, task: str, total: int) -> None:
        """Ignore the announcement."""

    def advance(self, task: str, units: int) -> None:
        """Ignore the advance."""


class Bars:
    """One bar per piece of work, with its rate, on a rich console."""

    def __init__(self, bars: RichBars, unit: str) -> None:
        self._bars, self._unit = bars, unit
        self._tasks: dict[str, TaskID] = {}

    def begin(self, task: str, total: int) -> None:
        """Add a bar; one of the same name gives way to it."""
        if task in self._tasks:
            self._bars.remove_task(self._tasks[task])
        self._tasks[task] = self._bars.add_task(printable(task), total=total, unit=self._unit)

    def advance(self, task: str, units: int) -> None:
        """Move a bar."""
        self._bars.advance(self._tasks[task], units)

    def close(self) -> None:
        """Take the bars away."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._bars.refresh()


class _Count(ProgressColumn):
    """How much is done of how much, and how fast."""

    def render(self, task: Task) -> Text:
        unit, speed = task.fields["unit"], task.finished_speed or task.speed
        size: Callable[[float], str] = (lambda n: decimal(int(n))) if unit == "bytes" else (lambda n: f"{n:,.0f}")
        rate = f"{size(speed)}{'' if unit == 'bytes' else f' {unit}'}/s" if speed and speed >= 1 else ""
        return Text(f"{size(task.completed)}/{size(task.total or 0)} {rate}".rstrip())


class _FittingBars(RichBars):
    """Bars that never need more room than the terminal has: what could not be drawn could not be taken away again."""

    def __init__(self, console: Console) -> None:
        self._bar = BarColumn()
        name = Column(no_wrap=True, overflow="ellipsis", max_width=max(console.width - 52, 10))
        columns = (TextColumn("{task.description}", table_column=name), self._bar, _Count(), TimeRemainingColumn())
        # What is printed to a terminal goes above the bars; what goes elsewhere goes there.
        super().__init__(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty())

    def get_renderables(self) -> Iterator[RenderableType]:
        tasks = self.tasks
        if not tasks:
            return
        room = max(self.console.height // 2, 2)
        longest = max(len(task.description) for task in tasks)
        self._bar.bar_width = min(40, max(5, self.console.width - min(longest, self.console.width - 52) - 44))
        shown = [task for task in tasks if not task.finished][: room - 1] if len(tasks) > room else tasks
        table = self.make_tasks_table(shown or tasks[-1:])
        done = sum(task.finished for task in tasks)
        yield table if len(tasks) <= room else Group(table, Text(f"{done} of {len(tasks)} done", no_wrap=True))


class NotebookBars:
    """Progress as an output of a notebook's cell, drawn anew a few times a second."""

    EVERY = 0.25
    """Seconds between drawings."""

    def __init__(self, unit: str) -> None:
        self._display: Any = importlib.import_module("IPython.display")
        self._handle = self._display.display(self._display.HTML(""), display_id=True)
        self._unit, self._drawn = unit, 0.0
        self._tasks: dict[str, tuple[int, int]] = {}

    def begin(self, task: str, total: int) -> None:
        """Add a bar."""
        self._tasks[task] = (0, total)
        self.draw()

    def advance(self, task: str, units: int) -> None:
        """Move a bar."""
        done, total = self._tasks[task]
        self._tasks[task] = (done + units, total)
        if time.monotonic() - self._drawn > self.EVERY:
            self.draw()

    def draw(self) -> None:
        """Show what is done."""
        rows = [
            f"<tr><td>{escape(task)}</td><td><progress value='{done}' max='{total}'></progress></td>"
            f"<td>{done:,} of {total:,} {self._unit}</td></tr>"
            for task, (done, total) in self._tasks.items()
        ]
        self._drawn = time.monotonic()
        self._handle.update(self._display.HTML(f"<table>{''.join(rows)}</table>" if rows else ""))


_LIVE: dict[Console, RichBars] = {}
"""The bars that each console shows now: work within work adds its own to them."""


@contextmanager
def progress_bars(
    progress: Progress | bool = True, *, unit: str = "images", console: Console | None = None
) -> Iterator[Progress]:
    """Show progress while the context lasts, or leave it to who gave an object for it.

    Bars stand below the news of :func:`tell_user`, and are gone at the end of the context.

    Parameters
    ----------
    progress : Progress or bool, default True
        False shows nothing; an object is used as it is.
    unit : str, default "images"
        What is counted; the rate is shown in this unit per second.
    console : rich.console.Console, optional
        Where to draw; by default a notebook's cell or standard error, and nothing at all where that is no terminal.
    """
    if not isinstance(progress, bool):
        yield progress
        return
    if progress and console is None and in_notebook():
        shown = NotebookBars(unit)
        yield shown
        shown.draw()
        return
    console = console or errors
    if not progress or not console.is_terminal:
        yield Silent()
        return
    if console in _LIVE:
        inner = Bars(_LIVE[console], unit)
        try:
            yield inner
        finally:
            inner.close()
        return
    with _FittingBars(console) as bars:
        _LIVE[console] = bars
        try:
            yield Bars(bars, unit)
        finally:
            del _LIVE[console]


class Log:
    """News that are told and kept, line by line with the time, in a file that may come later.

    Parameters
    ----------
    tell : callable
        Who is told.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._path: Path | None = None
        self._waiting: list[str] = []

    def __call__(self, line: str) -> None:
        """Tell and keep a line."""
        self._tell(line)
        self.keep(line)

    def keep(self, line: str) -> None:
        """Keep a line without telling it."""
        self._waiting.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {printable(line)}\n")
        if self._path is not None:
            with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
                file.writelines(self._waiting)
            self._waiting.clear()

    def write_to(self, path: Path) -> None:
        """Keep lines in a file from now on, after what it holds; first those that were told so far."""
        self._path = path


def duration(seconds: float) -> str:
    """Return a time span as a person would say it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size * 1.5:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 10 else f"{seconds:.2f} seconds"
