"""The engines that can run an extraction, by name."""

import importlib
from typing import Protocol

from biofuse.core.errors import BioFuseError
from biofuse.extract.batches import Tell
from biofuse.extract.forward import Sink
from biofuse.extract.job import Job
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import ExtractionPlan, Hardware

ENGINES = {"local": "biofuse.extract.devices:MachineEngine", "ray": "biofuse.extract.ray_engine:RayEngine"}
"""Engines by name: module and class, imported when it is asked for."""


class Engine(Protocol):
    """Runs encoders somewhere. Made with ``(options, tell=...)``."""

    @property
    def device(self) -> str:
        """The torch device that networks run on; found out when first asked for."""
        ...

    def hardware(self, *, networks: bool) -> Hardware:
        """Return what an extraction is planned with; ``networks``: whether any encoder needs the device."""
        ...

    def parity(self, job: Job, names: tuple[str, ...], *, keep: bool) -> dict[str, float]:
        """Return each encoder's least cosine, over some images, between its lower precision and fp32."""
        ...

    def run(self, job: Job, plan: ExtractionPlan, sink: Sink) -> None:
        """Compute what is missing, and hand it over batch by batch, from the thread that called."""
        ...


def make_engine(options: ExtractOptions, *, tell: Tell) -> Engine:
    """Return the engine that the options name.

    Raises
    ------
    BioFuseError
        If there is none of that name.
    """
    if options.engine not in ENGINES:
        raise BioFuseError(f"There is no engine {options.engine!r}.", remedy=f"Use one of: {', '.join(ENGINES)}.")
    module, _, name = ENGINES[options.engine].partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(options, tell=tell)
    return engine
