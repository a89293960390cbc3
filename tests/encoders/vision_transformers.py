"""What published vision transformers compute, written out in functions of torch under the names of their files.

Each function is written from the code of the authors that it names, and takes a table of weights as it lies in the
file; see :mod:`tests.encoders.networks`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """What weights do not show.

    Attributes
    ----------
    heads : int
        Of each attention.
    epsilon : float
        Of the normalisations.
    activation : str
        Of :data:`ACTIVATIONS`; where a gate is, it is SiLU.
    output : str
        Of :func:`pooled`, or what the layout calls its own.
    positions : str
        How positions of another grid are resampled; see :func:`resampled`.
    summary : tuple of int
        Which tokens are C-RADIO's summary.
    pretrained_grid : int
        Side of the grid whose steps rotary positions are counted in.
    """

    heads: int
    epsilon: float = 1e-6
    activation: str = "gelu"
    output: str = "cls"
    positions: str = "antialiased"
    summary: tuple[int, ...] = ()
    pretrained_grid: int = 0


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "quick_gelu": lambda value: value * torch.sigmoid(1.702 * value),
}


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the parts of a layer are called: timm's names, or others."""

    layer: str = "blocks.{}"
    norms: tuple[str, str] = ("norm1", "norm2")
    attention: tuple[str, ...] = ("attn.qkv",)
    answer: str = "attn.proj"
    up: tuple[str, ...] = ("mlp.fc1",)
    down: str = "mlp.fc2"
    scales: tuple[str, str] = ("ls1.gamma", "ls2.gamma")
    inner: tuple[str, str] = ("attn.norm", "mlp.norm")
    last: str = "norm"


