"""How the rows that were found in a source of data become samples, and what was said about them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError, in_utf8, option
from biofuse.core.hashing import Contents, no_contents
from biofuse.core.progress import Progress
from biofuse.core.target import MISSING, TEXTS, Task
from biofuse.data.columns import SPLIT_NAMES, split_of
from biofuse.data.config import COLUMNS, KEPT_TOGETHER, OF_SLIDES, OF_VOLUMES, UNGROUPED, DataConfig, named
from biofuse.data.cuts import FileFacts, Source
from biofuse.data.decoding import DecodePolicy
from biofuse.data.labels import RawLabels, encode_labels, label_text, listing, unlabelled
from biofuse.data.numbers import encode_numbers
from biofuse.data.samples import Samples, check_groups, object_array

TornGroups = Literal["error", "allow"]
"""What to do with a group that lies in more than one of the given splits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What was said about data: the options, and what only Python can say; see :func:`biofuse.data.load.load_samples`.

    Attributes
    ----------
    config : DataConfig
    inherited : frozenset of str
        Options of it that were said of other data: they count where they mean something here.
    labels : sequence or ndarray, optional
        Labels of images in memory.
    groups, splits, ids, bags : sequence, optional
        One value per image in memory.
    by : mapping of str to sequence, optional
        Columns of one value per image in memory.
    sites, weights : sequence, optional
        One value per image in memory.
    decode : DecodePolicy, optional
        How pixels are read, where the options do not say it.
    labelled : bool, optional
    strict : bool
    torn_groups : {"error", "allow"}
    size : int, optional
    download : bool
    name : str, optional
    progress : Progress or bool
    """

    config: DataConfig = field(default_factory=DataConfig)
    inherited: frozenset[str] = frozenset()
    labels: RawLabels | None = None
    groups: Sequence[object] | None = None
    splits: Sequence[object] | None = None
    ids: Sequence[object] | None = None
    bags: Sequence[object] | None = None
    by: Mapping[str, Sequence[object]] | None = None
    sites: Sequence[object] | None = None
    weights: Sequence[object] | None = None
    decode: DecodePolicy | None = None
    labelled: bool | None = None
    strict: bool = True
    torn_groups: TornGroups = "error"
    size: int | None = None
    download: bool = True
    name: str | None = None
    progress: Progress | bool = False

    @property
    def policy(self) -> DecodePolicy | None:
        """How pixels are read; None where nobody said it."""
        return self.config.decoding(self.decode)

    def given(self) -> set[str]:
        """Return the names of what is not at its default, as a user gave them."""
        fields = type(self).__dataclass_fields__
        apart = {"groups": "group", "splits": "split", "ids": "id", "bags": "bag", "sites": "site", "weights": "weight"}
        # Identity, because labels may be an array.
        said = fields.keys() - {"config", "inherited", "progress"}
        changed = {name for name in said if getattr(self, name) is not fields[name].default}
        return {apart.get(name, name) for name in changed} | (self.config.given - self.inherited)

    def unweighted(self) -> Self:
        """Return the request for data that nothing is fitted on, which need no weights."""
        return replace(self, config=self.config.but(weight=None))

    def fitting(self, columns: Collection[str]) -> tuple[Self, tuple[str, ...]]:
        """Return the request for a table with these columns, and notes on inherited options that name none of them."""
        asked = {name: getattr(self.config, name) for name in COLUMNS if name in self.inherited}
        asked |= {"label": self.config.label_columns(columns)} if "label" in asked else {}
        absent = {
            name: value
            for name, value in asked.items()
            if not set(value if isinstance(value, tuple) else [value]) <= {*columns, UNGROUPED, *KEPT_TOGETHER}
        }
        defaults = DataConfig()
        kept = {name: getattr(defaults, name) for name in absent}
        if "by" in absent:  # each of them stands for itself
            kept["by"] = tuple(name for name in self.config.by if name in columns)
            gone = [name for name in self.config.by if name not in columns]
            absent["by"] = gone[0] if len(gone) == 1 else gone
        notes = [
            f"{option(name, value)} was said of other data and is no column of these: not used."
            for name, value in absent.items()
        ]
        config = self.config.but(**kept)
        return replace(self, config=config), tuple(notes)

    def only(self, kind: str, *allowed: str) -> Self:
        """Refuse options that have no meaning for a kind of data, instead of ignoring them.

        Raises
        ------
        DataError
            If such an option was given.
        """
        silent = {"decode", "labelled", "strict", "torn_groups", "name"}
        strange = self.given() - GENERAL - silent - set(allowed) - ({"group"} if self.config.ungrouped else set())
        if strange:
            raise DataError(
                f"{named(strange)} cannot be used with {kind}.",
                remedy=f"Here you can say {named({*GENERAL, *allowed} & {*DataConfig.model_fields, 'labels'})}.",
            )
        return self


GENERAL = frozenset({
    "task", "classes", "positive", "drop_classes_below", "horizon", "on_missing", "use_splits", "page", "sixteen_bit",
    "channels", "draft",
    *OF_SLIDES, *OF_VOLUMES,
})  # fmt: skip
"""Options that mean something for every kind of data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleTable:
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
    splits, groups, weights : sequence or None
        One per row.
    by : mapping of str to sequence
        Columns by whose values scores are given, one value per row.
    site : str or None
        Which of them holds the sites.
    bags : sequence or None
        Rows of one value are the images of one sample: one value per row.
    opened : sequence of tuple of FileFacts, or None
        What the files of each row say of themselves.
    contents, image_contents : ndarray of S16 or None
        Where the data carry content hashes already.
    decode : DecodePolicy or None
        Where the data carry one already.
    notes, warnings : tuple of str
        As of :class:`Samples`.
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
    weights: Sequence[object] | None = None
    by: Mapping[str, Sequence[object]] = field(default_factory=dict)
    site: str | None = None
    bags: Sequence[object] | None = None
    opened: Sequence[tuple[FileFacts, ...]] | None = None
    contents: Contents | None = None
    image_contents: Contents | None = None
    decode: DecodePolicy | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """Turn samples back into rows with label names, so that they can be joined with others."""
        labels: Any = samples.labels
        task, target = samples.task, samples.target
        if labels is not None and target is not None and target.several:
            labels = labels.astype(object)
            labels[labels == MISSING] = None
        numbers = task is not None and not task.categorical
        multi = numbers or (labels is not None and labels.ndim == 2)
        return cls(
            name=samples.name,
            ids=samples.ids.tolist(),
            sources=samples.sources,
            labels=labels if labels is None or multi else [samples.classes[label] for label in labels],
            columns=samples.classes if multi and not (task and task.timed) else (),
            classes=None if labels is None else samples.classes,
            task=task if task and (numbers or task.ordered or task.several) else None,
            groups=None if samples.groups is None else samples.groups.tolist(),
            weights=None if samples.weights is None else samples.weights.tolist(),
            by={name: values.tolist() for name, values in samples.by.items()},
            site=samples.site,
            opened=None if samples.opened is None else samples.opened.tolist(),
            contents=samples.contents,
            image_contents=samples.image_contents,
            decode=samples.decode,
            notes=samples.notes,
            warnings=samples.warnings,
        )


