"""A run directory, of which this is the only reader and writer."""

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from biofuse.blocks.blocks import BlockReader
from biofuse.core.errors import ArtifactError, DataError, SearchError, option
from biofuse.core.files import (
    LOCK,
    TEMPORARY_SUFFIX,
    atomic_path,
    disk_errors,
    locked,
    read_json,
    refuse_locked,
    refuse_odd_path,
    write_text,
)
from biofuse.core.hashing import digest_file, to_hex
from biofuse.core.seals import unsealed, verify, write_sealed
from biofuse.core.target import SEPARATOR
from biofuse.data.config import DataConfig
from biofuse.data.load import Development, development_data, load_samples
from biofuse.data.samples import Samples
from biofuse.extract.embeddings import EmbeddingSet, Quarantined
from biofuse.model.evaluate import Evaluation
from biofuse.model.folder import COMPARATORS, SEAL, model_folder
from biofuse.model.model import BioFuseModel
from biofuse.runs.record import RUN_FORMAT, DataSource, RunRecord
from biofuse.search.config import SearchConfig
from biofuse.search.curve import LearningCurve
from biofuse.search.evidence import Evidence
from biofuse.search.leaderboard import Leaderboard
from biofuse.search.out_of_fold import OutOfFold
from biofuse.search.problem import Problem
from biofuse.search.rules import CHOSEN
from biofuse.search.search import Search, encoders_to_fit, singles_to_fit
from biofuse.store.exchange import IMAGES, image_column, images_of, label_names
from biofuse.store.store import EmbeddingStore

if TYPE_CHECKING:
    import pandas as pd

RECORD, METRICS, PREDICTIONS, SAMPLES = "run.json", "metrics.json", "predictions.parquet", "samples.parquet"

OUT_OF_FOLD = "out_of_fold.parquet"
"""What the chosen predictor says of development samples that it was not fitted on."""

REPORT, CARD = "report.html", "README.md"
"""The page, and the model card."""

CURVE = "curve.json"
"""Scores against the number of labelled samples."""

LOG = "run.log"
"""What was told along the way, with the time."""

QUARANTINE = {"fit": "quarantine.csv", "evaluate": "quarantine-evaluate.csv"}
"""Images that could not be read, by what was done with them."""

SINGLES = "singles"
"""Folder, below the former, of the models of every single encoder."""

EVALUATIONS = "evaluations"
"""Folder of what other data than the run's own test samples gave: a folder of metrics and predictions for each."""

OWN = "own test"
"""Name of the evaluation on the run's own test samples, whose files lie in the run itself."""

EVALUATED = (METRICS, PREDICTIONS, QUARANTINE["evaluate"])
"""Files of an evaluation."""

PATIENCE = 60.0
"""Seconds that an evaluation waits for another to be written."""

WRITTEN = (
    "leaderboard.parquet", "leaderboard.csv", "screen.parquet", "screen.csv", OUT_OF_FOLD, SAMPLES,
    *QUARANTINE.values(), METRICS, PREDICTIONS, CURVE, REPORT, CARD, RECORD,
)  # fmt: skip
"""Files of a run besides its models and scores; the record last, because it is what makes the folder a run."""

UNSEALED = 3
"""The format of before records had checksums."""

