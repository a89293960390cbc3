"""CheXagent's vision tower is read out of the shards of the whole model, and only those that hold it."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save

from biofuse.core.errors import UnavailableWeightsError, WrongWeightsError
from biofuse.encoders import get_card, load_encoder
from biofuse.encoders.card import describe

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

WIDTH, SIDE, PATCH = 48, 28, 14
SMALL = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": SIDE,
}
FIRST, SECOND, LAST = (f"model-0000{number}-of-00007.safetensors" for number in (1, 2, 7))


@pytest.fixture(scope="module")
def tower(filled):
    """BLIP-2's vision model, as transformers has it, with weights of its own."""
    return filled(transformers.Blip2VisionModel(transformers.Blip2VisionConfig(**SMALL, patch_size=PATCH)))


PUBLISHED = {
    "embeddings.class_embedding",
    "embeddings.position_embedding",
    "embeddings.patch_embedding.weight",
    "embeddings.patch_embedding.bias",
    *(f"post_layernorm.{kind}" for kind in ("weight", "bias")),
    *(
        f"encoder.layers.{number}.{part}.{kind}"
        for number in (0, 1)
        for part in ("self_attn.qkv", "self_attn.projection", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ),
}
"""BLIP-2's names, which CheXagent's are derived from."""


@pytest.fixture
def small(publish, tower):
    """Two shards hold the tower; a third, with the language model, is in the index and nowhere else."""
    state = {f"vision_model.{key}": value.clone() for key, value in tower.state_dict().items()}
    assert set(tower.state_dict()) == PUBLISHED
    second = {key for key in state if "layers.1." in key or "post_layernorm" in key}
    shards = {
        FIRST: {key: value for key, value in state.items() if key not in second},
        SECOND: {key: state[key] for key in second} | {"qformer.layernorm.weight": torch.ones(3)},
    }
    index = {key: file for file, part in shards.items() for key in part}
    index |= {"language_model.model.embed_tokens.weight": LAST}
    files = {file: save(part) for file, part in shards.items()}

    def make(**changes):
        state = changes.pop("index", index)
        return publish("chexagent", state, side=SIDE, dim=WIDTH, files=files, shape=SMALL, **changes)

    make.index = index
    return make


def test_the_class_token_after_one_layer_norm_as_transformers_gives_it(small, tower, small_images):
    encoder = load_encoder(small())
    pixels = encoder.card.preprocessing.normalise(torch.from_numpy(small_images))
    with torch.inference_mode():
        theirs = tower(pixel_values=pixels)
    np.testing.assert_allclose(encoder.encode(small_images), theirs.last_hidden_state[:, 0], atol=1e-5, rtol=1e-5)
    assert np.abs(encoder.encode(small_images) - theirs.pooler_output.numpy()).max() > 0.01
    assert encoder.parameters == sum(parameter.numel() for parameter in tower.parameters())


def test_a_tower_under_other_names_is_refused(small):
    renamed = {key.replace("vision_model.", "vision_tower."): file for key, file in small.index.items()}
    with pytest.raises(WrongWeightsError, match=r"begins with 'vision_model\.'"):
        load_encoder(small(index=renamed))


def test_a_shard_that_is_gone_is_named(small, hub):
    card = small()
    hub.models[card.weights.repository].files.pop(SECOND)
    with pytest.raises(UnavailableWeightsError, match=SECOND):
        load_encoder(card)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05), ("fp16", 0.01)])
def test_bug_05_pixels_and_weights_have_one_precision(small, tower, small_images, precision, tolerance):
    # The original gave pixels in half precision to weights in single precision.
    encoder = load_encoder(small(), precision=precision)
    with torch.inference_mode():
        pixels = encoder.card.preprocessing.normalise(torch.from_numpy(small_images.copy()))
        expected = tower(pixel_values=pixels).last_hidden_state[:, 0].numpy()
    made = encoder.encode(small_images)
    assert made.dtype == np.float32
    assert np.abs(made - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "output", "words"),
    [
        ("biomedclip", "projected", "the projection into the space shared with texts"),
        ("pubmedclip", "projected", "the projection into the space shared with texts"),
        ("clip_vit_b32", "projected", "the projection into the space shared with texts"),
        ("conch", "pooled", "before the contrastive projection"),
        ("chexagent", "cls", "the class token after the one final LayerNorm"),
    ],
)
def test_bug_05_each_encoder_says_which_of_its_outputs_it_gives(name, output, words):
    # The original mixed projected and unprojected features, and said so nowhere.
    assert get_card(name).output == output
    assert words in " ".join(describe(get_card(name)).values())
