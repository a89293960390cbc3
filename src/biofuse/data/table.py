"""What every importer hands over, before labels are numbered and checks are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError, LeakageError
from biofuse.core.tasks import Task
from biofuse.data.decoding import DecodePolicy
from biofuse.data.labels import RawLabels, encode_labels, label_text, listing
from biofuse.data.samples import SPLITS, Samples, Source

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What folders, columns and data sets call their splits, in lower case."""

Columns = str | Sequence[str]

TornGroups = Literal["error", "allow"]
"""What to do with a group that lies in more than one of the given splits."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What a user may say about a data set; see :func:`biofuse.data.load_samples`."""

    label: Columns | None = None
    group: str | Sequence[object] | None = None
    split: str | Sequence[object] | None = None
    id: str | Sequence[object] | None = None
    path: str | None = None
    labels: RawLabels | None = None
    task: Task | None = None
    classes: Sequence[str] | None = None
    decode: DecodePolicy | None = None
    root: Path | None = None
    labelled: bool | None = None
    label_separator: str | None = None
    exclude: tuple[str, ...] = ()
    use_splits: bool = True
    torn_groups: TornGroups = "error"
    size: int | None = None
    download: bool = True
    name: str | None = None

    def given(self) -> set[str]:
        """Return the names of the options that are not at their default."""
        defaults = type(self)()
        changed = {
            name for name in self.__dataclass_fields__ if getattr(self, name) is not getattr(defaults, name)
        }  # identity, because labels may be an array
        return changed if self.exclude else changed - {"exclude"}

    def only(self, kind: str, *allowed: str) -> Self:
        """Refuse options that have no meaning for a kind of data, instead of ignoring them.

        Raises
        ------
        DataError
            If such an option was given.
        """
        general = {"task", "classes", "decode", "labelled", "use_splits", "torn_groups", "name"}
        strange = sorted(self.given() - general - set(allowed))
        if strange:
            raise DataError(
                f"{', '.join(f'{name}=' for name in strange)} cannot be used with {kind}.",
                remedy=f"Here you can say {', '.join(f'{name}=' for name in sorted({*general, *allowed}))}.",
            )
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Rows as found.

    Attributes
    ----------
    name : str
        What the data set is called.
    ids : sequence of str
        One per row.
    sources : sequence of Source
        One per row.
    labels : sequence, ndarray or None
        As written: one per row, a list per row, or a table of zeros and ones.
    columns : tuple of str
        Names of a label table's columns.
    classes : tuple of str or None
        The class table that comes with the data.
    task : Task or None
        Where the data say it themselves.
    splits, groups : sequence or None
        One per row.
    decode : DecodePolicy or None
        Where the data carry one already.
    """

    name: str
    ids: Sequence[str]
    sources: Sequence[Source]
    labels: RawLabels | None = None
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    task: Task | None = None
    splits: Sequence[object] | None = None
    groups: Sequence[object] | None = None
    decode: DecodePolicy | None = None


def assemble(table: Table, options: LoadOptions) -> Samples:
    """Build the samples: labels as numbers, splits by their usual names, groups checked.

    Raises
    ------
    DataError
        If there are no rows, labels are missing or do not fit the task, or splits or groups are incomplete.
    LeakageError
        If a group lies in two of the given splits, unless ``options.torn_groups`` allows it.
    """
    if not table.ids:
        raise DataError(f"{table.name} has no images.", remedy="Check the path and the exclude= patterns.")
    if options.labelled and table.labels is None:
        raise DataError(
            f"{table.name} has no labels.", remedy="Name the label column with --label (label=, or labels=, in Python)."
        )
    encoded = None
    if table.labels is not None and options.labelled is not False:
        encoded = encode_labels(
            table.labels,
            rows=table.ids,
            columns=table.columns,
            task=options.task or table.task,
            classes=options.classes,
            known=table.classes,
        )
    samples = Samples(
        ids=object_array(table.ids),
        sources=tuple(table.sources),
        labels=None if encoded is None else encoded.labels,
        classes=() if encoded is None else encoded.classes,
        task=None if encoded is None else encoded.task,
        splits=_splits(table) if options.use_splits else None,
        groups=_groups(table),
        decode=options.decode or table.decode or DecodePolicy(),
        name=options.name or table.name,
    )
    if options.torn_groups == "error":
        check_groups(samples)
    return samples


def check_groups(samples: Samples) -> None:
    """Refuse splits that tear a group apart.

    Raises
    ------
    LeakageError
        If a group (patient, slide) has samples in more than one split.
    """
    torn = groups_across_splits(samples)
    if torn:
        named = [f"{group} ({', '.join(splits)})" for group, splits in torn.items()]
        raise LeakageError(
            f"{samples.name}: {len(torn)} group(s) lie in more than one split: {listing(named)}.",
            remedy="Keep every group in one split, or give no splits (use_splits=False in Python) to have them made "
            "by group.",
        )


def groups_across_splits(samples: Samples) -> dict[str, tuple[str, ...]]:
    """Return the groups that have samples in more than one split, with those splits."""
    if samples.groups is None or samples.splits is None:
        return {}
    found: dict[str, set[str]] = {}
    for group, split in zip(samples.groups.tolist(), samples.splits.tolist(), strict=True):
        found.setdefault(group, set()).add(split)
    return {
        group: tuple(split for split in SPLITS if split in splits)
        for group, splits in sorted(found.items())
        if len(splits) > 1
    }


def join_tables(parts: Mapping[str, Table]) -> Table:
    """Put the tables of several splits together; one class table is then made of all of them.

    Parameters
    ----------
    parts : mapping of str to Table
        By split; synonyms such as "validation" are understood. Ids get the split's name in front.

    Raises
    ------
    DataError
        If a name is no split, or the parts do not agree in what they carry.
    """
    splits = [split_name(key) for key in parts]
    if len(set(splits)) != len(splits):
        raise DataError(f"Two parts are the same split: {listing(list(parts))}.")
    tables = list(parts.values())
    for what in ("labels", "groups"):
        holds = [getattr(table, what) is not None for table in tables]
        if any(holds) and not all(holds):
            raise DataError(
                f"Some splits have {what} and others have none: {listing(list(parts))}.",
                remedy=f"Give {what} for every split" + ("" if what == "groups" else ", or use labelled=False") + ".",
            )
    for what in ("columns", "task"):
        if any(getattr(table, what) != getattr(tables[0], what) for table in tables):
            raise DataError(f"The splits {listing(list(parts))} differ in their {what}.")
    policies = {table.decode or DecodePolicy() for table in tables}
    if len(policies) > 1:
        raise DataError(f"The splits {listing(list(parts))} differ in how they are decoded.")
    return replace(
        tables[0],
        decode=policies.pop(),
        name="data",
        ids=[f"{split}/{name}" for split, table in zip(splits, tables, strict=True) for name in table.ids],
        sources=[source for table in tables for source in table.sources],
        labels=_join_labels([table.labels for table in tables if table.labels is not None]),
        classes=tables[0].classes if all(table.classes == tables[0].classes for table in tables) else None,
        splits=[split for split, table in zip(splits, tables, strict=True) for _ in table.ids],
        groups=None if tables[0].groups is None else [group for table in tables for group in table.groups or ()],
    )


def table_of(samples: Samples) -> Table:
    """Turn samples back into rows with label names, so that they can be joined with others."""
    names: RawLabels | None = None
    multi = samples.labels is not None and samples.labels.ndim == 2
    if samples.labels is not None:
        names = samples.labels if multi else [samples.classes[label] for label in samples.labels]
    return Table(
        name=samples.name,
        ids=samples.ids.tolist(),
        sources=samples.sources,
        labels=names,
        columns=samples.classes if multi else (),
        classes=samples.classes if samples.labels is not None else None,
        task=samples.task if samples.task in {Task.ORDINAL, Task.MULTILABEL} else None,
        groups=None if samples.groups is None else samples.groups.tolist(),
        decode=samples.decode,
    )


def split_name(value: object) -> str:
    """Return train, val or test for one of the names a split goes by.

    Raises
    ------
    DataError
        If it is none of them.
    """
    try:
        return SPLIT_NAMES[str(value).strip().lower()]
    except KeyError as error:
        raise DataError(
            f"{value!r} is no split.",
            remedy=f"Call splits {', '.join(SPLIT_NAMES)}; leave them all out to have them made.",
        ) from error


def object_array(values: Sequence[object]) -> NDArray[np.object_]:
    """Return strings as an object array, the type of ids, splits and groups."""
    array = np.empty(len(values), dtype=object)
    array[:] = [str(value) for value in values]
    return array


def _join_labels(labels: list[RawLabels]) -> RawLabels | None:
    if not labels:
        return None
    if all(isinstance(part, np.ndarray) and part.ndim == 2 for part in labels):
        return np.concatenate([np.asarray(part) for part in labels])
    return [value for part in labels for value in part]


def _splits(table: Table) -> NDArray[np.object_] | None:
    names = _complete(table, table.splits, "split")
    return None if names is None else object_array([split_name(name) for name in names])


def _groups(table: Table) -> NDArray[np.object_] | None:
    names = _complete(table, table.groups, "group")
    return None if names is None else object_array(names)


def _complete(table: Table, values: Sequence[Any] | None, what: str) -> list[str] | None:
    if values is None:
        return None
    if len(values) != len(table.ids):
        raise DataError(f"{table.name}: {len(table.ids)} images but {len(values)} {what}s.")
    names = [label_text(value) for value in values]
    missing = [name for name, value in zip(table.ids, names, strict=True) if not value]
    if len(missing) == len(names):
        return None
    if missing:
        raise DataError(
            f"{table.name}: {len(missing)} sample(s) have no {what}: {listing(missing)}.",
            remedy=f"Fill in the {what} of every row, or of none.",
        )
    return names
