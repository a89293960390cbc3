"""Running commands in this process, as ``main`` runs them: with its exit codes and its messages."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from biofuse.cli import main

ENCODERS = "haralick,hog"
"""The cheapest two of the starter pool: no weights to load."""


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def everything(self) -> str:
        return self.out + self.err


@pytest.fixture
def biofuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Return a function that runs ``biofuse *arguments``."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["biofuse", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def succeeds(biofuse: Callable[..., Ran]) -> Callable[..., Ran]:
    """Return a function that runs a command that must succeed."""

    def run(*arguments: object) -> Ran:
        ran = biofuse(*arguments)
        assert ran.code == 0, ran.everything
        assert "Traceback" not in ran.everything
        return ran

    return run


@pytest.fixture
def fails(biofuse: Callable[..., Ran]) -> Callable[..., Ran]:
    """Return a function that runs a command that must fail: with 1, one message, what to do, and no traceback."""

    def run(*arguments: object) -> Ran:
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
def fitted(tmp_path: Path, images: Path, succeeds: Callable[..., Ran]) -> Path:
    """Fit a small run on ``images``."""
    path = tmp_path / "run"
    succeeds("fit", images, "-e", ENCODERS, "--folds", 2, "--repeats", 1, "--out", path)
    return path
