"""Folders of images: which folders are splits, which are classes, and what lies there besides."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from biofuse.core.errors import DataError, option
from biofuse.data.assembly import Request, SampleTable, join_tables
from biofuse.data.columns import plain, split_of
from biofuse.data.config import IDENTIFIERS
from biofuse.data.containers import kind_of
from biofuse.data.decoding import FileSource
from biofuse.data.labels import listing, natural_key
from biofuse.data.lookup import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    JUNK_FOLDERS,
    excluding,
    is_image_name,
    is_junk_folder,
    left_out,
    shown_folder,
    stem_and_suffix,
    tells_nothing,
)
from biofuse.data.tables import Read, is_table_name, load_manifest, load_shards, read_table

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""What Hugging Face's imagefolder calls the table that lies beside images."""

USUAL_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names of split folders that need no word."""

FEW = 4
"""How many stray images are named one by one in what leaves them out."""

UNSORTED = frozenset({"all", "images", "img", "imgs", "test", "test_images", "unknown", "unlabeled", "unlabelled"})
"""Folders below a test folder that name no class: their images are unlabelled."""

MASK = re.compile(
    r"(?P<head>.*?)(?P<mark>[ _-](?:masks?|seg(?:m|mentation)?|labels?|gt|ground[ _-]?truth|annotations?|overlay"
    r"|contours?|roi))(?:[ _-]?\d+)?",
    re.IGNORECASE,
)
"""How masks and drawings are called that lie beside the image they belong to."""
MASK_FOLDERS = frozenset({
    "annotation", "annotations", "groundtruth", "groundtruths", "mask", "masks", "segmentation", "segmentations",
    "segs",
})  # fmt: skip

PARTS = re.compile(
    r"(?:.*[ _-])?(?:archive|batch|case|cent(?:er|re)|chunk|cohort|dir|disk|fold|folder|hospital|images?|imgs?|part"
    r"|patient|scanner|series|set|shard|site|slide|study|subject|subset|visit)[ _-]?(?:\d+|[a-z])",
    re.IGNORECASE,
)
"""How folders are called that divide a data set otherwise than by class."""


@dataclass(frozen=True, kw_only=True)
class FolderContents:
    """What lies below a folder, as paths relative to it.

    Attributes
    ----------
    images, others : list of PurePosixPath
        Files that are images by their names, and all others.
    junk : list of str
        Folders that were passed over.
    empty : list of str
        Folders without files and folders.
    links : dict of str to str
        Folders that were passed over because a link makes them another one, and which.
    excluded : Counter of str
        How many files each pattern left out.
    """

    images: list[PurePosixPath] = field(default_factory=list)
    others: list[PurePosixPath] = field(default_factory=list)
    junk: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    excluded: Counter[str] = field(default_factory=Counter)

    @property
    def tables(self) -> list[PurePosixPath]:
        """The tables among the others, those above first."""
        tables = (path for path in self.others if is_table_name(path.name))
        return sorted(tables, key=lambda path: (len(path.parts), "train" not in path.name.lower(), path))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a folder was read; ``images`` are those that stay, with their splits and classes."""

    images: list[PurePosixPath]
    splits: list[str] | None = None
    labels: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load_folder(root: Path, request: Request) -> SampleTable:
    """Read ``[split/]class/**/image``, a folder of images without classes, or one with a table of metadata.

    Raises
    ------
    DataError
        If the layout is mixed, so that some images would have no class or no split.
    """
    tree = walk(root, request.config.exclude)
    # A pattern may leave out whole tables or unlisted images: that no row of the others is like it needs no warning.
    quiet = replace(request, inherited=request.inherited | {"exclude"}) if tree.excluded else request
    with_table = _metadata(root, tree, quiet)
    if with_table is not None:
        return with_table
    request.only("a folder", "exclude", "bag", *(["group"] if request.config.group in IDENTIFIERS else []))
    if not tree.images:
        _refuse_no_images(root, tree)
    read = layout(root, tree.images, labelled=request.labelled is not False, use_splits=request.config.use_splits)
    gone, unlike = left_out(str(root), "files", request.config.exclude, tree.excluded)
    notes, warnings = _passed_over(root, tree, read)
    return SampleTable(
        name=root.resolve().name,
        ids=[path.as_posix() for path in read.images],
        sources=[FileSource(root / path) for path in read.images],
        labels=read.labels,
        splits=read.splits,
        notes=(*read.notes, *gone, *notes),
        warnings=(
            *read.warnings,
            *(() if "exclude" in request.inherited else unlike),
            *warnings,
            *_masks(root, read.images),
        ),
    )


