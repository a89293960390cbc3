"""Runs encoders over samples into the store."""

from biofuse.extract.contents import HashedSamples, hash_samples
from biofuse.extract.engine import extract, plan_extraction
from biofuse.extract.engines import Engine
from biofuse.extract.options import ExtractOptions, choose_device, usable_cores
from biofuse.extract.plan import ExtractionPlan
from biofuse.extract.progress import Progress, Silent, progress_bars
from biofuse.extract.results import EncoderWork, Extraction, Quarantined
from biofuse.extract.stages import Stages

__all__ = [
    "EncoderWork",
    "Engine",
    "ExtractOptions",
    "Extraction",
    "ExtractionPlan",
    "HashedSamples",
    "Progress",
    "Quarantined",
    "Silent",
    "Stages",
    "choose_device",
    "extract",
    "hash_samples",
    "plan_extraction",
    "progress_bars",
    "usable_cores",
]
