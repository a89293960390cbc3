"""Networks in memory as encoders: what they give, when they count as another, and what is refused."""

import pytest
import timm
import torch
from torch import nn

import biofuse
from biofuse.core.errors import BioFuseError, EncoderError
from biofuse.encoders import ENCODERS, Preprocessing, load_encoder, register_encoder, register_torch, resolve
from biofuse.encoders.encoder import probe_images
from biofuse.testing import assert_encoder_contract

SMALL = Preprocessing(size=32, crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(autouse=True)
def _registry():
    with ENCODERS.temporary():
        yield


class Net(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, batch):
        return self.scale * self.body(batch)


def seeded(seed=0, **options):
    torch.manual_seed(seed)
    return Net(**options)


def test_a_network_embeds_as_it_computes_and_is_left_as_it_was():
    network = seeded()
    card = register_torch("net", network, SMALL, licence="MIT")
    assert (card.dim, card.parameters, card.licence) == (6, sum(p.numel() for p in network.parameters()), "MIT")
    assert_encoder_contract("net")
    images = probe_images(32)
    with torch.inference_mode():
        expected = network.eval()(SMALL.normalise(torch.from_numpy(images)))
    torch.testing.assert_close(torch.from_numpy(load_encoder("net").encode(images)), expected)
    network.train()
    load_encoder("net")
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_fingerprint_follows_weights_buffers_attributes_and_code():
    network = seeded()
    first = register_torch("net", network, SMALL).fingerprint()
    assert register_torch("net", seeded(), SMALL, replace=True).fingerprint() == first
    found = {first, register_torch("net", seeded(1), SMALL, replace=True).fingerprint()}
    found.add(register_torch("net", seeded(scale=2.0), SMALL, replace=True).fingerprint())
    found.add(register_torch("net", seeded(), SMALL, version=2, replace=True).fingerprint())
    other = type("Elsewhere", (Net,), {"forward": lambda self, batch: -self.body(batch)})
    torch.manual_seed(0)
    with pytest.raises(EncoderError, match="cannot be found"):  # a class without source
        register_torch("net", other(), SMALL, replace=True)
    network.body[1].running_mean += 1
    found.add(register_torch("net", network, SMALL, replace=True).fingerprint())
    assert len(found) == 5
    with torch.no_grad():
        network.body[0].weight += 1
    with pytest.raises(EncoderError, match="have changed since"):
        load_encoder("net")


def test_a_model_of_timm_says_itself_how_images_are_prepared_and_gives_what_is_before_its_last_layer():
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=7).eval()
    card = register_torch("mine", model)
    data = timm.data.resolve_model_data_config(model)
    assert (card.dim, card.preprocessing.output_size) == (512, data["input_size"][1])
    assert card.preprocessing.mean == data["mean"]
    images = probe_images(card.preprocessing.output_size)[:1]
    with torch.inference_mode():
        batch = card.preprocessing.normalise(torch.from_numpy(images))
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
    torch.testing.assert_close(torch.from_numpy(load_encoder("mine").encode(images)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "preprocessing", "words"),
    [
        (abs, SMALL, "no torch module"),
        (nn.Flatten(), None, "nothing says how images are prepared"),
        (nn.Identity(), SMALL, r"gave \(2, 3, 32, 32\)"),
        (nn.Linear(5, 5), SMALL, "failed on images of shape"),
    ],
)
def test_what_is_no_encoder_is_refused(module, preprocessing, words):
    with pytest.raises(EncoderError, match=words):
        register_torch("odd", module, preprocessing)
    assert "odd" not in ENCODERS


def test_an_object_in_place_of_a_name_is_refused_with_the_remedy():
    for what in ([nn.Identity()], nn.Identity(), ["hog", len], len):
        with pytest.raises(EncoderError, match="by name") as caught:
            resolve(what)
        assert "register_torch" in caught.value.remedy
    with pytest.raises(BioFuseError, match="register_torch"):
        biofuse.BioFuse([nn.Identity()])


def test_a_function_whose_code_cannot_be_told_needs_a_stated_version():
    network = nn.Identity()

    def captures(images):
        return network(torch.from_numpy(images.copy())).float().mean(dim=(1, 2)).numpy()

    for function in (captures, lambda images: images.mean(axis=(1, 2))):
        with pytest.raises(EncoderError) as caught:
            register_encoder("mean", dim=3, size=16)(function)
        assert "version=" in caught.value.remedy
        one = register_encoder("mean", dim=3, size=16, version=1, replace=True)(function)
        assert one is function
        first = ENCODERS.get_card("mean").fingerprint()
        assert_encoder_contract("mean")
        register_encoder("mean", dim=3, size=16, version=2, replace=True)(function)
        assert ENCODERS.get_card("mean").fingerprint() != first
    with pytest.raises(EncoderError, match="no function"):
        register_encoder("mean", dim=3, size=16, version=1)(3)
