"""What does a million images cost? Measures how fast networks run here, and applies that to every card of the pool.

``python perf/cost.py`` prints one JSON object: images and billions of operations per second of the forward pass
for each network and precision that was timed, and hours per million images for every encoder whose card knows its
operations. ``--markdown`` prints the table of docs/scale.md instead. ``--device cuda`` measures on an accelerator.

Networks have random weights, which take as long as any others. Reading, decoding and resizing come on top, once for all
encoders together.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from biofuse.core.machine import keep_freed_memory, usable_cores
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import Encoder
from biofuse.encoders.registry import list_cards, load_encoder, resolve

MILLION = 1_000_000
PUBLISHED_GPU_TFLOPS = 117.0
"""ViT-L/16 at 224 pixels on an RTX 4090 with automatic mixed precision: 954 images/s of 123.2 GFLOPs in the
benchmark-infer tables of timm's repository (folder results, PyTorch 2.9). Not measured here."""


CONVOLUTIONAL = ("efficientnet", "resnet", "convnext", "densenet")
"""What the architectures of convolutional networks have in their names."""


def operations(encoder: Encoder) -> float:
    """Billions of floating-point operations per image, a multiplication and an addition counting as two."""
    from torch.utils.flop_counter import FlopCounterMode

    side = encoder.card.preprocessing.output_size
    with FlopCounterMode(display=False) as counter:
        encoder.encode(np.zeros((1, side, side, 3), dtype=np.uint8))
    return counter.get_total_flops() / 1e9


def images_per_second(encoder: Encoder, *, batch: int, seconds: float, lanes: int) -> float:
    """Whole batches side by side, as the engine runs them: one thread per core of a CPU, one on an accelerator."""
    import torch

    side = encoder.card.preprocessing.output_size
    images = np.random.default_rng(0).integers(0, 256, size=(batch, side, side, 3), dtype=np.uint8)

    def passes(until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            encoder.encode(images)
            done += 1
        return done

    threads = ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,))
    with keep_freed_memory(), threads:
        list(threads.map(passes, [time.perf_counter() + min(1, seconds)] * lanes))  # the first passes allocate
        begin = time.perf_counter()
        done = sum(threads.map(passes, [begin + seconds] * lanes))
        return done * batch / (time.perf_counter() - begin)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    lanes = usable_cores() if arguments.device == "cpu" else 1
    for family, name in (("convolutional", arguments.convolutional), ("transformer", arguments.transformer)):
        card = resolve(name, allow_random_weights=True)[0]
        gflops = operations(load_encoder(card))
        precisions: tuple[Precision, ...] = ("fp32", "bf16") if family == "transformer" else ("fp32",)
        for precision in precisions:
            encoder = load_encoder(card, device=arguments.device, precision=precision)
            rate = images_per_second(encoder, batch=arguments.batch, seconds=arguments.seconds, lanes=lanes)
            found.append(
                {
                    "family": family,
                    "network": name,
                    "precision": precision,
                    "gflops_per_image": gflops,
                    "images_per_second": rate,
                    "gflops_per_second": rate * gflops,
                }
            )
    return found


def family_of(card: EncoderCard) -> str:
    return "convolutional" if any(kind in card.architecture for kind in CONVOLUTIONAL) else "transformer"


def hours(card: EncoderCard, gflops: float, measured: list[dict[str, Any]]) -> dict[str, Any]:
    rates = {row["precision"]: row["gflops_per_second"] for row in measured if row["family"] == family_of(card)}
    return {
        "encoder": card.name,
        "gflops_per_image": gflops,
        "hours_per_million": {precision: gflops * MILLION / rate / 3600 for precision, rate in rates.items()},
        "gpu_hours_per_million_from_published_rate": gflops * MILLION / (1000 * PUBLISHED_GPU_TFLOPS) / 3600,
    }


def markdown(costs: list[dict[str, Any]]) -> str:
    lines = [
        "| encoder | GFLOPs per image | CPU hours, fp32 | CPU hours, bf16 | GPU hours, published rate |",
        "| --- | --- | --- | --- | --- |",
    ]
    for cost in sorted(costs, key=lambda cost: float(cost["gflops_per_image"])):
        here = {precision: f"{value:,.1f}" for precision, value in cost["hours_per_million"].items()}
        gpu = cost["gpu_hours_per_million_from_published_rate"]
        cells = [f"`{cost['encoder']}`", f"{cost['gflops_per_image']:,.4g}", here["fp32"], here.get("bf16", "")]
        lines.append(f"| {' | '.join(cells)} | {gpu:,.3g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--convolutional", default="timm:efficientnet_lite0", help="network that stands for its family")
    parser.add_argument("--transformer", default="timm:vit_base_patch16_224", help="likewise")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    measured = measure(arguments)
    costs = [hours(card, card.gflops, measured) for card in list_cards() if card.gflops is not None]
    print(markdown(costs) if arguments.markdown else json.dumps({"measured": measured, "costs": costs}, indent=2))


if __name__ == "__main__":
    main()
