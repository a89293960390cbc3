"""Processes that each run encoders on a device of their own."""

import os
import signal
import threading
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError
from biofuse.core.machine import exit_with_parent, workers_ignore_interrupts
from biofuse.encoders.function import Builders
from biofuse.extract.forward import Sink, Tell
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import ExtractionPlan, Job
from biofuse.extract.prepare import Outcome

END_SECONDS = 10.0
"""How long a process that has said that it is finished, or was told to stop, is waited for."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process does.

    Attributes
    ----------
    job : Job
        About its own contents alone.
    rows : ndarray of int, shape (n,)
        Positions of its contents among all.
    plan : ExtractionPlan
    builders : Builders
        What loads those of the encoders that the process would not know.
    cores : tuple of int or None
        The only cores it may use.
    """

    job: Job
    rows: NDArray[np.int64]
    plan: ExtractionPlan
    builders: Builders
    cores: tuple[int, ...] | None = None


class DeviceProcesses:
    """Processes, one per device, that end with this context, however it ends.

    Parameters
    ----------
    tell : callable
        Receives their news.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._running: dict[Connection, tuple[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection, (_, process) in self._running.items():
            process.terminate()
            connection.close()
        for _, process in self._running.values():
            _end(process)

    def start(self, share: Share, options: ExtractOptions) -> None:
        """Start a process on ``options.device``."""
        # As for the decode workers: not the user's script again, and functions of a notebook come along.
        from loky.backend import get_context

        ours, theirs = Pipe(duplex=False)
        process = get_context("loky").Process(target=_work, args=(theirs, share, options, os.getpid()))
        with workers_ignore_interrupts():
            process.start()
        theirs.close()  # else its end would not be noticed
        self._running[ours] = (options.device, process)

    def collect(self, sink: Sink) -> None:
        """Hand over what the processes finish, until all are done.

        Raises
        ------
        BioFuseError
            What a process raised, or that it was killed.
        """
        while self._running:
            for connection in wait(list(self._running)):
                self._receive(connection, sink)  # type: ignore[arg-type]

    def _receive(self, connection: Connection, sink: Sink) -> None:
        device, process = self._running[connection]
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError) as error:
            process.join(END_SECONDS)
            raise BioFuseError(
                f"The process of {device} was killed (exit code {process.exitcode}): most likely memory ran out.",
                remedy="Use fewer workers (--workers 1) or a smaller --batch-size. Finished embeddings are kept.",
            ) from error
        match message:
            case Outcome():
                sink.take(message)
            case str():
                self._tell(f"{device}: {message}")
            case BioFuseError():
                raise message
            case _:
                del self._running[connection]
                connection.close()
                _end(process)


class _Sender:
    """Sends finished batches to the parent; waits where that is behind."""

    def __init__(self, connection: Connection, share: Share) -> None:
        self._connection = connection
        self._share = share
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Send; several threads have news."""
        with self._lock:
            self._connection.send(message)

    def take(self, outcome: Outcome) -> None:
        """Send a batch under the numbers that its rows have among all contents."""
        self._share.job.failures |= outcome.failures  # a later group need not try them again
        rows = self._share.rows
        failures = {int(rows[row]): why for row, why in outcome.failures.items()}
        self.send(replace(outcome, rows=rows[outcome.rows].tolist() if outcome.rows else [], failures=failures))

    keep = take


def _work(connection: Connection, share: Share, options: ExtractOptions, parent: int) -> None:
    from biofuse.extract.local import LocalEngine

    exit_with_parent(parent)
    signal.signal(signal.SIGTERM, _leave)
    if share.cores is not None:
        os.sched_setaffinity(0, share.cores)
    sender = _Sender(connection, share)
    try:
        share.builders.register()
        LocalEngine(options, tell=sender.send).run(share.job, share.plan, sender)
    except BioFuseError as error:
        sender.send(error)
    except Exception as error:  # the parent has to hear of it, whatever it is
        sender.send(BioFuseError(f"The process of {options.device} failed: {type(error).__name__}: {error}"))
    else:
        sender.send(None)
    finally:
        if options.workers != 0:
            from loky import get_reusable_executor

            # Otherwise this process would wait for its decode workers, which wait for more to do.
            get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def _leave(*_: object) -> NoReturn:
    raise SystemExit(1)


def _end(process: Any) -> None:
    process.join(END_SECONDS)
    if process.is_alive():
        os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.join()


__all__ = ["DeviceProcesses", "Share"]
