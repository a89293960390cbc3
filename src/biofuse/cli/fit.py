"""``biofuse fit``, ``evaluate`` and ``predict``, and their results as tables and sentences."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

import biofuse
from biofuse.cli import options
from biofuse.cli.console import note, output, say, show_answer, show_json, show_table
from biofuse.cli.embed import refuse_nothing, tell_remarks, tell_work
from biofuse.core.errors import BioFuseError, option
from biofuse.core.files import atomic_path, check_target
from biofuse.core.options import divide
from biofuse.data.config import DataConfig
from biofuse.data.labels import listing
from biofuse.evaluation.intervals import Comparison, Interval
from biofuse.evaluation.metrics import get_metric
from biofuse.evaluation.operating import DEFAULT_SENSITIVITY, read_threshold
from biofuse.extract.options import ExtractOptions
from biofuse.search.attribution import Attribution
from biofuse.search.config import SearchConfig
from biofuse.search.leaderboard import Row
from biofuse.search.rules import CHOSEN, LEAN, VariantName

SHOWN = 8
"""Rows of the leaderboard that are printed; leaderboard.csv has them all."""

PAIRS = 3
"""Pairs of encoders that are named, of those whose interaction the folds can tell; run.json has them all."""

WIDE = 120
"""Columns of output from which up to three scores and their intervals stand in one line."""

SCORE = 24
"""Columns of output for one score with its interval more."""


def show_fit(result: "biofuse.FitResult") -> None:
    """Print the best of the leaderboard, and what each encoder contributes."""
    show_leaderboard(result)
    if result.evidence.attribution is not None:
        show_contributions(result.evidence.attribution, screened=result.evidence.screened)


def fit_answer(result: "biofuse.FitResult", run: Path) -> dict[str, str]:
    """Return what a fit came to: the chosen subset, its score with an interval, where it is and what comes next."""
    selection, optimism = result.selection, result.evidence.optimism
    chosen, title = selection.chosen, get_metric(selection.metric).title
    n_folds = result.leaderboard.n_folds
    folds = f"mean of {n_folds} folds" if n_folds > 1 else "on the validation split"
    final = result.search.final

    def scored(row: Row) -> str:
        """Give the score of a model, which may be another predictor than the one that subsets are compared by."""
        if final is None:
            return f"{title} {row.mean(selection.metric):.4f}, {folds}"
        compared = f"; {row.mean(selection.metric):.4f} by one {result.search.head} head"
        return f"{title} {final[row.subset].mean(selection.metric):.4f}, {folds}{compared}"

    answer = {
        "Chosen": _members(result.model.encoders, len(result.leaderboard.encoders)),
        "Score": scored(chosen),
    }
    if optimism is not None:
        of_what = "" if optimism.chosen == chosen.subset else f" of {subset_name(optimism.chosen, 0)}"
        where = ", scored by the screen's ridge regression" if result.evidence.screened else ""
        answer["Corrected"] = (
            f"{title} {optimism.corrected:.4f} ({optimism.ends}){of_what}, "
            f"for having been chosen among {optimism.n_subsets}{where}"
        )
    if selection.lean is not None and len(selection.lean.subset) < len(result.model.encoders):
        members = _members(selection.lean.subset, len(result.leaderboard.encoders))
        answer["Lean"] = f"{members}: {scored(selection.lean)}"
    place = shlex.quote(str(run))
    following = f"biofuse evaluate {place}" if result.held_out is not None else _predict_with(place)
    return {**answer, "Run": str(run), "Next": following}


def evaluation_answer(evaluation: "biofuse.Evaluation", run: Path) -> dict[str, str]:
    """Return what an evaluation came to: the chosen model, its scores with intervals, and what comes next."""
    chosen = evaluation.models["chosen"]
    scores = [
        f"{get_metric(name).title} {chosen.metrics[name]:.4f} (95 % interval {ends.low:.4f} to {ends.high:.4f})"
        for name, ends in chosen.intervals.items()
        if name not in chosen.metrics.undefined
    ]
    pool = max(len(scored.encoders) for scored in evaluation.models.values())
    answer = {
        "Chosen": _members(chosen.encoders, pool),
        f"On {evaluation.n} samples": "\n".join(scores) or "no score exists",
    }
    lean, compared = evaluation.models.get(LEAN), evaluation.comparisons.get(LEAN)
    if lean is not None and len(lean.encoders) < len(chosen.encoders):
        against = "" if compared is None else f": {lean_sentence(compared)}"
        answer["Lean"] = f"{_members(lean.encoders, pool)}{against}\nto predict with it: --variant {LEAN}"
    return {**answer, "Next": _predict_with(shlex.quote(str(run)))}


def lean_sentence(compared: Comparison) -> str:
    """Say how the lean model scores, and how far from the chosen one."""
    title = get_metric(compared.metric).title
    if np.isnan(compared.difference):
        return f"{title} is undefined"
    scored = f"{title} {compared.second_score:.4f}"
    gap, low, high = (0.0 - value for value in (compared.difference, compared.high, compared.low))
    if gap == low == high == 0:
        return f"{scored}, the same"
    ends = "" if np.isnan(low) else f", 95 % interval {low:+z.4f} to {high:+z.4f}"
    return f"{scored} ({gap:+z.4f}{ends}, {'within' if compared.noise else 'beyond'} noise)"


def _members(encoders: Sequence[str], pool: int) -> str:
    return f"{' + '.join(encoders)} ({len(encoders)} of {pool} encoders)"


def _predict_with(run: str) -> str:
    return f"biofuse predict {run} NEW-IMAGES --out predictions.csv"


def show_contributions(attribution: Attribution, *, screened: bool) -> None:
    """Print a row per encoder, and which pairs complement each other or know the same."""
    rows = [
        (
            attribution.encoders[i],
            f"{attribution.score(attribution.alone[i]):.4f}",
            f"{attribution.shapley[i]:+z.4f}",
            "" if np.isnan(attribution.low[i]) else f"{attribution.low[i]:+z.4f} to {attribution.high[i]:+z.4f}",
            f"{attribution.added_last[i]:+z.4f}",
        )
        for i in np.argsort(np.negative(attribution.shapley), kind="stable").tolist()
    ]
    metric = get_metric(attribution.metric)
    what = f"in the {metric.title} of all together" if metric.higher_is_better else f"in lowering the {metric.title}"
    show_table(
        f"Share of each encoder {what} ({attribution.score(attribution.empty):.2f} by guessing, "
        f"{attribution.score(attribution.full):.4f} with all{', by ridge regression' if screened else ''})",
        ("encoder", "alone", "Shapley value", "95 % interval", "added last"),
        rows,
        numbers=("alone", "Shapley value", "95 % interval", "added last"),
    )
    for sentence in attribution.complements()[:PAIRS]:
        say(sentence)


def show_leaderboard(result: "biofuse.FitResult") -> None:
    """Print the best rows of the leaderboard, with the chosen subset and its companions marked."""
    selection, metric, ensemble = result.selection, result.selection.metric, result.search.ensemble
    marks = {
        "chosen" if ensemble is None else "chosen as one subset": selection.chosen,
        "best": selection.best,
        "best single": selection.best_single,
        "all": selection.all,
        "greedy": selection.greedy,
        "lean": selection.lean,
    }
    averaged = [] if ensemble is None else [result.leaderboard[member] for member in ensemble.members]
    noted = [*marks.items(), *(("averaged", row) for row in averaged)]
    best_first = result.leaderboard.best_first(metric)
    ranks = {row.subset: place for place, row in enumerate(best_first, start=1)}
    shown = {row.subset: row for row in (*best_first[:SHOWN], *(row for _, row in noted)) if row is not None}
    metrics = [name for name in result.leaderboard.metrics if get_metric(name).closed_form]
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


def show_evaluation(evaluation: "biofuse.Evaluation") -> None:
    """Print scores with intervals, how the models compare, and the leak, if there is one."""
    names = list(evaluation.models["chosen"].intervals)
    heads = [heading(name) for name in names]
    pool = max(len(scores.encoders) for scores in evaluation.models.values())
    wide = output.width >= WIDE + SCORE * max(0, len(names) - 3)
    rows = []
    for called, scores in evaluation.distinct_models.items():
        cells = [with_interval(scores.metrics[name], scores.intervals[name], wide=wide) for name in names]
        rows.append((spaced(" = ".join(called)), subset_name(scores.encoders, pool), *cells))
    positive = "" if evaluation.positive is None else f"; the positive class is {evaluation.positive}"
    show_table(
        f"{evaluation.n} samples; 95 % intervals{positive}",
        ("model", "encoders", *heads),
        rows,
        numbers=heads,
        lines=not wide,
    )
    if evaluation.leak.without:
        kept = evaluation.n - evaluation.leak.samples
        rows = [
            (
                spaced(" = ".join(called)),
                *("undefined" if name in metrics.undefined else f"{metrics[name]:.4f}" for name in names),
            )
            for called in evaluation.distinct_models
            for metrics in (evaluation.leak.without[called[0]],)
        ]
        title = f"The same without the {evaluation.leak.samples} leaking samples ({kept} left)"
        show_table(title, ("model", *heads), rows, numbers=heads)
        for name, reason in evaluation.leak.without["chosen"].undefined.items():
            if name in names:
                say(f"Without the leaking samples {get_metric(name).title} is undefined: {reason}")
    for sentence in evaluation.models["chosen"].metrics.remarks():
        say(sentence)
    for sentence in evaluation.sentences():
        say(sentence)


def spaced(name: str) -> str:
    """Write the name of a model in words."""
    return name.replace("_", " ")


def subset_name(subset: Sequence[str], pool: int) -> str:
    """Write a subset so that it wraps at words; the whole pool, of more than three, by its size."""
    return f"all {pool}" if len(subset) == pool > 3 else " + ".join(subset)


def heading(metric: str) -> str:
    """Write a metric's name over its column, a word per line: the values are narrow."""
    return metric.replace("_", "\n")


