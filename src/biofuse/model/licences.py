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

    @property
    def sentence(self) -> str:
        """What it means for users."""
        if self.commercial is False:
            return "At least one encoder's licence forbids commercial use, and so it is forbidden for the whole model."
        if self.commercial is None:
            return "At least one encoder's licence does not say whether commercial use is allowed; ask its authors."
        return "The licences of all encoders allow commercial use; read their terms all the same."


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
