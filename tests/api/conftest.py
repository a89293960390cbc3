"""Small pictures that are hard to tell apart and three encoders of a few columns each; and made-up embeddings."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from biofuse import BioFuse, ExtractOptions, register_encoder
from biofuse.data.load import load_samples
from biofuse.encoders.registry import ENCODERS

ALONE = ExtractOptions(workers=0)


@pytest.fixture(autouse=True, scope="module")
def tiny_encoders() -> Iterator[tuple[str, ...]]:
    """Register three encoders for the tests of one module, and take them out again."""
    with ENCODERS.temporary():

        @register_encoder("t_colour", dim=3, size=8)
        def t_colour(images):
            return images.mean(axis=(1, 2))

        @register_encoder("t_spread", dim=2, size=8)
        def t_spread(images):
            return images[..., :2].std(axis=(1, 2))

        @register_encoder("t_edge", dim=4, size=8)
        def t_edge(images):
            grey = images.astype(float).mean(axis=3)
            down, along = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=2))
            return np.stack([down.mean((1, 2)), along.mean((1, 2)), down.max((1, 2)), along.max((1, 2))], axis=1)

        yield ("t_colour", "t_spread", "t_edge")


def picture(index: int, generator: np.random.Generator) -> np.ndarray:
    """Draw one noisy image whose colour, contrast and edges each give its class away a little."""
    level = np.array([100 + 14 * index, 120, 130 - 8 * index]) + generator.normal(0, 18, 3)
    pixels = level + generator.normal(0, 18 + 4 * index + generator.uniform(0, 10), (10, 10, 3))
    pixels[:: 4 - index] += generator.uniform(0, 20)
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def draw() -> Callable[..., list[Path]]:
    """Return a function that fills ``folder/class`` with PNG files."""

    def fill(folder, *, classes=("ctl", "mid", "sev"), each=14, seed=0):
        generator = np.random.default_rng(seed)
        paths = []
        for index, name in enumerate(classes):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                path = folder / name / f"{number:03d}.png"
                Image.fromarray(picture(index, generator)).save(path)
                paths.append(path)
        return paths

    return fill


@pytest.fixture(scope="module")
def study(tmp_path_factory, draw) -> SimpleNamespace:
    """Return a data set with train, val and test folders, a table of it, and a shared store."""
    root = tmp_path_factory.mktemp("study")
    images = root / "images"
    for seed, (split, each) in enumerate({"train": 12, "val": 5, "test": 7}.items()):
        draw(images / split, each=each, seed=seed)
    samples = load_samples(images)
    return SimpleNamespace(root=root, images=images, samples=samples, store=root / "store")


@pytest.fixture(scope="module")
def quick(tiny_encoders, study):
    """Return a function that makes a small and fast BioFuse."""

    def make(encoders=tiny_encoders, **options):
        defaults = {"folds": 3, "repeats": 1, "store": study.store, "options": ALONE}
        return BioFuse(list(encoders), **{**defaults, **options})

    return make


@pytest.fixture(scope="module")
def fitted(quick, study):
    """Return a finished fit with its run directory."""
    return quick().fit(study.images, out=study.root / "run", progress=False).result_


@pytest.fixture
def run(quick, study, tmp_path):
    """Return a function that fits into one folder of the test."""

    def fit(out=None, *, data=None, overwrite=False, tell=None, pool=("t_colour", "t_edge"), **options):
        fuse = quick(pool, **options)
        folder = out or tmp_path / "run"
        return fuse.fit(
            study.images if data is None else data, out=folder, overwrite=overwrite, tell=tell, progress=False
        ).result_

    return fit
