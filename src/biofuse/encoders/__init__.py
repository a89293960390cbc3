"""What an encoder is, where its weights come from, and how an image becomes its vector.

Importing this package, listing cards and resolving names load no model library; loading an encoder does.
"""

from biofuse.encoders.card import EncoderCard, Precision, Variant, Weights, read_card
from biofuse.encoders.encoder import Embeddings, Encoder, TorchEncoder, UInt8Images, check_encoder
from biofuse.encoders.function import FunctionEncoder, register_encoder
from biofuse.encoders.loaders import Builder
from biofuse.encoders.module import register_torch
from biofuse.encoders.plugins import load_plugin
from biofuse.encoders.preprocessing import Preprocessing, ResizeKey
from biofuse.encoders.registry import (
    ENCODERS,
    ENTRY_POINT_GROUP,
    EncoderRegistry,
    get_card,
    list_cards,
    load_encoder,
    register,
    register_onnx,
    register_timm,
    resolve,
)
from biofuse.encoders.weights import load_weights, pin

__all__ = [
    "ENCODERS",
    "ENTRY_POINT_GROUP",
    "Builder",
    "Embeddings",
    "Encoder",
    "EncoderCard",
    "EncoderRegistry",
    "FunctionEncoder",
    "Precision",
    "Preprocessing",
    "ResizeKey",
    "TorchEncoder",
    "UInt8Images",
    "Variant",
    "Weights",
    "check_encoder",
    "get_card",
    "list_cards",
    "load_encoder",
    "load_plugin",
    "load_weights",
    "pin",
    "read_card",
    "register",
    "register_encoder",
    "register_onnx",
    "register_timm",
    "register_torch",
    "resolve",
]
