"""What encoders contribute: paired gains fold by fold, Shapley values, and what a modality adds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import SearchError, UndefinedMetricError, option
from biofuse.evaluation.intervals import SIGNIFICANCE, corrected_t, holm_levels
from biofuse.evaluation.metrics import AUROC, Record, Score, get_metric
from biofuse.search.leaderboard import Leaderboard, Row, Subset, in_pool_order, label

if TYPE_CHECKING:
    import pandas as pd


class Gain(Record):
    """What one subset scores above another, fold by fold; of a loss, how much less it loses.

    Attributes
    ----------
    metric : str
        Name of the metric.
    subset, against : tuple of str
        Whose score is compared with whose.
    gain : float
        Mean paired difference over the folds in which both are defined; more is better for every metric.
    low, high : float
        Interval of the gain from the corrected t statistic of the folds, which says the same as ``p_holm``; NaN with
        fewer than two.
    confidence : float
        Nominal coverage of the gains looked at together.
    p_value, p_holm : float
        Two-sided p-value of no gain, and the same after Holm's correction over the gains looked at together.
    """

    metric: str
    subset: Subset
    against: Subset
    gain: Score
    low: Score
    high: Score
    confidence: float
    p_value: Score
    p_holm: Score

    @property
    def noise(self) -> bool:
        """Whether the gain may well be chance; also true where it cannot be told."""
        return not self.p_holm <= SIGNIFICANCE

    def evidence(self) -> str:
        """Return the numbers as they stand in a sentence."""
        if np.isnan(self.low):
            return f"{self.gain:+z.4f} {get_metric(self.metric).title}, from too few folds for an interval"
        return (
            f"{self.gain:+z.4f} {get_metric(self.metric).title}, {self.confidence:.0%} interval "
            f"{self.low:+z.4f} to {self.high:+z.4f}, p = {self.p_holm:.3g}"
        )

    def __str__(self) -> str:
        verdict = "within noise" if self.noise else "a gain" if self.gain > 0 else "a loss"
        return f"{label(self.subset)} against {label(self.against)}: {verdict} ({self.evidence()})."


def paired_gain(
    leaderboard: Leaderboard, row: Row, against: Row, *, metric: str | None = None, confidence: float = 0.95
) -> Gain:
    """Compare two rows of a leaderboard fold by fold.

    Parameters
    ----------
    leaderboard : Leaderboard
        Where they come from; it knows the sizes of the folds.
    row, against : Row
        Whose score is compared with whose.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    confidence : float, default 0.95
        Nominal coverage.
    """
    name = metric or leaderboard.metrics[0]
    differences = get_metric(name).signed(row.values(name) - against.values(name))
    mean, low, high, p_value = corrected_t(differences, leaderboard.n_train, leaderboard.n_test, confidence=confidence)
    return Gain(
        metric=name,
        subset=row.subset,
        against=against.subset,
        gain=mean,
        low=low,
        high=high,
        confidence=confidence,
        p_value=p_value,
        p_holm=p_value,
    )


def holm_corrected(leaderboard: Leaderboard, gains: Sequence[Gain]) -> tuple[Gain, ...]:
    """Correct p-values and intervals of gains on a leaderboard that are looked at together."""
    if not gains:
        return ()
    confidence = gains[0].confidence
    corrected, levels = holm_levels([gain.p_value for gain in gains], confidence=confidence)
    found = []
    for gain, p_holm, level in zip(gains, corrected, levels, strict=True):
        row, against = leaderboard[gain.subset], leaderboard[gain.against]
        again = paired_gain(leaderboard, row, against, metric=gain.metric, confidence=level)
        found.append(again.model_copy(update={"p_holm": p_holm, "confidence": confidence}))
    return tuple(found)


Values = NDArray[np.float64]

CHANCE = 0.5
"""The AUROC of no encoder."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How two encoders work together.

    Attributes
    ----------
    first, second : str
        Encoders, in pool order.
    interaction, low, high : float
        Shapley interaction index and its interval: above zero, the two gain more together than each by itself.
    additive : bool
        Whether it is on a scale on which independent evidence adds up, so that its sign says something.
    """

    first: str
    second: str
    interaction: float
    low: float
    high: float
    additive: bool = True

    @property
    def told(self) -> bool:
        """Whether the folds can tell that the two do not just add up."""
        return self.additive and bool(self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        if np.isnan(self.interaction):
            return f"How {self.first} and {self.second} work together cannot be told: scores are at their end."
        ends = "" if np.isnan(self.low) else f", interval {self.low:+z.2f} to {self.high:+z.2f}"
        numbers = f"(interaction {self.interaction:+z.2f}{ends} in units of d\u2032\u00b2)"
        if not self.additive:
            return f"{self.first} and {self.second}: interaction {self.interaction:+z.4f} of the score."
        if self.low > 0:
            return f"{self.first} and {self.second} complement each other {numbers}."
        if self.high < 0:
            return f"{self.first} and {self.second} know much of the same {numbers}."
        return f"{self.first} and {self.second} add up, as far as these folds can tell {numbers}."


class Attribution(Record):
    """What each encoder contributes; of a loss, by how much it lowers it.

    Attributes
    ----------
    metric : str
        Name of the metric. Below, v(S) is its mean over folds, turned so that more is better.
    encoders : tuple of str
        The pool; all that follows is in its order.
    empty : float
        v of no encoder: what guessing scores (turned likewise).
    full : float
        v of all encoders.
    shapley : tuple of float, length m
        Shapley values: they add up to ``full - empty``.
    low, high : tuple of float, length m
        Intervals of the Shapley values from the corrected t statistic of the folds; NaN with fewer than two.
    marginal : tuple of float, length m
        Mean of v(S + i) - v(S) over all subsets S without i, the empty one included, each counting the same.
    added_last : tuple of float, length m
        v(all) - v(all without i).
    alone : tuple of float, length m
        v({i}).
    interaction, interaction_low, interaction_high : tuple of m tuples of m floats
        Shapley interaction indices (Grabisch and Roubens 1999) and their intervals; symmetric, NaN on the diagonal.
    additive : bool
        Whether they are of the evidence that an AUROC stands for (:func:`evidence`), which adds up over independent
        encoders; of the score itself, which saturates, in runs of earlier versions and where there is no AUROC.
    confidence : float
        Nominal coverage of one interval; not corrected for several.
    n_folds : int
        Folds in which the metric is defined for every subset.
    """

    metric: str
    encoders: Subset
    empty: Score
    full: Score
    shapley: tuple[Score, ...]
    low: tuple[Score, ...]
    high: tuple[Score, ...]
    marginal: tuple[Score, ...]
    added_last: tuple[Score, ...]
    alone: tuple[Score, ...]
    interaction: tuple[tuple[Score, ...], ...]
    interaction_low: tuple[tuple[Score, ...], ...]
    interaction_high: tuple[tuple[Score, ...], ...]
    confidence: float
    n_folds: int
    additive: bool = False

    def score(self, value: float) -> float:
        """Return what v stands for, as the metric counts it: of a loss the loss."""
        return value if get_metric(self.metric).higher_is_better else -value

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs of encoders, the most complementary first."""
        found = [
            Pair(
                first=self.encoders[i],
                second=self.encoders[j],
                interaction=self.interaction[i][j],
                low=self.interaction_low[i][j],
                high=self.interaction_high[i][j],
                additive=self.additive,
            )
            for i, j in combinations(range(len(self.encoders)), 2)
        ]
        return tuple(sorted(found, key=lambda pair: -np.nan_to_num(pair.interaction, nan=-np.inf)))

    def complements(self) -> tuple[str, ...]:
        """Say who complements whom and who is redundant, for the pairs where the folds can tell; strongest first."""
        told = [pair for pair in self.pairs if pair.told]
        return tuple(str(pair) for pair in sorted(told, key=lambda pair: -abs(pair.interaction)))

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per encoder, the largest Shapley value first."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "encoder": self.encoders,
                "shapley": self.shapley,
                "low": self.low,
                "high": self.high,
                "marginal": self.marginal,
                "added_last": self.added_last,
                "alone": self.alone,
            }
        )
        return frame.sort_values("shapley", ascending=False, kind="stable", ignore_index=True)

    def __str__(self) -> str:
        order = np.argsort(np.negative(self.shapley), kind="stable").tolist()
        shares = ", ".join(f"{self.encoders[i]} {self.shapley[i]:+z.4f}" for i in order)
        ends = f"from {self.score(self.empty):.4f} to {self.score(self.full):.4f}"
        return f"Shapley values of {get_metric(self.metric).title}, {ends}: {shares}."


