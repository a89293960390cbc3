"""The run directory: everything one ``fit`` did, and what later commands add to it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biofuse.core.errors import ArtifactError
from biofuse.core.files import TEMPORARY_SUFFIX, atomic_path, disk_errors, write_text

if TYPE_CHECKING:
    import pandas as pd

RUN_FORMAT = 2
"""Raised when ``run.json`` changes in a way that older versions cannot read."""

COMPARATORS = "comparators"
"""Folder of the models that the chosen one is compared with."""

SINGLES = "singles"
"""Folder, below the former, of the models of every single encoder."""

WRITTEN = (
    "leaderboard.parquet", "leaderboard.csv", "screen.parquet", "screen.csv", "samples.parquet", "quarantine.csv",
    "quarantine-evaluate.csv", "metrics.json", "predictions.parquet", "report.html", "README.md",
    "run.json",
)  # fmt: skip
"""Files of a run besides its models and scores; ``run.json`` last, because it is what makes the folder a run."""


class RunRecord(BaseModel):
    """The content of ``run.json``: enough to repeat the run.

    Attributes
    ----------
    format : int
    version : str
        BioFuse's version.
    key : str
        Hash of everything that decides the result: data, folds, encoders and options.
    state : {"searching", "complete"}
    started : str
        UTC, ISO 8601.
    seconds : dict
        Wall time of each stage in seconds.
    data : dict
        Where the data came from and how they were read.
    task : str
    classes : tuple of str
    counts : dict
        Samples per split and class.
    encoders : list of dict
        Name, fingerprint and licence of each encoder of the pool, in pool order.
    latency : dict
        Milliseconds per image of each encoder, where they were measured.
    skipped : list of dict
        Encoders that were asked for and could not be run: name, reason, remedy.
    options : dict
        What the user chose, with presets resolved.
    plan : dict
        Folds, repeats, and notes about them.
    selection : dict
        The chosen subset and its companions, with the reason in words.
    evidence : dict
        What corrects and explains the choice: optimism, nested scores, contributions of the encoders.
    fitted_on : str
        Which samples the final model was fitted on.
    environment : dict
        Versions and hardware.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = RUN_FORMAT
    version: str
    key: str
    state: Literal["searching", "complete"] = "searching"
    started: str
    seconds: dict[str, float] = Field(default_factory=dict)
    data: dict[str, Any]
    task: str
    classes: tuple[str, ...]
    counts: dict[str, Any]
    encoders: list[dict[str, Any]]
    latency: dict[str, float] = Field(default_factory=dict)
    skipped: list[dict[str, str]] = Field(default_factory=list)
    options: dict[str, Any]
    plan: dict[str, Any]
    selection: dict[str, Any] = Field(default_factory=dict)
    evidence: dict[str, Any] = Field(default_factory=dict)
    fitted_on: str
    environment: dict[str, Any]


FIT_AGAIN = "Fit again with --overwrite, or into another folder."


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes
    ----------
    path : Path
    """

    path: Path

    @property
    def model_path(self) -> Path:
        """The chosen model."""
        return self.path / "model"

    def comparator_path(self, name: str) -> Path:
        """Return the folder of a model that the chosen one is compared with."""
        return self.path / COMPARATORS / name

    def single_path(self, encoder: str) -> Path:
        """Return the folder of the model of one encoder by itself."""
        return self.comparator_path(SINGLES) / encoder

    @property
    def metrics_path(self) -> Path:
        """What ``evaluate`` measured."""
        return self.path / "metrics.json"

    @property
    def predictions_path(self) -> Path:
        """What ``evaluate`` predicted, sample by sample."""
        return self.path / "predictions.parquet"

    @property
    def quarantine_path(self) -> Path:
        """Images that could not be read."""
        return self.path / "quarantine.csv"

    def exists(self) -> bool:
        """Tell whether there is a run here."""
        return (self.path / "run.json").is_file()

    def is_free(self) -> bool:
        """Tell whether a run can begin here: nothing is in the way but what a killed start left."""
        if not self.path.exists():
            return True
        return self.path.is_dir() and all(entry.name.endswith(TEMPORARY_SUFFIX) for entry in self.path.iterdir())

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else; scores stay, since a search recognises its own.

        Raises
        ------
        DiskError
            If something cannot be removed.
        """
        with disk_errors(self.path):
            for folder in (self.model_path, self.path / COMPARATORS):
                if folder.exists():
                    shutil.rmtree(folder)
            for name in WRITTEN:
                (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed processes left half-written."""
        for folder in (self.path, self.path / COMPARATORS, self.comparator_path(SINGLES)):
            for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def read(self) -> RunRecord:
        """Read ``run.json``.

        Raises
        ------
        ArtifactError
            If there is no run here, or it is damaged or of a newer format.
        """
        path = self.path / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{self.path} is not a run: it holds no run.json.", remedy="Make one with `biofuse fit DATA --out RUN`."
            ) from error
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", remedy=FIT_AGAIN) from error
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > RUN_FORMAT:
            raise ArtifactError(
                f"{path} has format {content['format']}; this version of BioFuse reads up to {RUN_FORMAT}.",
                remedy="Update BioFuse: pip install -U biofuse-embed.",
            )
        try:
            return RunRecord.model_validate(content)
        except ValidationError as error:
            raise ArtifactError(f"{path} is not a run's record: {error}", remedy=FIT_AGAIN) from error

    def write(self, record: RunRecord) -> None:
        """Write ``run.json``."""
        write_text(self.path / "run.json", record.model_dump_json(indent=2) + "\n")

    def write_frame(self, frame: "pd.DataFrame", path: Path) -> None:
        """Write a table as Parquet or CSV, by the ending of the path."""
        with atomic_path(path) as temporary:
            if path.suffix == ".csv":
                frame.to_csv(temporary, index=False)
            else:
                frame.to_parquet(temporary, index=False)

    def read_samples(self) -> "pd.DataFrame":
        """Return the samples of the run: id, content hash (empty for test samples), label, split, group.

        Raises
        ------
        ArtifactError
            If the table is missing or damaged.
        """
        import pandas as pd
        import pyarrow as pa

        path = self.path / "samples.parquet"
        again = "Run `biofuse fit` again; finished work is reused."
        try:
            return pd.read_parquet(path, columns=["id", "content", "label", "split", "group"])
        except FileNotFoundError as error:
            raise ArtifactError(f"{path} is missing.", remedy=again) from error
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", remedy=again) from error
