"""The fusions that can be asked for by name."""

import functools
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from biofuse.core.registry import Registry

if TYPE_CHECKING:
    from biofuse.fusion.base import Fusion

ENTRY_POINT_GROUP = "biofuse.fusions"
"""Each entry point of this group is a class or function that, called without arguments, gives a fusion."""

FUSIONS = {
    "concatenation": "biofuse.fusion.concatenation:Concatenation",
    "pca": "biofuse.fusion.projections:PrincipalComponents",
    "whitening": "biofuse.fusion.projections:Whitening",
    "weighted": "biofuse.fusion.weighted:WeightedConcatenation",
    "mean": "biofuse.fusion.projections:ProjectedMean",
}
"""BioFuse's own fusions, the default first. A new one is a class in a file of its own and a row here."""

OWN_FUSIONS = tuple(FUSIONS)
"""Names of BioFuse's own fusions."""


@functools.cache
def fusion_registry() -> "Registry[Callable[[], Fusion]]":
    """Return the registry that :func:`make_fusion` uses."""
    own = {name: EntryPoint(name, where, ENTRY_POINT_GROUP).load for name, where in FUSIONS.items()}
    return Registry(kind="fusion", group=ENTRY_POINT_GROUP, own=own)


def make_fusion(fusion: "str | Fusion") -> "Fusion":
    """Return the fusion of that name with its default options, or the object given.

    Parameters
    ----------
    fusion : str or Fusion
        A registered name (see :data:`OWN_FUSIONS`; other packages may bring more), or a fusion.

    Raises
    ------
    SearchError
        If no fusion has that name.
    """
    return fusion_registry().get(fusion)() if isinstance(fusion, str) else fusion
