"""``biofuse report``, ``compare`` and ``card``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from biofuse.cli import options
from biofuse.cli.console import note, output, say, show_json, show_table
from biofuse.extract.options import ExtractOptions

if TYPE_CHECKING:
    from biofuse.report.content import Table
    from biofuse.report.html import TablePage

MANY_COLUMNS = 8
"""Columns from which the rows of a table take several lines, and need lines between them."""

BETWEEN = 3
"""Columns of output that a table puts between two of its own."""


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories that `biofuse fit` wrote, evaluated.", show_default=False)
    ],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write everything into one HTML page, too.", show_default=False)
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", help="Write heat maps and critical differences as SVG and PNG files, too.", show_default=False
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Put runs side by side: what was chosen, single encoders over data sets, gains of each modality.

    In the tables of single encoders ¹, ² and ³ mark the best three of each data set; equal values share a mark. Over
    three data sets or more, mean ranks have their critical difference, and what was chosen is tested against every
    single encoder by signed ranks.

    [bold]Examples[/bold]

      biofuse compare run-blood run-brain

      biofuse compare benchmark/* --out compare.html

      biofuse compare run-a run-b --json
    """
    from biofuse.core.files import write_text
    from biofuse.report.compare import RunComparison
    from biofuse.report.plates import write_plates
    from biofuse.studies.published import medmnist_modality

    comparison = RunComparison.read(runs, modality_of=medmnist_modality)
    if out is not None:
        write_text(out, comparison.to_html())
    drawn = () if figures is None else write_plates(comparison.plates(), figures)
    show_page(comparison, as_json=as_json)
    if out is not None:
        note(f"Written to {out}.")
    if figures is not None:
        note(f"{len(drawn)} files written to {figures}.")


runs_app = typer.Typer(help="Look at the runs of a folder.", no_args_is_help=True, rich_markup_mode="rich")


@runs_app.command("ls")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="A folder that holds runs, at any depth.", show_default=False)],
    *,
    sort: Annotated[
        Literal["date", "score", "name"],
        typer.Option(help="The latest first, the best by cross-validation first, or by name."),
    ] = "date",
    as_json: options.Json = False,
) -> None:
    """List the runs of a folder: what each chose, how it scored, and whether they are on the same data.

    [bold]Examples[/bold]

      biofuse runs ls .

      biofuse runs ls experiments --sort score --json
    """
    from biofuse.report.compare import RunList

    show_page(RunList.read(folder, sort=sort), as_json=as_json)


def show_page(page: "TablePage", *, as_json: bool) -> None:
    """Print what a page holds: as JSON, or its tables and what must be known to read them."""
    if as_json:
        show_json(page.to_json())
        return
    show_tables(page.tables())
    for sentence in page.notes:
        say(sentence)


def show_tables(tables: "Sequence[Table]") -> None:
    """Print the tables of a page, each note once, below the first table that has it.

    A table that would have to break words is printed row by row instead, a line per column.
    """
    said: set[str] = set()
    for table in tables:
        if narrowest(table) > output.width:
            _show_rows(table)
        else:
            titles = [column.title for column in table.columns]
            aligned = [column.title for column in table.columns if column.number]
            show_table(table.caption, titles, table.texts(), numbers=aligned, lines=len(titles) > MANY_COLUMNS)
        for sentence in table.notes:
            if sentence not in said:
                say(sentence)
        said |= set(table.notes)
        say("")


def narrowest(table: "Table") -> int:
    """Return the columns of output below which a table has to break words, or cut names or numbers."""
    by_column = zip([column.title for column in table.columns], *table.texts(), strict=True)
    whole = [place == 0 or column.number for place, column in enumerate(table.columns)]
    parts = [
        [part for text in texts for part in (text.split("\n") if stays else text.split())]
        for texts, stays in zip(by_column, whole, strict=True)
    ]
    return sum(max(map(len, each), default=0) + BETWEEN for each in parts)


def _show_rows(table: "Table") -> None:
    say(table.caption)
    titles = [column.title for column in table.columns[1:]]
    width = max(map(len, titles), default=0)
    for name, *cells in table.texts():
        say("")
        say(name)
        for title, text in zip(titles, cells, strict=True):
            say(f"  {title:<{width}}   {text}")
    say("")


def card(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=options.with_default("The file to write.", "README.md in the run")),
    ] = None,
    repository: Annotated[
        str, typer.Option("--repository", help="owner/name of the model on the hub, for the example in the card.")
    ] = "OWNER/NAME",
) -> None:
    """Write the model card of a run: a README.md in the format of the Hugging Face hub.

    It states task, data, encoders with their licences and revisions, test scores with intervals, limits and intended
    use. Evaluate the run first, so that there are scores to state. Nothing is uploaded.

    [bold]Examples[/bold]

      biofuse card run

      biofuse card run --repository me/blood-cells --out README.md
    """
    from biofuse.api.report import write_card
    from biofuse.runs.run import Run

    path = write_card(run, out=out, repository=repository)
    if Run.open(run).evaluation is None:
        note(f"The run was not evaluated, so the card has no test scores. Next: biofuse evaluate {run}")
    note(f"Written to {path}. Read it before you publish it.")


@options.offers(ExtractOptions)
def report(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=options.with_default("The file to write.", "report.html in the run")),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="A folder to write every figure into, as SVG and PNG.")
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Time the encoders here, so that costs are in milliseconds.")
    ] = False,
    umap: Annotated[
        bool | None,
        typer.Option(
            "--umap/--no-umap",
            help="Map the samples by UMAP, too; by default where umap-learn is installed.",
            show_default=False,
        ),
    ] = None,
    occlusion: Annotated[
        int,
        typer.Option(
            "--occlusion",
            min=0,
            metavar="N",
            help="Show what N of the most confident mistakes rest on: 50 predictions for each.",
        ),
    ] = 0,
    store: options.Store = None,
    **chosen: Any,
) -> None:
    """Show a run: one HTML page with everything that was found, for a browser, without network.

    The page is also written by `biofuse fit` and `biofuse evaluate`.

    [bold]Examples[/bold]

      biofuse report run

      biofuse report run --figures paper/figures

      biofuse report run --occlusion 6
    """
    from biofuse.api.report import has_umap, write_report

    path = write_report(
        run,
        out=out,
        figures=figures,
        store=store,
        latency=latency,
        umap=has_umap() if umap is None else umap,
        occlusion=occlusion,
        **chosen,
    )
    note(f"Written to {path}.")
    if figures is not None:
        note(f"Figures are in {figures}.")
