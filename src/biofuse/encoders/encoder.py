"""What a loaded encoder can do, what goes in and must come out, and the encoder that is a PyTorch network."""

import contextlib
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import EncoderError, HubUnreachableError, WeightsError, option
from biofuse.core.hashing import generator
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.hub import HubFile, download, is_repository, read_json
from biofuse.encoders.preprocessing import differences, from_open_clip, from_processor

if TYPE_CHECKING:
    import torch
    from torch import nn

UInt8Images = NDArray[np.uint8]
"""Images of one size, shape (n, height, width, 3), red-green-blue, 0-255: already resized and cropped."""

Embeddings = NDArray[np.float32]
"""One row per image, shape (n, dim)."""


class Encoder(Protocol):
    """A frozen model that turns one image into one vector."""

    @property
    def card(self) -> EncoderCard:
        """The record it was built from."""
        ...

    def encode(self, images: UInt8Images) -> Embeddings:
        """Embed a batch that ``card.preprocessing.apply`` has prepared; normalisation happens here, on the device.

        Parameters
        ----------
        images : ndarray of uint8, shape (n, height, width, 3)

        Returns
        -------
        ndarray of float32, shape (n, card.dim)
            Row i depends on image i alone.
        """
        ...


def require_images(card: EncoderCard, images: UInt8Images) -> UInt8Images:
    """Return the batch if it is what ``card.preprocessing.apply`` makes.

    Raises
    ------
    EncoderError
        If dtype or shape differ; nothing is converted or resized behind the caller's back.
    """
    side = card.preprocessing.output_size
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
        raise EncoderError(
            f"{card.name} takes uint8 images of shape (n, {side}, {side}, 3), not {images.dtype} {images.shape}.",
            remedy="Prepare each image with card.preprocessing.apply first.",
        )
    return images


def require_embeddings(card: EncoderCard, values: Any, *, rows: int) -> Embeddings:
    """Return an encoder's output as contiguous float32 if it has the promised shape and is finite.

    Parameters
    ----------
    card : EncoderCard
        Whose output it is.
    values : array_like
        What the encoder computed.
    rows : int
        Number of images that went in.

    Raises
    ------
    EncoderError
        If rows or columns are missing or extra, or a value is not finite.
    """
    array = np.asarray(values)
    if array.shape != (rows, card.dim):
        raise EncoderError(
            f"{card.name} gave an array of shape {array.shape} for {rows} images; its card says ({rows}, {card.dim}).",
            remedy="Correct dim on the card, or return one row per image.",
        )
    if array.dtype.kind not in "fiub":
        raise EncoderError(f"{card.name} gave values of type {array.dtype}, not numbers.")
    result = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(result).all(axis=1)
    if not finite.all():
        raise EncoderError(
            f"{card.name} gave NaN or infinite values for {int((~finite).sum())} of {rows} images.",
            remedy="Run it in fp32; if that does not help, its weights or its code are broken.",
        )
    return result