def with_interval(value: float, interval: Interval, *, wide: bool) -> str:
    """Write a score and its interval, in one line where there is room for all of them."""
    if np.isnan(value):
        return "undefined"
    ends = "no interval" if np.isnan(interval.low) else f"{interval.low:.3f}\u2013{interval.high:.3f}"
    return f"{value:.4f} ({ends})" if wide else f"{value:.4f}\n{ends}"


@options.offers(DataConfig, ExtractOptions)
def predict(
    model: Annotated[Path, typer.Argument(help="A run directory, or a saved model.", show_default=False)],
    data: Annotated[
        list[str],
        typer.Argument(
            help="Images: a folder, a manifest, or one or several image files; labels are not needed.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: .csv or .parquet.")],
    threshold: Annotated[
        str | None,
        typer.Option(
            help="Decide each class by itself, where its probability exceeds a number, or what was chosen on "
            "development data: by Youden's index, or for --sensitivity.",
            metavar="[NUMBER|youden|sensitivity]",
        ),
    ] = None,
    sensitivity: Annotated[
        float | None,
        typer.Option(
            help=options.with_default(
                "Decide at thresholds that find a new sample of a class with this probability.",
                f"{DEFAULT_SENSITIVITY}",
            ),
            metavar="SHARE",
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            help="Add a column with the classes among which the true one is with this probability, or columns with the "
            "ends of an interval in which the true value is.",
            metavar="SHARE",
        ),
    ] = None,
    class_conditional: Annotated[
        bool, typer.Option("--class-conditional", help="Let that be so for the images of each class, with --coverage.")
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Also write a table of images, .csv or .parquet, where samples are several images: what each of them "
            "adds to the log-odds of every class, and its weight where the predictor is attention.",
            show_default=False,
        ),
    ] = None,
    store: options.Store = None,
    variant: Annotated[
        VariantName,
        typer.Option(help="Which of a run's models: the chosen one, or one that it is compared with."),
    ] = CHOSEN,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the new embeddings in the store; otherwise it is only read.")
    ] = False,
    **chosen: Any,
) -> None:
    """Predict new images: a table of ids, classes and probabilities, values, or risks of an event.

    [bold]Examples[/bold]

      biofuse predict run new-images/ --out predictions.csv

      biofuse predict run new-images/ --variant lean --out quick.csv

      biofuse predict run/model scan.png --out scan.csv

      biofuse predict run scans/2026-*.png --out predictions.csv

      biofuse predict run new-images/ --sensitivity 0.98 --out predictions.csv

      biofuse predict run new-images/ --coverage 0.9 --out predictions.csv

      biofuse predict run scans/ --bag patient --images images.csv --out predictions.csv
    """
    if class_conditional and coverage is None:
        raise BioFuseError(
            f"{option('class_conditional', True)} is about prediction sets.", remedy=f"Give {option('coverage', 0.9)}."
        )
    for path in (out, *([] if images is None else [images])):
        if path.suffix not in {".csv", ".parquet"}:
            raise BioFuseError(f"Cannot write {path}: its ending is neither .csv nor .parquet.")
        check_target(path)
    folder = next(filter(os.path.isdir, data), None)
    if folder is not None and len(data) > 1:
        raise BioFuseError(f"{folder} is a folder, among several files.", remedy="Give one folder alone, or files.")
    reading, embedding = divide(chosen, DataConfig, ExtractOptions)
    fitted = biofuse.BioFuseModel.load(model, variant=variant)
    decision = _decision(fitted, threshold, sensitivity)
    samples = fitted.load_images(data[0] if len(data) == 1 else data, **reading)
    tell_remarks(samples)
    frame, extraction = fitted.predict_frame(
        samples, coverage=coverage, class_conditional=class_conditional, store=store, keep=keep, **decision, **embedding
    )
    refuse_nothing(extraction)
    tables = {out: frame} if images is None else {out: frame, images: fitted.tabulate_images(extraction)}
    for path, table in tables.items():
        with atomic_path(path) as temporary:
            if path.suffix == ".csv":
                table.to_csv(temporary, index=False)
            else:
                table.to_parquet(temporary, index=False)
    for entry in extraction.quarantined:
        note(f"Not predicted: {entry.reason}")
    if coverage is not None:
        _say_sets(fitted, coverage, class_conditional=class_conditional)
    by = "" if variant == CHOSEN else f" by the {spaced(variant)} model ({' + '.join(fitted.encoders)})"
    note(f"Wrote {len(frame)} prediction{'' if len(frame) == 1 else 's'}{by} to {out}.")
    if images is not None:
        note(f"Wrote what each of {len(tables[images])} images argues to {images}.")


