"""Non-empty sets of encoders, named in pool order."""

from collections.abc import Sequence
from itertools import chain, combinations
from math import comb

from biofuse.core.errors import SearchError

Subset = tuple[str, ...]
"""Encoder names in pool order, each once."""


def all_subsets(pool: Sequence[str], largest: int | None = None) -> list[Subset]:
    """Return every non-empty subset, by size, then by pool order: the order of ``itertools.combinations``.

    Parameters
    ----------
    pool : sequence of str
        The encoders.
    largest : int, optional
        Most encoders of a subset; any number by default.
    """
    most = len(pool) if largest is None else min(largest, len(pool))
    return list(chain.from_iterable(combinations(pool, size) for size in range(1, most + 1)))


def count_subsets(n_encoders: int, largest: int | None = None) -> int:
    """Return the number of non-empty subsets, without making them."""
    most = n_encoders if largest is None else min(largest, n_encoders)
    return sum(comb(n_encoders, size) for size in range(1, most + 1))


def in_pool_order(pool: Sequence[str], subset: Sequence[str]) -> Subset:
    """Return the encoders of a subset in pool order.

    Raises
    ------
    SearchError
        If it is empty, names an encoder twice, or one that is not in the pool.
    """
    unknown = [name for name in subset if name not in pool]
    if not subset or unknown or len(set(subset)) != len(subset):
        what = f"unknown encoders {', '.join(unknown)}" if unknown else "no encoder, or one twice"
        raise SearchError(f"Not a subset of the pool ({', '.join(pool)}): {what}.")
    return tuple(name for name in pool if name in set(subset))


def check_pool(pool: Sequence[str]) -> Subset:
    """Return the pool as a tuple.

    Raises
    ------
    SearchError
        If it is empty or names an encoder twice.
    """
    if not pool:
        raise SearchError("The pool is empty.", remedy="Name at least one encoder.")
    twice = sorted({name for name in pool if list(pool).count(name) > 1})
    if twice:
        raise SearchError(f"The pool names {', '.join(twice)} more than once.", remedy="Name each encoder once.")
    return tuple(pool)


def combination_order(pool: Sequence[str], subset: Subset) -> tuple[int, tuple[int, ...]]:
    """Return a sort key that puts subsets by size, then by pool order."""
    place = {name: index for index, name in enumerate(pool)}
    return len(subset), tuple(place[name] for name in subset)


def label(subset: Sequence[str]) -> str:
    """Return how a subset is written in tables and prose."""
    return "+".join(subset)
