"""How long an image took each encoder on this machine, kept beside the store for the next plan."""

import contextlib
import json
import platform
from collections.abc import Mapping

from biofuse.core.errors import DiskError
from biofuse.core.files import write_text
from biofuse.extract.job import Job
from biofuse.extract.plan import Hardware
from biofuse.store.store import EmbeddingStore

FILE = ".rates.json"
"""Name of the file in the store's folder; a hint, and no part of the store."""

ENOUGH_IMAGES = 128
"""Fewer do not tell: the first batches of a run are slow, and the last one is small."""


def known_rates(job: Job, hardware: Hardware) -> dict[str, float]:
    """Return the seconds per image of those encoders of a job that were measured on this machine's device.

    Parameters
    ----------
    job : Job
    hardware : Hardware

    Returns
    -------
    dict of str to float
    """
    rates = _read(job.store).get(_machine(hardware), {})
    return {name: rates[folder.path.name] for name, folder in job.folders.items() if folder.path.name in rates}


def remember_rates(job: Job, hardware: Hardware, *, seconds: Mapping[str, float], computed: Mapping[str, int]) -> None:
    """Keep what was measured.

    Parameters
    ----------
    job : Job
    hardware : Hardware
    seconds : mapping of str to float
        Of the forward passes of each encoder, over all lanes.
    computed : mapping of str to int
        Images that each has seen.
    """
    new = {
        job.folders[name].path.name: spent / computed[name] / hardware.lanes
        for name, spent in seconds.items()
        if computed.get(name, 0) >= ENOUGH_IMAGES
    }
    if not new:
        return
    rates = _read(job.store)
    rates[_machine(hardware)] = rates.get(_machine(hardware), {}) | new
    with contextlib.suppress(DiskError):  # the embeddings are written; without the hint the next plan has no time
        write_text(job.store.root / FILE, json.dumps(rates, indent=1) + "\n")


def _machine(hardware: Hardware) -> str:
    return f"{platform.node()} {hardware.device} {hardware.lanes}"


def _read(store: EmbeddingStore) -> dict[str, dict[str, float]]:
    try:
        found = json.loads((store.root / FILE).read_text())
        return {str(key): {str(name): float(value) for name, value in each.items()} for key, each in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
