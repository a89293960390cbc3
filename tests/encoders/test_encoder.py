"""Device, precision and mode of a network; an encoder that does not behave as its card says is not used."""

import os
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from biofuse.core.errors import EncoderError
from biofuse.encoders import EncoderCard, Preprocessing, TorchEncoder, check_encoder, get_card, load_encoder
from biofuse.encoders.encoder import probe_images
from biofuse.testing import assert_encoder_contract


@pytest.fixture
def card(make_vit_card):
    return make_vit_card("unused", dim=8, output="pooled", weights=None, parameters=None)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_is_frozen_and_in_eval_mode(card, images):
    inside = network()
    encoder = TorchEncoder(card, inside)
    assert not any(module.training for module in encoder.network.modules())
    assert not any(parameter.requires_grad for parameter in inside.parameters())
    assert np.array_equal(encoder.encode(images), encoder.encode(images))
    assert encoder.parameters == 8 * 27 + 8 + 16
    assert_encoder_contract(encoder)


def test_output_is_float32_without_gradient(card, images):
    result = TorchEncoder(card, network()).encode(images)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert result.shape == (4, 8)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_lower_precision_is_close_and_really_lower(card, images, precision, tolerance):
    exact = TorchEncoder(card, network()).encode(images)
    encoder = TorchEncoder(card, network(), precision=precision)
    lower = encoder.encode(images)
    assert encoder.precision == precision
    assert lower.dtype == np.float32
    assert not np.array_equal(lower, exact)
    np.testing.assert_allclose(lower, exact, atol=tolerance * np.abs(exact).max())
    check_encoder(encoder)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
def test_a_device_that_is_not_there_is_an_error(card, device):
    kind = device.partition(":")[0]
    if (kind == "cuda" and torch.cuda.device_count() > 7) or (kind == "mps" and torch.backends.mps.is_available()):
        pytest.skip("this machine has the device")
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(EncoderError, match=f"no device '{device}'") as caught:
        TorchEncoder(card, network(), device=device)
    assert "cpu" in caught.value.remedy


def test_an_unknown_device_is_an_error(card):
    with pytest.raises(EncoderError, match="not a device that torch knows"):
        TorchEncoder(card, network(), device="graphics")


def test_bug_16_device_is_the_callers_and_the_environment_is_left_alone(make_vit_card, vit_file, images):
    # The original moved everything to "cuda" and overwrote the user's hub token.
    before = dict(os.environ)
    encoder = load_encoder(make_vit_card(vit_file), device="cpu")
    encoder.encode(images)
    assert dict(os.environ) == before
    assert not torch.cuda.is_initialized()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_bug_16_cuda_agrees_with_the_cpu(make_vit_card, vit_file, images):
    card = make_vit_card(vit_file)
    on_gpu = load_encoder(card, device="cuda").encode(images)
    np.testing.assert_allclose(on_gpu, load_encoder(card).encode(images), atol=1e-3)


def test_bug_17_a_batch_is_one_pass(card, images, monkeypatch):
    # The original ran batches of one and emptied the CUDA cache after each image.
    sizes = []
    inside = network()
    inside.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("empty_cache was called"))
    encoder = TorchEncoder(card, inside)
    sizes.clear()  # of the probe of what can be folded
    encoder.encode(images)
    assert sizes == [4]


@pytest.mark.parametrize("shape", [(4, 31, 32, 3), (4, 3, 32, 32), (32, 32, 3), (4, 32, 32, 1)])
def test_images_of_another_shape_are_refused(card, shape):
    with pytest.raises(EncoderError, match=r"takes uint8 images of shape \(n, 32, 32, 3\)"):
        TorchEncoder(card, network()).encode(np.zeros(shape, np.uint8))


def test_wrong_dimension_is_refused(card, images):
    encoder = TorchEncoder(card.model_copy(update={"dim": 9}), network())
    with pytest.raises(EncoderError, match=r"shape \(4, 8\) for 4 images; its card says \(4, 9\)"):
        encoder.encode(images)


def test_numpy_encoders_take_no_notice_of_device_and_precision(images):
    encoder = load_encoder("lbp", device="cuda", precision="fp16")
    assert encoder.card == get_card("lbp")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_cast_once_give_what_autocast_gives_in_half_the_memory(card, images, precision):
    plain, lowered = network(), network()
    lowered.load_state_dict(plain.state_dict())
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    encoder = TorchEncoder(card, lowered, precision=precision)
    assert {p.dtype for m in lowered.modules() if isinstance(m, nn.Linear | nn.Conv2d) for p in m.parameters()} == {
        kind
    }
    pixels = card.preprocessing.normalise(torch.from_numpy(images))
    with torch.inference_mode(), torch.autocast("cpu", dtype=kind):
        expected = plain.eval()(pixels).float().numpy()
    np.testing.assert_array_equal(encoder.encode(images), expected)


def test_the_same_network_at_a_lower_precision_is_the_network_loaded_at_it(card, images):
    full = network()
    again = network()
    again.load_state_dict(full.state_dict())
    np.testing.assert_array_equal(
        TorchEncoder(card, full).at("bf16").encode(images), TorchEncoder(card, again, precision="bf16").encode(images)
    )


def fake_card(dim: int = 3) -> EncoderCard:
    changes = {"name": "fake", "dim": dim, "preprocessing": Preprocessing(size=16, crop=16)}
    return get_card("colour").model_copy(update=changes)


@dataclass
class Fake:
    function: object
    card: EncoderCard = field(default_factory=fake_card)

    def encode(self, images):
        return self.function(images)


def means(images):
    return images.mean(axis=(1, 2)).astype(np.float32)


def test_honest_encoder_passes():
    check_encoder(Fake(means))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: means(images)[:, :2], r"float32 \(3, 2\); its card says float32 \(3, 3\)"),
        (lambda images: means(images).astype(np.float64), "gave float64"),
        (lambda images: means(images) * np.nan, "NaN or infinite"),
        (lambda images: np.ones((len(images), 3), np.float32), "its output is constant"),
        (lambda images: np.zeros((len(images), 3), np.float32), "its output is constant"),
        (lambda images: np.repeat(means(images)[:, 1:2], 3, axis=1), "the same value in all 3 columns"),
        (lambda images: means(images) - means(images).mean(axis=0), "differently alone and in a batch"),
        (lambda images: means(images) + np.arange(len(images), dtype=np.float32)[:, None], "alone and in a batch"),
    ],
)
def test_dishonest_encoder_is_refused(function, message):
    with pytest.raises(EncoderError, match=message):
        check_encoder(Fake(function))


def test_one_dead_image_is_enough():
    def half_blind(images):
        values = means(images)
        values[values[:, 2] < 70] = 1
        return values

    images = probe_images(16)
    assert (means(images)[:, 2] < 70).sum() == 1
    check_encoder(Fake(half_blind))
    with pytest.raises(EncoderError, match="constant"):
        check_encoder(Fake(lambda images: np.where(means(images) < 1000, 1, 0).astype(np.float32)))


@pytest.mark.parametrize("side", [1, 7, 224])
def test_probe_images_have_the_size_asked_for_and_never_change(side):
    images = probe_images(side)
    assert images.shape == (3, side, side, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, probe_images(side))


def test_an_embedding_of_one_column_may_have_one_value():
    check_encoder(Fake(lambda images: means(images)[:, :1], fake_card(dim=1)))
