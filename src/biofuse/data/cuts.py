"""Images that are cut from a file (frames, slices, tiles), and bags of images that make up one sample."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock, local
from typing import Generic, Protocol, Self, TypeVar, runtime_checkable
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import UnreadableImageError, printable
from biofuse.core.files import refuse_special_file
from biofuse.core.hashing import canonical_json, digest, digest_file
from biofuse.data.decoding import REMEDY, DecodePolicy, RawImage, content_hash
from biofuse.data.remembered import JSON, remembered

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

CUT_VERSION = 1
"""Raised when the same file and cut would give other pixels; part of the content hash."""


class Source(Protocol):
    """Where one image comes from. Must survive a trip to a worker process."""

    @property
    def description(self) -> str:
        """What a person would call it: a path, or "row 3 of array X"."""
        ...

    def read(self) -> RawImage:
        """Read the undecoded bytes of an image file, or the pixel array.

        Raises
        ------
        UnreadableImageError
            If there is nothing to read.
        """
        ...


@runtime_checkable
class Cut(Source, Protocol):
    """A :class:`Source` of an image that is a part of a file, and is named by the file and by what is cut."""

    def content(self, policy: DecodePolicy) -> bytes:
        """Return the content hash (16 bytes), without decoding anything: what :func:`cut_content` makes.

        Raises
        ------
        UnreadableImageError
            If the file cannot be read.
        """
        ...


@runtime_checkable
class Placed(Protocol):
    """A :class:`Source` that says where in its file the image lies."""

    @property
    def place(self) -> Mapping[str, int]:
        """Numbers by name, of a tile in pixels of the slide's finest level: ``{"x": 512, "y": 0}``."""
        ...


@dataclass(frozen=True)
class StampedFile:
    """A file as it was when the data were read.

    Attributes
    ----------
    path : Path
    n_bytes : int
    changed : int
        When it was last written, in nanoseconds since 1970.
    called : str
        What a person knows it by, where that is not the path: the address that it is a copy of.

    Examples
    --------
    >>> from biofuse.data.cuts import StampedFile
    >>> file = StampedFile.of(Path("new.png"))
    >>> file.require_unchanged()
    >>> len(file.digest())
    16
    """

    path: Path
    n_bytes: int
    changed: int
    called: str = field(default="", compare=False)

    @classmethod
    def of(cls, path: Path, called: str = "") -> Self:
        """Look at a file.

        Raises
        ------
        UnreadableImageError
            If it is not there.
        """
        try:
            refuse_special_file(path)
            found = path.stat()
        except OSError as error:
            raise UnreadableImageError(f"{called or path}: cannot be read: {error.strerror}.", remedy=REMEDY) from error
        return cls(path=path, n_bytes=found.st_size, changed=found.st_mtime_ns, called=called)

    @property
    def description(self) -> str:
        """The path, or what it is called."""
        return printable(self.called or str(self.path)).replace("\n", "\\n")

    @property
    def folder(self) -> str:
        """The folder that it lies in, as it is called."""
        return printable(self.called.rpartition("/")[0] or str(self.path.parent))

    def digest(self) -> bytes:
        """Hash its bytes (16 bytes), once in a process; of a large file, once and for all while it stays as it is.

        Raises
        ------
        UnreadableImageError
            If it cannot be read, or is another than it was.
        """
        self.require_unchanged()
        try:
            with _lock(self):  # several threads ask for it, one for each of many images
                return _digest(self)
        except OSError as error:
            raise UnreadableImageError(
                f"{self.description}: cannot be read: {error.strerror}.", remedy=REMEDY
            ) from error

    def require_unchanged(self) -> None:
        """Refuse a file that was written to since.

        Raises
        ------
        UnreadableImageError
            If it is another than it was, or gone.
        """
        if self.of(self.path, self.called) != self:
            raise UnreadableImageError(
                f"{self.description} changed after the data were read.", remedy="Read the data again."
            )


@lru_cache(maxsize=4096)
def _lock(file: StampedFile) -> Lock:
    del file
    return Lock()


@lru_cache(maxsize=4096)
def _digest(file: StampedFile) -> bytes:
    return bytes.fromhex(remembered([file.path], {"fact": "hash"}, lambda: digest_file(file.path)))


class LastRead(Generic[Key, Value]):
    """What each thread has read last: files too large for more of them to be held, that several threads may need.

    Parameters
    ----------
    read : callable
        From a key to what is read, such as the voxels of a volume. Threads that ask for the same wait for the first.
    """

    def __init__(self, read: Callable[[Key], Value]) -> None:
        self._read = read
        self._shared: WeakValueDictionary[Key, Value] = WeakValueDictionary()
        self._locks: dict[Key, Lock] = {}
        self._lock = Lock()
        self._own = local()

    def __call__(self, key: Key) -> Value:
        """Return what this thread, or another, holds; else read it, and hold it until this thread reads another."""
        with self._lock:
            lock = self._locks.setdefault(key, Lock())
        try:
            with lock:
                found = self._shared.get(key)
                if found is None:
                    self._own.held = None  # make room before
                    self._shared[key] = found = self._read(key)
                self._own.held = found
        finally:
            with self._lock:
                self._locks.pop(key, None)
        return found


