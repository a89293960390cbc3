"""DICOM files: one image, or a bag of frames, with the grey values that the file itself says are to be shown.

What is read, in the order in which the standard applies it (PS3.3, C.11 and C.7.6.3):

- Grey: the modality's lookup table or rescaling (to Hounsfield units in CT); then the window that was asked for, or
  the file's own first lookup table or window (linear, linear exact or sigmoid); then MONOCHROME1 is turned around, so
  that what absorbs most is white.
- Grey of at most 8 bits without any of these is shown as it is stored; other grey without a window from the 0.5th to
  the 99.5th percentile of the values of its file, padding left out.
- Colour: palettes are looked up, YBR becomes RGB, more than 8 bits are divided by what their bits can hold.
  Overlays and colour profiles are not applied.

Only the elements that this needs are parsed. Of the patient's, study's and series' identifiers a hash is kept, which
says whether two are the same and is written nowhere; no other element that identifies a person is ever read.
"""

import logging
import math
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import DependencyError, UnknownFormatError, UnreadableImageError, option
from biofuse.core.files import open_regular
from biofuse.core.hashing import digest
from biofuse.data.config import DataConfig
from biofuse.data.cuts import FileFacts, Opened, StampedFile, chosen, cut_content
from biofuse.data.decoding import REMEDY, TOO_LARGE, DecodePolicy
from biofuse.data.labels import listing
from biofuse.data.remembered import JSON
from biofuse.data.windows import BY_PERCENTILES, PERCENTILES, Window, percentile_limits, to_grey

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
"""How DICOM files are called; many have no suffix at all."""

DICOM_VERSION = 1
"""Raised when the same file would be shown with other pixels; part of the content hash."""

MAGIC, MAGIC_AT = b"DICM", 128
"""PS3.10, 7.1: what every file begins with after 128 bytes. Files of old programs lack both, and are known by their
first element."""

DICOM_ERRORS = (
    OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, ArithmeticError, RuntimeError, EOFError,
    AssertionError, struct.error,
)  # fmt: skip
"""What pydicom and its decoders raise on damaged files. Of those raised by a header nothing is passed on: they may
repeat what it says."""

LUT_TAGS = (
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "PixelRepresentation", "BitsStored", "PhotometricInterpretation",
)  # fmt: skip
"""What decides how grey values are shown; of enhanced objects some are said frame by frame."""

