"""How a search is run, as opposed to what is searched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from biofuse.extract import Progress, Silent
from biofuse.extract.ray_cluster import ray_cluster

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
    engine : {"local", "ray"}
        Where predictors are fitted while subsets are scored.
    ray_address : str or None
        Cluster for the engine ``ray``.
    """

    folder: Path | None = None
    workers: int | None = None
    progress: Progress = field(default_factory=Silent)
    tell: Tell = lambda _: None
    yes: bool = False
    engine: str = "local"
    ray_address: str | None = None

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """Keep one connection to the Ray cluster, where there is one, for all that is scored in this context."""
        if self.engine == "ray":
            with ray_cluster(self.ray_address):
                yield
        else:
            yield

    def sink(self, name: str) -> Path | None:
        """Return the file in which the scores of one stage are kept."""
        return None if self.folder is None else self.folder / f"{name}.jsonl"

    def below(self, name: str) -> Self:
        """Return the same for a part of the search that keeps its scores in a folder of its own, without news."""
        folder = None if self.folder is None else self.folder / name
        return replace(self, folder=folder, progress=Silent(), tell=lambda _: None)
