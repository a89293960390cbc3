"""Networks built from classes of transformers give what transformers, timm and open_clip give on the same weights.

The checkpoints are small, and have the names that the published ones have.
"""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

from biofuse.core.errors import EncoderError, WeightsError, WrongWeightsError
from biofuse.encoders import Preprocessing, load_encoder

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

WIDTH, DEPTH, HEADS, SIDE, PATCH = 48, 2, 3, 28, 14
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "image_size": SIDE}


def random(*shape):
    return torch.randn(shape, generator=GENERATOR) * 0.2


GENERATOR = torch.Generator().manual_seed(7)


def linear(name, rows, columns):
    return {f"{name}.weight": random(rows, columns), f"{name}.bias": random(rows)}


def norm(name, width=WIDTH):
    return {f"{name}.weight": 1 + random(width), f"{name}.bias": random(width)}


def dinov2_as_published(*, registers=0, swiglu=False, tokens=5):
    """The names of the files of rad-dino, hibou-b and midnight, which transformers 4.x wrote."""
    state = {
        "embeddings.cls_token": random(1, 1, WIDTH),
        "embeddings.mask_token": random(1, WIDTH),
        "embeddings.position_embeddings": random(1, tokens, WIDTH),
        "embeddings.patch_embeddings.projection.weight": random(WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": random(WIDTH),
        **norm("layernorm"),
    }
    if registers:
        state["embeddings.register_tokens"] = random(1, registers, WIDTH)
    for number in range(DEPTH):
        layer = f"encoder.layer.{number}"
        state |= norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
        for part in ("query", "key", "value"):
            state |= linear(f"{layer}.attention.attention.{part}", WIDTH, WIDTH)
        state |= linear(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        if swiglu:
            state |= linear(f"{layer}.mlp.weights_in", 256, WIDTH) | linear(f"{layer}.mlp.weights_out", WIDTH, 128)
        else:
            state |= linear(f"{layer}.mlp.fc1", 4 * WIDTH, WIDTH) | linear(f"{layer}.mlp.fc2", WIDTH, 4 * WIDTH)
        state |= {f"{layer}.layer_scale{which}.lambda1": random(WIDTH) for which in (1, 2)}
    return state


def as_timm(state, *, registers=0):
    """The same weights under timm's names; written here, from what the two networks compute."""
    state = {key: value for key, value in state.items() if "mask_token" not in key}
    position = state.pop("embeddings.position_embeddings")
    new = {"cls_token": state.pop("embeddings.cls_token"), "pos_embed": position}
    if registers:
        # Registers stand between the class token and the patches, and have no position.
        new |= {"cls_token": new["cls_token"] + position[:, :1], "pos_embed": position[:, 1:]}
        new["reg_token"] = state.pop("embeddings.register_tokens")
    for number in range(DEPTH):
        for kind in ("weight", "bias"):
            parts = [
                state.pop(f"encoder.layer.{number}.attention.attention.{p}.{kind}") for p in ("query", "key", "value")
            ]
            new[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(parts)
    spelling = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "encoder.layer.": "blocks.",
        "attention.output.dense": "attn.proj",
        "mlp.weights_in": "mlp.fc1",
        "mlp.weights_out": "mlp.fc2",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    for key, value in state.items():
        for there, here in spelling.items():
            key = key.replace(there, here)  # noqa: PLW2901
        new[key] = value
    return new


def timm_tokens(state, pixels, *, registers=0, swiglu=False):
    network = timm.models.VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=256 / WIDTH if swiglu else 4,
        init_values=1.0,
        num_classes=0,
        reg_tokens=registers,
        no_embed_class=registers > 0,
        **({"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU} if swiglu else {}),
    )
    network.load_state_dict(as_timm(state, registers=registers), strict=True)
    with torch.inference_mode():
        return network.eval().forward_features(pixels)


def library(kind, config, state, folder, pixels):
    """Load a published checkpoint as users of transformers do, with its own rules for old names."""
    config.save_pretrained(folder)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")
    network, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    with torch.inference_mode():
        return network.eval()(pixel_values=pixels)


def test_hibou_equals_transformers_and_timm(publish, equals, small_images, tmp_path):
    state = dinov2_as_published(registers=4, swiglu=True)
    card = publish("hibou_b", state, side=SIDE, dim=WIDTH, shape=SMALL)
    config = transformers.Dinov2WithRegistersConfig(**card.arguments)
    kind = transformers.Dinov2WithRegistersModel
    equals(card, small_images, lambda pixels: library(kind, config, state, tmp_path, pixels).pooler_output)
    encoder = equals(card, small_images, lambda pixels: timm_tokens(state, pixels, registers=4, swiglu=True)[:, 0])
    assert encoder.parameters == sum(value.numel() for value in state.values())


def test_hibou_is_refused_as_a_network_without_registers(publish):
    # What automatic classes make of its configuration, with a line in a log.
    card = publish("hibou_b", dinov2_as_published(registers=4, swiglu=True), side=SIDE, dim=WIDTH)
    arguments = {key: value for key, value in (card.arguments | SMALL).items() if key != "num_register_tokens"}
    with pytest.raises(WrongWeightsError, match=r"1 unexpected \(embeddings\.register_tokens\)"):
        load_encoder(card.model_copy(update={"architecture": "Dinov2Model", "arguments": arguments}))


def test_rad_dino_equals_transformers_and_timm(publish, equals, small_images, tmp_path):
    state = dinov2_as_published()
    card = publish("rad_dino", state, side=SIDE, dim=WIDTH, shape=SMALL)
    config = transformers.Dinov2Config(**card.arguments)
    kind = transformers.Dinov2Model
    equals(card, small_images, lambda pixels: library(kind, config, state, tmp_path, pixels).pooler_output)
    equals(card, small_images, lambda pixels: timm_tokens(state, pixels)[:, 0])


CLIP = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 96}
TEXT = CLIP | {"vocab_size": 50, "max_position_embeddings": 8}


def clip_as_published(*, projection=24):
    """The names of the files of PubMedCLIP, MONET and CLIP itself: both towers, and the numbers of the positions."""
    state = {
        "logit_scale": torch.tensor(2.0),
        "visual_projection.weight": random(projection, WIDTH),
        "text_projection.weight": random(projection, WIDTH),
        "vision_model.embeddings.class_embedding": random(WIDTH),
        "vision_model.embeddings.patch_embedding.weight": random(WIDTH, 3, PATCH, PATCH),
        "vision_model.embeddings.position_embedding.weight": random(5, WIDTH),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "text_model.embeddings.token_embedding.weight": random(50, WIDTH),
        "text_model.embeddings.position_embedding.weight": random(8, WIDTH),
        "text_model.embeddings.position_ids": torch.arange(8)[None],
        **norm("vision_model.pre_layrnorm"),
        **norm("vision_model.post_layernorm"),
        **norm("text_model.final_layer_norm"),
    }
    for tower in ("vision_model", "text_model"):
        for number in range(DEPTH):
            layer = f"{tower}.encoder.layers.{number}"
            state |= norm(f"{layer}.layer_norm1") | norm(f"{layer}.layer_norm2")
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                state |= linear(f"{layer}.self_attn.{part}", WIDTH, WIDTH)
            state |= linear(f"{layer}.mlp.fc1", 96, WIDTH) | linear(f"{layer}.mlp.fc2", WIDTH, 96)
    return state


def as_open_clip(state):
    """The vision tower under open_clip's names, which are OpenAI's; written here, from what both compute."""
    new = {
        "class_embedding": state["vision_model.embeddings.class_embedding"],
        "positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "proj": state["visual_projection.weight"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        new[f"ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        new[f"ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
        for number in range(DEPTH):
            there, here = f"vision_model.encoder.layers.{number}", f"transformer.resblocks.{number}"
            parts = [state[f"{there}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            new |= {
                f"{here}.attn.in_proj_{kind}": torch.cat(parts),
                f"{here}.attn.out_proj.{kind}": state[f"{there}.self_attn.out_proj.{kind}"],
                f"{here}.ln_1.{kind}": state[f"{there}.layer_norm1.{kind}"],
                f"{here}.ln_2.{kind}": state[f"{there}.layer_norm2.{kind}"],
                f"{here}.mlp.c_fc.{kind}": state[f"{there}.mlp.fc1.{kind}"],
                f"{here}.mlp.c_proj.{kind}": state[f"{there}.mlp.fc2.{kind}"],
            }
    return new


def test_pubmedclip_equals_transformers_and_open_clip(publish, equals, small_images, tmp_path):
    state = clip_as_published()
    small = CLIP | {"projection_dim": 24, "image_size": SIDE, "patch_size": PATCH}
    card = publish("pubmedclip", state, side=SIDE, dim=24, shape=small)
    config = transformers.CLIPConfig(vision_config=card.arguments, text_config=TEXT, projection_dim=24)
    config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors")
    whole = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    encoder = equals(card, small_images, lambda pixels: whole.get_image_features(pixel_values=pixels).pooler_output)
    tower = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": SIDE,
            "patch_size": PATCH,
            "layers": DEPTH,
            "width": WIDTH,
            "head_width": WIDTH // HEADS,
            "mlp_ratio": 2.0,
        },
        "quick_gelu": True,
    }
    visual = {f"visual.{key}": value for key, value in as_open_clip(state).items()} | {"logit_scale": torch.ones(())}
    other = publish("dermlip_vitb16", visual, side=SIDE, dim=24, architecture="", arguments=tower)
    other = other.model_copy(update={"preprocessing": card.preprocessing})
    other = other.model_copy(update={"weights": other.weights.model_copy(update={"processor": ""})})
    equals(other, small_images, lambda _: torch.from_numpy(encoder.encode(small_images)))


def test_names_of_this_release_of_transformers_load_too(publish, small_images, tmp_path):
    state = dinov2_as_published(registers=4, swiglu=True)
    config = transformers.Dinov2WithRegistersConfig(
        **SMALL, patch_size=PATCH, use_swiglu_ffn=True, num_register_tokens=4
    )
    library(transformers.Dinov2WithRegistersModel, config, state, tmp_path, torch.zeros(1, 3, SIDE, SIDE))
    new = transformers.Dinov2WithRegistersModel.from_pretrained(tmp_path).state_dict()
    assert not new.keys() <= state.keys()
    card = publish("hibou_b", state, side=SIDE, dim=WIDTH, shape=SMALL)
    expected = load_encoder(card).encode(small_images)
    save_file({key: value.clone() for key, value in new.items()}, tmp_path / "new.safetensors")
    again = load_encoder(card, weights_path=tmp_path / "new.safetensors")
    np.testing.assert_array_equal(again.encode(small_images), expected)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: without(state, "layernorm.bias"), r"1 missing \(layernorm\.bias\)"),
        (lambda state: state | {"layernorm.scale": torch.ones(3)}, r"1 unexpected \(layernorm\.scale\)"),
        (
            lambda state: state | {"encoder.layer.1.attention.attention.query.bias": torch.ones(3)},
            r"1 of another shape \(encoder\.layer\.1\.attention\.q_proj\.bias: \(3,\) in the file, \(48,\)",
        ),
        (lambda state: without(state, "encoder.layer.0.mlp.weights_in.bias"), "2 missing"),
        (lambda state: state | {"embeddings.position_embeddings": torch.zeros(1, 10, WIDTH)}, "1 of another shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(publish, change, message):
    state = change(dinov2_as_published(registers=4, swiglu=True))
    with pytest.raises(WeightsError, match=message):
        load_encoder(publish("hibou_b", state, side=SIDE, dim=WIDTH, shape=SMALL))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "AutoModel"}, "'AutoModel' is not a class of transformers that BioFuse builds"),
        ({"output": "projected"}, "gives cls and cls\\+mean, not 'projected'"),
        (
            {"arguments": SMALL | {"wheels": 4, "num_layers": 3}},
            "Dinov2Config of transformers has no num_layers, wheels",
        ),
        ({"arguments": SMALL | {"hidden_act": "shrug"}}, "cannot build Dinov2Model for rad_dino: .*shrug"),
        ({"arguments": SMALL | {"hidden_size": "wide"}}, "cannot build Dinov2Model for rad_dino"),
        ({"dim": 7}, "promises 7 dimensions, but Dinov2Model gives 48"),
        ({"preprocessing": Preprocessing(size=30, crop=30)}, "prepares images of 30 pixels, .* built for 28"),
    ],
)
def test_cards_that_contradict_the_network_are_refused(publish, changes, message):
    card = publish("rad_dino", dinov2_as_published(), side=SIDE, dim=WIDTH, arguments=SMALL)
    with pytest.raises(EncoderError, match=message):
        load_encoder(card.model_copy(update=changes))


def test_a_processor_on_the_hub_that_disagrees_with_the_card_is_refused(publish, hub):
    card = publish("rad_dino", dinov2_as_published(), side=SIDE, dim=WIDTH, shape=SMALL)
    load_encoder(card)
    files = hub.models[card.weights.repository].files
    said = json.loads(files[card.weights.processor])
    other = {**said, "image_mean": [0.5, 0.4, 0.3]}
    hub.add("owner/other", {**files, card.weights.processor: json.dumps(other).encode()}, commit=card.weights.revision)
    card = card.model_copy(update={"weights": card.weights.model_copy(update={"repository": "owner/other"})})
    with pytest.raises(EncoderError, match=r"owner/other disagrees with the card of rad_dino: mean is \(0\.5, 0\.4"):
        load_encoder(card)
