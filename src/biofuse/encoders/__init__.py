"""What an encoder is, where its weights come from, and how an image becomes its vector.

Importing this package, listing cards and resolving names load no model library; loading an encoder does.
"""

from biofuse.encoders.card import EncoderCard, Precision, Weights
from biofuse.encoders.checks import check_encoder
from biofuse.encoders.functions import FunctionEncoder, register_encoder
from biofuse.encoders.onnx_loader import OnnxEncoder, register_onnx
from biofuse.encoders.preprocessing import Preprocessing, ResizeKey
from biofuse.encoders.protocol import Embeddings, Encoder, UInt8Images
from biofuse.encoders.registry import (
    ENTRY_POINT_GROUP,
    Builder,
    Registry,
    default_registry,
    get_card,
    list_cards,
    load_encoder,
    register,
    resolve,
)
from biofuse.encoders.timm_loader import register_timm
from biofuse.encoders.torch_encoder import TorchEncoder
from biofuse.encoders.weights import load_weights, pin

__all__ = [
    "ENTRY_POINT_GROUP",
    "Builder",
    "Embeddings",
    "Encoder",
    "EncoderCard",
    "FunctionEncoder",
    "OnnxEncoder",
    "Precision",
    "Preprocessing",
    "Registry",
    "ResizeKey",
    "TorchEncoder",
    "UInt8Images",
    "Weights",
    "check_encoder",
    "default_registry",
    "get_card",
    "list_cards",
    "load_encoder",
    "load_weights",
    "pin",
    "register",
    "register_encoder",
    "register_onnx",
    "register_timm",
    "resolve",
]