PIXEL_TAGS = (
    "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "HighBit",
    "SmallestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelAspectRatio",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
PLACE_TAGS = (
    "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "PixelSpacing", "ImagerPixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
KIND_TAGS = ("SOPClassUID", "Modality", "BurnedInAnnotation")
IDENTIFIERS = {"patient": "PatientID", "study": "StudyInstanceUID", "series": "SeriesInstanceUID"}
"""What tells patients, studies and series apart. Their values are hashed as they are stored, and go nowhere else."""

PER_FRAME = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
"""PS3.3, C.7.6.16: functional groups that hold elements of ``LUT_TAGS``."""

PIXEL_DATA = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
"""PS3.6: what holds pixels."""
UNDEFINED = 0xFFFFFFFF
"""PS3.5, 7.1: a length that is not said, as that of compressed pixels."""
ITEM = b"\xfe\xff\x00\xe0"
"""PS3.5, A.4: what begins each fragment of compressed pixels."""

WITHOUT_IMAGE = {
    "1.2.840.10008.1.3.10": "the index of a medium (DICOMDIR)",
    "1.2.840.10008.5.1.4.1.1.104.": "an encapsulated document (PDF)",
    "1.2.840.10008.5.1.4.1.1.88.": "a report (SR)",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.9.": "a waveform",
    "1.2.840.10008.5.1.4.1.1.481.3": "a set of outlines (RT structure set)",
    "1.2.840.10008.5.1.4.1.1.481.5": "a treatment plan (RT plan)",
    "1.2.840.10008.5.1.4.1.1.66": "raw data or a registration",
}
"""PS3.4, B.5: the beginnings of the storage classes without pixels that lie among images."""

COLOUR_SPACES = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
"""PS3.3, C.7.6.3.1.2: what pydicom turns into RGB."""

PALETTE = "PALETTE COLOR"

SAMPLED = 8
"""Frames of a file whose values percentiles are taken from, evenly spaced."""


@contextmanager
def _header_errors(file: StampedFile) -> Iterator[None]:
    """Name a file whose header is damaged. What pydicom says of it is kept: it may repeat values of elements.

    Raises
    ------
    UnreadableImageError
        Whatever pydicom raises.
    DependencyError
        If pydicom is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "DICOM files are read by the library pydicom, which is not installed.",
            remedy="pip install 'biofuse-embed[dicom]'",
        ) from error
    log = logging.getLogger("pydicom")
    before, log.propagate = log.propagate, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DICOM_ERRORS as error:
        raise UnreadableImageError(
            f"{file.description}: its DICOM header is damaged ({type(error).__name__}).", remedy=REMEDY
        ) from None
    finally:
        log.propagate = before


def recognises(path: Path, start: bytes) -> bool:
    """Tell whether a file is DICOM by its first bytes.

    Parameters
    ----------
    path : Path
    start : bytes
        The first 512 bytes, or all of a shorter file.
    """
    if start[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC:
        return True
    # Without a preamble: an element of group 2 or 8, in either byte order.
    return path.suffix.lower() in SUFFIXES and start[:4] in {
        b"\x02\x00\x00\x00", b"\x02\x00\x01\x00", b"\x02\x00\x02\x00", b"\x02\x00\x10\x00",
        b"\x08\x00\x00\x00", b"\x08\x00\x01\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x08\x00\x16\x00",
        b"\x00\x08\x00\x00", b"\x00\x08\x00\x01", b"\x00\x08\x00\x05", b"\x00\x08\x00\x08", b"\x00\x08\x00\x16",
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """What is needed of a DICOM file before its pixels are decoded.

    Attributes
    ----------
    file : StampedFile
    dataset : pydicom.dataset.Dataset
        The elements named above, and no others.
    begin : int
        Where the element of the pixels begins in the file.
    length : int or None
        Bytes of the pixels, ``UNDEFINED`` where they are compressed; None where there are none.
    """

    file: StampedFile
    dataset: "Dataset" = field(repr=False)
    begin: int
    length: int | None

    @property
    def syntax(self) -> "UID":
        """How the file is encoded, and its pixels compressed."""
        return self.dataset.file_meta.TransferSyntaxUID

    @property
    def deflated(self) -> bool:
        """Whether the whole of it is compressed, so that no place in the file is that of the pixels."""
        from pydicom.uid import DeflatedExplicitVRLittleEndian

        return bool(self.syntax == DeflatedExplicitVRLittleEndian)

    @property
    def modality(self) -> str:
        """What it was made by: CT, MR, CR; "not stated" where it does not say it."""
        return str(self.dataset.get("Modality") or "not stated")

    @property
    def frames(self) -> int:
        """How many images there are."""
        return max(int(self.dataset.get("NumberOfFrames") or 1), 1)

    @property
    def colour(self) -> bool:
        """Whether they are of several channels, or of a palette."""
        return int(self.dataset.get("SamplesPerPixel") or 1) > 1 or self.photometric == PALETTE

    @property
    def photometric(self) -> str:
        """The photometric interpretation."""
        return str(self.dataset.get("PhotometricInterpretation") or "")

    @property
    def bits(self) -> int:
        """Bits of a value."""
        return int(self.dataset.get("BitsStored") or self.dataset.BitsAllocated)

    def identifiers(self) -> dict[str, str]:
        """Return hashes of what says to which patient, study and series the file belongs."""
        found = {}
        for kind, keyword in IDENTIFIERS.items():
            element = self.dataset.get_item(keyword)  # as it is stored: nothing looks at what it says
            raw = element.value.strip(b" \0") if element is not None and isinstance(element.value, bytes) else b""
            if raw:
                found[kind] = digest(kind.encode(), raw).hex()
        return found

    def position(self) -> float | None:
        """Return where the image lies along the normal of its plane, in mm; None where the file does not say it."""
        place, axes = self.dataset.get("ImagePositionPatient"), self.dataset.get("ImageOrientationPatient")
        if not place or not axes or len(place) != 3 or len(axes) != 6:
            return None
        rows, columns = np.reshape(np.asarray(axes, dtype=np.float64), (2, 3))
        return float(np.dot(np.cross(rows, columns), np.asarray(place, dtype=np.float64)))

    def levels(self, frame: int) -> "Dataset":
        """Return what decides how the grey values of a frame are shown: ``LUT_TAGS``, of enhanced objects its own."""
        from pydicom.dataset import Dataset

        found = Dataset()
        for keyword in LUT_TAGS:
            if keyword in self.dataset:
                found[keyword] = self.dataset[keyword]
        for groups in self._functional_groups(frame):
            for keyword in PER_FRAME:
                if groups.get(keyword):
                    found.update(groups[keyword].value[0])
        found.file_meta = self.dataset.file_meta
        return found

    def _functional_groups(self, frame: int) -> "Iterator[Dataset]":
        shared, own = (self.dataset.get(f"{name}FunctionalGroupsSequence") for name in ("Shared", "PerFrame"))
        if shared:
            yield shared[0]
        if own and frame < len(own):
            yield own[frame]

    def spacing(self) -> tuple[float, float] | None:
        """Return the distance of rows and of columns, in mm; None where the file does not say it."""
        measures = [groups.get("PixelMeasuresSequence") for groups in self._functional_groups(0)]
        for owner in [self.dataset, *(each[0] for each in measures if each)]:
            said = owner.get("PixelSpacing") or owner.get("ImagerPixelSpacing")
            if said and len(said) == 2:
                return float(said[0]), float(said[1])
        return None


@lru_cache(maxsize=64)
def header_of(file: StampedFile) -> Header:
    """Read the header of a DICOM file; the last few are remembered.

    Raises
    ------
    UnreadableImageError
        If it is damaged, holds no pixels, fewer than it says, or pixels of a kind that is not read.
    DependencyError
        If pydicom is not installed.
    """
    file.require_unchanged()
    with _header_errors(file):
        from pydicom.filereader import read_partial
        from pydicom.tag import Tag
        from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

        lengths: list[int] = []

        def at_pixels(tag: int, _: str | None, length: int) -> bool:
            lengths.extend([length] if tag in PIXEL_DATA else [])
            return tag in PIXEL_DATA

        tags: list[Any] = [
            Tag(each) for each in (*LUT_TAGS, *PIXEL_TAGS, *PLACE_TAGS, *KIND_TAGS, *IDENTIFIERS.values())
        ]
        with open_regular(file.path) as opened:
            dataset = read_partial(opened, stop_when=at_pixels, force=True, specific_tags=tags)
            begin = opened.tell()
        implicit, little = dataset.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        # Files of old programs do not say it; what pydicom found when it read the header is then all there is.
        dataset.file_meta.TransferSyntaxUID = dataset.file_meta.get("TransferSyntaxUID") or native
        header = Header(file=file, dataset=dataset, begin=begin, length=lengths[-1] if lengths else None)
        _require_pixels(header)
    return header


def _require_pixels(header: Header) -> None:
    """Refuse what holds no image, or one that is cut off or of a kind that is not read."""
    name, dataset = header.file.description, header.dataset
    if header.length is None:
        sort = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
        what = next((words for start, words in WITHOUT_IMAGE.items() if sort.startswith(start)), None)
        if what is not None:
            raise UnknownFormatError(
                f"{name}: a DICOM file that is no image but {what}.",
                remedy=f"Leave such files out with {option('exclude')}.",
            )
        raise UnreadableImageError(
            f"{name}: a DICOM file without pixel data: it is cut off, or a header alone.",
            remedy=f"Copy it again, or leave it out with {option('exclude')}.",
        )
    needed = ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation")
    missing = [keyword for keyword in needed if not dataset.get(keyword)]
    if missing:
        raise UnreadableImageError(
            f"{name}: its DICOM header lacks {', '.join(missing)}, without which pixels mean nothing.", remedy=REMEDY
        )
    if not header.photometric.startswith("MONOCHROME") and header.photometric not in {*COLOUR_SPACES, PALETTE}:
        raise UnreadableImageError(
            f"{name}: its colours are of the kind {header.photometric}, which is not read.",
            remedy="Save it as RGB or as MONOCHROME2.",
        )
    # The limit that Pillow has for other files: a small file could otherwise take all memory.
    if int(dataset.Rows) * int(dataset.Columns) > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
        raise UnreadableImageError(f"{name}: has {dataset.Columns} x {dataset.Rows} pixels.", remedy=TOO_LARGE)
    if not header.deflated:
        _require_whole(header)


def _require_whole(header: Header) -> None:
    """Refuse a file that ends before its pixels do: decoders would fill up the rest with grey, silently."""
    with open_regular(header.file.path) as file:
        file.seek(header.begin)
        group = file.read(12)
        begin = header.begin + (12 if group[4:6] in {b"OB", b"OW", b"OF", b"OD", b"UN"} else 8)
        end = _end_of_fragments(file, begin) if header.length == UNDEFINED else begin + (header.length or 0)
    if end > header.file.n_bytes:
        raise UnreadableImageError(
            f"{header.file.description}: is cut off: its pixels end {end - header.file.n_bytes:,} bytes after the file "
            "does.",
            remedy="Copy it again, or remove it.",
        )


def _end_of_fragments(file: BinaryIO, begin: int) -> int:
    """Return where the last fragment of compressed pixels ends, which may be behind the end of the file."""
    while True:
        file.seek(begin)
        item = file.read(8)
        if len(item) < 8 or item[:4] != ITEM:  # that is the delimiter, or what no decoder will take for a fragment
            return begin
        begin += 8 + int.from_bytes(item[4:], "little")


@dataclass(frozen=True, kw_only=True)
class DicomImage:
    """The :class:`~biofuse.data.cuts.Cut` of a frame of a DICOM file.

    Attributes
    ----------
    file : StampedFile
    frame : int
        From 0.
    n_frames : int
        How many the file has.
    window : str or None
        The option ``window``, where it was said.
    limits : tuple of float, or None
        What becomes black and white where neither the option nor the file says it, found for all files of a series;
        otherwise it is percentiles of the file.
    """

    file: StampedFile
    frame: int = 0
    n_frames: int = 1
    window: str | None = None
    limits: tuple[float, float] | None = None

    @property
    def description(self) -> str:
        """The path, and the frame where there are several."""
        return self.file.description + (f", frame {self.frame}" if self.n_frames > 1 else "")

    def content(self, policy: DecodePolicy) -> bytes:
        """Return the content hash (16 bytes) of file, frame and window.

        Raises
        ------
        UnreadableImageError
            If the file cannot be read.
        """
        cut: dict[str, JSON] = {"dicom": DICOM_VERSION, "frame": self.frame, "window": self.window}
        cut |= {} if self.limits is None else {"limits": self.limits}
        return cut_content([self.file], cut, policy)

    def read(self) -> NDArray[np.uint8]:
        """Return the frame as it is shown: grey [height, width] or red, green and blue [height, width, 3].

        Raises
        ------
        UnreadableImageError
            If it cannot be decoded, or changed since it was looked at.
        DependencyError
            If pydicom is not installed.
        """
        header = header_of(self.file)
        self.file.require_unchanged()
        try:
            if header.colour:
                return _colours(header, self.frame)
            values = grey_values(header, self.frame)
            grey = self._shown(header, values)
        except MemoryError as error:
            raise UnreadableImageError(
                f"{self.description}: there is no memory to decode it.", remedy=TOO_LARGE
            ) from error
        return 255 - grey if header.photometric == "MONOCHROME1" else grey

    def _shown(self, header: Header, values: NDArray[Any]) -> NDArray[np.uint8]:
        window = Window.of(self.window)
        if window is not None:
            return window.grey(values)
        if self.window is None:
            with _header_errors(self.file):
                own = _own_window(header, self.frame, values)
                if own is not None:
                    return own
        return to_grey(values, *(self.limits or _limits(self.file)))


def _pixels(header: Header, frame: int) -> NDArray[Any]:
    """Decode one frame, as it is stored but for YBR, which becomes RGB."""
    with _header_errors(header.file):
        from pydicom import dcmread
        from pydicom.pixels.utils import iter_pixels
        from pydicom.uid import JPEGExtended12Bit

        try:
            if header.syntax == JPEGExtended12Bit and header.bits > 8:
                pixels: NDArray[Any] = _twelve_bits(header, frame)
            elif header.deflated or header.frames == 1:
                whole = dcmread(
                    header.file.path, force=True, specific_tags=[*LUT_TAGS, *PIXEL_TAGS, *PIXEL_DATA.values()]
                )
                whole.file_meta.TransferSyntaxUID = header.syntax
                pixels = next(iter_pixels(whole, indices=[frame]))
            else:  # the other frames are not read
                pixels = next(iter_pixels(header.file.path, indices=[frame], transfer_syntax_uid=header.syntax))
        except (*DICOM_ERRORS, StopIteration, ImportError) as error:
            raise _undecodable(header, frame, error) from error
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise UnreadableImageError(f"{header.file.description}: has NaN or infinite pixels.", remedy=REMEDY)
    return pixels


def _twelve_bits(header: Header, frame: int) -> NDArray[Any]:
    """Decode JPEG of 12 bits: of the decoders that pydicom knows, the one that can is under the GPL."""
    import imagecodecs
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    coded = dcmread(header.file.path, force=True, specific_tags=["PixelData"]).PixelData
    pixels: NDArray[Any] = imagecodecs.jpeg_decode(
        get_frame(coded, frame, number_of_frames=header.frames), bitspersample=header.bits
    )
    return pixels


def _undecodable(header: Header, frame: int, error: Exception) -> UnreadableImageError:
    from pydicom.pixels.decoders.base import get_decoder

    where, kind = f"{header.file.description}{f', frame {frame}' if header.frames > 1 else ''}", _compression(header)
    try:
        ready = get_decoder(header.syntax).is_available
    except NotImplementedError:
        return UnreadableImageError(
            f"{where}: its pixels are {kind}, which is not read.",
            remedy="Save it uncompressed, or the frames of a film as PNG.",
        )
    if not ready or isinstance(error, ImportError):
        return UnreadableImageError(
            f"{where}: its pixels are {kind}, which nothing that is installed decodes.",
            remedy="pip install 'biofuse-embed[dicom]'",
        )
    said = str(error).strip().splitlines()[-1].strip().rstrip(".") if str(error).strip() else type(error).__name__
    return UnreadableImageError(f"{where}: its pixels ({kind}) cannot be decoded: {said}.", remedy=REMEDY)


def _compression(header: Header) -> str:
    known = not header.syntax.is_private and header.syntax.name != str(header.syntax)
    return header.syntax.name if known else "compressed in a way of their maker's own"


def grey_values(header: Header, frame: int = 0) -> NDArray[Any]:
    """Return what was measured: a frame's grey values after rescaling, Hounsfield units in CT, [height, width].

    Raises
    ------
    UnreadableImageError
        If the frame cannot be decoded.
    """
    pixels = _pixels(header, frame)
    with _header_errors(header.file):
        from pydicom.pixels.processing import apply_modality_lut

        values: NDArray[Any] = apply_modality_lut(pixels, header.levels(frame))
    return values


def _own_window(header: Header, frame: int, values: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Show values as the file itself says (PS3.3, C.11.2), or 8 bits as they are stored; None where it says nothing."""
    from pydicom.pixels.processing import apply_voi

    levels = header.levels(frame)
    if levels.get("VOILUTSequence"):
        whole = values if values.dtype.kind in "iu" else np.rint(values).astype(np.int64)
        depth = int(levels.VOILUTSequence[0].LUTDescriptor[2])
        return to_grey(apply_voi(whole, levels), 0.0, 2.0**depth - 1.0)
    window = _window_of(levels)
    if window is None:
        return to_grey(values, 0.0, 2.0**header.bits - 1.0) if _is_plain(header, levels) else None
    centre, width, function = window
    if function == "SIGMOID":
        return to_grey(1.0 / (1.0 + np.exp(-4.0 * (values - centre) / width)), 0.0, 1.0)
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1.0
    low = centre - width / 2.0
    # A window of one value alone has no slope: what lies above it is white.
    return to_grey(values, low, low + width) if width else np.where(values > low, 255, 0).astype(np.uint8)


def _window_of(levels: "Dataset") -> tuple[float, float, str] | None:
    """Return the first window's centre, width and function; None where there is none, or one that shows nothing."""
    centre, width = (_first(levels.get(f"Window{name}")) for name in ("Center", "Width"))
    function = str(levels.get("VOILUTFunction") or "LINEAR").upper()
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        raise ValueError("no function of PS3.3, C.11.2.1.3")
    if centre is None or width is None or width <= 0.0 or (function == "LINEAR" and width < 1.0):
        return None
    return centre, width, function


def _first(value: Any) -> float | None:
    """Return the first of the values of an element; None where there is none."""
    first = next(iter(value), None) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return None if first is None or first == "" else float(first)


def _is_plain(header: Header, levels: "Dataset") -> bool:
    """Tell whether values are grey of at most 8 bits that no rescaling has changed."""
    slope, intercept = _first(levels.get("RescaleSlope")), _first(levels.get("RescaleIntercept"))
    changed = levels.get("ModalityLUTSequence") or slope not in {None, 1.0} or intercept not in {None, 0.0}
    return header.bits <= 8 and not header.dataset.get("PixelRepresentation") and not changed


@lru_cache(maxsize=64)
def _limits(file: StampedFile) -> tuple[float, float]:
    """Return which values of a file become black and white: percentiles over its frames."""
    header = header_of(file)
    frames = sorted({int(place) for place in np.linspace(0, header.frames - 1, min(header.frames, SAMPLED)).round()})
    return percentile_limits([_without_padding(header, frame) for frame in frames])


def series_limits(files: Sequence[StampedFile], window: str | None) -> tuple[float, float] | None:
    """Return which values of a series become black and white: percentiles over at most ``SAMPLED`` of its files.

    Parameters
    ----------
    files : sequence of StampedFile
        Of one series, in their order.
    window : str or None
        The option ``window``.

    Returns
    -------
    tuple of float, or None
        None where the option or the files say it.

    Raises
    ------
    UnreadableImageError
        If a file cannot be decoded.
    """
    header = header_of(files[0])
    with _header_errors(header.file):
        if header.colour or not _by_percentiles(header, window):
            return None
    some = np.linspace(0, len(files) - 1, min(len(files), SAMPLED)).round().astype(int)
    return percentile_limits([_without_padding(header_of(files[place]), 0) for place in sorted(set(some.tolist()))])


def _by_percentiles(header: Header, asked: str | None) -> bool:
    """Tell whether neither the option nor the file says what is black and white."""
    if asked is not None:
        return Window.of(asked) is None
    levels = header.levels(0)
    return not (levels.get("VOILUTSequence") or _window_of(levels) is not None or _is_plain(header, levels))


def _without_padding(header: Header, frame: int) -> NDArray[Any]:
    """Return the values of a frame that were measured (PS3.3, C.7.5.1.1.2)."""
    values = grey_values(header, frame)
    with _header_errors(header.file):
        padding, last = (_first(header.dataset.get(f"PixelPadding{name}")) for name in ("Value", "RangeLimit"))
    if padding is None:
        return values
    low, high = sorted((padding, padding if last is None else last))
    stored = _pixels(header, frame)
    return values[(stored < low) | (stored > high)]


def _colours(header: Header, frame: int) -> NDArray[np.uint8]:
    """Return red, green and blue, 8-bit."""
    pixels, bits = _pixels(header, frame), header.bits
    if header.photometric == PALETTE:
        with _header_errors(header.file):
            from pydicom.pixels.processing import apply_color_lut

            pixels = apply_color_lut(pixels, header.dataset)[..., :3]
        bits = 8 * pixels.dtype.itemsize
    return pixels.astype(np.uint8) if bits == 8 else to_grey(pixels, 0.0, 2.0**bits - 1.0)


def open_file(path: Path, config: DataConfig, *, called: str = "") -> Opened:
    """Open one DICOM file: an image, or a bag of its frames.

    Parameters
    ----------
    path : Path
    config : DataConfig
        Its ``window`` counts, and ``slices`` where there are several frames.
    called : str, optional
        What a person knows the file by.

    Raises
    ------
    UnreadableImageError
        If it holds no image that is read, is cut off, has none of the frames asked for, or the window is one of CT and
        it is none.
    DependencyError
        If pydicom is not installed.
    """
    header, window = header_of(StampedFile.of(path, called)), Window.of(config.window)
    if window is not None and window.name is not None and not header.colour and header.modality != "CT":
        raise UnreadableImageError(
            f"{header.file.description}: {option('window', window.name)} is a window of CT, in Hounsfield units; its "
            f"modality is {header.modality}.",
            remedy=f"Give a centre and a width in its own unit, or {option('window', BY_PERCENTILES)}, or none.",
        )
    with _header_errors(header.file):
        n_frames, name, warned = header.frames, header.file.description, []
        frames, absent = chosen(config.slices, range(n_frames), n_frames) if n_frames > 1 else ([0], [])
        if absent:
            warned.append(f"{name}: has {n_frames} frames, and none of {listing(list(map(str, absent)))}.")
        if not frames:
            raise UnreadableImageError(warned[0], remedy=f"Choose others with {option('slices')}, from 0.")
        if str(header.dataset.get("BurnedInAnnotation") or "") == "YES":
            warned.append(
                f"{name} says that words are burned into its pixels. Where they name the patient, "
                "thumbnails of reports show it."
            )
        return Opened(
            images=tuple(
                DicomImage(file=header.file, frame=frame, n_frames=n_frames, window=config.window) for frame in frames
            ),
            is_bag=n_frames > 1,
            about=FileFacts(kind="DICOM image", facts=_facts(header, config.window, len(frames))),
            identifiers=header.identifiers(),
            position=header.position(),
            warnings=tuple(warned),
        )


def _facts(header: Header, window: str | None, used: int) -> Mapping[str, str | float]:
    spacing = header.spacing()
    facts: dict[str, str | float] = {"modality": header.modality, "frames": float(header.frames)}
    facts |= {"frames used": float(used)} if header.frames > 1 else {}
    facts |= {} if header.colour else {"window": window_words(header, window)}
    facts |= {"pixel spacing (mm)": spacing[0]} if spacing is not None else {}
    facts |= {"compression": _compression(header)} if header.syntax.is_compressed else {}
    return facts


def window_words(header: Header, asked: str | None) -> str:
    """Say what makes grey values black and white: the option ``window``, or the file, of its first frame."""
    window, levels = Window.of(asked), header.levels(0)
    if window is not None:
        return window.words
    own = _window_of(levels)
    if asked is None and levels.get("VOILUTSequence"):
        return "the file's own table"
    if asked is None and own is not None:
        return f"the file's own ({own[0]:g},{own[1]:g})"
    if asked is None and _is_plain(header, levels):
        return "8 bits as stored"
    return f"percentiles {PERCENTILES[0]:g} to {PERCENTILES[1]:g}"
