"""Encoders that a program has registered, on their way to its processes on this machine or on another."""

import pickle
from collections.abc import Iterable
from dataclasses import dataclass

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.functions import packed
from biofuse.encoders.registry import default_registry


@dataclass(frozen=True)
class Builders:
    """What loads the encoders that have a builder of their own, packed; a fresh process may not know them.

    Attributes
    ----------
    cards : tuple of EncoderCard
    builders : tuple of bytes
        One for each card.
    """

    cards: tuple[EncoderCard, ...]
    builders: tuple[bytes, ...]

    def register(self) -> None:
        """Register the encoders in this process."""
        for card, builder in zip(self.cards, self.builders, strict=True):
            # From this program's own parent process.
            default_registry().register(card, pickle.loads(builder), replace=True)  # noqa: S301


def pack_builders(cards: Iterable[EncoderCard]) -> Builders:
    """Pack what loads these encoders, as far as it is not BioFuse's own.

    Raises
    ------
    EncoderError
        If a builder cannot be sent to another process.
    """
    own = [(card, default_registry().own_builder(card.name)) for card in cards]
    known = [(card, _pack(card, builder)) for card, builder in own if builder is not None]
    return Builders(tuple(card for card, _ in known), tuple(builder for _, builder in known))


def _pack(card: EncoderCard, builder: object) -> bytes:
    try:
        return packed(builder)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise EncoderError(
            f"What loads {card.name} cannot be sent to another process: {error}",
            remedy="Register it from a package (an entry point of the group biofuse.encoders), or run on one device.",
        ) from error
