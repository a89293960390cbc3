"""``biofuse.embed_batches``: embeddings of more data than memory holds, some samples at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from biofuse.api.embedding import EmbeddingSet, as_store, embed_samples
from biofuse.core.errors import AlignmentError, BioFuseError, DataError
from biofuse.core.hashing import digest
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.registry import resolve
from biofuse.extract import ExtractOptions, Progress
from biofuse.store import EmbeddingStore

BATCH_BYTES = 1 << 29
"""Size that the blocks of one batch may have together, where the user names no number of rows: 512 MiB."""

FEWEST_ROWS, MOST_ROWS = 1_024, 65_536
"""Encoders are loaded anew for every batch that needs them, so batches are never small."""


def embed_batches(
    data: Any,
    encoders: str | Sequence[str] = "starter",
    *,
    rows: int | None = None,
    label: str | Sequence[str] | None = None,
    group: str | None = None,
    labels: Any = None,
    task: str | None = None,
    labelled: bool | None = None,
    allow_random_weights: bool = False,
    options: ExtractOptions | None = None,
    store: EmbeddingStore | Path | str | None = None,
    progress: Progress | bool = True,
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
    label, group, labels, task, labelled
        As in :func:`biofuse.embed`; not for an iterator of Samples.
    allow_random_weights : bool, default False
        Let ``timm:NAME`` encoders have random weights, to try things out.
    options : ExtractOptions, optional
        Device, precision, workers, and what to do with unreadable images. The precision that is chosen for the first
        batch is kept for the others.
    store : EmbeddingStore or path, optional
        By default the store in the user's cache folder.
    progress : Progress or bool, default True

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
    >>> for batch in biofuse.embed_batches("millions/", "efficientnet_lite0", rows=50_000):  # doctest: +SKIP
    ...     index.add(batch.ids, batch["efficientnet_lite0"])
    """
    if rows is not None and rows < 1:
        raise BioFuseError("rows must be at least 1.")
    kept = as_store(store)
    cards = resolve(encoders, allow_random_weights=allow_random_weights, find=kept.find_imported)
    most = rows or _rows_for(cards)
    if isinstance(data, Iterator):
        given = {"label": label, "group": group, "labels": labels, "task": task, "labelled": labelled}
        refused = [name for name, value in given.items() if value is not None]
        if refused:
            raise DataError(
                f"{', '.join(refused)} cannot be given for an iterator of Samples.",
                remedy="Give them to load_samples, which makes the pieces.",
            )
        pieces: Iterable[Samples] = _checked(data)
    else:
        pieces = [load_samples(data, label=label, group=group, labels=labels, task=task, labelled=labelled)]
    return _embedded(pieces, cards, rows=most, store=kept, options=options or ExtractOptions(), progress=progress)


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
            batch = embed_samples(samples, cards, store=store, options=options, progress=progress)
            # Left to itself each batch would choose by what the store has of it, and their rows could not be compared.
            options = replace(options, precisions={**batch.precisions, **options.precisions})
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
