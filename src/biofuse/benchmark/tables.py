"""Tables of a benchmark: one's own scores beside published ones."""

from collections.abc import Mapping

from biofuse.benchmark.published import published_singles
from biofuse.report.comparison import ABSENT, METRICS, Comparison, RunSummary, with_interval
from biofuse.report.page import Cell, Table, cells

ORACLE = (
    "The published best single encoder is the best of nine on the test data themselves, by AUC and by ACC; the best "
    "single encoder here was chosen on development data."
)


def summary_table(comparison: Comparison, flags: Mapping[str, str]) -> Table:
    """Return a row per data set: the chosen subset, what it stands beside, and the best published single encoder.

    Parameters
    ----------
    comparison : Comparison
    flags : mapping of str to str
        MedMNIST flag of each run.
    """
    published = published_singles()
    rows = []
    for run in comparison.runs:
        known = published.datasets.get(flags[run.name])
        theirs = [_best_published(known.scores(metric)) if known else ABSENT for metric in METRICS]
        rows.append(
            cells(
                run.name,
                run.metrics["n"] if run.metrics else ABSENT,
                " + ".join(run.chosen),
                *(with_interval(run.score("chosen", metric)) for metric in METRICS),
                *(_pair(run, model) for model in ("best_single", "all")),
                *theirs,
            )
        )
    return Table(
        title="BioFuse and single encoders, test scores",
        columns=(
            "data set", "samples", "chosen encoders", "AUC", "ACC", "best single AUC/ACC", "all AUC/ACC",
            "published best single AUC", "published best single ACC",
        ),
        rows=tuple(rows),
        notes=(
            f"Published: {published.source}",
            ORACLE,
            *_encoder_notes(),
        ),
        numbers=frozenset({"samples", "AUC", "ACC"}),
    )  # fmt: skip


def published_table(comparison: Comparison, flags: Mapping[str, str], metric: str) -> Table:
    """Return a row per encoder that has published scores: one's own test score, the published one, the difference."""
    published = published_singles()
    rows = []
    for encoder in comparison.encoders:
        if encoder not in published.encoders:
            continue
        row = []
        for run in comparison.runs:
            known = published.datasets.get(flags[run.name])
            row.append(_beside(run.single(encoder, metric), known.scores(metric).get(encoder) if known else None))
        rows.append(cells(f"{encoder} ({published.encoders[encoder]})", *row))
    return Table(
        title=f"Single encoders, test {METRICS[metric]}: here / published (difference)",
        columns=("encoder (as published)", *(run.name for run in comparison.runs)),
        rows=tuple(rows),
        notes=(f"Published: {published.source}", *_encoder_notes()),
    )


def _encoder_notes() -> list[str]:
    return [f"{encoder}: {note}" for encoder, note in published_singles().notes.items()]


def _best_published(scores: Mapping[str, float]) -> str:
    best = max(scores.values())
    return f"{best:.4f} {', '.join(name for name, value in scores.items() if value == best)}"


def _pair(run: RunSummary, model: str) -> str:
    scores = [run.score(model, metric) for metric in METRICS]
    if not any(scores):
        return ABSENT
    named = f" {' + '.join(run.record.selection[model]['encoders'])}" if model == "best_single" else ""
    return " / ".join(f"{score['value']:.4f}" if score else ABSENT for score in scores) + named


def _beside(mine: float | None, theirs: float | None) -> Cell:
    shown = [ABSENT if value is None else f"{value:.4f}" for value in (mine, theirs)]
    difference = "" if mine is None or theirs is None else f" ({mine - theirs:+.4f})"
    return Cell(text=f"{' / '.join(shown)}{difference}")
