"""Cards name layer classes; only known ones are looked up."""

import pytest
import timm.layers
import torch

from biofuse.core.errors import EncoderError
from biofuse.encoders.layers import LAYERS, with_layers


def test_names_become_classes_and_the_rest_stays():
    given = {"mlp_layer": "timm.layers.SwiGLUPacked", "act_layer": "torch.nn.SiLU", "depth": 3, "global_pool": "token"}
    made = with_layers(given)
    assert made == {
        "mlp_layer": timm.layers.SwiGLUPacked,
        "act_layer": torch.nn.SiLU,
        "depth": 3,
        "global_pool": "token",
    }
    assert given["act_layer"] == "torch.nn.SiLU"


def test_timms_own_short_names_stay_names():
    assert with_layers({"act_layer": "silu"}) == {"act_layer": "silu"}


@pytest.mark.parametrize("name", LAYERS)
def test_every_known_layer_exists(name):
    assert callable(with_layers({"mlp_layer": name})["mlp_layer"])


@pytest.mark.parametrize("name", ["os.system", "torch.load", "timm.layers.Mlp"])
def test_any_other_name_is_refused(name):
    with pytest.raises(EncoderError, match="not a layer that a card may name"):
        with_layers({"mlp_layer": name})
