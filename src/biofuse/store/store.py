"""Embeddings on disk, found by encoder fingerprint and content hash."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, CorruptPartError, DiskError, StoreError
from biofuse.core.files import TEMPORARY_SUFFIX, disk_errors, write_text
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.store.location import home
from biofuse.store.parts import CONTENT_BYTES, PART_SUFFIX, Contents, Part, read_part, write_part

BROKEN_SUFFIX = ".broken"
"""Added to the name of a part that failed its checksum; such a file is never read again."""


class EmbeddingStore:
    """A folder of embeddings shared by all runs of a user.

    Parameters
    ----------
    root : Path, optional
        The store's folder; by default ``embeddings`` in :func:`biofuse.store.home`.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = home() / "embeddings" if root is None else Path(root)

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.root)!r})"

    def open(self, card: EncoderCard, *, precision: Precision = "fp32") -> "EncoderFolder":
        """Return the folder of one encoder at one precision; nothing is created until rows are written."""
        return EncoderFolder(self.root / card.fingerprint(precision=precision), card=card, precision=precision)

    def folders(self) -> Iterator["EncoderFolder"]:
        """Iterate over all encoders that have embeddings here, in the order of their names.

        Raises
        ------
        StoreError
            If a folder's ``card.json`` cannot be read.
        """
        for path in sorted(self.root.glob("*/card.json")):
            yield EncoderFolder.from_disk(path.parent)

    def check_writable(self) -> None:
        """Find out before long work whether results can be kept.

        Raises
        ------
        DiskError
            If the store cannot be written to.
        """
        probe = self.root / ".writable"
        write_text(probe, "")
        with disk_errors(probe):
            probe.unlink(missing_ok=True)


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

    @classmethod
    def from_disk(cls, path: Path) -> Self:
        """Open an existing folder by its ``card.json``.

        Raises
        ------
        StoreError
            If ``card.json`` is missing or not a card.
        """
        try:
            record = json.loads((path / "card.json").read_text())
            return cls(path, card=EncoderCard.model_validate(record["card"]), precision=record["precision"])
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"{path / 'card.json'} is not the card of an encoder: {error}", remedy="Remove this folder."
            ) from error

    def part_paths(self) -> list[Path]:
        """Return the finished parts, ordered by name."""
        return sorted(self.path.glob(f"*{PART_SUFFIX}"))

    def broken_paths(self) -> list[Path]:
        """Return the parts that failed their checksum and were set aside."""
        return sorted(self.path.glob(f"*{BROKEN_SUFFIX}"))

    def temporary_paths(self) -> list[Path]:
        """Return unfinished files, left by a killed run or being written right now."""
        return sorted(self.path.glob(f".*{TEMPORARY_SUFFIX}"))

    def write(self, contents: Contents, embeddings: NDArray[np.float32]) -> Path:
        """Add rows as one new part.

        Raises
        ------
        AlignmentError
            If the embeddings do not have the card's dimension, or not one row per hash.
        DiskError
            If the disk is full or read-only.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.card.dim:
            raise AlignmentError(f"{self.card.name} has {self.card.dim} columns, not {embeddings.shape}.")
        card_path = self.path / "card.json"
        if not card_path.exists():
            record = {"card": self.card.model_dump(mode="json"), "precision": self.precision}
            write_text(card_path, json.dumps(record, indent=2) + "\n")
        return write_part(self.path, contents, embeddings)

    def check(self) -> list[Path]:
        """Hash every part and set aside those that changed since they were written.

        Returns
        -------
        list of Path
            The parts that were broken, under their new names; their rows count as missing from now on.
        """
        broken = []
        for path in self.part_paths():
            try:
                self._parts[path.name] = read_part(path, dim=self.card.dim, verify=True)
            except CorruptPartError:
                self._parts.pop(path.name, None)
                broken.append(self._set_aside(path))
        return broken

    def parts(self) -> list[Part]:
        """Map all parts into memory; checksums are not recomputed here (see :meth:`check`).

        Raises
        ------
        CorruptPartError
            If a file is not a part at all.
        """
        parts = []
        for path in self.part_paths():
            if path.name not in self._parts:
                self._parts[path.name] = read_part(path, dim=self.card.dim, verify=False)
            parts.append(self._parts[path.name])
        return parts

    def missing(self, contents: Contents) -> NDArray[np.bool_]:
        """Tell which content hashes have no embedding here.

        Returns
        -------
        ndarray of bool, shape (n,)
        """
        absent = np.ones(len(contents), dtype=bool)
        for part in self.parts():
            absent &= ~np.isin(contents, part.contents)
        return absent

    def read(self, contents: Contents) -> NDArray[np.float32]:
        """Return the embeddings of the given contents, row by row.

        A run of rows that lies in one part in the order asked for is returned as a read-only view of the file.

        Parameters
        ----------
        contents : ndarray of S16, shape (n,)

        Returns
        -------
        ndarray of float32, shape (n, dim)

        Raises
        ------
        AlignmentError
            If a content has no embedding here.
        """
        result: NDArray[np.float32] | None = None
        wanted = np.arange(len(contents))
        for part in self.parts():
            rows = _locate(contents[wanted], part.contents)
            found = rows >= 0
            if found.all() and len(wanted) == len(contents) and _consecutive(rows):
                return part.embeddings[rows[0] : rows[0] + len(rows)] if len(rows) else part.embeddings[:0]
            if found.any():
                if result is None:
                    result = np.empty((len(contents), self.card.dim), dtype=np.float32)
                result[wanted[found]] = part.embeddings[rows[found]]
                wanted = wanted[~found]
            if not len(wanted):
                break
        if len(wanted):
            raise AlignmentError(
                f"{len(wanted)} of {len(contents)} samples have no {self.card.name} embedding in {self.path}.",
                remedy="Run `biofuse embed` on these data first.",
            )
        return np.empty((0, self.card.dim), dtype=np.float32) if result is None else result

    def n_embeddings(self) -> int:
        """Count the distinct contents embedded here."""
        return len(np.unique(np.concatenate([part.contents for part in self.parts()]))) if self.part_paths() else 0

    def n_bytes(self) -> int:
        """Total size of all files of this folder in bytes."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())

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


def _locate(wanted: Contents, available: Contents) -> NDArray[np.int64]:
    """Return the row of each wanted hash among the available ones, or -1."""
    if not len(available):
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(available, kind="stable")
    place = np.minimum(np.searchsorted(available, wanted, sorter=order), len(available) - 1)
    rows = order[place]
    return np.where(available[rows] == wanted, rows, -1).astype(np.int64)


def _consecutive(rows: NDArray[np.int64]) -> bool:
    return len(rows) == 0 or bool(np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))))


__all__ = ["BROKEN_SUFFIX", "CONTENT_BYTES", "EmbeddingStore", "EncoderFolder"]
