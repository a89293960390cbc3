"""What a report is made from: a run, the embeddings and images that go with it, and thumbnails of these."""

import base64
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError, UnreadableImageError
from biofuse.core.target import SEPARATOR, Target
from biofuse.data.cuts import Bag, Source
from biofuse.data.decoding import ItemSource, PillowSource, RGBImage, decode
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard
from biofuse.evaluation.intervals import Units
from biofuse.evaluation.metrics import get_metric
from biofuse.model.evaluate import UNKNOWN, Evaluation
from biofuse.report.bags import ArguedSample
from biofuse.report.content import Picture, ThumbnailGrid
from biofuse.report.occlusion import Occlusion
from biofuse.runs.record import RunRecord
from biofuse.runs.run import EVALUATE, Run
from biofuse.search.leaderboard import Leaderboard

if TYPE_CHECKING:
    import pandas as pd

QUALITY = 72
"""JPEG quality: artefacts are not seen at the size of a thumbnail."""

GRID_BYTES = 4_500_000
"""Most bytes of a grid of thumbnails before base64 adds a third: the page stays below 15 MB with 5 MB of Plotly."""

SIDES = (64, 48, 32)
"""Pixels of a thumbnail: the largest that fits is taken."""

PATIENCE = 20.0
"""Seconds after which no more thumbnails are read: a report is something one waits for."""

THREADS = 4
"""Decoding releases the interpreter lock."""


PREDICTED_BY = {
    "mean": "mean of heads",
    "fused": "{}",
    "ensemble": "average of several subsets, {}",
    "average": "average of encoders, {}",
    "stacking": "stacked encoders, {}",
    "attention": "attention over the images of each sample",
}
"""What a model is, by the option ``predictor``, around the name of its head."""


class SampleImages:
    """Images of a table of samples, by id.

    Parameters
    ----------
    samples : Samples
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._row = {sample: row for row, sample in enumerate(samples.ids.tolist())}
        # Rows of other libraries' data sets may share one open file, which threads would mix up.
        self.threads = 1 if any(isinstance(s, ItemSource | PillowSource) for s in samples.sources) else THREADS

    def __contains__(self, sample: str) -> bool:
        return sample in self._row

    def image(self, sample: str) -> Image.Image | None:
        """Return an image as its encoders saw it before resizing; None where it is not there or cannot be read."""
        row = self._row.get(sample)
        if row is None:
            return None
        return self.open(self._samples.sources[row])

    def open(self, source: Source) -> Image.Image | None:
        """Return one of the images of a sample likewise; None where it cannot be read."""
        try:
            pixels: RGBImage = decode(source.read(), self._samples.decode, description=source.description)
        except UnreadableImageError:
            return None
        return Image.fromarray(pixels)

    def sources(self, sample: str) -> tuple[Source, ...]:
        """Return where the images of a sample are read from, in their order; none where it is not there."""
        row = self._row.get(sample)
        if row is None:
            return ()
        source = self._samples.sources[row]
        return source.images if isinstance(source, Bag) else (source,)


ENLARGED = 3
"""Times the side at which a picture is shown: how large it may be when it is enlarged."""


def picture_of(image: Image.Image, *, side: int, alternative: str, caption: str) -> Picture:
    """Show an image in a square of so many pixels, with what it has beyond them for who enlarges it."""
    kept = _fit(image, min(ENLARGED * side, max(side, *image.size)))
    scale = side / max(kept.size)
    width, height = (max(1, round(scale * length)) for length in kept.size)
    return Picture(source=_uri(_jpeg(kept)), alternative=alternative, caption=caption, width=width, height=height)


def make_thumbnails(
    wanted: Sequence[tuple[SampleImages | None, str]], *, clock: Callable[[], float] = time.monotonic
) -> tuple[ThumbnailGrid | None, tuple[int, ...]]:
    """Put thumbnails onto one image, which takes half the bytes that they take one by one.

    Parameters
    ----------
    wanted : sequence of (images, id)
        In the order in which they are read, should patience end.
    clock : callable
        Seconds.

    Returns
    -------
    grid : ThumbnailGrid or None
        None where no image could be read.
    tiles : tuple of int
        Place of each sample's thumbnail in the grid, -1 for none.
    """
    deadline = clock() + PATIENCE

    def small(one: tuple[SampleImages | None, str]) -> Image.Image | None:
        images, sample = one
        image = None if images is None or clock() > deadline else images.image(sample)
        return None if image is None else _fit(image, SIDES[0])

    with ThreadPoolExecutor(min((images.threads for images, _ in wanted if images is not None), default=1)) as threads:
        thumbnails = list(threads.map(small, wanted))
    there = [thumbnail for thumbnail in thumbnails if thumbnail is not None]
    if not there:
        return None, (-1,) * len(wanted)
    places = iter(range(len(there)))
    tiles = tuple(-1 if thumbnail is None else next(places) for thumbnail in thumbnails)
    for side in SIDES:
        grid, size = _grid(there, side)
        if size <= GRID_BYTES:
            break
    return grid, tiles


def _grid(thumbnails: Sequence[Image.Image], side: int) -> tuple[ThumbnailGrid, int]:
    columns = math.ceil(math.sqrt(len(thumbnails)))
    rows = math.ceil(len(thumbnails) / columns)
    page = Image.new("RGB", (columns * side, rows * side), (128, 128, 128))
    for place, thumbnail in enumerate(thumbnails):
        tile = _fit(thumbnail, side)
        left, top = place % columns * side, place // columns * side
        page.paste(tile, (left + (side - tile.width) // 2, top + (side - tile.height) // 2))
    data = _jpeg(page)
    return ThumbnailGrid(source=_uri(data), columns=columns, rows=rows, side=side), len(data)


def _fit(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST  # pixels of tiny images stay visible
    return image.resize(size, how, reducing_gap=2.0)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def _uri(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """Embeddings of encoders of the pool for some samples of the run.

    Attributes
    ----------
    blocks : Blocks
    labels : tuple of str
        Label of each row in words.
    """

    blocks: Blocks
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """Test predictions in the terms of metrics.

    Attributes
    ----------
    target : Target
    ids : tuple of str
    targets : ndarray of bool, shape (n, n_classes)
    probabilities : ndarray of float64, shape (n, n_classes)
    labels, predictions : tuple of str
        In words.
    groups : tuple of str, or None
    unknown : ndarray of bool, shape (n, n_classes), or None
        Labels of which nothing is known; None where there are none.
    """

    target: Target
    ids: tuple[str, ...]
    targets: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    labels: tuple[str, ...]
    predictions: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    unknown: NDArray[np.bool_] | None = None

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Of which labels something is known, shape (n, n_classes): no other is drawn or counted."""
        return np.ones(self.targets.shape, dtype=np.bool_) if self.unknown is None else ~self.unknown

    @cached_property
    def units(self) -> Units:
        """What varies independently: groups where there are groups."""
        return Units.of(self.ids, self.groups)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class or label names."""
        return self.target.classes

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have any number of labels."""
        return self.target.several

    @property
    def ranked(self) -> tuple[int, ...]:
        """Columns that have curves: the second class of a binary task, otherwise all."""
        return self.target.ranked_columns

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted class, shape (n,); of multi-label tasks that of each label, flattened."""
        return self.probabilities[self.known] if self.multilabel else self.probabilities.max(axis=1)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether what the confidence belongs to is true: the prediction, or that the label is present."""
        if self.multilabel:
            return self.targets[self.known]
        return np.asarray(self.targets[np.arange(self.n), self.probabilities.argmax(axis=1)])

    @property
    def agrees(self) -> NDArray[np.bool_]:
        """Whether each prediction is the label, shape (n,)."""
        return np.array([label == said for label, said in zip(self.labels, self.predictions, strict=True)], dtype=bool)


