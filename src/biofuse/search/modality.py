"""Cross-modal table: what encoders of each modality gain over a general-purpose one on these data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from biofuse.core.errors import SearchError
from biofuse.evaluation.metrics import get_metric
from biofuse.search.gains import Gain, holm_corrected, paired_gain
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.subsets import Subset, in_pool_order, label

if TYPE_CHECKING:
    import pandas as pd

GENERAL = "general"
"""The modality of encoders trained on everyday photographs, as cards say it."""


@dataclass(frozen=True, kw_only=True)
class Line:
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
    score: float
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


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossModal:
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
    baseline_score: float
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
            f"{self.baseline} ({self.baseline_modality}) by itself: mean {get_metric(self.metric).title} "
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
        Nominal coverage of the intervals, which are not corrected for several comparisons.

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
        modalities=_finish([line("modality", kind, members) for kind, members in of.items()]),
        encoders=_finish([line("encoder", encoder, [encoder]) for encoder in others]),
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
            remedy="Score every single encoder; every search but search='all' does.",
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


def _finish(lines: list[Line]) -> tuple[Line, ...]:
    """Correct the p-values of all lines together, and put the largest gain first."""
    gains = [*(line.alone for line in lines), *(line.added for line in lines if line.added is not None)]
    corrected = iter(holm_corrected(gains))
    lines = [replace(line, alone=next(corrected)) for line in lines]
    lines = [line if line.added is None else replace(line, added=next(corrected)) for line in lines]
    return tuple(sorted(lines, key=lambda line: -np.nan_to_num(line.alone.gain, nan=-np.inf)))


def _verdict(gain: Gain, against: str) -> str:
    if gain.noise:
        return f"differs from {against} by no more than noise ({gain.evidence()})"
    return f"scores {'better' if gain.gain > 0 else 'worse'} than {against} ({gain.evidence()})"
