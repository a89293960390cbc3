"""Images for the page: small, as JPEG, inside it."""

import base64
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError, UnreadableImageError
from biofuse.core.target import Task
from biofuse.data.decoding import ItemSource, PillowSource, RGBImage, decode
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard
from biofuse.report.content import Sheet
from biofuse.report.curves import Predicted
from biofuse.runs.run import Run, RunRecord
from biofuse.search.leaderboard import Leaderboard, Row

if TYPE_CHECKING:
    import pandas as pd

QUALITY = 72
"""JPEG quality: artefacts are not seen at the size of a thumbnail."""

SHEET_BYTES = 4_500_000
"""Most bytes of a sheet of thumbnails before base64 adds a third: the page stays below 15 MB with 5 MB of Plotly."""

SIDES = (64, 48, 32)
"""Pixels of a thumbnail: the largest that fits is taken."""

PATIENCE = 20.0
"""Seconds after which no more thumbnails are read: a report is something one waits for."""

THREADS = 4
"""Decoding releases the interpreter lock."""


class Album:
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
        source = self._samples.sources[row]
        try:
            pixels: RGBImage = decode(source.read(), self._samples.decode, description=source.description)
        except UnreadableImageError:
            return None
        return Image.fromarray(pixels)


def jpeg_uri(image: Image.Image, *, side: int) -> tuple[str, int, int]:
    """Shrink an image to fit a square and return it as a ``data:`` URI, with its width and height in pixels."""
    small = _fit(image, side)
    return _uri(_jpeg(small)), small.width, small.height


def make_sheet(
    wanted: Sequence[tuple[Album | None, str]], *, clock: Callable[[], float] = time.monotonic
) -> tuple[Sheet | None, tuple[int, ...]]:
    """Put thumbnails onto one image, which takes half the bytes that they take one by one.

    Parameters
    ----------
    wanted : sequence of (album, id)
        In the order in which they are read, should patience end.
    clock : callable
        Seconds.

    Returns
    -------
    sheet : Sheet or None
        None where no image could be read.
    tiles : tuple of int
        Place of each sample's thumbnail on the sheet, -1 for none.
    """
    deadline = clock() + PATIENCE

    def small(one: tuple[Album | None, str]) -> Image.Image | None:
        album, sample = one
        image = None if album is None or clock() > deadline else album.image(sample)
        return None if image is None else _fit(image, SIDES[0])

    with ThreadPoolExecutor(min((album.threads for album, _ in wanted if album is not None), default=1)) as threads:
        thumbnails = list(threads.map(small, wanted))
    there = [thumbnail for thumbnail in thumbnails if thumbnail is not None]
    if not there:
        return None, (-1,) * len(wanted)
    places = iter(range(len(there)))
    tiles = tuple(-1 if thumbnail is None else next(places) for thumbnail in thumbnails)
    for side in SIDES:
        sheet, size = _sheet(there, side)
        if size <= SHEET_BYTES:
            break
    return sheet, tiles