FIT_AGAIN = f"Fit again with {option('overwrite', True)}, or into another folder."
ANOTHER = "{} holds a run on other data or with other options."
OTHER_PLACE = f"Choose another folder: {option('out')}; or replace the run: {option('overwrite', True)}."
GO_ON = "Run the same `biofuse fit` again: it goes on from there."
EVALUATE = "Run `biofuse evaluate RUN` again."
MEASURE = "Run `biofuse curve RUN` again."


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
    _evaluations: dict[str, Evaluation] = field(default_factory=dict, repr=False)

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
        if record.state != "complete":
            refuse_locked(Path(path))
        if record.state != "complete" or record.selection is None:
            raise ArtifactError(f"The fit in {path} did not finish.", remedy=GO_ON)
        return cls(path=Path(path), record=record, finished=True)

    @staticmethod
    @contextlib.contextmanager
    def claim(path: Path | str, *, doing: str) -> Iterator[None]:
        """Keep a run directory for this process, before any long work for it.

        Raises
        ------
        SearchError
            If there is something there that is no run.
        LockedError
            If another process is writing it.
        DiskError
            If it cannot be written to.
        """
        refuse_odd_path(Path(path))
        with disk_errors(Path(path)):
            _refuse_stranger(Path(path))
        with locked(Path(path), doing=doing):
            yield

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
                raise SearchError(ANOTHER.format(path), remedy=OTHER_PLACE)
        else:
            _refuse_stranger(run.path)
        run._write_record()
        run.samples = _sample_rows(embeddings, development)
        _write_frame(run.samples, run.path / SAMPLES)
        run._write_quarantine(QUARANTINE["fit"], embeddings.quarantined)
        run._seal(SAMPLES, QUARANTINE["fit"])
        return run

    @staticmethod
    def refuse_other(path: Path | str, config: SearchConfig, *, overwrite: bool) -> None:
        """Refuse a directory that holds a run with other options, before hours of embedding.

        Raises
        ------
        SearchError, ArtifactError
            As of :meth:`create`, as far as it can be told without the embeddings.
        """
        folder = Path(path)
        if (folder / RECORD).is_file():
            there = _read_or_replace(folder, overwrite=overwrite)
            # The metric follows the target, unless it is named.
            same = {} if there is None or "metric" in config.model_fields_set else {"metric": there.options.metric}
            if there is not None and there.options != config.model_copy(update=same) and not overwrite:
                raise SearchError(ANOTHER.format(path), remedy=OTHER_PLACE)

    def remember(self, *, latency: Mapping[str, float]) -> None:
        """Keep what was measured, so that the run, when repeated, chooses by the same numbers."""
        if dict(latency) != self.record.latency:
            self.record = self.record.model_copy(update={"latency": dict(latency)})
            self._write_record()

    def keep_evidence(self, evidence: Evidence) -> None:
        """Keep the evidence on a finished run that was asked for again, perhaps with other columns to look at."""
        if evidence != self.record.evidence:
            self.record = self.record.model_copy(update={"evidence": evidence})
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
        self._seal(*self._write_scores(search))
        return models, singles

    def finish(
        self,
        search: Search,
        evidence: Evidence,
        models: Mapping[str, BioFuseModel],
        singles: Mapping[str, BioFuseModel],
    ) -> None:
        """Write leaderboards and models, and last of all that the run is complete."""
        written = self._write_scores(search)
        saved = {self.single_path(name): model for name, model in singles.items()}
        saved |= {self.model_path(name): model for name, model in models.items()}
        for folder, model in saved.items():
            model.save(folder)
            written.append((folder / SEAL).relative_to(self.path).as_posix())
        seconds = {"search": search.leaderboard.seconds}
        if search.screen is not None:
            seconds["screen"] = search.screen.leaderboard.seconds
        seconds["total"] = time.perf_counter() - self._start
        self.record = self.record.completed(search, evidence, seconds=seconds)
        self._seal(*written, always=True)
        self.sweep()

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else; scores stay, since a search recognises its own.

        Raises
        ------
        DiskError
            If something cannot be removed.
        """
        with disk_errors(self.path):
            for folder in (self.model_path(CHOSEN), self.path / COMPARATORS, self.path / EVALUATIONS):
                if folder.is_symlink():
                    folder.unlink()
                elif folder.exists():
                    shutil.rmtree(folder)
            for name in WRITTEN:
                (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed processes left half-written."""
        others = (self.path / EVALUATIONS).glob("*/")
        for folder in (self.path, self.path / COMPARATORS, self.path / COMPARATORS / SINGLES, *others):
            for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    # --- models

    def model_path(self, name: str = CHOSEN) -> Path:
        """Return the folder of the chosen model, or of one that it is compared with."""
        return model_folder(self.path, name)

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
        return {name: self._load(self.model_path(name), subset) for name, subset in self.record.models.items()}

    def read_singles(self) -> dict[str, BioFuseModel]:
        """Load the models of single encoders, by encoder; none where the run was fitted without a search.

        Raises
        ------
        ArtifactError
            If one that the record names is missing, damaged, or of another encoder.
        """
        return {name: self._load(self.single_path(name), (name,)) for name in self.record.singles}

    def _load(self, path: Path, encoders: tuple[str, ...]) -> BioFuseModel:
        self._file((path / SEAL).relative_to(self.path).as_posix(), remedy=GO_ON)
        model = BioFuseModel.load(path)
        if model.encoders != encoders:
            raise ArtifactError(f"{path} is not the model that run.json describes.", remedy="Fit again.")
        return model

    # --- data

    @cached_property
    def samples(self) -> "pd.DataFrame":
        """Its samples: id, content hash (none of unread test samples), label, split, group; maybe weight, unknown.

        Raises
        ------
        ArtifactError
            If the table is missing or damaged.
        """
        columns = ["id", "content", "label", "split", "group"]
        return _read_frame(self._file(SAMPLES, remedy=GO_ON), columns, [IMAGES, "weight", "unknown"])

    def reader(self, frame: "pd.DataFrame", encoders: Sequence[str], store: EmbeddingStore) -> BlockReader:
        """Return the stored embeddings of some samples of the run.

        Parameters
        ----------
        frame : DataFrame
            Rows of :attr:`samples`, or of the predictions of an evaluation.
        encoders : sequence of str
            Of the pool.
        store : EmbeddingStore
        """
        contents, sizes = images_of(frame)
        return BlockReader(
            store=store,
            cards=tuple(self.record.cards[name] for name in encoders),
            ids=frame["id"].to_numpy(dtype=object),
            contents=contents,
            sizes=sizes,
            pooling=self.record.pooling,
            precisions=self.record.precisions,
        )

    def load_samples(self, config: DataConfig | None = None) -> tuple[Samples, Samples]:
        """Look for the run's data where the fit found them, read in the same way where ``config`` says no other.

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
        options = data.config
        if config is not None:
            options = options.but(**{name: getattr(config, name) for name in config.given})
        if data.val is not None or data.test is not None:
            val, test = (None if part is None else part.source for part in (data.val, data.test))
            made = development_data(data.source, val, test=test, config=options)
            return made.samples, made.samples if made.held_out is None else made.held_out
        # Splits were checked, or made, when the run began; the run's own record of them counts. Classes are matched by
        # name where scores are taken: some may have been left out.
        samples = load_samples(
            data.source, config=options, classes=None if record.target.exclusive or record.target.measured
            else record.classes, task=record.task, decode=record.decode, strict=False, torn_groups="allow",
        )  # fmt: skip
        samples = replace(samples, splits=None)
        return samples, samples

    @cached_property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Images that the fit could not read.

        Raises
        ------
        ArtifactError
            If their table is missing or damaged.
        """
        return self._read_quarantine(QUARANTINE["fit"], remedy=GO_ON)

    # --- scores

    @cached_property
    def leaderboard(self) -> Leaderboard:
        """Subsets scored by refitting.

        Raises
        ------
        ArtifactError
            If the table is missing or damaged.
        """
        return Leaderboard.read_parquet(self._file("leaderboard.parquet", remedy=GO_ON))

    @cached_property
    def screen(self) -> Leaderboard | None:
        """All subsets in closed form; None for a run without a screen.

        Raises
        ------
        ArtifactError
            If the table is missing or damaged.
        """
        if self.record.screen is None:
            return None
        return Leaderboard.read_parquet(self._file("screen.parquet", remedy=GO_ON))

    @cached_property
    def out_of_fold(self) -> OutOfFold | None:
        """What the chosen predictor says of samples it was not fitted on; None for runs of versions that kept none.

        Rows count the development samples in the order of :attr:`samples`.

        Raises
        ------
        ArtifactError
            If the table is missing or damaged.
        """
        if OUT_OF_FOLD not in self.record.files:
            return None
        path = self._file(OUT_OF_FOLD, remedy=GO_ON)
        return OutOfFold.read_parquet(path, ids=self._development_ids(), classes=self.record.classes)

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """What every evaluation found, the latest last; that of the run's own test samples is called :data:`OWN`.

        Raises
        ------
        ArtifactError
            If a file of one is missing or damaged.
        """
        for name in self._evaluated():
            if name not in self._evaluations:
                self._evaluations[name] = self._read_evaluation(name)
        return {name: self._evaluations[name] for name in self._evaluated()}

    @property
    def evaluation(self) -> Evaluation | None:
        """What the evaluation on the run's own test samples found; where there is none, the latest on other data.

        Raises
        ------
        ArtifactError
            If a file of an evaluation is missing or damaged.
        """
        found = self.evaluations
        return found.get(OWN, next(reversed(found.values()), None))

    def evaluation_path(self, name: str = OWN) -> Path:
        """Return the folder of the files of an evaluation."""
        return self.path if name == OWN else self.path / EVALUATIONS / name

    def write_evaluation(self, evaluation: Evaluation, *, name: str = OWN) -> Path:
        """Write metrics, predictions, and what could not be read.

        Parameters
        ----------
        evaluation : Evaluation
        name : str
            What the data are called. What other samples gave under that name stays: a number is added to the name.

        Returns
        -------
        Path
            The folder that the files are in.

        Raises
        ------
        LockedError
            If another process is writing the run.
        ArtifactError
            If the run has been replaced by another since it was opened.
        """
        with self._writing("biofuse evaluate", remedy=EVALUATE):
            name = name if name == OWN else self._free_name(evaluation, _file_name(name))
            folder = self.evaluation_path(name)
            write_text(folder / METRICS, json.dumps(evaluation.to_json(), indent=2, allow_nan=False) + "\n")
            _write_frame(evaluation.predictions, folder / PREDICTIONS)
            self._write_quarantine(_below(name, QUARANTINE["evaluate"]), evaluation.quarantined)
            files = [_below(name, each) for each in EVALUATED]
            kept = {each: digest for each, digest in self.record.files.items() if each not in files}
            self.record = self.record.model_copy(update={"files": kept})  # the latest goes last
            self._seal(*files)
        self._evaluations[name] = replace(evaluation, folder=folder)
        return folder

    @contextlib.contextmanager
    def _writing(self, doing: str, *, remedy: str) -> Iterator[None]:
        """Keep the run for this process, and go on from the record as it is now.

        Raises
        ------
        LockedError
            If another process is writing the run.
        ArtifactError
            If the run has been replaced by another since it was opened.
        """
        with locked(self.path, doing=doing, patience=PATIENCE):
            there = read_record(self.path)
            if there.key != self.record.key:
                raise ArtifactError(f"{self.path} was replaced by another run meanwhile.", remedy=remedy)
            self.record = there
            yield

    @property
    def curve(self) -> LearningCurve | None:
        """Scores against the number of labelled samples; None where they were not measured.

        Raises
        ------
        ArtifactError
            If the file is missing or damaged.
        """
        if CURVE not in self.record.files:
            return None
        path = self._file(CURVE, remedy=MEASURE)
        try:
            return LearningCurve.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(f"{path} is not what `biofuse curve` writes: {error}", remedy=MEASURE) from error

    def write_curve(self, curve: LearningCurve) -> None:
        """Write scores against the number of labelled samples.

        Raises
        ------
        LockedError, ArtifactError
            As of :meth:`write_evaluation`.
        """
        with self._writing("biofuse curve", remedy=MEASURE):
            write_text(self.path / CURVE, curve.model_dump_json(indent=2) + "\n")
            self._seal(CURVE)

    def _free_name(self, evaluation: Evaluation, name: str) -> str:
        """Return a name under which nothing stands that other samples gave."""
        number, free = 1, name
        while free in self._evaluated():
            with contextlib.suppress(ArtifactError):
                if self._read_evaluation(free).is_of_the_samples_of(evaluation):
                    break
            number += 1
            free = f"{name}-{number}"
        return free

    def _evaluated(self) -> list[str]:
        """Return the names of the evaluations that the record names."""
        found = [PurePosixPath(name).parent for name in self.record.files if PurePosixPath(name).name == METRICS]
        return [OWN if folder == PurePosixPath() else folder.name for folder in found]

    def _read_evaluation(self, name: str) -> Evaluation:
        path = self._file(_below(name, METRICS), remedy=EVALUATE)
        predictions = _read_frame(self._file(_below(name, PREDICTIONS), remedy=EVALUATE))
        unread = self._read_quarantine(_below(name, QUARANTINE["evaluate"]), remedy=EVALUATE)
        try:
            found = Evaluation.from_json(read_json(path), predictions, unread)
            _ = found.models[CHOSEN]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is not what `biofuse evaluate` writes: {error}", remedy=EVALUATE) from error
        return replace(found, folder=self.evaluation_path(name))

    # --- files

    def _write_record(self) -> None:
        write_record(self.path, self.record)

    def _seal(self, *names: str, always: bool = False) -> None:
        """Note the checksums of files that were written, and write the record where one is another, or ``always``."""
        files = self.record.files | {name: digest_file(self.path / name) for name in names}
        if always or files != self.record.files:
            self.record = self.record.model_copy(update={"files": files})
            self._write_record()

    def _file(self, name: str, *, remedy: str) -> Path:
        """Return a file of the run, found to be the one that was written.

        Raises
        ------
        ArtifactError
            If it is not.
        """
        path = self.path / name
        if name not in self.record.files:
            raise ArtifactError(f"{path} is missing, or not a file of this run; it was not opened.", remedy=remedy)
        verify(path, self.record.files[name], remedy=remedy)
        return path

    def _development_ids(self) -> NDArray[np.object_]:
        samples = self.samples
        return samples.loc[samples["split"] != "test", "id"].to_numpy(dtype=object)

    def _write_scores(self, search: Search) -> list[str]:
        """Write scores and out-of-fold predictions, and return the names of the files that are read again."""
        self.leaderboard, self.screen = search.leaderboard, None if search.screen is None else search.screen.leaderboard
        written = []
        for name, board in (("leaderboard", self.leaderboard), ("screen", self.screen)):
            if board is not None:
                board.to_parquet(self.path / f"{name}.parquet")
                board.to_csv(self.path / f"{name}.csv")
                written.append(f"{name}.parquet")
        if search.out_of_fold is not None:
            self.out_of_fold = search.out_of_fold
            path = self.path / OUT_OF_FOLD
            search.out_of_fold.to_parquet(path, ids=self._development_ids(), classes=self.record.classes)
            written.append(OUT_OF_FOLD)
        return written

    def _write_quarantine(self, name: str, entries: Iterable[Quarantined]) -> None:
        import pandas as pd

        rows = [(entry.id, entry.source, entry.reason) for entry in entries]
        _write_frame(pd.DataFrame(rows, columns=["id", "source", "reason"]), self.path / name)

    def _read_quarantine(self, name: str, *, remedy: str) -> tuple[Quarantined, ...]:
        import pandas as pd

        if name not in self.record.files:
            return ()
        path = self._file(name, remedy=remedy)
        try:
            rows = pd.read_csv(path, dtype=str, keep_default_na=False)[["id", "source", "reason"]].to_numpy().tolist()
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", remedy=remedy) from error
        return tuple(Quarantined(id=name, source=source, reason=reason) for name, source, reason in rows)


