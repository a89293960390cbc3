"""Volumes as bags of slices: NIfTI files, and series of DICOM files.

How a volume becomes images:

- It is turned, without resampling, to the axes that are nearest to right, anterior and superior (as nibabel's
  ``as_closest_canonical`` does). Slices are counted from 0: sagittal ones from left to right, coronal ones from back to
  front, axial ones from the feet up.
- Slices are shown in the radiological way, as a DICOM viewer does: the patient's right, or the front of a sagittal
  slice, is at the left of the picture; superior is up, and of axial slices anterior is.
- One window serves all slices of a volume. Where none is asked for, percentiles of the voxels that are not background
  become black and white; background is 0 and the volume's least value. MedSAM (Ma et al., Nature Communications 2024)
  takes the voxels that are not 0.
- Slices that then show one value only are empty, and are left out; a volume of nothing else is an error.
- Where pixels of a slice are not square, it is stretched (bilinear) until they are.
- Voxels that are no number are read as the volume's least value, which is said.

The slices of a DICOM series are its files, as they are and without looking for empty ones. Those across another axis
are cut from all of them, as they are shown.
"""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter

from biofuse.core.errors import DependencyError, UnreadableImageError, option
from biofuse.data.config import DataConfig
from biofuse.data.cuts import CUT_VERSION, FileFacts, LastRead, Opened, Source, StampedFile, chosen, cut_content
from biofuse.data.decoding import PILLOW_ERRORS, REMEDY, TOO_LARGE, DecodePolicy
from biofuse.data.dicom import DicomImage, Header, header_of, series_limits, window_words
from biofuse.data.labels import listing
from biofuse.data.remembered import JSON, remembered
from biofuse.data.windows import PERCENTILES, Window, percentiles, to_grey

SUFFIXES = frozenset({".nii", ".nii.gz"})
"""How NIfTI files are called (in lower case)."""

INSTALL = "pip install 'biofuse-embed[nifti]'"

HEADERS: tuple[tuple[int, bytes], ...] = ((344, b"n+1\0"), (4, b"n+2\0\r\n\x1a\n"))
"""Where the headers of NIfTI 1 and 2 in one file say what they are, and how: nifti1.h, nifti2.h, field ``magic``."""
GZIP = b"\x1f\x8b"
START = 512
"""Bytes that are enough for these."""

Axis = Literal["sagittal", "coronal", "axial"]
"""What slices lie across: the first, second and third axis of a volume in canonical order."""
AXES: tuple[Axis, ...] = get_args(Axis)

ALIKE = 1.01
"""Spacings that differ by less than this factor count as equal: headers hold them as 32-bit numbers, often rounded."""

