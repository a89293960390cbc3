"""What the run was made from: the task and the data, the encoders and their licences, versions and hashes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from biofuse.core.hashing import hash_order
from biofuse.data.samples import SPLITS
from biofuse.extract.embeddings import Quarantined
from biofuse.model.card import licence_sentences, seen_before
from biofuse.report import content
from biofuse.report.input import ReportInput, SampleImages, picture_of

EXAMPLES = 6
"""Images shown per class."""

SHOWN_CLASSES = 24
"""Classes that are drawn and shown; tables have them all."""

THUMBNAIL = 112
"""Pixels of an example."""

UNGROUPED = (
    "This run is ungrouped: every image counts as a case of its own. Where several are of one patient, slide or study, "
    "scores are too high and intervals too narrow."
)

LISTED = 100
"""Unreadable images and conflicting labels that are listed; the run's files have them all."""


def data_section(given: ReportInput) -> content.Section:
    """Describe the task and the data."""
    record = given.record
    sizes = given.run.samples["split"].value_counts().to_dict()
    said = ", ".join(f"{sizes[split]:,} {split}" for split in SPLITS if split in sizes)
    task = f"{given.title}: {record.task} ({record.target.text}), {len(record.classes)} {record.target.noun}"
    paragraphs = [
        f"{task}, {len(given.run.samples):,} samples ({said}). The final models are fitted on {record.fitted_on}."
    ]
    groups = given.run.samples["group"].dropna().nunique()
    if groups:
        paragraphs.append(f"Samples come in {groups:,} groups, which no split and no fold divides.")
    else:
        paragraphs.append(UNGROUPED)
    if record.target.positive is not None and not any("positive class" in sentence for sentence in record.reading):
        paragraphs.append(f"The positive class is {record.target.positive}.")
    paragraphs += record.reading
    paragraphs += record.plan.notes
    items: list[content.Item] = [_balance(given)]
    more = [] if given.development_images is None else _examples(given, given.development_images)
    duplicates, warnings = _duplicates(given)
    paragraphs += duplicates
    leaks, leaking = _leaks(given)
    paragraphs += leaks
    unread = [(entry, "fit") for entry in given.run.quarantined]
    if given.evaluation is not None:
        unread += [(entry, "evaluate") for entry in given.evaluation.quarantined]
    if unread:
        warnings.append(f"{len(unread):,} images could not be read and were set aside.")
        more.insert(0, _quarantine(unread))
    else:
        paragraphs.append("Every image could be read.")
    return content.Section(
        id="data",
        title="Task and data",
        paragraphs=tuple(paragraphs),
        warnings=(*warnings, *leaking),
        items=tuple(items),
        more=tuple(more),
    )


def _balance(given: ReportInput) -> content.Chart:
    counts = given.record.counts
    splits = [split for split in SPLITS if split in counts]
    categorical = given.record.target.categorical
    names = (
        given.record.classes if categorical else tuple(dict.fromkeys(name for own in counts.values() for name in own))
    )
    by_class = {name: [counts[split].get(name, 0) for split in splits] for name in names}
    totals = [sum(by_class[name]) for name in names]
    order = sorted(range(len(names)), key=lambda index: -totals[index])[:SHOWN_CLASSES]
    largest, smallest = names[int(np.argmax(totals))], names[int(np.argmin(totals))]
    summary = (
        f"{largest} is the most frequent with {max(totals):,} samples, {smallest} the rarest with {min(totals):,}."
    )
    if max(totals) == min(totals):
        summary = f"Each has {max(totals):,} samples."
    if len(names) > SHOWN_CLASSES:
        summary += f" The {SHOWN_CLASSES} most frequent of {len(names)} are drawn."
    return content.Chart(
        id="balance",
        title="Class balance" if categorical else "Number of samples",
        summary=summary,
        body=content.BarChart(
            labels=tuple(names[index] for index in order),
            series=tuple(
                content.Series(name=split, values=np.array([float(by_class[names[index]][place]) for index in order]))
                for place, split in enumerate(splits)
            ),
            axis="samples",
        ),
        table=content.Table(
            id="balance-data",
            caption="Samples per class and split" if categorical else "Samples with each, per split",
            columns=content.words("class" if categorical else "samples with") + content.numbers(*splits, "all"),
            rows=tuple((name, *each, sum(each)) for name, each in by_class.items()),
        ),
    )


def _examples(given: ReportInput, images: SampleImages) -> list[content.Item]:
    frame = given.run.samples[given.run.samples["split"] != "test"]
    galleries: list[content.Item] = []
    for number, name in enumerate(given.record.classes[:SHOWN_CLASSES]):
        own = [name in given.record.target.named(str(label)) for label in frame["label"]]
        ids = frame.loc[own, "id"].tolist()
        pictures = islice(_readable(images, (ids[row] for row in hash_order(ids, seed=0)), name), EXAMPLES)
        if shown := tuple(pictures):
            galleries.append(content.Gallery(id=f"examples-{number}", title=f"Examples: {name}", pictures=shown))
    return galleries


def _readable(images: SampleImages, ids: Iterable[str], name: str) -> Iterator[content.Picture]:
    for sample in ids:
        image = images.image(sample)
        if image is not None:
            yield picture_of(image, side=THUMBNAIL, alternative=f"{sample}, labelled {name}", caption=sample)


