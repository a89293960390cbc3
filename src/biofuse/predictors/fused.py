"""What maps blocks to probabilities: a fusion and a head; and how it is saved."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.errors import AlignmentError, ArtifactError, BioFuseError
from biofuse.core.files import disk_errors, read_json, write_bytes, write_text
from biofuse.core.machine import limit_threads
from biofuse.core.seals import Sealed
from biofuse.core.target import Labels, Target, Task
from biofuse.fusion.base import FittedFusion, Fusion, make_fusion
from biofuse.heads.base import CERTAIN, FittedHead, Head, Scores, check_limits, make_head


class Predictor(Protocol):
    """A fitted fusion and head, or several such combined; immutable."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders whose blocks it takes, in pool order."""

    @property
    def task(self) -> Task:
        """Kind of task it was fitted on."""

    @property
    def n_classes(self) -> int:
        """Number of classes, or labels."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user would want to know about the fit."""

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

    def decision(self, blocks: Blocks) -> Scores:
        """Return values to rank by, same shape; see :meth:`~biofuse.heads.base.FittedHead.decision`."""

    def save(self, folder: Path) -> None:
        """Write it to a new folder, to be sealed with what it belongs to; no pickle.

        :func:`biofuse.predictors.combined.load_predictor` reads it.

        Raises
        ------
        DiskError
            If the folder cannot be written.
        """


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
        content = dict(read_json(place))
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


@dataclass(frozen=True, kw_only=True, eq=False)
class FusedPredictor:
    """Blocks of a subset, fused, then classified.

    Attributes
    ----------
    fusion, head : fitted
    fusion_name, head_name : str
        Names they are registered under; what a saved predictor finds them by.
    fusion_options, head_options : mapping
        Their options, as JSON values, for the record.
    task : Task
        Kind of task.
    kind : str
        What ``predictor.json`` calls it.
    """

    kind: ClassVar = "fused"

    fusion: FittedFusion
    head: FittedHead
    fusion_name: str
    head_name: str
    fusion_options: Mapping[str, Any]
    head_options: Mapping[str, Any]
    task: Task

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders whose blocks it takes, in pool order."""
        return self.fusion.encoders

    @property
    def n_classes(self) -> int:
        """Number of classes, or labels."""
        return self.head.n_classes

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user would want to know about the fit."""
        return self.head.notes

    def transform(self, blocks: Blocks) -> Matrix:
        """Return the fused matrix, float32, shape (n, fusion.dim)."""
        return self.fusion.transform(blocks)

    def predict_proba(self, blocks: Blocks) -> Scores:
        """Return probabilities; see :meth:`Predictor.predict_proba`."""
        return self.head.predict_proba(self.transform(blocks))

    def decision(self, blocks: Blocks) -> Scores:
        """Return values to rank by; see :meth:`~biofuse.heads.base.FittedHead.decision`."""
        return self.head.decision(self.transform(blocks))

    def save(self, folder: Path) -> None:
        """Write ``predictor.json`` and ``arrays.safetensors``; see :meth:`Predictor.save`."""
        fusion, fusion_arrays = self.fusion.state()
        head, head_arrays = self.head.state()
        content = {
            "task": str(self.task),
            "encoders": list(self.encoders),
            "fusion": {"name": self.fusion_name, "options": dict(self.fusion_options), "state": fusion},
            "head": {"name": self.head_name, "options": dict(self.head_options), "state": head},
        }
        arrays = {f"fusion.{name}": array for name, array in fusion_arrays.items()}
        arrays |= {f"head.{name}": array for name, array in head_arrays.items()}
        write_artefact(folder, kind=self.kind, content=content, arrays=arrays)

    @classmethod
    def from_artefact(
        cls,
        folder: Path,
        content: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        members: Sequence[Predictor] = (),  # noqa: ARG003 (it has none)
    ) -> Self:
        """Build it from what was read; ``folder`` is named in errors only."""
        with readable(folder):
            fusion, head = content["fusion"], content["head"]
            predictor = cls(
                fusion=make_fusion(str(fusion["name"])).restore(fusion["state"], below("fusion.", arrays)),
                head=make_head(str(head["name"])).restore(head["state"], below("head.", arrays)),
                fusion_name=fusion["name"],
                head_name=head["name"],
                fusion_options=fusion["options"],
                head_options=head["options"],
                task=Task(content["task"]),
            )
        if predictor.fusion.dim != predictor.head.n_features or list(predictor.encoders) != content.get("encoders"):
            raise ArtifactError(f"The fusion and the head in {folder} do not belong together.", remedy="Fit again.")
        return predictor


