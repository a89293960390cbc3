"""Results of fits and evaluations as tables and sentences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from biofuse.cli.console import output, say, show_table

if TYPE_CHECKING:
    from biofuse.api.evaluation import Evaluation
    from biofuse.api.result import FitResult
    from biofuse.evaluation.intervals import Interval
    from biofuse.search import Attribution

SHOWN = 8
"""Rows of the leaderboard that are printed; leaderboard.csv has them all."""

PAIRS = 3
"""Pairs of encoders that are named, of those whose interaction the folds can tell; run.json has them all."""

WIDE = 120
"""Columns of output from which a score and its interval stand in one line."""


def show_fit(result: "FitResult") -> None:
    """Print the best of the leaderboard, and what each encoder contributes."""
    show_leaderboard(result)
    if result.evidence.attribution is not None:
        show_contributions(result.evidence.attribution)


def show_contributions(attribution: "Attribution") -> None:
    """Print a row per encoder, and which pairs complement each other or know the same."""
    from biofuse.evaluation.metrics import get_metric

    rows = [
        (
            attribution.encoders[i],
            f"{attribution.alone[i]:.4f}",
            f"{attribution.shapley[i]:+.4f}",
            "" if np.isnan(attribution.low[i]) else f"{attribution.low[i]:+.4f} to {attribution.high[i]:+.4f}",
            f"{attribution.added_last[i]:+.4f}",
        )
        for i in np.argsort(-attribution.shapley, kind="stable").tolist()
    ]
    title = get_metric(attribution.metric).title
    show_table(
        f"Share of each encoder in the {title} of all together ({attribution.empty:.2f} by guessing, "
        f"{attribution.full:.4f} with all)",
        ("encoder", "alone", "Shapley value", "95 % interval", "added last"),
        rows,
        numbers=("alone", "Shapley value", "95 % interval", "added last"),
    )
    for sentence in attribution.complements()[:PAIRS]:
        say(sentence)


def show_leaderboard(result: "FitResult") -> None:
    """Print the best rows of the leaderboard, with the chosen subset and its companions marked."""
    selection, metric, ensemble = result.selection, result.selection.metric, result.search.ensemble
    marks = {
        "chosen" if ensemble is None else "chosen as one subset": selection.chosen,
        "best": selection.best,
        "best single": selection.best_single,
        "all": selection.all,
        "greedy": selection.greedy,
    }
    averaged = [] if ensemble is None else [result.leaderboard[member] for member in ensemble.members]
    noted = [*marks.items(), *(("averaged", row) for row in averaged)]
    best_first = result.leaderboard.best_first(metric)
    ranks = {row.subset: place for place, row in enumerate(best_first, start=1)}
    shown = {row.subset: row for row in (*best_first[:SHOWN], *(row for _, row in noted)) if row is not None}
    metrics = [name for name in result.leaderboard.metrics if name != "log_loss"]
    rows = [
        (
            ranks[subset],
            subset_name(subset, len(result.leaderboard.encoders)),
            row.n_dims,
            *(f"{row.mean(name):.4f}" for name in metrics),
            ", ".join(mark for mark, marked in noted if marked is not None and marked.subset == subset),
        )
        for subset, row in sorted(shown.items(), key=lambda item: ranks[item[0]])
    ]
    left = len(result.leaderboard) - len(rows)
    more = f"; {left} more in leaderboard.csv" if left and result.path is not None else ""
    heads = [heading(name) for name in metrics]
    n_folds = result.leaderboard.n_folds
    folds = f"mean over {n_folds} folds" if n_folds > 1 else "on the validation split"
    screened = "" if result.screen is None else f" of {len(result.screen)} screened"
    show_table(
        f"{len(result.leaderboard)} subsets{screened} scored with the {result.search.head} head; {folds}{more}",
        ("rank", "encoders", "columns", *heads, "note"),
        rows,
        numbers=("columns", *heads),
    )


def show_evaluation(evaluation: "Evaluation") -> None:
    """Print scores with intervals, how the models compare, and the leak, if there is one."""
    from biofuse.evaluation.metrics import get_metric

    names = list(evaluation.models["chosen"].intervals)
    heads = [heading(name) for name in names]
    pool = max(len(scores.encoders) for scores in evaluation.models.values())
    wide = output.width >= WIDE
    rows = []
    for model, scores in evaluation.models.items():
        cells = [with_interval(scores.metrics[name], scores.intervals[name], wide=wide) for name in names]
        rows.append((model.replace("_", " "), subset_name(scores.encoders, pool), *cells))
    show_table(
        f"{evaluation.n} samples; 95 % intervals", ("model", "encoders", *heads), rows, numbers=heads, lines=not wide
    )
    if evaluation.leak.without:
        kept = evaluation.n - evaluation.leak.samples
        rows = [
            (
                model.replace("_", " "),
                *("undefined" if name in metrics.undefined else f"{metrics[name]:.4f}" for name in names),
            )
            for model, metrics in evaluation.leak.without.items()
        ]
        title = f"The same without the {evaluation.leak.samples} leaking samples ({kept} left)"
        show_table(title, ("model", *heads), rows, numbers=heads)
        for name, reason in evaluation.leak.without["chosen"].undefined.items():
            if name in names:
                say(f"Without the leaking samples {get_metric(name).title} is undefined: {reason}")
    for name, reason in evaluation.models["chosen"].metrics.undefined.items():
        say(f"{get_metric(name).title} is undefined: {reason}")
    for sentence in evaluation.sentences():
        say(sentence)


def subset_name(subset: Sequence[str], pool: int) -> str:
    """Write a subset so that it wraps at words; the whole pool, of more than three, by its size."""
    return f"all {pool}" if len(subset) == pool > 3 else " + ".join(subset)


def heading(metric: str) -> str:
    """Write a metric's name over its column, a word per line: the values are narrow."""
    return metric.replace("_", "\n")


def with_interval(value: float, interval: "Interval", *, wide: bool) -> str:
    """Write a score and its interval, in one line where there is room for all of them."""
    ends = f"{interval.low:.3f}\u2013{interval.high:.3f}"
    return f"{value:.4f} ({ends})" if wide else f"{value:.4f}\n{ends}"
