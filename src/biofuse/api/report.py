"""A run's report: gathers what the run directory does not hold, and writes the page; and the run's model card."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from biofuse.core.errors import AlignmentError, BioFuseError, DataError, StoreError
from biofuse.core.files import write_text
from biofuse.core.hashing import hash_order
from biofuse.core.options import accepts
from biofuse.data.samples import Samples
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.local import measure_latency
from biofuse.extract.options import ExtractOptions
from biofuse.model.card import model_card
from biofuse.model.evaluate import load_test
from biofuse.model.model import BioFuseModel
from biofuse.predictors.arguments import arguments_of
from biofuse.report.bags import ArguedSample
from biofuse.report.draw import write_figures
from biofuse.report.html import build_report, render_html
from biofuse.report.input import Embedded, ReportInput, SampleImages
from biofuse.report.occlusion import occlude
from biofuse.report.sections.bags import samples_to_argue
from biofuse.report.sections.results import mistaken_column, worst_mistakes
from biofuse.runs.run import CARD, REPORT, Run
from biofuse.store.exchange import label_names
from biofuse.store.store import EmbeddingStore, as_store

Found = TypeVar("Found")

READ = 2000
"""Most test images that are looked up for the map: as many as it draws."""


@accepts(ExtractOptions)
def write_report(
    run: Run | Path | str,
    *,
    out: Path | str | None = None,
    figures: Path | str | None = None,
    store: EmbeddingStore | Path | str | None = None,
    development: EmbeddingSet | Samples | None = None,
    test: Samples | None = None,
    latency: bool = False,
    umap: bool = False,
    occlusion: int = 0,
    options: ExtractOptions | None = None,
    **chosen: Any,
) -> Path:
    """Write everything there is to say about a run into one HTML page.

    Parameters
    ----------
    run : Run or path
        A run that has just been fitted or evaluated, with what it found in memory; or its directory.
    out : path, optional
        The file to write; ``report.html`` in the run by default.
    figures : path, optional
        A folder to write every figure into, as SVG and PNG.
    store : EmbeddingStore or path, optional
        Where the embeddings are; by default the user's store.
    development : EmbeddingSet or Samples, optional
        Development embeddings or images, where they are in memory; by default they are looked for in the store, and
        where the run found its data.
    test : Samples, optional
        Test images, likewise.
    latency : bool, default False
        Whether to time the encoders on this machine, so that costs are in milliseconds.
    umap : bool, default False
        Whether the map shows the samples by UMAP beside their principal components; umap-learn has to be installed.
    occlusion : int, default 0
        Of so many of the most confident mistakes to show what the prediction rests on. Each takes 50 predictions with
        all chosen encoders.
    options : ExtractOptions, optional
        How that is done; what is given by name wins.
    **chosen
        Fields of :class:`biofuse.ExtractOptions`.

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
    BioFuseError
        If UMAP is asked for and not installed.

    Examples
    --------
    >>> import biofuse
    >>> _ = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", out="run", progress=False)
    >>> biofuse.write_report("run").name
    'report.html'
    """
    if umap and not has_umap():
        raise BioFuseError(
            "umap-learn is not installed.", remedy="Install it: pip install 'biofuse-embed[umap]'; or leave out UMAP."
        )
    run = run if isinstance(run, Run) else Run.open(run)
    extraction = ExtractOptions.of(options, chosen)
    given = replace(_gather(run, as_store(store), development=development, test=test), umap=umap)
    if latency:
        samples = development.samples if isinstance(development, EmbeddingSet) else development
        given = replace(given, timed=_time(run, samples or run.load_samples()[0], extraction))
    given = replace(given, argued=_argued(given))
    if occlusion:
        given = _occluded(given, occlusion, extraction)
    report, page = build_report(given), Path(out) if out is not None else run.path / REPORT
    if figures is not None:
        write_figures(report.charts, Path(figures))
    write_text(page, render_html(report))
    return page


def has_umap() -> bool:
    """Tell whether umap-learn is installed."""
    return find_spec("umap") is not None


DIFFERENCE = 1e-3
"""Most that a probability may differ from the evaluation's for the image that is covered to be the one tested."""


def _occluded(given: ReportInput, count: int, options: ExtractOptions) -> ReportInput:
    """Add what the most confident mistakes rest on, as far as their images are at hand and are what was tested."""
    predicted, images = given.predicted, given.test_images
    if predicted is None or images is None:
        return given
    model, wanted, known = BioFuseModel.load(given.run.model_path()), [], []
    for row, _, _ in worst_mistakes(predicted, count):
        image, column = images.image(predicted.ids[row]), mistaken_column(predicted, row)
        if image is not None:
            wanted.append((predicted.ids[row], column, np.asarray(image)))
            known.append(float(predicted.probabilities[row, column]))
    if not wanted:
        return given
    found = occlude(
        wanted, model.classes, lambda covered: model.predict_proba(covered, options=options.but(use_store=False))
    )
    # A sample of several images is not what one of them alone is.
    same = tuple(o for o, p in zip(found, known, strict=True) if abs(o.probability - p) <= DIFFERENCE)
    return replace(given, occlusions=same)


