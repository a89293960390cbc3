"""What MedImageInsight computes, written out in functions of torch under the names of its file.

From its ImageEncoder/davit_v1.py and UniCLModel.py, whose maps are (n, height, width, columns) here.
"""

import re

import torch
from tests.encoders.vision_transformers import State, Unseen, attend, linear, norm
from torch import Tensor
from torch.nn import functional

WINDOW = 12


def convolved(maps: Tensor, state: State, name: str, **options: int) -> Tensor:
    seen = functional.conv2d(maps.permute(0, 3, 1, 2), state[f"{name}.weight"], state[f"{name}.bias"], **options)
    return seen.permute(0, 2, 3, 1)


def in_windows(maps: Tensor, state: State, at: str, heads: int) -> Tensor:
    """Attention inside squares of :data:`WINDOW` positions; what is missing to the last is zero."""
    height, width = maps.shape[1:3]
    padded = functional.pad(maps, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    rows, columns = (side // WINDOW for side in padded.shape[1:3])
    cut = padded.unflatten(2, (columns, WINDOW)).unflatten(1, (rows, WINDOW)).transpose(2, 3)
    tokens = cut.flatten(3, 4).flatten(0, 2)
    answers = linear(attend(*linear(tokens, state, f"{at}.qkv").chunk(3, -1), heads), state, f"{at}.proj")
    whole = answers.unflatten(1, (WINDOW, WINDOW)).unflatten(0, (-1, rows, columns)).transpose(2, 3)
    return whole.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def among_channels(maps: Tensor, state: State, at: str, heads: int) -> Tensor:
    """Attention of the columns of a head to one another; their products are divided by the root of the positions."""
    tokens = maps.flatten(1, 2)
    query, key, value = (part.unflatten(-1, (heads, -1)) for part in linear(tokens, state, f"{at}.qkv").chunk(3, -1))
    weights = torch.einsum("bphq,bphk->bhqk", query, key) / tokens.shape[1] ** 0.5
    answers = torch.einsum("bhqk,bphk->bphq", weights.softmax(-1), value).flatten(2)
    return linear(answers, state, f"{at}.proj").unflatten(1, maps.shape[1:3])


def block(maps: Tensor, state: State, at: str, *, heads: int, epsilon: float) -> Tensor:
    windows = f"{at}.window_attn.norm.weight" in state
    attention, part = (in_windows, "window_attn") if windows else (among_channels, "channel_attn")
    columns = maps.shape[-1]
    maps = maps + convolved(maps, state, f"{at}.conv1.fn.dw", padding=1, groups=columns)
    maps = maps + attention(norm(maps, state, f"{at}.{part}.norm", epsilon), state, f"{at}.{part}.fn", heads)
    maps = maps + convolved(maps, state, f"{at}.conv2.fn.dw", padding=1, groups=columns)
    hidden = linear(norm(maps, state, f"{at}.ffn.norm", epsilon), state, f"{at}.ffn.fn.net.fc1")
    return maps + linear(functional.gelu(hidden), state, f"{at}.ffn.fn.net.fc2")


def medimageinsight(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """DaViT (Ding et al.), the mean over positions, a matrix, unit length; each stage has twice the heads."""
    maps = pixels.permute(0, 2, 3, 1)
    stages = len({name.split(".")[2] for name in state if name.startswith("image_encoder.convs.")})
    for stage in range(stages):
        at, heads = f"image_encoder.convs.{stage}", unseen.heads * 2**stage
        if stage:
            maps = norm(maps, state, f"{at}.norm", unseen.epsilon)
            maps = convolved(maps, state, f"{at}.proj", stride=2, padding=1)
        else:
            maps = norm(convolved(maps, state, f"{at}.proj", stride=4, padding=3), state, f"{at}.norm", unseen.epsilon)
        inside = re.compile(rf"image_encoder\.blocks\.{stage}\.(\d+)\.")
        for number in range(len({found[1] for name in state if (found := inside.match(name))})):
            for kind in ("spatial", "channel"):
                within = f"image_encoder.blocks.{stage}.{number}.{kind}_block"
                maps = block(maps, state, within, heads=heads, epsilon=unseen.epsilon)
    mean = norm(maps.mean((1, 2)), state, "image_encoder.norms", unseen.epsilon)
    return functional.normalize(mean @ state["image_projection"], dim=-1)
