import numpy as np

from biofuse.extract.writer import FIRST_ROWS, RowBuffer
from biofuse.store import as_contents


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
