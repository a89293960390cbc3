"""Names of images that are not written as the files are called, and folders that they are looked for in."""

import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from biofuse.core.errors import DataError
from biofuse.data.decoding import FORMATS
from biofuse.data.load import load_samples
from biofuse.data.lookup import PICTURE_SUFFIXES, ImageFinder, as_path, same_name
from biofuse.data.samples import Samples


def table(folder: Path, names: list[str], header: str = "image") -> Path:
    path = folder / "labels.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{header},label\n" + "".join(f'"{name}",{"ab"[row % 2]}\n' for row, name in enumerate(names)))
    return path


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name, "PNG")


def files(samples: Samples) -> list[str]:
    return [source.description for source in samples.sources]


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Müller_é.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("written", "stored", "said"),
    [
        (["im/1.png", "im/2.png"], ["im/1.png", "im/2.png"], None),
        (
            ["im/1", "im/2"],
            ["im/1.jpg", "im/2.jpg"],
            "2 of 2 names have no extension, which `extension=` gives: im/1 is read from im/1.jpg",
        ),
        (["1.2.840.1", "1.2.840.2"], ["1.2.840.1.png", "1.2.840.2.png"], "have no extension"),
        (["1.JPG", "2.JPG"], ["1.jpg", "2.jpg"], "differ from the files' in case"),
        (["IM/1.jpg", "im/2.jpg"], ["im/1.jpg", "im/2.jpg"], "1 of 2 names differ from the files' in case"),
        ([COMPOSED, "2.png"], [DECOMPOSED, "2.png"], "(Unicode)"),
        (["x1", "x2"], ["part_1/x1.jpg", "part_2/x2.jpg"], "The images are taken from"),
        (["1.png", "2.png"], ["images_001/images/1.png", "images_002/images/2.png"], "`root=` names another folder"),
        (["train/1.png", "train/2.png"], ["set/train/1.png", "set/train/2.png"], "The images are taken from"),
        (["/gone/a/im/1.png", "/gone/a/im/2.png"], ["im/1.png", "im/2.png"], "The images are taken from"),
        (["C:\\me\\im\\1.png", "C:\\me\\im\\2.png"], ["im/1.png", "im/2.png"], "The images are taken from"),
        (["data/im/1.png", "data/im/2.png"], ["im/1.png", "im/2.png"], "The images are taken from"),
        (["im/1.png", "im/2.png"], ["../im/1.png", "../im/2.png"], "The images are taken from"),
        (["1", "12"], ["Set 1/001.bmp", "Set 1/012.bmp"], "names are numbers without their leading zeros: 1 is"),
    ],
)
def test_names_are_found_and_what_is_not_as_written_is_said(
    tmp_path: Path, written: list[str], stored: list[str], said: str | None
) -> None:
    folder = tmp_path / "data"
    pictures(folder, *stored)
    samples = load_samples(table(folder, written))
    assert [Path(name).resolve() for name in files(samples)] == [(folder / name).resolve() for name in stored]
    told = " ".join(note for note in samples.notes if "names" in note)
    assert said in told if said else not told


@pytest.mark.parametrize("written", [["x/1.png", "/gone/2.png"], ["/gone/2.png", "x/1.png"]])
def test_whole_paths_and_others_stand_in_one_table(tmp_path: Path, written: list[str]) -> None:
    pictures(tmp_path, "a/x/1.png")
    samples = load_samples(table(tmp_path, written))
    assert str(tmp_path / "a/x/1.png") in files(samples)
    assert "1 of 2 images are missing, such as /gone/2.png" in samples.warnings[0]


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        (["a/1.png", "b/1.png", "a/2.png"], "several readings: 1.png is a/1.png or b/1.png"),
        (["1.PNG", "1.Png", "2.png"], "several readings: 1.png is 1.PNG or 1.Png"),
    ],
)
def test_two_readings_are_refused_with_both_named(tmp_path: Path, stored: list[str], named: str) -> None:
    pictures(tmp_path, *stored)
    with pytest.raises(DataError, match=named):
        load_samples(table(tmp_path, ["1.png", "2.png"]))


