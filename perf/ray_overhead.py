"""Time a local Ray against the local engine, over many small JPEGs made of real images.

``python perf/ray_overhead.py --n 20000 --encoder efficientnet_lite0`` prints one JSON object. Either engine
embeds the same files into an empty store, each in a fresh process with all cores, once all of them and once only
``--few``: what an image takes is the difference, so that starting Ray, its actors and torch is counted apart. The runs
of both alternate, ``--repeats`` times, and the quickest of each counts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pictures import find_images, make_jpegs

from biofuse.core.machine import usable_cores
from biofuse.data.decoding import FileSource
from biofuse.data.samples import Samples
from biofuse.encoders import pin
from biofuse.encoders.registry import resolve
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.store.store import EmbeddingStore

ENGINES = ("local", "ray")


def run_here(engine: str, paths: Sequence[Path], encoders: str) -> float:
    """Extract into a new store, and return the wall time."""
    samples = Samples(
        ids=np.array([path.name for path in paths], dtype=object), sources=tuple(FileSource(path) for path in paths)
    )
    cards = tuple(pin(card) for card in resolve(encoders))
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        options = ExtractOptions(engine=engine, precision="fp32")
        done = extract(samples, cards, store=EmbeddingStore(place), options=options)
        seconds = time.perf_counter() - start
    if any(work.computed != len(np.unique(done.contents)) for work in done.work):
        raise SystemExit("Not every image was embedded.")
    return seconds


def run_apart(engine: str, n: int, options: argparse.Namespace) -> float:
    if not n:
        return 0.0
    command = [sys.executable, __file__, "--one", engine, "--n", str(n), "--encoder", options.encoder]
    command += ["--side", str(options.side), "--work", str(options.work)]
    command += ["--images", str(options.images)] if options.images else []
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(answer.stdout.splitlines()[-1])["seconds"])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, dict[int, list[float]]] = {engine: {options.n: [], options.few: []} for engine in ENGINES}
    for _ in range(options.repeats):
        for n in (options.few, options.n):
            for engine in ENGINES:
                found[engine][n].append(run_apart(engine, n, options))
    whole = {engine: min(found[engine][options.n]) for engine in ENGINES}
    few = {engine: min(found[engine][options.few]) for engine in ENGINES}
    each = {engine: (whole[engine] - few[engine]) / (options.n - options.few) for engine in ENGINES}
    return {
        "seconds": whole,
        "seconds_of_few": few,
        "ratio": whole["ray"] / whole["local"],
        "milliseconds_per_image": {engine: 1000 * value for engine, value in each.items()},
        "ratio_per_image": each["ray"] / each["local"],
        "overhead_milliseconds_per_image": 1000 * (each["ray"] - each["local"]),
        "start_seconds": {engine: few[engine] - options.few * each[engine] for engine in ENGINES},
        "all_runs": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--few", type=int, default=200, help="0: what starting takes is not told apart")
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--side", type=int, default=64, help="pixels of the JPEG files")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--images", type=Path, help="folder of real images that the JPEG files are made of")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "biofuse-benchmark")
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    paths = make_jpegs(options.work / "small-jpegs", find_images(options.images), n=options.n, side=options.side)
    if options.one:
        print(json.dumps({"seconds": run_here(options.one, paths, options.encoder)}))
        return
    facts = {
        "encoder": options.encoder,
        "n": options.n,
        "few": options.few,
        "side": options.side,
        "cores": usable_cores(),
        "load_before": os.getloadavg()[0],
    }
    print(json.dumps(facts | compare(options), indent=2))


if __name__ == "__main__":
    main()