DTYPES: dict[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What torch calls them."""


class TorchEncoder:
    """A network with its weights loaded, on a device, in inference mode.

    Parameters
    ----------
    card : EncoderCard
        The record it was built from.
    network : torch.nn.Module
        Maps normalised images of shape (n, 3, height, width) to embeddings of shape (n, dim). It is frozen, set to
        ``eval`` and moved to the device.
    device : str
        A torch device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    precision : {"fp32", "fp16", "bf16"}
        The lower precisions run under autocast. The weights of linear layers and convolutions, which autocast would
        cast in every pass, are cast once and for all, which gives the same numbers in half the memory; everything else
        stays in float32, as autocast wants it. On a CPU, batch normalisations are folded into the convolutions before
        them, which moves an embedding by 2e-6 of its largest value (EfficientNet-Lite).
    forward : callable, optional
        Used in place of calling the network, where the embedding is not what the network itself returns.

    Raises
    ------
    EncoderError
        If the device does not exist here.
    """

    def __init__(
        self,
        card: EncoderCard,
        network: "nn.Module",
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        forward: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
    ) -> None:
        import torch

        self._card = card
        self._device = require_device(device)
        self._parameters = sum(parameter.numel() for parameter in network.parameters())
        self._network = network.eval().requires_grad_(False)
        self._forward = network if forward is None else forward
        if self._device.type == "cpu":
            self._fold()
        # Channels last: twice the speed for depthwise convolutions in batches on a CPU (measured on EfficientNet-Lite).
        network.to(self._device).to(memory_format=torch.channels_last)
        self._set(precision)

    @property
    def card(self) -> EncoderCard:
        """The record it was built from."""
        return self._card

    @property
    def precision(self) -> Precision:
        """The precision it computes in."""
        return self._precision

    @property
    def network(self) -> "nn.Module":
        """The network, frozen and on the device."""
        return self._network

    @property
    def embed(self) -> "Callable[[torch.Tensor], torch.Tensor]":
        """What maps normalised images, shape (n, 3, height, width), to embeddings, shape (n, card.dim)."""
        return self._forward

    @property
    def parameters(self) -> int:
        """Number of learned parameters of the network, before anything was folded."""
        return self._parameters

    def encode(self, images: UInt8Images) -> Embeddings:
        """Embed a batch that ``card.preprocessing.apply`` has prepared.

        Parameters
        ----------
        images : ndarray of uint8, shape (n, height, width, 3)

        Returns
        -------
        ndarray of float32, shape (n, card.dim)

        Raises
        ------
        EncoderError
            If the images are not of the card's size, or the embeddings not of its dimension or not finite.
        """
        require_images(self._card, images)
        if len(images) == 0:
            return np.zeros((0, self._card.dim), dtype=np.float32)
        output = self.forward(as_tensor(images).to(self._device))
        return require_embeddings(self._card, output.cpu().numpy(), rows=len(images))

    def forward(self, batch: "torch.Tensor") -> "torch.Tensor":
        """Normalise and embed images that are on the device already; nothing is waited for or checked.

        Parameters
        ----------
        batch : torch.Tensor of uint8, shape (n, height, width, 3)

        Returns
        -------
        torch.Tensor of float32, shape (n, card.dim)
            On the device.
        """
        import torch

        with torch.inference_mode(), self._computing():
            return self._forward(self._card.preprocessing.normalise(batch)).float()

    def _computing(self) -> "AbstractContextManager[Any]":
        import torch

        if self._precision != "fp32":
            return torch.autocast(self._device.type, dtype=getattr(torch, DTYPES[self._precision]))
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        # torch lets cuDNN's convolutions round to TF32 (10 bits of mantissa) by default, which fp32 does not mean here.
        cudnn = torch.backends.cudnn
        return cudnn.flags(
            enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
        )

    def at(self, precision: Precision) -> "TorchEncoder":
        """Return the same network at a lower precision; this one must not be used any more."""
        lower = copy.copy(self)
        lower._set(precision)
        return lower

    def running(self, forward: "Callable[[torch.Tensor], torch.Tensor]") -> "TorchEncoder":
        """Return the same encoder with something else in place of running its network."""
        other = copy.copy(self)
        other._forward = forward
        return other

    def _set(self, precision: Precision) -> None:
        import torch

        self._precision: Precision = precision
        if precision != "fp32":
            for module in self._network.modules():
                if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                    module.to(getattr(torch, DTYPES[precision]))

    def _fold(self) -> None:
        """Fold normalisations into convolutions; EfficientNet-Lite then takes three quarters of the time on a CPU."""
        import torch

        from biofuse.encoders.folding import fold_normalisations

        probe = self._card.preprocessing.normalise(as_tensor(probe_images(self._card.preprocessing.output_size)[:1]))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # layers of one image are too small for several, which would wait for one another
        try:
            fold_normalisations(self._network, self._forward, probe, tolerance=TOLERANCE["fp32"])
        finally:
            torch.set_num_threads(threads)


def as_tensor(images: UInt8Images) -> "torch.Tensor":
    """Return images as a tensor that shares their memory where they may be written to."""
    import torch

    # torch refuses to promise not to write to a read-only array, hence the copy of those.
    return torch.from_numpy(np.ascontiguousarray(images if images.flags.writeable else images.copy()))


def class_and_mean(tokens: "torch.Tensor", *, prefix: int) -> "torch.Tensor":
    """Return the class token beside the mean of the patch tokens.

    Parameters
    ----------
    tokens : torch.Tensor, shape (n, tokens, width)
        The class token first, then registers if there are any, then the patches.
    prefix : int
        How many tokens stand before the patches: the class token and the registers.

    Returns
    -------
    torch.Tensor, shape (n, 2 * width)
    """
    import torch

    return torch.cat((tokens[:, 0], tokens[:, prefix:].mean(dim=1)), dim=1)


def require_device(name: str) -> "torch.device":
    """Return the torch device of that name.

    Raises
    ------
    EncoderError
        If torch does not know it, or this machine does not have it.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EncoderError(f"{name!r} is not a device that torch knows.", remedy="Use cpu, cuda or mps.") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, True):
        raise EncoderError(f"This machine has no device {name!r}.", remedy=f"Use {option('device', 'cpu')}.")
    return device


TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""How far a row may differ between a batch and the image alone, relative to the batch's largest value.

