"""How an extraction is run; of all this, precision alone changes an embedding, and has a folder of its own for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from biofuse.core.errors import BioFuseError
from biofuse.core.machine import usable_cores
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.doctor import OnUnavailable
from biofuse.encoders.weights import located
from biofuse.extract.precision import PRECISIONS, PrecisionOption

OnError = Literal["error", "quarantine"]

MAX_WORKERS = 32
"""More decode workers than this rarely keep a single device busier: at about 10 ms per 1,024-pixel JPEG they decode
3,000 images/s, what a large accelerator takes of a ViT-B/16 (performance.md section 1: 3,000-5,000)."""

SMALL_JOB = 64
"""Images up to which starting worker processes costs more than it saves."""


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Options of an extraction.

    Attributes
    ----------
    device : str
        ``auto`` (all CUDA devices, then MPS, then CPU) or PyTorch device names, separated by commas.
    precision : {"auto", "fp32", "bf16", "fp16"}
        What networks compute in. ``auto``: what the store already has; else what the card advises, where the device
        has it. Lower precisions are compared with fp32 on images of the job first, and refused where they differ.
    precisions : mapping of str to precision
        What single encoders compute in, whatever ``precision`` says; not compared again. A fitted model asks for what
        it was fitted on; where the device does not have that, fp32 takes its place, and it is said so.
    batch_size : int or None
        Images per forward pass; None begins with what should fit. Either is halved when memory runs out.
    memory : int or None
        Bytes of the device that encoders and their batches may take; None plans with most of what is free.
    workers : int or None
        Processes that decode and resize; 0 does everything in this process, None decides by cores and size of the job.
    on_error : {"error", "quarantine"}
        What to do with an image that cannot be read: stop, or set it aside and list it.
    on_unavailable : {"error", "skip"}
        What to do with an encoder whose weights or library cannot be had here: stop, or leave it out and list it.
    weights_dir : Path or None
        Folder with weight files, ``<encoder>/<file on its card>``; ``BIOFUSE_WEIGHTS_DIR`` by default.
    weights_paths : mapping of str to Path
        Weight files by encoder, in place of where they are looked for.
    part_rows : int
        Rows after which a part is written.
    part_seconds : float
        Seconds after which a part is written, however few rows it has: what a killed run can lose.
    engine : str
        What runs the encoders: a name in :data:`biofuse.extract.engine.ENGINES`.
    ray_address : str or None
        Cluster for the engine ``ray``; by default that of ``RAY_ADDRESS``, else Ray is started on this machine.
    """

    device: str = "auto"
    precision: PrecisionOption = "auto"
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    batch_size: int | None = None
    memory: int | None = None
    workers: int | None = None
    on_error: OnError = "error"
    on_unavailable: OnUnavailable = "error"
    weights_dir: Path | None = None
    weights_paths: Mapping[str, Path] = field(default_factory=dict)
    part_rows: int = 4096
    part_seconds: float = 60.0
    engine: str = "local"
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if (self.batch_size is not None and self.batch_size < 1) or self.part_rows < 1:
            raise BioFuseError("batch_size and part_rows must be at least 1.")
        if self.workers is not None and self.workers < 0:
            raise BioFuseError("workers must not be negative.", remedy="Use 0 to do everything in one process.")
        if self.on_error not in {"error", "quarantine"}:
            raise BioFuseError(f"on_error is {self.on_error!r}; it must be 'error' or 'quarantine'.")
        if self.precision not in {"auto", *PRECISIONS} or set(self.precisions.values()) - set(PRECISIONS):
            raise BioFuseError("Precisions are 'auto', 'fp32', 'bf16' and 'fp16'; 'auto' not for a single encoder.")

    def weights_of(self, card: EncoderCard) -> Path | None:
        """Return the weight file to load an encoder from; None where its loader finds it by itself."""
        return located(card, weights_paths=self.weights_paths, weights_dir=self.weights_dir)

    def n_workers(self, n_images: int) -> int:
        """Return the number of worker processes for a job of this many images."""
        if self.workers is not None:
            return self.workers
        return 0 if n_images <= SMALL_JOB else min(usable_cores(), MAX_WORKERS, 2 * n_images // SMALL_JOB)


def choose_device(requested: str) -> str:
    """Resolve ``auto`` and check that the device is there; of several, the first.

    Raises
    ------
    BioFuseError
        If the device asked for does not exist on this machine.
    """
    import torch

    requested = requested.partition(",")[0].strip()
    if requested == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=requested)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BioFuseError(
            f"Device {requested!r} is not available: {str(error).splitlines()[0]}",
            remedy="Use --device auto, or --device cpu.",
        ) from error
    return requested
