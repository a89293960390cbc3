"""A run directory, of which this is the only reader and writer."""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from biofuse.core.errors import ArtifactError, DataError, SearchError
from biofuse.core.files import TEMPORARY_SUFFIX, atomic_path, disk_errors, write_text
from biofuse.core.hashing import to_hex
from biofuse.data.load import Development, development_data, load_samples
from biofuse.data.samples import Samples
from biofuse.extract.embeddings import EmbeddingSet, Quarantined
from biofuse.model.evaluate import Evaluation
from biofuse.model.model import BioFuseModel
from biofuse.runs.record import RUN_FORMAT, DataSource, RunRecord
from biofuse.search.evidence import Evidence
from biofuse.search.leaderboard import Leaderboard
from biofuse.search.problem import Problem
from biofuse.search.rules import CHOSEN
from biofuse.search.search import Search, encoders_to_fit, singles_to_fit
from biofuse.store.exchange import label_names

if TYPE_CHECKING:
    import pandas as pd

RECORD, METRICS, PREDICTIONS, SAMPLES = "run.json", "metrics.json", "predictions.parquet", "samples.parquet"

REPORT, CARD = "report.html", "README.md"
"""The page, and the model card."""

QUARANTINE = {"fit": "quarantine.csv", "evaluate": "quarantine-evaluate.csv"}
"""Images that could not be read, by what was done with them."""

COMPARATORS = "comparators"
"""Folder of the models that the chosen one is compared with."""

SINGLES = "singles"
"""Folder, below the former, of the models of every single encoder."""

WRITTEN = (
    "leaderboard.parquet", "leaderboard.csv", "screen.parquet", "screen.csv", SAMPLES, *QUARANTINE.values(), METRICS,
    PREDICTIONS, REPORT, CARD, RECORD,
)  # fmt: skip
"""Files of a run besides its models and scores; the record last, because it is what makes the folder a run."""

FIT_AGAIN = "Fit again with --overwrite, or into another folder."
GO_ON = "Run the same `biofuse fit` again: it goes on from there."
EVALUATE = "Run `biofuse evaluate RUN` again."


