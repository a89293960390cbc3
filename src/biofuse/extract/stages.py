"""Where the time of an extraction goes, stage by stage."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

READ, DECODE, RESIZE, TRANSFER, FORWARD, WRITE = STAGES = ("read", "decode", "resize", "transfer", "forward", "write")
"""Files read and hashed; bytes to pixels; pixels to an encoder's size; host to device; networks; embeddings to disk."""


class Stages:
    """Seconds spent in each stage, summed over everything that worked on it at the same time.

    Reading, transfer and writing count as long as they take, since they wait for something else than a processor; so do
    forward passes on an accelerator. Decoding, resizing and forward passes on a CPU count processor time, since they
    share the cores with one another.
    """

    def __init__(self, seconds: Mapping[tuple[str, str], float] | None = None) -> None:
        self._seconds: dict[tuple[str, str], float] = dict(seconds or {})
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[tuple[str, str], float]:
        return self._seconds

    def __setstate__(self, state: dict[tuple[str, str], float]) -> None:
        self._seconds = state
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float, *, encoder: str = "") -> None:
        """Count time; forward passes are told apart by encoder."""
        with self._lock:
            self._seconds[stage, encoder] = self._seconds.get((stage, encoder), 0.0) + seconds

    @contextmanager
    def wall(self, stage: str, *, encoder: str = "") -> Iterator[None]:
        """Count as long as the context lasts."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start, encoder=encoder)

    @contextmanager
    def processor(self, stage: str, *, encoder: str = "") -> Iterator[None]:
        """Count the processor time that this thread takes while the context lasts."""
        start = time.thread_time()
        try:
            yield
        finally:
            self.add(stage, time.thread_time() - start, encoder=encoder)

    def merge(self, other: "Stages") -> None:
        """Add what another has counted."""
        for (stage, encoder), seconds in list(other._seconds.items()):
            self.add(stage, seconds, encoder=encoder)

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self._seconds.values())

    def seconds(self, stage: str) -> float:
        """Return the seconds of one stage, over all encoders."""
        return sum(value for (name, _), value in self._seconds.items() if name == stage)

    def by_encoder(self) -> dict[str, float]:
        """Return the seconds of each encoder's forward passes."""
        return {encoder: value for (stage, encoder), value in self._seconds.items() if stage == FORWARD and encoder}

    def to_json(self) -> dict[str, object]:
        """Return seconds by stage, and those of forward passes by encoder."""
        return {
            "seconds": {stage: round(self.seconds(stage), 3) for stage in STAGES},
            "forward": {encoder: round(value, 3) for encoder, value in self.by_encoder().items()},
        }

    def slowest(self) -> str:
        """Return the stage that took most."""
        return max(STAGES, key=self.seconds)

    def sentence(self) -> str:
        """Name the slowest stage and the shares of all; empty where nothing was counted."""
        if self.total <= 0:
            return ""
        order = sorted((stage for stage in STAGES if self.seconds(stage) > 0), key=self.seconds, reverse=True)
        shares = {stage: self.seconds(stage) / self.total for stage in order}
        first, *others = order
        forward = self.by_encoder()
        which = ""
        if first == FORWARD and forward:
            most = max(forward, key=lambda name: forward[name])
            which = f" ({most} alone {forward[most] / self.total:.0%})"
        rest = "; ".join(f"{stage} {shares[stage]:.0%}" for stage in others)
        said = f"Slowest stage: {first}, {shares[first]:.0%} of {self.total:,.1f} s of work{which}"
        return f"{said}; {rest}." if rest else f"{said}."
