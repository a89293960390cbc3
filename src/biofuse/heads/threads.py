"""How many cores the linear algebra underneath may use."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let BLAS and OpenMP use at most this many threads while the block runs; the environment is left alone."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

    with threadpool_limits(limits=threads):
        yield
