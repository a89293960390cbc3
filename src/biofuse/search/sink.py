"""The leaderboard while it grows: a file that a killed search resumes from."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from biofuse.core.errors import ArtifactError
from biofuse.core.files import disk_errors
from biofuse.core.hashing import digest_bytes
from biofuse.search.leaderboard import Leaderboard, Predictions, Row
from biofuse.search.subsets import Subset

FORMAT = "biofuse-leaderboard"
VERSION = 1

NUMBERS = np.dtype("<f4")
"""How predictions are kept."""

SYNC_SECONDS = 1.0
"""At most this much work is lost to a power cut; a killed process loses nothing that was appended."""


class Sink:
    """An append-only file, one JSON line per scored subset under a header line.

    A file with another header (other data, folds, fusion, head, seed: another ``key``) is set aside, never mixed
    with. Reading stops at the first line that is not whole, and what follows is scored again.

    Predictions go to a second file beside it, ``<name>.predictions``: float32 records in the order of the lines. A
    record is written before its line, which says where it stands, which shapes it has and its hash, so that a line
    never promises predictions that are not there; a row whose record is missing or damaged has no predictions.

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
    keep_predictions : bool, default False
        Whether predictions are read and written; otherwise that second file is left alone.

    Attributes
    ----------
    rows : dict of subset to Row
        What is in the file.
    predictions : dict of subset to tuple of ndarray
        Per fold, for those rows that have a whole record; empty where predictions are not kept.
    set_aside : Path or None
        Where a file of another search went.

    Raises
    ------
    DiskError
        If a file cannot be written.
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
        keep_predictions: bool = False,
    ) -> None:
        self.path = path
        self._keep = keep_predictions
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
        self.predictions: dict[Subset, Predictions] = {}
        self._records: BinaryIO | None = None
        with disk_errors(path), ExitStack() as opened:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines_end, records_end = self._resume() if path.exists() else (0, 0)
            self._lines = opened.enter_context(path.open("ab"))
            self._lines.truncate(lines_end)
            if keep_predictions:
                self._records = opened.enter_context(_beside(path).open("ab"))
                self._records.truncate(records_end)
            self._synced = time.monotonic()
            if not lines_end:
                self._write(self._header)
            opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, row: Row, predictions: Predictions | None = None) -> None:
        """Add a row; once this returns, a killed process does not lose it.

        Parameters
        ----------
        row : Row
            A later row of the same subset stands for the earlier one.
        predictions : tuple of ndarray, optional
            Per fold; not written where predictions are not kept.
        """
        line = {
            "subset": list(row.subset),
            "n_dims": row.n_dims,
            "folds": {
                name: [None if math.isnan(value) else value for value in values] for name, values in row.folds.items()
            },
            "seconds": row.seconds,
            "notes": list(row.notes),
        }
        if predictions is not None and self._records is not None:
            line["predictions"] = self._record(self._records, predictions)
            self.predictions[row.subset] = predictions
        self._write(line)
        self.rows[row.subset] = row

    def close(self) -> None:
        """Sync and close the files."""
        with disk_errors(self.path):
            for file in (self._records, self._lines):
                if file is not None and not file.closed:
                    os.fsync(file.fileno())
                    file.close()

    def _record(self, file: BinaryIO, predictions: Predictions) -> dict[str, Any]:
        data = b"".join(np.ascontiguousarray(fold, dtype=NUMBERS).tobytes() for fold in predictions)
        with disk_errors(_beside(self.path)):
            start = file.seek(0, os.SEEK_END)
            file.write(data)
            file.flush()
        return {"at": start, "shapes": [list(fold.shape) for fold in predictions], "hash": digest_bytes(data)}

    def _write(self, value: Mapping[str, Any]) -> None:
        with disk_errors(self.path):
            self._lines.write(json.dumps(value, allow_nan=False).encode() + b"\n")
            self._lines.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                for file in (self._records, self._lines):
                    if file is not None:
                        os.fsync(file.fileno())
                self._synced = time.monotonic()

    def _resume(self) -> tuple[int, int]:
        """Read what is there; return how many bytes of both files are whole and of this search."""
        header, rows, records, end = _read(self.path)
        if header != self._header:
            if self.path.stat().st_size:
                self.set_aside = self._free_name(header)
                if _beside(self.path).exists():
                    _beside(self.path).replace(_beside(self.set_aside))
                self.path.replace(self.set_aside)
            return 0, 0
        self.rows = {row.subset: row for row in rows}
        if not self._keep:
            return end, 0
        self.predictions = _read_predictions(_beside(self.path), records)
        return end, max((_end(records[subset]) for subset in self.predictions), default=0)

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
    header, rows, records, _ = _read(path)
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
        out_of_fold=_read_predictions(_beside(path), records),
    )


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.predictions")


_Record = tuple[int, tuple[tuple[int, ...], ...], str]
"""Where it starts, the shapes of its folds, its hash."""


def _end(record: _Record) -> int:
    start, shapes, _ = record
    return start + NUMBERS.itemsize * sum(math.prod(shape) for shape in shapes)


def _read_predictions(path: Path, records: Mapping[Subset, _Record]) -> dict[Subset, Predictions]:
    """Read the records that are there and whole."""
    found: dict[Subset, Predictions] = {}
    if not records or not path.exists():
        return found
    with path.open("rb") as file:
        for subset, record in records.items():
            start, shapes, expected = record
            file.seek(start)
            data = file.read(_end(record) - start)
            if digest_bytes(data) == expected:
                ends = np.cumsum([math.prod(shape) for shape in shapes])
                parts = np.split(np.frombuffer(data, dtype=NUMBERS), ends[:-1])
                found[subset] = tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
    return found


def _read(path: Path) -> tuple[dict[str, Any] | None, list[Row], dict[Subset, _Record], int]:
    header: dict[str, Any] | None = None
    rows: list[Row] = []
    records: dict[Subset, _Record] = {}
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
                    row, record = _row(value, header), _record(value)
                    rows.append(row)
                    records |= {row.subset: record} if record is not None else {}
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
    return header, rows, records, end


def _record(value: dict[str, Any]) -> _Record | None:
    if "predictions" not in value:
        return None
    entry = value["predictions"]
    shapes = tuple(tuple(int(length) for length in shape) for shape in entry["shapes"])
    if not shapes or min(entry["at"], *(length for shape in shapes for length in shape)) < 0:
        raise ValueError("a record of predictions without a place or a shape")
    return int(entry["at"]), shapes, str(entry["hash"])


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
