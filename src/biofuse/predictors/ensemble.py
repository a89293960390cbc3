"""The average of several predictors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError, BioFuseError
from biofuse.core.tasks import Task
from biofuse.heads.protocol import Scores
from biofuse.predictors.artefact import write_artefact
from biofuse.predictors.members import log_odds, mean, notes_of, probabilities, save_members, union
from biofuse.predictors.protocol import Predictor

KIND = "ensemble"
"""What ``predictor.json`` calls this predictor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EnsemblePredictor:
    """The mean of the probabilities of several predictors, of whatever subsets; see :func:`average`.

    Attributes
    ----------
    members : tuple of Predictor
        All about the same task.
    encoders : tuple of str
        Those of all members, in pool order.
    """

    members: tuple[Predictor, ...]
    encoders: tuple[str, ...]

    @property
    def task(self) -> Task:
        """Kind of task."""
        return self.members[0].task

    @property
    def n_classes(self) -> int:
        """Number of classes, or labels."""
        return self.members[0].n_classes

    @property
    def notes(self) -> tuple[str, ...]:
        """The members' notes, each with the encoders it is about."""
        return notes_of(self.members)

    def predict_proba(self, blocks: Blocks) -> Scores:
        """Return the mean probabilities; see :meth:`biofuse.predictors.Predictor.predict_proba`."""
        return mean(probabilities(self.members, blocks.only(self.encoders)))

    def decision(self, blocks: Blocks) -> Scores:
        """Return the log-odds of the mean probabilities, which rank as those do."""
        return log_odds(self.predict_proba(blocks), task=self.task)

    def save(self, folder: Path) -> None:
        """Write ``predictor.json``, and every member to a folder below ``members``.

        Raises
        ------
        DiskError
            If the folder cannot be written.
        """
        content = {"encoders": list(self.encoders), "members": save_members(folder, self.members)}
        write_artefact(folder, kind=KIND, content=content, arrays={})

    @classmethod
    def from_artefact(cls, folder: Path, content: Mapping[str, Any], members: Sequence[Predictor]) -> Self:
        """Build it from what was read; ``folder`` is named in errors only."""
        return cls(members=tuple(members), encoders=read_encoders(folder, content, members))


def average(members: Sequence[Predictor], *, pool: Sequence[str]) -> EnsemblePredictor:
    """Average the probabilities of several predictors.

    Parameters
    ----------
    members : sequence of Predictor
        Fitted, of any subsets and any kind.
    pool : sequence of str
        Encoder names in pool order, others included.

    Raises
    ------
    AlignmentError
        If an encoder of a member is not in the pool, or the pool names one twice.
    SearchError
        If there are no members, or they are not about the same task.
    """
    return EnsemblePredictor(members=tuple(members), encoders=union(members, pool=pool))


def read_encoders(folder: Path, content: Mapping[str, Any], members: Sequence[Predictor]) -> tuple[str, ...]:
    """Return the saved encoders of a predictor made of others.

    Raises
    ------
    ArtifactError
        If they are not those of its members.
    """
    saved = content.get("encoders")
    try:
        encoders = union(members, pool=[str(name) for name in saved] if isinstance(saved, list) else [])
    except BioFuseError as error:
        raise ArtifactError(f"The predictors in {folder} do not belong together: {error.message}") from error
    if list(encoders) != saved:
        raise ArtifactError(f"The predictors in {folder} do not belong together.", remedy="Fit again.")
    return encoders