SPACE_UNITS = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
"""Millimetres of the units of space that a NIfTI header knows; where it says none, it is mm (nifti1.h)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """Voxels in canonical order.

    Attributes
    ----------
    voxels : ndarray, shape (x, y, z) or (x, y, z, channels)
        As stored, to the right, to the front, up; finite. Of colour, uint8.
    spacing : tuple of float
        Distance of neighbours along each axis, in mm.
    slope, intercept : float
        What turns stored values into those meant.
    n_odd : int
        Voxels that were no numbers.
    oriented : bool
        Whether the file says which way is right, anterior and superior.
    n_times : int
        Volumes in the file, of which this is one.
    """

    voxels: NDArray[Any]
    spacing: tuple[float, float, float]
    slope: Any = 1.0
    intercept: Any = 0.0
    n_odd: int = 0
    oriented: bool = True
    n_times: int = 1

    @property
    def coloured(self) -> bool:
        """Whether voxels are colours."""
        return self.voxels.ndim == 4

    def meant(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the values meant by stored ones, in nibabel's precision."""
        if (self.slope, self.intercept) == (1, 0) or self.coloured:
            return stored
        scaling = (np.asanyarray(self.slope), np.asanyarray(self.intercept))
        return cast("NDArray[Any]", _nibabel().volumeutils.apply_read_scaling(stored, *scaling))

    def slice(self, axis: Axis, index: int) -> NDArray[Any]:
        """Return the values of a slice as it is shown, shape (height, width) or (height, width, channels)."""
        plane = self.voxels[(slice(None),) * AXES.index(axis) + (index,)]  # ``take`` would copy the volume
        return self.meant(np.ascontiguousarray(plane[::-1, ::-1].swapaxes(0, 1)))

    def pixel(self, axis: Axis) -> tuple[float, float]:
        """Return height and width of a pixel of a slice, in mm."""
        width, height = (each for name, each in zip(AXES, self.spacing, strict=True) if name != axis)
        return height, width

    def coarsest(self) -> Axis:
        """Return what slices were most likely taken across: a single slice, else the largest spacing, else axial."""
        single = [axis for axis, n in zip(AXES, self.voxels.shape, strict=False) if n == 1]
        if single:
            return single[-1]
        largest = max(self.spacing)
        return [axis for axis, each in zip(AXES, self.spacing, strict=True) if each * ALIKE >= largest][-1]

    def extremes(self, axis: Axis) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the least and largest value of each slice, shape (n,); of colour, of each channel: (n, channels)."""
        others = tuple(each for each in range(3) if each != AXES.index(axis))
        ends = self.meant(self.voxels.min(axis=others)), self.meant(self.voxels.max(axis=others))
        return np.minimum(*ends), np.maximum(*ends)  # a slope may be negative

    def limits(self) -> tuple[float, float]:
        """Return what becomes black and white where no window was asked for."""
        stored = self.voxels.ravel(order="K")  # as they lie in memory: in another order it takes far longer
        ends = stored.min(), stored.max()
        background = (ends[1] if self.slope < 0 else ends[0], -self.intercept / self.slope)
        # A mask of zeros and ones: all that is not background has one value.
        cuts = np.array(percentiles(stored, PERCENTILES, without=background) or (0.0, 0.0))
        found = cuts if cuts[0] < cuts[1] else np.array(ends)
        low, high = sorted((found.astype(np.float64) * float(self.slope) + float(self.intercept)).tolist())
        return low, high


@dataclass(frozen=True)
class VolumeSlice:
    """One slice of a volume.

    Attributes
    ----------
    file : StampedFile
    time : int
        Which of the volumes of the file, from 0.
    axis : {"sagittal", "coronal", "axial"}
    index : int
        Position along it, from 0.
    limits : tuple of float, or None
        Values that become black and white; None of colour.
    given : bool
        Whether the limits were asked for; otherwise they are those that the volume itself gives.
    """

    file: StampedFile
    time: int
    axis: Axis
    index: int
    limits: tuple[float, float] | None
    given: bool

    @property
    def description(self) -> str:
        """The file and the slice."""
        return f"{self.file.description}: {self.axis} slice {self.index}"

    def content(self, policy: DecodePolicy) -> bytes:
        """Name the slice by the file's bytes and by what is cut from it."""
        window = self.limits if self.given else {"percentiles": PERCENTILES}
        return cut_content(
            [self.file], {"axis": self.axis, "slice": self.index, "time": self.time, "window": window}, policy
        )

    def read(self) -> NDArray[np.uint8]:
        """Return the slice as it is shown, shape (height, width) or (height, width, channels).

        Raises
        ------
        UnreadableImageError
            If the file has changed since it was opened, or cannot be read any more.
        """
        self.file.require_unchanged()
        volume = read_volume(self.file, self.time)
        values = volume.slice(self.axis, self.index)
        return _squared(values if self.limits is None else to_grey(values, *self.limits), *volume.pixel(self.axis))


def _squared(pixels: NDArray[np.uint8], height: float, width: float) -> NDArray[np.uint8]:
    """Stretch an image until its pixels, of which the sides are given, are square."""
    side = min(height, width)
    if max(height, width) < side * ALIKE:
        return pixels
    rows, columns = (round(n * mm / side) for n, mm in zip(pixels.shape, (height, width), strict=False))
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR))


# --- files


