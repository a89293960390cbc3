"""Check what matters on an accelerator, in one command without a network: parity, speed, memory, the screen.

``python perf/gpu.py`` takes at most eight minutes on a data centre's GPU and prints one JSON object. Encoders are those
of the pool with random weights, so that nothing is downloaded: speed and precision do not depend on what was learned.
``--device cpu --tiny`` runs all of it with small networks, to see that it works.

peak
    Largest rates of the device: products of bf16 matrices, of fp32 and fp64 ones, and copies within its memory.
parity
    Cosine of embeddings at bf16 and fp16 to those at fp32, least over images; fp32 on the device to fp32 on the CPU;
    and of the descriptors, which never run on the device, beside an encoder that does.
throughput
    Images/s end to end from JPEG files, bare forward passes, and the share of the device's peak that these reach.
nine
    The encoders of the paper together: images/s, batch, memory.
screen
    All subsets of nine blocks in closed form, on the device and on all cores, and the greatest difference.
two-processes
    Two extractions on one device at the same time, against one alone.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib.externals.loky import get_reusable_executor
from measuring import make_data
from pictures import find_images, make_jpegs
from screen import make_scorer

from biofuse.core.machine import usable_cores
from biofuse.data.decoding import FileSource
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard, Precision, Weights
from biofuse.encoders.encoder import TorchEncoder
from biofuse.encoders.loaders import forward_of, loader_of
from biofuse.encoders.registry import ENCODERS, resolve
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.engine import extract
from biofuse.extract.local import least_cosine
from biofuse.extract.options import ExtractOptions
from biofuse.search.closed_form_torch import TorchScorer
from biofuse.search.runner import run_search
from biofuse.search.strategies import make_strategy
from biofuse.store.store import EmbeddingStore

SUFFIX = "_random"
SIZES = {"ViT-B/16": "phikon", "ViT-L/16": "uni", "ViT-g/16": "prov_gigapath"}
DESCRIPTORS = ("hog", "lbp")
TINY = ("timm:test_vit", "timm:test_efficientnet")
"""What stands for all encoders in a tiny run."""

BARE_SECONDS = 2.0

SCREENS: tuple[tuple[int, int, int | None], ...] = ((546, 2, None), (2000, 4, None), (20_000, 4, 64))
TINY_SCREENS: tuple[tuple[int, int, int | None], ...] = ((40, 2, None),)
"""Rows, classes, and components kept of each block."""

PARTS = ("peak", "parity", "throughput", "screen", "nine", "two-processes")

CHEAP = 40.0
"""GFLOPs per image up to which an encoder embeds all files; more expensive ones embed as much less."""

LAYER_SCALES = ("gamma", "lambda1")
"""Ends of the names of the factors of a block's output."""

PICTURES = 256
"""Different pictures among the files."""

FEW = 4
"""Images that a large network embeds on the CPU."""


def random_network(card: EncoderCard, device: str) -> Any:
    """Build the network of a card with random weights, on the device, where that takes a moment."""
    import torch

    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        network = loader_of(card.loader).build_architecture(card)
        # As large as trained ones are: some networks begin with layers that pass nothing on.
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
            elif name.endswith(LAYER_SCALES):
                parameter.fill_(0.1)
    return network


def around(card: EncoderCard, network: Any, device: str, precision: Precision = "fp32") -> TorchEncoder:
    return TorchEncoder(card, network, device=device, precision=precision, forward=forward_of(card, network))


