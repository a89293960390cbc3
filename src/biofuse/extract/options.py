"""How an extraction is run; of all this, precision alone changes an embedding, and has a folder of its own for it."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from biofuse.blocks.pooling import Pooling
from biofuse.core.errors import BioFuseError, DependencyError, option
from biofuse.core.machine import usable_cores
from biofuse.core.options import Option, Options
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.doctor import OnUnavailable
from biofuse.encoders.weights import located

OnError = Literal["error", "quarantine"]

PrecisionOption = Literal["auto", "fp32", "bf16", "fp16"]

MAX_WORKERS = 32
"""More decode workers than this rarely keep a single device busier: at about 10 ms per 1,024-pixel JPEG they decode
3,000 images/s, what a large accelerator takes of a ViT-B/16 (performance.md section 1: 3,000-5,000)."""

SMALL_JOB = 64
"""Images up to which starting worker processes costs more than it saves."""

UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9}


def _batch_size(value: Any) -> Any:
    """Read ``auto`` or a whole number from 1."""
    if value is None or value == "auto":
        return None
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"{value!r} is neither 'auto' nor a whole number from 1.")
    return int(value)


def _memory(value: Any) -> Any:
    """Read a number of bytes, such as ``24GB``."""
    if not isinstance(value, str):
        return value
    text = value.strip().upper()
    factor = UNITS.get(text[-2:], 1)
    try:
        return int(float(text[:-2] if factor > 1 else text) * factor)
    except ValueError:
        raise ValueError(f"{value!r} is not a number of bytes such as 24GB.") from None


class ExtractOptions(Options):
    """Options of an extraction.

    Every function that embeds takes them as ``options=ExtractOptions(...)``, or by name, or both: names win.

    Examples
    --------
    >>> from biofuse import ExtractOptions
    >>> ExtractOptions(device="cpu", batch_size=8).batch_size
    8
    >>> ExtractOptions(devise="cpu")
    Traceback (most recent call last):
    ...
    biofuse.core.errors.BioFuseError: ...
    """

    on_error: Annotated[OnError, Option(panel="Data")] = Field(
        default="error", description="error: stop at an unreadable image; quarantine: set it aside and list it."
    )
    pooling: Annotated[Literal[Pooling, "auto"], Option(panel="Running")] = Field(
        default="mean",
        description="How the embeddings of the images of one sample become one vector, where samples are several "
        "images: a volume, a slide, a patient. auto: the simplest that a fit's cross-validation finds as good as the "
        "best. A fitted model keeps its own.",
    )
    device: Annotated[str, Option(panel="Running")] = Field(
        default="auto",
        description="auto, cpu, cuda, cuda:1, mps; cuda:0,cuda:1: a process for each. auto takes all CUDA devices.",
        examples=["cuda:0,cuda:1"],
    )
    precision: Annotated[PrecisionOption, Option(panel="Running")] = Field(
        default="auto",
        description="What networks compute in. auto: what the store has, else what each encoder's card advises and the "
        "device has. A lower precision is compared with fp32 on your images first. A fitted model keeps its own.",
    )
    batch_size: Annotated[
        int | None, BeforeValidator(_batch_size), Option(panel="Running", metavar="N|auto", shown="auto")
    ] = Field(
        default=None,
        description="Images per forward pass; auto: what fits. Halved when memory runs out.",
        examples=[32],
    )
    workers: Annotated[int | None, Option(panel="Running", shown="by cores")] = Field(
        default=None,
        ge=0,
        description="Processes that decode and resize; 0: none beside the one that asks. Unless a number is given, "
        "threads do it where they do as well.",
    )
    weights_dir: Annotated[Path | None, Option(panel="Advanced", env="BIOFUSE_WEIGHTS_DIR")] = Field(
        default=None,
        description="Folder with weight files: <encoder>/<file on its card>.",
        examples=["/shared/weights"],
    )
    on_unavailable: Annotated[OnUnavailable, Option(panel="Advanced")] = Field(
        default="error",
        description="error: stop at an encoder that cannot be run here; skip: leave it out, and say so.",
    )
    allow_random_weights: Annotated[bool, Option(panel="Advanced")] = Field(
        default=False, description="Let timm:NAME encoders have random weights, to try things out."
    )
    memory: Annotated[
        int | None, BeforeValidator(_memory), Option(panel="Advanced", metavar="BYTES", shown="most of what is free")
    ] = Field(
        default=None,
        gt=0,
        description="Memory of the device that encoders and their batches may take together.",
        examples=["24GB"],
    )
    use_store: Annotated[bool, Option(panel="Running", off="--no-store")] = Field(
        default=True,
        description="Look for embeddings in the store, and keep them there. Otherwise they are computed anew and live "
        "in memory only.",
    )
    engine: Annotated[Literal["local", "ray"], Option(panel="Advanced")] = Field(
        default="local", description="Run on this machine, or on a Ray cluster."
    )
    runtime: Annotated[Literal["auto", "torch", "onnx"], Option(panel="Advanced")] = Field(
        default="auto",
        description="What runs networks of depthwise convolutions on a processor. auto: ONNX Runtime (extra onnx), if "
        "they have minutes to do and it is 1.3 times as fast as PyTorch; onnx: also if they have less; torch: never. "
        "The embeddings are the same to rounding.",
    )
    ray_address: Annotated[str | None, Option(panel="Advanced", env="RAY_ADDRESS")] = Field(
        default=None,
        description="The cluster for the engine ray: HOST:PORT or auto. By default Ray is started on this machine.",
        examples=["auto"],
    )
    precisions: Mapping[str, Precision] = Field(
        default_factory=dict,
        description="What single encoders compute in, whatever `precision` says; not compared again.",
    )

    def weights_of(self, card: EncoderCard) -> Path | None:
        """Return the weight file to load an encoder from; None where its loader finds it by itself."""
        return located(card, weights_dir=self.weights_dir)

    def n_workers(self, n_images: int) -> int:
        """Return the number of worker processes for a job of this many images."""
        if self.workers is not None:
            return self.workers
        return 0 if n_images <= SMALL_JOB else min(usable_cores(), MAX_WORKERS, 2 * n_images // SMALL_JOB)


def choose_device(requested: str) -> str:
    """Resolve ``auto`` and check that the device is there; of several, the first. Without torch there is a processor.

    Raises
    ------
    BioFuseError
        If the device asked for does not exist on this machine.
    DependencyError
        If it is another than a processor, and torch is not installed.
    """
    requested = requested.partition(",")[0].strip()
    if importlib.util.find_spec("torch") is None:
        if requested in {"auto", "cpu"}:
            return "cpu"
        raise DependencyError(f"Device {requested!r} needs torch, which is not installed.", remedy="pip install torch")
    import torch

    if requested == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=requested)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BioFuseError(
            f"Device {requested!r} is not available: {str(error).splitlines()[0]}",
            remedy=f"Use {option('device', 'auto')}, or {option('device', 'cpu')}.",
        ) from error
    return requested
