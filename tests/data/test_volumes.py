"""Volumes: the slices that nibabel's own reading gives, turned alike whatever the file's order, and clear refusals."""

import gzip
import itertools
import pickle
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import DataError, DependencyError, UnreadableImageError
from biofuse.data import remembered
from biofuse.data.config import DataConfig
from biofuse.data.cuts import Bag, Cut, Opened, Source, chosen
from biofuse.data.decoding import DecodePolicy
from biofuse.data.load import load_samples
from biofuse.data.volumes import AXES, Axis, VolumeSlice, open_file, read_volume, recognises, scan
from biofuse.data.windows import percentiles, to_grey
from biofuse.encoders import pin
from biofuse.encoders.registry import resolve
from biofuse.extract.engine import extract
from biofuse.store.store import EmbeddingStore

SHIPPED = Path(nibabel.__file__).parent / "tests" / "data"
FILES = ("anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii", "standard.nii.gz")
"""Of nibabel: big-endian, compressed, NIfTI 2, with slope and intercept, with one spacing for each axis."""

RAS = np.diag([2.0, 2.0, 2.0, 1.0])


def ramp(*shape: int) -> NDArray[np.float32]:
    """Voxels that are all different, so that whatever is exchanged shows."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def write(path: Path, voxels: NDArray[np.generic], affine: NDArray[np.float64] = RAS) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def opened(path: Path, **options: object) -> Opened:
    return open_file(path, DataConfig(**options))


def slices(found: Opened) -> list[VolumeSlice]:
    assert all(isinstance(image, VolumeSlice) for image in found.images)
    return [image for image in found.images if isinstance(image, VolumeSlice)]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what nibabel was asked to read."""
    asked: list[object] = []
    real = nibabel.Nifti1Image.from_file_map
    monkeypatch.setattr(
        nibabel.Nifti1Image, "from_file_map", lambda files, **how: (asked.append(files), real(files, **how))[1]
    )
    return asked


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", FILES)
def test_slices_are_those_of_nibabels_canonical_volume(name: str, axis: Axis) -> None:
    canonical = nibabel.as_closest_canonical(nibabel.load(SHIPPED / name))
    whole = np.asarray(canonical.dataobj)
    page = int(whole.ndim == 4)
    whole = whole[..., page] if page else whole
    shown = whole[(whole != 0) & (whole != whole.min())]
    low, high = np.percentile(shown, (0.5, 99.5)).tolist()
    limits = (low, high) if low < high else (float(whole.min()), float(whole.max()))  # one of the files is a mask
    for image in slices(opened(SHIPPED / name, axis=axis, slices="all", page=page)):
        plane = whole.take(image.index, axis=AXES.index(axis))[::-1, ::-1].T
        np.testing.assert_array_equal(read_volume(image.file, image.time).slice(axis, image.index), plane)
        assert image.limits == pytest.approx(limits, rel=1e-5)
        height, width = (zoom for zoom in np.delete(canonical.header.get_zooms()[:3], AXES.index(axis))[::-1])
        sides = plane.shape[0] * height / min(height, width), plane.shape[1] * width / min(height, width)
        pixels = image.read()
        assert pixels.shape == tuple(round(float(side)) for side in sides)
        if pixels.shape == plane.shape:
            np.testing.assert_array_equal(pixels, to_grey(plane, *image.limits or limits))


def test_every_order_of_axes_gives_the_same_slices_in_the_radiological_view(tmp_path: Path) -> None:
    voxels = np.zeros((5, 6, 7), dtype=np.int16)
    voxels[1:4, 1:5, 1:6] = 100 + ramp(3, 4, 5)
    voxels[3, 1, 5] = 900  # right, behind, above
    canonical = nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0]))
    expected = None
    for order in itertools.permutations([("L", "R"), ("P", "A"), ("I", "S")]):
        for codes in itertools.product(*order):
            turned = canonical.as_reoriented(ornt_transform(io_orientation(canonical.affine), axcodes2ornt(codes)))
            nibabel.save(turned, tmp_path / f"{''.join(codes)}.nii")
            found = opened(tmp_path / f"{''.join(codes)}.nii", slices="all")
            views = np.stack([image.read() for image in slices(found)])
            assert [image.axis for image in slices(found)] == ["axial"] * 5  # 3 mm apart, and two of seven are empty
            expected = views if expected is None else expected
            np.testing.assert_array_equal(views, expected, err_msg=str(codes))
    assert expected is not None
    above, row, column = np.unravel_index(expected.argmax(), expected.shape)
    assert (above, row, column) == (4, 4, 1), "right is at the left of the picture, the back at its foot"


