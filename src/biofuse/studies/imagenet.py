"""ImageNet, or any class folders of any size: read, embedded and learned from block by block, in bounded memory."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, DataError, SearchError
from biofuse.core.linear import ROWS_AT_ONCE, Matrix64, slices
from biofuse.core.progress import Progress, Tell, progress_bars
from biofuse.core.target import Task
from biofuse.data.decoding import FileSource
from biofuse.data.lookup import is_image_name
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.doctor import Skipped, available
from biofuse.extract.embeddings import Quarantined
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.report.content import Table
from biofuse.report.html import TablePage
from biofuse.store.store import EmbeddingStore

READING = "reading"
"""How the extraction calls its reading and hashing of files."""

LAYOUT = "ImageNet's layout is train/<class>/*.JPEG and val/<class>/*.JPEG."


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Images in ``<class>/`` folders, whose names are read when they are needed.

    Attributes
    ----------
    root : Path
    classes : tuple of str
        Names that labels count in.
    counts : dict of str to int
        Images of each class folder, in the order of their names.
    """

    root: Path
    classes: tuple[str, ...]
    counts: dict[str, int]

    @classmethod
    def read(cls, root: Path) -> Self:
        """Count the images of every class folder.

        Raises
        ------
        DataError
            If there is no such folder, no class folder in it, or images lie beside the class folders.
        """
        if not root.is_dir():
            raise DataError(f"{root} is no folder.", remedy=LAYOUT)
        with os.scandir(root) as entries:
            there = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
        loose = [name for name, folder in there if not folder and is_image_name(Path(name))]
        if loose:
            raise DataError(
                f"{len(loose)} images lie in {root} itself, e.g. {loose[0]}, so they have no class.",
                remedy=f"{LAYOUT} Sort them into class folders by the list that came with them.",
            )
        counts = {name: len(_images(root / name)) for name, folder in there if folder}
        counts = {name: count for name, count in counts.items() if count}
        if len(counts) < 2:
            raise DataError(f"{root} holds images of {len(counts)} classes.", remedy=LAYOUT)
        return cls(root=root, classes=tuple(counts), counts=counts)

    @property
    def n(self) -> int:
        """Number of images."""
        return sum(self.counts.values())

    def with_classes(self, classes: tuple[str, ...]) -> Self:
        """Count labels in another table of classes.

        Raises
        ------
        DataError
            If a class here is not in it.
        """
        unknown = [name for name in self.counts if name not in set(classes)]
        if unknown:
            raise DataError(
                f"{len(unknown)} classes of {self.root} have no training images, e.g. {unknown[0]}.", remedy=LAYOUT
            )
        return replace(self, classes=classes)

    def blocks(self, size: int) -> Iterator[Samples]:
        """Yield all images as samples, at most ``size`` at a time, class after class."""
        label = {name: place for place, name in enumerate(self.classes)}
        names: list[str] = []
        for folder in self.counts:
            names += [f"{folder}/{file}" for file in _images(self.root / folder)]
            while len(names) >= size:
                yield self._samples(names[:size], label)
                names = names[size:]
        if names:
            yield self._samples(names, label)

    def _samples(self, names: list[str], label: dict[str, int]) -> Samples:
        return Samples(
            ids=np.array(names, dtype=object),
            sources=tuple(FileSource(self.root / name) for name in names),
            labels=np.array([label[name.partition("/")[0]] for name in names], dtype=np.int64),
            classes=self.classes,
            task=Task.MULTICLASS,
            name=self.root.name,
        )


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_image_name(Path(entry.name)) and entry.name[0] != ".")


class BlockProgress:
    """Progress of work that comes in blocks, shown as one piece; what a block need not do again counts as done.

    Parameters
    ----------
    inner : Progress
    total : int
        Images in all blocks together.
    """

    def __init__(self, inner: Progress, total: int) -> None:
        self._inner = inner
        self._total = total
        self._done: dict[str, int] = {}
        self._before = 0
        self._block = 0

    def begin(self, task: str, total: int) -> None:
        """Announce a task once; afterwards, catch up with what this block and those before it had not to do again."""
        if task == READING:  # the first task of every block, and of all its images
            self._before, self._block = self._before + self._block, total
        if task not in self._done:
            self._done[task] = 0
            self._inner.begin(task, self._total)
        self.advance(task, self._before + self._block - total - self._done[task])

    def advance(self, task: str, units: int) -> None:
        """Pass it on."""
        self._done[task] += units
        self._inner.advance(task, units)


