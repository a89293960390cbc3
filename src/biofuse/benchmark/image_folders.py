"""Class folders of any size: counted once, and turned into samples block by block."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from biofuse.core.errors import DataError
from biofuse.core.tasks import Task
from biofuse.data.folders import is_image_name
from biofuse.data.samples import Samples
from biofuse.data.sources import FileSource
from biofuse.extract import Progress

READING = "reading"
"""How the extraction calls its reading and hashing of files."""

LAYOUT = "ImageNet's layout is train/<class>/*.JPEG and val/<class>/*.JPEG."


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Images in ``<class>/`` folders, whose names are read when they are needed.

    Attributes
    ----------
    root : Path
    classes : tuple of str
        Names that labels count in.
    counts : dict of str to int
        Images of each class folder, in the order of their names.
    """

    root: Path
    classes: tuple[str, ...]
    counts: dict[str, int]

    @classmethod
    def read(cls, root: Path) -> Self:
        """Count the images of every class folder.

        Raises
        ------
        DataError
            If there is no such folder, no class folder in it, or images lie beside the class folders.
        """
        if not root.is_dir():
            raise DataError(f"{root} is no folder.", remedy=LAYOUT)
        with os.scandir(root) as entries:
            there = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
        loose = [name for name, folder in there if not folder and is_image_name(Path(name))]
        if loose:
            raise DataError(
                f"{len(loose)} images lie in {root} itself, e.g. {loose[0]}, so they have no class.",
                remedy=f"{LAYOUT} Sort them into class folders by the list that came with them.",
            )
        counts = {name: len(_images(root / name)) for name, folder in there if folder}
        counts = {name: count for name, count in counts.items() if count}
        if len(counts) < 2:
            raise DataError(f"{root} holds images of {len(counts)} classes.", remedy=LAYOUT)
        return cls(root=root, classes=tuple(counts), counts=counts)

    @property
    def n(self) -> int:
        """Number of images."""
        return sum(self.counts.values())

    def with_classes(self, classes: tuple[str, ...]) -> Self:
        """Count labels in another table of classes.

        Raises
        ------
        DataError
            If a class here is not in it.
        """
        unknown = [name for name in self.counts if name not in set(classes)]
        if unknown:
            raise DataError(
                f"{len(unknown)} classes of {self.root} have no training images, e.g. {unknown[0]}.", remedy=LAYOUT
            )
        return replace(self, classes=classes)

    def blocks(self, size: int) -> Iterator[Samples]:
        """Yield all images as samples, at most ``size`` at a time, class after class."""
        label = {name: place for place, name in enumerate(self.classes)}
        names: list[str] = []
        for folder in self.counts:
            names += [f"{folder}/{file}" for file in _images(self.root / folder)]
            while len(names) >= size:
                yield self._samples(names[:size], label)
                names = names[size:]
        if names:
            yield self._samples(names, label)

    def _samples(self, names: list[str], label: dict[str, int]) -> Samples:
        return Samples(
            ids=np.array(names, dtype=object),
            sources=tuple(FileSource(self.root / name) for name in names),
            labels=np.array([label[name.partition("/")[0]] for name in names], dtype=np.int64),
            classes=self.classes,
            task=Task.MULTICLASS,
            name=self.root.name,
        )


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_image_name(Path(entry.name)) and entry.name[0] != ".")


class Whole:
    """Progress of work that comes in blocks, shown as one piece; what a block need not do again counts as done.

    Parameters
    ----------
    inner : Progress
    total : int
        Images in all blocks together.
    """

    def __init__(self, inner: Progress, total: int) -> None:
        self._inner = inner
        self._total = total
        self._done: dict[str, int] = {}
        self._before = 0
        self._block = 0

    def begin(self, task: str, total: int) -> None:
        """Announce a task once; afterwards, catch up with what this block and those before it had not to do again."""
        if task == READING:  # the first task of every block, and of all its images
            self._before, self._block = self._before + self._block, total
        if task not in self._done:
            self._done[task] = 0
            self._inner.begin(task, self._total)
        self.advance(task, self._before + self._block - total - self._done[task])

    def advance(self, task: str, units: int) -> None:
        """Pass it on."""
        self._done[task] += units
        self._inner.advance(task, units)
