import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.sequence import Sequence

from biofuse.core.errors import DataError, UnreadableImageError
from biofuse.data.config import DataConfig
from biofuse.data.decoding import DecodePolicy
from biofuse.data.dicom import grey_values, header_of, open_file, recognises
from biofuse.data.load import load_samples
from biofuse.data.windows import PERCENTILES, WINDOWS, Window

FILES = Path(pydicom.__file__).parent / "data"
CT, MR, CINE, PALETTE = (
    FILES / "test_files" / name
    for name in ("CT_small.dcm", "MR_small.dcm", "examples_ybr_color.dcm", "examples_palette.dcm")
)

UNREADABLE = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "cannot be decoded",
    "MR_truncated.dcm": "is cut off: its pixels end 62 bytes after the file does",
    "badVR.dcm": r"header is damaged \(ValueError\)",
    "meta_missing_tsyntax.dcm": "lacks Rows, Columns",
    "nested_priv_SQ.dcm": "lacks Rows, Columns",
    "DICOMDIR": "no image but the index of a medium",
    "rtplan.dcm": "no image but a treatment plan",
    "rtstruct.dcm": "no image but a set of outlines",
    "test-SR.dcm": r"no image but a report \(SR\)",
    "waveform_ecg.dcm": "no image but a waveform",
    "priv_SQ.dcm": "without pixel data: it is cut off, or a header alone",
}
"""Of pydicom's own files those that have no image, one of each kind, and what is said of them."""


TWELVE_BIT = {"JPEG-lossy.dcm", "JPGExtended.dcm"}
"""JPEG of 12 bits, which pydicom decodes only by a library under the GPL."""


def as_pydicom_shows(dataset: Dataset, frame: int = 0, sampled: list[int] | None = None) -> NDArray[np.uint8]:
    """Show a frame by pydicom's functions alone."""
    pixels = pixel_array(dataset, index=frame)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return np.rint(apply_color_lut(pixels, dataset) / 257.0).astype(np.uint8)
    if dataset.get("SamplesPerPixel", 1) > 1:
        return np.rint(pixels * (255.0 / (2.0**dataset.BitsStored - 1.0))).astype(np.uint8)
    values = apply_modality_lut(pixels, dataset)
    measured = [apply_modality_lut(pixel_array(dataset, index=each), dataset) for each in sampled or [frame]]
    low, high = np.percentile(measured, PERCENTILES)
    if dataset.BitsStored <= 8 and dataset.PixelRepresentation == 0:
        low, high = 0, 2**dataset.BitsStored - 1
    if dataset.get("VOILUTSequence"):
        values = apply_voi_lut(values.astype(int), dataset)
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif "WindowWidth" in dataset:
        signed = dataset.PixelRepresentation * 2 ** (dataset.BitsStored - 1)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        values = apply_voi_lut(values, dataset)
        low, high = slope * -signed + intercept, slope * (2**dataset.BitsStored - 1 - signed) + intercept
        if dataset.get("ModalityLUTSequence"):
            low, high = 0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    grey = np.rint(np.clip((values - low) * (255.0 / (high - low)), 0, 255)).astype(np.uint8)
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write one of pydicom's images anew, with other elements."""

    def write(source: Path = CT, *, name: str = "image.dcm", **elements: object) -> Path:
        dataset = pydicom.dcmread(source)
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(tmp_path / name)
        return tmp_path / name

    return write


