"""Small networks that behave as a test needs, and pictures to embed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from biofuse.data.decoding import FileSource
from biofuse.data.samples import Samples
from biofuse.encoders import EncoderCard, Preprocessing, TorchEncoder
from biofuse.encoders.registry import ENCODERS
from biofuse.store.store import EmbeddingStore

SIDE = 8


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "store")


def pictures_in(folder: Path, n: int) -> Samples:
    """Write some pictures, each with another content."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(n):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 10 + number % 3, 3), dtype=np.uint8)
        paths.append(folder / f"{number:04d}.png")
        Image.fromarray(pixels).save(paths[-1])
    return Samples(ids=np.array([path.name for path in paths], dtype=object), sources=tuple(map(FileSource, paths)))


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[int], Samples]:
    """Return a function that writes some pictures, each with another content, and returns their samples."""
    return lambda n: pictures_in(tmp_path / "pictures", n)


@contextmanager
def networks() -> Iterator[Callable[..., EncoderCard]]:
    """Give a function that registers a tiny network.

    ``breaks_at``: a type of weights at which its output is another; ``room``: images beyond which memory runs out;
    ``foreign``: whether it is an encoder class of another package. What its passes were is in the function's ``log``.
    """
    with ENCODERS.temporary():
        log: list[SimpleNamespace] = []

        def make(
            name: str, *, breaks_at: str = "", room: int = 10**9, foreign: bool = False, **facts: Any
        ) -> EncoderCard:
            def build(card: EncoderCard, *, device: str, precision: Any, weights_path: Path | None) -> Any:
                del weights_path
                encoder = _encoder(card, device=device, precision=precision, breaks_at=breaks_at, room=room, log=log)
                return SimpleNamespace(card=encoder.card, encode=encoder.encode) if foreign else encoder

            card = EncoderCard(
                **{
                    "name": name,
                    "title": name,
                    "loader": "test_network",
                    "preprocessing": Preprocessing(resize="squash", size=SIDE),
                    "output": "pooled",
                    "dim": 5,
                    "licence": "MIT",
                    "modality": "none",
                    "source": "a test",
                    "parameters": (3 * SIDE * SIDE + 1) * facts.get("dim", 5),
                    "gflops": 0.001,
                }
                | facts
            )
            ENCODERS.register(card, build, replace=True)
            return card

        make.log = log  # type: ignore[attr-defined]
        yield make


@pytest.fixture
def network() -> Iterator[Callable[..., EncoderCard]]:
    """Return the function of :func:`networks`."""
    with networks() as make:
        yield make


def _encoder(card: EncoderCard, *, device: str, precision: Any, breaks_at: str, room: int, log: list[Any]) -> Any:
    import threading

    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * SIDE * SIDE, card.dim)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kind = str(self.linear.weight.dtype).removeprefix("torch.")
            log.append(
                SimpleNamespace(
                    encoder=card.name,
                    images=len(x),
                    dtype=kind,
                    thread=threading.current_thread().name,
                    threads=torch.get_num_threads(),
                )
            )
            if len(x) > room:
                raise RuntimeError(
                    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"
                )
            y = self.linear(x.reshape(len(x), -1))
            return y.flip(1) if breaks_at and kind == breaks_at else y

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = Net()
    return TorchEncoder(card, net, device=device, precision=precision)
