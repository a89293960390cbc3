"""What the licences of several encoders mean for the model that needs them all."""

from collections.abc import Sequence
from dataclasses import dataclass

from biofuse.encoders.card import EncoderCard

CHAIN = (
    "CC0-1.0", "BSD-3-Clause", "MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0",
)  # fmt: skip
"""SPDX identifiers, each allowing no more than those before it; the rest compares with none of them."""

OTHER = "other"
"""What the Hugging Face hub calls a licence that is none of its list, or several."""


SHARE_ALIKE = ("-SA", "GPL")
"""What SPDX identifiers of licences have in them that ask for the same licence again."""

NO_DERIVATIVES = "-ND"
"""What those have that forbid handing on changed works."""


@dataclass(frozen=True, kw_only=True)
class CombinedLicence:
    """The licence of a model of several encoders, as far as it follows from theirs.

    Attributes
    ----------
    identifier : str
        As the Hugging Face hub writes it; ``other`` where the licences do not combine to one of them.
    name : str
        The licences in words, where that is ``other``.
    commercial : bool or None
        Whether commercial use is allowed: by all (True), not by all (False), or not known (None).
    """

    identifier: str
    name: str
    commercial: bool | None


def combine_licences(cards: Sequence[EncoderCard]) -> CombinedLicence:
    """Return the most restrictive of the encoders' licences, where they can be put in order.

    Parameters
    ----------
    cards : sequence of EncoderCard
        At least one.
    """
    names = tuple(dict.fromkeys(card.licence for card in cards))
    commercial: bool | None = True
    if any(card.commercial is False for card in cards):
        commercial = False
    elif any(card.commercial is None for card in cards):
        commercial = None
    if all(name in CHAIN for name in names):
        strictest = max(names, key=CHAIN.index)
        return CombinedLicence(identifier=strictest.lower(), name=strictest, commercial=commercial)
    if len(names) == 1 and names[0].startswith("CC-"):
        return CombinedLicence(identifier=names[0].lower(), name=names[0], commercial=commercial)
    return CombinedLicence(identifier=OTHER, name=" and ".join(sorted(names)), commercial=commercial)


def licence_sentences(cards: Sequence[EncoderCard], unknown: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Say what the licences of the encoders mean for the model that combines them.

    Parameters
    ----------
    cards : sequence of EncoderCard
    unknown : sequence of str
        Encoders of the model whose cards are not at hand.

    Returns
    -------
    sentences, warnings : list of str
        What there is to know, and what to beware of.
    """
    said, warnings = [], []
    forbidden = [card for card in cards if card.commercial is False]
    unclear = [card.name for card in cards if card.commercial is None] + list(unknown)
    if forbidden:
        warnings.append(
            f"The combined model must not be used commercially: the licence of {_each(forbidden)} forbids it."
        )
    if unclear:
        warnings.append(
            f"Whether the combined model may be used commercially is not known: {', '.join(unclear)} "
            f"{'does' if len(unclear) == 1 else 'do'} not say."
        )
    if not forbidden and not unclear:
        licences = ", ".join(dict.fromkeys(card.licence for card in cards))
        said.append(f"Every encoder's licence allows commercial use ({licences}).")
    gated = [card.name for card in cards if card.gated]
    if gated:
        said.append(f"Whoever runs the model has to ask for access to {', '.join(gated)} first.")
    alike = [card for card in cards if any(mark in card.licence.upper() for mark in SHARE_ALIKE)]
    if alike:
        warnings.append(f"{_each(alike)} may ask that what is derived is handed on under the same licence.")
    fixed = [card for card in cards if NO_DERIVATIVES in card.licence.upper()]
    if fixed:
        warnings.append(f"{_each(fixed)} forbids handing on changed weights, such as fine-tuned ones.")
    said.append(
        "The model holds a predictor and refers to its encoders; their weights are not part of it and keep their own "
        "terms, all of which hold for whoever uses the combination. This is a summary of what the cards say, not legal "
        "advice."
    )
    return said, warnings


def _each(cards: Sequence[EncoderCard]) -> str:
    return " and ".join(f"{card.name} ({card.licence})" for card in cards)
