"""Times to an event that are not all observed: curves, the weights of what is, pairs in the right order, tests."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from biofuse.evaluation.weighted import divide, running

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
Index = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A share that falls in steps over time.

    Attributes
    ----------
    times : ndarray of float64, shape (k,)
        Ascending.
    shares : ndarray of float64, shape (k,)
        From each time on, up to the next; 1 before the first.
    errors : ndarray of float64, shape (k,)
        Greenwood's standard errors of ``log(shares)``.
    at_risk : ndarray of int64, shape (k,)
        Samples still observed just before each time.
    """

    times: Values
    shares: Values
    errors: Values
    at_risk: Index

    def at(self, times: Values | float) -> Values:
        """Return the share at other times, same shape."""
        return np.asarray(self._steps(self.shares, 1.0, times))

    def interval(self, times: Values | float, *, confidence: float = 0.95) -> tuple[Values, Values]:
        """Return the ends of the interval on the scale of ``log(-log(share))``; NaN where the share is 0 or 1.

        These keep within 0 and 1 (Kalbfleisch and Prentice 1980).
        """
        from scipy.special import ndtri

        share, error = self.at(times), self._steps(self.errors, 0.0, times)
        inside = (share > 0) & (share < 1)
        logged = np.log(np.where(inside, share, 0.5))
        reach = ndtri((1 + confidence) / 2) * error / np.abs(logged)
        low, high = (np.where(inside, np.exp(logged * np.exp(sign * reach)), np.nan) for sign in (1, -1))
        return low, high

    def _steps(self, values: Values, before: float, times: Values | float) -> Values:
        place = np.searchsorted(self.times, times, side="right")
        return np.asarray(np.concatenate([[before], values])[place])


def kaplan_meier(time: Values, event: Flags) -> Curve:
    """Return the share without the event over time (Kaplan and Meier 1958).

    Parameters
    ----------
    time : ndarray of float64, shape (n,)
    event : ndarray of bool, shape (n,)
        Whether it happened then, or nothing more was observed.
    """
    times, place = np.unique(time, return_inverse=True)
    events = np.bincount(place, event, minlength=len(times))
    return _product(times, events, np.cumsum(np.bincount(place, minlength=len(times))[::-1])[::-1])


def still_observed(time: Values, event: Flags) -> Curve:
    """Return the share whose observation had not ended over time: the same of the censoring, after events of a time."""
    times, place = np.unique(time, return_inverse=True)
    events = np.bincount(place, event, minlength=len(times))
    ends = np.bincount(place, ~event, minlength=len(times))
    at_risk = np.cumsum((events + ends)[::-1])[::-1]
    return _product(times, ends, at_risk - events)