def _read_predicted(given: "ReportInput") -> Predicted | None:
    evaluation, target, classes = given.evaluation, given.record.target, given.record.classes
    frame = None if evaluation is None else evaluation.predictions
    if frame is None or not len(frame) or not target.categorical:
        return None
    place = {name: column for column, name in enumerate(classes)}
    missing = [name for name in classes if f"p_{name}" not in frame.columns]
    targets = np.zeros((len(frame), len(classes)), dtype=bool)
    labels = frame["label"].fillna("").astype(str).tolist()
    for row, label in enumerate(labels):
        for name in target.named(label):
            if name in place:
                targets[row, place[name]] = True
            elif name:
                missing.append(name)
    if missing:
        raise ArtifactError(
            f"predictions.parquet does not belong to this run: {missing[0]!r} is not a class of both.",
            remedy=EVALUATE,
        )
    ids = frame["id"].astype(str).tolist()
    return Predicted(
        target=target,
        ids=tuple(ids),
        targets=targets,
        probabilities=frame[[f"p_{name}" for name in classes]].to_numpy(np.float64),
        labels=tuple(labels),
        predictions=tuple(frame["prediction"].fillna("").astype(str).tolist()),
        groups=_groups_of(given, frame, ids),
        unknown=_unknown_of(frame, classes),
    )


def _unknown_of(frame: "pd.DataFrame", classes: Sequence[str]) -> NDArray[np.bool_] | None:
    if UNKNOWN not in frame.columns:
        return None
    named = [set(text.split(SEPARATOR)) for text in frame[UNKNOWN].fillna("").astype(str)]
    return np.array([[name in names for name in classes] for names in named], dtype=np.bool_)


