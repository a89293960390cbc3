"""How a search is run, as opposed to what is searched."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from biofuse.extract import Progress, Silent

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a search is run; nothing of it changes a result.

    Attributes
    ----------
    folder : Path or None
        Where scores are kept as they come in; a killed search goes on from there.
    workers : int or None
        Processes; by default one per core.
    progress : Progress
    tell : callable
        Receives news line by line.
    yes : bool
        Whether a search of more than an hour is wanted.
    """

    folder: Path | None = None
    workers: int | None = None
    progress: Progress = field(default_factory=Silent)
    tell: Tell = lambda _: None
    yes: bool = False

    def sink(self, name: str) -> Path | None:
        """Return the file in which the scores of one stage are kept."""
        return None if self.folder is None else self.folder / f"{name}.jsonl"

    def below(self, name: str) -> Self:
        """Return the same for a part of the search that keeps its scores in a folder of its own, without news."""
        folder = None if self.folder is None else self.folder / name
        return replace(self, folder=folder, progress=Silent(), tell=lambda _: None)
