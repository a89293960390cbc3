"""Which screened subsets are worth refitting with the real head."""

from itertools import groupby

from biofuse.core.errors import SearchError
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.selection import Eligible, greedy_path, select
from biofuse.search.subsets import Subset

COUNT = 16
"""Best subsets that are kept by default."""


def finalists(
    screen: Leaderboard, *, count: int = COUNT, metric: str | None = None, eligible: Eligible | None = None
) -> list[Subset]:
    """Choose the subsets to refit: those that may win, and those that the winner is compared with.

    Parameters
    ----------
    screen : Leaderboard
        Cheap scores of many subsets.
    count : int, default 16
        How many of the best means are kept; fewer where fewer may be chosen.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    eligible : callable, optional
        Which rows may be chosen; all by default. The companions stay whether they may be chosen or not.

    Returns
    -------
    list of Subset
        The best ``count``, the best of every size, what the rule ``one_se`` chooses (with two folds or more), every
        single encoder, all encoders together, and the greedy path: each once, in combination order.

    Raises
    ------
    SearchError
        If ``count`` is less than 1, or nothing may be chosen.
    UndefinedMetricError
        If the metric is undefined in every fold of a subset.
    """
    if count < 1:
        raise SearchError(f"A search needs at least one finalist, not {count}.")
    name = metric or screen.metrics[0]
    choice = select(screen, rule="one_se" if screen.n_folds > 1 else "best", metric=name, eligible=eligible)
    ranked = sorted((row for row in screen if eligible is None or eligible(row)), key=lambda row: row.rank(name))
    by_size = groupby(sorted(ranked, key=_size), key=_size)
    kept = [
        *ranked[:count],
        *(next(rows) for _, rows in by_size),
        choice.chosen,
        *screen.singles,
        *greedy_path(screen, metric=name, eligible=eligible),
        *([choice.all] if choice.all is not None else []),
    ]
    wanted = {row.subset for row in kept}
    return [row.subset for row in screen if row.subset in wanted]


def _size(row: Row) -> int:
    return row.n_encoders
