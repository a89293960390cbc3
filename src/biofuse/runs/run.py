"""What a run was computed with."""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biofuse.core.errors import ArtifactError, SearchError
from biofuse.core.files import TEMPORARY_SUFFIX, atomic_path, disk_errors, write_text
from biofuse.core.hashing import canonical_json, digest_json, to_hex
from biofuse.data.load import Development
from biofuse.data.samples import Samples
from biofuse.extract.embeddings import EmbeddingSet, Quarantined
from biofuse.model.model import BioFuseModel
from biofuse.search.evidence import Evidence
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.problem import Problem
from biofuse.search.rules import CHOSEN, COMPANIONS
from biofuse.search.search import Search, encoders_to_fit, singles_to_fit
from biofuse.store.exchange import label_names

if TYPE_CHECKING:
    import pandas as pd

LIBRARIES = (
    "biofuse-embed",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "pillow",
    "pandas",
    "pyarrow",
    "torch",
    "torchvision",
    "timm",
    "xgboost",
)
"""Distributions whose version can change a result."""


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware as JSON values; never loads a model library for it."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "accelerator": _accelerator(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())


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


def describe_search(search: Search) -> dict[str, Any]:
    """Return the choice, how it was made and what it stands beside as JSON values."""
    selection = search.selection
    rows: dict[str, Row | None] = {
        CHOSEN: selection.chosen,
        "best": selection.best,
        "best_single": selection.best_single,
        "all": selection.all,
        "greedy": selection.greedy,
    }
    described = {name: _describe_row(row, selection.metric) for name, row in rows.items() if row is not None}
    singles = {name: search.leaderboard.get(subset) for name, subset in singles_to_fit(search).items()}
    facts: dict[str, Any] = {
        "rule": selection.rule,
        "metric": selection.metric,
        "reason": search.reason,
        "better_than_chance": selection.better_than_chance,
        "head": search.head,
        "heads": dict(search.heads),
        "singles": {n: _describe_row(row, selection.metric) for n, row in singles.items() if row is not None},
    }
    if search.screen is not None:
        loss = search.screen.loss
        facts["screen"] = {"plan": str(search.screen.plan), "loss_of_reduction": None if loss is None else str(loss)}
    if search.ensemble is not None:
        described["one_subset"] = described[CHOSEN]
        described[CHOSEN] = {
            "encoders": list(search.ensemble.encoders),
            "members": [list(member) for member in search.ensemble.members],
            "mean": search.ensemble.mean,
            "folds": _finite(search.ensemble.scores[len(search.ensemble.members)]),
            "means": {str(size): float(np.nanmean(values)) for size, values in search.ensemble.scores.items()},
        }
    return facts | described


def _describe_row(row: Row, metric: str) -> dict[str, Any]:
    return {
        "encoders": list(row.subset),
        "dims": row.n_dims,
        "mean": row.mean(metric),
        "folds": _finite(row.folds[metric]),
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values]