def linear(tokens: Tensor, state: State, name: str) -> Tensor:
    return functional.linear(tokens, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(tokens: Tensor, state: State, name: str, epsilon: float) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], state[f"{name}.weight"], state.get(f"{name}.bias"), epsilon)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, *, bias: Tensor | float = 0) -> Tensor:
    """Attention as Vaswani et al. write it; queries, keys and values are (n, tokens, columns), the bias per head."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


Turn = Callable[[Tensor], Tensor]


def layer(
    tokens: Tensor,
    state: State,
    place: int,
    names: Names,
    unseen: Unseen,
    *,
    turn: Turn = lambda part: part,
    bias: Tensor | float = 0,
) -> Tensor:
    """One layer, normalised before attention and feed-forward, and inside them where the file has norms there."""
    at = names.layer.format(place)
    inside = norm(tokens, state, f"{at}.{names.norms[0]}", unseen.epsilon)
    parts = [linear(inside, state, f"{at}.{name}") for name in names.attention]
    query, key, value = parts if len(parts) > 1 else parts[0].chunk(3, -1)
    query, value = query + state.get(f"{at}.attn.q_bias", 0), value + state.get(f"{at}.attn.v_bias", 0)
    answers = attend(turn(query), turn(key), value, unseen.heads, bias=bias)
    if f"{at}.{names.inner[0]}.weight" in state:
        answers = norm(answers, state, f"{at}.{names.inner[0]}", unseen.epsilon)
    tokens = tokens + linear(answers, state, f"{at}.{names.answer}") * state.get(f"{at}.{names.scales[0]}", 1)
    inside = norm(tokens, state, f"{at}.{names.norms[1]}", unseen.epsilon)
    hidden = torch.cat([linear(inside, state, f"{at}.{name}") for name in names.up], -1)
    if hidden.shape[-1] == 2 * state[f"{at}.{names.down}.weight"].shape[1]:
        gate, hidden = hidden.chunk(2, -1)
        hidden = functional.silu(gate) * hidden
    else:
        hidden = ACTIVATIONS[unseen.activation](hidden)
    if f"{at}.{names.inner[1]}.weight" in state:
        hidden = norm(hidden, state, f"{at}.{names.inner[1]}", unseen.epsilon)
    return tokens + linear(hidden, state, f"{at}.{names.down}") * state.get(f"{at}.{names.scales[1]}", 1)


def layers(tokens: Tensor, state: State, names: Names, unseen: Unseen, **options: Any) -> Tensor:
    place = 0
    while f"{names.layer.format(place)}.{names.norms[0]}.weight" in state:
        tokens = layer(tokens, state, place, names, unseen, **options)
        place += 1
    assert place > 1
    return tokens


def resampled(positions: Tensor, grid: int, how: str) -> Tensor:
    """Bring a square table of positions, (1, n * n, columns), to another grid.

    ``antialiased``: timm. ``size``: MAE, RETFound and transformers' DINOv2. ``scale``: DINO and DINOv2. ``bilinear``
    and ``corners``: C-RADIO.
    """
    old = math.isqrt(positions.shape[1])
    if old == grid:
        return positions
    square = positions.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    options: dict[str, dict[str, Any]] = {
        "antialiased": {"size": grid, "mode": "bicubic", "antialias": True},
        "size": {"size": grid, "mode": "bicubic"},
        "scale": {"scale_factor": (grid + 0.1) / old, "mode": "bicubic"},
        "bilinear": {"size": grid, "mode": "bilinear"},
        "corners": {"size": grid, "mode": "bilinear", "align_corners": True},
    }
    return functional.interpolate(square, **options[how]).flatten(2).transpose(1, 2)


def projected_patches(pixels: Tensor, state: State, name: str) -> Tensor:
    weight = state[f"{name}.weight"]
    pixels = pixels.mean(1, keepdim=True) if weight.shape[1] == 1 else pixels
    return (
        functional.conv2d(pixels, weight, state.get(f"{name}.bias"), stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    )


def with_positions(patches: Tensor, before: Tensor | None, registers: Tensor | None, table: Tensor, how: str) -> Tensor:
    """Put class token and registers before the patches; whichever of them the table has places for gets positions."""
    grid, table = math.isqrt(patches.shape[1]), table.reshape(1, -1, table.shape[-1])
    first = [part.reshape(1, -1, part.shape[-1]) for part in (before, registers) if part is not None]
    placed = next(number for number in range(len(first) + 1) if is_square(table, first[:number]))
    counted = sum(part.shape[1] for part in first[:placed])
    tokens = patches + resampled(table[:, counted:], grid, how)
    if placed == 1:
        first[0] = first[0] + table[:, :1]
    elif placed == 2:
        first = [torch.cat(first, 1) + table[:, :counted]]
    return torch.cat([part.expand(len(patches), -1, -1) for part in first] + [tokens], 1)


def is_square(table: Tensor, before: list[Tensor]) -> bool:
    rest = table.shape[1] - sum(part.shape[1] for part in before)
    return math.isqrt(rest) ** 2 == rest


def pooled(tokens: Tensor, state: State, unseen: Unseen, *, before: int, last: str = "norm") -> Tensor:
    """Make one vector of tokens of which ``before`` stand before the patches.

    ``mean, normed``: the mean of the patches before the last normalisation, whose weights follow it.
    ``mean, plain`` and ``normed, mean, plain``: a normalisation without weights follows instead (RETFound, USFM).
    """
    plain = partial(functional.layer_norm, normalized_shape=tokens.shape[-1:], eps=unseen.epsilon)
    if unseen.output == "mean, plain":
        return plain(tokens[:, before:].mean(1))
    if unseen.output == "mean, normed":
        return norm(tokens[:, before:].mean(1), state, last, unseen.epsilon)
    tokens = norm(tokens, state, last, unseen.epsilon)
    first, mean = tokens[:, 0], tokens[:, before:].mean(1)
    outputs = {
        "cls": lambda: first,
        "mean": lambda: mean,
        "cls+mean": lambda: torch.cat((first, mean), -1),
        "normed, mean, plain": lambda: plain(mean),
        "projected": lambda: linear(first, state, "head"),
    }
    return outputs[unseen.output]()


def timm_tokens(pixels: Tensor, state: State, unseen: Unseen, *, registers: str = "reg_token") -> tuple[Tensor, int]:
    patches = projected_patches(pixels, state, "patch_embed.proj")
    tokens = with_positions(patches, state.get("cls_token"), state.get(registers), state["pos_embed"], unseen.positions)
    if "norm_pre.weight" in state:
        tokens = norm(tokens, state, "norm_pre", unseen.epsilon)
    return tokens, tokens.shape[1] - patches.shape[1]


def timm_vit(pixels: Tensor, state: State, unseen: Unseen, *, names: Names | None = None) -> Tensor:
    """Dosovitskiy et al.; with pre-norm and projection, CLIP's."""
    tokens, before = timm_tokens(pixels, state, unseen)
    return pooled(layers(tokens, state, names or Names(), unseen), state, unseen, before=before)