def attribute(
    leaderboard: Leaderboard, *, metric: str | None = None, empty: float | None = None, confidence: float = 0.95
) -> Attribution:
    """Divide the score of all encoders among them, exactly.

    Parameters
    ----------
    leaderboard : Leaderboard
        With a row for every non-empty subset of its encoders.
    metric : str, optional
        Which metric; the leaderboard's first by default.
    empty : float, optional
        What guessing scores by this metric: the share of the largest class for accuracy. The metric's own level of
        chance by default, .5 for AUROC.
    confidence : float, default 0.95
        Nominal coverage of the intervals.

    Raises
    ------
    SearchError
        If some subset was not scored, or the level of guessing is neither given nor known.
    UndefinedMetricError
        If there is no fold in which every subset is defined.
    """
    name = metric or leaderboard.metrics[0]
    level = get_metric(name).chance if empty is None else empty
    if level is None:
        raise SearchError(
            f"What guessing scores is not known for {get_metric(name).title}.",
            remedy="Pass empty=, for accuracy the share of the largest class.",
        )
    values = _by_mask(leaderboard, name, level)
    m, n_folds = len(leaderboard.encoders), values.shape[1]
    sizes = leaderboard.n_train, leaderboard.n_test
    mean = values.mean(axis=1)
    single = 1 << np.arange(m)
    each = np.stack([_shapley(values, i) for i in range(m)])
    interaction, interaction_low, interaction_high = (np.full((m, m), np.nan) for _ in range(3))
    additive = AUROC.name in leaderboard.metrics
    joint = _joint_evidence(leaderboard) if additive else values
    for i, j in combinations(range(m), 2):
        found = corrected_t(_interaction(joint, i, j), *sizes, confidence=confidence)
        for matrix, value in zip((interaction, interaction_low, interaction_high), found[:3], strict=True):
            matrix[i, j] = matrix[j, i] = value
    shapley, low, high, _ = zip(*(corrected_t(row, *sizes, confidence=confidence) for row in each), strict=True)
    return Attribution(
        metric=name,
        encoders=leaderboard.encoders,
        empty=float(mean[0]),
        full=float(mean[-1]),
        shapley=shapley,
        low=low,
        high=high,
        marginal=tuple(float(_steps(mean, i).mean()) for i in range(m)),
        added_last=tuple((mean[-1] - mean[len(mean) - 1 - single]).tolist()),
        alone=tuple(mean[single].tolist()),
        interaction=_rows(interaction),
        interaction_low=_rows(interaction_low),
        interaction_high=_rows(interaction_high),
        confidence=confidence,
        n_folds=n_folds,
        additive=additive,
    )


