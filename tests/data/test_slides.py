"""Slides are cut into tiles as OpenSlide reads them, where there is tissue, and never at a guessed resolution."""

import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import biofuse
from biofuse.core.errors import DependencyError, UnreadableImageError
from biofuse.data import cuts, slides
from biofuse.data.config import DataConfig
from biofuse.data.decoding import DecodePolicy
from biofuse.data.load import load_samples
from biofuse.data.samples import hash_samples

openslide = pytest.importorskip("openslide")
tifffile = pytest.importorskip("tifffile")
skimage_data = pytest.importorskip("skimage.data")

BACKGROUND = 241


def tissue() -> np.ndarray:
    """Return real tissue (immunohistochemistry) on the right of as much background."""
    real = skimage_data.immunohistochemistry()
    return np.concatenate([np.full_like(real, BACKGROUND), real], axis=1)


def write_slide(path: Path, pixels: np.ndarray, *, mpp: float | None = 0.5, levels: int = 3, **options: Any) -> Path:
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            scale = {} if mpp is None else {"resolution": (1e4 / mpp / 2**level,) * 2, "resolutionunit": "CENTIMETER"}
            file.write(
                np.asarray(Image.fromarray(pixels).reduce(2**level)) if level else pixels,
                **{"tile": (128, 128), "photometric": "rgb", "compression": "zlib"} | scale | options,
                subfiletype=int(level > 0),
            )
    return path


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "slide.tif", tissue())


def boxes(path: Path, **options: Any) -> list[tuple[int, int, int, int]]:
    return [tile.box for tile in slides.open_file(path, DataConfig(tile_size=64, **options)).images]


@pytest.mark.parametrize(("mpp", "level"), [(None, 0), (1.0, 1), (2.0, 2)])
def test_a_tile_is_what_openslide_reads_at_that_resolution(slide: Path, mpp: float | None, level: int) -> None:
    opened = slides.open_file(slide, DataConfig(mpp=mpp, tile_size=32))
    reference = openslide.OpenSlide(slide)
    assert opened.is_bag
    assert len(opened.images) > 5
    for tile in opened.images:
        pixels = reference.read_region(tile.box[:2], level, (32, 32)).convert("RGB")
        np.testing.assert_array_equal(tile.read(), np.asarray(pixels))


def test_between_two_levels_the_finer_one_is_scaled_down(slide: Path) -> None:
    tile = slides.open_file(slide, DataConfig(mpp=0.75, tile_size=64)).images[3]
    whole = Image.fromarray(tissue())
    left, top, width, height = tile.box
    assert (width, height) == (96, 96)
    expected = np.asarray(whole.crop((left, top, left + 96, top + 96)).resize((64, 64), Image.Resampling.LANCZOS))
    np.testing.assert_allclose(tile.read().astype(int), expected, atol=1)


def test_tiles_lie_on_tissue_and_are_counted(slide: Path) -> None:
    opened = slides.open_file(slide, DataConfig(tile_size=64))
    assert {tile.box[0] for tile in opened.images} <= set(range(512, 1024, 64))  # the right half
    assert opened.about.facts["tiles of tissue"] == len(opened.images) > 40
    assert len(boxes(slide, min_tissue=0)) == 128


def test_fewer_tiles_are_some_of_more_whatever_the_file_is_called(slide: Path, tmp_path: Path) -> None:
    few, more = boxes(slide, tiles=5), boxes(slide, tiles=20)
    assert len(few) == 5
    assert set(few) < set(more)
    assert more == sorted(more, key=lambda box: (box[1], box[0]))
    copy = Path(shutil.copy(slide, tmp_path / "another name.tif"))
    assert boxes(copy, tiles=5) == few
    one, other = (slides.open_file(path, DataConfig()).images[0] for path in (slide, copy))
    policy = DecodePolicy()
    assert one.content(policy) == other.content(policy)
    assert one.content(policy) != slides.open_file(slide, DataConfig(tile_size=225)).images[0].content(policy)


