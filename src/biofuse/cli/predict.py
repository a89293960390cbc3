"""``biofuse predict``."""

from pathlib import Path
from typing import Annotated

import typer

from biofuse.cli import options
from biofuse.cli.console import note
from biofuse.core.errors import BioFuseError


def predict(
    model: Annotated[Path, typer.Argument(help="A run directory, or a saved model.", show_default=False)],
    data: Annotated[
        str, typer.Argument(help="Images: a folder, a manifest, one file; labels are not needed.", show_default=False)
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: .csv or .parquet.")],
    on_error: options.OnError = "error",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    store: options.Store = None,
) -> None:
    """Predict new images: a table of ids, classes and probabilities.

    [bold]Examples[/bold]

      biofuse predict run new-images/ --out predictions.csv

      biofuse predict run/model scan.png --out scan.csv
    """
    from biofuse.core.files import atomic_path
    from biofuse.extract import ExtractOptions
    from biofuse.model import BioFuseModel

    if out.suffix not in {".csv", ".parquet"}:
        raise BioFuseError(f"Cannot write {out}: its ending is neither .csv nor .parquet.")
    frame, extraction = BioFuseModel.load(model).predict_frame(
        data,
        store=store,
        options=ExtractOptions(device=device, batch_size=batch_size, workers=workers, on_error=on_error),
    )
    with atomic_path(out) as temporary:
        if out.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
    for entry in extraction.quarantined:
        note(f"Not predicted: {entry.reason}")
    note(f"Wrote {len(frame)} prediction{'' if len(frame) == 1 else 's'} to {out}.")
