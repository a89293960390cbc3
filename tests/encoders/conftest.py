"""Small checkpoints that the tests write themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biofuse.encoders import EncoderCard, Preprocessing, Registry, Weights
from biofuse.encoders.starter import STARTER_CARDS

PREPROCESSING = Preprocessing(size=36, crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))

VIT = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}
"""A vision transformer of 0.1 M parameters: vit_tiny_patch16_224 made smaller."""


@pytest.fixture
def registry() -> Registry:
    """A registry of its own, so that no test sees another's encoders."""
    return Registry(STARTER_CARDS, plugins=False)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def vit_file(tmp_path: Path) -> Path:
    """A safetensors checkpoint of the small transformer, classifier included."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=5, **VIT)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path / "vit.safetensors"
    save_file(network.state_dict(), path)
    return path


def vit_card(path: Path, **changes: Any) -> EncoderCard:
    card = EncoderCard(
        name="small_vit",
        title="Small ViT",
        loader="timm",
        architecture="vit_tiny_patch16_224",
        arguments=VIT,
        weights=Weights(repository="local", revision="1", file=str(path), ignore=("head.*",)),
        preprocessing=PREPROCESSING,
        output="cls",
        dim=48,
        licence="MIT",
        modality="general",
        source="a test",
    )
    return card.model_copy(update=changes)


@pytest.fixture
def make_vit_card() -> Any:
    return vit_card