def test_two_extensions_are_asked_about(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png", "1.jpg", "2.png", "2.jpg")
    listed = table(tmp_path, ["1", "2"])
    with pytest.raises(DataError, match=r"1 is 1.jpg or 1.png"):
        load_samples(listed, extension="")
    with pytest.raises(DataError, match=r"1 is 1.jpg or 1.png") as caught:
        load_samples(listed)
    assert "`extension='.jpg'` or `extension='.png'`" in caught.value.remedy
    assert files(load_samples(listed, extension="jpg")) == [str(tmp_path / f"{name}.jpg") for name in (1, 2)]


def test_what_is_missing_is_looked_for_before_it_is_reported(tmp_path: Path) -> None:
    pictures(tmp_path, "images/1.jpeg", "images/2.jpeg")
    labels = table(tmp_path / "labels", ["1.png", "2.png"])
    with pytest.raises(DataError, match=r"2 of 2 images are missing, such as 1\.png") as caught:
        load_samples(labels)
    assert f"give `root='{tmp_path / 'images'}'` `extension='.jpeg'`" in caught.value.remedy
    assert len(load_samples(labels, root=tmp_path / "images", extension=".jpeg")) == 2
    pictures(tmp_path, "labels/2.png")
    assert "1 of 2 images are missing, such as 1.png" in load_samples(labels).warnings[0]


def test_a_root_is_the_only_place_and_may_lie_beside_the_table(tmp_path: Path) -> None:
    pictures(tmp_path, "one/1.png", "two/1.png")
    listed = table(tmp_path, ["1.png"])
    assert files(load_samples(listed, root="two", classes=["a", "b"])) == [str(tmp_path / "two" / "1.png")]
    with pytest.raises(DataError, match="1 of 1 images are missing"):
        load_samples(listed, root=tmp_path / "three", classes=["a", "b"])


def test_rows_that_are_one_file_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png")
    with pytest.raises(DataError, match=r"lists 1 image.* more than once: 1.png, 1 are"):
        load_samples(table(tmp_path, ["1.png", "1"]))


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "1.czi").write_bytes(b"x")
    with pytest.raises(DataError) as caught:
        load_samples(table(tmp_path, ["1"]))
    assert "scans/1.czi exists, but images of this kind are not read" in caught.value.remedy


def test_home_is_known_and_addresses_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path.as_posix()
    for text in ("~/a b.png", "$HOME/a b.png", "file:///" + home.lstrip("/") + "/a%20b.png"):
        assert as_path(text) == f"{home}/a b.png"
    assert as_path("https://host/a%20b.png") == "https://host/a%20b.png"


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_found_with_one_listing_of_each_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(1000):
        (tmp_path / "images" / f"{number:04d}.JPG").touch()
    names = [f"images/{number % 1000:04d}.jpg" for number in range(100_000)]
    begun = time.perf_counter()
    assert ImageFinder(tmp_path).find(names, where="t").warnings == ()
    assert time.perf_counter() - begun < 20


def test_files_are_taken_for_images_by_the_suffixes_of_the_formats_that_are_opened() -> None:
    Image.init()
    formats = Image.registered_extensions()
    ours = {suffix for suffix, name in formats.items() if name in FORMATS}
    # Pillow calls two kinds of BMP and JPEG otherwise, and does not know these names of JPEG 2000 and BigTIFF.
    assert {formats.get(suffix) for suffix in PICTURE_SUFFIXES - ours} == {"DIB", "MPO", None}
    assert {suffix for suffix in PICTURE_SUFFIXES if suffix not in formats} == {".btf", ".jpeg2000", ".tf8"}
    assert ours - PICTURE_SUFFIXES == {".pfm"}, "grey floating-point maps, which are no 8-bit or 16-bit images"


@given(st.text(min_size=1, max_size=6))
def test_names_share_what_case_and_composition_do_not_change(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert same_name(unicodedata.normalize(form, text)) == same_name(text)


def test_paths_from_the_working_directory_are_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, "a/im/1.png", "a/im/2.png")
    listed = table(tmp_path / "lists" / "deep", ["a/im/1.png", "a/im/2.png"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_samples(listed)
    assert "below the working directory: give `root='.'`" in caught.value.remedy
    assert len(load_samples(listed, root=".")) == 2
