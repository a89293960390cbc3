"""A model of two descriptors, fitted on small pictures of three classes."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from biofuse import BioFuse, ExtractOptions

ALONE = ExtractOptions(workers=0)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[Path]:
    """Return 36 PNG files in three class folders."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    paths = []
    for index, name in enumerate(("flat", "rough", "wild")):
        (root / name).mkdir()
        for number in range(12):
            pixels = generator.normal((110 + 20 * index, 120, 130), 10 + 25 * index, (20, 20, 3))
            path = root / name / f"{number:02d}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
            paths.append(path)
    return paths


@pytest.fixture(scope="session")
def made(pictures, tmp_path_factory) -> SimpleNamespace:
    """Return the fitted model, what it was fitted from, and its store."""
    store = tmp_path_factory.mktemp("model-store")
    fuse = BioFuse(["haralick", "hog"], search="all", folds=2, repeats=1, store=store, options=ALONE)
    result = fuse.fit(pictures[0].parents[1], test=None, progress=False).result_
    return SimpleNamespace(model=result.model, result=result, pictures=pictures, store=store)
