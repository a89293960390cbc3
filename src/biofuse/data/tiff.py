"""TIFF as instruments write it: the kinds that Pillow does not open, and those it opens with other values, silently."""

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
"""TIFF 6.0, sample format: unsigned, two's complement, IEEE floating point."""
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
"""TIFF 6.0, photometric interpretation."""
UNCOMPRESSED, DEFLATE, OLD_DEFLATE = 1, 8, 32946
"""TIFF 6.0 and its supplement 2, compression."""
HORIZONTAL, FLOATING_POINT = 2, 3
"""TIFF 6.0 and Adobe's technical note 3, predictor: compressed values, or their bytes, are stored as differences."""
SEPARATE = 2
"""TIFF 6.0, planar configuration: one plane per channel."""
ALPHA = 2
"""TIFF 6.0, extra samples: transparency that colours were not multiplied by."""

MOST_CHANNELS = 1000
"""More are damage."""

KINDS = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: np.rot90,
}  # fmt: skip
"""What undoes each orientation but the upright."""
COMPRESSIONS = {
    2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "JPEG", 7: "JPEG", 32773: "PackBits", 34712: "JPEG 2000",
    34925: "LZMA", 50000: "Zstandard", 50001: "WebP",
}  # fmt: skip


class UnsupportedTiffError(ValueError):
    """A TIFF file is whole, but of a kind that is not read."""


