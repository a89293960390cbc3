"""Rows that were made elsewhere, on their way into the store."""

import hashlib
import importlib.util
import json
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError, BioFuseError, DataError, DependencyError, EncoderError, option
from biofuse.core.files import atomic_path, refuse_odd_path, refuse_special_file
from biofuse.core.hashing import Contents, digest_file, from_hex, to_hex
from biofuse.core.linear import slices
from biofuse.data import tile_embeddings
from biofuse.data.samples import Samples, contents_of_images, require_contents
from biofuse.encoders.card import IMPORTED, EncoderCard, Precision
from biofuse.encoders.loaders.imported import imported_card
from biofuse.encoders.registry import ENCODERS
from biofuse.store.parts import locate_ids
from biofuse.store.store import PART_ROWS, EmbeddingStore, EncoderFolder

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-5
"""How far two embeddings of one image may differ, relative to the larger value, and still be the same."""


def first_of_each(
    contents: Contents, embeddings: NDArray[np.float32], ids: NDArray[np.object_], *, name: str
) -> NDArray[np.int64]:
    """Return the rows at which each content occurs first; others with the same content must have the same embedding.

    Raises
    ------
    AlignmentError
        If identical images have different embeddings.
    """
    _, first, which = np.unique(contents, return_index=True, return_inverse=True)
    twin = first[which.reshape(-1)]
    rows = np.flatnonzero(twin != np.arange(len(contents)))
    wrong = rows[_differ(embeddings[rows], embeddings[twin[rows]])]
    if len(wrong):
        raise AlignmentError(
            f"{ids[twin[wrong[0]]]!r} and {ids[wrong[0]]!r} are the same image, but the embeddings given for {name} "
            f"differ ({len(wrong)} such pairs).",
            remedy="Embeddings belong to images: check how the ids of the file were matched.",
        )
    return np.sort(first)


def add_rows(
    folder: EncoderFolder, contents: Contents, embeddings: NDArray[np.float32], ids: NDArray[np.object_]
) -> int:
    """Write the rows that are not there yet; those that are must be the same.

    Parameters
    ----------
    folder : EncoderFolder
    contents : ndarray of S16, shape (n,)
        Distinct.
    embeddings : ndarray of float32, shape (n, dim)
    ids : ndarray of str, shape (n,)
        For messages.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    AlignmentError
        If the store has another embedding for one of these images; nothing is written then.
    DiskError
        If the disk is full or read-only.
    """
    new = folder.missing(contents)
    known = np.flatnonzero(~new)
    for piece in slices(len(known), PART_ROWS):
        rows = known[piece]
        wrong = rows[_differ(embeddings[rows], folder.read(contents[rows]))]
        if len(wrong):
            raise AlignmentError(
                f"The store has another {folder.card.name} embedding for {ids[wrong[0]]!r} than the file "
                f"({len(wrong)} such samples).",
                remedy=f"Import them under another name, or remove {folder.path} first.",
            )
    fresh = np.flatnonzero(new)
    for piece in slices(len(fresh), PART_ROWS):
        folder.write(contents[fresh[piece]], embeddings[fresh[piece]])
    return len(fresh)


def _differ(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.bool_]:
    scale = np.maximum(np.abs(left).max(axis=1, initial=0), np.abs(right).max(axis=1, initial=0))
    return np.asarray(np.abs(left - right).max(axis=1, initial=0) > TOLERANCE * scale)


Blocks = Mapping[str, NDArray[np.float32]]
"""Embeddings of the same samples by encoder; the matrices in memory or mapped."""

FORMATS = (".parquet", ".npz", ".csv", ".h5ad")
"""File endings embeddings can be written to."""

RESERVED = frozenset({"id", "label", "split", "group", "file", "allow_pickle"})
"""Names of the other columns, and what ``numpy.savez`` keeps for itself: no block can have them."""


IMAGES = "images"
"""Column of the content hashes of a bag's images, with blanks between them; of samples that are bags only."""


def image_column(samples: Samples) -> dict[str, list[str]]:
    """Return the column of the images of samples that are bags; none where each sample is one image."""
    if not samples.bagged:
        return {}
    if samples.contents is None:
        return {IMAGES: [""] * len(samples)}
    parts = np.split(np.array(to_hex(contents_of_images(samples)), dtype=object), np.cumsum(samples.sizes)[:-1])
    return {IMAGES: [" ".join(part) for part in parts]}