def assemble(table: SampleTable, request: Request) -> Samples:
    """Build the samples: labels as numbers, splits by their usual names, groups checked.

    Raises
    ------
    DataError
        If there are no rows, labels are missing or do not fit the task, splits or groups are incomplete, or a weight is
        no positive number.
    LeakageError
        If a group lies in two of the given splits, unless ``request.torn_groups`` allows it.
    """
    if not table.ids:
        raise DataError(
            f"{table.name} has no images.", remedy=f"Check the path and the patterns of {option('exclude')}."
        )
    table = _in_utf8(table)
    config = request.config
    if request.labelled and table.labels is None:
        raise DataError(f"{table.name} has no labels.", remedy=f"Name the label column: {option('label')}.")
    splits = _complete(table, table.splits, "split") if config.use_splits else None
    splits = None if splits is None else [split_name(name) for name in splits]
    groups = _complete(table, table.groups, "group")
    samples = Samples(
        ids=object_array(table.ids),
        sources=tuple(table.sources),
        splits=None if splits is None else object_array(splits),
        groups=None if groups is None else object_array(groups),
        weights=_weights(table, splits),
        by={name: object_array([label_text(value) for value in values]) for name, values in table.by.items()},
        site=table.site,
        contents=table.contents,
        image_contents=table.image_contents,
        opened=None if table.opened is None else _objects(table.opened),
        decode=table.decode or DecodePolicy(),
        name=request.name or table.name,
        notes=table.notes,
        warnings=table.warnings,
    )
    if table.labels is not None and request.labelled is not False:
        samples = _with_labels(samples, table, request)
    if samples.weights is not None and WEIGHTED not in samples.notes:
        samples = replace(samples, notes=(*samples.notes, WEIGHTED))
    if request.policy is not None:
        samples = samples.decoded_by(request.policy)
    if request.torn_groups == "error":
        check_groups(samples)
    return samples