def _duplicates(given: ReportInput) -> tuple[list[str], list[str]]:
    frame = given.run.samples[given.run.samples["content"].fillna("") != ""]
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


def _leaks(given: ReportInput) -> tuple[list[str], list[str]]:
    if given.evaluation is None:
        return ["Test images have not been looked at yet."], []
    leak, n = given.evaluation.leak, given.evaluation.n
    if not leak.samples and not leak.groups:
        return [f"None of the {n:,} images tested is also a development image."], []
    warnings = []
    if leak.samples:
        classes = ", ".join(f"{count} {name}" for name, count in leak.per_class.items())
        warnings.append(
            f"{leak.samples:,} of {n:,} tested images are also development images, byte for byte"
            f"{f' ({classes})' if classes else ''}: scores without them stand beside those with them."
        )
    if leak.groups:
        warnings.append(f"{leak.groups:,} groups are in both development and test data: test scores are too good.")
    return [], warnings


def _quarantine(unread: Sequence[tuple[Quarantined, str]]) -> content.Table:
    shown = f" (the first {LISTED})" if len(unread) > LISTED else ""
    return content.Table(
        id="quarantine",
        caption=f"Images that could not be read{shown}",
        columns=content.words("sample", "during", "reason"),
        rows=tuple((entry.id, during, entry.reason) for entry, during in unread[:LISTED]),
    )


SHORT = 12
"""Characters of a hash that are shown."""


def provenance_section(given: ReportInput) -> content.Section:
    """Say what the run was computed with, under which licences, and what to beware of."""
    meaning, warnings = licence_sentences([given.cards[name] for name in given.chosen])
    warnings += contamination(given)
    items: list[content.Item] = [_encoders(given), *_overlaps(given), _run(given), _versions(given)]
    if given.record.skipped:
        items.append(_skipped(given))
    return content.Section(
        id="provenance",
        title="Provenance",
        paragraphs=tuple(meaning),
        warnings=tuple(warnings),
        more=tuple(items),
    )


def contamination(given: ReportInput) -> list[str]:
    """Warn of encoders that may have been trained on the data set of the run."""
    names = [given.record.name, given.record.data.source or ""]
    return [
        f"{card.name} ({'chosen' if card.name in given.chosen else 'in the pool'}) may have been trained on these "
        f"images: {why}"
        for card, why in seen_before(list(given.cards.values()), names)
    ]


def _encoders(given: ReportInput) -> content.Table:
    rows = []
    for encoder in given.record.encoders:
        card, weights = encoder.card, encoder.card.weights
        rows.append(
            (
                card.name,
                "chosen" if card.name in given.chosen else "",
                card.title,
                card.licence,
                {True: "yes", False: "no", None: "not known"}[card.commercial],
                card.modality,
                card.training_data,
                "" if weights is None else f"{weights.repository} @ {weights.revision[:SHORT]}",
                "" if weights is None or weights.sha256 is None else weights.sha256[:SHORT],
                encoder.fingerprint.rpartition("-")[2][:SHORT],
            )
        )
    return content.Table(
        id="encoders",
        caption="Encoders of the pool",
        columns=content.words("encoder", "chosen", "title", "licence", "commercial use", "kind", "trained on")
        + content.words("weights", "SHA-256", "fingerprint", code=True),
        rows=tuple(rows),
        marked=given.marked(given.pool),
    )


def _overlaps(given: ReportInput) -> list[content.Item]:
    rows = tuple((name, data, why) for name, card in given.cards.items() for data, why in card.overlaps.items())
    caption = "Data sets that encoders of the pool may have been trained on"
    return (
        [content.Table(id="overlaps", caption=caption, columns=content.words("encoder", "data set", "why"), rows=rows)]
        if rows
        else []
    )


def _run(given: ReportInput) -> content.Table:
    record = given.record
    rows: list[tuple[content.Value, ...]] = [
        ("started", record.started),
        ("key of data, folds, encoders and options", record.key),
        ("data", record.data.source or record.data.kind or ""),
        ("validation", f"{record.plan.kind}, {record.plan.folds} folds, {record.plan.repeats} repeats"),
        ("fitted on", record.fitted_on),
        ("head", record.head),
    ]
    options = record.options.model_dump(exclude={"encoders", "head"})
    rows += [(name, "none" if value is None else str(value)) for name, value in options.items()]
    rows += [(f"seconds, {name}", f"{value:.1f}") for name, value in record.seconds.items()]
    return content.Table(
        id="run",
        caption="The run: what decides its result, and what it took",
        columns=content.words("what") + content.words("value", code=True),
        rows=tuple(rows),
    )


def _versions(given: ReportInput) -> content.Table:
    there = given.record.environment
    rows = [("format of run.json", str(given.record.format))]
    rows += [(name, str(getattr(there, name) or "none")) for name in ("python", "platform", "processor", "cores")]
    rows.append(("accelerator", there.accelerator or "none"))
    rows += [(name, version or "not installed") for name, version in there.libraries.items()]
    return content.Table(
        id="versions",
        caption="Versions and hardware",
        columns=content.words("what") + content.words("version", code=True),
        rows=tuple(rows),
    )


def _skipped(given: ReportInput) -> content.Table:
    return content.Table(
        id="skipped",
        caption="Encoders that were asked for and could not be run",
        columns=content.words("encoder", "reason", "remedy"),
        rows=tuple((skipped.name, skipped.reason, skipped.remedy) for skipped in given.record.skipped),
    )
