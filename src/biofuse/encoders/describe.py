"""A card in sentences, for the command line and the documentation."""

from biofuse.encoders.card import EncoderCard
from biofuse.encoders.facts import FACT_NAMES, FactName
from biofuse.encoders.hub import COMMIT
from biofuse.encoders.imported import LOADER as IMPORTED
from biofuse.encoders.preprocessing import Preprocessing

OUTPUTS = {
    "cls": "the class token after the last normalisation",
    "pooled": "the network's own pooling over positions",
    "projected": "the projection into the space shared with texts, not normalised",
    "cls+mean": "the class token and the mean of the patch tokens, side by side",
    "descriptor": "computed from the pixels by a formula",
}

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes per parameter."""

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
    memory = ", ".join(f"{gigabytes(card, kind):.2g} GB in {kind}" for kind in ("fp32", "bf16"))
    cost = f"; {card.gflops:,.4g} GFLOPs per image" if card.gflops else ""
    return f"{card.parameters:,} parameters ({memory}){cost}"


def gigabytes(card: EncoderCard, precision: str) -> float:
    """Return the memory of a network's weights in GB (10**9 bytes)."""
    return (card.parameters or 0) * BYTES[precision] / 1e9


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
