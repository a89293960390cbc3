"""``biofuse.embed``: images in, aligned embeddings out."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from biofuse.core.errors import AlignmentError, BioFuseError, DataError
from biofuse.core.hashing import digest
from biofuse.core.options import accepts, divide
from biofuse.core.progress import Progress, Tell
from biofuse.data.config import DataConfig, named
from biofuse.data.load import load_samples
from biofuse.data.microscopy import with_windows
from biofuse.data.samples import Samples
from biofuse.data.shards import Shard
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.registry import resolve
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.search.config import STARTER
from biofuse.store.store import EmbeddingStore, as_store


@accepts(DataConfig, ExtractOptions)
def embed(
    data: Any,
    encoders: str | Sequence[str] = STARTER,
    *,
    labels: Any = None,
    labelled: bool | None = None,
    store: EmbeddingStore | Path | str | None = None,
    shard: str | None = None,
    config: DataConfig | None = None,
    options: ExtractOptions | None = None,
    progress: Progress | bool = True,
    tell: Tell | None = None,
    **chosen: Any,
) -> EmbeddingSet:
    """Embed images under every encoder of a pool; what the store already has is not computed again.

    Parameters
    ----------
    data : path, Samples, DataFrame, arrays, data set
        Anything :func:`biofuse.data.load.load_samples` takes: a folder of class folders, a manifest, a MedMNIST file or
        name, arrays or PIL images, a torch or Hugging Face data set.
    encoders : str or sequence of str, default "starter"
        Encoder names or aliases, see ``biofuse encoders list``.
    labels : array-like, optional
        Labels for arrays and images.
    labelled : bool, optional
        True: labels are required; False: they are ignored. By default they are used where they exist.
    store : EmbeddingStore or path, optional
        By default the store in the user's cache folder.
    shard : str, optional
        ``"i/n"``, with i from 1 to n: read and embed only this one of n runs of neighbouring rows, for jobs that share
        a store. The result has these rows; without ``shard``, everything is found in the store afterwards.
    config : DataConfig, optional
        How the data are read; what is given by name wins.
    options : ExtractOptions, optional
        How images are embedded; what is given by name wins.
    progress : Progress or bool, default True
        True shows bars where standard error is a terminal.
    tell : callable, optional
        Receives the plan before anything is computed, and news, line by line.
    **chosen
        Fields of :class:`biofuse.DataConfig` and :class:`biofuse.ExtractOptions`.

    Returns
    -------
    EmbeddingSet

    Raises
    ------
    DataError
        If the data set cannot be used as it is.
    EncoderError
        If an encoder is unknown, cannot be loaded or breaks its card's promises.
    DiskError
        If the store cannot be written to.

    Examples
    --------
    >>> import biofuse
    >>> embeddings = biofuse.embed("images/", ["colour", "lbp"], progress=False)
    >>> embeddings["lbp"].shape
    (40, 54)
    >>> embeddings.labels[:3], embeddings.samples.classes
    (array([0, 0, 0]), ('benign', 'malignant'))
    """
    reading, embedding = divide(chosen, DataConfig, ExtractOptions)
    read = DataConfig.of(config, reading)
    samples = with_windows(load_samples(data, labels=labels, labelled=labelled, config=read, progress=progress))
    if shard is not None:
        samples = Shard.parse(shard).take(samples)
    if tell is not None:
        for line in samples.remarks:
            tell(line)
    extraction = ExtractOptions.of(options, embedding)
    kept = as_store(store)
    cards = resolve(encoders, allow_random_weights=extraction.allow_random_weights, find=kept.find_imported)
    return extract(samples, cards, store=kept, options=extraction, progress=progress, tell=tell)


BATCH_BYTES = 1 << 29
"""Size that the blocks of one batch may have together, where the user names no number of rows: 512 MiB."""

FEWEST_ROWS, MOST_ROWS = 1_024, 65_536
"""Encoders are loaded anew for every batch that needs them, so batches are never small."""


@accepts(DataConfig, ExtractOptions)
def embed_batches(
    data: Any,
    encoders: str | Sequence[str] = STARTER,
    *,
    rows: int | None = None,
    labels: Any = None,
    labelled: bool | None = None,
    store: EmbeddingStore | Path | str | None = None,
    config: DataConfig | None = None,
    options: ExtractOptions | None = None,
    progress: Progress | bool = True,
    **chosen: Any,
) -> Iterator[EmbeddingSet]:
    """Embed images batch by batch: as :func:`biofuse.embed`, for embeddings that do not fit into memory together.

    Every batch is in the store before it is handed out, so a stopped loop goes on where it was. Memory holds one batch,
    and of the data what :func:`biofuse.load_samples` makes of them: ids, labels and where each image lies.

    Parameters
    ----------
    data : path, Samples, DataFrame, arrays, data set, or iterator of Samples
        Anything :func:`biofuse.load_samples` takes. Or an iterator (such as a generator) of :class:`Samples`, for a
        table that does not fit into memory either; their ids must differ from each other's, and their class tables
        must be the same (``load_samples(..., classes=...)``).
    encoders : str or sequence of str, default "starter"
        Encoder names or aliases.
    rows : int, optional
        Most samples of a batch; by default as many as have 512 MiB of embeddings.
    labels, labelled, config
        As in :func:`biofuse.embed`; not for an iterator of Samples.
    store : EmbeddingStore or path, optional
        By default the store in the user's cache folder.
    options : ExtractOptions, optional
        How images are embedded; what is given by name wins. The precision that is chosen for the first batch is kept
        for the others.
    progress : Progress or bool, default True
    **chosen
        Fields of :class:`biofuse.DataConfig` and :class:`biofuse.ExtractOptions`.

    Returns
    -------
    iterator of EmbeddingSet
        In the order of the data; the rows of a batch's blocks are those of its ``samples``.

    Raises
    ------
    DataError
        If the data set cannot be used as it is, or the pieces of an iterator do not belong together.
    AlignmentError
        If two pieces of an iterator have the same id.
    EncoderError
        If an encoder is unknown, cannot be loaded or breaks its card's promises.
    DiskError
        If the store cannot be written to; what was written before is kept.

    Examples
    --------
    >>> import biofuse
    >>> for batch in biofuse.embed_batches("images/", "lbp", rows=25, progress=False):
    ...     print(len(batch.ids), batch["lbp"].shape)
    25 (25, 54)
    15 (15, 54)
    """
    if rows is not None and rows < 1:
        raise BioFuseError("rows must be at least 1.")
    reading, embedding = divide(chosen, DataConfig, ExtractOptions)
    extraction = ExtractOptions.of(options, embedding)
    kept = as_store(store)
    cards = resolve(encoders, allow_random_weights=extraction.allow_random_weights, find=kept.find_imported)
    most = rows or _rows_for(cards)
    read = DataConfig.of(config, reading)
    if isinstance(data, Iterator):
        refused = read.given | {
            name for name, value in (("labels", labels), ("labelled", labelled)) if value is not None
        }
        if refused:
            raise DataError(
                f"{named(refused)} cannot be given for an iterator of Samples.",
                remedy="Give them to load_samples, which makes the pieces.",
            )
        pieces: Iterable[Samples] = _checked(data)
    else:
        samples = load_samples(data, labels=labels, labelled=labelled, config=read, progress=progress)
        pieces = [with_windows(samples)]
    return _embedded(pieces, cards, rows=most, store=kept, options=extraction, progress=progress)


def _embedded(
    pieces: Iterable[Samples],
    cards: Sequence[EncoderCard],
    *,
    rows: int,
    store: EmbeddingStore,
    options: ExtractOptions,
    progress: Progress | bool,
) -> Iterator[EmbeddingSet]:
    for piece in pieces:
        for start in range(0, len(piece), rows):
            samples = piece.take(range(start, min(start + rows, len(piece))))
            batch = extract(samples, cards, store=store, options=options, progress=progress)
            # Left to itself each batch would choose by what the store has of it, and their rows could not be compared.
            options = options.but(precisions={**batch.precisions, **options.precisions})
            yield batch


def _checked(pieces: Iterator[Any]) -> Iterator[Samples]:
    """Refuse pieces that do not belong to one data set."""
    first: Samples | None = None
    seen: set[bytes] = set()
    for piece in pieces:
        if not isinstance(piece, Samples):
            raise DataError(
                f"The iterator gave a {type(piece).__name__}; its pieces must be Samples.",
                remedy="Make them of whatever they are: biofuse.load_samples(piece, id=..., classes=...).",
            )
        first = first or piece
        if (piece.classes, piece.task) != (first.classes, first.task):
            raise DataError(
                f"{piece.name} has the classes {', '.join(piece.classes) or 'none'}, the first piece "
                f"{', '.join(first.classes) or 'none'}.",
                remedy="Give every piece the whole table: load_samples(..., classes=[...], task=...).",
            )
        for each in piece.ids:
            known = digest(str(each).encode())
            if known in seen:
                raise AlignmentError(
                    f"The id {each!r} occurs in two pieces.", remedy="Give load_samples ids that differ: id=[...]."
                )
            seen.add(known)
        yield piece


def _rows_for(cards: Sequence[EncoderCard]) -> int:
    columns = sum(card.dim for card in cards)
    return max(FEWEST_ROWS, min(MOST_ROWS, BATCH_BYTES // (4 * columns)))
