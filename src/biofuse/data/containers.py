"""Files that hold several images, or need a library of their own; and rows that are the images of one sample."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, cast

import numpy as np

from biofuse.core.errors import DataError, LeakageError, UnreadableImageError, option
from biofuse.core.files import home, secret_key
from biofuse.core.hashing import digest
from biofuse.core.machine import usable_cores
from biofuse.core.progress import progress_bars
from biofuse.data import dicom, microscopy, slides, tile_embeddings, volumes
from biofuse.data.assembly import Request, SampleTable
from biofuse.data.config import FOLDER, IDENTIFIERS, DataConfig
from biofuse.data.cuts import UNREADABLE, Bag, FileFacts, Opened, Source, UnopenedSource
from biofuse.data.decoding import FileSource
from biofuse.data.labels import label_text, listing, natural_key
from biofuse.data.lookup import tells_nothing
from biofuse.data.remote import RemoteSource
from biofuse.data.samples import THREADS

START_BYTES = 512
"""What a kind of file is recognised by, where its name does not tell."""


class Container(Protocol):
    """A kind of files that hold images: a module of this room, whose libraries are imported where they are used."""

    SUFFIXES: frozenset[str]
    """How their names end, in lower case, with the dot."""

    def recognises(self, path: Path, start: bytes) -> bool:
        """Tell whether a file, or a folder, is one, by its first 512 bytes; a folder has none."""
        ...

    def open_file(self, path: Path, config: DataConfig, *, called: str = "") -> Opened | None:
        """Read what comes before the pixels; None where the options leave it an image like any other.

        Images and errors name the file as it is ``called``: a copy, as what it is a copy of.

        Raises
        ------
        UnreadableImageError
            If it cannot be read, or holds no images.
        DependencyError
            If the library that reads it is not installed.
        """
        ...


CONTAINERS: tuple[Container, ...] = (dicom, slides, tile_embeddings, microscopy, volumes)
"""Every kind, in the order in which they are asked."""


def open_containers(table: SampleTable, request: Request) -> SampleTable:
    """Open the files of a table that hold several images, and put rows of one bag together.

    Parameters
    ----------
    table : SampleTable
        As it was read.
    request : Request

    Returns
    -------
    SampleTable
        With a row per sample.

    Raises
    ------
    DataError
        If rows of one bag differ in what they say of the sample, or identifiers are asked for that the files lack.
    """
    copies = _fetched(table.sources, request.config)
    found = _opened_all([source.description for source in table.sources], copies, request)
    table = _with_opened(table, found) if any(each is not None for each in found) else table
    table = _grouped(table, request, found)
    _require_window(table, request, found)
    microscopy.require_cut(table.sources, request.config, inherited=request.inherited)
    alone = request.config.bag if table.bags is None and "bag" in request.inherited else None
    try:
        bags = _bags(table, request, found)
    except DataError:
        if alone is None:
            raise
        said = (
            f"{option('bag', alone)} was said of other data and means nothing here: each image is a sample by itself."
        )
        return replace(table, notes=(*table.notes, said))
    return table if bags is None else _together(table, bags, found, request.config)


def _require_window(table: SampleTable, request: Request, found: Sequence[Opened | None]) -> None:
    """Refuse a window that no file is shown by: of pictures, nobody knows what was measured."""
    window = request.config.window
    shown = any(each is not None and ("window" in each.about.facts or each.about.kind == UNREADABLE) for each in found)
    if window is not None and "window" not in request.inherited and not shown:
        raise DataError(
            f"{table.name}: {option('window', window)} is of grey DICOM files and NIfTI volumes, and there are none.",
            remedy=f"Leave it out; of pictures of more than 8 bits, {option('sixteen_bit')} decides.",
        )


def _fetched(sources: Sequence[Source], config: DataConfig) -> list[Source]:
    """Fetch what lies on other machines and may have to be opened; what cannot be fetched is said where it is read."""

    def here(source: Source) -> Source:
        if not isinstance(source, RemoteSource) or not (_may_be_opened(source.name) or config.mpp is not None):
            return source
        try:
            return FileSource(source.fetch())
        except UnreadableImageError:
            return source

    if not any(isinstance(source, RemoteSource) for source in sources):
        return list(sources)
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(here, sources))


def _may_be_opened(name: str) -> bool:
    return tells_nothing(name) or any(name.lower().endswith(tuple(kind.SUFFIXES)) for kind in CONTAINERS)


AT_ONCE = 4
"""Most volumes or slides that are opened at the same time: each volume is held in memory meanwhile."""


def _opened_all(called: Sequence[str], sources: Sequence[Source], request: Request) -> list[Opened | None]:
    """Open the files that one of the kinds recognises; None of any other source. A copy is called as what it is of."""
    found: list[Opened | None] = [None] * len(sources)
    several, alone = list[tuple[int, Container]](), list[tuple[int, Container]]()
    for row, source in enumerate(sources):
        kind = kind_of(source.path) if isinstance(source, FileSource) else None
        if kind in {volumes, slides}:  # libraries that read and unpack while other threads go on
            several.append((row, kind))
        elif isinstance(source, FileSource) and request.config.mpp is not None and kind in {None, microscopy}:
            alone.append((row, slides))  # any image is cut into tiles where their resolution was said
        elif kind is not None:
            alone.append((row, kind))

    def opened(row: int, kind: Container) -> None:
        found[row] = _opened(kind, cast("FileSource", sources[row]), request.config, called=called[row])
        progress.advance(OPENING, 1)

    with progress_bars(request.progress, unit="files") as progress:
        if several or alone:
            progress.begin(OPENING, len(several) + len(alone))
        with ThreadPoolExecutor(min(usable_cores(), AT_ONCE)) as threads:
            list(threads.map(lambda each: opened(*each), several))
        for row, kind in alone:
            opened(row, kind)
    return found


OPENING = "opening"
"""What the bar says meanwhile."""


def _opened(kind: Container, source: FileSource, config: DataConfig, *, called: str) -> Opened | None:
    here = source.description
    try:
        opened = kind.open_file(source.path, config, called="" if called == here else called)
        if opened is None:
            return None
        said, warned = ([text.replace(here, called) for text in each] for each in (opened.notes, opened.warnings))
        return replace(opened, notes=tuple(said), warnings=tuple(warned))
    except UnreadableImageError as error:
        renamed = type(error)(error.message.replace(here, called), remedy=error.remedy.replace(here, called))
        unopened = UnopenedSource(called, renamed)
        return Opened(images=(unopened,), is_bag=False, about=FileFacts(kind=UNREADABLE))


def kind_of(path: Path) -> Container | None:
    """Return the kind of files that a file belongs to; None of an ordinary image."""
    name = path.name.lower()
    able = [kind for kind in CONTAINERS if name.endswith(tuple(kind.SUFFIXES))]
    if not able and not tells_nothing(path.name) and not path.is_dir():
        return None
    try:
        start = b""
        if not path.is_dir():
            with path.open("rb") as file:
                start = file.read(START_BYTES)
    except OSError:
        return None  # reading it as an image says why
    return next((kind for kind in able or CONTAINERS if kind.recognises(path, start)), None)


def _with_opened(table: SampleTable, found: Sequence[Opened | None]) -> SampleTable:
    sources = [
        source if each is None else Bag(each.images, source.description) if each.is_bag else each.images[0]
        for source, each in zip(table.sources, found, strict=True)
    ]
    opened = [each for each in found if each is not None]
    return replace(
        table,
        sources=sources,
        opened=[() if each is None else (each.about,) for each in found],
        notes=tuple(dict.fromkeys((*table.notes, *(note for each in opened for note in each.notes)))),
        warnings=tuple(
            dict.fromkeys(
                (
                    *table.warnings,
                    *(said for each in opened for said in each.warnings),
                    *_beside_slides(table, found),
                )
            )
        ),
    )


def _beside_slides(table: SampleTable, found: Sequence[Opened | None]) -> Iterator[str]:
    """Point out images that are read as a whole where others are cut into tiles."""
    whole = [name for name, each in zip(table.ids, found, strict=True) if each is None]
    if whole and any(each is not None and each.about.kind == slides.KIND for each in found):
        yield (
            f"{len(whole)} image(s) are read as a whole beside slides, which are cut into tiles: {listing(whole)}. "
            f"{option('mpp', slides.MPP)} cuts these, too."
        )


# --- what belongs together


@lru_cache(maxsize=1)
def _key(folder: Path) -> bytes:
    return secret_key(folder / "identifiers.key")


def private_name(identifier: str) -> str:
    """Name a patient, study or series so that nobody can tell who it is, the same for all data of this user.

    Parameters
    ----------
    identifier : str
        A hash, as of :attr:`biofuse.data.cuts.Opened.identifiers`.

    Returns
    -------
    str
        16 hexadecimal digits: a hash with a key that lies in BioFuse's folder and nowhere else. Without the key, trying
        out the identifiers there are tells nothing.
    """
    return digest(_key(home()), identifier.encode(), size=8).hex()


def _identified(what: str, role: str, found: Sequence[Opened | None], table: SampleTable) -> list[str]:
    """Return the private name of the patient, study or series of every row; what cannot be read is like nothing."""
    lost = {name for name, each in zip(table.ids, found, strict=True) if each and each.about.kind == UNREADABLE}
    without = [
        name
        for name, each in zip(table.ids, found, strict=True)
        if name not in lost and (each is None or what not in each.identifiers)
    ]
    if without:
        raise DataError(
            f"{table.name} has no column {what!r}, and {len(without)} file(s) do not say to which {what} they belong: "
            f"{listing(without)}.",
            remedy=f"Correct {option(role)}. DICOM files say it by themselves; of others, list the images in a table "
            "with a column for it.",
        )
    return [
        f"unreadable {name}" if name in lost or each is None else f"{what} {private_name(each.identifiers[what])}"
        for name, each in zip(table.ids, found, strict=True)
    ]


def _grouped(table: SampleTable, request: Request, found: Sequence[Opened | None]) -> SampleTable:
    """Group rows by what their files say they belong to, where that was asked for; advise it where it was not."""
    asked = request.config.group_column
    if table.groups is None and asked in IDENTIFIERS:
        if "group" in request.inherited and not any(each and asked in each.identifiers for each in found):
            said = f"{option('group', asked)} was said of other data and means nothing here: not used."
            return replace(table, notes=(*table.notes, said))
        return replace(table, groups=_identified(asked, "group", found, table))
    patients = [each.identifiers["patient"] for each in found if each is not None and "patient" in each.identifiers]
    if table.groups is not None or request.config.ungrouped or request.labelled is False:
        return table
    if not 1 < len(set(patients)) < len(patients):
        return table
    advice = (
        f"The files name {len(set(patients))} patients for {len(found)} rows: add {option('group', 'patient')}, so "
        f"that what belongs together stays together in every split, or {option('group', 'none')}."
    )
    return replace(table, warnings=(*table.warnings, advice))


def _bags(table: SampleTable, request: Request, found: Sequence[Opened | None]) -> list[str] | None:
    """Return the bag of every row; None where rows are samples by themselves."""
    asked = request.config.bag
    if table.bags is not None:
        names = [label_text(value) for value in table.bags]
        blank = [name for name, bag in zip(table.ids, names, strict=True) if not bag]
        if blank:
            raise DataError(
                f"{table.name}: {len(blank)} row(s) name no bag: {listing(blank)}.",
                remedy="Write in every row to which sample its image belongs.",
            )
        return names
    if asked is None:
        return None
    if asked in IDENTIFIERS:
        return _identified(asked, "bag", found, table)
    if asked == FOLDER and all(isinstance(name, str) and "/" in name for name in table.ids):
        return [PurePosixPath(name).parent.as_posix() for name in table.ids]
    raise DataError(
        f"{table.name} has no column {asked!r} of bags"
        + (": some images lie in no folder." if asked == FOLDER else "."),
        remedy=f"Name a column of a table ({option('bag', 'patient')}), or {option('bag', FOLDER)} where the images of "
        "each sample lie in a folder of their own.",
    )


@dataclass(frozen=True)
class _Row:
    """One row of a bag, in the place that its image has in it."""

    position: float
    name: Any
    row: int


def _together(
    table: SampleTable, bags: Sequence[str], found: Sequence[Opened | None], config: DataConfig
) -> SampleTable:
    """Make one row of the rows of each bag; images come in the order of their positions, else of their names."""
    rows: dict[str, list[_Row]] = {}
    for row, (bag, each, source) in enumerate(zip(bags, found, table.sources, strict=True)):
        place = 0.0 if each is None or each.position is None else each.position
        rows.setdefault(bag, []).append(_Row(place, natural_key(source.description), row))
    order = {
        bag: [each.row for each in sorted(own, key=lambda one: (one.position, one.name))] for bag, own in rows.items()
    }
    _refuse_unlike(table, order)
    first = [own[0] for own in order.values()]
    opened = {bag: _opened_bag(own, table, found, config) for bag, own in order.items()}
    images = sum(len(own) for own, _ in opened.values())
    note = f"{images} images make up {len(order)} samples: those of one bag belong together."

    def of_first(values: Any) -> Any:
        return (
            values
            if values is None
            else values[first]
            if isinstance(values, np.ndarray)
            else [values[row] for row in first]
        )

    return replace(
        table,
        ids=list(order),
        sources=[Bag(tuple(own), bag) for bag, (own, _) in opened.items()],
        labels=of_first(table.labels),
        splits=of_first(table.splits),
        groups=of_first(table.groups),
        weights=of_first(table.weights),
        by={name: of_first(values) for name, values in table.by.items()},
        bags=None,
        opened=None if table.opened is None else [tuple(facts) for _, facts in opened.values()],
        contents=None,
        image_contents=None,
        notes=(*table.notes, note),
    )


def _opened_bag(
    rows: Sequence[int], table: SampleTable, found: Sequence[Opened | None], config: DataConfig
) -> tuple[list[Source], list[FileFacts]]:
    """Return the images of a bag, and what is known of its files; of a series of DICOM files, the slices to take."""
    by_series: dict[str, list[int]] = {}
    for row in rows:
        each = found[row]
        by_series.setdefault("" if each is None else each.identifiers.get("series", ""), []).append(row)
    images: list[Source] = []
    facts: list[FileFacts] = []
    for own in by_series.values():
        files = [image for row in own for image in _images(table.sources[row])]
        volume = _volume(files, config)
        images += files if volume is None else volume.images
        facts += (
            [each for row in own for each in (() if table.opened is None else table.opened[row])]
            if volume is None
            else [volume.about]
        )
    return images, facts


def _volume(files: Sequence[Source], config: DataConfig) -> Opened | None:
    slices_of = [file for file in files if isinstance(file, dicom.DicomImage)]
    if len(slices_of) < max(len(files), 2):
        return None
    try:
        return volumes.open_series(slices_of, config)
    except UnreadableImageError as error:
        unopened = UnopenedSource(files[0].description, error)
        return Opened(images=(unopened,), is_bag=True, about=FileFacts(kind=UNREADABLE))


def _images(source: Source) -> tuple[Source, ...]:
    return source.images if isinstance(source, Bag) else (source,)


def _refuse_unlike(table: SampleTable, order: Mapping[str, Sequence[int]]) -> None:
    """Refuse a bag whose rows do not agree in what they say of the sample."""
    for what, values in _said(table):
        texts = [_text(value) for value in values]
        for bag, own in order.items():
            if len({texts[row] for row in own}) > 1:
                other = next(row for row in own if texts[row] != texts[own[0]])
                kind = LeakageError if what in {"split", "group"} else DataError
                shown = [f"{table.ids[row]} ({texts[row] or 'blank'})" for row in (own[0], other)]
                raise kind(
                    f"{table.name}: the images of {bag!r} are one sample but differ in their {what}: {listing(shown)}.",
                    remedy=f"Give all rows of a bag the same {what}, or name another column of bags: {option('bag')}.",
                )


def _said(table: SampleTable) -> Iterator[tuple[str, Sequence[Any]]]:
    named: dict[str, Any] = {
        "label": table.labels,
        "split": table.splits,
        "group": table.groups,
        "weight": table.weights,
    }
    for what, values in {**named, **{f"column {name!r}": values for name, values in table.by.items()}}.items():
        if values is not None:
            yield what, values


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return "|".join(map(label_text, value))
    return label_text(value)
