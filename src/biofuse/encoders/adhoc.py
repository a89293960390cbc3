"""What the cards of ad-hoc encoders have in common: those asked for by where they lie, such as ``timm:NAME``.

They are made on the spot by their loader family, with the preprocessing that the library or the repository publishes.
Nothing of it has been checked by BioFuse.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from biofuse.core.errors import NotOnHubError, UnknownEncoderError
from biofuse.encoders.card import EncoderCard, computed, external
from biofuse.encoders.hub import HubFile, ask, cached, commit_of, download, is_repository
from biofuse.encoders.processors import read_json

if TYPE_CHECKING:
    from torch import nn

COUNTED = computed("counted on the architecture without weights")


def make_card(asked: str, *, network: "Callable[[EncoderCard], nn.Module]", source: str, **fields: Any) -> EncoderCard:
    """Make the card of an ad-hoc encoder.

    Parameters
    ----------
    asked : str
        How it was asked for, with prefix; its name and title unless ``fields`` say otherwise.
    network : callable
        Builds its network without weights, to count the parameters; run under the meta device.
    source : str
        What states the facts.
    **fields
        The other fields of the card.
    """
    stated = external(source)
    card = EncoderCard(
        **{"name": slug(asked), "title": asked.partition(":")[2], "licence": "unknown"} | fields,
        gated=None,
        modality="unknown",
        source=source,
        facts={
            **dict.fromkeys(("weights", "architecture", "preprocessing", "output"), stated),
            **dict.fromkeys(("dim", "parameters"), COUNTED),
        },
    )
    return card.model_copy(update={"parameters": count_parameters(on_meta(lambda: network(card)))})


def slug(text: str) -> str:
    """Return a text as a name that cards can have."""
    return re.sub(r"[^a-z0-9_.\-]+", "-", text.lower())


def on_meta(build: "Callable[[], nn.Module]") -> "nn.Module":
    """Build a network whose parameters have no memory."""
    import torch

    with torch.device("meta"):
        return build()


def count_parameters(network: "nn.Module") -> int:
    """Return the number of learned parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def read_config(
    repository: str, file: str, asked: str, *, form: str, revision: str = "main"
) -> tuple[dict[str, Any], str]:
    """Return a configuration file of a repository, and the commit it was read at.

    Raises
    ------
    UnknownEncoderError
        If what is asked for is not the name of a repository.
    UnavailableWeightsError
        If the file cannot be had.
    """
    if not is_repository(repository):
        raise UnknownEncoderError(
            f"{asked}: {repository!r} is not a model repository (owner/name).",
            remedy=f"Use {form}.",
        )
    path = download(HubFile(repository=repository, revision=revision, file=file, encoder=asked))
    return read_json(path), commit_of(path) or revision


def first_file(repository: str, revision: str, files: Sequence[str], asked: str) -> str:
    """Return the first of the files that the repository has.

    Raises
    ------
    NotOnHubError
        If it has none of them.
    """
    wanted = [HubFile(repository=repository, revision=revision, file=file, encoder=asked) for file in files]
    here = [one.file for one in wanted if cached(one) is not None]
    if here:
        return here[0]
    for one in wanted:
        try:
            ask(one)
        except NotOnHubError:
            continue
        return one.file
    raise NotOnHubError(
        f"{repository} (for {asked}) has none of the files {', '.join(files)}.",
        remedy="Register the encoder under a name of its own, with the file it has.",
    )
