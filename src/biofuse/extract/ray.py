"""What runs on the nodes of a Ray cluster: a decode stage, and actors that hold encoders."""

import math
import pickle
import platform
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError, EncoderError, option
from biofuse.core.machine import free_memory, keep_freed_memory, usable_cores
from biofuse.core.progress import Tell
from biofuse.core.ray import cluster_resources, ray_cluster, require_ray
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import Encoder
from biofuse.encoders.function import Builders, pack_builders
from biofuse.extract.local import CPU_SHARE, DEVICE_SHARE, LocalEngine, Sink
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import ExtractionPlan, GroupPlan, Hardware, Job
from biofuse.extract.prepare import Batch, prepare

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

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
        builders.register()
        if options.device == "cpu":
            _keep_memory()  # before there are threads
        self._engine = LocalEngine(options.but(engine="local"))
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
        results: dict[int, Batch | BioFuseError] = {
            number: each for number, each in arrived if isinstance(each, BioFuseError)
        }
        waiting = [(number, each) for number, each in arrived if number not in results]
        collected = _Collected()
        # One thread, as every actor on a CPU has one core; on an accelerator it does not matter.
        passes = self._engine.through(self._networks, self._sizes, lanes=1, threads=1)
        failure = _attempt(lambda: passes.run((each for _, each in waiting), collected))
        # Batches come back in the order in which they went in; the first one that is missing is the one that failed.
        for position, (number, _) in enumerate(waiting):
            results[number] = collected.batches[position] if position < len(collected.batches) else failure
        return table([(number, results[number]) for number, _ in arrived])


@dataclass
class _Collected:
    """Takes what the encoders finish, in order."""

    batches: list[Batch] = field(default_factory=list)

    def take(self, batch: Batch) -> None:
        """Take a batch."""
        self.batches.append(batch)

    def keep(self, batch: Batch) -> None:
        """Leave a batch that was finished after one had failed: the run ends with that one."""


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


Share = tuple[tuple[str, ...], list[int]]
"""Encoders, and some of the contents that they lack."""

TASK_IMAGES = {"cpu": 64, "cuda": 512}
"""Images that travel together. Ray takes some milliseconds for a task, which should be little beside its work: on a CPU
64 images are seconds. An accelerator does 512 in a fraction of one, and has nothing to do between two tasks."""

TASKS_EACH = 4
"""Tasks that every actor gets at least, where there are so many images: all are to end at about the same time."""

ENCODE_CPUS, DECODE_CPUS = 0.6, 0.4
"""What an actor on a CPU and a decode task claim: there are as many of each as there are cores, so that cores never
wait, and the operating system shares them out. (Ray would join stages that claim the same into one.)"""


