"""A run's report: gathers what the run directory does not hold, and writes the page."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from biofuse.blocks.reader import read_blocks
from biofuse.core.errors import AlignmentError, BioFuseError, DataError, StoreError
from biofuse.core.hashing import from_hex, hash_order
from biofuse.data.load import development_data, load_samples
from biofuse.data.samples import Samples, hash_samples, known_contents
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.extract.local import measure_latency
from biofuse.extract.options import ExtractOptions
from biofuse.model.evaluate import load_test
from biofuse.model.model import BioFuseModel
from biofuse.report.build import build_report
from biofuse.report.html import write_html
from biofuse.report.input import Album, Embedded, Extras, Material, read_material
from biofuse.report.static import write_figures
from biofuse.runs.run import Run, RunRecord
from biofuse.store.store import EmbeddingStore

REPORT = "report.html"
"""Name of the page in a run directory."""

READ = 2000
"""Most test images that are looked up for the map: as many as it draws."""


def write_report(
    run_path: Path | str,
    *,
    out: Path | str | None = None,
    figures: Path | str | None = None,
    store: EmbeddingStore | None = None,
    development: Samples | None = None,
    test: Samples | None = None,
    latency: bool = False,
    options: ExtractOptions | None = None,
) -> Path:
    """Write the report of a run: one HTML file that needs nothing outside itself.

    Images and embeddings are shown where they still are; where they are not, the page says so.

    Parameters
    ----------
    run_path : path
        The run directory.
    out : path, optional
        The file to write; by default ``report.html`` in the run.
    figures : path, optional
        A folder to write every figure into, as SVG and PNG.
    store : EmbeddingStore, optional
        Where the embeddings are; by default the user's store.
    development, test : Samples, optional
        The images, where they are in memory or have been read already; by default they are looked for where the run
        and its evaluation found them.
    latency : bool, default False
        Whether to time the encoders on this machine, so that costs are in milliseconds.
    options : ExtractOptions, optional
        Device and batch size for that.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ArtifactError
        If there is no complete run, or a file of it is missing or damaged.
    DiskError
        If the page or the figures cannot be written.
    """
    run = Run(Path(run_path))
    material = read_material(run)
    extras = _gather(run, material, store or EmbeddingStore(), development=development, test=test)
    if latency:
        extras = replace(extras, latency=_time(material, extras, development, run, options))
    report = build_report(replace(material, extras=extras))
    if figures is not None:
        write_figures(report.charts, Path(figures))
    return write_html(report, Path(out) if out is not None else run.path / REPORT)


def attempt_report(run_path: Path | str, *, tell: Callable[[str], None], **options: Any) -> Path | None:
    """Write the report after a fit or an evaluation, which must not be lost if it fails: then say so.

    Parameters
    ----------
    run_path : path
    tell : callable
        Receives one line where the report could not be written.
    **options
        As for :func:`write_report`.

    Returns
    -------
    Path or None
    """
    try:
        return write_report(run_path, **options)
    except Exception as error:  # whatever it is, the work before it is done and must be handed back
        reason = error.message if isinstance(error, BioFuseError) else f"{type(error).__name__}: {error}"
        tell(f"The report of {run_path} was not written ({reason}). Try again: biofuse report {run_path}")
        return None


def _gather(
    run: Run, material: Material, store: EmbeddingStore, *, development: Samples | None, test: Samples | None
) -> Extras:
    cards = _cards(run, material.run, store)
    absent: list[str] = []
    own = development
    if own is None or (test is None and _tested_own(material)):
        loaded = _loaded(lambda: _own_samples(run, material.run), "The images of this run are not at hand", absent)
        own = own or loaded
        test = test or (loaded if _tested_own(material) else None)
    if test is None and material.metrics is not None and not _tested_own(material):
        test = _loaded(lambda: _other_test(run, material), "The tested images are not at hand", absent)
    return Extras(
        cards=cards,
        development=_development(material, cards, store, absent),
        test=_test(material, cards, store, test),
        development_images=None if own is None else Album(own),
        test_images=None if test is None or material.metrics is None else Album(test),
        absent=tuple(absent),
    )


def _cards(run: Run, record: RunRecord, store: EmbeddingStore) -> dict[str, EncoderCard]:
    """Find the pool's cards: in the models, or beside the embeddings."""
    found: dict[str, EncoderCard] = {}
    for path in (run.model_path, *(run.comparator_path(name) for name in ("all", "best_single", "greedy"))):
        if path.exists():
            found |= {card.name: card for card in BioFuseModel.load(path).cards if card.name not in found}
    for encoder in record.encoders:
        folder = store.root / encoder["fingerprint"]
        if encoder["name"] not in found and (folder / "card.json").exists():
            found[encoder["name"]] = next(f for f in store.folders() if f.path == folder).card
    return {encoder["name"]: found[encoder["name"]] for encoder in record.encoders if encoder["name"] in found}


