"""Thumbnails: the right image, small, and within reason."""

import base64
import io
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biofuse.data.load import load_samples
from biofuse.report import input as pictures
from biofuse.report.input import SampleImages, make_thumbnails, picture_of


def opened(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


@pytest.fixture
def images(tmp_path: Path) -> SampleImages:
    for number in range(7):
        Image.new("RGB", (40, 20), (30 * number, 100, 200)).save(tmp_path / f"{number}.png")
    (tmp_path / "7.png").write_bytes(b"no image")
    return SampleImages(load_samples(tmp_path, labelled=False))


def test_every_tile_shows_its_own_sample(images: SampleImages) -> None:
    ids = [f"{number}.png" for number in (3, 0, 6)]
    grid, tiles = make_thumbnails([(images, name) for name in ids])
    assert grid is not None
    assert tiles == (0, 1, 2)
    page = opened(grid.source)
    assert page.size == (grid.columns * grid.side, grid.rows * grid.side)
    for place, number in enumerate((3, 0, 6)):
        x, y = (place % grid.columns + 0.5) * grid.side, (place // grid.columns + 0.5) * grid.side
        assert page.getpixel((int(x), int(y))) == pytest.approx((30 * number, 100, 200), abs=6)


def test_unreadable_and_unknown_images_have_no_tile(images: SampleImages) -> None:
    _, tiles = make_thumbnails(
        [(images, "0.png"), (images, "7.png"), (images, "other.png"), (None, "0.png"), (images, "1.png")]
    )
    assert tiles == (0, -1, -1, -1, 1)


def test_without_any_image_there_is_no_grid(images: SampleImages) -> None:
    assert make_thumbnails([(images, "7.png")]) == (None, (-1,))
    assert make_thumbnails([]) == (None, ())


def test_tiles_shrink_until_the_grid_fits(images: SampleImages, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [(images, f"{number}.png") for number in range(7)]
    large, _ = make_thumbnails(wanted)
    assert large is not None
    assert large.side == pictures.SIDES[0]
    monkeypatch.setattr(pictures, "GRID_BYTES", 100)
    small, _ = make_thumbnails(wanted)
    assert small is not None
    assert small.side == pictures.SIDES[-1]


def test_reading_ends_with_patience(images: SampleImages) -> None:
    ticks = count(0, 3 * pictures.PATIENCE / 5)
    _, tiles = make_thumbnails([(images, f"{number}.png") for number in range(5)], clock=lambda: next(ticks))
    assert tiles.count(-1) == 4


def test_a_picture_keeps_its_shape_and_fits(images: SampleImages) -> None:
    image = images.image("2.png")
    assert image is not None
    picture = picture_of(image, side=112, alternative="a", caption="b")
    assert (picture.width, picture.height) == opened(picture.source).size == (112, 56)
    enlarged = picture_of(image.resize((1000, 500)), side=112, alternative="a", caption="b")
    assert (enlarged.width, enlarged.height) == (112, 56)
    assert opened(enlarged.source).size == (336, 168)
    assert picture.source.startswith("data:image/jpeg;base64,")


def test_images_are_decoded_as_for_the_encoders(tmp_path: Path) -> None:
    deep = np.linspace(0, 60_000, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image = SampleImages(load_samples(tmp_path, labelled=False)).image("deep.png")
    assert image is not None
    assert np.asarray(image).max() == 255
