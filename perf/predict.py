"""Predict one image after another with a model whose encoders stay loaded, and in fresh processes.

Prints one JSON object: the time of one image against the forward passes of the model's encoders, medians of alternating
measurements; processor time and wall-clock time of a fresh process up to its first prediction against one that only
imports torch and builds the encoders with their weights; what a thousand single predictions do to time, memory, files
and open handles of a process; and how far the answers of several threads are from those of one.

    python perf/predict.py --encoders efficientnet_lite0,lbp --singles 1000
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Processor
from PIL import Image

from biofuse import BioFuse, BioFuseModel, ExtractOptions
from biofuse.data.decoding import decode
from biofuse.encoders.registry import load_encoder
from biofuse.encoders.weights import pin
from biofuse.model.resident import ResidentPredictor

QUALITY = 90
WARM_UP = 20

FIRST_PREDICTION = """
import sys
from biofuse import BioFuseModel
with BioFuseModel.load(sys.argv[1]).resident(device="cpu") as predictor:
    predictor.predict([sys.argv[2]])
"""

WEIGHTS_ALONE = """
import sys, torch
from biofuse import BioFuseModel
from biofuse.encoders.loaders import builder_of
for card in BioFuseModel.load(sys.argv[1]).cards:
    builder_of(card.loader)(card, device="cpu", precision="fp32", weights_path=None)
"""


def draw(folder: Path, n: int, side: int) -> list[Path]:
    """Write JPEG files of two classes that differ in texture."""
    random, paths = np.random.default_rng(0), []
    for number in range(n):
        name = ("smooth", "rough")[number % 2]
        small = random.normal(128, 20 + 30 * (number % 2), (side // 8, side // 8, 3)).clip(0, 255).astype(np.uint8)
        path = folder / name / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((side, side)).save(path, quality=QUALITY)
        paths.append(path)
    return paths


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def one_image(predictor: ResidentPredictor, images: Sequence[bytes], rounds: int) -> dict[str, float]:
    """Alternate between forward passes on prepared images and predictions from bytes."""
    model = predictor.model
    encoders = [load_encoder(pin(card)) for card in model.cards]
    decoded = [decode(image, model.decode, description="image") for image in images]
    prepared = [[encoder.card.preprocessing.apply(image)[None] for encoder in encoders] for image in decoded]
    forward, whole = [], []
    for number in range(rounds + WARM_UP):
        which = number % len(images)
        inputs = list(zip(encoders, prepared[which], strict=True))
        first = timed(lambda inputs=inputs: [encoder.encode(image) for encoder, image in inputs])
        second = timed(partial(predictor.predict, [images[which]]))
        if number >= WARM_UP:
            forward.append(first)
            whole.append(second)
    found = {"forward_ms": statistics.median(forward), "predict_ms": statistics.median(whole)}
    return {**found, "ratio": statistics.median(b / a for a, b in zip(forward, whole, strict=True))}


def fresh(run: Path, image: Path, repeats: int, home: Path) -> dict[str, Any]:
    """Start processes that predict one image, and ones that only build the encoders, in turns."""
    found: dict[str, list[tuple[float, float]]] = {"first_prediction": [], "torch_and_weights": []}
    environment = os.environ | {"BIOFUSE_HOME": str(home)}
    for _ in range(repeats):
        for name, code in (("first_prediction", FIRST_PREDICTION), ("torch_and_weights", WEIGHTS_ALONE)):
            clock = Processor()
            subprocess.run([sys.executable, "-c", code, str(run), str(image)], env=environment, check=True)
            found[name].append((clock.cpu, clock.wall))
    said: dict[str, Any] = {
        name: {"cpu_s": min(cpu for cpu, _ in times), "wall_s": min(wall for _, wall in times)}
        for name, times in found.items()
    }
    return {**said, "ratio": said["first_prediction"]["cpu_s"] / said["torch_and_weights"]["cpu_s"]}


def state(home: Path) -> dict[str, float]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "handles": len(list(Path("/proc/self/fd").iterdir())),
        "files": sum(path.is_file() for path in home.rglob("*")),
    }


def singles(predictor: ResidentPredictor, images: Sequence[bytes], count: int, home: Path) -> dict[str, Any]:
    """Predict single images, and compare the first tenth with the last."""
    tenth, times, before = max(count // 10, 1), [], {}
    for number in range(count):
        if number == tenth:
            before = state(home)
        times.append(timed(partial(predictor.predict, [images[number % len(images)]])))
    after = state(home)
    first, last = statistics.median(times[:tenth]), statistics.median(times[-tenth:])
    grown = {name: round(after[name] - before[name], 2) for name in after}
    return {"n": count, "first_tenth_ms": first, "last_tenth_ms": last, "growth": grown, "rss_mib": after["rss_mib"]}


def threads(predictor: ResidentPredictor, images: Sequence[bytes], count: int) -> dict[str, float]:
    """Let threads predict the same images at once."""
    alone = predictor.predict_proba(list(images))
    with ThreadPoolExecutor(count) as pool:
        start = time.perf_counter()
        found = list(pool.map(lambda _: [predictor.predict_proba([image])[0] for image in images], range(count)))
        seconds = time.perf_counter() - start
    different = max(float(np.abs(np.array(each) - alone).max()) for each in found)
    return {"threads": count, "greatest_difference": different, "images_per_s": count * len(images) / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="efficientnet_lite0,lbp")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--singles", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=3, help="fresh processes of each kind")
    parser.add_argument("--threads", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder, home, run = Path(work) / "images", Path(work) / "home", Path(work) / "run"
        home.mkdir()
        paths = draw(folder, arguments.images, arguments.side)
        images = [path.read_bytes() for path in paths]
        os.environ["BIOFUSE_HOME"] = str(home)
        options = ExtractOptions(device="cpu", use_store=False, allow_random_weights=True)
        pool = arguments.encoders.split(",")
        fuse = BioFuse(pool, search="all", folds=2, repeats=1, head="ridge", options=options)
        fuse.fit(folder, out=run, progress=False)
        found: dict[str, Any] = {
            "encoders": arguments.encoders,
            "side": arguments.side,
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0],
            "fresh": fresh(run, paths[0], arguments.processes, home),
        }
        with BioFuseModel.load(run).resident(device="cpu") as predictor:
            found["one_image"] = one_image(predictor, images, arguments.rounds)
            found["singles"] = singles(predictor, images, arguments.singles, home)
            found["together"] = threads(predictor, images, arguments.threads)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
