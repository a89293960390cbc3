"""What an extraction reports."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.core.hashing import Contents
from biofuse.data.samples import Samples, known_contents
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.doctor import Skipped
from biofuse.extract.plan import ExtractionPlan
from biofuse.extract.prepare import Stages
from biofuse.store.exchange import save_embeddings, to_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A sample set aside because its image cannot be read."""

    id: str
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EncoderWork:
    """What was done for one encoder, in distinct images.

    Attributes
    ----------
    encoder : str
    computed : int
    reused : int
        How many the store had.
    seconds : float
        Of its forward passes, over all that ran at the same time.
    precision : {"fp32", "bf16", "fp16"}
        What it computed in; part of the fingerprint under which its embeddings lie.
    reason : str
        Why that precision, where it is not what one would expect.
    """

    encoder: str
    computed: int
    reused: int
    seconds: float
    precision: Precision = "fp32"
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingSet(Mapping[str, Matrix]):
    """Embeddings of one table of samples under several encoders: a read-only mapping from encoder to block.

    Attributes
    ----------
    samples : Samples
        Row i of every block belongs to row i of this table.
    blocks : Blocks
    cards : tuple of EncoderCard
        In pool order.
    quarantined : tuple of Quarantined
        Samples whose image could not be read; they have no row.
    work : tuple of EncoderWork
        What was computed and what was reused.
    skipped : tuple of Skipped
        Encoders that were asked for and cannot be run here, with ``on_unavailable="skip"``.
    recomputed : tuple of str
        Damaged parts of the store whose rows were computed again.
    precisions : mapping of str to {"fp32", "bf16", "fp16"}
        What each encoder computed in; part of the fingerprint under which its embeddings lie.
    seconds : float
        Wall time of the extraction; zero where embeddings were only read.
    plan : ExtractionPlan or None
        What had to be done.
    stages : Stages or None
        Where the time went.

    Examples
    --------
    >>> import biofuse
    >>> embeddings = biofuse.embed("images/", ["colour", "lbp"], progress=False)
    >>> list(embeddings), embeddings.matrix.shape
    (['colour', 'lbp'], (40, 136))
    >>> embeddings.save("embeddings.parquet").name
    'embeddings.parquet'
    """

    samples: Samples
    blocks: Blocks
    cards: tuple[EncoderCard, ...]
    quarantined: tuple[Quarantined, ...] = ()
    work: tuple[EncoderWork, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    recomputed: tuple[str, ...] = ()
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    seconds: float = 0.0
    plan: ExtractionPlan | None = None
    stages: Stages | None = None

    def __getitem__(self, encoder: str) -> Matrix:
        return self.blocks[encoder]

    def __iter__(self) -> Iterator[str]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def ids(self) -> NDArray[np.object_]:
        """Sample ids, shape (n,)."""
        return self.samples.ids

    @property
    def contents(self) -> Contents:
        """Content hash of each sample, shape (n,)."""
        return known_contents(self.samples)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class indices, shape (n,), or zeros and ones, shape (n, n_labels); None for unlabelled data."""
        return self.samples.labels

    @property
    def splits(self) -> NDArray[np.object_] | None:
        """Split of each sample, or None."""
        return self.samples.splits

    @property
    def computed(self) -> int:
        """Embeddings computed now; zero where the store had them all."""
        return sum(work.computed for work in self.work)

    @property
    def matrix(self) -> Matrix:
        """All blocks side by side in pool order, unscaled, shape (n, sum of dims)."""
        return np.concatenate(list(self.blocks.values()), axis=1)

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per sample: id, label, split, group, and a column per embedding value."""
        return to_frame(self.samples, self.blocks)

    def save(self, path: Path | str) -> Path:
        """Write the embeddings with ids, labels, splits and groups.

        Parameters
        ----------
        path : path
            Ends in ``.parquet`` (one list column per encoder), ``.npz`` (one array per encoder), ``.csv`` (one column
            per value) or ``.h5ad`` (AnnData).

        Raises
        ------
        BioFuseError
            If the ending is none of these.
        """
        return save_embeddings(self.samples, self.blocks, Path(path), cards=self.cards, precisions=self.precisions)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {dim}" for name, dim in self.blocks.dims.items())
        return f"<EmbeddingSet of {len(self.samples)} samples from {self.samples.name} ({shapes})>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{card.name}</td><td>{escape(card.title)}</td><td>{card.dim}</td><td>{escape(card.licence)}</td></tr>"
            for card in self.cards
        )
        return (
            f"<p><b>{len(self.samples)}</b> samples under {len(self.cards)} encoders"
            f"{f', {len(self.quarantined)} quarantined' if self.quarantined else ''}</p>"
            f"<table><tr><th>encoder</th><th>name</th><th>columns</th><th>licence</th></tr>{rows}</table>"
        )
