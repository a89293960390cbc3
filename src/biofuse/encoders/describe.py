"""A card in sentences, for the command line, and the overview of all cards for the documentation."""

import sys
from collections.abc import Iterable, Sequence

from biofuse.encoders.card import FACT_NAMES, EncoderCard, FactName, Precision
from biofuse.encoders.hub import COMMIT
from biofuse.encoders.loaders.imported import LOADER as IMPORTED
from biofuse.encoders.preprocessing import Preprocessing

OUTPUTS = {
    "cls": "the class token after the last normalisation",
    "pooled": "the network's own pooling over positions",
    "projected": "the projection into the space shared with texts, not normalised",
    "cls+mean": "the class token and the mean of the patch tokens, side by side",
    "descriptor": "computed from the pixels by a formula",
}

COMMERCIAL = {
    True: "commercial use is allowed",
    False: "no commercial use",
    None: "whether commercial use is allowed is not clear, so read it first",
}


def describe(card: EncoderCard) -> dict[str, str]:
    """Say everything a card knows, a paragraph per subject.

    Parameters
    ----------
    card : EncoderCard

    Returns
    -------
    dict of str
        Subjects, in reading order, and what there is to say; lines are separated by newlines. Where the facts come
        from is in :func:`origins`.
    """
    paragraphs = {
        "what it is": what(card),
        "licence": licence(card),
        "access": access(card),
        "weights": weights(card),
        "image": "unknown: it was embedded elsewhere" if card.loader == IMPORTED else image(card.preprocessing),
        "embedding": f"{card.dim:,} columns: {OUTPUTS[card.output]}",
        "size": size(card),
        "precision": f"{card.advised_precision} is advised. {card.precision_note}" if card.precision_note else "",
        "trained on": card.training_data + _doubt(card, "training_data"),
        "overlaps": overlaps(card),
        "notes": "\n".join(card.notes),
        "needs": ", ".join(card.requires),
        "aliases": ", ".join(card.pools),
        "chosen by default": default(card),
        "compared with": compared(card),
        "source": card.source,
        "citation": card.citation + _doubt(card, "citation"),
    }
    return {subject: text for subject, text in paragraphs.items() if text}


def what(card: EncoderCard) -> str:
    """Say what an encoder is."""
    if card.weights is None:
        return f"A {'descriptor' if card.output == 'descriptor' else 'function'} without learned weights"
    trained = card.modality.replace("none", "unknown")
    return f"A frozen network for {trained} images: {card.architecture or 'its own architecture'} ({card.loader})"


def licence(card: EncoderCard) -> str:
    """Say under which licence the weights are, and what that means."""
    return f"{card.licence}: {COMMERCIAL[card.commercial]}"


def access(card: EncoderCard) -> str:
    """Say how to get the weights; empty for encoders that have none."""
    if card.weights is None:
        return ""
    if card.weights.repository == "manual":
        asked = "after a form" if card.gated else "for anybody"
        return f"The file is offered {asked} at {card.page}; give its path"
    if card.gated:
        return f"Gated: ask for access at {card.page}, then `hf auth login`"
    if card.gated is None:
        return f"Not known to be gated; see {card.page}"
    return f"Open: {card.page}" if card.page else "Open"


def weights(card: EncoderCard) -> str:
    """Say where the weights come from and whether they are pinned."""
    source = card.weights
    if source is None:
        return "none"
    file = source.file
    if source.sharded:
        file = f"the shards that {source.file} lists for {source.prefix}*"
    if source.pinned:
        commit = f"commit {source.revision}" if COMMIT.fullmatch(source.revision) else ""
        sha256 = f"SHA-256 {source.sha256}" if source.sha256 else ""
        pinned = "\n".join(part for part in (commit, sha256) if part) or f"version {source.revision}"
    else:
        pinned = f"not pinned, follows {source.revision!r}: the hash is recorded when they are first read"
    return f"{file} of {source.repository}\n{pinned}"


def image(spec: Preprocessing) -> str:
    """Say how an image is prepared."""
    how = f"to {spec.size} x {spec.size} pixels, whatever its shape"
    if spec.resize == "shortest":
        how = f"shorter side to {spec.size} pixels"
    crop = f", then the centre of {spec.crop} x {spec.crop}" if spec.crop is not None else ""
    scale = {"0-1": "on a scale of 0 to 1", "0-255": "on a scale of 0 to 255", "min-max": "each image stretched to 0-1"}
    numbers = f"mean {_numbers(spec.mean)}, std {_numbers(spec.std)}, {scale[spec.value_range]}"
    return f"{how}, {spec.interpolation}{crop}\n{numbers}"


def size(card: EncoderCard) -> str:
    """Say how large and how costly a network is; empty for encoders without one."""
    if not card.parameters:
        return ""
    kinds: tuple[Precision, ...] = ("fp32", "bf16")
    memory = ", ".join(f"{(card.weight_bytes(kind) or 0) / 1e9:.2g} GB in {kind}" for kind in kinds)
    cost = f"; {card.gflops:,.4g} GFLOPs per image" if card.gflops else ""
    return f"{card.parameters:,} parameters ({memory}){cost}"


def overlaps(card: EncoderCard) -> str:
    """Say which MedMNIST sets it may have been trained on; empty for encoders without training."""
    if not card.training_data:
        return ""
    if not card.overlaps:
        return "with MedMNIST: none known"
    said = "\n".join(f"{name}: {why}" for name, why in card.overlaps.items())
    return said + _doubt(card, "overlaps")


