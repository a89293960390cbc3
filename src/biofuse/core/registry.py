"""What can be asked for by name: BioFuse's own parts, other packages', and a user's."""

import contextlib
import copy
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Generic, Self, TypeVar

from biofuse.core.errors import BioFuseWarning, DependencyError, SearchError, did_you_mean, squashed

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """Parts of one kind (fusions, heads, encoders) by name, in the order in which they were added.

    Parameters
    ----------
    kind : str
        What one part is called in messages.
    group : str
        Entry-point group of other packages, looked for at the first use. Each entry point's name is the part's, its
        object the part itself; a subclass may agree on something else, see :meth:`adopt`.
    own : mapping of str to callable
        BioFuse's own parts; each is made (imported, read from a file) only when it is asked for, and once.
    plugins : bool, default True
        Whether the entry points of other packages are looked for.
    """

    def __init__(
        self, *, kind: str, group: str, own: Mapping[str, Callable[[], Part]] | None = None, plugins: bool = True
    ) -> None:
        self.kind = kind
        self.group = group
        self._makers: dict[str, Callable[[], Part]] = dict(own or {})
        self._made: dict[str, Part] = {}
        self._plugins_pending = plugins

    def add(self, name: str, part: Part, *, replace: bool = False) -> None:
        """Add a part under a name.

        Parameters
        ----------
        name : str
        part : Part
        replace : bool, default False
            Whether to replace a part of that name, which keeps its place.

        Raises
        ------
        SearchError
            If the name is taken.
        """
        if name in self and not replace:
            raise SearchError(f"There is already a {self.kind} named {name!r}.", remedy="Choose another name.")
        self._makers[name] = lambda: part
        self._made.pop(name, None)

    def __contains__(self, name: object) -> bool:
        self._look_for_plugins()
        return name in self._makers

    def names(self) -> tuple[str, ...]:
        """Return all names, without making what they stand for."""
        self._look_for_plugins()
        return tuple(self._makers)

    def get(self, name: str) -> Part:
        """Return the part of that name.

        Raises
        ------
        BioFuseError
            If there is none, or the package that brings it cannot be imported.
        """
        if name not in self:
            raise self.unknown(name)
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def spelled(self, name: str) -> str:
        """Return the name as it is written here, where case, hyphens and the like are all that differs, and of one."""
        if name in self:
            return name
        alike = [each for each in self.names() if squashed(each) == squashed(name)]
        return alike[0] if len(alike) == 1 else name

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """Return names that stand for several parts, and the names of those; none unless a subclass has some."""
        return {}

    def unknown(self, name: str) -> Exception:
        """Return the error for a name that nothing has."""
        return SearchError(
            f"There is no {self.kind} named {name!r}.",
            remedy=f"{did_you_mean(name, self.names())}There are: {', '.join(self.names())}.",
        )

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Self]:
        """Forget at the end of the block whatever was added or replaced in it."""
        before = {attribute: copy.copy(value) for attribute, value in vars(self).items()}
        try:
            yield self
        finally:
            vars(self).clear()
            vars(self).update(before)

    def adopt(self, point: EntryPoint) -> None:
        """Add what an entry point of another package offers: here one part, imported when it is asked for.

        Raises
        ------
        SearchError
            If the name is taken.
        """
        if point.name in self._makers:
            raise SearchError(f"that name is taken by another {self.kind}")

        def load() -> Part:
            try:
                part: Part = point.load()
            except Exception as error:  # a stranger's code may raise anything
                raise DependencyError(
                    f"The {self.kind} {point.name!r} of {_package(point)} cannot be used: "
                    f"{type(error).__name__}: {error}",
                    remedy=f"Repair or uninstall {_package(point)}.",
                ) from error
            return part

        self._makers[point.name] = load

    def _look_for_plugins(self) -> None:
        if not self._plugins_pending:
            return
        self._plugins_pending = False
        for point in importlib.metadata.entry_points(group=self.group):
            before = dict(self._makers), dict(self._made)
            try:
                self.adopt(point)
            except Exception as error:  # a stranger's code may raise anything, and must not take the others with it
                self._makers, self._made = before
                warnings.warn(
                    f"The {self.kind} plug-in {point.name!r} of {_package(point)} cannot be used: "
                    f"{type(error).__name__}: {error}",
                    BioFuseWarning,
                    stacklevel=4,
                )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"
