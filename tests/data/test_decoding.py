"""Every kind of pixel becomes the same RGB image, or a typed error; nothing is guessed."""

import contextlib
import dataclasses
import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFile

from biofuse.core.errors import DataError, UnreadableImageError
from biofuse.data.decoding import (
    FORMATS,
    ArraySource,
    DecodePolicy,
    FileSource,
    PillowSource,
    Remarks,
    content_hash,
    decode,
    decode_with_facts,
    pixel_hash,
    raw_image,
)

MINMAX = DecodePolicy()
FULL = DecodePolicy(sixteen_bit="full")
NOISE = np.random.default_rng(0).integers(0, 256, size=(12, 10, 3), dtype=np.uint8)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def read(raw: bytes | np.ndarray, policy: DecodePolicy = MINMAX) -> np.ndarray:
    image = decode(raw, policy, description="it.png")
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    return image


@pytest.mark.parametrize("file_format", ["BMP", "GIF", "PNG", "PPM", "TIFF"])
def test_lossless_formats_give_pillows_pixels(file_format: str) -> None:
    grey = Image.fromarray(NOISE[..., 0])
    np.testing.assert_array_equal(read(encode(grey, file_format)), np.repeat(NOISE[..., :1], 3, axis=2))
    if file_format != "GIF":
        np.testing.assert_array_equal(read(encode(Image.fromarray(NOISE), file_format)), NOISE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG"])
def test_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # a white corner at the top left
    undo = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
        6: np.rot90, 7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    decoded = read(encode(stored, file_format, exif=exif, **options))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).max() < 30


def test_transparency_is_composited_on_white() -> None:
    rgba = np.dstack([NOISE, np.random.default_rng(1).integers(0, 256, size=(12, 10), dtype=np.uint8)])
    image = Image.fromarray(rgba)
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
    assert np.abs(read(encode(image, "PNG")).astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(read(encode(image, "PNG")), read(rgba))
    assert (read(encode(Image.new("RGBA", (3, 3), (200, 0, 0, 0)), "PNG")) == 255).all()
    assert (read(encode(Image.new("LA", (3, 3), (7, 255)), "PNG")) == 7).all()
    assert (read(encode(Image.new("LA", (3, 3), (7, 0)), "PNG")) == 255).all()


def test_palettes_with_and_without_a_transparent_entry() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert read(encode(palette, "PNG")).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert read(encode(palette, "PNG", transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_are_converted_by_pillow(mode: str) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    np.testing.assert_array_equal(read(encode(image, "TIFF")), np.asarray(image.convert("RGB")))


def test_one_bit_images_are_black_and_white() -> None:
    bits = np.array([[True, False], [False, True]])
    expected = np.repeat(bits[..., None] * np.uint8(255), 3, axis=2)
    np.testing.assert_array_equal(read(encode(Image.fromarray(bits), "PNG")), expected)
    np.testing.assert_array_equal(read(bits), expected)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_by_both_policies(file_format: str) -> None:
    values = np.array([[1000, 2000], [3000, 5000]], dtype=np.uint16)
    raw = encode(Image.fromarray(values), file_format)
    assert read(raw)[..., 0].tolist() == [[0, 64], [128, 255]]
    assert read(raw, FULL)[..., 0].tolist() == [[4, 8], [12, 19]]
    np.testing.assert_array_equal(read(raw), read(values))
    np.testing.assert_array_equal(read(raw, FULL), read(values, FULL))


def tiff_of_signed_shorts(values: np.ndarray) -> bytes:
    height, width = values.shape
    entries = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (277, 3, 1), (278, 4, height)]
    entries += [(339, 3, 2)]
    offset = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [(273, 4, offset), (279, 4, values.nbytes)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + b"\0" * 4 + values.astype("<i2").tobytes()


def test_signed_sixteen_bit_tiff_keeps_its_own_range() -> None:
    values = np.array([[-32768, 0], [100, 32767]], dtype=np.int16)
    assert read(tiff_of_signed_shorts(values), FULL)[..., 0].tolist() == [[0, 128], [128, 255]]
    np.testing.assert_array_equal(read(tiff_of_signed_shorts(values)), read(values))


def test_floating_point_grey_by_both_policies() -> None:
    values = np.array([[0.0, 0.25], [0.5, 0.5]], dtype=np.float32)
    raw = encode(Image.fromarray(values), "TIFF")
    assert read(raw)[..., 0].tolist() == [[0, 128], [255, 255]]
    assert read(raw, FULL)[..., 0].tolist() == [[0, 64], [128, 128]]
    with pytest.raises(UnreadableImageError, match=r"from 0 to 2.5; they must lie in 0-1"):
        read(values * 5, FULL)


def test_a_constant_sixteen_bit_image_becomes_zero_by_minmax() -> None:
    assert (read(np.full((2, 2), 777, dtype=np.uint16)) == 0).all()


def test_colour_is_never_stretched() -> None:
    floats = np.full((2, 2, 3), 0.5)
    assert (read(floats) == 128).all()
    assert (read(np.full((2, 2, 3), 257 * 9, dtype=np.uint16)) == 9).all()
    with pytest.raises(UnreadableImageError, match="0-1"):
        read(floats * 255)
    with pytest.raises(UnreadableImageError, match="no agreed brightness range"):
        read(np.full((2, 2, 3), 200, dtype=np.int64))


def sixteen_bit_colour_png(values: np.ndarray) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_files_keep_the_high_byte() -> None:
    values = NOISE.astype(np.uint16) * 256 + 17
    np.testing.assert_array_equal(read(sixteen_bit_colour_png(values)), NOISE)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_array_layouts(shape: tuple[int, ...]) -> None:
    assert read(np.full(shape, 255, dtype=np.uint8)).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((3, 8, 9), dtype=np.uint8), r"channels first[\s\S]*transpose\(1, 2, 0\)"),
        (np.zeros((1, 8, 9)), "channels first"),
        (np.zeros((8, 9, 2), dtype=np.uint8), "not one image"),
        (np.zeros((2, 8, 9, 3), dtype=np.uint8), "not one image"),
        (np.zeros((0, 9), dtype=np.uint8), "no pixels"),
        (np.array([[np.nan, 1.0]]), "NaN"),
        (np.array([[np.inf, 1.0]]), "infinite"),
        (np.array([["a"]]), "not numbers"),
        (np.array([[1 + 1j]]), "not numbers"),
    ],
)
def test_arrays_that_are_no_images_say_why(array: np.ndarray, why: str) -> None:
    with pytest.raises(UnreadableImageError, match=why) as caught:
        read(array)
    assert caught.value.message.startswith("it.png:")
    assert caught.value.remedy


