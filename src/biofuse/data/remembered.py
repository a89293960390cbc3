"""What was found out about large files, kept between processes: their hash, and where they show something.

A file counts as the same while its path, size, number in the file system, and the times at which it was written and
changed are: what git's index goes by. As there, what is written to at this moment is not remembered, since a file
system may give two writings the same time. What is kept names no file: paths are hashed.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from biofuse.core.files import home
from biofuse.core.hashing import canonical_json, digest

JSON = str | int | float | bool | None | Sequence["JSON"] | Mapping[str, "JSON"]

DATABASE = "files.sqlite"
"""Name of the file in BioFuse's folder. It may be removed at any time: its contents are then found out again."""

LARGE = 1 << 25
"""Bytes from which on a hash is remembered: 33 MB take some 40 ms, a look into the database one."""

SETTLED = 2.0
"""Seconds that a file must have been left alone: the coarsest times of a file system, FAT's, are in steps of two."""

MOST = 100_000
"""Facts that are kept; the oldest make way."""

PATIENCE = 5.0
"""Seconds to wait for another process that writes."""


def remembered(
    files: Sequence[Path], what: Mapping[str, JSON], find: Callable[[], JSON], *, at_least: int = LARGE
) -> Any:
    """Return a fact about files, found out unless it is known of these very files.

    Parameters
    ----------
    files : sequence of Path
    what : mapping
        Which fact, with everything that decides it but the files.
    find : callable
        Returns it as a JSON value. What it raises is raised, and not remembered.
    at_least : int
        Bytes of the files from which on it is worth remembering.

    Returns
    -------
    JSON value
        Lists in place of tuples, where it was remembered.

    Examples
    --------
    >>> from biofuse.data.remembered import remembered
    >>> remembered([Path("images/benign/000.png")], {"fact": "colours"}, lambda: 3)
    3
    """
    name = digest(canonical_json([[os.fspath(path.absolute()) for path in files], what])).hex()
    now = time.time()
    stamp = _stamp(files)
    if stamp is None or sum(size for size, *_ in stamp) < at_least:
        return find()
    kept = _read(name, stamp)
    if kept is not None:
        return json.loads(kept)
    found = find()
    newest = max(max(written, changed) for _, _, written, changed in stamp)
    if newest < (now - SETTLED) * 1e9 and _stamp(files) == stamp:
        _write(name, stamp, canonical_json(found).decode())
    return found


def _stamp(files: Sequence[Path]) -> list[tuple[int, int, int, int]] | None:
    """Return size, number and times of files; None where one is not there, which whoever reads it says."""
    try:
        found = [path.stat() for path in files]
    except OSError:
        return None
    return [(each.st_size, each.st_ino, each.st_mtime_ns, each.st_ctime_ns) for each in found]


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    path = home() / DATABASE
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as base, base:
            base.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, seal BLOB, value TEXT)")
            yield base
    except sqlite3.OperationalError:
        raise  # it is busy, or cannot be written
    except sqlite3.DatabaseError:
        path.unlink(missing_ok=True)  # it is damaged
        raise


def _seal(name: str, stamp: Sequence[Sequence[int]], value: str) -> bytes:
    return digest(name.encode(), canonical_json(stamp), value.encode())


def _read(name: str, stamp: Sequence[Sequence[int]]) -> str | None:
    if not (home() / DATABASE).exists():  # looking makes no file
        return None
    with suppress(sqlite3.Error, OSError), _database() as base:
        for seal, value in base.execute("SELECT seal, value FROM facts WHERE name = ?", (name,)):
            return str(value) if seal == _seal(name, stamp, value) else None
    return None


def _write(name: str, stamp: Sequence[Sequence[int]], value: str) -> None:
    with suppress(sqlite3.Error, OSError), _database() as base:  # a hint: without it the fact is found out again
        base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (name, _seal(name, stamp, value), value))
        base.execute("DELETE FROM facts WHERE rowid <= (SELECT max(rowid) FROM facts) - ?", (MOST,))
