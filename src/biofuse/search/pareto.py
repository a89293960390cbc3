"""Score against inference cost: which subsets are worth their price, and what may be chosen within limits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.selection import select
from biofuse.search.subsets import label


class Licensed(Protocol):
    """What a budget reads of an encoder's card."""

    @property
    def licence(self) -> str:
        """SPDX identifier."""
        ...

    @property
    def commercial(self) -> bool | None:
        """Whether the licence allows commercial use; None where unknown."""
        ...


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on what may be chosen.

    Attributes
    ----------
    max_encoders : int or None
        Most encoders of a subset.
    max_latency : float or None
        Most milliseconds per image, summed over the encoders of a subset.
    commercial_only : bool
        Whether every encoder's licence must be known to allow commercial use.
    latency : mapping of str to float
        Milliseconds per image of each encoder; needed where ``max_latency`` is given.
    cards : mapping of str to EncoderCard
        Cards by encoder; needed where ``commercial_only`` is set.

    Raises
    ------
    SearchError
        If a limit makes no sense.
    """

    max_encoders: int | None = None
    max_latency: float | None = None
    commercial_only: bool = False
    latency: Mapping[str, float] = field(default_factory=dict, repr=False)
    cards: Mapping[str, Licensed] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.max_encoders is not None and self.max_encoders < 1:
            raise SearchError(f"A subset of at most {self.max_encoders} encoders does not exist.")
        if self.max_latency is not None and not self.max_latency > 0:
            raise SearchError(f"No encoder takes at most {self.max_latency} ms per image.")

    def allows(self, subset: Sequence[str]) -> bool:
        """Whether a subset keeps to every limit.

        Raises
        ------
        SearchError
            If the latency or the card of an encoder is needed and not known.
        """
        return all(kept(subset) for kept in self._limits().values())

    def allows_row(self, row: Row) -> bool:
        """Whether the subset of a row keeps to every limit."""
        return self.allows(row.subset)

    def eligible(self, leaderboard: Leaderboard) -> NDArray[np.bool_]:
        """Return which rows of a leaderboard keep to every limit, shape (n_subsets,).

        Raises
        ------
        SearchError
            If none does: the message names the tightest limit, and what it would have to be.
        """
        mask = np.array([self.allows_row(row) for row in leaderboard], dtype=np.bool_)
        if not mask.any():
            raise self._nothing(leaderboard)
        return mask

    def _limits(self) -> dict[str, Callable[[Sequence[str]], bool]]:
        limits: dict[str, Callable[[Sequence[str]], bool]] = {}
        if self.max_encoders is not None:
            limits["max_encoders"] = self._few
        if self.max_latency is not None:
            limits["max_latency"] = self._quick
        if self.commercial_only:
            limits["commercial_only"] = self._free
        return limits

    def _few(self, subset: Sequence[str]) -> bool:
        return self.max_encoders is None or len(subset) <= self.max_encoders

    def _quick(self, subset: Sequence[str]) -> bool:
        return self.max_latency is None or summed_cost(subset, self.latency) <= self.max_latency

    def _free(self, subset: Sequence[str]) -> bool:
        unknown = [name for name in subset if name not in self.cards]
        if unknown:
            raise SearchError(f"Whether {', '.join(unknown)} may be used commercially is not known without a card.")
        return all(self.cards[name].commercial is True for name in subset)

    def _nothing(self, leaderboard: Leaderboard) -> SearchError:
        if not leaderboard.rows:
            return SearchError("No subset was scored, so none is within the limits.")
        left = {name: sum(kept(row.subset) for row in leaderboard) for name, kept in self._limits().items()}
        tightest = min(left, key=lambda name: left[name])
        if left[tightest]:
            counts = ", ".join(f"{name} {count}" for name, count in left.items())
            return SearchError(
                f"No scored subset keeps to all limits. Of {len(leaderboard)}, each limit alone leaves: {counts}.",
                remedy=f"The tightest is {tightest}: loosen it, or offer more encoders.",
            )
        return self._impossible(leaderboard, tightest)

    def _impossible(self, leaderboard: Leaderboard, limit: str) -> SearchError:
        if limit == "max_latency":
            cheapest = min(leaderboard, key=lambda row: summed_cost(row.subset, self.latency))
            needs = f"{summed_cost(cheapest.subset, self.latency):.3g} ms per image ({label(cheapest.subset)})"
            what = f"max_latency of {self.max_latency:g} ms per image: the cheapest takes {needs}"
        elif limit == "max_encoders":
            least = min(row.n_encoders for row in leaderboard)
            what = f"max_encoders of {self.max_encoders}: the smallest has {least}"
        else:
            names = [name for name in leaderboard.encoders if self.cards[name].commercial is not True]
            said = ", ".join(f"{name} ({self.cards[name].licence})" for name in names)
            what = f"commercial_only: the licences of {said} forbid commercial use or do not say"
        return SearchError(
            f"None of {len(leaderboard)} scored subsets keeps to {what}.",
            remedy="Loosen this limit, or offer other encoders.",
        )


def summed_cost(subset: Sequence[str], cost: Mapping[str, float]) -> float:
    """Return the cost of a subset, the sum over its encoders.

    Raises
    ------
    SearchError
        If the cost of an encoder is not known, not finite or negative.
    """
    unknown = [name for name in subset if not (name in cost and math.isfinite(cost[name]) and cost[name] >= 0)]
    if unknown:
        raise SearchError(
            f"The inference cost of {', '.join(unknown)} is not known.",
            remedy="Measure the milliseconds per image of every encoder of the pool.",
        )
    return math.fsum(cost[name] for name in subset)


def pareto_front(
    leaderboard: Leaderboard,
    cost: Mapping[str, float],
    *,
    metric: str | None = None,
    eligible: Callable[[Row], bool] | None = None,
) -> tuple[Row, ...]:
    """Return the subsets than which none is both as cheap and as good, one of them more so.

    Parameters
    ----------
    leaderboard : Leaderboard
        The scored subsets.
    cost : mapping of str to float
        Cost of each encoder in any unit, such as milliseconds per image; a subset costs their sum.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    eligible : callable, optional
        Which rows count.

    Returns
    -------
    tuple of Row
        From the cheapest to the best. Of subsets that tie in both, the one with the fewest encoders, then dimensions.

    Raises
    ------
    SearchError
        If the cost of an encoder is not known, or nothing is eligible.
    UndefinedMetricError
        If the metric is undefined in every fold.
    """
    name = metric or leaderboard.metrics[0]
    rows = _eligible(leaderboard, eligible).best_first(name)
    front: list[Row] = []
    # The sort is stable: among equal costs the best comes first, among equals in both the simplest.
    for row in sorted(rows, key=lambda row: summed_cost(row.subset, cost)):
        if not front or row.quality(name) > front[-1].quality(name):
            front.append(row)
    return tuple(front)


def cheapest_within(
    leaderboard: Leaderboard,
    cost: Mapping[str, float],
    *,
    metric: str | None = None,
    eligible: Callable[[Row], bool] | None = None,
) -> Row:
    """Return the cheapest subset within one corrected standard error of the best.

    As rule ``one_se`` of :func:`biofuse.search.selection.select`, with the cost in place of the number of encoders;
    among equal costs, the fewest encoders, then the fewest dimensions, then the higher mean. Parameters as for
    :func:`pareto_front`.

    Raises
    ------
    SearchError
        If the cost of an encoder is not known, nothing is eligible, or there are fewer than two folds.
    """
    name = metric or leaderboard.metrics[0]
    within = select(_eligible(leaderboard, eligible), rule="one_se", metric=name).within
    return min(within, key=lambda row: (summed_cost(row.subset, cost), row.n_encoders, row.n_dims, -row.quality(name)))


def _eligible(leaderboard: Leaderboard, eligible: Callable[[Row], bool] | None) -> Leaderboard:
    rows = tuple(row for row in leaderboard if eligible is None or eligible(row))
    if not rows:
        raise SearchError("No scored subset is eligible." if leaderboard.rows else "No subset was scored.")
    return replace(leaderboard, rows=rows)
