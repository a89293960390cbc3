"""``biofuse fit`` and ``biofuse evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biofuse.cli import options
from biofuse.cli.console import note, output, show_json, show_table
from biofuse.cli.embed import tell_work
from biofuse.cli.options import Json

if TYPE_CHECKING:
    from biofuse.api.evaluation import Evaluation
    from biofuse.api.result import FitResult

SEARCH_PANEL = "Search"
SHOWN = 8
"""Rows of the leaderboard that are printed; leaderboard.csv has them all."""


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
        str | None, typer.Option(help="paper: the published protocol.", rich_help_panel=SEARCH_PANEL)
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="logistic, ridge, knn or xgboost.  [default: logistic]", rich_help_panel=SEARCH_PANEL),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="exhaustive: every subset; all: no search.  [default: exhaustive]", rich_help_panel=SEARCH_PANEL
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="cv: cross-validation; holdout: the validation split.  [default: cv]", rich_help_panel=SEARCH_PANEL
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="one_se, best or first_best.  [default: one_se]", rich_help_panel=SEARCH_PANEL),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="auroc or accuracy.  [default: auroc]", rich_help_panel=SEARCH_PANEL)
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            help="none: columns count equally; block: encoders do.  [default: none]", rich_help_panel=SEARCH_PANEL
        ),
    ] = None,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: as in scikit-learn.", rich_help_panel=SEARCH_PANEL)
    ] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="[default: 5]", rich_help_panel=SEARCH_PANEL)] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="[default: 2]", rich_help_panel=SEARCH_PANEL)] = None,
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
        preset=preset,  # type: ignore[arg-type]
        store=store,
        options=ExtractOptions(device=device, batch_size=batch_size, workers=workers, on_error=on_error),  # type: ignore[arg-type]
    )
    columns = options.label_option(label)
    samples, made = split_off_test(load_samples(data, label=columns, group=group, task=task, labelled=True), seed=seed)
    if made:
        note(made)
    source = {"source": _absolute(data), "label": columns, "group": group, "task": task}
    try:
        result = fuse.fit_development(
            development_data(samples), out=out, overwrite=overwrite, yes=yes, tell=note, data=source
        )
    except KeyboardInterrupt:
        note("Stopped. Give the same command again to go on from here.")
        raise typer.Exit(130) from None
    tell_work(result.embeddings)
    if result.reused:
        note("No fit had to be computed: this run was complete.")
    show_fit(result)
    note(f"The run is in {out}. Next: biofuse evaluate {out}")


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    data: Annotated[str | None, typer.Argument(help="Test data; by default the run's own.", show_default=False)] = None,
    *,
    split: Annotated[str, typer.Option(help="Which split to score: test, val or train.")] = "test",
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
        options=ExtractOptions(device=device, batch_size=batch_size, workers=workers, on_error=on_error),  # type: ignore[arg-type]
    )
    if as_json:
        show_json(evaluation.to_json())
        return
    show_evaluation(evaluation)
    note(f"Written to {run / 'metrics.json'} and {run / 'predictions.parquet'}.")


def show_fit(result: "FitResult") -> None:
    """Print the best rows of the leaderboard, with the chosen subset and its companions marked."""
    from biofuse.search import label

    selection, metric = result.selection, result.selection.metric
    marks = {
        "chosen": selection.chosen,
        "best": selection.best,
        "best single": selection.best_single,
        "all": selection.all,
        "greedy": selection.greedy,
    }
    top = list(result.leaderboard.best_first(metric)[:SHOWN])
    top += [row for row in marks.values() if row is not None and row not in top]
    ranks = {id(row): place for place, row in enumerate(result.leaderboard.best_first(metric), start=1)}
    names = [name for name in result.leaderboard.metrics if name != "log_loss"]
    rows = [
        (
            ranks[id(row)],
            label(row.subset),
            row.n_dims,
            *(f"{row.mean(name):.4f}" for name in names),
            ", ".join(mark for mark, marked in marks.items() if marked is row),
        )
        for row in sorted(dict.fromkeys(top), key=lambda row: ranks[id(row)])
    ]
    title = f"{len(result.leaderboard)} subsets scored; mean over {result.leaderboard.n_folds} folds"
    show_table(title, ("rank", "encoders", "columns", *names, ""), rows, numbers=("columns", *names))


def show_evaluation(evaluation: "Evaluation") -> None:
    """Print scores with intervals, how the models compare, and the leak, if there is one."""
    rows = []
    for name, scores in evaluation.models.items():
        cells = []
        for metric, interval in scores.intervals.items():
            cells.append(f"{scores.metrics[metric]:.4f} ({interval.low:.4f} to {interval.high:.4f})")
        rows.append((name.replace("_", " "), " + ".join(scores.encoders), *cells))
    metrics = [metric.replace("_", " ") for metric in next(iter(evaluation.models.values())).intervals]
    show_table(f"{evaluation.n} samples; 95 % intervals", ("model", "encoders", *metrics), rows)
    if evaluation.leak.without:
        kept = evaluation.n - evaluation.leak.samples
        names = list(next(iter(evaluation.models.values())).intervals)
        rows = [
            (name.replace("_", " "), *(f"{metrics_of[metric]:.4f}" for metric in names))
            for name, metrics_of in evaluation.leak.without.items()
        ]
        show_table(
            f"The same without the {evaluation.leak.samples} leaking samples ({kept} left)", ("model", *metrics), rows
        )
    for name, reason in evaluation.models["chosen"].metrics.undefined.items():
        output.print(f"{name} is undefined: {reason}", markup=False)
    for sentence in evaluation.sentences():
        output.print(sentence, markup=False)


def _absolute(data: str) -> str:
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() else data