def random_encoder(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> TorchEncoder:
    """Build an encoder with random weights, as the registry wants it."""
    del weights_path
    return around(card, random_network(card, device), device, precision)


def make_random(names: Sequence[str]) -> tuple[EncoderCard, ...]:
    """Register encoders of the pool again, with random weights."""
    cards = []
    for card in resolve(names, allow_random_weights=True):
        given = Weights(repository="random", revision="0", file="", sha256="0" * 64)
        changed = card.model_copy(update={"name": f"{card.name}{SUFFIX}", "weights": given, "pools": ()})
        cards.append(ENCODERS.register(changed, random_encoder, replace=True))
    return tuple(cards)


def many_jpegs(folder: Path, *, n: int, side: int) -> list[Path]:
    """Write many files quickly: few pictures, told apart by bytes behind their end, which decoders skip."""
    pictures = [path.read_bytes() for path in make_jpegs(folder, find_images(None), n=min(n, PICTURES), side=side)]
    paths = [folder / f"{number:06d}.jpg" for number in range(n)]
    for number, path in enumerate(paths):
        path.write_bytes(pictures[number % len(pictures)] + number.to_bytes(4, "big"))
    return paths


def samples_of(paths: Sequence[Path]) -> Samples:
    return Samples(
        ids=np.array([str(path) for path in paths], dtype=object), sources=tuple(FileSource(path) for path in paths)
    )


def embed(paths: Sequence[Path], cards: Sequence[EncoderCard], **chosen: Any) -> tuple[float, EmbeddingSet]:
    """Extract into a new store; return the wall time and what was found."""
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        done = extract(samples_of(paths), cards, store=EmbeddingStore(place), options=ExtractOptions(**chosen))
        return time.perf_counter() - start, done


def synchronise(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: str, *, seconds: float) -> float:
    """Return the seconds of one run: the median of as many as fit into the given time, after two that do not count."""
    times: list[float] = []
    begin = time.perf_counter()
    for number in range(1000):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        times.append(time.perf_counter() - start)
        if number >= 4 and time.perf_counter() - begin > seconds:
            break
    return float(np.median(times[2:]))


def peak(device: str, tiny: bool) -> dict[str, float]:
    import torch

    n = 256 if tiny else 8192
    found = {}
    for name, dtype, size in (
        ("bf16", torch.bfloat16, n),
        ("fp32", torch.float32, n // 2),
        ("fp64", torch.float64, n // 2),
    ):
        a = torch.randn(size, size, device=device).to(dtype)
        found[f"{name}_tflops"] = 2 * size**3 / timed(lambda a=a: a @ a, device, seconds=0.5) / 1e12
    some = torch.randn(n * n * (1 if tiny else 8), device=device)
    other = torch.empty_like(some)
    found["copy_gb_per_s"] = 2 * some.nbytes / timed(lambda: other.copy_(some), device, seconds=0.5) / 1e9
    return found


def parity(device: str, names: Sequence[str], paths: Sequence[Path]) -> dict[str, Any]:
    from biofuse.data.decoding import DecodePolicy, decode

    images = [decode(path.read_bytes(), DecodePolicy(), description=path.name) for path in paths]
    found: dict[str, Any] = {}
    for card in make_random(names):
        batch = np.stack([card.preprocessing.apply(image) for image in images])
        network = random_network(card, device)
        copies = {precision: copy.deepcopy(network) for precision in ("cpu", "bf16", "fp16")}
        reference = around(card, network, device).encode(batch)
        few = around(card, copies.pop("cpu").to("cpu"), "cpu").encode(batch[:FEW])
        cosines = {
            "fp32_to_cpu": least_cosine(few, reference[:FEW]),
            "fp32_to_cpu_relative_difference": float(np.abs(few - reference[:FEW]).max() / np.abs(few).max()),
        }
        for precision, same in copies.items():
            if precision != "fp16" or device != "cpu":
                cosines[precision] = least_cosine(around(card, same, device, precision).encode(batch), reference)
        found[card.name.removesuffix(SUFFIX)] = cosines
    return found


def descriptors(device: str, names: Sequence[str], paths: Sequence[Path]) -> dict[str, float]:
    """Embed by descriptors beside a network on the device, and alone; they must not differ at all."""
    cards = [*map(ENCODERS.get_card, DESCRIPTORS), *make_random(names[:1])]
    _, beside = embed(paths, cards, device=device)
    _, alone = embed(paths, cards[:-1], device="cpu")
    return {name: float(np.abs(beside[name] - alone[name]).max()) for name in DESCRIPTORS}


def bare(card: EncoderCard, device: str, precision: Precision, batch: int, seconds: float) -> float:
    """Images/s of the forward pass alone, of images that lie on the device."""
    import torch

    encoder = random_encoder(card, device=device, precision=precision)
    side = card.preprocessing.output_size
    images = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=device)
    return batch / timed(lambda: encoder.forward(images), device, seconds=seconds)


def throughput(
    device: str, names: Sequence[str], paths: Sequence[Path], *, peaks: dict[str, float], tiny: bool
) -> dict[str, Any]:
    import torch

    found = {}
    low: Precision = "fp32" if tiny else "bf16"
    for card in make_random(names):
        n = len(paths) if tiny else int(len(paths) * min(1, CHEAP / (card.gflops or CHEAP)))
        batch = 4 if tiny else 128
        alone = bare(card, device, low, batch, 0.2 if tiny else BARE_SECONDS)
        embed(paths[:8], [card], device=device, precision=low, workers=0)  # compiles and loads what a first run does
        seconds, done = embed(paths[:n], [card], device=device, precision=low)
        work = done.work[0]
        forward = done.stages.seconds("forward")
        found[card.name.removesuffix(SUFFIX)] = {
            "precision": work.precision,
            "images": n,
            "images_per_second": n / seconds,
            "images_per_second_forward_stage": n / forward,
            "images_per_second_bare": alone,
            "ratio_to_bare": n / seconds / alone,
            "ratio_of_forward_stage_to_bare": n / forward / alone,
            "bare_tflops": alone * (card.gflops or 0) / 1e3,
            "bare_share_of_peak": alone * (card.gflops or 0) / 1e3 / peaks["fp32_tflops" if tiny else "bf16_tflops"],
            "stages": done.stages.to_json(),
        }
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    return found


def nine(device: str, names: Sequence[str], paths: Sequence[Path], *, tiny: bool) -> dict[str, Any]:
    import torch

    cards = make_random(names)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    seconds, done = embed(paths, cards, device=device, precision="fp32" if tiny else "bf16")
    forward = done.stages.seconds("forward")
    return {
        "encoders": [card.name.removesuffix(SUFFIX) for card in cards],
        "precision": {work.encoder.removesuffix(SUFFIX): work.precision for work in done.work},
        "images": len(paths),
        "seconds": seconds,
        "images_per_second": len(paths) / seconds,
        "forward_share_of_wall_time": forward / seconds,
        "tflops_of_forward": len(paths) * sum(card.gflops or 0 for card in cards) / 1e3 / forward,
        "peak_device_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30
        if device.startswith("cuda")
        else None,
        "stages": done.stages.to_json(),
    }


def screen(device: str, *, tiny: bool) -> dict[str, Any]:
    """Screen all subsets both ways; where there are many rows, a sample of them on the processor."""
    found = {}
    for n, classes, reduce_to in TINY_SCREENS if tiny else SCREENS:
        blocks, labels, plan = make_data(n, classes, 0)
        start = time.perf_counter()
        scorer = make_scorer(blocks, labels, plan, reduce_to=reduce_to, threads=usable_cores())
        preparing = time.perf_counter() - start
        start = time.perf_counter()
        on_device = TorchScorer(scorer, device=device, threads=usable_cores())
        moving = time.perf_counter() - start
        on_device.score(blocks.encoders)  # loads what a first call does
        start = time.perf_counter()
        board = run_search(blocks.encoders, make_strategy("exhaustive"), on_device)
        seconds = time.perf_counter() - start
        subsets = [row.subset for row in board][:: 1 if n == SCREENS[0][0] else 32]
        start = time.perf_counter()
        expected = run_search(blocks.encoders, _Some(subsets), scorer, workers=usable_cores(), yes=True)
        slow = (time.perf_counter() - start) * len(board) / len(subsets)
        get_reusable_executor().shutdown()
        theirs = {row.subset: row for row in expected}
        found[str(n)] = {
            "rows": n,
            "classes": classes,
            "reduce_to": reduce_to,
            "mode": scorer.mode,
            "subsets": len(board),
            "choosing": on_device.choosing,
            "seconds_preparing": preparing,
            "seconds_moving": moving,
            "seconds_device": seconds,
            "seconds_all_cores": slow,
            "cores": usable_cores(),
            "subsets_on_cores": len(subsets),
            "times_faster": slow / seconds,
            "greatest_difference": max(
                float(np.nanmax(np.abs(np.array(row.folds[metric]) - np.array(theirs[row.subset].folds[metric]))))
                for row in board
                if row.subset in theirs
                for metric in board.metrics
            ),
        }
    return found


class _Some:
    """A strategy that asks for given subsets."""

    def __init__(self, subsets: Sequence[tuple[str, ...]]) -> None:
        self._subsets = subsets

    def subsets(self, pool: Sequence[str]) -> Sequence[tuple[str, ...]]:
        del pool
        return self._subsets

    def run(self, pool: Sequence[str], evaluate: Callable[[Sequence[tuple[str, ...]]], Any]) -> None:
        del pool
        evaluate(self._subsets)


def two_processes(device: str, name: str, paths: Sequence[Path], *, tiny: bool) -> dict[str, Any]:
    """Let two processes share a device, as ``--device cuda:0,cuda:0`` does, and compare with one."""
    cards = make_random([name])
    precision = "fp32" if tiny else "bf16"
    first = device if ":" in device or device == "cpu" else f"{device}:0"
    alone, one = embed(paths, cards, device=first, precision=precision)
    together, two = embed(paths, cards, device=f"{first},{first}", precision=precision)
    return {
        "encoder": name,
        "images_per_second_one": len(paths) / alone,
        "images_per_second_two": len(paths) / together,
        "least_cosine": least_cosine(one[cards[0].name], two[cards[0].name]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and few images: does it work at all?")
    parser.add_argument("--images", type=int, default=20_000, help="JPEG files of 512 pixels")
    parser.add_argument("--out", type=Path, help="file for the JSON object, written anew after every part")
    parser.add_argument(
        "--parts", nargs="+", default=["peak", "parity", "throughput", "screen", "nine", "two-processes"]
    )
    options = parser.parse_args()
    import torch

    tiny = options.tiny
    n = 16 if tiny else options.images
    paper = [card.name for card in ENCODERS.list_cards() if "paper" in card.pools]
    sizes = TINY[:1] if tiny else tuple(SIZES.values())
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device,
        "torch": torch.__version__,
        "cores": usable_cores(),
        "load_before": os.getloadavg()[0],
    }
    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        paths = many_jpegs(Path(folder), n=n, side=128 if tiny else 512)
        peaks = peak(options.device, tiny)
        parts: dict[str, Callable[[], Any]] = {
            "peak": lambda: peaks,
            "parity": lambda: {
                "networks": parity(options.device, sizes, paths[:16]),
                "descriptors": descriptors(options.device, sizes, paths[:16]),
            },
            "throughput": lambda: throughput(options.device, sizes, paths, peaks=peaks, tiny=tiny),
            "screen": lambda: screen(options.device, tiny=tiny),
            "nine": lambda: nine(options.device, TINY if tiny else paper, paths[: n // 12], tiny=tiny),
            "two-processes": lambda: two_processes(options.device, sizes[0], paths, tiny=tiny),
        }
        for name in options.parts:
            start = time.perf_counter()
            try:
                facts[name] = parts[name]()
            except Exception as error:  # the other parts are worth having all the same
                facts[name] = {"failed": f"{type(error).__name__}: {error}"}
                print(f"{name} failed: {error}", file=sys.stderr)
            facts.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 1)
            if options.out is not None:
                options.out.write_text(json.dumps(facts, indent=2) + "\n")
    facts["seconds"]["all"] = round(time.perf_counter() - clock, 1)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