@dataclass(kw_only=True, eq=False)
class Run:
    """A run directory and its record. Everything else in it is read when it is first asked for.

    Attributes
    ----------
    path : Path
    record : RunRecord
    finished : bool
        Whether the directory held this very run, complete, when it was opened.
    """

    path: Path
    record: RunRecord
    finished: bool = False
    _start: float = field(default_factory=time.perf_counter, repr=False)

    # --- open, create, finish

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a complete run.

        Raises
        ------
        ArtifactError
            If there is no run at ``path``, it is not complete, or its record is damaged or of another format.
        """
        record = read_record(Path(path))
        if record.state != "complete" or record.selection is None:
            raise ArtifactError(f"The fit in {path} did not finish.", remedy=GO_ON)
        return cls(path=Path(path), record=record, finished=True)

    @classmethod
    def create(
        cls,
        path: Path | str,
        problem: Problem,
        embeddings: EmbeddingSet,
        development: Development,
        *,
        source: DataSource | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Start a run, or go on with the same one.

        Raises
        ------
        SearchError
            If the directory holds another run and ``overwrite`` is False, or something that is no run at all.
        ArtifactError
            If the run in it is damaged or of another format, and ``overwrite`` is False.
        """
        run = cls(path=Path(path), record=RunRecord.begin(problem, embeddings, development, source or DataSource()))
        if (run.path / RECORD).is_file():
            there = _read_or_replace(run.path, overwrite=overwrite)
            if there is not None and there.key == run.record.key:
                run.finished = there.state == "complete"
                # The test samples, which a search does not depend on, may have changed since.
                run.record = there.model_copy(update={name: getattr(run.record, name) for name in ("data", "counts")})
            elif overwrite:
                run.clear()
            else:
                raise SearchError(
                    f"{path} holds a run on other data or with other options.",
                    remedy="Choose another folder with --out, or replace the run with --overwrite.",
                )
        elif not _is_free(run.path):
            raise SearchError(f"{path} exists and is not a run.", remedy="Choose an empty folder for --out.")
        run._write_record()
        run.samples = _sample_rows(embeddings, development)
        _write_frame(run.samples, run.path / SAMPLES)
        run._write_quarantine("fit", embeddings.quarantined)
        return run

    def remember(self, *, latency: Mapping[str, float]) -> None:
        """Keep what was measured, so that the run, when repeated, chooses by the same numbers."""
        if dict(latency) != self.record.latency:
            self.record = self.record.model_copy(update={"latency": dict(latency)})
            self._write_record()

    def finished_models(self, search: Search) -> tuple[dict[str, BioFuseModel], dict[str, BioFuseModel]] | None:
        """Load the models of a finished run and its single encoders; None where any is yet to be fitted, or damaged."""
        if not self.finished:
            return None
        try:
            models, singles = self.read_models(), self.read_singles()
        except ArtifactError:
            return None
        wanted = (encoders_to_fit(search), singles_to_fit(search))
        if tuple({name: model.encoders for name, model in each.items()} for each in (models, singles)) != wanted:
            return None
        self._write_leaderboards(search)
        return models, singles

    def finish(
        self,
        search: Search,
        evidence: Evidence,
        models: Mapping[str, BioFuseModel],
        singles: Mapping[str, BioFuseModel],
    ) -> None:
        """Write leaderboards and models, and last of all that the run is complete."""
        self._write_leaderboards(search)
        for name, model in singles.items():
            model.save(self.single_path(name))
        for name, model in models.items():
            model.save(self.model_path(name))
        seconds = {"search": search.leaderboard.seconds}
        if search.screen is not None:
            seconds["screen"] = search.screen.leaderboard.seconds
        seconds["total"] = time.perf_counter() - self._start
        self.record = self.record.completed(search, evidence, seconds=seconds)
        self._write_record()
        self.sweep()

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else; scores stay, since a search recognises its own.

        Raises
        ------
        DiskError
            If something cannot be removed.
        """
        with disk_errors(self.path):
            for folder in (self.model_path(CHOSEN), self.path / COMPARATORS):
                if folder.exists():
                    shutil.rmtree(folder)
            for name in WRITTEN:
                (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed processes left half-written."""
        for folder in (self.path, self.path / COMPARATORS, self.path / COMPARATORS / SINGLES):
            for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    # --- models

    def model_path(self, name: str = CHOSEN) -> Path:
        """Return the folder of the chosen model, or of one that it is compared with."""
        return self.path / "model" if name == CHOSEN else self.path / COMPARATORS / name

    def single_path(self, encoder: str) -> Path:
        """Return the folder of the model of one encoder by itself."""
        return self.path / COMPARATORS / SINGLES / encoder

    def read_models(self) -> dict[str, BioFuseModel]:
        """Load the chosen model and those it is compared with.

        Raises
        ------
        ArtifactError
            If one that the record names is missing, damaged, or of other encoders.
        """
        return {name: _load(self.model_path(name), subset) for name, subset in self.record.models.items()}

    def read_singles(self) -> dict[str, BioFuseModel]:
        """Load the models of single encoders, by encoder; none where the run was fitted without a search.

        Raises
        ------
        ArtifactError
            If one that the record names is missing, damaged, or of another encoder.
        """
        return {name: _load(self.single_path(name), (name,)) for name in self.record.singles}

    # --- data

    @cached_property
    def samples(self) -> "pd.DataFrame":
        """The samples of the run: id, content hash (empty for test samples, which are unread), label, split, group.

        Raises
        ------
        ArtifactError
            If the table is missing or damaged.
        """
        frame = self._read_frame(SAMPLES, ["id", "content", "label", "split", "group"])
        if frame is None:
            raise ArtifactError(f"{self.path / SAMPLES} is missing.", remedy=GO_ON)
        return frame

    def load_samples(self, *, label: Any = None, group: str | None = None) -> tuple[Samples, Samples]:
        """Look for the run's data where the fit found them, with the same columns unless others are given.

        Returns
        -------
        development, test : Samples
            Tables that hold these samples, perhaps among others; the same one, unless test data came apart.

        Raises
        ------
        DataError
            If they were in memory, or are no longer there.
        """
        data, record = self.record.data, self.record
        if data.in_memory:
            raise DataError(
                "This run was fitted on data in memory.", remedy="Give the test data: biofuse evaluate RUN DATA."
            )
        label, group = label or data.columns, group or data.group
        if data.val is not None or data.test is not None:
            val, test = (None if part is None else part.source for part in (data.val, data.test))
            made = development_data(data.source, val, test=test, label=label, group=group, task=data.task)
            return made.samples, made.samples if made.held_out is None else made.held_out
        # Splits were checked, or made, when the run began; the run's own record of them counts.
        samples = load_samples(
            data.source, label=label, group=group, classes=record.classes, task=record.task, decode=record.decode,
            use_splits=False,
        )  # fmt: skip
        return samples, samples

    @cached_property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Images that the fit could not read."""
        return self._read_quarantine("fit")

    # --- scores

    @cached_property
    def leaderboard(self) -> Leaderboard:
        """Subsets scored by refitting.

        Raises
        ------
        ArtifactError
            If the table is missing or damaged.
        """
        return Leaderboard.read_parquet(self.path / "leaderboard.parquet")

    @cached_property
    def screen(self) -> Leaderboard | None:
        """All subsets in closed form; None for a run without a screen.

        Raises
        ------
        ArtifactError
            If the table is missing or damaged.
        """
        return None if self.record.screen is None else Leaderboard.read_parquet(self.path / "screen.parquet")

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """What the last evaluation found; None before any.

        Raises
        ------
        ArtifactError
            If its files are damaged.
        """
        import pandas as pd

        path = self.path / METRICS
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", remedy=EVALUATE) from error
        predictions, unread = self._read_frame(PREDICTIONS), self._read_quarantine("evaluate")
        try:
            found = Evaluation.from_json(content, pd.DataFrame() if predictions is None else predictions, unread)
            _ = found.models[CHOSEN]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is not what `biofuse evaluate` writes: {error}", remedy=EVALUATE) from error
        return found

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write metrics, predictions, and what could not be read."""
        write_text(self.path / METRICS, json.dumps(evaluation.to_json(), indent=2, allow_nan=False) + "\n")
        _write_frame(evaluation.predictions, self.path / PREDICTIONS)
        self._write_quarantine("evaluate", evaluation.quarantined)
        self.evaluation = evaluation

    # --- files

    def _write_record(self) -> None:
        write_text(self.path / RECORD, self.record.model_dump_json(indent=2) + "\n")

    def _write_leaderboards(self, search: Search) -> None:
        self.leaderboard, self.screen = search.leaderboard, None if search.screen is None else search.screen.leaderboard
        for name, board in (("leaderboard", self.leaderboard), ("screen", self.screen)):
            if board is not None:
                board.to_parquet(self.path / f"{name}.parquet")
                board.to_csv(self.path / f"{name}.csv")

    def _read_frame(self, name: str, columns: list[str] | None = None) -> "pd.DataFrame | None":
        import pandas as pd
        import pyarrow as pa

        path = self.path / name
        try:
            return pd.read_parquet(path, columns=columns)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", remedy="Fit or evaluate again.") from error

    def _write_quarantine(self, stage: str, entries: Iterable[Quarantined]) -> None:
        import pandas as pd

        rows = [(entry.id, entry.source, entry.reason) for entry in entries]
        _write_frame(pd.DataFrame(rows, columns=["id", "source", "reason"]), self.path / QUARANTINE[stage])

    def _read_quarantine(self, stage: str) -> tuple[Quarantined, ...]:
        import pandas as pd

        path = self.path / QUARANTINE[stage]
        if not path.exists():
            return ()
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)[["id", "source", "reason"]].to_numpy().tolist()
        return tuple(Quarantined(id=name, source=source, reason=reason) for name, source, reason in rows)


