"""Every registered encoder keeps the contract; encoders that do not are told how."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from biofuse.core.errors import EncoderError, UnknownEncoderError
from biofuse.encoders import EncoderCard, Preprocessing, assert_encoder_contract, get_card
from biofuse.encoders.batches import require_images
from biofuse.encoders.starter import STARTER_CARDS


@pytest.mark.parametrize("name", [card.name for card in STARTER_CARDS])
def test_contract(name):
    for package in get_card(name).requires:
        pytest.importorskip(package.replace("-", "_"))
    assert_encoder_contract(name)


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
