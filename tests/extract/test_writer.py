import threading
import time

import numpy as np
import pytest

from biofuse.core.errors import DiskError
from biofuse.extract.prepare import Stages
from biofuse.extract.writer import FIRST_ROWS, QUEUE, RowBuffer, Writer


def as_contents(hashes):
    return np.array(hashes, dtype="S16")


class Folder:
    def __init__(self):
        self.parts = []

    def write(self, contents, embeddings):
        assert len(contents) == len(embeddings)
        self.parts.append(len(contents))


def fill(buffer, rows, step=64):
    for start in range(0, rows, step):
        keys = as_contents([(start + row).to_bytes(16, "big") for row in range(step)])
        buffer.add(keys, np.zeros((step, 2), np.float32))


def test_parts_start_small_and_double_up_to_the_limit():
    folder = Folder()
    buffer = RowBuffer(folder, max_rows=4 * FIRST_ROWS, max_seconds=1e9)
    fill(buffer, 16 * FIRST_ROWS)
    assert folder.parts == [FIRST_ROWS * size for size in (1, 2, 4, 4, 4)]
    buffer.flush()
    assert folder.parts[5:] == [FIRST_ROWS]
    buffer.flush()
    assert len(folder.parts) == 6


def test_rows_never_wait_longer_than_asked():
    folder = Folder()
    fill(RowBuffer(folder, max_rows=1 << 20, max_seconds=0.0), 192)
    assert folder.parts == [64, 64, 64]


class Slow(Folder):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def write(self, contents, embeddings):
        assert self.gate.wait(10)
        super().write(contents, embeddings)


def hand_over(writer, rows, step=64, name="a"):
    for start in range(0, rows, step):
        keys = as_contents([(start + row).to_bytes(16, "big") for row in range(step)])
        writer.add(name, keys, np.zeros((step, 2), np.float32))


def test_encoders_go_on_while_a_part_is_written():
    gate = threading.Event()
    folder = Slow(gate)
    with Writer({"a": folder}, max_rows=64, max_seconds=1e9) as writer:
        hand_over(writer, 3 * 64)  # returns although nothing can be written yet
        assert folder.parts == []
        gate.set()
    assert folder.parts == [64, 64, 64]


def test_a_queue_that_is_full_holds_encoders_back():
    gate, done = threading.Event(), threading.Event()
    folder = Slow(gate)

    def produce(writer):
        hand_over(writer, (QUEUE + 4) * 64)
        done.set()

    with Writer({"a": folder}, max_rows=64, max_seconds=1e9) as writer:
        thread = threading.Thread(target=produce, args=(writer,))
        thread.start()
        assert not done.wait(0.3)
        gate.set()
        assert done.wait(10)
        thread.join()
    assert sum(folder.parts) == (QUEUE + 4) * 64


def test_rows_reach_the_disk_in_time_though_no_more_come():
    folder = Folder()
    with Writer({"a": folder}, max_rows=1 << 20, max_seconds=0.1) as writer:
        hand_over(writer, 64)
        until = time.monotonic() + 10
        while not folder.parts and time.monotonic() < until:
            time.sleep(0.02)
        assert folder.parts == [64]


def test_a_disk_error_reaches_the_encoders_at_their_next_row_and_nothing_more_is_written():
    class Full(Folder):
        def write(self, contents, embeddings):
            super().write(contents, embeddings)
            raise DiskError("The disk is full.")

    folder = Full()

    def embed_for_ever():
        with Writer({"a": folder}, max_rows=64, max_seconds=1e9) as writer:
            for _ in range(10 * QUEUE):
                hand_over(writer, 64)
                time.sleep(0.001)
            pytest.fail("nobody said that the disk is full")

    with pytest.raises(DiskError, match="full"):
        embed_for_ever()
    assert folder.parts == [64]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_a_stop_writes_what_is_finished(stop):
    folder = Folder()

    def embed_until_stopped():
        with Writer({"a": folder}, max_rows=1 << 20, max_seconds=1e9) as writer:
            hand_over(writer, 128)
            raise stop

    with pytest.raises(stop):
        embed_until_stopped()
    assert folder.parts == [128]


def test_a_writer_thread_does_not_outlive_its_work():
    with Writer({"a": Folder()}, max_rows=64, max_seconds=1e9) as writer:
        hand_over(writer, 64)
    assert not any(thread.name == "biofuse-writer" for thread in threading.enumerate())


def test_the_time_is_counted():
    stages = Stages()

    class Lazy(Folder):
        def write(self, *_):
            time.sleep(0.05)

    with Writer({"a": Lazy()}, max_rows=64, max_seconds=1e9, stages=stages) as writer:
        hand_over(writer, 64)
    assert 0.05 <= stages.seconds("write") < 1
