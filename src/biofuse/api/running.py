"""Fits and evaluations that live in a run directory."""

import importlib.metadata
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from biofuse.api.development import Development
from biofuse.api.embedding import EmbeddingSet
from biofuse.api.evaluation import CHOSEN, Evaluation, evaluate_models, hex_contents
from biofuse.api.export import label_names
from biofuse.api.fitting import Problem
from biofuse.core.errors import ArtifactError, DataError, SearchError
from biofuse.core.files import write_text
from biofuse.core.hashing import canonical_json, digest_json
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.extract import ExtractOptions, Progress, Quarantined
from biofuse.model import BioFuseModel
from biofuse.runs import Run, RunRecord, describe_environment
from biofuse.search import Leaderboard, Row, Selection
from biofuse.store import EmbeddingStore


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
            If the directory holds another run and ``overwrite`` is False.
        """
        run = Run(path)
        record = _new_record(problem, embeddings, development, data)
        if run.exists():
            there = run.read()
            if there.key == record.key:
                return cls(run=run, record=there, finished=there.state == "complete")
            if not overwrite:
                raise SearchError(
                    f"{path} holds a run on other data or with other options.",
                    remedy="Choose another folder with --out, or replace the run with --overwrite.",
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise SearchError(f"{path} exists and is not a run.", remedy="Choose an empty folder for --out.")
        run.write(record)
        run.write_frame(_sample_rows(embeddings, development), path / "samples.parquet")
        write_quarantine(run, embeddings.quarantined)
        return cls(run=run, record=record, finished=False)

    def finished_models(self, selection: Selection) -> dict[str, BioFuseModel] | None:
        """Load the models of a finished run; None where they have yet to be fitted."""
        if not self.finished:
            return None
        try:
            models = read_models(self.run)
        except ArtifactError:
            return None  # damaged or removed since: fit them again
        return models if models[CHOSEN].encoders == selection.chosen.subset else None

    def finish(self, leaderboard: Leaderboard, selection: Selection, models: dict[str, BioFuseModel]) -> None:
        """Write leaderboard and models, and last of all that the run is complete."""
        leaderboard.to_parquet(self.run.path / "leaderboard.parquet")
        leaderboard.to_csv(self.run.path / "leaderboard.csv")
        for name, model in models.items():
            model.save(self.run.model_path if name == CHOSEN else self.run.comparator_path(name))
        self.record = self.record.model_copy(
            update={
                "state": "complete",
                "selection": describe_selection(selection),
                "seconds": {"search": leaderboard.seconds, "total": time.perf_counter() - self._start},
            }
        )
        self.run.write(self.record)


def describe_selection(selection: Selection) -> dict[str, Any]:
    """Return a selection as JSON values."""
    rows: dict[str, Row | None] = {
        CHOSEN: selection.chosen,
        "best": selection.best,
        "best_single": selection.best_single,
        "all": selection.all,
        "greedy": selection.greedy,
    }
    return {
        "rule": selection.rule,
        "metric": selection.metric,
        "reason": selection.reason,
        "better_than_chance": selection.better_than_chance,
        **{
            name: {
                "encoders": list(row.subset),
                "dims": row.n_dims,
                "mean": row.mean(selection.metric),
                "folds": list(row.folds[selection.metric]),
            }
            for name, row in rows.items()
            if row is not None
        },
    }


def read_models(run: Run) -> dict[str, BioFuseModel]:
    """Load the chosen model of a run and those it is compared with.

    Raises
    ------
    ArtifactError
        If one is missing or damaged.
    """
    models = {CHOSEN: BioFuseModel.load(run.model_path)}
    for path in sorted(run.path.glob("comparators/*/model.json")):
        models[path.parent.name] = BioFuseModel.load(path.parent)
    order = (CHOSEN, "best_single", "all", "greedy")
    return {name: models[name] for name in order if name in models}


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
        By default the data the run was fitted on; then only its ``split`` is used.
    split : {"test", "val", "train"}
        Which split to score.
    label, group : optional
        Columns of ``data``; by default those of the run.
    store : EmbeddingStore, optional
    options : ExtractOptions, optional
    progress : Progress or bool, default True

    Raises
    ------
    ArtifactError
        If there is no complete run at ``path``.
    DataError
        If the run has no such split, or its data are no longer there.
    """
    run = Run(Path(path))
    record = run.read()
    if record.state != "complete":
        raise ArtifactError(
            f"The fit in {run.path} did not finish.", remedy="Run the same `biofuse fit` again: it goes on from there."
        )
    models = read_models(run)
    known = run.read_samples()
    label, group = label or record.data.get("label"), group or record.data.get("group")
    samples = _test_samples(record, known, models[CHOSEN], data, split=split, label=label, group=group)
    development = known[known["split"] != "test"]
    evaluation = evaluate_models(
        models,
        samples,
        known_contents=frozenset(development["content"]),
        known_groups=frozenset(development["group"].dropna()) if "group" in development else frozenset(),
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
    rows = [(entry.id, entry.source, entry.reason) for entry in entries]
    run.write_frame(pd.DataFrame(rows, columns=["id", "source", "reason"]), run.path / name)


def canonical_pretty(value: Any) -> str:
    """Return JSON for people: indented, in the order given; NaN is an error."""
    import json

    canonical_json(value)
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _test_samples(
    record: RunRecord, known: pd.DataFrame, model: BioFuseModel, data: Any, *, split: str, label: Any, group: str | None
) -> Samples:
    source = record.data.get("source") if data is None else data
    if source is None:
        raise DataError(
            "This run was fitted on data in memory.", remedy="Give the test data: biofuse evaluate RUN DATA."
        )
    samples = load_samples(source, label=label, group=group, classes=model.classes, task=model.task)
    if data is not None:
        has_split = samples.splits is not None and split in set(samples.splits.tolist())
        return samples.in_split(split) if has_split else samples
    wanted = known.loc[known["split"] == split, "id"].tolist()
    if not wanted:
        raise DataError(f"The run has no {split} samples.", remedy="Give test data: biofuse evaluate RUN DATA.")
    row_of = {sample: row for row, sample in enumerate(samples.ids.tolist())}
    missing = [sample for sample in wanted if sample not in row_of]
    if missing:
        raise DataError(
            f"{len(missing)} {split} samples of the run are no longer in {source}, e.g. {missing[0]!r}.",
            remedy="Restore them, or give other test data: biofuse evaluate RUN DATA.",
        )
    return samples.take(np.array([row_of[sample] for sample in wanted], dtype=np.int64))


def _new_record(
    problem: Problem, embeddings: EmbeddingSet, development: Development, data: dict[str, Any]
) -> RunRecord:
    config = problem.config.model_dump(mode="json")
    return RunRecord(
        version=importlib.metadata.version("biofuse-embed"),
        key=digest_json([problem.key, config]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        data={"name": problem.samples.name, **data},
        task=str(problem.task),
        classes=problem.samples.classes,
        counts=_counts(problem.samples, development.held_out),
        encoders=[
            {"name": card.name, "fingerprint": card.fingerprint(), "dim": card.dim, "licence": card.licence}
            for card in embeddings.cards
        ],
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


def _sample_rows(embeddings: EmbeddingSet, development: Development) -> pd.DataFrame:
    parts = [_rows(embeddings.samples, hex_contents(embeddings).tolist())]
    if development.held_out is not None:
        # Unread, hence without content.
        parts.append(_rows(development.held_out, [""] * len(development.held_out)))
    return pd.concat(parts, ignore_index=True)


def _rows(samples: Samples, contents: list[str]) -> pd.DataFrame:
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
