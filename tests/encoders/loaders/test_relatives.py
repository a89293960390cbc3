"""Networks of timm that have other names, another stem, several tokens or one channel: equal to independent code."""

import math
import re

import pytest
import timm
import timm.models.eva
import torch
import torchvision
import transformers
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from biofuse.core.errors import WrongWeightsError
from biofuse.encoders import get_card, load_encoder

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_ctranspath_equals_timm_behind_convolutions(publish, equals, filled, images):
    shape = {"img_size": 32, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **shape)
    stem = nn.Sequential(
        nn.Conv2d(3, 3, 3, 2, 1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 6, 3, 2, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 24, 1),
    )
    network.patch_embed.proj = stem
    filled(network)
    for layer in (stem[1], stem[4]):
        layer.running_mean.fill_(0.3)
        layer.running_var.fill_(1.7)
    # timm 0.5.4 ends a stage with the reduction that newer releases begin the next one with.
    state = {
        re.sub(r"layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key): value
        for key, value in network.state_dict().items()
    }
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(1, 49, 49)
    network.patch_embed.strict_img_size = False

    def theirs(pixels):
        tokens = network.patch_embed.norm(stem(pixels).permute(0, 2, 3, 1))
        return network.norm(network.layers(tokens)).mean((1, 2))

    equals(publish("ctranspath", state, side=32, dim=48, shape=shape), images, theirs)


WIDTH, HEADS, HIDDEN = 48, 3, 192


class Layer(nn.Module):
    """A layer of BEiT-3 as its paper describes it: normalised before and inside attention and feed-forward."""

    def __init__(self):
        super().__init__()
        for name in ("self_attn_layer_norm", "final_layer_norm", "inner_attn_ln"):
            setattr(self, name, nn.LayerNorm(WIDTH))
        self.attention = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("q", "k", "v", "out")})
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.ffn_layernorm = nn.LayerNorm(HIDDEN)

    def forward(self, tokens):
        inside = self.self_attn_layer_norm(tokens)
        query, key, value = (self.attention[name](inside).unflatten(-1, (HEADS, -1)) for name in "qkv")
        weights = (torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(WIDTH // HEADS)).softmax(-1)
        answers = torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(-2)
        tokens = tokens + self.attention["out"](self.inner_attn_ln(answers))
        inside = functional.gelu(self.fc1(self.final_layer_norm(tokens)))
        return tokens + self.fc2(self.ffn_layernorm(inside))


def published_name(name):
    name = re.sub(r"attention\.(\w+)\.(\w+)", r"self_attn.\1_proj.A.\2", name)
    name = re.sub(r"inner_attn_ln\.(\w+)", r"self_attn.inner_attn_ln.A.\1", name)
    name = re.sub(r"(self_attn_layer_norm|final_layer_norm)\.(\w+)", r"\1.A.\2", name)
    return re.sub(r"(fc1|fc2|ffn_layernorm)\.", r"ffn.A.\1.", name).replace("_proj_proj", "_proj")


def test_musk_equals_beit3_written_out(publish, equals, filled, images):
    layers = filled(nn.ModuleList([Layer(), Layer()]), 3)
    patches, last = filled(nn.Conv2d(3, WIDTH, 16, 16), 4), filled(nn.LayerNorm(WIDTH), 5)
    generator = torch.Generator().manual_seed(6)
    token, table = (torch.randn(shape, generator=generator) for shape in ((1, 1, WIDTH), (7, WIDTH)))
    state = {f"beit3.encoder.layers.{published_name(key)}": value for key, value in layers.state_dict().items()}
    state |= {f"beit3.vision_embed.proj.{key}": value for key, value in patches.state_dict().items()}
    state |= {f"beit3.encoder.layer_norm.A.{key}": value for key, value in last.state_dict().items()}
    state |= {"beit3.vision_embed.cls_token": token, "beit3.encoder.embed_positions.A.weight": table}
    state |= {"beit3.encoder.layers.0.ffn.B.fc1.weight": torch.ones(2, 2), "logit_scale": torch.ones(())}

    def once(pixels):
        tokens = patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat((token.expand(len(pixels), -1, -1), tokens), dim=1) + table[2:]
        for layer in layers:
            tokens = layer(tokens)
        return last(tokens)[:, 0]

    def twice(pixels):
        larger = functional.interpolate(pixels, size=64, mode="bicubic")
        quarters = [once(larger[..., top : top + 32, left : left + 32]) for top in (0, 32) for left in (0, 32)]
        return torch.cat((once(pixels), torch.stack(quarters).mean(0)), dim=1)

    shape = {"img_size": 32, "depth": 2, "embed_dim": WIDTH, "num_heads": HEADS}
    card = publish("musk", state, side=32, dim=2 * WIDTH, shape=shape)
    equals(card, images, twice)
    alone = {key: value for key, value in card.arguments.items() if key != "magnified"}
    equals(card.model_copy(update={"dim": WIDTH, "arguments": alone}), images, once)


def test_eva_x_equals_timm_as_its_authors_build_it(publish, equals, filled, images):
    shape = {"img_size": 32, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS, "ref_feat_shape": (2, 2)}
    network = filled(
        timm.models.eva.Eva(
            patch_size=16,
            qkv_fused=False,
            mlp_ratio=4 * 2 / 3,
            swiglu_mlp=True,
            scale_mlp=True,
            use_rot_pos_emb=True,
            num_classes=0,
            **shape,
        )
    )
    names = {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3", "mlp.norm": "mlp.ffn_ln"}
    names |= {"q_proj.bias": "q_bias", "v_proj.bias": "v_bias", "fc_norm": "norm"}
    state = {}
    for key, value in network.state_dict().items():
        spelled = key
        for ours, theirs in names.items():
            spelled = spelled.replace(ours, theirs)
        state[spelled] = value
    state |= {"mask_token": torch.zeros(1, 1, WIDTH), "lm_head.weight": torch.ones(3, WIDTH)}
    state["rope.freqs_cos"] = torch.ones(4, 16)
    equals(publish("eva_x_base", state, side=32, dim=WIDTH, shape=shape), images, network)


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


GREY = {
    "txrv_densenet121": (torchvision.models.densenet121, "conv0"),
    "txrv_resnet50": (torchvision.models.resnet50, "conv1"),
}
"""torchvision's network, and its first convolution."""


@pytest.mark.slow
@pytest.mark.parametrize("name", GREY)
def test_networks_of_one_channel_see_the_mean_of_three(tmp_path, equals, filled, images, name):
    build, first = GREY[name]
    network = build(num_classes=18)
    inner = getattr(network, "features", network)
    setattr(inner, first, nn.Conv2d(1, 64, 7, 2, 3, bias=False))
    filled(network)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if "conv" in key:
                value.mul_(0.1)  # or the layers overflow
    state = network.state_dict() | ({"op_threshs": torch.ones(18)} if "densenet" in name else {})
    file = tmp_path / "weights.safetensors"
    save_file(state, file)
    card = get_card(name)
    weights = card.weights.model_copy(update={"repository": "local", "file": str(file)})
    small = card.preprocessing.model_copy(update={"size": 32})
    if "densenet" in name:
        network.classifier = nn.Identity()
    else:
        network.fc = nn.Identity()
    card = card.model_copy(update={"weights": weights, "preprocessing": small})
    equals(card, images, lambda pixels: network(pixels.mean(1, keepdim=True)))
