"""Where BioFuse keeps what it computes."""

import contextlib
import functools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, get_args

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, CorruptPartError, DiskError, StoreError, UnknownEncoderError
from biofuse.core.files import TEMPORARY_SUFFIX, disk_errors, home, read_json, refuse_odd_path, write_text
from biofuse.core.hashing import Contents
from biofuse.core.linear import slices
from biofuse.encoders.card import IMPORTED, EncoderCard, Precision
from biofuse.store.parts import (
    PART_SUFFIX,
    ROWS_AT_ONCE,
    HeldPart,
    Index,
    Memory,
    Part,
    Plan,
    scratch_matrix,
    state_of,
    too_large,
    whole_parts,
)

BROKEN_SUFFIX = ".broken"
"""Added to the name of a part that failed its checksum; such a file is never read again."""


PART_ROWS = 4096
"""Rows after which a part is written."""

SMALL_PART = 1024
"""Rows below which a part is small: every run that finds something new adds at least one part, however few its rows."""

MANY_PARTS = 32
"""Small parts that are merged: a store of thousands of them would take seconds to look through."""

LOOKS = 10
"""Times that a folder is listed anew where parts vanish meanwhile, because another process merges them."""


@dataclass(eq=False)
class EncoderFolder:
    """The embeddings of one encoder: ``card.json`` and parts.

    Attributes
    ----------
    path : Path
        ``<store>/<fingerprint>``.
    card : EncoderCard
    precision : {"fp32", "fp16", "bf16"}
    """

    path: Path
    card: EncoderCard
    precision: Precision
    _parts: dict[str, Part] = field(default_factory=dict, repr=False)
    _checked: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    _index: Index | None = field(default=None, repr=False)
    _indexes: dict[str, Index] = field(default_factory=dict, repr=False)
    _held: list[HeldPart] | None = field(default=None, repr=False)
    _on_disk: bool = field(default=True, repr=False)

    @classmethod
    def from_disk(cls, path: Path) -> Self:
        """Open an existing folder by its ``card.json``.

        Raises
        ------
        StoreError
            If ``card.json`` is missing or not a card.
        """
        try:
            record = read_json(path / "card.json")
            return cls(path, card=EncoderCard.model_validate(record["card"]), precision=record["precision"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path / 'card.json'} is not the card of an encoder: {error}", remedy="Remove this folder."
            ) from error

    def part_paths(self) -> list[Path]:
        """Return the finished parts, ordered by name.

        Raises
        ------
        StoreError
            If the folder may not be read.
        """
        if not self._on_disk:
            return []
        try:
            there = list(self.path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be read: {error.strerror}.", remedy="Make the store readable, or give another one."
            ) from error
        return sorted(path for path in there if path.suffix == PART_SUFFIX and path.name[0] != ".")

    def broken_paths(self) -> list[Path]:
        """Return the parts that failed their checksum and were set aside."""
        return sorted(self.path.glob(f"*{BROKEN_SUFFIX}"))

    def temporary_paths(self) -> list[Path]:
        """Return unfinished files, left by a killed run or being written right now."""
        return sorted(self.path.glob(f".*{TEMPORARY_SUFFIX}"))

    def write(self, contents: Contents, embeddings: NDArray[np.float32]) -> Path:
        """Add rows as one new part; in a store that keeps nothing, in memory.

        Raises
        ------
        AlignmentError
            If the embeddings do not have the card's dimension, or not one row per hash.
        DiskError
            If the disk is full or read-only.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.card.dim:
            raise AlignmentError(f"{self.card.name} has {self.card.dim} columns, not {embeddings.shape}.")
        if self._held is not None:
            self._held.append(HeldPart.of(self.path, contents, embeddings))
            return self.path
        if not (self.path / "card.json").exists():
            self._write_card(self.card)
        return Part.write(self.path, contents, embeddings)

    def save_card(self, card: EncoderCard) -> None:
        """Write the card anew, with other prose.

        Raises
        ------
        StoreError
            If it is the card of another encoder.
        DiskError
            If the disk is full or read-only.
        """
        if card.fingerprint(precision=self.precision) != self.path.name:
            raise StoreError(f"The card of {card.name} does not belong to {self.path}.")
        self._write_card(card)
        self.card = card

    @property
    def held(self) -> list[HeldPart]:
        """What was added to a store that keeps nothing."""
        return self._held or []

    def merge(self, *, at_least: int = MANY_PARTS) -> int:
        """Put small parts together where there are many; other processes may read and write meanwhile.

        Every row stands in its new part, under the checksum of that, before its old one is removed.

        Parameters
        ----------
        at_least : int
            Fewer small parts than that are left alone.

        Returns
        -------
        int
            Parts that were merged.

        Raises
        ------
        DiskError
            If the new parts cannot be written, or the old ones removed.
        """
        if self._held is not None or len(small := self.small_parts()) < at_least:
            return 0
        whole = []
        for part in sorted(small, key=lambda each: _written(each.path)):
            with contextlib.suppress(FileNotFoundError, CorruptPartError):  # what is damaged is left to check()
                whole.append(Part.read(part.path, dim=self.card.dim, verify=True))
        if len(whole) < 2:  # another process has merged them
            return 0
        index = Index.of(whole)
        first = np.flatnonzero(index.first())
        written = set()
        try:
            rows = np.concatenate([part.embeddings for part in whole])
        except FileNotFoundError:  # another process is merging them
            return 0
        for piece in slices(len(first), PART_ROWS):
            written.add(self.write(index.contents[first[piece]], rows[first[piece]]))
        for part in whole:
            if part.path not in written:
                with disk_errors(part.path):
                    part.path.unlink(missing_ok=True)
                self._parts.pop(part.path.name, None)
        return len(whole)

    def small_parts(self) -> list[Part]:
        """Return the parts of few rows."""
        return [part for part in self.parts() if len(part) < SMALL_PART and not isinstance(part, HeldPart)]

    def check(self, wanted: Contents | None = None, *, again: bool = False) -> list[Path]:
        """Hash parts and set aside those that changed since they were written.

        Parameters
        ----------
        wanted : ndarray of S16, optional
            Only the parts that have a row of one of these contents; by default all.
        again : bool, default False
            Whether to hash even parts that the same :class:`EmbeddingStore` object has hashed before and whose size
            and time of change are what they were.

        Returns
        -------
        list of Path
            The parts that were broken, under their new names; their rows count as missing from now on.
        """
        broken = self._look(again=again)
        needed = self.parts() if wanted is None else self.index().holding(wanted)
        for path in [part.path for part in needed if not isinstance(part, HeldPart)]:
            try:
                state = state_of(path)
                if self._checked.get(str(path)) != state or again:
                    self._parts[path.name] = Part.read(path, dim=self.card.dim, verify=True)
                    self._checked[str(path)] = state
            except FileNotFoundError:  # another process has removed it or set it aside
                self._parts.pop(path.name, None)
            except CorruptPartError:
                self._parts.pop(path.name, None)
                broken.append(self._set_aside(path))
        return broken

    def _look(self, *, again: bool) -> list[Path]:
        """Look at the parts that are not known as they are, and set aside what is none."""
        broken = []
        for path in self.part_paths():
            try:
                if again or path.name not in self._parts or self._parts[path.name].state != state_of(path):
                    self._parts[path.name] = Part.read(path, dim=self.card.dim, verify=False)
            except FileNotFoundError:
                self._parts.pop(path.name, None)
            except CorruptPartError:
                self._parts.pop(path.name, None)
                broken.append(self._set_aside(path))
        return broken

    def parts(self) -> list[Part]:
        """Look at all parts; checksums are not recomputed here (see :meth:`check`).

        Raises
        ------
        CorruptPartError
            If a file is not a part at all.
        """
        for _ in range(LOOKS):
            parts, gone = [], False
            for path in self.part_paths():
                if path.name not in self._parts:
                    try:
                        self._parts[path.name] = Part.read(path, dim=self.card.dim, verify=False)
                    except FileNotFoundError:  # removed or set aside: its rows may stand in a part not yet seen
                        gone = True
                        continue
                parts.append(self._parts[path.name])
            if not gone:
                break
        return [*parts, *self.held]

    def index(self) -> Index:
        """Give the rows of all parts their numbers; made once as long as the parts stay the same."""
        parts = tuple(self.parts())
        known = self._index or self._indexes.get(self.path.name)
        self._index = known if known is not None and known.parts == parts else Index.of(parts)
        if not self.held:
            self._indexes[self.path.name] = self._index
        return self._index

    def missing(self, contents: Contents) -> NDArray[np.bool_]:
        """Tell which content hashes have no embedding here.

        Returns
        -------
        ndarray of bool, shape (n,)
        """
        if whole_parts(self.parts(), contents) is not None:  # the data as they were when they were embedded
            return np.zeros(len(contents), dtype=np.bool_)
        return self.index().locate(contents) < 0

    def read(self, contents: Contents, *, memory: Memory = "auto") -> NDArray[np.float32]:
        """Return the embeddings of the given contents, row by row.

        A run of rows that lies in one part in the order asked for is returned as a read-only view of the file.

        Parameters
        ----------
        contents : ndarray of S16, shape (n,)
        memory : {"auto", "ram", "map"}
            Where rows of several parts are put together. ``ram``: in memory. ``map``: in a scratch file in the
            encoder's folder, mapped read-only and removed with the last array that uses it; its pages can be dropped
            from memory at any time. ``auto``: in memory, unless that takes more than a quarter of what is free.

        Returns
        -------
        ndarray of float32, shape (n, dim)

        Raises
        ------
        AlignmentError
            If a content has no embedding here.
        DiskError
            If the disk has no room for the scratch file.
        """
        found = self._plan(contents)
        if len(found.runs) == 1:
            (run,) = found.runs
            with contextlib.suppress(FileNotFoundError):  # just removed as redundant: its rows stand elsewhere
                return run.part.embeddings[run.start : run.start + run.rows]
        shape = (len(contents), self.card.dim)
        if len(contents) and (memory == "map" or (memory == "auto" and too_large(4 * shape[0] * shape[1]))):
            return scratch_matrix(self.path, shape, self.iter_blocks(contents))
        return self._block(found, contents, slice(0, len(contents)))

    def iter_blocks(self, contents: Contents, *, rows: int = ROWS_AT_ONCE) -> Iterator[NDArray[np.float32]]:
        """Read the embeddings of the given contents piece by piece; only one piece is held in memory.

        Parameters
        ----------
        contents : ndarray of S16, shape (n,)
        rows : int, default 65536
            Most rows of a piece.

        Yields
        ------
        ndarray of float32, shape (at most ``rows``, dim)

        Raises
        ------
        AlignmentError
            If a content has no embedding here; before the first piece.
        """
        found = self._plan(contents)
        for piece in slices(len(contents), rows):
            yield self._block(found, contents, piece)

    def n_embeddings(self) -> int:
        """Count the distinct contents embedded here."""
        return self.index().n_distinct()

    def n_bytes(self) -> int:
        """Total size of all files of this folder in bytes."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())

    def _write_card(self, card: EncoderCard) -> None:
        record = {"card": card.model_dump(mode="json"), "precision": self.precision}
        write_text(self.path / "card.json", json.dumps(record, indent=2) + "\n")

    def _plan(self, contents: Contents) -> Plan:
        return Plan.find(self.parts(), contents, self.index, lambda n: self._absent(n, len(contents)))

    def _block(self, found: Plan, contents: Contents, rows: slice) -> NDArray[np.float32]:
        out = np.empty((rows.stop - rows.start, self.card.dim), dtype=np.float32)
        try:
            found.fill(out, place=rows.start)
        except FileNotFoundError:  # a part was removed as redundant since it was looked at: its rows stand elsewhere
            self._plan(contents[rows]).fill(out, place=0)
        return out

    def _absent(self, n: int, of: int) -> AlignmentError:
        if self.card.loader == IMPORTED:
            remedy = f"Import theirs: `biofuse store import FILE --encoder {self.card.name} --data DATA`."
        else:
            remedy = "Run `biofuse embed` on these data first."
        return AlignmentError(f"{n} of {of} samples have no {self.card.name} embedding in {self.path}.", remedy=remedy)

    def _set_aside(self, path: Path) -> Path:
        target = path.with_name(path.name + BROKEN_SUFFIX)
        try:
            with disk_errors(path):
                path.replace(target)
        except DiskError as error:
            raise CorruptPartError(
                f"{path} has changed since it was written, and cannot be set aside: {error.message}",
                remedy="Make the store writable, or remove the file; its rows are computed again on the next run.",
            ) from error
        return target