Matrix products are summed in another order for another batch size: 2**-24, 2**-11 and 2**-8 per operation for the
three precisions, accumulated over some hundred layers. Batch statistics move a row by far more.
"""

INSENSITIVE = 1e-6
"""Two different images whose embeddings differ by less than this, relative to the largest value, are not told apart."""


def probe_images(side: int) -> UInt8Images:
    """Return three synthetic images that share neither colours nor texture: noise, a gradient and a checkerboard.

    Parameters
    ----------
    side : int
        Pixels.

    Returns
    -------
    ndarray of uint8, shape (3, side, side, 3)
    """
    noise = generator(0, "probe", side).integers(0, 256, (side, side, 3))
    ramp = np.linspace(0, 255, side)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 64.0), axis=2)
    row, column = np.indices((side, side)) * 8 // side
    board = np.where(((row + column) % 2)[..., None], (200, 40, 90), (30, 160, 60))
    return np.stack([noise, gradient, board]).astype(np.uint8)


def tolerance(encoder: Encoder) -> float:
    """Return how far a row may move, relative to the batch's largest value, at the encoder's precision."""
    return TOLERANCE[getattr(encoder, "precision", "fp32")]


def check_encoder(encoder: Encoder) -> None:
    """Refuse an encoder that is not what its card says, by running it on three synthetic images.

    That no weight is missing or left over was checked when they were loaded.

    Parameters
    ----------
    encoder : Encoder
        Just loaded.

    Raises
    ------
    WeightsError
        If the network has another number of parameters than the card.
    EncoderError
        If its repository says that images are prepared otherwise, or embeddings have another dimension, are not
        finite, do not tell the images apart, have one value in all columns, or depend on what else is in the batch.
    """
    card = encoder.card
    check_published(card)
    if isinstance(encoder, TorchEncoder) and card.parameters not in {None, encoder.parameters}:
        raise WeightsError(
            f"{card.name} has {encoder.parameters:,} parameters, its card says {card.parameters:,}: another network.",
            remedy="Name the architecture and arguments that the weights were made for.",
        )
    images = probe_images(card.preprocessing.output_size)
    together = encoder.encode(images)
    if together.shape != (len(images), card.dim) or together.dtype != np.float32:
        raise EncoderError(
            f"{card.name} gave {together.dtype} {together.shape}; its card says float32 ({len(images)}, {card.dim})."
        )
    if not np.isfinite(together).all():
        raise EncoderError(f"{card.name} gave NaN or infinite values for a synthetic image.")
    scale = max(float(np.abs(together).max()), float(np.finfo(np.float32).tiny))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        if np.abs(together[first] - together[second]).max() <= INSENSITIVE * scale:
            raise EncoderError(
                f"{card.name} gives the same embedding for different images: its output is constant.",
                remedy="Its weights are not loaded as they should be, or its code ignores the image.",
            )
    if card.dim > 1 and bool((np.ptp(together, axis=1) <= INSENSITIVE * scale).all()):
        raise EncoderError(
            f"{card.name} gives one and the same value in all {card.dim} columns of an image's embedding.",
            remedy="Its weights are not loaded as they should be, or another of its outputs is meant.",
        )
    last = len(images) - 1
    alone = encoder.encode(images[last:])
    moved = float(np.abs(alone[0] - together[last]).max()) / scale
    if moved > tolerance(encoder):
        raise EncoderError(
            f"{card.name} embeds an image differently alone and in a batch (by {moved:.2g} of the largest value).",
            remedy="Each row may depend on its own image only: no batch statistics, no shared normalisation.",
        )


def check_published(card: EncoderCard) -> None:
    """Refuse a card that contradicts what the repository of its weights says about preparing images.

    Nothing is compared where the card names no such file, or it is neither in the hub's cache nor to be had.

    Raises
    ------
    EncoderError
        If they disagree.
    UnavailableWeightsError
        If the repository has no such file, or does not give it to this user.
    """
    weights = card.weights
    config = None if weights is None else published_file(card, weights.processor)
    if weights is None or config is None:
        return
    if weights.processor.endswith("open_clip_config.json"):
        size = card.preprocessing.output_size
        published = from_open_clip(config.get("preprocess_cfg", {}), name=card.name, size=size)
    else:
        published = from_processor(config, name=card.name)
    different = differences(card.preprocessing, published)
    if different:
        raise EncoderError(
            f"{weights.processor} of {weights.repository} disagrees with the card of {card.name}: {different}.",
            remedy="Correct the preprocessing on the card, or take processor off it if the authors say otherwise.",
        )


def published_file(card: EncoderCard, file: str) -> dict[str, Any] | None:
    """Return a JSON file of the repository of a card's weights.

    None where the card names no such file, or it is neither in the hub's cache nor to be had.

    Raises
    ------
    UnavailableWeightsError
        If the repository has no such file, or does not give it to this user.
    """
    weights = card.weights
    if weights is None or not file or not is_repository(weights.repository):
        return None
    wanted = HubFile(
        repository=weights.repository,
        revision=weights.revision,
        file=file,
        encoder=card.name,
        title=card.title,
        page=card.page,
    )
    try:
        return read_json(download(wanted))
    except HubUnreachableError:
        return None
