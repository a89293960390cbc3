"""Networks with a projection behind them give what torchvision, timm and layers of torch give."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from biofuse.core.errors import EncoderError, WrongWeightsError
from biofuse.encoders import Preprocessing, get_card, load_encoder
from biofuse.encoders.loaders import loader_of

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

VIT = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}


def under(prefix, module):
    return {f"{prefix}{key}": value.clone() for key, value in module.state_dict().items()}


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


@pytest.fixture(scope="module")
def resnet(filled):
    """torchvision's network, whose statistics are its own too; small weights, or fifty layers overflow."""
    network = filled(torchvision.models.resnet50(), 4)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("conv1.weight", "conv2.weight", "conv3.weight")):
                value.mul_(0.1)
    return network


def maps(network, pixels):
    return nn.Sequential(*list(network.children())[:-2])(pixels)


def test_keep_equals_timm_and_two_linear_layers(publish, equals, filled, images):
    trunk = filled(timm.create_model("vit_large_patch16_224", num_classes=0, init_values=1.0, **VIT))
    head = filled(nn.Sequential(nn.Linear(48, 24), nn.GELU(), nn.Linear(24, 24)), 5)
    state = {key.replace(".gamma", ".weight"): value for key, value in under("visual.", trunk).items()}
    state |= under("visual_head.", head) | {"text.pooler.dense.weight": torch.ones(2, 2)}
    card = publish(
        "keep", state, side=32, dim=24, shape=VIT | {"head": ["linear 24", "gelu", "linear 24", "normalise"]}
    )
    equals(card, images, lambda pixels: unit(head(trunk(pixels))))


@pytest.mark.slow
def test_flair_equals_torchvision_and_its_projection(publish, equals, filled, images, resnet):
    matrix = filled(nn.Linear(2048, 512, bias=False), 6)
    state = under("vision_model.model.", resnet) | under("vision_model.projection_head_vision.projection.", matrix)
    state = {key: value for key, value in state.items() if ".fc." not in key} | {"logit_scale": torch.ones(())}
    card = publish("flair", state, side=32)
    equals(card, images, lambda pixels: maps(resnet, pixels).mean((2, 3)))
    projected = get_card("flair:projected")
    again = projected.model_copy(
        update={
            "preprocessing": card.preprocessing,
            "parameters": None,
            "weights": card.weights.model_copy(update={"ignore": projected.weights.ignore}),
        }
    )
    equals(again, images, lambda pixels: unit(matrix(unit(maps(resnet, pixels).mean((2, 3))))))


@pytest.mark.slow
def test_biovil_t_equals_torchvision_and_convolutions(publish, equals, filled, images, resnet):
    narrow = filled(nn.Conv2d(2048, 256, 1, bias=False), 7)
    missing = torch.linspace(-1, 1, 256).reshape(1, 256, 1, 1)
    projector = filled(
        nn.Sequential(nn.Conv2d(512, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 128, 1)), 8
    )
    state = under("encoder.encoder.", resnet) | under("encoder.backbone_to_vit.", narrow)
    state |= {"encoder.missing_previous_emb": missing, "encoder.vit_pooler.type_embed": torch.ones(2, 2)}
    state |= under("projector.model.", projector)

    def fused(pixels):
        now = narrow(maps(resnet, pixels))
        return torch.cat((now, missing.expand(len(now), -1, *now.shape[2:])), dim=1)

    card = publish("biovil_t", state, side=64)
    larger = images.repeat(2, axis=1).repeat(2, axis=2)
    equals(card, larger, lambda pixels: fused(pixels).mean((2, 3)))
    projected = get_card("biovil_t:projected")
    again = projected.model_copy(
        update={
            "preprocessing": card.preprocessing,
            "parameters": None,
            "weights": card.weights.model_copy(update={"ignore": projected.weights.ignore}),
        }
    )
    equals(again, larger, lambda pixels: projector(fused(pixels)).mean((2, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 7}, "keep promises 7 dimensions, but its head gives 768"),
        ({"output": "cls"}, "gives the outputs pooled and projected, not 'cls' as keep asks"),
        ({"arguments": {"head": ["convolution 8"]}}, "'convolution 8', which the projection family does not know"),
        ({"preprocessing": Preprocessing(size=48, crop=48)}, "images of 48 pixels, but its network is built for 224"),
        ({"architecture": "vit_of_tomorrow"}, "cannot build 'vit_of_tomorrow' for keep"),
    ],
)
def test_cards_that_contradict_the_network_are_refused(changes, message):
    with torch.device("meta"), pytest.raises(EncoderError, match=message):
        loader_of("projection").build_architecture(get_card("keep").model_copy(update=changes))


def test_a_projection_of_another_width_is_refused(publish, filled):
    trunk = filled(timm.create_model("vit_large_patch16_224", num_classes=0, init_values=1.0, **VIT))
    head = filled(nn.Sequential(nn.Linear(48, 20), nn.GELU(), nn.Linear(20, 24)), 5)
    state = {key.replace(".gamma", ".weight"): value for key, value in under("visual.", trunk).items()}
    state |= under("visual_head.", head)
    card = publish("keep", state, side=32, dim=24, shape=VIT | {"head": ["linear 24", "gelu", "linear 24"]})
    with pytest.raises(WrongWeightsError, match=r"head\.0\.bias: \(20,\) in the file, \(24,\) in the network"):
        load_encoder(card)
