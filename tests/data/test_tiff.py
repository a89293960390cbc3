"""TIFF of every kind is read as another library reads it, or refused; never as other values."""

import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biofuse.core.errors import UnreadableImageError
from biofuse.data.decoding import DecodePolicy, PillowSource, content_hash, decode

tifffile = pytest.importorskip("tifffile")

POLICY = DecodePolicy()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def read(raw: bytes | np.ndarray, policy: DecodePolicy = POLICY) -> np.ndarray:
    return decode(raw, policy, description="it.tif")


def values_of(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    random, kind = np.random.default_rng(0), np.dtype(dtype)
    if kind.kind == "f":
        return random.random(shape).astype(kind)
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 32)}, {"compression": "zlib"}, {"compression": "zlib", "predictor": 2}], ids=str
)
def test_grey_of_every_type(dtype: str, white_is_zero: bool, order: str, options: dict[str, Any]) -> None:
    if "predictor" in options and dtype[0] == "f":
        options = {"compression": "zlib", "tile": (32, 16)}
    values = values_of(dtype, (45, 50))
    raw = tiff(values, photometric="miniswhite" if white_is_zero else "minisblack", byteorder=order, **options)
    shown = (1 - values if dtype[0] == "f" else ~values) if white_is_zero else values
    for policy in (POLICY, DecodePolicy(sixteen_bit="full")):
        if dtype != "u8" or policy == POLICY:
            np.testing.assert_array_equal(read(raw, policy), read(shown, policy))


@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4", "f8"])
@pytest.mark.parametrize("plane", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_of_every_type(dtype: str, plane: str, compression: str | None, channels: int) -> None:
    values = values_of(dtype, (40, 30, channels))
    stored = np.moveaxis(values, -1, 0) if plane == "separate" else values
    alpha = ("unassalpha",) if channels == 4 else None
    raw = tiff(stored, photometric="rgb", planarconfig=plane, compression=compression, extrasamples=alpha)
    # Of 16-bit colour Pillow keeps the high byte.
    assert np.abs(read(raw).astype(int) - read(values)).max() <= (2 if dtype == "u2" else 0)


def test_floats_whose_bytes_are_stored_as_differences() -> None:
    values = values_of("f8", (6, 5))
    planes = values.astype(">f8").view(np.uint8).reshape(6, 5, 8).swapaxes(1, 2).reshape(6, 40)
    packed = zlib.compress(np.diff(planes, axis=1, prepend=np.uint8(0)).astype(np.uint8).tobytes())
    tags = {256: 5, 257: 6, 258: 64, 259: 8, 262: 1, 273: 8, 277: 1, 278: 6, 279: len(packed), 317: 3, 339: 3}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    raw = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + directory + b"\0" * 4
    np.testing.assert_array_equal(read(raw), read(values))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_as_to_other_tiff(orientation: int) -> None:
    values = np.arange(12.0).reshape(3, 4)
    options: dict[str, Any] = {"extratags": [(274, 3, 1, orientation, True)]}
    np.testing.assert_array_equal(read(tiff(values, **options)), read(tiff(values.astype("f4"), **options)))


def test_pages_beyond_pillow_are_counted_and_chosen() -> None:
    raw = tiff(np.stack([np.eye(4), 1 - np.eye(4)]), photometric="minisblack")
    np.testing.assert_array_equal(read(raw, DecodePolicy(page=1)), read(1 - np.eye(4)))
    with pytest.raises(UnreadableImageError):
        read(raw, DecodePolicy(page=2))


@pytest.mark.parametrize(
    ("values", "options", "why"),
    [
        (
            np.zeros((8, 8, 2), "u2"),
            {"planarconfig": "contig", "photometric": "minisblack"},
            "has 2 channels, which are no colours",
        ),
        (np.zeros((5, 8, 8), "u1"), {"planarconfig": "separate", "photometric": "minisblack"}, "has 5 channels"),
        (np.zeros((8, 8), "c8"), {}, "1 channel of 64-bit grey"),
        (np.zeros((8, 8, 3), "i2"), {"photometric": "rgb"}, "int16 colour has no agreed brightness range"),
        (np.full((8, 8), np.nan), {}, "NaN"),
    ],
)
def test_other_kinds_are_refused_in_words(values: np.ndarray, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UnreadableImageError, match=why) as caught:
        read(tiff(values, **options))
    assert caught.value.message.startswith("it.tif:")
    assert caught.value.remedy


def test_a_kind_that_pillow_misreads_is_not_taken_from_pillow() -> None:
    raw = tiff(values_of("u2", (8, 8)), photometric="miniswhite")
    with Image.open(io.BytesIO(raw)) as image, pytest.raises(UnreadableImageError, match="other values"):
        PillowSource(image, "in memory").read()


def test_a_huge_size_in_a_small_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnreadableImageError, match="exceeds limit"):
        read(tiff(np.zeros((8, 8))))


@pytest.mark.filterwarnings("ignore")
def test_a_file_without_its_last_bytes_is_refused() -> None:
    """What is left of packed values must not be taken for values."""
    whole = tiff(values_of("i1", (20, 20)), photometric="minisblack", compression="zlib")
    read(whole)
    for size in range(len(whole) - 20, len(whole)):
        with pytest.raises(UnreadableImageError):
            read(whole[:size])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_damage_is_an_error_and_half_a_file_is_never_read(data: st.DataObject) -> None:
    dtype, white = data.draw(st.sampled_from(["i1", "u2", "f8"])), data.draw(st.booleans())
    packed = data.draw(st.sampled_from([None, "zlib"]))
    photometric = "miniswhite" if white else "minisblack"
    whole = tiff(values_of(dtype, (20, 20)), photometric=photometric, compression=packed)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    with contextlib.suppress(UnreadableImageError):
        np.testing.assert_array_equal(read(cut), read(whole))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    content_hash(bytes(damaged), POLICY)
    with contextlib.suppress(UnreadableImageError):
        read(bytes(damaged))
