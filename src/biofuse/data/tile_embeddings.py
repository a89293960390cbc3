"""Embeddings of the tiles of a slide that other programs made: one file per slide, a bag of tiles without pixels.

TRIDENT and CLAM write ``features`` [tiles, columns] and ``coords`` [tiles, 2] into an HDF5 file per slide; CLAM and
slide2vec write a tensor [tiles, columns] (``.pt``), and keep the places in another folder: ``h5_files/SLIDE.h5``,
``tiles/SLIDE.coordinates.npz``. A tile is known by the name of its slide and its place, so that the tiles of several
encoders are the same tiles; by its row where no places are to be found.
"""

import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, DependencyError, UnreadableImageError, option
from biofuse.core.files import refuse_special_file
from biofuse.core.hashing import canonical_json, digest, hash_order
from biofuse.data.config import DataConfig
from biofuse.data.cuts import FileFacts, Opened
from biofuse.data.decoding import DecodePolicy

HDF5 = frozenset({".h5", ".hdf5"})
SUFFIXES = HDF5 | {".pt"}
HDF5_START, PT_START = b"\x89HDF", b"PK\x03\x04"
"""What the files begin with; a ``.pt`` is a ZIP archive."""

FEATURES, PLACES = "features", "coords"
"""What TRIDENT (``trident/wsi_objects/WSI.py``) and CLAM (``extract_features_fp.py``) call their arrays."""
SIZE = "patch_size_level0"
"""TRIDENT's name of the side of a tile in pixels of the finest level, an attribute of the places."""

REMEDY = "Write it again with the program that made it."


@dataclass(frozen=True)
class EmbeddedTile:
    """A tile that is known by its embeddings alone: a :class:`biofuse.data.cuts.Cut`.

    Attributes
    ----------
    slide : str
        Name of the file without its suffix.
    corner : tuple of int, or None
        x and y of its upper left corner in pixels of the finest level; None where they are not known.
    size : int
        Its side there; 0 where it is not known.
    row, rows : int
        Where it stands in the file, and how many there are.
    """

    slide: str
    corner: tuple[int, int] | None
    size: int
    row: int
    rows: int

    @property
    def key(self) -> tuple[int, int, int]:
        """What a tile is known by within its slide, whatever the order of a file's rows."""
        return (*(self.corner or (self.row, self.rows)), self.size)

    @property
    def place(self) -> dict[str, int]:
        """Its corner by name; nothing where it is not known."""
        return {} if self.corner is None else {"x": self.corner[0], "y": self.corner[1]}

    @property
    def description(self) -> str:
        """The slide, and which tile of it."""
        where = f" at x {self.corner[0]}, y {self.corner[1]}" if self.corner else ""
        return f"{self.slide}, tile {self.row}{where}"

    def content(self, policy: DecodePolicy) -> bytes:
        """Name the tile by its slide and its place (16 bytes); no pixels are known that a policy could change."""
        del policy
        return digest(b"embedded tile", canonical_json([self.slide, self.key]))

    def read(self) -> bytes:
        """Refuse to be read.

        Raises
        ------
        UnreadableImageError
            Always.
        """
        raise UnreadableImageError(
            f"{self.description} is known by its embeddings alone: it has no image.",
            remedy="Keep them under a name: `biofuse store import FOLDER --encoder NAME --data DATA`; then ask for "
            f"{option('encoders', 'imported:NAME')}.",
        )


def recognises(path: Path, start: bytes) -> bool:
    """Tell whether a file may hold embeddings of tiles."""
    return start.startswith(HDF5_START if path.suffix.lower() in HDF5 else PT_START)


def open_file(path: Path, config: DataConfig, *, called: str = "") -> Opened:
    """Read which tiles a file has embeddings of, and draw those that are used.

    Raises
    ------
    DependencyError
        If the library that reads it is not installed.
    UnreadableImageError
        If it is damaged, or holds something else.
    """
    shape, found = _tiles(path, PurePosixPath(called or path).stem)
    order = hash_order([f"{tile.key[0]},{tile.key[1]}" for tile in found])[: config.tiles]
    tiles = [found[row] for row in sorted(order.tolist())]
    facts = {"columns": shape[1], "tiles of tissue": shape[0]}
    return Opened(images=tuple(tiles), is_bag=True, about=FileFacts(kind="embedded slide", facts=facts))


