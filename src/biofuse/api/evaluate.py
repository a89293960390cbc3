"""TODO."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.core.errors import ArtifactError, DataError
from biofuse.core.files import write_text
from biofuse.core.hashing import from_hex
from biofuse.core.progress import Progress
from biofuse.data.development import development_data
from biofuse.data.load import load_samples
from biofuse.data.manifest import MANIFEST_SUFFIXES
from biofuse.data.samples import Samples
from biofuse.extract.options import ExtractOptions
from biofuse.model.evaluate import Evaluation, evaluate_models, load_test
from biofuse.model.model import BioFuseModel
from biofuse.search.rules import CHOSEN
from biofuse.store.store import EmbeddingStore

if TYPE_CHECKING:
    import pandas as pd
from biofuse.runs.run import Run, RunRecord, canonical_pretty, read_models, read_singles, write_quarantine


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
        known_contents=from_hex(development["content"]),
        known_groups=frozenset(development["group"].dropna()),
        store=store or EmbeddingStore(),
        options=options,
        progress=progress,
        metric=record.options["metric"],
        seed=record.options["seed"],
    )
    source = str(data) if data is not None else record.data.get("source")
    evaluation = replace(evaluation, data=source, split=split)
    write_text(run.metrics_path, canonical_pretty(evaluation.to_json()))
    run.write_frame(evaluation.predictions, run.predictions_path)
    write_quarantine(run, evaluation.quarantined, name="quarantine-evaluate.csv")
    return evaluation


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
