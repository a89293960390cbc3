"""Does an extraction survive being killed? Kills one again and again, and compares its store with an undisturbed one.

``python perf/faults.py DATA`` prints one JSON object: how often it was killed, how many rows were computed more
than once, and the greatest difference from embeddings computed without a stop. The encoder is HOG, slowed
down, and wrapped so that every batch it embeds is written down. A third of the kills fall on a run that is starting.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import biofuse
from biofuse.data.load import load_samples
from biofuse.encoders.registry import load_encoder, resolve
from biofuse.extract import engine
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.store.store import EmbeddingStore

PART_ROWS = 32
BATCH = 8
SLOWER = 0.05
"""Seconds that every image takes more, so that one extraction lasts long enough to be killed often."""

LOG, PARENT = "BIOFUSE_FAULTS_LOG", "BIOFUSE_FAULTS_PARENT"


def counted_hog(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed with HOG and append the number of images to the log."""
    # Kept on the function, which travels to the workers as it is.
    state = counted_hog.__dict__
    if "hog" not in state:
        state["hog"] = load_encoder(resolve("hog")[0])
    embeddings: NDArray[np.float32] = state["hog"].encode(images)
    time.sleep(SLOWER * len(images))
    if os.environ.get(PARENT, str(os.getpid())) != str(os.getpid()):
        log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{len(images)}\n".encode())
        os.close(log)
    return embeddings


def run_once(data: str, rows: int, store: str) -> None:
    card = resolve("hog")[0]
    biofuse.register_encoder("counted_hog", dim=card.dim, preprocessing=card.preprocessing)(counted_hog)
    # Only what workers do is counted: this process tries the function when it registers and loads it.
    os.environ |= {LOG: str(Path(store).with_suffix(".log")), PARENT: str(os.getpid())}
    samples = load_samples(data, labelled=False)
    engine.PART_ROWS = PART_ROWS
    options = ExtractOptions(batch_size=BATCH)
    embedded = extract(
        samples.take(np.arange(min(rows, len(samples)))),
        resolve("counted_hog"),
        store=EmbeddingStore(store),
        options=options,
        progress=False,
    )
    np.save(Path(store).with_suffix(".npy"), embedded["counted_hog"])


def rows_stored(store: Path) -> int:
    return sum(folder.n_embeddings() for folder in EmbeddingStore(store).folders())


def start(arguments: argparse.Namespace, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, arguments.data, "--rows", str(arguments.rows), "--child", str(store)]
    return subprocess.Popen(command)


def finish(arguments: argparse.Namespace, store: Path) -> tuple[NDArray[np.float32], float, float]:
    """Run to the end; return the embeddings, and the seconds until the first batch and from there on."""
    begin = first = time.perf_counter()
    before = encoded(store)
    process = start(arguments, store)
    while process.poll() is None:
        time.sleep(0.05)
        if encoded(store) == before:
            first = time.perf_counter()
    if process.returncode:
        raise SystemExit("an undisturbed run failed")
    return np.load(store.with_suffix(".npy")), first - begin, time.perf_counter() - first


def encoded(store: Path) -> int:
    log = store.with_suffix(".log")
    return sum(int(line) for line in log.read_text().split()) if log.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_once(arguments.data, arguments.rows, arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = Path(folder) / "undisturbed", Path(folder) / "killed"
        expected, starting, working = finish(arguments, undisturbed)
        moments = np.random.default_rng(arguments.seed)
        kills, lost = 0, []
        for _ in range(arguments.kills):
            before, process = encoded(killed), start(arguments, killed)
            if moments.random() < 1 / 3:
                time.sleep(moments.uniform(0.2, starting))
            else:
                while encoded(killed) == before and process.poll() is None:
                    time.sleep(0.02)
                time.sleep(moments.uniform(0, 2 * working / arguments.kills))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            time.sleep(3)  # its workers notice within two seconds
            lost.append(encoded(killed) - rows_stored(killed) - sum(lost))
        stored = rows_stored(killed)
        found, _, _ = finish(arguments, killed)
        print(
            json.dumps(
                {
                    "rows": len(expected),
                    "part_rows": PART_ROWS,
                    "seconds_undisturbed": starting + working,
                    "kills": kills,
                    "rows_stored_by_killed_runs": stored,
                    "rows_redone": encoded(killed) - rows_stored(killed),
                    "most_rows_redone_for_one_kill": max(lost),
                    "rows_redone_each": lost,
                    "greatest_difference": float(np.abs(found - expected).max()),
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
