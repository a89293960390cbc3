"""ImageNet-1K, or any data set in its layout: a linear head over single encoders and their fusion, block by block.

Memory is bounded by one block of files, one block of embeddings and a handful of matrices of the square of all columns
(nine encoders of 8,576 columns: about 4 GB), however many images there are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.api.embedding import stored
from biofuse.api.runtime import Tell
from biofuse.benchmark.image_folders import ClassFolders, Whole
from biofuse.benchmark.streaming import LinearScores, Moments
from biofuse.core.errors import DataError
from biofuse.encoders.availability import Skipped, available
from biofuse.encoders.card import EncoderCard
from biofuse.extract import ExtractOptions, Progress, Quarantined, extract, progress_bars
from biofuse.report.page import Table, cells, render_page, render_tables
from biofuse.store import EmbeddingStore

FILES_AT_ONCE = 65_536
"""Images whose names, hashes and sources are held at a time."""

ROWS_AT_ONCE = 4_096
"""Embeddings held at a time."""

HELD_OUT = 13
"""Training images whose content hash begins with a byte below this choose the shrinkage: 13 of 256, about 5 %."""

SHRINKAGES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3)
"""From next to nothing to a third; chosen by top-1 accuracy on the held-out training images."""

METHOD = "Linear discriminant analysis on frozen embeddings, fitted on the training images alone."

MANY = 5
"""Top-5 is the accuracy of ImageNet besides top-1."""

FUSION = "all"
"""Name of the fusion of the whole pool: concatenation; the head standardises columns by itself."""


@dataclass(frozen=True, kw_only=True)
class TopScores:
    """Accuracy of one head.

    Attributes
    ----------
    encoders : tuple of str
    dim : int
    top_1, top_5 : float
    low_1, high_1, low_5, high_5 : float
        Wilson's 95 % intervals.
    shrinkage : float
    """

    encoders: tuple[str, ...]
    dim: int
    top_1: float
    low_1: float
    high_1: float
    top_5: float
    low_5: float
    high_5: float
    shrinkage: float


@dataclass(frozen=True, kw_only=True)
class ImageNetOutcome:
    """Scores on the validation images.

    Attributes
    ----------
    classes : int
    n_train, n_val : int
        Images that were read.
    scores : dict of str to TopScores
        Single encoders in pool order, and the fusion of all (``all``) where there are several.
    skipped : tuple of Skipped
        Encoders that cannot be run here.
    quarantined : tuple of Quarantined
    """

    classes: int
    n_train: int
    n_val: int
    scores: dict[str, TopScores]
    skipped: tuple[Skipped, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """How the numbers came about."""
        said = [f"{self.n_train:,} training and {self.n_val:,} validation images of {self.classes:,} classes. {METHOD}"]
        said += [f"{skipped.name} is left out: {skipped.reason}" for skipped in self.skipped]
        if self.quarantined:
            said.append(f"{len(self.quarantined)} images could not be read, e.g. {self.quarantined[0].reason}")
        return tuple(said)

    def tables(self) -> list[Table]:
        """Return a row per single encoder, and one of the fusion."""
        rows = [
            cells(
                f"all {len(score.encoders)} fused" if name == FUSION else name,
                f"{score.dim:,}",
                f"{score.top_1:.4f} ({score.low_1:.4f}\u2013{score.high_1:.4f})",
                f"{score.top_5:.4f} ({score.low_5:.4f}\u2013{score.high_5:.4f})",
                f"{score.shrinkage:g}",
            )
            for name, score in self.scores.items()
        ]
        return [
            Table(
                title="Validation accuracy of linear heads, with 95 % intervals",
                columns=("encoder", "columns", "top-1", f"top-{min(MANY, self.classes)}", "shrinkage"),
                rows=tuple(rows),
                numbers=frozenset({"columns", "shrinkage"}),
            )
        ]

    def to_html(self) -> str:
        """Return one self-contained page."""
        return render_page("ImageNet benchmark", self.tables(), lead=self.notes)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "classes": self.classes,
            "n_train": self.n_train,
            "n_val": self.n_val,
            "scores": {name: vars(score) | {"encoders": list(score.encoders)} for name, score in self.scores.items()},
            "skipped": {skipped.name: skipped.reason for skipped in self.skipped},
            "quarantined": [vars(entry) for entry in self.quarantined],
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        return render_tables(self.tables())


def benchmark_imagenet(
    cards: Sequence[EncoderCard],
    root: Path,
    *,
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    files_at_once: int = FILES_AT_ONCE,
    progress: bool = True,
    tell: Tell | None = None,
) -> ImageNetOutcome:
    """Score single encoders and their fusion by a linear head on ``train/<class>/`` and ``val/<class>/``.

    Parameters
    ----------
    cards : sequence of EncoderCard
        The pool.
    root : Path
        Holds ``train`` and ``val``; nothing else in it is read.
    store : EmbeddingStore
        Embeddings that are there are not computed again: a killed benchmark goes on where it was.
    options : ExtractOptions, optional
    files_at_once : int
        Images whose names and hashes are held in memory.
    progress : bool, default True
    tell : callable, optional
        Receives news line by line.

    Raises
    ------
    DataError
        If the layout is not ImageNet's, or ``val`` has a class that ``train`` has not.
    """
    say, options = tell or (lambda _: None), options or ExtractOptions()
    train, val = ClassFolders.read(root / "train"), ClassFolders.read(root / "val")
    val = val.with_classes(train.classes)
    cards, skipped = available(
        cards,
        on_unavailable=options.on_unavailable,
        weights_paths=options.weights_paths,
        weights_dir=options.weights_dir,
        needed=lambda card: not stored(store, card),
    )
    say(f"{len(train.classes):,} classes, {train.n:,} training and {val.n:,} validation images.")
    with progress_bars(quiet=not progress) as bars:
        stream = _Stream(cards, store, options, files_at_once, Whole(bars, train.n + val.n))
        heads, n_train = _fit(stream, train, bars, say)
        counts = _evaluate(stream, val, heads, bars)
    if not counts.n:
        raise DataError(f"No image of {root / 'val'} could be read.", remedy="See the quarantine list for the reasons.")
    columns = stream.columns
    scores = {}
    for name, head in heads.items():
        where = columns[name]
        scores[name] = TopScores(
            encoders=tuple(card.name for card in cards) if name == FUSION else (name,),
            dim=where.stop - where.start,
            shrinkage=head.shrinkage,
            **counts.shares(name),
        )
    return ImageNetOutcome(
        classes=len(train.classes),
        n_train=n_train,
        n_val=counts.n,
        scores=scores,
        skipped=skipped,
        quarantined=tuple(stream.quarantined),
    )


@dataclass(eq=False)
class _Stream:
    """Embeds class folders block by block, and hands the rows out."""

    cards: Sequence[EncoderCard]
    store: EmbeddingStore
    options: ExtractOptions
    files_at_once: int
    progress: Progress
    quarantined: list[Quarantined] = field(default_factory=list)

    @property
    def columns(self) -> dict[str, slice]:
        """Columns of every encoder, and of the fusion where there are several."""
        ends = np.cumsum([card.dim for card in self.cards]).tolist()
        found = {card.name: slice(end - card.dim, end) for card, end in zip(self.cards, ends, strict=True)}
        return found | ({FUSION: slice(0, ends[-1])} if len(ends) > 1 else {})

    def embed(self, folders: ClassFolders) -> Iterator[tuple[NDArray[np.bytes_], NDArray[np.int64]]]:
        """Embed the images, and yield contents and labels of one block of files after the other."""
        for samples in folders.blocks(self.files_at_once):
            done = extract(samples, self.cards, store=self.store, options=self.options, progress=self.progress)
            # What the first block decides holds for all of them, and for reading them again.
            self.options = replace(self.options, precisions=done.precisions)
            self.quarantined += done.quarantined
            if done.samples.labels is not None:
                yield done.contents, done.samples.labels

    def rows(
        self, contents: NDArray[np.bytes_], labels: NDArray[np.int64], keep: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield the embeddings of the images to keep, side by side, a few thousand at a time."""
        wanted = np.flatnonzero(keep)
        folders = [
            self.store.open(card, precision=self.options.precisions.get(card.name, "fp32")) for card in self.cards
        ]
        for start in range(0, len(wanted), ROWS_AT_ONCE):
            rows = wanted[start : start + ROWS_AT_ONCE]
            yield np.concatenate([folder.read(contents[rows]) for folder in folders], axis=1), labels[rows]


