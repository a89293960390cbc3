"""A network of timm and the layers that its authors put behind it: the way into a space shared with texts.

Where the architecture is a class of transformers, the layers are behind the mean over all its tokens.

A card says with ``head`` what the layers are, one after another (:data:`LAYERS`), and with ``before_pooling`` whether
they see every position of the image or the mean over them. All other arguments are those of timm's network. Names in
the file become ``trunk.`` and ``head.NUMBER.`` by the card's ``rename``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.loaders import loader_of
from biofuse.encoders.loaders.timm import create, timm_layout, width

State = dict[str, torch.Tensor]

OWN_ARGUMENTS = ("head", "before_pooling")


class Normalised(nn.Module):
    """Scales each vector to the length 1."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map vectors of shape (n, columns) to unit vectors."""
        return nn.functional.normalize(vectors, dim=-1)


class Constant(nn.Module):
    """Appends learned columns that are the same for every image: what stands for an earlier image where there is none.

    Parameters
    ----------
    columns : int
        How many.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(columns))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map vectors of shape (n, columns) to longer ones."""
        return torch.cat((vectors, self.value.expand(len(vectors), -1)), dim=1)


class Matrix(nn.Module):
    """Multiplies vectors by a matrix that its file has with a row for each column that goes in.

    Parameters
    ----------
    before, after : int
        Columns that go in and come out.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(before, after))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map vectors of shape (n, before) to (n, after)."""
        return vectors @ self.value


LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear N": nn.Linear,
    "matrix N": Matrix,
    "linear N without bias": lambda before, after: nn.Linear(before, after, bias=False),
    "append N": lambda _, more: Constant(more),
    "batch norm": lambda before, _: nn.BatchNorm1d(before),
    "layer norm": lambda before, _: nn.LayerNorm(before),
    "gelu": lambda *_: nn.GELU(),
    "relu": lambda *_: nn.ReLU(inplace=True),
    "normalise": lambda *_: Normalised(),
}
"""What a head may be made of, by how a card writes it; N stands for a number of columns."""

NUMBER = re.compile(r"\d+")


def head_of(name: str, layers: Sequence[str], columns: int) -> tuple[nn.Sequential, int]:
    """Build a head.

    Parameters
    ----------
    name : str
        The encoder, for messages.
    layers : sequence of str
        As in :data:`LAYERS`.
    columns : int
        What goes in.

    Returns
    -------
    (torch.nn.Sequential, int)
        The layers, and the columns that come out.

    Raises
    ------
    EncoderError
        If there is no such layer.
    """
    built = []
    for layer in layers:
        found = NUMBER.search(layer)
        kind, number = NUMBER.sub("N", layer, count=1), int(found[0]) if found else 0
        if kind not in LAYERS:
            raise EncoderError(
                f"{name} has a head with {layer!r}, which the projection family does not know.",
                remedy=f"Write {', '.join(LAYERS)}, with a number of columns for N.",
            )
        built.append(LAYERS[kind](columns, number))
        columns = number if kind.startswith(("linear", "matrix")) else columns + number
    return nn.Sequential(*built), columns


class Tokens(nn.Module):
    """A network of transformers that gives the mean over all tokens, that of the class included.

    Parameters
    ----------
    network : torch.nn.Module
        Of transformers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward_features(self, batch: torch.Tensor) -> torch.Tensor:
        """Map images of shape (n, 3, height, width) to tokens of shape (n, tokens, columns), not normalised."""
        tokens: torch.Tensor = self.network(pixel_values=batch).last_hidden_state
        return tokens

    def forward_head(self, tokens: torch.Tensor, *, pre_logits: bool) -> torch.Tensor:
        """Average them; the name and the second parameter are those of timm's networks."""
        del pre_logits
        return tokens.mean(dim=1)


class Projected(nn.Module):
    """A network and its head.

    Parameters
    ----------
    trunk : torch.nn.Module
        Of timm, or :class:`Tokens`.
    head : torch.nn.Module
        Maps vectors to vectors.
    before_pooling : bool
        Whether the head is given every position of a feature map, and the mean over its answers is the embedding.
    """

    def __init__(self, trunk: Any, head: nn.Module, *, before_pooling: bool) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.before_pooling = before_pooling

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Map images of shape (n, 3, height, width) to embeddings of shape (n, columns)."""
        features: torch.Tensor = self.trunk.forward_features(batch)
        if not self.before_pooling:
            embedding: torch.Tensor = self.head(self.trunk.forward_head(features, pre_logits=True))
            return embedding
        positions = features.flatten(2).transpose(1, 2)
        answers: torch.Tensor = self.head(positions.flatten(0, 1)).unflatten(0, positions.shape[:2])
        return answers.mean(dim=1)


def build_architecture(card: EncoderCard) -> nn.Module:
    """Build the network of a card of the ``projection`` family, without weights; may run under the meta device.

    Raises
    ------
    EncoderError
        If timm does not know the trunk, the head has a layer that is not known, or they contradict the card.
    """
    arguments = {key: value for key, value in card.arguments.items() if key not in OWN_ARGUMENTS}
    trunk, features, built = _trunk(card, arguments)
    head, columns = head_of(card.name, card.arguments.get("head", ()), features)
    if columns != card.dim:
        raise EncoderError(f"{card.name} promises {card.dim} dimensions, but its head gives {columns}.")
    if card.output not in {"pooled", "projected"}:
        raise EncoderError(
            f"The projection family gives the outputs pooled and projected, not {card.output!r} as {card.name} asks."
        )
    side = card.preprocessing.output_size
    if built not in {None, side}:
        raise EncoderError(f"{card.name} prepares images of {side} pixels, but its network is built for {built}.")
    return Projected(trunk, head, before_pooling=bool(card.arguments.get("before_pooling")))


def _trunk(card: EncoderCard, arguments: Mapping[str, Any]) -> tuple[Any, int, int | None]:
    """Build the network; return it with its columns and the side in pixels that it is built for, if it is for one."""
    if card.architecture[:1].isupper():  # a class; timm's names are of small letters
        family = loader_of("transformers")
        network, settings = family.create(card.architecture, arguments, name=card.name)
        return Tokens(network), family.columns(card.architecture, settings), settings.image_size
    trunk: Any = create(card.architecture, arguments, name=card.name)
    built = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    return trunk, width(trunk), None if built is None else built[0]


def layout_of(card: EncoderCard, network: Any) -> Callable[[State], State]:
    """Return what brings a checkpoint into the network's layout: its trunk's part by the rules of its library.

    Convolutions of 1 x 1 are what authors write for a layer that sees every position; here they are linear layers.
    """
    if isinstance(network.trunk, Tokens):
        root, convert_trunk = "trunk.network.", loader_of("transformers").layout_of(card, network.trunk.network)
    else:
        root, convert_trunk = "trunk.", timm_layout(network.trunk, card)
    shapes = {f"head.{name}": value.shape for name, value in network.head.state_dict().items()}

    def convert(state: State) -> State:
        trunk = {key.removeprefix(root): value for key, value in state.items() if key.startswith(root)}
        others = {key: value for key, value in state.items() if not key.startswith(root)}
        flat = {
            key: value.reshape(shapes[key]) if key in shapes and _is_flat(value, shapes[key]) else value
            for key, value in others.items()
        }
        return {f"{root}{key}": value for key, value in convert_trunk(trunk).items()} | flat

    return convert


def _is_flat(value: torch.Tensor, wanted: torch.Size) -> bool:
    """Tell whether a weight differs from the one wanted by dimensions of the size 1 only."""
    return tuple(size for size in value.shape if size > 1) == tuple(size for size in wanted if size > 1)
