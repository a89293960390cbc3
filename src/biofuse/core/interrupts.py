"""Ctrl-C reaches every process of a terminal; only the one that started the work should answer."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def workers_ignore_interrupts() -> Iterator[None]:
    """Start worker processes inside this context, and Ctrl-C is left to their parent, which stops them.

    Otherwise every worker would print a traceback of its own. Processes inherit the mask of the thread that starts
    them; the parent's is restored at the end, and an interrupt that came meanwhile is delivered then. Does nothing on
    systems without signal masks.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # it starts with the first worker otherwise, and unblocks the signal then (until Python 3.12)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
