"""Networks as ONNX graphs: written to a file, and run by ONNX Runtime where that is quicker than torch."""

import contextlib
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.encoders.encoder import TOLERANCE, TorchEncoder, as_tensor, probe_images

if TYPE_CHECKING:
    import torch
    from torch import nn

OPSET = 18
"""Version of ONNX's operators: the oldest that torch's exporter writes without converting."""

PROTOBUF = 2**31 - 2**26
"""Bytes of weights up to which a graph is one file: ONNX's format holds 2 GB, less what is no weight."""

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Libraries that write a graph and run it."""

GAIN = 1.3
"""Times as fast as torch that ONNX Runtime must be to be taken: EfficientNet-Lite0 and Lite2 are 1.45 to 1.5 times."""

WORTH_SECONDS = 120.0
"""Time that a network must be going to take in torch for converting it, which takes 6 to 8 s, to be tried."""

TIMED = 3
"""Passes of which the quickest counts."""

INPUT, OUTPUT = "images", "embeddings"
"""Names of what goes into the graph of one network and what comes out."""


def missing() -> list[str]:
    """Return which of the libraries are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def write_graph(module: "nn.Module", inputs: "Mapping[str, torch.Tensor]", path: Path, *, output: str) -> None:
    """Write a module as an ONNX graph for any number of rows; weights that do not fit go into a file beside it.

    Parameters
    ----------
    module : torch.nn.Module
        In inference mode; its ``forward`` takes any number of tensors.
    inputs : mapping of str to torch.Tensor, shape (n, ...)
        Names of what it takes, with two rows or more each.
    path : Path
    output : str
        Name of what it returns.

    Raises
    ------
    Exception
        Whatever torch's exporter raises of a module that it cannot write.
    """
    import torch

    batch = torch.export.Dim("n")
    with _quietly():
        program = torch.onnx.export(
            module,
            tuple(each[:2] for each in inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=(tuple({0: batch} for _ in inputs),),
            opset_version=OPSET,
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch wrote no graph; a torch of 2.6 or newer does")
        size = sum(each.numel() * each.element_size() for each in (*module.parameters(), *module.buffers()))
        program.save(path, external_data=size > PROTOBUF)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself what torch's exporter says of its own progress; what fails raises."""
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)


@dataclass(frozen=True, kw_only=True, eq=False)
class Converted:
    """A network that ONNX Runtime runs.

    Attributes
    ----------
    encoder : TorchEncoder
        The same encoder, with the same preparation and checks.
    gain : float
        Times as fast as in torch.
    difference : float
        Largest difference of an embedding, relative to the largest value.
    """

    encoder: TorchEncoder
    gain: float
    difference: float


def in_onnx_runtime(
    encoder: TorchEncoder, *, images: int, batch_size: int, threads: int, worth: float = WORTH_SECONDS
) -> Converted | None:
    """Have ONNX Runtime run a network of depthwise convolutions, where that is worth it.

    Their kernels are what torch is slow at on a processor; transformers gain nothing. The embeddings are the same up
    to the rounding of another order of sums, as on another processor.

    Parameters
    ----------
    encoder : TorchEncoder
        On a processor, in fp32.
    images : int
        How many it is going to embed.
    batch_size : int
        How many at a time.
    threads : int
        Cores of one pass.
    worth : float
        Seconds that all passes in torch must be going to take.

    Returns
    -------
    Converted or None
        None where nothing is to be gained, or a library is not installed.
    """
    import torch

    convolutions = (each for each in encoder.network.modules() if isinstance(each, torch.nn.Conv2d))
    if missing() or not any(each.groups > 1 for each in convolutions):
        return None
    probes = encoder.card.preprocessing.normalise(as_tensor(probe_images(encoder.card.preprocessing.output_size)))
    batch = probes.repeat(-(-batch_size // len(probes)), 1, 1, 1)[:batch_size]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            seconds = _seconds(lambda: encoder.embed(batch), threads=threads)
            if seconds / batch_size * images < worth:
                return None
            run = _session(encoder, probes, threads=threads)
            if run is None:
                return None
            wanted, found = encoder.embed(probes), run(probes)
            difference = float((found - wanted).abs().max() / wanted.abs().max())
            gain = seconds / _seconds(lambda: run(batch), threads=threads)
    finally:
        torch.set_num_threads(before)
    if not difference <= TOLERANCE["fp32"] or gain < GAIN:
        return None
    return Converted(encoder=encoder.running(run), gain=gain, difference=difference)


def _session(
    encoder: TorchEncoder, probes: "torch.Tensor", *, threads: int
) -> "Callable[[torch.Tensor], torch.Tensor] | None":
    import onnxruntime
    import torch

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder.network

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return encoder.embed(*inputs)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            write_graph(Embedding().eval(), {INPUT: probes}, path, output=OUTPUT)
        except Exception:  # any that torch's exporter raises: the network then runs in torch, as it did before
            return None
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor:
        given: Any = images.contiguous().numpy()
        return torch.from_numpy(np.asarray(session.run([OUTPUT], {INPUT: given})[0]))

    return run


def _seconds(work: Callable[[], object], *, threads: int) -> float:
    """Return what the quickest of a few passes takes; of one thread its own time, however busy cores are otherwise."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    found = []
    for _ in range(TIMED):
        start = clock()
        work()
        found.append(clock() - start)
    return min(found)