def _joint_evidence(leaderboard: Leaderboard) -> Values:
    try:
        return evidence(_by_mask(leaderboard, AUROC.name, CHANCE))
    except UndefinedMetricError:  # the score itself may be defined where no fold has an AUROC
        return np.full((2 ** len(leaderboard.encoders), leaderboard.n_folds), np.nan)


def evidence(auroc: Values) -> Values:
    """Return the evidence that an AUROC stands for, fold by fold: 2 Phi^-1(AUROC)^2, below one half less than zero.

    That is the squared distance d'^2 of two normal distributions of equal spread. Those of independent encoders add up
    under the best linear combination, while their AUROCs saturate (Green and Swets 1966, Signal Detection Theory).
    A fold may well have an AUROC of 1, which is no infinite evidence. So the mean over folds is what is transformed,
    and each fold stands for it with its deviation times the slope there: the mean of the folds returned is the
    evidence of the mean, and their spread that of the delta method.

    Parameters
    ----------
    auroc : ndarray of float64, shape (n_subsets, n_folds)

    Returns
    -------
    ndarray of float64, shape (n_subsets, n_folds)
        NaN where the mean is 0 or 1.

    Examples
    --------
    >>> import numpy as np
    >>> evidence(np.array([[0.76, 0.76], [0.8413, 0.8413]])).round(2).tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """
    from scipy.stats import norm

    mean = auroc.mean(axis=1, keepdims=True)
    z = norm.ppf(np.where((mean > 0) & (mean < 1), mean, np.nan))
    return np.asarray(2 * z * np.abs(z) + 4 * np.abs(z) / norm.pdf(z) * (auroc - mean))


