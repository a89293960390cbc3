"""Matrices of several encoders over one ordered set of samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.pooling import Bags, Pooling, pool
from biofuse.core.errors import AlignmentError, DataError
from biofuse.core.hashing import Contents
from biofuse.data.cuts import ranges
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.store.parts import ROWS_AT_ONCE, Memory, locate_ids
from biofuse.store.store import EmbeddingStore, EncoderFolder

Matrix = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks(Mapping[str, Matrix]):
    """A read-only mapping from encoder name to block, all with the same rows.

    As with a structured array of numpy, a name gives a block, and anything that numpy takes for rows gives those rows
    of every block; ``shape`` counts rows and columns, so that scikit-learn divides blocks into folds like a matrix.

    Attributes
    ----------
    ids : ndarray of str (dtype object), shape (n,)
        Sample ids; row i of every block belongs to ``ids[i]``.
    matrices : mapping of str to ndarray of float32, shape (n, dim)
        In pool order.
    bags : Bags or None
        The images behind the rows, where samples are bags.
    """

    ids: NDArray[np.object_]
    matrices: Mapping[str, Matrix]
    bags: Bags | None = None

    def __post_init__(self) -> None:
        if len(set(self.ids.tolist())) != len(self.ids):
            raise AlignmentError("Sample ids of a block are not unique.")
        for name, matrix in self.matrices.items():
            if matrix.ndim != 2 or len(matrix) != len(self.ids):
                raise AlignmentError(f"Block {name} has shape {matrix.shape} for {len(self.ids)} samples.")
        if self.bags is not None and len(self.bags.sizes) != len(self.ids):
            raise AlignmentError(f"{len(self.bags.sizes)} bags for {len(self.ids)} samples.")

    @overload
    def __getitem__(self, key: str) -> Matrix: ...

    @overload
    def __getitem__(self, key: Any) -> Any: ...

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.matrices[key]
        rows = key[0] if isinstance(key, tuple) else key
        if isinstance(key, tuple) and (len(key) != 2 or key[1] not in (Ellipsis, slice(None))):
            raise KeyError(f"{key!r}: blocks are indexed by the name of an encoder, or by rows.")
        return self.take(np.arange(self.n_samples)[rows])

    def __iter__(self) -> Iterator[str]:
        return iter(self.matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoder names in pool order."""
        return tuple(self.matrices)

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and of columns of all blocks together."""
        return self.n_samples, sum(self.dims.values())

    @property
    def dims(self) -> dict[str, int]:
        """Columns of each block."""
        return {name: matrix.shape[1] for name, matrix in self.matrices.items()}

    def require_finite(self, encoder: str) -> None:
        """Refuse a block with a value that is not finite.

        Raises
        ------
        DataError
            Naming the first such sample.
        """
        finite = np.asarray(np.isfinite(self[encoder]).all(axis=1))
        if not finite.all():
            raise DataError(
                f"The embedding of sample {self.ids[np.argmin(finite)]!r} by {encoder} is not finite "
                f"({int((~finite).sum())} of {len(finite)} rows).",
                remedy="Embed these samples again in fp32, or leave the encoder out.",
            )

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Return the given rows of every block (indices or a boolean mask)."""
        return type(self)(
            ids=self.ids[rows],
            matrices={name: matrix[rows] for name, matrix in self.matrices.items()},
            bags=None if self.bags is None else self.bags.take(rows),
        )

    def only(self, encoders: Sequence[str]) -> Self:
        """Return the blocks of the named encoders, in this object's order whatever the order of the names.

        Raises
        ------
        AlignmentError
            If an encoder has no block here.
        """
        missing = [name for name in encoders if name not in self.matrices]
        if missing:
            raise AlignmentError(f"No block for encoder(s) {', '.join(missing)}; there are {', '.join(self.encoders)}.")
        return type(self)(
            ids=self.ids,
            matrices={name: m for name, m in self.matrices.items() if name in set(encoders)},
            bags=None if self.bags is None else self.bags.only(encoders),
        )

    def pooled(self, pooling: Pooling) -> Self:
        """Return the blocks pooled in another way; blocks without bags are returned as they are."""
        if self.bags is None:
            return self
        return type(self)(ids=self.ids, matrices=self.bags.pooled(pooling), bags=replace(self.bags, pooling=pooling))

    def join(self, ids: Sequence[str] | NDArray[np.object_]) -> Self:
        """Return the rows of the given ids, in the order given.

        Raises
        ------
        AlignmentError
            If an id is missing here or asked for twice.
        """
        return self.take(_rows_of(ids, self.ids))