def images_of(frame: "pd.DataFrame") -> tuple[Contents, NDArray[np.int64] | None]:
    """Return the content hashes of the images of a table's samples, and how many images each sample has.

    Returns
    -------
    contents : ndarray of S16, shape (n_images,)
    sizes : ndarray of int64, shape (n,), or None
        None where each sample is one image.
    """
    if IMAGES not in frame:
        return from_hex(frame["content"]), None
    parts = [str(text).split() for text in frame[IMAGES].fillna("")]
    return from_hex([text for part in parts for text in part]), np.array([len(part) for part in parts], dtype=np.int64)


def label_names(samples: Samples) -> list[str]:
    """Return each sample's label in words; the names of the labels present, joined by ``|``, for multi-label tasks."""
    if samples.labels is None or samples.target is None:
        return [""] * len(samples)
    return samples.target.names(samples.labels)


def to_frame(samples: Samples, blocks: Blocks | None = None) -> "pd.DataFrame":
    """Return id, label, split and group of each sample, as far as there are any, and the embeddings if given.

    An embedding has one column per value, named ``<encoder>_<index>``.
    """
    import pandas as pd

    columns: dict[str, Any] = {"id": samples.ids}
    if samples.labels is not None:
        columns["label"] = label_names(samples)
    if samples.splits is not None:
        columns["split"] = samples.splits
    if samples.groups is not None:
        columns["group"] = samples.groups
    values = [
        pd.DataFrame(matrix, columns=[f"{name}_{index:04d}" for index in range(matrix.shape[1])])
        for name, matrix in (blocks or {}).items()
    ]
    return pd.concat([pd.DataFrame(columns), *values], axis=1)


def save_embeddings(
    samples: Samples,
    blocks: Blocks,
    path: Path,
    *,
    cards: Sequence[EncoderCard] = (),
    precisions: Mapping[str, Precision] | None = None,
) -> Path:
    """Write embeddings beside ids, labels, splits and groups; the ending of ``path`` chooses the format.

    Parameters
    ----------
    samples : Samples
    blocks : mapping of str to ndarray, shape (n, dim)
    path : Path
        ``.parquet`` (one list column per encoder), ``.npz`` (one array per encoder), ``.csv`` (one column per value) or
        ``.h5ad`` (AnnData: ``obsm["X_<encoder>"]``).
    cards : sequence of EncoderCard, optional
        Kept in an AnnData file, with their fingerprints.
    precisions : mapping of str to precision, optional
        Of each encoder; fp32 for those not named.

    Raises
    ------
    BioFuseError
        If the ending is none of :data:`FORMATS`, or an encoder has the name of another column.
    DependencyError
        If anndata is needed and not installed.
    """
    check_format(path)
    if RESERVED & set(blocks):
        raise BioFuseError(
            f"An encoder cannot be called {', '.join(sorted(RESERVED & set(blocks)))} in a file of embeddings.",
            remedy="Register it under another name.",
        )
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            to_frame(samples, blocks).to_csv(temporary, index=False)
        elif path.suffix == ".h5ad":
            _write_anndata(samples, blocks, temporary, cards, precisions or {})
        elif path.suffix == ".npz":
            arrays = {name: column.to_numpy().astype(str) for name, column in to_frame(samples).items()}
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **{str(k): v for k, v in arrays.items()}, **blocks)
        else:
            _write_parquet(samples, blocks, temporary)
    return path


def check_format(path: Path) -> None:
    """Refuse an output path whose format is not known, before any work is done.

    Raises
    ------
    BioFuseError
        If the ending is not one of :data:`FORMATS`.
    DependencyError
        If anndata is needed and not installed.
    """
    refuse_odd_path(path)
    if path.suffix not in FORMATS:
        raise BioFuseError(f"Cannot write {path}: its ending is none of {', '.join(FORMATS)}.")
    if path.suffix == ".h5ad" and importlib.util.find_spec("anndata") is None:
        raise DependencyError(
            f"{path} would be an AnnData file, and anndata is not installed.",
            remedy="pip install 'biofuse-embed[anndata]', or write .parquet or .npz.",
        )


def _write_parquet(samples: Samples, blocks: Blocks, path: Path) -> None:
    table = pa.Table.from_pandas(to_frame(samples), preserve_index=False)
    for name, matrix in blocks.items():
        values = pa.array(np.ascontiguousarray(matrix).reshape(-1))
        table = table.append_column(name, pa.FixedSizeListArray.from_arrays(values, matrix.shape[1]))
    pq.write_table(table, path)


