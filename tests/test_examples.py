"""The examples of public docstrings run as they stand, and every public name has one."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import biofuse
from biofuse.encoders.registry import ENCODERS

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def found() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = [module.name for module in pkgutil.walk_packages(biofuse.__path__, "biofuse.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    return sorted({test.name: test for module in modules for test in finder.find(module) if test.examples}.values())


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples speak of: class folders of 40 images, a table of them, and a new image."""
    generator = np.random.default_rng(0)
    rows = ["path,finding,patient"]
    for number in range(40):
        name = ("benign", "malignant")[number % 2]
        pixels = generator.integers(0, 60, size=(32, 32, 3), dtype=np.uint8)
        pixels[..., 0] += np.uint8(150 * (number % 2))
        path = Path("images", name, f"{number:03d}.png")
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / path)
        rows.append(f"{path.as_posix()},{name},p{number // 4}")
    Image.fromarray(pixels).save(tmp_path / "new.png")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "tracked").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.mark.slow
@pytest.mark.parametrize("example", found(), ids=lambda example: example.name)
@pytest.mark.usefixtures("workplace")
def test_an_example_runs_as_it_stands(example: doctest.DocTest, capsys: pytest.CaptureFixture[str]) -> None:
    assert not [each for each in example.examples if doctest.SKIP in each.options]
    with ENCODERS.temporary():
        failed = doctest.DocTestRunner(optionflags=OPTIONS).run(example, clear_globs=False).failed
    assert not failed, capsys.readouterr().out


def test_every_public_name_has_an_example() -> None:
    without = [
        name
        for name in set(biofuse.__all__) - {"__version__", "BioFuseError"}
        if ">>>" not in (getattr(biofuse, name).__doc__ or "")
    ]
    assert without == []
