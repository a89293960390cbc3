"""The fusions that can be asked for by name."""

import functools
from collections.abc import Callable

from biofuse.core.registry import Registry
from biofuse.fusion.base import Fusion

ENTRY_POINT_GROUP = "biofuse.fusions"
"""Each entry point of this group is a class or function that, called without arguments, gives a :class:`Fusion`."""


@functools.cache
def fusion_registry() -> Registry[Callable[[], Fusion]]:
    """Return the registry that :func:`make_fusion` uses."""
    own = {
        "concatenation": _concatenation,
        "pca": _pca,
        "whitening": _whitening,
        "weighted": _weighted,
        "mean": _mean,
    }
    return Registry(kind="fusion", group=ENTRY_POINT_GROUP, own=own)


def make_fusion(fusion: str | Fusion) -> Fusion:
    """Return the fusion of that name with its default options, or the object given.

    Parameters
    ----------
    fusion : str or Fusion
        ``"concatenation"``, ``"pca"``, ``"whitening"``, ``"weighted"``, ``"mean"``, the name of another package's
        fusion, or a fusion.

    Raises
    ------
    SearchError
        If no fusion has that name.
    """
    return fusion_registry().get(fusion)() if isinstance(fusion, str) else fusion


def _concatenation() -> Callable[[], Fusion]:
    from biofuse.fusion.concatenation import Concatenation

    return Concatenation


def _pca() -> Callable[[], Fusion]:
    from biofuse.fusion.projections import PrincipalComponents

    return PrincipalComponents


def _whitening() -> Callable[[], Fusion]:
    from biofuse.fusion.projections import Whitening

    return Whitening


def _weighted() -> Callable[[], Fusion]:
    from biofuse.fusion.weighted import WeightedConcatenation

    return WeightedConcatenation


def _mean() -> Callable[[], Fusion]:
    from biofuse.fusion.projections import ProjectedMean

    return ProjectedMean