def cut_content(files: Sequence[StampedFile], cut: Mapping[str, JSON], policy: DecodePolicy) -> bytes:
    """Name an image that is cut from one file, or made of several: 16 bytes.

    Parameters
    ----------
    files : sequence of StampedFile
        Their bytes take part, and their order; their names do not.
    cut : mapping
        What is cut and how it becomes pixels, as JSON: ``{"slice": 40, "axis": 2, "window": [40.0, 80.0]}``.
    policy : DecodePolicy

    Raises
    ------
    UnreadableImageError
        If a file cannot be read.
    """
    rules = canonical_json({"version": CUT_VERSION, "cut": cut, **policy.hashed()})
    return digest(b"cut", rules, *(file.digest() for file in files))


def content_of(source: Source, policy: DecodePolicy) -> bytes:
    """Return the content hash of an image (16 bytes): of its bytes or pixels, or of the file and what is cut from it.

    Raises
    ------
    UnreadableImageError
        If it cannot be read.
    """
    return source.content(policy) if isinstance(source, Cut) else content_hash(source.read(), policy)


@dataclass(frozen=True)
class Bag:
    """The images of one sample, in an order that does not depend on that of the rows.

    As a :class:`Source` it is its middle image: what is shown of a sample where there is room for one.

    Attributes
    ----------
    images : tuple of Source
        At least one.
    description : str
    """

    images: tuple[Source, ...] = field(repr=False)
    description: str

    def __len__(self) -> int:
        return len(self.images)

    def read(self) -> RawImage:
        """Read the middle image."""
        return self.images[len(self.images) // 2].read()


@dataclass(frozen=True)
class UnopenedSource:
    """The :class:`Source` of a file that is known to hold images and whose beginning cannot be read.

    Attributes
    ----------
    description : str
    error : UnreadableImageError
        Why; raised by every reading, so that the file is named wherever unreadable images are.
    """

    description: str
    error: UnreadableImageError

    def read(self) -> RawImage:
        """Raise what was found.

        Raises
        ------
        UnreadableImageError
            Always.
        """
        raise self.error


UNREADABLE = "unreadable file"
"""The kind of a file whose beginning cannot be read."""


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What a file that holds images says of itself; nothing in it identifies a person.

    Attributes
    ----------
    kind : str
        What a person would call it: "NIfTI volume".
    facts : mapping of str to str or float
        By a short name in plain words, with its unit: ``{"slices": 32, "spacing (mm)": 2.0}``.
    """

    kind: str
    facts: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a file that holds images was opened as.

    Attributes
    ----------
    images : tuple of Source
        In their natural order, at least one.
    is_bag : bool
        Whether they are a bag even where there is one: a volume, a slide. Otherwise one image is a sample by itself.
    about : FileFacts
    identifiers : mapping of str to str
        What the file says it belongs to, by "patient", "study" and "series": a hash of the text, never the text.
        Where it becomes the name of a group, :func:`biofuse.data.containers.private_name` hashes it again, with a key.
    position : float or None
        Where the image lies among those of its series, in mm.
    notes, warnings : tuple of str
        As of :class:`biofuse.data.samples.Samples`.
    """

    images: tuple[Source, ...]
    is_bag: bool
    about: FileFacts
    identifiers: Mapping[str, str] = field(default_factory=dict)
    position: float | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def chosen(rule: str, filled: Sequence[int], n: int) -> tuple[list[int], list[int]]:
    """Choose slices of a volume, or frames of a file.

    Parameters
    ----------
    rule : str
        As the option ``slices`` takes it.
    filled : sequence of int
        Slices that show something, in order.
    n : int
        How many slices there are.

    Returns
    -------
    chosen : list of int
        In order.
    empty : list of int
        Those that were named and show nothing.

    Examples
    --------
    >>> chosen("3", range(2, 8), 10), chosen("every:4", range(2, 8), 10), chosen("at:5,9", range(2, 8), 10)
    (([3, 5, 7], []), ([2, 6], []), ([5], [9]))
    >>> chosen("at:50%", range(2, 8), 11)
    ([5], [])
    """
    kind, _, value = rule.partition(":")
    if kind == "at":
        named = {
            round(float(part[:-1]) / 100 * (n - 1)) if part.endswith("%") else int(part) for part in value.split(",")
        }
        shown = named & set(filled)
        return sorted(shown), sorted(named - shown)
    if kind == "every":
        return list(filled[:: int(value)]), []
    if kind == "all" or int(kind) >= len(filled):
        return list(filled), []
    # The middle of each of so many equal parts: the first and the last slice often show next to nothing.
    middles = (np.arange(int(kind)) + 0.5) * (len(filled) / int(kind))
    return [filled[int(each)] for each in middles], []


def bag_content(contents: NDArray[np.bytes_]) -> bytes:
    """Name a bag by the content hashes of its images (16 bytes), whatever their order; empty where one is missing."""
    items = sorted(contents[place : place + 1].tobytes() for place in range(len(contents)))
    return b"" if not items or not items[0].strip(b"\0") else digest(b"bag", *items)


def ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers from each start on, as many as its size says, one range behind the other.

    Examples
    --------
    >>> import numpy as np
    >>> ranges(np.array([5, 0]), np.array([3, 2])).tolist()
    [5, 6, 7, 0, 1]
    """
    before = np.cumsum(sizes) - sizes
    return np.asarray(np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes), dtype=np.int64)


def of_samples(sources: Sequence[Source], contents: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Return the hashes of samples, shape (n,), by those of their images, shape (n_images,), sample by sample.

    That of a bag is empty where one of its images has none.
    """
    hashes, end = np.zeros(len(sources), dtype=contents.dtype), 0
    for row, source in enumerate(sources):
        start, end = end, end + (len(source) if isinstance(source, Bag) else 1)
        hashes[row] = bag_content(contents[start:end]) if isinstance(source, Bag) else contents[start]
    return hashes
