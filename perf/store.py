"""Time reading a block from the store against ``numpy.load``, and read a million embeddings within 4 GiB.

``python perf/store.py --case read`` writes 90,000 x 1,536 float32 to a store, in parts of 4,096 rows as an
extraction does, and to one ``.npy`` file, and reads both several times in turn from a warm cache. ``--case large``
writes 1,000,000 x 1,536 (6.1 GB) and has another process list, join and read it: all in order, all in another order,
and as one mapped array. That process may not hold more than 4 GiB of its own memory: the limit of the system on it
(``RLIMIT_DATA``) is set to that, and the most it had (``RssAnon``) is reported. Pages of mapped files are not counted:
the system takes them back when memory is short. Prints one JSON object.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import BlockReader
from biofuse.core.hashing import Contents
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.store.store import EmbeddingStore, list_store

DIM = 1536
PART_ROWS = 4096
LIMIT = 4 << 30
ROOM = 1.1
"""Free disk that is asked for, in sizes of what is written."""


def card() -> EncoderCard:
    return EncoderCard(
        name="made-up",
        title="Made up",
        loader="function",
        preprocessing=Preprocessing(resize="squash", size=8),
        output="descriptor",
        dim=DIM,
        licence="CC0-1.0",
        modality="none",
        source="this benchmark",
    )


def hashes(n: int) -> Contents:
    return np.frombuffer(np.random.default_rng(1).bytes(16 * n), dtype="S16")


def pieces(n: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    for start in range(0, n, PART_ROWS):
        rows = slice(start, min(start + PART_ROWS, n))
        random = np.random.default_rng(start)
        yield rows, random.standard_normal((rows.stop - rows.start, DIM), dtype=np.float32)


def require(*, same: bool) -> None:
    if not same:
        sys.exit("The rows that were read are not those that were written.")


def write(store: EmbeddingStore, n: int) -> float:
    """Fill a store; return the seconds that took, without making the numbers."""
    contents, folder, seconds = hashes(n), store.open(card()), 0.0
    for rows, matrix in pieces(n):
        start = time.perf_counter()
        folder.write(contents[rows], matrix)
        seconds += time.perf_counter() - start
    return seconds


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    del result
    return seconds


def case_read(folder: Path, n: int, rounds: int) -> dict[str, Any]:
    """Compare, in turn; a fresh object each time, as every command makes one."""
    writing = write(EmbeddingStore(folder / "store"), n)
    contents = hashes(n)
    whole = np.empty((n, DIM), dtype=np.float32)
    for rows, matrix in pieces(n):
        whole[rows] = matrix
    start = time.perf_counter()
    np.save(folder / "block.npy", whole)
    with (folder / "block.npy").open("rb") as file:
        os.fsync(file.fileno())
    saving = time.perf_counter() - start

    def stored() -> NDArray[np.float32]:
        return EmbeddingStore(folder / "store").open(card()).read(contents, memory="ram")

    def loaded() -> NDArray[np.float32]:
        return np.asarray(np.load(folder / "block.npy"))

    shuffled = np.random.default_rng(2).permutation(n)

    def scattered() -> NDArray[np.float32]:
        return EmbeddingStore(folder / "store").open(card()).read(contents[shuffled], memory="ram")

    def taken() -> NDArray[np.float32]:
        return np.asarray(np.load(folder / "block.npy")[shuffled])

    require(same=np.array_equal(stored(), whole))
    require(same=np.array_equal(scattered(), whole[shuffled]))
    del whole
    times: dict[str, list[float]] = {"store": [], "numpy_load": [], "store_shuffled": [], "numpy_load_shuffled": []}
    for _ in range(rounds):
        for name, work in zip(times, (stored, loaded, scattered, taken), strict=True):
            times[name].append(timed(work))
    middle = {name: float(np.median(values)) for name, values in times.items()}
    pairs = np.array(times["store"]) / np.array(times["numpy_load"])
    return {
        "rows": n,
        "rounds": rounds,
        "parts": len(EmbeddingStore(folder / "store").open(card()).part_paths()),
        "seconds_median": middle,
        "seconds_least": {name: min(values) for name, values in times.items()},
        "store_over_numpy_load": middle["store"] / middle["numpy_load"],
        "store_over_numpy_load_pairs_quartiles": np.quantile(pairs, [0.25, 0.5, 0.75]).tolist(),
        "shuffled_store_over_numpy_load_and_take": middle["store_shuffled"] / middle["numpy_load_shuffled"],
        "seconds_write": writing,
        "seconds_numpy_save_and_sync": saving,
    }


class PeakAnonymous:
    """The most anonymous memory (``RssAnon``) of this process, looked at fifty times a second."""

    def __init__(self) -> None:
        self.peak = {"RssAnon": 0, "RssFile": 0}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in self.peak:
                    self.peak[name] = max(self.peak[name], 1024 * int(rest.split()[0]))
            time.sleep(0.02)


def read_large(folder: Path, n: int) -> dict[str, Any]:
    """List, join and read, in a process that may not hold more than the limit."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    memory, clock = PeakAnonymous(), time.perf_counter
    store = EmbeddingStore(folder / "store")
    seconds: dict[str, float] = {}
    start = clock()
    (entry,) = list_store(store)
    seconds["list"] = clock() - start
    ids = np.array([f"s{row:07d}" for row in range(n)], dtype=object)
    start = clock()
    reader = BlockReader(store=store, cards=(card(),), ids=ids, contents=hashes(n))
    seconds["look_up_ids"] = clock() - start
    start = clock()
    sums = sum(blocks["made-up"].sum(axis=0, dtype=np.float64) for blocks in reader.iter_blocks())
    seconds["read_in_order"] = clock() - start
    start = clock()
    joined = reader.join(np.random.default_rng(3).permutation(ids))
    seconds["join_all_on_shuffled_ids"] = clock() - start
    start = clock()
    first = next(joined.iter_blocks(rows=4096))["made-up"][:3].copy()
    again = sum(blocks["made-up"].sum(axis=0, dtype=np.float64) for blocks in joined.iter_blocks())
    seconds["read_shuffled"] = clock() - start
    require(same=np.allclose(sums, again))
    start = clock()
    block = joined.read(memory="map")["made-up"]
    seconds["map_shuffled_as_one_array"] = clock() - start
    require(same=np.array_equal(block[:3], first))
    start = clock()
    require(
        same=np.allclose(sums, sum(block[at : at + 65536].sum(axis=0, dtype=np.float64) for at in range(0, n, 65536)))
    )
    seconds["read_through_the_map"] = clock() - start
    return {
        "embeddings_listed": entry.embeddings,
        "parts": entry.parts,
        "bytes_on_disk": entry.bytes,
        "seconds": seconds,
        "peak_anonymous_gib": memory.peak["RssAnon"] / 2**30,
        "peak_file_pages_gib_reclaimable": memory.peak["RssFile"] / 2**30,
        "limit_on_anonymous_memory_gib": LIMIT / 2**30,
    }


def case_large(folder: Path, n: int) -> dict[str, Any]:
    writing = write(EmbeddingStore(folder / "store"), n)
    command = [sys.executable, __file__, "--case", "read-large", "--rows", str(n), "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"rows": n, "seconds_write": writing} | json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["read", "large", "read-large"], default="read")
    parser.add_argument("--rows", type=int, help="90,000 for read, 1,000,000 for large")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    n = options.rows or (90_000 if options.case == "read" else 1_000_000)
    if options.case == "read-large":
        result = read_large(options.folder, n)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            needed, free = 2 * ROOM * 4 * n * DIM, shutil.disk_usage(name).free
            if free < needed:
                sys.exit(f"{needed / 1e9:.0f} GB of free disk are needed, {free / 1e9:.0f} are there.")
            start = {"load_before": os.getloadavg()[0], "columns": DIM}
            run = case_read(Path(name), n, options.rounds) if options.case == "read" else case_large(Path(name), n)
            result = start | run
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