def _rows(matrix: Values) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, matrix.tolist()))


def _by_mask(leaderboard: Leaderboard, metric: str, empty: float) -> Values:
    """Return fold values by subset, more being better, shape (2**m, n_folds); bit i of the index is encoder i."""
    m = len(leaderboard.encoders)
    bit = {name: 1 << place for place, name in enumerate(leaderboard.encoders)}
    if len(leaderboard) < 2**m - 1:
        raise SearchError(
            f"Shapley values need the scores of all {2**m - 1} subsets of {m} encoders; {len(leaderboard)} are there.",
            remedy=f"Use {option('search', 'exhaustive')}, or {option('search', 'screen')} on up to 15 encoders.",
        )
    values = np.full((2**m, leaderboard.n_folds), empty, dtype=np.float64)
    for row in leaderboard:
        values[sum(bit[name] for name in row.subset)] = row.values(metric)
    values = get_metric(metric).signed(values[:, ~np.isnan(values).any(axis=0)])
    if not values.shape[1]:
        raise UndefinedMetricError(
            f"{get_metric(metric).title} is undefined for some subset in every fold.",
            remedy="Choose another metric, or give every class enough samples to appear in every fold.",
        )
    return values


def _without(n_masks: int, *places: int) -> NDArray[np.int64]:
    masks = np.arange(n_masks)
    return np.flatnonzero((masks & sum(1 << place for place in places)) == 0)


def _steps(values: Values, i: int) -> Values:
    """Return v(S + i) - v(S) for every subset S without i, in the order of ``_without``."""
    rest = _without(len(values), i)
    return np.asarray(values[rest | 1 << i] - values[rest])


def _size_weights(masks: NDArray[np.int64], m: int, n_out: int) -> Values:
    """Return 1 / ((m - n_out + 1) * C(m - n_out, size)) per subset: every size counts the same, then every subset."""
    weights = np.array([1 / ((m - n_out + 1) * comb(m - n_out, size)) for size in range(m - n_out + 1)])
    return np.asarray(weights[_sizes(masks, m)])