def new_record(problem: Problem, embeddings: EmbeddingSet, development: Development, data: dict[str, Any]) -> RunRecord:
    """Return the record of a run that is about to start."""
    config = problem.config.model_dump(mode="json")
    return RunRecord(
        version=importlib.metadata.version("biofuse-embed"),
        key=digest_json([problem.key(stage="run"), config]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        data={"name": problem.samples.name, **data},
        task=str(problem.task),
        classes=problem.samples.classes,
        counts=_counts(problem.samples, development.held_out),
        encoders=[
            {
                "name": card.name,
                "fingerprint": card.fingerprint(precision=(precision := embeddings.precisions.get(card.name, "fp32"))),
                "precision": precision,
                "dim": card.dim,
                "licence": card.licence,
            }
            for card in embeddings.cards
        ],
        skipped=[asdict(skipped) for skipped in embeddings.skipped],
        options=config,
        plan={
            "kind": problem.plan.kind,
            "folds": len(problem.plan.folds),
            "repeats": problem.plan.n_repeats,
            "key": problem.plan.key(),
            "notes": list(problem.plan.notes),
        },
        fitted_on=problem.fitted_on,
        environment=describe_environment(),
    )


def _counts(samples: Samples, held_out: Samples | None) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for part in (samples, held_out):
        if part is None or part.splits is None or part.labels is None:
            continue
        for split in dict.fromkeys(part.splits.tolist()):
            labels = part.labels[part.splits == split]
            each = np.bincount(labels, minlength=len(part.classes)) if labels.ndim == 1 else labels.sum(axis=0)
            counts[split] = dict(zip(part.classes, each.tolist(), strict=True))
    return counts


def sample_rows(embeddings: EmbeddingSet, development: Development) -> "pd.DataFrame":
    """Return a row per sample of the run; test samples are unread, hence without content."""
    import pandas as pd

    parts = [_rows(embeddings.samples, to_hex(embeddings.contents))]
    if development.held_out is not None:
        parts.append(_rows(development.held_out, [""] * len(development.held_out)))
    return pd.concat(parts, ignore_index=True)


def _rows(samples: Samples, contents: list[str]) -> "pd.DataFrame":
    import pandas as pd

    groups = [None] * len(samples) if samples.groups is None else samples.groups
    return pd.DataFrame(
        {
            "id": samples.ids,
            "content": contents,
            "label": label_names(samples),
            "split": samples.splits,
            "group": groups,
        }
    )


@dataclass(kw_only=True)
class RunWriter:
    """Writes one fit into a run directory, or recognises that it is there already.

    Attributes
    ----------
    run : Run
    record : RunRecord
    finished : bool
        Whether the directory holds this very run, complete.
    """

    run: Run
    record: RunRecord
    finished: bool
    _start: float = field(default_factory=time.perf_counter)

    @classmethod
    def open(
        cls,
        path: Path,
        problem: Problem,
        embeddings: EmbeddingSet,
        development: Development,
        *,
        data: dict[str, Any],
        overwrite: bool,
    ) -> Self:
        """Start a run, or go on with the same one.

        Raises
        ------
        SearchError
            If the directory holds another run and ``overwrite`` is False, or something that is no run at all.
        ArtifactError
            If the run in it is damaged or of a newer format, and ``overwrite`` is False.
        """
        run = Run(path)
        record = new_record(problem, embeddings, development, data)
        finished = False
        if run.exists():
            there = _read_or_replace(run, overwrite=overwrite)
            if there is not None and there.key == record.key:
                finished = there.state == "complete"
                # The test samples, which a search does not depend on, may have changed since.
                record = there.model_copy(update={"data": record.data, "counts": record.counts})
            elif overwrite:
                run.clear()
            else:
                raise SearchError(
                    f"{path} holds a run on other data or with other options.",
                    remedy="Choose another folder with --out, or replace the run with --overwrite.",
                )
        elif not run.is_free():
            raise SearchError(f"{path} exists and is not a run.", remedy="Choose an empty folder for --out.")
        run.write(record)
        run.write_frame(sample_rows(embeddings, development), path / "samples.parquet")
        write_quarantine(run, embeddings.quarantined)
        return cls(run=run, record=record, finished=finished)

    def remember(self, *, latency: Mapping[str, float]) -> None:
        """Keep what was measured, so that the run, when repeated, chooses by the same numbers."""
        if dict(latency) != self.record.latency:
            self.record = self.record.model_copy(update={"latency": dict(latency)})
            self.run.write(self.record)

    def finished_models(self, search: Search) -> tuple[dict[str, BioFuseModel], dict[str, BioFuseModel]] | None:
        """Load the models of a finished run and its single encoders; None where any is yet to be fitted, or damaged."""
        if not self.finished:
            return None
        try:
            models, singles = read_models(self.run, self.record), read_singles(self.run, self.record)
        except ArtifactError:
            return None
        wanted = (encoders_to_fit(search), singles_to_fit(search))
        if tuple({name: model.encoders for name, model in each.items()} for each in (models, singles)) != wanted:
            return None
        self._write_leaderboards(search)
        return models, singles

    def finish(
        self, search: Search, evidence: Evidence, models: dict[str, BioFuseModel], singles: dict[str, BioFuseModel]
    ) -> None:
        """Write leaderboards and models, and last of all that the run is complete."""
        self._write_leaderboards(search)
        for name, model in singles.items():
            model.save(self.run.single_path(name))
        for name, model in models.items():
            model.save(self.run.model_path if name == CHOSEN else self.run.comparator_path(name))
        seconds = {"search": search.leaderboard.seconds}
        if search.screen is not None:
            seconds["screen"] = search.screen.leaderboard.seconds
        self.record = self.record.model_copy(
            update={
                "state": "complete",
                "selection": describe_search(search),
                "evidence": evidence.model_dump(mode="json"),
                "seconds": seconds | {"total": time.perf_counter() - self._start},
            }
        )
        self.run.write(self.record)
        self.run.sweep()

    def _write_leaderboards(self, search: Search) -> None:
        boards: dict[str, Leaderboard] = {"leaderboard": search.leaderboard}
        if search.screen is not None:
            boards["screen"] = search.screen.leaderboard
        for name, board in boards.items():
            board.to_parquet(self.run.path / f"{name}.parquet")
            board.to_csv(self.run.path / f"{name}.csv")


def read_models(run: Run, record: RunRecord) -> dict[str, BioFuseModel]:
    """Load the chosen model of a finished run and those it is compared with.

    Raises
    ------
    ArtifactError
        If one that ``run.json`` names is missing, damaged, or of other encoders.
    """
    models = {}
    for name in (CHOSEN, *COMPANIONS):
        if name in record.selection:
            path = run.model_path if name == CHOSEN else run.comparator_path(name)
            models[name] = BioFuseModel.load(path)
            if list(models[name].encoders) != record.selection[name]["encoders"]:
                raise ArtifactError(f"{path} is not the model that run.json describes.", remedy="Fit again.")
    return models


def read_singles(run: Run, record: RunRecord) -> dict[str, BioFuseModel]:
    """Load the models of single encoders, by encoder; none where the run was fitted without a search.

    Raises
    ------
    ArtifactError
        If one that ``run.json`` names is missing, damaged, or of another encoder.
    """
    models = {}
    for name in record.selection.get("singles", {}):
        models[name] = BioFuseModel.load(run.single_path(name))
        if models[name].encoders != (name,):
            raise ArtifactError(f"{run.single_path(name)} is not the model of {name} alone.", remedy="Fit again.")
    return models


def write_quarantine(run: Run, entries: Iterable[Quarantined], *, name: str = "quarantine.csv") -> None:
    """List images that could not be read; an empty list has only its header."""
    import pandas as pd

    rows = [(entry.id, entry.source, entry.reason) for entry in entries]
    run.write_frame(pd.DataFrame(rows, columns=["id", "source", "reason"]), run.path / name)


def canonical_pretty(value: Any) -> str:
    """Return JSON for people: indented, in the order given; NaN is an error."""
    import json

    canonical_json(value)
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _read_or_replace(run: Run, *, overwrite: bool) -> RunRecord | None:
    """Read a run's record; None where it cannot be read and the user wants the run replaced anyway."""
    try:
        return run.read()
    except ArtifactError:
        if not overwrite:
            raise
        return None
