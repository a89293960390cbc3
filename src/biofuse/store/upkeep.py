"""Listing, verifying and cleaning the store."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biofuse.core.files import disk_errors
from biofuse.store.parts import Part
from biofuse.store.store import EmbeddingStore, EncoderFolder

STALE_SECONDS = 3600.0
"""Age after which an unfinished file is taken to belong to a killed run; a part is written in seconds."""


@dataclass(frozen=True, kw_only=True)
class StoreEntry:
    """One row of ``biofuse store ls``."""

    encoder: str
    fingerprint: str
    precision: str
    dim: int
    embeddings: int
    parts: int
    broken: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What ``biofuse store verify`` found in one encoder's folder."""

    encoder: str
    fingerprint: str
    parts: int
    broken: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What ``biofuse store gc`` removed, or would remove."""

    removed: tuple[Path, ...]
    bytes: int


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
        )
        for folder in store.folders()
    ]


def verify_store(store: EmbeddingStore) -> list[Verification]:
    """Hash every part; a part that changed is set aside and its rows are computed again by the next run."""
    found = []
    for folder in store.folders():
        parts = len(folder.part_paths())
        folder.check()
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
    return Cleaning(removed=tuple(doomed), bytes=size)


def _redundant(folder: EncoderFolder) -> list[Part]:
    """Find parts whose every row stands in a larger part that is kept."""
    kept: list[Part] = []
    redundant: list[Part] = []
    for part in sorted(folder.parts(), key=lambda part: (-len(part.contents), part.path.name)):
        known = np.concatenate([other.contents for other in kept]) if kept else part.contents[:0]
        (redundant if np.isin(part.contents, known).all() else kept).append(part)
    return redundant
