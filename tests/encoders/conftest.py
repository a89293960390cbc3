"""Small checkpoints that the tests write themselves."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biofuse.encoders import EncoderCard, EncoderRegistry, Preprocessing, Weights, get_card, load_encoder, resolve
from biofuse.encoders.loaders import loader_of

PREPROCESSING = Preprocessing(size=36, crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))

VIT = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}
"""A vision transformer of 0.1 M parameters: vit_tiny_patch16_224 made smaller."""


FILLING = {"uniform_", "normal_", "erfinv_", "trunc_normal_", "mul_", "add_", "clamp_", "fill_", "zero_"}
"""What torch fills weights with in place."""


@pytest.fixture(scope="session")
def full_size() -> Callable[[EncoderCard], Any]:
    """Return a function that has a card's loader build its network at full size on the meta device.

    There weights have no values, so that filling them changes nothing and takes most of the time.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in FILLING and args and args[0].is_meta:
                return args[0]
            return func(*args, **(kwargs or {}))

    def build(card: EncoderCard) -> Any:
        with torch.device("meta"), Unfilled():
            return loader_of(card.loader).build_architecture(card).requires_grad_(False)

    return build


@pytest.fixture
def registry() -> EncoderRegistry:
    """A registry of its own, so that no test sees another's encoders."""
    return EncoderRegistry(resolve("starter"), plugins=False)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def small_images() -> np.ndarray:
    """Two by two patches of 14 pixels."""
    return np.random.default_rng(5).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def filled() -> Callable[..., Any]:
    """Return a function that gives every weight a value of its own, so that no two can be mistaken for each other."""
    import torch

    def fill(network: Any, seed: int = 3) -> Any:
        torch.manual_seed(seed)
        for name, parameter in network.named_parameters():
            scale = "weight" in name and ("norm" in name or "ln_" in name)
            torch.nn.init.normal_(parameter, mean=float(scale), std=0.2)
        return network.eval()

    return fill


@pytest.fixture(scope="session")
def equals() -> Callable[..., Any]:
    """Return a function that loads a card, and asks for what another network gives for the same prepared images."""
    import torch

    def check(card: EncoderCard, images: np.ndarray, theirs: Callable[..., Any], **options: Any) -> Any:
        encoder = load_encoder(card, **options)
        with torch.inference_mode():
            expected = theirs(encoder.card.preprocessing.normalise(torch.from_numpy(images)))
        np.testing.assert_allclose(encoder.encode(images), expected.numpy(), atol=1e-5, rtol=1e-5)
        return encoder

    return check


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


@pytest.fixture
def publish(hub: Any) -> Callable[..., EncoderCard]:
    """Return a function that puts a small checkpoint where a card of the pool says that its weights lie."""

    def publish(
        name: str,
        state: Mapping[str, Any],
        *,
        side: int,
        files: Mapping[str, bytes] | None = None,
        shape: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> EncoderCard:
        """Return the card, its arguments changed by ``shape`` and more by ``changes``; its weights are as they are."""
        card = get_card(name)
        if shape is not None:
            changes["arguments"] = card.arguments | dict(shape)
        crop = None if card.preprocessing.crop is None else side
        preprocessing = card.preprocessing.model_copy(update={"size": side, "crop": crop})
        weights = card.weights.model_copy(update={"sha256": None, "shards": (), "grid": None})
        published = {weights.file: as_file(state, weights), **(files or {})}
        if weights.configuration not in {*published, weights.processor}:
            weights = weights.model_copy(update={"configuration": ""})
        if weights.processor:
            said = as_processor(preprocessing, weights.processor)
            if weights.configuration == weights.processor and changes.get("arguments", {}).get("quick_gelu"):
                said["model_cfg"] = {"quick_gelu": True}
            published[weights.processor] = json.dumps(said).encode()
        commit = weights.revision if len(weights.revision) == 40 else "1" * 40
        hub.add(weights.repository, published, commit=commit)
        update = {"weights": weights, "preprocessing": preprocessing, "parameters": None, **changes}
        return card.model_copy(update=update)

    return publish


def as_file(state: Mapping[str, Any], weights: Weights) -> bytes:
    import torch
    from safetensors.torch import save

    if weights.sharded:
        return json.dumps({"metadata": {}, "weight_map": dict(state)}).encode()
    if weights.file.endswith(".safetensors"):
        return bytes(save({key: value.contiguous() for key, value in state.items()}))
    buffer = io.BytesIO()
    torch.save({weights.entry: dict(state), "epoch": 7} if weights.entry else dict(state), buffer)
    return buffer.getvalue()


def as_processor(preprocessing: Preprocessing, file: str) -> dict[str, Any]:
    """Say what a preprocessing does as hubs do."""
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    side = preprocessing.output_size
    if file == "open_clip_config.json":
        return {"preprocess_cfg": {"mean": mean, "std": std, "interpolation": preprocessing.interpolation}}
    square = {"height": side, "width": side}
    return {
        "size": square if preprocessing.resize == "squash" else {"shortest_edge": preprocessing.size},
        "resample": {"bilinear": 2, "bicubic": 3}[preprocessing.interpolation],
        "do_center_crop": preprocessing.crop is not None,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