def _say_sets(model: "biofuse.BioFuseModel", coverage: float, *, class_conditional: bool) -> None:
    """Say where there were too few development samples to promise the coverage asked for."""
    known = model.trust.values
    if known is not None and not np.isfinite(known.reach(coverage)).all():
        note(f"There are too few development samples, or groups, to promise {coverage:.0%}: intervals have no ends.")
    conformal = model.trust.conformal
    if conformal is None:
        return
    limits = conformal.thresholds(model.target, coverage, class_conditional=class_conditional)
    open_ended = [name for name, limit in zip(model.classes, limits, strict=True) if limit == 0]
    if open_ended:
        note(
            f"There are too few development samples, or groups, to promise {coverage:.0%}: every set holds "
            f"{listing(open_ended)}."
        )


def _decision(model: "biofuse.BioFuseModel", threshold: str | None, sensitivity: float | None) -> dict[str, Any]:
    """Return how predictions are made, after saying which thresholds that comes to."""
    if threshold is None and sensitivity is None:
        return {}
    rule = read_threshold("sensitivity" if threshold is None else threshold, sensitivity=sensitivity)
    limits = model.thresholds(rule, sensitivity=sensitivity)
    ranked = [column for column in model.target.ranked_columns if np.isfinite(limits[column])]
    shown = ", ".join(f"{model.classes[column]} above {limits[column]:.4g}" for column in ranked[:SHOWN])
    more = f" and {len(ranked) - SHOWN} more" if len(ranked) > SHOWN else ""
    several = "" if len(model.classes) == 2 else "; an image may have several classes, or none"
    note(f"Decided by the probability of each class: {shown}{more}{several}.")
    return {"threshold": rule, "sensitivity": sensitivity}


