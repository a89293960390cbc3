"""``biofuse embed``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import biofuse
from biofuse.cli import options
from biofuse.cli.console import note, say, show_json
from biofuse.core.errors import UnreadableImageError
from biofuse.core.files import check_target, write_text
from biofuse.core.options import divide
from biofuse.data.config import DataConfig
from biofuse.encoders.registry import resolve
from biofuse.extract.options import ExtractOptions
from biofuse.search.config import STARTER
from biofuse.store.store import EmbeddingStore

if TYPE_CHECKING:
    from biofuse.data.samples import Samples


@options.offers(DataConfig, ExtractOptions)
def embed(
    data: options.Data,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write: .parquet, .npz, .csv or .h5ad.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the plan: nothing is computed, downloaded or written.")
    ] = False,
    encoders: Annotated[
        str | None,
        typer.Option(
            "--encoders",
            "-e",
            help=options.with_default("Names or aliases, separated by commas; see `biofuse encoders list`.", STARTER),
            autocompletion=options.complete_encoders,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="A run directory or a saved model, for its encoders; not with --encoders."),
    ] = None,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Ignore labels and class folders.", rich_help_panel=options.DATA_PANEL)
    ] = False,
    store: options.Store = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Only part I of N, from 1: a run of neighbouring rows, for jobs that share a store. --out may be left "
            "out.",
            rich_help_panel=options.RUN_PANEL,
        ),
    ] = None,
    as_json: options.Json = False,
    **chosen: Any,
) -> None:
    """Embed images under every encoder of a pool, and write the embeddings beside ids, labels and splits.

    Embeddings are kept in the store: a second run, or a run after a crash, computes only what is missing. What is
    missing, and how it will be computed, is shown before the start; --dry-run shows only that.

    [bold]Examples[/bold]

      biofuse embed images/ --out embeddings.parquet

      biofuse embed manifest.csv --label diagnosis --group patient --encoders efficientnet_lite0,lbp --out e.npz

      biofuse embed scans/ --on-error quarantine --out e.csv

      biofuse embed new-scans/ --model run --out e.parquet

      biofuse embed images/ --encoders pathology --dry-run

      biofuse embed images/ --encoders pathology --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT

      biofuse embed images/ --encoders pathology --engine ray --out embeddings.parquet
    """
    for refused, reason in (
        (None not in (encoders, model), "a model brings its own encoders: give --model or --encoders, not both."),
        (no_labels and "label" in chosen, "--label names a label column, --no-labels ignores it: give one of them."),
        (
            "use_store" in chosen and out is None and not dry_run,
            "--no-store keeps nothing: say where to write with --out.",
        ),
        (
            (out is not None) == dry_run and (out is not None or shard is None),
            "say where to write with --out, or look at the plan alone with --dry-run.",
        ),
    ):
        if refused:
            raise typer.BadParameter(reason)

    from biofuse.data.microscopy import with_windows
    from biofuse.data.shards import Shard
    from biofuse.extract.engine import extract, plan_extraction
    from biofuse.store.exchange import check_format

    if out is not None:
        check_format(out)
        check_target(out)
    reading, embedding = divide(chosen, DataConfig, ExtractOptions)
    extraction = ExtractOptions(**embedding)
    part = None if shard is None else Shard.parse(shard)
    if model is None:
        decode, like = None, None
        found = EmbeddingStore(store).find_imported
        cards = resolve(encoders or STARTER, allow_random_weights=extraction.allow_random_weights, find=found)
    else:
        fitted = biofuse.BioFuseModel.load(model)
        cards, decode, like = fitted.cards, fitted.decode, fitted.data_config
        extraction = extraction.but(precisions={name: fitted.precisions.get(name, "fp32") for name in fitted.encoders})
    samples = with_windows(
        biofuse.load_samples(
            data,
            labelled=False if no_labels else None,
            decode=decode,
            like=like,
            config=DataConfig(**reading),
            progress=True,
        )
    )
    tell_remarks(samples)
    if part is not None:
        whole, samples = len(samples), part.take(samples)
        note(f"Shard {part}: {len(samples)} of {whole} samples.")
    if dry_run:
        plan = plan_extraction(samples, cards, store=EmbeddingStore(store), options=extraction, progress=True)
        if as_json:
            return show_json(plan.to_json())
        for line in plan.lines():
            say(line)
        return None
    embeddings = extract(samples, cards, store=EmbeddingStore(store), options=extraction, progress=True, tell=note)
    tell_work(embeddings)
    _write(embeddings, out)
    if as_json:
        show_json(describe_work(embeddings))
    return None


def _write(embeddings: "biofuse.EmbeddingSet", out: Path | None) -> None:
    """Write what was embedded; without a place, the store alone has it."""
    if out is None:
        for entry in embeddings.quarantined:
            note(f"Set aside: {entry.reason}")
        refuse_nothing(embeddings)
        return
    write_quarantine(embeddings, out.with_name(out.stem + ".quarantine.csv"))
    refuse_nothing(embeddings)
    embeddings.save(out)
    dims = sum(embeddings.blocks.dims.values())
    note(f"Wrote {len(embeddings.samples)} samples × {dims} columns of {len(embeddings)} encoders to {out}.")


def tell_remarks(samples: "Samples") -> "Samples":
    """Say how data were read, and what a careful person would look at first."""
    for line in samples.remarks:
        note(line)
    return samples


def tell_work(embeddings: "biofuse.EmbeddingSet") -> None:
    """Say what was computed, what the store had already, and what was left out or repaired."""
    for skipped in embeddings.skipped:
        note(f"{skipped.name} is left out: {skipped.reason}")
    for part in embeddings.recomputed:
        note(f"A damaged part was found and its embeddings computed again: {part}")
    computed = [work for work in embeddings.work if work.computed]
    if not computed and len(embeddings.samples):
        note("No embedding had to be computed: the store has them all.")
    for work in computed:
        reused = f", {work.reused} from the store" if work.reused else ""
        note(f"{work.encoder}: {work.computed} embeddings computed in {work.seconds:.1f} s of work{reused}")


def describe_work(embeddings: "biofuse.EmbeddingSet") -> dict[str, Any]:
    """Return what was done as JSON values."""
    return {
        "samples": len(embeddings.samples),
        "encoders": {
            work.encoder: {
                "columns": embeddings.blocks.dims[work.encoder],
                "precision": work.precision,
                "computed": work.computed,
                "from_the_store": work.reused,
                "seconds": round(work.seconds, 3),
            }
            for work in embeddings.work
        },
        "quarantined": len(embeddings.quarantined),
        "stages": None if embeddings.stages is None else embeddings.stages.to_json(),
    }


def refuse_nothing(embeddings: "biofuse.EmbeddingSet") -> None:
    """Fail where images were set aside until none was left."""
    if embeddings.quarantined and not len(embeddings.samples):
        raise UnreadableImageError(
            f"None of {len(embeddings.quarantined)} images could be read: {embeddings.quarantined[0].reason}",
            remedy="`biofuse check` lists what is wrong.",
        )


def write_quarantine(embeddings: "biofuse.EmbeddingSet", path: Path) -> None:
    """List the images that could not be read, if any."""
    if not embeddings.quarantined:
        return
    import pandas as pd

    frame = pd.DataFrame(
        [(q.id, q.source, q.reason) for q in embeddings.quarantined], columns=["id", "source", "reason"]
    )
    write_text(path, frame.to_csv(index=False))
    note(f"{len(embeddings.quarantined)} images could not be read and have no row; they are listed in {path}:")
    for entry in embeddings.quarantined[:5]:
        note(f"  {entry.reason}")