CONSTANT = 1e-10
"""Columns with less than this share of the mean variance count as constant."""


class Moments:
    """Counts, class sums and second moment of rows that come block by block.

    Parameters
    ----------
    dim : int
        Columns.
    n_classes : int
    shift : ndarray of float64, shape (dim,), optional
        Taken from every row, so that large means cost no precision; by default the mean of the first block.
    """

    def __init__(self, dim: int, n_classes: int, *, shift: Matrix64 | None = None) -> None:
        self.shift = shift
        self.counts = np.zeros(n_classes, dtype=np.int64)
        self.sums = np.zeros((n_classes, dim))
        self.second = np.zeros((dim, dim))

    @property
    def n(self) -> int:
        """Rows seen."""
        return int(self.counts.sum())

    def add(self, rows: NDArray[np.floating], labels: NDArray[np.int64]) -> None:
        """Take one block of rows, shape (n, dim), and their classes, shape (n,).

        Raises
        ------
        AlignmentError
            If rows and labels do not belong together.
        """
        if rows.shape != (len(labels), self.second.shape[0]):
            raise AlignmentError(f"{rows.shape} rows for {len(labels)} labels and {self.second.shape[0]} columns.")
        if not len(labels):
            return
        if self.shift is None:
            self.shift = rows.mean(axis=0, dtype=np.float64)
        centred = rows.astype(np.float64) - self.shift
        self.second += centred.T @ centred
        self.counts += np.bincount(labels, minlength=len(self.counts))
        # By class, in one product: far faster than adding at 1,000 places.
        present, place = np.unique(labels, return_inverse=True)
        indicator = np.zeros((len(present), len(labels)))
        indicator[place, np.arange(len(labels))] = 1
        self.sums[present] += indicator @ centred

    def merge(self, other: "Moments") -> None:
        """Take the rows of another that has the same shift.

        Raises
        ------
        AlignmentError
            If it has not.
        """
        if other.n and (self.shift is None or other.shift is None or not np.array_equal(self.shift, other.shift)):
            raise AlignmentError("Moments around different points cannot be added.")
        self.counts += other.counts
        self.sums += other.sums
        self.second += other.second


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedDiscriminant:
    """A linear function per class, solved for from moments.

    Attributes
    ----------
    coef : ndarray of float64, shape (d, n_classes)
    intercept : ndarray of float64, shape (n_classes,)
        Minus infinity for classes without a training row.
    shrinkage : float
    """

    coef: Matrix64
    intercept: Matrix64
    shrinkage: float

    @classmethod
    def fit(cls, moments: Moments, columns: slice, *, shrinkage: float) -> Self:
        """Solve for the discriminants of some columns.

        One Gaussian per class, all of the covariance within classes, whose correlations are shrunk towards zero; priors
        are the classes' shares of the rows. Without shrinkage this is scikit-learn's
        ``LinearDiscriminantAnalysis(solver="lsqr")``.

        Parameters
        ----------
        moments : Moments
        columns : slice
            Of an encoder, or of all.
        shrinkage : float
            0 to 1.

        Raises
        ------
        SearchError
            If there is no training row.
        """
        from scipy.linalg import cho_factor, cho_solve

        if not moments.n or moments.shift is None:
            raise SearchError("There is no training row to learn from.")
        seen = moments.counts > 0
        counts, sums = moments.counts[seen], moments.sums[seen, columns]
        means = sums / counts[:, None]
        within = sums.T @ means  # in place from here on: with many encoders this is a matrix of half a gigabyte
        np.subtract(moments.second[columns, columns], within, out=within)
        within /= moments.n
        variance = np.diag(within).copy()
        scale = np.sqrt(np.where(variance > CONSTANT * max(variance.mean(), 1e-300), variance, 1.0))
        within *= (1 - shrinkage) / scale
        within /= scale[:, None]
        # A constant column has no correlation with anything, and a variance that any row would contradict.
        within[np.diag_indices_from(within)] = 1.0
        try:
            root = cho_factor(within, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError as error:
            raise SearchError(
                f"{len(variance)} columns of {moments.n} rows depend on one another.", remedy="Shrink the covariance."
            ) from error
        # Around the mean of all rows, so that the functions do not depend on where the moments were taken.
        centre = sums.sum(axis=0) / moments.n
        means -= centre
        coef = np.zeros((len(variance), len(moments.counts)))
        coef[:, seen] = cho_solve(root, (means / scale).T, check_finite=False) / scale[:, None]
        intercept = np.full(len(moments.counts), -np.inf)
        lengths = np.einsum("ij,ji->i", means, coef[:, seen])
        intercept[seen] = np.log(counts / moments.n) - 0.5 * lengths - (moments.shift[columns] + centre) @ coef[:, seen]
        return cls(coef=coef, intercept=intercept, shrinkage=shrinkage)

    def ranks(self, rows: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place of each row's own class among all classes by score: 0 for the first, shape (n,).

        Of equal scores the class that comes first in the table comes first.
        """
        scores = rows.astype(np.float64) @ self.coef + self.intercept
        own = scores[np.arange(len(labels)), labels][:, None]
        earlier = np.arange(scores.shape[1]) < labels[:, None]
        return np.asarray((scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1), dtype=np.int64)


FILES_AT_ONCE = 65_536
"""Images whose names, hashes and sources are held at a time."""

HELD_OUT_BELOW = 13
"""Training images whose content hash begins with a byte below this choose the shrinkage: 13 of 256, about 5 %."""

SHRINKAGES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3)
"""From next to nothing to a third; chosen by top-1 accuracy on the held-out training images."""

METHOD = "Linear discriminant analysis on frozen embeddings, fitted on the training images alone."

TOP = 5
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
class ImageNetOutcome(TablePage):
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
    title = "ImageNet benchmark"

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
            (
                f"all {len(score.encoders)} fused" if name == FUSION else name,
                f"{score.dim:,}",
                f"{score.top_1:.4f} ({score.low_1:.4f}\u2013{score.high_1:.4f})",
                f"{score.top_5:.4f} ({score.low_5:.4f}\u2013{score.high_5:.4f})",
                f"{score.shrinkage:g}",
            )
            for name, score in self.scores.items()
        ]
        return [
            Table.of(
                "Validation accuracy of linear heads, with 95 % intervals",
                ("encoder", "columns", "top-1", f"top-{min(TOP, self.classes)}", "shrinkage"),
                rows,
                aligned=("columns", "shrinkage"),
            )
        ]

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
        weights_dir=options.weights_dir,
        needed=lambda card: not store.has(card),
    )
    say(f"{len(train.classes):,} classes, {train.n:,} training and {val.n:,} validation images.")
    with progress_bars(progress) as bars:
        kept = store if options.use_store else store.in_memory()
        stream = _Stream(cards, kept, options, files_at_once, BlockProgress(bars, train.n + val.n))
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
            self.options = self.options.but(precisions=done.precisions)
            self.quarantined += done.quarantined
            if done.samples.labels is not None:
                yield done.contents, done.samples.labels.astype(np.int64)

    def rows(
        self, contents: NDArray[np.bytes_], labels: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield the embeddings of images, side by side, a few thousand at a time."""
        folders = [
            self.store.open(card, precision=self.options.precisions.get(card.name, "fp32")) for card in self.cards
        ]
        for part in slices(len(labels), ROWS_AT_ONCE):
            yield np.concatenate([folder.read(contents[part]) for folder in folders], axis=1), labels[part]


class _Hits:
    """How often a class was among the first."""

    def __init__(self, names: Sequence[str]) -> None:
        self.n = 0
        self.hits = {name: np.zeros(TOP, dtype=np.int64) for name in names}

    def add(self, heads: dict[str, StreamedDiscriminant], columns: dict[str, slice], rows: Any, labels: Any) -> None:
        self.n += len(labels)
        for name, head in heads.items():
            ranks = head.ranks(rows[:, columns[name]], labels)
            self.hits[name] += np.cumsum(np.bincount(ranks, minlength=TOP)[:TOP])

    def shares(self, name: str) -> dict[str, float]:
        from scipy.stats import binomtest

        found: dict[str, float] = {}
        for top, place in ((1, 0), (TOP, TOP - 1)):
            hits = int(self.hits[name][place])
            ends = binomtest(hits, self.n).proportion_ci(method="wilson")
            found |= {f"top_{top}": hits / self.n, f"low_{top}": float(ends.low), f"high_{top}": float(ends.high)}
        return found


def _fit(
    stream: _Stream, train: ClassFolders, progress: Progress, say: Callable[[str], None]
) -> tuple[dict[str, StreamedDiscriminant], int]:
    """Fit a head per encoder and one for the fusion; how far each is shrunk is chosen on held-out training images."""
    columns = stream.columns
    dim = max(where.stop for where in columns.values())
    kept = Moments(dim, len(train.classes))
    blocks = []
    progress.begin("moments", train.n)
    for contents, labels in stream.embed(train):
        held = _held_out(contents)
        blocks.append((contents[held], labels[held]))
        for rows, row_labels in stream.rows(contents[~held], labels[~held]):
            kept.add(rows, row_labels)
            progress.advance("moments", len(row_labels))
    if not kept.n:
        raise DataError("Too few training images could be read.", remedy="See the quarantine list for the reasons.")
    shrinkage = _choose_shrinkage(stream, kept, blocks, columns)
    held_moments = Moments(dim, len(train.classes), shift=kept.shift)
    for contents, labels in blocks:
        for rows, row_labels in stream.rows(contents, labels):
            held_moments.add(rows, row_labels)
            progress.advance("moments", len(row_labels))
    kept.merge(held_moments)
    said = ", ".join(f"{name} {value:g}" for name, value in shrinkage.items())
    say(f"Shrinkage, by top-1 accuracy on {held_moments.n:,} training images that were held out: {said}.")
    heads = {name: StreamedDiscriminant.fit(kept, where, shrinkage=shrinkage[name]) for name, where in columns.items()}
    return heads, kept.n


def _choose_shrinkage(
    stream: _Stream,
    kept: Moments,
    blocks: Sequence[tuple[NDArray[np.bytes_], NDArray[np.int64]]],
    columns: dict[str, slice],
) -> dict[str, float]:
    chosen = {}
    for name, where in columns.items():
        heads = {f"{value:g}": StreamedDiscriminant.fit(kept, where, shrinkage=value) for value in SHRINKAGES}
        counts = _Hits(list(heads))
        for contents, labels in blocks:
            for rows, row_labels in stream.rows(contents, labels):
                counts.add(heads, dict.fromkeys(heads, where), rows, row_labels)
        # Of equal ones the strongest: where nothing was held out, nothing speaks for trusting the covariance.
        chosen[name] = max(SHRINKAGES, key=lambda value: (counts.hits[f"{value:g}"][0], value))
    return chosen


def _evaluate(stream: _Stream, val: ClassFolders, heads: dict[str, StreamedDiscriminant], progress: Progress) -> _Hits:
    counts, columns = _Hits(list(heads)), stream.columns
    progress.begin("scoring", val.n)
    for contents, labels in stream.embed(val):
        for rows, row_labels in stream.rows(contents, labels):
            counts.add(heads, columns, rows, row_labels)
            progress.advance("scoring", len(row_labels))
    return counts


def _held_out(contents: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Tell by content, so that order does not matter and copies of an image stay on one side."""
    first = np.frombuffer(contents.tobytes(), dtype=np.uint8).reshape(len(contents), -1)[:, 0]
    return np.asarray(first < HELD_OUT_BELOW)