def _sheet(thumbnails: Sequence[Image.Image], side: int) -> tuple[Sheet, int]:
    columns = math.ceil(math.sqrt(len(thumbnails)))
    rows = math.ceil(len(thumbnails) / columns)
    page = Image.new("RGB", (columns * side, rows * side), (128, 128, 128))
    for place, thumbnail in enumerate(thumbnails):
        tile = _fit(thumbnail, side)
        left, top = place % columns * side, place // columns * side
        page.paste(tile, (left + (side - tile.width) // 2, top + (side - tile.height) // 2))
    data = _jpeg(page)
    return Sheet(source=_uri(data), columns=columns, rows=rows, side=side), len(data)


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


CHOSEN = "chosen"
"""Name of the chosen model in ``run.json`` and ``metrics.json``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """Embeddings of the pool for some samples of the run.

    Attributes
    ----------
    blocks : Blocks
    labels : tuple of str
        Label of each row in words.
    """

    blocks: Blocks
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Extras:
    """What a run directory does not hold.

    Attributes
    ----------
    cards : mapping of str to EncoderCard
        Cards of the pool, as far as they are known.
    development, test : Embedded or None
        Embeddings out of the store.
    development_images, test_images : Album or None
        Where images can be looked at.
    latency : mapping of str to float
        Milliseconds per image of each encoder, where measured.
    absent : tuple of str
        Sentences that say what could not be had, and why.
    """

    cards: Mapping[str, EncoderCard] = field(default_factory=dict)
    development: Embedded | None = None
    test: Embedded | None = None
    development_images: Album | None = None
    test_images: Album | None = None
    latency: Mapping[str, float] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Why embeddings are not there."""
        return " ".join(self.absent) or "The embeddings of this run are not at hand."


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """A run, read.

    Attributes
    ----------
    name : str
        What the run is called: its folder.
    run : RunRecord
    board : Leaderboard
        Subsets scored by refitting.
    screen : Leaderboard or None
        All subsets in closed form.
    samples : DataFrame
        id, content, label, split, group.
    quarantined : DataFrame
        id, reason, and during what: fit or evaluate.
    metrics : dict or None
        ``metrics.json``.
    predictions : DataFrame or None
        ``predictions.parquet``.
    extras : Extras
    """

    name: str
    run: RunRecord
    board: Leaderboard
    screen: Leaderboard | None
    samples: "pd.DataFrame"
    quarantined: "pd.DataFrame"
    metrics: dict[str, Any] | None
    predictions: "pd.DataFrame | None"
    extras: Extras

    @property
    def title(self) -> str:
        """What the data are called: where a manifest has no name of its own, that of its folder."""
        name, source = str(self.run.data.get("name") or self.name), self.run.data.get("source")
        if source and name.startswith("manifest"):
            return Path(str(source)).parent.name or name
        return name

    @property
    def metric(self) -> str:
        """What subsets were chosen by."""
        return str(self.run.selection["metric"])

    @property
    def pool(self) -> tuple[str, ...]:
        """All encoders of the search."""
        return tuple(encoder["name"] for encoder in self.run.encoders)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Encoders of the chosen model."""
        return tuple(self.run.selection[CHOSEN]["encoders"])

    @property
    def all_scores(self) -> Leaderboard:
        """The scores that compare most subsets with one another: the screen's, or else the leaderboard's."""
        return self.board if self.screen is None else self.screen

    @property
    def latency(self) -> Mapping[str, float]:
        """Milliseconds per image; empty unless known for every encoder of the pool."""
        known = dict(self.run.evidence.get("latency") or {}) | dict(self.extras.latency)
        return known if all(name in known for name in self.pool) else {}

    @property
    def dims(self) -> dict[str, int]:
        """Columns of each encoder's block."""
        return {encoder["name"]: int(encoder["dim"]) for encoder in self.run.encoders}


def read_material(run: Run, extras: Extras | None = None) -> Material:
    """Read everything a run directory holds.

    Raises
    ------
    ArtifactError
        If there is no complete run, or a file of it is missing or damaged.
    """
    record = run.read()
    if record.state != "complete" or not record.selection:
        raise ArtifactError(
            f"The fit in {run.path} did not finish, so there is nothing to report.",
            remedy="Run the same `biofuse fit` again: it goes on from there.",
        )
    pool = tuple(encoder["name"] for encoder in record.encoders)
    board = read_board(run, "leaderboard", pool=pool, record=record)
    if board is None:
        raise ArtifactError(f"{run.path / 'leaderboard.parquet'} is missing.", remedy="Fit again; finished work stays.")
    metrics = _read_json(run)
    return Material(
        name=run.path.resolve().name,
        run=record,
        board=board,
        screen=read_board(run, "screen", pool=pool, record=record),
        samples=run.read_samples(),
        quarantined=_read_quarantine(run),
        metrics=metrics,
        predictions=None if metrics is None else _read_frame(run, "predictions"),
        extras=extras or Extras(),
    )


def read_board(run: Run, name: str, *, pool: Sequence[str], record: RunRecord) -> Leaderboard | None:
    """Read a leaderboard of a run; None where there is none.

    The sizes of the folds, which the table does not hold, are those of equal folds.
    """
    frame = _read_frame(run, name)
    if frame is None:
        return None
    means = [column.removesuffix("_mean") for column in frame.columns if column.endswith("_mean")]
    columns = {
        metric: frame[[column for column in frame.columns if column.startswith(f"{metric}_fold_")]].to_numpy(float)
        for metric in means
    }
    rows = tuple(
        Row(
            subset=tuple(subset.split("+")),
            n_dims=int(dims),
            folds={metric: tuple(values[place].tolist()) for metric, values in columns.items()},
            seconds=float(seconds),
        )
        for place, (subset, dims, seconds) in enumerate(
            zip(frame["subset"], frame["n_dims"], frame["seconds"], strict=True)
        )
    )
    n_folds = next(iter(columns.values())).shape[1] if columns else 0
    n_train, n_test = _fold_sizes(record, n_folds)
    return Leaderboard(
        encoders=tuple(pool), metrics=tuple(means), rows=rows, n_train=n_train, n_test=n_test, key=record.key
    )


def _fold_sizes(record: RunRecord, n_folds: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sizes = {split: sum(counts.values()) for split, counts in record.counts.items()}
    total = max(sizes.get("train", 0) + sizes.get("val", 0), 2)
    if record.plan.get("kind") == "holdout":
        return (max(sizes.get("train", 1), 1),) * n_folds, (max(sizes.get("val", 1), 1),) * n_folds
    each = max(n_folds // max(int(record.plan.get("repeats") or 1), 1), 2)
    test = max(total // each, 1)
    return (max(total - test, 1),) * n_folds, (test,) * n_folds


def _read_frame(run: Run, name: str) -> "pd.DataFrame | None":
    import pandas as pd
    import pyarrow as pa

    path = run.path / f"{name}.parquet"
    if not path.exists():
        return None
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy="Fit or evaluate again.") from error


def _read_json(run: Run) -> dict[str, Any] | None:
    path = run.metrics_path
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy="Run `biofuse evaluate` again.") from error
    if not isinstance(content, dict) or CHOSEN not in content.get("models", {}):
        raise ArtifactError(f"{path} is not what `biofuse evaluate` writes.", remedy="Run `biofuse evaluate` again.")
    return content


def _read_quarantine(run: Run) -> "pd.DataFrame":
    import pandas as pd

    parts = []
    for name, stage in (("quarantine.csv", "fit"), ("quarantine-evaluate.csv", "evaluate")):
        path = run.path / name
        if path.exists():
            parts.append(pd.read_csv(path, dtype=str, keep_default_na=False).assign(during=stage))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["id", "source", "reason", "during"])


def finite(value: float | None) -> float:
    """Return NaN for null, as JSON writes what does not exist."""
    return float("nan") if value is None else float(value)


def name_of(subset: Sequence[str], pool: int) -> str:
    """Write a subset for prose; the whole pool, of more than three, by its size."""
    return f"all {pool} encoders" if len(subset) == pool > 3 else " + ".join(subset)


def array(values: Sequence[float | None]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return an array in which null is NaN."""
    return np.array([finite(value) for value in values], dtype=np.float64)


def read_predicted(material: Material) -> Predicted | None:
    """Return the predictions of the chosen model; None where there are none.

    Raises
    ------
    ArtifactError
        If ``predictions.parquet`` does not belong to the run.
    """
    frame, run = material.predictions, material.run
    if frame is None:
        return None
    classes = run.classes
    task, place = Task(run.task), {name: column for column, name in enumerate(classes)}
    missing = [name for name in classes if f"p_{name}" not in frame.columns]
    targets = np.zeros((len(frame), len(classes)), dtype=bool)
    labels = frame["label"].fillna("").astype(str).tolist()
    for row, label in enumerate(labels):
        for name in label.split("|") if task is Task.MULTILABEL and label not in place else [label]:
            if name in place:
                targets[row, place[name]] = True
            elif name:
                missing.append(name)
    if missing:
        raise ArtifactError(
            f"predictions.parquet does not belong to this run: {missing[0]!r} is not a class of both.",
            remedy="Run `biofuse evaluate` again.",
        )
    ids = frame["id"].astype(str).tolist()
    return Predicted(
        task=task,
        classes=classes,
        ids=tuple(ids),
        targets=targets,
        probabilities=frame[[f"p_{name}" for name in classes]].to_numpy(np.float64),
        labels=tuple(labels),
        predictions=tuple(frame["prediction"].fillna("").astype(str).tolist()),
        groups=_groups(material, ids),
    )


def _groups(material: Material, ids: list[str]) -> tuple[str, ...] | None:
    frame = material.predictions
    if frame is not None and "group" in frame.columns:
        found = frame["group"]
    else:
        known = material.samples.set_index("id")["group"]
        if not set(ids) <= set(known.index):
            return None
        found = known.loc[ids]
    return None if found.isna().any() else tuple(found.astype(str).tolist())
