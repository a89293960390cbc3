"""``biofuse fit`` and ``biofuse evaluate``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from biofuse.cli import options, searching
from biofuse.cli.console import note, show_json
from biofuse.cli.embed import tell_work
from biofuse.cli.options import Json
from biofuse.cli.report import report_beside
from biofuse.cli.show import show_evaluation, show_fit


def fit(
    data: options.Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run directory to write.")],
    encoders: options.Encoders = "starter",
    label: options.Label = None,
    group: options.Group = None,
    task: options.TaskName = None,
    on_error: options.OnError = "error",
    preset: searching.PresetName = None,
    head: searching.Head = None,
    predictor: searching.Predictor = None,
    fusion: searching.Fusion = None,
    search: searching.Search = None,
    finalists: searching.Finalists = None,
    select: searching.Select = None,
    rule: searching.Rule = None,
    metric: searching.Metric = None,
    scaling: searching.Scaling = None,
    class_weight: searching.ClassWeight = None,
    folds: searching.Folds = None,
    repeats: searching.Repeats = None,
    max_encoders: searching.MaxEncoders = None,
    max_latency: searching.MaxLatency = None,
    commercial_only: searching.CommercialOnly = False,
    seed: searching.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    weights_dir: options.WeightsDir = None,
    on_unavailable: options.OnUnavailable = "error",
    allow_random_weights: options.AllowRandomWeights = False,
    store: options.Store = None,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = None,
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
        fusion=fusion,
        predictor=predictor,
        head=head,
        search=search,
        finalists=finalists,
        select=select,
        rule=rule,
        metric=metric,
        scaling=scaling,
        class_weight=class_weight,
        folds=folds,
        repeats=repeats,
        max_encoders=max_encoders,
        max_latency=max_latency,
        commercial_only=commercial_only,
        seed=seed,
        preset=preset,
        allow_random_weights=allow_random_weights,
        store=store,
        options=ExtractOptions(
            device=device,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            on_error=on_error,
            on_unavailable=on_unavailable,
            weights_dir=weights_dir,
            engine=engine,
            ray_address=ray_address,
        ),
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
    report_beside(out, store)
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
    batch_size: options.BatchSize = None,
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
    report_beside(run, store)
    if as_json:
        show_json(evaluation.to_json())
        return
    show_evaluation(evaluation)
    note(f"Written to {run / 'metrics.json'} and {run / 'predictions.parquet'}.")


def _absolute(data: str) -> str:
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() else data
