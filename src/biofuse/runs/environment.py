"""What a run was computed with."""

import importlib.metadata
import os
import platform
import sys
from typing import Any

LIBRARIES = (
    "biofuse-embed",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "pillow",
    "pandas",
    "pyarrow",
    "torch",
    "torchvision",
    "timm",
    "xgboost",
)
"""Distributions whose version can change a result."""


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware as JSON values; never loads a model library for it."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "accelerator": _accelerator(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())