def _groups_of(given: "ReportInput", frame: "pd.DataFrame", ids: list[str]) -> tuple[str, ...] | None:
    if "group" in frame.columns:
        found = frame["group"]
    else:
        known = given.run.samples.set_index("id")["group"]
        if not set(ids) <= set(known.index):
            return None
        found = known.loc[ids]
    return None if found.isna().any() else tuple(found.astype(str).tolist())


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportInput:
    """A run, and what goes with it but is not in its directory.

    Attributes
    ----------
    run : Run
        A complete one.
    development, test : Embedded or None
        Embeddings, of test samples under the chosen encoders at least.
    development_images, test_images : SampleImages or None
        Where images can be looked at.
    timed : mapping of str to float
        Milliseconds per image of each encoder, where measured for this report.
    absent : tuple of str
        Sentences that say what could not be had, and why.
    occlusions : tuple of Occlusion
        What the most confident mistakes rest on, where that was asked for.
    umap : bool
        Whether the samples are mapped by UMAP, too.
    argued : tuple of ArguedSample
        What the images of some tested samples argue, where samples are several images.
    """

    run: Run
    development: Embedded | None = None
    test: Embedded | None = None
    development_images: SampleImages | None = None
    test_images: SampleImages | None = None
    timed: Mapping[str, float] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    occlusions: tuple[Occlusion, ...] = ()
    umap: bool = False
    argued: tuple[ArguedSample, ...] = ()

    @property
    def record(self) -> RunRecord:
        """What ``run.json`` holds."""
        return self.run.record

    @property
    def board(self) -> Leaderboard:
        """Subsets scored by refitting."""
        return self.run.leaderboard

    @property
    def evaluation(self) -> Evaluation | None:
        """What the last evaluation found; None before any."""
        return self.run.evaluation

    @cached_property
    def predicted(self) -> Predicted | None:
        """Predictions of classes by the chosen model for test samples; None where there are none.

        Raises
        ------
        ArtifactError
            If ``predictions.parquet`` does not belong to the run.
        """
        return _read_predicted(self)

    @property
    def name(self) -> str:
        """What the run is called: its folder."""
        return self.run.path.resolve().name

    @property
    def title(self) -> str:
        """What the data are called: where a manifest has no name of its own, that of its folder."""
        return data_title(self.record) or self.name

    @property
    def metric(self) -> str:
        """What subsets were chosen by."""
        return self.record.choice.metric

    @property
    def metric_title(self) -> str:
        """The same in words."""
        return get_metric(self.metric).title

    @property
    def pool(self) -> tuple[str, ...]:
        """All encoders of the search."""
        return self.record.pool

    @property
    def chosen(self) -> tuple[str, ...]:
        """Encoders of the chosen model."""
        return self.record.chosen

    @property
    def cards(self) -> dict[str, EncoderCard]:
        """Cards of the pool."""
        return self.record.cards

    @property
    def all_scores(self) -> Leaderboard:
        """The scores that compare most subsets with one another: the screen's, or else the leaderboard's."""
        return self.board if self.run.screen is None else self.run.screen

    @property
    def latency(self) -> Mapping[str, float]:
        """Milliseconds per image; empty unless known for every encoder of the pool."""
        known = self.record.latency | dict(self.timed)
        return known if all(name in known for name in self.pool) else {}

    @property
    def head(self) -> str:
        """What the head that compared subsets is called in prose."""
        return f"{self.record.head} head"

    @property
    def on_test(self) -> str:
        """What scores on test data are of."""
        split = "test" if self.evaluation is None else self.evaluation.split
        return f"{split} samples, {PREDICTED_BY[self.record.options.predictor].format(self.head)}"

    @property
    def of_chosen(self) -> str:
        """What scores of the chosen model on test data are of."""
        return f"{self.on_test}, {name_of(self.chosen, len(self.pool))}"

    @property
    def on_folds(self) -> str:
        """What scores of refitted subsets are of."""
        return f"{'cross-validation' if self.board.n_folds > 1 else 'validation split'}, {self.head}"

    @property
    def on_screen(self) -> str:
        """What the scores of most subsets are of: the screen's, or those of refitting where there was no screen."""
        how = "cross-validation" if self.all_scores.n_folds > 1 else "validation split"
        return self.on_folds if self.run.screen is None else f"{how}, ridge screen"

    @property
    def on_evidence(self) -> str:
        """What contributions are of."""
        return self.on_screen if self.record.evidence.screened else self.on_folds

    @property
    def why(self) -> str:
        """Why embeddings are not there."""
        return " ".join(self.absent) or "The embeddings of this run are not at hand."

    def marked(self, names: Sequence[str]) -> frozenset[int]:
        """Return the places of chosen encoders among the names."""
        return frozenset(place for place, name in enumerate(names) if name in self.chosen)


def data_title(record: RunRecord) -> str:
    """Return what the data of a run are called: where a manifest has no name of its own, that of its folder."""
    name, source = record.name, record.data.source
    return (Path(source).parent.name or name) if source and name.startswith("manifest") else name


def name_of(subset: Sequence[str], pool: int) -> str:
    """Write a subset for prose; the whole pool, of more than three, by its size."""
    return f"all {pool} encoders" if len(subset) == pool > 3 else " + ".join(subset)