class _Counts:
    """How often a class was among the first."""

    def __init__(self, names: Sequence[str]) -> None:
        self.n = 0
        self.hits = {name: np.zeros(MANY, dtype=np.int64) for name in names}

    def add(self, heads: dict[str, LinearScores], columns: dict[str, slice], rows: Any, labels: Any) -> None:
        self.n += len(labels)
        for name, head in heads.items():
            ranks = head.ranks(rows[:, columns[name]], labels)
            self.hits[name] += np.cumsum(np.bincount(ranks, minlength=MANY)[:MANY])

    def shares(self, name: str) -> dict[str, float]:
        from scipy.stats import binomtest

        found: dict[str, float] = {}
        for top, place in ((1, 0), (MANY, MANY - 1)):
            hits = int(self.hits[name][place])
            ends = binomtest(hits, self.n).proportion_ci(method="wilson")
            found |= {f"top_{top}": hits / self.n, f"low_{top}": float(ends.low), f"high_{top}": float(ends.high)}
        return found


def _fit(
    stream: _Stream, train: ClassFolders, progress: Progress, say: Callable[[str], None]
) -> tuple[dict[str, LinearScores], int]:
    """Fit a head per encoder and one for the fusion; how far each is shrunk is chosen on held-out training images."""
    columns = stream.columns
    dim = max(where.stop for where in columns.values())
    kept = Moments(dim, len(train.classes))
    blocks = []
    progress.begin("moments", train.n)
    for contents, labels in stream.embed(train):
        held = _held_out(contents)
        blocks.append((contents[held], labels[held]))
        for rows, row_labels in stream.rows(contents, labels, ~held):
            kept.add(rows, row_labels)
            progress.advance("moments", len(row_labels))
    if not kept.n:
        raise DataError("Too few training images could be read.", remedy="See the quarantine list for the reasons.")
    shrinkage = _choose_shrinkage(stream, kept, blocks, columns)
    held_moments = Moments(dim, len(train.classes), shift=kept.shift)
    for contents, labels in blocks:
        for rows, row_labels in stream.rows(contents, labels, np.ones(len(labels), dtype=np.bool_)):
            held_moments.add(rows, row_labels)
            progress.advance("moments", len(row_labels))
    kept.merge(held_moments)
    said = ", ".join(f"{name} {value:g}" for name, value in shrinkage.items())
    say(f"Shrinkage, by top-1 accuracy on {held_moments.n:,} training images that were held out: {said}.")
    heads = {name: LinearScores.fit(kept, where, shrinkage=shrinkage[name]) for name, where in columns.items()}
    return heads, kept.n


