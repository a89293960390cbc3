"""``biofuse.evaluate``: a run's models on test data."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.core.errors import ArtifactError, DataError
from biofuse.core.files import write_text
from biofuse.core.hashing import from_hex
from biofuse.core.options import accepts
from biofuse.core.progress import Progress
from biofuse.data.load import development_data, load_samples
from biofuse.data.manifest import MANIFEST_SUFFIXES
from biofuse.data.samples import Samples
from biofuse.extract.options import ExtractOptions
from biofuse.model.evaluate import Evaluation, evaluate_models, load_test
from biofuse.model.model import BioFuseModel
from biofuse.search.rules import CHOSEN
from biofuse.store.store import EmbeddingStore, as_store

if TYPE_CHECKING:
    import pandas as pd
from biofuse.runs.run import Run, RunRecord, canonical_pretty, read_models, read_singles, write_quarantine


@accepts(ExtractOptions)
def evaluate(
    run: Path | str,
    data: Any = None,
    *,
    split: str = "test",
    label: Any = None,
    group: str | None = None,
    store: EmbeddingStore | Path | str | None = None,
    options: ExtractOptions | None = None,
    progress: Progress | bool = True,
    **chosen: Any,
) -> Evaluation:
    """Score a run's models on test data, and write ``metrics.json`` and ``predictions.parquet`` into the run.

    Parameters
    ----------
    run : path
        The run directory.
    data : anything :func:`biofuse.load_samples` takes, optional
        By default the data the run was fitted on.
    split : {"test", "val", "train"}
        Which split to score; ``data`` with one split or none are scored whole.
    label, group : optional
        Columns of ``data``; by default, where that is a table, those that the run was fitted with.
    store : EmbeddingStore or path, optional
        By default the store in the user's cache folder.
    options : ExtractOptions, optional
        How images are embedded; what is given by name wins.
    progress : Progress or bool, default True
    **chosen
        Fields of :class:`biofuse.ExtractOptions`.

    Returns
    -------
    Evaluation

    Raises
    ------
    ArtifactError
        If there is no complete run there, or it is damaged.
    DataError
        If there is no such split, the run's data are no longer there, or the data have no labels or a class that the
        model does not know.

    Examples
    --------
    >>> import biofuse
    >>> fuse = biofuse.BioFuse(["colour", "lbp"], head="ridge")
    >>> _ = fuse.fit("images/", out="run", progress=False)
    >>> evaluation = biofuse.evaluate("run", progress=False)
    >>> evaluation.n, evaluation["accuracy"]
    (10, 1.0)
    """
    directory = Run(Path(run))
    record = directory.read()
    if record.state != "complete":
        raise ArtifactError(
            f"The fit in {directory.path} did not finish.",
            remedy="Run the same `biofuse fit` again: it goes on from there.",
        )
    models, singles = read_models(directory, record), read_singles(directory, record)
    known = directory.read_samples()
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
        store=as_store(store),
        options=ExtractOptions.of(options, chosen),
        progress=progress,
        metric=record.options["metric"],
        seed=record.options["seed"],
    )
    source = str(data) if data is not None else record.data.get("source")
    evaluation = replace(evaluation, data=source, split=split)
    write_text(directory.metrics_path, canonical_pretty(evaluation.to_json()))
    directory.write_frame(evaluation.predictions, directory.predictions_path)
    write_quarantine(directory, evaluation.quarantined, name="quarantine-evaluate.csv")
    return evaluation


def _is_table(data: Any) -> bool:
    return hasattr(data, "columns") or (isinstance(data, str | Path) and Path(data).suffix.lower() in MANIFEST_SUFFIXES)


def _own_samples(
    record: RunRecord, known: "pd.DataFrame", model: BioFuseModel, *, split: str, label: Any, group: str | None
) -> Samples:
    wanted = known.loc[known["split"] == split, "id"].tolist()
    if not wanted:
        raise DataError(f"The run has no {split} samples.", remedy="Give test data: biofuse evaluate RUN DATA.")
    source = record.data.get("source")
    apart = {name: record.data[name]["source"] for name in ("val", "test") if name in record.data}
    if source is None or None in apart.values():
        raise DataError(
            "This run was fitted on data in memory.", remedy="Give the test data: biofuse evaluate RUN DATA."
        )
    label, group = label or record.data.get("label"), group or record.data.get("group")
    if apart:
        task = record.data.get("task")
        made = development_data(source, apart.get("val"), test=apart.get("test"), label=label, group=group, task=task)
        samples = made.held_out if split == "test" and made.held_out is not None else made.samples
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
