"""Which subsets are scored, and in what order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from types import MappingProxyType
from typing import Protocol

from biofuse.core.errors import SearchError, option
from biofuse.evaluation.metrics import DEFAULT_METRIC
from biofuse.search.leaderboard import Row, Subset, all_subsets, combination_order, count_subsets, in_pool_order

EXHAUSTIVE_LIMIT = 15
"""Most encoders of which every subset is scored: 32,767 subsets."""

WIDTH = 4
"""Subsets of each size that a beam goes on from."""

PATIENCE = 3
"""Sizes in a row without a better subset after which a beam stops; a greedy walk stops after one. On the published
tables of 255 subsets (perf/strategies.py) this is the least patience with which a beam reaches the best subset of
every set by either metric; a width above 2 makes no difference there."""

Evaluate = Callable[[Sequence[Subset]], Sequence[Row]]
"""Scores subsets, in parallel where it can, and returns their rows in the order asked; each is scored only once."""


class Strategy(Protocol):
    """Walks through subsets. It neither knows nor cares how a score comes about."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    def subsets(self, pool: Subset) -> Sequence[Subset]:
        """Return the subsets it will score; where that depends on scores, as many of the same sizes as it may at most.

        Raises
        ------
        SearchError
            If the pool is too large for it.
        """

    def run(self, pool: Subset, evaluate: Evaluate) -> None:
        """Ask for the scores of subsets, in batches as large as possible, until it has seen enough."""


@dataclass(frozen=True)
class Exhaustive:
    """Every non-empty subset.

    Parameters
    ----------
    max_encoders : int, optional
        Largest size; all encoders together are scored all the same, to be compared with.
    """

    name: str = "exhaustive"
    max_encoders: int | None = None

    def subsets(self, pool: Subset) -> list[Subset]:
        """Return all of them, by size, then by pool order."""
        largest = _largest(pool, self.max_encoders)
        count = count_subsets(len(pool), largest)
        if not _can_be_exhausted(count):
            sizes = "" if largest == len(pool) else f" of up to {largest}"
            most = f"{count_subsets(EXHAUSTIVE_LIMIT):,}, those of {EXHAUSTIVE_LIMIT} encoders"
            raise SearchError(
                f"{len(pool)} encoders have {count:,} subsets{sizes}; exhaustive search stops at {most}.",
                remedy=f"Searches that score fewer are {option('search', 'screen')}, {option('search', 'greedy')} and "
                f"{option('search', 'beam')}; or offer at most {EXHAUSTIVE_LIMIT} encoders.",
            )
        return all_subsets(pool, largest) + ([pool] if largest < len(pool) else [])

    def run(self, pool: Subset, evaluate: Evaluate) -> None:
        """Score all of them."""
        evaluate(self.subsets(pool))


@dataclass(frozen=True)
class AllEncoders:
    """No search: all encoders together, and nothing else.

    Parameters
    ----------
    max_encoders : int, optional
        A larger pool is refused.
    """

    name: str = "all"
    max_encoders: int | None = None

    def subsets(self, pool: Subset) -> list[Subset]:
        """Return the pool."""
        largest = _largest(pool, self.max_encoders)
        if largest < len(pool):
            raise SearchError(
                f"{option('search', 'all')} fuses all {len(pool)} encoders, but at most {largest} may be chosen.",
                remedy=f"Offer {largest} encoders, or use another search.",
            )
        return [pool]

    def run(self, pool: Subset, evaluate: Evaluate) -> None:
        """Score the pool."""
        evaluate(self.subsets(pool))


