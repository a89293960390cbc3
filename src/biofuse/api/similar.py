"""``biofuse.similar``: the development images that are most like a new one; and all of them as vectors for an index."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.blocks.blocks import BlockReader, Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, BioFuseError, DataError, StoreError, option
from biofuse.core.files import atomic_path, disk_errors, write_text
from biofuse.core.hashing import to_hex
from biofuse.core.options import accepts
from biofuse.data.config import DataConfig
from biofuse.data.samples import Samples
from biofuse.evaluation.novelty import Projection
from biofuse.extract.options import ExtractOptions
from biofuse.model.model import BioFuseModel
from biofuse.report.input import SampleImages
from biofuse.report.neighbours import SimilarImage, SimilarImages, missing
from biofuse.runs.run import Run
from biofuse.store.store import EmbeddingStore, as_store

NEAREST = 12
"""Development images that are shown where no number is given: as many as fit a screen with their pictures."""

AT_ONCE = 4096
"""Development images whose vectors are in memory at a time: 64 MB for 4,000 columns."""

VECTORS, VECTORS_RECORD = "vectors.parquet", "vectors.json"
"""The vectors, and what they are."""

VECTOR = "vector"
"""Column of the vectors: what LanceDB looks for."""


def development_reader(run: Run, encoders: Sequence[str], store: EmbeddingStore) -> BlockReader:
    """Return the stored embeddings of a run's development samples, in the order of the run's table.

    Parameters
    ----------
    run : Run
    encoders : sequence of str
        Of its pool.
    store : EmbeddingStore
    """
    return run.reader(run.samples[run.samples["split"] != "test"], encoders, store)


class _Space:
    """The space in which images are compared: that in which the model tells how unusual one is.

    Parameters
    ----------
    run : Run
    store : EmbeddingStore

    Raises
    ------
    AlignmentError, StoreError
        If the store does not have the development embeddings.
    """

    def __init__(self, run: Run, store: EmbeddingStore) -> None:
        self.run = run
        self.model = BioFuseModel.load(run.model_path())
        self.frame = run.samples[run.samples["split"] != "test"].reset_index(drop=True)
        self.reader = development_reader(run, self.model.encoders, store)
        novelty = self.model.trust.novelty
        with _explained(run):
            self.projection = Projection.learn(self.reader.read()) if novelty is None else novelty.projection

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of development samples, piece by piece, float32, shape (rows, dim)."""
        with _explained(self.run):
            for blocks in self.reader.iter_blocks(rows=AT_ONCE):
                yield self.projection.whole(blocks)

    def distances(self, vector: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the distance of every development sample to one vector, shape (n,)."""
        wanted = vector.astype(np.float64)
        return np.concatenate([np.linalg.norm(piece.astype(np.float64) - wanted, axis=1) for piece in self.pieces()])

    @property
    def typical(self) -> str:
        """How far development images are from each other, in words."""
        novelty = self.model.trust.novelty
        if novelty is None:
            return ""
        return (
            f"Half of the development images are less than {float(np.median(novelty.distances)):.2f} from their "
            f"{novelty.neighbours} nearest ones of other groups, on average."
        )


@contextlib.contextmanager
def _explained(run: Run) -> Iterator[None]:
    """Say of which run development embeddings are missing, and where they may be."""
    try:
        yield
    except (AlignmentError, StoreError) as error:
        raise StoreError(
            f"The development embeddings of {run.path} are not in this store: {error.message}",
            remedy=f"Name the store that it was fitted with: {option('store')}; or give the same `biofuse fit` again.",
        ) from error


@accepts(DataConfig, ExtractOptions)
def vectors(
    run: Path | str,
    data: Any,
    *,
    store: EmbeddingStore | Path | str | None = None,
    config: DataConfig | None = None,
    options: ExtractOptions | None = None,
    progress: bool = True,
    **chosen: Any,
) -> NDArray[np.float32]:
    """Embed images into the space of :func:`export_vectors`, to look them up in an index.

    Parameters
    ----------
    run : path
        The run directory.
    data : anything :func:`biofuse.load_samples` takes
    store : EmbeddingStore or path, optional
        Where embeddings are looked for; by default in the user's store.
    config, options
        How ``data`` are read and embedded; what is given by name wins.
    progress : bool, default True
    **chosen
        Fields of :class:`biofuse.DataConfig` and :class:`biofuse.ExtractOptions`.

    Returns
    -------
    ndarray of float32, shape (n, dim)

    Raises
    ------
    ArtifactError
        If there is no complete run there.
    UnreadableImageError
        If an image cannot be read.

    Examples
    --------
    >>> import biofuse
    >>> fuse = biofuse.BioFuse(["colour", "lbp"], head="ridge")
    >>> _ = fuse.fit("images/", out="run", progress=False)
    >>> biofuse.vectors("run", "new.png", progress=False).shape
    (1, 136)
    """
    where = as_store(store)
    space = _Space(Run.open(run), where)
    strict = chosen | {"on_error": "error"}
    found = space.model.embed_blocks(data, store=where, config=config, options=options, progress=progress, **strict)
    return space.projection.whole(found.blocks)


@accepts(DataConfig, ExtractOptions)
def similar(
    run: Path | str,
    image: Any,
    *,
    k: int = NEAREST,
    store: EmbeddingStore | Path | str | None = None,
    config: DataConfig | None = None,
    options: ExtractOptions | None = None,
    progress: bool = True,
    **chosen: Any,
) -> SimilarImages:
    """Find the development images that are most like an image.

    Distances are Euclidean between the embeddings of the chosen encoders, with columns standardised and every encoder
    counting the same: the space in which the model says how unlike the development data an image is, without the
    random projection that makes that quick.

    Parameters
    ----------
    run : path
        The run directory.
    image : anything :func:`biofuse.load_samples` takes
        That holds one image.
    k : int, default 12
        How many; all, where there are fewer.
    store : EmbeddingStore or path, optional
        Where embeddings are looked for; by default in the user's store.
    config, options
        How the image is read and embedded; what is given by name wins.
    progress : bool, default True
    **chosen
        Fields of :class:`biofuse.DataConfig` and :class:`biofuse.ExtractOptions`.

    Returns
    -------
    SimilarImages
        ``nearest`` in order; ``to_html()`` is a sheet with pictures, as far as the images are still there.

    Raises
    ------
    ArtifactError
        If there is no complete run there.
    StoreError
        If the store does not have the development embeddings.
    DataError
        If there is not one image, or ``k`` is below 1.

    Examples
    --------
    >>> import biofuse
    >>> fuse = biofuse.BioFuse(["colour", "lbp"], head="ridge")
    >>> _ = fuse.fit("images/", out="run", progress=False)
    >>> found = biofuse.similar("run", "new.png", k=3, progress=False)
    >>> len(found.nearest), found.nearest[0].label
    (3, 'malignant')
    """
    if k < 1:
        raise DataError(f"{option('k', k)}: there is no such number of images.", remedy="Give 1 or more.")
    opened, where = Run.open(run), as_store(store)
    space = _Space(opened, where)
    read = DataConfig.of(config, {name: chosen.pop(name) for name in [*chosen] if name in DataConfig.model_fields})
    samples = space.model.load_images(image, config=read)
    if len(samples) != 1:
        raise DataError(f"{samples.name} holds {len(samples)} images.", remedy="Give one image.")
    strict = chosen | {"on_error": "error"}
    embedded = space.model.embed_blocks(samples, store=where, options=options, progress=progress, **strict)
    distances = space.distances(space.projection.whole(embedded.blocks)[0])
    # Of equally near ones the first by id, so that the answer is the same whatever the order of the table.
    ids = space.frame["id"].astype(str).to_numpy()
    order = np.lexsort((ids, distances))[:k].tolist()
    own = to_hex(embedded.contents)[0]
    rows = space.frame.fillna("").to_dict("records")
    nearest = tuple(
        SimilarImage(
            rank=rank,
            id=str(rows[row]["id"]),
            label=str(rows[row]["label"]),
            group=str(rows[row]["group"]),
            split=str(rows[row]["split"]),
            distance=float(distances[row]),
            identical=rows[row]["content"] == own,
        )
        for rank, row in enumerate(order, start=1)
    )
    pictures, remarks = _pictures(opened, samples, nearest)
    return SimilarImages(
        query=str(samples.ids[0]),
        nearest=nearest,
        encoders=space.model.encoders,
        typical=space.typical,
        called=_called(space.model, embedded.blocks),
        pictures=pictures,
        remarks=remarks,
    )


def _called(model: BioFuseModel, blocks: Blocks) -> str:
    probabilities = model.probabilities(blocks)
    said, best = np.atleast_1d(model.decide(probabilities)[0]), float(probabilities[0].max())
    if model.target.categorical:
        sure = "" if model.target.several else f" ({best:.1%})"
        called = f"The model says {said[0] or 'none of the labels'}{sure}"
    elif model.target.measured:
        called = "The model says " + ", ".join(
            f"{of} {value:.4g}" for of, value in zip(model.classes, said, strict=True)
        )
    else:
        called = f"The model gives a risk of {said[0]:.1%}"
    novelty = model.trust.novelty
    if novelty is None:
        return f"{called}."
    percentile = float(novelty.percentiles(blocks)[0])
    return f"{called}; the image is more unusual than {percentile:.0f} % of the development images."


def _pictures(
    run: Run, asked: Samples, nearest: Sequence[SimilarImage]
) -> tuple[Callable[[str | None], Image.Image | None], tuple[str, ...]]:
    """Return what gives the picture of a sample, and what is to be said of those that there is none of."""
    own = SampleImages(asked)
    try:
        images = SampleImages(run.load_samples()[0])
    except BioFuseError as error:
        return (lambda sample: own.image(str(asked.ids[0])) if sample is None else None), (
            f"There are no pictures of the development images: {error.message}",
        )
    found: dict[str | None, Image.Image | None] = {each.id: images.image(each.id) for each in nearest}
    found[None] = own.image(str(asked.ids[0]))
    gone = [each.id for each in nearest if found[each.id] is None]
    return found.get, ((missing(gone),) if gone else ())


def export_vectors(run: Path | str, folder: Path | str, *, store: EmbeddingStore | Path | str | None = None) -> Path:
    """Write the development images of a run as vectors that FAISS, LanceDB and others read.

    ``vectors.parquet`` has a row per development sample: ``id``, ``label``, ``split``, ``group``, and ``vector``, a
    list of fixed size of float32, in the space of :func:`similar` with Euclidean distances. ``vectors.json`` says so.

    Parameters
    ----------
    run : path
        The run directory.
    folder : path
        Where the files go; older ones are replaced.
    store : EmbeddingStore or path, optional
        Where the development embeddings are; by default the user's store.

    Returns
    -------
    Path
        The Parquet file.

    Raises
    ------
    ArtifactError
        If there is no complete run there, or the folder is a file.
    StoreError
        If the store does not have the development embeddings.

    Examples
    --------
    >>> import biofuse, pyarrow.parquet
    >>> fuse = biofuse.BioFuse(["colour", "lbp"], head="ridge")
    >>> _ = fuse.fit("images/", out="run", progress=False)
    >>> table = pyarrow.parquet.read_table(biofuse.export_vectors("run", "vectors"))
    >>> table.column_names, table.num_rows
    (['id', 'label', 'split', 'group', 'vector'], 30)
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target, space = Path(folder), _Space(Run.open(run), as_store(store))
    if target.exists() and not target.is_dir():
        raise ArtifactError(f"{folder} is a file.", remedy="Name a folder.")
    dim = sum(space.projection.dims.values())
    words = ("id", "label", "split", "group")
    schema = pa.schema([*((name, pa.string()) for name in words), (VECTOR, pa.list_(pa.float32(), dim))])
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    with atomic_path(target / VECTORS) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        start = 0
        for piece in space.pieces():
            part = space.frame.iloc[start : start + len(piece)]
            start += len(piece)
            columns = [
                pa.array(part[name].astype(object).where(part[name].notna(), None), pa.string()) for name in words
            ]
            flat = pa.FixedSizeListArray.from_arrays(pa.array(piece.ravel()), dim)
            writer.write_table(pa.table([*columns, flat], schema=schema))
    about = {
        "run": space.run.path.resolve().name,
        "encoders": list(space.model.encoders),
        "columns": space.projection.dims,
        "distance": "Euclidean",
        "columns_are": "centred and divided so that the squares of every encoder's columns add up to about 1",
        "new_images": "biofuse.vectors(RUN, IMAGES) gives vectors to look up",
    }
    write_text(target / VECTORS_RECORD, json.dumps(about, indent=2) + "\n")
    return target / VECTORS