@options.offers(DataConfig, SearchConfig, ExtractOptions)
def fit(
    data: options.Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run directory to write.")],
    no_test: Annotated[
        bool,
        typer.Option("--no-test", help="Set no test samples aside.", rich_help_panel=options.DATA_PANEL),
    ] = False,
    store: options.Store = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in --out.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start even if it takes more than an hour.")] = False,
    eager: Annotated[
        bool,
        typer.Option(
            "--eager", help="Give a first result, of the cheaper encoders, in a run named as --out with -first behind."
        ),
    ] = False,
    track: options.Track = None,
    **chosen: Any,
) -> None:
    """Find the subset of encoders that serves a task best, and fit a model on it.

    Where the data have no test split, 25 % of the samples are set aside for testing and never read by the search. A run
    that was stopped goes on where it was when the same command is given again; a finished run is reused.

    [bold]Examples[/bold]

      biofuse fit images/ --out run

      biofuse fit manifest.csv --label diagnosis --group patient --out run

      biofuse fit images/ --preset paper --out run-paper

      biofuse fit images/ --encoders paper --eager --out run
    """
    from biofuse.api.report import attempt_report
    from biofuse.runs.tracking import attempt_tracking, require_tracker

    for tracker in track or ():
        require_tracker(tracker)
    result = biofuse.fit(
        data,
        test=None if no_test else "auto",
        store=store,
        out=out,
        overwrite=overwrite,
        yes=yes,
        eager=eager,
        tell=note,
        **chosen,
    )
    tell_work(result.embeddings)
    if result.reused:
        note("No fit had to be computed: this run was complete.")
    show_fit(result)
    given = {"development": result.embeddings, "test": result.held_out}
    page = attempt_report(result.run or out, tell=note, store=result.store, **given)
    tracked = attempt_tracking(result.run or out, track or (), tell=note)
    show_answer(fit_answer(result, out))
    if page is None or not tracked:
        raise typer.Exit(1)


