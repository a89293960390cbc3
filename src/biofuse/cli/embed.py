"""``biofuse embed``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biofuse.cli import options
from biofuse.cli.console import note

if TYPE_CHECKING:
    from biofuse.api.embedding import EmbeddingSet


def embed(
    data: options.Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: .parquet, .npz or .csv.")],
    encoders: Annotated[
        str | None,
        typer.Option(
            "--encoders",
            "-e",
            help="Names or aliases, separated by commas; see `biofuse encoders list`.",
            show_default="starter",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="A run directory or a saved model, for its encoders; not with --encoders."),
    ] = None,
    label: options.Label = None,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Ignore labels and class folders.", rich_help_panel=options.DATA_PANEL)
    ] = False,
    group: options.Group = None,
    task: options.TaskName = None,
    on_error: options.OnError = "error",
    device: options.Device = "auto",
    batch_size: options.BatchSize = 32,
    workers: options.Workers = None,
    weights_dir: options.WeightsDir = None,
    on_unavailable: options.OnUnavailable = "error",
    allow_random_weights: options.AllowRandomWeights = False,
    store: options.Store = None,
) -> None:
    """Embed images under every encoder of a pool, and write the embeddings beside ids, labels and splits.

    Embeddings are kept in the store: a second run, or a run after a crash, computes only what is missing.

    [bold]Examples[/bold]

      biofuse embed images/ --out embeddings.parquet

      biofuse embed manifest.csv --label diagnosis --group patient --encoders efficientnet_lite0,lbp --out e.npz

      biofuse embed scans/ --on-error quarantine --out e.csv

      biofuse embed new-scans/ --model run --out e.parquet
    """
    if encoders is not None and model is not None:
        raise typer.BadParameter("a model brings its own encoders: give --model or --encoders, not both.")
    if no_labels and label:
        raise typer.BadParameter("--label names a label column, --no-labels ignores it: give one of them.")

    from biofuse.api.embedding import embed_samples
    from biofuse.api.export import check_format
    from biofuse.data.load import load_samples
    from biofuse.encoders.registry import resolve
    from biofuse.extract import ExtractOptions
    from biofuse.store import EmbeddingStore

    check_format(out)
    if model is None:
        decode, cards = None, resolve(encoders or "starter", allow_random_weights=allow_random_weights)
    else:
        from biofuse.model import BioFuseModel

        fitted = BioFuseModel.load(model)
        cards, decode = fitted.cards, fitted.decode
    samples = load_samples(
        data,
        label=options.label_option(label),
        labelled=False if no_labels else None,
        group=group,
        task=task,
        decode=decode,
    )
    embeddings = embed_samples(
        samples,
        cards,
        store=EmbeddingStore(store),
        options=ExtractOptions(
            device=device,
            batch_size=batch_size,
            workers=workers,
            on_error=on_error,
            on_unavailable=on_unavailable,
            weights_dir=weights_dir,
        ),
    )
    embeddings.save(out)
    tell_work(embeddings)
    write_quarantine(embeddings, out.with_name(out.stem + ".quarantine.csv"))
    dims = sum(embeddings.blocks.dims.values())
    note(f"Wrote {len(embeddings.samples)} samples × {dims} columns of {len(embeddings)} encoders to {out}.")


def tell_work(embeddings: "EmbeddingSet") -> None:
    """Say what was computed, what the store had already, and what was left out or repaired."""
    for skipped in embeddings.skipped:
        note(f"{skipped.name} is left out: {skipped.reason}")
    for part in embeddings.healed:
        note(f"A damaged part was found and its embeddings computed again: {part}")
    computed = [work for work in embeddings.work if work.computed]
    if not computed:
        note("No embedding had to be computed: the store has them all.")
    for work in computed:
        rate = f" ({work.computed / work.seconds:,.0f} images/s)" if work.seconds else ""
        reused = f", {work.reused} from the store" if work.reused else ""
        note(f"{work.encoder}: {work.computed} embeddings computed in {work.seconds:.1f} s{rate}{reused}")


def write_quarantine(embeddings: "EmbeddingSet", path: Path) -> None:
    """List the images that could not be read, if any."""
    if not embeddings.quarantined:
        return
    import pandas as pd

    from biofuse.core.files import write_text

    frame = pd.DataFrame(
        [(q.id, q.source, q.reason) for q in embeddings.quarantined], columns=["id", "source", "reason"]
    )
    write_text(path, frame.to_csv(index=False))
    note(f"{len(embeddings.quarantined)} images could not be read and have no row; they are listed in {path}:")
    for entry in embeddings.quarantined[:5]:
        note(f"  {entry.reason}")