def _sizes(masks: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    return np.asarray(sum((masks >> place) & 1 for place in range(m)), dtype=np.int64)


def _shapley(values: Values, i: int) -> Values:
    """Return the Shapley value of encoder i in each fold."""
    m = len(values).bit_length() - 1
    return _size_weights(_without(len(values), i), m, 1) @ _steps(values, i)


def _interaction(values: Values, i: int, j: int) -> Values:
    """Return the Shapley interaction index of encoders i and j in each fold."""
    m, rest = len(values).bit_length() - 1, _without(len(values), i, j)
    one, other = 1 << i, 1 << j
    gains = values[rest | one | other] - values[rest | one] - values[rest | other] + values[rest]
    return np.asarray(_size_weights(rest, m, 2) @ gains)


GENERAL = "general"
"""The modality of encoders trained on everyday photographs, as cards say it."""


class Line(Record):
    """What an encoder, or the encoders of a modality, gain over the baseline.

    Attributes
    ----------
    kind : {"encoder", "modality"}
        What the line is about.
    name : str
        Encoder or modality.
    modality : str
        Its modality.
    encoders : tuple of str
        The encoders of the line in pool order, without the baseline.
    best : str
        The encoder among them with the best cross-validated score by itself.
    score : float
        That score.
    alone : Gain
        That encoder against the baseline, one in place of the other. The best of several, so that in a modality with
        many encoders it is a little too good.
    added : Gain or None
        The baseline with all these encoders against the baseline; None where that subset was not scored.
    """

    kind: Literal["encoder", "modality"]
    name: str
    modality: str
    encoders: Subset
    best: str
    score: Score
    alone: Gain
    added: Gain | None

    def __str__(self) -> str:
        baseline = label(self.alone.against)
        who = f"The best {self.name} encoder, {self.best}," if self.kind == "modality" else self.name
        text = f"{who} {_verdict(self.alone, f'{baseline} by itself')}"
        if self.added is None:
            return f"{text}."
        several = self.kind == "modality" and len(self.encoders) > 1
        joined = f"all {len(self.encoders)} {self.name} encoders" if several else "it"
        return f"{text}; {baseline} joined by {joined} {_verdict(self.added, f'{baseline} without')}."


class CrossModal(Record):
    """Gains over a general-purpose encoder.

    Attributes
    ----------
    metric : str
        Name of the metric.
    baseline : str
        The encoder that all others are compared with.
    baseline_modality : str
        Its modality.
    baseline_score : float
        Its cross-validated mean.
    modalities, encoders : tuple of Line
        A line per modality and per encoder other than the baseline, the largest gain by itself first. The modality
        of the baseline has a line of its other encoders: what a second encoder gains without another modality. p-values
        are Holm-corrected over all gains of the modalities, and over all gains of the encoders.
    """

    metric: str
    baseline: str
    baseline_modality: str
    baseline_score: Score
    modalities: tuple[Line, ...]
    encoders: tuple[Line, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """One sentence per modality."""
        return tuple(str(line) for line in self.modalities)

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per modality, then a row per encoder; ``alone`` and ``added`` are gains over the baseline."""
        import pandas as pd

        records = []
        for line in (*self.modalities, *self.encoders):
            record: dict[str, object] = {
                "kind": line.kind,
                "name": line.name,
                "modality": line.modality,
                "encoders": len(line.encoders),
                "best": line.best,
                "score": line.score,
            }
            for column, gain in (("alone", line.alone), ("added", line.added)):
                for key, attribute in (("", "gain"), ("_low", "low"), ("_high", "high"), ("_p", "p_holm")):
                    record[column + key] = float("nan") if gain is None else getattr(gain, attribute)
            records.append(record)
        return pd.DataFrame.from_records(records)

    def __str__(self) -> str:
        head = (
            f"{self.baseline} ({self.baseline_modality}) by itself: {get_metric(self.metric).mean_title} "
            f"{self.baseline_score:.4f}."
        )
        return "\n".join([head, *self.sentences])


def cross_modal(
    leaderboard: Leaderboard,
    modality: Mapping[str, str],
    *,
    metric: str | None = None,
    baseline: str | None = None,
    general: str = GENERAL,
    confidence: float = 0.95,
) -> CrossModal:
    """Compare every modality and every encoder with a general-purpose encoder, fold by fold.

    Parameters
    ----------
    leaderboard : Leaderboard
        With a row for every single encoder; gains of joined encoders come from the larger subsets that are there.
    modality : mapping of str to str
        Modality of each encoder of the leaderboard.
    metric : str, optional
        By which metric; the leaderboard's first by default.
    baseline : str, optional
        The encoder to compare with; by default the general-purpose one with the best cross-validated score.
    general : str, default "general"
        Which modality is general-purpose.
    confidence : float, default 0.95
        Nominal coverage of the gains of the modalities together, and of those of the encoders.

    Raises
    ------
    SearchError
        If the pool has no general-purpose encoder and no baseline was named, nothing to compare with it, an encoder
        without a modality, or one that was not scored by itself.
    UndefinedMetricError
        If the metric is undefined in every fold.
    """
    name = metric or leaderboard.metrics[0]
    singles = _singles(leaderboard, modality)
    base = singles[_baseline(singles, modality, name, baseline, general)]
    start = base.subset[0]
    others = [encoder for encoder in leaderboard.encoders if encoder != start]
    if not others:
        raise SearchError(f"{start} is the only encoder: there is none to compare it with.")

    def gain(row: Row) -> Gain:
        return paired_gain(leaderboard, row, base, metric=name, confidence=confidence)

    def line(kind: Literal["encoder", "modality"], title: str, members: list[str]) -> Line:
        best = min((singles[encoder] for encoder in members), key=lambda row: row.rank(name))
        joined = leaderboard.get([start, *members])
        return Line(
            kind=kind,
            name=title,
            modality=modality[members[0]],
            encoders=in_pool_order(leaderboard.encoders, members),
            best=best.subset[0],
            score=best.mean(name),
            alone=gain(best),
            added=None if joined is None else gain(joined),
        )

    of = {kind: [encoder for encoder in others if modality[encoder] == kind] for kind in _distinct(modality, others)}
    return CrossModal(
        metric=name,
        baseline=start,
        baseline_modality=modality[start],
        baseline_score=base.mean(name),
        modalities=_finish(leaderboard, [line("modality", kind, members) for kind, members in of.items()]),
        encoders=_finish(leaderboard, [line("encoder", encoder, [encoder]) for encoder in others]),
    )


def _singles(leaderboard: Leaderboard, modality: Mapping[str, str]) -> dict[str, Row]:
    unknown = [encoder for encoder in leaderboard.encoders if encoder not in modality]
    if unknown:
        raise SearchError(f"The modality of {', '.join(unknown)} is not given.")
    found = {encoder: leaderboard.get([encoder]) for encoder in leaderboard.encoders}
    missing = [encoder for encoder, row in found.items() if row is None]
    if missing:
        raise SearchError(
            f"{', '.join(missing)} was not scored by itself, so nothing can be said about its modality.",
            remedy=f"Score every single encoder; every search but {option('search', 'all')} does.",
        )
    return {encoder: row for encoder, row in found.items() if row is not None}


def _baseline(
    singles: Mapping[str, Row], modality: Mapping[str, str], metric: str, baseline: str | None, general: str
) -> str:
    if baseline is not None:
        if baseline not in singles:
            raise SearchError(f"There is no encoder {baseline!r}.", remedy=f"Name one of {', '.join(singles)}.")
        return baseline
    candidates = [encoder for encoder in singles if modality[encoder] == general]
    if not candidates:
        raise SearchError(
            f"The pool has no encoder of modality {general!r}, so there is no general-purpose baseline; it has "
            f"{', '.join(_distinct(modality, singles))}.",
            remedy="Name a baseline, or offer a general-purpose encoder.",
        )
    return min(candidates, key=lambda encoder: singles[encoder].rank(metric))


def _distinct(modality: Mapping[str, str], encoders: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(modality[encoder] for encoder in encoders))


def _finish(leaderboard: Leaderboard, lines: list[Line]) -> tuple[Line, ...]:
    """Correct all lines together, and put the largest gain first."""
    gains = [*(line.alone for line in lines), *(line.added for line in lines if line.added is not None)]
    corrected = iter(holm_corrected(leaderboard, gains))
    lines = [line.model_copy(update={"alone": next(corrected)}) for line in lines]
    lines = [line if line.added is None else line.model_copy(update={"added": next(corrected)}) for line in lines]
    return tuple(sorted(lines, key=lambda line: -np.nan_to_num(line.alone.gain, nan=-np.inf)))


def _verdict(gain: Gain, against: str) -> str:
    if gain.noise:
        return f"differs from {against} by no more than noise ({gain.evidence()})"
    return f"scores {'better' if gain.gain > 0 else 'worse'} than {against} ({gain.evidence()})"