def load_image_file(path: Path, request: Request) -> SampleTable:
    """Read one image file as an unlabelled data set of one sample."""
    request.only("a single image", "bag")
    return SampleTable(name=stem_and_suffix(path.name)[0], ids=[path.name], sources=[FileSource(path)])


def walk(root: Path, patterns: Sequence[str] = ()) -> FolderContents:
    """List what lies below a folder, in natural order; patterns leave files out.

    Raises
    ------
    DataError
        If a folder may not be listed, so that nobody knows what is missing.
    """
    tree, seen = FolderContents(), dict[str, PurePosixPath]()
    # Linked class folders are common; the real paths keep a link to a parent from turning in circles.
    for folder, below, names in os.walk(root, followlinks=True, onerror=_refuse_unlisted):
        real = os.path.realpath(folder)
        here = PurePosixPath(Path(folder).relative_to(root).as_posix())
        tree.junk.extend(name for name in below if name.casefold() in JUNK_FOLDERS)
        if real in seen:
            below[:] = []
            if seen[real] not in here.parents:
                tree.links[here.as_posix()] = seen[real].as_posix()
            continue
        seen[real] = here
        # Links come last, so that of two names of a folder its own one stays, whatever the disk lists first.
        inner = [name for name in below if not is_junk_folder(name)]
        below[:] = sorted(inner, key=lambda name: (Path(folder, name).is_symlink(), name))
        shown = [name for name in names if not name.startswith(".")]
        if not shown and not below:
            tree.empty.append(here.as_posix())
        for name in shown:
            path = here / name
            by = excluding(path.as_posix(), patterns)
            tree.excluded.update(by)
            if not by:
                is_image = is_image_name(name) or (tells_nothing(name) and kind_of(root / path) is not None)
                (tree.images if is_image else tree.others).append(path)
    for paths in (tree.images, tree.others):
        paths.sort(key=lambda path: natural_key(path.as_posix()))
    return tree


def _refuse_unlisted(error: OSError) -> None:
    raise DataError(
        f"{error.filename} cannot be listed: {error.strerror}.",
        remedy="Make this folder readable, or move it out of the data.",
    ) from error


# --- splits and classes


def layout(root: Path, images: Sequence[PurePosixPath], *, labelled: bool = True, use_splits: bool = True) -> Layout:
    """Tell splits and classes from the folders in which images lie.

    Raises
    ------
    DataError
        If some images would have no class or no split.
    """
    splits, inner, notes = _splits(root, images) if use_splits else (None, list(images), [])
    if not labelled:
        return Layout(images=list(images), splits=splits, notes=notes)
    images, splits, inner, left_out = _without_unlabelled(root, images, splits, inner)
    notes += left_out
    loose = [file.as_posix() for file, path in zip(images, inner, strict=True) if len(path.parts) == 1]
    if len(loose) == len(images):
        return Layout(images=list(images), splits=splits, notes=notes)
    if loose:
        # A pattern without a folder leaves out every file of that name.
        alone = sum(path.name in {PurePosixPath(name).name for name in loose} for path in images) == len(loose)
        leave = f", or leave them out: {option('exclude', loose)}" if len(loose) <= FEW and alone else ""
        raise DataError(
            f"{root}: some images lie in class folders and others beside them: {listing(loose)}.",
            remedy=f"Move them into a class folder{leave}; to embed without classes: {option('labelled', False)}.",
        )
    _refuse_one_folder(root, inner)
    within = _splits_within_classes(inner) if splits is None and use_splits else None
    if within is not None:
        splits = within
        notes.append(
            f"{root}: the folders below the classes are the splits ({_tally(splits)}). {option('use_splits', False)} "
            "makes new ones."
        )
        inner = [PurePosixPath(path.parts[0], *path.parts[2:]) for path in inner]
    return Layout(
        images=list(images),
        splits=splits,
        labels=[path.parts[0] for path in inner],
        notes=notes,
        warnings=_doubts(root, inner),
    )


