"""Encoders that are a network in memory: a torch module, or a model of timm, registered from Python."""

import copy
import inspect
import pickle
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from biofuse.core.errors import EncoderError
from biofuse.core.hashing import digest, digest_json
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import TorchEncoder, as_tensor, probe_images
from biofuse.encoders.function import packed
from biofuse.encoders.preprocessing import Preprocessing, card_errors, from_timm
from biofuse.encoders.registry import ENCODERS, CardFacts, EncoderRegistry

if TYPE_CHECKING:
    import torch
    from torch import nn

LIBRARIES = frozenset({"torch", "torchvision", "timm", "transformers", "open_clip", "monai"})
"""Packages whose layers are known by what they print of themselves; the code of any other class is hashed."""


def register_torch(
    name: str,
    module: "nn.Module",
    preprocessing: Preprocessing | None = None,
    *,
    version: int = 1,
    replace: bool = False,
    registry: EncoderRegistry = ENCODERS,
    **facts: Unpack[CardFacts],
) -> EncoderCard:
    """Make an encoder of a network that is in memory.

    The network is given normalised images of shape (n, 3, height, width) and returns a matrix with a row per image; of
    a model of timm, what it gives before its last layer. It is run once, here, to learn its number of columns. What is
    embedded later is a copy, in inference mode; the network itself stays as it is.

    The fingerprint of its embeddings holds its weights and buffers, what it prints of itself, plain attributes of its
    layers, and the code of its own classes. A network that was trained on after it was registered is refused: register
    it again. What it uses beyond that is not seen: raise ``version`` when that changes.

    Parameters
    ----------
    name : str
        What it will be called.
    module : torch.nn.Module
    preprocessing : Preprocessing, optional
        How images were prepared when it was trained; of a model of timm, by default, as its configuration says.
    version : int, default 1
        Raise it when the result changes in a way that neither weights nor code show.
    replace : bool, default False
        Whether to replace an encoder of that name.
    registry : EncoderRegistry, optional
        Where to register; BioFuse's own by default.
    **facts
        Facts for the card (title, licence, modality, citation, ...); see :class:`biofuse.encoders.EncoderCard`.

    Returns
    -------
    EncoderCard

    Raises
    ------
    EncoderError
        If it is no network, nothing says how images are prepared, it does not give a row per image, its code cannot be
        found, or the name is taken.

    Examples
    --------
    >>> import biofuse
    >>> from biofuse.encoders import Preprocessing
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> card = biofuse.register_torch("tiny", network, Preprocessing(size=32, crop=32))
    >>> card.dim
    8
    >>> biofuse.embed("images/", ["tiny"], progress=False).matrix.shape
    (40, 8)
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise EncoderError(
            f"{name}: {type(module).__name__} is no torch module.",
            remedy="A function of images is registered with register_encoder, an ONNX file with register_onnx.",
        )
    prepared = preprocessing or _of_timm(name, module)
    defaults: CardFacts = {
        "title": name,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "licence": "unknown",
        "modality": "unknown",
        "source": f"module {type(module).__module__}.{type(module).__qualname__}",
    }
    with card_errors(name):
        card = EncoderCard(
            name=name,
            loader="module",
            arguments={"weights": weights_identity(module), "code": _code_identity(module, name)},
            preprocessing=prepared,
            output="pooled",
            dim=_columns(name, module, prepared),
            version=version,
            **defaults | facts,
        )
    return registry.register(card, ModuleBuilder(module), replace=replace)


@dataclass(frozen=True, eq=False)
class ModuleBuilder:
    """Builds the encoder of one network."""

    module: "nn.Module"

    def __call__(
        self, card: EncoderCard, *, device: str, precision: Precision, weights_path: Path | None
    ) -> TorchEncoder:
        """Build it of a copy.

        Raises
        ------
        EncoderError
            If the network is no longer what was registered.
        """
        del weights_path
        if weights_identity(self.module) != card.arguments["weights"]:
            raise EncoderError(
                f"The weights of {card.name} have changed since it was registered.",
                remedy="Register it again, with replace=True: its embeddings are others now.",
            )
        network = copy.deepcopy(self.module)
        return TorchEncoder(card, network, device=device, precision=precision, forward=_forward_of(network))

    def __reduce__(self) -> tuple[object, ...]:
        return _unpacked, (packed(self.module),)


def _unpacked(module: bytes) -> ModuleBuilder:
    return ModuleBuilder(pickle.loads(module))  # noqa: S301 (from this program's own parent process)


def _is_timm(module: object) -> bool:
    return type(module).__module__.partition(".")[0] == "timm" and hasattr(module, "forward_head")


def _of_timm(name: str, module: Any) -> Preprocessing:
    """Return the preprocessing that a model of timm asks for."""
    if not _is_timm(module):
        raise EncoderError(
            f"{name}: nothing says how images are prepared for {type(module).__name__}.",
            remedy="Give preprocessing=Preprocessing(...), as it was trained: resize, size, crop, mean and std.",
        )
    import timm.data

    data: Any = timm.data
    return from_timm({**module.pretrained_cfg, **data.resolve_model_data_config(module)}, name=name)


def _forward_of(network: Any) -> Any:
    """Return what computes the embedding: the network, or that of timm without its last layer."""
    if not _is_timm(network):
        return network

    def pooled(batch: "torch.Tensor") -> "torch.Tensor":
        output: torch.Tensor = network.forward_head(network.forward_features(batch), pre_logits=True)
        return output

    return pooled


def _columns(name: str, module: "nn.Module", preprocessing: Preprocessing) -> int:
    """Return how many columns a network gives, by running a copy of it."""
    import torch

    images = probe_images(preprocessing.output_size)[:2]
    network = copy.deepcopy(module).eval().to("cpu")
    try:
        with torch.inference_mode():
            output = _forward_of(network)(preprocessing.normalise(as_tensor(images)))
    except Exception as error:  # a user's network may raise anything
        raise EncoderError(
            f"{name} failed on images of shape {(len(images), 3, *images.shape[1:3])}: {type(error).__name__}: {error}",
            remedy="Correct the network, or the size in its preprocessing.",
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(images):
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise EncoderError(
            f"{name} gave {found} for {len(images)} images; an encoder gives a matrix with a row per image.",
            remedy="Wrap it in a module whose forward returns one vector per image: the class token, or a mean.",
        )
    return int(output.shape[1])


def weights_identity(module: "nn.Module") -> str:
    """Hash weights and buffers by name, type, shape and bytes."""
    import torch

    parts: list[bytes] = []
    for key, value in sorted(module.state_dict().items()):
        array = value.detach().cpu().contiguous()
        parts += [key.encode(), str(array.dtype).encode(), str(tuple(array.shape)).encode()]
        parts.append(digest(array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""))
    return digest(*parts).hex()


def _code_identity(module: "nn.Module", name: str) -> str:
    """Hash what a network prints of itself, the plain attributes of its layers, and the code of its own classes."""
    own = {type(part) for part in module.modules() if type(part).__module__.partition(".")[0] not in LIBRARIES}
    try:
        code = sorted(textwrap.dedent(inspect.getsource(kind)) for kind in own)
    except (OSError, TypeError) as error:
        raise EncoderError(
            f"{name}: the code of {', '.join(sorted(kind.__name__ for kind in own))} cannot be found, so that it could "
            "not be part of the fingerprint.",
            remedy="Write its classes in a file or a notebook.",
        ) from error
    plain = {
        path: {
            key: repr(value)
            for key, value in vars(part).items()
            if isinstance(value, bool | int | float | str) and not key.startswith("_") and key != "training"
        }
        for path, part in module.named_modules()
    }
    return digest_json([str(module), plain, code])