def _write_anndata(
    samples: Samples,
    blocks: Blocks,
    path: Path,
    cards: Sequence[EncoderCard],
    precisions: Mapping[str, Precision],
) -> None:
    import pandas as pd

    rows = to_frame(samples).astype(object)
    with warnings.catch_warnings():
        # anndata writes strings as Python objects only, which from pandas 3 on is an option that pandas warns about.
        warnings.simplefilter("ignore", DeprecationWarning)
        with pd.option_context("future.infer_string", False):
            import anndata

            described = {
                column: pd.Categorical(rows[column].tolist(), categories=_categories(samples, column, rows[column]))
                for column in rows.columns
                if column != "id"
            }
            table = anndata.AnnData(
                obs=pd.DataFrame(described, index=pd.Index(rows["id"].tolist(), name="id", dtype=object)),
                obsm={f"X_{name}": np.asarray(matrix) for name, matrix in blocks.items()},
                uns={"biofuse": _provenance(samples, blocks, cards, precisions)},
            )
            table.write_h5ad(path)


def _categories(samples: Samples, column: str, values: "pd.Series[Any]") -> list[str]:
    """Return class names in the order of the class table, anything else in alphabetical order."""
    present = {str(each) for each in values}
    known = [name for name in samples.classes if name in present] if column == "label" else []
    return known if set(known) == present else sorted(present)


def _provenance(
    samples: Samples, blocks: Blocks, cards: Sequence[EncoderCard], precisions: Mapping[str, Precision]
) -> dict[str, Any]:
    """Say which encoders the blocks are of: JSON texts, because the format knows no empty fields."""
    known = {card.name: card for card in cards}
    encoders: dict[str, dict[str, str]] = {}
    for name in blocks:
        precision = precisions.get(name, "fp32")
        encoders[name] = {"precision": precision}
        if name in known:
            encoders[name]["fingerprint"] = known[name].fingerprint(precision=precision)
            encoders[name]["card"] = json.dumps(known[name].model_dump(mode="json"))
    return {"data": samples.name, "encoders": encoders}


ID_COLUMNS = ("id", "ids")
"""What the ids of a file of embeddings may be called."""

Read = tuple[NDArray[np.object_], NDArray[Any]]
"""What a file holds: one id and one vector per row."""

DESCRIPTIONS = frozenset({"label", "labels", "split", "splits", "group", "groups"})
"""Columns that BioFuse itself writes beside embeddings; never part of one."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did.

    Attributes
    ----------
    card : EncoderCard
    fingerprint : str
    written : int
        Embeddings new to the store.
    known : int
        Embeddings that it had already, equal to those of the file.
    unused : int
        Rows of the file whose id is not in the data.
    """

    card: EncoderCard
    fingerprint: str
    written: int
    known: int
    unused: int


def import_embeddings(
    file: Path,
    samples: Samples,
    *,
    encoder: str,
    store: EmbeddingStore,
    title: str = "",
    licence: str = "unknown",
    modality: str = "unknown",
    column: str | None = None,
    id_column: str | None = None,
) -> Imported:
    """Keep embeddings that were made elsewhere as those of an encoder of this name.

    A second import under the same name adds rows: the embeddings of other images by the same encoder.

    Parameters
    ----------
    file : Path
        ``.npz`` with ids and 2-D arrays; ``.parquet`` with ids and a list column, or one numeric column per value;
        ``.csv`` with one numeric column per value. Or a folder of embeddings of tiles, a file per slide, as TRIDENT,
        CLAM and slide2vec write them (see :mod:`biofuse.data.tile_embeddings`).
    samples : Samples
        The images; every one of them must have a row in the file. For a folder: slides known by such files, of this
        encoder or of another.
    encoder : str
        What it is called from now on; also ``imported:NAME``.
    store : EmbeddingStore
    title, licence, modality : str, optional
        For its card.
    column : str, optional
        Array or list column of the file; by default the one called like the encoder, or the only one.
    id_column : str, optional
        By default ``id`` or ``ids``.

    Returns
    -------
    Imported

    Raises
    ------
    AlignmentError
        If an id of the data is not in the file, an id occurs twice, or an image has another embedding already.
    DataError
        If the file cannot be read as embeddings.
    EncoderError
        If the name is that of a registered encoder or pool, or the number of columns has changed.
    UnreadableImageError
        If an image cannot be read.
    """
    name = encoder.removeprefix(f"{IMPORTED}:")
    taken = {card.name for card in ENCODERS.list_cards()} | set(ENCODERS.aliases())
    if name in taken:
        raise EncoderError(
            f"{name!r} is the name of an encoder or pool that BioFuse has.", remedy="Import them under another name."
        )
    samples = samples.images()
    if file.is_dir():
        (ids, matrix), sha256 = _from_folder(file, samples)
    else:
        ids, matrix = read_embeddings(file, name=name, column=column, id_column=id_column)
        sha256 = digest_file(file, algorithm="sha256")
    rows = match_rows(ids, samples, file=file)
    samples, contents = require_contents(samples)
    matrix = matrix[rows]
    first = first_of_each(contents, matrix, samples.ids, name=name)
    card = store.find_imported(name) or imported_card(
        name, file=file.name, sha256=sha256, dim=matrix.shape[1], title=title, licence=licence, modality=modality
    )
    if card.dim != matrix.shape[1]:
        raise EncoderError(
            f"The imported encoder {name} has {card.dim} columns, those in {file} have {matrix.shape[1]}.",
            remedy="Import them under another name.",
        )
    folder = store.open(card)
    written = add_rows(folder, contents[first], matrix[first], samples.ids[first])
    line = f"imported from {file.name} (SHA-256 {sha256}) for {samples.name}: {len(first)} embeddings"
    if line not in card.notes:
        folder.save_card(card.model_copy(update={"notes": (*card.notes, line)}))
    return Imported(
        card=folder.card,
        fingerprint=folder.path.name,
        written=written,
        known=len(first) - written,
        unused=len(ids) - len(rows),
    )


