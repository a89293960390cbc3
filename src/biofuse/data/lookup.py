"""Where the images lie that a table names, found by listing each folder once.

Names are looked for as they are written; then without regard to case, to how accents are composed (Unicode NFC or
NFD) and to a missing extension; and where not a single one lies in its place, in the folders below, in the archive's
part folders, and in the parent. Whatever is not as it is written is said in a note; two readings are refused.
"""

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

from biofuse.core.errors import DataError, option
from biofuse.data import dicom, volumes
from biofuse.data.labels import listing

SLIDE_SUFFIXES = frozenset({".bif", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide"})
"""Suffixes (in lower case) that nothing but a slide has."""

PICTURE_SUFFIXES = frozenset({
    ".apng", ".bmp", ".btf", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpeg2000",
    ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tf8", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""Suffixes (in lower case) of the formats that Pillow opens."""

IMAGE_SUFFIXES = PICTURE_SUFFIXES | SLIDE_SUFFIXES | dicom.SUFFIXES | volumes.SUFFIXES
"""Suffixes (in lower case) of files that are taken for images; they are those of the formats that are opened."""

FOREIGN_SUFFIXES = frozenset({
    ".arw", ".avif", ".avi", ".cr2", ".czi", ".dng", ".eps", ".exr", ".heic", ".heif",
    ".img", ".jxl", ".jxr", ".lif", ".lsm", ".mat", ".mha", ".mhd", ".mov", ".mp4", ".nd2", ".nef",
    ".npy", ".npz", ".nrrd", ".oib", ".oif", ".pdf", ".psd", ".raw", ".stk", ".svg",
    ".tga", ".vms", ".vsi", ".zarr",
})  # fmt: skip
"""Suffixes of images that are not read: passing over them is worth a warning."""

JUNK_FOLDERS = frozenset({
    "@eadir", "@recently-snapshot", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "__macosx",
    "__pycache__", "lost+found", "recycler", "system volume information", "~snapshot",
})  # fmt: skip
"""What file servers, archives and systems leave behind (in lower case); with hidden folders, it is passed over."""

DEEPEST, MOST_FOLDERS = 4, 20_000
"""How far below the table's folder names are looked for, and in how many folders at the most."""
NEAR, FEW_FOLDERS = 2, 1_000
"""The same below its parent, where the like of what is missing is looked for to be named, never to be taken."""

ADDRESS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]+)://")
FILE_ADDRESS = re.compile(r"file://(localhost)?", re.IGNORECASE)
DRIVE = re.compile(r"[a-zA-Z]:/")
"""How absolute paths of Windows begin; here they are relative."""


def is_address(text: object) -> bool:
    """Tell whether a text is the address of something on another machine, be it fetched or not.

    Examples
    --------
    >>> [is_address(text) for text in ("s3://bucket/1.png", "ftp://host/1.png", "C:/1.png", "file:///1.png")]
    [True, True, False, False]
    """
    found = ADDRESS.match(text) if isinstance(text, str) else None
    return found is not None and found["scheme"].lower() != "file"


def is_image_name(path: os.PathLike[str] | str) -> bool:
    """Tell whether a file is an image by its suffix."""
    return stem_and_suffix(os.fspath(path))[1].lower() in IMAGE_SUFFIXES


def stem_and_suffix(name: str) -> tuple[str, str]:
    """Divide a name, or a path, before its suffix, which of a compressed volume has two dots.

    Examples
    --------
    >>> stem_and_suffix("sub-01.T1w.nii.gz"), stem_and_suffix("1.2.840.png")
    (('sub-01.T1w', '.nii.gz'), ('1.2.840', '.png'))
    """
    stem, suffix = os.path.splitext(name)
    inner, first = os.path.splitext(stem)
    return (inner, first + suffix) if (first + suffix).lower() == ".nii.gz" else (stem, suffix)


def tells_nothing(name: str) -> bool:
    """Tell whether a name says nothing of what is in the file: scanners write ``IM000001``, or ``1.2.840.10008.1``.

    Examples
    --------
    >>> [tells_nothing(name) for name in ("IM000001", "1.2.840.10008.1", "scan.dcm", "DICOMDIR", ".hidden")]
    [True, True, False, False, True]
    """
    suffix = os.path.splitext(name)[1]
    return (not suffix or suffix[1:].isdecimal()) and name.upper() != "DICOMDIR"


def is_junk_folder(name: str) -> bool:
    """Tell whether a folder is hidden, or is what file servers, archives and systems leave behind."""
    return name.startswith(".") or name.casefold() in JUNK_FOLDERS


def excluding(path: str, patterns: Sequence[str]) -> list[str]:
    """Return the shell patterns that match the file name, or the path relative to the data."""
    name = path.rpartition("/")[2]
    return [pattern for pattern in patterns if fnmatch(name, pattern) or fnmatch(path, pattern)]


def left_out(where: str, what: str, patterns: Sequence[str], counts: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Say how many files or rows each pattern leaves out: a note, and a warning of those that leave out none."""
    some = [f"{counts[pattern]} by {pattern!r}" for pattern in dict.fromkeys(patterns) if counts.get(pattern)]
    none = [repr(pattern) for pattern in dict.fromkeys(patterns) if not counts.get(pattern)]
    notes = [f"{where}: {what} left out with {option('exclude')}: {', '.join(some)}."] if some else []
    return notes, [f"{where}: no {what} are like {listing(none)}, given as {option('exclude')}."] if none else []


def same_name(text: str) -> str:
    """Return what two names share that differ in case, or in how their accents are composed, only."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def bare_name(name: str) -> str:
    """Return a name without the suffix of an image; other dots are part of names such as ``1.2.840``."""
    stem, suffix = stem_and_suffix(name)
    return stem if stem and suffix.lower() in IMAGE_SUFFIXES | FOREIGN_SUFFIXES else name


def shown_folder(path: str | Path) -> str:
    """Write a folder as one would type it here: relative where it lies below the working directory."""
    here, folder = os.path.realpath("."), os.path.realpath(path)
    return os.path.relpath(folder, here) if folder == here or folder.startswith(here + os.sep) else folder


@dataclass(frozen=True)
class Folder:
    """What one folder holds: files and folders by name, and by what their names share."""

    path: str
    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    _by_name: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _by_stem: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def like(self, name: str) -> list[str]:
        """Return the files that differ from a name in case or accents only."""
        if not self._by_name:
            for file in self.files:
                self._by_name.setdefault(same_name(file), []).append(file)
        return self._by_name.get(same_name(name), [])

    def of_stem(self, stem: str) -> list[str]:
        """Return the images that are called so apart from their extension."""
        if not self._by_stem:
            for file in filter(is_image_name, self.files):
                self._by_stem.setdefault(same_name(stem_and_suffix(file)[0]), []).append(file)
        return self._by_stem.get(same_name(stem), [])


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where the images of a table lie.

    Attributes
    ----------
    paths : tuple of Path
        One per name; where none was found, the place in which it should be.
    notes : tuple of str
        How names were understood that are not written as the files are.
    warnings : tuple of str
        What is missing, and where the like of it lies.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class ImageFinder:
    """Looks names up below one folder, which is listed once however many tables and columns are looked at.

    Parameters
    ----------
    root : Path
        What names are relative to.
    searched : bool
        Whether the parent is looked at too, because nobody said where the images lie.
    extension : str, optional
        What is added to names with its dot, in place of an extension that they may have.
    """

    def __init__(self, root: Path, *, searched: bool = True, extension: str | None = None) -> None:
        self.root = os.path.normpath(root)
        self.searched = searched
        self.extension = extension
        self._listed: dict[str, Folder] = {}
        self._places: dict[tuple[str, str], list[Folder]] = {}
        self._below: dict[str, dict[str, list[str]]] = {}

    def count(self, names: Iterable[str]) -> int:
        """Count the names whose image is found, in whatever way."""
        written = [as_path(name) for name in names]
        return sum(bool(paths) for paths in self._look(written)[0])

    def find(self, names: Sequence[str], *, where: str) -> Found:
        """Find the image of every name.

        Parameters
        ----------
        names : sequence of str
            As :func:`as_path` returns them.
        where : str
            What the table is called in messages.

        Raises
        ------
        DataError
            If a name has two readings, or not a single image is there.
        """
        choices, elsewhere = self._look(names)
        self._refuse_two_readings(names, choices, where)
        missing = [row for row, paths in enumerate(choices) if not paths]
        hint = self._hint(names, missing) if missing else ""
        if names and len(missing) == len(names):
            raise DataError(
                f"{where}: {len(names)} of {len(names)} images are missing, such as {names[0]} in "
                f"{shown_folder(self.root)}.",
                remedy=hint
                or f"Say where they lie with {option('root')}, what their names lack with "
                f"{option('extension')}, or which column names them with {option('path')}.",
            )
        paths = [
            found[0] if found else self._join(self._with_extension(name))
            for name, found in zip(names, choices, strict=True)
        ]
        warnings: tuple[str, ...] = ()
        if missing:
            several = f"{len(missing)} of {len(names)} images are missing, such as {names[missing[0]]}."
            warnings = (f"{where}: {several} {hint}".rstrip(),)
        return Found(
            paths=tuple(map(Path, paths)),
            notes=tuple(self._notes(names, paths, missing, elsewhere)),
            warnings=warnings,
        )

    # --- where to look

    def _look(self, names: Sequence[str]) -> tuple[list[list[str]], bool]:
        """Return the readings of every name, and whether they are taken from other places than they are written."""
        direct = [self._in(self.root, name) for name in names]
        if any(direct) or not names:
            return direct, False
        own = _own_folders(names, self.root)
        if own:
            found = [self._in(self.root, name[len(own) :]) for name in names]
            if any(found):
                return found, True
        gone = _gone_folder(names)
        for cut in _cuts(gone):
            found = [self._in(self.root, name[cut:]) for name in names]
            if any(found):
                return found, True
        if not gone:
            found = [self._anywhere(self.root, name) for name in names]
            if any(found):
                return found, True
        parent = os.path.dirname(os.path.abspath(self.root))
        if self.searched and not gone and parent != os.path.abspath(self.root):
            found = [self._in(parent, name) for name in names]
            if any(found):
                return found, True
        # Spreadsheets make 1 of 001.
        found = [self._of_number(name) for name in names]
        return (found, True) if any(found) else (direct, False)

    def _join(self, name: str) -> str:
        return name if os.path.isabs(name) else os.path.join(self.root, name)

    def _with_extension(self, name: str) -> str:
        return name if self.extension is None else bare_name(name) + self.extension

    def _in(self, base: str, name: str) -> list[str]:
        """Return the readings of a name in its place below a folder: as it is written, or else its like."""
        name = self._with_extension(name)
        head, tail = os.path.split(name)
        found: list[str] = []
        for folder in self._folders(base, head):
            if tail in folder.files:
                return [os.path.join(folder.path, tail)]
            alike = folder.like(tail) or ([] if is_image_name(tail) else folder.of_stem(tail))
            found += [os.path.join(folder.path, file) for file in alike]
        return found

    def _folders(self, base: str, head: str) -> list[Folder]:
        """Return the folders that a path may mean; one that is written so, or else its likes."""
        if os.path.isabs(head):
            base = ""
        key = (base, head)
        if key not in self._places:
            exact = os.path.join(base, head) if head else base or "."
            if os.path.isdir(exact):
                self._places[key] = [self._list(exact)]
            else:
                above, last = os.path.split(head)
                self._places[key] = [] if not last else [
                    self._list(os.path.join(folder.path, name))
                    for folder in self._folders(base, above)
                    for name in folder.folders
                    if same_name(name) == same_name(last)
                ]  # fmt: skip
        return self._places[key]

    def _list(self, path: str) -> Folder:
        if path not in self._listed:
            files: set[str] = set()
            folders: set[str] = set()
            try:
                with os.scandir(path) as entries:
                    for entry in entries:
                        (folders if entry.is_dir() else files).add(entry.name)
            except OSError:
                pass  # what may not be listed holds nothing that is found; the missing images are reported
            self._listed[path] = Folder(path, frozenset(files), frozenset(folders))
        return self._listed[path]

    # --- in which folders below

    def _walk(self, top: str) -> Iterator[Folder]:
        """List the folders below one, the near ones first; hidden ones and links in a circle are passed over."""
        level, seen, listed = [top], {os.path.realpath(top)}, 0
        deepest, most = (DEEPEST, MOST_FOLDERS) if top == self.root else (NEAR, FEW_FOLDERS)
        for _ in range(deepest + 1):
            below: list[str] = []
            for path in level:
                listed += 1
                if listed > most:
                    return
                folder = self._list(path)
                yield folder
                for name in sorted(folder.folders):
                    inner = os.path.join(path, name)
                    real = os.path.realpath(inner)
                    if not is_junk_folder(name) and real not in seen:
                        seen.add(real)
                        below.append(inner)
            level = below

    def _index(self, top: str) -> dict[str, list[str]]:
        """Return the images below a folder by what their names share, with and without extension."""
        if top not in self._below:
            index: dict[str, list[str]] = {}
            for folder in self._walk(top):
                for file in filter(is_image_name, folder.files):
                    whole, path = same_name(file), os.path.join(folder.path, file)
                    index.setdefault(whole, []).append(path)
                    stem = stem_and_suffix(whole)[0]
                    index.setdefault(stem + "/", []).append(path)
                    if stem.isdecimal():
                        index.setdefault(f"/{int(stem)}", []).append(path)
            self._below[top] = index
        return self._below[top]

    def _of_number(self, name: str) -> list[str]:
        """Return the images below the root that are called by a number, however many zeros come before it."""
        stem = bare_name(name)
        found = self._index(self.root).get(f"/{int(stem)}", []) if stem.isdecimal() else []
        suffix = (
            stem_and_suffix(self._with_extension(name))[1].lower() if is_image_name(self._with_extension(name)) else ""
        )
        return [path for path in found if not suffix or stem_and_suffix(path)[1].lower() == suffix]

    def _anywhere(self, top: str, name: str, *, other_extension: bool = False) -> list[str]:
        """Return the images below a folder whose path ends as the name does."""
        name = self._with_extension(name)
        head, tail = os.path.split(name)
        index, key = self._index(top), same_name(tail)
        found = index.get(key, [])
        if other_extension:
            found = index.get(same_name(bare_name(tail)) + "/", [])
        elif not found and not is_image_name(tail):
            found = index.get(key + "/", [])
        exact = [path for path in found if os.path.basename(path) == tail]
        ending = "/" + same_name(head.replace(os.sep, "/")) if head else ""
        return [path for path in exact or found if same_name(os.path.dirname(path)).endswith(ending)]

    # --- what to say

    def _refuse_two_readings(self, names: Sequence[str], choices: Sequence[list[str]], where: str) -> None:
        twice = [(name, paths) for name, paths in zip(names, choices, strict=True) if len(paths) > 1]
        if not twice:
            return
        name, paths = twice[0]
        folders = sorted({os.path.dirname(path) for path in paths})
        shown = " or ".join(sorted(self._shown(path) for path in paths)[:4])
        if len(folders) > 1:
            top = " or ".join(option("root", shown_folder(folder)) for folder in folders[:4])
            remedy = f"Say which is meant: {top}; or write whole paths."
        else:
            suffixes = sorted({stem_and_suffix(path)[1] for path in paths})
            remedy = "Write the names as the files are called."
            if len(suffixes) > 1:
                remedy = f"Say which is meant: {' or '.join(option('extension', suffix) for suffix in suffixes)}."
        raise DataError(
            f"{where}: {len(twice)} of {len(names)} names have several readings: {name} is {shown}.", remedy=remedy
        )

    def _shown(self, path: str) -> str:
        inside = os.path.abspath(path).startswith(os.path.abspath(self.root) + os.sep)
        return os.path.relpath(path, self.root) if inside else path

    def _notes(
        self, names: Sequence[str], paths: Sequence[str], missing: Sequence[int], elsewhere: bool
    ) -> Iterator[str]:
        gone = set(missing)
        rows: dict[str, list[int]] = {"longer": [], "numbered": [], "unlike": []}
        folders: Counter[str] = Counter()
        for row, (name, path) in enumerate(zip(names, paths, strict=True)):
            wanted = self._with_extension(name)
            if row in gone or (not elsewhere and path.endswith(wanted)):
                continue
            kind = _difference(os.path.basename(wanted), os.path.basename(path), whole=not elsewhere)
            if kind:
                rows[kind].append(row)
            if elsewhere:
                head, folder = os.path.dirname(wanted), os.path.dirname(path)
                folders[folder.removesuffix(head).rstrip(os.sep) if head and not os.path.isabs(head) else folder] += 1
        if elsewhere:
            there = [shown_folder(folder or self.root) for folder, _ in folders.most_common()]
            yield f"The images are taken from {listing(there)}; {option('root')} names another folder."
        said = {
            "longer": f"have no extension, which {option('extension')} gives",
            "numbered": "are numbers without their leading zeros",
            "unlike": "differ from the files' in case or in how accents are written (Unicode)",
        }
        for kind, found in rows.items():
            if found:
                read = f"{names[found[0]]} is read from {self._shown(paths[found[0]])}"
                yield f"{len(found)} of {len(names)} names {said[kind]}: {read}."

    def _hint(self, names: Sequence[str], missing: Sequence[int]) -> str:
        """Say where the first of the missing images has its like, and what to give so that it is found."""
        tops = [self.root]
        parent = os.path.dirname(os.path.abspath(self.root))
        if self.searched and len(missing) == len(names) and parent != os.path.dirname(parent):
            tops.append(parent)
        if any(self._in(".", names[row]) for row in missing[:3]):
            return f"They lie below the working directory: give {option('root', '.')}."
        for top, row in itertools.product(tops, missing[:3]):
            for shorter in dict.fromkeys((names[row], os.path.basename(names[row]))):
                like = self._anywhere(top, shorter) or self._anywhere(top, shorter, other_extension=True)
                if like:
                    return self._advice(shorter, like[0])
            foreign = next(self._foreign(top, names[row]), None)
            if foreign:
                return f"{foreign} exists, but images of this kind are not read: export them as PNG or TIFF first."
        return ""

    def _foreign(self, top: str, name: str) -> Iterator[str]:
        stem = same_name(bare_name(os.path.basename(name)))
        for folder in self._walk(top):
            for file in folder.files:
                if stem_and_suffix(file)[1].lower() in FOREIGN_SUFFIXES and same_name(bare_name(file)) == stem:
                    yield self._shown(os.path.join(folder.path, file))

    def _advice(self, name: str, path: str) -> str:
        head, tail = os.path.split(name)
        folder = os.path.dirname(path)
        top = folder[: len(folder) - len(head)].rstrip(os.sep) if head else folder
        give = []
        if os.path.abspath(top) != os.path.abspath(self.root):
            give.append(option("root", shown_folder(top)))
        suffix = stem_and_suffix(path)[1]
        if stem_and_suffix(tail)[1].lower() != suffix.lower():
            give.append(option("extension", suffix))
        advice = f": give {' '.join(give)}" if give else ""
        return f"{shown_folder(path)} exists{advice}."


def _difference(name: str, file: str, *, whole: bool) -> str | None:
    """Tell how a file is called otherwise than its name in a table; ``whole`` if at least a folder must be."""
    if name == file:
        return "unlike" if whole else None
    stem, bare = stem_and_suffix(file)[0], bare_name(name)
    if stem.isdecimal() and bare.isdecimal() and len(stem) != len(bare):
        return "numbered"
    return "unlike" if is_image_name(name) or same_name(file) == same_name(name) else "longer"


def as_path(text: str) -> str:
    """Return the path that a cell means, with ``/``: ``~``, ``$HOME`` and ``file://`` are resolved.

    The address of something on another machine stays as it is.
    """
    if is_address(text):
        return text
    text = text.replace("\\", "/")
    here = FILE_ADDRESS.match(text)
    if here:
        text = unquote(text[here.end() :])
    if text.startswith("$"):
        text = os.path.expandvars(text)
    if text.startswith("~"):
        text = os.path.expanduser(text)
    return os.path.normpath(text)


def _own_folders(names: Sequence[str], root: str) -> str:
    """Return the first folders of all names where they are the last ones of the root: the table lies inside them."""
    if any(map(os.path.isabs, names)):
        return ""
    common = os.path.commonpath([os.path.dirname(name) or "." for name in names])
    parts = [part for part in common.split("/") if part not in {"", "."}]
    ends = [same_name(part) for part in os.path.realpath(root).split(os.sep)]
    for n in range(len(parts), 0, -1):
        if ends[-n:] == [same_name(part) for part in parts[:n]]:
            return "/".join(parts[:n]) + "/"
    return ""


def _gone_folder(names: Sequence[str]) -> str:
    """Return the folder that all names lie in, where they are whole paths of another machine."""
    if not all(os.path.isabs(name) or DRIVE.match(name) for name in names):
        return ""
    try:
        return os.path.commonpath([os.path.dirname(name) for name in names])
    except ValueError:
        return ""


def _cuts(folder: str) -> Iterator[int]:
    """Yield how many characters to leave off so that one more folder of a path is gone, beginning with the first."""
    folder = folder.rstrip("/")
    for position, letter in enumerate(folder):
        if letter == "/":
            yield position + 1
    if folder:
        yield len(folder) + 1
