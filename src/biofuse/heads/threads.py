"""How many cores the linear algebra underneath may use."""

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let BLAS and OpenMP use at most this many threads while the block runs; the environment is left alone."""
    with _controller(len(sys.modules)).limit(limits=threads):
        yield


@functools.lru_cache(maxsize=1)
def _controller(n_modules: int) -> Any:  # noqa: ARG001 (the key)
    """Find the libraries that start threads: 8 ms, so it is done anew only after something was imported."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped, unused-ignore]

    return ThreadpoolController()
