"""The one table every data source becomes."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError, LeakageError, UnreadableImageError, option
from biofuse.core.hashing import Contents, no_contents
from biofuse.core.progress import Progress, Silent
from biofuse.core.target import Labels, Target, Task
from biofuse.data.cuts import Bag, Source, content_of, of_samples, ranges
from biofuse.data.decoding import DecodePolicy, ItemSource, PillowSource
from biofuse.data.labels import listing

SPLITS = ("train", "val", "test")
"""Names of the splits; the first two are development data."""

PER_ROW = ("labels", "splits", "groups", "weights", "contents", "opened")
"""Arrays of :class:`Samples` that have a row for each sample, where there are any."""


@dataclass(frozen=True)
class EmbeddedSource:
    """The :class:`Source` of a sample that is known by its embeddings alone.

    Attributes
    ----------
    description : str
    """

    description: str

    def read(self) -> bytes:
        """Refuse to be read.

        Raises
        ------
        UnreadableImageError
            Always.
        """
        raise UnreadableImageError(f"{self.description} is known by its embeddings alone: it has no image.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """An immutable, ordered table of labelled images.

    Attributes
    ----------
    ids : ndarray of str (dtype object), shape (n,)
        Unique, stable names: they do not depend on the order of the rows.
    sources : tuple of Source
        Where each image is read from; of a sample of several images a :class:`biofuse.data.cuts.Bag`.
    labels : ndarray or None
        What was found of each sample, as :class:`biofuse.core.target.Target` says: class indices, zeros and ones,
        values, or times and events. None where the data are unlabelled.
    classes : tuple of str
        Names of classes, labels, columns of values, or horizons; one table for all splits.
    task : Task or None
        None where the data are unlabelled.
    splits : ndarray of str (dtype object), shape (n,), or None
        "train", "val" or "test" for every sample; None while no split has been made.
    groups : ndarray of str (dtype object), shape (n,), or None
        Samples of one group (patient, slide) must stay together.
    weights : ndarray of float64, shape (n,), or None
        How much each sample counts where something is fitted, positive; None where all count alike.
    by : mapping of str to ndarray of str (dtype object), shape (n,)
        Columns by whose values scores are given, one by one; nothing is learned from them. Blank where unknown.
    site : str or None
        Which of them holds the sites: hospitals, scanners.
    contents : ndarray of S16, shape (n,), or None
        Content hash of each sample, found once by :func:`hash_samples` and carried from then on: that of its image, or
        of its bag; empty where an image has not been read yet or cannot be. None where none has been read.
    image_contents : ndarray of S16, shape (n_images,), or None
        Where there are bags, the content hashes of all images, sample by sample.
    opened : ndarray of tuple of FileFacts (dtype object), shape (n,), or None
        What the files of each sample say of themselves, where any was opened: a volume, a slide.
    decode : DecodePolicy
        How files become pixels; part of every content hash (see :meth:`decoded_by`).
    name : str
        What the data set is called in logs and reports.
    notes : tuple of str
        What was recognised, chosen and passed over when the data were read: said before any work.
    warnings : tuple of str
        What a careful person would look at before going on.
    """

    ids: NDArray[np.object_]
    sources: tuple[Source, ...]
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    task: Task | None = None
    splits: NDArray[np.object_] | None = None
    groups: NDArray[np.object_] | None = None
    weights: NDArray[np.float64] | None = None
    by: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    site: str | None = None
    contents: Contents | None = None
    image_contents: Contents | None = None
    opened: NDArray[np.object_] | None = None
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    name: str = "data"
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.ids)
        named = {name: getattr(self, name) for name in (*PER_ROW, "sources")}
        for column, values in {**self.by, **named}.items():
            if values is not None and len(values) != n:
                raise DataError(f"{self.name}: {n} ids but {len(values)} {column}.")
        unique, counts = np.unique(self.ids.astype(str), return_counts=True)
        if len(unique) != n:
            raise DataError(
                f"{self.name}: {int((counts > 1).sum())} sample ids occur more than once, "
                f"such as {str(unique[counts > 1][0])!r}.",
                remedy="Give every row its own id, or leave the id column out: paths are used then.",
            )
        if self.labels is not None and self.task is None:
            raise DataError(f"{self.name}: labels without a task.")
        if self.image_contents is not None and len(self.image_contents) != self.n_images:
            raise DataError(f"{self.name}: {self.n_images} images but {len(self.image_contents)} image contents.")

    def __repr__(self) -> str:
        images = f"{len(self)} samples of {self.n_images} images" if self.bagged else f"{len(self)} samples"
        facts = [images, "no labels" if self.task is None else str(self.task)]
        if self.classes:
            counted = f"{len(self.classes)} classes" if self.task is None else Target(self.task, self.classes).counted
            shown = ", ".join(self.classes[:4]) + (", ..." if len(self.classes) > 4 else "")
            facts.append(f"{counted} ({shown})")
        if self.splits is not None:
            names, counts = np.unique(self.splits.astype(str), return_counts=True)
            facts.append(", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True)))
        if self.groups is not None:
            facts.append(f"{len(set(self.groups.tolist()))} groups")
        return f"<Samples {self.name}: {'; '.join(facts)}>"

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def bagged(self) -> bool:
        """Whether any sample is a bag."""
        return any(isinstance(source, Bag) for source in self.sources)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many images each sample has, shape (n,)."""
        return np.array([len(source) if isinstance(source, Bag) else 1 for source in self.sources], dtype=np.int64)

    @property
    def n_images(self) -> int:
        """Images of all samples."""
        return int(self.sizes.sum()) if self.bagged else len(self)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The sample that each image belongs to, shape (n_images,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def images(self) -> Self:
        """Return the images one by one: what is embedded and stored. Samples without a bag are returned as they are.

        Their ids are those of the samples, with the number of the image in its bag: ``patient7#003``.
        """
        if not self.bagged:
            return self
        ids, sources = [], list[Source]()
        for name, source in zip(self.ids.tolist(), self.sources, strict=True):
            several = source.images if isinstance(source, Bag) else (source,)
            ids += [f"{name}#{number:03d}" for number in range(len(several))]
            sources += several
        return type(self)(
            ids=object_array(ids),
            sources=tuple(sources),
            splits=None if self.splits is None else self.splits[self.owners],
            groups=None if self.groups is None else self.groups[self.owners],
            contents=self.image_contents,
            decode=self.decode,
            name=self.name,
        )

    def take(self, rows: Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Return the given rows, in the given order (indices or a boolean mask)."""
        chosen = np.asarray(rows)
        # An empty list has no type of its own, and NumPy would take it for floating point.
        index = np.arange(len(self))[chosen if chosen.size else chosen.astype(np.int64)]
        columns = {name: getattr(self, name) for name in PER_ROW}
        return replace(
            self,
            ids=self.ids[index],
            sources=tuple(self.sources[i] for i in index),
            by={name: values[index] for name, values in self.by.items()},
            image_contents=None if self.image_contents is None else self.image_contents[self._images_of(index)],
            **{name: values[index] for name, values in columns.items() if values is not None},
        )

    def decoded_by(self, decode: DecodePolicy) -> Self:
        """Return the samples under another decode policy; content hashes, of which it is a part, are then unknown."""
        return self if decode == self.decode else replace(self, decode=decode, contents=None, image_contents=None)

    def _images_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of the images of some samples among all images."""
        return ranges(np.cumsum(self.sizes)[rows] - self.sizes[rows], self.sizes[rows])

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings and notes as lines, to be said before any work."""
        return (*(f"Warning: {warning}" for warning in self.warnings), *self.notes)

    @property
    def target(self) -> Target | None:
        """What is to be predicted; None for samples without labels."""
        return None if self.task is None else Target(self.task, self.classes)

    def in_split(self, *names: str) -> Self:
        """Return the samples of the named splits, in table order.

        Raises
        ------
        DataError
            If the table has no splits yet.
        """
        if self.splits is None:
            raise DataError(
                f"{self.name} has no splits.", remedy="Call biofuse.data.splits.with_splits(samples) first."
            )
        return self.take(np.isin(self.splits.astype(str), names))


def check_groups(samples: Samples) -> None:
    """Refuse splits that tear a group apart.

    Raises
    ------
    LeakageError
        If a group (patient, slide) has samples in more than one split.
    """
    torn = groups_across_splits(samples)
    if torn:
        named = [f"{group} ({', '.join(splits)})" for group, splits in torn.items()]
        raise LeakageError(
            f"{samples.name}: {len(torn)} group(s) lie in more than one split: {listing(named)}.",
            remedy=f"Keep every group in one split, or have splits made by group: {option('use_splits', False)}.",
        )


def groups_across_splits(samples: Samples) -> dict[str, tuple[str, ...]]:
    """Return the groups that have samples in more than one split, with those splits."""
    if samples.groups is None or samples.splits is None:
        return {}
    found: dict[str, set[str]] = {}
    for group, split in zip(samples.groups.tolist(), samples.splits.tolist(), strict=True):
        found.setdefault(group, set()).add(split)
    return {
        group: tuple(split for split in SPLITS if split in splits)
        for group, splits in sorted(found.items())
        if len(splits) > 1
    }


def row_id(row: int) -> str:
    """Name a row by its number, so that names sort in the order of the rows: ``000012``."""
    return f"{row:06d}"


def object_array(values: Sequence[object]) -> NDArray[np.object_]:
    """Return strings as an object array, the type of ids, splits and groups."""
    array = np.empty(len(values), dtype=object)
    array[:] = [str(value) for value in values]
    return array


THREADS = 8
"""Reading waits for the disk and hashing releases the interpreter lock, so threads pay even on few cores."""


def hash_samples(
    samples: Samples, *, rows: NDArray[np.bool_] | None = None, progress: Progress | None = None
) -> tuple[Samples, dict[int, UnreadableImageError]]:
    """Fill in the content hashes that are not known yet, reading each of these images once.

    Parameters
    ----------
    samples : Samples
    rows : ndarray of bool, shape (n,), optional
        Only these; the others stay unread.
    progress : Progress, optional

    Returns
    -------
    samples : Samples
        With ``contents``.
    reasons : dict of int to UnreadableImageError
        Why a row could not be read; its content stays empty. Whether that is an error is the caller's choice.
    """
    images = samples.images()
    contents = no_contents(len(images)) if images.contents is None else images.contents.copy()
    wanted = contents == b"" if rows is None else (contents == b"") & rows[samples.owners]
    unknown = np.flatnonzero(wanted).tolist()
    if not unknown and images.contents is not None and samples.contents is not None:
        return samples, {}
    progress = progress or Silent()
    progress.begin("reading", len(unknown))
    reasons: dict[int, UnreadableImageError] = {}
    for row, outcome in zip(unknown, _outcomes(images, unknown), strict=True):
        if isinstance(outcome, UnreadableImageError):
            reasons.setdefault(int(samples.owners[row]) if samples.bagged else row, outcome)
        else:
            contents[row] = outcome
        progress.advance("reading", 1)
    if not samples.bagged:
        return replace(samples, contents=contents), reasons
    return replace(samples, contents=of_samples(samples.sources, contents), image_contents=contents), reasons


AT_ONCE = 16
"""Files that a thread reads before it says so: one by one, handing them out takes as long as reading them."""


def _outcomes(samples: Samples, rows: Sequence[int]) -> Iterator[bytes | UnreadableImageError]:
    def outcome(row: int) -> bytes | UnreadableImageError:
        try:
            return content_of(samples.sources[row], samples.decode)
        except UnreadableImageError as error:
            return error

    # Rows of other libraries' data sets may share one open file, and threads would mix up what they read from it.
    alone = any(isinstance(source, ItemSource | PillowSource) for source in samples.sources)
    with ThreadPoolExecutor(1 if alone else THREADS) as threads:
        some = [rows[begin : begin + AT_ONCE] for begin in range(0, len(rows), AT_ONCE)]
        for found in threads.map(lambda part: [outcome(row) for row in part], some):
            yield from found


NAMED = 5
"""Unreadable files named in an error; `biofuse check` lists them all."""


def refuse_unreadable(reasons: Mapping[int, UnreadableImageError], *, otherwise: str) -> None:
    """Name the first of the images that cannot be read, if there are any, with what each needs.

    Parameters
    ----------
    reasons : mapping of int to UnreadableImageError
        By row.
    otherwise : str
        What can be done about all of them, after the remedies of the causes.

    Raises
    ------
    UnreadableImageError
        If there are any.
    """
    if reasons:
        first = [reasons[row] for row in sorted(reasons)[:NAMED]]
        more = f"\n... and {len(reasons) - NAMED} more." if len(reasons) > NAMED else ""
        remedies = dict.fromkeys([*(error.remedy for error in first if error.remedy), otherwise])
        raise UnreadableImageError("\n".join(error.message for error in first) + more, remedy="\n".join(remedies))


def require_contents(samples: Samples) -> tuple[Samples, Contents]:
    """Return samples whose content hashes are all known, and these hashes.

    Raises
    ------
    UnreadableImageError
        If a file cannot be read.
    """
    samples, reasons = hash_samples(samples)
    refuse_unreadable(reasons, otherwise="Or take these files out of the data set.")
    return samples, known_contents(samples)


def contents_of_images(samples: Samples) -> Contents:
    """Return the content hashes of the images of samples that have been read, shape (n_images,).

    Raises
    ------
    DataError
        If they have not.
    """
    return known_contents(samples.images())


def known_contents(samples: Samples) -> Contents:
    """Return the content hashes of samples that have been read.

    Raises
    ------
    DataError
        If they have not.
    """
    if samples.contents is None:
        raise DataError(f"{samples.name} has not been read.", remedy="Call biofuse.data.samples.hash_samples first.")
    return samples.contents