@options.offers(DataConfig, ExtractOptions)
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    data: Annotated[str | None, typer.Argument(help="Test data; by default the run's own.", show_default=False)] = None,
    *,
    split: Annotated[Literal["test", "val", "train"], typer.Option(help="Which split to score.")] = "test",
    split_column: Annotated[
        str | None,
        typer.Option(
            "--split-column", help=DataConfig.model_fields["split"].description, rich_help_panel=options.DATA_PANEL
        ),
    ] = None,
    sensitivity: Annotated[
        float,
        typer.Option(
            help="Choose thresholds that find a new sample of a class with this probability.", metavar="SHARE"
        ),
    ] = DEFAULT_SENSITIVITY,
    prevalence: Annotated[
        float | None,
        typer.Option(
            help=options.with_default(
                "Give positive and negative predictive value at this prevalence.", "that of the test samples"
            ),
            metavar="SHARE",
        ),
    ] = None,
    store: options.Store = None,
    track: options.Track = None,
    as_json: options.Json = False,
    **chosen: Any,
) -> None:
    """Score a run's model on test data, beside the best single encoder, all encoders, the greedy path and the lean one.

    Writes metrics.json and predictions.parquet into the run; for other data or another split than its own test samples,
    into evaluations/NAME there, so that no result replaces another. The report shows them side by side.

    [bold]Examples[/bold]

      biofuse evaluate run

      biofuse evaluate run other-hospital/ --group patient

      biofuse evaluate run --sensitivity 0.98 --prevalence 0.02
    """
    from biofuse.runs.tracking import attempt_tracking, require_tracker

    for tracker in track or ():
        require_tracker(tracker)
    evaluation = biofuse.evaluate(
        run,
        data,
        split=split,
        split_column=split_column,
        sensitivity=sensitivity,
        prevalence=prevalence,
        store=store,
        report=note,
        **chosen,
    )
    if as_json:
        show_json(evaluation.to_json())
    else:
        show_evaluation(evaluation)
        folder = evaluation.folder or run
        note(f"Written to {folder / 'metrics.json'} and {folder / 'predictions.parquet'}.")
        show_answer(evaluation_answer(evaluation, run))
    if not attempt_tracking(run, track or (), tell=note) or evaluation.report is None:
        raise typer.Exit(1)