def _rows_of(ids: Sequence[str] | NDArray[np.object_], available: NDArray[np.object_]) -> NDArray[np.int64]:
    wanted = np.asarray(ids, dtype=object)
    rows = locate_ids(wanted, available)
    absent = np.flatnonzero(rows < 0)
    if len(absent):
        raise AlignmentError(f"{len(absent)} sample ids have no embeddings, e.g. {wanted[absent[0]]!r}.")
    return rows


def linear_cka(blocks: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
    """Linear centred kernel alignment of every pair of blocks (Kornblith et al. 2019, arXiv:1905.00414).

    With columns centred, it is ``|YᵀX|² / (|XᵀX| |YᵀY|)`` in Frobenius norms: 1 where two encoders arrange the samples
    alike up to rotation and a common scale, 0 where nothing of one can be read off the other linearly. With fewer
    samples than columns it comes out too high (Murphy et al. 2024, arXiv:2405.01012).

    Parameters
    ----------
    blocks : Blocks, or mapping of str to ndarray of shape (n, dim)
        Encoder to block; the same samples row by row.

    Returns
    -------
    ndarray of float64, shape (m, m)
        Symmetric; NaN in rows and columns of encoders that are constant over the samples.

    Raises
    ------
    AlignmentError
        If the blocks have different numbers of rows.
    """
    if len({len(block) for block in blocks.values()}) > 1:
        raise AlignmentError("Blocks of different numbers of samples cannot be compared.")
    centred = [_centred(block) for block in blocks.values()]
    found = np.full((len(centred), len(centred)), np.nan)
    # |YᵀX|² is also the sum of the products of XXᵀ and YYᵀ, entry by entry: cheaper where there are fewer rows.
    grams: list[NDArray[np.float64] | None] = [
        block @ block.T if len(block) < block.shape[1] else None for block in centred
    ]
    norms = [np.sqrt(_alignment(block, block, gram, gram)) for block, gram in zip(centred, grams, strict=True)]
    for i in range(len(centred)):
        for j in range(i + 1):
            if norms[i] > 0 and norms[j] > 0:
                value = _alignment(centred[i], centred[j], grams[i], grams[j]) / (norms[i] * norms[j])
                found[i, j] = found[j, i] = min(value, 1.0)
    return found


def _centred(block: NDArray[np.floating]) -> NDArray[np.float64]:
    centred = np.asarray(block, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    size = float(np.abs(centred).max(initial=0))
    constant = size <= 1e-12 * float(np.abs(block).max(initial=0))  # what is left is rounding
    return np.zeros_like(centred) if constant else centred / size


def _alignment(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    gram_x: NDArray[np.float64] | None,
    gram_y: NDArray[np.float64] | None,
) -> float:
    if gram_x is not None and gram_y is not None:
        return float(np.einsum("ij,ij->", gram_x, gram_y))
    if gram_x is not None:
        return float(np.einsum("ij,ij->", y, gram_x @ y))
    if gram_y is not None:
        return float(np.einsum("ij,ij->", x, gram_y @ x))
    return float(np.square(y.T @ x).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockReader:
    """Stored embeddings of several encoders, joined on samples but not yet read.

    Holds ids and content hashes, some 100 bytes per sample, and no embedding.

    Attributes
    ----------
    store : EmbeddingStore
    cards : tuple of EncoderCard
        The pool; blocks come in this order.
    ids : ndarray of str (dtype object), shape (n,)
        Sample ids: the rows of every block, in this order.
    contents : ndarray of S16, shape (n_images,)
        Content hash of each image, sample by sample.
    sizes : ndarray of int64, shape (n,), or None
        Images of each sample; None where each sample is one image.
    pooling : {"mean", "max", "mean+max", "mean+std"}
        How the embeddings of a sample's images become one row; no choice where each sample is one image.
    precisions : mapping of str to {"fp32", "fp16", "bf16"}
        What each encoder's embeddings were computed in; fp32 for those not named.

    Raises
    ------
    AlignmentError
        If ids repeat, or the two arrays differ in length.
    """

    store: EmbeddingStore
    cards: tuple[EncoderCard, ...]
    ids: NDArray[np.object_]
    contents: Contents
    sizes: NDArray[np.int64] | None = None
    pooling: Pooling = "mean"
    precisions: Mapping[str, Precision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images = len(self.ids) if self.sizes is None else int(self.sizes.sum())
        if images != len(self.contents) or (self.sizes is not None and len(self.sizes) != len(self.ids)):
            raise AlignmentError(f"{len(self.ids)} sample ids for {len(self.contents)} content hashes.")
        repeated = np.flatnonzero(locate_ids(self.ids, self.ids) != np.arange(len(self.ids)))
        if len(repeated):
            raise AlignmentError(f"{len(repeated)} sample ids occur again, e.g. {self.ids[repeated[0]]!r}.")

    def folders(self) -> dict[str, EncoderFolder]:
        """Return where each encoder's embeddings lie."""
        return {
            card.name: self.store.open(card, precision=self.precisions.get(card.name, "fp32")) for card in self.cards
        }

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Return the reader of the given rows (indices or a boolean mask)."""
        if self.sizes is None:
            return replace(self, ids=self.ids[rows], contents=self.contents[rows])
        starts, sizes = (np.cumsum(self.sizes) - self.sizes)[rows], self.sizes[rows]
        return replace(self, ids=self.ids[rows], contents=self.contents[ranges(starts, sizes)], sizes=sizes)

    def join(self, ids: Sequence[str] | NDArray[np.object_]) -> Self:
        """Return the reader of the given ids, in the order given.

        Raises
        ------
        AlignmentError
            If an id is missing here or asked for twice.
        """
        return self.take(_rows_of(ids, self.ids))

    def read(self, *, memory: Memory = "auto") -> Blocks:
        """Read all blocks; see :meth:`biofuse.store.EncoderFolder.read` for where they are held.

        Raises
        ------
        AlignmentError
            If a sample has no embedding.
        """
        matrices = {name: folder.read(self.contents, memory=memory) for name, folder in self.folders().items()}
        if self.sizes is None:
            return Blocks(ids=self.ids, matrices=matrices)
        starts = np.cumsum(self.sizes) - self.sizes
        bags = Bags(matrices=matrices, starts=starts, sizes=self.sizes, pooling=self.pooling)
        pooled = {name: pool(matrix, self.sizes, self.pooling) for name, matrix in matrices.items()}
        return Blocks(ids=self.ids, matrices=pooled, bags=bags)

    def iter_blocks(self, *, rows: int = ROWS_AT_ONCE) -> Iterator[Blocks]:
        """Read the blocks piece by piece, all encoders of a piece at once.

        Parameters
        ----------
        rows : int, default 65536
            Most samples of a piece.

        Yields
        ------
        Blocks
            Of the next samples, in order; of bags as many at a time.

        Raises
        ------
        AlignmentError
            If a sample has no embedding; before the first piece.
        """
        if self.sizes is not None:
            for start in range(0, len(self.ids), rows):
                yield self.take(np.arange(start, min(start + rows, len(self.ids)))).read()
            return
        pieces = {name: folder.iter_blocks(self.contents, rows=rows) for name, folder in self.folders().items()}
        for start in range(0, len(self.ids), rows):
            ids = self.ids[start : start + rows]
            yield Blocks(ids=ids, matrices={name: next(blocks) for name, blocks in pieces.items()})
