"""Listing, verifying and cleaning the store."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biofuse.core.files import disk_errors
from biofuse.encoders.loaders.imported import LOADER
from biofuse.store.parts import Part, make_index
from biofuse.store.store import EmbeddingStore, EncoderFolder

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
    """

    removed: tuple[Path, ...]
    bytes: int
    unreadable: tuple[Path, ...] = ()


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
            imported=folder.card.notes if folder.card.loader == LOADER else (),
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
    """Remove what no reader needs: broken parts, unfinished files of killed runs, wholly redundant parts.

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
    size = sum(path.stat().st_size for path in doomed)
    if not dry_run:
        for path in doomed:
            with disk_errors(path):
                path.unlink(missing_ok=True)
    return Cleaning(removed=tuple(doomed), bytes=size, unreadable=tuple(store.unreadable()))


def _redundant(folder: EncoderFolder) -> list[Part]:
    """Find parts whose every row stands in a larger part that is kept."""
    parts = sorted(folder.parts(), key=lambda part: (-len(part), part.path.name))
    index = make_index(parts)
    # A row that stands in an earlier part is not where its content occurs first.
    first = index.locate(index.contents) == np.arange(len(index.contents))
    begins = index.ends - np.array([len(part) for part in parts], dtype=np.int64)
    return [part for part, begin in zip(parts, begins, strict=True) if not first[begin : begin + len(part)].any()]
