"""Commands that fail, and what the tests of commands work on."""

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


@pytest.fixture
def fitted(tmp_path: Path, images: Path, succeeds: Callable[..., Any]) -> Path:
    """Fit a small run on ``images``."""
    path = tmp_path / "run"
    succeeds("fit", images, "-e", ENCODERS, "--folds", 2, "--repeats", 1, "--out", path)
    return path
