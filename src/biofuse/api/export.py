"""Embeddings as files other tools read."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.blocks import Blocks
from biofuse.core.errors import BioFuseError
from biofuse.core.files import atomic_path
from biofuse.data.samples import Samples

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".parquet", ".npz", ".csv")
"""File endings embeddings can be written to."""

RESERVED = frozenset({"id", "label", "split", "group", "file", "allow_pickle"})
"""Names of the other columns, and what ``numpy.savez`` keeps for itself: no block can have them."""


def label_names(samples: Samples) -> list[str]:
    """Return each sample's label in words; the names of the labels present, joined by ``|``, for multi-label tasks."""
    if samples.labels is None:
        return [""] * len(samples)
    if samples.labels.ndim == 1:
        return [samples.classes[index] for index in samples.labels]
    return ["|".join(name for name, on in zip(samples.classes, row, strict=True) if on) for row in samples.labels]


def describe_rows(samples: Samples) -> "pd.DataFrame":
    """Return id, label, split and group of each sample; only the columns that exist."""
    import pandas as pd

    columns: dict[str, Any] = {"id": samples.ids}
    if samples.labels is not None:
        columns["label"] = label_names(samples)
    if samples.splits is not None:
        columns["split"] = samples.splits
    if samples.groups is not None:
        columns["group"] = samples.groups
    return pd.DataFrame(columns)


def to_frame(samples: Samples, blocks: Blocks) -> "pd.DataFrame":
    """Return one column per embedding value, named ``<encoder>_<index>``, beside the description of each row."""
    import pandas as pd

    values = [
        pd.DataFrame(matrix, columns=[f"{name}_{index:04d}" for index in range(matrix.shape[1])])
        for name, matrix in blocks.items()
    ]
    return pd.concat([describe_rows(samples), *values], axis=1)


def save_embeddings(samples: Samples, blocks: Blocks, path: Path) -> Path:
    """Write embeddings beside ids, labels, splits and groups; the ending of ``path`` chooses the format.

    Raises
    ------
    BioFuseError
        If the ending is not ``.parquet``, ``.npz`` or ``.csv``, or an encoder has the name of another column.
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
        elif path.suffix == ".npz":
            arrays = {name: column.to_numpy().astype(str) for name, column in describe_rows(samples).items()}
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **{str(k): v for k, v in arrays.items()}, **_blocks(blocks))
        else:
            _write_parquet(samples, blocks, temporary)
    return path


def check_format(path: Path) -> None:
    """Refuse an output path whose format is not known, before any work is done.

    Raises
    ------
    BioFuseError
        If the ending is not one of :data:`FORMATS`.
    """
    if path.suffix not in FORMATS:
        raise BioFuseError(f"Cannot write {path}: its ending is none of {', '.join(FORMATS)}.")


def _blocks(blocks: Blocks) -> dict[str, Any]:
    return {name: np.asarray(matrix) for name, matrix in blocks.items()}


def _write_parquet(samples: Samples, blocks: Blocks, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(describe_rows(samples), preserve_index=False)
    for name, matrix in blocks.items():
        values = pa.array(np.ascontiguousarray(matrix).reshape(-1))
        table = table.append_column(name, pa.FixedSizeListArray.from_arrays(values, matrix.shape[1]))
    pq.write_table(table, path)