def test_pixels_become_square_along_their_longer_side(tmp_path: Path) -> None:
    path = write(tmp_path / "thick.nii.gz", ramp(10, 12, 4), np.diag([1.0, 1.0, 5.0, 1.0]))
    assert {image.axis for image in slices(opened(path))} == {"axial"}
    assert opened(path).images[0].read().shape == (12, 10)
    assert opened(path, axis="coronal").images[0].read().shape == (20, 10)
    assert opened(path, axis="sagittal").images[0].read().shape == (20, 12)


def test_empty_slices_are_passed_over_and_the_rest_are_evenly_spaced(tmp_path: Path) -> None:
    voxels = np.zeros((8, 8, 40), dtype=np.int16)
    voxels[2:6, 2:6, 10:30] = 1 + ramp(4, 4, 20)
    path = write(tmp_path / "head.nii.gz", voxels)
    assert [image.index for image in slices(opened(path))] == list(range(10, 30))
    assert [image.index for image in slices(opened(path, slices=4))] == [12, 17, 22, 27]
    assert [image.index for image in slices(opened(path, slices="every:8"))] == [10, 18, 26]
    assert [image.index for image in slices(opened(path, slices="at:50%, 12"))] == [12, 20]
    some = opened(path, slices="at:5,12")
    assert [image.index for image in slices(some)] == [12]
    assert "5 show nothing" in some.warnings[0]
    with pytest.raises(UnreadableImageError, match="5 shows nothing") as caught:
        opened(path, slices="at:5")
    assert "from 10 to 29" in caught.value.remedy
    assert opened(path).about.facts["empty slices"] == 20


@pytest.mark.parametrize("rule", ["0", "every:0", "at:", "at:-1", "at:1.5", "middle", "every:2,3", ""])
def test_a_rule_that_chooses_nothing_is_refused(rule: str) -> None:
    with pytest.raises(DataError, match="slices"):
        DataConfig(slices=rule)


@pytest.mark.parametrize("n", [1, 2, 7, 31, 32, 33, 200])
def test_evenly_spaced_slices_leave_gaps_that_differ_by_one_at_most(n: int) -> None:
    found = chosen("32", range(n), n)[0]
    gaps = np.diff([-1, *found, n]) if n < 32 else np.diff(found)
    assert len(found) == min(n, 32)
    assert gaps.max() - gaps.min() <= 1
    assert abs((found[0]) - (n - 1 - found[-1])) <= 1, "as far from one end as from the other"


def test_a_window_serves_the_whole_volume(tmp_path: Path) -> None:
    units = np.linspace(-1000.0, 1000.0, 6 * 6 * 6).reshape(6, 6, 6).astype(np.float32)
    path = write(tmp_path / "ct.nii.gz", units)
    found = opened(path, window="-600,1500", slices="all")
    np.testing.assert_array_equal(slices(found)[2].read(), to_grey(units[:, :, 2][::-1, ::-1].T, -1350.0, 150.0))
    with pytest.raises(UnreadableImageError, match="no axial slice shows anything") as caught:
        opened(path, window="5000,10")
    assert "`window=`" in caught.value.remedy


def test_masks_colours_and_single_slices_are_read_as_they_are(tmp_path: Path) -> None:
    mask = np.zeros((6, 6, 3), dtype=np.uint8)
    mask[2:4, 3, 1] = 1
    only = opened(write(tmp_path / "mask.nii", mask))
    assert len(only.images) == 1
    np.testing.assert_array_equal(only.images[0].read(), 255 * mask[:, :, 1][::-1, ::-1].T)
    flat = opened(write(tmp_path / "flat.nii.gz", ramp(4, 1, 5)))
    assert slices(flat)[0].axis == "coronal"
    assert opened(write(tmp_path / "picture.nii.gz", ramp(4, 5))).images[0].read().shape == (5, 4)
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 2, 3)).astype(np.uint8)
    stored = np.ascontiguousarray(colours).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    coloured = opened(write(tmp_path / "colour.nii", stored))
    assert coloured.is_bag
    np.testing.assert_array_equal(coloured.images[1].read(), colours[:, :, 1][::-1, ::-1].swapaxes(0, 1))


