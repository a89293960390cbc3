"""Small pictures that are hard to tell apart and three encoders of a few columns each; and made-up embeddings."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from biofuse import BioFuse, ExtractOptions, register_encoder
from biofuse.blocks.blocks import Blocks
from biofuse.core.target import Task
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.encoders.registry import ENCODERS, get_card
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.search.config import SearchConfig
from biofuse.search.problem import Problem
from biofuse.search.rules import Budget
from biofuse.search.runner import SearchContext
from biofuse.search.search import Search
from biofuse.search.search import run as run_search

ALONE = ExtractOptions(workers=0)


@pytest.fixture(autouse=True, scope="module")
def tiny_encoders() -> Iterator[tuple[str, ...]]:
    """Register three encoders for the tests of one module, and take them out again."""
    with ENCODERS.temporary():

        @register_encoder("t_colour", dim=3, size=8)
        def t_colour(images):
            return images.mean(axis=(1, 2))

        @register_encoder("t_spread", dim=2, size=8)
        def t_spread(images):
            return images[..., :2].std(axis=(1, 2))

        @register_encoder("t_edge", dim=4, size=8)
        def t_edge(images):
            grey = images.astype(float).mean(axis=3)
            down, along = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=2))
            return np.stack([down.mean((1, 2)), along.mean((1, 2)), down.max((1, 2)), along.max((1, 2))], axis=1)

        yield ("t_colour", "t_spread", "t_edge")


def picture(index: int, generator: np.random.Generator) -> np.ndarray:
    """Draw one noisy image whose colour, contrast and edges each give its class away a little."""
    level = np.array([100 + 14 * index, 120, 130 - 8 * index]) + generator.normal(0, 18, 3)
    pixels = level + generator.normal(0, 18 + 4 * index + generator.uniform(0, 10), (10, 10, 3))
    pixels[:: 4 - index] += generator.uniform(0, 20)
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def draw() -> Callable[..., list[Path]]:
    """Return a function that fills ``folder/class`` with PNG files."""

    def fill(folder, *, classes=("ctl", "mid", "sev"), each=14, seed=0):
        generator = np.random.default_rng(seed)
        paths = []
        for index, name in enumerate(classes):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                path = folder / name / f"{number:03d}.png"
                Image.fromarray(picture(index, generator)).save(path)
                paths.append(path)
        return paths

    return fill


@pytest.fixture(scope="module")
def study(tmp_path_factory, draw) -> SimpleNamespace:
    """Return a data set with train, val and test folders, a table of it, and a shared store."""
    root = tmp_path_factory.mktemp("study")
    images = root / "images"
    for seed, (split, each) in enumerate({"train": 12, "val": 5, "test": 7}.items()):
        draw(images / split, each=each, seed=seed)
    samples = load_samples(images)
    return SimpleNamespace(root=root, images=images, samples=samples, store=root / "store")


@pytest.fixture(scope="module")
def quick(tiny_encoders, study):
    """Return a function that makes a small and fast BioFuse."""

    def make(encoders=tiny_encoders, **options):
        defaults = {"folds": 3, "repeats": 1, "store": study.store, "options": ALONE}
        return BioFuse(list(encoders), **{**defaults, **options})

    return make


@pytest.fixture(scope="module")
def fitted(quick, study):
    """Return a finished fit with its run directory."""
    return quick().fit(study.images, out=study.root / "run", progress=False)


@pytest.fixture
def run(quick, study, tmp_path):
    """Return a function that fits into one folder of the test."""

    def fit(out=None, *, data=None, overwrite=False, tell=None, pool=("t_colour", "t_edge"), **options):
        fuse = quick(pool, **options)
        folder = out or tmp_path / "run"
        return fuse.fit(
            study.images if data is None else data, out=folder, overwrite=overwrite, tell=tell, progress=False
        )

    return fit


# --- searches without images: blocks that are made up


PLANTED = ("a", "b", "c", "d")
"""``a`` and ``b`` each know one bit of the label, ``d`` little of the first, and ``c`` nothing."""

SHARE = {"a": (0, 1.2), "b": (1, 1.2), "c": (0, 0.0), "d": (0, 0.3)}
"""Which bit an encoder knows, and how well."""


@dataclass(frozen=True)
class Unread:
    """A source that blows up when it is touched."""

    description: str

    def read(self):
        """Fail."""
        raise AssertionError(f"a search read {self.description}")


@pytest.fixture(scope="session")
def plant() -> Callable[..., EmbeddingSet]:
    """Return a function that makes up embeddings of four encoders."""

    def make(
        n=48, *, task=Task.MULTICLASS, seed=0, groups=None, val=0, noise=False, pool=PLANTED, contents=None
    ) -> EmbeddingSet:
        random = np.random.default_rng(seed)
        bits = np.array([[row // 2 % 2, row % 2] for row in range(n)])
        names = [f"s{row:03d}" for row in range(n)]
        matrices = {
            name: (
                random.normal(size=(n, 3)) + SHARE[name][1] * (not noise) * (2 * bits[:, [SHARE[name][0]]] - 1)
            ).astype(np.float32)
            for name in PLANTED
        }
        labels = {
            Task.MULTICLASS: 2 * bits[:, 0] + bits[:, 1],
            Task.ORDINAL: bits.sum(axis=1),
            Task.BINARY: bits[:, 0],
            Task.MULTILABEL: bits,
        }[task]
        n_classes = labels.shape[1] if labels.ndim == 2 else labels.max() + 1
        ids = np.array(names, dtype=object)
        hashes = [hashlib.blake2b(each.encode(), digest_size=16).digest() for each in contents or names]
        return EmbeddingSet(
            samples=Samples(
                ids=ids,
                sources=tuple(map(Unread, names)),
                labels=labels.astype(np.int64),
                classes=tuple(f"class {each}" for each in range(n_classes)),
                task=task,
                splits=np.array(["train"] * (n - val) + ["val"] * val, dtype=object),
                groups=None if groups is None else np.array(groups, dtype=object),
                contents=np.array(hashes, dtype="S16"),
                name="planted",
            ),
            blocks=Blocks(ids=ids, matrices={name: matrices[name] for name in pool}),
            cards=tuple(get_card("lbp").model_copy(update={"name": name, "dim": 3}) for name in pool),
        )

    return make


@pytest.fixture(scope="session")
def posed() -> Callable[..., Problem]:
    """Return a function that poses a small search on made-up embeddings."""

    def make(embeddings: EmbeddingSet, **options: object) -> Problem:
        defaults = {"folds": 2, "repeats": 1, "finalists": 2, "encoders": embeddings.blocks.encoders}
        return Problem.from_embeddings(embeddings, SearchConfig(**{**defaults, **options}))

    return make


@pytest.fixture(scope="session")
def searched(posed) -> Callable[..., Search]:
    """Return a function that runs it, in this process."""

    def make(embeddings: EmbeddingSet, *, folder=None, tell=lambda _: None, progress=None, budget=None, **options):
        more = {} if progress is None else {"progress": progress}
        runtime = SearchContext(folder=folder, workers=1, tell=tell, **more)
        return run_search(posed(embeddings, **options), runtime, budget=budget or Budget())

    return make
