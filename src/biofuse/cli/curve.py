"""``biofuse curve``: scores against the number of labelled samples, as a table and two sentences."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from biofuse.cli import options
from biofuse.cli.console import note, say, show_json, show_table

if TYPE_CHECKING:
    from biofuse.search.curve import CurvePoint, LearningCurve


def curve(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    *,
    per_class: Annotated[
        str | None,
        typer.Option(
            "--per-class",
            help=options.with_default("Numbers of labelled samples per class, separated by commas.", "5,10,20,50,..."),
            metavar="NUMBERS",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="How often samples are divided and drawn anew.")] = 2,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="A folder to write the figure into, as SVG and PNG.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start even if it takes more than an hour.")] = False,
    store: options.Store = None,
    as_json: options.Json = False,
) -> None:
    """Measure how scores grow with the number of labels: which encoders for few, and whether more would help.

    Folds of the development samples are scored by models fitted on more and more samples of the others, from stored
    embeddings; no image and no test sample is read. Writes curve.json into the run, and the figure into its report.
    What was stopped goes on when the same command is given again.

    [bold]Examples[/bold]

      biofuse curve run

      biofuse curve run --per-class 5,10,25 --repeats 4 --figures figures
    """
    import biofuse
    from biofuse.api.report import attempt_report
    from biofuse.report.draw import write_figures
    from biofuse.report.sections.curve import curve_chart

    found = biofuse.curve(run, per_class=_numbers(per_class), repeats=repeats, store=store, yes=yes, tell=note)
    if figures is not None:
        write_figures([curve_chart(found)], figures)
        note(f"The figure is in {figures}.")
    if as_json:
        show_json({**found.model_dump(mode="json"), "sentences": found.sentences()})
    else:
        show_curve(found)
        note(f"Written to {run / 'curve.json'}.")
    if attempt_report(run, tell=note, store=store) is None:
        raise typer.Exit(1)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} are not whole numbers separated by commas.") from error


def show_curve(found: "LearningCurve") -> None:
    """Print a row for each number of labels, a column for each model, and what follows from them."""
    from biofuse.evaluation.metrics import get_metric

    grouped = any(each.groups is not None for each in found.sets)
    models = {name.replace("_", " "): model for name, model in found.models.items()}
    rows = [
        (
            found.sets[place].text,
            f"{found.sets[place].rows:,.0f}",
            *([f"{found.sets[place].groups:,.0f}"] if grouped else []),
            *(_written(model.points[place]) for model in models.values()),
            found.named(found.best(place)),
        )
        for place in found.shown
    ]
    heads = ["samples", *(["groups"] if grouped else []), *models]
    how = f"{found.fitted}, mean of {found.n_folds * found.n_repeats} draws; 95 % intervals"
    show_table(
        f"{get_metric(found.metric).title} with so many labels, {how}",
        ["labels", *heads, "best"],
        rows,
        numbers=heads,
        lines=True,
    )
    for sentence in found.sentences():
        say(sentence)


def _written(point: "CurvePoint") -> str:
    if np.isnan(point.mean):
        return "undefined"
    ends = "no interval" if np.isnan(point.low) else f"{point.low:.3f}\u2013{point.high:.3f}"
    return f"{point.mean:.4f}\n{ends}"
