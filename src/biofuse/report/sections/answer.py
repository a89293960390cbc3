"""The answer: which encoders, how much better, and whether that is more than noise."""

from biofuse.evaluation.comparison import SIGNIFICANCE
from biofuse.evaluation.metrics import SELECTABLE, get_metric
from biofuse.report.content import Fact
from biofuse.report.input import CHOSEN, Material, finite, name_of
from biofuse.search.attribution import paired_gain

OTHERS = {"best_single": "the best single encoder", "all": "all encoders together"}
"""What the answer compares the chosen model with, in words."""


def answer(material: Material) -> str:
    """Say in one sentence which encoders were chosen, how much better they are, and whether that is noise."""
    return _tested(material) if material.metrics is not None else _cross_validated(material)


def _subject(material: Material) -> str:
    encoders, pool = material.chosen, len(material.pool)
    members = material.run.selection[CHOSEN].get("members")
    if members and len(members) > 1:
        return f"The average of {len(members)} subsets ({name_of(encoders, pool)}) reaches"
    if len(encoders) == 1:
        return f"{encoders[0]} alone, of {pool} encoders, reaches" if pool > 1 else f"{encoders[0]} reaches"
    if len(encoders) == pool:
        return f"All {pool} encoders together reach" if pool > 4 else f"{' + '.join(encoders)}, all encoders, reach"
    return f"{' + '.join(encoders)}, {len(encoders)} of {pool} encoders, reach"


def _tested(material: Material) -> str:
    metrics = material.metrics or {}
    metric, chosen = material.metric, metrics["models"][CHOSEN]
    value, split = chosen["metrics"].get(metric), metrics.get("split") or "test"
    title = get_metric(metric).title
    if value is None:
        return f"{_subject(material)} no defined {title} on {metrics['n']} {split} samples."
    interval = chosen["intervals"].get(metric) or {}
    ends = ""
    if interval.get("low") is not None:
        ends = f" (95 % interval {interval['low']:.4f} to {interval['high']:.4f})"
    text = f"{_subject(material)} {_article(title)} {title} of {value:.4f}{ends} on {metrics['n']:,} {split} samples"
    said, verdicts = [], []
    for name in OTHERS:
        comparison = metrics["comparisons"].get(name)
        if comparison is not None and comparison["difference"] is not None:
            said.append(f"{comparison['difference']:+.4f} against {_who(material, name)}")
            verdicts.append(_verdict(comparison["difference"], comparison["p_holm"]))
    return _finish(material, text, said, verdicts)


def _cross_validated(material: Material) -> str:
    metric, board = material.metric, material.board
    title, own = get_metric(metric).title, material.run.selection[CHOSEN]
    how = f"in cross-validation over {board.n_folds} folds" if board.n_folds > 1 else "on the validation split"
    text = f"{_subject(material)} {_article(title)} mean {title} of {finite(own.get('mean')):.4f} {how}"
    said, verdicts = [], []
    row = board.get(material.chosen) if "members" not in own else None
    for name in OTHERS:
        other = board.get(material.run.selection[name]["encoders"]) if name in material.run.selection else None
        if row is None or other is None or other.subset == row.subset:
            continue
        gain = paired_gain(board, row, other, metric=metric)
        said.append(f"{gain.gain:+.4f} against {_who(material, name)}")
        verdicts.append(_verdict(gain.gain, gain.p_holm))
    return _finish(material, text, said, verdicts) + " It has not been tested yet."


def _finish(material: Material, text: str, said: list[str], verdicts: list[str]) -> str:
    if not said:
        alone = len(material.chosen) == 1
        return f"{text}; it is {'itself the best single encoder' if alone else 'the only subset compared'}."
    if len(set(verdicts)) == 1:
        both = "both differences are" if len(verdicts) == 2 else "the difference is"
        return f"{text}: {' and '.join(said)}; {both} {verdicts[0]}."
    return (
        f"{text}: " + " and ".join(f"{words}, {verdict}" for words, verdict in zip(said, verdicts, strict=True)) + "."
    )


def _verdict(difference: float, p_holm: float | None) -> str:
    if p_holm is None or not p_holm <= SIGNIFICANCE:
        return "within noise"
    return f"{'better' if difference > 0 else 'worse'} beyond noise (p = {p_holm:.2g})"


def _who(material: Material, name: str) -> str:
    other = material.run.selection.get(name)
    if name == "best_single" and other is not None:
        return f"{OTHERS[name]} ({other['encoders'][0]})"
    return f"all {len(material.pool)} encoders together" if name == "all" else OTHERS[name]


def _article(title: str) -> str:
    return "an" if title[0] in "AEIOUaeiouF" else "a"


def facts(material: Material) -> tuple[Fact, ...]:
    """Return the numbers that stand out at the top."""
    metric, selection = material.metric, material.run.selection
    found = [
        Fact(
            name="Chosen",
            text=f"{len(material.chosen)} of {len(material.pool)}",
            remark="encoders: " + ", ".join(material.chosen),
        )
    ]
    if material.metrics is not None:
        found += _test_facts(material, material.metrics)
    own = finite(selection[CHOSEN].get("mean"))
    folds = f"mean over {material.board.n_folds} folds" if material.board.n_folds > 1 else "validation split"
    optimism = material.run.evidence.get("optimism")
    # Measured on the screen, whose scores are another head's: the size carries over, the level does not.
    gap = abs(optimism["apparent"] - optimism["corrected"]) if optimism else 0.0
    corrected = f"; choosing among so many flatters by about {gap:.4f}" if optimism else ""
    found.append(
        Fact(
            name=f"Cross-validated {get_metric(metric).title}" if material.board.n_folds > 1 else "Validation",
            text=f"{own:.4f}",
            remark=folds + corrected,
            value=own,
        )
    )
    scored = len(material.all_scores)
    how = f"{len(material.board)} of them refitted with the {selection.get('head')} head" if material.screen else ""
    found.append(Fact(name="Subsets scored", text=f"{scored:,}", remark=how, value=float(scored)))
    return tuple(found)


def _test_facts(material: Material, metrics: dict[str, object]) -> list[Fact]:
    models = metrics["models"]
    assert isinstance(models, dict)  # noqa: S101 - checked when it was read
    chosen, split = models[CHOSEN], str(metrics.get("split") or "test").capitalize()
    found = []
    for name in dict.fromkeys((material.metric, *SELECTABLE)):
        value, interval = chosen["metrics"].get(name), chosen["intervals"].get(name) or {}
        if value is None:
            continue
        low, high = interval.get("low"), interval.get("high")
        ends = f"95 % interval {low:.3f} to {high:.3f}" if low is not None and high is not None else ""
        found.append(Fact(name=f"{split} {get_metric(name).title}", text=f"{value:.4f}", remark=ends, value=value))
    return found
