"""``biofuse.embed``: images in, aligned embeddings out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from biofuse.api.export import save_embeddings, to_frame
from biofuse.blocks import Blocks, Matrix, read_blocks
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.data.shards import Shard
from biofuse.encoders.availability import Skipped, available, pinned_here
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.registry import resolve
from biofuse.extract import (
    EncoderWork,
    ExtractionPlan,
    ExtractOptions,
    Progress,
    Quarantined,
    Stages,
    extract,
    plan_extraction,
    progress_bars,
)
from biofuse.extract.batches import Tell
from biofuse.extract.precision import PRECISIONS
from biofuse.store import Contents, EmbeddingStore

if TYPE_CHECKING:
    import pandas as pd


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
    contents : ndarray of S16, shape (n,)
        Content hash of each sample.
    quarantined : tuple of Quarantined
        Samples whose image could not be read; they have no row.
    work : tuple of EncoderWork
        What was computed and what was reused.
    skipped : tuple of Skipped
        Encoders that were asked for and cannot be run here, with ``on_unavailable="skip"``.
    healed : tuple of str
        Damaged parts of the store whose rows were computed again.
    precisions : mapping of str to {"fp32", "bf16", "fp16"}
        What each encoder computed in; part of the fingerprint under which its embeddings lie.
    plan : ExtractionPlan or None
        What had to be done.
    stages : Stages or None
        Where the time went.
    """

    samples: Samples
    blocks: Blocks
    cards: tuple[EncoderCard, ...]
    contents: Contents
    quarantined: tuple[Quarantined, ...] = ()
    work: tuple[EncoderWork, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    healed: tuple[str, ...] = ()
    precisions: Mapping[str, Precision] = field(default_factory=dict)
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
    def labels(self) -> NDArray[np.int64] | None:
        """Class indices, shape (n,), or zeros and ones, shape (n, n_labels); None for unlabelled data."""
        return self.samples.labels

    @property
    def splits(self) -> NDArray[np.object_] | None:
        """Split of each sample, or None."""
        return self.samples.splits

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


def embed(
    data: Any,
    encoders: str | Sequence[str] = "starter",
    *,
    label: str | Sequence[str] | None = None,
    group: str | None = None,
    labels: Any = None,
    task: str | None = None,
    labelled: bool | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    on_error: str = "error",
    on_unavailable: str = "error",
    weights_dir: Path | None = None,
    allow_random_weights: bool = False,
    store: EmbeddingStore | Path | str | None = None,
    shard: str | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    progress: Progress | bool = True,
    tell: Tell | None = None,
) -> EmbeddingSet:
    """Embed images under every encoder of a pool; what the store already has is not computed again.

    Parameters
    ----------
    data : path, Samples, DataFrame, arrays, data set
        Anything :func:`biofuse.data.load_samples` takes: a folder of class folders, a manifest, a MedMNIST file or
        name, arrays or PIL images, a torch or Hugging Face data set.
    encoders : str or sequence of str, default "starter"
        Encoder names or aliases, see ``biofuse encoders list``.
    label, group : str, optional
        Columns of a manifest. A sequence of label columns makes a multi-label task.
    labels : array-like, optional
        Labels for arrays and images.
    task : {"binary", "multiclass", "multilabel", "ordinal"}, optional
        By default inferred from the labels.
    labelled : bool, optional
        True: labels are required; False: they are ignored. By default they are used where they exist.
    device : str, default "auto"
        All CUDA devices, then MPS, then CPU; or PyTorch device names, separated by commas: a process for each.
    precision : {"auto", "fp32", "bf16", "fp16"}
        What networks compute in. ``auto``: what the store already has, else what each encoder's card advises where the
        device has it. A lower precision is compared with fp32 on images of the job first.
    batch_size : int, optional
        Images per forward pass; by default what fits.
    workers : int, optional
        Processes that decode and resize; 0 uses only this process.
    on_error : {"error", "quarantine"}
        What to do with an image that cannot be read.
    on_unavailable : {"error", "skip"}
        What to do with an encoder whose weights or library cannot be had here.
    weights_dir : Path, optional
        Folder with weight files, ``<encoder>/<file on its card>``.
    allow_random_weights : bool, default False
        Let ``timm:NAME`` encoders have random weights, to try things out.
    store : EmbeddingStore or path, optional
        By default the store in the user's cache folder.
    shard : str, optional
        ``"i/n"``, with i from 1 to n: read and embed only this one of n runs of neighbouring rows, for jobs that share
        a store. The result has these rows; without ``shard``, everything is found in the store afterwards.
    engine : {"local", "ray"}
        Where encoders run: on this machine, or on a Ray cluster.
    ray_address : str, optional
        The cluster; by default that of ``RAY_ADDRESS``, else Ray is started on this machine.
    progress : Progress or bool, default True
        True shows bars where standard error is a terminal.
    tell : callable, optional
        Receives the plan before anything is computed, and news, line by line.

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
    >>> embeddings = biofuse.embed("images/", encoders=["efficientnet_lite0", "lbp"])  # doctest: +SKIP
    >>> embeddings["lbp"].shape  # doctest: +SKIP
    (120, 54)
    """
    samples = load_samples(data, label=label, group=group, labels=labels, task=task, labelled=labelled)
    if shard is not None:
        samples = Shard.parse(shard).take(samples)
    options = ExtractOptions(
        device=device,
        precision=precision,  # type: ignore[arg-type]
        batch_size=batch_size,
        workers=workers,
        on_error=on_error,  # type: ignore[arg-type]
        on_unavailable=on_unavailable,  # type: ignore[arg-type]
        weights_dir=weights_dir,
        engine=engine,
        ray_address=ray_address,
    )
    kept = as_store(store)
    cards = resolve(encoders, allow_random_weights=allow_random_weights, find=kept.find_imported)
    return embed_samples(samples, cards, store=kept, options=options, progress=progress, tell=tell)


def embed_samples(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    progress: Progress | bool = True,
    tell: Tell | None = None,
) -> EmbeddingSet:
    """Embed a table of samples; :func:`embed` with everything already resolved.

    Returns
    -------
    EmbeddingSet
        Its cards hold the hash of the weights used, where those given left it open.
    """
    options = options or ExtractOptions()
    cards, skipped = available(
        cards,
        on_unavailable=options.on_unavailable,
        weights_paths=options.weights_paths,
        weights_dir=options.weights_dir,
        # Where the store holds an encoder's embeddings its weights may no longer be needed; loading it says otherwise.
        needed=lambda card: not stored(store, card),
    )
    if isinstance(progress, bool):
        with progress_bars(quiet=not progress) as bars:
            done = extract(samples, cards, store=store, options=options, progress=bars, tell=tell)
    else:
        done = extract(samples, cards, store=store, options=options, progress=progress, tell=tell)
    return EmbeddingSet(
        samples=done.samples,
        blocks=read_blocks(store, cards, ids=done.samples.ids, contents=done.contents, precisions=done.precisions),
        cards=cards,
        contents=done.contents,
        quarantined=done.quarantined,
        work=done.work,
        healed=done.healed,
        skipped=skipped,
        precisions=done.precisions,
        plan=done.plan,
        stages=done.stages,
    )


def plan_embedding(
    samples: Samples,
    cards: Sequence[EncoderCard],
    *,
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    progress: Progress | bool = True,
) -> ExtractionPlan:
    """Return what :func:`embed_samples` would do; images are read and hashed, nothing is computed or downloaded.

    Raises
    ------
    DataError
        If the data set cannot be used as it is.
    """
    options = options or ExtractOptions()
    known, absent = pinned_here(cards, weights_paths=options.weights_paths, weights_dir=options.weights_dir)
    with progress_bars(quiet=progress is False) as bars:
        watched = bars if isinstance(progress, bool) else progress
        plan = plan_extraction(samples, known, store=store, options=options, progress=watched)
    notes = [f"{name}: its weights are not here yet; they are fetched first." for name in absent]
    return replace(plan, notes=(*plan.notes, *notes))


def stored(store: EmbeddingStore, card: EncoderCard) -> bool:
    """Tell whether the store has any embedding of an encoder, at whatever precision."""
    return any(store.open(card, precision=precision).part_paths() for precision in PRECISIONS)


def as_store(store: EmbeddingStore | Path | str | None) -> EmbeddingStore:
    """Return the store itself, the store at a path, or the user's own."""
    return store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)
