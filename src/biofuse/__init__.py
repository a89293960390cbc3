"""Find which frozen biomedical foundation models, together, serve your images best.

Everything here is loaded on first use, so that ``import biofuse`` stays fast and needs no model library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biofuse.api.curve import curve
    from biofuse.api.embed import embed, embed_batches
    from biofuse.api.estimators import BioFuse, BioFuseRegressor, FusionClassifier, FusionRegressor
    from biofuse.api.export import export_onnx
    from biofuse.api.fit import FitResult, evaluate, fit
    from biofuse.api.report import write_report
    from biofuse.api.similar import export_vectors, similar, vectors
    from biofuse.core.errors import BioFuseError
    from biofuse.data.config import DataConfig
    from biofuse.data.load import load_samples
    from biofuse.encoders.function import register_encoder
    from biofuse.encoders.module import register_torch
    from biofuse.extract.embeddings import EmbeddingSet
    from biofuse.extract.options import ExtractOptions
    from biofuse.model.evaluate import Evaluation
    from biofuse.model.model import BioFuseModel
    from biofuse.runs.tracking import track
    from biofuse.search.config import SearchConfig

__version__ = "0.1.0"

_HOMES = {
    "BioFuse": "biofuse.api.estimators",
    "BioFuseRegressor": "biofuse.api.estimators",
    "FusionClassifier": "biofuse.api.estimators",
    "FusionRegressor": "biofuse.api.estimators",
    "BioFuseModel": "biofuse.model.model",
    "Evaluation": "biofuse.model.evaluate",
    "DataConfig": "biofuse.data.config",
    "ExtractOptions": "biofuse.extract.options",
    "FitResult": "biofuse.api.fit",
    "BioFuseError": "biofuse.core.errors",
    "SearchConfig": "biofuse.search.config",
    "EmbeddingSet": "biofuse.api.embed",
    "curve": "biofuse.api.curve",
    "embed": "biofuse.api.embed",
    "embed_batches": "biofuse.api.embed",
    "evaluate": "biofuse.api.fit",
    "export_onnx": "biofuse.api.export",
    "export_vectors": "biofuse.api.similar",
    "fit": "biofuse.api.fit",
    "load_samples": "biofuse.data.load",
    "similar": "biofuse.api.similar",
    "track": "biofuse.runs.tracking",
    "vectors": "biofuse.api.similar",
    "write_report": "biofuse.api.report",
    "register_encoder": "biofuse.encoders.function",
    "register_torch": "biofuse.encoders.module",
}

__all__ = [
    "BioFuse",
    "BioFuseError",
    "BioFuseModel",
    "BioFuseRegressor",
    "DataConfig",
    "EmbeddingSet",
    "Evaluation",
    "ExtractOptions",
    "FitResult",
    "FusionClassifier",
    "FusionRegressor",
    "SearchConfig",
    "__version__",
    "curve",
    "embed",
    "embed_batches",
    "evaluate",
    "export_onnx",
    "export_vectors",
    "fit",
    "load_samples",
    "register_encoder",
    "register_torch",
    "similar",
    "track",
    "vectors",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'biofuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