def _doubt(card: EncoderCard, name: FactName) -> str:
    """Mark what no external source states, where the card says anything and has weights at all."""
    if card.weights is None or not getattr(card, name):
        return ""
    fact = card.facts.get(name)
    return "" if fact is not None and fact.source == "external" else " (not verified)"


def default(card: EncoderCard) -> str:
    """Say whether aliases may choose it."""
    if card.weights is None:
        return "yes: its own code is what defines it"
    if card.selectable_by_default:
        return "yes: every essential fact has an external source"
    return f"no: {', '.join(card.unverified)} not verified; ask for it by name"


def compared(card: EncoderCard) -> str:
    """Say what its loading and its preprocessing are compared with in BioFuse's tests; empty where there is nothing."""
    if card.weights is None or not (card.compared.loading or card.compared.preprocessing):
        return ""
    preprocessing = card.compared.preprocessing or "not compared: no independent source"
    return f"loading: {card.compared.loading or 'not compared'}\npreprocessing: {preprocessing}"


def pinned(card: EncoderCard) -> str:
    """Say in a word what keeps the weights from changing."""
    if card.weights is None:
        return ""
    if not card.weights.pinned:
        return "not yet"
    return "hash" if card.weights.sha256 else "commit"


def origins(card: EncoderCard) -> list[tuple[str, str, str]]:
    """Say of each fact where it comes from.

    Returns
    -------
    list of (fact, source, reference)
        Empty for encoders without weights: their own code is what defines them.
    """
    if card.weights is None:
        return []
    missing = ("unverified", "the card does not say")
    return [
        (name, *((card.facts[name].source, card.facts[name].reference) if name in card.facts else missing))
        for name in FACT_NAMES
    ]


def _numbers(values: tuple[float, ...]) -> str:
    shown = [f"{value:g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"


INTRODUCTION = """\
# Encoders

Written from the cards by `make docs`; do not edit.

An encoder is described by a card, a TOML file in `src/biofuse/encoders/cards/`; `biofuse encoders show NAME` tells
all of it. Each fact on a card says where it comes from: `external` (somebody else states it, with the reference),
`computed` (BioFuse worked it out) or `unverified`. Only external facts count as verified. Weights, architecture,
preprocessing, output, dimension and licence are essential: an encoder with an unverified essential is in no alias
(but `paper`, which is the list of the paper) and is used only when asked for by name.

For every encoder below the whole architecture is built without weights in BioFuse's tests, and its columns, its
number of parameters and its operations per image must be the card's. No published weights could be loaded in writing
these cards; the starter pool's, which install with BioFuse, are compared with stored vectors. Of the others the card
says what its loading and its preprocessing were compared with: a checkpoint in the hub's layout and key names is
written at a smaller size, loaded as users load it, and gives what another library gives for the same weights, to
1e-5; an implementation that is not BioFuse's gives the same pixels for 28 real images of odd sizes and modes (grey,
palette, transparent, 16-bit, one pixel high). Files are checked when they are loaded: names of all weights, number of
parameters, dimension, hash, and that embeddings are finite and differ between images.

A commit or hash pins the weights. Where none is known, the card follows `main` and says so; the hash of the file is
recorded when it is first read, and is part of the embeddings' fingerprint from then on.

`prov_gigapath` is the real tile encoder (patches of 16 pixels). The column "Prov-GigaPath" of the published results
was made with DINOv2 ViT-g/14: `dinov2_g` here, with the original's preprocessing, so that it can be reproduced.
"""

COLUMNS = (
    "name",
    "encoder",
    "trained on",
    "columns",
    "parameters",
    "GFLOPs",
    "licence",
    "access",
    "pinned",
    "unverified",
)


def overview(cards: Sequence[EncoderCard]) -> str:
    """Write docs/encoders.md.

    Parameters
    ----------
    cards : sequence of EncoderCard
        In the order of the page.

    Returns
    -------
    str
        Markdown.
    """
    members: dict[str, list[str]] = {}
    for card in cards:
        for pool in card.pools:
            members.setdefault(pool, []).append(f"`{card.name}`")
    aliases = [(f"`{alias}`", ", ".join(names)) for alias, names in members.items()]
    rows = [
        (
            f"`{card.name}`",
            card.title,
            card.modality,
            f"{card.dim:,}",
            f"{card.parameters / 1e6:,.1f} M" if card.parameters else "",
            f"{card.gflops:,.4g}" if card.gflops else "",
            card.licence + {True: "", False: " (not commercial)", None: " (commercial use unclear)"}[card.commercial],
            {True: "gated", False: "open", None: "unknown"}[card.gated],
            pinned(card),
            ", ".join(card.unverified),
        )
        for card in cards
    ]
    total = sum(card.weight_bytes("bf16") or 0 for card in cards) / 1e9
    paper = sum(card.weight_bytes("bf16") or 0 for card in cards if "paper" in card.pools) / 1e9
    memory = f"The weights of the paper's nine take {paper:.1f} GB in bf16, those of all encoders here {total:.1f} GB"
    parts = [
        INTRODUCTION,
        f"## Aliases\n\n{_table(('alias', 'encoders'), aliases)}",
        f"## All {len(cards)}\n\n{_table(COLUMNS, rows)}",
        f"{memory}; twice that in fp32.\n",
    ]
    return "\n".join(parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    from biofuse.encoders.registry import EncoderRegistry

    sys.stdout.write(overview(EncoderRegistry(plugins=False).list_cards()))
