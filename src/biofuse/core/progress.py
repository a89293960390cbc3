"""Progress of long work, and news about it, shown without the engine knowing how."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.text import Text

Tell = Callable[[str], None]
"""Receives news, line by line."""


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

    def __init__(self, bars: RichBars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def begin(self, task: str, total: int) -> None:
        """Add a bar."""
        self._tasks[task] = self._bars.add_task(task, total=total)

    def advance(self, task: str, units: int) -> None:
        """Move a bar."""
        self._bars.advance(self._tasks[task], units)


@contextmanager
def progress_bars(
    progress: Progress | bool = True, *, unit: str = "images", console: Console | None = None
) -> Iterator[Progress]:
    """Show progress bars on standard error while the context lasts, or leave progress to who gave an object for it.

    Parameters
    ----------
    progress : Progress or bool, default True
        False shows nothing; an object is used as it is.
    unit : str, default "images"
        What is counted; the rate is shown in this unit per second.
    console : rich.console.Console, optional
        Where to draw; by default standard error, and nothing at all where that is not a terminal.
    """
    if not isinstance(progress, bool):
        yield progress
        return

    class Rate(ProgressColumn):
        def render(self, task: object) -> Text:
            speed = getattr(task, "finished_speed", None) or getattr(task, "speed", None)
            return Text(f"{speed:,.0f} {unit}/s" if speed else "", style="progress.data.speed")

    console = console or Console(stderr=True)
    if not progress or not console.is_terminal:
        yield Silent()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with RichBars(*columns, console=console) as bars:
        yield Bars(bars)


def duration(seconds: float) -> str:
    """Return a time span as a person would say it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size * 1.5:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 10 else f"{seconds:.2f} seconds"