def _product(times: Values, events: NDArray[np.number], at_risk: NDArray[np.number]) -> Curve:
    share = np.divide(events, at_risk, out=np.zeros(len(times)), where=at_risk > 0)
    left = np.asarray(at_risk - events, dtype=np.float64)
    terms = np.divide(share, left, out=np.zeros(len(times)), where=left > 0)
    return Curve(
        times=times, shares=np.cumprod(1 - share), errors=np.sqrt(np.cumsum(terms)), at_risk=at_risk.astype(np.int64)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Level:
    """Pairs whose places in time first differ in one bit."""

    earlier: Index
    later: Index
    start: Index
    below: Index
    up_to: Index
    end: Index


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """All pairs of which is known who had the event first: one had it, and the other was observed for longer.

    What was censored at the time of an event was observed for longer; two events at one time are no pair.

    Attributes
    ----------
    levels : tuple
        Every pair is in one of them: the time it takes grows as n log n.
    """

    levels: tuple[_Level, ...]

    @classmethod
    def of(cls, time: Values, event: Flags, risk: Values) -> "Pairs":
        """Find the pairs.

        Parameters
        ----------
        time : ndarray of float64, shape (n,)
        event : ndarray of bool, shape (n,)
        risk : ndarray of float64, shape (n,)
            The larger, the earlier the event is expected.
        """
        place = np.unique(np.column_stack([time, ~event]), axis=0, return_inverse=True)[1].ravel().astype(np.int64)
        rank = np.unique(risk, return_inverse=True)[1].ravel().astype(np.int64)
        levels, span = [], int(rank.max(initial=0)) + 1
        for bit in range(int(place.max(initial=0)).bit_length()):
            block, upper = place >> (bit + 1), (place >> bit) % 2 == 1
            earlier, later = np.flatnonzero(~upper & event), np.flatnonzero(upper)
            later = later[np.lexsort((rank[later], block[later]))]
            keys, first = block[later] * span + rank[later], block[earlier] * span
            own = first + rank[earlier]
            levels.append(
                _Level(
                    earlier=earlier,
                    later=later,
                    start=np.searchsorted(keys, first),
                    below=np.searchsorted(keys, own),
                    up_to=np.searchsorted(keys, own, side="right"),
                    end=np.searchsorted(keys, first + span),
                )
            )
        return cls(levels=tuple(levels))

    def concordance(self, weights: Values, factor: Values | None = None) -> Values:
        """Return the share of pairs in which who had the event first has the greater risk, shape (n_weightings,).

        Parameters
        ----------
        weights : ndarray of float64, shape (n, n_weightings)
            A pair weighs the product of both.
        factor : ndarray of float64, shape (n,), optional
            Times the weight of who had the event.

        Returns
        -------
        ndarray of float64
            Equal risks count one half; NaN without a pair.
        """
        over, under = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        for level in self.levels:
            own, sums = weights[level.earlier], running(weights[level.later])
            own = own if factor is None else own * factor[level.earlier, None]
            before = sums[level.start]
            over += np.einsum("ij,ij->j", own, (sums[level.below] + sums[level.up_to]) / 2 - before)
            under += np.einsum("ij,ij->j", own, sums[level.end] - before)
        return divide(over, under)


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """Times and events of the rows that are scored, and what follows from them.

    What was censored before a time says nothing of it. Its part is taken by rows that were observed, each weighted by
    one over the chance that a row was (Graf et al. 1999; Uno et al. 2007, 2011), estimated from these same rows: the
    chance is that of the censoring, whatever the model.

    Attributes
    ----------
    time : ndarray of float64, shape (n,)
    event : ndarray of bool, shape (n,)
    horizons : ndarray of float64, shape (k,)
        Ascending.
    """

    time: Values
    event: Flags
    horizons: Values

    @cached_property
    def seen(self) -> Curve:
        """The share whose observation had not ended."""
        return still_observed(self.time, self.event)

    @cached_property
    def inverse(self) -> Values:
        """One over the chance to be observed until its own time, shape (n,); 0 where that is none."""
        return _inverse(self.seen.at(self.time))

    def happened(self) -> Flags:
        """Return who is known to have had the event by each horizon, shape (n, k)."""
        return np.asarray(self.event[:, None] & (self.time[:, None] <= self.horizons))

    def beyond(self) -> Flags:
        """Return who is known not to have had it by each horizon, shape (n, k)."""
        return np.asarray(self.time[:, None] > self.horizons)

    @property
    def uno(self) -> Values:
        """The weights of events in Uno's C, shape (n,): before the last horizon, one over the squared chance."""
        return np.where(self.event & (self.time < self.horizons.max(initial=-np.inf)), np.square(self.inverse), 0.0)

    @cached_property
    def at_horizons(self) -> Values:
        """The weights of rows at each horizon, shape (n, k): 0 for those censored before it."""
        beyond = _inverse(self.seen.at(self.horizons))
        return np.asarray(self.happened() * self.inverse[:, None] + self.beyond() * beyond)


def _inverse(chance: Values) -> Values:
    return np.divide(1.0, chance, out=np.zeros_like(chance), where=chance > 0)


def brier(observed: Observed, risks: Values, weights: Values) -> Values:
    """Return the Brier score at each horizon: the mean squared error of its probability, shape (k, n_weightings).

    Parameters
    ----------
    observed : Observed
    risks : ndarray of float64, shape (n, k)
        Probability that the event has happened by each horizon.
    weights : ndarray of float64, shape (n, n_weightings)
    """
    losses = observed.at_horizons * np.square(observed.happened() - risks)
    return divide(losses.T @ weights, weights.sum(axis=0))


def integrated(horizons: Values, scores: Values) -> Values:
    """Return the mean of scores over the time between the horizons, by trapezoids, shape (n_weightings,).

    With a single horizon the score there.
    """
    if len(horizons) == 1:
        return np.asarray(scores[0])
    return np.asarray(np.diff(horizons) @ (scores[1:] + scores[:-1]) / 2 / (horizons[-1] - horizons[0]))


def log_rank(time: Values, event: Flags, groups: NDArray[np.integer]) -> tuple[float, float]:
    """Test whether the curves of groups differ (Mantel 1966).

    Parameters
    ----------
    time : ndarray of float64, shape (n,)
    event : ndarray of bool, shape (n,)
    groups : ndarray of int, shape (n,)

    Returns
    -------
    statistic, p_value : float
        Of chi squared with one degree of freedom less than there are groups; NaN for fewer than two groups.
    """
    from scipy.stats import chi2

    names, member = np.unique(groups, return_inverse=True)
    times, place = np.unique(time, return_inverse=True)
    if len(names) < 2 or not event.any():
        return float("nan"), float("nan")
    shape = (len(times), len(names))
    flat = place * len(names) + member
    events = np.bincount(flat, event, minlength=shape[0] * shape[1]).reshape(shape)
    at_risk = np.cumsum(np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)[::-1], axis=0)[::-1]
    d, n = events.sum(axis=1), at_risk.sum(axis=1)
    share = at_risk / n[:, None]
    off = (events - d[:, None] * share).sum(axis=0)
    scale = d * np.divide(n - d, n - 1, out=np.zeros(len(n)), where=n > 1)
    spread = np.diag((scale[:, None] * share).sum(axis=0)) - (share * scale[:, None]).T @ share
    statistic = float(off[:-1] @ np.linalg.pinv(spread[:-1, :-1]) @ off[:-1])
    return statistic, float(chi2.sf(statistic, len(names) - 1))