def _splits(root: Path, images: Sequence[PurePosixPath]) -> tuple[list[str] | None, list[PurePosixPath], list[str]]:
    """Return the split of every image, and its path below the folder of the split."""
    tops = sorted({path.parts[0] for path in images if len(path.parts) > 1})
    of = {top: split for top in tops if (split := split_of(top)) is not None}
    if not of:
        return None, list(images), []
    named = listing(sorted(of))
    stray = [path.as_posix() for path in images if path.parts[0] not in of]
    if stray:
        raise DataError(
            f"{root} has split folders ({named}), but these images lie outside them: {listing(stray)}.",
            remedy=f"Move them into a split, or leave them out: {option('exclude', _pattern(stray))}. If {named} "
            f"{'is a class' if len(of) == 1 else 'are classes'}: {option('use_splits', False)}.",
        )
    if len(set(of.values())) != len(of):
        twice = sorted(top for top in of if list(of.values()).count(of[top]) > 1)
        raise DataError(
            f"{root} has two folders for one split: {listing(twice)}.",
            remedy=f"Put them together, or leave one out: {option('exclude', twice[0] + '/*')}. If they are classes: "
            f"{option('use_splits', False)}.",
        )
    other = [f"{top} as {split}" for top, split in of.items() if top.lower() not in USUAL_SPLITS]
    notes = [f"{root}: read {listing(other)}. {option('use_splits', False)} takes them for classes."] if other else []
    return [of[path.parts[0]] for path in images], [PurePosixPath(*path.parts[1:]) for path in images], notes


def _pattern(stray: Sequence[str]) -> str:
    """Return what leaves the first of some images out, with the folder in which it lies."""
    folder, slash, _ = stray[0].partition("/")
    return f"{folder}/*" if slash else stray[0]


def _without_unlabelled(
    root: Path, images: Sequence[PurePosixPath], splits: list[str] | None, inner: list[PurePosixPath]
) -> tuple[Sequence[PurePosixPath], list[str] | None, list[PurePosixPath], list[str]]:
    """Leave out test (or val) images without class folders where the training images have them."""
    if splits is None:
        return images, splits, inner, []
    classes: dict[str, set[str]] = {}
    for split, path in zip(splits, inner, strict=True):
        classes.setdefault(split, set()).add(path.parts[0] if len(path.parts) > 1 else "")
    train = classes.get("train", set())
    if not train or "" in train:
        return images, splits, inner, []
    bare = {
        split
        for split, names in classes.items()
        if split != "train" and (names == {""} or (len(names) == 1 and not names & train and names <= UNSORTED))
    }
    if not bare:
        return images, splits, inner, []
    kept = [row for row, split in enumerate(splits) if split not in bare]
    gone = [path for path, split in zip(images, splits, strict=True) if split in bare]
    folders = sorted({path.parts[0] for path in gone})
    note = (
        f"{root}: the {len(gone)} images in {listing(folders)} have no class folders and are left out as unlabelled; "
        f"predict them from {shown_folder(root / folders[0])}."
    )
    return [images[row] for row in kept], [splits[row] for row in kept], [inner[row] for row in kept], [note]


def _refuse_one_folder(root: Path, inner: Sequence[PurePosixPath]) -> None:
    """Point at the folder that holds the classes where only that one lies in the root."""
    tops = {path.parts[0] for path in inner}
    below = sorted({path.parts[1] for path in inner if len(path.parts) > 2})
    if len(tops) == 1 and len(below) > 1 and all(len(path.parts) > 2 for path in inner):
        folder = tops.pop()
        raise DataError(
            f"{root}: all images lie in {folder}, which holds {listing(below)}.",
            remedy=f"Give the folder that holds the classes: {shown_folder(root / folder)}; to embed without classes: "
            f"{option('labelled', False)}.",
        )


def _splits_within_classes(inner: Sequence[PurePosixPath]) -> list[str] | None:
    names = [split_of(path.parts[1]) if len(path.parts) > 2 else None for path in inner]
    found = [name for name in names if name is not None]
    return found if len(found) == len(names) and "train" in found and len(set(found)) > 1 else None


def _tally(splits: Sequence[str]) -> str:
    return ", ".join(f"{count} {split}" for split, count in Counter(splits).most_common())


# --- what is worth a second look


