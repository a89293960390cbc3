"""Time the extraction engine against what its parts must take, and against one image and one encoder at a time.

``python perf/extract.py --case overlap --encoder efficientnet_lite0 --n 1000`` prints one JSON object; ratios
come from one run. Importing torch and a first forward pass come before the clock starts; hashing, starting decode
workers, loading encoders and writing the store do not. Cases, of which several may be named:

overlap
    Images/s from JPEG files of 1,024 pixels, against the bound of perfect overlap: decoding, resizing and the bare
    forward pass, each measured alone on all cores, one after the other. And which part of the processor time of all of
    it, starting and loading included, these three took within it, which other programs disturb less.
original
    Against a loop of the published system's way: one encoder after the other over all files, one image at a time, fp32,
    torch's own number of threads. ``--encoder starter`` or one encoder; ``--precision bf16`` for ours.
decode-once
    Several encoders in one pass, against decoding once and each encoder's resizing and forward passes, all cores.
draft
    What the option ``draft`` saves, and what it changes: processor time of decoding and resizing each image, and how
    far its embedding moves, for each encoder at once and at twice the size that it takes.
write
    What writing the store takes of an extraction: of its wall time, and writing the same rows once more, alone; the
    quickest of several runs.
memory
    Peak memory, child processes included, of 10 times as many images against once as many.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measuring import PeakMemory, Processor
from numpy.typing import NDArray
from pictures import distinct, find_images, make_jpegs, shares

from biofuse.core.machine import keep_freed_memory, usable_cores
from biofuse.data.decoding import DecodePolicy, FileSource, decode
from biofuse.data.samples import Samples
from biofuse.encoders import pin
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.encoders.registry import load_encoder, resolve
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import CPU_BATCH, least_cosine
from biofuse.extract.prepare import DECODE, FORWARD, MEMORY_ENV, RESIZE, THREADS_ENV
from biofuse.store.store import EmbeddingStore

BARE_BATCH = 32
VIT = "timm:vit_base_patch16_224"


def samples_of(paths: Sequence[Path]) -> Samples:
    return Samples(
        ids=np.array([str(path) for path in paths], dtype=object), sources=tuple(FileSource(path) for path in paths)
    )


def cards_of(names: str) -> tuple[EncoderCard, ...]:
    names = {"vit_b16": VIT}.get(names, names)
    return tuple(pin(card) for card in resolve(names, allow_random_weights=True))


def run_once(
    paths: Sequence[Path], cards: Sequence[EncoderCard], folder: Path, **chosen: Any
) -> tuple[float, EmbeddingSet]:
    """Extract into a new store, and return the wall time."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        start = time.perf_counter()
        done = extract(samples_of(paths), cards, store=EmbeddingStore(place), options=ExtractOptions(**chosen))
        seconds = time.perf_counter() - start
        if any(work.computed != len(paths) for work in done.work):
            raise SystemExit("Not every image was embedded: are two of them the same?")
    return seconds, done


def warm_up(paths: Sequence[Path], cards: Sequence[EncoderCard], folder: Path, **chosen: Any) -> None:
    if any(card.runtime == "torch" for card in cards):
        import timm  # noqa: F401
        import torch  # noqa: F401

    run_once(paths[:4], cards, folder, **chosen | {"workers": 0})


def stop_workers() -> None:
    """End the decode workers, whose processor time counts when they have ended."""
    from loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def decode_share(paths: Sequence[Path]) -> int:
    """Decode files; runs in a process of its own."""
    for path in paths:
        decode(path.read_bytes(), DecodePolicy(), description=path.name)
    return len(paths)


def resize_share(paths: Sequence[Path], specifications: Sequence[Preprocessing], repeats: int) -> int:
    """Resize what a few files hold, repeatedly, so that decoding does not count."""
    images = [decode(path.read_bytes(), DecodePolicy(), description=path.name) for path in paths]
    start = time.perf_counter()
    for _ in range(repeats):
        for image in images:
            for specification in specifications:
                specification.apply(image)
    return int(1e9 * (time.perf_counter() - start) / (repeats * len(images)))


