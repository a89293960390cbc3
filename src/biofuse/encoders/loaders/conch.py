"""CONCH and CONCH v1.5: a vision transformer of timm whose tokens one learned query attends to.

Written from the published description (Lu et al. 2024, and the architecture files that the authors publish), with the
names that their checkpoints have. What CONCH adds for captions and for matching texts is left out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from biofuse.core.errors import EncoderError
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.loaders.timm import TIMM, create, timm_layout

State = dict[str, torch.Tensor]

POOLER: dict[str, Any] = {"pooler_dim": None, "pooler_heads": 8, "pooler_queries": 1, "pooler_bias": True}
"""The pooler's arguments and what they are where a card does not say; all others are the trunk's, but ``positions``,
which the timm family explains."""


def build_architecture(card: EncoderCard) -> nn.Module:
    """Build the network of a card of the ``conch`` family, without weights; may run under the meta device.

    Raises
    ------
    EncoderError
        If timm does not know the trunk, or the network contradicts the card.
    """
    if card.output not in {"pooled", "projected"} or card.arguments.get("pooler_dim") != card.dim:
        raise EncoderError(
            f"{card.name} promises {card.dim} columns of the output {card.output!r}; the conch family gives pooler_dim "
            f"({card.arguments.get('pooler_dim')}) columns, pooled or projected."
        )
    side, built = card.preprocessing.output_size, card.arguments.get("img_size", 224)
    if side != built:
        raise EncoderError(f"{card.name} prepares images of {side} pixels, but its network is built for {built}.")
    pooler = POOLER | {name: value for name, value in card.arguments.items() if name in POOLER}
    others = {name: value for name, value in card.arguments.items() if name not in {*POOLER, "positions"}}
    if card.dim % pooler["pooler_heads"]:
        raise EncoderError(f"{card.name}: {card.dim} columns cannot be shared among {pooler['pooler_heads']} heads.")
    return AttentionPooled(
        create(card.architecture, others, name=card.name),
        dim=card.dim,
        heads=pooler["pooler_heads"],
        queries=pooler["pooler_queries"],
        bias=pooler["pooler_bias"],
        projects=card.output == "projected",
    )


def layout_of(card: EncoderCard, network: Any) -> Callable[[State], State]:
    """Return what brings a checkpoint into the network's layout: its trunk's part by timm's rules."""
    convert_trunk = timm_layout(network.trunk, card, positions=card.arguments.get("positions", TIMM))

    def convert(state: State) -> State:
        trunk = {key.removeprefix("trunk."): value for key, value in state.items() if key.startswith("trunk.")}
        others = {key: value for key, value in state.items() if not key.startswith("trunk.")}
        return {f"trunk.{key}": value for key, value in convert_trunk(trunk).items()} | others

    return convert


class AttentionPooled(nn.Module):
    """A vision transformer whose tokens learned queries attend to; the first query's answer is the embedding.

    Parameters
    ----------
    trunk : torch.nn.Module
        A vision transformer of timm; all its tokens, the class token included, are attended to.
    dim : int
        Width of the queries and of the result; a multiple of ``heads``.
    heads : int
        Attention heads.
    queries : int
        Learned queries.
    bias : bool
        True as in CONCH, whose pooler is torch's multi-head attention; False as in CONCH v1.5, whose projections have
        no bias and names of their own.
    projects : bool
        Whether the answer is multiplied by the matrix that brings it into the space shared with texts.
    """

    def __init__(self, trunk: Any, *, dim: int, heads: int, queries: int, bias: bool, projects: bool) -> None:
        super().__init__()
        self.trunk = trunk
        kind = BiasedPooler if bias else PlainPooler
        self.attn_pool_contrast = kind(width=trunk.num_features, dim=dim, heads=heads, queries=queries)
        self.ln_contrast = nn.LayerNorm(dim)
        self.proj_contrast = nn.Parameter(torch.randn(dim, dim)) if projects else None

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Map images of shape (n, 3, height, width) to embeddings of shape (n, dim)."""
        answers = self.attn_pool_contrast(self.trunk.forward_features(batch))
        embedding: torch.Tensor = self.ln_contrast(answers[:, 0])
        return embedding if self.proj_contrast is None else embedding @ self.proj_contrast


class BiasedPooler(nn.Module):
    """Queries that attend to tokens of another width by torch's multi-head attention."""

    def __init__(self, *, width: int, dim: int, heads: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, dim))
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(dim, heads, kdim=width, vdim=width, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens of shape (n, tokens, width) to answers of shape (n, queries, dim)."""
        query, key = self.ln_q(self.query).expand(len(tokens), -1, -1), self.ln_k(tokens)
        answers: torch.Tensor = self.attn(query, key, key, need_weights=False)[0]
        return answers


class PlainPooler(nn.Module):
    """The same with one matrix for keys and values, and no bias anywhere."""

    def __init__(self, *, width: int, dim: int, heads: int, queries: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(queries, dim))
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(width)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens of shape (n, tokens, width) to answers of shape (n, queries, dim)."""
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)
        key, value = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        answers: torch.Tensor = self.to_out(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2))
        return answers
