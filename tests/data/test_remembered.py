"""What is remembered of a file is forgotten as soon as the file is another, and never believed where it was damaged."""

import os
import threading
import time
from pathlib import Path

import pytest

from biofuse.core.files import home
from biofuse.data import cuts, remembered
from biofuse.data.cuts import LastRead, StampedFile
from biofuse.data.remembered import DATABASE, LARGE


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that counts as left alone for a minute."""
    monkeypatch.setattr(remembered, "SETTLED", -60.0)
    path = tmp_path / "file"
    path.write_bytes(b"12")
    return path


def length(path: Path, asked: list[Path], **options: int) -> object:
    def find() -> int:
        asked.append(path)
        return path.stat().st_size

    return remembered.remembered([path], {"fact": "length"}, find, **{"at_least": 1, **options})


def test_a_fact_is_found_out_once_until_the_file_is_another(file: Path) -> None:
    asked: list[Path] = []
    assert [length(file, asked) for _ in range(3)] == [2, 2, 2]
    assert len(asked) == 1
    times = file.stat()
    file.write_bytes(b"34")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as long, and written at the same time, it says
    assert length(file, asked) == 2
    assert len(asked) == 2
    file.write_bytes(b"567")
    assert length(file, asked) == 3
    assert remembered.remembered([file], {"fact": "another"}, lambda: "other", at_least=1) == "other"


def test_small_files_and_those_just_written_are_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    for _ in range(2):
        length(file, asked, at_least=3)
    monkeypatch.setattr(remembered, "SETTLED", 60.0)
    for _ in range(2):
        length(file, asked)
    assert len(asked) == 4


@pytest.mark.parametrize("damage", ["other bytes", "another value", "a folder", "no room"])
def test_a_damaged_memory_costs_time_alone(damage: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    asked: list[Path] = []
    length(file, asked)
    base = home() / DATABASE
    if damage == "other bytes":
        base.write_bytes(b"this is no database" * 99)
    elif damage == "another value":
        with sqlite3.connect(base) as open_base:
            open_base.execute("UPDATE facts SET value = '7'")
    elif damage == "a folder":
        base.unlink()
        base.mkdir()
    else:
        monkeypatch.setattr(remembered, "MOST", 0)
        remembered.remembered([file], {"fact": "another"}, lambda: 1, at_least=1)
    assert length(file, asked) == 2
    assert len(asked) == 2
    if damage in {"other bytes", "another value"}:
        assert length(file, asked) == 2
        assert len(asked) == 2, "it is mended"


def test_a_large_file_is_hashed_once_and_for_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with file.open("r+b") as sparse:
        sparse.truncate(LARGE)
    found = StampedFile.of(file).digest()
    cuts._digest.cache_clear()  # as in another process
    monkeypatch.setattr(cuts, "digest_file", lambda _: pytest.fail("hashed again"))
    assert StampedFile.of(file).digest() == found


def test_threads_share_what_they_need_at_the_same_time_and_hold_the_last_alone() -> None:
    class Read:
        def __init__(self, key: str) -> None:
            self.key = key

    alive: list[str] = []

    def read(key: str) -> Read:
        alive.append(key)
        time.sleep(0.05)
        return Read(key)

    last = LastRead(read)
    found: list[Read] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        for key in ("a", "b", "a"):
            found.append(last(key))
            found.pop()
            barrier.wait()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert alive == ["a", "b", "a"]
    assert last("a").key == "a"
    assert alive == ["a", "b", "a", "a"], "with the threads goes what they held"
