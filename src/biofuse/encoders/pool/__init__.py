"""The pool: foundation models with published weights, as cards."""

from biofuse.encoders.card import EncoderCard
from biofuse.encoders.pool.bioptimus import BIOPTIMUS_CARDS
from biofuse.encoders.pool.eyes import EYE_CARDS
from biofuse.encoders.pool.general import GENERAL_CARDS
from biofuse.encoders.pool.kaiko import KAIKO_CARDS
from biofuse.encoders.pool.paper import BASELINE_CARDS, PAPER_CARDS
from biofuse.encoders.pool.paper_pathology import PAPER_PATHOLOGY_CARDS
from biofuse.encoders.pool.pathology import PATHOLOGY_CARDS
from biofuse.encoders.pool.radiology import RADIOLOGY_CARDS
from biofuse.encoders.pool.skin import SKIN_CARDS

__all__ = ["POOL_CARDS"]

OPEN = "open"
"""Alias of the encoders whose weights anybody can download."""


def _with_aliases(card: EncoderCard) -> EncoderCard:
    """Add the aliases that follow from a card's facts.

    An alias chooses for the user, so an encoder with unverified essentials belongs to none of these; it can be asked
    for by name, and ``paper`` names it because the paper does.
    """
    if not card.selectable_by_default:
        return card
    aliases = (card.modality, OPEN) if card.gated is False else (card.modality,)
    return card.model_copy(update={"pools": (*card.pools, *aliases)})


POOL_CARDS: tuple[EncoderCard, ...] = tuple(
    _with_aliases(card)
    for card in (
        *PAPER_CARDS,
        *PAPER_PATHOLOGY_CARDS,
        *BASELINE_CARDS,
        *PATHOLOGY_CARDS,
        *BIOPTIMUS_CARDS,
        *KAIKO_CARDS,
        *RADIOLOGY_CARDS,
        *EYE_CARDS,
        *SKIN_CARDS,
        *GENERAL_CARDS,
    )
)
"""The paper's first."""
