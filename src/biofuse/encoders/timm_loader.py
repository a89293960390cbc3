"""Encoders built from timm's architectures and a checkpoint on this machine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from biofuse.core.errors import EncoderError
from biofuse.core.hashing import digest_file
from biofuse.encoders.card import EncoderCard, Precision, Weights, card_errors
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.encoders.torch_encoder import TorchEncoder
from biofuse.encoders.weights import load_weights, locate

if TYPE_CHECKING:
    import torch

    from biofuse.encoders.registry import Registry


def build(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> TorchEncoder:
    """Build the encoder that a card of the ``timm`` family describes.

    Raises
    ------
    EncoderError
        If timm does not know the architecture or its arguments, or the network contradicts the card.
    WeightsError
        If there is no checkpoint, or it is not the one on the card.
    """
    return build_network(card, device=device, precision=precision, weights_path=weights_path)


def build_network(
    card: EncoderCard,
    *,
    device: str,
    precision: Precision,
    weights_path: Path | None,
    rename: Callable[[str], str] | None = None,
) -> TorchEncoder:
    """Build a timm network without its classifier, and fill it; ``rename`` is as in :func:`load_weights`."""
    import timm

    try:
        network: Any = timm.create_model(card.architecture, pretrained=False, num_classes=0, **card.arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise EncoderError(
            f"timm {timm.__version__} cannot build {card.architecture!r} for {card.name}: {error}.",
            remedy="Correct architecture and arguments on the card, or install another release of timm.",
        ) from error
    _agrees(card, network)
    card = load_weights(network, card, weights_path=weights_path, rename=rename)

    def forward(batch: "torch.Tensor") -> "torch.Tensor":
        output: torch.Tensor = network.forward_head(network.forward_features(batch), pre_logits=True)
        return output

    return TorchEncoder(card, network, device=device, precision=precision, forward=forward)


def _agrees(card: EncoderCard, network: Any) -> None:
    # timm's defaults differ from what authors publish (DINOv3 pools by average there), so the pooling is compared.
    pooling = getattr(network, "global_pool", None)
    pools_token = pooling == "token"
    if card.output not in {"cls", "pooled"}:
        raise EncoderError(
            f"The timm family gives the outputs cls and pooled, not {card.output!r} as {card.name} asks."
        )
    if (card.output == "cls") != pools_token:
        raise EncoderError(
            f"{card.name} promises the output {card.output!r}, but its network pools by {pooling!r}.",
            remedy="Set arguments={'global_pool': 'token'} for cls, or 'avg' for pooled.",
        )
    if network.num_features != card.dim and getattr(network, "head_hidden_size", card.dim) != card.dim:
        raise EncoderError(
            f"{card.name} promises {card.dim} dimensions, but {card.architecture} gives {network.head_hidden_size}."
        )
    expected = getattr(getattr(network, "patch_embed", None), "img_size", None)
    strict = getattr(getattr(network, "patch_embed", None), "strict_img_size", True)
    side = card.preprocessing.output_size
    if strict and expected is not None and tuple(expected) != (side, side):
        raise EncoderError(
            f"{card.name} prepares images of {side} pixels, but its network is built for {expected[0]}.",
            remedy=f"Set arguments={{'img_size': {side}}} on the card, or correct its preprocessing.",
        )


def register_timm(
    name: str,
    architecture: str,
    *,
    checkpoint: str | Path,
    dim: int,
    preprocessing: Preprocessing,
    output: Literal["cls", "pooled"],
    arguments: Mapping[str, Any] | None = None,
    entry: str = "",
    prefix: str = "",
    ignore: tuple[str, ...] = (),
    parameters: int | None = None,
    title: str = "",
    licence: str = "unknown",
    commercial: bool | None = None,
    modality: str = "unknown",
    training_data: str = "",
    source: str = "",
    citation: str = "",
    pools: tuple[str, ...] = (),
    replace: bool = False,
    registry: "Registry | None" = None,
) -> EncoderCard:
    """Register an encoder made of a timm architecture and a checkpoint of your own.

    Parameters
    ----------
    name : str
        What it will be called.
    architecture : str
        timm's name of the architecture.
    checkpoint : str or Path
        ``.safetensors``, or a torch checkpoint that holds weights only. It is hashed now; a later change is refused.
    dim : int
        Length of the embedding.
    preprocessing : Preprocessing
        How the images were prepared when it was trained.
    output : {"cls", "pooled"}
        The class token, or the average over positions.
    arguments : mapping, optional
        Further arguments of the architecture, such as ``{"img_size": 224, "global_pool": "token"}``.
    entry, prefix, ignore
        How the checkpoint's names relate to the network's; see :class:`biofuse.encoders.Weights`.
    parameters : int, optional
        Number of parameters without the classifier, if known; checked at loading.
    title, licence, commercial, modality, training_data, source, citation, pools
        Facts for the card.
    replace : bool, default False
        Whether to replace an encoder of that name.
    registry : Registry, optional
        Where to register; BioFuse's own by default.

    Returns
    -------
    EncoderCard
        The registered card.

    Raises
    ------
    WeightsError
        If the checkpoint does not exist.
    EncoderError
        If the name is taken.
    """
    from biofuse.encoders.registry import default_registry

    unseen = Weights(
        repository="local",
        revision="",
        file=str(Path(checkpoint).expanduser().resolve()),
        entry=entry,
        prefix=prefix,
        ignore=ignore,
    )
    sha256 = digest_file(locate(name, unseen), algorithm="sha256")
    with card_errors(name):
        card = EncoderCard(
            name=name,
            title=title or name,
            loader="timm",
            architecture=architecture,
            arguments=dict(arguments or {}),
            weights=unseen.model_copy(update={"sha256": sha256, "revision": sha256[:12]}),
            preprocessing=preprocessing,
            output=output,
            dim=dim,
            parameters=parameters,
            licence=licence,
            commercial=commercial,
            modality=modality,
            training_data=training_data,
            pools=pools,
            source=source or f"checkpoint {Path(checkpoint).name}",
            citation=citation,
        )
    (registry or default_registry()).register(card, replace=replace)
    return card