def fit_predictor(
    blocks: Blocks,
    labels: Labels,
    *,
    encoders: Sequence[str] | None = None,
    fusion: str | Fusion = "concatenation",
    head: str | Head = "logistic",
    target: Target,
    sample_weight: NDArray[np.float64] | None = None,
    seed: int = 0,
    threads: int = 1,
) -> FusedPredictor:
    """Fit fusion and head on training rows.

    Rows are put in the order of their ids first, and encoders in pool order: the result is the same, bit for bit, in
    whatever order either is given.

    Parameters
    ----------
    blocks : Blocks
        Training rows.
    labels : ndarray, shape (n,) or (n, n_columns)
        Row i belongs to ``blocks.ids[i]``.
    encoders : sequence of str, optional
        The subset; all encoders of the blocks if not given.
    fusion, head : str or object
        Registered names, or objects with options of their own.
    target : Target
        What is predicted, classes that are absent included.
    sample_weight : ndarray of float64, shape (n,), optional
        Weight of each row.
    seed, threads : int
        Given to the head.

    Raises
    ------
    AlignmentError
        If an encoder has no block, is named twice, or there is not one label per row.
    DataError
        If the features or labels cannot be used.
    SearchError
        If no fusion or head has that name, or the problem is beyond the head's limits.
    """
    order, subset = in_order(blocks, encoders, {"labels": labels, "sample weights": sample_weight})
    ordered = np.asarray(labels)[order]
    the_fusion, the_head = make_fusion(fusion), make_head(head)
    with limit_threads(threads):
        fitted_fusion = the_fusion.fit(subset, ordered)
        matrix = fitted_fusion.transform(subset)
    check_limits(the_head, rows=matrix.shape[0], features=matrix.shape[1], target=target)
    fitted_head = the_head.fit(
        matrix,
        ordered,
        target=target,
        sample_weight=None if sample_weight is None else np.asarray(sample_weight)[order],
        seed=seed,
        threads=threads,
    )
    return FusedPredictor(
        fusion=fitted_fusion,
        head=fitted_head,
        fusion_name=the_fusion.name,
        head_name=the_head.name,
        fusion_options=the_fusion.options,
        head_options=the_head.options,
        task=target.kind,
    )


def log_odds(probability: Scores, *, task: Task) -> Scores:
    """Return log-odds, finite, and fine also where probabilities round to 1; values as they are.

    Parameters
    ----------
    probability : ndarray of float64, shape (n, n_columns)
    task : Task
        Each class against the others where classes exclude each other, else every column by itself.
    """
    if task.measured:
        return probability
    others = Target.numbered(task, probability.shape[1]).others(probability)
    with np.errstate(divide="ignore"):
        odds = np.log(probability) - np.log(others)
    return np.asarray(np.clip(odds, -CERTAIN, CERTAIN), dtype=np.float64)


def in_order(
    blocks: Blocks, encoders: Sequence[str] | None, per_row: Mapping[str, Sized | None]
) -> tuple[NDArray[np.int64], Blocks]:
    """Put training rows in the order of their ids and the encoders of a subset in pool order.

    Parameters
    ----------
    blocks : Blocks
    encoders : sequence of str, optional
        All if not given.
    per_row : mapping of str to sized
        What else there should be one of for each row.

    Returns
    -------
    order : ndarray of int64, shape (n,)
        Rows in the order of their ids.
    subset : Blocks
        Those rows of the subset's blocks.

    Raises
    ------
    AlignmentError
        If an encoder has no block or is named twice, none is named, or a number of rows differs.
    """
    names = of_pool(blocks.encoders, encoders)
    for what, values in per_row.items():
        if values is not None and len(values) != blocks.n_samples:
            raise AlignmentError(f"There are {len(values)} {what} for {blocks.n_samples} samples.")
    order = np.argsort(blocks.ids.astype(str), kind="stable")
    return order, blocks.only(names).take(order)


def of_pool(pool: Sequence[str], encoders: Sequence[str] | None) -> tuple[str, ...]:
    """Return the encoders of a subset in pool order, all if it is not given.

    Raises
    ------
    AlignmentError
        If an encoder has no block or is named twice, or none is named.
    """
    names = tuple(pool) if encoders is None else tuple(encoders)
    if not names or len(set(names)) != len(names):
        raise AlignmentError(
            f"A subset names at least one encoder, and each once; given: {', '.join(names) or 'none'}."
        )
    missing = [name for name in names if name not in pool]
    if missing:
        raise AlignmentError(f"No block for encoder(s) {', '.join(missing)}; there are {', '.join(pool)}.")
    return tuple(name for name in pool if name in names)
