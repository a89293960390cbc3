"""The leaderboard while it grows: a file that a killed search resumes from."""

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from biofuse.core.errors import ArtifactError
from biofuse.core.files import disk_errors
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.subsets import Subset

FORMAT = "biofuse-leaderboard"
VERSION = 1

SYNC_SECONDS = 1.0
"""At most this much work is lost to a power cut; a killed process loses nothing that was appended."""


class Sink:
    """An append-only file, one JSON line per scored subset under a header line.

    A file with another header (other data, folds, fusion, head, seed: another ``key``) is set aside, never mixed
    with. Reading stops at the first line that is not whole, and what follows is scored again.

    Parameters
    ----------
    path : Path
        The file; its folder is created.
    key : str
        Hash of everything that decides the scores.
    encoders, metrics : sequence of str
        The pool and the columns.
    n_train, n_test : sequence of int
        Rows fitted on and scored, per fold.

    Raises
    ------
    DiskError
        If the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: str,
        encoders: Sequence[str],
        metrics: Sequence[str],
        n_train: Sequence[int],
        n_test: Sequence[int],
    ) -> None:
        self.path = path
        self._header = {
            "format": FORMAT,
            "version": VERSION,
            "key": key,
            "encoders": list(encoders),
            "metrics": list(metrics),
            "n_train": list(n_train),
            "n_test": list(n_test),
        }
        self.set_aside: Path | None = None
        self.rows: dict[Subset, Row] = {}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            end = self._resume() if path.exists() else 0
            self._file = path.open("ab")
            self._file.truncate(end)
            self._synced = time.monotonic()
            if not end:
                self._write(self._header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, row: Row) -> None:
        """Add a row; once this returns, a killed process does not lose it."""
        self._write(
            {
                "subset": list(row.subset),
                "n_dims": row.n_dims,
                "folds": {
                    name: [None if math.isnan(value) else value for value in values]
                    for name, values in row.folds.items()
                },
                "seconds": row.seconds,
                "notes": list(row.notes),
            }
        )
        self.rows[row.subset] = row

    def close(self) -> None:
        """Sync and close the file."""
        if not self._file.closed:
            with disk_errors(self.path):
                os.fsync(self._file.fileno())
                self._file.close()

    def _write(self, value: dict[str, Any]) -> None:
        with disk_errors(self.path):
            self._file.write(json.dumps(value, allow_nan=False).encode() + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def _resume(self) -> int:
        """Read what is there; return how many bytes of it are whole and of this search."""
        header, rows, end = _read(self.path)
        if header != self._header:
            if self.path.stat().st_size:
                self.set_aside = self._free_name(header)
                self.path.replace(self.set_aside)
            return 0
        self.rows = {row.subset: row for row in rows}
        return end

    def _free_name(self, header: dict[str, Any] | None) -> Path:
        mark = str(header.get("key", ""))[:8] if header else ""
        stem = f"{self.path.stem}.{mark or 'unreadable'}"
        names = [f"{stem}{'' if number == 0 else f'-{number}'}{self.path.suffix}" for number in range(1000)]
        return next(p for p in (self.path.with_name(name) for name in names) if not p.exists())


def read_sink(path: Path) -> Leaderboard:
    """Read the leaderboard of a finished or interrupted search.

    Raises
    ------
    ArtifactError
        If the file is not a leaderboard, or one of a newer format.
    """
    header, rows, _ = _read(path)
    if header is None or header.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not the leaderboard of a search.")
    if header["version"] > VERSION:
        raise ArtifactError(
            f"{path} was written by a newer BioFuse (format {header['version']}, this one reads {VERSION}).",
            remedy="Upgrade biofuse-embed.",
        )
    return Leaderboard(
        encoders=tuple(header["encoders"]),
        metrics=tuple(header["metrics"]),
        rows=tuple({row.subset: row for row in rows}.values()),
        n_train=tuple(header["n_train"]),
        n_test=tuple(header["n_test"]),
        key=header["key"],
    )


def _read(path: Path) -> tuple[dict[str, Any] | None, list[Row], int]:
    header: dict[str, Any] | None = None
    rows: list[Row] = []
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                value = json.loads(line)
                if header is None:
                    header = value if isinstance(value, dict) else {}
                else:
                    rows.append(_row(value, header))
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
    return header, rows, end


def _row(value: dict[str, Any], header: dict[str, Any]) -> Row:
    """Read a row, refusing one that does not fit the header."""
    subset, folds = tuple(value["subset"]), value["folds"]
    fits = (
        list(folds) == header["metrics"]
        and all(len(values) == len(header["n_train"]) for values in folds.values())
        and list(subset) == [name for name in header["encoders"] if name in subset]
    )
    if not fits or not subset:
        raise ValueError(f"row {subset} does not fit the header")
    return Row(
        subset=subset,
        n_dims=int(value["n_dims"]),
        folds={
            name: tuple(float("nan") if number is None else float(number) for number in values)
            for name, values in folds.items()
        },
        seconds=float(value["seconds"]),
        notes=tuple(value["notes"]),
    )