def _below(evaluation: str, name: str) -> str:
    """Return the path of a file of an evaluation below the run's."""
    return name if evaluation == OWN else f"{EVALUATIONS}/{evaluation}/{name}"


def _file_name(name: str) -> str:
    """Write what data are called as the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "data"


def _read_frame(path: Path, columns: list[str] | None = None, maybe: Sequence[str] = ()) -> "pd.DataFrame":
    """Read some columns, and those of ``maybe`` that there are; all by default."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    try:
        there = set(parquet.read_schema(path).names) if maybe else set()
        more = [name for name in maybe if name in there]
        return pd.read_parquet(path, columns=None if columns is None else [*columns, *more])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy="Fit or evaluate again.") from error


def write_record(path: Path, record: RunRecord) -> None:
    """Write ``run.json`` with its own checksum."""
    write_sealed(path / RECORD, json.loads(record.model_dump_json()))


def read_record(path: Path) -> RunRecord:
    """Read ``run.json``, of a complete run or not.

    Raises
    ------
    ArtifactError
        If there is no run at ``path``, or its record is damaged or of another format.
    """
    file = path / RECORD
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} is not a run: it holds no run.json.", remedy="Make one with `biofuse fit DATA --out RUN`."
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read: {error}", remedy=FIT_AGAIN) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{file} is not a run's record.", remedy=FIT_AGAIN)
    found = content.get("format")
    if isinstance(found, int) and found > RUN_FORMAT:
        raise ArtifactError(
            f"{file} has format {found}; this version of BioFuse reads format {RUN_FORMAT}.",
            remedy="Update BioFuse: pip install -U biofuse-embed.",
        )
    if isinstance(found, int) and found < UNSEALED:
        wrote = content.get("version")
        raise ArtifactError(
            f"{file} has format {found}, written by BioFuse {wrote}; this version reads format {RUN_FORMAT}.",
            remedy=f"Fit again: {option('overwrite', True)}; embeddings are reused.",
        )
    try:
        if found == UNSEALED and "checksum" not in content:
            content = {**content, "files": _files_of(path)}
        else:
            content = unsealed(file, content)
        # Written again, after an evaluation, it is a record of this version.
        return RunRecord.model_validate_json(json.dumps({**content, "format": RUN_FORMAT}))
    except (ValidationError, SearchError) as error:
        raise ArtifactError(f"{file} is not a run's record: {error}", remedy=FIT_AGAIN) from error