def read_record(path: Path) -> RunRecord:
    """Read ``run.json``, of a complete run or not.

    Raises
    ------
    ArtifactError
        If there is no run at ``path``, or its record is damaged or of another format.
    """
    file = path / RECORD
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} is not a run: it holds no run.json.", remedy="Make one with `biofuse fit DATA --out RUN`."
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read: {error}", remedy=FIT_AGAIN) from error
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found > RUN_FORMAT:
        raise ArtifactError(
            f"{file} has format {found}; this version of BioFuse reads format {RUN_FORMAT}.",
            remedy="Update BioFuse: pip install -U biofuse-embed.",
        )
    if isinstance(found, int) and found < RUN_FORMAT:
        wrote = content.get("version")
        raise ArtifactError(
            f"{file} has format {found}, written by BioFuse {wrote}; this version reads format {RUN_FORMAT}.",
            remedy="Fit again with --overwrite: embeddings are reused.",
        )
    try:
        return RunRecord.model_validate_json(text)
    except (ValidationError, SearchError) as error:
        raise ArtifactError(f"{file} is not a run's record: {error}", remedy=FIT_AGAIN) from error


def _read_or_replace(path: Path, *, overwrite: bool) -> RunRecord | None:
    """Read a run's record; None where it cannot be read and the user wants the run replaced anyway."""
    try:
        return read_record(path)
    except ArtifactError:
        if not overwrite:
            raise
        return None


def _is_free(path: Path) -> bool:
    """Tell whether a run can begin here: nothing is in the way but what a killed start left."""
    if not path.exists():
        return True
    return path.is_dir() and all(entry.name.endswith(TEMPORARY_SUFFIX) for entry in path.iterdir())


def _load(path: Path, encoders: tuple[str, ...]) -> BioFuseModel:
    model = BioFuseModel.load(path)
    if model.encoders != encoders:
        raise ArtifactError(f"{path} is not the model that run.json describes.", remedy="Fit again.")
    return model


def _write_frame(frame: "pd.DataFrame", path: Path) -> None:
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


def _sample_rows(embeddings: EmbeddingSet, development: Development) -> "pd.DataFrame":
    """Return a row per sample of the run; test samples are unread, hence without content."""
    import pandas as pd

    parts = [(embeddings.samples, to_hex(embeddings.contents))]
    if development.held_out is not None:
        parts.append((development.held_out, [""] * len(development.held_out)))
    frames = [
        pd.DataFrame(
            {
                "id": samples.ids,
                "content": contents,
                "label": label_names(samples),
                "split": samples.splits,
                "group": [None] * len(samples) if samples.groups is None else samples.groups,
            }
        )
        for samples, contents in parts
    ]
    return pd.concat(frames, ignore_index=True)