def _doubts(root: Path, inner: Sequence[PurePosixPath]) -> list[str]:
    """Say where the outer folders may not be the classes."""
    below: dict[str, set[str]] = {}
    for path in inner:
        below.setdefault(path.parts[0], set()).update(path.parts[1:2] if len(path.parts) > 2 else ())
    times = Counter(name for names in below.values() for name in names)
    shared = sorted((name for name, count in times.items() if count > 1), key=natural_key)
    outer = sorted(below, key=natural_key)
    if shared:
        holding = [name for name in outer if below[name] & set(shared)]
        said = (
            f"{root}: {listing(holding)} were read as the classes, but hold the same folders ({listing(shared)}). If "
            "those are the classes, or what must stay together, list the images in a table with a column for each."
        )
        return [said]
    drawn = [name for name in outer if plain(name) in MASK_FOLDERS | {"gt", "label", "labels"}]
    beside = [name for name in outer if (mask := MASK.fullmatch(name)) and mask["head"] in outer]
    if beside or (drawn and {plain(name) for name in outer} & (MASK_FOLDERS | {"image", "images", "img", "imgs"})):
        said = f"{root}: {listing(outer)} were read as the classes; are some of them masks?"
        leave = option("exclude", f"*{(beside or drawn)[0]}/*")
        return [f"{said} Leave these out with {leave}, or give the folder of the images alone."]
    if len(outer) > 1 and all(PARTS.fullmatch(name) for name in outer):
        said = f"{root}: {listing(outer)} were read as the classes, but look like parts of one data set."
        return [f"{said} If they are, give a table of images and labels, or a folder for each class."]
    return []


def _masks(root: Path, images: Sequence[PurePosixPath]) -> list[str]:
    """Say how many images look like masks of others in the same folder."""
    stems = [stem_and_suffix(path.name)[0] for path in images]
    there = {(path.parent, stem.casefold()) for path, stem in zip(images, stems, strict=True)}
    marks: Counter[str] = Counter()
    first: PurePosixPath | None = None
    for path, stem in zip(images, stems, strict=True):
        marked = MASK.fullmatch(stem)
        head = marked["head"] if marked else stem.casefold().removeprefix("mask").lstrip(" _-")
        if head and head.casefold() != stem.casefold() and (path.parent, head.casefold()) in there:
            marks[f"*{marked['mark']}*" if marked else "mask*"] += 1
            first = first or path
    n = sum(marks.values())
    inside = [path for path in images if any(plain(part) in MASK_FOLDERS for part in path.parts[:-1])]
    if n:
        leave = option("exclude", sorted(marks)[0] if len(marks) == 1 else sorted(marks))
        return [f"{root}: {n} of {len(images)} images look like masks of others, such as {first}. Leave out: {leave}."]
    if inside:
        folder = next(part for part in inside[0].parts[:-1] if plain(part) in MASK_FOLDERS)
        leave = option("exclude", f"*{folder}/*")
        said = f"{root}: {len(inside)} of {len(images)} images lie in folders called {folder!r}."
        return [f"{said} If they are masks, leave them out: {leave}."]
    return []


def _passed_over(root: Path, tree: FolderContents, read: Layout) -> tuple[list[str], list[str]]:
    """Say which files were not taken for images: notes, and warnings where images may be among them."""
    notes, warnings = [], []
    tables = tree.tables
    others = set(tree.others).difference(tables)
    kinds = Counter(path.suffix.lower() or "without suffix" for path in others)
    foreign = {kind: count for kind, count in kinds.items() if kind in FOREIGN_SUFFIXES}
    if foreign:
        warnings.append(f"{root}: files of formats that are not read were passed over: {_counts(foreign)}.")
    rest = {kind: count for kind, count in kinds.items() if kind not in foreign}
    if rest:
        notes.append(f"{root}: passed over files that are no images: {_counts(rest)}.")
    depth = 1 if read.splits is None else 2
    inside: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for path in others:
        if len(path.parts) > depth:
            inside[path.parts[:depth]][path.suffix.lower() or "without suffix"] += 1
    kept = {path.parts[:depth] for path in read.images}
    warnings += [
        f"{root}: no file in {'/'.join(folder)} is an image that is read, so that this class is missing: "
        f"{_counts(inside[folder])}. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        for folder in sorted(set(inside) - kept if read.labels is not None else ())
    ]
    if tree.links:
        same = [f"{link}, which is {folder}" for link, folder in sorted(tree.links.items())]
        warnings.append(f"{root}: folders that a link makes the same are read once; passed over: {listing(same)}.")
    empty = [name for name in tree.empty if len(PurePosixPath(name).parts) <= depth and name != "."]
    if empty:
        (warnings if read.labels is not None else notes).append(f"{root}: no files in {listing(sorted(empty))}.")
    if tree.junk:
        notes.append(f"{root}: passed over {listing(sorted(set(tree.junk)))}.")
    if tables:
        table = shown_folder(root / tables[0])
        hint = f"{root}: not read with the folder: {listing([path.as_posix() for path in tables])}. "
        hint += f"Where a table holds the labels, give it in place of the folder: {table}."
        doubtful = read.labels is None or read.warnings or any(path.name in METADATA for path in tables)
        (warnings if doubtful else notes).append(hint)
    return notes, warnings


