"""JPEG files for extraction, made of real images."""

import hashlib
import importlib.resources
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 90
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}


def find_images(folder: Path | None) -> list[Path]:
    """Return real images: those of a folder, or the two photographs that scikit-learn comes with."""
    place = folder or Path(str(importlib.resources.files("sklearn.datasets") / "images"))
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise SystemExit(f"There are no images in {place}: give a folder of some with --images.")
    return found


def distinct(images: Sequence[Path], n: int) -> list[Path]:
    """Return the first ``n`` files of different content."""
    found = {hashlib.sha256(path.read_bytes()).digest(): path for path in reversed(images)}
    if len(found) < n:
        raise SystemExit(f"There are only {len(found)} different images.")
    return sorted(found.values())[:n]


def make_jpegs(folder: Path, images: Sequence[Path], *, n: int, side: int, seed: int = 0) -> list[Path]:
    """Fill a folder with ``n`` different colour JPEGs of ``side`` pixels; files that are there already are kept.

    Each is a mosaic of real images at their own resolution, so that it has as much detail as a picture of that size
    has: one blown up from a small picture would be decoded too quickly. Larger images are cut out of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{side}-{seed}-{number:06d}.jpg" for number in range(n)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    tiles = (
        [np.asarray(Image.open(path).convert("RGB")) for path in images[: min(len(images), 1500)]] if missing else []
    )
    for number in missing:
        _mosaic(tiles, side, np.random.default_rng([seed, number])).save(paths[number], quality=QUALITY)
    return paths


def _mosaic(tiles: Sequence[np.ndarray], side: int, random: np.random.Generator) -> Image.Image:
    canvas = np.zeros((side, side, 3), dtype=np.uint8)
    top = 0
    while top < side:
        left, heights = 0, []
        while left < side:
            tile = _cut(tiles[int(random.integers(len(tiles)))], side - top, side - left, random)
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            left += tile.shape[1]
            heights.append(tile.shape[0])
        top += max(min(heights), 1)
    return Image.fromarray(canvas)


def _cut(tile: np.ndarray, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    begin = [
        int(random.integers(max(have - most, 0) + 1)) for have, most in zip(tile.shape, (height, width), strict=False)
    ]
    return tile[begin[0] : begin[0] + height, begin[1] : begin[1] + width]


def shares(items: Sequence[Path], n: int) -> Iterator[list[Path]]:
    """Deal items out to ``n`` takers."""
    return (list(items[start::n]) for start in range(n))