def bare_decode(paths: Sequence[Path]) -> float:
    """Seconds per image of decoding alone, with a process on every core."""
    from loky import get_reusable_executor

    cores = usable_cores()
    workers = get_reusable_executor(max_workers=cores, env=THREADS_ENV | MEMORY_ENV)
    list(workers.map(decode_share, [paths[:2]] * cores))
    start = time.perf_counter()
    done = sum(list(workers.map(decode_share, shares(paths, cores))))
    return float((time.perf_counter() - start) / done)


def bare_resize(paths: Sequence[Path], specifications: Sequence[Preprocessing]) -> float:
    """Seconds per image of resizing alone, with a process on every core."""
    from loky import get_reusable_executor

    cores = usable_cores()
    workers = get_reusable_executor(max_workers=cores, env=THREADS_ENV | MEMORY_ENV)
    found = list(workers.map(resize_share, [paths[:8]] * cores, [specifications] * cores, [10] * cores))
    return float(np.mean(found)) / 1e9 / cores


def bare_forward(card: EncoderCard, *, precision: Any, n: int) -> dict[str, float]:
    """Seconds per image of the forward pass alone: one pass over all cores, and a pass on every core."""
    import torch

    encoder = load_encoder(card, precision=precision)
    side = card.preprocessing.output_size
    images = np.random.default_rng(0).integers(0, 256, (BARE_BATCH, side, side, 3), dtype=np.uint8)
    passes = max(n // BARE_BATCH, 1)
    encoder.encode(images)
    start = time.perf_counter()
    for _ in range(passes):
        encoder.encode(images)
    found = {"one_pass_on_all_cores": (time.perf_counter() - start) / (passes * BARE_BATCH)}
    cores, threads = usable_cores(), torch.get_num_threads()
    some, passes = images[:CPU_BATCH], max(n // CPU_BATCH, cores)
    with keep_freed_memory(), ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as lanes:
        list(lanes.map(encoder.encode, [some] * cores))
        start = time.perf_counter()
        list(lanes.map(encoder.encode, [some] * passes))
        found["a_pass_on_every_core"] = (time.perf_counter() - start) / (passes * CPU_BATCH)
    torch.set_num_threads(threads)
    return found


def bare_numpy(card: EncoderCard, paths: Sequence[Path]) -> float:
    """Seconds per image of an encoder without a network, with a process on every core."""
    from loky import get_reusable_executor

    cores = usable_cores()
    workers = get_reusable_executor(max_workers=cores, env=THREADS_ENV | MEMORY_ENV)
    return float(np.mean(list(workers.map(numpy_share, [card.name] * cores, [paths[:8]] * cores)))) / 1e9 / cores


def numpy_share(name: str, paths: Sequence[Path]) -> int:
    card = cards_of(name)[0]
    encoder = load_encoder(card)
    images = [decode(path.read_bytes(), DecodePolicy(), description=path.name) for path in paths]
    batch = np.stack([card.preprocessing.apply(image) for image in images])
    encoder.encode(batch)
    start = time.perf_counter()
    encoder.encode(batch)
    return int(1e9 * (time.perf_counter() - start) / len(batch))


def overlap(paths: Sequence[Path], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    (card,) = cards_of(options.encoder)
    chosen = {"precision": options.precision}
    warm_up(paths, [card], folder, **chosen)
    sample = paths[: max(len(paths) // 4, 32)]

    def alone() -> dict[str, float]:
        forward = bare_forward(card, precision=options.precision, n=max(len(sample) // 2, 64))
        resize = bare_resize(sample, [card.preprocessing])
        return {"decode": bare_decode(sample), "resize": resize} | forward

    before = alone()
    stop_workers()
    clock = Processor()
    seconds, done = run_once(paths, [card], folder, **chosen)
    stop_workers()
    cpu = clock.cpu
    after = alone()
    parts = {name: (before[name] + after[name]) / 2 for name in before}
    passes = {name: parts[name] for name in ("one_pass_on_all_cores", "a_pass_on_every_core")}
    bound = parts["decode"] + parts["resize"] + min(passes.values())
    return {
        "encoder": card.name,
        "precision": done.work[0].precision,
        "images_per_second": len(paths) / seconds,
        "bound_images_per_second": 1 / bound,
        "ratio_to_bound": bound * len(paths) / seconds,
        "ratio_to_bound_with_one_pass_on_all_cores": (bound - min(passes.values()) + passes["one_pass_on_all_cores"])
        * len(paths) / seconds,
        "processor_time_in_stages": sum(done.stages.seconds(stage) for stage in (DECODE, RESIZE, FORWARD)) / cpu,
        "ms_per_image_alone_on_all_cores": {name: 1000 * value for name, value in parts.items()},
        "stages": done.stages.to_json(),
    }  # fmt: skip


def original(paths: Sequence[Path], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    cards = cards_of(options.encoder)
    chosen = {"precision": options.precision}
    warm_up(paths, cards, folder, **chosen)
    few = paths[: max(len(paths) // options.slow_share, 8)]

    def loop() -> float:
        start = time.perf_counter()
        for card in cards:
            encoder = load_encoder(card)
            for path in few:
                image = decode(path.read_bytes(), DecodePolicy(), description=path.name)
                encoder.encode(card.preprocessing.apply(image)[None])
        return (time.perf_counter() - start) / len(few)

    before = loop()
    seconds, done = run_once(paths, cards, folder, **chosen)
    slow = (before + loop()) / 2
    return {
        "encoders": [card.name for card in cards],
        "precision": {work.encoder: work.precision for work in done.work},
        "images_of_the_loop": len(few),
        "ms_per_image_one_by_one": 1000 * slow,
        "ms_per_image_biofuse": 1000 * seconds / len(paths),
        "times_faster": slow * len(paths) / seconds,
        "stages": done.stages.to_json(),
    }


def decode_once(paths: Sequence[Path], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    cards = cards_of(options.encoder)
    chosen = {"precision": options.precision}
    warm_up(paths, cards, folder, **chosen)
    sample = paths[: max(len(paths) // 4, 32)]
    specifications = {card.preprocessing.resize_key: card.preprocessing for card in cards}

    def alone() -> dict[str, float]:
        found = {"decode": bare_decode(sample), "resize": bare_resize(sample, list(specifications.values()))}
        for card in cards:
            if card.runtime == "numpy":
                found[card.name] = bare_numpy(card, sample)
            else:
                found[card.name] = min(bare_forward(card, precision=options.precision, n=64).values())
        return found

    before = alone()
    seconds, done = run_once(paths, cards, folder, **chosen)
    after = alone()
    parts = {name: (before[name] + after[name]) / 2 for name in before}
    return {
        "encoders": [card.name for card in cards],
        "seconds": seconds,
        "ratio_to_decode_and_forward": seconds / (len(paths) * (sum(parts.values()) - parts["resize"])),
        "ratio_with_resize": seconds / (len(paths) * sum(parts.values())),
        "ratio_to_decoding_for_each": seconds
        / (len(paths) * (sum(parts.values()) + (len(cards) - 1) * parts["decode"])),
        "ms_per_image_alone_on_all_cores": {name: 1000 * value for name, value in parts.items()},
        "stages": done.stages.to_json(),
    }


def draft(paths: Sequence[Path], _: Path, options: argparse.Namespace) -> dict[str, Any]:
    sample = paths[: options.drafts]
    found = {}
    for card in cards_of(options.encoder):
        encoder, size = load_encoder(card), card.preprocessing.size
        policies = [DecodePolicy(), *(DecodePolicy(draft=times * size) for times in (1, 2))]
        images, seconds = zip(*(prepared(sample, card.preprocessing, policy) for policy in policies), strict=True)
        whole, *others = (encoder.encode(each).astype(np.float64) for each in images)
        apart = np.linalg.norm(whole[:, None] - whole, axis=2)[np.triu_indices(len(whole), 1)]
        found[card.name] = {"whole_ms": 1000 * seconds[0]} | {
            f"draft={policy.draft}": {
                "ms": 1000 * spent,
                "times_faster": seconds[0] / spent,
                "least_cosine": least_cosine(whole.astype(np.float32), other.astype(np.float32)),
                "moved_of_the_distance_of_two_images": float(
                    np.median(np.linalg.norm(whole - other, axis=1)) / np.median(apart)
                ),
            }
            for policy, other, spent in zip(policies[1:], others, seconds[1:], strict=True)
        }
    return {"images": len(sample), "encoders": found}


def prepared(
    paths: Sequence[Path], preprocessing: Preprocessing, policy: DecodePolicy
) -> tuple[NDArray[np.uint8], float]:
    """Decode and resize files; return what an encoder gets, and the processor time of each."""
    start = time.thread_time()
    images = np.stack([preprocessing.apply(decode(path.read_bytes(), policy, description=path.name)) for path in paths])
    return images, (time.thread_time() - start) / len(paths)


def write(paths: Sequence[Path], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    cards = cards_of(options.encoder)
    warm_up(paths, cards, folder)
    whole, alone, shares_of = [], [], []
    for _ in range(options.repeats):
        seconds, done = run_once(paths, cards, folder)
        whole.append(seconds)
        shares_of.append(done.stages.seconds("write") / seconds)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            start = time.perf_counter()
            for card in cards:
                EmbeddingStore(place).open(card).write(done.contents, done[card.name])
            alone.append(time.perf_counter() - start)
    return {
        "encoders": [card.name for card in cards],
        "seconds": whole,
        "seconds_of_writing_alone": alone,
        "overhead": min(alone) / min(whole),
        "writing_share_of_wall_time": float(np.median(shares_of)),
    }


def memory(_: Sequence[Path], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    def peak(n: int) -> float:
        command = [sys.executable, __file__, "--case", "memory-of-one", "--n", str(n), "--side", str(options.side)]
        command += ["--encoder", options.encoder, "--work", str(folder)]
        command += ["--images", str(options.images)] if options.images else []
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return float(json.loads(answer.stdout)["cases"]["memory-of-one"]["peak_gib"])

    found = {n: peak(n) for n in (options.n, 10 * options.n)}
    return {"encoder": options.encoder, "peak_gib": found, "growth": found[10 * options.n] / found[options.n] - 1}


def memory_of_one(paths: Sequence[Path], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    with PeakMemory() as watched:
        seconds, _ = run_once(paths, cards_of(options.encoder), folder)
    return {"n": len(paths), "peak_gib": watched.peak / 2**30, "seconds": seconds}


CASES: dict[str, Callable[[Sequence[Path], Path, argparse.Namespace], dict[str, Any]]] = {
    "overlap": overlap,
    "original": original,
    "decode-once": decode_once,
    "draft": draft,
    "write": write,
    "memory": memory,
    "memory-of-one": memory_of_one,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, nargs="+", required=True)
    parser.add_argument("--encoder", default="efficientnet_lite0", help="names or aliases; vit_b16 has random weights")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--side", type=int, default=1024, help="pixels of the JPEG files")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--images", type=Path, help="folder of real images that the JPEG files are made of")
    parser.add_argument("--as-is", action="store_true", help="embed the files of --images themselves")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "biofuse-benchmark")
    parser.add_argument("--repeats", type=int, default=3, help="of the case write")
    parser.add_argument("--drafts", type=int, default=32, help="images of the case draft")
    parser.add_argument("--slow-share", type=int, default=4, help="the loop of the case original sees 1/this of --n")
    options = parser.parse_args()
    n = 10 * options.n if "memory" in options.case else options.n
    found = find_images(options.images)
    paths = distinct(found, n) if options.as_is else make_jpegs(options.work / "jpegs", found, n=n, side=options.side)
    load = os.getloadavg()
    cases = {case: CASES[case](paths[: options.n], options.work, options) for case in options.case}
    facts = {
        "n": options.n,
        "side": None if options.as_is else options.side,
        "cores": usable_cores(),
        "load_before": load[0],
    }
    print(json.dumps({"cases": cases} | facts, indent=2))


if __name__ == "__main__":
    main()
