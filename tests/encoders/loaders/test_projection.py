"""Networks with a projection behind them give what torchvision, timm and layers of torch give."""

import pytest
import timm
import torch
from torch import nn

from biofuse.core.errors import EncoderError, WrongWeightsError
from biofuse.encoders import Preprocessing, get_card, load_encoder
from biofuse.encoders.loaders import loader_of

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

VIT = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}


def under(prefix, module):
    return {f"{prefix}{key}": value.clone() for key, value in module.state_dict().items()}


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
