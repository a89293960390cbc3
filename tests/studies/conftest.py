"""Archives in MedMNIST's format, one per kind of task, made from real images: scikit-learn's scanned digits."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from biofuse import BioFuse, ExtractOptions, register_encoder
from biofuse.encoders.registry import ENCODERS

PARTS = {"train": (0, 70), "val": (70, 100), "test": (100, 160)}


@pytest.fixture(scope="module")
def scan_encoders() -> Iterator[tuple[str, ...]]:
    """Register two encoders of digits, and take them out again."""
    with ENCODERS.temporary():

        @register_encoder("s_rows", dim=14, size=28, modality="general")
        def s_rows(images):
            return images.astype(float).mean(axis=3).reshape(-1, 14, 2, 28).mean(axis=(2, 3))

        @register_encoder("s_tiles", dim=49, size=28, modality="radiology")
        def s_tiles(images):
            return images.astype(float).mean(axis=3).reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49)

        yield ("s_rows", "s_tiles")


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> Path:
    """Return a folder with a binary, a multi-class, a multi-label and an ordinal set of 28 pixels."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("medmnist")
    digits = load_digits()
    grown = np.kron(digits.images * (255 / 16), np.ones((1, 4, 4)))
    images, target = grown[:, 2:30, 2:30].astype(np.uint8), digits.target
    labels = {
        "breastmnist": (target > 4)[:, None],
        "octmnist": (target % 4)[:, None],
        "retinamnist": (target // 2)[:, None],
        "chestmnist": np.stack([(target + place) % (2 + place % 3) == 0 for place in range(14)], axis=1),
    }
    for flag, values in labels.items():
        content = {}
        for split, (start, stop) in PARTS.items():
            part = images[start:stop]
            content[f"{split}_images"] = np.repeat(part[..., None], 3, axis=3) if flag == "retinamnist" else part
            content[f"{split}_labels"] = values[start:stop].astype(np.uint8)
        np.savez(root / f"{flag}.npz", **content)
    return root


@pytest.fixture(scope="module")
def fuse(scan_encoders, tmp_path_factory) -> BioFuse:
    """Return a small and fast BioFuse."""
    options = ExtractOptions(workers=0)
    store = tmp_path_factory.mktemp("store")
    return BioFuse(list(scan_encoders), folds=2, repeats=1, head="ridge", store=store, options=options)
