"""Every pixel is the one torchvision gives."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from biofuse.core.errors import EncoderError, UnreadableImageError
from biofuse.encoders import Preprocessing, list_cards

FILTERS = ["bilinear", "bicubic", "lanczos", "nearest", "box"]


def image_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(image: np.ndarray, spec: Preprocessing) -> np.ndarray:
    size = spec.size if spec.resize == "shortest" else (spec.size, spec.size)
    steps = [Resize(size, interpolation=InterpolationMode(spec.interpolation))]
    if spec.crop is not None:
        steps.append(CenterCrop(spec.crop))
    return np.asarray(Compose(steps)(Image.fromarray(image)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (37, 81), (211, 64), (64, 64), (65, 64), (500, 333)])
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("size", "crop"), [(64, 64), (64, 57), (33, 32)])
def test_shortest_equals_torchvision(shape, interpolation, size, crop):
    spec = Preprocessing(size=size, crop=crop, interpolation=interpolation)
    image = image_of(*shape)
    assert np.array_equal(spec.apply(image), reference(image, spec))


@pytest.mark.parametrize("shape", [(1, 1), (37, 81), (211, 64), (48, 48)])
@pytest.mark.parametrize("crop", [None, 48, 31])
def test_squash_equals_torchvision(shape, crop):
    spec = Preprocessing(resize="squash", size=48, crop=crop)
    image = image_of(*shape)
    assert np.array_equal(spec.apply(image), reference(image, spec))


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.integers(1, 96),
    crop=st.integers(1, 96),
    interpolation=st.sampled_from(FILTERS),
)
@example(height=3, width=7, size=5, crop=2, interpolation="bilinear")
@settings(max_examples=150, deadline=None)
def test_any_size_equals_torchvision(height, width, size, crop, interpolation):
    spec = Preprocessing(size=size, crop=min(crop, size), interpolation=interpolation)
    image = image_of(height, width)
    result = spec.apply(image)
    assert result.shape == (spec.output_size, spec.output_size, 3)
    assert result.dtype == np.uint8
    assert np.array_equal(result, reference(image, spec))


def test_non_contiguous_images_are_read_as_they_are_shown():
    spec = Preprocessing(size=20, crop=16)
    image = image_of(50, 70)
    for view in (image[::2, ::-1], image.swapaxes(0, 1), image[..., ::-1]):
        assert np.array_equal(spec.apply(view), spec.apply(np.ascontiguousarray(view)))


@pytest.mark.parametrize("value_range", ["0-1", "0-255"])
def test_normalise_equals_torchvision(value_range):
    factor = 1.0 if value_range == "0-1" else 255.0
    mean, std = np.array([0.485, 0.456, 0.406]) * factor, np.array([0.229, 0.224, 0.225]) * factor
    spec = Preprocessing(size=24, crop=24, mean=tuple(mean), std=tuple(std), value_range=value_range)
    batch = np.stack([image_of(24, 24), image_of(24, 24)[::-1]])
    steps = [ToTensor()] if value_range == "0-1" else [ToTensor(), lambda tensor: tensor * 255]
    expected = torch.stack([Compose([*steps, Normalize(mean, std)])(np.ascontiguousarray(image)) for image in batch])
    result = spec.normalise(torch.from_numpy(batch))
    assert result.shape == (2, 3, 24, 24)
    assert result.dtype == torch.float32
    if value_range == "0-1":
        assert torch.equal(result, expected)
    else:
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-6)


def test_normalise_leaves_the_pixels_alone():
    batch = torch.from_numpy(image_of(8, 8)[None])
    before = batch.clone()
    Preprocessing(size=8, crop=8, mean=(9, 9, 9), value_range="0-255").normalise(batch)
    assert torch.equal(batch, before)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 224},
        {"size": 224, "crop": 225},
        {"size": 224, "crop": 0},
        {"size": 0, "crop": 0},
        {"size": 224, "crop": 224, "std": (1, 0, 1)},
        {"size": 224, "crop": 224, "std": (1, -0.2, 1)},
        {"size": 224, "crop": 224, "mean": (float("nan"), 0, 0)},
        {"size": 224, "crop": 224, "interpolation": "sinc"},
        {"size": 224, "crop": 224, "antialias": False},
        {"resize": "squash", "size": 224, "crop": 300},
    ],
)
def test_contradictory_preprocessing_is_refused(fields):
    with pytest.raises(ValidationError):
        Preprocessing(**fields)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_anything_but_rgb_is_refused(image):
    with pytest.raises(EncoderError, match="uint8 image"):
        Preprocessing(size=4, crop=4).apply(image)


def test_absurdly_elongated_image_is_an_error_not_a_crash():
    with pytest.raises(UnreadableImageError, match="too elongated"):
        Preprocessing(size=224, crop=224).apply(np.zeros((1, 5000, 3), np.uint8))


def test_resize_key_is_shared_by_encoders_that_see_the_same_pixels():
    first = Preprocessing(size=256, crop=224, mean=(0.5, 0.5, 0.5))
    second = Preprocessing(size=256, crop=224, std=(0.1, 0.1, 0.1), value_range="0-255")
    assert first.resize_key == second.resize_key
    assert len({first.resize_key, second.resize_key}) == 1
    for other in ({"size": 255}, {"crop": 223}, {"interpolation": "bilinear"}, {"resize": "squash"}):
        changed = Preprocessing(**({"size": 256, "crop": 224} | other))
        assert changed.resize_key != first.resize_key


def test_bug_04_each_encoder_has_its_own_preprocessing():
    # The original sent ImageNet-normalised tensors to every model.
    cards = {card.name: card.preprocessing for card in list_cards()}
    lite0, lite2 = cards["efficientnet_lite0"], cards["efficientnet_lite2"]
    assert (lite0.size, lite0.crop) == (256, 224)
    assert (lite2.size, lite2.crop) == (292, 260)
    assert {lite0.mean, lite2.mean} == {(127.0, 127.0, 127.0)}
    assert {lite0.std, lite2.std} == {(128.0, 128.0, 128.0)}
    image = image_of(300, 400)
    assert lite0.apply(image).shape == (224, 224, 3)
    assert lite2.apply(image).shape == (260, 260, 3)
    assert cards["lbp"].apply(image).shape == (128, 128, 3)


def test_min_max_stretches_each_image_on_its_own():
    spec = Preprocessing(resize="squash", size=16, value_range="min-max", mean=(0.5, 0, 0), std=(1, 1, 2))
    dim = (image_of(16, 16) // 4 + 10).astype(np.uint8)
    flat = np.full((16, 16, 3), 77, np.uint8)
    batch = spec.normalise(torch.from_numpy(np.stack([dim, image_of(16, 16), flat])))
    expected = (dim.astype(np.float64) - dim.min()) / (dim.max() - dim.min())
    expected = (expected - np.array([0.5, 0, 0])) / np.array([1, 1, 2])
    assert np.allclose(batch[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert torch.equal(batch[2], torch.tensor([-0.5, 0, 0]).view(3, 1, 1).expand(3, 16, 16))
