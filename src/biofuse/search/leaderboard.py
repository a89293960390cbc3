"""Subsets of encoders and their scores: named in pool order, listed, kept as they come in, and read back."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer

from biofuse.core.errors import ArtifactError, SearchError, UndefinedMetricError
from biofuse.core.files import atomic_path, disk_errors
from biofuse.core.hashing import digest_bytes, digest_json
from biofuse.evaluation.metrics import Score, get_metric

if TYPE_CHECKING:
    import pandas as pd

Subset = tuple[str, ...]
"""Encoder names in pool order, each once."""


def _split(name: Any) -> Any:
    return tuple(name.split("+")) if isinstance(name, str) else name


SubsetKey = Annotated[Subset, BeforeValidator(_split), PlainSerializer("+".join, return_type=str, when_used="json")]
"""A subset where JSON holds only strings: as the key of a mapping."""


def all_subsets(pool: Sequence[str], largest: int | None = None) -> list[Subset]:
    """Return every non-empty subset, by size, then by pool order: the order of ``itertools.combinations``.

    Parameters
    ----------
    pool : sequence of str
        The encoders.
    largest : int, optional
        Most encoders of a subset; any number by default.
    """
    most = len(pool) if largest is None else min(largest, len(pool))
    return list(chain.from_iterable(combinations(pool, size) for size in range(1, most + 1)))


def count_subsets(n_encoders: int, largest: int | None = None) -> int:
    """Return the number of non-empty subsets, without making them."""
    most = n_encoders if largest is None else min(largest, n_encoders)
    return sum(math.comb(n_encoders, size) for size in range(1, most + 1))


def in_pool_order(pool: Sequence[str], subset: Sequence[str]) -> Subset:
    """Return the encoders of a subset in pool order.

    Raises
    ------
    SearchError
        If it is empty, names an encoder twice, or one that is not in the pool.
    """
    unknown = [name for name in subset if name not in pool]
    if not subset or unknown or len(set(subset)) != len(subset):
        what = f"unknown encoders {', '.join(unknown)}" if unknown else "no encoder, or one twice"
        raise SearchError(f"Not a subset of the pool ({', '.join(pool)}): {what}.")
    return tuple(name for name in pool if name in set(subset))


def check_pool(pool: Sequence[str]) -> Subset:
    """Return the pool as a tuple.

    Raises
    ------
    SearchError
        If it is empty or names an encoder twice.
    """
    if not pool:
        raise SearchError("The pool is empty.", remedy="Name at least one encoder.")
    twice = sorted({name for name in pool if list(pool).count(name) > 1})
    if twice:
        raise SearchError(f"The pool names {', '.join(twice)} more than once.", remedy="Name each encoder once.")
    return tuple(pool)


def combination_order(pool: Sequence[str], subset: Subset) -> tuple[int, tuple[int, ...]]:
    """Return a sort key that puts subsets by size, then by pool order."""
    place = {name: index for index, name in enumerate(pool)}
    return len(subset), tuple(place[name] for name in subset)


def label(subset: Sequence[str]) -> str:
    """Return how a subset is written in tables and prose."""
    return "+".join(subset)


Predictions = tuple[NDArray[np.float32], ...]
"""What one subset predicted for held-out rows, an array per fold."""

FORMAT = "biofuse-leaderboard"
"""What files of scores are marked with."""

SHOWN = 10
"""Rows printed."""

DECIMALS = 12
"""Means that agree to so many decimals are tied: the rest is rounding, which must not choose."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The scores of one subset.

    Attributes
    ----------
    subset : tuple of str
        Encoders in pool order.
    n_dims : int
        Columns of its blocks together.
    folds : mapping of str to tuple of float
        Metric name to one value per fold; NaN where it is undefined there.
    seconds : float
        Time spent on its fits.
    notes : tuple of str
        Remarks of the scorer.
    """

    subset: Subset
    n_dims: int
    folds: Mapping[str, tuple[Score, ...]]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # One object for every NaN, so that equal rows are equal.
        plain = {
            name: tuple(math.nan if math.isnan(v) else float(v) for v in each) for name, each in self.folds.items()
        }
        object.__setattr__(self, "folds", plain)

    def __hash__(self) -> int:
        return hash((self.subset, self.n_dims))

    @property
    def n_encoders(self) -> int:
        """Size of the subset."""
        return len(self.subset)

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return the fold values of a metric, shape (n_folds,).

        Raises
        ------
        SearchError
            If the search did not compute it.
        """
        if metric not in self.folds:
            raise SearchError(f"The search has no metric {metric!r}.", remedy=f"It computed {', '.join(self.folds)}.")
        return np.array(self.folds[metric], dtype=np.float64)

    def mean(self, metric: str) -> float:
        """Return the mean over the folds in which the metric is defined; NaN where it is in none."""
        values = self.values(metric)
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    def std(self, metric: str) -> float:
        """Return the standard deviation over folds; NaN with fewer than two."""
        values = self.values(metric)
        values = values[~np.isnan(values)]
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    def quality(self, metric: str) -> float:
        """Return the mean, turned so that more is better, and rounded so that ties are ties.

        Raises
        ------
        UndefinedMetricError
            If the metric is undefined in every fold.
        """
        mean = self.mean(metric)
        if np.isnan(mean):
            raise UndefinedMetricError(
                f"{get_metric(metric).title} of {label(self.subset)} is undefined in every fold"
                f"{': ' + '; '.join(self.notes[:2]) if self.notes else ''}.",
                remedy="Choose another metric, or give every class enough samples to appear in every fold.",
            )
        return round(mean if get_metric(metric).higher_is_better else -mean, DECIMALS)

    def rank(self, metric: str) -> tuple[float, int, int]:
        """Return a key that sorts from best to worst; ties go to fewer encoders, then fewer dimensions.

        Sorting rows that stand in pool order leaves further ties to that order.
        """
        return -self.quality(metric), self.n_encoders, self.n_dims


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """All scored subsets, by size, then by pool order.

    Attributes
    ----------
    encoders : tuple of str
        The pool.
    metrics : tuple of str
        Columns, the selecting one first.
    rows : tuple of Row
        One per scored subset.
    n_train, n_test : tuple of int
        Development rows fitted on and scored, per fold.
    key : str
        Hash of everything that decided the scores.
    out_of_fold : mapping of subset to tuple of ndarray
        Predictions per fold (float32), where they were kept; which rows they belong to, the scorer says.
    """

    encoders: Subset
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    n_train: tuple[int, ...]
    n_test: tuple[int, ...]
    key: str = ""
    out_of_fold: Mapping[Subset, Predictions] = field(default_factory=dict, compare=False)
    _by_set: Mapping[frozenset[str], Row] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.rows, key=lambda row: combination_order(self.encoders, row.subset)))
        kept = {row.subset: self.out_of_fold[row.subset] for row in ordered if row.subset in self.out_of_fold}
        object.__setattr__(self, "rows", ordered)
        object.__setattr__(self, "out_of_fold", kept)
        object.__setattr__(self, "_by_set", {frozenset(row.subset): row for row in ordered})

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, subset: Sequence[str]) -> Row:
        """Return the row of a subset, its encoders in any order."""
        row = self.get(subset)
        if row is None:
            raise KeyError(label(subset))
        return row

    def get(self, subset: Sequence[str]) -> Row | None:
        """Return the row of a subset, or None where it was not scored."""
        return self._by_set.get(frozenset(subset))

    @property
    def singles(self) -> tuple[Row, ...]:
        """Rows of single encoders, in pool order."""
        return tuple(row for row in self.rows if row.n_encoders == 1)

    @property
    def n_folds(self) -> int:
        """Number of folds, repeats included."""
        return len(self.n_train)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the rows, each once."""
        return tuple(dict.fromkeys(note for row in self.rows for note in row.notes))

    @property
    def seconds(self) -> float:
        """Time spent on all fits, summed over workers."""
        return sum(row.seconds for row in self.rows)

    def best_first(self, metric: str | None = None) -> tuple[Row, ...]:
        """Return the rows from best to worst mean; ties go to fewer encoders, fewer dimensions, then pool order."""
        name = metric or self.metrics[0]
        return tuple(sorted(self.rows, key=lambda row: row.rank(name)))

    def to_frame(self) -> "pd.DataFrame":
        """Return a table: subset, n_encoders, n_dims, seconds; per metric mean, std and every fold."""
        import pandas as pd

        records = []
        for row in self.rows:
            record: dict[str, object] = {
                "subset": label(row.subset),
                "n_encoders": row.n_encoders,
                "n_dims": row.n_dims,
            }
            for metric in self.metrics:
                record |= {f"{metric}_mean": row.mean(metric), f"{metric}_std": row.std(metric)}
            for metric in self.metrics:
                record |= {f"{metric}_fold_{fold}": value for fold, value in enumerate(row.folds[metric], start=1)}
            records.append(record | {"seconds": row.seconds})
        return pd.DataFrame.from_records(records)

    def to_parquet(self, path: Path) -> None:
        """Write the table as Parquet, atomically, with all that :meth:`read_parquet` needs beside it."""
        from pyarrow import Table, parquet

        facts = {
            "encoders": self.encoders,
            "metrics": self.metrics,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "key": self.key,
            "notes": {label(row.subset): row.notes for row in self.rows if row.notes},
        }
        table = Table.from_pandas(self.to_frame(), preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), FORMAT: json.dumps(facts)})
        with atomic_path(path) as temporary:
            parquet.write_table(table, temporary)

    @classmethod
    def read_parquet(cls, path: Path) -> Self:
        """Read what :meth:`to_parquet` wrote: a leaderboard equal to it, without out-of-fold predictions.

        Raises
        ------
        ArtifactError
            If the file is missing, damaged, or without the sizes of the folds, as older versions wrote it.
        """
        from pyarrow import ArrowException, parquet

        remedy = "Fit again; finished work is reused."
        try:
            table = parquet.read_table(path)
            facts = json.loads((table.schema.metadata or {}).get(FORMAT.encode(), b"null"))
            if facts is None:
                raise ArtifactError(
                    f"{path} was written by an older BioFuse: it lacks the sizes of its folds.", remedy=remedy
                )
            columns, folds = table.to_pydict(), range(1, len(facts["n_train"]) + 1)
            return cls(
                encoders=tuple(facts["encoders"]),
                metrics=tuple(facts["metrics"]),
                rows=tuple(
                    Row(
                        subset=_split(name),
                        n_dims=columns["n_dims"][row],
                        folds={
                            metric: tuple(_undefined(columns[f"{metric}_fold_{fold}"][row]) for fold in folds)
                            for metric in facts["metrics"]
                        },
                        seconds=columns["seconds"][row],
                        notes=tuple(facts["notes"].get(name, ())),
                    )
                    for row, name in enumerate(columns["subset"] if table.num_rows else ())
                ),
                n_train=tuple(facts["n_train"]),
                n_test=tuple(facts["n_test"]),
                key=facts["key"],
            )
        except FileNotFoundError as error:
            raise ArtifactError(f"{path} is missing.", remedy=remedy) from error
        except (OSError, ValueError, KeyError, TypeError, ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", remedy=remedy) from error

    def to_csv(self, path: Path) -> None:
        """Write the table as CSV with full precision, atomically."""
        with atomic_path(path) as temporary:
            self.to_frame().to_csv(temporary, index=False)

    def _top(self) -> "pd.DataFrame":
        import pandas as pd

        rows = self.best_first()[:SHOWN]
        return pd.DataFrame(
            {
                "subset": [label(row.subset) for row in rows],
                "encoders": [row.n_encoders for row in rows],
                "dims": [row.n_dims for row in rows],
                **{
                    metric: [f"{row.mean(metric):.4f} ± {row.std(metric):.4f}" for row in rows]
                    for metric in self.metrics
                },
            }
        )

    def _title(self) -> str:
        first = f", best {min(SHOWN, len(self))} by {get_metric(self.metrics[0]).title}" if self.rows else ""
        return (
            f"{len(self)} subsets of {len(self.encoders)} encoders, {self.n_folds} folds{first} (mean ± std over folds)"
        )

    def __repr__(self) -> str:
        return f"{self._title()}\n{self._top().to_string(index=False)}" if self.rows else self._title()

    def _repr_html_(self) -> str:
        import pandas as pd

        with pd.option_context("display.max_colwidth", None):
            return f"<p>{self._title()}</p>{self._top().to_html(index=False, border=0)}"


VERSION = 2
"""Raised when lines change; in version 1 they had no hashes."""

NUMBERS = np.dtype("<f4")
"""How predictions are kept."""

SYNC_SECONDS = 1.0
"""At most this much work is lost to a power cut; a killed process loses nothing that was appended."""


class ScoreLog:
    """An append-only file, one JSON line per scored subset under a header line.

    A file with another header (other data, folds, fusion, head, seed: another ``key``) is set aside, never mixed
    with. Every line has a hash of its own, of what it says and of the key. Reading stops at the first line that is not
    whole or was changed, and what follows is scored again.

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
        self._write(line | {"check": _check(line, self._header)})
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


def _undefined(value: float | None) -> float:
    return math.nan if value is None else float(value)


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
                    if value.pop("check") != _check(value, header):
                        break
                    row, record = _row(value, header), _record(value)
                    rows.append(row)
                    records |= {row.subset: record} if record is not None else {}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                break
            end += len(line)
    return header, rows, records, end


def _check(line: Mapping[str, Any], header: Mapping[str, Any]) -> str:
    return digest_json([header.get("key"), dict(line)])


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
        folds={name: tuple(map(_undefined, values)) for name, values in folds.items()},
        seconds=float(value["seconds"]),
        notes=tuple(value["notes"]),
    )
