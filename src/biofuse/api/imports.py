"""Embeddings made elsewhere: read from a file, matched to samples by id, kept in the store."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from biofuse.api.stored import require_contents
from biofuse.core.errors import AlignmentError, DataError, EncoderError
from biofuse.core.hashing import digest_file
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.imported import LOADER, imported_card
from biofuse.encoders.registry import default_registry
from biofuse.store import EmbeddingStore
from biofuse.store.imported import add_rows, first_of_each
from biofuse.store.rows import locate_ids

if TYPE_CHECKING:
    import pandas as pd

ID_COLUMNS = ("id", "ids")
"""What the ids of a file of embeddings may be called."""

DESCRIPTIONS = frozenset({"label", "labels", "split", "splits", "group", "groups"})
"""Columns that BioFuse itself writes beside embeddings; never part of one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RawEmbeddings:
    """What a file holds: one id and one vector per row.

    Attributes
    ----------
    ids : ndarray of str (dtype object), shape (n,)
    matrix : ndarray of float32, shape (n, dim)
    """

    ids: NDArray[np.object_]
    matrix: NDArray[np.float32]


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
        ``.csv`` with one numeric column per value.
    samples : Samples
        The images; every one of them must have a row in the file.
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
    name = encoder.removeprefix(f"{LOADER}:")
    taken = {card.name for card in default_registry().list_cards()} | set(default_registry().aliases())
    if name in taken:
        raise EncoderError(
            f"{name!r} is the name of an encoder or pool that BioFuse has.", remedy="Import them under another name."
        )
    raw = read_embeddings(file, name=name, column=column, id_column=id_column)
    rows = match_rows(raw.ids, samples, file=file)
    contents, matrix = require_contents(samples), raw.matrix[rows]
    first = first_of_each(contents, matrix, samples.ids, name=name)
    sha256 = digest_file(file, algorithm="sha256")
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
        unused=len(raw.ids) - len(rows),
    )


def read_embeddings(file: Path, *, name: str, column: str | None = None, id_column: str | None = None) -> RawEmbeddings:
    """Read ids and vectors from a file; see :func:`import_embeddings` for what it may look like.

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
        ids, values = readers[file.suffix.lower()](file, name, column, id_column)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{file} cannot be read: {error}", remedy="Write it again; pickled arrays are not read."
        ) from error
    if values.ndim != 2 or len(values) != len(ids) or not values.shape[1]:
        raise DataError(f"{file}: {len(ids)} ids for embeddings of shape {values.shape}.")
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(values, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise DataError(f"{file}: {len(bad)} embeddings have values that are not finite, e.g. that of {ids[bad[0]]!r}.")
    return RawEmbeddings(ids=ids, matrix=matrix)


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


def _from_npz(
    file: Path, name: str, column: str | None, id_column: str | None
) -> tuple[NDArray[np.object_], NDArray[Any]]:
    if not zipfile.is_zipfile(file):  # np.load would take a single array, or bytes of any kind
        raise zipfile.BadZipFile("it is not a whole .npz file")
    with np.load(file, allow_pickle=False) as arrays:
        key = _id_column(file, arrays.files, id_column)
        ids = arrays[key]
        wide = [each for each in arrays.files if each != key and each not in DESCRIPTIONS]
        return _strings(ids), _numbers(file, arrays[_column(file, wide, name, column)])


def _from_parquet(
    file: Path, name: str, column: str | None, id_column: str | None
) -> tuple[NDArray[np.object_], NDArray[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    return _strings(table.column(key).to_numpy()), _numbers(file, values.reshape(len(chosen), -1))


def _from_csv(
    file: Path, name: str, column: str | None, id_column: str | None
) -> tuple[NDArray[np.object_], NDArray[Any]]:
    import pandas as pd

    del name, column
    header = list(pd.read_csv(file, nrows=0).columns)
    key = _id_column(file, header, id_column)
    # Ids as they are written: "007" is not 7.
    return _from_frame(file, pd.read_csv(file, dtype={key: str}, keep_default_na=False), key)


def _from_frame(file: Path, frame: "pd.DataFrame", key: str) -> tuple[NDArray[np.object_], NDArray[Any]]:
    numbers = frame.drop(columns=[key, *DESCRIPTIONS & set(frame.columns)])
    words = [str(each) for each in numbers.columns if numbers[each].dtype.kind not in "iuf"]
    if words:
        raise DataError(
            f"{file}: columns {', '.join(words[:3])} hold no numbers.",
            remedy="Leave only the id and one column per value of the embedding.",
        )
    return _strings(frame[key].to_numpy()), numbers.to_numpy()


def _id_column(file: Path, columns: Sequence[str], wanted: str | None) -> str:
    found = [each for each in columns if each == wanted or (wanted is None and each in ID_COLUMNS)]
    if len(found) != 1:
        raise DataError(
            f"{file} has {'no' if not found else 'several'} id column{'s' if found else ''} "
            f"({wanted or ' or '.join(ID_COLUMNS)}); it has {', '.join(map(str, columns[:8]))}.",
            remedy="Name it: --id COLUMN.",
        )
    return found[0]


def _column(file: Path, columns: Sequence[str], name: str, wanted: str | None) -> str:
    if wanted is None:
        wanted = name if name in columns or len(columns) != 1 else columns[0]
    if wanted not in columns:
        raise DataError(
            f"{file} has no embeddings called {wanted!r}; it has {', '.join(columns) or 'none'}.",
            remedy="Name the array or list column: --column NAME.",
        )
    return wanted


def _strings(ids: NDArray[Any]) -> NDArray[np.object_]:
    if ids.ndim != 1:
        raise DataError(f"Ids are one per row, not an array of shape {ids.shape}.")
    texts = [each.decode() if isinstance(each, bytes) else str(each) for each in ids.tolist()]
    return np.array(texts, dtype=object)


def _numbers(file: Path, values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind not in "iuf":
        raise DataError(f"{file}: embeddings of type {values.dtype} are not numbers.")
    return values
