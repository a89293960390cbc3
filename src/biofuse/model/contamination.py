"""Which encoders may have been trained on the very images that a model is fitted and tested on."""

import re
from collections.abc import Iterable, Sequence

from biofuse.encoders.card import EncoderCard


def seen_before(cards: Sequence[EncoderCard], names: Iterable[str]) -> list[tuple[EncoderCard, str]]:
    """Return the encoders whose cards say that they may have seen a data set, each with the reason.

    Parameters
    ----------
    cards : sequence of EncoderCard
    names : iterable of str
        What the data set is called: its name, its path. Upper and lower case, dashes and the like do not matter, and
        ``chestmnist`` is found in ``chestmnist_224``.
    """
    given = [_letters(name) for name in names]
    return [
        (card, why)
        for card in cards
        for data, why in card.overlaps.items()
        if any(_letters(data) in words for words in given)
    ]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
