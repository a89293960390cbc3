"""Which subsets are scored, and in what order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from biofuse.core.errors import SearchError
from biofuse.search.leaderboard import Row
from biofuse.search.subsets import Subset, all_subsets

EXHAUSTIVE_LIMIT = 15
"""Most encoders of which every subset is scored: 32,767 subsets."""

Evaluate = Callable[[Sequence[Subset]], Sequence[Row]]
"""Scores subsets, in parallel where it can, and returns their rows in the order asked; each is scored only once."""


class Strategy(Protocol):
    """Walks through subsets. It neither knows nor cares how a score comes about."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    def subsets(self, pool: Subset) -> Sequence[Subset]:
        """Return the subsets it will score; where that depends on scores, as many of the same sizes.

        Raises
        ------
        SearchError
            If the pool is too large for it.
        """
        ...

    def run(self, pool: Subset, evaluate: Evaluate) -> None:
        """Ask for the scores of subsets, in batches as large as possible, until it has seen enough."""
        ...


@dataclass(frozen=True)
class Exhaustive:
    """Every non-empty subset."""

    name: str = "exhaustive"

    def subsets(self, pool: Subset) -> list[Subset]:
        """Return all of them, by size, then by pool order."""
        if len(pool) > EXHAUSTIVE_LIMIT:
            raise SearchError(
                f"{len(pool)} encoders have {2 ** len(pool) - 1:,} subsets; exhaustive search stops at "
                f"{EXHAUSTIVE_LIMIT} encoders.",
                remedy=f'Offer at most {EXHAUSTIVE_LIMIT} encoders, or use search="all" to fuse every one of them.',
            )
        return all_subsets(pool)

    def run(self, pool: Subset, evaluate: Evaluate) -> None:
        """Score all of them."""
        evaluate(self.subsets(pool))


@dataclass(frozen=True)
class AllEncoders:
    """No search: all encoders together, and nothing else."""

    name: str = "all"

    def subsets(self, pool: Subset) -> list[Subset]:
        """Return the pool."""
        return [pool]

    def run(self, pool: Subset, evaluate: Evaluate) -> None:
        """Score the pool."""
        evaluate(self.subsets(pool))


STRATEGIES: Mapping[str, Callable[[], Strategy]] = MappingProxyType({"exhaustive": Exhaustive, "all": AllEncoders})
"""Strategies by the name that users give."""


def make_strategy(name: str) -> Strategy:
    """Return the strategy of that name.

    Raises
    ------
    SearchError
        If there is none.
    """
    if name not in STRATEGIES:
        raise SearchError(f"There is no search {name!r}.", remedy=f"Choose one of {', '.join(STRATEGIES)}.")
    return STRATEGIES[name]()
