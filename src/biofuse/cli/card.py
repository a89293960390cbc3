"""``biofuse card``."""

from pathlib import Path
from typing import Annotated

import typer

from biofuse.cli.console import note


def card(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write.", show_default="README.md in the run")
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
    from biofuse.report.card import write_card
    from biofuse.runs import Run

    path = write_card(run, out=out, repository=repository)
    if not Run(run).metrics_path.exists():
        note(f"The run was not evaluated, so the card has no test scores. Next: biofuse evaluate {run}")
    note(f"Written to {path}. Read it before you publish it.")
