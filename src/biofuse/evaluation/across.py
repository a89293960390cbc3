"""Methods over several data sets: mean ranks, which of them differ, and one method against each other one.

Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006): Friedman's test says whether
any differ; Nemenyi's critical difference of mean ranks, which; Wilcoxon's signed ranks with Holm's correction compare
one method with each of the others. Data sets are the units: how many samples each has plays no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError
from biofuse.evaluation.intervals import SIGNIFICANCE, holm

Values = NDArray[np.float64]

FEWEST_SETS = 3
"""With two data sets every mean rank is one of a few numbers, whatever the methods."""

ENOUGH_SETS = 10
"""Up to so many data sets Friedman's statistic follows the chi-squared distribution only roughly (Demšar 2006)."""


@dataclass(frozen=True, kw_only=True)
class SignedRank:
    """One method against another over data sets.

    Attributes
    ----------
    name : str
        The other one.
    n_sets, wins, ties, losses : int
        Of the first method.
    median : float
        Of the differences, the first minus the other.
    p_value, p_holm : float
        Of Wilcoxon's signed-rank test, two-sided, alone and corrected for all others; 1 where all differences are zero.
    """

    name: str
    n_sets: int
    wins: int
    ties: int
    losses: int
    median: float
    p_value: float
    p_holm: float

    @property
    def noise(self) -> bool:
        """Whether the difference may be chance."""
        return not self.p_holm <= SIGNIFICANCE


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanRanks:
    """How methods rank over data sets.

    Attributes
    ----------
    names : tuple of str
        The methods, the best mean rank first.
    mean_ranks : ndarray of float64, shape (n_methods,)
        1 for a method that is the best everywhere; equal scores share the mean of their ranks.
    n_sets : int
    statistic, p_value : float
        Of Friedman's test; NaN for two methods, where there is none.
    critical_difference : float
        Of mean ranks (Nemenyi), at :data:`biofuse.evaluation.intervals.SIGNIFICANCE`.
    """

    names: tuple[str, ...]
    mean_ranks: Values
    n_sets: int
    statistic: float
    p_value: float
    critical_difference: float

    @classmethod
    def of(cls, names: Sequence[str], scores: Values) -> Self:
        """Rank methods.

        Parameters
        ----------
        names : sequence of str
        scores : ndarray of float64, shape (n_methods, n_sets)
            More is better; none is NaN.

        Raises
        ------
        AlignmentError
            If there are fewer than two methods, fewer than :data:`FEWEST_SETS` data sets, or a score is missing.

        Examples
        --------
        >>> import numpy as np
        >>> from biofuse.evaluation.across import MeanRanks
        >>> found = MeanRanks.of(["a", "b"], np.array([[0.8, 0.9, 0.7], [0.7, 0.9, 0.6]]))
        >>> found.names, found.mean_ranks.round(3).tolist()
        (('a', 'b'), [1.167, 1.833])
        """
        from scipy import stats

        n_methods, n_sets = scores.shape
        if len(names) != n_methods or n_methods < 2 or n_sets < FEWEST_SETS or np.isnan(scores).any():
            raise AlignmentError(
                f"{n_methods} methods on {n_sets} data sets cannot be ranked.",
                remedy=f"Give at least two methods with a score on each of at least {FEWEST_SETS} data sets.",
            )
        ranks = mean_ranks(scores)
        order = np.argsort(ranks, kind="stable")
        friedman: Any = (np.nan, np.nan)
        if n_methods > 2 and np.ptp(ranks) > 0:
            friedman = stats.friedmanchisquare(*-scores)
        quantile = float(stats.studentized_range.ppf(1 - SIGNIFICANCE, n_methods, np.inf)) / np.sqrt(2)
        return cls(
            names=tuple(names[place] for place in order),
            mean_ranks=ranks[order],
            n_sets=n_sets,
            statistic=float(friedman[0]),
            p_value=float(friedman[1]) if np.ptp(ranks) > 0 else 1.0,
            critical_difference=float(quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_sets))),
        )

    @property
    def differ(self) -> bool:
        """Whether Friedman's test says that any methods differ; of two the critical difference alone decides."""
        return not self.p_value > SIGNIFICANCE

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """First and last place of each group of methods that cannot be told apart, none within another.

        Everything is one group where Friedman's test finds no difference.
        """
        last = len(self.names) - 1
        if not self.differ:
            return ((0, last),)
        ends = [int(np.flatnonzero(self.mean_ranks - rank <= self.critical_difference)[-1]) for rank in self.mean_ranks]
        return tuple(
            (first, end) for first, end in enumerate(ends) if end > first and (first == 0 or end > ends[first - 1])
        )

    def __str__(self) -> str:
        """Say what came of it, in a sentence or two."""
        best = self.names[0]
        tested = "" if np.isnan(self.p_value) else f" Friedman's test: p = {self.p_value:.3g}."
        apart = self.mean_ranks - self.mean_ranks[0] > self.critical_difference
        worse = [name for name, beyond in zip(self.names, apart, strict=True) if beyond and self.differ]
        many = ", ".join(worse)
        said = f"worse by more than the critical difference: {many}" if worse else "none is told apart from it"
        few = f" With {ENOUGH_SETS} data sets or fewer these tests are rough." if self.n_sets <= ENOUGH_SETS else ""
        return (
            f"{self.n_sets} data sets, {len(self.names)} methods; best mean rank {self.mean_ranks[0]:.2f}: {best}; "
            f"{said}. Critical difference {self.critical_difference:.2f}.{tested}{few}"
        )


def mean_ranks(scores: Values) -> Values:
    """Return the mean rank of each method over data sets, shape (n_methods,).

    Parameters
    ----------
    scores : ndarray of float64, shape (n_methods, n_sets)
        More is better; equal scores share the mean of their ranks.
    """
    from scipy.stats import rankdata

    return np.asarray(rankdata(-scores, axis=0).mean(axis=1), dtype=np.float64)


def signed_ranks(first: Values, others: Values, names: Sequence[str]) -> tuple[SignedRank, ...]:
    """Compare one method with others over data sets.

    Parameters
    ----------
    first : ndarray of float64, shape (n_sets,)
    others : ndarray of float64, shape (n_others, n_sets)
        More is better.
    names : sequence of str
        Of the others.
    """
    differences = first - others
    alone = [_signed_rank(each) for each in differences]
    return tuple(
        SignedRank(
            name=name,
            n_sets=len(each),
            wins=int((each > 0).sum()),
            ties=int((each == 0).sum()),
            losses=int((each < 0).sum()),
            median=float(np.median(each)),
            p_value=p,
            p_holm=float(corrected),
        )
        for name, each, p, corrected in zip(names, differences, alone, holm(alone), strict=True)
    )


def _signed_rank(differences: Values) -> float:
    from scipy.stats import wilcoxon

    apart = differences[differences != 0]
    return float(wilcoxon(apart).pvalue) if len(apart) else 1.0