def read_embeddings(file: Path, *, name: str, column: str | None = None, id_column: str | None = None) -> Read:
    """Read ids and vectors from a file; see :func:`import_embeddings` for what it may look like.

    Returns
    -------
    ids : ndarray of str (dtype object), shape (n,)
    matrix : ndarray of float32, shape (n, dim)

    Raises
    ------
    DataError
        If it is missing, damaged, of another kind, or it is not clear which of its columns are meant; or if a value
        is not finite.
    """
    readers = {".npz": _from_npz, ".parquet": _from_parquet, ".csv": _from_csv}
    if file.suffix.lower() not in readers:
        raise DataError(f"{file} is of no kind that embeddings are read from: {', '.join(readers)}.")
    try:
        refuse_special_file(file)
        ids, values = readers[file.suffix.lower()](file, name, column, id_column)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{file} cannot be read: {error}", remedy="Write it again; pickled arrays are not read."
        ) from error
    if ids.ndim != 1:
        raise DataError(f"Ids are one per row, not an array of shape {ids.shape}.")
    ids = np.array([each.decode() if isinstance(each, bytes) else str(each) for each in ids.tolist()], dtype=object)
    if values.dtype.kind not in "iuf":
        raise DataError(f"{file}: embeddings of type {values.dtype} are not numbers.")
    if values.ndim != 2 or len(values) != len(ids) or not values.shape[1]:
        raise DataError(f"{file}: {len(ids)} ids for embeddings of shape {values.shape}.")
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(values, dtype=np.float32)
    return ids, _finite(file, ids, matrix)