def recognises(path: Path, start: bytes) -> bool:
    """Tell whether a file is a NIfTI volume, from its name and its first 512 bytes."""
    if start.startswith(GZIP):
        # A name is enough of an archive, whose header may be beyond the first bytes or damaged.
        return path.name.lower().endswith(".nii.gz") or _is_header(_unpacked(start))
    return _is_header(start)


def _is_header(start: bytes, headers: Sequence[tuple[int, bytes]] = HEADERS) -> bool:
    return any(start[place : place + len(magic)] == magic for place, magic in headers)


def _unpacked(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(start)
    except zlib.error:
        return b""


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise DependencyError("NIfTI volumes are read with nibabel, which is not installed.", remedy=INSTALL) from error
    return nibabel


def read_volume(file: StampedFile, time: int) -> Volume:
    """Read a volume whole; the last one stays in memory for each thread, since slices come one after the other.

    Threads that need the same one share it.

    Raises
    ------
    UnreadableImageError
        If the file is damaged, is no NIfTI volume, holds no picture, or has no volume of that number.
    DependencyError
        If nibabel is not installed.
    """
    return _HELD((file, time))


def _read(which: tuple[StampedFile, int]) -> Volume:
    (file, time), nibabel = which, _nibabel()
    damaged = (
        *PILLOW_ERRORS,
        nibabel.filebasedimages.ImageFileError,
        nibabel.orientations.OrientationError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.spatialimages.ImageDataError,
        nibabel.wrapstruct.WrapStructError,
    )
    name = file.description
    try:
        with _unzipped(file.path) as stream:
            start = stream.read(START)
            stream.seek(0)
            if not _is_header(start):
                raise UnreadableImageError(f"{name}: holds no NIfTI volume.", remedy=REMEDY)
            kind = nibabel.Nifti1Image if _is_header(start, HEADERS[:1]) else nibabel.Nifti2Image
            image = kind.from_file_map(kind.make_file_map({"image": stream}), mmap=False)
            return _volume_of(image, stream, time, name)
    except damaged as error:
        said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise UnreadableImageError(f"{name}: cannot be read: {said}.", remedy=REMEDY) from error
    except MemoryError as error:
        raise UnreadableImageError(f"{name}: there is no memory for its voxels.", remedy=TOO_LARGE) from error


_HELD = LastRead(_read)


def _unzipped(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    return cast("BinaryIO", gzip.open(path) if packed else path.open("rb"))


def _volume_of(image: Any, stream: BinaryIO, time: int, name: str) -> Volume:
    """Take one volume out of an image of nibabel, and turn it to canonical order."""
    stored, n_times = _stored(image, stream, time, name)
    stored, n_odd = _numbers(stored, name)
    unit = SPACE_UNITS.get(image.header.get_xyzt_units()[0], 1.0)
    return replace(
        _turned(stored, image.affine * unit),
        slope=image.dataobj.slope,
        intercept=image.dataobj.inter,
        n_odd=n_odd,
        oriented=bool(image.header["qform_code"] or image.header["sform_code"]),
        n_times=n_times,
    )


def _turned(stored: NDArray[Any], affine: NDArray[np.float64]) -> Volume:
    """Turn voxels to canonical order by the matrix that takes their indices to mm to the right, to the front and up."""
    nibabel = _nibabel()
    turns = nibabel.orientations.io_orientation(affine)
    if np.isnan(turns).any():
        raise nibabel.orientations.OrientationError("its affine matrix leaves out an axis")
    spacing = np.empty(3)
    spacing[turns[:, 0].astype(int)] = nibabel.affines.voxel_sizes(affine)
    across, front, up = spacing.tolist()
    return Volume(voxels=nibabel.orientations.apply_orientation(stored, turns), spacing=(across, front, up))


def _stored(image: Any, stream: BinaryIO, time: int, name: str) -> tuple[NDArray[Any], int]:
    """Read one volume [x, y, z], or [x, y, z, channels] of colour, as it is stored, and count the volumes there are."""
    shape, dtype = image.dataobj.shape, image.dataobj.dtype
    if any(n > 1 for n in shape[4:]):
        raise UnreadableImageError(
            f"{name}: has more than four dimensions ({_times(shape)}): vectors and surfaces are no images.",
            remedy="Save what is to be seen as a volume of its own.",
        )
    if 0 in shape:
        raise UnreadableImageError(f"{name}: has no voxels.", remedy=REMEDY)
    n_times = shape[3] if len(shape) > 3 else 1
    if time >= n_times:
        raise UnreadableImageError(
            f"{name}: volume {time} was asked for, but it has {n_times} (counted from 0).",
            remedy=f"Choose another {option('page')}, or remove the file.",
        )
    # Without slope and intercept, which take eight times the memory, and without the volumes of other times.
    unscaled = _nibabel().arrayproxy.ArrayProxy(stream, (shape, dtype, image.dataobj.offset), mmap=False)
    stored = unscaled[(*[slice(None)] * min(len(shape), 3), *(time, 0, 0, 0)[: max(len(shape) - 3, 0)])]
    stored = stored.reshape((*shape[:3], 1, 1)[:3])
    if dtype.names:  # nibabel's types of colour: fields R, G, B and perhaps A
        stored = np.stack([stored[field] for field in dtype.names], axis=-1)
    return stored, n_times


def _numbers(stored: NDArray[Any], name: str) -> tuple[NDArray[Any], int]:
    """Put the least value where a voxel is no number, and count these."""
    if stored.dtype.kind == "c":
        raise UnreadableImageError(
            f"{name}: holds complex numbers.", remedy="Save their magnitude, or their phase, as a volume of its own."
        )
    if stored.dtype.kind != "f":
        return stored, 0
    finite = np.isfinite(stored)
    n_odd = int(finite.size - finite.sum())
    if n_odd == finite.size:
        raise UnreadableImageError(f"{name}: all its voxels are NaN or infinite.", remedy=REMEDY)
    return (np.where(finite, stored, stored[finite].min()) if n_odd else stored), n_odd


# --- opening


@dataclass(frozen=True, kw_only=True)
class ScannedVolume:
    """What is known of a volume once it has been read.

    Attributes
    ----------
    shape : tuple of int
    spacing : tuple of float
    axis : {"sagittal", "coronal", "axial"}
    limits : tuple of float, or None
        Values that become black and white; None of colour.
    filled : tuple of int
        Slices that show something.
    odd : float
        Share of voxels that were no number.
    oriented : bool
    n_times : int
        As of :class:`Volume`.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, float, float]
    axis: Axis
    limits: tuple[float, float] | None
    filled: tuple[int, ...]
    odd: float
    oriented: bool
    n_times: int

    @property
    def n_slices(self) -> int:
        """How many there are, empty ones included."""
        return self.shape[AXES.index(self.axis)]


REMEMBERED = 1 << 20
"""Bytes of a file from which on it is remembered which slices show something: it takes a tenth of a second to see."""


@lru_cache(maxsize=1 << 16)
def scan(
    file: StampedFile, time: int, axis: Axis | Literal["auto"], limits: tuple[float, float] | None = None
) -> ScannedVolume:
    """Find out which slices of a volume show something; each file is read for it once, a large one once and for all.

    Parameters
    ----------
    file : StampedFile
    time : int
    axis : {"auto", "sagittal", "coronal", "axial"}
    limits : tuple of float, optional
        What becomes black and white; by default the volume's own.

    Raises
    ------
    UnreadableImageError
        As :func:`read_volume`; also if the volume shows nothing, or slices across the axis would be lines.
    """
    _nibabel()
    what: dict[str, JSON] = {"fact": "slices", "version": CUT_VERSION, "time": time, "axis": axis, "limits": limits}
    found = remembered([file.path], what, lambda: asdict(_scan(file, time, axis, limits)), at_least=REMEMBERED)
    return TypeAdapter(ScannedVolume).validate_python(found)


def _scan(
    file: StampedFile, time: int, axis: Axis | Literal["auto"], limits: tuple[float, float] | None
) -> ScannedVolume:
    volume = read_volume(file, time)
    across = volume.coarsest() if axis == "auto" else axis
    shape = volume.voxels.shape[:3]
    if min(n for name, n in zip(AXES, shape, strict=True) if name != across) == 1:
        raise UnreadableImageError(
            f"{file.description}: {across} slices of {_times(shape)} voxels would be lines.",
            remedy=f"Take others: {option('axis', volume.coarsest())}.",
        )
    ends = volume.extremes(across)
    if not volume.coloured:
        limits = limits or volume.limits()
        ends = to_grey(ends[0], *limits), to_grey(ends[1], *limits)
    filled = _filled(*ends)
    if not filled:
        values = f"{float(volume.meant(volume.voxels.min())):.6g} to {float(volume.meant(volume.voxels.max())):.6g}"
        window = "" if limits is None else f", shown from {limits[0]:.6g} to {limits[1]:.6g}"
        raise UnreadableImageError(
            f"{file.description}: no {across} slice shows anything; its voxels run from {values}{window}.",
            remedy=f"Choose another {option('window')}, or remove the file.",
        )
    return ScannedVolume(
        shape=shape,
        spacing=volume.spacing,
        axis=across,
        limits=None if volume.coloured else limits,
        filled=filled,
        odd=volume.n_odd / volume.voxels.size,
        oriented=volume.oriented,
        n_times=volume.n_times,
    )


def _filled(least: NDArray[Any], largest: NDArray[Any]) -> tuple[int, ...]:
    """Return which slices show more than one value."""
    return tuple(np.flatnonzero((least != largest).reshape(len(least), -1).any(axis=1)).tolist())


def open_file(path: Path, config: DataConfig, *, called: str = "") -> Opened:
    """Open a NIfTI volume as a bag of slices.

    Raises
    ------
    UnreadableImageError
        If it cannot be read, or none of the slices asked for shows anything.
    DependencyError
        If nibabel is not installed.
    """
    file, window = StampedFile.of(path, called), Window.of(config.window)
    time = config.page if isinstance(config.page, int) else 0
    found = scan(file, time, config.axis, None if window is None else window.limits)
    if config.all_pages and found.n_times > 1:
        raise UnreadableImageError(
            f"{file.description}: holds {found.n_times} volumes, which are not read together.",
            remedy=f"Choose one, from 0: {option('page', 0)}.",
        )
    indices, empty = chosen(config.slices, found.filled, found.n_slices)
    if not indices:
        raise UnreadableImageError(
            f"{file.description}: of {found.n_slices} {found.axis} slices, {listing(list(map(str, empty)))} "
            f"{'shows' if len(empty) == 1 else 'show'} nothing.",
            remedy=f"Choose others with {option('slices')}, from {found.filled[0]} to {found.filled[-1]}.",
        )
    given = window is not None and found.limits is not None
    return Opened(
        images=tuple(VolumeSlice(file, time, found.axis, index, limits=found.limits, given=given) for index in indices),
        is_bag=True,
        about=FileFacts(kind="NIfTI volume", facts=_facts(found, window, len(indices))),
        warnings=tuple(_warnings(file.description, found, time, empty)),
    )


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{each:.4g}" for each in numbers)


def _facts(found: ScannedVolume, window: Window | None, used: int) -> Mapping[str, str | float]:
    facts: dict[str, str | float] = {
        "voxels": _times(found.shape),
        "spacing (mm)": _times(found.spacing),
        "axis": found.axis,
        "slices": found.n_slices,
        "slices used": used,
        "empty slices": found.n_slices - len(found.filled),
    }
    if found.limits is not None:
        cut = " and ".join(f"{each:g}" for each in PERCENTILES)
        by = f"percentiles {cut}" if window is None else window.words
        facts["window"] = f"{found.limits[0]:.4g} to {found.limits[1]:.4g} ({by})"
    return facts


def _warnings(name: str, found: ScannedVolume, time: int, empty: Sequence[int]) -> list[str]:
    said = []
    if found.n_times > 1:
        said.append(
            f"{name} holds {found.n_times} volumes (times, directions or the like), of which number {time}, from 0, is "
            f"read: {option('page')} chooses."
        )
    if not found.oriented:
        said.append(f"{name} does not say which way is right: its slices may be turned or mirrored.")
    if found.odd:
        said.append(f"{name}: {found.odd:.2%} of its voxels are no numbers; they are read as its least value.")
    if empty:
        said.append(f"{name}: of the slices asked for, {listing(list(map(str, empty)))} show nothing and are left out.")
    return said


# --- series of DICOM files


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The files of a series that are slices of one volume, in the order in which slices are counted.

    Attributes
    ----------
    places : tuple of tuple of DicomImage
        Those at each position; several where a series repeats it, at other times or echoes.
    positions : tuple of float
        In mm, increasing.
    axis : {"sagittal", "coronal", "axial"}
        What they lie across, most nearly.
    """

    places: tuple[tuple[DicomImage, ...], ...]
    positions: tuple[float, ...]
    axis: Axis

    @classmethod
    def of(cls, images: Sequence[DicomImage]) -> Self | None:
        """Put images in order; None where they lie in different planes, or in one, or do not say where they lie."""
        found = [header_of(image.file) for image in images]
        if any(image.n_frames > 1 or header.position() is None for image, header in zip(images, found, strict=True)):
            return None
        normals = np.array([np.cross(*_plane(header)) for header in found])
        if np.abs(normals - normals[0]).max() > ALIKE - 1.0:
            return None
        number = int(np.abs(normals[0]).argmax())
        forward = normals[0][number] > 0
        places: dict[float, list[DicomImage]] = {}
        for image, header in zip(images, found, strict=True):
            place = header.position() or 0.0
            places.setdefault(round(place if forward else -place, 2), []).append(image)
        order = sorted(places)
        if len(order) < 2:
            return None
        return cls(places=tuple(tuple(places[each]) for each in order), positions=tuple(order), axis=AXES[number])

    @property
    def folder(self) -> str:
        """Where the first file lies."""
        return self.places[0][0].file.folder

    def shown(self, window: str | None) -> Self:
        """Return the stack with one window for all files, where it would be each file's own percentiles."""
        limits = series_limits([image.file for place in self.places for image in place], window)
        places = tuple(tuple(replace(image, limits=limits) for image in place) for place in self.places)
        return self if limits is None else replace(self, places=places)

    def whole(self) -> tuple[DicomImage, ...]:
        """Return the images of one volume: one at each position, and one distance from each to the next.

        Raises
        ------
        UnreadableImageError
            If they lie otherwise.
        """
        gaps = np.diff(self.positions)
        if any(len(each) > 1 for each in self.places) or gaps.max() > gaps.min() * ALIKE:
            raise UnreadableImageError(
                f"{self.folder}: the files of a series do not lie evenly, one behind the other.",
                remedy=f"Take the slices as they are: {option('axis', 'auto')}.",
            )
        return tuple(image for (image,) in self.places)


def _plane(header: Header) -> NDArray[np.float64]:
    """Return the directions to the right and down a picture, each as a row: to the right, to the front, up."""
    return np.reshape(np.asarray(header.dataset.ImageOrientationPatient, dtype=np.float64), (2, 3)) * [-1.0, -1.0, 1.0]


@dataclass(frozen=True)
class SeriesSlice:
    """A slice that is cut across the files of a series.

    Attributes
    ----------
    images : tuple of DicomImage
        All of them, in order.
    axis : {"sagittal", "coronal", "axial"}
    index : int
        Position along it, from 0.
    """

    images: tuple[DicomImage, ...] = field(repr=False)
    axis: Axis
    index: int

    @property
    def description(self) -> str:
        """The folder and the slice."""
        return f"{self.images[0].file.folder}: {self.axis} slice {self.index} of a series"

    def content(self, policy: DecodePolicy) -> bytes:
        """Name the slice by the images it is cut from."""
        images = [image.content(policy).hex() for image in self.images]
        return cut_content([], {"axis": self.axis, "slice": self.index, "images": images}, policy)

    def read(self) -> NDArray[np.uint8]:
        """Return the slice, shape (height, width) or (height, width, 3).

        Raises
        ------
        UnreadableImageError
            If a file has changed, or cannot be read.
        """
        for image in self.images:
            image.file.require_unchanged()
        volume = read_series(self.images)
        return _squared(volume.slice(self.axis, self.index), *volume.pixel(self.axis))


def read_series(images: tuple[DicomImage, ...]) -> Volume:
    """Read all images of a series as they are shown, as one volume; the last one stays in memory for each thread.

    Raises
    ------
    UnreadableImageError
        If one cannot be read, or is of another size.
    DependencyError
        If nibabel is not installed.
    """
    return _HELD_SERIES(images)


def _read_series(images: tuple[DicomImage, ...]) -> Volume:
    headers = [header_of(image.file) for image in (images[0], images[-1])]
    pixels = [image.read() for image in images]
    spacing = headers[0].spacing()
    odd = next((image for image, each in zip(images, pixels, strict=True) if each.shape != pixels[0].shape), None)
    if odd is not None or spacing is None:
        named = odd or images[0]
        raise UnreadableImageError(
            f"{named.description}: {'says no pixel spacing' if odd is None else 'is of another size than the others'}.",
            remedy=f"Take the slices as they are: {option('axis', 'auto')}.",
        )
    right, down = _plane(headers[0])
    first, last = (
        np.asarray(header.dataset.ImagePositionPatient, dtype=np.float64) * [-1.0, -1.0, 1.0] for header in headers
    )
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([(last - first) / (len(images) - 1), down * spacing[0], right * spacing[1]])
    return _turned(np.stack(pixels), affine)


_HELD_SERIES = LastRead(_read_series)


def open_series(images: Sequence[DicomImage], config: DataConfig) -> Opened | None:
    """Choose the slices of a series of DICOM files.

    Parameters
    ----------
    images : sequence of DicomImage
        All files of the series.
    config : DataConfig
        Its ``axis``, ``slices`` and ``window`` count.

    Returns
    -------
    Opened or None
        None where the files are not slices of a volume: radiographs, scouts.

    Raises
    ------
    UnreadableImageError
        If none of the slices asked for is there, or the files cannot be cut across another axis.
    """
    stack = Stack.of(images)
    if stack is None:
        return None
    stack = stack.shown(config.window)
    if config.axis in {"auto", stack.axis}:
        across, n = stack.axis, len(stack.places)
        filled: Sequence[int] = range(n)
    else:
        across = config.axis
        volume = read_series(stack.whole())
        n, filled = volume.voxels.shape[AXES.index(across)], _filled(*volume.extremes(across))
    indices, absent = chosen(config.slices, filled, n)
    if not indices:
        raise UnreadableImageError(
            f"{stack.folder}: of a series of {n} {across} slices, {listing(list(map(str, absent)))} show nothing, or "
            "are not there.",
            remedy=f"Choose others with {option('slices')}.",
        )
    taken: list[Source] = []
    for index in indices:
        own = stack.places[index] if across == stack.axis else (SeriesSlice(stack.whole(), across, index),)
        taken.extend(own)
    return Opened(images=tuple(taken), is_bag=True, about=_about_series(stack, across, n, len(indices)))


def _about_series(stack: Stack, axis: Axis, n: int, used: int) -> FileFacts:
    first = stack.places[0][0]
    header = header_of(first.file)
    gaps = np.diff(stack.positions)
    facts: dict[str, str | float] = {
        "modality": header.modality,
        "axis": axis,
        "slices": n,
        "slices used": used,
        "slice spacing (mm)": float(np.median(gaps)),
    }
    facts |= {} if header.colour else {"window": window_words(header, first.window)}
    return FileFacts(kind="DICOM volume", facts=facts)