class RayEngine:
    """Runs encoders on a Ray cluster, or on a Ray of its own on this machine.

    A Ray Data pipeline per group of encoders: chunks of images, a decode stage on all cores, and a pool of actors, one
    per GPU (or core, where there is none), each with the group's encoders. Ray Data's streaming executor holds decoding
    back when the actors or the driver are behind. Actors keep nothing: a finished batch goes to the driver, which
    writes it to the store, as with every other engine. So images and weights have to be where all nodes can read them,
    the store only where the driver can write; and a lost actor or node loses nothing but the batches it is working on,
    which Ray gives to others.

    Parameters
    ----------
    options : ExtractOptions
        ``device`` is ``auto`` (GPUs where the cluster has any), ``cpu`` or ``cuda``.
    tell : callable, optional
        Receives news line by line.
    """

    def __init__(self, options: ExtractOptions, *, tell: Tell = lambda _: None) -> None:
        require_ray(options.ray_address)
        if options.device not in {"auto", "cpu", "cuda"}:
            raise BioFuseError(
                f"Ray chooses devices by itself; {options.device!r} cannot be asked for.",
                remedy=f"Use {option('device', 'auto')}, cpu or cuda; or leave {option('engine', 'ray')} out.",
            )
        self._options = options
        self._tell = tell

    @cached_property
    def _resources(self) -> dict[str, float]:
        return cluster_resources(self._options.ray_address)

    @cached_property
    def device(self) -> str:
        """The torch device that networks run on: the same for all actors.

        Raises
        ------
        BioFuseError
            If GPUs are asked for and the cluster has none.
        """
        gpus = int(self._resources.get("GPU", 0))
        if self._options.device == "cuda" and not gpus:
            raise BioFuseError(
                "The Ray cluster has no GPU.", remedy=f"Use {option('device', 'auto')}, or {option('device', 'cpu')}."
            )
        return "cuda" if gpus and self._options.device != "cpu" else "cpu"

    @property
    def _actors(self) -> int:
        return max(int(self._resources.get("GPU" if self.device == "cuda" else "CPU", 1)), 1)

    def hardware(self, *, networks: bool) -> Hardware:
        """Return what one actor is planned with: its share of this machine's memory, taking nodes to be alike."""
        if not networks:
            return Hardware(budget=self._options.memory)
        budget = self._options.memory
        if budget is None:
            free = free_memory(self.device)
            share = DEVICE_SHARE if self.device == "cuda" else CPU_SHARE / usable_cores()
            budget = None if free is None else int(free * share)
        return Hardware(device=self.device, lanes=1, budget=budget)

    def parity(self, job: Job, names: tuple[str, ...], *, keep: bool) -> dict[str, float]:
        """Compare precisions on this machine, before any row is computed elsewhere."""
        del keep
        here = self._options.but(engine="local", device=self.device)
        return LocalEngine(here, tell=self._tell).parity(job, names, keep=False)

    def run(self, job: Job, plan: ExtractionPlan, sink: Sink) -> None:
        """Embed what is missing, group by group.

        Raises
        ------
        BioFuseError
            If Ray gives up: by default after half an hour in which no batch was finished.
        """
        with ray_cluster(self._options.ray_address):
            for group in plan.groups:
                self._run_group(job, group, sink)

    def _run_group(self, job: Job, group: GroupPlan, sink: Sink) -> None:
        from ray.data.exceptions import ExecutionTimeoutError
        from ray.exceptions import RayError

        batches: list[Share] = list(job.batches(group.names, group.batch_size))
        done = np.zeros(len(batches), dtype=bool)
        while not done.all():
            left = np.flatnonzero(~done)
            try:
                with closing(self._results(job, group, batches, left)) as results:
                    for number, outcome in results:
                        sink.take(outcome)
                        done[number] = True
            except (RayError, ExecutionTimeoutError) as error:
                # Whole nodes may go, with everything on them; what came back before that need not come again.
                if done[left].any():
                    self._tell(f"Ray lost a part of the work ({type(error).__name__}); what is missing is done again.")
                    continue
                raise BioFuseError(
                    f"Ray could not go on: {str(error).strip().splitlines()[-1]}",
                    remedy=f"Most likely memory ran out: use a smaller {option('batch_size')} or fewer encoders at a "
                    "time. Ray's own log is in /tmp/ray/session_latest/logs. Finished embeddings are kept.",
                ) from error

    def _results(
        self, job: Job, group: GroupPlan, batches: Sequence[Share], left: NDArray[np.int64]
    ) -> Generator[tuple[int, Batch]]:
        """Send batches through the cluster, and yield what comes back."""
        here: dict[str, Encoder] = {}
        local = LocalEngine(self._options.but(engine="local", device="cpu"), tell=self._tell)
        for name in group.names:
            if job.cards[name].runtime == "numpy":
                here[name] = local.load(job.cards[name], "fp32")
        networks = [name for name in group.names if name not in here]
        per_task = self._per_task(len(left), group.batch_size)
        blocks = [
            table([(int(number), job.chunk(*batches[number], here=here)) for number in left[start : start + per_task]])
            for start in range(0, len(left), per_task)
        ]
        finished = self._pipeline(blocks, job, group, networks)
        tables: Any = iter(finished.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
        with closing(tables):  # which ends the pipeline, should something be wrong
            for packed in tables:
                for number, outcome in rows_of(packed):
                    if isinstance(outcome, BioFuseError):
                        raise outcome
                    yield number, outcome

    def _per_task(self, n_batches: int, batch_size: int) -> int:
        """Return the number of batches that travel together."""
        fair = math.ceil(n_batches / (self._actors * TASKS_EACH))
        return max(min(TASK_IMAGES[self.device] // batch_size, fair), 1)

    def _pipeline(
        self, blocks: Sequence[Any], job: Job, group: GroupPlan, networks: Sequence[str]
    ) -> "ray.data.Dataset":
        import ray.data

        source = ray.data.from_blocks(list(blocks))
        decoded = source.map_batches(
            decode_stage,
            batch_size=1,  # tables in and out, one batch of images at a time: a block holds few of them
            batch_format="pyarrow",
            num_cpus=1 if self.device == "cuda" else DECODE_CPUS,
        )
        finished = decoded
        if networks:
            finished = decoded.map_batches(
                EncodeStage,
                fn_constructor_args=(
                    {name: job.cards[name] for name in networks},
                    {name: job.choices[name].precision for name in networks},
                    pack_builders(job.cards[name] for name in networks),
                    self._options.but(device=self.device),
                    group.batch_size,
                ),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(self._actors, len(blocks))),
                num_cpus=0 if self.device == "cuda" else ENCODE_CPUS,
                num_gpus=1 if self.device == "cuda" else None,
            )
        context = finished.context
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True  # so that parts lie in reading order
        result: ray.data.Dataset = finished
        return result
