"""Embeddings as files other tools read."""

import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.blocks import Blocks
from biofuse.core.errors import BioFuseError, DependencyError
from biofuse.core.files import atomic_path
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard, Precision

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".parquet", ".npz", ".csv", ".h5ad")
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
    blocks : Blocks
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
    DependencyError
        If anndata is needed and not installed.
    """
    if path.suffix not in FORMATS:
        raise BioFuseError(f"Cannot write {path}: its ending is none of {', '.join(FORMATS)}.")
    if path.suffix == ".h5ad" and importlib.util.find_spec("anndata") is None:
        raise DependencyError(
            f"{path} would be an AnnData file, and anndata is not installed.",
            remedy="pip install 'biofuse-embed[anndata]', or write .parquet or .npz.",
        )


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


def _write_anndata(
    samples: Samples,
    blocks: Blocks,
    path: Path,
    cards: Sequence[EncoderCard],
    precisions: Mapping[str, Precision],
) -> None:
    import pandas as pd

    rows = describe_rows(samples).astype(object)
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