class EmbeddingStore:
    """A folder of embeddings shared by all runs of a user.

    Parameters
    ----------
    root : Path, optional
        The store's folder; by default ``embeddings`` in :func:`biofuse.core.files.home`.
    keep : bool, default True
        Whether what is added is written. Otherwise this object holds it in memory, and the folder is only read.
    look : bool, default True
        Whether the folder is read. Otherwise this object knows what it was given, and nothing else.
    """

    def __init__(self, root: Path | str | None = None, *, keep: bool = True, on_disk: bool = True) -> None:
        self.root = home() / "embeddings" if root is None else Path(root)
        refuse_odd_path(self.root)
        self.keep = keep
        self.on_disk = on_disk
        self._held: dict[str, list[HeldPart]] = {}
        # Shared by the folders opened here: parts never change, and are looked at and hashed once per process.
        self._checked: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, dict[str, Part]] = {}
        self._indexes: dict[str, Index] = {}

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.root)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return _store_at, (self.root, self.keep, self.on_disk)  # not what this process knows of the parts

    def without_keeping(self) -> "EmbeddingStore":
        """Return this store for one who only reads it: what the object returned is given, it holds in memory."""
        reader = EmbeddingStore(self.root, keep=False, on_disk=self.on_disk)
        reader._checked, reader._parts, reader._indexes = self._checked, self._parts, self._indexes
        return reader

    def in_memory(self) -> "EmbeddingStore":
        """Return an empty store that holds in memory what it is given, and touches no disk; that one returns itself."""
        return self if not self.on_disk else EmbeddingStore(self.root, keep=False, on_disk=False)

    def open(self, card: EncoderCard, *, precision: Precision = "fp32") -> "EncoderFolder":
        """Return the folder of one encoder at one precision; nothing is created until rows are written."""
        path = self.root / card.fingerprint(precision=precision)
        parts = self._parts.setdefault(path.name, {})
        held = None if self.keep else self._held.setdefault(path.name, [])
        return EncoderFolder(
            path,
            card=card,
            precision=precision,
            _parts=parts,
            _checked=self._checked,
            _held=held,
            _indexes=self._indexes,
            _on_disk=self.on_disk,
        )

    def has(self, card: EncoderCard) -> bool:
        """Tell whether there is any embedding of an encoder, at whatever precision."""
        return any(self.open(card, precision=precision).part_paths() for precision in get_args(Precision))

    def folders(self) -> Iterator["EncoderFolder"]:
        """Iterate over all encoders that have embeddings here, in the order of their names.

        Folders whose ``card.json`` cannot be read are passed over; see :meth:`unreadable`.
        """
        for path in self._paths():
            with contextlib.suppress(StoreError):
                yield EncoderFolder.from_disk(path)

    def unreadable(self) -> list[Path]:
        """Return the folders that hold no readable ``card.json``: nobody can tell whose embeddings theirs are."""
        readable = {folder.path for folder in self.folders()}
        return [
            path
            for path in self._paths()
            if path not in readable and any([*path.glob("card.json"), *path.glob(f"*{PART_SUFFIX}")])
        ]

    def _paths(self) -> list[Path]:
        if not self.on_disk:
            return []
        try:
            return sorted(path for path in self.root.iterdir() if path.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(
                f"{self.root} cannot be read: {error.strerror}.", remedy="Make the store readable, or give another one."
            ) from error

    def find_imported(self, name: str) -> EncoderCard | None:
        """Return the card of an encoder whose embeddings were imported into this store, if there is one.

        Parameters
        ----------
        name : str
            ``NAME`` or ``imported:NAME``.

        Raises
        ------
        UnknownEncoderError
            If the name begins with ``imported:`` and there is none.
        StoreError
            If there are several.
        """
        prefix, _, wanted = name.rpartition(":")
        found = [each for each in self.folders() if each.card.loader == IMPORTED and each.card.name == wanted]
        if prefix not in {"", IMPORTED} or (not found and not prefix):
            return None
        if not found:
            raise UnknownEncoderError(
                f"No embeddings of an encoder {wanted!r} were imported into {self.root}.",
                remedy=f"Import them: `biofuse store import FILE --encoder {wanted} --data DATA`.",
            )
        if len(found) > 1:
            raise StoreError(
                f"{self.root} has {len(found)} imported encoders called {wanted}: "
                f"{', '.join(folder.path.name for folder in found)}.",
                remedy="Remove the folders that are not meant.",
            )
        return found[0].card

    def check_writable(self) -> None:
        """Find out before long work whether results can be kept, where they are to be.

        Raises
        ------
        DiskError
            If the store cannot be written to.
        """
        if not self.keep:
            return
        probe = self.root / ".writable"
        write_text(probe, "")
        with disk_errors(probe):
            probe.unlink(missing_ok=True)


def as_store(store: EmbeddingStore | Path | str | None) -> EmbeddingStore:
    """Return the store itself, the store at a path, or the user's own."""
    if isinstance(store, EmbeddingStore):
        return store
    return _known_store((home() / "embeddings" if store is None else Path(store)).absolute())


@functools.lru_cache(maxsize=8)
def _known_store(root: Path) -> EmbeddingStore:
    """Return the store at a path, the same every time: its parts are looked at and hashed once in a process."""
    return EmbeddingStore(root)


def _store_at(root: Path, keep: bool, on_disk: bool) -> EmbeddingStore:
    return EmbeddingStore(root, keep=keep, on_disk=on_disk)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


STALE_SECONDS = 3600.0
"""Age after which an unfinished file is taken to belong to a killed run; a part is written in seconds."""


@dataclass(frozen=True, kw_only=True)
class StoreEntry:
    """One row of ``biofuse store ls``; ``imported`` says where embeddings that were made elsewhere come from."""

    encoder: str
    fingerprint: str
    precision: str
    dim: int
    embeddings: int
    parts: int
    broken: int
    bytes: int
    imported: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What ``biofuse store verify`` found in one encoder's folder."""

    encoder: str
    fingerprint: str
    parts: int
    broken: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What ``biofuse store gc`` removed, or would remove.

    Attributes
    ----------
    removed : tuple of Path
    bytes : int
        Their size.
    unreadable : tuple of Path
        Folders without a readable ``card.json``: nothing in them is read, and nothing was removed.
    merged : int
        Small parts that were put together, or would be.
    """

    removed: tuple[Path, ...]
    bytes: int
    unreadable: tuple[Path, ...] = ()
    merged: int = 0


def list_store(store: EmbeddingStore) -> list[StoreEntry]:
    """Describe every encoder's folder."""
    return [
        StoreEntry(
            encoder=folder.card.name,
            fingerprint=folder.path.name,
            precision=folder.precision,
            dim=folder.card.dim,
            embeddings=folder.n_embeddings(),
            parts=len(folder.part_paths()),
            broken=len(folder.broken_paths()),
            bytes=folder.n_bytes(),
            imported=folder.card.notes if folder.card.loader == IMPORTED else (),
        )
        for folder in store.folders()
    ]


def verify_store(store: EmbeddingStore) -> list[Verification]:
    """Hash every part; a part that changed is set aside and its rows are computed again by the next run."""
    found = []
    for folder in store.folders():
        parts = len(folder.part_paths())
        folder.check(again=True)
        found.append(
            Verification(
                encoder=folder.card.name,
                fingerprint=folder.path.name,
                parts=parts,
                broken=tuple(folder.broken_paths()),
            )
        )
    return found


def clean_store(store: EmbeddingStore, *, dry_run: bool = False) -> Cleaning:
    """Remove what no reader needs (broken parts, unfinished files of killed runs, redundant parts), merge small parts.

    Parameters
    ----------
    store : EmbeddingStore
    dry_run : bool, default False
        Only say what would be removed.
    """
    doomed: list[Path] = []
    for folder in store.folders():
        doomed += folder.broken_paths()
        doomed += [path for path in folder.temporary_paths() if time.time() - path.stat().st_mtime > STALE_SECONDS]
        doomed += [part.path for part in _redundant(folder)]
    doomed = [path for path in doomed if not path.is_dir()]  # whose that is, nobody can tell
    size = sum(path.stat().st_size for path in doomed)
    if not dry_run:
        for path in doomed:
            with disk_errors(path):
                path.unlink(missing_ok=True)
    return Cleaning(
        removed=tuple(doomed),
        bytes=size,
        unreadable=tuple(store.unreadable()),
        merged=sum(_merge(folder, set(doomed), dry_run=dry_run) for folder in store.folders()),
    )


def _merge(folder: EncoderFolder, doomed: set[Path], *, dry_run: bool) -> int:
    if not dry_run:
        return folder.merge(at_least=2)
    small = sum(part.path not in doomed for part in folder.small_parts())
    return small if small > 1 else 0


def _redundant(folder: EncoderFolder) -> list[Part]:
    """Find parts whose every row stands in a larger part that is kept."""
    parts = sorted(folder.parts(), key=lambda part: (-len(part), part.path.name))
    index = Index.of(parts)
    first = index.first()  # a row that stands in an earlier part is not
    return [part for part, begin in zip(parts, index.begins, strict=True) if not first[begin : begin + len(part)].any()]
