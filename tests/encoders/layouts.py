"""How published weight files name and shape their weights: one function for each of those who name them.

Nothing here is read from a card, and nothing is built: names and shapes are written out from the named source. A family
of encoders whose names are new is one more function, and its row of :data:`LAYOUTS`.
"""

import re
from collections.abc import Callable
from typing import Any

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def patches(name: str, width: int, patch: int, *, bias: bool = True, channels: int = 3) -> Shapes:
    return {f"{name}.weight": (width, channels, patch, patch)} | ({f"{name}.bias": (width,)} if bias else {})


def timm_vit(
    *,
    width: int,
    layers: int,
    patch: int,
    tokens: int,
    hidden: int,
    registers: int = 0,
    layer_scale: bool = False,
    swiglu: bool = False,
    fc: tuple[str, str] = ("fc1", "fc2"),
    register_name: str = "reg_token",
    pre_norm: bool = False,
    head: int = 0,
) -> Shapes:
    """timm's VisionTransformer; with other names for the layers of the MLP, DINOv2's own; pre-norm and head: CLIP's."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width)}
    shapes |= patches("patch_embed.proj", width, patch, bias=not pre_norm)
    shapes |= (norm("norm_pre", width) if pre_norm else {}) | (linear("head", head, width) if head else {})
    if registers:
        shapes[register_name] = (1, registers, width)
    for block in (f"blocks.{number}" for number in range(layers)):
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.{fc[0]}", hidden, width)
        shapes |= linear(f"{block}.mlp.{fc[1]}", width, hidden // 2 if swiglu else hidden)
        if layer_scale:
            shapes |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
    return shapes | norm("norm", width)


def dinov2(**numbers: Any) -> Shapes:
    """facebookresearch/dinov2: dinov2/models/vision_transformer.py, layers/swiglu_ffn.py."""
    names = ("w12", "w3") if numbers.get("swiglu") else ("fc1", "fc2")
    return timm_vit(**numbers, layer_scale=True, fc=names, register_name="register_tokens")


def dinov2_in_chunks(*, layers: int, **numbers: Any) -> Shapes:
    """valeoai/Franca: franca/models/vision_transformer.py, which keeps its blocks in four chunks, by their numbers."""
    chunk = max(layers // 4, 1)
    return {
        re.sub(r"^blocks\.(\d+)", lambda found: f"blocks.{int(found[1]) // chunk}.{found[1]}", name): shape
        for name, shape in dinov2(layers=layers, **numbers).items()
    }


def timm_siglip(*, width: int, layers: int, patch: int, tokens: int, hidden: int) -> Shapes:
    shapes = timm_vit(width=width, layers=layers, patch=patch, tokens=tokens, hidden=hidden)
    del shapes["cls_token"]
    return shapes | attention_pool(width, hidden)


def attention_pool(width: int, hidden: int) -> Shapes:
    """timm: layers/attention_pool.py."""
    shapes = {"attn_pool.latent": (1, 1, width), **linear("attn_pool.q", width, width)}
    shapes |= linear("attn_pool.kv", 2 * width, width) | linear("attn_pool.proj", width, width)
    shapes |= norm("attn_pool.norm", width)
    return shapes | linear("attn_pool.mlp.fc1", hidden, width) | linear("attn_pool.mlp.fc2", width, hidden)


def timm_pe(
    *, width: int, layers: int, patch: int, tokens: int, hidden: int, pool: int = 0, class_token: bool = True
) -> Shapes:
    """timm's Eva with the parts of the Perception Encoder's core models; pool: where its own MLP is another."""
    shapes = timm_vit(width=width, layers=layers, patch=patch, tokens=tokens, hidden=hidden, pre_norm=True)
    if not class_token:
        del shapes["cls_token"]
    return shapes | attention_pool(width, pool or hidden)


def timm_eva02_clip(*, width: int, layers: int, patch: int, tokens: int, hidden: int, head: int) -> Shapes:
    """timm's Eva with the parts of EVA-02's CLIP towers: SwiGLU, and norms inside attention and MLP."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width), **patches("patch_embed.proj", width, patch)}
    for block in (f"blocks.{number}" for number in range(layers)):
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.q_proj", width, width) | linear(f"{block}.attn.v_proj", width, width)
        shapes |= linear(f"{block}.attn.k_proj", width, width, bias=False)
        shapes |= norm(f"{block}.attn.norm", width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1_g", hidden, width) | linear(f"{block}.mlp.fc1_x", hidden, width)
        shapes |= norm(f"{block}.mlp.norm", hidden) | linear(f"{block}.mlp.fc2", width, hidden)
    return shapes | norm("norm", width) | linear("head", head, width)


def torchvision_convnext(*, width: int, stages: list[int]) -> Shapes:
    """torchvision: models/convnext.py, without the last layer."""
    shapes = {**patches("features.0.0", width, 4), **norm("features.0.1", width)}
    for number, depth in enumerate(stages):
        columns = width * 2**number
        if number:
            shapes |= norm(f"features.{2 * number}.0", columns // 2)
            shapes |= {f"features.{2 * number}.1.weight": (columns, columns // 2, 2, 2)}
            shapes |= {f"features.{2 * number}.1.bias": (columns,)}
        for block in (f"features.{2 * number + 1}.{each}" for each in range(depth)):
            shapes |= {f"{block}.layer_scale": (columns, 1, 1), f"{block}.block.0.weight": (columns, 1, 7, 7)}
            shapes |= {f"{block}.block.0.bias": (columns,), **norm(f"{block}.block.2", columns)}
            shapes |= linear(f"{block}.block.3", 4 * columns, columns)
            shapes |= linear(f"{block}.block.5", columns, 4 * columns)
    return shapes | norm("classifier.0", width * 8)


def timm_aimv2(*, width: int, layers: int, patch: int, tokens: int, hidden: int) -> Shapes:
    """timm's VisionTransformer with the parts of AIMv2: SwiGLU, RMS norms, hardly a bias."""
    shapes = {"pos_embed": (1, tokens, width), **patches("patch_embed.proj", width, patch)}
    shapes |= {"patch_embed.norm.weight": (width,), "norm.weight": (width,)}
    for block in (f"blocks.{number}" for number in range(layers)):
        shapes |= {f"{block}.norm1.weight": (width,), f"{block}.norm2.weight": (width,)}
        for layer, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1_g", hidden, width),
            ("mlp.fc1_x", hidden, width),
            ("mlp.fc2", width, hidden),
        ):
            shapes |= linear(f"{block}.{layer}", rows, columns, bias=False)
    return shapes


def timm_convnext(*, width: int, stages: list[int]) -> Shapes:
    """timm: models/convnext.py."""
    shapes = {**patches("stem.0", width, 4), **norm("stem.1", width)}
    for number, depth in enumerate(stages):
        stage, columns = f"stages.{number}", width * 2**number
        if number:
            shapes |= norm(f"{stage}.downsample.0", columns // 2)
            shapes |= {f"{stage}.downsample.1.weight": (columns, columns // 2, 2, 2)}
            shapes |= {f"{stage}.downsample.1.bias": (columns,)}
        for block in (f"{stage}.blocks.{each}" for each in range(depth)):
            shapes |= {f"{block}.gamma": (columns,), f"{block}.conv_dw.weight": (columns, 1, 7, 7)}
            shapes |= {f"{block}.conv_dw.bias": (columns,), **norm(f"{block}.norm", columns)}
            shapes |= linear(f"{block}.mlp.fc1", 4 * columns, columns) | linear(
                f"{block}.mlp.fc2", columns, 4 * columns
            )
    return shapes | norm("head.norm", width * 8)


def timm_dinov3(*, width: int, layers: int, patch: int, hidden: int, registers: int, swiglu: bool = False) -> Shapes:
    shapes = {"cls_token": (1, 1, width), "reg_token": (1, registers, width)}
    shapes |= patches("patch_embed.proj", width, patch)
    for block in (f"blocks.{number}" for number in range(layers)):
        shapes |= {f"{block}.gamma_1": (width,), f"{block}.gamma_2": (width,)}
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width, bias=False)
        shapes |= linear(f"{block}.attn.proj", width, width)
        up = ("fc1_g", "fc1_x") if swiglu else ("fc1",)
        for layer in up:
            shapes |= linear(f"{block}.mlp.{layer}", hidden, width)
        shapes |= linear(f"{block}.mlp.fc2", width, hidden)
    return shapes | norm("norm", width)


def beit(*, width: int, layers: int, patch: int, tokens: int, hidden: int, head: int = 0) -> Shapes:
    """microsoft/unilm beit/modeling_finetune.py with absolute positions, which CAE and PanDerm follow."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width), **patches("patch_embed.proj", width, patch)}
    for block in (f"blocks.{number}" for number in range(layers)):
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= {f"{block}.{name}": (width,) for name in ("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias")}
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width, bias=False)
        shapes |= linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", hidden, width) | linear(f"{block}.mlp.fc2", width, hidden)
    return shapes | norm("norm", width) | (linear("head", head, width) if head else {})


def beit_shared(*, width: int, layers: int, patch: int, hidden: int, heads: int, grid: int) -> Shapes:
    """BEiT before its fine-tuning: no absolute positions, one table of relative ones for all blocks."""
    shapes = beit(width=width, layers=layers, patch=patch, tokens=0, hidden=hidden)
    del shapes["pos_embed"]
    table = "rel_pos_bias.relative_position"
    tokens = grid**2 + 1
    return shapes | {f"{table}_bias_table": ((2 * grid - 1) ** 2 + 3, heads), f"{table}_index": (tokens, tokens)}


def transformers_dinov2(
    *,
    width: int,
    layers: int,
    patch: int,
    tokens: int,
    hidden: int,
    registers: int = 0,
    swiglu: bool = False,
    channels: int = 3,
) -> Shapes:
    """transformers 4.x: models/dinov2 and dinov2_with_registers."""
    shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, tokens, width),
        **patches("embeddings.patch_embeddings.projection", width, patch, channels=channels),
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, width)
    for layer in (f"encoder.layer.{number}" for number in range(layers)):
        shapes |= norm(f"{layer}.norm1", width) | norm(f"{layer}.norm2", width)
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= linear(f"{layer}.attention.{part}", width, width)
        up, down = ("weights_in", "weights_out") if swiglu else ("fc1", "fc2")
        shapes |= linear(f"{layer}.mlp.{up}", 2 * hidden if swiglu else hidden, width)
        shapes |= linear(f"{layer}.mlp.{down}", width, hidden)
        shapes |= {f"{layer}.layer_scale{which}.lambda1": (width,) for which in (1, 2)}
    return shapes | norm("layernorm", width)


def transformers_vit(*, width: int, layers: int, patch: int, tokens: int, hidden: int) -> Shapes:
    """transformers 4.x: models/vit."""
    shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embeddings": (1, tokens, width),
        **patches("embeddings.patch_embeddings.projection", width, patch),
    }
    for layer in (f"encoder.layer.{number}" for number in range(layers)):
        shapes |= norm(f"{layer}.layernorm_before", width) | norm(f"{layer}.layernorm_after", width)
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= linear(f"{layer}.attention.{part}", width, width)
        shapes |= linear(f"{layer}.intermediate.dense", hidden, width) | linear(f"{layer}.output.dense", width, hidden)
    return shapes | norm("layernorm", width)


def transformers_clip(*, width: int, layers: int, patch: int, tokens: int, hidden: int, projection: int) -> Shapes:
    """transformers 4.x: models/clip, the vision tower."""
    shapes = {
        "visual_projection.weight": (projection, width),
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.position_embedding.weight": (tokens, width),
        **patches("vision_model.embeddings.patch_embedding", width, patch, bias=False),
        **norm("vision_model.pre_layrnorm", width),
    }
    for layer in (f"vision_model.encoder.layers.{number}" for number in range(layers)):
        shapes |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{part}", width, width)
        shapes |= linear(f"{layer}.mlp.fc1", hidden, width) | linear(f"{layer}.mlp.fc2", width, hidden)
    return shapes | norm("vision_model.post_layernorm", width)


def transformers_siglip(*, width: int, layers: int, patch: int, tokens: int, hidden: int) -> Shapes:
    """transformers 4.x: models/siglip, the vision tower."""
    shapes = {
        "vision_model.embeddings.position_embedding.weight": (tokens, width),
        **patches("vision_model.embeddings.patch_embedding", width, patch),
    }
    for layer in (f"vision_model.encoder.layers.{number}" for number in range(layers)):
        shapes |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{part}", width, width)
        shapes |= linear(f"{layer}.mlp.fc1", hidden, width) | linear(f"{layer}.mlp.fc2", width, hidden)
    head = "vision_model.head"
    shapes |= norm("vision_model.post_layernorm", width) | norm(f"{head}.layernorm", width)
    shapes |= {f"{head}.probe": (1, 1, width), f"{head}.attention.in_proj_weight": (3 * width, width)}
    shapes |= {f"{head}.attention.in_proj_bias": (3 * width,), **linear(f"{head}.attention.out_proj", width, width)}
    return shapes | linear(f"{head}.mlp.fc1", hidden, width) | linear(f"{head}.mlp.fc2", width, hidden)


def blip2(*, width: int, layers: int, patch: int, tokens: int, hidden: int) -> Shapes:
    """transformers 4.x: models/blip_2, the vision tower, whose names CheXagent's own code has."""
    shapes = {
        "embeddings.class_embedding": (1, 1, width),
        "embeddings.position_embedding": (1, tokens, width),
        **patches("embeddings.patch_embedding", width, patch),
    }
    for layer in (f"encoder.layers.{number}" for number in range(layers)):
        shapes |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        shapes |= linear(f"{layer}.self_attn.qkv", 3 * width, width)
        shapes |= linear(f"{layer}.self_attn.projection", width, width)
        shapes |= linear(f"{layer}.mlp.fc1", hidden, width) | linear(f"{layer}.mlp.fc2", width, hidden)
    return shapes | norm("post_layernorm", width)


def sam(*, width: int, layers: int, patch: int, grid: int, hidden: int, heads: int, window: int, out: int) -> Shapes:
    """transformers 4.x: models/sam, the vision tower; every third layer sees the whole image."""
    shapes = {"pos_embed": (1, grid, grid, width), **patches("patch_embed.projection", width, patch)}
    for number in range(layers):
        layer = f"layers.{number}"
        side = grid if number % 3 == 2 or (layers == 2 and number == 1) else window
        shapes |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        shapes |= {f"{layer}.attn.rel_pos_{axis}": (2 * side - 1, width // heads) for axis in "hw"}
        shapes |= linear(f"{layer}.attn.qkv", 3 * width, width) | linear(f"{layer}.attn.proj", width, width)
        shapes |= linear(f"{layer}.mlp.lin1", hidden, width) | linear(f"{layer}.mlp.lin2", width, hidden)
    shapes |= {"neck.conv1.weight": (out, width, 1, 1), "neck.conv2.weight": (out, out, 3, 3)}
    return shapes | norm("neck.layer_norm1", out) | norm("neck.layer_norm2", out)


def sam_without_windows(
    *, width: int, layers: int, patch: int, grid: int, tables: list[int], hidden: int, heads: int, out: int
) -> Shapes:
    """facebookresearch/segment-anything: modeling/image_encoder.py, as MouseLand/cellpose changes it."""
    shapes = {"pos_embed": (1, grid, grid, width), **patches("patch_embed.proj", width, patch)}
    for number in range(layers):
        block = f"blocks.{number}"
        rows = tables[1] if number % 6 == 5 or (layers == 2 and number == 1) else tables[0]
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= {f"{block}.attn.rel_pos_{axis}": (rows, width // heads) for axis in "hw"}
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.lin1", hidden, width) | linear(f"{block}.mlp.lin2", width, hidden)
    shapes |= {"neck.0.weight": (out, width, 1, 1), "neck.2.weight": (out, out, 3, 3)}
    return shapes | norm("neck.1", out) | norm("neck.3", out)


def open_clip_vit(*, width: int, layers: int, patch: int, tokens: int, hidden: int, projection: int) -> Shapes:
    """open_clip's VisionTransformer, whose names are OpenAI's."""
    shapes = {
        "class_embedding": (width,),
        "positional_embedding": (tokens, width),
        "proj": (width, projection),
        "conv1.weight": (width, 3, patch, patch),
        **norm("ln_pre", width),
    }
    for block in (f"transformer.resblocks.{number}" for number in range(layers)):
        shapes |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= linear(f"{block}.attn.out_proj", width, width)
        shapes |= linear(f"{block}.mlp.c_fc", hidden, width) | linear(f"{block}.mlp.c_proj", width, hidden)
    return shapes | norm("ln_post", width)


def open_clip_timm(*, projection: int, **numbers: Any) -> Shapes:
    """open_clip's TimmModel with a linear projection."""
    trunk = {f"trunk.{name}": shape for name, shape in timm_vit(**numbers).items()}
    return trunk | {"head.proj.weight": (projection, numbers["width"])}


def conch(*, projection: int, plain: bool = False, **numbers: Any) -> Shapes:
    """mahmoodlab/CONCH conch/open_clip_custom; with plain projections, TRIDENT's model_zoo/conchv1_5."""
    width, pool = numbers["width"], "attn_pool_contrast"
    shapes = {f"trunk.{name}": shape for name, shape in timm_vit(**numbers).items()}
    shapes |= {f"{pool}.query": (1, projection), **norm(f"{pool}.ln_q", projection), **norm(f"{pool}.ln_k", width)}
    if plain:
        shapes |= linear(f"{pool}.to_q", projection, projection, bias=False)
        shapes |= linear(f"{pool}.to_kv", 2 * projection, width, bias=False)
        shapes |= linear(f"{pool}.to_out", projection, projection, bias=False)
    else:
        shapes |= {f"{pool}.attn.q_proj_weight": (projection, projection)}
        shapes |= {f"{pool}.attn.{part}_proj_weight": (projection, width) for part in "kv"}
        shapes |= {f"{pool}.attn.in_proj_bias": (3 * projection,)}
        shapes |= linear(f"{pool}.attn.out_proj", projection, projection)
        shapes |= {"proj_contrast": (projection, projection)}
    return shapes | norm("ln_contrast", projection)


def timm_0_5_swin(*, width: int, depths: list[int], heads: list[int], window: int, projection: int) -> Shapes:
    """timm 0.5.4: models/swin_transformer.py, where each stage ends with the reduction, and Ark's projector."""
    shapes = patches("patch_embed.proj", width, 4) | norm("patch_embed.norm", width)
    for stage, (depth, number_of_heads) in enumerate(zip(depths, heads, strict=True)):
        columns = width * 2**stage
        for block in (f"layers.{stage}.blocks.{number}" for number in range(depth)):
            shapes |= norm(f"{block}.norm1", columns) | norm(f"{block}.norm2", columns)
            shapes |= {f"{block}.attn.relative_position_bias_table": ((2 * window - 1) ** 2, number_of_heads)}
            shapes |= {f"{block}.attn.relative_position_index": (window**2, window**2)}
            shapes |= linear(f"{block}.attn.qkv", 3 * columns, columns) | linear(f"{block}.attn.proj", columns, columns)
            shapes |= linear(f"{block}.mlp.fc1", 4 * columns, columns) | linear(
                f"{block}.mlp.fc2", columns, 4 * columns
            )
        if stage < len(depths) - 1:
            shapes |= norm(f"layers.{stage}.downsample.norm", 4 * columns)
            shapes |= linear(f"layers.{stage}.downsample.reduction", 2 * columns, 4 * columns, bias=False)
    columns = width * 2 ** (len(depths) - 1)
    return shapes | norm("norm", columns) | linear("projector", projection, columns)


def batch_norm(name: str, width: int) -> Shapes:
    running = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}
    return norm(name, width) | running


def ctranspath(*, width: int, depths: list[int], heads: list[int], window: int) -> Shapes:
    """timm 0.5.4's Swin whose patches come from a stem of convolutions: Xiyue-Wang/TransPath ctran.py."""
    shapes = timm_0_5_swin(width=width, depths=depths, heads=heads, window=window, projection=1)
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith(("projector", "patch_embed.proj"))}
    stem, before = "patch_embed.proj", 3
    for first, after in ((0, width // 8), (3, width // 4)):
        shapes |= {f"{stem}.{first}.weight": (after, before, 3, 3), **batch_norm(f"{stem}.{first + 1}", after)}
        before = after
    return shapes | {f"{stem}.6.weight": (width, before, 1, 1), f"{stem}.6.bias": (width,)}


def beit3(*, width: int, layers: int, patch: int, tokens: int, hidden: int) -> Shapes:
    """microsoft/torchscale's BEiT-3: branch A, which sees images; below the prefix."""
    shapes = {"vision_embed.cls_token": (1, 1, width), **patches("vision_embed.proj", width, patch)}
    shapes |= {"encoder.embed_positions.A.weight": (tokens, width)}
    for layer in (f"encoder.layers.{number}" for number in range(layers)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{part}.A", width, width)
        shapes |= norm(f"{layer}.self_attn.inner_attn_ln.A", width) | norm(f"{layer}.self_attn_layer_norm.A", width)
        shapes |= norm(f"{layer}.final_layer_norm.A", width) | norm(f"{layer}.ffn.A.ffn_layernorm", hidden)
        shapes |= linear(f"{layer}.ffn.A.fc1", hidden, width) | linear(f"{layer}.ffn.A.fc2", width, hidden)
    return shapes | norm("encoder.layer_norm.A", width)


def eva02(*, width: int, layers: int, patch: int, tokens: int, hidden: int, plain: bool = False) -> Shapes:
    """baaivision/EVA EVA-02/asuka/modeling_pretrain.py; plain: the larger sizes, with three matrices each."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width), "mask_token": (1, 1, width)}
    shapes |= patches("patch_embed.proj", width, patch)
    for block in (f"blocks.{number}" for number in range(layers)):
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= {f"{block}.attn.{part}_bias": (width,) for part in "qv"} | linear(f"{block}.attn.proj", width, width)
        if plain:
            for part in "qkv":
                shapes |= linear(f"{block}.attn.{part}_proj", width, width, bias=False)
            shapes |= linear(f"{block}.mlp.w1", hidden, width) | linear(f"{block}.mlp.w2", hidden, width)
            shapes |= norm(f"{block}.mlp.ffn_ln", hidden)
        else:
            shapes |= linear(f"{block}.attn.qkv", 3 * width, width, bias=False)
            shapes |= linear(f"{block}.mlp.w12", 2 * hidden, width)
        shapes |= linear(f"{block}.mlp.w3", width, hidden)
    return shapes | norm("norm", width)


def radio(
    *, width: int, layers: int, patch: int, grid: int, hidden: int, prefix_tokens: int, layer_scale: bool = False
) -> Shapes:
    """NVlabs/RADIO radio/vit_patch_generator.py and cls_token.py in front of timm's blocks."""
    generator = "model.patch_generator"
    shapes = timm_vit(width=width, layers=layers, patch=patch, tokens=1, hidden=hidden, layer_scale=layer_scale)
    shapes = {f"model.{name}": shape for name, shape in shapes.items() if name.startswith("blocks")}
    shapes |= {f"{generator}.embedder.weight": (width, 3 * patch**2), f"{generator}.pos_embed": (1, grid**2, width)}
    return shapes | {f"{generator}.cls_token.token": (prefix_tokens, width)}


def keep(*, projection: int, **numbers: Any) -> Shapes:
    """MAGIC-AI4Med/KEEP: timm's names but for LayerScale, and two linear layers."""
    trunk = timm_vit(**numbers, layer_scale=True)
    shapes = {f".{name.removesuffix('gamma')}weight" if "gamma" in name else f".{name}": trunk[name] for name in trunk}
    return shapes | linear("_head.0", projection, numbers["width"]) | linear("_head.2", projection, projection)


def resnet(*, blocks: list[int], channels: int = 3) -> Shapes:
    """torchvision models/resnet.py with bottlenecks."""
    shapes: Shapes = {"conv1.weight": (64, channels, 7, 7), **batch_norm("bn1", 64)}
    before = 64
    for stage, depth in enumerate(blocks):
        inner = 64 * 2**stage
        for number in range(depth):
            block, outer = f"layer{stage + 1}.{number}", 4 * inner
            sizes = (("conv1", inner, before, 1), ("conv2", inner, inner, 3), ("conv3", outer, inner, 1))
            for place, (name, after, into, side) in enumerate(sizes):
                shapes |= {f"{block}.{name}.weight": (after, into, side, side)}
                shapes |= batch_norm(f"{block}.bn{place + 1}", after)
            if number == 0:
                shapes |= {f"{block}.downsample.0.weight": (outer, before, 1, 1)}
                shapes |= batch_norm(f"{block}.downsample.1", outer)
            before = outer
    return shapes


def numbered_resnet(*, blocks: list[int]) -> Shapes:
    """The parts of torchvision's resnet in a Sequential, which numbers them."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    parts = {name: name.partition(".")[0] for name in resnet(blocks=blocks)}
    return {
        f"{numbers[parts[name]]}{name.removeprefix(parts[name])}": shape
        for name, shape in resnet(blocks=blocks).items()
        if parts[name] in numbers
    }


def densenet(*, blocks: list[int], growth: int, first: int, channels: int = 3) -> Shapes:
    """torchvision models/densenet.py."""
    shapes: Shapes = {"features.conv0.weight": (first, channels, 7, 7), **batch_norm("features.norm0", first)}
    width = first
    for number, depth in enumerate(blocks, start=1):
        for layer in (f"features.denseblock{number}.denselayer{place}" for place in range(1, depth + 1)):
            shapes |= batch_norm(f"{layer}.norm1", width) | batch_norm(f"{layer}.norm2", 4 * growth)
            shapes |= {f"{layer}.conv1.weight": (4 * growth, width, 1, 1)}
            shapes |= {f"{layer}.conv2.weight": (growth, 4 * growth, 3, 3)}
            width += growth
        if number < len(blocks):
            transition = f"features.transition{number}"
            shapes |= batch_norm(f"{transition}.norm", width)
            shapes |= {f"{transition}.conv.weight": (width // 2, width, 1, 1)}
            width //= 2
    return shapes | batch_norm("features.norm5", width)


def flair(*, blocks: list[int], projection: int) -> Shapes:
    """jusiro/FLAIR flair/modeling/model.py, below the prefix."""
    trunk = {f"model.{name}": shape for name, shape in resnet(blocks=blocks).items()}
    return trunk | {"projection_head_vision.projection.weight": (projection, 2048)}


def biovil(*, blocks: list[int], projection: int, width: int = 0) -> Shapes:
    """microsoft/hi-ml health_multimodal/image/model: with a width, the model of two images."""
    shapes = {f"encoder.encoder.{name}": shape for name, shape in resnet(blocks=blocks).items()}
    if width:
        shapes |= {"encoder.backbone_to_vit.weight": (width, 2048, 1, 1)}
        shapes |= {"encoder.missing_previous_emb": (1, width, 1, 1)}
    shapes |= {"projector.model.0.weight": (projection, 2 * width or 2048, 1, 1)}
    shapes |= {"projector.model.3.weight": (projection, projection, 1, 1), "projector.model.3.bias": (projection,)}
    return shapes | batch_norm("projector.model.1", projection)


def genbio_pathfm(*, width: int, layers: int, patch: int, hidden: int, registers: int) -> Shapes:
    """genbio-ai/genbio-pathfm genbio_pathfm/model.py: DINOv3's names, one channel, SwiGLU in three matrices."""
    shapes = {"cls_token": (1, 1, width), "storage_tokens": (1, registers, width)}
    shapes |= patches("patch_embed.proj", width, patch, channels=1)
    for block in (f"blocks.{number}" for number in range(layers)):
        shapes |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width, bias=False) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.w1", hidden, width) | linear(f"{block}.mlp.w2", hidden, width)
        shapes |= linear(f"{block}.mlp.w3", width, hidden)
    return shapes | norm("norm", width)


def openphenom(*, width: int, layers: int, patch: int, tokens: int, hidden: int, heads: int) -> Shapes:
    """timm's ParallelScalingBlock, behind the patches of recursionpharma/maes_microscopy maes_microscopy/vit.py."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width)}
    shapes |= patches("patch_embed.proj", width, patch, channels=1)
    for block in (f"blocks.{number}" for number in range(layers)):
        shapes |= norm(f"{block}.in_norm", width) | {f"{block}.mlp_bias": (hidden,), f"{block}.ls.gamma": (width,)}
        shapes |= linear(f"{block}.in_proj", hidden + 3 * width, width, bias=False)
        shapes |= norm(f"{block}.q_norm", width // heads) | norm(f"{block}.k_norm", width // heads)
        shapes |= linear(f"{block}.attn_out_proj", width, width) | linear(f"{block}.mlp_out_proj", width, hidden)
    return shapes | norm("fc_norm", width)


def medimageinsight(*, width: int, dual: list[int], projection: int) -> Shapes:
    """MedImageInsight's ImageEncoder/davit_v1.py inside its UniCLModel.py."""
    shapes: Shapes = {"image_projection": (width * 2 ** (len(dual) - 1), projection)}
    before = 3
    for stage, depth in enumerate(dual):
        columns, conv, side = width * 2**stage, f"image_encoder.convs.{stage}", 3 if stage else 7
        shapes |= {f"{conv}.proj.weight": (columns, before, side, side), f"{conv}.proj.bias": (columns,)}
        shapes |= norm(f"{conv}.norm", before if stage else columns)
        for number in range(depth):
            for kind, attention in (("spatial", "window"), ("channel", "channel")):
                block = f"image_encoder.blocks.{stage}.{number}.{kind}_block"
                for which in (1, 2):
                    shapes |= patches(f"{block}.conv{which}.fn.dw", columns, 3, channels=1)
                shapes |= norm(f"{block}.{attention}_attn.norm", columns) | norm(f"{block}.ffn.norm", columns)
                shapes |= linear(f"{block}.{attention}_attn.fn.qkv", 3 * columns, columns)
                shapes |= linear(f"{block}.{attention}_attn.fn.proj", columns, columns)
                shapes |= linear(f"{block}.ffn.fn.net.fc1", 4 * columns, columns)
                shapes |= linear(f"{block}.ffn.fn.net.fc2", columns, 4 * columns)
        before = columns
    return shapes | norm("image_encoder.norms", before)


def isight(**numbers: Any) -> Shapes:
    """zhihuanglab/iSight model/patch_encoder_with_clam.py: transformers' CLIP, and a layer behind its tokens."""
    width = numbers["width"]
    tower = {f"patch_encoder.{name}": shape for name, shape in transformers_clip(**numbers).items()}
    return tower | linear("visual_token_projection", width, width)


LAYOUTS: dict[str, Callable[..., Shapes]] = {
    "timm ViT": timm_vit,
    "timm SigLIP": timm_siglip,
    "timm DINOv3": timm_dinov3,
    "timm PE": timm_pe,
    "timm EVA-02 CLIP": timm_eva02_clip,
    "timm AIMv2": timm_aimv2,
    "timm ConvNeXt": timm_convnext,
    "torchvision ConvNeXt": torchvision_convnext,
    "timm 0.5.4 Swin": timm_0_5_swin,
    "DINOv2": dinov2,
    "DINOv2 in chunks": dinov2_in_chunks,
    "BEiT": beit,
    "BEiT shared": beit_shared,
    "numbered ResNet": numbered_resnet,
    "transformers DINOv2": transformers_dinov2,
    "transformers ViT": transformers_vit,
    "transformers CLIP": transformers_clip,
    "transformers SigLIP": transformers_siglip,
    "transformers BLIP-2": blip2,
    "transformers SAM": sam,
    "SAM without windows": sam_without_windows,
    "open_clip ViT": open_clip_vit,
    "open_clip timm": open_clip_timm,
    "CONCH": conch,
    "KEEP": keep,
    "CTransPath": ctranspath,
    "BEiT-3": beit3,
    "EVA-02": eva02,
    "C-RADIO": radio,
    "ResNet": resnet,
    "DenseNet": densenet,
    "FLAIR": flair,
    "BioViL": biovil,
    "GenBio-PathFM": genbio_pathfm,
    "OpenPhenom": openphenom,
    "MedImageInsight": medimageinsight,
    "iSight": isight,
}
"""How weights are named and shaped, by who named them."""
