"""``biofuse report``."""

from pathlib import Path
from typing import Annotated

import typer

from biofuse.cli import options
from biofuse.cli.console import note


def report(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write.", show_default="report.html in the run")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="A folder to write every figure into, as SVG and PNG.")
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Time the encoders here, so that costs are in milliseconds.")
    ] = False,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    weights_dir: options.WeightsDir = None,
    store: options.Store = None,
) -> None:
    """Show a run: one HTML page with everything that was found, for a browser, without network.

    The page is also written by `biofuse fit` and `biofuse evaluate`.

    [bold]Examples[/bold]

      biofuse report run

      biofuse report run --figures paper/figures
    """
    from biofuse.api.reporting import write_report
    from biofuse.extract import ExtractOptions
    from biofuse.store import EmbeddingStore

    path = write_report(
        run,
        out=out,
        figures=figures,
        store=EmbeddingStore(store),
        latency=latency,
        options=ExtractOptions(device=device, batch_size=batch_size, weights_dir=weights_dir),
    )
    note(f"Written to {path}.")
    if figures is not None:
        note(f"Figures are in {figures}.")


def report_beside(run: Path, store: Path | None) -> None:
    """Write the report of a run that has just been fitted or evaluated, and say where it is, or why there is none."""
    from biofuse.api.reporting import attempt_report
    from biofuse.store import EmbeddingStore

    path = attempt_report(run, tell=note, store=EmbeddingStore(store))
    if path is not None:
        note(f"Report: {path}")
