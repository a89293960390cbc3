"""``biofuse fit`` and ``biofuse evaluate``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from biofuse.cli import options
from biofuse.cli.console import note, output, say, show_json, show_table
from biofuse.cli.embed import tell_work
from biofuse.cli.options import Json

if TYPE_CHECKING:
    from biofuse.api.evaluation import Evaluation
    from biofuse.api.result import FitResult
    from biofuse.evaluation.intervals import Interval

SEARCH_PANEL = "Search"
SHOWN = 8
"""Rows of the leaderboard that are printed; leaderboard.csv has them all."""

WIDE = 120
"""Columns of output from which a score and its interval stand in one line."""


def _known_head(name: str | None) -> str | None:
    # Other packages may bring heads, so this cannot be a fixed list of choices.
    if name is not None:
        from biofuse.heads.registry import head_registry

        names = head_registry().names()
        if name not in names:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, names))}.")
    return name


def fit(
    data: options.Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run directory to write.")],
    encoders: options.Encoders = "starter",
    label: options.Label = None,
    group: options.Group = None,
    task: options.TaskName = None,
    on_error: options.OnError = "error",
    preset: Annotated[
        Literal["paper"] | None, typer.Option(help="paper: the published protocol.", rich_help_panel=SEARCH_PANEL)
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="logistic, ridge, knn, xgboost, or one of another package.",
            callback=_known_head,
            show_default="logistic",
            rich_help_panel=SEARCH_PANEL,
        ),
    ] = None,
    search: Annotated[
        Literal["exhaustive", "all"] | None,
        typer.Option(
            help="exhaustive: every subset; all: no search, all encoders together.",
            show_default="exhaustive",
            rich_help_panel=SEARCH_PANEL,
        ),
    ] = None,
    select: Annotated[
        Literal["cv", "holdout"] | None,
        typer.Option(
            help="cv: cross-validation; holdout: the validation split.",
            show_default="cv",
            rich_help_panel=SEARCH_PANEL,
        ),
    ] = None,
    rule: Annotated[
        Literal["one_se", "best", "first_best"] | None,
        typer.Option(
            help="one_se: the fewest encoders within one standard error of the best.",
            show_default="one_se",
            rich_help_panel=SEARCH_PANEL,
        ),
    ] = None,
    metric: Annotated[
        Literal["auroc", "accuracy"] | None,
        typer.Option(help="What subsets are chosen by.", show_default="auroc", rich_help_panel=SEARCH_PANEL),
    ] = None,
    scaling: Annotated[
        Literal["none", "block"] | None,
        typer.Option(
            help="none: columns count equally; block: encoders do.", show_default="none", rich_help_panel=SEARCH_PANEL
        ),
    ] = None,
    class_weight: Annotated[
        Literal["balanced"] | None,
        typer.Option(help="balanced: as in scikit-learn.", rich_help_panel=SEARCH_PANEL),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Of the cross-validation.", show_default="5", rich_help_panel=SEARCH_PANEL),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="Of the cross-validation.", show_default="2", rich_help_panel=SEARCH_PANEL),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits, folds and heads.", rich_help_panel=SEARCH_PANEL)] = 0,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 32,
    workers: options.Workers = None,
    store: options.Store = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in --out.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start even if it takes more than an hour.")] = False,
) -> None:
    """Find the subset of encoders that serves a task best, and fit a model on it.

    Without splits in the data, 25 % of the samples are set aside for testing and never read by the search. A run that
    was stopped goes on where it was when the same command is given again; a finished run is reused.

    [bold]Examples[/bold]

      biofuse fit images/ --out run

      biofuse fit manifest.csv --label diagnosis --group patient --out run

      biofuse fit images/ --preset paper --out run-paper
    """
    from biofuse.api.development import development_data, split_off_test
    from biofuse.api.estimator import BioFuse
    from biofuse.data.load import load_samples
    from biofuse.extract import ExtractOptions

    fuse = BioFuse(
        encoders,
        head=head,
        search=search,
        select=select,
        rule=rule,
        metric=metric,
        scaling=scaling,
        class_weight=class_weight,
        folds=folds,
        repeats=repeats,
        seed=seed,
        preset=preset,
        store=store,
        options=ExtractOptions(device=device, batch_size=batch_size, workers=workers, on_error=on_error),
    )
    columns = options.label_option(label)
    samples, made = split_off_test(load_samples(data, label=columns, group=group, task=task, labelled=True), seed=seed)
    if made:
        note(made)
    source = {"source": _absolute(data), "label": columns, "group": group, "task": task}
    result = fuse.fit_development(
        development_data(samples), out=out, overwrite=overwrite, yes=yes, tell=note, data=source
    )
    tell_work(result.embeddings)
    if result.reused:
        note("No fit had to be computed: this run was complete.")
    show_fit(result)
    note(f"The run is in {out}. Next: biofuse evaluate {out}")


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    data: Annotated[str | None, typer.Argument(help="Test data; by default the run's own.", show_default=False)] = None,
    *,
    split: Annotated[Literal["test", "val", "train"], typer.Option(help="Which split to score.")] = "test",
    label: options.Label = None,
    group: options.Group = None,
    on_error: options.OnError = "error",
    device: options.Device = "auto",
    batch_size: options.BatchSize = 32,
    workers: options.Workers = None,
    store: options.Store = None,
    as_json: Json = False,
) -> None:
    """Score a run's model on test data, beside the best single encoder, all encoders and the greedy path.

    Writes metrics.json and predictions.parquet into the run.

    [bold]Examples[/bold]

      biofuse evaluate run

      biofuse evaluate run other-hospital/ --group patient
    """
    from biofuse.api.running import evaluate_run
    from biofuse.extract import ExtractOptions
    from biofuse.store import EmbeddingStore

    evaluation = evaluate_run(
        run,
        data,
        split=split,
        label=options.label_option(label),
        group=group,
        store=EmbeddingStore(store),
        options=ExtractOptions(device=device, batch_size=batch_size, workers=workers, on_error=on_error),
    )
    if as_json:
        show_json(evaluation.to_json())
        return
    show_evaluation(evaluation)
    note(f"Written to {run / 'metrics.json'} and {run / 'predictions.parquet'}.")


def show_fit(result: "FitResult") -> None:
    """Print the best rows of the leaderboard, with the chosen subset and its companions marked."""
    selection, metric = result.selection, result.selection.metric
    marks = {
        "chosen": selection.chosen,
        "best": selection.best,
        "best single": selection.best_single,
        "all": selection.all,
        "greedy": selection.greedy,
    }
    best_first = result.leaderboard.best_first(metric)
    ranks = {row.subset: place for place, row in enumerate(best_first, start=1)}
    shown = {row.subset: row for row in (*best_first[:SHOWN], *marks.values()) if row is not None}
    metrics = [name for name in result.leaderboard.metrics if name != "log_loss"]
    rows = [
        (
            ranks[subset],
            subset_name(subset, len(result.leaderboard.encoders)),
            row.n_dims,
            *(f"{row.mean(name):.4f}" for name in metrics),
            ", ".join(mark for mark, marked in marks.items() if marked is not None and marked.subset == subset),
        )
        for subset, row in sorted(shown.items(), key=lambda item: ranks[item[0]])
    ]
    left = len(result.leaderboard) - len(rows)
    more = f"; {left} more in leaderboard.csv" if left and result.path is not None else ""
    heads = [heading(name) for name in metrics]
    n_folds = result.leaderboard.n_folds
    folds = f"mean over {n_folds} folds" if n_folds > 1 else "on the validation split"
    show_table(
        f"{len(result.leaderboard)} subsets scored; {folds}{more}",
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


def _absolute(data: str) -> str:
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() else data
