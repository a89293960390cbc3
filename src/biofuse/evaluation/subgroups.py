"""Scores by subgroup: for every value of a column, which is worst, and whether they differ by more than chance."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError
from biofuse.core.hashing import generator
from biofuse.core.target import Target, Task
from biofuse.evaluation.intervals import CELLS, FEW_GROUPS, SIGNIFICANCE, Interval, Units, holm, score_intervals
from biofuse.evaluation.metrics import Metric, Record, Score, default_metric, get_metric
from biofuse.evaluation.rows import ScoredRows, prepare

Index = NDArray[np.int64]

MANY_NUMBERS = 10
"""A column of more different numbers is cut into :data:`PARTS`: an age is no name."""

PARTS = 4
"""Parts of about equal size that numbers are cut into: quartiles."""

FEW = FEW_GROUPS
"""A value with fewer samples, or groups, is neither worst nor best: Wilson's interval of a share of one half spans
.24 to .76 at ten."""

LISTED = 50
"""Values of a column that are scored, those with the most samples: more are read by nobody."""

PERMUTATIONS = 999
"""Of the test, where the data are small: the smallest p-value is then .001, as is usual (Phipson and Smyth 2010)."""

ENOUGH = 0.5
"""The share of samples, or groups, that must be able to get another value: otherwise few dealings differ from the one
found, and a test could find nothing."""

FEWEST_PERMUTATIONS = 199
WEIGHED = 100_000_000
"""Row weights that a test may take (some seconds); larger data are permuted less often, at least so often."""


class Subgroup(Record):
    """The samples that share a value.

    Attributes
    ----------
    value : str
    n : int
        Samples.
    n_units : int
        What varies independently among them: samples, or groups.
    intervals : dict of str to Interval
        Scores with intervals, by metric.
    enough : bool
        Whether there are at least :data:`FEW` units and the metric of the comparison is defined, so that the value is
        compared with the others.
    """

    value: str
    n: int
    n_units: int
    intervals: dict[str, Interval]
    enough: bool


class Gap(Record):
    """How far the scores of a column's values lie apart.

    Attributes
    ----------
    best, worst : str
        Values with the best and the worst score.
    difference : float
        Of their scores.
    p_value : float
        How often values that are dealt out at random lie as far apart as these do, all of them together.
    p_holm : float
        The same after Holm's correction over the columns tested together.
    n_values : int
        Values compared.
    permuted : {"samples", "groups", "samples within groups"}
        What the values were dealt out to; the last where groups hold several values.
    within_classes : bool
        Whether they were dealt out among samples of one class at a time, so that only how each class is told from the
        others counts, not how frequent it is.
    n_permutations : int
    """

    best: str
    worst: str
    difference: Score
    p_value: Score
    p_holm: Score
    n_values: int
    permuted: Literal["samples", "groups", "samples within groups"]
    within_classes: bool
    n_permutations: int

    @property
    def noise(self) -> bool:
        """Whether the values may well differ by chance only; also true where it cannot be told."""
        return not self.p_holm <= SIGNIFICANCE


class Breakdown(Record):
    """Scores for every value of a column.

    Attributes
    ----------
    column : str
    metric : str
        What values are compared on.
    overall : float
        The score of all samples together.
    subgroups : tuple of Subgroup
        By value.
    gap : Gap or None
        None where fewer than two values can be compared.
    n_tested : int
        Columns that were tested together.
    notes : tuple of str
        How numbers were cut, and what is left out.
    """

    column: str
    metric: str
    overall: Score
    subgroups: tuple[Subgroup, ...]
    gap: Gap | None
    n_tested: int
    notes: tuple[str, ...] = ()

    def subgroup(self, value: str) -> Subgroup:
        """Return the samples of a value."""
        return next(each for each in self.subgroups if each.value == value)

    def __str__(self) -> str:
        title, gap = get_metric(self.metric).title, self.gap
        if gap is None:
            return " ".join((f"By {self.column}: there are no two values to compare.", *self.notes))
        worst, best = (self._scored(value) for value in (gap.worst, gap.best))
        corrected = f", Holm-corrected over {self.n_tested} columns" if self.n_tested > 1 else ""
        if math.isnan(gap.p_holm):
            meaning = "of unknown weight"
            evidence = "too few samples share a group, and a class, with samples of other values for a test"
        else:
            meaning = "within noise" if gap.noise else "more than chance"
            evidence = f"p = {gap.p_holm:.3g}, {gap.permuted} permuted{corrected}"
        said = (
            f"By {self.column}: {title} is worst for {worst} and best for {best}, of {gap.n_values} values. The gap of "
            f"{gap.difference:.4f} is {meaning} ({evidence})."
        )
        return " ".join((said, *self.notes))

    def _scored(self, value: str) -> str:
        found = self.subgroup(value).intervals[self.metric]
        ends = f"{found.confidence:.0%} interval {found.low:.4f} to {found.high:.4f}"
        return f'"{value}" ({found.estimate:.4f}, {ends}, {found.n_units} {found.unit})'


def cut(values: Sequence[str]) -> tuple[list[str], tuple[str, ...], str]:
    """Turn a column of many different numbers into a few ranges; leave any other as it is.

    Parameters
    ----------
    values : sequence of str
        Blank where unknown.

    Returns
    -------
    values : list of str
        One per row; blank stays blank.
    order : tuple of str
        The different ones: numbers and ranges ascending, names by the alphabet.
    note : str
        What was done; empty for nothing.

    Examples
    --------
    >>> cut(["f", "m", "f"])
    (['f', 'm', 'f'], ('f', 'm'), '')
    >>> cut([str(age) for age in range(20, 60)])[1]
    ('up to 29.75', 'above 29.75, up to 39.5', 'above 39.5, up to 49.25', 'above 49.25')
    """
    numbers = np.array([_number(value) for value in values])
    known = np.array([bool(value) for value in values])
    if np.isnan(numbers[known]).any() or not known.any():
        return list(values), tuple(sorted({value for value in values if value})), ""
    distinct = np.unique(numbers[known])
    if len(distinct) <= MANY_NUMBERS:
        return list(values), tuple(sorted({value for value in values if value}, key=float)), ""
    edges = np.unique(np.quantile(numbers[known], np.arange(1, PARTS) / PARTS))
    edges = edges[edges < distinct[-1]]
    shown = [f"{edge:.4g}" for edge in edges]
    if len(set(shown)) < len(shown):
        shown = [repr(float(edge)) for edge in edges]
    names = [
        f"up to {shown[0]}",
        *(f"above {low}, up to {high}" for low, high in itertools.pairwise(shown)),
        f"above {shown[-1]}",
    ]
    place = np.searchsorted(edges, numbers, side="left")
    parts = [names[each] if there else "" for each, there in zip(place.tolist(), known.tolist(), strict=True)]
    note = f"Its {len(distinct)} different numbers are cut into {len(names)} parts of about equal size."
    return parts, tuple(names), note


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        return float("nan")
    return number if np.isfinite(number) else float("nan")


def break_down(
    task: Task | Target,
    labels: ArrayLike,
    probabilities: ArrayLike,
    columns: Mapping[str, Sequence[str] | NDArray[np.object_]],
    *,
    ids: ArrayLike,
    groups: ArrayLike | None = None,
    metric: str | None = None,
    seed: int = 0,
) -> tuple[Breakdown, ...]:
    """Score predictions for every value of each column, and tell whether the values differ.

    The test permutes: values are dealt out anew, to whole groups where every group has one value, and the distance
    between their scores, weighted by their sizes, is compared with the one found. Where the metric does not depend on
    how frequent classes are, they are dealt out within each class, so that a value with few positives is not taken for
    another.

    Parameters
    ----------
    task : Task or Target
        What the labels are.
    labels, probabilities : array-like
        As for :func:`biofuse.evaluation.metrics.score`.
    columns : mapping of str to sequence of str
        One value per row, blank where unknown; many different numbers are cut into ranges (:func:`cut`).
    ids : array-like of str, shape (n,)
        Names of the rows.
    groups : array-like of str, shape (n,), optional
        Patients or slides, which vary as wholes.
    metric : str, optional
        What values are compared on; it must have an interval. By default the one that subsets of such a target are
        chosen by.
    seed : int
        Of the permutations.

    Returns
    -------
    tuple of Breakdown
        One per column; p-values are Holm-corrected over them.

    Raises
    ------
    AlignmentError
        If a column has not as many values as there are rows.
    """
    data, names = prepare(task, labels, probabilities), np.asarray(ids).astype(str)
    units, metric = Units.of(names, groups), metric or default_metric(data.target)
    overall = float(get_metric(metric).resample(data, np.ones((data.n, 1)))[0]) if data.n else float("nan")
    found = []
    for column, values in columns.items():
        if len(values) != data.n:
            raise AlignmentError(f"{data.n} rows but {len(values)} values of {column}.")
        texts, order, note = cut([str(value) for value in values])
        place = np.array([order.index(text) if text else -1 for text in texts], dtype=np.int64)
        rows_of = {value: np.flatnonzero(place == code) for code, value in enumerate(order)}
        shown = sorted(rows_of, key=lambda value: -len(rows_of[value]))[:LISTED]
        subgroups = tuple(
            _scored(data, value, rows_of[value], names=names, groups=groups, units=units, metric=metric)
            for value in order
            if value in shown
        )
        compared = [each.value for each in subgroups if each.enough]
        gap = None
        if len(compared) > 1:
            codes = np.full(data.n, -1, dtype=np.int64)
            for code, value in enumerate(compared):
                codes[rows_of[value]] = code
            scores = [(each.value, each.intervals[metric].estimate) for each in subgroups if each.enough]
            gap = _gap(data, codes, units, scores, metric=get_metric(metric), seed=seed)
        found.append(
            Breakdown(
                column=column,
                metric=metric,
                overall=overall,
                subgroups=subgroups,
                gap=gap,
                n_tested=0,
                notes=tuple(_notes(note, texts, rows_of, subgroups, units)),
            )
        )
    return _corrected(found)


def _corrected(found: Sequence[Breakdown]) -> tuple[Breakdown, ...]:
    """Correct the p-values of the columns that could be tested for one another."""
    p_values = [each.gap.p_value for each in found if each.gap is not None]
    corrected = iter(holm(p_values).tolist())
    together = []
    for each in found:
        gap = None if each.gap is None else each.gap.model_copy(update={"p_holm": next(corrected)})
        together.append(each.model_copy(update={"gap": gap, "n_tested": len(p_values)}))
    return tuple(together)


def _scored(
    data: ScoredRows,
    value: str,
    rows: Index,
    *,
    names: NDArray[np.str_],
    groups: ArrayLike | None,
    units: Units,
    metric: str,
) -> Subgroup:
    intervals = score_intervals(
        data.target,
        data.labels[rows],
        data.probabilities[rows],
        ids=names[rows],
        groups=None if groups is None else np.asarray(groups)[rows],
    )
    n_units = len(np.unique(units.of_row[rows]))
    defined = bool(np.isfinite(intervals[metric].estimate))
    return Subgroup(value=value, n=len(rows), n_units=n_units, intervals=intervals, enough=n_units >= FEW and defined)


def _notes(
    note: str,
    texts: Sequence[str],
    rows_of: Mapping[str, Index],
    subgroups: Sequence[Subgroup],
    units: Units,
) -> Iterator[str]:
    if note:
        yield note
    blank = sum(not text for text in texts)
    if blank:
        yield f"{blank} of {len(texts)} samples have no value."
    if len(rows_of) > len(subgroups):
        yield f"Of {len(rows_of)} values the {len(subgroups)} with the most samples are shown."
    few = [each.value for each in subgroups if each.n_units < FEW]
    if few:
        yield f"{_several(few)} fewer than {FEW} {units.kind}: too few to be compared."
    undefined = [each.value for each in subgroups if each.n_units >= FEW and not each.enough]
    if undefined:
        yield f"{_several(undefined)} too few classes to be scored."
    if len(rows_of) == 1:
        yield f"All samples have one value, {next(iter(rows_of))}."


def _several(values: Sequence[str]) -> str:
    return f"{values[0]} has" if len(values) == 1 else f"{len(values)} values, such as {values[0]}, have"


# --- the test


def _gap(
    data: ScoredRows,
    codes: Index,
    units: Units,
    scores: Sequence[tuple[str, float]],
    *,
    metric: Metric,
    seed: int,
) -> Gap:
    """Compare the values that rows have, ``codes`` from 0, -1 for none of them."""
    dealt = _Dealt.of(data, codes, units, within_classes=_of_classes(data, metric))
    n_values = len(scores)
    most = max(FEWEST_PERMUTATIONS, min(PERMUTATIONS, WEIGHED // max(1, data.n * n_values)))
    distance = float(_distances(data, codes[:, None], n_values, metric)[0])
    random = generator(seed, "subgroups", data.n, n_values)
    beyond = counted = 0
    step = max(1, CELLS // max(1, data.n * n_values))
    for start in range(0, most, step):
        drawn = np.stack([dealt.again(random) for _ in range(min(step, most - start))], axis=1)
        other = _distances(data, drawn, n_values, metric)
        other = other[~np.isnan(other)]
        # A permutation that changes nothing that counts is as far: not nearer by the last bit of a sum.
        beyond += int((other >= distance * (1 - 1e-9)).sum())
        counted += len(other)
    signed = {value: float(metric.signed(np.array([score]))[0]) for value, score in scores}
    best, worst = max(signed, key=signed.__getitem__), min(signed, key=signed.__getitem__)
    p_value = (1 + beyond) / (1 + counted) if dealt.moved >= ENOUGH else float("nan")
    return Gap(
        best=best,
        worst=worst,
        difference=signed[best] - signed[worst],
        p_value=p_value,
        p_holm=p_value,
        n_values=n_values,
        permuted=dealt.kind,
        within_classes=dealt.within_classes,
        n_permutations=counted,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Dealt:
    """What values are dealt out to, and among whom.

    Attributes
    ----------
    codes : ndarray of int64, shape (n_items,)
        The value of each unit, or row.
    strata : ndarray of int64, shape (n_items,)
        Values stay within these.
    of_row : ndarray of int64, shape (n,)
        The item of each row.
    kind : str
        As of :attr:`Gap.permuted`.
    within_classes : bool
    """

    codes: Index
    strata: Index
    of_row: Index
    kind: Literal["samples", "groups", "samples within groups"]
    within_classes: bool

    @classmethod
    def of(cls, data: ScoredRows, codes: Index, units: Units, *, within_classes: bool) -> "_Dealt":
        pairs = np.unique(np.stack([units.of_row, codes], axis=1), axis=0)
        whole = len(pairs) == units.n
        first = np.unique(units.of_row, return_index=True)[1]
        classes = data.labels if within_classes and not data.target.several else None
        kind: Literal["samples", "groups", "samples within groups"]
        if whole:
            pure = classes is not None and len(np.unique(np.stack([units.of_row, classes], axis=1), axis=0)) == units.n
            own, of_row, kind = codes[first], units.of_row, units.kind
            # Groups with samples of several classes are of none.
            strata = [(True, classes[first])] if classes is not None and pure else []
            strata.append((False, np.zeros(units.n, dtype=np.int64)))
        else:
            own, of_row, kind = codes, np.arange(data.n), "samples within groups"
            strata = []
            if classes is not None:
                _, both = np.unique(np.stack([units.of_row, classes], axis=1), axis=0, return_inverse=True)
                strata.append((True, both.ravel()))
            strata.append((False, units.of_row))
        for divided, each in strata:
            # What has none of the values keeps out of it.
            found = cls(codes=own, strata=np.where(own < 0, -1, each), of_row=of_row, kind=kind, within_classes=divided)
            if found.moved >= ENOUGH:
                break
        return found

    @property
    def moved(self) -> float:
        """The share of items with a value that might get another."""
        there = self.codes >= 0
        pairs = np.unique(np.stack([self.strata[there], self.codes[there]], axis=1), axis=0)
        mixed = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
        return float(np.isin(self.strata[there], mixed).mean())

    def again(self, random: np.random.Generator) -> Index:
        """Deal the values out anew; return that of each row."""
        here = np.argsort(self.strata, kind="stable")
        there = np.lexsort((random.random(len(self.codes)), self.strata))
        dealt = np.empty_like(self.codes)
        dealt[here] = self.codes[there]
        return np.asarray(dealt[self.of_row], dtype=np.int64)


def _of_classes(data: ScoredRows, metric: Metric) -> bool:
    """Tell whether a metric speaks of how classes are told apart, and not of how frequent they are."""
    return data.target.categorical and metric.interval not in {"share", "error"}


def _distances(data: ScoredRows, codes: Index, n_values: int, metric: Metric) -> NDArray[np.float64]:
    """Return the weighted sum of squared distances of the values' scores from their mean, for each dealing.

    Parameters
    ----------
    codes : ndarray of int64, shape (n, n_dealings)
    """
    weights = (codes[:, :, None] == np.arange(n_values)).reshape(data.n, -1).astype(np.float64)
    columns = metric.formula(data, weights)
    defined = ~np.isnan(columns)
    counts = defined.sum(axis=0)
    scores = np.divide(
        np.where(defined, columns, 0).sum(axis=0), counts, out=np.full(len(counts), np.nan), where=counts > 0
    )
    sizes = _sizes(data, weights, metric)
    scores, sizes = scores.reshape(-1, n_values), sizes.reshape(-1, n_values)
    mean = (scores * sizes).sum(axis=1, keepdims=True) / sizes.sum(axis=1, keepdims=True)
    return np.asarray((sizes * np.square(scores - mean)).sum(axis=1))


def _sizes(data: ScoredRows, weights: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Return what the variance of each score is about inverse to: rows, or of pairs the harmonic mean of both kinds."""
    total = weights.sum(axis=0)
    if metric.interval == "agreement" or not _of_classes(data, metric):
        return np.asarray(total)
    positive = np.asarray(data.target_sums @ weights)
    pairs = positive * (total - positive)
    return np.asarray(np.divide(pairs, total, out=np.zeros_like(pairs), where=total > 0).sum(axis=0))