def _argued(given: ReportInput) -> tuple[ArguedSample, ...]:
    """Return what the images of some tested samples argue, as far as embeddings and images are at hand."""
    predicted, test, images = given.predicted, given.test, given.test_images
    if predicted is None or test is None or images is None or test.blocks.bags is None:
        return ()
    there = set(test.blocks.ids.tolist())
    wanted = [one for one in samples_to_argue(predicted) if predicted.ids[one[0]] in there]
    if not wanted:
        return ()
    blocks = test.blocks.join([predicted.ids[row] for row, _, _ in wanted])
    found = arguments_of(BioFuseModel.load(given.run.model_path()).predictor, blocks)
    argued = [
        ArguedSample.of(
            found,
            place,
            column=column,
            called=predicted.classes[column],
            sources=images.sources(predicted.ids[row]),
            id=predicted.ids[row],
            said=said,
            probability=float(predicted.probabilities[row, column]),
        )
        for place, (row, said, column) in enumerate(wanted)
    ]
    # An image by itself has nothing to be compared with; data that changed have other images.
    return tuple(each for each in argued if 1 < len(each.values) == len(each.sources) and each.shown)


def attempt_report(run: Run | Path | str, *, tell: Callable[[str], None], **options: Any) -> Path | None:
    """Write the report after a fit or an evaluation, which must not be lost if that fails.

    Parameters
    ----------
    run : Run or path
    tell : callable
        Receives one line: where the report is, or why there is none.
    **options
        As for :func:`write_report`.

    Returns
    -------
    Path or None
    """
    try:
        page = write_report(run, **options)
    except Exception as error:  # whatever it is, the work before it is done and must be handed back
        reason = error.message if isinstance(error, BioFuseError) else f"{type(error).__name__}: {error}"
        path = run.path if isinstance(run, Run) else run
        tell(f"The report of {path} was not written ({reason}). Try again: biofuse report {path}")
        return None
    tell(f"Report: {page}")
    return page


def write_card(path: Path | str, *, out: Path | None = None, repository: str = "OWNER/NAME") -> Path:
    """Write the model card of a finished run, into the run by default; its scores are those of the last evaluation.

    Raises
    ------
    ArtifactError
        If there is no complete run at ``path``, or it is damaged.
    DiskError
        If it cannot be written.
    """
    run, target = Run.open(path), out or Path(path) / CARD
    metrics = None if run.evaluation is None else run.evaluation.to_json()
    model, record = BioFuseModel.load(run.model_path()), run.record.model_dump(mode="json")
    write_text(target, model_card(model, run=record, metrics=metrics, repository=repository))
    return target


def _gather(
    run: Run, store: EmbeddingStore, *, development: EmbeddingSet | Samples | None, test: Samples | None
) -> ReportInput:
    absent: list[str] = []
    evaluation = run.evaluation
    own = development.samples if isinstance(development, EmbeddingSet) else development
    own_test = evaluation is not None and evaluation.data == run.record.data.source
    if test is None and evaluation is not None and evaluation.embeddings is not None:
        test = evaluation.embeddings.samples
    if own is None or (test is None and own_test):
        loaded = _loaded(run.load_samples, "The images of this run are not at hand", absent) or (None, None)
        own, test = own or loaded[0], test or (loaded[1] if own_test else None)
    if test is None and evaluation is not None and not own_test:
        test = _loaded(lambda: _other_test(run), "The tested images are not at hand", absent)
    return ReportInput(
        run=run,
        development=_development(run, store, development, absent),
        test=_test(run, store),
        development_images=None if own is None else SampleImages(own),
        test_images=None if test is None or evaluation is None else SampleImages(test),
        absent=tuple(absent),
    )


def _loaded(load: Callable[[], Found], what: str, absent: list[str]) -> Found | None:
    try:
        return load()
    except BioFuseError as error:
        absent.append(f"{what}: {error.message}")
        return None


def _other_test(run: Run) -> Samples:
    data, evaluation = run.record.data, run.evaluation
    if evaluation is None or evaluation.data is None:
        raise DataError("the test data were in memory.")
    model = BioFuseModel.load(run.model_path())
    return load_test(evaluation.data, model, split=evaluation.split, like=data.config)


def _development(
    run: Run, store: EmbeddingStore, given: EmbeddingSet | Samples | None, absent: list[str]
) -> Embedded | None:
    if isinstance(given, EmbeddingSet):
        return Embedded(blocks=given.blocks, labels=tuple(label_names(given.samples)))
    frame = run.samples[run.samples["content"].fillna("") != ""]
    try:
        return _embedded(run, store, run.record.pool, frame)
    except (AlignmentError, StoreError) as error:
        absent.append(f"The embeddings are not in this store: {error.message}")
        return None


def _test(run: Run, store: EmbeddingStore) -> Embedded | None:
    """Find the embeddings of some of the test samples; the map goes without them where they are not there."""
    evaluation = run.evaluation
    if evaluation is None:
        return None
    if evaluation.embeddings is not None:
        known = evaluation.embeddings
        return Embedded(blocks=known.blocks.only(run.record.chosen), labels=tuple(label_names(known.samples)))
    frame = evaluation.predictions
    if not len(frame):
        return None
    try:
        some = frame.iloc[hash_order(frame["id"].tolist(), seed=0)[:READ]]
        return _embedded(run, store, run.record.chosen, some)
    except (AlignmentError, StoreError):
        return None


def _embedded(run: Run, store: EmbeddingStore, encoders: tuple[str, ...], frame: Any) -> Embedded:
    """Read embeddings of the rows of a table with ids, content hashes and labels."""
    reader = run.reader(frame, encoders, store)
    return Embedded(blocks=reader.read(), labels=tuple(frame["label"].fillna("").astype(str)))


def _time(run: Run, samples: Samples, options: ExtractOptions) -> dict[str, float]:
    known = set(run.samples.loc[run.samples["split"] != "test", "id"])
    rows = [row for row, sample in enumerate(samples.ids.tolist()) if sample in known]
    options = options.but(precisions=run.record.precisions)
    return measure_latency(samples.take(rows), tuple(run.record.cards.values()), options=options)