def _counts(kinds: "Counter[str] | dict[str, int]") -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _refuse_no_images(root: Path, tree: FolderContents) -> None:
    kinds = _counts(Counter(path.suffix.lower() or path.name for path in tree.others))
    there = f" Other files there: {kinds}." if kinds else ""
    table = f"Give the table: {shown_folder(root / tree.tables[0])}; or " if tree.tables else ""
    raise DataError(
        f"No images in {root}.{there}",
        remedy=f"{table or 'C'}{'c' if table else ''}heck the path; images end in {', '.join(sorted(IMAGE_SUFFIXES))}.",
    )


# --- tables that come with folders


def _metadata(root: Path, tree: FolderContents, request: Request) -> SampleTable | None:
    """Read a folder by the table that Hugging Face keeps beside images, or the tables that it keeps instead."""
    if not tree.images:
        shards = [path for path in tree.others if path.suffix.lower() == ".parquet"]
        splits = {root / path: split_of(re.split(r"[-_.]", path.name)[0]) for path in shards}
        named = {path: split for path, split in splits.items() if split is not None}
        return load_shards(root, named, request) if named and len(named) == len(shards) else None
    tables = {path: read_table(root / path) for path in tree.tables if path.name in METADATA}
    tops = {path.parent for path in tables}
    if not tables or not all(map(_names_files, tables.values())):
        return None
    if tops == {PurePosixPath()} and (request.config.label or not _class_folders(tree, lambda path: path)):
        first, *others = tables
        table = _from_metadata(root, tree, first, tables[first], request)
        over = f"{root}: {listing([path.name for path in others])} is not read beside {first.name}."
        return replace(table, warnings=(over, *table.warnings)) if others else table
    of = {path.parts[0]: split_of(path.parts[0]) for path in tables if len(path.parts) == 2}
    inside = {path.parts[0] for path in tree.images}
    if len(of) != len(tables) or None in of.values() or inside != set(of):
        return None
    if _class_folders(tree, lambda path: PurePosixPath(*path.parts[1:])) and not request.config.label:
        return None
    parts = {str(of[path.parts[0]]): _from_metadata(root, tree, path, read, request) for path, read in tables.items()}
    joined = join_tables(parts)
    return replace(joined, name=root.resolve().name) if request.config.use_splits else replace(joined, splits=None)


def _class_folders(tree: FolderContents, below: Callable[[PurePosixPath], PurePosixPath]) -> bool:
    """Tell whether images lie in folders that may be classes."""
    folders = {inner.parts[0] for path in tree.images if len((inner := below(path)).parts) > 1}
    return len(folders) > 1 and not all(split_of(name) for name in folders)


def _names_files(read: Read) -> bool:
    """Tell whether a table has the column of imagefolder."""
    return any(plain(name) in {"filename", "imagefilename"} for name in read.columns)


def _from_metadata(root: Path, tree: FolderContents, path: PurePosixPath, read: Read, request: Request) -> SampleTable:
    table = load_manifest(root / path, request, read)
    listed = {source.path.resolve() for source in table.sources if isinstance(source, FileSource)}
    over = [image for image in tree.images if path.parent in image.parents and (root / image).resolve() not in listed]
    warnings = table.warnings
    if over:
        left = listing([image.as_posix() for image in over])
        warnings = (
            f"{root}: {len(over)} images are left out, which {path.as_posix()} does not list: {left}.",
            *warnings,
        )
    note = f"{root}: read by {path.as_posix()}; give a folder without it to have folders read as classes."
    return replace(table, name=root.resolve().name, notes=(note, *table.notes), warnings=warnings)