def _loaded(load: Callable[[], Samples], what: str, absent: list[str]) -> Samples | None:
    try:
        return load()
    except BioFuseError as error:
        absent.append(f"{what}: {error.message}")
        return None


def _tested_own(material: Material) -> bool:
    metrics = material.metrics
    return metrics is not None and metrics.get("data") == material.run.data.get("source")


def _own_samples(run: Run, record: RunRecord) -> Samples:
    source, val = record.data.get("source"), record.data.get("val")
    if source is None or (val is not None and val.get("source") is None):
        raise DataError("the run was fitted on data in memory.")
    columns: dict[str, Any] = {"label": record.data.get("label"), "group": record.data.get("group")}
    if val is not None:
        return development_data(source, val["source"], task=record.data.get("task"), **columns).samples
    model = BioFuseModel.load(run.model_path)
    return load_samples(
        source, classes=model.classes, task=model.task, decode=model.decode, use_splits=False, **columns
    )


def _other_test(run: Run, material: Material) -> Samples:
    metrics = material.metrics or {}
    source = metrics.get("data")
    if source is None:
        raise DataError("the test data were in memory.")
    record, model = material.run, BioFuseModel.load(run.model_path)
    return load_test(
        source,
        model,
        split=str(metrics.get("split") or "test"),
        label=record.data.get("label"),
        group=record.data.get("group"),
    )


def _development(
    material: Material, cards: Mapping[str, EncoderCard], store: EmbeddingStore, absent: list[str]
) -> Embedded | None:
    frame = material.samples[material.samples["content"].fillna("") != ""]
    lacking = [name for name in material.pool if name not in cards]
    if lacking or not len(frame):
        absent.append(f"Nothing is known of where the embeddings of {', '.join(lacking) or 'this run'} are.")
        return None
    try:
        blocks = read_blocks(
            store,
            [cards[name] for name in material.pool],
            ids=frame["id"].to_numpy(dtype=object),
            contents=from_hex(frame["content"]),
            precisions=_precisions(material.run),
        )
        return Embedded(blocks=blocks, labels=tuple(frame["label"].fillna("").astype(str)))
    except (AlignmentError, StoreError) as error:
        absent.append(f"The embeddings are not in this store: {error.message}")
        return None


def _test(
    material: Material, cards: Mapping[str, EncoderCard], store: EmbeddingStore, test: Samples | None
) -> Embedded | None:
    """Find the embeddings of some of the test samples; the map goes without them where they are not there."""
    frame = material.predictions
    chosen = [cards[name] for name in material.chosen if name in cards]
    if frame is None or test is None or len(chosen) < len(material.chosen):
        return None
    row_of = {sample: row for row, sample in enumerate(test.ids.tolist())}
    frame = frame[[sample in row_of for sample in frame["id"]]]
    frame = frame.iloc[hash_order(frame["id"].tolist(), seed=0)[:READ]]
    hashed, _ = hash_samples(test.take([row_of[sample] for sample in frame["id"]]))
    contents = known_contents(hashed)
    readable = contents != b""
    frame = frame[readable]
    if not len(frame):
        return None
    try:
        blocks = read_blocks(
            store,
            chosen,
            ids=frame["id"].to_numpy(dtype=object),
            contents=contents[readable],
            precisions=_precisions(material.run),
        )
    except (AlignmentError, StoreError):
        return None
    return Embedded(blocks=blocks, labels=tuple(frame["label"].fillna("").astype(str)))


def _precisions(record: RunRecord) -> dict[str, Precision]:
    """Return what each encoder of the run computed in; runs of versions that knew only fp32 do not say."""
    return {encoder["name"]: encoder.get("precision", "fp32") for encoder in record.encoders}


def _time(
    material: Material, extras: Extras, development: Samples | None, run: Run, options: ExtractOptions | None
) -> dict[str, float]:
    samples = development or _own_samples(run, material.run)
    known = set(material.samples.loc[material.samples["split"] != "test", "id"])
    rows = [row for row, sample in enumerate(samples.ids.tolist()) if sample in known]
    options = (options or ExtractOptions()).but(precisions=_precisions(material.run))
    return measure_latency(samples.take(rows), tuple(extras.cards.values()), options=options)
