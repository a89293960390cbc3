"""A saved predictor: JSON for what can be read, safetensors for the arrays, checksums of both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.artefacts import seal, unseal
from biofuse.core.errors import ArtifactError
from biofuse.core.files import write_bytes

SEAL = "predictor.json"
ARRAYS = "arrays.safetensors"

PREDICTOR_FORMAT = 1
"""Raised when what a predictor saves changes in a way that older versions cannot read."""


def write_artefact(folder: Path, *, kind: str, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays, then the JSON with their checksum: a folder that was cut short never reads as whole."""
    from safetensors.numpy import save

    write_bytes(folder / ARRAYS, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    seal(folder, name=SEAL, content={"predictor_format": PREDICTOR_FORMAT, "kind": kind, **content})


def read_artefact(folder: Path) -> tuple[str, dict[str, Any], dict[str, NDArray[Any]]]:
    """Return kind, content and arrays, after checking the checksums.

    Raises
    ------
    ArtifactError
        If something is missing, changed, malformed or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    content = unseal(folder, name=SEAL)
    version, kind = content.get("predictor_format"), content.get("kind")
    if not isinstance(version, int) or not isinstance(kind, str) or ARRAYS not in content["files"]:
        raise ArtifactError(f"{folder / SEAL} does not describe a predictor.", remedy="Give the folder of a predictor.")
    if version > PREDICTOR_FORMAT:
        raise ArtifactError(
            f"{folder / SEAL} has predictor format {version}; this version of BioFuse reads up to {PREDICTOR_FORMAT}.",
            remedy="Update BioFuse: pip install -U biofuse-embed.",
        )
    try:
        return kind, content, load_file(folder / ARRAYS)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder / ARRAYS} cannot be read: {error}", remedy="Fit again, or restore the file."
        ) from error


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
