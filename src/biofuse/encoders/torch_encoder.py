"""An encoder that is a PyTorch network."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.core.errors import EncoderError
from biofuse.encoders.batches import require_embeddings, require_images
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.protocol import Embeddings, UInt8Images

if TYPE_CHECKING:
    import torch
    from torch import nn

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
        stays in float32, as autocast wants it.
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
        self._precision: Precision = precision
        if precision != "fp32":
            _cast(network, precision)
        # Channels last: twice the speed for depthwise convolutions in batches on a CPU (measured on EfficientNet-Lite).
        frozen = network.eval().requires_grad_(False).to(self._device)
        self._network = frozen.to(memory_format=torch.channels_last)
        self._forward = network if forward is None else forward

    @property
    def card(self) -> EncoderCard:
        """The record it was built from."""
        return self._card

    @property
    def precision(self) -> Precision:
        """The precision it computes in."""
        return self._precision

    @property
    def parameters(self) -> int:
        """Number of learned parameters of the network that is run."""
        return sum(parameter.numel() for parameter in self._network.parameters())

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
        import torch

        require_images(self._card, images)
        if len(images) == 0:
            return np.zeros((0, self._card.dim), dtype=np.float32)
        # torch refuses to promise not to write to a read-only array, hence the copy of those.
        source = images if images.flags.writeable else images.copy()
        output = self.forward(torch.from_numpy(np.ascontiguousarray(source)).to(self._device))
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
        return TorchEncoder(
            self._card, self._network, device=str(self._device), precision=precision, forward=self._forward
        )


def _cast(network: "nn.Module", precision: Precision) -> None:
    """Cast what autocast casts in every pass, in place."""
    import torch
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(getattr(torch, DTYPES[precision]))


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
        raise EncoderError(f"This machine has no device {name!r}.", remedy="Use device='cpu'.")
    return device
