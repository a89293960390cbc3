"""A saved model as a folder, and where the models of a run lie."""

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biofuse.core.errors import ArtifactError, option
from biofuse.core.files import TEMPORARY_SUFFIX, disk_errors
from biofuse.core.seals import seal
from biofuse.model.trust import ARRAYS as TRUST_ARRAYS
from biofuse.model.trust import RECORD as TRUST_RECORD
from biofuse.model.trust import Trust
from biofuse.predictors.fused import Predictor
from biofuse.search.rules import CHOSEN, VARIANTS

SEAL = "model.json"
"""Name of the file that makes a folder a model."""

PREDICTOR = "predictor"
"""Name of the folder beside the seal."""

KIND = "biofuse-model"
"""What the seal says it is."""

COMPARATORS = "comparators"
"""Folder, in a run directory, of the models that the chosen one is compared with."""

AGAIN = "Fit again, or restore the folder."


def write_model(path: Path, content: Mapping[str, Any], predictor: Predictor, trust: Trust) -> None:
    """Write a model: whole, or not at all, and an older one of that name is then still there.

    Parameters
    ----------
    path : Path
    content : mapping
        JSON values: what the model is, beside its predictor and its trust.
    predictor : Predictor
    trust : Trust

    Raises
    ------
    ArtifactError
        If the folder holds something else than a model.
    DiskError
        If it cannot be written.
    """
    target = path.absolute()
    strangers = (
        {entry.name for entry in target.iterdir()} - {SEAL, PREDICTOR, TRUST_RECORD, TRUST_ARRAYS}
        if target.is_dir()
        else set()
    )
    if strangers or (target.exists() and not target.is_dir()):
        raise ArtifactError(f"{path} exists and is not a saved model.", remedy="Choose an empty folder.")
    # Written beside and moved into place: a full disk does not take the older one away.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    with disk_errors(target):
        try:
            temporary.mkdir(parents=True)
            predictor.save(temporary / PREDICTOR)
            trust.save(temporary)
            seal(temporary, name=SEAL, content={"kind": KIND, **content})
            if target.is_symlink():
                target.unlink()
            elif target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def model_folder(run: Path, name: str = CHOSEN) -> Path:
    """Return the folder of the chosen model of a run directory, or of one that it is compared with."""
    return run / "model" if name == CHOSEN else run / COMPARATORS / name


def find_model(path: Path, variant: str = CHOSEN) -> Path:
    """Return the folder of a saved model, which may be one of those of a run directory.

    Raises
    ------
    ArtifactError
        If a run has no such model, or the folder may not be looked into.
    """
    try:
        if variant != CHOSEN:
            return _kept_model(path, variant)
        alone = (path / SEAL).exists() or not (model_folder(path) / SEAL).exists()
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.", remedy=AGAIN) from error
    return path if alone else model_folder(path)


def _kept_model(path: Path, variant: str) -> Path:
    if variant not in VARIANTS:
        raise ArtifactError(f"There is no model {variant!r}.", remedy=f"Choose one of {', '.join(VARIANTS)}.")
    folder = model_folder(path, variant)
    if (folder / SEAL).exists():
        return folder
    kept = [name for name in VARIANTS if (model_folder(path, name) / SEAL).exists()]
    if not kept:
        raise ArtifactError(
            f"{path} is not a run, so it has no {variant} model.",
            remedy=f"Give the run directory that `biofuse fit` wrote, or leave {option('variant')} out.",
        )
    raise ArtifactError(
        f"The run {path} has no {variant} model: its search did not score one, or an older BioFuse wrote it.",
        remedy=f"Choose one of {', '.join(kept)}; or fit again, by cross-validation.",
    )
