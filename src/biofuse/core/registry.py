"""Parts that can be asked for by name: BioFuse's own, another package's, and a user's."""

import difflib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from biofuse.core.errors import BioFuseWarning, SearchError

Part = TypeVar("Part")


class PluginRegistry(Generic[Part]):
    """Names of one kind of part (fusions, heads) and what each stands for.

    Parameters
    ----------
    kind : str
        What one part is called in messages.
    group : str
        Entry-point group of other packages. Each entry point's name is the part's, its object the part itself.
    own : mapping of str to callable
        BioFuse's own parts; each is imported only when asked for.
    """

    def __init__(self, *, kind: str, group: str, own: Mapping[str, Callable[[], Part]]) -> None:
        self.kind = kind
        self.group = group
        self._loaders: dict[str, Callable[[], Part]] = dict(own)
        self._plugins_pending = True

    def register(self, name: str, part: Part) -> None:
        """Add a part under a name.

        Raises
        ------
        SearchError
            If the name is taken.
        """
        self._look_for_plugins()
        if name in self._loaders:
            raise SearchError(f"There is already a {self.kind} named {name!r}.", remedy="Choose another name.")
        self._loaders[name] = lambda: part

    def names(self) -> tuple[str, ...]:
        """Return all names, without importing what they stand for."""
        self._look_for_plugins()
        return tuple(self._loaders)

    def get(self, name: str) -> Part:
        """Return the part of that name.

        Raises
        ------
        SearchError
            If there is none.
        """
        self._look_for_plugins()
        if name not in self._loaders:
            near = difflib.get_close_matches(name, self._loaders, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise SearchError(
                f"There is no {self.kind} named {name!r}.", remedy=f"{hint}There are: {', '.join(self._loaders)}."
            )
        return self._loaders[name]()

    def _look_for_plugins(self) -> None:
        if not self._plugins_pending:
            return
        self._plugins_pending = False
        for point in importlib.metadata.entry_points(group=self.group):
            if point.name in self._loaders:
                warnings.warn(
                    f"The {self.kind} {point.name!r} of {point.value} is left out: that name is taken.",
                    BioFuseWarning,
                    stacklevel=3,
                )
            else:
                self._loaders[point.name] = point.load