def read_embedded(path: Path, tiles: Sequence[EmbeddedTile]) -> NDArray[np.float32]:
    """Read the embeddings of tiles that another encoder's file may hold in another order, shape (len(tiles), columns).

    Raises
    ------
    AlignmentError
        If the file has no embedding of one of them.
    UnreadableImageError
        If the file is damaged, or holds something else.
    """
    rows = {tile.key: tile.row for tile in _tiles(path, path.stem)[1]}
    absent = [tile for tile in tiles if tile.key not in rows]
    if absent:
        raise AlignmentError(
            f"{path}: has no embedding of {len(absent)} of {len(tiles)} tiles of {absent[0].slide}, such as "
            f"{absent[0].description}.",
            remedy="All encoders must have been given the same tiles: the same size, resolution and places.",
        )
    try:
        if path.suffix.lower() in HDF5:
            with _hdf5(path) as file:
                values = np.asarray(_two(file[FEATURES][...]), dtype=np.float32)
        else:
            values = _two(_tensor(path)).float().numpy()
    except (OSError, RuntimeError) as error:
        raise UnreadableImageError(f"{path}: cannot be read: {error}.", remedy=REMEDY) from error
    return np.ascontiguousarray(values[[rows[tile.key] for tile in tiles]])


def _tiles(path: Path, slide: str) -> tuple[tuple[int, int], list[EmbeddedTile]]:
    """Return the shape of a file's embeddings, and the tile of each row."""
    shape, places, size = _layout(path)
    n = shape[0]
    corners = [None] * n if places is None else [(int(x), int(y)) for x, y in places.tolist()]
    tiles = [EmbeddedTile(slide, corner, size, row, n) for row, corner in enumerate(corners)]
    if len({tile.key for tile in tiles}) != n:
        raise UnreadableImageError(f"{path}: several tiles have the same place.", remedy=REMEDY)
    return shape, tiles


def _layout(path: Path) -> tuple[tuple[int, int], NDArray[np.int64] | None, int]:
    """Return the shape of a file's embeddings, the places of its tiles, and their size."""
    places: NDArray[np.int64] | None = None
    size = 0
    try:
        refuse_special_file(path)
        if path.suffix.lower() in HDF5:
            shape, places, size = _hdf5_layout(path)
        else:
            shape = tuple(_tensor(path).shape)
            places = _places_beside(path)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UnreadableImageError(f"{path}: cannot be read: {str(error).splitlines()[0]}.", remedy=REMEDY) from error
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(shape) != 2 or not all(shape):
        raise UnreadableImageError(
            f"{path}: holds no embeddings of tiles but an array of shape {shape}.",
            remedy="Give the files of tile (patch) embeddings, [tiles, columns], not those of whole slides.",
        )
    if places is not None and places.shape != (shape[0], 2):
        raise UnreadableImageError(f"{path}: {shape[0]} embeddings for places of shape {places.shape}.", remedy=REMEDY)
    return (shape[0], shape[1]), places, size


def _hdf5_layout(path: Path) -> tuple[tuple[int, ...], NDArray[np.int64] | None, int]:
    with _hdf5(path) as file:
        if FEATURES not in file:
            raise UnreadableImageError(
                f"{path}: has no array called {FEATURES!r}; it has {', '.join(map(str, file)) or 'none'}.",
                remedy="Give the HDF5 files of features that TRIDENT or CLAM wrote, not those of coordinates.",
            )
        if PLACES not in file:
            return tuple(file[FEATURES].shape), None, 0
        places = file[PLACES]
        size = places.attrs.get(SIZE, 0)
        array = np.asarray(places[...])
        array = array[0] if array.ndim == 3 and len(array) == 1 else array
        return tuple(file[FEATURES].shape), array.astype(np.int64), int(size)


def _places_beside(path: Path) -> NDArray[np.int64] | None:
    """Return the places that slide2vec or CLAM keeps of the tiles of a tensor; None where neither has any."""
    folder = path.parent.parent
    archive = folder / "tiles" / f"{path.stem}.coordinates.npz"
    if archive.is_file():
        with np.load(archive, allow_pickle=False) as arrays:
            return np.stack([arrays["x"], arrays["y"]], axis=1).astype(np.int64)
    of_clam = folder / "h5_files" / f"{path.stem}.h5"
    return _hdf5_layout(of_clam)[1] if of_clam.is_file() else None


def _hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DependencyError(
            f"{path} is an HDF5 file, which h5py reads.", remedy="pip install 'biofuse-embed[slides]'"
        ) from error
    return h5py.File(path, "r")


def _tensor(path: Path) -> Any:
    """Map a tensor that was saved by itself, or as ``features``; nothing but tensors is read."""
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    found = found.get(FEATURES) if isinstance(found, dict) else found
    if not isinstance(found, torch.Tensor):
        raise UnreadableImageError(f"{path}: holds no tensor of embeddings.", remedy=REMEDY)
    return found


def _two(array: Any) -> Any:
    """Leave off a first dimension of one, which some programs keep of a batch."""
    return array[0] if array.ndim == 3 and array.shape[0] == 1 else array