def test_what_is_unusual_is_said(tmp_path: Path) -> None:
    voxels = ramp(4, 5, 6, 3)
    voxels[0, 0, 0] = np.nan
    image = nibabel.Nifti1Image(voxels, RAS)
    image.header["descrip"] = image.header["db_name"] = b"Mustermann"
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "series.nii.gz")
    found = opened(tmp_path / "series.nii.gz", page=2)
    said = " ".join(found.warnings)
    for part in ("holds 3 volumes", "number 2", "which way is right", "0.83% of its voxels are no numbers"):
        assert part in said
    assert "Mustermann" not in repr(found)
    least = np.nanmin(voxels[..., 2])
    np.testing.assert_array_equal(
        np.sort(read_volume(slices(found)[0].file, 2).voxels, axis=None),
        np.sort(np.nan_to_num(voxels[..., 2], nan=least), axis=None),
    )


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


BAD = {
    "cut off": (ramp(8, 8, 8), _cut_off, "cannot be read"),
    "NaN": (np.full((4, 4, 4), np.nan, dtype=np.float32), None, "all its voxels are NaN or infinite"),
    "one value": (np.full((4, 4, 4), 7, dtype=np.int16), None, "shows anything; its voxels run from 7 to 7"),
    "complex": (np.ones((4, 4, 4), dtype=np.complex64), None, "complex numbers"),
    "vectors": (ramp(4, 4, 4, 1, 3), None, "more than four dimensions"),
    "a line": (ramp(4, 1, 1), None, "would be lines"),
    "no archive": (ramp(4, 4, 4), lambda path: path.write_bytes(b"\x1f\x8b" + bytes(600)), "cannot be read"),
    "another file": (ramp(4, 4, 4), lambda path: path.write_bytes(gzip.compress(bytes(600))), "holds no NIfTI volume"),
    "all at once": (ramp(4, 4, 4, 2), None, "holds 2 volumes, which are not read together"),
    "no such page": (ramp(4, 4, 4, 2), None, "volume 2 was asked for, but it has 2"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_volumes_are_named(what: str, tmp_path: Path) -> None:
    voxels, spoil, said = BAD[what]
    path = write(tmp_path / "bad.nii.gz", voxels)
    if spoil is not None:
        spoil(path)
    assert recognises(path, path.read_bytes()[:512])
    with pytest.raises(UnreadableImageError, match=f"bad.nii.gz.*{said}") as caught:
        opened(path, page={"no such page": 2, "all at once": "all"}.get(what, 0))
    assert caught.value.remedy


def test_volumes_are_known_by_their_content_whatever_they_are_called(tmp_path: Path) -> None:
    for name in ("scan.nii", "scan.nii.gz"):
        path = write(tmp_path / name, ramp(4, 5, 6))
        bare = tmp_path / "scan"
        bare.write_bytes(path.read_bytes())
        assert recognises(bare, bare.read_bytes()[:512])
        assert len(opened(bare).images) == 6
    pointer = tmp_path / "lfs.nii.gz"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert not recognises(pointer, pointer.read_bytes()), "what is no volume is named by who reads images"


def test_a_slice_is_named_by_the_file_and_the_cut_alone(tmp_path: Path) -> None:
    voxels, policy = ramp(4, 5, 6, 2), DecodePolicy()
    path = write(tmp_path / "a.nii.gz", voxels)
    copy = tmp_path / "b.nii.gz"
    copy.write_bytes(path.read_bytes())
    views = [{}, {"axis": "coronal"}, {"page": 1}, {"window": "40,80"}, {"window": "50,80"}]
    of = [{image.content(policy) for image in opened(path, slices="all", **view).images} for view in views]
    assert len(set().union(*of)) == sum(map(len, of)) == 6 + 5 + 3 * 6
    assert {image.content(policy) for image in opened(copy).images} == of[0]
    assert {image.content(policy) for image in opened(path, slices=2).images} < of[0]


def test_a_volume_is_read_once_and_its_slices_travel_light(tmp_path: Path, read: list[object]) -> None:
    path = write(tmp_path / "scan.nii.gz", ramp(16, 16, 64))
    found = opened(path, slices="all")
    for image in pickle.loads(pickle.dumps(found.images)):  # noqa: S301
        image.read()
    assert len(read) == 1
    assert len(pickle.dumps(found.images)) < 64 * 256
    tracemalloc.start()
    found.images[0].read()
    assert tracemalloc.get_traced_memory()[1] < 16 * 16 * 64 * 4, "a slice is taken without copying the volume"
    tracemalloc.stop()
    write(path, ramp(16, 16, 63))
    with pytest.raises(UnreadableImageError, match="changed"):
        found.images[0].read()


@given(
    arrays(st.sampled_from([np.int8, np.uint8, np.int16, np.dtype(">i2"), np.uint16, np.int32, np.float32]), (9,),
           elements=st.integers(0, 99)),
    st.lists(st.integers(0, 99), max_size=3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_percentiles_are_numpys_to_the_last_bit(values: NDArray[np.generic], without: list[int]) -> None:
    kept = values[~np.isin(values, without)]
    expected = tuple(np.percentile(kept, (0.5, 33.3, 99.5)).tolist()) if kept.size else None
    assert percentiles(values, (0.5, 33.3, 99.5), without=without) == expected


def test_what_was_seen_of_a_large_volume_is_remembered_until_it_changes(
    tmp_path: Path, read: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "SETTLED", -60.0)  # as if it had lain there for a minute
    path = write(tmp_path / "large.nii", np.pad(ramp(64, 64, 80), 12).astype(np.float32))
    first = opened(path, slices="all")
    scan.cache_clear()  # as in another process
    assert opened(path, slices="all") == first
    assert len(read) == 1
    write(path, np.pad(ramp(64, 64, 81), 12).astype(np.float32))
    assert len(opened(path, slices="all").images) == len(first.images) + 1


def test_volumes_are_opened_in_order_with_their_progress_and_the_bad_one_is_named(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / f"{number}.nii.gz", ramp(4, 5, 6 + number))
    (tmp_path / "2.nii.gz").write_bytes((tmp_path / "2.nii.gz").read_bytes()[:-40])
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "picture.png")
    said: list[tuple[str, int]] = []
    bars = SimpleNamespace(begin=lambda *what: said.append(what), advance=lambda *what: said.append(what))
    samples = load_samples(tmp_path, progress=bars)
    assert said == [("opening", 5), *[("opening", 1)] * 5]
    assert samples.sizes.tolist() == [6, 7, 1, 9, 10, 1]
    with pytest.raises(UnreadableImageError, match=r"2\.nii\.gz"):
        samples.sources[2].read()


def test_threads_that_embed_unpack_each_volume_once_for_all(
    tmp_path: Path, read: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biofuse.extract.plan.usable_cores", lambda: 2)
    for number in range(3):
        write(tmp_path / f"{number}.nii.gz", ramp(8, 9, 32) + number)
    samples = load_samples(tmp_path)
    card = pin(resolve("timm:test_efficientnet", allow_random_weights=True)[0])
    read.clear()
    done = extract(samples, [card], store=EmbeddingStore(tmp_path / "store"))
    assert done.plan is not None
    assert done.plan.groups[0].threads
    assert len(read) == 3


def test_without_nibabel_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scan.nii.gz", ramp(4, 4, 4))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(DependencyError, match="nibabel") as caught:
        opened(path)
    assert "biofuse-embed[nifti]" in caught.value.remedy


# --- series of DICOM files

PLANES: dict[Axis, list[int]] = {
    "axial": [1, 0, 0, 0, 1, 0],
    "coronal": [1, 0, 0, 0, 0, -1],
    "sagittal": [0, 1, 0, 0, 0, -1],
}
"""PS3.3, C.7.6.2: directions of rows and of columns, to the left, to the back and up."""


def write_series(folder: Path, voxels: NDArray[np.int16], across: Axis, *, spacing: tuple[float, ...]) -> Path:
    """Write a canonical volume as a scanner would, its files named and numbered in no order of theirs."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    number, series = AXES.index(across), generate_uid()
    height, width = np.delete(spacing, number)[::-1].tolist()
    order = np.random.default_rng(0).permutation(voxels.shape[number]).tolist()
    for name, index in enumerate(order):
        plane = voxels.take(index, axis=number)[::-1, ::-1].T
        corner = np.insert(np.delete(np.array(voxels.shape) - 1, number), number, index) * spacing * [-1, -1, 1]
        found = Dataset()
        found.file_meta = FileMetaDataset()
        found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = CTImageStorage
        found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        found.SeriesInstanceUID, found.Modality, found.PatientID = series, "CT", "Mustermann"
        found.ImageOrientationPatient, found.ImagePositionPatient = PLANES[across], corner.tolist()
        found.PixelSpacing = [height, width]
        found.Rows, found.Columns = plane.shape
        found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
        found.BitsAllocated = found.BitsStored = 16
        found.HighBit, found.PixelRepresentation = 15, 1
        found.RescaleSlope, found.RescaleIntercept = 1, -1024
        found.PixelData = np.ascontiguousarray(plane + 1024).astype("<i2").tobytes()
        found.save_as(folder / f"{name:02d}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def body() -> NDArray[np.int16]:
    return np.random.default_rng(1).integers(-900, 900, (5, 6, 7)).astype(np.int16)


def images_of(root: Path, **options: object) -> tuple[Source, ...]:
    """Read a folder of one series as one sample."""
    (bag,) = load_samples(root, bag="series", **options).sources
    assert isinstance(bag, Bag)
    return bag.images


@pytest.mark.parametrize(("across", "apart"), [("axial", 3.0), ("coronal", 2.0), ("sagittal", 2.0)])
def test_a_series_gives_the_slices_of_the_same_volume_in_nifti(
    across: Axis, apart: float, body: NDArray[np.int16], tmp_path: Path
) -> None:
    spacing = (2.0, 2.0, apart)
    root = write_series(tmp_path / "series", body, across, spacing=spacing)
    nifti = write(tmp_path / "same.nii", body, np.diag([*spacing, 1.0]))
    named = set()
    for axis in AXES:
        options = {"axis": axis, "slices": "every:2", "window": "0,1500"}
        ours, theirs = images_of(root, **options), opened(nifti, **options).images
        assert len(ours) == len(theirs) > 2
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.read(), other.read(), err_msg=one.description)
        named |= {image.content(DecodePolicy()) for image in ours if isinstance(image, Cut)}
        assert "Mustermann" not in repr(ours)
    named |= {image.content(DecodePolicy()) for image in images_of(root, axis=axis, slices=1) if isinstance(image, Cut)}
    assert len(named) == 3 + 3 + 4 + 1, "no two have one name, and the window is part of it"
    taken = [image.read() for image in images_of(root, slices="at:1,100%", window="0,1500")]
    number = AXES.index(across)
    for picture, index in zip(taken, (1, body.shape[number] - 1), strict=True):
        plane = body.take(index, axis=number)[::-1, ::-1].T
        np.testing.assert_array_equal(picture, to_grey(plane, -750.0, 750.0))


def test_files_of_a_series_without_a_window_share_one(body: NDArray[np.int16], tmp_path: Path) -> None:
    body[:, :, 3] //= 10
    low, high = np.percentile(body, (0.5, 99.5))
    images = images_of(write_series(tmp_path / "series", body, "axial", spacing=(1.0, 1.0, 1.0)))
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image.read(), to_grey(body[:, :, index][::-1, ::-1].T, low, high))


def test_a_series_that_is_no_volume_stays_as_it_is_or_is_named(body: NDArray[np.int16], tmp_path: Path) -> None:
    from pydicom import dcmread

    root = write_series(tmp_path / "series", body, "axial", spacing=(1.0, 1.0, 1.0))
    middle = next(path for path in root.iterdir() if dcmread(path).ImagePositionPatient[2] == 3)
    middle.rename(tmp_path / "gone.dcm")
    assert len(images_of(root)) == 6
    with pytest.raises(UnreadableImageError, match="do not lie evenly") as caught:
        images_of(root, axis="coronal")[0].read()
    assert "`axis='auto'`" in caught.value.remedy
    with pytest.raises(UnreadableImageError, match="6 axial slices, 9 show nothing, or are not there"):
        images_of(root, slices="at:9")[0].read()
    other = dcmread(tmp_path / "gone.dcm")
    other.ImageOrientationPatient = PLANES["coronal"]
    other.save_as(root / "scout.dcm")
    assert len(images_of(root, slices=2)) == 7, "pictures of several planes are no volume: all are taken"