def _finite(file: Path, ids: NDArray[np.object_], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise DataError(f"{file}: {len(bad)} embeddings have values that are not finite, e.g. that of {ids[bad[0]]!r}.")
    return matrix


def _from_folder(folder: Path, samples: Samples) -> tuple[Read, str]:
    """Read the embeddings of all tiles from a folder with a file per slide; and a SHA-256 of those of its files."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in tile_embeddings.SUFFIXES:
            files.setdefault(path.stem, []).append(path)
    slides: dict[str, list[int]] = {}
    for row, source in enumerate(samples.sources):
        if not isinstance(source, tile_embeddings.EmbeddedTile):
            raise DataError(
                f"{folder} is a folder, and {source.description} is no tile of a file of embeddings.",
                remedy="Give data whose column of paths names the .h5 or .pt file of each slide.",
            )
        slides.setdefault(source.slide, []).append(row)
    parts, state = [], hashlib.sha256()
    for slide, rows in slides.items():
        found = files.get(slide, [])
        if len(found) != 1:
            raise AlignmentError(
                f"{folder}: {'several files' if found else 'no file'} of embeddings of slide {slide!r}"
                f"{': ' + ', '.join(map(str, found[:3])) if found else ''}.",
                remedy="Give the folder of one encoder, which has one .h5 or .pt file for each slide of the data.",
            )
        state.update(bytes.fromhex(digest_file(found[0], algorithm="sha256")))
        tiles = [source for row in rows if isinstance(source := samples.sources[row], tile_embeddings.EmbeddedTile)]
        parts.append(tile_embeddings.read_embedded(found[0], tiles))
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise DataError(f"{folder}: the files hold embeddings of {sorted(widths)} columns.")
    matrix = np.concatenate(parts)
    ids = samples.ids[[row for rows in slides.values() for row in rows]]
    return (ids, _finite(folder, ids, matrix)), state.hexdigest()


def match_rows(ids: NDArray[np.object_], samples: Samples, *, file: Path) -> NDArray[np.int64]:
    """Return the row of the file for each sample.

    Raises
    ------
    AlignmentError
        If an id occurs twice in the file, or one of the samples' does not occur.
    """
    twice = np.flatnonzero(locate_ids(ids, ids) != np.arange(len(ids)))
    if len(twice):
        raise AlignmentError(
            f"{file}: {len(twice)} ids occur again, e.g. {ids[twice[0]]!r}.", remedy="Give every row its own id."
        )
    rows = locate_ids(samples.ids, ids)
    absent = np.flatnonzero(rows < 0)
    if len(absent):
        seen = f"; the file has ids such as {ids[0]!r}" if len(ids) else ", nor has any other"
        raise AlignmentError(
            f"{file}: {len(absent)} of {len(samples)} samples of {samples.name} have no row, e.g. "
            f"{samples.ids[absent[0]]!r}{seen}.",
            remedy="Ids must be those of the data: relative paths for folders, the id column of a table.",
        )
    return rows


def _from_npz(file: Path, name: str, column: str | None, id_column: str | None) -> Read:
    if not zipfile.is_zipfile(file):  # np.load would take a single array, or bytes of any kind
        raise zipfile.BadZipFile("it is not a whole .npz file")
    with np.load(file, allow_pickle=False) as arrays:
        key = _id_column(file, arrays.files, id_column)
        ids = arrays[key]
        wide = [each for each in arrays.files if each != key and each not in DESCRIPTIONS]
        return ids, arrays[_column(file, wide, name, column)]


def _from_parquet(file: Path, name: str, column: str | None, id_column: str | None) -> Read:
    table = pq.read_table(file)
    key = _id_column(file, table.column_names, id_column)
    kinds = {field.name: field.type for field in table.schema}
    lists = [
        each
        for each, kind in kinds.items()
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ]
    if not lists:
        return _from_frame(file, table.to_pandas(), key)
    chosen = table.column(_column(file, lists, name, column)).combine_chunks()
    lengths = np.unique(np.diff(chosen.offsets)) if hasattr(chosen, "offsets") else np.array([chosen.type.list_size])
    if chosen.null_count or len(lengths) > 1:
        raise DataError(f"{file}: the vectors are missing in places, or of different lengths.")
    values = chosen.flatten().to_numpy(zero_copy_only=False)
    return table.column(key).to_numpy(), values.reshape(len(chosen), -1)


def _from_csv(file: Path, name: str, column: str | None, id_column: str | None) -> Read:
    import pandas as pd

    del name, column
    header = list(pd.read_csv(file, nrows=0).columns)
    key = _id_column(file, header, id_column)
    # Ids as they are written: "007" is not 7.
    return _from_frame(file, pd.read_csv(file, dtype={key: str}, keep_default_na=False), key)


def _from_frame(file: Path, frame: "pd.DataFrame", key: str) -> Read:
    numbers = frame.drop(columns=[key, *DESCRIPTIONS & set(frame.columns)])
    words = [str(each) for each in numbers.columns if numbers[each].dtype.kind not in "iuf"]
    if words:
        raise DataError(
            f"{file}: columns {', '.join(words[:3])} hold no numbers.",
            remedy="Leave only the id and one column per value of the embedding.",
        )
    return frame[key].to_numpy(), numbers.to_numpy()


def _id_column(file: Path, columns: Sequence[str], wanted: str | None) -> str:
    found = [each for each in columns if each == wanted or (wanted is None and each in ID_COLUMNS)]
    if len(found) != 1:
        raise DataError(
            f"{file} has {'no' if not found else 'several'} id column{'s' if found else ''} "
            f"({wanted or ' or '.join(ID_COLUMNS)}); it has {', '.join(map(str, columns[:8]))}.",
            remedy=f"Name it: {option('id_column')}.",
        )
    return found[0]


def _column(file: Path, columns: Sequence[str], name: str, wanted: str | None) -> str:
    if wanted is None:
        wanted = name if name in columns or len(columns) != 1 else columns[0]
    if wanted not in columns:
        raise DataError(
            f"{file} has no embeddings called {wanted!r}; it has {', '.join(columns) or 'none'}.",
            remedy=f"Name the array or list column: {option('column')}.",
        )
    return wanted
