"""An encoder that does not behave as its card says is not used."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from biofuse.core.errors import EncoderError
from biofuse.encoders import EncoderCard, Preprocessing, check_encoder, get_card
from biofuse.encoders.encoder import probe_images


def card(dim: int = 3) -> EncoderCard:
    changes = {"name": "fake", "dim": dim, "preprocessing": Preprocessing(size=16, crop=16)}
    return get_card("colour").model_copy(update=changes)


@dataclass
class Fake:
    function: object
    card: EncoderCard = field(default_factory=card)

    def encode(self, images):
        return self.function(images)


def means(images):
    return images.mean(axis=(1, 2)).astype(np.float32)


def test_honest_encoder_passes():
    check_encoder(Fake(means))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: means(images)[:, :2], r"float32 \(3, 2\); its card says float32 \(3, 3\)"),
        (lambda images: means(images).astype(np.float64), "gave float64"),
        (lambda images: means(images) * np.nan, "NaN or infinite"),
        (lambda images: np.ones((len(images), 3), np.float32), "its output is constant"),
        (lambda images: np.zeros((len(images), 3), np.float32), "its output is constant"),
        (lambda images: np.repeat(means(images)[:, 1:2], 3, axis=1), "the same value in all 3 columns"),
        (lambda images: means(images) - means(images).mean(axis=0), "differently alone and in a batch"),
        (lambda images: means(images) + np.arange(len(images), dtype=np.float32)[:, None], "alone and in a batch"),
    ],
)
def test_dishonest_encoder_is_refused(function, message):
    with pytest.raises(EncoderError, match=message):
        check_encoder(Fake(function))


def test_one_dead_image_is_enough():
    def half_blind(images):
        values = means(images)
        values[values[:, 2] < 70] = 1
        return values

    images = probe_images(16)
    assert (means(images)[:, 2] < 70).sum() == 1
    check_encoder(Fake(half_blind))
    with pytest.raises(EncoderError, match="constant"):
        check_encoder(Fake(lambda images: np.where(means(images) < 1000, 1, 0).astype(np.float32)))


@pytest.mark.parametrize("side", [1, 7, 224])
def test_probe_images_have_the_size_asked_for_and_never_change(side):
    images = probe_images(side)
    assert images.shape == (3, side, side, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, probe_images(side))


def test_an_embedding_of_one_column_may_have_one_value():
    check_encoder(Fake(lambda images: means(images)[:, :1], card(dim=1)))