def test_float_images_with_nan_in_a_file_are_refused() -> None:
    with pytest.raises(UnreadableImageError, match="NaN"):
        read(encode(Image.fromarray(np.array([[np.nan, 1.0]], dtype=np.float32)), "TIFF"))


def test_the_page_is_chosen_by_the_policy() -> None:
    pages = [Image.new("L", (2, 2), level) for level in (10, 20, 30)]
    raw = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert [int(read(raw, DecodePolicy(page=page))[0, 0, 0]) for page in range(3)] == [10, 20, 30]
    with pytest.raises(UnreadableImageError, match="page 3 was asked for, but it has 3"):
        read(raw, DecodePolicy(page=3))
    assert content_hash(raw, DecodePolicy(page=1)) != content_hash(raw, MINMAX)


@pytest.mark.parametrize(("draft", "side"), [(None, 96), (49, 96), (48, 48), (20, 24), (12, 12), (1, 12)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_draft_is_what_libjpeg_makes_while_it_decodes(draft: int | None, side: int, mode: str) -> None:
    wave = np.sin(np.arange(96) / 7)
    pixels = (127 + 60 * wave[:, None, None] + 60 * wave[None, ::-1, None] * np.array([1.0, 0.5, -1.0])).astype(
        np.uint8
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: sides that matter are those of the file
    raw = encode(Image.fromarray(pixels).convert(mode).resize((120, 96)), "JPEG", quality=95, exif=exif)
    decoded, facts = decode_with_facts(raw, DecodePolicy(draft=draft), description="it.jpg")
    assert decoded.shape == (round(120 * side / 96), side, 3)
    with Image.open(io.BytesIO(raw)) as whole:
        if draft:
            whole.draft(None, (draft, draft))
        np.testing.assert_array_equal(decoded, np.rot90(np.asarray(whole.convert("RGB")), -1))
    assert (facts.width, facts.height) == (120, 96)
    with pytest.raises(UnreadableImageError):
        decode(raw[: len(raw) // 2], DecodePolicy(draft=draft), description="cut.jpg")


def test_a_draft_is_named_and_leaves_other_files_whole() -> None:
    draft, raw = DecodePolicy(draft=2), encode(Image.fromarray(NOISE), "PNG")
    assert content_hash(raw, draft) != content_hash(raw, MINMAX)
    assert MINMAX.hashed() == {"page": 0, "sixteen_bit": "minmax"}, "hashes of before it are the same"
    np.testing.assert_array_equal(read(raw, draft), NOISE)


# --- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.filterwarnings("ignore")
def test_bug_7_a_cut_off_file_is_an_error_or_whole_never_half(file_format: str, mode: str) -> None:
    raw = encode(Image.fromarray(NOISE).convert(mode), file_format)
    whole = read(raw)
    refused = 0
    for length in [*range(0, len(raw), 7), *range(len(raw) - 24, len(raw))]:
        try:
            decoded = read(raw[:length])
        except UnreadableImageError:
            refused += 1
        else:
            # Only closing bytes that carry no pixels (such as PNG's IEND) may be missing.
            assert len(raw) - length <= 20
            np.testing.assert_array_equal(decoded, whole)
    assert refused > len(raw) // 8


def test_bug_7_truncated_images_are_refused_even_if_another_library_allows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="LOAD_TRUNCATED_IMAGES"):
        read(encode(Image.fromarray(NOISE), "JPEG")[:-40])


def test_bug_7_a_jpeg2000_header_without_pixels_is_not_a_black_image() -> None:
    raw = encode(Image.fromarray(NOISE), "JPEG2000")
    start_of_tile = raw.index(b"\xff\x90")
    for length in range(start_of_tile - 4, start_of_tile + 16):
        with pytest.raises(UnreadableImageError):
            read(raw[:length])


@pytest.mark.parametrize(
    ("raw", "why", "remedy"),
    [
        (b"", "empty", "Repair"),
        (b"this is a letter, not a picture", "not an image of a known format", "Repair"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript drawing", "PNG"),
        (b"\0" * 128 + b"DICM" + b"\0" * 40, "a DICOM file", "ends in .dcm"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer", "git lfs pull"),
        (b"\xef\xbb\xbf \n<!DOCTYPE HTML>\n<html><body>Log in", "a web page", "login"),
        (b'{"error": "not found"}', "a JSON text", "download it again"),
        (b"\0\0\0\x18ftypheic\0\0", "a HEIC picture", "PNG or JPEG"),
        (b"\0" * 500, "nothing but zeros", "Copy it again"),
    ],
)
def test_foreign_files_say_why(raw: bytes, why: str, remedy: str) -> None:
    with pytest.raises(UnreadableImageError, match=why) as caught:
        read(raw)
    assert caught.value.message.startswith("it.png:")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("image", [np.zeros((3, 4), np.uint16), np.zeros((3, 4, 4), np.uint8)], ids=["grey", "RGBA"])
def test_an_image_for_which_there_is_no_memory_is_named(image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "zeros" if image.ndim == 2 else "empty", full)
    with pytest.raises(UnreadableImageError, match=r"it\.png: there is no memory") as caught:
        decode(image, MINMAX, description="it.png")
    assert "tiles" in caught.value.remedy


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnreadableImageError, match="exceeds limit"):
        read(encode(Image.fromarray(NOISE), "PNG"))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_never_raise_anything_else(data: st.DataObject) -> None:
    file_format = data.draw(st.sampled_from([name for name in FORMATS if name != "TIFF"]))
    raw = bytearray(encode(Image.fromarray(NOISE), file_format))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableImageError):
        read(bytes(raw))


# --- hashes ----------------------------------------------------------------------------------------------------------


def test_bug_15_the_content_hash_is_the_identity_of_data_and_policy() -> None:
    raw = encode(Image.fromarray(NOISE), "PNG")
    hashes = {
        content_hash(raw, MINMAX), content_hash(raw, FULL), content_hash(raw + b"x", MINMAX),
        content_hash(NOISE, MINMAX), content_hash(NOISE[:, ::-1], MINMAX),
        content_hash(NOISE.astype(np.int16), MINMAX), content_hash(NOISE.reshape(10, 12, 3), MINMAX),
    }  # fmt: skip
    assert len(hashes) == 7
    assert all(len(value) == 16 for value in hashes)


def test_bug_15_equal_names_in_two_folders_do_not_collide(tmp_path: Path) -> None:
    for folder, level in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        Image.new("L", (4, 4), level).save(tmp_path / folder / "same.png")
    first, second = (FileSource(tmp_path / folder / "same.png").read() for folder in ("a", "b"))
    assert content_hash(first, MINMAX) != content_hash(second, MINMAX)


@given(arrays(np.uint16, (3, 4)))
def test_array_hashes_do_not_depend_on_memory_layout(values: np.ndarray) -> None:
    expected = content_hash(values, MINMAX)
    assert content_hash(np.asfortranarray(values), MINMAX) == expected
    assert content_hash(values.astype(">u2"), MINMAX) == expected
    assert content_hash(np.repeat(values, 2, axis=0)[::2], MINMAX) == expected


def test_object_arrays_have_no_hash() -> None:
    with pytest.raises(DataError, match="Python objects"):
        content_hash(np.array([[None]]), MINMAX)


def test_the_pixel_hash_sees_through_file_formats() -> None:
    image = Image.fromarray(NOISE)
    png, bmp = encode(image, "PNG"), encode(image, "BMP")
    assert content_hash(png, MINMAX) != content_hash(bmp, MINMAX)
    assert pixel_hash(read(png)) == pixel_hash(read(bmp)) != pixel_hash(read(png)[::-1])
    assert pixel_hash(np.zeros((2, 3, 3), np.uint8)) != pixel_hash(np.zeros((3, 2, 3), np.uint8))


def test_the_policy_refuses_unknown_fields_and_values() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        DecodePolicy(window="lung")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="greater than or equal"):
        DecodePolicy(page=-1)


def test_image_facts() -> None:
    stack = encode(Image.new("L", (7, 5)), "TIFF", save_all=True, append_images=[Image.new("L", (7, 5))])
    facts = decode_with_facts(stack, MINMAX, description="it")[1]
    assert (facts.format, facts.mode, facts.width, facts.height, facts.pages) == ("TIFF", "L", 7, 5, 2)
    facts = decode_with_facts(NOISE.astype(np.uint16), MINMAX, description="it")[1]
    assert (facts.mode, facts.pages, facts.deep) == ("uint16x3", 1, False)
    assert decode_with_facts(NOISE[..., 0].astype(np.uint16), MINMAX, description="it")[1].deep


def test_what_is_remarkable_of_many_images_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    here, there = Remarks(), Remarks()
    for number in range(5):
        facts = decode_with_facts(np.full((9, 9 + 3 * number), 7, np.uint16), MINMAX, description="it")[1]
        (here if number % 2 else there).add(
            bytes([number]), f"{number}.tif", dataclasses.replace(facts, pages=1 + number)
        )
    here.merge(there)
    here.merge(there)  # the same images again, for other encoders
    pages, deep, large = here.sentences(DecodePolicy(page=1))
    assert pages.startswith(
        "4 image(s) have several pages, of which page 1 (from 0) is read: `page=` chooses: 1.tif (2)"
    )
    assert deep.startswith("5 image(s) are grey of more than 8 bits and were made 8-bit by `sixteen_bit='minmax'`")
    assert large.startswith("4 image(s) have so many pixels")
    assert Remarks().sentences(MINMAX) == []


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"absent.png: does not exist") as caught:
        FileSource(tmp_path / "absent.png").read()
    assert caught.value.remedy
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        FileSource(tmp_path).read()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_pillow_images_and_files_decode_alike(mode: str) -> None:
    image = Image.fromarray(NOISE[..., 0]).convert(mode)
    raw = encode(image, "TIFF")
    source = PillowSource(image, "in memory")
    np.testing.assert_array_equal(decode(source.read(), MINMAX, description="in memory"), read(raw))


def test_a_lazy_pillow_image_of_a_cut_off_file_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(encode(Image.fromarray(NOISE), "JPEG")[:-60])
    with Image.open(path) as image, pytest.raises(UnreadableImageError, match="half: cannot be decoded"):
        PillowSource(image, "half").read()


def test_sources_survive_the_trip_to_a_worker(tmp_path: Path) -> None:
    file = FileSource(tmp_path / "a.png")
    assert pickle.loads(pickle.dumps(file)) == file  # noqa: S301
    array = pickle.loads(pickle.dumps(ArraySource(NOISE, "x")))  # noqa: S301
    np.testing.assert_array_equal(array.read(), NOISE)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(UnreadableImageError, match="dict is not an image"):
        raw_image({}, description="row 3")
