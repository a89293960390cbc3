"""The fusions that can be asked for by name."""

import functools
from collections.abc import Callable

from biofuse.fusion.plugins import PluginRegistry
from biofuse.fusion.protocol import Fusion

ENTRY_POINT_GROUP = "biofuse.fusions"
"""Each entry point of this group is a class or function that, called without arguments, gives a :class:`Fusion`."""


@functools.cache
def fusion_registry() -> PluginRegistry[Callable[[], Fusion]]:
    """Return the registry that :func:`make_fusion` uses."""
    return PluginRegistry(kind="fusion", group=ENTRY_POINT_GROUP, own={"concatenation": _concatenation})


def make_fusion(fusion: str | Fusion) -> Fusion:
    """Return the fusion of that name with its default options, or the object given.

    Raises
    ------
    SearchError
        If no fusion has that name.
    """
    return fusion_registry().get(fusion)() if isinstance(fusion, str) else fusion


def _concatenation() -> Callable[[], Fusion]:
    from biofuse.fusion.concatenation import Concatenation

    return Concatenation
