"""Where the numbers come from: versions, hashes, licences, and what the encoders may have seen before."""

from biofuse.model.card import licence_sentences, seen_before
from biofuse.report.content import Cell, Column, Item, Section, Table
from biofuse.report.input import Material

SHORT = 12
"""Characters of a hash that are shown."""


def provenance_section(material: Material) -> Section:
    """Say what the run was computed with, under which licences, and what to beware of."""
    chosen = [material.extras.cards[name] for name in material.chosen if name in material.extras.cards]
    unknown = [name for name in material.chosen if name not in material.extras.cards]
    meaning, warnings = licence_sentences(chosen, unknown)
    warnings += contamination(material)
    items: list[Item] = [_encoders(material), *_overlaps(material), _run(material), _versions(material)]
    if material.run.skipped:
        items.append(_skipped(material))
    return Section(
        id="provenance",
        title="Provenance",
        paragraphs=tuple(meaning),
        warnings=tuple(warnings),
        items=tuple(items),
    )


def contamination(material: Material) -> list[str]:
    """Warn of encoders that may have been trained on the data set of the run."""
    cards = [material.extras.cards[name] for name in material.pool if name in material.extras.cards]
    names = [str(material.run.data.get(key) or "") for key in ("name", "source")]
    return [
        f"{card.name} ({'chosen' if card.name in material.chosen else 'in the pool'}) may have been trained on these "
        f"images: {why}"
        for card, why in seen_before(cards, names)
    ]


def _encoders(material: Material) -> Table:
    rows = []
    for encoder in material.run.encoders:
        card = material.extras.cards.get(encoder["name"])
        weights = None if card is None else card.weights
        rows.append(
            (
                encoder["name"],
                "chosen" if encoder["name"] in material.chosen else "",
                "" if card is None else card.title,
                str(encoder["licence"]),
                {True: "yes", False: "no", None: "not known"}[None if card is None else card.commercial],
                "" if card is None else card.modality,
                "" if card is None else card.training_data,
                "" if weights is None else f"{weights.repository} @ {weights.revision[:SHORT]}",
                "" if weights is None or weights.sha256 is None else weights.sha256[:SHORT],
                str(encoder["fingerprint"]).rpartition("-")[2][:SHORT],
            )
        )
    heads = ("encoder", "", "title", "licence", "commercial use", "kind", "trained on")
    return Table(
        id="encoders",
        caption="Encoders of the pool",
        columns=(
            *(Column(title=head or "chosen") for head in heads),
            Column(title="weights", code=True),
            Column(title="SHA-256", code=True),
            Column(title="fingerprint", code=True),
        ),
        rows=tuple(rows),
        marked=frozenset(place for place, name in enumerate(material.pool) if name in material.chosen),
    )


def _overlaps(material: Material) -> list[Item]:
    rows = tuple(
        (name, data, why)
        for name in material.pool
        if name in material.extras.cards
        for data, why in material.extras.cards[name].overlaps.items()
    )
    if not rows:
        return []
    return [
        Table(
            id="overlaps",
            caption="Data sets that encoders of the pool may have been trained on",
            columns=(Column(title="encoder"), Column(title="data set"), Column(title="why")),
            rows=rows,
        )
    ]


def _run(material: Material) -> Table:
    run = material.run
    rows: list[tuple[Cell, ...]] = [
        ("started", run.started),
        ("key of data, folds, encoders and options", run.key),
        ("data", str(run.data.get("source") or run.data.get("kind") or "")),
        ("validation", f"{run.plan.get('kind')}, {run.plan.get('folds')} folds, {run.plan.get('repeats')} repeats"),
        ("fitted on", run.fitted_on),
        ("head", str(run.selection.get("head", ""))),
    ]
    rows += [(name, _words(value)) for name, value in run.options.items() if name not in {"encoders", "head"}]
    rows += [(f"seconds, {name}", f"{value:.1f}") for name, value in run.seconds.items()]
    return Table(
        id="run",
        caption="The run: what decides its result, and what it took",
        columns=(Column(title="what"), Column(title="value", code=True)),
        rows=tuple(rows),
    )


def _words(value: object) -> str:
    return "none" if value is None else str(value)


def _versions(material: Material) -> Table:
    there = material.run.environment
    rows = [(name, str(there.get(name) or "none")) for name in ("python", "platform", "processor", "cores")]
    rows.append(("accelerator", str(there.get("accelerator") or "none")))
    rows += [(name, str(version or "not installed")) for name, version in there.get("libraries", {}).items()]
    return Table(
        id="versions",
        caption="Versions and hardware",
        columns=(Column(title="what"), Column(title="version", code=True)),
        rows=(("format of run.json", str(material.run.format)), *rows),
    )


def _skipped(material: Material) -> Table:
    return Table(
        id="skipped",
        caption="Encoders that were asked for and could not be run",
        columns=(Column(title="encoder"), Column(title="reason"), Column(title="remedy")),
        rows=tuple((s.get("name", ""), s.get("reason", ""), s.get("remedy", "")) for s in material.run.skipped),
    )
