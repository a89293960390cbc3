"""Channels, pages and brightness of microscopes' images, against the arrays that tifffile wrote."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import biofuse
from biofuse.core.errors import DataError, DependencyError, UnreadableImageError
from biofuse.core.hashing import digest
from biofuse.data.decoding import DecodePolicy, content_hash, decode
from biofuse.data.load import development_data
from biofuse.data.microscopy import with_windows
from biofuse.data.samples import hash_samples
from biofuse.data.stacks import read_stack

STACK = np.random.default_rng(0).integers(100, 4000, size=(2, 3, 4, 24, 30)).astype(np.uint16)
"""Times, depths, channels, rows and columns."""
NAMES = ["DAPI", "GFP", "RFP", "Cy5"]


def written(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def read(raw: bytes | np.ndarray, **policy: Any) -> np.ndarray:
    return decode(raw, DecodePolicy(**policy), description="it.tif")


def stretched(channel: np.ndarray) -> np.ndarray:
    values = channel.astype(float)
    return np.rint((values - values.min()) * (255 / (values.max() - values.min()))).astype(np.uint8)


KINDS = {
    "OME": (STACK[0, 0], {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": NAMES}}}),
    "OME, LZW": (STACK[0, 0], {"ome": True, "metadata": {"axes": "CYX"}, "compression": "lzw", "tile": (16, 16)}),
    "OME, big-endian": (STACK[0, 0], {"ome": True, "metadata": {"axes": "CYX"}, "byteorder": ">"}),
    "ImageJ": (STACK[0, 0], {"imagej": True, "metadata": {"axes": "CYX", "Labels": NAMES}}),
    "pages without a word": (STACK[0, 0], {"photometric": "minisblack", "metadata": None}),
    "planes": (STACK[0, 0], {"photometric": "minisblack", "planarconfig": "separate", "metadata": None}),
    "samples of a pixel": (STACK[0, 0].transpose(1, 2, 0), {"photometric": "minisblack", "planarconfig": "contig"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_those_that_were_written(kind: str) -> None:
    pixels, options = KINDS[kind]
    raw = written(pixels, **options)
    found = read(raw, channels=("2", "0", "3"))
    np.testing.assert_array_equal(found, np.stack([stretched(STACK[0, 0, at]) for at in (2, 0, 3)], axis=2))
    np.testing.assert_array_equal(read(raw, channels=("1",)), np.repeat(stretched(STACK[0, 0, 1])[..., None], 3, 2))
    two = read(raw, channels=("1", "2"))
    np.testing.assert_array_equal(two[..., 1], stretched(STACK[0, 0, 2]))
    assert not two[..., 2].any()
    with pytest.raises(UnreadableImageError, match=r"it\.tif: it has no channel 4, but 4 \(counted from 0\)"):
        read(raw, channels=("4",))


@pytest.mark.parametrize("kind", ["OME", "ImageJ"])
def test_channels_by_name_whatever_their_order(kind: str) -> None:
    pixels, options = KINDS[kind]
    np.testing.assert_array_equal(read(written(pixels, **options), channels=("RFP", "Cy5", "DAPI")),
                                  np.stack([stretched(STACK[0, 0, at]) for at in (2, 3, 0)], axis=2))  # fmt: skip
    with pytest.raises(UnreadableImageError, match=r"no channel Cy3, but 4 \(counted from 0\): DAPI, GFP, RFP, Cy5"):
        read(written(pixels, **options), channels=("Cy3",))


@pytest.mark.parametrize("options", [{"ome": True}, {"imagej": True}])
def test_pages_are_times_and_depths_in_the_order_of_the_file(options: dict[str, Any]) -> None:
    raw = written(STACK, metadata={"axes": "TZCYX"}, **options)
    layout, pixels = read_stack(raw)
    assert (layout.pages, layout.channels) == (6, 4)
    np.testing.assert_array_equal(pixels, STACK.reshape(6, 4, 24, 30))
    found = read(raw, channels=("3",), page=4)
    np.testing.assert_array_equal(found[..., 0], stretched(STACK[1, 1, 3]))
    with pytest.raises(UnreadableImageError, match="page 6 was asked for, but it has 6"):
        read(raw, channels=("0",), page=6)


def test_channels_of_colours_and_of_arrays() -> None:
    colours = np.random.default_rng(1).integers(0, 256, size=(9, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "PNG")
    for raw in (file.getvalue(), colours, written(colours, photometric="rgb")):
        np.testing.assert_array_equal(read(raw, channels=("2", "1", "0")), colours[..., ::-1])
    deep = STACK[0, 0].transpose(1, 2, 0)
    np.testing.assert_array_equal(read(deep, channels=("3",))[..., 0], stretched(deep[..., 3]))


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"pages without a word"}))
def test_channels_that_are_no_colours_are_not_read_before_it_is_said_which(kind: str) -> None:
    pixels, options = KINDS[kind]
    with pytest.raises(UnreadableImageError, match="has 4 channels, which are no colours") as caught:
        read(written(pixels, **options))
    assert "channels" in str(caught.value.remedy)


def test_zero_is_white_and_upright() -> None:
    raw = written(STACK[0, 0], photometric="miniswhite", planarconfig="separate", extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(read(raw, channels=("1",))[..., 0], stretched(np.rot90(~STACK[0, 0, 1], -1)))


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_is_refused(kind: str) -> None:
    pixels, options = KINDS[kind]
    raw = written(pixels, **options)
    for size in (len(raw) // 3, len(raw) // 2, len(raw) * 3 // 4, len(raw) - 20):
        with pytest.raises(UnreadableImageError, match=r"it\.tif"):
            read(raw[:size], channels=("0",))


def test_compressions_that_need_a_library_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", fail)
    with pytest.raises(DependencyError, match=r"biofuse-embed\[microscopy\]"):
        read(written(STACK[0, 0], ome=True, metadata={"axes": "CYX"}), channels=("0",))


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Twelve images of two channels each, the second dim; those of class "b" are brighter."""
    for row in range(12):
        name = "ab"[row % 2]
        (tmp_path / name).mkdir(exist_ok=True)
        random = np.random.default_rng(row)
        first = random.integers(500, 2000 * (1 + row % 2), size=(20, 16))
        tifffile.imwrite(
            tmp_path / name / f"{row}.ome.tif", np.stack([first, first // 20]).astype(np.uint16), ome=True,
            metadata={"axes": "CYX", "Channel": {"Name": ["nucleus", "membrane"]}},
        )  # fmt: skip
    return tmp_path


def test_one_window_for_all_is_found_on_development_data_and_remembered(cells: Path) -> None:
    development = development_data(
        cells, config=biofuse.DataConfig(channels="membrane,nucleus", sixteen_bit="percentile"), test="auto"
    )
    assert development.held_out is not None
    policy = development.samples.decode
    assert development.held_out.decode == policy
    pixels = [tifffile.imread(source.path) for source in development.samples.sources]
    for window, channel in zip(policy.windows, (1, 0), strict=True):
        low, high = np.percentile([image[channel] for image in pixels], (0.1, 99.9))
        assert window == pytest.approx((low, high), rel=0.02)
    image, (low, high) = pixels[0], policy.windows[0]
    found = decode(development.samples.sources[0].read(), policy, description="it")
    np.testing.assert_array_equal(found[..., 0], np.rint((image[1].clip(low, high) - low) * (255 / (high - low))))
    assert any("percentiles 0.1 and 99.9" in note for note in development.notes)
    brightest = max(development.held_out.sources, key=lambda source: tifffile.imread(source.path).max())
    alone = with_windows(biofuse.load_samples(brightest.path, channels="1,0", sixteen_bit="percentile"))
    assert alone.decode.windows != policy.windows  # the windows of the development data owe nothing to test images


def test_a_model_reads_new_images_by_the_window_and_the_channels_it_was_fitted_with(
    cells: Path, tmp_path: Path
) -> None:
    reading = {"channels": "0,1", "sixteen_bit": "percentile"}
    result = biofuse.fit(cells, encoders="colour", out=tmp_path / "run", **reading)
    model = biofuse.BioFuseModel.load(tmp_path / "run" / "model")
    assert model.decode == result.model.decode
    assert model.decode.windows
    assert model.decode.channels == ("0", "1")
    file = sorted((cells / "b").iterdir())[0]
    own = decode(file.read_bytes(), model.decode, description="it")
    np.testing.assert_allclose(model.predict_proba([file]), model.predict_proba(own[None]), atol=1e-6)


def test_what_was_not_found_is_not_made_up(cells: Path) -> None:
    samples = biofuse.load_samples(cells, channels="0", sixteen_bit="percentile")
    with pytest.raises(DataError, match="nothing like it was among the images"):
        decode(samples.sources[0].read(), samples.decode, description="it")
    with pytest.raises(DataError, match="channels"):
        biofuse.DataConfig(channels="0,1,2,3")


def test_images_that_were_embedded_before_there_were_channels_keep_their_names() -> None:
    assert content_hash(b"bytes", DecodePolicy()) == digest(
        b"file", b"bytes", b'{"page":0,"sixteen_bit":"minmax","version":1}'
    )
    assert content_hash(b"bytes", DecodePolicy(channels=("0",))) != content_hash(b"bytes", DecodePolicy())


def test_each_channel_is_an_image_of_the_sample(cells: Path) -> None:
    samples = biofuse.load_samples(cells, channels="each")
    assert len(samples) == 12
    assert set(samples.sizes.tolist()) == {2}
    images = hash_samples(samples)[0].images()
    assert len(set(images.contents.tolist())) == 24
    first = tifffile.imread(cells / "a" / "0.ome.tif")
    for source, channel in zip(images.sources[:2], first, strict=True):
        found = decode(source.read(), images.decode, description="it")
        np.testing.assert_array_equal(found[..., 0], stretched(channel))
    assert [source.description.rpartition(", ")[2] for source in images.sources[:2]] == [
        "channel nucleus", "channel membrane",
    ]  # fmt: skip


def test_every_page_is_an_image_of_the_sample_and_may_have_channels(tmp_path: Path) -> None:
    raw = written(STACK, ome=True, metadata={"axes": "TZCYX"})
    (tmp_path / "stack.tif").write_bytes(raw)
    (plain := tmp_path / "plain.tif").write_bytes(written(STACK[0, :, 0], photometric="minisblack", metadata=None))
    bag = biofuse.load_samples(tmp_path / "stack.tif", page="all", channels="3,0", labelled=False)
    found = [decode(each.read(), bag.decode, description="it") for each in bag.images().sources]
    for pixels, page in zip(found, STACK.reshape(6, 4, 24, 30), strict=True):
        np.testing.assert_array_equal(pixels, np.dstack([stretched(page[3]), stretched(page[0]), np.zeros((24, 30))]))
    both = biofuse.load_samples(tmp_path / "stack.tif", page="all", channels="each", labelled=False)
    assert both.sizes.tolist() == [24]
    (tmp_path / "no_suffix").write_bytes(raw)
    paths = [tmp_path / "no_suffix", tmp_path / "stack.tif"]
    assert biofuse.load_samples(paths, channels="each", labelled=False).sizes.tolist() == [4, 4]
    pages = biofuse.load_samples(plain, page="all", labelled=False)
    alone = [decode(plain.read_bytes(), DecodePolicy(page=page), description="it") for page in range(3)]
    found = [decode(each.read(), pages.decode, description="it") for each in pages.images().sources]
    np.testing.assert_array_equal(found, alone)
    frames = [Image.fromarray(np.full((4, 5), 60 * at, np.uint8)) for at in range(4)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert biofuse.load_samples(tmp_path / "film.gif", page="all", labelled=False).sizes.tolist() == [4]
    frames[0].save(tmp_path / "one.png")
    with pytest.raises(DataError, match="is for TIFF and GIF files, and there are none"):
        biofuse.load_samples(tmp_path / "one.png", page="all", labelled=False)
    with pytest.raises(DataError, match="cannot be 'al'"):
        biofuse.DataConfig(page="al")


def test_each_channel_has_a_window_of_its_own_that_the_model_keeps(cells: Path, tmp_path: Path) -> None:
    result = biofuse.fit(cells, encoders="colour", channels="each", sixteen_bit="percentile", out=tmp_path / "run")
    windows = result.model.decode.windows
    assert len(windows) == 2
    assert windows[0][1] > 10 * windows[1][1]
    new = biofuse.load_samples(cells / "b" / "1.ome.tif", like=result.model.data_config, decode=result.model.decode)
    dim = new.images().sources[1]
    stored, (low, high) = tifffile.imread(cells / "b" / "1.ome.tif")[1], windows[1]
    found = decode(dim.read(), new.decode, description="it")
    np.testing.assert_array_equal(found[..., 0], np.rint((stored.clip(low, high) - low) * (255 / (high - low))))
    channels = np.stack([decode(each.read(), new.decode, description="it") for each in new.images().sources])
    alone = result.model.embed(channels)
    np.testing.assert_allclose(result.model.embed(cells / "b" / "1.ome.tif"), alone.mean(axis=0)[None], atol=1e-6)
