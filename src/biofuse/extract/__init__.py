"""Runs encoders over samples into the store."""

from biofuse.extract.contents import HashedSamples, hash_samples
from biofuse.extract.engine import EncoderWork, Extraction, Quarantined, extract
from biofuse.extract.options import ExtractOptions, choose_device, usable_cores
from biofuse.extract.progress import Progress, Silent, progress_bars

__all__ = [
    "EncoderWork",
    "ExtractOptions",
    "Extraction",
    "HashedSamples",
    "Progress",
    "Quarantined",
    "Silent",
    "choose_device",
    "extract",
    "hash_samples",
    "progress_bars",
    "usable_cores",
]
