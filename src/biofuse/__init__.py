"""Find which frozen biomedical foundation models, together, serve your images best.

Everything here is loaded on first use, so that ``import biofuse`` stays fast and needs no model library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biofuse.api.embedding import EmbeddingSet, embed
    from biofuse.api.estimator import BioFuse
    from biofuse.api.evaluation import Evaluation
    from biofuse.api.result import FitResult
    from biofuse.api.streaming import embed_batches
    from biofuse.core.errors import BioFuseError
    from biofuse.data.load import load_samples
    from biofuse.encoders.functions import register_encoder
    from biofuse.extract.options import ExtractOptions
    from biofuse.model.model import BioFuseModel

__version__ = "0.1.0"

_HOMES = {
    "BioFuse": "biofuse.api.estimator",
    "BioFuseModel": "biofuse.model.model",
    "Evaluation": "biofuse.api.evaluation",
    "ExtractOptions": "biofuse.extract.options",
    "FitResult": "biofuse.api.result",
    "BioFuseError": "biofuse.core.errors",
    "EmbeddingSet": "biofuse.api.embedding",
    "embed": "biofuse.api.embedding",
    "embed_batches": "biofuse.api.streaming",
    "load_samples": "biofuse.data.load",
    "register_encoder": "biofuse.encoders.functions",
}

__all__ = [
    "BioFuse",
    "BioFuseError",
    "BioFuseModel",
    "EmbeddingSet",
    "Evaluation",
    "ExtractOptions",
    "FitResult",
    "__version__",
    "embed",
    "embed_batches",
    "load_samples",
    "register_encoder",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'biofuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
