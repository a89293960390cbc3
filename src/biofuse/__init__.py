"""Find which frozen biomedical foundation models, together, serve your images best.

Everything here is loaded on first use, so that ``import biofuse`` stays fast and needs no model library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biofuse.api.embedding import EmbeddingSet, embed
    from biofuse.core.errors import BioFuseError
    from biofuse.data.load import load_samples
    from biofuse.encoders.registry import register_encoder

__version__ = "0.1.0"

_HOMES = {
    "BioFuseError": "biofuse.core.errors",
    "EmbeddingSet": "biofuse.api.embedding",
    "embed": "biofuse.api.embedding",
    "load_samples": "biofuse.data.load",
    "register_encoder": "biofuse.encoders.registry",
}

__all__ = ["BioFuseError", "EmbeddingSet", "__version__", "embed", "load_samples", "register_encoder"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'biofuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
