"""Embeddings of a table of samples: what an extraction reports, and what the store holds without one."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import BlockReader, Blocks, Matrix
from biofuse.blocks.pooling import Pooling, pooled_width
from biofuse.core.errors import BioFuseError, DependencyError, StoreError, UnreadableImageError, WeightsError, option
from biofuse.core.hashing import Contents, generator
from biofuse.core.target import Labels
from biofuse.data.cuts import content_of
from biofuse.data.decoding import decode
from biofuse.data.samples import Samples, contents_of_images, known_contents, require_contents
from biofuse.encoders.card import IMPORTED, EncoderCard, Precision
from biofuse.encoders.doctor import Skipped
from biofuse.encoders.registry import load_encoder
from biofuse.extract.options import ExtractOptions, choose_device
from biofuse.extract.plan import PARITY_COSINE, ExtractionPlan
from biofuse.extract.prepare import Stages, encode
from biofuse.store.exchange import save_embeddings, to_frame
from biofuse.store.store import EmbeddingStore, EncoderFolder

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
    pooling : {"mean", "max", "mean+max", "mean+std"}
        How the embeddings of a bag's images became one row.
    kept : bool
        Whether the store has them.
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
    pooling: Pooling = "mean"
    kept: bool = True
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
    def image_contents(self) -> Contents:
        """Content hash of each image, sample by sample, shape (n_images,)."""
        return contents_of_images(self.samples)

    @property
    def labels(self) -> Labels | None:
        """What was found of each sample, as :class:`biofuse.core.target.Target` says; None for unlabelled data."""
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


LARGEST_DIFFERENCE = 1e-5
"""Most that an fp32 embedding may differ from its repetition, relative to its largest value."""

COMPARED_AT_ONCE = 16
"""Images that are embedded again at a time."""


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """Some stored embeddings of one encoder beside the same computed anew.

    Attributes
    ----------
    encoder, fingerprint, precision : str
    candidates : int
        Images of the data that the store has an embedding of.
    rows : int
        Of these, drawn at random and embedded again.
    cosine : float or None
        The least; None where nothing was compared.
    difference : float or None
        The largest difference of two values, relative to the largest value of the row.
    differing : tuple of str
        Ids of the samples whose embeddings differ by more than is allowed.
    skipped : str
        Why nothing was compared; empty otherwise.
    """

    encoder: str
    fingerprint: str
    precision: Precision
    candidates: int
    rows: int = 0
    cosine: float | None = None
    difference: float | None = None
    differing: tuple[str, ...] = ()
    skipped: str = ""


def read_stored(
    samples: Samples,
    encoders: Sequence[str] | None = None,
    *,
    store: EmbeddingStore,
    precision: Precision | None = None,
    pooling: Pooling = "mean",
) -> EmbeddingSet:
    """Return the stored embeddings of a table of samples; nothing is computed, and no weights are needed.

    Parameters
    ----------
    samples : Samples
    encoders : sequence of str, optional
        Names, ``imported:NAME``, or fingerprints as ``biofuse store ls`` shows them; by default every encoder whose
        embeddings of all of these samples are there.
    store : EmbeddingStore
    precision : {"fp32", "fp16", "bf16"}, optional
        Which embeddings are meant where an encoder has been run in several.
    pooling : {"mean", "max", "mean+max", "mean+std"}
        How the embeddings of a bag's images become one row.

    Returns
    -------
    EmbeddingSet

    Raises
    ------
    AlignmentError
        If a sample has no embedding.
    StoreError
        If the store has nothing of an encoder, or several kinds of embeddings under the same name.
    UnreadableImageError
        If a file cannot be read, so that nobody can tell which embedding is its own.
    """
    samples, _ = require_contents(samples)
    contents = contents_of_images(samples)
    folders = [each for each in store.folders() if precision in {None, each.precision}]
    if encoders is None:
        chosen = [each for each in folders if not each.missing(contents).any()]
        if not chosen:
            raise StoreError(
                f"No encoder in {store.root} has an embedding of every sample of {samples.name}.",
                remedy="Run `biofuse embed` on these data first.",
            )
        names = Counter(each.card.name for each in chosen)
        if len(names) < len(chosen):
            raise StoreError(
                f"There are several kinds of embeddings of "
                f"{', '.join(sorted(name for name, count in names.items() if count > 1))}.",
                remedy=f"Name the encoders: {option('encoders')}; by fingerprint, or with {option('precision')}, where "
                "one name has several.",
            )
    else:
        chosen = [_named(name, folders, contents, store) for name in dict.fromkeys(encoders)]
    cards = tuple(folder.card for folder in chosen)
    precisions = {folder.card.name: folder.precision for folder in chosen}
    reader = reader_of(samples, store=store, cards=cards, precisions=precisions, pooling=pooling)
    return EmbeddingSet(samples=samples, blocks=reader.read(), cards=cards, precisions=precisions, pooling=pooling)


def reader_of(
    samples: Samples,
    *,
    store: EmbeddingStore,
    cards: tuple[EncoderCard, ...],
    precisions: Mapping[str, Precision],
    pooling: Pooling,
) -> BlockReader:
    """Return the reader of the embeddings of samples that have been read; of bags, all their images."""
    return BlockReader(
        store=store,
        cards=cards,
        ids=samples.ids,
        contents=contents_of_images(samples),
        sizes=samples.sizes if samples.bagged or pooled_width(pooling) > 1 else None,
        pooling=pooling,
        precisions=precisions,
    )


def recompute(
    samples: Samples,
    *,
    store: EmbeddingStore,
    rows: int,
    encoder: str | None = None,
    seed: int = 0,
    options: ExtractOptions | None = None,
) -> list[Recomputed]:
    """Embed a random sample of what the store has of these images again, and compare.

    Embeddings computed in fp32 may differ by 1e-5 of the largest value of their row; of those computed in fp16 and
    bf16 the cosine must be at least .999.

    Parameters
    ----------
    samples : Samples
        The images; the store keeps only their hashes.
    store : EmbeddingStore
    rows : int
        Most images per encoder.
    encoder : str, optional
        Only this one, by name or fingerprint.
    seed : int, default 0
        Of the random sample.
    options : ExtractOptions, optional
        Device and weights.

    Returns
    -------
    list of Recomputed
        One for every folder of the store. Encoders that cannot be loaded here are said to be skipped, unless they were
        asked for by name.

    Raises
    ------
    StoreError
        If the store has no embedding of any of these images.
    EncoderError
        If the encoder named cannot be loaded.
    UnreadableImageError
        If an image cannot be read.
    """
    options = options or ExtractOptions()
    samples, contents = require_contents(samples.images())
    folders = [each for each in store.folders() if encoder is None or _is_called(each, encoder)]
    if encoder is not None and not folders:
        raise _unknown(encoder, store)
    known = [np.flatnonzero(~folder.missing(contents)) for folder in folders]
    if not any(len(each) for each in known):
        what = f"{encoder} embedding" if encoder else "embedding"
        raise StoreError(
            f"None of the {len(samples)} images of {samples.name} has an {what} in {store.root}.",
            remedy="Name the data whose embeddings are to be checked, or embed these first: `biofuse embed`.",
        )
    found = []
    for folder, candidates in zip(folders, known, strict=True):
        said = Recomputed(
            encoder=folder.card.name,
            fingerprint=folder.path.name,
            precision=folder.precision,
            candidates=len(candidates),
        )
        drawn = _draw(candidates, contents, rows, seed, folder)
        if folder.card.loader == IMPORTED:
            said = replace(said, skipped="imported: its embeddings were made elsewhere")
        elif not len(drawn):
            said = replace(said, skipped="none of these images is in its folder")
        else:
            try:
                anew = _embed(folder, samples, contents, drawn, options)
                said = _compare(said, folder.read(contents[drawn]), anew, samples.ids[drawn])
            except (DependencyError, WeightsError) as error:
                if encoder is not None:
                    raise
                said = replace(said, skipped=f"cannot be loaded here: {error.message}")
        found.append(said)
    return found


def _compare(said: Recomputed, stored: Matrix, anew: Matrix, ids: NDArray[np.object_]) -> Recomputed:
    stored64, anew64 = stored.astype(np.float64), anew.astype(np.float64)
    lengths = np.linalg.norm(stored64, axis=1) * np.linalg.norm(anew64, axis=1)
    dots = np.einsum("ij,ij->i", stored64, anew64)
    same = (stored64 == anew64).all(axis=1)  # among them rows of zeros, which have no direction
    cosines = np.where(same, 1.0, np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0))
    scale = np.abs(anew64).max(axis=1)
    apart = np.abs(stored64 - anew64).max(axis=1)
    differences = np.where(same, 0.0, np.divide(apart, scale, out=np.full_like(apart, np.inf), where=scale > 0))
    wrong = differences > LARGEST_DIFFERENCE if said.precision == "fp32" else cosines < PARITY_COSINE
    return replace(
        said,
        rows=len(ids),
        cosine=float(cosines.min()),
        difference=float(differences.max()),
        differing=tuple(str(each) for each in ids[wrong]),
    )


def _embed(
    folder: EncoderFolder, samples: Samples, contents: Contents, rows: NDArray[np.int64], options: ExtractOptions
) -> NDArray[np.float32]:
    card = folder.card
    device = choose_device(options.device) if card.runtime == "torch" else "cpu"
    encoder = load_encoder(card, device=device, precision=folder.precision, weights_path=options.weights_of(card))
    pieces = []
    for start in range(0, len(rows), COMPARED_AT_ONCE):
        images = [_image(samples, int(row), contents, card) for row in rows[start : start + COMPARED_AT_ONCE]]
        pieces.append(encode(encoder, np.stack(images)))
    return np.concatenate(pieces)


def _image(samples: Samples, row: int, contents: Contents, card: EncoderCard) -> NDArray[np.uint8]:
    source = samples.sources[row]
    raw = source.read()
    if content_of(source, samples.decode) != contents[row : row + 1].tobytes():
        raise UnreadableImageError(f"{source.description} changed while it was being read.")
    return card.preprocessing.apply(decode(raw, samples.decode, description=source.description))


def _draw(
    candidates: NDArray[np.int64], contents: Contents, rows: int, seed: int, folder: EncoderFolder
) -> NDArray[np.int64]:
    """Draw images at random, whatever order they come in, each content once."""
    _, first = np.unique(contents[candidates], return_index=True)
    distinct = candidates[first]
    random = generator(seed, "recompute", folder.path.name)
    return np.sort(random.permutation(distinct)[:rows])


def _named(name: str, folders: Iterable[EncoderFolder], contents: Contents, store: EmbeddingStore) -> EncoderFolder:
    called = [folder for folder in folders if _is_called(folder, name)]
    if not called:
        raise _unknown(name, store)
    whole = [folder for folder in called if not folder.missing(contents).any()]
    if len(whole) > 1:
        listed = ", ".join(f"{folder.path.name} ({folder.precision})" for folder in whole)
        raise StoreError(
            f"{store.root} has {len(whole)} kinds of embeddings of {name}: {listed}.",
            remedy=f"Say which precision is meant: {option('precision')}; or give the fingerprint instead of the name.",
        )
    # Of several kinds none of which is complete, reading the fullest says best what is missing.
    return whole[0] if whole else min(called, key=lambda folder: int(folder.missing(contents).sum()))


def _is_called(folder: EncoderFolder, name: str) -> bool:
    imported = folder.card.loader == IMPORTED and name == f"{IMPORTED}:{folder.card.name}"
    return imported or name in {folder.card.name, folder.path.name}


def _unknown(name: str, store: EmbeddingStore) -> BioFuseError:
    return StoreError(
        f"{store.root} has no embeddings of {name}.",
        remedy="`biofuse store ls` shows what there is; `biofuse embed` computes more.",
    )
