"""Where BioFuse keeps what it computes."""

import os
from pathlib import Path


def home() -> Path:
    """Return BioFuse's folder: ``BIOFUSE_HOME`` if set, else the user's cache folder."""
    from platformdirs import user_cache_path

    override = os.environ.get("BIOFUSE_HOME", "").strip()
    return Path(override).expanduser() if override else user_cache_path("biofuse", appauthor=False)