@pytest.mark.parametrize(
    ("written", "options", "said"),
    [
        ({"mpp": None}, {}, "does not say how large its pixels are"),
        ({"mpp": 352.8}, {}, "does not say how large its pixels are"),  # 72 dots per inch
        ({}, {"mpp": 0.25}, "too coarse"),
        ({}, {"tile_size": 600}, "a tile would be 600 x 600"),
        ({"pixels": np.full((512, 512, 3), BACKGROUND, np.uint8)}, {}, "no tile of 4 has 50% of tissue"),
        ({"pixels": np.zeros((512, 512, 3), np.uint8)}, {}, "no tile of 4 has 50% of tissue"),
    ],
    ids=["no resolution", "that of a screen", "too coarse", "too small", "empty", "black"],
)
def test_what_cannot_be_cut_into_tiles_is_refused(
    written: dict[str, Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = write_slide(tmp_path / "it.tif", **{"pixels": tissue()} | written)
    with pytest.raises(UnreadableImageError, match=said) as caught:
        slides.open_file(path, DataConfig(**options))
    assert caught.value.remedy


def test_a_resolution_that_is_missing_can_be_said(tmp_path: Path, slide: Path) -> None:
    path = write_slide(tmp_path / "it.tif", tissue(), mpp=None)
    assert boxes(path, file_mpp=0.5) == boxes(slide)
    assert boxes(path, file_mpp=0.25)[0][2:] == (128, 128)


def test_damage_is_named_before_or_where_it_is_read(slide: Path) -> None:
    whole = slide.read_bytes()
    slide.write_bytes(whole[:1000])
    with pytest.raises(UnreadableImageError, match=r"slide.tif"):
        slides.open_file(slide, DataConfig(mpp=0.5))
    slide.write_bytes(whole)
    tile = slides.open_file(slide, DataConfig()).images[0]
    tile.read()
    slide.write_bytes(whole + b"\0")
    with pytest.raises(UnreadableImageError, match="changed after the data were read"):
        tile.read()


def test_a_plain_image_is_cut_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(tissue()).save(tmp_path / "plain.png")
    Image.fromarray(tissue()).save(tmp_path / "plain.jpg", quality=95)
    opened = slides.open_file(tmp_path / "plain.jpg", DataConfig(mpp=1.0, file_mpp=1.0, tile_size=100, draft=100))
    assert opened.about.facts["width (pixels)"] == 1024, "it is not decoded smaller before it is cut"
    opened = slides.open_file(tmp_path / "plain.png", DataConfig(mpp=1.0, file_mpp=1.0, tile_size=100))
    for tile in opened.images:
        left, top, _, _ = tile.box
        np.testing.assert_array_equal(tile.read(), tissue()[top : top + 100, left : left + 100])


def test_plain_images_beside_slides_are_pointed_out_until_they_are_cut_too(tmp_path: Path, slide: Path) -> None:
    Image.fromarray(tissue()).save(tmp_path / "plain.png")
    mixed = load_samples(tmp_path)
    assert mixed.sizes.tolist() == [1, len(slides.open_file(slide, DataConfig()).images)]
    assert any("1 image(s) are read as a whole beside slides" in said for said in mixed.warnings)
    cut = load_samples(tmp_path, mpp=0.5, file_mpp=0.5)
    assert cut.sizes[0] == cut.sizes[1] > 1
    assert not any("as a whole" in said for said in cut.warnings)


@pytest.mark.parametrize(
    ("options", "is_slide"),
    [
        ({}, True),
        ({"levels": 1}, False),
        ({"tile": None, "levels": 2}, False),
    ],
    ids=["a pyramid", "one image in tiles", "two images in strips"],
)
def test_a_tiff_is_a_slide_where_it_is_a_pyramid(tmp_path: Path, options: dict[str, Any], is_slide: bool) -> None:
    path = write_slide(tmp_path / "it.tif", tissue(), **options)
    assert slides.recognises(path, b"") is is_slide


def test_a_slide_of_a_scanner_says_its_resolution_or_its_objective(tmp_path: Path) -> None:
    for name, mpp in (("said", "|MPP = 0.499"), ("unsaid", "")):
        first = {"description": f"Aperio Image Library v11\r\n1024x512 (128x128) JPEG/RGB|AppMag = 20{mpp}"}
        with tifffile.TiffWriter(tmp_path / f"{name}.svs") as file:
            for level in range(2):
                pixels = np.asarray(Image.fromarray(tissue()).reduce(4**level))
                kind = first if not level else {"description": "Aperio Image Library -> 256x128"}
                file.write(pixels, tile=(128, 128), photometric="rgb", compression="zlib", metadata=None, **kind)
    opened = slides.open_file(tmp_path / "said.svs", DataConfig(tile_size=64))
    assert opened.about.facts["file's resolution (µm per pixel)"] == 0.499
    assert {tile.box[2:] for tile in opened.images} == {(64, 64)}
    with pytest.raises(UnreadableImageError, match="the objective was 20x"):
        slides.open_file(tmp_path / "unsaid.svs", DataConfig())


def test_a_slide_is_hashed_once_however_many_threads_ask(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    real = cuts.digest_file
    monkeypatch.setattr(cuts, "digest_file", lambda path: (time.sleep(0.05), hashed.append(path), real(path))[2])
    samples = load_samples(slide, tile_size=32, min_tissue=0)
    assert samples.sizes.tolist() == [256]
    assert (hash_samples(samples)[0].image_contents != b"").all()
    assert hashed == [slide]


def test_a_slide_is_opened_once_in_a_process(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = openslide.OpenSlide
    monkeypatch.setattr(openslide, "OpenSlide", lambda path: opened.append(path) or real(path))
    sent = pickle.dumps(slides.open_file(slide, DataConfig(tile_size=32)).images)
    tiles = pickle.loads(sent)  # noqa: S301 -- as they travel to a worker
    assert len({tile.read().tobytes() for tile in tiles}) > 100
    assert opened == [slide]
    assert len(sent) < 200 * len(tiles)


def test_the_thumbnail_has_the_tiles_where_their_boxes_say(slide: Path) -> None:
    tile = slides.open_file(slide, DataConfig()).images[0]
    small, scale = slides.thumbnail(tile, longest=256)
    assert small.shape == (128, 256, 3)
    left, top, width, height = (round(each * scale) for each in tile.box)
    expected = Image.fromarray(tile.read()).resize((width, height), Image.Resampling.LANCZOS)
    there = small[top : top + height, left : left + width].astype(int)
    assert np.abs(there - np.asarray(expected)).mean() < 3


THOUSAND = """
import sys
from pathlib import Path
from biofuse.data import cuts, slides
from biofuse.data.config import DataConfig
opened = slides.open_file(Path(sys.argv[1]), DataConfig(tiles=1000, min_tissue=0))
for tile in opened.images:
    tile.read()
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(len(opened.images), peak.split()[1])
"""
"""The peak is the program's own: that of ``getrusage`` begins with what the tests had when they started it."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_a_thousand_tiles_need_little_memory(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "big.tif", np.tile(tissue(), (14, 7, 1)))  # 7168 x 7168 pixels
    done = subprocess.run([sys.executable, "-c", THOUSAND, path], capture_output=True, text=True, check=True)
    tiles, kilobytes = map(int, done.stdout.split())
    assert tiles == 1000
    assert kilobytes < 1_500_000


@pytest.mark.slow
def test_a_prediction_says_where_the_tiles_lie(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tile_size": 64, "min_tissue": 0, "tiles": 20}
    copies = [
        write_slide(tmp_path / f"{row}.tif", np.roll(255 - tissue() if row % 2 else tissue(), 32 * row, axis=0))
        for row in range(12)
    ]
    table = pd.DataFrame({"path": map(str, copies), "label": ["a", "b"] * 6, "id": range(12)})
    model = biofuse.fit(table, encoders=["colour"], head="ridge", test=None, progress=False, **options).model
    _, embeddings = model.predict_frame(table, progress=False)
    images = model.tabulate_images(embeddings)
    assert images[["x", "y", "width", "height"]].drop_duplicates().shape == (20, 4)
    tile = slides.open_file(copies[3], DataConfig(**options)).images[7]
    assert images[images["id"] == "3"].iloc[7][["x", "y", "width", "height"]].tolist() == list(tile.box)


def test_what_brings_openslide_is_named_where_it_is_missing(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(DependencyError, match=r"biofuse-embed\[slides\]"):
        load_samples(slide)
