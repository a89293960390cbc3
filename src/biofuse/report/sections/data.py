"""The task and the data: counts, balance, examples, duplicates, leaks, what could not be read."""

from collections.abc import Iterable

import numpy as np

from biofuse.core.hashing import hash_order
from biofuse.core.target import Task
from biofuse.data.samples import SPLITS
from biofuse.report.content import Bars, Chart, Column, Gallery, Item, Picture, Section, Series, Table
from biofuse.report.input import Album, Material, jpeg_uri

EXAMPLES = 6
"""Images shown per class."""

SHOWN_CLASSES = 24
"""Classes that are drawn and shown; tables have them all."""

THUMBNAIL = 112
"""Pixels of an example."""

LISTED = 100
"""Unreadable images and conflicting labels that are listed; the run's files have them all."""

TASKS = {
    Task.BINARY: "two classes, one per sample",
    Task.MULTICLASS: "one class per sample",
    Task.MULTILABEL: "any number of labels per sample",
    Task.ORDINAL: "ordered grades, one per sample",
}


def data_section(material: Material) -> Section:
    """Describe the task and the data."""
    run = material.run
    sizes = material.samples["split"].value_counts().to_dict()
    said = ", ".join(f"{sizes[split]:,} {split}" for split in SPLITS if split in sizes)
    what = "labels" if run.task == Task.MULTILABEL else "classes"
    task = f"{material.title}: {run.task} ({TASKS[Task(run.task)]}), {len(run.classes)} {what}"
    paragraphs = [
        f"{task}, {len(material.samples):,} samples ({said}). The final models are fitted on {run.fitted_on}."
    ]
    groups = material.samples["group"].dropna().nunique()
    if groups:
        paragraphs.append(f"Samples come in {groups:,} groups, which no split and no fold divides.")
    paragraphs += [str(note) for note in run.plan.get("notes", [])]
    items: list[Item] = [_balance(material)]
    if material.extras.development_images is not None:
        items += _examples(material, material.extras.development_images)
    duplicates, warnings = _duplicates(material)
    paragraphs += duplicates
    leaks, more = _leaks(material)
    paragraphs += leaks
    if len(material.quarantined):
        warnings.append(f"{len(material.quarantined):,} images could not be read and were set aside.")
        items.append(_quarantine(material))
    else:
        paragraphs.append("Every image could be read.")
    return Section(
        id="data",
        title="Task and data",
        paragraphs=tuple(paragraphs),
        warnings=(*warnings, *more),
        items=tuple(items),
    )


def _balance(material: Material) -> Chart:
    counts = material.run.counts
    splits = [str(split) for split in SPLITS if split in counts]
    names = material.run.classes
    rows = tuple(
        (name, *(int(counts[split].get(name, 0)) for split in splits), sum(counts[s].get(name, 0) for s in splits))
        for name in names
    )
    totals = [int(row[-1]) for row in rows]
    order = sorted(range(len(names)), key=lambda index: -totals[index])[:SHOWN_CLASSES]
    largest, smallest = names[int(np.argmax(totals))], names[int(np.argmin(totals))]
    summary = (
        f"{largest} is the most frequent with {max(totals):,} samples, {smallest} the rarest with {min(totals):,}."
    )
    if len(names) > SHOWN_CLASSES:
        summary += f" The {SHOWN_CLASSES} most frequent of {len(names)} are drawn."
    return Chart(
        id="balance",
        title="Class balance",
        summary=summary,
        body=Bars(
            labels=tuple(names[index] for index in order),
            series=tuple(
                Series(name=split, values=np.array([float(counts[split].get(names[i], 0)) for i in order]))
                for split in splits
            ),
            axis="samples",
        ),
        table=Table(
            id="balance-data",
            caption="Samples per class and split",
            columns=(Column(title="class"), *(Column(title=name, number=True) for name in (*splits, "all"))),
            rows=rows,
        ),
    )


def _examples(material: Material, album: Album) -> list[Item]:
    frame = material.samples[material.samples["split"] != "test"]
    multi = material.run.task == Task.MULTILABEL
    galleries: list[Item] = []
    for number, name in enumerate(material.run.classes[:SHOWN_CLASSES]):
        own = [(multi and name in str(label).split("|")) or label == name for label in frame["label"]]
        ids = frame.loc[own, "id"].tolist()
        pictures = list(_first(album, [ids[row] for row in hash_order(ids, seed=0)], name))
        if pictures:
            galleries.append(Gallery(id=f"examples-{number}", title=f"Examples: {name}", pictures=tuple(pictures)))
    return galleries


def _first(album: Album, ids: Iterable[str], name: str) -> Iterable[Picture]:
    found = 0
    for sample in ids:
        image = album.image(sample) if found < EXAMPLES else None
        if found == EXAMPLES:
            return
        if image is not None:
            found += 1
            source, width, height = jpeg_uri(image, side=THUMBNAIL)
            yield Picture(
                source=source, alternative=f"{sample}, labelled {name}", caption=sample, width=width, height=height
            )


def _duplicates(material: Material) -> tuple[list[str], list[str]]:
    frame = material.samples[material.samples["content"].fillna("") != ""]
    repeated = frame[frame.duplicated("content", keep=False)].groupby("content")
    if not len(repeated):
        return [f"No two of the {len(frame):,} development images are byte for byte the same."], []
    extra = int(sum(len(rows) - 1 for _, rows in repeated))
    across = sum(rows["split"].nunique() > 1 for _, rows in repeated)
    conflicts = [rows for _, rows in repeated if rows["label"].nunique() > 1]
    said = [
        f"{len(repeated):,} development images occur more than once ({extra:,} copies too many); identical images "
        f"always stay in one fold." + (f" {across:,} of them are in both train and val." if across else "")
    ]
    if not conflicts:
        return said, []
    shown = "; ".join(" and ".join(f"{row.id} ({row.label})" for row in rows.itertuples()) for rows in conflicts[:5])
    return said, [f"{len(conflicts):,} images carry different labels in different places: {shown}."]


def _leaks(material: Material) -> tuple[list[str], list[str]]:
    if material.metrics is None:
        return ["Test images have not been looked at yet."], []
    leak, n = material.metrics["leak"], material.metrics["n"]
    if not leak["samples"] and not leak["groups"]:
        return [f"None of the {n:,} images tested is also a development image."], []
    warnings = []
    if leak["samples"]:
        classes = ", ".join(f"{count} {name}" for name, count in leak["per_class"].items())
        warnings.append(
            f"{leak['samples']:,} of {n:,} tested images are also development images, byte for byte"
            f"{f' ({classes})' if classes else ''}: scores without them stand beside those with them."
        )
    if leak["groups"]:
        warnings.append(f"{leak['groups']:,} groups are in both development and test data: test scores are too good.")
    return [], warnings


def _quarantine(material: Material) -> Table:
    frame = material.quarantined
    shown = f" (the first {LISTED})" if len(frame) > LISTED else ""
    return Table(
        id="quarantine",
        caption=f"Images that could not be read{shown}",
        columns=(Column(title="sample"), Column(title="during"), Column(title="reason")),
        rows=tuple((str(row.id), str(row.during), str(row.reason)) for row in frame.head(LISTED).itertuples()),
    )
