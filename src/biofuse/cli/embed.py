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
    encoders: options.Encoders = "starter",
    label: options.Label = None,
    group: options.Group = None,
    task: options.TaskName = None,
    on_error: options.OnError = "error",
    device: options.Device = "auto",
    batch_size: options.BatchSize = 32,
    workers: options.Workers = None,
    store: options.Store = None,
) -> None:
    """Embed images under every encoder of a pool, and write the embeddings beside ids, labels and splits.

    Embeddings are kept in the store: a second run, or a run after a crash, computes only what is missing.

    [bold]Examples[/bold]

      biofuse embed images/ --out embeddings.parquet

      biofuse embed manifest.csv --label diagnosis --group patient --encoders efficientnet_lite0,lbp --out e.npz

      biofuse embed scans/ --on-error quarantine --out e.csv
    """
    from biofuse.api.embedding import embed as embed_data
    from biofuse.api.export import check_format

    check_format(out)
    embeddings = embed_data(
        data,
        encoders,
        label=options.label_option(label),
        group=group,
        task=task,
        device=device,
        batch_size=batch_size,
        workers=workers,
        on_error=on_error,
        store=store,
    )
    embeddings.save(out)
    tell_work(embeddings)
    write_quarantine(embeddings, out.with_name(out.stem + ".quarantine.csv"))
    dims = sum(embeddings.blocks.dims.values())
    note(f"Wrote {len(embeddings.samples)} samples × {dims} columns of {len(embeddings)} encoders to {out}.")


def tell_work(embeddings: "EmbeddingSet") -> None:
    """Say what was computed, what the store had already, and what was repaired."""
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
