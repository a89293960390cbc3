"""What runs on the nodes of a Ray cluster: a decode stage, and actors that hold encoders."""

import pickle
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from biofuse.core.errors import BioFuseError, EncoderError
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.protocol import Encoder
from biofuse.encoders.travel import Builders
from biofuse.extract.allocator import keep_freed_memory
from biofuse.extract.options import ExtractOptions
from biofuse.extract.worker import Outcome, Prepared, prepare

if TYPE_CHECKING:
    import pyarrow as pa

BATCH, PAYLOAD = "batch", "payload"
"""Columns of the tables that go from stage to stage: the number of a batch, and what there is of it at this stage."""


def table(rows: Sequence[tuple[int, object]]) -> "pa.Table":
    """Pack objects under their numbers."""
    import cloudpickle  # type: ignore[import-untyped]
    import pyarrow as pa

    packed = pa.array([cloudpickle.dumps(payload) for _, payload in rows], type=pa.large_binary())
    return pa.table({BATCH: pa.array([number for number, _ in rows], type=pa.int64()), PAYLOAD: packed})


def rows_of(packed: "pa.Table") -> Iterator[tuple[int, Any]]:
    """Unpack numbers and objects."""
    for number, payload in zip(packed[BATCH].to_pylist(), packed[PAYLOAD], strict=True):
        # From this program's own processes, like everything that Ray itself sends.
        yield number, pickle.loads(payload.as_buffer())  # noqa: S301


def decode_stage(packed: "pa.Table") -> "pa.Table":
    """Read, decode and resize the images of some chunks; a function for ``Dataset.map_batches``.

    What BioFuse itself refuses travels on in place of the result, so that it reaches the driver as it is.
    """
    _keep_memory()
    return table([(number, _attempt(partial(prepare, chunk))) for number, chunk in rows_of(packed)])


def outcome_stage(packed: "pa.Table") -> "pa.Table":
    """Take as finished what the decode stage has finished; for groups without a network."""
    return table([(number, _finished(each)) for number, each in rows_of(packed)])


class EncodeStage:
    """An actor that holds a group's encoders; a callable class for ``Dataset.map_batches``.

    Parameters
    ----------
    cards : mapping of str to EncoderCard
        The cheapest first.
    precisions : mapping of str to precision
    builders : Builders
        What loads those of the encoders that this process would not know.
    options : ExtractOptions
        ``device`` is the one of this actor.
    batch_size : int
        Images per forward pass to begin with.
    """

    def __init__(
        self,
        cards: Mapping[str, EncoderCard],
        precisions: Mapping[str, Precision],
        builders: Builders,
        options: ExtractOptions,
        batch_size: int,
    ) -> None:
        from biofuse.extract.local import LocalEngine

        builders.register()
        if options.device == "cpu":
            _keep_memory()  # before there are threads
        self._engine = LocalEngine(replace(options, engine="local"))
        self._sizes = self._engine.sizes(cards, batch_size)
        # An error here would make Ray start the actor again and again.
        self._networks = _attempt(lambda: {name: self._load(card, precisions[name]) for name, card in cards.items()})

    def _load(self, card: EncoderCard, precision: Precision) -> Encoder:
        try:
            return self._engine.load(card, precision)
        except BioFuseError:
            raise
        except Exception as error:  # what a network or its builder may raise
            raise EncoderError(
                f"{card.name} cannot be loaded on {platform.node()}: {type(error).__name__}: {error}",
                remedy="Weights and libraries have to be the same on all nodes of the cluster.",
            ) from error

    def __call__(self, packed: "pa.Table") -> "pa.Table":
        """Embed some prepared batches."""
        arrived = list(rows_of(packed))
        if isinstance(self._networks, BioFuseError):
            return table([(number, self._networks) for number, _ in arrived])
        results: dict[int, Outcome | BioFuseError] = {
            number: each for number, each in arrived if isinstance(each, BioFuseError)
        }
        waiting = [(number, each) for number, each in arrived if number not in results]
        collected = _Collected()
        # One thread, as every actor on a CPU has one core; on an accelerator it does not matter.
        passes = self._engine.through(self._networks, self._sizes, lanes=1, threads=1)
        failure = _attempt(lambda: passes.run((each for _, each in waiting), collected))
        # Batches come back in the order in which they went in; the first one that is missing is the one that failed.
        for position, (number, _) in enumerate(waiting):
            results[number] = collected.outcomes[position] if position < len(collected.outcomes) else failure
        return table([(number, results[number]) for number, _ in arrived])


@dataclass
class _Collected:
    """Takes what the encoders finish, in order."""

    outcomes: list[Outcome] = field(default_factory=list)

    def take(self, outcome: Outcome) -> None:
        """Take a batch."""
        self.outcomes.append(outcome)

    def keep(self, outcome: Outcome) -> None:
        """Leave a batch that was finished after one had failed: the run ends with that one."""


def _finished(prepared: Prepared | BioFuseError) -> Outcome | BioFuseError:
    return prepared if isinstance(prepared, BioFuseError) else Outcome.of(prepared)


@cache
def _keep_memory() -> ExitStack:
    """Have this process keep the memory of batches for the next ones, for as long as it lives."""
    stack = ExitStack()
    stack.enter_context(keep_freed_memory())
    return stack


def _attempt(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BioFuseError as error:
        return error


__all__ = ["BATCH", "PAYLOAD", "EncodeStage", "decode_stage", "outcome_stage", "rows_of", "table"]
