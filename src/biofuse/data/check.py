"""What is in a data set, what is suspicious about it, and what would keep a model from being fitted to it."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError, UnreadableImageError, advised, option
from biofuse.core.hashing import Contents, no_contents, to_hex
from biofuse.core.progress import Progress, Silent
from biofuse.core.target import Labels
from biofuse.data.cuts import UNREADABLE, Cut, FileFacts, Source, of_samples
from biofuse.data.decoding import DecodePolicy, ImageFacts, Remarks, content_hash, decode_with_facts, pixel_hash
from biofuse.data.labels import listing
from biofuse.data.samples import SPLITS, Samples, groups_across_splits
from biofuse.data.splits import merge_groups
from biofuse.data.tile_embeddings import EmbeddedTile

WHOLE = "all"
"""What the single part of a data set without splits is called in a report."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Samples of one split whose content also occurs in another.

    Attributes
    ----------
    split, other : str
        Which split's samples are counted, and where their content occurs again.
    n : int
        How many.
    n_split : int
        Samples in ``split``.
    by_class : dict of str to int
        ``n`` by class (a multi-label sample counts for each of its labels).
    """

    split: str
    other: str
    n: int
    n_split: int
    by_class: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Identical images inside one split.

    Attributes
    ----------
    split : str
        The split.
    n_repeated : int
        Samples that have at least one identical sample in this split, first ones included.
    n_contents : int
        Different contents among them.
    n_extra : int
        Samples that would go if one of each content were kept: ``n_repeated - n_contents``.
    """

    split: str
    n_repeated: int
    n_contents: int
    n_extra: int


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Identical images with different labels: ids and their labels, in table order."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DuplicateReport:
    """What is identical in a data set.

    Attributes
    ----------
    n_samples : int
        Rows compared; unreadable images are left out.
    sets : tuple of tuple of str
        Ids of samples with one content, for every content that occurs more than once.
    repeats : tuple of Repeats
        One per split that holds duplicates.
    overlaps : tuple of Overlap
        One per ordered pair of splits that share content, test before val before train.
    conflicts : tuple of Conflict
        Sets whose labels differ.
    pixels : DuplicateReport or None
        The same by decoded pixels: it also finds images saved again in another lossless format.
    """

    n_samples: int
    sets: tuple[tuple[str, ...], ...]
    repeats: tuple[Repeats, ...]
    overlaps: tuple[Overlap, ...]
    conflicts: tuple[Conflict, ...]
    pixels: "DuplicateReport | None" = None

    def overlap(self, split: str, other: str) -> Overlap | None:
        """Return how much of ``split`` occurs in ``other``; None where nothing does."""
        return next((pair for pair in self.overlaps if (pair.split, pair.other) == (split, other)), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def find_duplicates(samples: Samples, contents: Contents, pixels: Contents | None = None) -> DuplicateReport:
    """Compare all samples by content hash, and by pixel hash where given.

    Parameters
    ----------
    samples : Samples
        With or without labels and splits.
    contents : ndarray of S16, shape (n,)
        Content hashes; empty for an unreadable image.
    pixels : ndarray of S16, shape (n,), optional
        Pixel hashes.

    Raises
    ------
    DataError
        If there is not one hash per sample.
    """
    rows_of = _rows_by_content(samples, contents)
    repeated = [rows for rows in rows_of.values() if len(rows) > 1]
    splits = [WHOLE] * len(samples) if samples.splits is None else samples.splits.tolist()
    present = [split for split in (*SPLITS, WHOLE) if split in set(splits)]
    names = [_label_names(samples, row) for row in range(len(samples))]
    pairs = [(split, other) for split in reversed(present) for other in present if split != other]
    return DuplicateReport(
        n_samples=sum(len(rows) for rows in rows_of.values()),
        sets=tuple(tuple(samples.ids[rows].tolist()) for rows in repeated),
        repeats=tuple(again for split in present if (again := _repeats(split, repeated, splits)) is not None),
        overlaps=tuple(
            found for split, other in pairs if (found := _overlap(split, other, repeated, splits, names)) is not None
        ),
        conflicts=tuple(
            Conflict(ids=tuple(samples.ids[rows].tolist()), labels=tuple("|".join(names[row]) for row in rows))
            for rows in repeated
            if len({names[row] for row in rows}) > 1
        ),
        pixels=None if pixels is None else find_duplicates(samples, pixels),
    )


def _rows_by_content(samples: Samples, contents: Contents) -> dict[str, list[int]]:
    if len(contents) != len(samples):
        raise DataError(f"{samples.name}: {len(samples)} samples but {len(contents)} content hashes.")
    rows: dict[str, list[int]] = defaultdict(list)
    for row, content in enumerate(to_hex(contents)):
        if content:
            rows[content].append(row)
    return rows


def _repeats(split: str, repeated: list[list[int]], splits: list[str]) -> Repeats | None:
    counts = [sum(splits[row] == split for row in rows) for rows in repeated]
    inside = [count for count in counts if count > 1]
    if not inside:
        return None
    return Repeats(split=split, n_repeated=sum(inside), n_contents=len(inside), n_extra=sum(inside) - len(inside))


def _overlap(
    split: str, other: str, repeated: list[list[int]], splits: list[str], names: list[tuple[str, ...]]
) -> Overlap | None:
    shared = [
        row for rows in repeated if any(splits[row] == other for row in rows) for row in rows if splits[row] == split
    ]
    if not shared:
        return None
    by_class = Counter(name for row in shared for name in names[row])
    return Overlap(
        split=split, other=other, n=len(shared), n_split=splits.count(split), by_class=dict(by_class.most_common())
    )


def _label_names(samples: Samples, row: int) -> tuple[str, ...]:
    if samples.labels is None:
        return ()
    target = samples.target
    if target is not None and not target.categorical:
        return tuple(target.names(samples.labels[row : row + 1]))
    if samples.labels.ndim == 2:
        return tuple(samples.classes[label] for label in np.flatnonzero(samples.labels[row] == 1).tolist())
    return (samples.classes[int(samples.labels[row])],)


LOOKED_AT = 4096
"""Pixels a side of which grey levels are looked at; of larger images every second, third, ..."""
FLAT = 2.0
"""Images whose grey levels (0-255) vary by less than this standard deviation hardly show anything."""
TINY_CLASS = 10
"""Development samples below which a class's score is mostly chance; the usual "ten events" rule of thumb."""
IMBALANCE = 20
"""Ratio of the largest class to the smallest from which accuracy misleads; a rule of thumb."""
LONELY = "All development samples of {} are one group or one image: no fold can hold them out."
SHORTCUT = 0.15
"""How much better than the largest class a file property may guess the class before it is called a shortcut."""


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """An image that cannot be used: which, why, and what to do."""

    id: str
    description: str
    reason: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Least, middle and greatest of a number."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class FilesOfKind:
    """Files that had to be opened to find their images: volumes, slides, files of hospitals.

    Attributes
    ----------
    n : int
        Files.
    numbers : dict of str to Spread
        What they say of themselves in numbers, by its name and unit: slices, spacing.
    words : dict of str to dict of str to int
        What they say in words, and how many say so.
    """

    n: int
    numbers: dict[str, Spread]
    words: dict[str, dict[str, int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckReport:
    """Findings about a data set.

    Attributes
    ----------
    name : str
        The data set.
    n_samples : int
        Rows.
    n_images : int
        Images of all samples.
    sizes : Spread or None
        Images of a sample, where samples are bags of several.
    files : dict of str to FilesOfKind
        By what files are that had to be opened: "NIfTI volume".
    task : str or None
        None where unlabelled.
    classes : tuple of str
        The class table; of values their columns, of times to an event what is counted: events, and those censored.
    counts : dict of str to dict of str to int
        Samples by split and class; the split is "all" where there are none, and unlabelled data have no classes.
    numbers : dict of str to dict of str to Spread
        Where values or times lie, by split and column.
    split_sizes : dict of str to int
        Samples by split.
    n_groups : int or None
        None where there are no groups.
    torn_groups : dict of str to tuple of str
        Groups that lie in several splits, with the splits.
    width, height : Spread or None
        Pixels; None where no image can be read.
    modes, formats : dict of str to int
        Images by colour mode and by file format; what is cut from a file counts among ``files``.
    n_bytes : int
        Size of the undecoded images.
    duplicates : DuplicateReport
        Identical content within and across splits, of samples.
    shared : DuplicateReport or None
        The same of single images, where samples are bags of several.
    flat : tuple of str
        Ids of images that are nearly one colour.
    unreadable : tuple of UnreadableImage
        Images to repair, remove or quarantine.
    notes : tuple of str
        How the data were read: what was recognised, chosen and passed over.
    doubts : tuple of str
        How the data may be meant otherwise than they were read.
    refusals : tuple of str
        Why no model would be fitted to the data as they are, and what to do about it.
    warnings : tuple of str
        All findings that deserve thought, in words; the gravest first: doubts, refusals, leaks and counts, images.
    contents : ndarray of S16, shape (n,)
        Content hashes of the samples in table order, empty where unreadable; left out of :meth:`to_dict`.
    """

    name: str
    n_samples: int
    n_images: int
    sizes: Spread | None
    files: dict[str, FilesOfKind]
    task: str | None
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    numbers: dict[str, dict[str, Spread]]
    split_sizes: dict[str, int]
    n_groups: int | None
    torn_groups: dict[str, tuple[str, ...]]
    width: Spread | None
    height: Spread | None
    modes: dict[str, int]
    formats: dict[str, int]
    n_bytes: int
    duplicates: DuplicateReport
    shared: DuplicateReport | None
    flat: tuple[str, ...]
    unreadable: tuple[UnreadableImage, ...]
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    contents: Contents

    def __repr__(self) -> str:
        found = {"warning": self.warnings, "refusal": self.refusals, "unreadable image": self.unreadable}
        counts = [f"{len(each)} {name}{'' if len(each) == 1 else 's'}" for name, each in found.items() if each]
        said = ", ".join(counts) or "nothing suspicious"
        return f"<CheckReport {self.name}: {self.n_samples} samples, {self.task or 'no labels'}; {said}>"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "contents"}
        values["numbers"] = {
            split: {name: asdict(spread) for name, spread in columns.items()} for split, columns in self.numbers.items()
        }
        values["files"] = {kind: asdict(files) for kind, files in self.files.items()}
        for name in ("width", "height", "sizes", "duplicates", "shared"):
            values[name] = None if values[name] is None else asdict(values[name])
        values["unreadable"] = [asdict(image) for image in self.unreadable]
        return values


@dataclass(frozen=True)
class _Seen:
    """One image after its one reading."""

    facts: ImageFacts | None = None
    content: bytes = b""
    pixels: bytes = b""
    n_bytes: int = 0
    deviation: float = 0.0
    cut: bool = False
    error: UnreadableImageError | None = None


def check_samples(
    samples: Samples, *, ungrouped: bool = False, workers: int | None = None, progress: Progress | None = None
) -> CheckReport:
    """Read every image once, and report what is there and what is suspicious.

    Parameters
    ----------
    samples : Samples
        Labelled or not, with splits or without.
    ungrouped : bool, default False
        Whether it was said that samples have no groups; nothing is then said of their lack.
    workers : int, optional
        Threads; decoding releases the interpreter lock. By default as many as Python's thread pools use.
    progress : Progress, optional

    Returns
    -------
    CheckReport
        Unreadable images are listed in it; none raises.
    """
    progress = progress or Silent()
    images = _named(samples)
    progress.begin("reading", len(images))
    seen: list[_Seen] = []
    for image in _read_all(images, workers):
        seen.append(image)
        progress.advance("reading", 1)
    each, each_pixels = no_contents(len(seen)), no_contents(len(seen))
    for row, image in enumerate(seen):
        each[row], each_pixels[row] = image.content, image.pixels
    contents, pixels = of_samples(samples.sources, each), of_samples(samples.sources, each_pixels)
    facts = [image.facts for image in seen if image.facts is not None]
    whole = [image.facts for image in seen if image.facts is not None and not image.cut]
    counts = _class_counts(samples)
    report = CheckReport(
        name=samples.name,
        n_samples=len(samples),
        n_images=len(images),
        sizes=_spread(samples.sizes.tolist()) if samples.bagged else None,
        files=_files(samples),
        task=None if samples.task is None else str(samples.task),
        classes=tuple(next(iter(counts.values()), samples.classes)),
        counts=counts,
        numbers=_numbers(samples),
        split_sizes=dict(Counter(_splits(samples))),
        n_groups=None if samples.groups is None else len(set(samples.groups.tolist())),
        torn_groups=groups_across_splits(samples),
        width=_spread([fact.width for fact in facts]),
        height=_spread([fact.height for fact in facts]),
        modes=dict(Counter(fact.mode for fact in whole).most_common()),
        formats=dict(Counter(fact.format for fact in whole).most_common()),
        n_bytes=sum(image.n_bytes for image in seen),
        duplicates=find_duplicates(samples, contents, pixels),
        shared=find_duplicates(images, each) if samples.bagged else None,
        flat=tuple(
            str(name)
            for name, image in zip(images.ids, seen, strict=True)
            if image.error is None and image.deviation < FLAT
        ),
        unreadable=_unreadable(images, seen),
        contents=contents,
        notes=samples.notes,
        doubts=samples.warnings,
        refusals=(),
        warnings=(),
    )
    refusals = tuple(_refusals(samples, report))
    others = (*_data_warnings(samples, report, ungrouped=ungrouped), *_image_warnings(samples, report, seen))
    return replace(report, refusals=refusals, warnings=(*report.doubts, *refusals, *others))


def _named(samples: Samples) -> Samples:
    """Return the images one by one; the only one of a sample is called as the sample is."""
    images = samples.images()
    alone = (samples.sizes == 1)[samples.owners]
    return replace(images, ids=np.where(alone, samples.ids[samples.owners], images.ids)) if samples.bagged else images


def _read_all(samples: Samples, workers: int | None) -> Iterator[_Seen]:
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="biofuse-check") as pool:
        yield from pool.map(lambda source: _inspect(source, samples.decode), samples.sources)


def _inspect(source: Source, policy: DecodePolicy) -> _Seen:
    if isinstance(source, EmbeddedTile):  # there are no pixels to look at
        return _Seen(content=source.content(policy), deviation=math.inf, cut=True)
    try:
        raw = source.read()
        image, facts = decode_with_facts(raw, policy, description=source.description)
    except UnreadableImageError as error:
        return _Seen(error=error)
    step = 1 + max(image.shape) // LOOKED_AT
    return _Seen(
        facts=facts,
        content=source.content(policy) if isinstance(source, Cut) else content_hash(raw, policy),
        pixels=pixel_hash(image),
        n_bytes=len(raw) if isinstance(raw, bytes) else raw.nbytes,
        deviation=float(image[::step, ::step].mean(axis=2).std()),
        cut=isinstance(source, Cut),
    )


def _unreadable(samples: Samples, seen: Sequence[_Seen]) -> tuple[UnreadableImage, ...]:
    return tuple(
        UnreadableImage(
            id=str(name), description=source.description, reason=image.error.message, remedy=image.error.remedy
        )
        for name, source, image in zip(samples.ids, samples.sources, seen, strict=True)
        if image.error is not None
    )


def _files(samples: Samples) -> dict[str, FilesOfKind]:
    """Sum up what files say of themselves, kind by kind."""
    kinds: dict[str, list[FileFacts]] = defaultdict(list)
    for opened in () if samples.opened is None else samples.opened.tolist():
        for file in opened:
            if file.kind != UNREADABLE:
                kinds[file.kind].append(file)
    found = {}
    for kind, files in kinds.items():
        names = list(dict.fromkeys(name for file in files for name in file.facts))
        values = {name: [file.facts[name] for file in files if name in file.facts] for name in names}
        numbers = {name: _spread([float(each) for each in said]) for name, said in values.items() if _numeric(said)}
        found[kind] = FilesOfKind(
            n=len(files),
            numbers={name: spread for name, spread in numbers.items() if spread is not None},
            words={
                name: dict(Counter(map(str, said)).most_common()) for name, said in values.items() if not _numeric(said)
            },
        )
    return found


def _numeric(values: Sequence[str | float]) -> bool:
    return not any(isinstance(value, str) for value in values)


def _splits(samples: Samples) -> list[str]:
    names = [WHOLE] * len(samples) if samples.splits is None else samples.splits.tolist()
    return sorted(names, key=(*SPLITS, WHOLE).index)


def _class_counts(samples: Samples) -> dict[str, dict[str, int]]:
    if samples.target is None:
        return {}
    return {split: samples.target.counts(labels) for split, labels in _labels_by_split(samples).items()}


def _numbers(samples: Samples) -> dict[str, dict[str, Spread]]:
    target = samples.target
    if target is None or target.categorical:
        return {}
    names = ("time",) if target.timed else target.classes
    found = {}
    for split, labels in _labels_by_split(samples).items():
        columns = target.columns(labels).T.tolist()
        spreads = {name: _spread(column) for name, column in zip(names, columns, strict=False)}
        found[split] = {name: spread for name, spread in spreads.items() if spread is not None}
    return found


def _labels_by_split(samples: Samples) -> dict[str, Labels]:
    if samples.labels is None:
        return {}
    if samples.splits is None:
        return {WHOLE: samples.labels}
    present = [split for split in SPLITS if split in set(samples.splits.tolist())]
    return {split: samples.labels[samples.splits == split] for split in present}


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(minimum=float(min(values)), median=float(np.median(values)), maximum=float(max(values)))


def _refusals(samples: Samples, report: CheckReport) -> Iterator[str]:
    if report.unreadable:
        aside = option("on_error", "quarantine")
        yield (
            f"{len(report.unreadable)} image(s) cannot be read: {listing([image.id for image in report.unreadable])}. "
            f"Set them aside with {aside}, or mend them."
        )
    if report.torn_groups:
        yield (
            f"{len(report.torn_groups)} group(s) lie in several splits: {listing(list(report.torn_groups))}. "
            f"Have splits made by group with {option('use_splits', False)}, or keep every group in one."
        )
    lonely = _single_group_classes(samples, report)
    if lonely and samples.labels is not None and samples.labels.ndim == 1:
        sizes = _development_sizes(report)
        below = max(sizes[name] for name in lonely) + 1
        kept = [name for name, size in sizes.items() if size >= below]
        leave = f" Leave them out with {option('drop_classes_below', below)}." if len(kept) > 1 else ""
        yield f"{LONELY.format(listing(lonely))}{leave}"


def _data_warnings(samples: Samples, report: CheckReport, *, ungrouped: bool) -> Iterator[str]:
    yield from _duplicate_warnings(report.duplicates)
    yield from () if report.shared is None else _shared_warnings(report.shared)
    for split, counts in report.counts.items():
        absent = [name for name, count in counts.items() if count == 0]
        if absent:
            yield f"Split {split} has no sample of {listing(absent)}: scores there are partial or undefined."
    yield from _class_size_warnings(samples, report)
    said = ungrouped or "group" in advised(samples.warnings)
    if report.n_groups is None and samples.labels is not None and not said:
        yield (
            f"No groups are given: if several images come from one patient or slide, name that column of a table with "
            f"{option('group')}, or scores will be too high; if none do, give {option('group', 'none')}."
        )


def _duplicate_warnings(duplicates: DuplicateReport) -> Iterator[str]:
    for pair in duplicates.overlaps:
        # Each pair is listed both ways; what matters is how much of the later split was seen earlier.
        if SPLITS.index(pair.split) > SPLITS.index(pair.other):
            classes = ", ".join(f"{count} {name}" for name, count in pair.by_class.items())
            yield (
                f"{pair.n} of {pair.n_split} {pair.split} images are byte-identical to {pair.other} images"
                + (f" ({classes})." if classes else ".")
            )
    if duplicates.conflicts:
        yield (
            f"{len(duplicates.conflicts)} image(s) occur more than once with different labels: "
            f"{listing(['='.join(conflict.ids) for conflict in duplicates.conflicts])}."
        )
    for repeats in duplicates.repeats:
        yield (
            f"{repeats.n_repeated} images of split {repeats.split} repeat among themselves "
            f"({repeats.n_contents} different ones); identical images count as one group."
        )
    if duplicates.pixels is None:
        return
    for pair in duplicates.pixels.overlaps:
        identical = duplicates.overlap(pair.split, pair.other)
        extra = pair.n - (identical.n if identical else 0)
        if extra and SPLITS.index(pair.split) > SPLITS.index(pair.other):
            yield f"{extra} more {pair.split} image(s) have the same pixels as {pair.other} images, in other files."
    for repeats in duplicates.pixels.repeats:
        extra = repeats.n_repeated - sum(same.n_repeated for same in duplicates.repeats if same.split == repeats.split)
        if extra:
            yield f"{extra} more image(s) of split {repeats.split} repeat as pixels, in other files."


def _shared_warnings(shared: DuplicateReport) -> Iterator[str]:
    for pair in shared.overlaps:
        if SPLITS.index(pair.split) > SPLITS.index(pair.other):
            yield f"{pair.n} of {pair.n_split} images of {pair.split} samples also belong to {pair.other} samples."


def _development_sizes(report: CheckReport) -> dict[str, int]:
    """Return the samples of every class that a search may see."""
    sizes = dict.fromkeys(report.classes, 0)
    for split, counts in report.counts.items():
        for name, count in counts.items():
            sizes[name] += count if split != "test" else 0
    return sizes


def _class_size_warnings(samples: Samples, report: CheckReport) -> Iterator[str]:
    development = _development_sizes(report)
    tiny = [f"{name} ({count})" for name, count in development.items() if 0 < count < TINY_CLASS]
    if tiny and any(split != "test" for split in report.counts):
        yield f"Fewer than {TINY_CLASS} development samples: {listing(tiny)}."
    sizes = [count for count in development.values() if count]
    one = samples.labels is not None and samples.labels.ndim == 1
    if len(sizes) > 1 and one and max(sizes) >= IMBALANCE * min(sizes):
        yield (
            f"The largest class has {max(sizes) / min(sizes):.0f} times the samples of the smallest: "
            "read AUROC or balanced accuracy, not accuracy."
        )
    if not one and (lonely := _single_group_classes(samples, report)):
        yield LONELY.format(listing(lonely))


def _single_group_classes(samples: Samples, report: CheckReport) -> list[str]:
    if samples.labels is None or not (samples.target and samples.target.categorical):
        return []
    names = samples.ids if samples.groups is None else samples.groups
    units = merge_groups(names.tolist(), report.contents)
    chosen = np.ones(len(samples), dtype=bool) if samples.splits is None else samples.splits != "test"
    lonely = []
    for label, name in enumerate(samples.classes):
        held = samples.labels[:, label] == 1 if samples.labels.ndim == 2 else samples.labels == label
        if len(set(units[chosen & held].tolist())) == 1:
            lonely.append(name)
    return lonely


FAR = 2.0
"""By what factor a number of a file (slices, spacing) differs from the middle one where it is called unusual."""
OUTLYING = 3.5
"""And, of what is no length, how many times as far as most from the middle: the modified z-score of Iglewicz and
Hoaglin, How to Detect and Handle Outliers (1993), of logarithms. Slides are as large as what was cut, and have as much
tissue; that they differ is no news, but that one differs from all others is."""
LENGTHS = ("(mm)", "(µm per pixel)")
"""Units of what should be alike in all files: a network sees another magnification otherwise."""
UNUSUAL = 0.25
"""The share of files up to which those are named that are unusual; where there are more, their range is said."""
FEW_VALUES = 5
"""Different words up to which their mixture is worth a word; more of them describe each file by itself."""


def _file_warnings(samples: Samples, report: CheckReport) -> Iterator[str]:
    """Point out what is unusual among files of one kind, and what they say that gives the class away."""
    if samples.opened is None:
        return
    by_fact: dict[tuple[str, str], dict[int, str | float]] = defaultdict(dict)
    for row, opened in enumerate(samples.opened.tolist()):
        for file in opened:
            for name, value in file.facts.items():
                by_fact[file.kind, name][row] = value
    for (kind, name), values in by_fact.items():
        files = report.files[kind]
        if name in files.numbers:
            middle = files.numbers[name].median
            apart = _apart(np.array(list(values.values()), dtype=np.float64), alike=name.endswith(LENGTHS))
            far = {row: float(value) for (row, value), odd in zip(values.items(), apart, strict=True) if odd}
            if middle > 0 and len(far) > UNUSUAL * len(values):
                low, high = files.numbers[name].minimum, files.numbers[name].maximum
                yield f"{files.n} {kind}(s) differ much among themselves: {name} {low:g} to {high:g}."
            elif far and middle > 0:
                shown = [f"{samples.ids[row]} ({value:g})" for row, value in far.items()]
                yield f"{len(far)} {kind}(s) differ much in their {name} from the middle, {middle:g}: {listing(shown)}."
        elif 1 < len(files.words[name]) <= min(FEW_VALUES, files.n // 2):
            said = ", ".join(f"{word} ({count})" for word, count in files.words[name].items())
            yield f"Not all of {files.n} {kind}(s) have the same {name}: {said}."
        if samples.labels is not None and samples.target is not None and samples.target.exclusive:
            yield from _given_away(
                f"The {name} of a {kind}", list(values.values()), samples.labels[list(values)].tolist()
            )


def _apart(values: NDArray[np.float64], *, alike: bool) -> list[bool]:
    """Tell which numbers are far from the middle one, shape (n,); of those that need not be alike, from all others."""
    middle = float(np.median(values))
    far = (values <= middle / FAR) | (values >= middle * FAR)
    if not alike:
        away = np.abs(np.log1p(values) - np.log1p(middle))
        # 0.6745 of a standard deviation is the median distance from the middle of a normal distribution.
        far &= 0.6745 * away > OUTLYING * np.median(away)
    found: list[bool] = far.tolist()
    return found


def _given_away(what: str, values: Sequence[object], labels: Sequence[int], noun: str = "samples") -> Iterator[str]:
    guessed, base = _guessable(values, labels)
    if guessed - base > SHORTCUT:
        yield (
            f"{what} alone guesses the class of {guessed:.0%} of the {noun} (the largest class: {base:.0%}): "
            "a classifier may learn where images come from instead of what they show."
        )


def _image_warnings(samples: Samples, report: CheckReport, seen: Sequence[_Seen]) -> Iterator[str]:
    yield from _file_warnings(samples, report)
    remarks = Remarks()
    for source, image in zip(samples.images().sources, seen, strict=True):
        if image.facts is not None:
            remarks.add(image.content, source.description, image.facts)
    yield from remarks.sentences(samples.decode)
    if report.flat:
        yield f"{len(report.flat)} image(s) are nearly one colour: {listing(report.flat)}."
    if len(report.modes) > 1:
        yield f"Colour modes are mixed: {_tally(report.modes)}."
    if len(report.formats) > 1:
        yield f"File formats are mixed: {_tally(report.formats)}."
    if samples.labels is None or not (samples.target and samples.target.exclusive):
        return
    facts: dict[int, set[ImageFacts]] = defaultdict(set)
    for row, image in zip(samples.owners.tolist(), seen, strict=True):
        if image.facts is not None:
            facts[row].add(image.facts)
    labels = samples.labels[list(facts)].tolist()
    properties: dict[str, Callable[[ImageFacts], object]] = {
        "The file format": lambda fact: fact.format,
        "The colour mode": lambda fact: fact.mode,
        "The image size": lambda fact: (fact.width, fact.height),
    }
    noun = "samples" if samples.bagged else "images"
    for name, value in properties.items():
        yield from _given_away(name, [frozenset(map(value, own)) for own in facts.values()], labels, noun)
    if samples.bagged:
        yield from _given_away("The number of images", samples.sizes.tolist(), samples.labels.tolist())


def _guessable(values: Sequence[object], labels: Sequence[int]) -> tuple[float, float]:
    """Guess each label by the commonest label of the *other* images with the same value; else the commonest of all."""
    if not labels:
        return 0.0, 0.0
    together: dict[object, Counter[int]] = {}
    for value, label in zip(values, labels, strict=True):
        together.setdefault(value, Counter())[label] += 1
    overall = Counter(labels)
    commonest, largest = overall.most_common(1)[0]
    right = 0
    for value, label in zip(values, labels, strict=True):
        others = together[value].copy()
        others[label] -= 1
        guess, count = max(others.items(), key=lambda item: (item[1], -item[0]))
        right += label == (guess if count > 0 else commonest)
    return right / len(labels), largest / len(labels)


def _tally(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