def _files_of(path: Path) -> dict[str, str]:
    """Return the checksums of the files of a run that has none, as they are now."""
    tables = ["leaderboard.parquet", "screen.parquet", SAMPLES, QUARANTINE["fit"], *EVALUATED]
    there = [path / name for name in tables]
    there += [path / "model" / SEAL, *(path / COMPARATORS).glob(f"**/{SEAL}")]
    return {file.relative_to(path).as_posix(): digest_file(file) for file in there if file.is_file()}


def _read_or_replace(path: Path, *, overwrite: bool) -> RunRecord | None:
    """Read a run's record; None where it cannot be read and the user wants the run replaced anyway."""
    try:
        return read_record(path)
    except ArtifactError:
        if not overwrite:
            raise
        return None


def _refuse_stranger(path: Path) -> None:
    """Refuse a place where no run can begin: something is in the way other than what a killed start left."""
    if (path / RECORD).is_file() or not path.exists():
        return
    if not path.is_dir() or not all(_is_left_over(entry.name) for entry in path.iterdir()):
        raise SearchError(f"{path} exists and is not a run.", remedy=f"Choose an empty folder: {option('out')}.")


def _is_left_over(name: str) -> bool:
    return name == LOCK or name.endswith(TEMPORARY_SUFFIX)


def _write_frame(frame: "pd.DataFrame", path: Path) -> None:
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


def _unknown(samples: Samples) -> dict[str, list[str]]:
    """Return a column of the labels of which nothing is known; none where all are."""
    if samples.target is None or samples.labels is None or samples.target.known(samples.labels).all():
        return {}
    names = np.array(samples.classes, dtype=object)
    return {"unknown": [SEPARATOR.join(names[~row]) for row in samples.target.known(samples.labels)]}


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
                **image_column(samples),
                "label": label_names(samples),
                "split": samples.splits,
                "group": [None] * len(samples) if samples.groups is None else samples.groups,
                **({} if samples.weights is None else {"weight": samples.weights}),
                **_unknown(samples),
            }
        )
        for samples, contents in parts
    ]
    return pd.concat(frames, ignore_index=True)