def dinov2(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """facebookresearch/dinov2: dinov2/models/vision_transformer.py, layers/swiglu_ffn.py."""
    tokens, before = timm_tokens(pixels, state, unseen, registers="register_tokens")
    gated = "blocks.0.mlp.w12.weight" in state
    names = Names(up=("mlp.w12",), down="mlp.w3") if gated else Names()
    return pooled(layers(tokens, state, names, unseen), state, unseen, before=before)


def dinov2_in_chunks(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    return dinov2(pixels, {re.sub(r"^blocks\.\d+\.", "blocks.", name): state[name] for name in state}, unseen)


def timm_siglip(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """google-research/big_vision: models/vit.py with pool_type map."""
    tokens, _ = timm_tokens(pixels, state, unseen)
    tokens = norm(layers(tokens, state, Names(), unseen), state, "norm", unseen.epsilon)
    return attention_pool(tokens, state, unseen, heads=unseen.heads)


def attention_pool(tokens: Tensor, state: State, unseen: Unseen, *, heads: int) -> Tensor:
    query = linear(state["attn_pool.latent"], state, "attn_pool.q").expand(len(tokens), -1, -1)
    key, value = linear(tokens, state, "attn_pool.kv").chunk(2, -1)
    found = linear(attend(query, key, value, heads), state, "attn_pool.proj")
    hidden = linear(norm(found, state, "attn_pool.norm", unseen.epsilon), state, "attn_pool.mlp.fc1")
    return (found + linear(ACTIVATIONS[unseen.activation](hidden), state, "attn_pool.mlp.fc2"))[:, 0]


def turned(part: Tensor, angles: Tensor, *, heads: int, halves: bool) -> Tensor:
    """Rotate the last tokens, as many as there are angles: pairs are neighbours, or the halves of a head's columns."""
    part = part.unflatten(-1, (heads, -1)).clone()
    moved = part[:, -len(angles) :]
    sine, cosine = (wave[:, None] for wave in (angles.sin(), angles.cos()))
    if halves:
        real, imaginary = moved.chunk(2, -1)
    else:
        real, imaginary = moved[..., ::2], moved[..., 1::2]
    both = (real * cosine - imaginary * sine, imaginary * cosine + real * sine)
    part[:, -len(angles) :] = torch.cat(both, -1) if halves else torch.stack(both, -1).flatten(-2)
    return part.flatten(2)


def lattice(side: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return rows.flatten().float(), columns.flatten().float()


def frequencies(columns: int) -> Tensor:
    """Su et al.'s, for a part of so many columns."""
    return 10000.0 ** -(torch.arange(0, columns, 2)[: columns // 2] / columns)


def eva_angles(side: int, columns: int, pretrained: int) -> Tensor:
    """baaivision/EVA: rope.py VisionRotaryEmbeddingFast; rows first, in steps of the grid of pretraining."""
    steps = [place / side * pretrained for place in lattice(side)]
    return torch.cat([step[:, None] * frequencies(columns // 2) for step in steps], -1)


def perception_angles(side: int, columns: int, _: int) -> Tensor:
    """facebookresearch/perception_models: core/vision_encoder/rope.py; columns first, counted from 1."""
    rows, places = lattice(side)
    return torch.cat([(step + 1)[:, None] * frequencies(columns // 2) for step in (places, rows)], -1)


def dinov3_angles(side: int, columns: int, _: int) -> Tensor:
    """facebookresearch/dinov3: layers/rope_position_encoding.py, coordinates normalised apart, base 100."""
    periods = 100.0 ** (2 * torch.arange(columns // 4) / (columns // 2))
    steps = [2 * (place + 0.5) / side - 1 for place in lattice(side)]
    return torch.cat([2 * math.pi * step[:, None] / periods for step in steps], -1)


def turn_of(
    angles: Callable[[int, int, int], Tensor], patches: int, width: int, unseen: Unseen, *, halves: bool = False
) -> Turn:
    side = math.isqrt(patches)
    return partial(
        turned,
        angles=angles(side, width // unseen.heads, unseen.pretrained_grid or side),
        heads=unseen.heads,
        halves=halves,
    )


def timm_dinov3(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """facebookresearch/dinov3: models/vision_transformer.py."""
    patches = projected_patches(pixels, state, "patch_embed.proj")
    before = [state[name].expand(len(patches), -1, -1) for name in ("cls_token", "reg_token")]
    tokens = torch.cat([*before, patches], 1)
    up = ("mlp.fc1_g", "mlp.fc1_x") if "blocks.0.mlp.fc1_g.weight" in state else ("mlp.fc1",)
    names = Names(scales=("gamma_1", "gamma_2"), up=up)
    turn = turn_of(dinov3_angles, patches.shape[1], tokens.shape[-1], unseen, halves=True)
    tokens = layers(tokens, state, names, unseen, turn=turn)
    return pooled(tokens, state, unseen, before=tokens.shape[1] - patches.shape[1])


def timm_pe(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """facebookresearch/perception_models: core/vision_encoder/pe.py; eight heads pool."""
    tokens, before = timm_tokens(pixels, state, unseen)
    turn = turn_of(perception_angles, tokens.shape[1] - before, tokens.shape[-1], unseen)
    tokens = norm(layers(tokens, state, Names(), unseen, turn=turn), state, "norm", unseen.epsilon)
    return attention_pool(tokens, state, unseen, heads=8)


def eva02(pixels: Tensor, state: State, unseen: Unseen, *, names: Names) -> Tensor:
    tokens, before = timm_tokens(pixels, state, unseen)
    turn = turn_of(eva_angles, tokens.shape[1] - before, tokens.shape[-1], unseen)
    return pooled(layers(tokens, state, names, unseen, turn=turn), state, unseen, before=before)


def timm_eva02_clip(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """baaivision/EVA: EVA-CLIP/rei/eva_clip/eva_vit_model.py."""
    names = Names(attention=tuple(f"attn.{part}_proj" for part in "qkv"), up=("mlp.fc1_g", "mlp.fc1_x"))
    return eva02(pixels, state, unseen, names=names)


def eva02_of_pretraining(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """baaivision/EVA: EVA-02/asuka/modeling_pretrain.py; the larger sizes have three matrices each, and a norm."""
    if "blocks.0.mlp.w12.weight" in state:
        return eva02(pixels, state, unseen, names=Names(up=("mlp.w12",), down="mlp.w3"))
    attention = tuple(f"attn.{part}_proj" for part in "qkv")
    names = Names(attention=attention, up=("mlp.w1", "mlp.w2"), down="mlp.w3", inner=("attn.norm", "mlp.ffn_ln"))
    return eva02(pixels, state, unseen, names=names)


def genbio_pathfm(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """genbio-ai/genbio-pathfm: genbio_pathfm/model.py, DINOv3 of one channel; vectors of three stand side by side."""
    names = Names(up=("mlp.w1", "mlp.w2"), down="mlp.w3")
    vectors = []
    for channel in pixels.split(1, 1):
        patches = projected_patches(channel, state, "patch_embed.proj")
        before = [state[name].expand(len(patches), -1, -1) for name in ("cls_token", "storage_tokens")]
        tokens = torch.cat([*before, patches], 1)
        turn = turn_of(dinov3_angles, patches.shape[1], tokens.shape[-1], unseen, halves=True)
        tokens = layers(tokens, state, names, unseen, turn=turn)
        vectors.append(pooled(tokens, state, unseen, before=tokens.shape[1] - patches.shape[1]))
    return torch.cat(vectors, 1)


def openphenom(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """recursionpharma/maes_microscopy: maes_microscopy/vit.py; attention beside feed-forward (Dehghani et al.)."""
    spread = pixels.var((2, 3), keepdim=True, correction=0)
    pixels = (pixels - pixels.mean((2, 3), keepdim=True)) * spread.add(1e-5).rsqrt()
    patches = torch.cat([projected_patches(channel, state, "patch_embed.proj") for channel in pixels.split(1, 1)], 1)
    tokens = torch.cat((state["cls_token"].expand(len(patches), -1, -1), patches), 1)
    tokens = tokens + state["pos_embed"][:, : tokens.shape[1]]
    for place in range(len({name.split(".")[1] for name in state if name.startswith("blocks.")})):
        at, width = f"blocks.{place}", tokens.shape[-1]
        inside = linear(norm(tokens, state, f"{at}.in_norm", unseen.epsilon), state, f"{at}.in_proj")
        hidden, *parts = inside.split([inside.shape[-1] - 3 * width, width, width, width], -1)
        query, key = (
            norm(part.unflatten(-1, (unseen.heads, -1)), state, f"{at}.{name}", unseen.epsilon).flatten(2)
            for part, name in zip(parts, ("q_norm", "k_norm"), strict=False)
        )
        answers = linear(attend(query, key, parts[2], unseen.heads), state, f"{at}.attn_out_proj")
        hidden = functional.gelu(hidden + state[f"{at}.mlp_bias"])
        tokens = tokens + (answers + linear(hidden, state, f"{at}.mlp_out_proj")) * state[f"{at}.ls.gamma"]
    return tokens[:, 1:].mean(1)


def timm_aimv2(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """apple/ml-aim: aim-v2/aim/v2/torch/models.py and layers.py; RMS norms, the mean of the patches."""

    def rms(tokens: Tensor, name: str) -> Tensor:
        scale = tokens.square().mean(-1, keepdim=True).add(unseen.epsilon).rsqrt()
        return tokens * scale * state[f"{name}.weight"]

    tokens = rms(projected_patches(pixels, state, "patch_embed.proj"), "patch_embed.norm") + state["pos_embed"]
    for place in range(len({name.split(".")[1] for name in state if name.startswith("blocks.")})):
        at = f"blocks.{place}"
        parts = linear(rms(tokens, f"{at}.norm1"), state, f"{at}.attn.qkv").chunk(3, -1)
        tokens = tokens + linear(attend(*parts, unseen.heads), state, f"{at}.attn.proj")
        gate, value = (linear(rms(tokens, f"{at}.norm2"), state, f"{at}.mlp.{name}") for name in ("fc1_g", "fc1_x"))
        tokens = tokens + linear(functional.silu(gate) * value, state, f"{at}.mlp.fc2")
    return rms(tokens, "norm").mean(1)


BEIT = Names(scales=("gamma_1", "gamma_2"))


def beit(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """microsoft/unilm: beit/modeling_finetune.py with absolute positions, which PanDerm follows, and its head."""
    vector = timm_vit(pixels, state, unseen, names=BEIT)
    return linear(vector, state, "head") if "head.weight" in state else vector


def beit_shared(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """microsoft/unilm: beit/modeling_finetune.py with one table of relative positions for all layers."""
    patches = projected_patches(pixels, state, "patch_embed.proj")
    side = math.isqrt(patches.shape[1])
    rows, columns = lattice(side)
    apart = [place[:, None] - place[None, :] + side - 1 for place in (rows, columns)]
    index = torch.zeros(side**2 + 1, side**2 + 1, dtype=torch.long)
    index[1:, 1:] = (apart[0] * (2 * side - 1) + apart[1]).long()
    # The last three rows: from the class token, to it, and from it to itself.
    index[0, :], index[:, 0], index[0, 0] = ((2 * side - 1) ** 2 + more for more in (0, 1, 2))
    bias = state["rel_pos_bias.relative_position_bias_table"][index].permute(2, 0, 1)
    tokens = torch.cat((state["cls_token"].expand(len(patches), -1, -1), patches), 1)
    return pooled(layers(tokens, state, BEIT, unseen, bias=bias), state, unseen, before=1)


APART = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))


def transformers_dinov2(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """transformers 4.x: models/dinov2 and dinov2_with_registers, which follow facebookresearch/dinov2."""
    patches = projected_patches(pixels, state, "embeddings.patch_embeddings.projection")
    before, table = state["embeddings.cls_token"], state["embeddings.position_embeddings"]
    tokens = with_positions(patches, before, state.get("embeddings.register_tokens"), table, unseen.positions)
    gated = "encoder.layer.0.mlp.weights_in.weight" in state
    names = Names(
        layer="encoder.layer.{}",
        attention=APART,
        answer="attention.output.dense",
        up=("mlp.weights_in",) if gated else ("mlp.fc1",),
        down="mlp.weights_out" if gated else "mlp.fc2",
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    )
    tokens = layers(tokens, state, names, unseen)
    return pooled(tokens, state, unseen, before=tokens.shape[1] - patches.shape[1], last="layernorm")


def transformers_vit(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """google-research/vision_transformer, as transformers 4.x names it."""
    patches = projected_patches(pixels, state, "embeddings.patch_embeddings.projection")
    table = state["embeddings.position_embeddings"]
    tokens = with_positions(patches, state["embeddings.cls_token"], None, table, unseen.positions)
    names = Names(
        layer="encoder.layer.{}",
        norms=("layernorm_before", "layernorm_after"),
        attention=APART,
        answer="attention.output.dense",
        up=("intermediate.dense",),
        down="output.dense",
    )
    return pooled(layers(tokens, state, names, unseen), state, unseen, before=1, last="layernorm")


TOWER = Names(
    layer="vision_model.encoder.layers.{}",
    norms=("layer_norm1", "layer_norm2"),
    attention=tuple(f"self_attn.{part}_proj" for part in "qkv"),
    answer="self_attn.out_proj",
)


def transformers_clip(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """openai/CLIP: clip/model.py, as transformers 4.x names it."""
    within = "vision_model.embeddings"
    patches = projected_patches(pixels, state, f"{within}.patch_embedding")
    before, table = state[f"{within}.class_embedding"][None], state[f"{within}.position_embedding.weight"]
    tokens = with_positions(patches, before, None, table, unseen.positions)
    tokens = layers(norm(tokens, state, "vision_model.pre_layrnorm", unseen.epsilon), state, TOWER, unseen)
    if unseen.output == "tokens":
        return tokens
    first = norm(tokens[:, 0], state, "vision_model.post_layernorm", unseen.epsilon)
    return first if unseen.output == "cls" else linear(first, state, "visual_projection")


def isight(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """zhihuanglab/iSight: model/patch_encoder_with_clam.py; all tokens, without CLIP's last normalisation."""
    tokens = transformers_clip(pixels, under(state, "patch_encoder."), replace(unseen, output="tokens"))
    return linear(tokens, state, "visual_token_projection").mean(1)


def transformers_siglip(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """google-research/big_vision: models/vit.py with pool_type map, as transformers 4.x names it."""
    within, head = "vision_model.embeddings", "vision_model.head"
    tokens = projected_patches(pixels, state, f"{within}.patch_embedding")
    tokens = tokens + state[f"{within}.position_embedding.weight"]
    tokens = norm(layers(tokens, state, TOWER, unseen), state, "vision_model.post_layernorm", unseen.epsilon)
    width = tokens.shape[-1]
    query, key, value = (
        functional.linear(part, matrix, bias)
        for part, matrix, bias in zip(
            (state[f"{head}.probe"].expand(len(tokens), -1, -1), tokens, tokens),
            state[f"{head}.attention.in_proj_weight"].split(width),
            state[f"{head}.attention.in_proj_bias"].split(width),
            strict=True,
        )
    )
    found = linear(attend(query, key, value, unseen.heads), state, f"{head}.attention.out_proj")
    hidden = linear(norm(found, state, f"{head}.layernorm", unseen.epsilon), state, f"{head}.mlp.fc1")
    return (found + linear(ACTIVATIONS[unseen.activation](hidden), state, f"{head}.mlp.fc2"))[:, 0]


def blip2(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """salesforce/LAVIS: lavis/models/eva_vit.py, as transformers 4.x names it: the class token, normalised once."""
    patches = projected_patches(pixels, state, "embeddings.patch_embedding")
    before, table = state["embeddings.class_embedding"], state["embeddings.position_embedding"]
    tokens = with_positions(patches, before, None, table, unseen.positions)
    names = Names(
        layer="encoder.layers.{}",
        norms=("layer_norm1", "layer_norm2"),
        attention=("self_attn.qkv",),
        answer="self_attn.projection",
    )
    return pooled(layers(tokens, state, names, unseen), state, unseen, before=1, last="post_layernorm")


def open_clip_vit(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """openai/CLIP: clip/model.py VisionTransformer."""
    state = {re.sub(r"in_proj_(weight|bias)$", r"in_proj.\1", name): state[name] for name in state}
    patches = projected_patches(pixels, state, "conv1")
    before, table = state["class_embedding"][None], state["positional_embedding"]
    tokens = norm(with_positions(patches, before, None, table, unseen.positions), state, "ln_pre", unseen.epsilon)
    names = Names(
        layer="transformer.resblocks.{}",
        norms=("ln_1", "ln_2"),
        attention=("attn.in_proj",),
        answer="attn.out_proj",
        up=("mlp.c_fc",),
        down="mlp.c_proj",
    )
    first = norm(layers(tokens, state, names, unseen)[:, 0], state, "ln_post", unseen.epsilon)
    return first if unseen.output == "cls" else first @ state["proj"]


def under(state: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}


def all_tokens(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    tokens, _ = timm_tokens(pixels, state, unseen)
    return norm(layers(tokens, state, Names(), unseen), state, "norm", unseen.epsilon)


def open_clip_timm(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """mlfoundations/open_clip: timm_model.py with a linear projection of the class token."""
    first = all_tokens(pixels, under(state, "trunk."), unseen)[:, 0]
    return first if unseen.output == "cls" else linear(first, state, "head.proj")


def conch(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """mahmoodlab/CONCH: conch/open_clip_custom/transformer.py; of v1.5 TRIDENT's model_zoo/conchv1_5.

    Eight heads pool, and the norms of the pooler are torch's own.
    """
    at, epsilon = "attn_pool_contrast", 1e-5
    keys = norm(all_tokens(pixels, under(state, "trunk."), unseen), state, f"{at}.ln_k", epsilon)
    query = norm(state[f"{at}.query"], state, f"{at}.ln_q", epsilon).expand(len(keys), -1, -1)
    if f"{at}.to_q.weight" in state:
        parts = (linear(query, state, f"{at}.to_q"), *linear(keys, state, f"{at}.to_kv").chunk(2, -1))
        found = linear(attend(*parts, 8), state, f"{at}.to_out")
    else:
        biases = state[f"{at}.attn.in_proj_bias"].chunk(3)
        matrices = [state[f"{at}.attn.{part}_proj_weight"] for part in "qkv"]
        seen = zip((query, keys, keys), matrices, biases, strict=True)
        found = linear(attend(*(functional.linear(*each) for each in seen), 8), state, f"{at}.attn.out_proj")
    embedding = norm(found[:, 0], state, "ln_contrast", epsilon)
    return embedding @ state["proj_contrast"] if unseen.output == "projected" else embedding


def keep(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """MAGIC-AI4Med/KEEP: modeling_keep.py; of unit length."""
    names = Names(scales=("ls1.weight", "ls2.weight"))
    trunk = timm_vit(pixels, under(state, "."), unseen, names=names) if unseen.output == "cls" else None
    if trunk is not None:
        return trunk
    first = timm_vit(pixels, under(state, "."), Unseen(heads=unseen.heads, epsilon=unseen.epsilon), names=names)
    hidden = functional.gelu(linear(first, state, "_head.0"))
    return functional.normalize(linear(hidden, state, "_head.2"), dim=-1)


def beit3(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """microsoft/torchscale: architecture/encoder.py, branch A; the first two rows of positions stand for nothing.

    ``magnified``: beside it the mean over the quarters of the image at twice its size (lilab-stanford/MUSK: utils.py).
    """
    names = Names(
        layer="encoder.layers.{}",
        norms=("self_attn_layer_norm.A", "final_layer_norm.A"),
        attention=tuple(f"self_attn.{part}_proj.A" for part in "qkv"),
        answer="self_attn.out_proj.A",
        up=("ffn.A.fc1",),
        down="ffn.A.fc2",
        inner=("self_attn.inner_attn_ln.A", "ffn.A.ffn_layernorm"),
    )

    def first(seen: Tensor) -> Tensor:
        patches = projected_patches(seen, state, "vision_embed.proj")
        table = state["encoder.embed_positions.A.weight"][2:]
        tokens = with_positions(patches, state["vision_embed.cls_token"], None, table, unseen.positions)
        return pooled(
            layers(tokens, state, names, unseen),
            state,
            Unseen(heads=unseen.heads, epsilon=unseen.epsilon),
            before=1,
            last="encoder.layer_norm.A",
        )

    if unseen.output == "cls":
        return first(pixels)
    side = pixels.shape[-1]
    larger = functional.interpolate(pixels, size=2 * side, mode="bicubic")
    quarters = [first(part) for half in larger.split(side, 2) for part in half.split(side, 3)]
    return torch.cat((first(pixels), torch.stack(quarters).mean(0)), 1)


def radio(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """NVlabs/RADIO: radio/vit_patch_generator.py and cls_token.py; no last normalisation."""
    state = under(state, "model.")
    matrix, tokens = state["patch_generator.embedder.weight"], state["patch_generator.cls_token.token"]
    side = math.isqrt(matrix.shape[1] // 3)
    patches = functional.unfold(pixels, side, stride=side).transpose(1, 2) @ matrix.T
    grid = math.isqrt(patches.shape[1])
    patches = patches + resampled(state["patch_generator.pos_embed"], grid, unseen.positions)
    seen = layers(torch.cat((tokens.expand(len(patches), -1, -1), patches), 1), state, Names(), unseen)
    return seen[:, list(unseen.summary)].flatten(1)
