"""Classes that cards name in constructor arguments, which are JSON and cannot hold them."""

from collections.abc import Mapping
from typing import Any

from biofuse.core.errors import EncoderError

LAYERS = ("timm.layers.SwiGLUPacked", "torch.nn.SiLU", "torch.nn.GELU", "timm.layers.QuickGELU")
"""The dotted names a card may use; any other is refused, so that a card can never import code of its own."""

KEYS = ("mlp_layer", "act_layer", "norm_layer")
"""The arguments that take a class."""


def with_layers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Replace dotted names of layer classes by the classes.

    Parameters
    ----------
    arguments : mapping
        Constructor arguments of a card.

    Returns
    -------
    dict

    Raises
    ------
    EncoderError
        If a name is not one of :data:`LAYERS`.
    """
    return {key: _layer(value) if key in KEYS and isinstance(value, str) else value for key, value in arguments.items()}


def _layer(name: str) -> Any:
    if "." not in name:
        return name  # timm's own short names, such as "silu"
    if name not in LAYERS:
        raise EncoderError(f"{name!r} is not a layer that a card may name; there are {', '.join(LAYERS)}.")
    import importlib

    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
