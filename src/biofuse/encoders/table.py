"""The page docs/encoders.md, written from the cards: ``python -m biofuse.encoders.table > docs/encoders.md``."""

import sys
from collections.abc import Iterable, Sequence

from biofuse.encoders import verification
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.describe import access, describe, gigabytes, origins

INTRODUCTION = """\
# Encoders

Written from the cards by `python -m biofuse.encoders.table > docs/encoders.md`; do not edit.

Each encoder is described by a card, and each fact on a card says where it comes from: `external` (somebody else states
it, with the reference), `computed` (BioFuse worked it out) or `unverified`. Only external facts count as verified.
Weights, architecture, preprocessing, output, dimension and licence are essential: an encoder with an unverified
essential is in no alias (but `paper`, which is the list of the paper) and is used only when asked for by name.

For every encoder below the whole architecture is built without weights in BioFuse's tests, and its columns, its number
of parameters and its operations per image must be the card's. No published weights were loaded in writing these cards
except those of the starter pool; the files are checked when they are loaded: names of all weights, number of
parameters, dimension, hash, and that embeddings are finite and differ between images.

A commit or hash pins the weights. Where none is known, the card follows `main` and says so; the hash of the file is
recorded when it is first read, and is part of the embeddings' fingerprint from then on.

*MedMNIST overlaps* are sets whose images, or their sources, an encoder may have been trained on: scores on them may be
too good.

`prov_gigapath` is the real tile encoder (patches of 16 pixels). The column "Prov-GigaPath" of the published results was
made with DINOv2 ViT-g/14: `dinov2_g` here, with the original's preprocessing, so that it can be reproduced.
"""

COLUMNS = ("name", "encoder", "trained on", "columns", "parameters", "GFLOPs", "licence", "access", "unverified")

CHECKED = ("name", "loading compared with", "preprocessing compared with", "weights pinned by", "not verified")


VERIFIED = """\
## What was verified, and how

No published weights could be loaded in writing these cards; the starter pool's, which install with BioFuse, are
compared with stored vectors. Of every other encoder the whole network is built without weights in the tests, and its
columns, parameters and operations per image are the card's.

*Loading*: a checkpoint in the hub's layout and key names is written at a smaller size, loaded as users load it, and
gives what another library gives for the same weights, to 1e-5. *Preprocessing*: an implementation that is not BioFuse's
gives the same pixels for 28 real images of odd sizes and modes (grey, palette, transparent, 16-bit, one pixel high).
*Not verified*: facts that no external source states; their tables below say what is in doubt.
"""


def page(cards: Sequence[EncoderCard]) -> str:
    """Write the page.

    Parameters
    ----------
    cards : sequence of EncoderCard
        In the order of the page.

    Returns
    -------
    str
        Markdown.
    """
    parts = [INTRODUCTION, _aliases(cards), _overview(cards), _verified(cards), _memory(cards)]
    return "\n".join([*parts, *map(_section, cards)])


def _aliases(cards: Sequence[EncoderCard]) -> str:
    members: dict[str, list[str]] = {}
    for card in cards:
        for pool in card.pools:
            members.setdefault(pool, []).append(f"`{card.name}`")
    rows = [(f"`{alias}`", ", ".join(names)) for alias, names in members.items()]
    return f"## Aliases\n\n{_table(('alias', 'encoders'), rows)}"


def _overview(cards: Sequence[EncoderCard]) -> str:
    rows = [
        (
            f"[`{card.name}`](#{_anchor(card)})",
            card.title,
            card.modality,
            f"{card.dim:,}",
            f"{card.parameters / 1e6:,.1f} M" if card.parameters else "",
            f"{card.gflops:,.4g}" if card.gflops else "",
            card.licence + {True: "", False: " (not commercial)", None: " (commercial use unclear)"}[card.commercial],
            {True: "gated", False: "open", None: "unknown"}[card.gated],
            ", ".join(card.unverified),
        )
        for card in cards
    ]
    return f"## All {len(cards)}\n\n{_table(COLUMNS, rows)}"


def _verified(cards: Sequence[EncoderCard]) -> str:
    """Say of every network with published weights what was compared, and what nobody could confirm."""
    rows = [
        (
            f"`{card.name}`",
            verification.loading(card),
            verification.preprocessing(card),
            verification.pinned(card),
            ", ".join(fact for fact, source, _ in origins(card) if source == "unverified"),
        )
        for card in cards
        if card.loader in verification.RELATIVES
    ]
    return f"{VERIFIED}\n{_table(CHECKED, rows)}"


def _memory(cards: Sequence[EncoderCard]) -> str:
    total = sum(gigabytes(card, "bf16") for card in cards)
    paper = sum(gigabytes(card, "bf16") for card in cards if "paper" in card.pools)
    return (
        "## Memory\n\n"
        f"The weights of the paper's nine take {paper:.1f} GB in bf16, those of all encoders here {total:.1f} GB; "
        "twice that in fp32.\n"
    )


def _section(card: EncoderCard) -> str:
    subjects = {name: text for name, text in describe(card).items() if name not in {"access", "source"}}
    lines = [f"## {card.title}: `{card.name}`", ""]
    where = access(card)
    if where:
        lines += [f"{where}.", ""]
    lines += [f"- **{subject}**: {text.replace(chr(10), '; ')}" for subject, text in subjects.items()]
    facts = origins(card)
    if facts:
        lines += ["", _table(("fact", "source", "reference"), facts).rstrip("\n")]
    return "\n".join([*lines, ""])


def _anchor(card: EncoderCard) -> str:
    kept = "".join(letter for letter in f"{card.title}: {card.name}".lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Write the page to standard output."""
    from biofuse.encoders.pool import POOL_CARDS
    from biofuse.encoders.starter import STARTER_CARDS

    sys.stdout.write(page((*POOL_CARDS, *STARTER_CARDS)))


if __name__ == "__main__":
    main()
