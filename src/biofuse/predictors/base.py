"""What maps blocks to probabilities."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, SearchError
from biofuse.core.files import disk_errors, write_bytes
from biofuse.core.hashing import digest_file
from biofuse.core.seals import seal, unseal
from biofuse.core.target import Task
from biofuse.heads.base import CERTAIN, Scores


class Predictor(Protocol):
    """A fitted fusion and head, or several such combined; immutable."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders whose blocks it takes, in pool order."""
        ...

    @property
    def task(self) -> Task:
        """Kind of task it was fitted on."""
        ...

    @property
    def n_classes(self) -> int:
        """Number of classes, or labels."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user would want to know about the fit."""
        ...

    def predict_proba(self, blocks: Blocks) -> Scores:
        """Return probabilities; blocks of other encoders are ignored.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            Rows sum to 1; for multi-label tasks every column is a probability by itself.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or one of another width than at fitting.
        """
        ...

    def decision(self, blocks: Blocks) -> Scores:
        """Return values to rank by, same shape; see :meth:`biofuse.heads.FittedHead.decision`."""
        ...

    def save(self, folder: Path) -> None:
        """Write it to a folder of its own, readable by :func:`biofuse.predictors.combined.load_predictor`."""
        ...


def predict_labels(probabilities: Scores, *, task: Task) -> NDArray[np.int64]:
    """Turn probabilities into labels.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (n, n_classes)
    task : Task
        Kind of task.

    Returns
    -------
    ndarray of int64
        Shape (n,): the most probable class, the first among equals. Multi-label: shape (n, n_classes), 1 where the
        probability is above one half, as ``medmnist.Evaluator`` counts.
    """
    if task is Task.MULTILABEL:
        return (probabilities > 0.5).astype(np.int64)
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


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


FOLDER = "members"
"""Folder of the members' own folders, which are numbered from 0."""


def union(members: Sequence[Predictor], *, pool: Sequence[str]) -> tuple[str, ...]:
    """Return the encoders of all members, in pool order.

    Raises
    ------
    AlignmentError
        If one is not in the pool, or the pool names one twice.
    SearchError
        If there are no members, or they are not about the same task.
    """
    if not members:
        raise SearchError("There are no predictors to combine.")
    about = {(member.task, member.n_classes) for member in members}
    if len(about) > 1:
        listed = ", ".join(sorted(f"{task} over {n_classes} classes" for task, n_classes in about))
        raise SearchError(f"The predictors to combine are about different tasks: {listed}.")
    needed = {name for member in members for name in member.encoders}
    if needed - set(pool) or len(set(pool)) != len(pool):
        raise AlignmentError(
            f"The pool ({', '.join(pool) or 'empty'}) must name each encoder once; the predictors to combine need "
            f"{', '.join(sorted(needed))}."
        )
    return tuple(name for name in pool if name in needed)


def probabilities(members: Sequence[Predictor], blocks: Blocks) -> Scores:
    """Return the members' probabilities, shape (n_members, n, n_classes)."""
    return np.stack([member.predict_proba(blocks) for member in members])


def mean(found: Scores) -> Scores:
    """Return the mean over members, shape (n, n_classes)."""
    return np.asarray(found.mean(axis=0), dtype=np.float64)


def log_odds(probability: Scores, *, task: Task) -> Scores:
    """Return log-odds, finite, and fine also where probabilities round to 1.

    Parameters
    ----------
    probability : ndarray of float64, shape (n, n_classes)
    task : Task
        Multi-label: every column by itself. Else each class against the others.
    """
    n_classes = probability.shape[1]
    # The others are added up; what is left of 1 would have lost its digits.
    others = 1 - probability if task is Task.MULTILABEL else probability @ (1 - np.eye(n_classes))
    with np.errstate(divide="ignore"):
        odds = np.log(probability) - np.log(others)
    return np.asarray(np.clip(odds, -CERTAIN, CERTAIN), dtype=np.float64)


def notes_of(members: Sequence[Predictor]) -> tuple[str, ...]:
    """Return the members' notes, each with the encoders it is about; once where all say the same."""
    common = set(members[0].notes).intersection(*(member.notes for member in members))
    own = [
        f"{' + '.join(member.encoders)}: {note}" for member in members for note in member.notes if note not in common
    ]
    return tuple(dict.fromkeys([*(note for note in members[0].notes if note in common), *own]))


def save_members(folder: Path, members: Sequence[Predictor]) -> list[str]:
    """Write every member to a folder of its own below ``folder``; return the checksums of their seals.

    Raises
    ------
    DiskError
        If the folder cannot be written.
    """
    remove_members(folder)
    digests = []
    for number, member in enumerate(members):
        place = folder / FOLDER / str(number)
        member.save(place)
        digests.append(digest_file(place / SEAL))
    return digests


def remove_members(folder: Path) -> None:
    """Remove the members of the predictor that was saved to this folder before, if it had any."""
    if (folder / SEAL).is_file() and (folder / FOLDER).is_dir():
        with disk_errors(folder):
            shutil.rmtree(folder / FOLDER)


def verified_folders(folder: Path, content: Mapping[str, Any]) -> list[Path]:
    """Return the folders of the members, after checking that they are those that were saved.

    Raises
    ------
    ArtifactError
        If one is missing or another's.
    """
    digests = content.get("members")
    if not isinstance(digests, list) or not digests:
        raise ArtifactError(f"The predictor in {folder} names no members.", remedy="Fit again, or restore the files.")
    folders = [folder / FOLDER / str(number) for number in range(len(digests))]
    for place, digest in zip(folders, digests, strict=True):
        if not (place / SEAL).is_file() or digest_file(place / SEAL) != digest:
            raise ArtifactError(
                f"{place / SEAL} is missing or has changed since it was written; it was not opened.",
                remedy="Fit again, or restore the file.",
            )
    return folders