@dataclass(frozen=True)
class Listed:
    """Given subsets: finalists.

    Parameters
    ----------
    listed : sequence of subset
        Each once, encoders in any order.
    """

    listed: Sequence[Subset]
    name: str = "listed"

    def subsets(self, pool: Subset) -> list[Subset]:
        """Return them in combination order.

        Raises
        ------
        SearchError
            If there is none, or one is not a subset of the pool.
        """
        if not self.listed:
            raise SearchError("No subset was listed to be scored.")
        found = {in_pool_order(pool, subset) for subset in self.listed}
        return sorted(found, key=lambda subset: combination_order(pool, subset))

    def run(self, pool: Subset, evaluate: Evaluate) -> None:
        """Score them."""
        evaluate(self.subsets(pool))


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Steps from subset to subset, one encoder at a time.

    The greedy path is always walked (see :func:`biofuse.search.rules.greedy_path`), and single encoders and all of them
    together are always scored, so that what the choice must be compared with is there.

    Parameters
    ----------
    name : str
        What the user calls it.
    metric : str
        What decides where to go on from; ties go to fewer encoders, fewer dimensions, then pool order.
    width : int
        Subsets of each size that larger ones are made from. With a ``width`` and ``patience`` of 1 it is the greedy
        path alone; otherwise a beam is walked beside it.
    patience : int
        Sizes in a row without a better subset after which the beam stops.
    backward : bool
        Whether also to start from all encoders and leave one out at a time, while that is no worse. Not done where
        the size is limited.
    max_encoders : int, optional
        Largest size; all encoders together are scored all the same, to be compared with.
    """

    name: str
    metric: str
    width: int = 1
    patience: int = 1
    backward: bool = False
    max_encoders: int | None = None

    def subsets(self, pool: Subset) -> list[Subset]:
        """Return as many subsets of each size as it may score at most."""
        largest = _largest(pool, self.max_encoders)
        starts = 1 if self._is_greedy else 1 + self.width
        found: list[Subset] = []
        for size in range(1, largest + 1):
            count = len(pool) if size == 1 else starts * (len(pool) - size + 1)
            if self._goes_back(pool) and size < len(pool):
                count += size + 1
            found += islice(combinations(pool, size), count)
        return found if largest == len(pool) else [*found, pool]

    @property
    def _is_greedy(self) -> bool:
        return self.width == self.patience == 1

    def _goes_back(self, pool: Subset) -> bool:
        return self.backward and _largest(pool, self.max_encoders) == len(pool)

    def run(self, pool: Subset, evaluate: Evaluate) -> None:
        """Walk."""
        largest = _largest(pool, self.max_encoders)
        rows = evaluate([*((name,) for name in pool), pool])
        singles, everything = rows[: len(pool)], rows[-1]
        self._forward(pool, singles, evaluate, width=1, patience=1, largest=largest)
        if not self._is_greedy:
            self._forward(pool, singles, evaluate, width=self.width, patience=self.patience, largest=largest)
        if self._goes_back(pool):
            self._backwards(pool, everything, evaluate)

    def _forward(
        self, pool: Subset, rows: Sequence[Row], evaluate: Evaluate, *, width: int, patience: int, largest: int
    ) -> None:
        beam = self._best(rows, width)
        best, stale = beam[0].quality(self.metric), 0
        while len(beam[0].subset) < largest and stale < patience:
            larger = {
                in_pool_order(pool, (*row.subset, name)) for row in beam for name in pool if name not in row.subset
            }
            beam = self._best(evaluate(_ordered(pool, larger)), width)
            stale = 0 if beam[0].quality(self.metric) > best else stale + 1
            best = max(best, beam[0].quality(self.metric))

    def _backwards(self, pool: Subset, row: Row, evaluate: Evaluate) -> None:
        while row.n_encoders > 1:
            smaller = {tuple(name for name in row.subset if name != left) for left in row.subset}
            best = self._best(evaluate(_ordered(pool, smaller)), 1)[0]
            if best.quality(self.metric) < row.quality(self.metric):
                return
            row = best

    def _best(self, rows: Sequence[Row], count: int) -> list[Row]:
        return sorted(rows, key=lambda row: row.rank(self.metric))[:count]


STRATEGIES: Mapping[str, Callable[[str, int | None], Strategy]] = MappingProxyType(
    {
        "exhaustive": lambda _metric, most: Exhaustive(max_encoders=most),
        "greedy": lambda metric, most: Walk(name="greedy", metric=metric, max_encoders=most),
        "beam": lambda metric, most: Walk(
            name="beam", metric=metric, width=WIDTH, patience=PATIENCE, max_encoders=most
        ),
        "all": lambda _metric, most: AllEncoders(max_encoders=most),
    }
)
"""Strategies by the name that users give, made from the selecting metric and the largest size.

``screen`` is not among them: it is two searches, one by :func:`screening_strategy` and one over its finalists.
"""


def make_strategy(name: str, *, metric: str = DEFAULT_METRIC, max_encoders: int | None = None) -> Strategy:
    """Return the strategy of that name.

    Parameters
    ----------
    name : str
        One of ``STRATEGIES``.
    metric : str
        The selecting metric, which leads greedy and beam: the one that ``run_search`` is given.
    max_encoders : int, optional
        Largest size of a subset. All encoders together are scored all the same, to be compared with.

    Raises
    ------
    SearchError
        If there is none.
    """
    if name not in STRATEGIES:
        raise SearchError(f"There is no search {name!r}.", remedy=f"Choose one of {', '.join(STRATEGIES)}.")
    return STRATEGIES[name](metric, max_encoders)


def screening_strategy(pool_size: int, metric: str, *, max_encoders: int | None = None) -> Strategy:
    """Return what a screen walks by: every subset where that can be done, else greedy, beam and backward together.

    Parameters
    ----------
    pool_size : int
        Number of encoders.
    metric : str
        The selecting metric.
    max_encoders : int, optional
        Largest size of a subset.
    """
    if _can_be_exhausted(count_subsets(pool_size, max_encoders)):
        return Exhaustive(max_encoders=max_encoders)
    return Walk(name="walk", metric=metric, width=WIDTH, patience=PATIENCE, backward=True, max_encoders=max_encoders)


def _can_be_exhausted(count: int) -> bool:
    return count <= count_subsets(EXHAUSTIVE_LIMIT)


def _largest(pool: Subset, max_encoders: int | None) -> int:
    if max_encoders is not None and max_encoders < 1:
        raise SearchError(f"A subset of at most {max_encoders} encoders does not exist.", remedy="Allow at least 1.")
    return len(pool) if max_encoders is None else min(len(pool), max_encoders)


def _ordered(pool: Subset, subsets: set[Subset]) -> list[Subset]:
    return sorted(subsets, key=lambda subset: combination_order(pool, subset))
