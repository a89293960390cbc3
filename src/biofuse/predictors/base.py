"""What maps blocks to probabilities."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, BioFuseError, SearchError
from biofuse.core.files import disk_errors, write_bytes, write_text
from biofuse.core.seals import Sealed
from biofuse.core.target import Target, Task
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
        """Return values to rank by, same shape; see :meth:`~biofuse.heads.base.FittedHead.decision`."""
        ...

    def save(self, folder: Path) -> None:
        """Write it to a new folder, to be sealed with what it belongs to; no pickle.

        :func:`biofuse.predictors.combined.load_predictor` reads it.

        Raises
        ------
        DiskError
            If the folder cannot be written.
        """
        ...


RECORD = "predictor.json"
ARRAYS = "arrays.safetensors"

MEMBERS = "members"
"""Folder of the members' own folders, which are numbered from 0."""

PREDICTOR_FORMAT = 2
"""Raised when what a predictor saves changes in a way that older versions cannot read. In format 1 each predictor had a
seal of its own and listed the checksums of its members' seals; it is read all the same, by the model's seal alone."""


def write_artefact(
    folder: Path,
    *,
    kind: str,
    content: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    members: Sequence[Predictor] = (),
) -> None:
    """Write a predictor to a new folder: JSON, arrays, and each member in a folder below ``members``.

    Raises
    ------
    DiskError
        If the folder exists or cannot be written.
    """
    from safetensors.numpy import save

    with disk_errors(folder):
        folder.mkdir(parents=True)
    for number, member in enumerate(members):
        member.save(folder / MEMBERS / str(number))
    write_bytes(folder / ARRAYS, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    record = {"predictor_format": PREDICTOR_FORMAT, "kind": kind, "members": len(members), **content}
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def read_artefact(sealed: Sealed) -> tuple[str, dict[str, Any], dict[str, NDArray[Any]]]:
    """Return kind, content and arrays of a predictor.

    Parameters
    ----------
    sealed : Sealed
        Its folder, verified by the seal of what it belongs to.

    Raises
    ------
    ArtifactError
        If something is missing, malformed or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    place = sealed.path(RECORD)
    with readable(sealed.folder):
        content = dict(json.loads(place.read_text(encoding="utf-8")))
        version, kind = int(content["predictor_format"]), str(content["kind"])
    if version > PREDICTOR_FORMAT:
        raise ArtifactError(
            f"{place} has predictor format {version}; this version of BioFuse reads up to {PREDICTOR_FORMAT}.",
            remedy="Update BioFuse: pip install -U biofuse-embed.",
        )
    try:
        return kind, content, load_file(sealed.path(ARRAYS))
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{sealed.path(ARRAYS)} cannot be read: {error}", remedy="Fit again, or restore the file."
        ) from error


def member_folders(sealed: Sealed, content: Mapping[str, Any]) -> list[Sealed]:
    """Return the folders of the members that a predictor's content counts (in format 1: lists).

    Raises
    ------
    ArtifactError
        If the content is malformed, or there are other members than those.
    """
    with readable(sealed.folder):
        given = content.get("members", 0)
        count = len(given) if isinstance(given, list) else int(given)
    there = {file.split("/")[1] for file in sealed.files if file.startswith(f"{MEMBERS}/")}
    if there != {str(number) for number in range(count)}:
        raise ArtifactError(
            f"The predictor in {sealed.folder} has other members than it names.",
            remedy="Fit again, or restore the files.",
        )
    return [sealed.below(f"{MEMBERS}/{number}") for number in range(count)]


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while a saved predictor is read into an ArtifactError that names its folder."""
    try:
        yield
    except BioFuseError as error:
        raise ArtifactError(
            f"The predictor in {folder} cannot be read: {error.message}", remedy=error.remedy
        ) from error
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"The predictor in {folder} is malformed: {error!r}.", remedy="Fit again, or restore the files."
        ) from error


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


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
    others = Target.numbered(task, probability.shape[1]).others(probability)
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