@dataclass(frozen=True, kw_only=True)
class TiffPage:
    """What one page says of itself.

    Attributes
    ----------
    order : {"<", ">"}
        Its byte order.
    height, width : int
    bits, formats : tuple of int
        Of each channel: bits, and sample format.
    photometric, planar, compression, predictor, orientation, fill_order : int
        Values of the tags.
    extra : tuple of int
        What channels beyond grey or red, green and blue are.
    segment : tuple of int
        Rows and columns of a tile or strip.
    offsets, counts : tuple of int
        Where the segments lie, and their bytes.
    description : str
        What the program that wrote it says of it.
    """

    order: str
    height: int
    width: int
    bits: tuple[int, ...]
    formats: tuple[int, ...]
    photometric: int
    planar: int
    compression: int
    predictor: int
    orientation: int
    fill_order: int
    extra: tuple[int, ...]
    segment: tuple[int, int]
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    description: str = ""

    @classmethod
    def of(cls, tags: Mapping[int, Any], order: str = "<") -> Self:
        """Take what is needed from a directory of tags.

        Raises
        ------
        KeyError, ValueError, TypeError
            If it lacks something, or holds something else.
        """

        def several(tag: int, otherwise: int | None = None) -> tuple[int, ...]:
            values = tags[tag] if otherwise is None else tags.get(tag, otherwise)
            return tuple(map(int, values)) if isinstance(values, tuple | list) else (int(values),)

        def one(tag: int, otherwise: int | None = None) -> int:
            return several(tag, otherwise)[0]

        height, width, channels = one(257), one(256), one(277, 1)
        tiled = 322 in tags
        return cls(
            order=order,
            height=height,
            width=width,
            bits=_each(several(258, 1), channels),
            formats=_each(several(339, 1), channels),
            photometric=one(262),
            planar=one(284, 1),
            compression=one(259, 1),
            predictor=one(317, 1),
            orientation=one(274, 1),
            fill_order=one(266, 1),
            extra=several(338) if 338 in tags else (),
            segment=(one(323), one(322)) if tiled else (min(one(278, height), height), width),
            offsets=several(324 if tiled else 273),
            counts=several(325 if tiled else 279, 0),
            description=str(tags.get(270, "")),
        )

    @property
    def channels(self) -> int:
        """How many values a pixel has."""
        return len(self.bits)

    @property
    def several(self) -> bool:
        """Whether it has channels that are no colours: more than grey or red, green and blue with transparency."""
        if self.photometric == RGB:
            return self.channels > 4
        deep = max(self.bits) > 8
        return self.photometric in {WHITE_IS_ZERO, BLACK_IS_ZERO} and (
            self.channels > 2 or (self.channels > 1 and deep)
        )

    @property
    def misread(self) -> bool:
        """Whether Pillow would give other values than are stored, without a word.

        It takes signed bytes for unsigned ones; zero for black where it is white, of more than 8 bits; planes of more
        than 8 bits, uncompressed, for planes of bytes; and it turns bytes twice of compressed big-endian values that
        are signed or floating point.
        """
        bits, kinds = max(self.bits), set(self.formats)
        return (
            (bits == 8 and SIGNED in kinds)
            or (bits > 8 and self.photometric == WHITE_IS_ZERO)
            or (bits > 8 and self.planar == SEPARATE and self.channels > 1 and self.compression == UNCOMPRESSED)
            or (bits > 8 and self.order == ">" and self.compression != UNCOMPRESSED and kinds != {UNSIGNED})
        )

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The type of the values, where NumPy has it and all channels share it."""
        kinds = {(KINDS.get(kind), size) for kind, size in zip(self.formats, self.bits, strict=True)}
        kind, size = kinds.pop()
        known = not kinds and kind is not None and size in {8, 16, 32, 64} and (kind, size) != ("f", 8)
        return np.dtype(f"{self.order}{kind}{size // 8}") if known else None

    @property
    def words(self) -> str:
        """What a person would call it."""
        kind = self.dtype.name if self.dtype else f"{'/'.join(map(str, sorted(set(self.bits))))}-bit"
        layout = {WHITE_IS_ZERO: "grey", BLACK_IS_ZERO: "grey", RGB: "colour"}.get(self.photometric, "values")
        packed = "" if self.compression == UNCOMPRESSED else f", {COMPRESSIONS.get(self.compression, 'compressed')}"
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return f"{self.width} x {self.height}, {channels} of {kind} {layout}{packed}"

    def read(self, raw: bytes) -> NDArray[Any]:
        """Read its pixels, upright and with zero as black, shape (height, width) or (height, width, 3 or 4).

        Raises
        ------
        UnsupportedTiffError
            If it is of a kind that is not read.
        OSError
            If it is cut off.
        """
        shape = {WHITE_IS_ZERO: (1, ()), BLACK_IS_ZERO: (1, ()), RGB: (3, ())}.get(self.photometric)
        known = (self.channels, self.extra) in {shape, (4, (ALPHA,)) if self.photometric == RGB else shape}
        if self.dtype is None or not known or self.fill_order != 1:
            raise UnsupportedTiffError(f"TIFF files of this kind ({self.words}) are not read")
        if self.compression not in {UNCOMPRESSED, DEFLATE, OLD_DEFLATE}:
            raise UnsupportedTiffError(f"TIFF files of this kind ({self.words}) are read uncompressed or deflated only")
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and self.width * self.height > 2 * limit:
            raise Image.DecompressionBombError(
                f"Image size ({self.width * self.height} pixels) exceeds limit of {2 * limit} pixels"
            )
        planes = self.channels if self.planar == SEPARATE else 1
        pixels = np.empty((planes, self.height, self.width, self.channels // planes), self.dtype.newbyteorder("="))
        for plane, top, left, block in self._blocks(raw, planes, self.dtype):
            place = pixels[plane, top : top + block.shape[0], left : left + block.shape[1]]
            place[...] = block[: place.shape[0], : place.shape[1]]
        joined = np.concatenate(list(pixels), axis=-1) if planes > 1 else pixels[0]
        upright: NDArray[Any] = UPRIGHT.get(self.orientation, np.asarray)(joined)
        values = upright[..., 0] if self.channels == 1 else upright
        if self.photometric != WHITE_IS_ZERO:
            return values
        return 1 - values if self.dtype.kind == "f" else np.invert(values)

    def _blocks(self, raw: bytes, planes: int, dtype: np.dtype[Any]) -> Iterator[tuple[int, int, int, NDArray[Any]]]:
        rows, columns = self.segment
        if min(rows, columns, self.height, self.width) < 1:
            raise OSError("an image without pixels")
        down, across = math.ceil(self.height / rows), math.ceil(self.width / columns)
        depth, size = self.channels // planes, self.bits[0] // 8
        whole = rows * columns * depth * size
        counts = (whole,) if self.counts == (0,) and len(self.offsets) == 1 else self.counts
        if not len(self.offsets) == len(counts) == planes * down * across:
            raise OSError("it lists other parts than its size needs")
        for number, (offset, count) in enumerate(zip(self.offsets, counts, strict=True)):
            plane, place = divmod(number, down * across)
            top, left = rows * (place // across), columns * (place % across)
            height = rows if self.segment[1] != self.width else min(rows, self.height - top)
            data = self._unpacked(raw[offset : offset + count], count, height * columns * depth * size)
            yield plane, top, left, self._values(data, dtype, (height, columns, depth))

    def _unpacked(self, piece: bytes, count: int, expected: int) -> bytes:
        cut = len(piece) < count
        if not cut and self.compression != UNCOMPRESSED:
            piece = zlib.decompressobj().decompress(piece, expected)
        if cut or len(piece) < expected or not expected:
            raise OSError("image file is truncated")
        return piece[:expected]

    def _values(self, data: bytes, dtype: np.dtype[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
        predictor = 1 if self.compression == UNCOMPRESSED else self.predictor
        if predictor == FLOATING_POINT and dtype.kind == "f":
            rows, columns, depth = shape
            differences = np.frombuffer(data, np.uint8).reshape(rows, -1, depth)
            planes = np.cumsum(differences, axis=1, dtype=np.uint8).reshape(rows, dtype.itemsize, columns * depth)
            return np.ascontiguousarray(planes.swapaxes(1, 2)).view(f">f{dtype.itemsize}").reshape(shape)
        values = np.frombuffer(data, dtype).reshape(shape)
        if predictor == HORIZONTAL and dtype.kind in "ui":
            return np.cumsum(values, axis=1, dtype=dtype.newbyteorder("="))
        if predictor != 1:
            raise UnsupportedTiffError(
                f"TIFF files of this kind ({self.words}, predictor {self.predictor}) are not read"
            )
        return values


def is_tiff(raw: bytes) -> bool:
    """Tell a TIFF file by its first bytes."""
    return raw.startswith(tuple(TiffImagePlugin.PREFIXES))


def tiff_page(raw: bytes, page: int) -> TiffPage | None:
    """Read what a page of a TIFF file says of itself; None where the file is none, or its directory is damaged."""
    if not is_tiff(raw):
        return None
    try:
        for number, directory in enumerate(_directories(raw)):
            if number == page:
                return TiffPage.of(directory, ">" if raw.startswith(b"MM") else "<")
    except (OSError, ValueError, TypeError, LookupError, SyntaxError, ArithmeticError, AttributeError, struct.error):
        return None
    return None


VALUE_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip
"""TIFF 6.0 and BigTIFF: the bytes of a value of each type."""


def require_whole_directories(raw: bytes) -> None:
    """Refuse a TIFF file that is cut off within or before a directory, or what it points to.

    Raises
    ------
    OSError
        If it is.
    """
    order, big = "<" if raw.startswith(b"II") else ">", b"+" in raw[2:4]
    count, entry, place = (
        (f"{order}Q", f"{order}HHQQ", f"{order}Q") if big else (f"{order}H", f"{order}HHLL", f"{order}L")
    )
    inside = struct.calcsize(place)
    try:
        seen, (start,) = set[int](), struct.unpack_from(place, raw, 8 if big else 4)
        while start and start not in seen:
            seen.add(start)
            (entries,) = struct.unpack_from(count, raw, start)
            start += struct.calcsize(count)
            for _, kind, values, offset in struct.iter_unpack(
                entry, raw[start : start + entries * struct.calcsize(entry)]
            ):
                size = VALUE_BYTES.get(kind, 0) * values
                if size > inside and offset + size > len(raw):
                    raise OSError("image file is truncated")
            (start,) = struct.unpack_from(place, raw, start + entries * struct.calcsize(entry))
    except struct.error as error:
        raise OSError("image file is truncated") from error


def tiff_length(raw: bytes) -> int:
    """Count the pages of a TIFF file."""
    return sum(1 for _ in _directories(raw))


def _directories(raw: bytes) -> Iterator[Any]:
    file = io.BytesIO(raw)
    tags = TiffImagePlugin.ImageFileDirectory_v2(raw[:16] if raw[2:3] == b"+" else raw[:8])
    place, seen = tags.next, set()
    while place and place not in seen and place < len(raw):
        seen.add(place)
        file.seek(place)
        tags.load(file)
        yield tags
        place = tags.next


def _each(values: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """Return one value per channel, where a file says it once for all."""
    if not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(f"{channels} channels")
    return values * channels if len(values) == 1 else values[:channels]
