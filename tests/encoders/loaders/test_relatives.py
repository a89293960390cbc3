"""C-RADIO, whose several tokens are its summary, and TIPSv2 give what transformers gives."""

import re

import pytest
import torch
import transformers
from torch import nn

from biofuse.core.errors import WrongWeightsError
from biofuse.encoders import load_encoder

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


WIDTH, HEADS = 48, 3


def as_published(network):
    """Return the weights of transformers' class under NVIDIA's names: queries, keys and values in one matrix."""
    names = {
        "encoder.layer.": "model.blocks.",
        "attention.o_proj": "attn.proj",
        "embeddings.": "model.patch_generator.",
    }
    names |= {
        "patch_projection": "embedder",
        "position_embedding": "pos_embed",
        "cls_register_token": "cls_token.token",
    }
    state = {}
    for key, value in network.state_dict().items():
        name = key
        for theirs, released in names.items():
            name = name.replace(theirs, released)
        parts = re.fullmatch(r"(.*)attention\.q_proj\.(\w+)", name)
        if parts is not None:
            joined = torch.cat([network.state_dict()[key.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            state[f"radio_model.{parts[1]}attn.qkv.{parts[2]}"] = joined
        elif "lambda1" not in name and "attention." not in name:
            state[f"radio_model.{name}"] = value
    return state


@pytest.fixture(scope="module")
def radio(filled):
    settings = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "max_img_size": 128}
    network = filled(transformers.RadioModel(transformers.RadioConfig(**settings, num_cls_tokens=3, num_registers=7)))
    for name, parameter in network.named_parameters():
        if "lambda1" in name:
            nn.init.ones_(parameter)
    return network


RADIO = {
    "side": 32,
    "dim": 2 * WIDTH,
    "shape": {"img_size": 32, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS},
}


def test_c_radio_equals_transformers(publish, equals, images, radio):
    card = publish("c_radio_v4_h", as_published(radio), **RADIO)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.preprocessing.mean, card.preprocessing.std))
    equals(card, images, lambda pixels: radio(pixels * std + mean).summary)


def test_a_file_with_another_summary_is_refused(publish, radio):
    state = as_published(radio) | {"radio_model.summary_idxs": torch.tensor([0, 2])}
    with pytest.raises(
        WrongWeightsError, match=r"says that the tokens \[0, 2\] are its summary, and the card \[0, 1\]"
    ):
        load_encoder(publish("c_radio_v4_h", state, **RADIO))


TIPS = (
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"attention\.o_proj", "attn.proj"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"^layernorm", "norm"),
)
"""Names of transformers' class, and those that were released."""


def test_tipsv2_equals_transformers(publish, equals, filled, small_images):
    settings = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "image_size": 28}
    network = filled(transformers.Tipsv2VisionModel(transformers.Tipsv2VisionConfig(**settings)))
    state = {}
    for key, value in network.state_dict().items():
        name = key
        for theirs, released in TIPS:
            name = re.sub(theirs, released, name)
        parts = re.fullmatch(r"(.*)attention\.q_proj\.(\w+)", name)
        if parts is not None:
            joined = torch.cat([network.state_dict()[key.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            state[f"vision_encoder.{parts[1]}attn.qkv.{parts[2]}"] = joined
        elif "attention." not in name:
            state[f"vision_encoder.{name}"] = value
    state["text_encoder.token_embedding.weight"] = torch.ones(2, 2)
    shape = {"img_size": 28, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS}
    card = publish("tipsv2_b14", state, side=28, dim=WIDTH, shape=shape)
    equals(card, small_images, lambda pixels: network(pixels).pooler_output)
