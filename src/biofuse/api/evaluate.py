"""``biofuse.evaluate``: a run's models on test data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from biofuse.api.report import attempt_report
from biofuse.core.errors import DataError
from biofuse.core.hashing import from_hex
from biofuse.core.options import accepts
from biofuse.core.progress import Progress
from biofuse.data.files import MANIFEST_SUFFIXES
from biofuse.data.samples import Samples
from biofuse.extract.options import ExtractOptions
from biofuse.model.evaluate import Evaluation, evaluate_models, load_test
from biofuse.runs.run import Run
from biofuse.search.rules import CHOSEN
from biofuse.search.runner import Tell
from biofuse.store.store import EmbeddingStore, as_store


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
    report: Tell | None = None,
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
    report : callable, optional
        Where given, ``report.html`` is written, too, from what is in memory, and this is told where it is, or why not.
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
    opened, own = Run.open(run), None
    record = opened.record
    models, singles = opened.read_models(), opened.read_singles()
    if data is None:
        wanted = _wanted(opened, split)
        own = opened.load_samples(label=label, group=group)
        samples = _own_split(own[split == "test"], wanted, split=split, source=record.data.source)
    else:
        if _is_table(data):
            label, group = label or record.data.columns, group or record.data.group
        samples = load_test(data, models[CHOSEN], split=split, label=label, group=group)
    development = opened.samples[opened.samples["split"] != "test"]
    where = as_store(store)
    evaluation = evaluate_models(
        models,
        samples,
        singles=singles,
        known_contents=from_hex(development["content"]),
        known_groups=frozenset(development["group"].dropna()),
        store=where,
        options=ExtractOptions.of(options, chosen),
        progress=progress,
        metric=record.options.metric,
        seed=record.options.seed,
    )
    source = str(data) if data is not None else record.data.source
    evaluation = replace(evaluation, data=source, split=split)
    opened.write_evaluation(evaluation)
    if report is not None:
        attempt_report(opened, tell=report, store=where, development=None if own is None else own[0])
    return evaluation


def _is_table(data: Any) -> bool:
    return hasattr(data, "columns") or (isinstance(data, str | Path) and Path(data).suffix.lower() in MANIFEST_SUFFIXES)


def _wanted(run: Run, split: str) -> list[str]:
    wanted: list[str] = run.samples.loc[run.samples["split"] == split, "id"].tolist()
    if not wanted:
        raise DataError(f"The run has no {split} samples.", remedy="Give test data: biofuse evaluate RUN DATA.")
    return wanted


def _own_split(samples: Samples, wanted: list[str], *, split: str, source: str | None) -> Samples:
    row_of = {sample: row for row, sample in enumerate(samples.ids.tolist())}
    missing = [sample for sample in wanted if sample not in row_of]
    if missing:
        raise DataError(
            f"{len(missing)} {split} samples of the run are no longer in {source}, e.g. {missing[0]!r}.",
            remedy="Restore them, or give other test data: biofuse evaluate RUN DATA.",
        )
    chosen = samples.take([row_of[sample] for sample in wanted])
    return replace(chosen, splits=np.array([split] * len(wanted), dtype=object))
