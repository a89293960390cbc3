"""Reads a saved predictor of whatever kind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.predictors import ensemble, fused, late
from biofuse.predictors.artefact import read_artefact
from biofuse.predictors.members import verified_folders
from biofuse.predictors.protocol import Predictor

Builder = Callable[[Path, Mapping[str, Any], Mapping[str, NDArray[Any]]], Predictor]


def load_predictor(folder: Path) -> Predictor:
    """Read what a predictor's ``save`` wrote; nothing in it is executed.

    Raises
    ------
    ArtifactError
        If something is missing, changed, malformed, of a newer format or of an unknown kind.
    """
    kind, content, arrays = read_artefact(folder)
    if kind not in KINDS:
        raise ArtifactError(
            f"{folder} holds a predictor of kind {kind!r}; this version of BioFuse knows {', '.join(KINDS)}.",
            remedy="Update BioFuse: pip install -U biofuse-embed.",
        )
    return KINDS[kind](folder, content, arrays)


def _members(folder: Path, content: Mapping[str, Any]) -> tuple[Predictor, ...]:
    return tuple(load_predictor(place) for place in verified_folders(folder, content))


def _ensemble(folder: Path, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Predictor:  # noqa: ARG001
    return ensemble.EnsemblePredictor.from_artefact(folder, content, _members(folder, content))


def _late(folder: Path, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Predictor:
    return late.LateFusion.from_artefact(folder, content, arrays, _members(folder, content))


KINDS: Mapping[str, Builder] = {
    fused.KIND: fused.FusedPredictor.from_artefact,
    ensemble.KIND: _ensemble,
    late.KIND: _late,
}
"""What builds each kind of predictor from its content and arrays."""
