"""The hazard of an event, from times that were not all observed: partial likelihood, residuals, cumulative hazard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.linear import Matrix64


@dataclass(frozen=True, kw_only=True, eq=False)
class PartialLikelihood:
    """What log hazard ratios make of the order of events, ties as by Efron (1977).

    Attributes
    ----------
    event : ndarray of bool, shape (n,)
    weights : ndarray of float64, shape (n,)
    place : ndarray of int64, shape (n,)
        Number of each row's time among the different times, ascending.
    times : ndarray of float64, shape (n_times,)
        The different times.
    of : ndarray of int64, shape (n_events,)
        Number of each event's time.
    gone : ndarray of float64, shape (n_events,)
        Share of the events of one time that count as gone at each of them: 0 for the first, 1/2 for the second of two.
    share : ndarray of float64, shape (n_events,)
        Mean weight of the events of its time.
    """

    event: NDArray[np.bool_]
    weights: Matrix64
    place: NDArray[np.int64]
    times: Matrix64
    of: NDArray[np.int64]
    gone: Matrix64
    share: Matrix64

    @classmethod
    def at(cls, labels: Matrix64, weights: Matrix64 | None = None) -> Self:
        """Prepare it for rows of time and event, shape (n, 2), and their weights, shape (n,), by default 1."""
        event = labels[:, 1] == 1
        weights = np.ones(len(labels)) if weights is None else weights
        times, place = np.unique(labels[:, 0], return_inverse=True)
        of = np.sort(place[event])
        at_once = np.bincount(of, minlength=len(times))
        number = np.arange(len(of)) - np.searchsorted(of, of)
        total = np.bincount(place[event], weights=weights[event], minlength=len(times))
        return cls(
            event=event,
            weights=weights,
            place=place.astype(np.int64),
            times=times,
            of=of.astype(np.int64),
            gone=number / at_once[of],
            share=(total[of] / at_once[of]),
        )

    def take(self, rows: NDArray[np.int64]) -> "PartialLikelihood":
        """Return that of some of the rows."""
        labels = np.column_stack([self.times[self.place[rows]], self.event[rows]])
        return PartialLikelihood.at(labels, self.weights[rows])

    def __call__(self, ratios: Matrix64) -> tuple[float, Matrix64]:
        """Return the logarithm of the partial likelihood, and its derivative.

        Parameters
        ----------
        ratios : ndarray of float64, shape (n,)
            Log hazard ratios; a number added to all of them changes nothing.

        Returns
        -------
        value : float
        gradient : ndarray of float64, shape (n,)
        """
        n, ratios = len(self.times), ratios - ratios.max()
        hazard = self.weights * np.exp(ratios)
        at_risk = np.cumsum(np.bincount(self.place, weights=hazard, minlength=n)[::-1])[::-1]
        ending = np.bincount(self.place, weights=hazard * self.event, minlength=n)
        left = at_risk[self.of] - self.gone * ending[self.of]
        each = self.share / left
        cumulative = np.cumsum(np.bincount(self.of, weights=each, minlength=n))
        spared = np.bincount(self.of, weights=each * self.gone, minlength=n)
        felt = cumulative[self.place] - self.event * spared[self.place]
        observed = self.weights * self.event
        return float(observed @ ratios - self.share @ np.log(left)), observed - hazard * felt

    @property
    def residuals(self) -> Matrix64:
        """Martingale residuals of the null model, shape (n,): the event, less the hazard accumulated until then.

        They are the direction in which the partial likelihood grows fastest from no effect at all (Therneau, Grambsch
        and Fleming 1990): the larger, the earlier the event came.
        """
        _, gradient = self(np.zeros(len(self.place)))
        return np.asarray(gradient / self.weights)

    def cumulative_hazard(self, ratios: Matrix64, at: Sequence[float]) -> Matrix64:
        """Return Breslow's estimate (1974) of the cumulative hazard where the log hazard ratio is 0.

        Parameters
        ----------
        ratios : ndarray of float64, shape (n,)
        at : sequence of float
            Times.

        Returns
        -------
        ndarray of float64, shape (len(at),)
        """
        n, most = len(self.times), float(ratios.max())
        at_risk = np.cumsum(np.bincount(self.place, self.weights * np.exp(ratios - most), minlength=n)[::-1])[::-1]
        events = np.bincount(self.place, self.weights * self.event, minlength=n)
        cumulative = np.concatenate([[0.0], np.cumsum(events / at_risk)])
        return np.asarray(cumulative[np.searchsorted(self.times, at, side="right")] * np.exp(-most))