def _choose_shrinkage(
    stream: _Stream,
    kept: Moments,
    blocks: Sequence[tuple[NDArray[np.bytes_], NDArray[np.int64]]],
    columns: dict[str, slice],
) -> dict[str, float]:
    chosen = {}
    for name, where in columns.items():
        heads = {f"{value:g}": LinearScores.fit(kept, where, shrinkage=value) for value in SHRINKAGES}
        counts = _Counts(list(heads))
        for contents, labels in blocks:
            for rows, row_labels in stream.rows(contents, labels, np.ones(len(labels), dtype=np.bool_)):
                counts.add(heads, dict.fromkeys(heads, where), rows, row_labels)
        # Of equal ones the strongest: where nothing was held out, nothing speaks for trusting the covariance.
        chosen[name] = max(SHRINKAGES, key=lambda value: (counts.hits[f"{value:g}"][0], value))
    return chosen


def _evaluate(stream: _Stream, val: ClassFolders, heads: dict[str, LinearScores], progress: Progress) -> _Counts:
    counts, columns = _Counts(list(heads)), stream.columns
    progress.begin("scoring", val.n)
    for contents, labels in stream.embed(val):
        for rows, row_labels in stream.rows(contents, labels, np.ones(len(labels), dtype=np.bool_)):
            counts.add(heads, columns, rows, row_labels)
            progress.advance("scoring", len(row_labels))
    return counts


def _held_out(contents: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Tell by content, so that order does not matter and copies of an image stay on one side."""
    first = np.frombuffer(contents.tobytes(), dtype=np.uint8).reshape(len(contents), -1)[:, 0]
    return np.asarray(first < HELD_OUT)
