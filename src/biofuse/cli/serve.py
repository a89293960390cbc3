"""``biofuse serve``: a model that answers requests, and a page that images are dropped on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from biofuse.api.service.options import ServeOptions
from biofuse.cli import options
from biofuse.cli.console import note
from biofuse.extract.options import ExtractOptions
from biofuse.search.rules import CHOSEN, VariantName


@options.offers(ServeOptions)
def serve(
    run: Annotated[Path, typer.Argument(help="A run directory, or a saved model.", show_default=False)],
    *,
    variant: Annotated[
        VariantName,
        typer.Option(help="Which of a run's models: the chosen one, or one that it is compared with."),
    ] = CHOSEN,
    device: options.Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images per forward pass; by default what fits.",
            rich_help_panel=options.RUN_PANEL,
        ),
    ] = None,
    weights_dir: options.WeightsDir = None,
    **chosen: Any,
) -> None:
    r"""Serve a model: a page for people, requests for programs; not for clinical use.

    Its encoders are loaded once and stay loaded; images of different requests are predicted together. No image is kept.
    Ctrl-C, or SIGTERM, finishes what is under way and ends it. Needs the extra: pip install 'biofuse-embed\[serve]'.

    [bold]Examples[/bold]

      biofuse serve run

      biofuse serve run --port 9000 --variant lean

      biofuse serve run --host 0.0.0.0 --token-file token.txt
    """
    from biofuse.api.serve import serve as run_service

    run_service(
        run,
        variant=variant,
        options=ServeOptions(**chosen),
        extraction=ExtractOptions(device=device, batch_size=batch_size, weights_dir=weights_dir),
        tell=note,
    )
