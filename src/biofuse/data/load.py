"""One door for every kind of data."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from biofuse.core.errors import DataError, LeakageError, option
from biofuse.core.options import accepts
from biofuse.core.progress import Progress
from biofuse.core.target import Target
from biofuse.data.assembly import Request, SampleTable, TornGroups, assemble, join_tables
from biofuse.data.columns import split_of
from biofuse.data.config import DataConfig, named
from biofuse.data.containers import kind_of, open_containers
from biofuse.data.decoding import DecodePolicy
from biofuse.data.files import load_folder, load_image_file
from biofuse.data.labels import RawLabels, listing
from biofuse.data.lookup import is_address, is_image_name
from biofuse.data.medmnist import load_medmnist, load_npz, medmnist_catalogue, parse_medmnist_name
from biofuse.data.microscopy import with_windows
from biofuse.data.numbers import default_horizons
from biofuse.data.objects import is_hugging_face, is_row_data, load_arrays, load_hugging_face, load_rows
from biofuse.data.remote import shown_address
from biofuse.data.samples import Samples, hash_samples
from biofuse.data.splits import with_splits, without_untrained_classes
from biofuse.data.tables import TABLE_SUFFIXES, is_table_name, load_frame, load_manifest


@accepts(DataConfig)
def load_samples(
    data: object,
    *,
    group: str | Sequence[object] | None = None,
    bag: str | Sequence[object] | None = None,
    split: str | Sequence[object] | None = None,
    id: str | Sequence[object] | None = None,  # noqa: A002
    by: str | Sequence[str] | Mapping[str, Sequence[object]] | None = None,
    site: str | Sequence[object] | None = None,
    weight: str | Sequence[object] | None = None,
    labels: RawLabels | None = None,
    decode: DecodePolicy | None = None,
    labelled: bool | None = None,
    strict: bool = True,
    torn_groups: TornGroups = "error",
    size: int | None = None,
    download: bool = True,
    name: str | None = None,
    config: DataConfig | None = None,
    like: DataConfig | None = None,
    progress: Progress | bool = False,
    **chosen: Any,
) -> Samples:
    """Turn any accepted data into samples. Images are not opened here.

    Parameters
    ----------
    data : path, str, data frame, array, list, mapping, data set or Samples
        A folder of class folders (with split folders above them or not) or of images; a CSV, TSV or Parquet table; an
        ``.npz`` file with MedMNIST's keys; a MedMNIST name; one image file; a pandas data frame; an array
        [n, height, width(, channels)]; a list of arrays, Pillow images, tensors or paths; a torch-style or Hugging
        Face data set; or a mapping from split names to any of these. Samples are returned as they are.
    group : str or sequence, optional
        Column of patients, slides or the like, whose samples stay together, or ``"none"``; one value per image for
        images in memory.
    bag : str or sequence, optional
        Column by which several images are one sample, or ``"folder"``; one value per image for images in memory.
    split : str or sequence, optional
        Column of splits; one value per image for images in memory.
    id : str or sequence, optional
        Column of unique names; one value per image for images in memory. Otherwise relative paths, or row numbers.
    by : str, sequence of str or mapping, optional
        Columns for whose values test scores are also given one by one, such as sex, age or scanner; for images in
        memory a mapping from names to one value per image. Nothing is learned from them.
    site : str or sequence, optional
        Column of hospitals, scanners or the like; one value per image for images in memory.
    weight : str or sequence, optional
        Column of positive numbers, how much each sample counts where something is fitted; one value per image for
        images in memory. Samples of split test need none.
    labels : sequence or ndarray, optional
        For images in memory: one label per image, a list of labels per image, or zeros and ones [n, n_labels].
    decode : DecodePolicy, optional
        How files become pixels, where ``page``, ``sixteen_bit`` and the like do not say it.
    labelled : bool, optional
        True: labels are required; False: they are ignored. By default they are used where they exist.
    strict : bool, default True
        False: a single class, a single row, and classes in any order will do, as for data that test a model.
    torn_groups : {"error", "allow"}
        What to do with a group that lies in more than one of the given splits. Nothing may be learned from such data;
        ``"allow"`` is for looking at them, as :func:`check_samples` does, which reports those groups.
    size : int, optional
        28, 64, 128 or 224, for a MedMNIST name.
    download : bool, default True
        Whether a missing MedMNIST archive may be fetched.
    name : str, optional
        What to call the data set.
    config : DataConfig, optional
        How the data are read; what is given by name wins.
    like : DataConfig, optional
        How other data were read: columns and what is left out are the same here, where these data have such columns.
    progress : Progress or bool, default False
        Of opening volumes, slides and the like. True shows a bar where standard error is a terminal.
    **chosen
        Fields of :class:`biofuse.DataConfig`.

    Returns
    -------
    Samples

    Raises
    ------
    DataError
        If the data cannot be used as they are; the message says which rows and what to do.
    LeakageError
        If a group lies in more than one of the given splits and ``torn_groups`` is ``"error"``.

    Examples
    --------
    >>> import biofuse
    >>> samples = biofuse.load_samples("images/")
    >>> len(samples), samples.classes
    (40, ('benign', 'malignant'))
    >>> biofuse.load_samples("table.csv", label="finding", group="patient").ids[:2]
    array(['images/benign/000.png', 'images/malignant/001.png'], dtype=object)
    """
    columns = {"group": group, "bag": bag, "split": split, "id": id, "site": site, "weight": weight}
    chosen |= {key: value for key, value in columns.items() if isinstance(value, str)}
    values = {key: None if value is None or isinstance(value, str) else value for key, value in columns.items()}
    if by is not None and not isinstance(by, Mapping):
        chosen["by"] = by
    options, inherited = DataConfig.of(config, chosen).like(like)
    request = Request(
        config=options,
        inherited=inherited,
        labels=labels,
        groups=values["group"],
        bags=values["bag"],
        splits=values["split"],
        ids=values["id"],
        by=by if isinstance(by, Mapping) else None,
        sites=values["site"],
        weights=values["weight"],
        decode=decode,
        labelled=labelled,
        strict=strict,
        torn_groups=torn_groups,
        size=size,
        download=download,
        name=name,
        progress=progress,
    )
    if isinstance(data, Samples):
        if request.given():
            raise DataError(
                f"Samples are ready; {named(request.given())} cannot change them.",
                remedy="Give these options when the samples are loaded.",
            )
        return data
    return assemble(open_containers(_table(data, request), request), request)


def _table(data: Any, request: Request) -> SampleTable:
    for is_kind, load in KINDS:
        if is_kind(data):
            return load(data, request)
    if hasattr(data, "dataset"):
        raise DataError(
            "A loader shuffles and batches, which would lose track of the rows.", remedy="Pass loader.dataset instead."
        )
    raise DataError(
        f"{type(data).__name__} is no data BioFuse can read.",
        remedy="Give a folder, a table, an .npz file, a MedMNIST name, arrays, or a data set with len() and [row].",
    )


def _from_parts(data: Mapping[Any, Any], request: Request) -> SampleTable:
    if not data:
        raise DataError("An empty mapping holds no data.", remedy='Give {"train": ..., "val": ..., "test": ...}.')
    tables = {
        str(key): _table(part, request.unweighted() if split_of(key) == "test" else request)
        for key, part in data.items()
    }
    # Competitions publish their test images without labels: those are nothing to score, and no fault of the rest.
    bare = [key for key, part in data.items() if split_of(key) == "test" and not isinstance(part, Samples)]
    bare = [str(key) for key in bare if tables[str(key)].labels is None]
    if (
        bare
        and len(tables) > len(bare)
        and all(part.labels is not None for key, part in tables.items() if key not in bare)
    ):
        n = sum(len(tables.pop(key).ids) for key in bare)
        joined = join_tables(tables)
        return replace(joined, notes=(*joined.notes, f"The {n} images of {listing(bare)} have no labels: left out."))
    return join_tables(tables)


def _from_path(data: str | os.PathLike[str], request: Request) -> SampleTable:
    if is_address(data):
        return _from_address(str(data), request)
    path = Path(data).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return load_folder(path, request)
    if not path.exists():
        if isinstance(data, str) and parse_medmnist_name(data) is not None:
            return load_medmnist(data, request)
        raise DataError(f"{path} does not exist.", remedy=_nearest(str(data)))
    if is_table_name(path):
        return load_manifest(path, request)
    if suffix == ".npz":
        return load_npz(path, request)
    if is_image_name(path) or kind_of(path) is not None:
        return load_image_file(path, request)
    raise DataError(
        f"{path} is of no kind that can be read.",
        remedy=f"Give a folder, a table ({', '.join(TABLE_SUFFIXES)}), an .npz file, or an image.",
    )


def _from_address(address: str, request: Request) -> SampleTable:
    """Read one image of another machine; tables, and what they say of many, lie on this one."""
    name = shown_address(address)
    if is_table_name(name) or name.endswith(("/", ".npz")):
        raise DataError(
            f"{name} is an address: tables, archives and folders are read on this machine.",
            remedy=f"Download it; images that a table lists may stay where they are: {option('allow_remote', True)}.",
        )
    return load_arrays([address], request)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda data: isinstance(data, kinds)


def _is_pandas(has: str) -> Callable[[Any], bool]:
    return lambda data: type(data).__module__.split(".")[0] == "pandas" and hasattr(data, has)


KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any, Request], SampleTable]], ...] = (
    (_is(Samples), lambda data, _: SampleTable.of(data)),
    (_is(str, os.PathLike), _from_path),
    (_is(Mapping), _from_parts),
    (_is(np.ndarray, list, tuple), load_arrays),
    (_is_pandas("columns"), load_frame),
    (_is_pandas("to_list"), lambda data, request: load_arrays(data.to_list(), request)),
    (is_hugging_face, load_hugging_face),
    (is_row_data, load_rows),
)
"""Every kind of data, in the order in which it is looked for."""


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), medmnist_catalogue()[1], n=1)
    return f"Check the path; or did you mean the MedMNIST data set {close[0]!r}?" if close else "Check the path."


def describe_task(samples: Samples) -> str:
    """Say in one line what is to be learned, for the log."""
    n = f"{len(samples)} samples"
    if samples.labels is None or samples.task is None:
        return f"{samples.name}: {n}, no labels"
    target = Target(samples.task, samples.classes)
    counts = target.counts(samples.labels).items()
    table = ", ".join(f"{name} ({count})" for name, count in counts)
    groups = "" if samples.groups is None else f" in {len(set(samples.groups.tolist()))} groups"
    if not target.categorical:
        shown = ", ".join(f"{count} {name}" for name, count in counts) if target.timed else listing(target.classes)
        return f"{samples.name}: {n}{groups}, {samples.task}: {shown}"
    what = f"{target.noun}, lowest first" if samples.task.ordered else target.noun
    return f"{samples.name}: {n}{groups}, {samples.task}, {len(samples.classes)} {what}: {table}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Development:
    """What a search may see, and what it may not.

    Attributes
    ----------
    samples : Samples
        Train and validation samples with labels; every sample has a split.
    held_out : Samples or None
        Test samples; they are carried along unread.
    notes : tuple of str
        What was found and decided, in words for the log.
    """

    samples: Samples
    held_out: Samples | None
    notes: tuple[str, ...]


def development_data(
    train: Any,
    val: Any = None,
    *,
    config: DataConfig | None = None,
    labels: Any = None,
    val_labels: Any = None,
    test: Any = None,
    seed: int = 0,
    progress: Progress | bool = False,
) -> Development:
    """Read the data a search may see, and set the test data aside.

    Parameters
    ----------
    train : anything :func:`biofuse.load_samples` takes
        With a split column (or split folders), its train and validation samples are used and its test samples left
        alone; without, all of it is development data.
    val : likewise, optional
        Validation data where they come apart from the training data. The two then decide who is train and who is val,
        and ids get the split's name in front where both use the same one.
    config : DataConfig, optional
        How all of them are read.
    labels, val_labels : optional
        As for :func:`biofuse.load_samples`; ``val_labels`` go with ``val``.
    test : "auto", None or as ``train``
        ``auto``: test samples are set aside where the data have none, by :func:`split_off_test`. Or test data that come
        apart.
    seed : int, default 0
        Of that.
    progress : Progress or bool, default False
        As for :func:`biofuse.load_samples`.

    Raises
    ------
    DataError
        If there are no labels, no training samples, or test data in two places.
    LeakageError
        If ``train`` and ``val`` are given apart and test samples are among them.
    """
    config = config or DataConfig()
    if val is None:
        if val_labels is not None:
            raise DataError(
                f"{option('val_labels')} without validation data.", remedy="Give the validation images as val."
            )
        samples = _load(train, config, labels=labels, progress=progress)
    else:
        first = _part(_load(train, config, labels=labels, progress=progress), "train")
        second = _part(_load(val, config, labels=val_labels, progress=progress), "val")
        samples = _joined(first, second, "val", config)
    if samples.labels is None:
        raise DataError(
            f"{samples.name} has no labels, so nothing can be learned from it.",
            remedy=f"Of a table, name the label column: {option('label')}. In a folder, the images of each class lie "
            "in a folder of their own, which has its name: images/benign/1.png, images/malignant/2.png.",
        )
    notes = [*samples.remarks, describe_task(samples)]
    if isinstance(test, str) and test == "auto":
        samples, made = split_off_test(samples, seed=seed)
        notes += [made] if made else []
    elif test is not None:
        if samples.splits is not None and "test" in samples.splits.tolist():
            raise DataError(
                f"{samples.name} has test samples of its own.",
                remedy=f"Leave {option('test')} out, or give other data.",
            )
        apart = replace(_load(test, config.but(weight=None), progress=progress), splits=None)
        samples = _joined(samples, apart, "test", config)
    if samples.decode.sixteen_bit == "percentile":
        windowed = with_windows(samples)
        notes += windowed.notes[len(samples.notes) :]
        samples = windowed
    if samples.splits is None:
        samples = replace(samples, splits=np.array(["train"] * len(samples), dtype=object))
        return Development(samples=samples, held_out=None, notes=tuple(notes))
    development, held_out = samples.in_split("train", "val"), samples.in_split("test")
    if "train" not in set(development.splits.tolist() if development.splits is not None else ()):
        raise DataError(f"{samples.name} has no training samples.", remedy="Give samples of split train.")
    development, gone = without_untrained_classes(development, held_out)
    notes += gone
    if (
        development.target is not None
        and development.target.timed
        and not (config.horizon or isinstance(train, Samples))
    ):
        development, held_out, said = _at_own_horizons(development, held_out)
        notes += said
    if len(held_out):
        notes.append(f"{len(held_out)} test samples are set aside; the search does not read them.")
    return Development(samples=development, held_out=held_out if len(held_out) else None, notes=tuple(notes))


def _at_own_horizons(development: Samples, held_out: Samples) -> tuple[Samples, Samples, list[str]]:
    """Take the times by which an event is predicted, where one is, from the development data alone."""
    timed = development.target is not None and development.target.timed
    chosen = default_horizons(development.labels) if timed and development.labels is not None else []
    if not chosen:
        return development, held_out, []
    classes = Target.until(chosen).classes
    said = [f"Of the development data alone these quartiles are {listing([f'{each:.12g}' for each in chosen])}."]
    changed = classes != development.classes
    return replace(development, classes=classes), replace(held_out, classes=classes), said if changed else []


def split_off_test(samples: Samples, *, seed: int, progress: Progress | None = None) -> tuple[Samples, str | None]:
    """Make the splits that labelled samples lack, keeping groups and identical images together.

    Without splits, or with train alone, all three are made; with train and val, test is taken out of both; with train
    and test, val is taken out of train and the test images stay unread.

    Returns
    -------
    samples : Samples
        With train, val and test; unchanged where all are given.
    note : str or None
        What was done, in words.
    """
    given = set() if samples.splits is None else set(samples.splits.tolist())
    if {"train", "val", "test"} <= given or (given and "train" not in given):
        return samples, None
    # Test samples that are given stay unread. What cannot be read is like nothing else, and is named later.
    development = None if samples.splits is None else samples.splits != "test"
    samples, _ = hash_samples(samples, rows=development, progress=progress)
    if given == {"train", "val"}:
        made = with_splits(replace(samples, splits=None), seed=seed).splits
        splits = np.where(made == "test", "test", samples.splits).astype(object)  # type: ignore[arg-type]
        samples, what = replace(samples, splits=splits), "Test samples were taken out of train and val"
    else:
        samples = with_splits(samples, seed=seed)
        what = "Val was taken out of train" if "test" in given else "Splits were made"
    kept = [] if samples.splits is None else samples.splits.tolist()
    sizes = ", ".join(f"{kept.count(name)} {name}" for name in ("train", "val", "test"))
    return samples, f"{what} by a hash of ids and seed {seed}: {sizes}."


def _load(data: Any, config: DataConfig, *, labels: Any = None, progress: Progress | bool = False) -> Samples:
    """Load labelled data; samples that are ready already take no options, and a task they have anyway is none."""
    if isinstance(data, Samples) and data.task is not None and config.target is data.task:
        config = config.but(task=None)
    return load_samples(data, config=config, labels=labels, progress=progress)


def _joined(first: Samples, second: Samples, split: str, config: DataConfig) -> Samples:
    """Put samples that were loaded apart, for the sake of their own labels, into one table with one table of classes.

    Splits that the first has stay; ids get the split's name in front where both use the same one.
    """
    horizons = first.task is not None and first.task.timed
    known = first.classes if horizons or set(second.classes) <= set(first.classes) else None
    samples = load_samples({"train": first, split: second}, task=config.task, classes=known, name=first.name)
    ids = np.concatenate([first.ids, second.ids])
    shared = sorted(set(first.ids.tolist()) & set(second.ids.tolist())) if config.bag is not None else []
    if shared:
        raise LeakageError(
            f"{len(shared)} bag(s) lie in {split} and elsewhere: {listing(shared)}.",
            remedy="Keep the images of a sample in one split.",
        )
    if len(set(ids.tolist())) == len(ids):
        samples = replace(samples, ids=ids)
    if first.splits is None or samples.splits is None:
        return samples
    return replace(samples, splits=np.concatenate([first.splits, samples.splits[len(first) :]]))


def _part(samples: Samples, split: str) -> Samples:
    """Drop splits, since the caller has said which split this is; but never make training data of test samples."""
    n_test = 0 if samples.splits is None else int((samples.splits == "test").sum())
    if n_test:
        raise LeakageError(
            f"{n_test} of the samples given as {split} are of split test.",
            remedy=f'Give samples.in_split("{split}"), or load the data with {option("use_splits", False)}.',
        )
    return replace(samples, splits=None)