def table(values: list[int], first: int, bits: int) -> Sequence:
    """Return a lookup table as DICOM holds it."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [len(values), first, bits])
    item.add_new("LUTData", "US", values)
    return Sequence([item])


def test_every_file_of_pydicom_is_read_as_pydicom_shows_it_or_refused_by_name() -> None:
    shown, refused = 0, dict[str, UnreadableImageError]()
    for path in sorted(FILES.rglob("*")):
        if not path.is_file() or not recognises(path, path.read_bytes()[:512]):
            continue
        try:
            opened = open_file(path, DataConfig(slices="all"))
            images = [image.read() for image in opened.images]
        except UnreadableImageError as error:
            refused[str(path)] = error
            continue
        dataset, last = pydicom.dcmread(path), len(images) - 1
        shown += 1
        if path.name in TWELVE_BIT:
            continue
        assert len(images) == int(dataset.get("NumberOfFrames") or 1)
        assert opened.is_bag == (len(images) > 1)
        sampled = np.linspace(0, last, min(last + 1, 8)).round().astype(int).tolist()
        for frame in {0, last}:
            np.testing.assert_array_equal(images[frame], as_pydicom_shows(dataset, frame, sampled), err_msg=path.name)
    assert shown == 102
    assert len(refused) == 89
    assert all(path in error.message and error.remedy for path, error in refused.items())
    for name, said in UNREADABLE.items():
        assert any(Path(path).name == name and re.search(said, error.message) for path, error in refused.items()), name


BARE = {"RescaleSlope": None, "RescaleIntercept": None}


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": 40, "WindowWidth": 400},
        {"WindowCenter": ["40", "-600"], "WindowWidth": ["80", "1500"], "PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": 40.5, "WindowWidth": 80.25, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 100, "WindowWidth": 300, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": table([0, 100, 4095, 50, 700], -20, 12), "WindowCenter": 40, "WindowWidth": 80},
        {
            **BARE,
            "ModalityLUTSequence": table(list(range(0, 40000, 20)), 0, 16),
            "WindowCenter": 9000,
            "WindowWidth": 18000,
        },
        {
            **BARE,
            "ModalityLUTSequence": table(list(range(0, 40000, 20)), 0, 16),
            "VOILUTSequence": table([7, 0, 3, 90, 255] * 1000, 8000, 8),
        },
        {"RescaleSlope": 2.5, "RescaleIntercept": -7},
        {"PixelPaddingValue": None, **BARE},
    ],
    ids="-".join,
)
def test_grey_is_shown_as_pydicom_shows_it(written: Callable[..., Path], elements: dict[str, object]) -> None:
    path = written(**elements)
    (image,) = open_file(path, DataConfig()).images
    grey = image.read()
    np.testing.assert_array_equal(grey, as_pydicom_shows(pydicom.dcmread(path)))
    assert len(np.unique(grey)) > 3


def test_frames_of_an_enhanced_file_have_their_own_rescaling_and_window(written: Callable[..., Path]) -> None:
    def groups(**elements: object) -> Dataset:
        found = Dataset()
        for name, keywords in {
            "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
            "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
        }.items():
            item = Dataset()
            for keyword in keywords:
                if keyword in elements:
                    setattr(item, keyword, elements[keyword])
            if len(item):
                setattr(found, name, Sequence([item]))
        return found

    single = pydicom.dcmread(CT)
    frames = [{"WindowCenter": 40, "WindowWidth": 80}, {"WindowCenter": 500, "WindowWidth": 2000}]
    path = written(
        NumberOfFrames=2,
        PixelData=single.PixelData * 2,
        **BARE,
        SharedFunctionalGroupsSequence=Sequence([groups(RescaleSlope=1, RescaleIntercept=-1024)]),
        PerFrameFunctionalGroupsSequence=Sequence([groups(**each) for each in frames]),
    )
    opened = open_file(path, DataConfig())
    assert opened.is_bag
    assert opened.about.facts["frames"] == 2
    for image, window in zip(opened.images, frames, strict=True):
        one = pydicom.dcmread(CT)
        one.WindowCenter, one.WindowWidth = window.values()
        np.testing.assert_array_equal(image.read(), as_pydicom_shows(one))
    values = grey_values(header_of(opened.images[0].file), 1)
    np.testing.assert_array_equal(values, single.pixel_array - 1024.0)


def test_the_window_that_is_asked_for_goes_before_the_files_own(written: Callable[..., Path]) -> None:
    path = written(WindowCenter=40, WindowWidth=80)
    values = apply_modality_lut(pydicom.dcmread(CT).pixel_array, pydicom.dcmread(CT))
    for text in ("lung", "-600, 1500"):
        (image,) = open_file(path, DataConfig(window=text)).images
        np.testing.assert_array_equal(image.read(), np.rint(np.clip((values + 1350) * (255 / 1500), 0, 255)))
    (image,) = open_file(path, DataConfig(window="percentiles")).images
    low, high = np.percentile(values, PERCENTILES)
    np.testing.assert_array_equal(image.read(), np.rint(np.clip((values - low) * (255 / (high - low)), 0, 255)))


def test_what_is_padded_decides_nothing(written: Callable[..., Path]) -> None:
    dataset = pydicom.dcmread(CT)
    pixels = dataset.pixel_array.copy()
    pixels[:, :100] = -2000
    path = written(PixelData=pixels.tobytes(), PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME2")
    (image,) = open_file(path, DataConfig()).images
    grey = image.read()
    kept = pixels[:, 100:].astype(float)
    low, high = np.percentile(kept, PERCENTILES)
    np.testing.assert_array_equal(grey[:, 100:], np.rint(np.clip((kept - low) * (255 / (high - low)), 0, 255)))
    assert (grey[:, :100] == 0).all()


def test_a_window_of_ct_is_refused_of_anything_else_and_so_is_what_is_none() -> None:
    with pytest.raises(UnreadableImageError, match="window of CT, in Hounsfield units; its modality is MR"):
        open_file(MR, DataConfig(window="lung"))
    for text in ("lnug", "40", "40,0", "40,nan", "1,2,3"):
        with pytest.raises(DataError, match="There is no window"):
            DataConfig(window=text)
    assert DataConfig(window=(40, 80)).window == "40,80"
    assert Window.of("Soft_Tissue".lower().replace("_", "-")) == Window(centre=50.0, width=400.0, name="soft-tissue")
    assert all(width > 0 for _, width in WINDOWS.values())


@pytest.mark.parametrize("source", [CT, CINE, PALETTE], ids=["plain", "JPEG", "palette"])
def test_a_file_that_is_cut_off_anywhere_is_no_image(source: Path, tmp_path: Path) -> None:
    whole = source.read_bytes()
    for kept in np.linspace(140, len(whole) - 200, 12).astype(int):
        path = tmp_path / f"{kept}.dcm"
        path.write_bytes(whole[:kept])
        with pytest.raises(UnreadableImageError, match=r"cut off|lacks|damaged"):
            open_file(path, DataConfig())


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    for name in ("1.2.840.113619", "scan", "scan.bin"):
        assert recognises(tmp_path / name, CT.read_bytes()[:512])
    assert not recognises(tmp_path / "scan.dcm", b"\x89PNG\r\n" * 80)
    assert not recognises(tmp_path / "scan.dcm", b"")
    bare = CT.read_bytes()[132:]
    (tmp_path / "old.dcm").write_bytes(bare)
    assert recognises(tmp_path / "old.dcm", bare[:512])
    (image,), (same,) = (open_file(path, DataConfig()).images for path in (CT, tmp_path / "old.dcm"))
    np.testing.assert_array_equal(image.read(), same.read())


@pytest.mark.parametrize(
    ("slices", "frames", "said"),
    [
        ("32", range(30), ""),
        ("3", [5, 15, 25], ""),
        ("every:10", [0, 10, 20], ""),
        ("at:50%", [14], ""),
        ("at:7,90", [7], "has 30 frames, and none of 90"),
    ],
)
def test_frames_of_a_film_are_thinned_as_slices_of_a_volume_are(slices: str, frames: list[int], said: str) -> None:
    opened = open_file(CINE, DataConfig(slices=slices))
    assert [image.frame for image in opened.images] == list(frames)
    assert opened.about.facts["frames used"] == len(frames)
    assert said in " ".join(opened.warnings)
    assert bool(said) == bool(opened.warnings)
    (image,) = open_file(CT, DataConfig(slices=slices)).images  # a file of one image is no film
    assert image.frame == 0


def test_frames_that_are_not_there_are_an_error() -> None:
    with pytest.raises(UnreadableImageError, match="has 30 frames, and none of 90") as caught:
        open_file(CINE, DataConfig(slices="at:90"))
    assert "`slices=`" in caught.value.remedy


def test_content_is_the_file_the_frame_and_the_window(tmp_path: Path) -> None:
    copy = Path(shutil.copy(CINE, tmp_path / "copy"))
    first, second = open_file(CINE, DataConfig()).images[:2]
    policy = DecodePolicy()
    assert first.content(policy) == open_file(copy, DataConfig()).images[0].content(policy)
    others = [second, *open_file(CINE, DataConfig(window="40,80")).images[:1]]
    assert len({image.content(policy) for image in [first, *others]}) == 3
    assert first.description.endswith("examples_ybr_color.dcm, frame 0")
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301
    image = open_file(copy, DataConfig()).images[0]
    with copy.open("ab") as file:
        file.write(b"0")
    with pytest.raises(UnreadableImageError, match="changed after the data were read"):
        image.read()


def test_of_whom_it_is_a_hash_says_whether_two_are_the_same_and_nothing_else(written: Callable[..., Path]) -> None:
    said = {
        "PatientID": "MRN-7741",
        "PatientName": "Doe^Jane",
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.9",
    }
    first = open_file(written(**said), DataConfig())
    again = open_file(written(MR, name="again.dcm", **{**said, "SeriesInstanceUID": "1.8"}), DataConfig())
    assert first.identifiers.keys() == {"patient", "study", "series"}
    assert first.identifiers["patient"] == again.identifiers["patient"]
    assert first.identifiers["study"] == again.identifiers["study"]
    assert first.identifiers["series"] != again.identifiers["series"]
    assert "patient" not in open_file(written(PatientID=" "), DataConfig()).identifiers
    known = f"{first!r}{pickle.dumps(first)!r}"
    assert not [value for value in said.values() if value in known]


def test_words_in_the_pixels_are_warned_of(written: Callable[..., Path]) -> None:
    assert not open_file(written(BurnedInAnnotation="NO"), DataConfig()).warnings
    (said,) = open_file(written(BurnedInAnnotation="YES"), DataConfig()).warnings
    assert "words are burned into its pixels" in said


def test_a_window_that_nothing_is_shown_by_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "1.png")
    shutil.copy(PALETTE, tmp_path / "2.dcm")
    with pytest.raises(DataError, match="is of grey DICOM files and NIfTI volumes, and there are none"):
        load_samples(tmp_path, window="40,80")
    shutil.copy(CT, tmp_path / "3.dcm")
    assert len(load_samples(tmp_path, window="40,80")) == 3


def test_jpeg_of_twelve_bits_is_what_pydicoms_decoder_under_the_gpl_makes_of_it() -> None:
    (image,) = open_file(FILES / "test_files" / "JPGExtended.dcm", DataConfig()).images
    values = grey_values(header_of(image.file))
    # What pylibjpeg-libjpeg 2.5.0 decodes: extremes, and two pixels that pydicom's own tests look at.
    assert (values.min(), values.max(), values[420, 140], values[230, 120]) == (0, 264, 244, 95)
    (damaged,) = open_file(FILES / "test_files" / "JPEG-lossy.dcm", DataConfig()).images  # the same, its header wrong
    np.testing.assert_array_equal(damaged.read(), image.read())