WEIGHTED = "Samples count by their weights where something is fitted; scores count all samples alike."
"""What is said of samples that have weights."""


def _weights(table: SampleTable, splits: Sequence[str] | None) -> NDArray[np.float64] | None:
    """Read the weights of all samples but those of split test, on which nothing is fitted."""
    if table.weights is None:
        return None
    found, wrong = np.ones(len(table.ids)), []
    for row, value in enumerate(table.weights):
        if splits is not None and splits[row] == "test":
            continue
        try:
            found[row] = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            found[row] = np.nan
        if not 0 < found[row] < np.inf:
            wrong.append(f"{table.ids[row]} ({label_text(value) or 'blank'})")
    if wrong:
        raise DataError(
            f"{table.name}: {len(wrong)} weight(s) are no positive numbers: {listing(wrong)}.",
            remedy="Write each as a number above 0, with a point; leave out samples that are to count for nothing.",
        )
    return found


def _in_utf8(table: SampleTable) -> SampleTable:
    """Write out what is not UTF-8 in the names of files and class folders; sources keep them as they are."""
    odd = [name for name in (*table.ids, table.name) if in_utf8(name) != name]
    if not odd:
        return table

    def texts(values: Any) -> Any:
        several = isinstance(values, list | tuple)
        return [in_utf8(value) if isinstance(value, str) else value for value in values] if several else values

    note = f"{len(odd)} name(s) are not UTF-8; their bytes are written as in {in_utf8(odd[0])!r}."
    return replace(
        table,
        name=in_utf8(table.name),
        ids=texts(list(table.ids)),
        labels=texts(table.labels),
        splits=texts(table.splits),
        groups=texts(table.groups),
        notes=(*table.notes, note),
    )


def _refuse_options_of_classes(request: Request, task: Task) -> None:
    strange = request.given() & {"positive", "blank_as", "uncertain_as", "drop_classes_below", "label_separator"}
    if strange - request.inherited:
        raise DataError(f"{named(strange)} cannot be used where {TEXTS[task]} is predicted.", remedy="Leave it out.")


def _without_unlabelled(
    samples: Samples, values: RawLabels, task: Task | None, config: DataConfig
) -> tuple[Samples, RawLabels]:
    """Leave out samples without a label, where that was asked for."""
    if config.on_missing == "error" or config.blank_as is not None or len(values) != len(samples):
        return samples, values
    blank = unlabelled(values, numbers=task is not None and not task.categorical)
    if blank.all() or not blank.any():
        return samples, values
    left = f"{int(blank.sum())} sample(s) have no label and are left out: {listing(samples.ids[blank].tolist())}."
    kept = np.flatnonzero(~blank)
    some = values[kept] if isinstance(values, np.ndarray) else [values[row] for row in kept.tolist()]
    return replace(samples.take(kept), notes=(*samples.notes, left)), some


