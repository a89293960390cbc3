"""Fits and evaluations that live in a run directory."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from biofuse.api.development import Development, development_data
from biofuse.api.embedding import EmbeddingSet
from biofuse.api.evaluation import CHOSEN, Evaluation, evaluate_models
from biofuse.api.evidence import Evidence
from biofuse.api.fitting import COMPANIONS, encoders_to_fit, singles_to_fit
from biofuse.api.held_out import load_test
from biofuse.api.problem import Problem
from biofuse.api.record import describe_search, new_record, sample_rows
from biofuse.api.searching import Search
from biofuse.core.errors import ArtifactError, DataError, SearchError
from biofuse.core.files import write_text
from biofuse.core.hashing import canonical_json
from biofuse.data.load import load_samples
from biofuse.data.manifest import MANIFEST_SUFFIXES
from biofuse.data.samples import Samples
from biofuse.extract import ExtractOptions, Progress, Quarantined
from biofuse.model import BioFuseModel
from biofuse.runs import Run, RunRecord
from biofuse.search import Leaderboard
from biofuse.store import EmbeddingStore

if TYPE_CHECKING:
    import pandas as pd


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
                "evidence": evidence.to_json(),
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


def evaluate_run(
    path: Path | str,
    data: Any = None,
    *,
    split: str = "test",
    label: Any = None,
    group: str | None = None,
    store: EmbeddingStore | None = None,
    options: ExtractOptions | None = None,
    progress: Progress | bool = True,
) -> Evaluation:
    """Score a run's models on test data, and write ``metrics.json`` and ``predictions.parquet`` into the run.

    Parameters
    ----------
    path : path
        The run directory.
    data : anything :func:`biofuse.load_samples` takes, optional
        By default the data the run was fitted on.
    split : {"test", "val", "train"}
        Which split to score; ``data`` with one split or none are scored whole.
    label, group : optional
        Columns of ``data``; by default, where that is a table, those that the run was fitted with.
    store : EmbeddingStore, optional
    options : ExtractOptions, optional
    progress : Progress or bool, default True

    Raises
    ------
    ArtifactError
        If there is no complete run at ``path``, or it is damaged.
    DataError
        If there is no such split, the run's data are no longer there, or the data have no labels or a class that the
        model does not know.
    """
    run = Run(Path(path))
    record = run.read()
    if record.state != "complete":
        raise ArtifactError(
            f"The fit in {run.path} did not finish.", remedy="Run the same `biofuse fit` again: it goes on from there."
        )
    models, singles = read_models(run, record), read_singles(run, record)
    known = run.read_samples()
    if data is None:
        samples = _own_samples(record, known, models[CHOSEN], split=split, label=label, group=group)
    else:
        if _is_table(data):
            label, group = label or record.data.get("label"), group or record.data.get("group")
        samples = load_test(data, models[CHOSEN], split=split, label=label, group=group)
    development = known[known["split"] != "test"]
    evaluation = evaluate_models(
        models,
        samples,
        singles=singles,
        known_contents=frozenset(development["content"]),
        known_groups=frozenset(development["group"].dropna()),
        store=store or EmbeddingStore(),
        options=options,
        progress=progress,
        metric=record.options["metric"],
        seed=record.options["seed"],
    )
    report = {"data": str(data) if data is not None else record.data.get("source"), "split": split}
    write_text(run.metrics_path, canonical_pretty(report | evaluation.to_json()))
    run.write_frame(evaluation.predictions, run.predictions_path)
    write_quarantine(run, evaluation.quarantined, name="quarantine-evaluate.csv")
    return evaluation


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


def _is_table(data: Any) -> bool:
    return hasattr(data, "columns") or (isinstance(data, str | Path) and Path(data).suffix.lower() in MANIFEST_SUFFIXES)


def _own_samples(
    record: RunRecord, known: "pd.DataFrame", model: BioFuseModel, *, split: str, label: Any, group: str | None
) -> Samples:
    wanted = known.loc[known["split"] == split, "id"].tolist()
    if not wanted:
        raise DataError(f"The run has no {split} samples.", remedy="Give test data: biofuse evaluate RUN DATA.")
    source, val = record.data.get("source"), record.data.get("val")
    if source is None or (val is not None and val["source"] is None):
        raise DataError(
            "This run was fitted on data in memory.", remedy="Give the test data: biofuse evaluate RUN DATA."
        )
    label, group = label or record.data.get("label"), group or record.data.get("group")
    if val is not None:
        task = record.data.get("task")
        samples = development_data(source, val["source"], label=label, group=group, task=task).samples
    else:
        # Splits were checked, or made, when the run began; the run's own record of them counts.
        samples = load_samples(
            source, label=label, group=group, classes=model.classes, task=model.task, decode=model.decode,
            use_splits=False,
        )  # fmt: skip
    row_of = {sample: row for row, sample in enumerate(samples.ids.tolist())}
    missing = [sample for sample in wanted if sample not in row_of]
    if missing:
        raise DataError(
            f"{len(missing)} {split} samples of the run are no longer in {source}, e.g. {missing[0]!r}.",
            remedy="Restore them, or give other test data: biofuse evaluate RUN DATA.",
        )
    chosen = samples.take([row_of[sample] for sample in wanted])
    return replace(chosen, splits=np.array([split] * len(wanted), dtype=object))
