"""Folders of images: class folders, with or without splits above them, or no classes at all."""

import logging
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from biofuse.core.errors import BioFuseWarning, DataError
from biofuse.data.decoding import FileSource
from biofuse.data.labels import listing, natural_key
from biofuse.data.samples import SPLIT_NAMES, LoadOptions, SampleTable, split_name

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({
    ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
})  # fmt: skip
"""Suffixes (in lower case) of files that are taken for images; they are those of the formats that are opened."""

FOREIGN_SUFFIXES = frozenset({".avif", ".czi", ".dcm", ".dicom", ".heic", ".mrxs", ".ndpi", ".nii", ".npy", ".svs"})
"""Suffixes of images that are not read: passing over them is worth a warning."""


def is_image_name(path: Path | PurePosixPath) -> bool:
    """Tell whether a file is an image by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def load_folder(root: Path, options: LoadOptions) -> SampleTable:
    """Read ``[split/]class/**/image``, or a folder of images without classes.

    Raises
    ------
    DataError
        If the layout is mixed, so that some images would have no class or no split.
    """
    options.only("a folder", "exclude")
    files = _images_below(root, options.exclude)
    splits, labels = _layout(root, files, labelled=options.labelled is not False)
    return SampleTable(
        name=root.resolve().name,
        ids=[path.as_posix() for path in files],
        sources=[FileSource(root / path) for path in files],
        labels=labels,
        splits=splits,
    )


def load_image_file(path: Path, options: LoadOptions) -> SampleTable:
    """Read one image file as an unlabelled data set of one sample."""
    options.only("a single image")
    return SampleTable(name=path.stem, ids=[path.name], sources=[FileSource(path)])


def excluded(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    """Tell whether a file name, or a path relative to the data, matches one of the shell patterns."""
    return any(fnmatch(path.name, pattern) or fnmatch(path.as_posix(), pattern) for pattern in patterns)


def _images_below(root: Path, patterns: Sequence[str]) -> list[PurePosixPath]:
    files: list[PurePosixPath] = []
    passed_over: Counter[str] = Counter()
    seen: set[str] = set()
    # Linked class folders are common; the set of real paths keeps a link to a parent from turning in circles.
    for folder, names_below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        names_below[:] = [] if real in seen else [n for n in names_below if not n.startswith((".", "__MACOSX"))]
        if real in seen:
            continue
        seen.add(real)
        for name in names:
            path = PurePosixPath(Path(folder, name).relative_to(root).as_posix())
            if name.startswith(".") or excluded(path, patterns):
                continue
            if is_image_name(path):
                files.append(path)
            else:
                passed_over[path.suffix.lower() or path.name] += 1
    _tell_passed_over(root, passed_over)
    if not files:
        there = f" Other files there: {listing(sorted(passed_over))}." if passed_over else ""
        raise DataError(
            f"No images in {root}.{there}",
            remedy=f"Check the path; images end in {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    return sorted(files, key=lambda path: natural_key(path.as_posix()))


def _tell_passed_over(root: Path, passed_over: Counter[str]) -> None:
    foreign = {suffix: n for suffix, n in passed_over.items() if suffix in FOREIGN_SUFFIXES}
    if foreign:
        counts = ", ".join(f"{n} {suffix}" for suffix, n in sorted(foreign.items()))
        warnings.warn(f"{root}: files of formats that are not read were passed over: {counts}.", BioFuseWarning, 2)
    if passed_over:
        logger.info("%s: passed over files that are no images: %s", root, dict(passed_over))


def _layout(root: Path, files: Sequence[PurePosixPath], *, labelled: bool) -> tuple[list[str] | None, list[str] | None]:
    tops = {path.parts[0] for path in files if len(path.parts) > 1}
    split_folders = {top for top in tops if top.lower() in SPLIT_NAMES}
    splits = None
    inner = list(files)
    if split_folders:
        stray = [path.as_posix() for path in files if path.parts[0] not in split_folders]
        if stray:
            raise DataError(
                f"{root} has split folders ({listing(sorted(split_folders))}), but these images lie outside them: "
                f"{listing(stray)}.",
                remedy="Move them into a split, or leave them out with exclude=.",
            )
        if len({split_name(top) for top in split_folders}) != len(split_folders):
            raise DataError(f"{root} has two folders for one split: {listing(sorted(split_folders))}.")
        splits = [split_name(path.parts[0]) for path in files]
        inner = [PurePosixPath(*path.parts[1:]) for path in files]
    if not labelled:
        return splits, None
    loose = [file.as_posix() for file, path in zip(files, inner, strict=True) if len(path.parts) == 1]
    if len(loose) == len(files):
        return splits, None
    if loose:
        raise DataError(
            f"{root}: some images lie in class folders and others beside them: {listing(loose)}.",
            remedy="Move them into a class folder, leave them out with exclude=, or ignore classes: labelled=False.",
        )
    return splits, [path.parts[0] for path in inner]