def _with_labels(samples: Samples, table: SampleTable, request: Request) -> Samples:
    config = request.config
    task, values = config.target or table.task, () if table.labels is None else table.labels
    if config.horizon and not (task and task.timed):
        raise DataError(
            f"{option('horizon')} is for times to an event, and there are none.",
            remedy=f"Name their columns: {option('time', 'months')} {option('event', 'died')}.",
        )
    samples, values = _without_unlabelled(samples, values, task, config)
    if task is None or task.categorical:
        encoded = encode_labels(
            values,
            rows=samples.ids.tolist(),
            columns=table.columns,
            task=task,
            classes=config.classes,
            known=table.classes,
            positive=config.positive,
            blank_as=config.blank_as,
            uncertain_as=config.uncertain_as,
            drop_below=config.drop_classes_below,
            strict=request.strict,
        )
    else:
        _refuse_options_of_classes(request, task)
        encoded = encode_numbers(
            values,
            task,
            rows=samples.ids.tolist(),
            columns=table.columns,
            classes=config.classes or table.classes,
            horizons=config.horizon,
            development=None if samples.splits is None else samples.splits != "test",
            strict=request.strict,
        )
    return replace(
        samples if encoded.kept is None else samples.take(encoded.kept),
        labels=encoded.labels,
        classes=encoded.classes,
        task=encoded.task,
        notes=tuple(dict.fromkeys((*samples.notes, *encoded.notes))),
        warnings=tuple(dict.fromkeys((*samples.warnings, *encoded.warnings))),
    )


def join_tables(parts: Mapping[str, SampleTable]) -> SampleTable:
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
                remedy=f"Give {what} for every split"
                + ("." if what == "groups" else f", or pass over those there are: {option('labelled', False)}."),
            )
    weighed = [table.weights is not None for table in tables]
    bare = [split for split, has in zip(splits, weighed, strict=True) if not has and split != "test"]
    if any(weighed) and bare:
        raise DataError(f"Some samples have weights and those of {listing(bare)} have none.", remedy="Give all some.")
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
        weights=[each for table in tables for each in table.weights or [1.0] * len(table.ids)]
        if any(weighed)
        else None,
        by={
            name: [value for table in tables for value in table.by.get(name, [""] * len(table.ids))]
            for name in dict.fromkeys(name for table in tables for name in table.by)
        },
        bags=_filled(tables, "bags", None),
        opened=_filled(tables, "opened", ()),
        contents=np.concatenate(
            [no_contents(len(table.ids)) if table.contents is None else table.contents for table in tables]
        ),
        image_contents=None,
        notes=tuple(dict.fromkeys(note for table in tables for note in table.notes)),
        warnings=tuple(dict.fromkeys(warning for table in tables for warning in table.warnings)),
    )


def split_name(value: object) -> str:
    """Return train, val or test for one of the names a split goes by.

    Raises
    ------
    DataError
        If it is none of them.
    """
    split = split_of(value)
    if split is None:
        raise DataError(
            f"{str(value)!r} is no split.",
            remedy=f"Call splits {', '.join(SPLIT_NAMES)}; or have them made: {option('use_splits', False)}.",
        )
    return split


def _objects(values: Sequence[object]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):  # numpy would take tuples apart
        array[place] = value
    return array


def _filled(tables: Sequence[SampleTable], what: str, otherwise: Any) -> list[Any] | None:
    """Join what some tables have and others have not; None where none has it."""
    if all(getattr(table, what) is None for table in tables):
        return None
    return [
        value
        for table in tables
        for value in ([otherwise] * len(table.ids) if getattr(table, what) is None else getattr(table, what))
    ]


def _join_labels(labels: list[RawLabels]) -> RawLabels | None:
    if not labels:
        return None
    if all(isinstance(part, np.ndarray) and part.ndim == 2 for part in labels):
        return np.concatenate([np.asarray(part) for part in labels])
    return [value for part in labels for value in part]


def _complete(table: SampleTable, values: Sequence[Any] | None, what: str) -> list[str] | None:
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
