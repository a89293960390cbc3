"""Every registered encoder keeps the contract; encoders that do not are told how."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from biofuse.core.errors import EncoderError, UnknownEncoderError
from biofuse.encoders import EncoderCard, EncoderRegistry, Preprocessing, get_card, resolve
from biofuse.encoders.encoder import require_images
from biofuse.encoders.loaders import loader_of
from biofuse.testing import assert_encoder_contract


@pytest.mark.slow
@pytest.mark.parametrize("name", [card.name for card in resolve("starter")])
def test_contract(name):
    for package in get_card(name).requires:
        pytest.importorskip(package.replace("-", "_"))
    assert_encoder_contract(name)


VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}
DINOV2 = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28}
TOWER = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}

SMALL = {
    "uni": (32, 48, {"img_size": 32, **VIT}),
    "virchow2": (28, 96, {"img_size": 28, **VIT}),
    "hibou_b": (28, 48, DINOV2),
    "midnight_12k": (28, 96, DINOV2),
    "pubmedclip": (32, 24, {**TOWER, "image_size": 32, "patch_size": 16, "projection_dim": 24}),
    "medsiglip_448": (28, 48, {**TOWER, "image_size": 28}),
    "biomedclip": (160, 24, {"embed_dim": 24, "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160}}),
    "conch": (32, 32, {"img_size": 32, "pooler_dim": 32, **VIT}),
    "keep": (32, 24, {"img_size": 32, "head": ["linear 24", "gelu", "linear 24", "normalise"], **VIT}),
}
"""Side in pixels, columns and arguments of a small network of each kind that the pool holds."""


@pytest.mark.slow
@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize("name", SMALL)
def test_contract_of_the_pools_families_at_a_smaller_size(publish, name):
    side, dim, arguments = SMALL[name]
    card = get_card(name)
    vision = card.arguments.get("vision_cfg", {}) | arguments.get("vision_cfg", {})
    arguments = card.arguments | arguments | ({"vision_cfg": vision} if vision else {})
    crop = None if card.preprocessing.crop is None else side
    small = {"arguments": arguments, "dim": dim}
    prepared = card.preprocessing.model_copy(update={"size": side, "crop": crop})
    torch.manual_seed(0)
    network = loader_of(card.loader).build_architecture(card.model_copy(update={**small, "preprocessing": prepared}))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = {f"{card.weights.prefix}{key}": value for key, value in network.state_dict().items()}
    assert_encoder_contract(publish(name, state, side=side, **small))


def test_every_family_of_the_pool_meets_the_contract_somewhere():
    met = {get_card(name).loader for name in SMALL}
    # CheXagent's tower is built by the transformers family, out of shards: see its own tests.
    own = EncoderRegistry(plugins=False).list_cards()  # the shared one may hold what other tests have registered
    assert {card.loader for card in own if "starter" not in card.pools} == met | {"chexagent"}


def test_unknown_encoder():
    with pytest.raises(UnknownEncoderError):
        assert_encoder_contract("no_such_encoder")


def card() -> EncoderCard:
    changes = {"name": "fake", "dim": 3, "preprocessing": Preprocessing(size=16, crop=16)}
    return get_card("colour").model_copy(update=changes)


@dataclass
class Honest:
    card: EncoderCard = field(default_factory=card)

    def encode(self, images):
        require_images(self.card, images)
        return images.mean(axis=(1, 2)).astype(np.float32).reshape(-1, 3)


@dataclass
class Writes(Honest):
    def encode(self, images):
        result = super().encode(images)
        if images.flags.writeable:
            images[...] = images[:, ::-1].copy()
        return result


@dataclass
class Careless(Honest):
    def encode(self, images):
        return images.mean(axis=tuple(range(1, images.ndim - 1))).astype(np.float32)


@dataclass
class Fragile(Honest):
    def encode(self, images):
        values = super().encode(images)
        if len(images):
            values[images.std(axis=(1, 2, 3)) == 0] = np.nan
        return values


@dataclass
class Forgetful(Honest):
    calls: int = 0

    def encode(self, images):
        self.calls += 1
        return super().encode(images) + (self.calls >= 6)


@dataclass
class Homesick(Honest):
    def __reduce__(self):
        return Honest, (self.card.model_copy(update={"dim": 3}),)

    def encode(self, images):
        return super().encode(images) * 2


def test_honest_encoder_passes():
    assert_encoder_contract(Honest())


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Writes(), "changes the images it is given"),
        (Careless(), "must raise an EncoderError"),
        (Fragile(), "NaN or infinity"),
        (Forgetful(), "same images give other embeddings"),
        (Homesick(), "differently in a worker process"),
        (Honest(card().model_copy(update={"source": ""})), "has no source"),
        (Honest(card().model_copy(update={"dim": 4})), "its card says float32"),
    ],
)
def test_broken_promises_are_named(encoder, message):
    with pytest.raises(AssertionError, match=message):
        assert_encoder_contract(encoder)


def test_the_check_at_loading_is_part_of_it():
    with pytest.raises(AssertionError) as caught:
        assert_encoder_contract(Honest(card().model_copy(update={"dim": 4})))
    assert isinstance(caught.value.__cause__, EncoderError)
