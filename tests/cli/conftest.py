"""Commands that fail, and what the tests of commands work on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ENCODERS = "haralick,hog"
"""The cheapest two of the starter pool: no weights to load."""


@pytest.fixture
def fails(biofuse: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs a command that must fail: with 1, one message, what to do, and no traceback."""

    def run(*arguments: object) -> Any:
        ran = biofuse(*arguments)
        assert ran.code == 1, ran.everything
        assert ran.err.count("error: ") == 1
        assert ran.err.count("what to do: ") == 1
        assert "Traceback" not in ran.everything
        return ran

    return run


@pytest.fixture
def images(tmp_path: Path, make_images: Callable[..., list[Path]]) -> Path:
    """Two class folders of twelve small images each."""
    make_images(tmp_path / "images", per_class=12)
    return tmp_path / "images"


@pytest.fixture(scope="session")
def _fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a place for what the first test that asks for :func:`fitted` makes."""
    return tmp_path_factory.mktemp("fitted")


@pytest.fixture
def fitted(
    _fitted: Path,
    tmp_path: Path,
    images: Path,
    biofuse_home: Path,
    succeeds: Callable[..., Any],
    reseal: Callable[..., None],
) -> Path:
    """A small run on ``images``: fitted once, and copied with its store, since the images of all tests are equal."""
    path = tmp_path / "run"
    if not (_fitted / "run").exists():
        succeeds("fit", images, "-e", ENCODERS, "--folds", 2, "--repeats", 1, "--out", path)
        shutil.copytree(biofuse_home, _fitted / "home")
        shutil.copytree(path, _fitted / "run")
        return path
    shutil.copytree(_fitted / "home", biofuse_home, dirs_exist_ok=True)
    shutil.copytree(_fitted / "run", path)
    data = json.loads((path / "run.json").read_text())["data"]
    reseal(path, data=data | {"source": str(images)})
    return path
