"""Constructor arguments that families of networks share."""

from typing import Any

CLIP_TEXT = ("text_model.*", "text_projection.*", "logit_scale", "*position_ids")
"""What a CLIP checkpoint holds besides its vision tower and projection."""

SIGLIP_TEXT = ("text_model.*", "logit_scale", "logit_bias", "*position_ids")
"""What a SigLIP checkpoint holds besides its vision tower."""


def swiglu(**arguments: Any) -> dict[str, Any]:
    """Return arguments of a timm vision transformer whose blocks use SwiGLU."""
    return {**arguments, "mlp_layer": "timm.layers.SwiGLUPacked", "act_layer": "torch.nn.SiLU"}


def clip_vision(*, width: int, layers: int, heads: int, patch: int, projection: int) -> dict[str, Any]:
    """Return the configuration of a CLIP vision tower of transformers at 224 pixels."""
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": 224,
        "projection_dim": projection,
        "hidden_act": "quick_gelu",
    }


def dinov2(
    *, width: int, layers: int, heads: int, image: int, patch: int = 14, swiglu: bool = False, registers: int = 0
) -> dict[str, Any]:
    """Return the configuration of a DINOv2 network of transformers."""
    arguments: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "mlp_ratio": 4,
        "patch_size": patch,
        "image_size": image,
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "qkv_bias": True,
        "use_swiglu_ffn": swiglu,
    }
    return arguments | ({"num_register_tokens": registers} if registers else {})
