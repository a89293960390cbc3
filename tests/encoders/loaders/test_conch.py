"""CONCH's tower gives what its published parts give: timm's transformer and open_clip's attentional pooler."""

import pytest
import timm
import torch
from torch import nn

from biofuse.core.errors import EncoderError, WrongWeightsError
from biofuse.encoders import Preprocessing, get_card, load_encoder

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

TRUNK = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}
DIM, HEADS = 32, 4


def under(prefix, module):
    return {f"{prefix}.{key}": value.clone() for key, value in module.state_dict().items()}


SMALL = {"side": 32, "dim": DIM, "shape": TRUNK | {"pooler_dim": DIM, "pooler_heads": HEADS}}


@pytest.fixture
def conch(publish, filled):
    """A checkpoint with all that CONCH's has: both poolers, the projection and a text tower."""
    from open_clip.transformer import AttentionalPooler  # four seconds, which not every process of tests need wait

    trunk = filled(timm.create_model(get_card("conch").architecture, num_classes=0, **TRUNK))
    pooler = filled(AttentionalPooler(d_model=DIM, context_dim=48, n_head=HEADS, n_queries=1), 5)
    captions = filled(AttentionalPooler(d_model=DIM, context_dim=48, n_head=HEADS, n_queries=7), 6)
    last = filled(nn.LayerNorm(DIM), 7)
    state = {
        **under("visual.trunk", trunk),
        **under("visual.attn_pool_contrast", pooler),
        **under("visual.ln_contrast", last),
        "visual.proj_contrast": torch.ones(DIM, DIM),
        **under("visual.attn_pool_caption", captions),
        **under("visual.ln_caption", nn.LayerNorm(DIM)),
        "text.token_embedding.weight": torch.ones(5, DIM),
        "logit_scale": torch.tensor(2.0),
    }
    assert {key.removeprefix("visual.attn_pool_contrast.") for key in state if "attn_pool_contrast" in key} == {
        "query",
        "ln_q.weight",
        "ln_q.bias",
        "ln_k.weight",
        "ln_k.bias",
        "attn.q_proj_weight",
        "attn.k_proj_weight",
        "attn.v_proj_weight",
        "attn.in_proj_bias",
        "attn.out_proj.weight",
        "attn.out_proj.bias",
    }
    return publish("conch", state, **SMALL), nn.ModuleList([trunk, pooler, last]), state


def test_conch_equals_timm_and_open_clip(conch, equals, images):
    card, (trunk, pooler, last), _ = conch
    encoder = equals(card, images, lambda pixels: last(pooler(trunk.forward_features(pixels))[:, 0]))
    assert encoder.parameters == sum(p.numel() for part in (trunk, pooler, last) for p in part.parameters())


def test_the_other_versions_pooler_is_refused(conch):
    card, _, _ = conch
    with pytest.raises(WrongWeightsError, match=r"missing \(attn_pool_contrast\.to_"):
        load_encoder(card.model_copy(update={"arguments": card.arguments | {"pooler_bias": False}}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "cls"}, "32 columns of the output 'cls'; the conch family gives"),
        ({"dim": 7}, r"7 columns of the output 'pooled'; the conch family gives pooler_dim \(32\)"),
        ({"preprocessing": Preprocessing(size=48, crop=48)}, "images of 48 pixels, but its network is built for 32"),
        ({"architecture": "vit_of_tomorrow"}, "cannot build 'vit_of_tomorrow' for conch"),
        ({"architecture": "hf-hub:owner/name"}, "cannot build 'hf-hub:owner/name' for conch"),
        ({"arguments": TRUNK | {"pooler_dim": DIM, "pooler_wheels": 4}}, "cannot build .*pooler_wheels"),
        ({"arguments": TRUNK | {"pooler_dim": DIM, "pooler_heads": 5}}, "cannot be shared among 5 heads"),
    ],
)
def test_cards_that_contradict_the_network_are_refused(conch, changes, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(conch[0].model_copy(update=changes))
