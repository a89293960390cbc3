"""The answer: which encoders, how much better, and whether that is more than noise."""

from math import isnan

from biofuse.evaluation.intervals import SIGNIFICANCE
from biofuse.evaluation.metrics import SELECTABLE, get_metric
from biofuse.model.evaluate import Evaluation
from biofuse.report.content import KeyFact
from biofuse.report.input import ReportInput, name_of
from biofuse.search.attribution import paired_gain
from biofuse.search.rules import CHOSEN

OTHERS = {"best_single": "the best single encoder", "all": "all encoders together"}
"""What the answer compares the chosen model with, in words."""


def answer(given: ReportInput) -> str:
    """Say in one sentence which encoders were chosen, how much better they are, and whether that is noise."""
    return _cross_validated(given) if given.evaluation is None else _tested(given, given.evaluation)


def _subject(given: ReportInput) -> str:
    encoders, pool, members = given.chosen, len(given.pool), given.record.members
    if len(members) > 1:
        return f"The average of {len(members)} subsets ({name_of(encoders, pool)}) reaches"
    if len(encoders) == 1:
        return f"{encoders[0]} alone, of {pool} encoders, reaches" if pool > 1 else f"{encoders[0]} reaches"
    if len(encoders) == pool:
        return f"All {pool} encoders together reach" if pool > 4 else f"{' + '.join(encoders)}, all encoders, reach"
    return f"{' + '.join(encoders)}, {len(encoders)} of {pool} encoders, reach"


def _tested(given: ReportInput, found: Evaluation) -> str:
    title, scores = given.metric_title, found.models[CHOSEN]
    value = scores.metrics.get(given.metric, float("nan"))
    if isnan(value):
        return f"{_subject(given)} no defined {title} on {found.n} {found.split} samples."
    interval = scores.intervals.get(given.metric)
    ends = ""
    if interval is not None and not isnan(interval.low):
        ends = f" (95 % interval {interval.low:.4f} to {interval.high:.4f})"
    text = f"{_subject(given)} {_article(title)} {title} of {value:.4f}{ends} on {found.n:,} {found.split} samples"
    said, verdicts = [], []
    for name in OTHERS:
        comparison = found.comparisons.get(name)
        if comparison is not None and not isnan(comparison.difference):
            said.append(f"{comparison.difference:+.4f} against {_who(given, name)}")
            verdicts.append(_verdict(comparison.difference, comparison.p_holm))
    return _finish(given, text, said, verdicts)


def _cross_validated(given: ReportInput) -> str:
    metric, board, title = given.metric, given.board, given.metric_title
    how = f"in cross-validation over {board.n_folds} folds" if board.n_folds > 1 else "on the validation split"
    text = f"{_subject(given)} {_article(title)} mean {title} of {given.record.mean:.4f} {how}"
    said, verdicts = [], []
    row = None if given.record.members else board.get(given.chosen)
    for name in OTHERS:
        other = given.record.companions.get(name)
        if row is None or other is None or other.subset == row.subset:
            continue
        gain = paired_gain(board, row, other, metric=metric)
        said.append(f"{gain.gain:+.4f} against {_who(given, name)}")
        verdicts.append(_verdict(gain.gain, gain.p_holm))
    return _finish(given, text, said, verdicts) + " It has not been tested yet."


def _finish(given: ReportInput, text: str, said: list[str], verdicts: list[str]) -> str:
    if not said:
        alone = len(given.chosen) == 1
        return f"{text}; it is {'itself the best single encoder' if alone else 'the only subset compared'}."
    if len(set(verdicts)) == 1:
        both = "both differences are" if len(verdicts) == 2 else "the difference is"
        return f"{text}: {' and '.join(said)}; {both} {verdicts[0]}."
    return (
        f"{text}: " + " and ".join(f"{words}, {verdict}" for words, verdict in zip(said, verdicts, strict=True)) + "."
    )


def _verdict(difference: float, p_holm: float) -> str:
    if not p_holm <= SIGNIFICANCE:
        return "within noise"
    return f"{'better' if difference > 0 else 'worse'} beyond noise (p = {p_holm:.2g})"


def _who(given: ReportInput, name: str) -> str:
    other = given.record.companions.get(name)
    if name == "best_single" and other is not None:
        return f"{OTHERS[name]} ({other.subset[0]})"
    return f"all {len(given.pool)} encoders together" if name == "all" else OTHERS[name]


def _article(title: str) -> str:
    return "an" if title[0] in "AEIOUaeiouF" else "a"


def facts(given: ReportInput) -> tuple[KeyFact, ...]:
    """Return the numbers that stand out at the top."""
    chosen = f"{len(given.chosen)} of {len(given.pool)}"
    found = [KeyFact(name="Chosen", text=chosen, remark="encoders: " + ", ".join(given.chosen))]
    if given.evaluation is not None:
        found += _test_facts(given, given.evaluation)
    own, n_folds, optimism = given.record.mean, given.board.n_folds, given.record.evidence.optimism
    # Measured on the screen, whose scores are another head's: the size carries over, the level does not.
    gap = abs(optimism.apparent - optimism.corrected) if optimism else 0.0
    corrected = f"; choosing among so many flatters by about {gap:.4f}" if optimism else ""
    found.append(
        KeyFact(
            name=f"Cross-validated {given.metric_title}" if n_folds > 1 else "Validation",
            text=f"{own:.4f}",
            remark=(f"mean over {n_folds} folds" if n_folds > 1 else "validation split") + corrected,
            value=own,
        )
    )
    scored = len(given.all_scores)
    how = f"{len(given.board)} of them refitted with the {given.record.head} head" if given.run.screen else ""
    found.append(KeyFact(name="Subsets scored", text=f"{scored:,}", remark=how, value=float(scored)))
    return tuple(found)


def _test_facts(given: ReportInput, evaluation: Evaluation) -> list[KeyFact]:
    scores, found = evaluation.models[CHOSEN], []
    for name in dict.fromkeys((given.metric, *SELECTABLE)):
        value, interval = scores.metrics.get(name, float("nan")), scores.intervals.get(name)
        if isnan(value):
            continue
        known = interval is not None and not isnan(interval.low) and not isnan(interval.high)
        ends = f"95 % interval {interval.low:.3f} to {interval.high:.3f}" if interval is not None and known else ""
        title = f"{evaluation.split.capitalize()} {get_metric(name).title}"
        found.append(KeyFact(name=title, text=f"{value:.4f}", remark=ends, value=value))
    return found
