"""Fixtures that several packages' tests share. None of them reads or writes outside temporary folders and shared/."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
"""Real images that lie beside the repository where the project is developed; absent elsewhere."""


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep fixtures of wider scope out of the user's cache, and every model hub offline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOFUSE_HOME", str(tmp_path_factory.mktemp("biofuse-home")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(autouse=True)
def biofuse_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty store of its own, outside its ``tmp_path``: no test sees another's embeddings."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("BIOFUSE_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images beside the repository; skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real images at {os.path.relpath(SHARED)}")
    return SHARED


@pytest.fixture
def make_images() -> Callable[..., list[Path]]:
    """Return a function that fills ``folder`` with class folders of small PNGs, learnable from their colour."""

    def make(
        folder: Path, *, classes: tuple[str, ...] = ("blue", "red"), per_class: int = 6, size: int = 24
    ) -> list[Path]:
        generator = np.random.default_rng(0)
        paths = []
        for index, name in enumerate(classes):
            (folder / name).mkdir(parents=True, exist_ok=True)
            level = 200 * index // max(len(classes) - 1, 1)
            for number in range(per_class):
                pixels = generator.integers(0, 56, size=(size, size, 3), dtype=np.uint8)
                pixels[..., 0] += np.uint8(level)
                pixels[..., 2] += np.uint8(200 - level)
                path = folder / name / f"{number:03d}.png"
                Image.fromarray(pixels).save(path)
                paths.append(path)
        return paths

    return make
