"""What the chosen encoders may cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from biofuse.api.config import Config
from biofuse.api.embedding import EmbeddingSet
from biofuse.api.runtime import Tell
from biofuse.core.errors import SearchError
from biofuse.encoders.card import EncoderCard
from biofuse.extract import ExtractOptions
from biofuse.extract.latency import measure_latency
from biofuse.search import Budget


def allowed(cards: Sequence[EncoderCard], *, commercial_only: bool) -> tuple[tuple[EncoderCard, ...], tuple[str, ...]]:
    """Leave encoders out of the pool whose licence does not allow commercial use, or does not say, if asked to.

    Returns
    -------
    cards : tuple of EncoderCard
    notes : tuple of str
        Which were left out, and why.

    Raises
    ------
    SearchError
        If none is left.
    """
    kept = tuple(card for card in cards if card.commercial is True or not commercial_only)
    left_out = [card for card in cards if card not in kept]
    if not kept:
        raise SearchError(
            f"None of {', '.join(card.name for card in cards)} has a licence that allows commercial use.",
            remedy="Offer others: biofuse encoders list --commercial.",
        )
    why = {False: "does not allow commercial use", None: "does not say whether commercial use is allowed"}
    notes = [f"{card.name} is left out: its licence ({card.licence}) {why[card.commercial]}." for card in left_out]
    return kept, tuple(notes)


def make_budget(
    config: Config,
    embeddings: EmbeddingSet,
    *,
    options: ExtractOptions,
    known: Mapping[str, float] | None = None,
    tell: Tell,
) -> Budget:
    """Return what the options allow; where latency is limited, encoders not ``known`` are timed on this machine."""
    latency: dict[str, float] = {}
    if config.max_latency is not None:
        latency = dict(known or {})
        if any(card.name not in latency for card in embeddings.cards):
            latency = measure_latency(
                embeddings.samples, embeddings.cards, options=replace(options, precisions=embeddings.precisions)
            )
        tell("Milliseconds per image: " + ", ".join(f"{name} {value:.1f}" for name, value in latency.items()) + ".")
    return Budget(max_encoders=config.max_encoders, max_latency=config.max_latency, latency=latency)
