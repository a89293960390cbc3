"""Where the numbers come from: versions, hashes, licences, and what the encoders may have seen before."""

from biofuse.model.card import licence_sentences, seen_before
from biofuse.report.content import Item, Section, Table, Value, words
from biofuse.report.input import ReportInput

SHORT = 12
"""Characters of a hash that are shown."""


def provenance_section(given: ReportInput) -> Section:
    """Say what the run was computed with, under which licences, and what to beware of."""
    meaning, warnings = licence_sentences([given.cards[name] for name in given.chosen])
    warnings += contamination(given)
    items: list[Item] = [_encoders(given), *_overlaps(given), _run(given), _versions(given)]
    if given.record.skipped:
        items.append(_skipped(given))
    return Section(
        id="provenance",
        title="Provenance",
        paragraphs=tuple(meaning),
        warnings=tuple(warnings),
        items=tuple(items),
    )


def contamination(given: ReportInput) -> list[str]:
    """Warn of encoders that may have been trained on the data set of the run."""
    names = [given.record.name, given.record.data.source or ""]
    return [
        f"{card.name} ({'chosen' if card.name in given.chosen else 'in the pool'}) may have been trained on these "
        f"images: {why}"
        for card, why in seen_before(list(given.cards.values()), names)
    ]


def _encoders(given: ReportInput) -> Table:
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
    return Table(
        id="encoders",
        caption="Encoders of the pool",
        columns=(
            *words("encoder", "chosen", "title", "licence", "commercial use", "kind", "trained on"),
            *words("weights", "SHA-256", "fingerprint", code=True),
        ),
        rows=tuple(rows),
        marked=given.marked(given.pool),
    )


def _overlaps(given: ReportInput) -> list[Item]:
    rows = tuple((name, data, why) for name, card in given.cards.items() for data, why in card.overlaps.items())
    caption = "Data sets that encoders of the pool may have been trained on"
    return (
        [Table(id="overlaps", caption=caption, columns=words("encoder", "data set", "why"), rows=rows)] if rows else []
    )


def _run(given: ReportInput) -> Table:
    record = given.record
    rows: list[tuple[Value, ...]] = [
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
    return Table(
        id="run",
        caption="The run: what decides its result, and what it took",
        columns=(*words("what"), *words("value", code=True)),
        rows=tuple(rows),
    )


def _versions(given: ReportInput) -> Table:
    there = given.record.environment
    rows = [("format of run.json", str(given.record.format))]
    rows += [(name, str(getattr(there, name) or "none")) for name in ("python", "platform", "processor", "cores")]
    rows.append(("accelerator", there.accelerator or "none"))
    rows += [(name, version or "not installed") for name, version in there.libraries.items()]
    return Table(
        id="versions",
        caption="Versions and hardware",
        columns=(*words("what"), *words("version", code=True)),
        rows=tuple(rows),
    )


def _skipped(given: ReportInput) -> Table:
    return Table(
        id="skipped",
        caption="Encoders that were asked for and could not be run",
        columns=words("encoder", "reason", "remedy"),
        rows=tuple((skipped.name, skipped.reason, skipped.remedy) for skipped in given.record.skipped),
    )
