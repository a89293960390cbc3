"""An image is read once to be hashed, and once to be decoded."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import biofuse
from biofuse.data.load import load_samples, split_off_test

FIT = {"head": "ridge", "search": "exhaustive", "folds": 2, "repeats": 1}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(36):
        path = tmp_path / "images" / ("dark", "light")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 128, (16, 16, 3), dtype=np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(pixels).save(path)
    return tmp_path / "images"


@pytest.fixture
def opened(monkeypatch):
    """Count how often each picture is read."""
    counts, read = Counter(), Path.read_bytes

    def counted(self):
        if self.suffix == ".png":
            counts[self.name] += 1
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    return counts


def test_fit_opens_each_file_of_a_folder_without_splits_at_most_twice(folder, opened, tmp_path):
    fuse = biofuse.BioFuse(["colour", "lbp"], store=tmp_path / "store", **FIT)
    result = fuse.fit(folder, out=tmp_path / "run", progress=False).result_
    assert len(result.held_out) == 10  # hashed, so that no copy of them is learned from, and not decoded
    assert set(opened.values()) == {1, 2}
    result.evaluate(progress=False)
    assert set(opened.values()) == {2}
    assert len(opened) == 36


def test_a_file_that_changes_between_hashing_and_decoding_is_named(folder, tmp_path):
    samples, _ = split_off_test(load_samples(folder), seed=0)
    changed = samples.sources[0].path
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(changed)
    with pytest.raises(biofuse.core.errors.UnreadableImageError, match=f"{changed}.*changed while"):
        biofuse.embed(samples, ["colour"], store=tmp_path / "store", progress=False)
