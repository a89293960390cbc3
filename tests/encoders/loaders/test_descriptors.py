"""Descriptors: what the papers say, on images whose answer is known."""

import numpy as np
import pytest
import skimage.data
from scipy.stats import moment
from skimage.color import rgb2lab
from skimage.filters import gabor_kernel

from biofuse.core.errors import EncoderError
from biofuse.encoders import get_card, load_encoder
from biofuse.encoders.loaders.descriptors import (
    DESCRIPTORS,
    GABOR_FREQUENCIES,
    ROUNDING,
    colour,
    gabor,
    grey,
    haralick,
    hog,
    lbp,
)

NAMES = tuple(DESCRIPTORS)


def cat() -> np.ndarray:
    return get_card("lbp").preprocessing.apply(skimage.data.chelsea())


def waves(frequency: float, degrees: float) -> np.ndarray:
    row, column = np.indices((128, 128))
    angle = np.deg2rad(degrees)
    wave = np.cos(2 * np.pi * frequency * (column * np.cos(angle) + row * np.sin(angle)))
    return np.repeat(np.rint(127.5 + 100 * wave).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_constant_images_give_finite_values(name, level):
    card = get_card(name)
    values = load_encoder(name).encode(card.preprocessing.apply(np.full((1, 1, 3), level, np.uint8))[None])
    assert values.shape == (1, card.dim)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", NAMES)
def test_batches_equal_single_images_exactly(name):
    images = np.stack([cat(), cat()[::-1], waves(0.1, 0)])
    encoder = load_encoder(name)
    assert np.array_equal(encoder.encode(images), np.vstack([encoder.encode(image[None]) for image in images]))


def test_colour_holds_mean_deviation_and_shares():
    image = np.zeros((128, 128, 3), np.uint8)
    image[:64] = (255, 0, 0)
    values = colour(image)
    np.testing.assert_allclose(values[:3], [0.5, 0, 0])
    np.testing.assert_allclose(values[6:9], [0.5, 0, 0])
    np.testing.assert_allclose(values[12:18], 0, atol=1e-6)
    histogram = values[18:] ** 2
    np.testing.assert_allclose([histogram[0], histogram[48]], 0.5)
    np.testing.assert_allclose(histogram.sum(), 1)


def test_colour_skewness_has_the_sign_of_the_tail():
    image = np.zeros((128, 128, 3), np.uint8)
    image[:8] = 255
    assert (colour(image)[12:15] > 0).all()
    assert (colour(255 - image)[12:15] < 0).all()


@pytest.mark.parametrize("image", [cat(), np.repeat(cat()[..., :1], 3, axis=2)], ids=["colours", "grey"])
def test_colour_is_that_of_the_pixels_one_by_one(image):
    pixels = np.hstack([image.reshape(-1, 3) / 255, rgb2lab(image).reshape(-1, 3) / 100])
    third = moment(pixels, 3)
    third[abs(third) < ROUNDING] = 0  # rounding errors, of which a cube root would make something
    histogram = np.histogramdd(image.reshape(-1, 3), bins=4, range=[(0, 256)] * 3)[0].ravel() / len(pixels)
    expected = np.concatenate([pixels.mean(0), pixels.std(0), np.cbrt(third), np.sqrt(histogram)])
    np.testing.assert_allclose(colour(image), expected, rtol=1e-6, atol=1e-7)


def test_colour_ignores_position_and_texture_ignores_colour_position():
    image = cat()
    shuffled = np.random.default_rng(0).permutation(image.reshape(-1, 3)).reshape(image.shape)
    np.testing.assert_allclose(colour(shuffled), colour(image), atol=1e-9)
    assert np.abs(lbp(shuffled) - lbp(image)).max() > 0.05


def test_lbp_shares_add_up_and_rotation_does_not_matter():
    values = lbp(cat())
    for start, stop in ((0, 10), (10, 28), (28, 54)):
        assert values[start:stop].sum() == pytest.approx(1)
    turned = lbp(np.rot90(cat()))
    assert np.abs(turned - values).max() < 0.02


def test_haralick_of_a_checkerboard():
    row, column = np.indices((128, 128))
    image = np.repeat(((row + column) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    mean, spread = haralick(image)[:18].reshape(6, 3), haralick(image)[18:].reshape(6, 3)
    # One pixel along a row or column the level jumps by 31, along a diagonal never; two or four pixels: never.
    np.testing.assert_allclose(mean[0], [31**2 / 2, 0, 0])
    np.testing.assert_allclose(spread[0], [31**2, 0, 0])
    np.testing.assert_allclose(mean[4], [0, 1, 1], atol=1e-3)


@pytest.mark.parametrize("scale", range(4))
@pytest.mark.parametrize("direction", [0, 2, 3, 5])
def test_gabor_answers_to_its_own_frequency_and_direction(scale, direction):
    energy = gabor(waves(GABOR_FREQUENCIES[scale], direction * 30))[:24].reshape(4, 6)
    assert np.unravel_index(energy.argmax(), energy.shape) == (scale, direction)


def test_gabor_equals_direct_filtering():
    from scipy.ndimage import convolve

    levels = grey(cat()) / 255
    levels = levels - levels.mean()
    kernel = gabor_kernel(0.4, theta=np.pi / 6)
    kernel = kernel - kernel.mean()
    response = np.hypot(*(convolve(levels, part, mode="reflect") for part in (kernel.real, kernel.imag)))
    values = gabor(cat())
    np.testing.assert_allclose(values[[1, 25]], [response.mean(), response.std()], rtol=1e-4)


def test_hog_tells_directions_apart():
    upright, flat = hog(waves(0.05, 0)).reshape(-1, 9), hog(waves(0.05, 90)).reshape(-1, 9)
    assert upright.sum(axis=0).argmax() == 0
    assert flat.sum(axis=0).argmax() == 4


def test_unknown_descriptor_is_an_error():
    card = get_card("lbp").model_copy(update={"name": "sift", "architecture": "sift"})
    with pytest.raises(EncoderError, match="no descriptor 'sift'; there are colour, lbp"):
        load_encoder(card)


def test_wrong_dimension_on_the_card_is_an_error():
    with pytest.raises(EncoderError, match=r"its card says \(3, 55\)"):
        load_encoder(get_card("lbp").model_copy(update={"dim": 55}))


def test_results_do_not_depend_on_the_order_of_calls():
    first = {name: DESCRIPTORS[name](cat()) for name in NAMES}
    for name in reversed(NAMES):
        DESCRIPTORS[name](waves(0.2, 30))
        assert np.array_equal(DESCRIPTORS[name](cat()), first[name])
