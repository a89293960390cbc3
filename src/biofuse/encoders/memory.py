"""How much memory an encoder's weights take, and how much there is."""

import os
from pathlib import Path

from biofuse.encoders.card import EncoderCard, Precision

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes per parameter."""

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux keeps the limits of the container that a process runs in (version 2)."""


def weight_bytes(card: EncoderCard, *, precision: Precision = "fp32") -> int | None:
    """Return the bytes that an encoder's weights take.

    Parameters
    ----------
    card : EncoderCard
    precision : {"fp32", "fp16", "bf16"}
        What the encoder computes in; :class:`~biofuse.encoders.TorchEncoder` holds nearly all of its weights in it.

    Returns
    -------
    int or None
        None where the number of parameters is not known. Activations come on top, and grow with the batch.
    """
    if card.weights is None and not card.parameters:
        return 0
    return None if card.parameters is None else card.parameters * BYTES[precision]


def free_memory(device: str) -> int | None:
    """Return the bytes that are free on a torch device; None where that cannot be told."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return _free_host_memory()
    import torch

    if kind == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    if kind == "mps" and torch.backends.mps.is_available():
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return None


def _free_host_memory() -> int | None:
    known = [free for free in (_available(), _left_in_container()) if free is not None]
    return min(known) if known else _all_memory()


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return kilobytes["MemAvailable"] * 1024 if "MemAvailable" in kilobytes else None


def _left_in_container() -> int | None:
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Cached files count as used, but are given up when memory is asked for.
    return None if limit == "max" else max(int(limit) - used + int(statistics.get("inactive_file", 0)), 0)


def _all_memory() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
