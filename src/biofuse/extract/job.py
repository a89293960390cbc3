"""What an extraction has to do: distinct images, and which encoder still lacks which of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from biofuse.core.seeds import hash_order
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.imported import LOADER as IMPORTED
from biofuse.encoders.imported import refuse_images
from biofuse.encoders.protocol import Encoder
from biofuse.extract.contents import HashedSamples
from biofuse.extract.options import ExtractOptions
from biofuse.extract.precision import Choice, choose_precision
from biofuse.extract.worker import Chunk
from biofuse.store.parts import Contents
from biofuse.store.store import EmbeddingStore, EncoderFolder


@dataclass(kw_only=True)
class Job:
    """Distinct contents, and which encoder still lacks which of them.

    Attributes
    ----------
    samples : Samples
        What was asked for.
    store : EmbeddingStore
    cards : dict of str to EncoderCard
        In pool order.
    contents : ndarray of S16, shape (n,)
        The distinct content hashes, in the order of the samples.
    rows : ndarray of int, shape (n,)
        The first sample that has each content.
    choices : dict of str to Choice
        The precision of each encoder.
    folders : dict of str to EncoderFolder
        Where the embeddings of each encoder at that precision lie.
    missing : dict of str to ndarray of bool, shape (n,)
        What each encoder has yet to see.
    healed : list of str
        Parts that failed their checksum.
    failures : dict of int to str
        Contents that cannot be decoded, and why; filled by the run.
    """

    samples: Samples
    store: EmbeddingStore
    cards: dict[str, EncoderCard]
    contents: Contents
    rows: NDArray[np.int64]
    choices: dict[str, Choice] = field(default_factory=dict)
    folders: dict[str, EncoderFolder] = field(default_factory=dict)
    missing: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    healed: list[str] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def todo(self) -> dict[str, int]:
        """Number of images each encoder has yet to see; encoders that lack none are left out."""
        counts = {name: int(mask.sum()) for name, mask in self.missing.items()}
        return {name: count for name, count in counts.items() if count}

    @property
    def precisions(self) -> dict[str, Precision]:
        """What each encoder computes in."""
        return {name: choice.precision for name, choice in self.choices.items()}

    def decide(self, name: str, choice: Choice, *, heal: bool = True) -> None:
        """Settle an encoder's precision: look what the store has of it, and set damaged parts aside."""
        folder = self.store.open(self.cards[name], precision=choice.precision)
        if heal:
            self.healed += [str(path) for path in folder.check()]
        self.choices[name], self.folders[name] = choice, folder
        self.missing[name] = missing = folder.missing(self.contents)
        if self.cards[name].loader == IMPORTED and missing.any():
            raise refuse_images(self.cards[name], [str(self.samples.ids[row]) for row in self.rows[missing]])

    def batches(self, names: Iterable[str], size: int) -> Iterator[tuple[tuple[str, ...], list[int]]]:
        """Divide what some encoders lack into batches of images that the same encoders lack.

        Each image is then decoded once for all of them. What has failed already is left out.

        Yields
        ------
        names : tuple of str
        rows : list of int
            Positions in ``contents``, at most ``size``.
        """
        chosen = list(names)
        lacking = np.stack([self.missing[name] for name in chosen], axis=1)
        lacking[list(self.failures)] = False
        # Few patterns exist, however many images: each is a row of the unique ones, in the order of first appearance.
        patterns, first, which = np.unique(lacking, axis=0, return_index=True, return_inverse=True)
        for pattern in np.argsort(first, kind="stable"):
            wanted = tuple(name for name, on in zip(chosen, patterns[pattern], strict=True) if on)
            if not wanted:
                continue
            rows = np.flatnonzero(which.reshape(-1) == pattern)
            for start in range(0, len(rows), size):
                yield wanted, [int(row) for row in rows[start : start + size]]

    def chunk(self, names: Iterable[str], rows: Sequence[int], *, here: "dict[str, Encoder]") -> Chunk:
        """Describe images to a decode worker.

        Parameters
        ----------
        names : iterable of str
            The encoders that want them.
        rows : sequence of int
            Positions in ``contents``.
        here : dict of str to Encoder
            Loaded encoders that run in the worker itself; the others get resized images.
        """
        chosen = list(names)
        preprocessings = [self.cards[name].preprocessing for name in chosen if name not in here]
        return Chunk(
            names=tuple(chosen),
            rows=tuple(rows),
            sources=tuple(self.samples.sources[self.rows[row]] for row in rows),
            # Not item by item: numpy would strip zero bytes from the end of a hash.
            contents=tuple(self.contents[row : row + 1].tobytes() for row in rows),
            decode=self.samples.decode,
            resizes={each.resize_key: each for each in preprocessings},
            encoders={name: here[name] for name in chosen if name in here},
        )

    def representative(self, count: int) -> list[int]:
        """Return positions of some contents, drawn by their hash: the same for the same images, whatever is done."""
        names = [self.contents[row : row + 1].tobytes().hex() for row in range(len(self.contents))]
        return [int(row) for row in hash_order(names, seed=0)[:count]]


def plan_job(
    samples: Samples,
    hashed: HashedSamples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions,
    device: Callable[[], str],
    heal: bool = True,
) -> Job:
    """Find out what an extraction has to do.

    Parameters
    ----------
    samples : Samples
    hashed : HashedSamples
    cards : sequence of EncoderCard
    store : EmbeddingStore
    options : ExtractOptions
    device : callable
        Returns the torch device; called only where a network has something to do.
    heal : bool, default True
        Whether parts are hashed, and damaged ones set aside.
    """
    readable = np.flatnonzero(hashed.readable)
    contents, first = np.unique(hashed.contents[readable], return_index=True)
    # The table's own order keeps parts in reading order, which later makes a block one run of memory.
    order = np.argsort(first, kind="stable")
    contents, rows = contents[order], readable[first[order]]
    job = Job(
        samples=samples,
        store=store,
        cards={card.name: card for card in cards},
        contents=contents,
        rows=rows.astype(np.int64),
    )
    for card in cards:
        choice = choose_precision(
            card, contents, store=store, wanted=options.precision, fixed=options.precisions, device=device
        )
        job.decide(card.name, choice, heal=heal)
    return job
