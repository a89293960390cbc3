"""Encoders whose embeddings were made elsewhere: a card that describes them, and no network."""

from pathlib import Path
from typing import NoReturn

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import ESSENTIAL, IMPORTED, EncoderCard, Precision, Weights, unverified
from biofuse.encoders.preprocessing import Preprocessing, card_errors

REMEDY = "Import their embeddings too (`biofuse store import FILE --encoder {name} --data DATA`), or leave {name} out."


def imported_card(
    name: str, *, file: str, sha256: str, dim: int, title: str = "", licence: str = "unknown", modality: str = "unknown"
) -> EncoderCard:
    """Make the card of an encoder of which only embeddings are known.

    Parameters
    ----------
    name : str
    file : str
        Name of the file that the first of the embeddings came from.
    sha256 : str
        Its hash; part of the fingerprint.
    dim : int
    title, licence, modality : str, optional
        What the user says about it.

    Returns
    -------
    EncoderCard
        All of its facts are unverified, and it belongs to no pool. Its preprocessing says nothing: nobody can embed
        an image with it.

    Raises
    ------
    EncoderError
        If the name has letters that are not allowed.
    """
    elsewhere = unverified(f"its embeddings were made elsewhere and imported from {file}")
    with card_errors(name):
        return EncoderCard(
            name=name,
            title=title or name,
            loader=IMPORTED,
            weights=Weights(repository=IMPORTED, revision="unknown", file=file, sha256=sha256),
            preprocessing=Preprocessing(resize="squash", size=1),
            output="pooled",
            dim=dim,
            # Nothing is ever computed, so there is one folder whatever precision the other encoders run in.
            runtime="numpy",
            licence=licence,
            gated=None,
            modality=modality,
            source=f"embeddings imported from {file} (SHA-256 {sha256})",
            facts=dict.fromkeys(ESSENTIAL, elsewhere),
        )


def build(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> NoReturn:
    """Refuse: there is no network.

    Raises
    ------
    EncoderError
        Always, with what can be done instead.
    """
    del device, precision, weights_path
    raise EncoderError(
        f"{card.name} cannot embed images: its embeddings were made elsewhere ({card.source}), and some of these "
        "images have none.",
        remedy=REMEDY.format(name=card.name),
    )


def refuse_images(card: EncoderCard, ids: list[str]) -> EncoderError:
    """Make the error for images that have no embedding of an imported encoder; names the first of them."""
    named = ", ".join(repr(each) for each in ids[:3])
    return EncoderError(
        f"{card.name} cannot embed images: its embeddings were made elsewhere ({card.source}), and {len(ids)} of "
        f"these images have none, e.g. {named}.",
        remedy=REMEDY.format(name=card.name),
    )
