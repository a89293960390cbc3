import functools
import json

import pandas as pd
import pytest
from PIL import Image

from biofuse.studies import demo as module


@pytest.fixture
def small_demo(monkeypatch, make_images):
    """Let the demo run on a few made-up images and the two cheapest encoders."""

    def build(folder, *, progress):
        paths = make_images(folder, classes=("cortex", "thalamus"), per_class=15)
        splits = ["train", "train", "val", "test", "test"] * 6
        table = pd.DataFrame({"path": paths, "label": [path.parent.name for path in paths], "split": splits})
        table.to_csv(folder / "manifest.csv", index=False)
        progress(30, 30)
        return folder / "manifest.csv"

    monkeypatch.setattr(module, "build_demo", build)
    monkeypatch.setattr(module, "run_demo", functools.partial(module.run_demo, encoders="haralick,hog"))


def test_the_demo_goes_from_images_to_pictures_and_a_second_time_computes_nothing(small_demo, succeeds, tmp_path):
    first = succeeds("demo", "--out", tmp_path / "demo")
    assert "3 subsets of 3 screened scored with the " in first.out
    assert "Share of each encoder in the AUROC of all together" in first.out
    assert "12 samples; 95 % intervals" in first.out
    for name in ("predictions.png", "scores.png"):
        assert f"Picture: {tmp_path / 'demo' / name}" in first.err
        assert min(Image.open(tmp_path / "demo" / name).size) > 100
    record = json.loads((tmp_path / "demo" / "run" / "run.json").read_text())
    assert record["state"] == "complete"
    assert record["counts"]["test"] == {"cortex": 6, "thalamus": 6}
    assert json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())["n"] == 12

    second = succeeds("demo", "--out", tmp_path / "demo")
    assert "No embedding had to be computed" in second.err
    assert "No fit had to be computed" in second.err
    assert second.out == first.out
